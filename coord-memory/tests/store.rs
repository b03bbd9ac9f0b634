//! The store through its trait, on every storage.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::future::Future;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use coord_api::store::{Change, Compare, Op, Range, Span, Store, StoreEvent, StoreWatch, Txn};
use coord_api::{Error, ErrorKind, LeaseId, Result, Revision};
use coord_memory::MemoryStore;
use futures_util::FutureExt;
use tokio::time::{Instant, timeout};

const TTL: Duration = Duration::from_secs(30);

async fn put(store: &MemoryStore, key: &'static str, value: &'static str) -> Revision {
    store.txn(Txn::new().then(Op::put(key, value))).await.unwrap().revision
}

async fn put_leased(store: &MemoryStore, key: &'static str, lease: LeaseId) -> Revision {
    store.txn(Txn::new().then(Op::put_leased(key, "1", lease))).await.unwrap().revision
}

async fn exists(store: &MemoryStore, key: &'static str) -> bool {
    !store.range(Range::key(key)).await.unwrap().entries.is_empty()
}

/// The next item, which must come within a second, and by its own wake-up: the time-out looks once
/// more by itself.
async fn next(watch: &mut StoreWatch) -> Result<StoreEvent> {
    const SOON: Duration = Duration::from_secs(1);
    let start = Instant::now();
    let item = timeout(SOON, watch.next()).await.expect("an item within a second").expect("no end");
    assert!(start.elapsed() < SOON, "a lost wake-up");
    item
}

/// The next batch as text: `revision: +put -deleted`.
async fn batch(watch: &mut StoreWatch) -> String {
    let StoreEvent::Batch(batch) = next(watch).await.unwrap() else { panic!("a batch") };
    let mut text = format!("{}:", batch.revision);
    for change in &batch.changes {
        let sign = if matches!(change, Change::Put(_)) { '+' } else { '-' };
        text.push_str(&format!(" {sign}{}", String::from_utf8_lossy(change.key())));
    }
    text
}

fn is_idle(watch: &mut StoreWatch) -> bool {
    watch.next().now_or_never().is_none()
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.map_err(|error| error.kind()).err().expect("an error")
}

async fn every_operation_fails(store: &MemoryStore, check: impl Fn(Error)) {
    check(store.range(Range::prefix("")).await.unwrap_err());
    check(store.txn(Txn::new()).await.unwrap_err());
    check(store.watch(Span::key("a"), None).await.unwrap_err());
    check(store.grant_lease(TTL).await.unwrap_err());
    check(store.keep_alive(LeaseId::new(1)).await.unwrap_err());
    check(store.lease(LeaseId::new(1)).await.unwrap_err());
    check(store.revoke_lease(LeaseId::new(1)).await.unwrap_err());
    check(store.status().await.unwrap_err());
    check(store.compact(Revision::new(1)).await.unwrap_err());
}

async fn clients_see_each_others_writes(store: MemoryStore) {
    let other = store.client();
    let revision = put(&store, "a", "1").await;
    let found = other.range(Range::key("a")).await.unwrap();
    assert_eq!((found.revision, found.entries[0].modified, found.more), (revision, revision, false));
    assert_eq!(other.status().await.unwrap().store_id, store.status().await.unwrap().store_id);
    let raced =
        other.txn(Txn::new().when(Compare::Absent("a".into())).then(Op::put("a", "2"))).await.unwrap();
    assert_eq!((raced.succeeded, raced.revision), (false, revision));
}

async fn bad_requests_are_refused(store: MemoryStore) {
    assert_eq!(kind(store.range(Range::key("a").with_limit(0)).await), ErrorKind::InvalidArgument);
    assert_eq!(kind(store.txn(Txn::new().then(Op::put("", "1"))).await), ErrorKind::InvalidArgument);
    assert_eq!(kind(store.grant_lease(Duration::ZERO).await), ErrorKind::InvalidArgument);
    assert_eq!(kind(store.grant_lease(Duration::MAX).await), ErrorKind::InvalidArgument);
    assert_eq!(
        kind(store.txn(Txn::new().then(Op::put_leased("a", "1", LeaseId::new(9)))).await),
        ErrorKind::LeaseLost
    );
    assert_eq!(kind(store.range(Range::key("a").with_at(Revision::new(9))).await), ErrorKind::Compacted);
    assert_eq!(
        store.range(Range::prefix("")).await.unwrap().revision,
        Revision::new(1),
        "nothing was changed"
    );
}

