//! What holds for every handle, whatever it stands for. A rule's list of cases says of which kind:
//! `a_dropped_id_is_free => handle::is_free_once_dropped::<Ids>`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_api::handle::Leased;
use coord_api::prelude::*;
use coord_api::store::Entry;
use coord_api::{ErrorKind, FencingToken, HandleState, LeaseId, Loss, Lost, Outcome, Result, Wait};
use futures_util::future::{Either, join3, poll_immediate, select};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::elsewhere::{elsewhere, runtime};
use super::leased::{
    Lasting, ONE_SECOND, at_the_deadline, delete, drop_outside_a_runtime, entries, entry, gone,
    keep_alive_for_it, lost_within,
};
use crate::cancel::{Polled, poll_times};
use crate::fixture::Fixture;
use crate::handle::{IsHeld as _, Kind};
use crate::layout;
use crate::wait::{eventually, never_within, within};
use crate::wrap::{Counter, Fault, Faults, Request};

/// The place that most cases are about.
const PLACE: &str = "k";

/// The faults after which a release is not known to be carried out.
const FAILURES: [Fault; 3] = [Fault::Refuse, Fault::LoseRequest, Fault::LoseAnswer];

/// Has the place, for the TTL of the case.
async fn take<K: Kind>(cx: &Fixture, source: &K::Source) -> K::Handle {
    K::acquire(source.clone(), PLACE, cx.ttl(), Wait::Forever).await.unwrap()
}

/// Has the place of another one, who gives it up in time.
async fn next_within<K: Kind>(cx: &Fixture, source: &K::Source, limit: Duration, what: &str) -> K::Handle {
    within(limit, what, take::<K>(cx, source)).await
}

/// Asserts that another one has the place.
async fn is_taken<K: Kind>(cx: &Fixture, source: &K::Source) {
    let tried: Result<K::Handle> = K::acquire(source.clone(), PLACE, cx.ttl(), Wait::Never).await;
    assert_eq!(tried.unwrap_err().kind(), K::TAKEN);
}

/// Has something else on the same lease, so that the lease goes on.
async fn keep<K: Kind>(cx: &Fixture, source: &K::Source) -> Box<dyn Leased> {
    K::beside(source.clone(), cx.ttl()).await.unwrap()
}

/// The lease that a handle hangs on, found by its token.
async fn lease_of_handle(cx: &Fixture, handle: &dyn Leased) -> LeaseId {
    let all = entries(&*cx.store().await, "/".to_owned()).await;
    let own = all.into_iter().find(|entry| entry.created.get() == handle.fencing_token().get());
    own.expect("the entry is there").lease.expect("the entry hangs on a lease")
}

/// What a further client has handles from.
async fn source<K: Kind>(cx: &Fixture) -> K::Source {
    K::source(&cx.client().await)
}

/// As [`source`], of a client whose requests are counted.
async fn counting<K: Kind>(cx: &Fixture) -> (K::Source, Counter) {
    let (client, counter) = cx.counting().await;
    (K::source(&client), counter)
}

