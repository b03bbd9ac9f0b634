//! R34 Register.

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{
    ErrorKind, HandleState, Loss, Outcome, RegisterOptions, Registration, ServiceInstance, Takeover,
};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::super::leased::{
    BACKOFF_CAP, Lasting, ONE_SECOND, entry, lease_of, lost_within, on_a_machine_in_time,
};
use super::super::slow::slow_provider;
use super::{eventually_found, found, instance, register, register_all, register_exclusively, version};
use crate::bad;
use crate::cancel::{Polled, poll_times};
use crate::fixture::Fixture;
use crate::layout;
use crate::view::{ServiceView, Told};
use crate::wait::{never_within, within};
use crate::wrap::Fault;

/// Asserts that `work` replaces the instance `a` in place: nothing but updates, to these versions.
async fn replaces_in_place(cx: &Fixture, versions: &[&str], work: impl Future<Output = ()>) {
    let (store, watcher) = (cx.store().await, cx.provider().await);
    let (mut watch, mut view) = (watcher.registry().watch("s").await.unwrap(), ServiceView::new());
    view.follow(&mut watch, "the full set", cx.soon(), |view| view.resyncs() > 0).await;
    let before = entry(&*store, layout::service("s", "a")).await.unwrap();
    work.await;
    let after = entry(&*store, layout::service("s", "a")).await.unwrap();
    assert_eq!(after.created, before.created, "it was not created anew");
    view.follow(&mut watch, "the last update is told", cx.soon(), |view| view.seen() >= after.modified).await;
    let updates: Vec<Told> = versions.iter().map(|n| Told::Updated(version("a", *n))).collect();
    // A `Resync` tells the outcome alone.
    assert!(view.told() == updates || view.resyncs() > 1, "{:?}", view.told());
    assert_eq!(view.instances(), [version("a", versions[versions.len() - 1])]);
}

pub(super) async fn what_is_registered_is_discovered_by_every_client(cx: Fixture) {
    let providers = join_all((0..3).map(|_| cx.provider())).await;
    let mut held = Vec::new();
    let mut expected = Vec::new();
    for (n, provider) in providers.iter().cycle().take(9).enumerate() {
        let instance = version(format!("i{n}"), "1").with_metadata("zone", "ü").with_metadata("", "");
        held.push(register(&cx, &**provider, instance.clone()).await.unwrap());
        expected.push(instance);
        for provider in &providers {
            assert_eq!(found(&**provider).await, expected, "at once");
        }
    }
    assert!(held.iter().all(|registration| registration.state() == HandleState::Held));
    assert_eq!((held[3].service(), held[3].id()), ("s", "i3"));
}

pub(super) async fn the_same_owner_again_replaces_in_place(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let old = register(&cx, &*provider, version("a", "1")).await.unwrap();
    let mut new = None;
    replaces_in_place(&cx, &["2"], async {
        new = Some(register(&cx, &*provider, version("a", "2")).await.unwrap());
        assert_eq!(found(&*other).await, [version("a", "2")]);
    })
    .await;
    let new = new.unwrap();
    assert_eq!(lost_within(ONE_SECOND, "the old handle is over", old.lost()).await.0, Loss::Superseded);
    assert!(new.state().is_held() && !old.state().is_held());
    assert!(new.fencing_token() >= old.fencing_token());
}

pub(super) async fn the_same_owner_again_with_another_ttl_moves_the_entry(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let old = register(&cx, &*provider, version("a", "1")).await.unwrap();
    let lease = lease_of(&*store, layout::service("s", "a")).await;
    let mut new = None;
    replaces_in_place(&cx, &["2"], async {
        let options = RegisterOptions::default().with_ttl(cx.ttl() * 2);
        new = Some(provider.registry().register_with(version("a", "2"), options).await.unwrap());
    })
    .await;
    let new = new.unwrap();
    assert_ne!(lease_of(&*store, layout::service("s", "a")).await, lease);
    drop(old);
    sleep(cx.ttl() * 3).await;
    assert_eq!(found(&*provider).await, [version("a", "2")]);
    assert!(new.state().is_held() && new.ttl() > cx.ttl());
    new.unregister().await.unwrap();
    assert_eq!(found(&*provider).await, []);
}

pub(super) async fn an_update_replaces_in_place(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let registration = register(&cx, &*provider, version("a", "1")).await.unwrap();
    replaces_in_place(&cx, &["2", "3", "4"], async {
        for n in ["2", "3", "4"] {
            registration.update(version("a", n)).await.unwrap();
            assert_eq!(found(&*other).await, [version("a", n)]);
        }
    })
    .await;
    assert_eq!(registration.state(), HandleState::Held);
}

/// Instances that differ in every field but their names.
fn variants() -> [ServiceInstance; 4] {
    let of = |address: &str, port, metadata: &[(&str, &str)]| {
        let instance = ServiceInstance::new("s", "a", address, port);
        metadata.iter().fold(instance, |instance, (name, value)| instance.with_metadata(*name, *value))
    };
    [
        of("10.0.0.1", 80, &[("zone", "1"), ("Zone", "2"), ("version", "1")]),
        of("10.0.0.2", 80, &[("zone", "2")]),
        of("10.0.0.2", 81, &[("zone", "2")]),
        of("example.com", 65_535, &[]),
    ]
}

