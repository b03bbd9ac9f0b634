//! What holds for every handle, whatever it stands for. A rule's list of cases says of which kind:
//! `a_dropped_id_is_free => handle::is_free_once_dropped::<Ids>`.

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ErrorKind, HandleState, LeaseId, Loss, Outcome, Provider, Result, Wait};
use futures_util::future::poll_immediate;
use tokio::time::{Instant, sleep};

use super::elsewhere::{elsewhere, runtime};
use super::leased::{
    Lasting, ONE_SECOND, at_the_deadline, delete, drop_outside_a_runtime, entries, entry, gone,
    holders_lease, keep_alive_for_it, lost_within,
};
use crate::cancel::{Polled, poll_times};
use crate::fixture::Fixture;
use crate::handle::{Handle, Kind};
use crate::layout;
use crate::wait::{eventually, never_within, within};
use crate::wrap::{Fault, Faults};

/// The place that most cases are about.
const PLACE: &str = "k";

/// The faults after which a release is not known to be carried out.
const FAILURES: [Fault; 3] = [Fault::Refuse, Fault::LoseRequest, Fault::LoseAnswer];

/// Has the place, for the TTL of the case.
async fn take<K: Kind>(cx: &Fixture, provider: &Arc<dyn Provider>) -> K::Handle {
    K::acquire(Arc::clone(provider), PLACE, cx.ttl(), Wait::Forever).await.unwrap()
}

/// Has the place of another one, who gives it up in time.
async fn next_within<K: Kind>(
    cx: &Fixture,
    provider: &Arc<dyn Provider>,
    limit: Duration,
    what: &str,
) -> K::Handle {
    within(limit, what, take::<K>(cx, provider)).await
}

/// Asserts that another one has the place.
async fn is_taken<K: Kind>(cx: &Fixture, provider: &Arc<dyn Provider>) {
    let tried: Result<K::Handle> = K::acquire(Arc::clone(provider), PLACE, cx.ttl(), Wait::Never).await;
    assert_eq!(tried.unwrap_err().kind(), K::TAKEN);
}

/// The lease of the oldest entry of the place.
async fn lease<K: Kind>(cx: &Fixture) -> LeaseId {
    entries(&*cx.store().await, K::entries(PLACE))
        .await
        .first()
        .expect("the entry is there")
        .lease
        .expect("the entry hangs on a lease")
}

/// Deletes the place's entries, as someone else would.
async fn remove<K: Kind>(cx: &Fixture) {
    let store = cx.store().await;
    for entry in entries(&*store, K::entries(PLACE)).await {
        delete(&*store, entry.key).await;
    }
}

/// Asserts that the place's oldest entry is this handle's.
async fn is_its_own<K: Kind>(cx: &Fixture, handle: &K::Handle) {
    let entries = entries(&*cx.store().await, K::entries(PLACE)).await;
    assert_eq!(entries.first().map(|entry| entry.created.get()), Some(handle.fencing_token().get()));
}

/// Asserts that a handle is over, and stays so for ever.
fn is_over(handle: &impl Handle) {
    assert!(!handle.is_held());
    assert!(matches!(handle.state(), HandleState::Ended(_)));
    assert_eq!(handle.ttl(), Duration::ZERO);
}

/// Silences the link: a black hole, or a cable that is cut.
fn silence(faults: &Faults, hang: bool) {
    if hang {
        faults.hang();
    } else {
        faults.cut();
    }
}

// Dropped.

pub(super) async fn is_free_once_dropped<K: Kind>(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    for next in [&other, &one] {
        drop(take::<K>(&cx, &one).await);
        let what = "it is free once the handle is dropped";
        next_within::<K>(&cx, next, ONE_SECOND + cx.slack(), what).await.release().await.unwrap();
    }
}

