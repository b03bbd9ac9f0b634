//! What the cases of everything leased share: raw looks into the store, faults that last, drops
//! outside of a runtime.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use coord_api::store::{Entry, Op, Order, Range, Store, Txn};
use coord_api::{ErrorKind, LeaseId, Loss, Lost, Revision};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use crate::fixture::Fixture;
use crate::layout;
use crate::wait::{eventually, within};
use crate::wrap::{Fault, Faults, Request};

/// Within what a client that is connected notices a lost lease (R32), and by what a cancelled
/// waiter delays the next one at most (R29).
pub(super) const ONE_SECOND: Duration = Duration::from_secs(1);

/// The longest pause of a back-off that a healer may make (R37).
pub(super) const BACKOFF_CAP: Duration = Duration::from_secs(2);

/// How many faults are as good as any number of them.
const MANY: usize = 1_000;

/// An entry as it lies in the store.
pub(super) async fn entry(store: &dyn Store, key: String) -> Option<Entry> {
    store.range(Range::key(key)).await.unwrap().entries.pop()
}

/// The entries under a prefix, the oldest first.
pub(super) async fn entries(store: &dyn Store, prefix: String) -> Vec<Entry> {
    store.range(Range::prefix(prefix).with_order(Order::OldestFirst)).await.unwrap().entries
}

/// The queue of a lock, its holder first.
pub(super) async fn queue(store: &dyn Store, key: &str) -> Vec<Entry> {
    entries(store, layout::lock_queue(key)).await
}

/// The lease of whoever holds a lock.
pub(super) async fn holders_lease(store: &dyn Store, key: &str) -> LeaseId {
    queue(store, key)
        .await
        .first()
        .expect("the lock is held")
        .lease
        .expect("the entry of a lock hangs on a lease")
}

/// The lease that an entry hangs on.
pub(super) async fn lease_of(store: &dyn Store, key: String) -> LeaseId {
    entry(store, key).await.expect("the entry is there").lease.expect("the entry hangs on a lease")
}

/// Writes a key without a lease, as someone else would.
pub(super) async fn put(store: &dyn Store, key: impl Into<Vec<u8>>, value: impl Into<coord_api::Value>) {
    store.txn(Txn::new().then(Op::put(key.into(), value))).await.unwrap();
}

/// Deletes a key, as someone else would.
pub(super) async fn delete(store: &dyn Store, key: impl Into<Vec<u8>>) {
    store.txn(Txn::new().then(Op::delete(key.into()))).await.unwrap();
}

/// The store's present revision.
pub(super) async fn head(store: &dyn Store) -> Revision {
    store.range(Range::key("no such key")).await.unwrap().revision
}

/// Keeps a lease alive behind the back of its owner, until it is gone. So it cannot run out: only a
/// revocation ends it.
pub(super) fn keep_alive_for_it(
    store: &Arc<dyn Store>,
    lease: LeaseId,
    ttl: Duration,
) -> tokio::task::JoinHandle<()> {
    let store = Arc::clone(store);
    tokio::spawn(async move {
        // Only the store's own word ends it; a fault that passes is no end.
        while !store.keep_alive(lease).await.is_err_and(|error| error.kind() == ErrorKind::LeaseLost) {
            sleep(ttl / 10).await;
        }
    })
}

/// Shows something that takes a machine which does not stand still for long in between: tries again
/// where `attempt` says that it did.
pub(super) async fn on_a_machine_in_time(mut attempt: impl AsyncFnMut() -> bool) {
    const TRIES: usize = 10;
    for _ in 0..TRIES {
        if attempt().await {
            return;
        }
    }
    panic!("in each of {TRIES} tries this machine was too slow to show it");
}

/// Waits until a lease is gone.
pub(super) async fn gone(store: &dyn Store, lease: LeaseId, limit: Duration, what: &str) {
    eventually(limit, what, || async { store.lease(lease).await.unwrap().is_none().then_some(()) }).await;
}

/// Waits until a handle is over, and says how long that took.
pub(super) async fn lost_within(limit: Duration, what: &str, lost: Lost) -> (Loss, Duration) {
    let start = Instant::now();
    let loss = within(limit, what, lost).await;
    (loss, start.elapsed())
}

/// Asserts that a local deadline, `left` before which `work` was begun, is kept to: not before, and
/// at most 100 ms of scheduling later (R32).
pub(super) fn at_the_deadline(cx: &Fixture, elapsed: Duration, left: Duration) {
    let early = Duration::from_millis(20);
    assert!(
        elapsed + early >= left,
        "lost after {elapsed:?}, {:?} before the local deadline",
        left - elapsed
    );
    let late = Duration::from_millis(100) + cx.slack();
    assert!(elapsed <= left + late, "lost after {elapsed:?}, {:?} after the local deadline", elapsed - left);
}

/// Drops something in a thread that knows of no runtime, while the runtime of the case stands
/// still.
pub(super) fn drop_outside_a_runtime(what: impl Send + 'static) {
    let (done, waited) = channel();
    let thread = thread::spawn(move || {
        assert!(Handle::try_current().is_err(), "the thread is outside of a runtime");
        drop(what);
        let _ = done.send(());
    });
    match waited.recv_timeout(Duration::from_secs(10)) {
        Ok(()) => {}
        Err(RecvTimeoutError::Timeout) => panic!("the drop blocks"),
        Err(RecvTimeoutError::Disconnected) => panic!("the drop panicked: {:?}", thread.join().is_err()),
    }
}

/// A fault that lasts until it is ended.
pub(super) struct Lasting {
    on: Arc<AtomicBool>,
}

impl Lasting {
    /// Does `fault` to every request that `matches`, from now on.
    pub(super) fn begin(
        faults: &Faults,
        fault: Fault,
        matches: impl Fn(&Request<'_>) -> bool + Clone + Send + 'static,
    ) -> Self {
        let on = Arc::new(AtomicBool::new(true));
        for _ in 0..MANY {
            let (on, matches) = (Arc::clone(&on), matches.clone());
            faults.next(fault, move |request| on.load(Ordering::SeqCst) && matches(request));
        }
        Lasting { on }
    }

    /// Ends it.
    pub(super) fn end(&self) {
        self.on.store(false, Ordering::SeqCst);
    }
}

/// Notes when each renewal of any lease is sent, from now on.
pub(super) fn note_renewals(faults: &Faults) -> Arc<Mutex<Vec<(LeaseId, Instant)>>> {
    let noted = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&noted);
    faults.next(Fault::Refuse, move |request| {
        if let Request::KeepAlive(lease) = request {
            notes.lock().unwrap().push((*lease, Instant::now()));
        }
        false
    });
    noted
}
