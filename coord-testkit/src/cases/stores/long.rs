//! Much history, much of it at once, and readers who are far behind (S2, S4): no size is special.
//! The sizes are primes, so that no page, window or buffer of a round number ends where a revision
//! does.

use coord_api::store::{Op, Order, Range, Span, StoreEvent, Txn};
use coord_api::{Revision, Value};
use futures_util::future::join_all;

use super::chronicle::{Chronicle, assert_compacted, entries, expect};
use super::{get, head, keys, put, watch};
use crate::fixture::Fixture;
use crate::view::StoreView;
use crate::wait::within;

/// How many revisions back is far: more than the windows and pages that stores have.
const FAR: usize = 1_361;

/// A small change for each `n`: of eleven keys in two directories, now and then a deletion.
fn small(n: usize) -> Vec<Op> {
    let key = |n: usize| format!("{}/{}", if n % 3 == 0 { "x" } else { "w" }, n % 11);
    let mut ops = vec![Op::put(key(n), n.to_string())];
    if n % 7 == 3 && n > 33 {
        // Was written eleven or more changes ago, in the same directory or the other one.
        ops.push(Op::delete(key(n + 5)));
    }
    ops
}

/// Makes that many small changes, and first one that nothing touches again.
async fn grow(log: &mut Chronicle, from: usize, count: usize) {
    if from == 0 {
        log.write([Op::put("w/oldest", "never written again"), Op::put("x/oldest", "")]).await;
    }
    for n in from..from + count {
        log.write(small(n)).await;
    }
}

/// Where to look, counted from the newest: close by, and where windows and pages may end.
const BACK: [usize; 15] = [0, 1, 17, 64, 99, 100, 101, 127, 255, 257, 499, 1_000, 1_023, 1_025, FAR - 3];

fn numbers(log: &Chronicle) -> Vec<usize> {
    BACK.iter().rev().filter_map(|back| (log.pages().len() - 1).checked_sub(*back)).collect()
}

pub(super) async fn reads_from_long_ago(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let mut log = Chronicle::of(&store).await;
    grow(&mut log, 0, FAR).await;
    let log = log.seen_by(other);
    let numbers = numbers(&log);
    let kept = log.pages().len() - 1_000;
    log.judge_reads(numbers.iter().copied().filter(|number| *number >= kept), Revision::ZERO).await;
    log.judge_reads_left(numbers, Revision::ZERO).await;
    log.judge_present().await;
}

pub(super) async fn watches_from_long_ago(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let mut log = Chronicle::of(&store).await;
    grow(&mut log, 0, FAR).await;
    let log = log.seen_by(other);
    let numbers = numbers(&log);
    let kept = log.pages().len() - 1_000;
    for span in [Span::prefix(""), Span::prefix("x/"), Span::key("w/4")] {
        let recent = numbers.iter().copied().filter(|number| *number >= kept);
        log.judge_watches(&cx, span.clone(), recent, Revision::ZERO).await;
        log.judge_watches_left(&cx, span, numbers.clone(), Revision::ZERO).await;
    }
}

/// Reads a watch that was left alone: all of what followed, or it says that history is lost; and
/// then goes on from there.
async fn late(cx: &Fixture, log: &Chronicle, mut watch: StoreView, span: &Span, after: Revision) {
    if let Err(error) = log.read(cx, &mut watch, span, after).await {
        assert_compacted(&error, after, "a watch that was read late");
        let behind = log.pages().len() - log.number(watch.seen());
        assert!(behind >= 1_000, "only {behind} revisions behind, and that is lost: {error:?}");
    }
}

pub(super) async fn a_reader_far_behind(cx: Fixture) {
    let (store, writer) = (cx.store().await, cx.store().await);
    let mut log = Chronicle::of(&writer).await;
    let start = log.last().revision;
    let spans =
        [Span::prefix(""), Span::prefix("w/"), Span::key("x/3"), Span::Interval("w/1".into(), "w/5".into())];
    let mut never = Vec::new();
    for span in &spans {
        never.push(StoreView::after(&store, span.clone(), start).await.unwrap());
    }
    let mut once = StoreView::after(&store, Span::prefix(""), start).await.unwrap();
    grow(&mut log, 0, 5).await;
    // One has read a little, and is far behind then.
    log.read(&cx, &mut once, &Span::prefix(""), start).await.unwrap();
    let seen = log.last().revision;
    grow(&mut log, 5, FAR).await;
    late(&cx, &log, once, &Span::prefix(""), seen).await;
    for (watch, span) in never.into_iter().zip(&spans) {
        late(&cx, &log, watch, span, start).await;
    }
}