pub(super) async fn may_be_dropped_outside_a_runtime<K: Kind>(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let held = take::<K>(&cx, &provider).await;
    let lost = held.lost();
    drop_outside_a_runtime(held);
    within(ONE_SECOND + cx.slack(), "lost() fires", lost).await;
    next_within::<K>(&cx, &other, ONE_SECOND + cx.slack(), "it is free").await.release().await.unwrap();
    // The provider is unharmed.
    take::<K>(&cx, &provider).await.release().await.unwrap();
}

pub(super) async fn may_be_dropped_after_its_provider<K: Kind>(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.provider().await);
    let client = cx.client().await;
    let held = take::<K>(&cx, &client.provider).await;
    drop(client);
    // Whether it is still held is one thing; that it is not believed to be held when it is not is
    // another.
    for _ in 0..30 {
        sleep(cx.ttl() / 10).await;
        assert!(
            !held.is_held() || entries(&*store, K::entries(PLACE)).await.len() == 1,
            "held, and gone from the store"
        );
    }
    drop(held);
    next_within::<K>(&cx, &other, cx.gone_by(cx.ttl()) + ONE_SECOND, "it is free")
        .await
        .release()
        .await
        .unwrap();
}

pub(super) async fn a_drop_never_blocks_on_a_store_that_hangs<K: Kind>(cx: Fixture) {
    let other = cx.provider().await;
    let (client, faults) = cx.faulty().await;
    let held = take::<K>(&cx, &client.provider).await;
    // And one that waits for what another one has.
    let _theirs = K::acquire(Arc::clone(&other), "l", cx.ttl(), Wait::Forever).await.unwrap();
    let mut waiter = Box::pin(K::acquire(Arc::clone(&client.provider), "l", cx.ttl(), Wait::Forever));
    never_within(cx.slack(), "a grant", &mut waiter).await;
    faults.hang();
    let hung = Instant::now();
    drop_outside_a_runtime((held, waiter));
    // The store was not told: the lease takes everything along.
    let limit = cx.gone_by(cx.ttl()).saturating_sub(hung.elapsed()) + ONE_SECOND;
    let store = cx.store().await;
    eventually(limit, "it is free", async || {
        let (left, theirs) =
            (entries(&*store, K::entries(PLACE)).await, entries(&*store, K::entries("l")).await);
        (left.is_empty() && theirs.len() == 1).then_some(())
    })
    .await;
    next_within::<K>(&cx, &other, cx.soon(), "the next one has it").await.release().await.unwrap();
}

pub(super) async fn a_release_that_failed_is_repeated_once_dropped<K: Kind>(cx: Fixture) {
    let other = cx.provider().await;
    for fault in FAILURES {
        let (client, faults) = cx.faulty().await;
        // Its lease is renewed, so that only the release frees the place.
        let kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
        let held = take::<K>(&cx, &client.provider).await;
        for _ in 0..3 {
            faults.next_delete(fault, K::entries(PLACE));
        }
        drop(held);
        next_within::<K>(&cx, &other, cx.ttl(), "the release is repeated").await.release().await.unwrap();
        assert!(kept.is_held(), "{fault:?}");
        kept.unlock().await.unwrap();
    }
}

pub(super) async fn nothing_dropped_is_held_for_ever<K: Kind>(cx: Fixture) {
    let other = cx.provider().await;
    let (client, faults) = cx.faulty().await;
    let store = cx.store().await;
    let held = take::<K>(&cx, &client.provider).await;
    let kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
    let lease = lease::<K>(&cx).await;
    // The lease is renewed without fault; only the release never gets through.
    let refused = Lasting::begin(&faults, Fault::Refuse, |request| request.deletes(&K::entries(PLACE)));
    let dropped = Instant::now();
    drop(held);
    // The release may be pending for one TTL before the renewals end, and what was renewed last
    // runs for another one.
    let limit = cx.ttl() * 2 + cx.ttl() / 3 + cx.lag() + cx.slack();
    let next = K::acquire(Arc::clone(&other), PLACE, cx.ttl(), Wait::For(limit))
        .await
        .expect("the lease of what was dropped ran out");
    assert!(dropped.elapsed() >= cx.ttl(), "one TTL long the release is only repeated");
    assert!(!kept.is_held(), "what shares the lease goes with it, and knows before");
    lost_within(cx.slack(), "lost() fires", kept.lost()).await;
    gone(&*store, lease, cx.slack(), "the lease is gone").await;
    assert!(next.is_held());
    refused.end();
    // A new lease carries what comes next.
    let again = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
    assert_ne!(holders_lease(&*store, "kept").await, lease);
    assert!(again.is_held() && entry(&*store, layout::session(lease)).await.is_none());
}