pub(super) async fn an_update_replaces_every_field(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let mut watch = other.registry().watch("s").await.unwrap();
    let mut view = ServiceView::new();
    let [first, others @ ..] = variants();
    let registration = register(&cx, &*provider, first.clone()).await.unwrap();
    for variant in others.into_iter().chain([first]) {
        registration.update(variant.clone()).await.unwrap();
        assert_eq!(found(&*other).await, std::slice::from_ref(&variant));
        view.follow(&mut watch, "the update is told", cx.soon(), |view| {
            view.instances() == std::slice::from_ref(&variant)
        })
        .await;
    }
}

pub(super) async fn a_name_in_the_metadata_is_kept_as_it_is(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let names =
        ["a", "A", "a b", " a", "a ", "ä", "a/b", "a.b", "\"", "\\", "\n", "\0", "null", "id", "port"];
    let instance = names.iter().enumerate().fold(instance("a"), |instance, (n, name)| {
        instance.with_metadata(*name, if n % 2 == 0 { (*name).to_owned() } else { n.to_string() })
    });
    let registration = register(&cx, &*provider, instance.clone()).await.unwrap();
    assert_eq!(found(&*other).await, std::slice::from_ref(&instance));
    let updated = instance.with_metadata("one", "more");
    registration.update(updated.clone()).await.unwrap();
    assert_eq!(found(&*other).await, [updated]);
}

pub(super) async fn an_update_leaves_the_entry_on_its_lease(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let registration = register(&cx, &*provider, version("a", "1")).await.unwrap();
    let before = entry(&*store, layout::service("s", "a")).await.unwrap();
    for n in 2..5 {
        registration.update(version("a", n.to_string())).await.unwrap();
        let now = entry(&*store, layout::service("s", "a")).await.unwrap();
        assert_eq!((now.lease, now.created), (before.lease, before.created));
    }
    assert!(registration.ttl() <= cx.ttl());
    assert_eq!(registration.fencing_token().get(), before.created.get());
}