async fn a_watch_delivers_every_later_change_once_and_in_order(store: MemoryStore) {
    put(&store, "a/0", "0").await;
    let mut watch = store.client_watch(Span::prefix("a/")).await;
    assert_eq!(watch.armed(), Revision::new(2));
    assert!(is_idle(&mut watch));
    put(&store, "ab", "1").await;
    put(&store, "a/1", "1").await;
    let txn = Txn::new()
        .then(Op::put("a/3", "1"))
        .then(Op::delete("a/1"))
        .then(Op::put("b", "1"))
        .then(Op::put("a/2", "1"));
    store.txn(txn).await.unwrap();
    store.txn(Txn::new().then(Op::delete("a/1"))).await.unwrap();
    assert_eq!(batch(&mut watch).await, "4: +a/1");
    assert_eq!(batch(&mut watch).await, "5: +a/3 -a/1 +a/2");
    assert!(is_idle(&mut watch));
    for _ in 0..200 {
        put(&store, "a/1", "2").await;
    }
    for revision in 6..206 {
        assert_eq!(batch(&mut watch).await, format!("{revision}: +a/1"));
    }
    assert!(is_idle(&mut watch));
}

async fn a_watch_can_start_in_the_past_and_beyond_the_head(store: MemoryStore) {
    for key in ["a", "b", "a", "b"] {
        put(&store, key, "1").await;
    }
    let mut past = store.watch(Span::key("a"), Some(Revision::new(2))).await.unwrap();
    assert_eq!(past.armed(), Revision::new(2));
    assert_eq!(batch(&mut past).await, "4: +a");
    assert_eq!(next(&mut past).await.unwrap(), StoreEvent::Progress(Revision::new(5)));
    let mut all = store.watch(Span::prefix(""), Some(Revision::ZERO)).await.unwrap();
    assert_eq!(batch(&mut all).await, "2: +a", "a new store's history is complete");
    let mut beyond = store.watch(Span::key("a"), Some(Revision::new(99))).await.unwrap();
    assert_eq!(beyond.armed(), Revision::new(5));
    put(&store, "a", "2").await;
    assert_eq!(batch(&mut past).await, "6: +a");
    assert_eq!(batch(&mut beyond).await, "6: +a");
}

async fn lost_history_is_told(store: MemoryStore) {
    let mut stalled = store.client_watch(Span::key("a")).await;
    let mut idle = store.client_watch(Span::key("b")).await;
    for _ in 0..4 {
        put(&store, "a", "1").await;
    }
    store.compact(Revision::new(3)).await.unwrap();
    let error = next(&mut stalled).await.unwrap_err();
    assert_eq!((error.kind(), error.oldest_revision()), (ErrorKind::Compacted, Some(Revision::new(3))));
    assert!(stalled.next().await.is_none(), "a stream ends after its first error");
    let late = store.watch(Span::key("a"), Some(Revision::new(2))).await;
    assert_eq!(kind(late), ErrorKind::Compacted);
    let mut on_time = store.watch(Span::key("a"), Some(Revision::new(3))).await.unwrap();
    assert_eq!(batch(&mut on_time).await, "4: +a");
    put(&store, "b", "1").await;
    assert_eq!(batch(&mut idle).await, "6: +b", "an idle watch lost nothing");
}

async fn a_lease_expires_on_time_without_anyone_asking(store: MemoryStore) {
    let real = std::time::Instant::now();
    let lease = store.grant_lease(Duration::from_millis(29_001)).await.unwrap();
    assert_eq!(lease.ttl, TTL);
    put_leased(&store, "b", lease.id).await;
    put_leased(&store, "a", lease.id).await;
    let mut watch = store.client_watch(Span::prefix("")).await;
    let start = Instant::now();
    let StoreEvent::Batch(gone) = watch.next().await.unwrap().unwrap() else { panic!("a batch") };
    assert_eq!(gone.changes, [Change::Delete { key: "a".into() }, Change::Delete { key: "b".into() }]);
    let lived = start.elapsed();
    assert!(lived > TTL - Duration::from_millis(1) && lived <= TTL + Duration::from_millis(5), "{lived:?}");
    assert_eq!(kind(store.keep_alive(lease.id).await), ErrorKind::LeaseLost);
    assert_eq!(store.lease(lease.id).await.unwrap(), None);
    assert!(store.revoke_lease(lease.id).await.is_ok());
    assert!(real.elapsed() < Duration::from_secs(5), "time is virtual");
}

