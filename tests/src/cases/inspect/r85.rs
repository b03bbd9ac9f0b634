//! R85 Looking and ending.

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{FencingToken, IdOptions, LeaseId, LockMode, LockOptions, Loss, ServiceInstance};
use coord_recipes::inspect::{Entered, Inspect, QueueView, StandingMode, StandingView};
use coord_recipes::{CampaignOptions, PermitLimit, PermitOptions};
use coord_testkit::wait::{eventually, within};
use coord_testkit::{Client, Fixture};

use super::primitives::{Primitives, entries, put};

fn options(cx: &Fixture) -> LockOptions {
    LockOptions::default().with_ttl(cx.ttl())
}

async fn inspect(cx: &Fixture) -> Inspect {
    Inspect::new(&Primitives::of(&cx.client().await).client)
}

/// Waits in the queue of a lock, in a task, and says so when it stands there.
async fn wait_for(cx: &Fixture, client: &Client, name: &'static str, mode: LockMode, place: usize) {
    let (lock, options) = (Arc::clone(&client.provider), options(cx).with_mode(mode));
    tokio::spawn(async move {
        let guard = lock.lock().acquire_with(name, options).await;
        std::future::pending::<()>().await;
        drop(guard);
    });
    let store = cx.store().await;
    let entered = || async { (entries(&*store, "/locks/").await.len() == place).then_some(()) };
    eventually(cx.soon(), "it stands in the queue", entered).await;
}

fn tokens(standing: &[StandingView]) -> Vec<FencingToken> {
    standing.iter().map(|standing| standing.token).collect()
}

fn modes(standing: &[StandingView]) -> Vec<StandingMode> {
    let mode = |standing: &StandingView| match standing.entered {
        Entered::Lock { mode } => mode,
        ref other => panic!("{other:?} in the queue of a lock"),
    };
    standing.iter().map(mode).collect()
}

pub(super) async fn who_holds_and_who_waits_is_told_in_order(cx: Fixture) {
    let (holder, one, two) = (cx.client().await, cx.client().await, cx.client().await);
    let guard = holder.provider.lock().acquire_with("a/b", options(&cx)).await.unwrap();
    let inspect = inspect(&cx).await;
    assert_eq!(inspect.lock("a").await.unwrap(), None);
    wait_for(&cx, &one, "a/b", LockMode::Exclusive, 2).await;
    wait_for(&cx, &two, "a/b", LockMode::Exclusive, 3).await;

    let lock = inspect.lock("a/b").await.unwrap().unwrap();
    assert_eq!((lock.name.as_str(), tokens(&lock.holders)), ("a/b", vec![guard.fencing_token()]));
    assert_eq!(lock.waiters.len(), 2);
    assert!(lock.waiters[0].token < lock.waiters[1].token && lock.holders[0].token < lock.waiters[0].token);
    assert_eq!(inspect.locks().await.unwrap(), std::slice::from_ref(&lock));
    for standing in lock.holders.iter().chain(&lock.waiters) {
        assert!(standing.since_ms.is_some_and(|since| since > 1_600_000_000_000));
        let process = standing.process.as_ref().unwrap();
        assert_eq!((process.pid, standing.owner.as_ref()), (std::process::id(), Some(&process.name)));
    }
    let sessions = lock.holders.iter().chain(&lock.waiters).map(|standing| standing.session.unwrap());
    let remaining = inspect.remaining(sessions).await.unwrap();
    assert_eq!(remaining.len(), 3);
    assert!(remaining.values().all(|remaining| *remaining <= cx.ttl()));

    guard.unlock().await.unwrap();
    let now = inspect.lock("a/b").await.unwrap().unwrap();
    assert_eq!(tokens(&now.holders), [lock.waiters[0].token]);
    assert_eq!(tokens(&now.waiters), [lock.waiters[1].token]);
}

pub(super) async fn readers_and_writers_are_told_apart(cx: Fixture) {
    use StandingMode::{Downgraded, Exclusive, Shared};
    let (first, inspect) = (cx.client().await, inspect(&cx).await);
    let guard = first.provider.lock().acquire_with("a", options(&cx)).await.unwrap();
    guard.downgrade().await.unwrap();
    let reader = cx.client().await;
    let shared = options(&cx).with_mode(LockMode::Shared);
    let _shared = reader.provider.lock().acquire_with("a", shared).await.unwrap();
    wait_for(&cx, &cx.client().await, "a", LockMode::Exclusive, 3).await;
    wait_for(&cx, &cx.client().await, "a", LockMode::Shared, 4).await;
    let QueueView { holders, waiters, .. } = inspect.lock("a").await.unwrap().unwrap();
    assert_eq!((modes(&holders), modes(&waiters)), (vec![Downgraded, Shared], vec![Exclusive, Shared]));
    assert!(holders.iter().all(|holder| holder.owner.is_some() && holder.since_ms.is_some()), "{holders:?}");
}