pub(super) async fn a_conflict_says_where_the_other_one_is_reached(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    for (id, address, reached) in [("a", "10.0.0.9", "10.0.0.9:9"), ("b", "example.com", "example.com:9")] {
        let _held = register(&cx, &*one, ServiceInstance::new("s", id, address, 9)).await.unwrap();
        let error = register_exclusively(&cx, &*other, instance(id)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        // Where it is known: that of another one is worse than none.
        assert!(error.holder().is_none_or(|holder| holder == reached), "{:?}", error.holder());
        assert!(error.key().is_none_or(|key| key == format!("s/{id}")), "{:?}", error.key());
    }
}

pub(super) async fn a_takeover_of_a_crashed_owner_outlives_its_lease(cx: Fixture) {
    let (client, provider, store) = (cx.client().await, cx.provider().await, cx.store().await);
    let _old = register(&cx, &*client.provider, version("a", "1")).await.unwrap();
    let before = lease_of(&*store, layout::service("s", "a")).await;
    let new = register(&cx, &*provider, version("a", "2")).await.unwrap();
    let taken = entry(&*store, layout::service("s", "a")).await.unwrap();
    assert!(taken.lease.is_some_and(|lease| lease != before), "it hangs on a lease of its new owner");
    client.crash().await;
    sleep(cx.gone_by(cx.ttl()) + cx.ttl()).await;
    assert_eq!(entry(&*store, layout::service("s", "a")).await, Some(taken), "it was never gone");
    assert_eq!(new.state(), HandleState::Held);
}

pub(super) async fn registering_many_times_at_once_leaves_one(cx: Fixture) {
    let (provider, other) = (slow_provider(&cx, 0).await, cx.provider().await);
    let versions: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    let registered = join_all(versions.iter().map(|n| register(&cx, &*provider, version("a", n)))).await;
    let (held, over): (Vec<Registration>, Vec<Registration>) =
        registered.into_iter().map(Result::unwrap).partition(|registration| registration.state().is_held());
    assert_eq!((held.len(), over.len()), (1, 9));
    for old in &over {
        old.unregister().await.unwrap();
    }
    drop(over);
    sleep(cx.slack()).await;
    assert_eq!(found(&*other).await.len(), 1);
    held[0].unregister().await.unwrap();
    assert_eq!(found(&*other).await, []);
}

pub(super) async fn a_dropped_handle_of_a_replaced_registration_removes_nothing(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let old = register(&cx, &*provider, version("a", "1")).await.unwrap();
    let new = register(&cx, &*provider, version("a", "2")).await.unwrap();
    let record = entry(&*store, layout::service("s", "a")).await;
    drop(old);
    sleep(cx.ttl() * 2).await;
    assert_eq!(found(&*provider).await, [version("a", "2")]);
    assert_eq!(
        entry(&*store, layout::service("s", "a")).await,
        record,
        "it was not removed and written again"
    );
    assert_eq!(new.state(), HandleState::Held);
}

pub(super) async fn a_live_foreign_owner_is_taken_over(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    let old = register(&cx, &*one, version("a", "1")).await.unwrap();
    let new = register(&cx, &*other, version("a", "2")).await.unwrap();
    assert_eq!(found(&*one).await, [version("a", "2")]);
    let (loss, _) = lost_within(ONE_SECOND + cx.slack(), "the old handle is over", old.lost()).await;
    assert_eq!(loss, Loss::Superseded);
    assert_eq!(old.state(), HandleState::Ended(Loss::Superseded));
    assert_eq!(old.update(version("a", "3")).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(found(&*one).await, [version("a", "2")]);
    assert_eq!(new.state(), HandleState::Held);
}

pub(super) async fn a_superseded_owner_never_fights_back(cx: Fixture) {
    let (one, other, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    let old = register(&cx, &*one, version("a", "1")).await.unwrap();
    let new = register(&cx, &*other, version("a", "2")).await.unwrap();
    let record = entry(&*store, layout::service("s", "a")).await;
    let mut lost = new.lost();
    never_within(cx.ttl() * 3, "the loss of the new owner's registration", &mut lost).await;
    assert_eq!(entry(&*store, layout::service("s", "a")).await, record, "nobody wrote it again");
    drop(old);
    one.close().await.unwrap();
    sleep(cx.ttl() * 2).await;
    assert_eq!(entry(&*store, layout::service("s", "a")).await, record);
    assert_eq!(new.state(), HandleState::Held);
}

/// Lets another owner take the place of `a` and leave again. Whoever it was taken from must not
/// come back.
async fn taken_over_and_left(cx: &Fixture, other: &dyn Provider) {
    register(cx, other, version("a", "other")).await.unwrap().unregister().await.unwrap();
}

/// Another owner who need not connect any more, nor open a session.
async fn other_owner(cx: &Fixture) -> (Arc<dyn Provider>, Registration) {
    let other = cx.provider().await;
    let registered = register(cx, &*other, instance("b")).await.unwrap();
    (other, registered)
}

/// Whether a link that hung since `hung` left the lease in peace. A lost one is healed, and not
/// superseded.
fn lease_survived(cx: &Fixture, hung: Instant) -> bool {
    hung.elapsed() < cx.ttl() / 2
}

/// Asserts that an owner is over, and that nothing of it comes back.
async fn never_fights_back(cx: &Fixture, old: &Registration) {
    let store = cx.store().await;
    let limit = BACKOFF_CAP + ONE_SECOND + cx.slack();
    let (loss, _) = lost_within(limit, "the old handle is over", old.lost()).await;
    assert_eq!(loss, Loss::Superseded);
    sleep(cx.ttl()).await;
    assert_eq!(entry(&*store, layout::service("s", "a")).await, None, "it came back");
}

pub(super) async fn an_owner_superseded_after_a_failed_register_never_fights_back(cx: Fixture) {
    let (other, _registered) = other_owner(&cx).await;
    for fault in [Fault::Refuse, Fault::LoseRequest, Fault::LoseAnswer] {
        let (client, faults) = cx.faulty().await;
        let old = register(&cx, &*client.provider, version("a", "1")).await.unwrap();
        faults.next_put(fault, layout::service("s", "a"));
        let unfenced = Lasting::begin(&faults, Fault::Refuse, |request| request.puts(layout::SESSIONS));
        let again = register(&cx, &*client.provider, version("a", "2")).await;
        // A backend may try again what was refused, but not what is in doubt (R2).
        assert!(again.is_err() || fault == Fault::Refuse, "{fault:?}");
        unfenced.end();
        taken_over_and_left(&cx, &*other).await;
        never_fights_back(&cx, &old).await;
    }
}

pub(super) async fn an_owner_superseded_after_an_abandoned_register_never_fights_back(cx: Fixture) {
    let (other, _registered) = other_owner(&cx).await;
    for cut in [false, true] {
        on_a_machine_in_time(async || {
            let (client, faults) = cx.faulty().await;
            let old = register(&cx, &*client.provider, version("a", "1")).await.unwrap();
            let hung = Instant::now();
            faults.hang();
            let again = register(&cx, &*client.provider, version("a", "2"));
            assert!(timeout(cx.ttl() / 10, again).await.is_err(), "the store hangs");
            if !cut {
                faults.heal();
            }
            taken_over_and_left(&cx, &*other).await;
            faults.heal();
            let survived = lease_survived(&cx, hung);
            if survived {
                never_fights_back(&cx, &old).await;
            }
            survived
        })
        .await;
    }
}

pub(super) async fn an_owner_superseded_while_it_updates_never_fights_back(cx: Fixture) {
    let (other, _registered) = other_owner(&cx).await;
    on_a_machine_in_time(async || {
        let (client, faults) = cx.faulty().await;
        let old = register(&cx, &*client.provider, version("a", "1")).await.unwrap();
        // Its watch tells it late, so that the update finds the entry gone and does not know why.
        let hung = Instant::now();
        faults.hang();
        let update = old.update(version("a", "2"));
        let ((), _) = futures_util::future::join(taken_over_and_left(&cx, &*other), async {
            let _ = timeout(cx.ttl() / 10, update).await;
        })
        .await;
        faults.heal();
        let survived = lease_survived(&cx, hung);
        if survived {
            never_fights_back(&cx, &old).await;
        }
        survived
    })
    .await;
}

pub(super) async fn a_takeover_has_a_greater_fencing_number(cx: Fixture) {
    let providers = join_all((0..3).map(|_| cx.provider())).await;
    let mut held: Vec<Registration> = Vec::new();
    for provider in providers.iter().cycle().take(6) {
        let registration = register(&cx, &**provider, instance("a")).await.unwrap();
        if let Some(last) = held.last() {
            assert!(
                registration.fencing_token() > last.fencing_token(),
                "the number orders the owners of the id"
            );
            lost_within(ONE_SECOND + cx.slack(), "the old handle is over", last.lost()).await;
        }
        held.push(registration);
    }
}

pub(super) async fn a_takeover_by_an_owner_that_was_superseded_unseen_has_a_greater_number(cx: Fixture) {
    let other = cx.provider().await;
    for left in [false, true] {
        let (client, faults) = cx.faulty().await;
        let old = register(&cx, &*client.provider, version("a", "1")).await.unwrap();
        faults.break_watches();
        let between = register(&cx, &*other, version("a", "2")).await.unwrap();
        let number = between.fencing_token();
        assert!(number > old.fencing_token());
        if left {
            between.unregister().await.unwrap();
        }
        // Before anything has told it that it was superseded.
        let new = register(&cx, &*client.provider, version("a", "3")).await.unwrap();
        assert!(new.fencing_token() > number, "{:?} after {number:?}", new.fencing_token());
        assert_eq!(found(&*other).await, [version("a", "3")]);
        new.unregister().await.unwrap();
    }
}

pub(super) async fn a_restarted_process_takes_its_own_id_back(cx: Fixture) {
    let client = cx.client().await;
    let _old = register(&cx, &*client.provider, version("a", "1")).await.unwrap();
    client.crash().await;
    // The lease of the process before it still lives.
    let restarted = cx.provider().await;
    let new = register(&cx, &*restarted, version("a", "2")).await.unwrap();
    assert_eq!(found(&*restarted).await, [version("a", "2")]);
    sleep(cx.gone_by(cx.ttl()) * 2).await;
    assert_eq!(found(&*cx.provider().await).await, [version("a", "2")], "the old lease takes nothing along");
    assert_eq!(new.state(), HandleState::Held);
}

pub(super) async fn an_exclusive_registration_of_a_live_foreign_id_is_a_conflict(cx: Fixture) {
    let (one, other, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    let old = register(&cx, &*one, version("a", "1")).await.unwrap();
    let record = entry(&*store, layout::service("s", "a")).await;
    for _ in 0..3 {
        let error = register_exclusively(&cx, &*other, version("a", "2")).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Conflict, Outcome::NotApplied));
        let reached = format!("localhost:{}", version("a", "1").port);
        assert!(error.holder().is_none_or(|holder| holder == reached), "{:?}", error.holder());
    }
    sleep(cx.ttl()).await;
    assert_eq!(entry(&*store, layout::service("s", "a")).await, record);
    assert_eq!(old.state(), HandleState::Held);
    old.unregister().await.unwrap();
    let new = register_exclusively(&cx, &*other, version("a", "2")).await.unwrap();
    assert!(new.state().is_held());
    // How it was registered does not matter to whoever asks to replace.
    let last = register(&cx, &*one, version("a", "3")).await.unwrap();
    assert_eq!(found(&*other).await, [version("a", "3")]);
    assert!(last.state().is_held());
}

pub(super) async fn an_exclusive_registration_of_ones_own_id_replaces(cx: Fixture) {
    let provider = cx.provider().await;
    let old = register_exclusively(&cx, &*provider, version("a", "1")).await.unwrap();
    let new = register_exclusively(&cx, &*provider, version("a", "2")).await.unwrap();
    assert_eq!(found(&*provider).await, [version("a", "2")]);
    assert_eq!(lost_within(ONE_SECOND, "the old handle is over", old.lost()).await.0, Loss::Superseded);
    assert!(new.state().is_held());
}

pub(super) async fn an_exclusive_registration_of_what_is_gone_succeeds(cx: Fixture) {
    let client = cx.client().await;
    let _old = register(&cx, &*client.provider, version("a", "1")).await.unwrap();
    client.crash().await;
    let provider = cx.provider().await;
    assert_eq!(
        register_exclusively(&cx, &*provider, version("a", "2")).await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
    sleep(cx.gone_by(cx.ttl())).await;
    let new = register_exclusively(&cx, &*provider, version("a", "2")).await.unwrap();
    assert_eq!(found(&*provider).await, [version("a", "2")]);
    assert!(new.state().is_held());
}

pub(super) async fn of_many_exclusive_registrations_one_succeeds(cx: Fixture) {
    let providers = join_all((0..6).map(|client| slow_provider(&cx, client))).await;
    let (won, lost): (Vec<_>, Vec<_>) = join_all(
        providers
            .iter()
            .enumerate()
            .map(|(n, provider)| register_exclusively(&cx, &**provider, version("a", n.to_string()))),
    )
    .await
    .into_iter()
    .partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 5));
    assert!(lost.into_iter().all(|tried| tried.unwrap_err().kind() == ErrorKind::Conflict));
    assert_eq!(found(&*providers[0]).await.len(), 1);
}

pub(super) async fn ids_are_unique_per_service_only(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    let mut held = Vec::new();
    for (provider, service) in [(&one, "s"), (&other, "t"), (&one, "st"), (&other, "u")] {
        let instance = ServiceInstance::new(service, "a", "localhost", 80);
        held.push(register_exclusively(&cx, &**provider, instance).await.unwrap());
    }
    sleep(cx.ttl()).await;
    assert!(held.iter().all(|registration| registration.state() == HandleState::Held));
    for service in ["s", "t", "st", "u"] {
        assert_eq!(one.registry().discover(service).await.unwrap().items.len(), 1);
    }
}

pub(super) async fn what_is_registered_together_is_found_together(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let instances: Vec<_> = (0..250).map(|n| version(format!("i{n:03}"), "1")).collect();
    let mut wanted = instances.clone();
    // Given in another order than they are found in, and with another service among them.
    wanted.reverse();
    wanted.insert(100, ServiceInstance::new("t", "i000", "localhost", 80));
    let held = register_all(&cx, &*provider, wanted.clone()).await.unwrap();
    assert_eq!(found(&*other).await, instances, "at once");
    assert_eq!(other.registry().discover("t").await.unwrap().items, wanted[100..=100]);
    for (registration, instance) in held.iter().zip(&wanted) {
        assert_eq!(
            (registration.service(), registration.id()),
            (&*instance.name, &*instance.id),
            "in the order given"
        );
        assert!(registration.state().is_held());
    }
    assert_eq!(held.len(), wanted.len());
    held[0].unregister().await.unwrap();
    assert_eq!(found(&*other).await, instances[..249], "each is a registration of its own");
    assert_eq!(register_all(&cx, &*provider, Vec::new()).await.unwrap().len(), 0);
}

pub(super) async fn together_replaces_and_takes_over_as_one_by_one(cx: Fixture) {
    let (provider, foreign) = (cx.provider().await, cx.provider().await);
    let mine = register(&cx, &*provider, version("a", "1")).await.unwrap();
    let theirs = register(&cx, &*foreign, version("b", "1")).await.unwrap();
    let wanted: Vec<_> = ["a", "b", "c"].map(|id| version(id, "2")).to_vec();
    let held = register_all(&cx, &*provider, wanted.clone()).await.unwrap();
    assert_eq!(found(&*foreign).await, wanted);
    for old in [&mine, &theirs] {
        assert_eq!(
            lost_within(ONE_SECOND + cx.slack(), "the old handle is over", old.lost()).await.0,
            Loss::Superseded
        );
    }
    assert!(held[1].fencing_token() > theirs.fencing_token());
    assert!(held.iter().all(|registration| registration.state().is_held()));
}

pub(super) async fn together_all_are_registered_or_none(cx: Fixture) {
    let (provider, foreign) = (cx.provider().await, cx.provider().await);
    let theirs = register(&cx, &*foreign, version("i5", "theirs")).await.unwrap();
    let options = RegisterOptions::default().with_ttl(cx.ttl()).with_takeover(Takeover::Exclusive);
    let wanted = (0..10).map(|n| version(format!("i{n}"), "1")).collect();
    let error = provider.registry().register_all(wanted, options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let left = [version("i5", "theirs")];
    eventually_found(ONE_SECOND + cx.slack(), &*foreign, "none of the others is left", &left).await;
    assert!(theirs.state().is_held());
}

pub(super) async fn together_with_bad_input_none_is_registered(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let with = |bad: ServiceInstance| vec![instance("a"), instance("b"), bad];
    for wanted in
        [with(instance("a")), with(instance("")), with(ServiceInstance::new("s", "c", "localhost", 0))]
    {
        let error = register_all(&cx, &*client.provider, wanted).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::InvalidArgument, Outcome::NotApplied));
    }
    assert_eq!(counter.counts().all(), 0, "nothing was sent");
    let same_id = with(ServiceInstance::new("t", "a", "localhost", 80));
    assert_eq!(register_all(&cx, &*client.provider, same_id).await.unwrap().len(), 3, "of two services");
}

