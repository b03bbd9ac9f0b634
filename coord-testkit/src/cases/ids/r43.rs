//! R43 Unique.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ErrorKind, HandleState, InstanceId, Loss};
use futures_util::future::{join, join_all, poll_immediate};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::super::leased::{Lasting, ONE_SECOND, at_the_deadline, delete, entry, keep_alive_for_it, lease_of, lost_within};
use super::super::slow::slow_provider;
use super::{acquire, await_one};
use crate::fixture::Fixture;
use crate::histories::{Workload, uphold};
use crate::layout;
use crate::model::{Contract, contract};
use crate::wait::{eventually, never_within, within};
use crate::wrap::{Fault, Request};

/// Asserts that a handle is over, and stays so for ever.
fn is_over(id: &InstanceId) {
    assert!(!id.is_held());
    assert!(matches!(id.state(), HandleState::Ended(_)));
    assert_eq!(id.ttl(), Duration::ZERO);
}

pub(super) async fn no_two_live_handles_share_an_id(cx: Fixture) {
    let (cx, live) = (&cx, &Mutex::new(BTreeMap::new()));
    let providers = &join_all((0..3).map(|client| slow_provider(cx, client))).await;
    join_all((0..9).map(|task: usize| async move {
        for round in 0..8 {
            let id = await_one(cx, &*providers[task % 3], 5).await.unwrap();
            let before = live.lock().unwrap().insert(id.id(), task);
            assert_eq!(before, None, "id {} is held twice", id.id());
            sleep(Duration::from_millis(1)).await;
            assert!(id.is_held());
            live.lock().unwrap().remove(&id.id());
            if (task + round) % 2 == 0 {
                id.release().await.unwrap();
            }
        }
    }))
    .await;
}

pub(super) async fn a_claim_in_doubt_grants_only_what_is_in_the_store(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let store = cx.store().await;
    let _kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
    // A claim of one id was given up, and is still on its way.
    let unfenced = Lasting::begin(&faults, Fault::Refuse, |request| request.puts(layout::SESSIONS));
    faults.next_put(Fault::Hold, layout::IDS);
    acquire(&cx, &*client.provider, 9).await.unwrap_err();
    let given_up = faults.take_held().pop().expect("the claim is on its way");
    // A claim of two has seen that all are free, and is lost; meanwhile the first one arrives.
    let (looking, looks) = oneshot::channel();
    let mut looking = Some(looking);
    faults.next(Fault::LateAnswer(Duration::from_millis(50)), move |request| {
        matches!(request, Request::Range(_)) && looking.take().is_some_and(|looking| looking.send(()).is_ok())
    });
    let two = join(acquire(&cx, &*client.provider, 9), acquire(&cx, &*client.provider, 9));
    let meanwhile = async {
        let _ = timeout(cx.slack(), looks).await;
        faults.hang();
        sleep(Duration::from_millis(100)).await;
        let _ = given_up.apply().await;
        unfenced.end();
        faults.heal();
    };
    let ((first, second), ()) = within(cx.soon(), "an answer", join(two, meanwhile)).await;
    for id in [&first, &second].into_iter().flatten() {
        let entry = entry(&*store, layout::id("s", id.id())).await.expect("what is granted is in the store");
        assert_eq!(id.generation(), entry.created.into());
        assert!(id.is_held());
    }
    let (first, second) = (first.map(|id| id.id()).ok(), second.map(|id| id.id()).ok());
    assert!(first.is_none() || first != second, "{first:?} twice");
}

pub(super) async fn newcomers_at_once_share_no_id(cx: Fixture) {
    let store = cx.store().await;
    for round in 0..5 {
        // Each its first call, with sessions of their own.
        let providers = join_all((0..6).map(|client| slow_provider(&cx, round * 10 + client))).await;
        let held = join_all(providers.iter().map(|provider| acquire(&cx, &**provider, 6))).await;
        let held: Vec<InstanceId> = held.into_iter().map(Result::unwrap).collect();
        let ids: BTreeSet<u32> = held.iter().map(InstanceId::id).collect();
        assert_eq!(ids, (1..=6).collect(), "six at once of six ids");
        let mut leases = BTreeSet::new();
        for id in &held {
            let entry = entry(&*store, layout::id("s", id.id())).await.expect("what is held is there");
            assert_eq!(entry.created.get(), id.generation().get(), "and it is this one's");
            leases.insert(entry.lease);
        }
        assert_eq!(leases.len(), 6);
        sleep(cx.ttl() / 2).await;
        assert!(held.iter().all(InstanceId::is_held));
        for id in &held {
            id.release().await.unwrap();
        }
    }
}