// Released.

pub(super) async fn a_second_release_repeats_nothing<K: Kind>(cx: Fixture) {
    let (client, counter) = cx.counting().await;
    let held = take::<K>(&cx, &client.provider).await;
    held.release().await.unwrap();
    let (again, counts) = counter.during(held.release()).await;
    again.unwrap();
    assert_eq!(counts.requests(), 0);
    let next = take::<K>(&cx, &client.provider).await;
    held.release().await.unwrap();
    drop(held);
    sleep(cx.slack()).await;
    assert!(next.is_held());
    is_taken::<K>(&cx, &cx.provider().await).await;
}

pub(super) async fn a_failed_release_is_unknown_and_repeated<K: Kind>(cx: Fixture) {
    let other = cx.provider().await;
    for fault in FAILURES {
        let (client, faults) = cx.faulty().await;
        // Its lease goes on, so that only the release itself can free the place.
        let kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
        let held = take::<K>(&cx, &client.provider).await;
        for _ in 0..3 {
            faults.next_delete(fault, K::entries(PLACE));
        }
        let error = within(cx.soon(), "an answer", held.release()).await.unwrap_err();
        assert!(error.is_transient(), "{fault:?}: {error}");
        assert_eq!(error.outcome(), Outcome::Unknown, "{fault:?}");
        assert!(!held.is_held(), "a failed release ends the handle all the same");
        next_within::<K>(&cx, &other, cx.ttl(), "the release is repeated").await.release().await.unwrap();
        assert!(kept.is_held());
        kept.unlock().await.unwrap();
    }
}

pub(super) async fn releasing_what_was_lost_is_lease_lost<K: Kind>(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    for revoked in [true, false] {
        let held = take::<K>(&cx, &provider).await;
        if revoked {
            store.revoke_lease(lease::<K>(&cx).await).await.unwrap();
        } else {
            remove::<K>(&cx).await;
        }
        for _ in 0..2 {
            let error = within(cx.soon(), "an answer", held.release()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::LeaseLost);
            assert!(!held.is_held());
        }
    }
}

pub(super) async fn a_release_applied_late_harms_no_successor<K: Kind>(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    for same_provider in [true, false] {
        let held = take::<K>(&cx, &client.provider).await;
        faults.next_delete(Fault::Hold, K::entries(PLACE));
        assert_eq!(held.release().await.unwrap_err().outcome(), Outcome::Unknown);
        let successor = if same_provider { Arc::clone(&client.provider) } else { cx.provider().await };
        let next = next_within::<K>(&cx, &successor, cx.ttl() * 2, "the release is repeated").await;
        let late = faults.take_held();
        assert_eq!(late.len(), 1);
        for late in late {
            let _ = late.apply().await;
        }
        is_its_own::<K>(&cx, &next).await;
        // The release that was repeated, too, was of the old one alone.
        sleep(cx.ttl()).await;
        is_its_own::<K>(&cx, &next).await;
        assert!(next.is_held());
        next.release().await.unwrap();
    }
}

pub(super) async fn a_release_dropped_at_any_await_point_frees_it<K: Kind>(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    for polls in 1.. {
        let held = take::<K>(&cx, &provider).await;
        let polled = poll_times(polls, cx.slack(), held.release()).await;
        // The handle is kept: it is the call that was dropped.
        let what = format!("it is free after a release was dropped after {polls} polls");
        let next = next_within::<K>(&cx, &other, ONE_SECOND + cx.slack(), &what).await;
        assert!(!held.is_held());
        let again = held.release().await;
        assert!(again.is_ok() || again.is_err_and(|error| error.kind() == ErrorKind::LeaseLost));
        assert!(next.is_held());
        next.release().await.unwrap();
        if matches!(polled, Polled::Done(_)) {
            return;
        }
    }
}