pub(super) async fn together_as_ordered_and_as_asked_for(cx: Fixture) {
    let (provider, foreign) = (cx.provider().await, cx.provider().await);
    let options = RegisterOptions::default().with_ttl(cx.ttl()).with_takeover(Takeover::Exclusive);
    let ids = |held: &[Registration]| held.iter().map(|one| one.id().to_owned()).collect::<Vec<_>>();
    let wanted = ["m", "z", "a"].map(instance).to_vec();
    let held = provider.registry().register_all(wanted, options).await.unwrap();
    assert_eq!(ids(&held), ["m", "z", "a"]);
    assert!(held.iter().all(|one| one.ttl() <= cx.ttl()));
    // Whether the one that another has comes first or last.
    for wanted in [["m", "n", "o"], ["o", "n", "z"]] {
        let tried = foreign.registry().register_all(wanted.map(instance).to_vec(), options).await;
        assert_eq!(tried.unwrap_err().kind(), ErrorKind::Conflict);
        let left = ["a", "m", "z"].map(instance);
        eventually_found(ONE_SECOND + cx.slack(), &*foreign, "none of the others is left", &left).await;
    }
    sleep(ONE_SECOND).await;
    assert!(held.iter().all(|one| one.state().is_held()), "nobody was taken over");
}