pub(super) async fn each_grant_has_a_larger_generation(cx: Fixture) {
    let providers = join_all((0..3).map(|_| cx.provider())).await;
    let mut last = BTreeMap::new();
    for round in 0..5 {
        let held = join_all(providers.iter().map(|provider| acquire(&cx, &**provider, 3))).await;
        for id in held.into_iter().map(Result::unwrap) {
            let generation = id.generation();
            let before = last.insert(id.id(), generation);
            assert!(before < Some(generation), "{generation} of id {} after {before:?}", id.id());
            if round % 2 == 0 {
                id.release().await.unwrap();
            }
        }
        // The dropped ones go by themselves.
        let store = cx.store().await;
        eventually(cx.soon(), "all are free", || async {
            super::super::leased::entries(&*store, layout::IDS.to_owned()).await.is_empty().then_some(())
        })
        .await;
    }
    assert_eq!(last.len(), 3);
}

pub(super) async fn the_generation_is_the_keys_create_revision(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    for id in join_all((0..5).map(|_| acquire(&cx, &*provider, 5))).await.into_iter().map(Result::unwrap) {
        let entry = entry(&*store, layout::id("s", id.id())).await.unwrap();
        assert_eq!(id.generation().get(), entry.created.get());
        assert!(entry.lease.is_some(), "it hangs on a lease");
    }
}

pub(super) async fn generations_rise_across_crashes(cx: Fixture) {
    let mut last = None;
    for _ in 0..3 {
        let client = cx.client().await;
        let limit = cx.gone_by(cx.ttl()) + cx.soon();
        let id = within(limit, "the id of a crashed holder is free again", await_one(&cx, &*client.provider, 1)).await.unwrap();
        assert!(Some(id.generation()) > last);
        last = Some(id.generation());
        client.crash().await;
    }
}

pub(super) async fn generations_rise_across_reopening(cx: Fixture) {
    let mut last = None;
    for round in 0..4 {
        let provider = cx.provider().await;
        let limit = cx.gone_by(cx.ttl()) * 2 + cx.soon();
        let id = within(limit, "the id is free again", await_one(&cx, &*provider, 1)).await.unwrap();
        assert!(Some(id.generation()) > last);
        last = Some(id.generation());
        if round % 2 == 0 {
            id.release().await.unwrap();
        }
        cx.reopen().await;
    }
}

pub(super) async fn an_id_is_held_for_as_long_as_its_client_lives(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let id = acquire(&cx, &*provider, 1).await.unwrap();
    let mut lost = id.lost();
    let mut waiting = Box::pin(await_one(&cx, &*other, 1));
    never_within(cx.ttl() * 4, "a grant to another", &mut waiting).await;
    assert!(id.is_held() && id.ttl() > Duration::ZERO);
    never_within(cx.slack(), "a loss", &mut lost).await;
}

pub(super) async fn after_a_crash_it_is_free_by_ttl_and_lag(cx: Fixture) {
    let (client, other) = (cx.client().await, cx.provider().await);
    let id = acquire(&cx, &*client.provider, 1).await.unwrap();
    sleep(cx.ttl() * 3 / 2).await;
    let (left, crashed) = (id.ttl(), Instant::now());
    client.crash().await;
    while crashed.elapsed() < left {
        let tried = acquire(&cx, &*other, 1).await;
        assert!(tried.is_err() || crashed.elapsed() >= left, "free {:?} too early", left - crashed.elapsed());
        drop(tried);
        sleep(cx.ttl() / 20).await;
    }
    let limit = cx.gone_by(cx.ttl()).saturating_sub(crashed.elapsed());
    let _ = eventually(limit, "it is free by TTL and lag", || async { acquire(&cx, &*other, 1).await.ok() }).await;
}

