//! The layers over the embedded store, and over one that fails as told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::prelude::*;
use coord_api::store::{
    Batch, Change, Compare, Lease, LeaseInfo, Op, OpReply, Order, Range, RangeReply, Span, Store, StoreEvent,
    StoreStatus, StoreWatch, Txn, TxnReply,
};
use coord_api::{Error, ErrorKind, LeaseId, Outcome, Provider, Result, Revision};
use coord_memory::MemoryStore;
use coord_recipes::layers::{Namespace, Observe, Retry, RetryPolicy};
use coord_recipes::{ProviderOptions, StoreProvider};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::time::Instant;

const TTL: Duration = Duration::from_secs(30);

fn put(key: &'static str, value: &'static str) -> Txn {
    Txn::new().then(Op::put(key, value))
}

async fn keys(store: &impl Store, span: Span) -> Vec<String> {
    let entries = store.range(Range::new(span)).await.unwrap().entries;
    entries.iter().map(|entry| String::from_utf8(entry.key.to_vec()).unwrap()).collect()
}

fn namespace(store: &MemoryStore, name: &str) -> Namespace<MemoryStore> {
    Namespace::new(store.clone(), name).unwrap()
}

// ---- namespace ----

#[tokio::test]
async fn keys_lie_under_the_namespace_and_come_back_relative() {
    let store = MemoryStore::new();
    let part = namespace(&store, "/team/a");
    let mut watch = part.watch(Span::prefix(""), None).await.unwrap();
    let lease = part.grant_lease(TTL).await.unwrap();
    let txn = Txn::new()
        .when(Compare::Absent("/x".into()))
        .when(Compare::RangeAbsent(Span::prefix("")))
        .then(Op::put_leased("/x", "1", lease.id))
        .then(Op::put("/y", "2"))
        .then(Op::Range(Range::prefix("")));
    let reply = part.txn(txn).await.unwrap();
    assert!(reply.succeeded);
    let inside: Vec<_> = reply.range(2).unwrap().entries.iter().map(|entry| entry.key.clone()).collect();
    assert_eq!(inside, [Bytes::from("/x"), Bytes::from("/y")]);

    assert_eq!(keys(&store, Span::prefix("")).await, ["/team/a/x", "/team/a/y"]);
    assert_eq!(keys(&part, Span::prefix("")).await, ["/x", "/y"]);
    assert_eq!(keys(&part, Span::key("/y")).await, ["/y"]);
    assert_eq!(keys(&part, Span::Interval("".into(), "~".into())).await, ["/x", "/y"]);
    let later = part.range(Range::prefix("").with_after_key("/x").with_limit(5)).await.unwrap();
    assert_eq!(later.entries.len(), 1);

    let Some(Ok(StoreEvent::Batch(Batch { revision, changes }))) = watch.next().await else {
        panic!("no batch")
    };
    assert_eq!(revision, reply.revision);
    assert_eq!(changes.iter().map(|change| change.key().clone()).collect::<Vec<_>>(), inside);

    part.revoke_lease(lease.id).await.unwrap();
    let Some(Ok(StoreEvent::Batch(batch))) = watch.next().await else { panic!("no batch") };
    assert_eq!(batch.changes, [Change::Delete { key: "/x".into() }]);

    let again = Txn::new()
        .when(Compare::Present("/y".into()))
        .when(Compare::Modified("/y".into(), revision))
        .when(Compare::Created("/y".into(), revision))
        .then(Op::delete("/y"))
        .otherwise(Op::Range(Range::key("/y")));
    assert_eq!(part.txn(again).await.unwrap().replies, [OpReply::Delete { existed: true }]);
    assert_eq!(keys(&store, Span::prefix("")).await, Vec::<String>::new());
}

#[tokio::test]
async fn namespaces_with_a_common_beginning_share_nothing() {
    let store = MemoryStore::new();
    let (short, long) = (namespace(&store, "ns"), namespace(&store, "nsx"));
    let mut watch = short.watch(Span::prefix(""), None).await.unwrap();
    long.txn(put("/a", "long")).await.unwrap();
    assert_eq!(keys(&short, Span::prefix("")).await, Vec::<String>::new());
    for prefix in ["x", "x/", "x/a", "0"] {
        assert_eq!(keys(&short, Span::prefix(prefix)).await, Vec::<String>::new(), "{prefix}");
    }
    assert_eq!(keys(&short, Span::Interval("x".into(), "y".into())).await, Vec::<String>::new());
    let empty = Txn::new().when(Compare::RangeAbsent(Span::prefix("x/")));
    assert!(short.txn(empty).await.unwrap().succeeded);

    short.txn(put("/a", "short")).await.unwrap();
    let Some(Ok(StoreEvent::Batch(batch))) = watch.next().await else { panic!("no batch") };
    let [Change::Put(entry)] = batch.changes.as_slice() else { panic!("{batch:?}") };
    assert_eq!((entry.key.as_ref(), entry.value.as_bytes()), (b"/a".as_slice(), b"short".as_slice()));
}