pub(super) async fn an_update_by_one_who_has_not_heard_of_the_takeover_writes_nothing(cx: Fixture) {
    let (other, store) = (cx.provider().await, cx.store().await);
    for n in 0..3 {
        let (client, faults) = cx.faulty().await;
        let old = register(&cx, &*client.provider, version("a", "1")).await.unwrap();
        faults.silence_watches();
        let new = register(&cx, &*other, version("a", "2")).await.unwrap();
        let record = entry(&*store, layout::service("s", "a")).await;
        let update = within(cx.soon(), "an answer", old.update(version("a", format!("3{n}")))).await;
        assert_eq!(update.unwrap_err().kind(), ErrorKind::LeaseLost);
        assert_eq!(entry(&*store, layout::service("s", "a")).await, record, "it was written over");
        faults.heal();
        lost_within(ONE_SECOND + cx.slack(), "the old handle is over", old.lost()).await;
        assert_eq!(entry(&*store, layout::service("s", "a")).await, record, "it was written over");
        new.unregister().await.unwrap();
    }
}

pub(super) async fn a_register_by_one_who_has_not_heard_of_the_takeover_is_a_takeover(cx: Fixture) {
    let (other, store) = (cx.provider().await, cx.store().await);
    let (client, faults) = cx.faulty().await;
    let old = register(&cx, &*client.provider, version("a", "1")).await.unwrap();
    faults.silence_watches();
    let between = register(&cx, &*other, version("a", "2")).await.unwrap();
    let tried = register_exclusively(&cx, &*client.provider, version("a", "3")).await;
    assert_eq!(tried.unwrap_err().kind(), ErrorKind::Conflict, "it is not its own any more");
    assert_eq!(found(&*other).await, [version("a", "2")]);
    let new = register(&cx, &*client.provider, version("a", "4")).await.unwrap();
    assert!(new.fencing_token() > between.fencing_token());
    lost_within(ONE_SECOND + cx.slack(), "the one between is over", between.lost()).await;
    faults.heal();
    let record = entry(&*store, layout::service("s", "a")).await;
    drop(old);
    drop(between);
    sleep(cx.ttl()).await;
    assert_eq!(entry(&*store, layout::service("s", "a")).await, record);
    assert!(new.state().is_held());
}