/// As [`source`], of a client that can be cut off, and whose answers can be lost.
async fn faulty<K: Kind>(cx: &Fixture) -> (K::Source, Faults) {
    let (client, faults) = cx.faulty().await;
    (K::source(&client), faults)
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

/// The place's only entry, as it lies in the store, which is this handle's.
///
/// Cases compare it whole with what lies there later: what was deleted and written again at once,
/// as a registration is that heals, looks the same through every call.
async fn own_entry<K: Kind>(cx: &Fixture, handle: &K::Handle) -> Entry {
    let mut entries = entries(&*cx.store().await, K::entries(PLACE)).await;
    assert_eq!(entries.len(), 1, "one has the place");
    let entry = entries.remove(0);
    assert_eq!(entry.created.get(), handle.fencing_token().get(), "the entry is the handle's");
    entry
}

/// Asserts that a handle's entry was never touched.
async fn is_untouched<K: Kind>(cx: &Fixture, entry: &Entry, by: &str) {
    let now = entries(&*cx.store().await, K::entries(PLACE)).await;
    assert_eq!(now, std::slice::from_ref(entry), "the successor's entry was touched by {by}");
}

/// Asserts that a handle is over, and stays so for ever.
fn is_over(handle: &impl Leased) {
    assert!(!handle.is_held());
    assert!(matches!(handle.state(), HandleState::Ended(_)), "{:?}", handle.state());
    assert_eq!(handle.ttl(), Duration::ZERO);
}

/// Asserts that a handle is over for this reason, and says so to whoever asks, at whatever time.
async fn is_over_as(handle: &impl Leased, loss: Loss, token: FencingToken) {
    is_over(handle);
    assert_eq!(handle.state(), HandleState::Ended(loss));
    for _ in 0..2 {
        let now = poll_immediate(handle.lost()).await;
        assert_eq!(now, Some(loss), "who asks after the end is told at once");
    }
    assert_eq!(handle.fencing_token(), token, "the number of what is over stays");
}

/// Futures of the end of a handle, all of which must fire: one that was polled, one that was not,
/// and one of another task.
struct Losts {
    polled: Lost,
    unpolled: Lost,
    elsewhere: JoinHandle<Loss>,
    token: FencingToken,
}

impl Losts {
    async fn of(handle: &impl Leased) -> Self {
        let (mut polled, unpolled) = (handle.lost(), handle.lost());
        assert_eq!(poll_immediate(&mut polled).await, None, "it is held");
        let token = handle.fencing_token();
        assert_eq!(handle.fencing_token(), token, "the number is one number");
        Losts { polled, unpolled, elsewhere: tokio::spawn(handle.lost()), token }
    }

    async fn fire_within(self, limit: Duration, loss: Loss) -> FencingToken {
        let Losts { polled, unpolled, elsewhere, token } = self;
        let all = join3(polled, unpolled, elsewhere);
        let (polled, unpolled, elsewhere) = within(limit, "every lost() of the handle fires", all).await;
        assert_eq!([polled, unpolled, elsewhere.unwrap()], [loss; 3]);
        token
    }
}

/// Every lost fires when it is gone.
pub async fn every_lost_fires_when_it_is_gone<K: Kind>(cx: Fixture) {
    let (provider, store) = (source::<K>(&cx).await, cx.store().await);
    let held = take::<K>(&cx, &provider).await;
    let losts = Losts::of(&held).await;
    store.revoke_lease(lease::<K>(&cx).await).await.unwrap();
    let token = losts.fire_within(ONE_SECOND + cx.slack(), Loss::Expired).await;
    is_over_as(&held, Loss::Expired, token).await;
    let held = take::<K>(&cx, &provider).await;
    let losts = Losts::of(&held).await;
    remove::<K>(&cx).await;
    let token = losts.fire_within(cx.ttl() / 3 + ONE_SECOND + cx.slack(), Loss::Removed).await;
    is_over_as(&held, Loss::Removed, token).await;
}

/// Every lost fires at its deadline.
pub async fn every_lost_fires_at_its_deadline<K: Kind>(cx: Fixture) {
    let (client, faults) = faulty::<K>(&cx).await;
    let held = take::<K>(&cx, &client).await;
    let losts = Losts::of(&held).await;
    faults.hang();
    let token = losts.fire_within(held.ttl() + Duration::from_millis(100) + cx.slack(), Loss::Expired).await;
    is_over_as(&held, Loss::Expired, token).await;
    faults.heal();
    sleep(cx.ttl()).await;
    is_over_as(&held, Loss::Expired, token).await;
}

/// Every lost fires when it is given back.
pub async fn every_lost_fires_when_it_is_given_back<K: Kind>(cx: Fixture) {
    let provider = source::<K>(&cx).await;
    for dropped in [false, true] {
        let held = take::<K>(&cx, &provider).await;
        let losts = Losts::of(&held).await;
        if dropped {
            drop(held);
            losts.fire_within(cx.slack(), Loss::Released).await;
        } else {
            held.release().await.unwrap();
            let token = losts.fire_within(cx.slack(), Loss::Released).await;
            is_over_as(&held, Loss::Released, token).await;
        }
    }
}

/// Every lost fires when it is closed.
pub async fn every_lost_fires_when_it_is_closed<K: Kind>(cx: Fixture) {
    let provider = source::<K>(&cx).await;
    let held = take::<K>(&cx, &provider).await;
    let losts = Losts::of(&held).await;
    K::close(provider).await.unwrap();
    let token = losts.fire_within(cx.slack(), Loss::Closed).await;
    is_over_as(&held, Loss::Closed, token).await;
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

/// What is dropped is free for others, and for the same client, within a second.
pub async fn is_free_once_dropped<K: Kind>(cx: Fixture) {
    let (one, other) = (source::<K>(&cx).await, source::<K>(&cx).await);
    for next in [&other, &one] {
        drop(take::<K>(&cx, &one).await);
        let what = "it is free once the handle is dropped";
        next_within::<K>(&cx, next, ONE_SECOND + cx.slack(), what).await.release().await.unwrap();
    }
}

/// A handle may be dropped where no runtime is.
pub async fn may_be_dropped_outside_a_runtime<K: Kind>(cx: Fixture) {
    let (provider, other) = (source::<K>(&cx).await, source::<K>(&cx).await);
    let held = take::<K>(&cx, &provider).await;
    let lost = held.lost();
    drop_outside_a_runtime(held);
    within(ONE_SECOND + cx.slack(), "lost() fires", lost).await;
    next_within::<K>(&cx, &other, ONE_SECOND + cx.slack(), "it is free").await.release().await.unwrap();
    // The provider is unharmed.
    take::<K>(&cx, &provider).await.release().await.unwrap();
}

/// A handle may outlive what it was had from, and says the truth.
pub async fn may_be_dropped_after_its_provider<K: Kind>(cx: Fixture) {
    let (store, other) = (cx.store().await, source::<K>(&cx).await);
    let client = source::<K>(&cx).await;
    let held = take::<K>(&cx, &client).await;
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

/// A drop neither blocks nor panics while the store hangs; the lease takes everything along.
pub async fn a_drop_never_blocks_on_a_store_that_hangs<K: Kind>(cx: Fixture) {
    let other = source::<K>(&cx).await;
    let (client, faults) = faulty::<K>(&cx).await;
    let held = take::<K>(&cx, &client).await;
    // And one that waits for what another one has.
    let _theirs = K::acquire(other.clone(), "l", cx.ttl(), Wait::Forever).await.unwrap();
    let mut waiter = Box::pin(K::acquire(client.clone(), "l", cx.ttl(), Wait::Forever));
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

/// A release that failed when the handle was dropped is repeated.
pub async fn a_release_that_failed_is_repeated_once_dropped<K: Kind>(cx: Fixture) {
    let other = source::<K>(&cx).await;
    for fault in FAILURES {
        let (client, faults) = faulty::<K>(&cx).await;
        // Its lease is renewed, so that only the release frees the place.
        let kept = keep::<K>(&cx, &client).await;
        let held = take::<K>(&cx, &client).await;
        for _ in 0..3 {
            faults.next_delete(fault, K::entries(PLACE));
        }
        drop(held);
        next_within::<K>(&cx, &other, cx.ttl(), "the release is repeated").await.release().await.unwrap();
        assert!(kept.is_held(), "{fault:?}");
        kept.release().await.unwrap();
    }
}

/// What was dropped is free in the end, whatever becomes of its release.
pub async fn nothing_dropped_is_held_for_ever<K: Kind>(cx: Fixture) {
    let other = source::<K>(&cx).await;
    let (client, faults) = faulty::<K>(&cx).await;
    let store = cx.store().await;
    let held = take::<K>(&cx, &client).await;
    let kept = keep::<K>(&cx, &client).await;
    let lease = lease::<K>(&cx).await;
    // The lease is renewed without fault; only the release never gets through.
    let refused = Lasting::begin(&faults, Fault::Refuse, |request| request.deletes(&K::entries(PLACE)));
    let dropped = Instant::now();
    drop(held);
    // The release may be pending for one TTL before the renewals end, and what was renewed last
    // runs for another one.
    let limit = cx.ttl() * 2 + cx.ttl() / 3 + cx.lag() + cx.slack();
    let next = K::acquire(other.clone(), PLACE, cx.ttl(), Wait::For(limit))
        .await
        .expect("the lease of what was dropped ran out");
    assert!(dropped.elapsed() >= cx.ttl(), "one TTL long the release is only repeated");
    assert!(!kept.is_held(), "what shares the lease goes with it, and knows before");
    lost_within(cx.slack(), "lost() fires", kept.lost()).await;
    gone(&*store, lease, cx.slack(), "the lease is gone").await;
    assert!(next.is_held());
    refused.end();
    // A new lease carries what comes next.
    let again = keep::<K>(&cx, &client).await;
    assert_ne!(lease_of_handle(&cx, &*again).await, lease);
    assert!(again.is_held() && entry(&*store, layout::session(lease)).await.is_none());
}

// Released.

/// A second release sends nothing, and harms no successor.
pub async fn a_second_release_repeats_nothing<K: Kind>(cx: Fixture) {
    let (client, counter) = counting::<K>(&cx).await;
    let held = take::<K>(&cx, &client).await;
    held.release().await.unwrap();
    let (again, counts) = counter.during(held.release()).await;
    again.unwrap();
    assert_eq!(counts.requests(), 0);
    for successor in [&client, &source::<K>(&cx).await] {
        let next = take::<K>(&cx, successor).await;
        let entry = own_entry::<K>(&cx, &next).await;
        held.release().await.unwrap();
        sleep(cx.slack()).await;
        assert!(next.is_held());
        is_untouched::<K>(&cx, &entry, "a second release").await;
        is_taken::<K>(&cx, &source::<K>(&cx).await).await;
        next.release().await.unwrap();
    }
    let next = take::<K>(&cx, &client).await;
    let entry = own_entry::<K>(&cx, &next).await;
    drop(held);
    sleep(cx.ttl() / 2 + ONE_SECOND).await;
    assert!(next.is_held());
    is_untouched::<K>(&cx, &entry, "the drop of what was released").await;
}

/// A release that failed is Unknown, ends the handle, and is repeated.
pub async fn a_failed_release_is_unknown_and_repeated<K: Kind>(cx: Fixture) {
    let other = source::<K>(&cx).await;
    for fault in FAILURES {
        let (client, faults) = faulty::<K>(&cx).await;
        // Its lease goes on, so that only the release itself can free the place.
        let kept = keep::<K>(&cx, &client).await;
        let held = take::<K>(&cx, &client).await;
        for _ in 0..3 {
            faults.next_delete(fault, K::entries(PLACE));
        }
        let error = within(cx.soon(), "an answer", held.release()).await.unwrap_err();
        assert!(error.is_transient(), "{fault:?}: {error}");
        assert_eq!(error.outcome(), Outcome::Unknown, "{fault:?}");
        assert!(!held.is_held(), "a failed release ends the handle all the same");
        next_within::<K>(&cx, &other, cx.ttl(), "the release is repeated").await.release().await.unwrap();
        assert!(kept.is_held());
        kept.release().await.unwrap();
    }
}

/// Releasing what was lost is LeaseLost.
pub async fn releasing_what_was_lost_is_lease_lost<K: Kind>(cx: Fixture) {
    let (provider, store) = (source::<K>(&cx).await, cx.store().await);
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

/// A release that is applied late harms no successor.
pub async fn a_release_applied_late_harms_no_successor<K: Kind>(cx: Fixture) {
    let (client, faults) = faulty::<K>(&cx).await;
    for same_provider in [true, false] {
        let held = take::<K>(&cx, &client).await;
        faults.next_delete(Fault::Hold, K::entries(PLACE));
        assert_eq!(held.release().await.unwrap_err().outcome(), Outcome::Unknown);
        let successor = if same_provider { client.clone() } else { source::<K>(&cx).await };
        let next = next_within::<K>(&cx, &successor, cx.ttl() * 2, "the release is repeated").await;
        let entry = own_entry::<K>(&cx, &next).await;
        let late = faults.take_held();
        assert_eq!(late.len(), 1);
        for late in late {
            let _ = late.apply().await;
        }
        is_untouched::<K>(&cx, &entry, "a release that came late").await;
        // The release that was repeated, too, was of the old one alone.
        let _ = within(cx.soon(), "an answer", held.release()).await;
        drop(held);
        sleep(cx.ttl()).await;
        is_untouched::<K>(&cx, &entry, "a release that was repeated").await;
        assert!(next.is_held());
        next.release().await.unwrap();
    }
}

/// A release may be dropped at any await point.
pub async fn a_release_dropped_at_any_await_point_frees_it<K: Kind>(cx: Fixture) {
    let (provider, other) = (source::<K>(&cx).await, source::<K>(&cx).await);
    for polls in 1.. {
        let held = take::<K>(&cx, &provider).await;
        let released = cx.dropped_after(polls, held.release()).await;
        // The handle is kept: it is the call that was dropped.
        let what = format!("it is free after a release was dropped after {polls} polls");
        let next = next_within::<K>(&cx, &other, ONE_SECOND + cx.slack(), &what).await;
        let entry = own_entry::<K>(&cx, &next).await;
        assert!(!held.is_held());
        let again = held.release().await;
        assert!(again.is_ok() || again.is_err_and(|error| error.kind() == ErrorKind::LeaseLost));
        drop(held);
        sleep(Duration::from_millis(50)).await;
        is_untouched::<K>(&cx, &entry, "a release that was dropped").await;
        assert!(next.is_held());
        next.release().await.unwrap();
        if released.is_some() {
            return;
        }
    }
}

/// `lost()` fires on a release, and on a drop.
pub async fn lost_fires_on_release<K: Kind>(cx: Fixture) {
    let provider = source::<K>(&cx).await;
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

/// The state compares the clock with the local deadline itself.
pub async fn is_held_compares_the_clock_itself<K: Kind>(cx: Fixture) {
    let (client, faults) = faulty::<K>(&cx).await;
    let held = take::<K>(&cx, &client).await;
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

/// `lost()` fires at the local deadline, whatever becomes of the store.
pub async fn lost_fires_at_the_local_deadline<K: Kind>(cx: Fixture) {
    for hang in [true, false] {
        let (client, faults) = faulty::<K>(&cx).await;
        let held = take::<K>(&cx, &client).await;
        sleep(cx.ttl() * 3 / 2).await;
        silence(&faults, hang);
        let left = held.ttl();
        let (loss, elapsed) = lost_within(cx.ttl() + cx.soon(), "lost() fires", held.lost()).await;
        assert_eq!(loss, Loss::Expired);
        at_the_deadline(&cx, elapsed, left);
        is_over(&held);
        // Another one may have it by then.
        faults.heal();
        next_within::<K>(&cx, &source::<K>(&cx).await, cx.gone_by(cx.ttl()) + ONE_SECOND, "it is free")
            .await
            .release()
            .await
            .unwrap();
    }
}

/// Asserts that a handle is not held at this moment; a registration may be healing.
fn is_not_held(handle: &impl Leased, why: &str) {
    assert!(!handle.is_held(), "held, though {why}");
    assert_eq!(handle.ttl(), Duration::ZERO, "time is left, though {why}");
}

/// When the next request that `matches` was sent.
fn sent_at(
    faults: &Faults,
    fault: Fault,
    matches: impl Fn(&Request<'_>) -> bool + Send + 'static,
) -> Arc<Mutex<Option<Instant>>> {
    let sent = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&sent);
    faults.next(fault, move |request| {
        let is_it = matches(request);
        if is_it {
            *noted.lock().unwrap() = Some(Instant::now());
        }
        is_it
    });
    sent
}

/// How long before the end of its lease a handle is over (the contract's *local deadline*).
fn margin(cx: &Fixture) -> Duration {
    (cx.ttl() / 20).clamp(Duration::from_millis(10), Duration::from_millis(500))
}

/// Its deadline counts from the sending.
pub async fn its_deadline_counts_from_the_sending<K: Kind>(cx: Fixture) {
    // What gave it its time is answered late, and nothing is answered any more after that.
    for renewed in [false, true] {
        let (client, faults) = faulty::<K>(&cx).await;
        let sent = sent_at(&faults, Fault::LateAnswer(cx.ttl() / 8), move |request| match request {
            Request::Grant => !renewed,
            Request::KeepAlive(_) => renewed,
            _ => false,
        });
        let _silent =
            Lasting::begin(&faults, Fault::LoseRequest, |request| matches!(request, Request::KeepAlive(_)));
        let held = take::<K>(&cx, &client).await;
        let _no_other =
            Lasting::begin(&faults, Fault::LoseRequest, |request| matches!(request, Request::Grant));
        let sent =
            eventually(cx.ttl(), "a lease is granted, and renewed", || async { *sent.lock().unwrap() }).await;
        // Soon the store may give the place to another one.
        sleep_until(sent + cx.ttl() - margin(&cx) + Duration::from_millis(1)).await;
        let request = if renewed { "renewal" } else { "grant" };
        is_not_held(&held, &format!("its last {request} was sent a TTL ago"));
    }
}

/// Only an answered renewal prolongs it.
pub async fn only_an_answered_renewal_prolongs_it<K: Kind>(cx: Fixture) {
    for fault in if cx.virtual_time() { &FAILURES[..] } else { &FAILURES[2..] } {
        let (client, faults) = faulty::<K>(&cx).await;
        let held = take::<K>(&cx, &client).await;
        let _silent = Lasting::begin(&faults, *fault, |request| {
            matches!(request, Request::KeepAlive(_) | Request::Grant)
        });
        sleep(cx.slack() / 10).await;
        let (start, left) = (Instant::now(), held.ttl());
        // The store is there, and answers everything else.
        while start.elapsed() < left {
            K::provider(&client).config().set_raw("k", "v".into()).await.unwrap();
            K::provider(&client).registry().discover("s").await.unwrap();
            sleep(cx.ttl() / 20).await;
        }
        is_not_held(&held, &format!("no renewal was answered: {fault:?}"));
    }
}

/// It is believed in no longer than was asked for.
pub async fn it_is_believed_in_no_longer_than_was_asked_for<K: Kind>(cx: Fixture) {
    let (client, faults) = faulty::<K>(&cx).await;
    let margin = margin(&cx);
    // When a lease was last asked for, or to be renewed; whatever came of it.
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    faults.next(Fault::Refuse, move |request| {
        if matches!(request, Request::Grant | Request::KeepAlive(_)) {
            noted.lock().unwrap().push(Instant::now());
        }
        false
    });
    // And every answer takes a while.
    let _slow = Lasting::begin(&faults, Fault::LateAnswer(cx.ttl() / 16), |request| {
        matches!(request, Request::Grant | Request::KeepAlive(_))
    });
    let held = take::<K>(&cx, &client).await;
    let end = Instant::now() + cx.ttl() * 2;
    while Instant::now() < end {
        let (left, now) = (held.ttl(), Instant::now());
        let last = *asked.lock().unwrap().last().expect("a lease was asked for");
        let believed = (now + left).saturating_duration_since(last);
        let about = Duration::from_millis(5);
        assert!(believed <= cx.ttl() - margin + about, "believed in for {believed:?} after it was asked for");
        sleep(cx.ttl() / 100).await;
    }
}

/// A renewal answered after its deadline revives nothing.
pub async fn a_renewal_answered_after_its_deadline_revives_nothing<K: Kind>(cx: Fixture) {
    let (client, faults) = faulty::<K>(&cx).await;
    let held = take::<K>(&cx, &client).await;
    let _late = Lasting::begin(&faults, Fault::LateAnswer(cx.ttl() * 5 / 4), |request| {
        matches!(request, Request::KeepAlive(_))
    });
    lost_within(cx.ttl() + cx.soon(), "lost() fires", held.lost()).await;
    for _ in 0..10 {
        is_over(&held);
        sleep(cx.ttl() / 5).await;
    }
}

/// A lost lease is noticed within a second.
pub async fn a_lost_lease_is_noticed_within_a_second<K: Kind>(cx: Fixture) {
    let (provider, store) = (source::<K>(&cx).await, cx.store().await);
    let held = take::<K>(&cx, &provider).await;
    let beside = K::acquire(provider.clone(), "l", cx.ttl(), Wait::Forever).await.unwrap();
    store.revoke_lease(lease::<K>(&cx).await).await.unwrap();
    for handle in [&held, &beside] {
        let (loss, _) = lost_within(ONE_SECOND + cx.slack(), "the loss is noticed", handle.lost()).await;
        assert_eq!((loss, handle.state()), (Loss::Expired, HandleState::Ended(Loss::Expired)));
        is_over(handle);
    }
    sleep(cx.ttl()).await;
    is_over(&held);
    // The holder was told, and only then is it another's, or the same provider's again.
    let next: K::Handle = K::acquire(provider, PLACE, cx.ttl(), Wait::Never).await.unwrap();
    assert!(next.is_held() && next.fencing_token() > held.fencing_token());
    is_over(&held);
}

/// A removed entry is noticed with the next renewal, and costs nobody else anything.
pub async fn a_removed_entry_is_noticed_with_the_next_renewal<K: Kind>(cx: Fixture) {
    let provider = source::<K>(&cx).await;
    let held = take::<K>(&cx, &provider).await;
    let kept = K::acquire(provider, "l", cx.ttl(), Wait::Forever).await.unwrap();
    remove::<K>(&cx).await;
    let limit = cx.ttl() / 3 + ONE_SECOND + cx.slack();
    let (loss, _) = lost_within(limit, "the removal is noticed", held.lost()).await;
    assert_eq!(loss, Loss::Removed);
    is_over(&held);
    // Its lease lives, and what else hangs on it.
    sleep(cx.ttl() * 2).await;
    is_over(&held);
    assert!(kept.is_held());
}

/// Under a partition the loss comes before the next grant.
pub async fn under_a_partition_the_loss_comes_before_the_next_grant<K: Kind>(cx: Fixture) {
    for hang in [true, false] {
        let other = source::<K>(&cx).await;
        let (client, faults) = faulty::<K>(&cx).await;
        let held = take::<K>(&cx, &client).await;
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

/// What was lost is never held again, though its lease lives on.
pub async fn what_was_lost_is_never_held_again<K: Kind>(cx: Fixture) {
    let (client, faults) = faulty::<K>(&cx).await;
    let store = cx.store().await;
    let held = take::<K>(&cx, &client).await;
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
    let next = next_within::<K>(&cx, &source::<K>(&cx).await, cx.soon(), "it is free").await;
    within(cx.soon(), "the lease is gone", kept).await.unwrap();
    assert!(next.is_held());
}

// Held.

/// It is held for as long as its client lives, whatever anyone polls.
pub async fn is_held_for_as_long_as_its_client_lives<K: Kind>(cx: Fixture) {
    let (provider, other) = (source::<K>(&cx).await, source::<K>(&cx).await);
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

/// Hours, in which nothing happens. Where time is real, as much of them as a case may take.
fn hours(cx: &Fixture) -> Duration {
    if cx.virtual_time() { Duration::from_secs(3_600) } else { cx.ttl() * 3 }
}

/// Is held for hours.
pub async fn is_held_for_hours<K: Kind>(cx: Fixture) {
    let (provider, other) = (source::<K>(&cx).await, source::<K>(&cx).await);
    let held = take::<K>(&cx, &provider).await;
    let entry = own_entry::<K>(&cx, &held).await;
    let mut lost = held.lost();
    // Nobody polls the handle, and nobody else uses its provider.
    sleep(hours(&cx)).await;
    assert!(held.is_held() && held.ttl() > Duration::ZERO);
    assert!(poll_immediate(&mut lost).await.is_none(), "lost() fired");
    is_untouched::<K>(&cx, &entry, "its renewals").await;
    is_taken::<K>(&cx, &other).await;
    held.release().await.unwrap();
    take::<K>(&cx, &other).await.release().await.unwrap();
    // And what was idle for so long works as ever.
    take::<K>(&cx, &provider).await.release().await.unwrap();
}

/// Is held for hours of work.
pub async fn is_held_for_hours_of_work<K: Kind>(cx: Fixture) {
    let provider = source::<K>(&cx).await;
    let held = take::<K>(&cx, &provider).await;
    let entry = own_entry::<K>(&cx, &held).await;
    for _ in 0..10 {
        sleep(hours(&cx) / 10).await;
        goes_on::<K>(&cx, &provider, "after a while").await;
        assert!(held.is_held() && held.ttl() > Duration::ZERO);
    }
    is_untouched::<K>(&cx, &entry, "what came and went beside it").await;
    held.release().await.unwrap();
}

/// How a holder makes room for who waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MakesRoom {
    Released,
    Dropped,
    Crashed,
}

/// Of a kind for which there is a queue, or a wait: who waits for hours is served.
async fn who_waits_is_served<K: Kind>(cx: &Fixture, end: MakesRoom) {
    let (provider, other) = (source::<K>(cx).await, source::<K>(cx).await);
    let holder = cx.client().await;
    let held = take::<K>(cx, &K::source(&holder)).await;
    let mut waiters = [Box::pin(take::<K>(cx, &provider)), Box::pin(take::<K>(cx, &other))];
    let [first, second] = &mut waiters;
    let mut both = select(first, second);
    assert!(poll_within(cx.patience(), &mut both).await.is_none(), "two have it");
    let store = cx.store().await;
    let place = entries(&*store, K::entries(PLACE)).await;
    assert!(poll_within(hours(cx), both).await.is_none(), "two have it");
    assert_eq!(entries(&*store, K::entries(PLACE)).await, place, "each keeps its place");
    assert_eq!(place.first().map(|entry| entry.created.get()), Some(held.fencing_token().get()));
    match end {
        MakesRoom::Released => held.release().await.unwrap(),
        MakesRoom::Dropped => drop(held),
        MakesRoom::Crashed => holder.crash().await,
    }
    let limit = match end {
        MakesRoom::Crashed => cx.gone_by(cx.ttl()) + ONE_SECOND,
        _ => ONE_SECOND + cx.slack(),
    };
    let [first, second] = waiters;
    let (next, last) = match within(limit, "who waited for hours has it", select(first, second)).await {
        Either::Left((next, last)) | Either::Right((next, last)) => (next, last),
    };
    next.release().await.unwrap();
    within(ONE_SECOND + cx.slack(), "and so has the other one", last).await.release().await.unwrap();
}

/// Who waits for hours is served.
pub async fn who_waits_for_hours_is_served<K: Kind>(cx: Fixture) {
    who_waits_is_served::<K>(&cx, MakesRoom::Released).await;
    who_waits_is_served::<K>(&cx, MakesRoom::Dropped).await;
}

/// Who waits for hours is served after a crash.
pub async fn who_waits_for_hours_is_served_after_a_crash<K: Kind>(cx: Fixture) {
    who_waits_is_served::<K>(&cx, MakesRoom::Crashed).await;
}

/// What a future gives within a while, if anything.
async fn poll_within<F: Future>(span: Duration, future: F) -> Option<F::Output> {
    timeout(span, future).await.ok()
}

/// After how many polls a call is left alone: more than there are await points in most.
fn moments(cx: &Fixture) -> std::ops::RangeInclusive<u64> {
    1..=if cx.virtual_time() { 24 } else { 6 }
}

/// A call left alone holds up no other.
pub async fn a_call_left_alone_holds_up_no_other<K: Kind>(cx: Fixture) {
    // With the first of a TTL, which makes a session, and with later ones; of a free place, and of
    // one that another has.
    for (warm, free) in [(false, true), (true, true), (true, false)] {
        let theirs = match free {
            true => None,
            false => Some(take::<K>(&cx, &source::<K>(&cx).await).await),
        };
        for polls in moments(&cx) {
            let provider = K::source(&cx.delayed(polls).await);
            if warm {
                let warm = K::acquire(provider.clone(), "warm", cx.ttl(), Wait::Forever);
                warm.await.unwrap().release().await.unwrap();
            }
            // It is neither polled again nor dropped.
            let mut left_alone = Box::pin(take::<K>(&cx, &provider));
            let polls = usize::try_from(polls).unwrap();
            let polled = poll_times(polls, cx.slack(), left_alone.as_mut()).await;
            let what = format!("beside a call that was left alone after {polls} polls");
            goes_on::<K>(&cx, &provider, &what).await;
            let done = !matches!(polled, Polled::Dropped);
            drop((polled, left_alone));
            leaves_nothing_of_it::<K>(&cx, theirs.as_ref(), &what).await;
            if done {
                break;
            }
        }
        if let Some(theirs) = theirs {
            theirs.release().await.unwrap();
        }
    }
}

/// A release left alone holds up no other.
pub async fn a_release_left_alone_holds_up_no_other<K: Kind>(cx: Fixture) {
    for polls in moments(&cx) {
        let provider = K::source(&cx.delayed(polls).await);
        let held = take::<K>(&cx, &provider).await;
        let mut left_alone = Box::pin(held.release());
        let polls = usize::try_from(polls).unwrap();
        let polled = poll_times(polls, cx.slack(), left_alone.as_mut()).await;
        let what = format!("beside a release that was left alone after {polls} polls");
        goes_on::<K>(&cx, &provider, &what).await;
        drop(left_alone);
        drop(held);
        leaves_nothing_of_it::<K>(&cx, None, &what).await;
        if matches!(polled, Polled::Done(_)) {
            return;
        }
    }
}

/// Many calls left alone hold up no other.
pub async fn many_calls_left_alone_hold_up_no_other<K: Kind>(cx: Fixture) {
    const PLACES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    let provider = K::source(&cx.delayed(0).await);
    let mut held = Vec::new();
    for place in PLACES {
        held.push(K::acquire(provider.clone(), place, cx.ttl(), Wait::Forever).await.unwrap());
    }
    // Each at another moment, and none is polled again.
    let mut left_alone = Vec::new();
    for (n, handle) in held.iter().enumerate() {
        let mut releasing: std::pin::Pin<Box<dyn Future<Output = ()>>> =
            Box::pin(async { drop(handle.release().await) });
        let _ = poll_times(n + 1, cx.slack(), releasing.as_mut()).await;
        left_alone.push(releasing);
    }
    for (n, place) in ["u", "v", "w", "x", "y", "z"].into_iter().enumerate() {
        let provider = provider.clone();
        let mut acquiring: std::pin::Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
            drop(K::acquire(provider, place, ttl_of(n), Wait::Forever).await);
        });
        let _ = poll_times(n + 1, cx.slack(), acquiring.as_mut()).await;
        left_alone.push(acquiring);
    }
    goes_on::<K>(&cx, &provider, "beside calls that were left alone").await;
    drop(left_alone);
    goes_on::<K>(&cx, &provider, "once they are dropped").await;
}

/// The TTL of some of the calls is the first of its kind, which makes a session.
fn ttl_of(n: usize) -> Duration {
    Duration::from_secs(if n % 2 == 0 { 30 } else { 31 })
}

/// Asserts that other calls of a provider are answered.
async fn goes_on<K: Kind>(cx: &Fixture, source: &K::Source, what: &str) {
    let other = K::acquire(source.clone(), "l", cx.ttl(), Wait::Forever);
    let other = within(cx.soon(), &format!("another place is had {what}"), other).await.unwrap();
    within(cx.soon(), &format!("it is released {what}"), other.release()).await.unwrap();
    let written = K::provider(source).config().set_raw("k", "v".into());
    within(cx.soon(), &format!("a write is answered {what}"), written).await.unwrap();
}

/// Asserts that nothing but `theirs` stands for the place, once what was begun is given up.
async fn leaves_nothing_of_it<K: Kind>(cx: &Fixture, theirs: Option<&K::Handle>, what: &str) {
    let store = cx.store().await;
    eventually(cx.ttl() + cx.soon(), &format!("nothing is left {what}"), async || {
        let left = entries(&*store, K::entries(PLACE)).await;
        (left.len() == theirs.iter().len()).then_some(())
    })
    .await;
}

/// After a crash it is free by TTL and lag, and not before.
pub async fn after_a_crash_it_is_free_by_ttl_and_lag<K: Kind>(cx: Fixture) {
    let (client, other) = (cx.client().await, source::<K>(&cx).await);
    let held = take::<K>(&cx, &K::source(&client)).await;
    sleep(cx.ttl() * 3 / 2).await;
    let (left, crashed) = (held.ttl(), Instant::now());
    client.crash().await;
    while crashed.elapsed() < left {
        let tried: Result<K::Handle> = K::acquire(other.clone(), PLACE, cx.ttl(), Wait::Never).await;
        assert!(tried.is_err() || crashed.elapsed() >= left, "free {:?} too early", left - crashed.elapsed());
        drop(tried);
        sleep(cx.ttl() / 20).await;
    }
    let limit = cx.gone_by(cx.ttl()).saturating_sub(crashed.elapsed());
    let next: K::Handle = eventually(limit, "it is free by TTL and lag", || async {
        K::acquire(other.clone(), PLACE, cx.ttl(), Wait::Never).await.ok()
    })
    .await;
    assert!(next.fencing_token() > held.fencing_token());
}

/// It outlives the runtime that acquired it.
pub async fn outlives_the_runtime_that_acquired_it<K: Kind>(cx: Fixture) {
    let (provider, other) = (source::<K>(&cx).await, source::<K>(&cx).await);
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

/// Fencing tokens rise across crashes.
pub async fn numbers_rise_across_crashes<K: Kind>(cx: Fixture) {
    let mut last = None;
    for _ in 0..3 {
        let client = cx.client().await;
        let limit = cx.gone_by(cx.ttl()) + cx.soon();
        let held =
            next_within::<K>(&cx, &K::source(&client), limit, "what a crashed client held is free again")
                .await;
        assert!(Some(held.fencing_token()) > last, "{:?} after {last:?}", held.fencing_token());
        last = Some(held.fencing_token());
        client.crash().await;
    }
}

/// Fencing tokens rise when a persistent store is opened again.
pub async fn numbers_rise_across_reopening<K: Kind>(cx: Fixture) {
    let mut last = None;
    for round in 0..4 {
        let provider = source::<K>(&cx).await;
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

/// An acquire may be dropped at any await point, and leaves nothing.
pub async fn an_acquire_dropped_at_any_await_point_leaves_nothing<K: Kind>(cx: Fixture) {
    let other = source::<K>(&cx).await;
    // With the first of a TTL, which makes a session, and with later ones.
    for warm in [false, true] {
        for polls in 0.. {
            let provider = source::<K>(&cx).await;
            if warm {
                let warm = K::acquire(provider.clone(), "warm", cx.ttl(), Wait::Forever);
                warm.await.unwrap().release().await.unwrap();
            }
            let taken = cx.dropped_after(polls, take::<K>(&cx, &provider)).await;
            let done = taken.is_some();
            drop(taken);
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

/// A dropped acquire that is applied late leaves nothing.
pub async fn a_dropped_acquire_that_is_applied_late_leaves_nothing<K: Kind>(cx: Fixture) {
    let other = source::<K>(&cx).await;
    let (client, faults) = faulty::<K>(&cx).await;
    let kept = keep::<K>(&cx, &client).await;
    for polls in 1.. {
        faults.next_put(Fault::Hold, K::entries(PLACE));
        let polled = poll_times(polls, cx.patience(), take::<K>(&cx, &client)).await;
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
async fn leaves_nothing<K: Kind>(cx: &Fixture, other: &K::Source, what: &str) {
    sleep(Duration::from_millis(50)).await;
    next_within::<K>(cx, other, ONE_SECOND + cx.slack(), what).await.release().await.unwrap();
    sleep(cx.slack()).await;
    assert_eq!(entries(&*cx.store().await, K::entries(PLACE)).await, [], "{what}");
}