pub(super) async fn permits_and_candidates_are_told(cx: Fixture) {
    let (mine, inspect) = (Primitives::of(&cx.client().await), inspect(&cx).await);
    let (ttl, now) = (cx.ttl(), coord_api::Wait::Never);
    let permits = PermitOptions::new(PermitLimit::Exactly(3)).with_ttl(ttl).with_wait(now);
    let two = mine.semaphore("pool/a").acquire(2, permits).await.unwrap();
    let semaphore = inspect.semaphore("pool/a").await.unwrap().unwrap();
    assert_eq!((semaphore.permits, semaphore.holders.len(), semaphore.waiters.len()), (Some(3), 1, 0));
    assert_eq!(semaphore.holders[0].entered, Entered::Semaphore { permits: 2 });
    drop(two);

    let campaign = CampaignOptions::default().with_ttl(ttl).with_wait(now);
    let leads = mine.election("jobs/a").campaign("node-1", campaign).await.unwrap();
    leads.proclaim("node-1: busy").await.unwrap();
    let election = inspect.election("jobs/a").await.unwrap().unwrap();
    assert_eq!(tokens(&election.holders), [leads.fencing_token()]);
    assert_eq!(election.holders[0].entered, Entered::Election { value: "node-1: busy".to_owned() });
    assert_eq!(election.holders[0].owner.as_deref(), Some("kit"));
    assert_eq!(inspect.elections().await.unwrap(), [election]);
    assert_eq!(inspect.semaphores().await.unwrap().len(), 1);
}

pub(super) async fn entries_of_others_are_told_as_far_as_they_say(cx: Fixture) {
    let (store, inspect) = (cx.store().await, inspect(&cx).await);
    put(&*store, "/locks/a/go-1", "a Go service").await;
    put(&*store, "/locks/a/nested/go-2", "of another name").await;
    put(&*store, "/locks/stray", "nobody's").await;
    put(&*store, "/events/x/y", "no record").await;
    put(&*store, "/services/a/b", "no instance").await;
    let lock = inspect.lock("a").await.unwrap().unwrap();
    assert_eq!((lock.holders.len(), lock.waiters.len()), (1, 0), "{lock:?}");
    let holder = &lock.holders[0];
    assert_eq!(
        (holder.owner.as_deref(), holder.session, holder.since_ms),
        (Some("a Go service"), None, None)
    );
    assert_eq!(inspect.locks().await.unwrap(), [lock]);
    assert_eq!(inspect.losses().await.unwrap(), []);
    let services = inspect.services().await.unwrap();
    assert_eq!((services.len(), services[0].instances, services[0].invalid), (1, 0, 1));
}

pub(super) async fn instances_and_ids_are_told_with_their_owners(cx: Fixture) {
    let (client, inspect) = (cx.client().await, inspect(&cx).await);
    let instance = ServiceInstance::new("chat", "c-1", "localhost", 7000);
    let _registration = client.provider.registry().register(instance.clone()).await.unwrap();
    let ids = IdOptions::default().with_ttl(cx.ttl());
    let first = client.provider.allocator().acquire_id_with("chat", ids.clone()).await.unwrap();
    let second = client.provider.allocator().acquire_id_with("chat", ids).await.unwrap();

    let services = inspect.services().await.unwrap();
    assert_eq!((services.len(), services[0].name.as_str(), services[0].instances), (1, "chat", 1));
    let instances = inspect.instances("chat").await.unwrap();
    assert_eq!((instances.len(), &instances[0].instance), (1, &instance));
    assert_eq!(instances[0].process.as_ref().unwrap().pid, std::process::id());

    let taken = inspect.ids("chat").await.unwrap();
    let of: Vec<_> = taken.iter().map(|taken| (taken.id, taken.token)).collect();
    assert_eq!(of, [&first, &second].map(|id| (id.id(), id.generation())));
    assert!(taken.iter().all(|taken| taken.owner.is_some() && taken.process.is_some()), "{taken:?}");
    assert_eq!(inspect.id_counts().await.unwrap(), [("chat".to_owned(), 2)].into());

    assert!(inspect.remove_instance("chat", "c-1").await.unwrap());
    assert!(inspect.end_id("chat", second.id()).await.unwrap());
    assert_eq!(within(cx.gone_by(cx.ttl()), "the loss", second.lost()).await, Loss::Removed);
    assert!(first.is_held());
    assert!(!inspect.end_id("chat", 900).await.unwrap());
}