#[tokio::test]
async fn a_lease_shows_only_the_keys_of_the_namespace() {
    let store = MemoryStore::new();
    let (one, other) = (namespace(&store, "one"), namespace(&store, "other"));
    let lease = one.grant_lease(TTL).await.unwrap();
    assert_eq!(one.keep_alive(lease.id).await.unwrap(), TTL);
    one.txn(Txn::new().then(Op::put_leased("/a", "", lease.id))).await.unwrap();
    other.txn(Txn::new().then(Op::put_leased("/b", "", lease.id))).await.unwrap();
    assert_eq!(one.lease(lease.id).await.unwrap().unwrap().keys, [Bytes::from("/a")]);
    assert_eq!(other.lease(lease.id).await.unwrap().unwrap().keys, [Bytes::from("/b")]);
    one.revoke_lease(lease.id).await.unwrap();
    assert_eq!(other.lease(lease.id).await.unwrap(), None);
}

#[tokio::test]
async fn what_would_leave_the_namespace_is_refused_before_any_request() {
    let store = Scripted::new([]);
    let part = Namespace::new(Arc::clone(&store), "ns").unwrap();
    for key in ["x", "", "/", "../x"] {
        let txns = [
            Txn::new().then(Op::put(key, "1")),
            Txn::new().then(Op::delete(key)),
            Txn::new().when(Compare::Absent(key.into())).then(Op::put("/a", "")),
            Txn::new().then(Op::Range(Range::key(key))),
        ];
        for txn in txns {
            assert_eq!(part.txn(txn).await.unwrap_err().kind(), ErrorKind::InvalidArgument, "{key:?}");
        }
        assert_eq!(
            part.range(Range::key(key)).await.unwrap_err().kind(),
            ErrorKind::InvalidArgument,
            "{key:?}"
        );
        assert_eq!(
            part.watch(Span::key(key), None).await.unwrap_err().kind(),
            ErrorKind::InvalidArgument,
            "{key:?}"
        );
    }
    assert!(part.range(Range::prefix("/").with_limit(0)).await.is_err());
    assert!(part.watch(Span::Interval("/b".into(), "/a".into()), None).await.is_err());
    assert_eq!(store.calls(), 0);
    for name in ["", "/", "a//b", "..", "a/..", "a/", "config", "a/locks/b", "global", "a/global"] {
        let refused = Namespace::new(Arc::clone(&store), name).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{name:?}");
    }
    Namespace::new(store, "globals").unwrap();
}

#[tokio::test]
async fn a_large_value_and_a_long_directory_fit_into_a_namespace() {
    let store = MemoryStore::new();
    let part = namespace(&store, "ns");
    part.txn(Txn::new().then(Op::put("/big", vec![7; coord_api::key::MAX_VALUE_BYTES]))).await.unwrap();
    for n in 0..100 {
        part.txn(Txn::new().then(Op::put(format!("/many/{n:03}"), ""))).await.unwrap();
    }
    let mut page = part.range(Range::prefix("/many/").with_limit(30)).await.unwrap();
    let (at, mut found) = (page.revision, page.entries.clone());
    while page.more {
        let after = found.last().unwrap().key.clone();
        page = part
            .range(Range::prefix("/many/").with_limit(30).with_after_key(after).with_at(at))
            .await
            .unwrap();
        found.extend(page.entries.clone());
    }
    assert_eq!(found.len(), 100);
    assert_eq!(found[99].key, Bytes::from("/many/099"));
    let newest = part.range(Range::prefix("/").with_order(Order::NewestFirst).with_limit(1)).await.unwrap();
    assert_eq!(newest.entries[0].key, Bytes::from("/many/099"));
}

