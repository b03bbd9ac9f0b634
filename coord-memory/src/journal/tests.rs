use std::future::Future;
use std::pin::pin;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Waker};
use std::time::Duration;

use coord_api::Outcome;
use coord_api::store::{Op, Range, Span, Store, StoreEvent, Txn};
use futures_util::FutureExt;
use parking_lot::Condvar;

use super::*;
use crate::MemoryStore;
use crate::engine::Engine;
use crate::shared::{SharedStore, WINDOW};

/// A storage that keeps nothing, and writes only when it is let.
#[derive(Debug, Default)]
struct Gate {
    /// How many writes may pass; one that may not waits.
    passes: Mutex<usize>,
    opened: Condvar,
    writes: AtomicUsize,
    failure: Mutex<Option<Failure>>,
}

#[derive(Clone, Copy, Debug)]
enum Failure {
    Full,
    Panic,
}

impl Gate {
    fn open(&self, passes: usize) {
        *self.passes.lock() = passes;
        self.opened.notify_all();
    }

    fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }
}

impl Storage for Gate {
    fn write(&self, _: &StorageWrite) -> Result<()> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        let mut passes = self.passes.lock();
        while *passes == 0 {
            self.opened.wait(&mut passes);
        }
        *passes -= 1;
        match *self.failure.lock() {
            Some(Failure::Full) => Err(Error::new(ErrorKind::Exhausted, "store", "full")),
            Some(Failure::Panic) => panic!("a broken storage"),
            None => Ok(()),
        }
    }

    fn let_go(&self) {}
}

fn store(gate: &Arc<Gate>) -> MemoryStore {
    let engine = Engine::new(WINDOW);
    let storage = Arc::clone(gate) as Arc<dyn Storage>;
    MemoryStore::of(SharedStore::new(Home::callers(), engine, Some(storage), "id".to_owned(), "test"))
}

fn put(key: &'static str) -> Txn {
    Txn::new().then(Op::put(key, "1"))
}

/// Waits, in real time, for what another thread does.
async fn until(done: impl Fn() -> bool) {
    tokio::time::timeout(Duration::from_secs(10), async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("in time");
}

fn poll_once(future: impl Future) -> bool {
    pin!(future).as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[tokio::test]
async fn nothing_is_seen_before_it_is_durable() {
    let gate = Arc::new(Gate::default());
    let store = store(&gate);
    let other = store.client();
    let mut watch = other.watch(Span::key("a"), None).await.unwrap();
    let mut write = pin!(store.txn(put("a")));
    assert!(write.as_mut().now_or_never().is_none());
    until(|| gate.writes() == 1).await;
    let mut read = pin!(other.range(Range::key("a")));
    let mut lost_race =
        pin!(other.txn(Txn::new().when(coord_api::store::Compare::Absent("a".into())).then(Op::delete("a"))));
    let mut late_watch = pin!(other.watch(Span::key("a"), None));
    assert!(read.as_mut().now_or_never().is_none());
    assert!(lost_race.as_mut().now_or_never().is_none());
    assert!(late_watch.as_mut().now_or_never().is_none());
    assert!(watch.next().now_or_never().is_none());
    gate.open(1);
    assert_eq!(write.await.unwrap().revision, Revision::new(2));
    assert_eq!(read.await.unwrap().entries.len(), 1);
    assert!(!lost_race.await.unwrap().succeeded);
    assert_eq!(late_watch.await.unwrap().armed(), Revision::new(2));
    assert!(matches!(watch.next().await, Some(Ok(StoreEvent::Batch(_)))));
}

#[tokio::test]
async fn a_commit_during_a_flush_wakes_its_watcher_with_its_own_flush() {
    let gate = Arc::new(Gate::default());
    let store = store(&gate);
    let mut watch = store.watch(Span::prefix(""), None).await.unwrap();
    assert!(!poll_once(store.txn(put("a"))));
    until(|| gate.writes() == 1).await;
    assert!(!poll_once(store.txn(put("b"))));
    gate.open(1);
    assert!(watch.next().await.unwrap().is_ok());
    until(|| gate.writes() == 2).await;
    assert!(watch.next().now_or_never().is_none());
    // In a task of its own: a time-out would look once more by itself.
    let second = tokio::spawn(async move { watch.next().await.unwrap().is_ok() });
    tokio::task::yield_now().await;
    gate.open(1);
    assert!(tokio::time::timeout(Duration::from_secs(10), second).await.expect("a wake-up").unwrap());
}

#[tokio::test]
async fn concurrent_writers_share_one_flush() {
    let gate = Arc::new(Gate::default());
    let store = store(&gate);
    let writers: Vec<_> = (0..64)
        .map(|_| {
            let client = store.client();
            tokio::spawn(async move { client.txn(put("a")).await.unwrap().revision })
        })
        .collect();
    until(|| gate.writes() == 1).await;
    tokio::task::yield_now().await;
    gate.open(usize::MAX);
    let mut revisions = Vec::new();
    for writer in writers {
        revisions.push(writer.await.unwrap().get());
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (2..66).collect::<Vec<_>>());
    assert!(gate.writes() <= 3, "{} flushes", gate.writes());
}

#[tokio::test]
async fn a_storage_that_fails_stops_the_store() {
    for (failure, kind) in [(Failure::Full, ErrorKind::Exhausted), (Failure::Panic, ErrorKind::Internal)] {
        let gate = Arc::new(Gate::default());
        *gate.failure.lock() = Some(failure);
        let store = store(&gate);
        let lease = store.keep_alive(coord_api::LeaseId::new(1)).await.unwrap_err();
        assert_eq!(lease.kind(), ErrorKind::LeaseLost);
        let mut watch = store.watch(Span::key("a"), None).await.unwrap();
        let mut idle = store.watch(Span::key("z"), None).await.unwrap();
        let idle = tokio::spawn(async move { idle.next().await.unwrap().unwrap_err().kind() });
        let mut write = pin!(store.txn(put("a")));
        assert!(write.as_mut().now_or_never().is_none());
        let mut read = pin!(store.range(Range::key("a")));
        assert!(read.as_mut().now_or_never().is_none());
        gate.open(1);
        let error = write.await.unwrap_err();
        assert_eq!((error.kind(), error.outcome(), error.operation()), (kind, Outcome::Unknown, "store.txn"));
        let error = read.await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (kind, Outcome::NotApplied));
        let error = store.txn(put("b")).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (kind, Outcome::NotApplied));
        assert_eq!(store.client().grant_lease(Duration::from_secs(1)).await.unwrap_err().kind(), kind);
        assert_eq!(watch.next().await.unwrap().unwrap_err().kind(), kind);
        assert!(watch.next().await.is_none());
        assert_eq!(idle.await.unwrap(), kind, "a watch that waits hears of it too");
        assert!(store.close().await.is_ok());
        assert_eq!(gate.writes(), 1, "it is never written again");
    }
}