pub(super) async fn a_register_that_hangs_holds_up_no_other(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let provider = &client.provider;
    let _first = register(&cx, &**provider, instance("first")).await.unwrap();
    faults.next(Fault::Delay(cx.soon() * 2), |request| request.is_write());
    let mut hangs = Box::pin(register(&cx, &**provider, instance("hangs")));
    assert!(timeout(cx.slack(), &mut hangs).await.is_err(), "its write is under way");
    let others = join_all((0..10).map(|n| register(&cx, &**provider, instance(format!("i{n}")))));
    let others = within(ONE_SECOND + cx.slack(), "the others are registered", others).await;
    assert!(others.into_iter().all(|registered| registered.unwrap().state().is_held()));
}

pub(super) async fn a_register_of_many_dropped_at_any_await_point_leaves_nothing(cx: Fixture) {
    let other = cx.provider().await;
    for polls in 0.. {
        let provider = cx.provider().await;
        let wanted = (0..5).map(|n| instance(format!("i{n}"))).collect();
        let registered = cx.dropped_after(polls, register_all(&cx, &*provider, wanted)).await;
        let done = registered.is_some();
        drop(registered);
        let what = format!("nothing is left of registrations that were dropped after {polls} polls");
        sleep(Duration::from_millis(50)).await;
        eventually_found(ONE_SECOND + cx.slack(), &*other, &what, &[]).await;
        sleep(cx.slack()).await;
        assert_eq!(found(&*other).await, [], "{what}");
        if done {
            return;
        }
    }
}

pub(super) async fn bad_input_is_an_invalid_argument_before_any_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let good = ServiceInstance::new("s", "a", "localhost", 80);
    let mut bad = vec![ServiceInstance::new("s", "a", "localhost", 0)];
    for segment in bad::segments() {
        bad.push(ServiceInstance::new("s", segment.clone(), "localhost", 80));
        bad.push(ServiceInstance::new(segment, "a", "localhost", 80));
    }
    for instance in bad {
        let error = register(&cx, &*client.provider, instance.clone()).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (ErrorKind::InvalidArgument, Outcome::NotApplied),
            "{instance:?}"
        );
    }
    for ttl in bad::TTLS {
        let options = RegisterOptions::default().with_ttl(ttl);
        let error = client.provider.registry().register_with(good.clone(), options).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (ErrorKind::InvalidArgument, Outcome::NotApplied),
            "{ttl:?}"
        );
    }
    assert_eq!(counter.counts().all(), 0, "nothing was sent");
    assert!(register(&cx, &*client.provider, good).await.unwrap().state().is_held());
}