pub(super) async fn what_hangs_on_a_session_is_told_and_ends_with_it(cx: Fixture) {
    let (client, inspect) = (cx.client().await, inspect(&cx).await);
    let one = client.provider.lock().acquire_with("a", options(&cx)).await.unwrap();
    let two = client.provider.lock().acquire_with("b", options(&cx)).await.unwrap();
    let sessions = inspect.sessions().await.unwrap();
    assert_eq!((sessions.len(), sessions[0].keys.len()), (1, 2), "{sessions:?}");
    let session = sessions[0].session;
    let seen = inspect.session(session).await.unwrap().unwrap();
    assert_eq!((&seen.keys, &seen.process), (&sessions[0].keys, &sessions[0].process));
    assert!(seen.remaining.is_some_and(|remaining| remaining <= cx.ttl() + Duration::from_secs(1)));

    assert!(inspect.end_session(session).await.unwrap());
    for guard in [&one, &two] {
        within(cx.gone_by(cx.ttl()), "the loss", guard.lost()).await;
    }
    assert_eq!(inspect.session(session).await.unwrap(), None);
    assert!(!inspect.end_session(session).await.unwrap());
    assert!(!inspect.end_session(LeaseId::new(0x1234_5678)).await.unwrap());
}

pub(super) async fn looking_writes_nothing(cx: Fixture) {
    let (client, looking) = (cx.client().await, Primitives::of(&cx.client().await));
    let _guard = client.provider.lock().acquire_with("a", options(&cx)).await.unwrap();
    let (store, inspect) = (cx.store().await, Inspect::new(&looking.client));
    let before = entries(&*store, "/").await;
    inspect.locks().await.unwrap();
    inspect.lock("b").await.unwrap();
    inspect.elections().await.unwrap();
    inspect.semaphores().await.unwrap();
    inspect.services().await.unwrap();
    inspect.instances("a").await.unwrap();
    inspect.ids("a").await.unwrap();
    inspect.losses().await.unwrap();
    for session in inspect.sessions().await.unwrap() {
        inspect.session(session.session).await.unwrap().unwrap();
    }
    assert_eq!(entries(&*store, "/").await, before);
}

pub(super) async fn who_holds_is_ended_by_token_and_hears_of_it(cx: Fixture) {
    let (holder, other, inspect) = (cx.client().await, cx.client().await, inspect(&cx).await);
    let guard = holder.provider.lock().acquire_with("a", options(&cx)).await.unwrap();
    wait_for(&cx, &other, "a", LockMode::Exclusive, 2).await;
    let next = inspect.lock("a").await.unwrap().unwrap().waiters[0].token;
    assert!(inspect.break_lock("a", guard.fencing_token()).await.unwrap());
    let lock = inspect.lock("a").await.unwrap().unwrap();
    assert_eq!((tokens(&lock.holders), lock.waiters.len()), (vec![next], 0));
    assert_eq!(within(cx.gone_by(cx.ttl()), "the loss", guard.lost()).await, Loss::Removed);
    let held = inspect.lock("a").await.unwrap().unwrap();
    assert_eq!(tokens(&held.holders), [next], "its successor's stays, also when it gives back");
}

pub(super) async fn a_token_that_is_over_ends_nobody(cx: Fixture) {
    let (client, inspect) = (cx.client().await, inspect(&cx).await);
    let guard = client.provider.lock().acquire_with("a", options(&cx)).await.unwrap();
    let over = guard.fencing_token();
    guard.unlock().await.unwrap();
    let guard = client.provider.lock().acquire_with("a", options(&cx)).await.unwrap();
    assert!(!inspect.break_lock("a", over).await.unwrap());
    assert!(!inspect.break_lock("b", guard.fencing_token()).await.unwrap());
    let election = inspect.end_leadership("a", guard.fencing_token()).await.unwrap();
    assert!(!election && !inspect.end_permit("a", guard.fencing_token()).await.unwrap());
    assert_eq!(tokens(&inspect.lock("a").await.unwrap().unwrap().holders), [guard.fencing_token()]);
    assert!(guard.is_held());
}

pub(super) async fn one_who_waits_is_ended_and_the_others_stay(cx: Fixture) {
    let (holder, waits, inspect) = (cx.client().await, cx.client().await, inspect(&cx).await);
    let guard = holder.provider.lock().acquire_with("a", options(&cx)).await.unwrap();
    wait_for(&cx, &waits, "a", LockMode::Exclusive, 2).await;
    let waiter = inspect.lock("a").await.unwrap().unwrap().waiters[0].token;
    assert!(inspect.break_lock("a", waiter).await.unwrap());
    assert!(guard.is_held());
    // It wants the lock all the same: it enters anew, with another token.
    let anew = eventually(cx.gone_by(cx.ttl()), "it enters anew", || async {
        let lock = inspect.lock("a").await.unwrap().unwrap();
        lock.waiters.first().map(|waiter| waiter.token)
    })
    .await;
    assert!(anew > waiter);
    assert_eq!(tokens(&inspect.lock("a").await.unwrap().unwrap().holders), [guard.fencing_token()]);
}