pub(super) async fn a_reader_who_stalls_again_and_again(cx: Fixture) {
    let (store, writer) = (cx.store().await, cx.store().await);
    let mut log = Chronicle::of(&writer).await;
    let span = Span::prefix("w/");
    let mut watch = StoreView::after(&store, span.clone(), log.last().revision).await.unwrap();
    // What is behind it at each time: some hundreds, which every store keeps.
    let mut written = 0;
    for count in [1, 67, 131, 257, 521, 3, 613] {
        let before = log.last().revision;
        grow(&mut log, written, count).await;
        written += count;
        log.read(&cx, &mut watch, &span, before).await.unwrap();
    }
}

/// Transactions of many changes: together they never make a round number.
async fn grow_large(log: &mut Chronicle, bytes: usize, total: usize) {
    let mut made = 0;
    for (round, size) in [127, 113, 89, 101, 83, 71, 127, 59].into_iter().cycle().enumerate() {
        if made >= total {
            return;
        }
        made += size;
        let value = Value::from(vec![b'v'; bytes]);
        log.write((0..size).map(|n| {
            let key = format!("{}/{n}", if (n + round) % 5 == 0 { "x" } else { "w" });
            Op::put(key, value.clone())
        }))
        .await;
    }
}

pub(super) async fn large_revisions_from_the_past(cx: Fixture) {
    let store = cx.store().await;
    let mut log = Chronicle::of(&store).await;
    grow_large(&mut log, 3, 4_200).await;
    let numbers: Vec<usize> = (0..log.pages().len()).step_by(11).collect();
    for span in [Span::prefix(""), Span::prefix("w/"), Span::prefix("x/")] {
        log.judge_watches(&cx, span, numbers.clone(), Revision::ZERO).await;
    }
}

pub(super) async fn large_revisions_that_are_read_late(cx: Fixture) {
    let (store, writer) = (cx.store().await, cx.store().await);
    let mut log = Chronicle::of(&writer).await;
    let start = log.last().revision;
    let spans = [Span::prefix(""), Span::prefix("x/")];
    let mut watches = Vec::new();
    for span in &spans {
        watches.push(StoreView::after(&store, span.clone(), start).await.unwrap());
    }
    grow_large(&mut log, 3, 4_200).await;
    for (watch, span) in watches.iter_mut().zip(&spans) {
        log.read(&cx, watch, span, start).await.unwrap();
    }
}

pub(super) async fn heavy_revisions(cx: Fixture) {
    let (store, writer) = (cx.store().await, cx.store().await);
    let mut log = Chronicle::of(&writer).await;
    let start = log.last().revision;
    let mut live = StoreView::after(&store, Span::prefix(""), start).await.unwrap();
    // Each of them is more than half a MiB, and all of them are more than a message holds.
    grow_large(&mut log, 7_001, 1_300).await;
    log.follow(&cx, Span::prefix(""), start).await.unwrap();
    log.read(&cx, &mut live, &Span::prefix(""), start).await.unwrap();
}

/// A lease with more keys than any page holds: all of them go in one revision.
async fn one_revision_for_all(
    cx: &Fixture,
    ends: impl AsyncFn(&Fixture, coord_api::LeaseId, std::time::Duration),
) {
    const KEYS: usize = 1_303;
    let (store, other) = (cx.store().await, cx.store().await);
    let lease = store.grant_lease(cx.ttl()).await.unwrap();
    let all: Vec<String> = (0..KEYS).map(|n| format!("l/{n:04}")).collect();
    put(&*store, "l/free", "1").await;
    for keys in all.chunks(101) {
        let mut txn = Txn::new();
        txn.then = keys.iter().map(|key| Op::put_leased(key.clone(), "v", lease.id)).collect();
        store.txn(txn).await.unwrap();
        store.keep_alive(lease.id).await.unwrap();
    }
    let before = head(&*store).await;
    let info = other.lease(lease.id).await.unwrap().expect("the lease lives");
    let expected: Vec<bytes::Bytes> = all.iter().map(|key| key.clone().into()).collect();
    expect(|| "the keys of a lease".to_owned(), &info.keys, &expected);
    let mut live = watch(&other, Span::prefix("l/")).await;
    ends(cx, lease.id, lease.ttl).await;
    expect(|| "what is left".to_owned(), &keys(&*store, Range::prefix("l/")).await, &vec!["l/free".into()]);
    let after = head(&*store).await;
    let batch = live.expect(cx.soon()).await;
    expect(|| "the revision of the end of a lease".to_owned(), &batch.revision, &after);
    let mut gone: Vec<bytes::Bytes> = batch.changes.iter().map(|change| change.key().clone()).collect();
    gone.sort_unstable();
    expect(|| "what went with a lease, in one revision".to_owned(), &gone, &expected);
    let mut past = StoreView::after(&store, Span::prefix("l/"), before).await.unwrap();
    let told = past.expect(cx.soon()).await;
    expect(|| "the same, told later".to_owned(), &(told.revision, told.changes.len()), &(after, KEYS));
    expect(|| "the lease".to_owned(), &store.lease(lease.id).await.unwrap(), &None);
}