#[tokio::test]
async fn the_contracts_of_nested_namespaces_share_nothing() {
    let store = MemoryStore::new();
    let provider = |name: &str| {
        let part = Namespace::new(store.client(), name).unwrap();
        StoreProvider::new(Arc::new(part), ProviderOptions::default())
    };
    let (outer, inner) = (provider("team"), provider("team/a"));
    let bare = StoreProvider::new(Arc::new(store.client()), ProviderOptions::default());
    inner.config().set_raw("app", "inner".into()).await.unwrap();
    assert!(outer.config().list_raw("").await.unwrap().items.is_empty());
    assert!(bare.config().list_raw("").await.unwrap().items.is_empty());
    let listed = inner.config().list_raw("").await.unwrap().items;
    assert_eq!(listed[0].key, "app");
    for provider in [outer, inner, bare] {
        provider.close().await.unwrap();
    }
}

// ---- retry ----

/// What a scripted store does with one request.
#[derive(Debug, Clone, Copy)]
enum Step {
    Answer,
    Fail(ErrorKind, Outcome),
    Hang,
}

const UNREACHABLE: Step = Step::Fail(ErrorKind::Unavailable, Outcome::NotApplied);
const IN_DOUBT: Step = Step::Fail(ErrorKind::Unavailable, Outcome::Unknown);

/// Follows its script, then answers for ever.
#[derive(Debug)]
struct Scripted {
    store: MemoryStore,
    script: Mutex<VecDeque<Step>>,
    calls: Mutex<Vec<Instant>>,
}

impl Scripted {
    fn new(script: impl IntoIterator<Item = Step>) -> Arc<Self> {
        Arc::new(Scripted {
            store: MemoryStore::new(),
            script: Mutex::new(script.into_iter().collect()),
            calls: Mutex::default(),
        })
    }

    fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    async fn step(&self) -> Result<()> {
        self.calls.lock().unwrap().push(Instant::now());
        let step = self.script.lock().unwrap().pop_front().unwrap_or(Step::Answer);
        match step {
            Step::Answer => Ok(()),
            Step::Fail(kind, outcome) => Err(Error::new(kind, "scripted", "as told").with_outcome(outcome)),
            Step::Hang => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Store for Scripted {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        self.step().await?;
        self.store.range(range).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        self.step().await?;
        self.store.txn(txn).await
    }
    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        self.step().await?;
        self.store.watch(span, after).await
    }
    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        self.step().await?;
        self.store.grant_lease(ttl).await
    }
    async fn keep_alive(&self, id: LeaseId) -> Result<Duration> {
        self.step().await?;
        self.store.keep_alive(id).await
    }
    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        self.step().await?;
        self.store.lease(id).await
    }
    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        self.step().await?;
        self.store.revoke_lease(id).await
    }
    async fn status(&self) -> Result<StoreStatus> {
        self.step().await?;
        self.store.status().await
    }
    async fn close(&self) -> Result<()> {
        self.step().await?;
        self.store.close().await
    }
}

/// Runs every operation that may be repeated once, each over a script of its own; says which
/// succeeded and how many requests each took.
async fn every_operation(policy: RetryPolicy, script: &[Step]) -> BTreeMap<&'static str, (bool, usize)> {
    let mut seen = BTreeMap::new();
    macro_rules! run {
        ($name:literal, |$retry:ident, $lease:ident| $call:expr) => {{
            let store = Scripted::new([]);
            #[allow(unused_variables, reason = "not every operation needs a lease")]
            let $lease = store.store.grant_lease(TTL).await.unwrap().id;
            store.script.lock().unwrap().extend(script);
            let $retry = Retry::new(Arc::clone(&store), policy.clone()).unwrap();
            let succeeded = $call.await.is_ok();
            seen.insert($name, (succeeded, store.calls()));
        }};
    }
    run!("range", |retry, lease| retry.range(Range::key("a")));
    run!("txn", |retry, lease| retry.txn(put("a", "1")));
    run!("read txn", |retry, lease| retry.txn(Txn::new().then(Op::Range(Range::key("a")))));
    run!("watch", |retry, lease| retry.watch(Span::key("a"), None));
    run!("grant_lease", |retry, lease| retry.grant_lease(TTL));
    run!("keep_alive", |retry, lease| retry.keep_alive(lease));
    run!("lease", |retry, lease| retry.lease(lease));
    run!("revoke_lease", |retry, lease| retry.revoke_lease(lease));
    run!("status", |retry, lease| retry.status());
    seen
}