pub(super) async fn lost_fires_on_release<K: Kind>(cx: Fixture) {
    let provider = cx.provider().await;
    let held = take::<K>(&cx, &provider).await;
    let lost = held.lost();
    held.release().await.unwrap();
    assert_eq!(lost_within(cx.slack(), "lost() fires", lost).await.0, Loss::Released);
    let held = take::<K>(&cx, &provider).await;
    let lost = held.lost();
    drop(held);
    assert_eq!(lost_within(cx.slack(), "lost() fires", lost).await.0, Loss::Released);
}

// Lost, where a loss is for ever.

pub(super) async fn is_held_compares_the_clock_itself<K: Kind>(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let held = take::<K>(&cx, &client.provider).await;
    assert!(held.is_held());
    let jump = cx.ttl();
    if cx.virtual_time() {
        // The clock moves at the first poll; whatever else would run comes after it.
        let mut advance = std::pin::pin!(tokio::time::advance(jump));
        let _ = poll_immediate(&mut advance).await;
        is_over(&held);
        advance.await;
    } else {
        // The runtime stands still, and what renews elsewhere gets no answer.
        faults.hang();
        std::thread::sleep(jump);
        is_over(&held);
    }
    lost_within(Duration::from_millis(100) + cx.slack(), "lost() fires", held.lost()).await;
    sleep(cx.ttl()).await;
    is_over(&held);
}

pub(super) async fn lost_fires_at_the_local_deadline<K: Kind>(cx: Fixture) {
    for hang in [true, false] {
        let (client, faults) = cx.faulty().await;
        let held = take::<K>(&cx, &client.provider).await;
        sleep(cx.ttl() * 3 / 2).await;
        silence(&faults, hang);
        let left = held.ttl();
        let (loss, elapsed) = lost_within(cx.ttl() + cx.soon(), "lost() fires", held.lost()).await;
        assert_eq!(loss, Loss::Expired);
        at_the_deadline(&cx, elapsed, left);
        is_over(&held);
        // Another one may have it by then.
        faults.heal();
        next_within::<K>(&cx, &cx.provider().await, cx.gone_by(cx.ttl()) + ONE_SECOND, "it is free")
            .await
            .release()
            .await
            .unwrap();
    }
}

pub(super) async fn a_lost_lease_is_noticed_within_a_second<K: Kind>(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let held = take::<K>(&cx, &provider).await;
    let beside = K::acquire(Arc::clone(&provider), "l", cx.ttl(), Wait::Forever).await.unwrap();
    store.revoke_lease(lease::<K>(&cx).await).await.unwrap();
    for handle in [&held, &beside] {
        lost_within(ONE_SECOND + cx.slack(), "the loss is noticed", handle.lost()).await;
        is_over(handle);
    }
    sleep(cx.ttl()).await;
    is_over(&held);
    // The holder was told, and only then is it another's, or the same provider's again.
    let next: K::Handle = K::acquire(provider, PLACE, cx.ttl(), Wait::Never).await.unwrap();
    assert!(next.is_held() && next.fencing_token() > held.fencing_token());
    is_over(&held);
}

pub(super) async fn a_removed_entry_is_noticed_with_the_next_renewal<K: Kind>(cx: Fixture) {
    let provider = cx.provider().await;
    let held = take::<K>(&cx, &provider).await;
    let kept = K::acquire(provider, "l", cx.ttl(), Wait::Forever).await.unwrap();
    remove::<K>(&cx).await;
    lost_within(cx.ttl() / 3 + ONE_SECOND + cx.slack(), "the removal is noticed", held.lost()).await;
    is_over(&held);
    // Its lease lives, and what else hangs on it.
    sleep(cx.ttl() * 2).await;
    is_over(&held);
    assert!(kept.is_held());
}