async fn a_renewed_lease_lives_on(store: MemoryStore) {
    let lease = store.grant_lease(TTL).await.unwrap();
    put_leased(&store, "a", lease.id).await;
    for _ in 0..5 {
        tokio::time::sleep(TTL - Duration::from_millis(1)).await;
        assert_eq!(store.keep_alive(lease.id).await.unwrap(), TTL);
    }
    tokio::time::sleep(TTL - Duration::from_secs(1)).await;
    let info = store.lease(lease.id).await.unwrap().unwrap();
    assert_eq!(info.keys, ["a"]);
    assert!(info.remaining <= Duration::from_secs(1), "{:?}", info.remaining);
    assert!(exists(&store, "a").await);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!exists(&store, "a").await);
}

async fn a_shorter_lease_is_not_held_up_by_a_longer_one(store: MemoryStore) {
    let long = store.grant_lease(Duration::from_secs(9_000_000_000)).await.unwrap();
    put_leased(&store, "long", long.id).await;
    tokio::task::yield_now().await;
    let short = store.grant_lease(Duration::from_secs(1)).await.unwrap();
    put_leased(&store, "short", short.id).await;
    let mut watch = store.client_watch(Span::key("short")).await;
    let StoreEvent::Batch(gone) =
        timeout(Duration::from_secs(2), watch.next()).await.unwrap().unwrap().unwrap()
    else {
        panic!("a batch")
    };
    assert_eq!(gone.changes.len(), 1);
    assert!(exists(&store, "long").await);
}

async fn a_revoked_lease_takes_its_keys_along(store: MemoryStore) {
    let lease = store.grant_lease(TTL).await.unwrap();
    put_leased(&store, "a", lease.id).await;
    put_leased(&store, "b", lease.id).await;
    put(&store, "b", "free").await;
    let mut watch = store.client_watch(Span::prefix("")).await;
    store.revoke_lease(lease.id).await.unwrap();
    assert_eq!(batch(&mut watch).await, "5: -a");
    assert!(exists(&store, "b").await);
    let next_lease = store.grant_lease(TTL).await.unwrap();
    assert!(next_lease.id > lease.id);
}

async fn closing_one_client_leaves_the_others_alone(store: MemoryStore) {
    let doomed = store.client();
    let same = doomed.clone();
    let lease = doomed.grant_lease(TTL).await.unwrap();
    put_leased(&doomed, "a", lease.id).await;
    let mut theirs = doomed.watch(Span::key("a"), None).await.unwrap();
    let mut ours = store.watch(Span::key("a"), None).await.unwrap();
    let pending = tokio::spawn(async move { theirs.next().await.unwrap().unwrap_err().kind() });
    tokio::task::yield_now().await;
    doomed.close().await.unwrap();
    doomed.close().await.unwrap();
    assert_eq!(pending.await.unwrap(), ErrorKind::Closed);
    every_operation_fails(&same, |error| assert_eq!(error.kind(), ErrorKind::Closed)).await;
    assert!(exists(&store, "a").await, "closing revokes nothing");
    assert!(is_idle(&mut ours));
    assert!(exists(&doomed.client(), "a").await);
    tokio::time::sleep(TTL).await;
    assert_eq!(batch(&mut ours).await, "3: -a", "what it left behind expires");
}

async fn an_abandoned_client_and_one_without_handles_end_their_streams(store: MemoryStore) {
    let abandoned = store.client();
    let dropped = store.client();
    let mut one = abandoned.watch(Span::key("a"), None).await.unwrap();
    let mut two = dropped.watch(Span::key("a"), None).await.unwrap();
    put(&store, "a", "1").await;
    abandoned.abandon();
    drop(dropped);
    assert_eq!(kind(next(&mut one).await), ErrorKind::Closed);
    assert_eq!(kind(next(&mut two).await), ErrorKind::Closed);
    every_operation_fails(&abandoned, |error| assert_eq!(error.kind(), ErrorKind::Closed)).await;
    assert!(exists(&store, "a").await);
}