const WRITES: [&str; 2] = ["grant_lease", "txn"];

#[tokio::test(start_paused = true)]
async fn what_was_not_applied_is_repeated_up_to_the_last_attempt() {
    for (operation, seen) in every_operation(RetryPolicy::default(), &[UNREACHABLE, UNREACHABLE]).await {
        assert_eq!(seen, (true, 3), "{operation}");
    }
    for (operation, seen) in every_operation(RetryPolicy::default(), &[UNREACHABLE; 9]).await {
        assert_eq!(seen, (false, 3), "{operation}");
    }
    let store = Scripted::new([UNREACHABLE]);
    Retry::new(Arc::clone(&store), RetryPolicy::default()).unwrap().close().await.unwrap_err();
    assert_eq!(store.calls(), 1, "closing is not repeated");
}

#[tokio::test(start_paused = true)]
async fn a_write_in_doubt_is_never_sent_again() {
    for (operation, seen) in every_operation(RetryPolicy::default(), &[UNREACHABLE, IN_DOUBT]).await {
        assert_eq!(seen, if WRITES.contains(&operation) { (false, 2) } else { (true, 3) }, "{operation}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_by_itself_is_not_repeated() {
    use ErrorKind::*;
    for kind in [
        InvalidArgument,
        Conflict,
        Closed,
        LeaseLost,
        Exhausted,
        Unauthenticated,
        PermissionDenied,
        Codec,
        Compacted,
        Internal,
    ] {
        for (operation, seen) in
            every_operation(RetryPolicy::default(), &[Step::Fail(kind, Outcome::NotApplied)]).await
        {
            assert_eq!(seen, (false, 1), "{operation} after {kind}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_times_out_and_leaves_a_write_in_doubt() {
    let policy = RetryPolicy::default().with_attempt_timeout(Duration::from_secs(1));
    for (operation, seen) in every_operation(policy.clone(), &[Step::Hang]).await {
        assert_eq!(seen, if WRITES.contains(&operation) { (false, 1) } else { (true, 2) }, "{operation}");
    }
    let store = Retry::new(Scripted::new([Step::Hang]), policy).unwrap();
    let failed = store.txn(put("a", "1")).await.unwrap_err();
    assert_eq!((failed.kind(), failed.outcome()), (ErrorKind::Timeout, Outcome::Unknown));
}

#[tokio::test(start_paused = true)]
async fn the_pauses_grow_with_equal_jitter() {
    let store = Scripted::new([UNREACHABLE; 5]);
    let retry = Retry::new(Arc::clone(&store), RetryPolicy::default().with_max_attempts(6)).unwrap();
    retry.range(Range::key("a")).await.unwrap();
    let calls = store.calls.lock().unwrap();
    for (pair, whole) in calls.windows(2).zip([100, 200, 400, 800, 1_600]) {
        let (pause, whole) = (pair[1] - pair[0], Duration::from_millis(whole));
        // The clock of the runtime counts in milliseconds.
        assert!(pause >= whole / 2 && pause <= whole + Duration::from_millis(1), "{pause:?} of {whole:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_total_time_bounds_attempts_and_pauses() {
    let policy = RetryPolicy::default().with_max_attempts(1_000).with_total_timeout(Duration::from_secs(5));
    let begun = Instant::now();
    let store = Scripted::new([UNREACHABLE; 1_000]);
    let failed = Retry::new(store, policy.clone()).unwrap().range(Range::key("a")).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Unavailable, "the last failure, not one of our own making");
    assert!(begun.elapsed() <= Duration::from_secs(5) && begun.elapsed() >= Duration::from_secs(3));

    let begun = Instant::now();
    let failed =
        Retry::new(Scripted::new([Step::Hang]), policy).unwrap().txn(put("a", "1")).await.unwrap_err();
    assert_eq!((failed.kind(), failed.outcome()), (ErrorKind::Timeout, Outcome::Unknown));
    assert!(begun.elapsed() <= Duration::from_millis(5_001));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_bounds_its_calls_is_left_to_it_the_first_time() {
    let policy = RetryPolicy::default().with_total_timeout(Duration::from_secs(5));
    let over =
        |script: &[Step]| Retry::over_bounded(Scripted::new(script.iter().copied()), policy.clone()).unwrap();
    let hangs = over(&[Step::Hang, Step::Hang]);
    tokio::time::timeout(Duration::from_secs(60), hangs.range(Range::key("a"))).await.unwrap_err();
    tokio::time::timeout(Duration::from_secs(60), hangs.txn(put("a", "1"))).await.unwrap_err();

    // What comes after is bounded as ever, and so is everything else.
    let begun = Instant::now();
    let failed = over(&[UNREACHABLE, Step::Hang]).range(Range::key("a")).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Timeout);
    assert!(begun.elapsed() <= Duration::from_millis(5_001));
    let begun = Instant::now();
    assert_eq!(over(&[Step::Hang]).status().await.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(begun.elapsed() <= Duration::from_millis(5_001));
}

#[test]
fn without_a_runtime_it_repeats_and_bounds_all_the_same() {
    let run = |policy: RetryPolicy, script: &[Step]| {
        let retry = Retry::new(Scripted::new(script.iter().copied()), policy).unwrap();
        futures_executor::block_on(retry.range(Range::key("a"))).map_err(|error| error.kind())
    };
    let quick = RetryPolicy::default().with_initial_delay(Duration::from_millis(1));
    assert!(run(quick.clone(), &[UNREACHABLE]).is_ok());
    assert_eq!(
        run(
            quick.with_attempt_timeout(Duration::from_millis(1)).with_max_attempts(2),
            &[Step::Hang, Step::Hang]
        ),
        Err(ErrorKind::Timeout)
    );
}

// ---- observe ----

/// Metrics as `name{labels in order}`: counters and gauges as they are, histograms as the number of
/// their values.
fn measured(snapshotter: &Snapshotter) -> BTreeMap<String, f64> {
    let mut seen = BTreeMap::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let labels: Vec<_> = key.key().labels().map(|label| label.value().to_owned()).collect();
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(value) => value.into_inner(),
            DebugValue::Histogram(values) => values.len() as f64,
        };
        seen.insert(format!("{}{{{}}}", key.key().name(), labels.join(",")), value);
    }
    seen
}

#[tokio::test]
async fn requests_are_counted_and_timed() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let inner = Scripted::new([Step::Answer, Step::Answer, UNREACHABLE, Step::Answer, Step::Hang]);
    let store = Observe::new(inner, "scripted");
    store.txn(put("a", "1")).await.unwrap();
    store.range(Range::key("a")).await.unwrap();
    store.range(Range::key("a")).await.unwrap_err();
    let watch = store.watch(Span::key("a"), None).await.unwrap();
    let seen = measured(&snapshotter);
    assert_eq!(seen["coord_store_requests_total{scripted,txn,ok}"], 1.0);
    assert_eq!(seen["coord_store_requests_total{scripted,range,ok}"], 1.0);
    assert_eq!(seen["coord_store_requests_total{scripted,range,unavailable}"], 1.0);
    assert_eq!(
        seen["coord_store_request_duration_seconds{scripted,range}"], 2.0,
        "each request once, the check for listeners not at all"
    );
    assert_eq!(seen["coord_store_watches{scripted}"], 1.0);

    drop(watch);
    let hanging = store.status();
    assert!(tokio::time::timeout(Duration::from_millis(1), hanging).await.is_err());
    let seen = measured(&snapshotter);
    assert_eq!(
        seen["coord_store_watches{scripted}"], -1.0,
        "each look at this recorder starts anew from zero"
    );
    assert_eq!(seen["coord_store_requests_total{scripted,status,cancelled}"], 1.0);
}

#[tokio::test]
async fn nothing_changes_while_nobody_listens() {
    let store = Observe::new(MemoryStore::new(), "memory");
    let mut watch = store.watch(Span::prefix(""), None).await.unwrap();
    let lease = store.grant_lease(TTL).await.unwrap();
    store.txn(Txn::new().then(Op::put_leased("a", "1", lease.id))).await.unwrap();
    assert_eq!(keys(&store, Span::prefix("")).await, ["a"]);
    assert_eq!(store.keep_alive(lease.id).await.unwrap(), TTL);
    assert_eq!(store.lease(lease.id).await.unwrap().unwrap().keys.len(), 1);
    assert!(matches!(watch.next().await, Some(Ok(StoreEvent::Batch(_)))));
    store.revoke_lease(lease.id).await.unwrap();
    store.status().await.unwrap();
    store.close().await.unwrap();
    assert_eq!(store.range(Range::key("a")).await.unwrap_err().kind(), ErrorKind::Closed);
}