pub(super) async fn an_address_of_nobody_is_an_invalid_argument_before_any_request(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let at = |address: &str| ServiceInstance::new("s", "a", address, 80);
    for address in bad::ADDRESSES {
        let alone = register(&cx, &*client.provider, at(address)).await.unwrap_err();
        let together = vec![ServiceInstance::new("s", "b", "localhost", 80), at(address)];
        let together = register_all(&cx, &*client.provider, together).await.unwrap_err();
        for error in [alone, together] {
            assert_eq!(
                (error.kind(), error.outcome()),
                (ErrorKind::InvalidArgument, Outcome::NotApplied),
                "{address:?}"
            );
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
    assert_eq!(counter.counts().all(), 0, "nothing was sent");
    let registration = register(&cx, &*client.provider, at("localhost")).await.unwrap();
    let before = counter.counts();
    for address in bad::ADDRESSES {
        assert_eq!(
            registration.update(at(address)).await.unwrap_err().kind(),
            ErrorKind::InvalidArgument,
            "{address:?}"
        );
    }
    assert_eq!(counter.counts().since(&before).txn, 0, "nothing was sent");
    assert_eq!(found(&*client.provider).await, [at("localhost")]);
}

pub(super) async fn addresses_of_all_kinds_are_registered(cx: Fixture) {
    let provider = cx.provider().await;
    for address in [
        "localhost",
        "127.0.0.1",
        "10.0.0.1",
        "::1",
        "2001:db8::1",
        "db-1.example.com",
        "db-1.example.com.",
        "my_service",
        "3com.com",
    ] {
        let instance = ServiceInstance::new("s", "a", address, 80);
        let held = register(&cx, &*provider, instance.clone()).await.unwrap();
        assert_eq!(found(&*provider).await, [instance]);
        held.unregister().await.unwrap();
    }
}

pub(super) async fn a_bad_update_changes_nothing(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let store = cx.store().await;
    let registration = register(&cx, &*client.provider, version("a", "1")).await.unwrap();
    let record = entry(&*store, layout::service("s", "a")).await;
    let good = version("a", "2");
    let before = counter.counts();
    for bad in [
        ServiceInstance::new("s", "a", "localhost", 0),
        ServiceInstance::new("s", "a", "", 80),
        ServiceInstance::new("s", "b", "localhost", 80),
        ServiceInstance::new("t", "a", "localhost", 80),
        ServiceInstance::new("..", "a", "localhost", 80),
    ] {
        let error = registration.update(bad.clone()).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (ErrorKind::InvalidArgument, Outcome::NotApplied),
            "{bad:?}"
        );
    }
    assert_eq!(counter.counts().since(&before).txn, 0, "nothing was sent");
    assert_eq!(entry(&*store, layout::service("s", "a")).await, record);
    registration.update(good.clone()).await.unwrap();
    assert_eq!(found(&*client.provider).await, [good]);
}

pub(super) async fn a_record_over_one_mebibyte_is_an_invalid_argument(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let large = instance("a").with_metadata("large", "x".repeat(coord_api::key::MAX_VALUE_BYTES + 1));
    let error = register(&cx, &*client.provider, large.clone()).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::InvalidArgument, Outcome::NotApplied));
    assert_eq!(counter.counts().all(), 0, "nothing was sent");
    let registration = register(&cx, &*client.provider, instance("a")).await.unwrap();
    assert_eq!(registration.update(large).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(found(&*client.provider).await, [instance("a")]);
}

pub(super) async fn a_registration_whose_answer_was_lost_is_there_or_gone(cx: Fixture) {
    let other = cx.provider().await;
    for fault in [Fault::LoseAnswer, Fault::LoseRequest, Fault::Refuse] {
        let (client, faults) = cx.faulty().await;
        for warm in [false, true] {
            faults.next_put(fault, layout::service("s", "a"));
            match within(cx.soon(), "an answer", register(&cx, &*client.provider, instance("a"))).await {
                Ok(registration) => {
                    assert_eq!(found(&*other).await, [instance("a")], "{fault:?}, {warm}");
                    sleep(cx.ttl() / 2).await;
                    assert_eq!(
                        registration.state(),
                        HandleState::Held,
                        "it does not take itself for a stranger"
                    );
                    registration.unregister().await.unwrap();
                }
                Err(error) => {
                    assert!(error.is_transient(), "{fault:?}: {error}");
                    eventually_found(cx.ttl(), &*other, "a failed registration leaves nothing", &[]).await;
                }
            }
            assert_eq!(found(&*other).await, []);
        }
    }
}