pub(super) async fn a_revoked_lease_of_many_keys(cx: Fixture) {
    one_revision_for_all(&cx, async |cx, lease, _| cx.store().await.revoke_lease(lease).await.unwrap()).await;
}

pub(super) async fn an_expired_lease_of_many_keys(cx: Fixture) {
    one_revision_for_all(&cx, async |cx, _, ttl| tokio::time::sleep(cx.gone_by(ttl)).await).await;
}

/// So many keys that a store reads them page by page.
const MANY: usize = 2_309;

fn many(n: usize) -> String {
    format!("many/{n:04}")
}

/// The keys that every transaction of the writer stamps alike: some in each page.
fn stamped() -> impl Iterator<Item = usize> {
    (0..MANY).step_by(29)
}

fn stamp(n: usize) -> Txn {
    stamped().fold(Txn::new(), |txn, key| txn.then(Op::put(many(key), n.to_string())))
}

async fn fill(store: &dyn coord_api::store::Store) {
    for part in (0..MANY).collect::<Vec<_>>().chunks(101) {
        let txn = part.iter().fold(Txn::new(), |txn, n| txn.then(Op::put(many(*n), "0")));
        store.txn(txn).await.unwrap();
    }
    store.txn(stamp(0)).await.unwrap();
}

fn judge_stamps(found: &coord_api::store::RangeReply, what: &str) {
    assert_eq!((found.entries.len(), found.more), (MANY, false), "{what}");
    let first = &found.entries[0];
    for entry in stamped().map(|n| &found.entries[n]) {
        let stamp = |entry: &coord_api::store::Entry| (entry.value.clone(), entry.modified);
        expect(|| format!("{what}: the last write of {:?}", entry.key), &stamp(entry), &stamp(first));
    }
    assert!(first.modified <= found.revision, "{what}: {} read at {}", first.modified, found.revision);
}