pub(super) async fn a_lost_lease_is_noticed_within_a_second(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let held = [acquire(&cx, &*provider, 5).await.unwrap(), acquire(&cx, &*provider, 5).await.unwrap()];
    store.revoke_lease(lease_of(&*store, layout::id("s", 1)).await).await.unwrap();
    for id in &held {
        lost_within(ONE_SECOND + cx.slack(), "the loss is noticed", id.lost()).await;
        is_over(id);
    }
    // The holder was told, and only then is the id another's.
    let next = acquire(&cx, &*provider, 5).await.unwrap();
    assert!(next.id() == 1 && next.generation() > held[0].generation());
}

pub(super) async fn a_removed_entry_is_noticed_with_the_next_renewal(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let held = [acquire(&cx, &*provider, 5).await.unwrap(), acquire(&cx, &*provider, 5).await.unwrap()];
    delete(&*store, layout::id("s", 1)).await;
    let limit = cx.ttl() / 3 + ONE_SECOND + cx.slack();
    lost_within(limit, "the removal is noticed", held[0].lost()).await;
    is_over(&held[0]);
    sleep(cx.ttl()).await;
    is_over(&held[0]);
    assert!(held[1].is_held());
}

pub(super) async fn lost_fires_at_the_local_deadline(cx: Fixture) {
    for hang in [true, false] {
        let (client, faults) = cx.faulty().await;
        let id = acquire(&cx, &*client.provider, 5).await.unwrap();
        sleep(cx.ttl() * 3 / 2).await;
        if hang {
            faults.hang()
        } else {
            faults.cut()
        }
        let left = id.ttl();
        let (loss, elapsed) = lost_within(cx.ttl() + cx.soon(), "lost() fires", id.lost()).await;
        assert_eq!(loss, Loss::Expired);
        at_the_deadline(&cx, elapsed, left);
        is_over(&id);
    }
}

pub(super) async fn under_a_partition_the_loss_comes_before_the_next_grant(cx: Fixture) {
    let other = cx.provider().await;
    let (client, faults) = cx.faulty().await;
    let id = acquire(&cx, &*client.provider, 1).await.unwrap();
    faults.hang();
    let mut lost = id.lost();
    let limit = cx.gone_by(cx.ttl()) + cx.soon();
    let next = within(limit, "another gets the id", await_one(&cx, &*other, 1)).await.unwrap();
    is_over(&id);
    assert!(poll_immediate(&mut lost).await.is_some(), "lost() fired before");
    assert!(next.is_held());
}

pub(super) async fn a_lost_id_is_never_held_again(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let store = cx.store().await;
    let id = acquire(&cx, &*client.provider, 1).await.unwrap();
    let lease = lease_of(&*store, layout::id("s", 1)).await;
    faults.hang();
    let kept = keep_alive_for_it(&store, lease, cx.ttl());
    lost_within(cx.ttl() + cx.soon(), "lost() fires", id.lost()).await;
    faults.heal();
    for _ in 0..20 {
        sleep(cx.ttl() / 10).await;
        is_over(&id);
    }
    assert_eq!(id.release().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    within(cx.soon(), "the lease is gone", kept).await.unwrap();
    assert!(acquire(&cx, &*cx.provider().await, 1).await.unwrap().is_held());
}

pub(super) async fn in_random_histories_no_two_live_handles_share_an_id(cx: Fixture) {
    uphold(&cx, "r43::in_random_histories_no_two_live_handles_share_an_id", Workload::Ids, false, &["r43"]).await;
}

pub(super) async fn in_random_histories_across_restarts_no_two_live_handles_share_an_id(cx: Fixture) {
    uphold(&cx, "r43::in_random_histories_across_restarts_no_two_live_handles_share_an_id", Workload::Ids, true, &["r43"]).await;
}

pub(super) async fn random_sequences_answer_as_the_model_does(cx: Fixture) {
    contract(&cx, "r43::random_sequences_answer_as_the_model_does", "r43", Contract::Ids).await;
}