pub(super) async fn a_register_dropped_at_any_await_point_leaves_nothing(cx: Fixture) {
    let other = cx.provider().await;
    for warm in [false, true] {
        for polls in 0.. {
            let provider = cx.provider().await;
            if warm {
                register(&cx, &*provider, instance("warm")).await.unwrap().unregister().await.unwrap();
            }
            let registered = cx.dropped_after(polls, register(&cx, &*provider, instance("a"))).await;
            let done = registered.is_some();
            drop(registered);
            // It may take a moment to come, and then to go.
            let what = format!("nothing is left of a registration that was dropped after {polls} polls");
            sleep(Duration::from_millis(50)).await;
            eventually_found(ONE_SECOND + cx.slack(), &*other, &what, &[]).await;
            sleep(cx.slack()).await;
            assert_eq!(found(&*other).await, [], "{what}");
            if done {
                break;
            }
        }
    }
}

pub(super) async fn a_register_dropped_at_any_moment_leaves_nothing(cx: Fixture) {
    let other = cx.provider().await;
    for millis in 0.. {
        let provider = slow_provider(&cx, millis).await;
        let registered =
            timeout(Duration::from_millis(millis), register(&cx, &*provider, instance("a"))).await;
        let done = registered.is_ok();
        drop(registered);
        let what = format!("nothing is left of a registration that was dropped after {millis} ms");
        sleep(Duration::from_millis(50)).await;
        eventually_found(ONE_SECOND + cx.slack(), &*other, &what, &[]).await;
        sleep(cx.slack()).await;
        assert_eq!(found(&*other).await, [], "{what}");
        if done {
            return;
        }
    }
}

pub(super) async fn a_dropped_register_that_is_applied_late_leaves_nothing(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (other, kept) =
        (cx.provider().await, register(&cx, &*client.provider, instance("kept")).await.unwrap());
    for polls in 1.. {
        faults.next_put(Fault::Hold, layout::service("s", "a"));
        let polled = poll_times(polls, cx.patience(), register(&cx, &*client.provider, instance("a"))).await;
        let done = matches!(polled, Polled::Done(_));
        drop(polled);
        sleep(Duration::from_millis(50)).await;
        eventually_found(ONE_SECOND + cx.slack(), &*other, "nothing is left", &[instance("kept")]).await;
        for held in faults.take_held() {
            let _ = held.apply().await;
        }
        let what =
            format!("nothing is left of a registration that was dropped after {polls} polls and came late");
        eventually_found(ONE_SECOND + cx.slack(), &*other, &what, &[instance("kept")]).await;
        sleep(cx.slack()).await;
        assert_eq!(found(&*other).await, [instance("kept")], "{what}");
        if done {
            break;
        }
    }
    assert_eq!(kept.state(), HandleState::Held);
}

pub(super) async fn a_failed_register_leaves_what_was_registered_before(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let other = cx.provider().await;
    let old = register(&cx, &*client.provider, version("a", "1")).await.unwrap();
    faults.cut();
    let error = within(cx.soon(), "an answer", register(&cx, &*client.provider, version("a", "2")))
        .await
        .unwrap_err();
    assert!(error.is_transient(), "{error}");
    faults.heal();
    eventually_found(
        super::healed_within(&cx),
        &*other,
        "what was registered before is there",
        &[version("a", "1")],
    )
    .await;
    sleep(cx.ttl() * 2).await;
    assert_eq!(found(&*other).await, [version("a", "1")]);
    assert_eq!(old.state(), HandleState::Held);
    old.unregister().await.unwrap();
    assert_eq!(found(&*other).await, []);
}

pub(super) async fn a_failed_register_with_another_ttl_leaves_what_was_registered_before(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (other, store) = (cx.provider().await, cx.store().await);
    let old = register(&cx, &*client.provider, version("a", "1")).await.unwrap();
    let before = entry(&*store, layout::service("s", "a")).await.unwrap();
    let _warm = client.provider.lock().acquire("warm", cx.ttl() * 2).await.unwrap();
    for fault in [Fault::Refuse, Fault::LoseRequest, Fault::LoseAnswer] {
        let (failing, options) = ([fault; 2], RegisterOptions::default().with_ttl(cx.ttl() * 2));
        for fault in failing {
            faults.next_put(fault, layout::service("s", "a"));
        }
        // So that nothing finds out what became of it.
        let unfenced = Lasting::begin(&faults, Fault::Refuse, |request| request.puts(layout::SESSIONS));
        let new = within(
            cx.soon(),
            "an answer",
            client.provider.registry().register_with(version("a", "2"), options),
        )
        .await;
        unfenced.end();
        match new {
            // It may have been settled; then the old one was replaced, by whoever asked for that.
            Ok(new) => {
                assert_eq!(found(&*other).await, [version("a", "2")], "{fault:?}");
                return assert!(new.state().is_held());
            }
            Err(error) => assert!(error.is_transient(), "{fault:?}: {error}"),
        }
        eventually_found(
            super::healed_within(&cx),
            &*other,
            "what was registered before is there",
            &[version("a", "1")],
        )
        .await;
        sleep(cx.ttl()).await;
        let after = entry(&*store, layout::service("s", "a")).await.unwrap();
        assert_eq!(after.created, before.created, "it was never gone, {fault:?}");
        assert_eq!(old.state(), HandleState::Held);
    }
    old.unregister().await.unwrap();
    assert_eq!(found(&*other).await, []);
}