pub(super) async fn a_large_range_is_one_snapshot(cx: Fixture) {
    let (writer, reader) = (cx.store().await, cx.store().await);
    fill(&*writer).await;
    let writing = tokio::spawn(async move {
        for n in 1..=60 {
            writer.txn(stamp(n)).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let mut order = [Order::Key, Order::OldestFirst, Order::NewestFirst].into_iter().cycle();
    loop {
        let last = writing.is_finished();
        let range = Range::prefix("many/").with_order(order.next().unwrap_or_default());
        let mut found = reader.range(range).await.unwrap();
        found.entries.sort_by(|one, other| one.key.cmp(&other.key));
        judge_stamps(&found, "a range of many keys");
        if last {
            break;
        }
        tokio::task::yield_now().await;
    }
    writing.await.unwrap();
}

pub(super) async fn a_large_range_inside_is_one_snapshot(cx: Fixture) {
    let (writer, reader) = (cx.store().await, cx.store().await);
    fill(&*writer).await;
    let writing = tokio::spawn(async move {
        for n in 1..=40 {
            writer.txn(stamp(n)).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let mut turn = 0;
    loop {
        let last = writing.is_finished();
        turn += 1;
        let txn = Txn::new()
            .then(Op::Range(Range::prefix("many/")))
            .then(Op::put("turn", turn.to_string()))
            .then(Op::Range(Range::key("turn")));
        let reply = reader.txn(txn).await.unwrap();
        let found = reply.range(0).expect("the answer of a range");
        judge_stamps(found, "a range of many keys in a transaction");
        assert!(found.entries[0].modified < reply.revision, "it is older than the transaction's own write");
        let own = &reply.range(2).expect("the answer of a range").entries;
        expect(|| "what it wrote before".to_owned(), &own[0].modified, &reply.revision);
        if last {
            break;
        }
        tokio::task::yield_now().await;
    }
    writing.await.unwrap();
}

pub(super) async fn many_keys_in_every_way(cx: Fixture) {
    let store = cx.store().await;
    let mut log = Chronicle::of(&store).await;
    for part in (0..MANY).rev().collect::<Vec<_>>().chunks(101) {
        log.write(part.iter().map(|n| Op::put(many(*n), n.to_string()))).await;
    }
    let then = log.last().clone();
    log.write((0..MANY).step_by(37).map(|n| Op::delete(many(n)))).await;
    log.judge_reads([log.pages().len() - 1, log.pages().len() - 2], Revision::ZERO).await;
    let now = entries(log.last());
    let all = |range: Range| async { store.range(range).await.unwrap() };
    for (order, newest) in [(Order::OldestFirst, false), (Order::NewestFirst, true)] {
        for limit in [None, Some(1_009), Some(2_111)] {
            let mut range = Range::prefix("many/").with_order(order);
            range.limit = limit;
            let found = all(range).await;
            let mut created: Vec<Revision> = now.iter().map(|entry| entry.created).collect();
            created.sort_unstable();
            if newest {
                created.reverse();
            }
            let more = limit.is_some_and(|limit| limit < created.len());
            created.truncate(limit.unwrap_or(usize::MAX));
            let found = (found.entries.iter().map(|entry| entry.created).collect::<Vec<_>>(), found.more);
            expect(|| format!("{order:?}, limit {limit:?}"), &found, &(created, more));
        }
    }
    let bare = all(Range::prefix("many/").with_keys_only()).await;
    let keys = |entries: &[coord_api::store::Entry]| {
        entries.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>()
    };
    expect(|| "all keys, without their values".to_owned(), &keys(&bare.entries), &keys(&now));
    let early = all(Range::prefix("many/").with_max_created(then.revision)).await;
    expect(|| "all that was created by then".to_owned(), &early.entries, &now);
    // A page of the past, by sizes that divide nothing.
    let mut paged = Vec::new();
    let mut range = Range::prefix("many/").with_limit(613).with_at(then.revision);
    loop {
        let page = all(range.clone()).await;
        paged.extend(page.entries);
        if !page.more {
            break;
        }
        range = range.with_after_key(paged[paged.len() - 1].key.clone());
    }
    expect(|| "pages of the past".to_owned(), &paged, &entries(&then));
}

pub(super) async fn numbers_of_every_width(cx: Fixture) {
    let store = cx.store().await;
    let mut last = Revision::ZERO;
    for key in ["n/a", "n/b", "n/c"] {
        last = put(&*store, key, "1").await;
    }
    let large = [
        (1_u64 << 31) - 1,
        1 << 31,
        (1 << 32) - 1,
        1 << 32,
        (1 << 32) + 1,
        (1 << 62) + 1,
        (1 << 63) - 1,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ];
    // A store's revisions may begin anywhere.
    for number in large.into_iter().filter(|number| *number > last.get()) {
        let limit = usize::try_from(number).unwrap_or(usize::MAX);
        let found = store.range(Range::prefix("n/").with_limit(limit)).await.unwrap();
        expect(|| format!("limit {limit}"), &(found.entries.len(), found.more), &(3, false));
        let revision = Revision::new(number);
        let found = store.range(Range::prefix("n/").with_max_created(revision)).await.unwrap();
        expect(|| format!("created by {revision}"), &found.entries.len(), &3);
        let inside = Txn::new()
            .then(Op::Range(Range::prefix("n/").with_limit(limit)))
            .then(Op::Range(Range::prefix("n/").with_max_created(revision)));
        let inside = store.txn(inside).await.unwrap();
        for index in [0, 1] {
            let found = inside.range(index).expect("the answer of a range").entries.len();
            expect(|| format!("in a transaction: {number}"), &found, &3);
        }
        for compare in [
            coord_api::store::Compare::Modified("n/c".into(), revision),
            coord_api::store::Compare::Created("n/c".into(), revision),
            coord_api::store::Compare::Lease("n/c".into(), coord_api::LeaseId::new(number)),
            coord_api::store::Compare::Modified(
                "n/c".into(),
                Revision::new(number.wrapping_add(last.get()).max(number)),
            ),
        ] {
            let held = store.txn(Txn::new().when(compare.clone())).await.unwrap().succeeded;
            expect(|| format!("whether {compare:?} holds"), &held, &false);
        }
    }
    // Numbers that are the present revision in their lower half alone.
    let alike = [last.get() + (1 << 32), last.get() | (1 << 40)];
    for wrong in alike.into_iter().filter(|wrong| *wrong > last.get()) {
        let compare = coord_api::store::Compare::Modified("n/c".into(), Revision::new(wrong));
        let held = store.txn(Txn::new().when(compare.clone())).await.unwrap().succeeded;
        expect(|| format!("whether {compare:?} holds"), &held, &false);
        let error = store.range(Range::key("n/c").with_at(Revision::new(wrong))).await.unwrap_err();
        expect(|| format!("a read at {wrong}"), &error.kind(), &coord_api::ErrorKind::Compacted);
    }
}

/// Watches after a revision that is yet to come are armed at the present one, and tell what comes.
pub(super) async fn a_watch_after_what_is_yet_to_come(cx: Fixture) {
    let (store, writer) = (cx.store().await, cx.store().await);
    put(&*store, "k", "before").await;
    for ahead in [1, 3, 1_000, 1 << 33, (1 << 62) - 1] {
        let present = head(&*writer).await;
        let after = Revision::new(present.get() + ahead);
        let mut watch = store.watch(Span::key("k"), Some(after)).await.unwrap();
        assert!(
            watch.armed() <= present,
            "a watch after {after} says that it is armed at {}, and the present revision is {present}",
            watch.armed()
        );
        for value in ["1", "2"] {
            let next = put(&*writer, "k", value).await;
            loop {
                match within(cx.soon(), "what comes after the present", watch.next()).await {
                    Some(Ok(StoreEvent::Batch(batch))) if batch.revision <= present => {}
                    Some(Ok(StoreEvent::Progress(revision))) => {
                        assert!(revision < next, "progress {revision}, and {next} was not told");
                    }
                    Some(Ok(StoreEvent::Batch(batch))) => {
                        expect(|| format!("the next revision after {present}"), &batch.revision, &next);
                        break;
                    }
                    other => panic!("a watch after {after}, which is yet to come, tells {other:?}"),
                }
            }
        }
    }
}

pub(super) async fn a_watch_of_a_quiet_span(cx: Fixture) {
    let (store, writer) = (cx.store().await, cx.store().await);
    let mut quiet = watch(&store, Span::prefix("quiet/")).await;
    let mut none = watch(&store, Span::key("nothing at all")).await;
    let waits = tokio::spawn(async move { none.next().await });
    for round in 0..3_usize {
        let pause = if cx.virtual_time() { 3_607 } else { 1 };
        tokio::time::sleep(std::time::Duration::from_secs(pause)).await;
        if round == 1 {
            for n in 0..613 {
                writer.txn(Txn::new().then(Op::put("elsewhere", n.to_string()))).await.unwrap();
            }
        }
        let revision = put(&*writer, "quiet/k", "v").await;
        expect(
            || "the change after a long pause".to_owned(),
            &quiet.expect(cx.soon()).await.revision,
            &revision,
        );
    }
    assert!(!waits.is_finished(), "the watch of a key that nobody wrote has told something, or has ended");
    waits.abort();
}

/// What nobody forgets is there, however old it is.
pub(super) async fn history_does_not_age(cx: Fixture) {
    let store = cx.store().await;
    let mut log = Chronicle::of(&store).await;
    grow(&mut log, 0, 37).await;
    let pause = if cx.virtual_time() { 10_007 } else { 2 };
    tokio::time::sleep(std::time::Duration::from_secs(pause)).await;
    grow(&mut log, 37, 5).await;
    log.judge_reads(0..log.pages().len(), Revision::ZERO).await;
    log.judge_watches(&cx, Span::prefix(""), 0..log.pages().len(), Revision::ZERO).await;
}

pub(super) async fn many_watches_of_one_client(cx: Fixture) {
    const WATCHES: usize = 307;
    let (store, writer) = (cx.store().await, cx.store().await);
    let span = |n: usize| match n % 4 {
        0 => Span::key("m/k"),
        1 => Span::prefix("m/"),
        2 => Span::prefix(""),
        _ => Span::Interval("m/a".into(), "m/z".into()),
    };
    let mut watches = Vec::new();
    for part in (0..WATCHES).collect::<Vec<_>>().chunks(50) {
        watches.extend(join_all(part.iter().map(|n| watch(&store, span(*n)))).await);
    }
    // All of them wait as it happens.
    let soon = cx.soon();
    let waiting: Vec<_> = watches
        .into_iter()
        .map(|mut watch| tokio::spawn(async move { [watch.expect(soon).await, watch.expect(soon).await] }))
        .collect();
    tokio::task::yield_now().await;
    let revisions = [put(&*writer, "m/k", "1").await, put(&*writer, "m/k", "2").await];
    for (n, told) in join_all(waiting).await.into_iter().enumerate() {
        let told = told.unwrap().map(|batch| batch.revision);
        expect(|| format!("what watch {n} of {WATCHES} tells"), &told, &revisions);
    }
    assert!(get(&*store, "m/k").await.is_some());
}