pub(super) async fn under_a_partition_the_loss_comes_before_the_next_grant<K: Kind>(cx: Fixture) {
    for hang in [true, false] {
        let other = cx.provider().await;
        let (client, faults) = cx.faulty().await;
        let held = take::<K>(&cx, &client.provider).await;
        let mut waiter = Box::pin(K::acquire(other, PLACE, cx.ttl(), Wait::Forever));
        never_within(cx.ttl(), "a grant", &mut waiter).await;
        silence(&faults, hang);
        let mut lost = held.lost();
        let next = within(cx.gone_by(cx.ttl()) + cx.soon(), "the next one has it", waiter).await.unwrap();
        is_over(&held);
        assert!(poll_immediate(&mut lost).await.is_some(), "lost() fired before the next one had it");
        assert!(next.is_held() && next.fencing_token() > held.fencing_token());
        next.release().await.unwrap();
    }
}

pub(super) async fn what_was_lost_is_never_held_again<K: Kind>(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let store = cx.store().await;
    let held = take::<K>(&cx, &client.provider).await;
    let lease = lease::<K>(&cx).await;
    faults.hang();
    // The lease outlives the local deadline.
    let kept = keep_alive_for_it(&store, lease, cx.ttl());
    lost_within(cx.ttl() + cx.soon(), "lost() fires", held.lost()).await;
    is_over(&held);
    faults.heal();
    for _ in 0..20 {
        sleep(cx.ttl() / 10).await;
        is_over(&held);
    }
    assert_eq!(held.release().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    // And nobody is kept out by what is left of it.
    let next = next_within::<K>(&cx, &cx.provider().await, cx.soon(), "it is free").await;
    within(cx.soon(), "the lease is gone", kept).await.unwrap();
    assert!(next.is_held());
}

// Held.

pub(super) async fn is_held_for_as_long_as_its_client_lives<K: Kind>(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let held = take::<K>(&cx, &provider).await;
    let mut lost = held.lost();
    let mut waiter = Box::pin(take::<K>(&cx, &other));
    // Nobody polls the handle, and nobody else uses its provider.
    never_within(cx.ttl() * 4, "a grant to another", &mut waiter).await;
    assert!(held.is_held() && held.ttl() > Duration::ZERO);
    never_within(cx.slack(), "a loss", &mut lost).await;
    held.release().await.unwrap();
    assert!(within(cx.soon(), "the next one has it", waiter).await.is_held());
}

pub(super) async fn after_a_crash_it_is_free_by_ttl_and_lag<K: Kind>(cx: Fixture) {
    let (client, other) = (cx.client().await, cx.provider().await);
    let held = take::<K>(&cx, &client.provider).await;
    sleep(cx.ttl() * 3 / 2).await;
    let (left, crashed) = (held.ttl(), Instant::now());
    client.crash().await;
    while crashed.elapsed() < left {
        let tried: Result<K::Handle> = K::acquire(Arc::clone(&other), PLACE, cx.ttl(), Wait::Never).await;
        assert!(tried.is_err() || crashed.elapsed() >= left, "free {:?} too early", left - crashed.elapsed());
        drop(tried);
        sleep(cx.ttl() / 20).await;
    }
    let limit = cx.gone_by(cx.ttl()).saturating_sub(crashed.elapsed());
    let next: K::Handle = eventually(limit, "it is free by TTL and lag", || async {
        K::acquire(Arc::clone(&other), PLACE, cx.ttl(), Wait::Never).await.ok()
    })
    .await;
    assert!(next.fencing_token() > held.fencing_token());
}

pub(super) async fn outlives_the_runtime_that_acquired_it<K: Kind>(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    // The smallest TTL, for this takes real time on every store.
    let ttl = Duration::from_secs(1);
    elsewhere(move || {
        // As a constructor that is not async acquires it: in a runtime for one call.
        let held: K::Handle = runtime().block_on(K::acquire(provider, PLACE, ttl, Wait::Forever)).unwrap();
        std::thread::sleep(held.ttl() * 2);
        assert!(held.is_held(), "nothing renewed it");
        runtime().block_on(async {
            let tried: Result<K::Handle> = K::acquire(other, PLACE, ttl, Wait::Never).await;
            assert_eq!(tried.unwrap_err().kind(), K::TAKEN);
            held.release().await.unwrap();
        });
    })
    .await;
}

// Numbered.

pub(super) async fn numbers_rise_across_crashes<K: Kind>(cx: Fixture) {
    let mut last = None;
    for _ in 0..3 {
        let client = cx.client().await;
        let limit = cx.gone_by(cx.ttl()) + cx.soon();
        let held =
            next_within::<K>(&cx, &client.provider, limit, "what a crashed client held is free again").await;
        assert!(Some(held.fencing_token()) > last, "{:?} after {last:?}", held.fencing_token());
        last = Some(held.fencing_token());
        client.crash().await;
    }
}

pub(super) async fn numbers_rise_across_reopening<K: Kind>(cx: Fixture) {
    let mut last = None;
    for round in 0..4 {
        let provider = cx.provider().await;
        let held =
            next_within::<K>(&cx, &provider, cx.gone_by(cx.ttl()) * 2 + cx.soon(), "it is free again").await;
        assert!(Some(held.fencing_token()) > last, "{:?} after {last:?}", held.fencing_token());
        last = Some(held.fencing_token());
        // Held when the store goes down, and not.
        if round % 2 == 0 {
            held.release().await.unwrap();
        }
        cx.reopen().await;
    }
}

// Acquired, or not.

pub(super) async fn an_acquire_dropped_at_any_await_point_leaves_nothing<K: Kind>(cx: Fixture) {
    let other = cx.provider().await;
    // With the first of a TTL, which makes a session, and with later ones.
    for warm in [false, true] {
        for polls in 0.. {
            let provider = cx.provider().await;
            if warm {
                provider.lock().acquire("warm", cx.ttl()).await.unwrap().unlock().await.unwrap();
            }
            let polled = poll_times(polls, cx.slack(), take::<K>(&cx, &provider)).await;
            let done = matches!(polled, Polled::Done(_));
            drop(polled);
            leaves_nothing::<K>(
                &cx,
                &other,
                &format!("it is free after an acquire was dropped after {polls} polls"),
            )
            .await;
            if done {
                break;
            }
        }
    }
}

pub(super) async fn a_dropped_acquire_that_is_applied_late_leaves_nothing<K: Kind>(cx: Fixture) {
    let other = cx.provider().await;
    let (client, faults) = cx.faulty().await;
    let kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
    for polls in 1.. {
        faults.next_put(Fault::Hold, K::entries(PLACE));
        let polled = poll_times(polls, cx.slack(), take::<K>(&cx, &client.provider)).await;
        let done = matches!(polled, Polled::Done(_));
        drop(polled);
        leaves_nothing::<K>(&cx, &other, "it is free").await;
        for late in faults.take_held() {
            // Too late for the lease of an entry that nobody wants any more.
            let _ = late.apply().await;
        }
        let what = format!("it is free after an acquire was dropped after {polls} polls and came late");
        leaves_nothing::<K>(&cx, &other, &what).await;
        if done {
            break;
        }
    }
    assert!(kept.is_held());
}

/// Asserts that the place is free, and stays so, once what was begun has had a moment to come, and
/// then to go.
async fn leaves_nothing<K: Kind>(cx: &Fixture, other: &Arc<dyn Provider>, what: &str) {
    sleep(Duration::from_millis(50)).await;
    next_within::<K>(cx, other, ONE_SECOND + cx.slack(), what).await.release().await.unwrap();
    sleep(cx.slack()).await;
    assert_eq!(entries(&*cx.store().await, K::entries(PLACE)).await, [], "{what}");
}