#[tokio::test]
async fn closing_ends_what_waits_for_the_disk() {
    let gate = Arc::new(Gate::default());
    let store = store(&gate);
    let other = store.client();
    let writing = store.clone();
    let write = tokio::spawn(async move { writing.txn(put("a")).await.unwrap_err() });
    until(|| gate.writes() == 1).await;
    store.close().await.unwrap();
    let error = write.await.unwrap();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, Outcome::Unknown));
    gate.open(usize::MAX);
    assert_eq!(other.range(Range::key("a")).await.unwrap().entries.len(), 1, "it was applied");
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_ends_calls_in_time() {
    let gate = Arc::new(Gate::default());
    let store = store(&gate);
    let mut write = pin!(store.txn(put("a")));
    assert!(write.as_mut().now_or_never().is_none());
    let mut read = pin!(store.range(Range::key("a")));
    assert!(read.as_mut().now_or_never().is_none());
    tokio::time::advance(PATIENCE).await;
    let error = write.await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown));
    let error = read.await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotApplied));
    gate.open(usize::MAX);
    assert_eq!(store.range(Range::key("a")).await.unwrap().entries.len(), 1, "it comes to itself");
}

#[tokio::test(start_paused = true)]
async fn an_expiry_becomes_durable_though_nobody_waits_for_it() {
    let gate = Arc::new(Gate::default());
    gate.open(usize::MAX);
    let store = store(&gate);
    let lease = store.grant_lease(Duration::from_secs(5)).await.unwrap();
    store.txn(Txn::new().then(Op::put_leased("a", "1", lease.id))).await.unwrap();
    let mut watch = store.watch(Span::key("a"), None).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(StoreEvent::Batch(_)))));
    assert_eq!(gate.writes(), 3);
}

#[tokio::test]
async fn writes_that_nobody_waits_for_do_not_pile_up_without_bound() {
    const MEBIBYTE: usize = 1024 * 1024;
    let gate = Arc::new(Gate::default());
    let store = store(&gate);
    assert!(!poll_once(store.txn(put("a"))));
    until(|| gate.writes() == 1).await;
    for _ in 0..2 * MAX_BACKLOG / MEBIBYTE {
        let large = Txn::new().then(Op::put("large", vec![0; MEBIBYTE]));
        assert!(!poll_once(store.txn(large)), "dropped while it waits");
    }
    let applied = store.applied_revision().get();
    assert!(applied <= 2 + MAX_BACKLOG as u64 / MEBIBYTE as u64, "{applied}");
    gate.open(usize::MAX);
    assert!(store.txn(put("a")).await.is_ok(), "and room comes back");
}

#[test]
fn a_flush_that_its_runtime_never_ran_is_run_by_the_next_who_waits() {
    let gate = Arc::new(Gate::default());
    gate.open(usize::MAX);
    let store = store(&gate);
    let ending =
        tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build().unwrap();
    let (release, busy) = std::sync::mpsc::channel::<()>();
    // The only thread for blocking work is taken, so the flush cannot begin before its runtime
    // ends.
    ending.spawn_blocking(move || busy.recv());
    ending.block_on(async { assert!(!poll_once(store.txn(put("a")))) });
    let next = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let waiting = store.clone();
    let read = next.spawn(async move { waiting.range(Range::key("a")).await.unwrap().entries.len() });
    ending.shutdown_background();
    drop(release);
    assert_eq!(
        next.block_on(async { tokio::time::timeout(Duration::from_secs(10), read).await }).unwrap().unwrap(),
        1
    );
}