async fn writes_that_are_dropped_at_any_point_leave_a_working_store(store: MemoryStore) {
    let mut watch = store.client_watch(Span::key("a")).await;
    for _ in 0..20 {
        let mut pending = std::pin::pin!(store.txn(Txn::new().then(Op::put("a", "1"))));
        let _: Poll<_> = pending.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
    drop(store.txn(Txn::new().then(Op::put("a", "1"))));
    let head = put(&store, "b", "1").await;
    assert_eq!(head, Revision::new(22));
    for revision in 2..22 {
        assert_eq!(batch(&mut watch).await, format!("{revision}: +a"));
    }
}

trait ClientWatch {
    /// A watch of the present.
    async fn client_watch(&self, span: Span) -> StoreWatch;
}

impl ClientWatch for MemoryStore {
    async fn client_watch(&self, span: Span) -> StoreWatch {
        self.watch(span, None).await.unwrap()
    }
}

macro_rules! on_every_storage {
    ($($case:ident)*) => {
        mod volatile {
            $(
                #[tokio::test(start_paused = true)]
                async fn $case() {
                    super::$case(super::MemoryStore::new()).await;
                }
            )*
        }

        #[cfg(feature = "sled")]
        mod sled {
            $(
                #[tokio::test(start_paused = true)]
                async fn $case() {
                    let dir = tempfile::tempdir().unwrap();
                    super::$case(super::MemoryStore::open(dir.path().join("store")).unwrap()).await;
                }
            )*
        }
    };
}

on_every_storage! {
    clients_see_each_others_writes
    bad_requests_are_refused
    a_watch_delivers_every_later_change_once_and_in_order
    a_watch_can_start_in_the_past_and_beyond_the_head
    lost_history_is_told
    a_lease_expires_on_time_without_anyone_asking
    a_renewed_lease_lives_on
    a_shorter_lease_is_not_held_up_by_a_longer_one
    a_revoked_lease_takes_its_keys_along
    closing_one_client_leaves_the_others_alone
    an_abandoned_client_and_one_without_handles_end_their_streams
    writes_that_are_dropped_at_any_point_leave_a_working_store
}

#[test]
fn a_store_needs_no_runtime_to_be_made_used_or_dropped() {
    let store = MemoryStore::new();
    let lease = store.grant_lease(TTL).now_or_never().unwrap().unwrap();
    let written = store.txn(Txn::new().then(Op::put_leased("a", "1", lease.id))).now_or_never().unwrap();
    assert_eq!(written.unwrap().revision, Revision::new(2));
    let mut watch = store.watch(Span::key("a"), None).now_or_never().unwrap().unwrap();
    assert!(is_idle(&mut watch));
    drop(store);
    assert_eq!(kind(watch.next().now_or_never().unwrap().unwrap()), ErrorKind::Closed);
}

#[test]
fn leases_go_on_expiring_when_the_runtime_of_the_first_grant_ends() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let store = MemoryStore::new();
    let first = runtime();
    let lease = first.block_on(store.grant_lease(Duration::from_secs(1))).unwrap();
    first.block_on(put_leased(&store, "a", lease.id));
    let second = runtime();
    let mut watch = second.block_on(store.watch(Span::key("a"), None)).unwrap();
    let gone = second.spawn(async move { timeout(Duration::from_secs(10), watch.next()).await });
    drop(first);
    assert!(matches!(second.block_on(gone).unwrap(), Ok(Some(Ok(StoreEvent::Batch(_))))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_increments_add_up_and_are_all_watched() {
    const WRITERS: u64 = 8;
    const EACH: u64 = 50;
    let store = MemoryStore::new();
    let mut watch = store.client_watch(Span::key("n")).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let client = store.client();
            tokio::spawn(async move {
                for _ in 0..EACH {
                    loop {
                        let found = client.range(Range::key("n")).await.unwrap();
                        let (compare, count) = match found.entries.first() {
                            Some(entry) => (
                                Compare::Modified("n".into(), entry.modified),
                                String::from_utf8_lossy(&entry.value).parse().unwrap(),
                            ),
                            None => (Compare::Absent("n".into()), 0_u64),
                        };
                        let txn = Txn::new().when(compare).then(Op::put("n", (count + 1).to_string()));
                        if client.txn(txn).await.unwrap().succeeded {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    for count in 1..=WRITERS * EACH {
        let StoreEvent::Batch(batch) = next(&mut watch).await.unwrap() else { panic!("a batch") };
        let Change::Put(entry) = &batch.changes[0] else { panic!("a put") };
        assert_eq!(entry.value, count.to_string().into());
    }
}
