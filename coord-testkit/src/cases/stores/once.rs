//! A transaction runs once (S3), and is told once (S4), also where many run at the same time.

use coord_api::Revision;
use coord_api::store::{Compare, Op, OpReply, Range, Span, Store, Txn};
use futures_util::future::join_all;

use super::chronicle::{Chronicle, expect};
use super::{get, head, watch};
use crate::fixture::Fixture;

pub(super) async fn one_by_one(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let lease = store.grant_lease(cx.ttl() * 10).await.unwrap().id;
    let mut log = Chronicle::of(&store).await;
    let mut live = watch(&other, Span::prefix("")).await;
    let k = |compare: fn(bytes::Bytes) -> Compare| compare("k".into());
    // Each, with the list that runs.
    let mut steps: Vec<(Txn, bool)> = vec![
        (Txn::new().then(Op::put("k", "1")), true),
        (Txn::new().then(Op::put("k", "1")), true),
        (Txn::new().then(Op::delete("k")), true),
        (Txn::new().when(k(Compare::Absent)).then(Op::put("k", "2")).otherwise(Op::delete("k")), true),
        (Txn::new().when(k(Compare::Absent)).then(Op::put("no", "2")).otherwise(Op::delete("k")), false),
        (Txn::new().when(k(Compare::Present)).then(Op::delete("k")).otherwise(Op::put("k", "3")), false),
        (Txn::new().then(Op::put_leased("k", "4", lease)).then(Op::put("l", "4")), true),
        (
            Txn::new()
                .when(Compare::Lease("k".into(), lease))
                .then(Op::put("k", "5"))
                .otherwise(Op::put("no", "")),
            true,
        ),
        (
            Txn::new()
                .when(Compare::RangeAbsent(Span::prefix("n")))
                .then(Op::put("n", "6"))
                .then(Op::delete("l")),
            true,
        ),
        (
            Txn::new()
                .when(Compare::RangeAbsent(Span::prefix("n")))
                .then(Op::put("no", ""))
                .otherwise(Op::put("n", "7")),
            false,
        ),
    ];
    for n in 0..30 {
        let modified = |entry: Option<coord_api::store::Entry>| {
            entry.map_or(Revision::new(u64::MAX), |entry| entry.modified)
        };
        if steps.is_empty() {
            // Its own version, which it changes.
            let compare = Compare::Modified("k".into(), modified(get(&*other, "k").await));
            steps.push((
                Txn::new().when(compare).then(Op::put("k", n.to_string())).otherwise(Op::put("no", "")),
                true,
            ));
        }
        let (txn, succeeds) = steps.remove(0);
        let ran = if succeeds { txn.then.clone() } else { txn.otherwise.clone() };
        let before = log.last().revision;
        let expected: Vec<OpReply> = ran
            .iter()
            .map(|op| match op {
                Op::Delete { key } => OpReply::Delete { existed: log.last().state.contains_key(key) },
                _ => OpReply::Put,
            })
            .collect();
        let reply = store.txn(txn.clone()).await.unwrap();
        expect(|| format!("whether {txn:?} succeeds"), &reply.succeeded, &succeeds);
        expect(|| format!("the answers to {txn:?}"), &reply.replies, &expected);
        log.happened(ran, reply.revision);
        expect(|| format!("the revision after {txn:?}"), &head(&*other).await, &reply.revision);
        log.read(&cx, &mut live, &Span::prefix(""), before).await.unwrap();
        log.judge_present().await;
    }
    log.judge_watches(&cx, Span::prefix(""), [0], Revision::ZERO).await;
}

pub(super) async fn many_at_once(cx: Fixture) {
    let clients = join_all((0..4).map(|seed| cx.delayed(seed))).await;
    let store = cx.store().await;
    let mut log = Chronicle::of(&store).await;
    let start = log.last().revision;
    let mut live = watch(&store, Span::prefix("")).await;
    let mut part = watch(&clients[0].store, Span::key("same")).await;
    let ops = |n: usize| {
        let mut ops = vec![Op::put(format!("c/{n}"), n.to_string()), Op::put("same", n.to_string())];
        if n % 5 == 4 {
            // Whether it is there depends on what came first; it is put here, and so told.
            ops.push(Op::put(format!("d/{}", n % 3), n.to_string()));
        }
        ops
    };
    for round in 0..3 {
        let runs = (0..41).map(|n| round * 41 + n).zip(clients.iter().cycle()).map(async |(n, client)| {
            let mut txn = Txn::new().when(Compare::Absent(format!("c/{n}").into()));
            txn.then = ops(n);
            txn.then.push(Op::Range(Range::key("same")));
            let reply = client.store.txn(txn).await.unwrap();
            assert!(reply.succeeded, "c/{n} was absent");
            let seen = &reply.range(reply.replies.len() - 1).expect("the answer of a range").entries;
            expect(
                || format!("what {n} wrote"),
                &(seen[0].modified, seen[0].value.clone()),
                &(reply.revision, n.to_string().into()),
            );
            (reply.revision, n)
        });
        let mut done = join_all(runs).await;
        done.sort_unstable();
        for (revision, n) in done {
            log.happened(ops(n), revision);
        }
        log.judge_present_entries().await;
        expect(|| "the revision after all of them".to_owned(), &head(&*store).await, &log.last().revision);
    }
    log.read(&cx, &mut live, &Span::prefix(""), start).await.unwrap();
    log.read(&cx, &mut part, &Span::key("same"), start).await.unwrap();
    log.judge_watches(&cx, Span::prefix(""), (0..log.pages().len()).step_by(17), Revision::ZERO).await;
}

/// Writes that are equal in all are writes of their own.
pub(super) async fn equal_ones_at_once(cx: Fixture) {
    let clients = join_all((0..3).map(|seed| cx.delayed(seed))).await;
    let store = cx.store().await;
    let mut log = Chronicle::of(&store).await;
    let start = log.last().revision;
    let mut live = watch(&store, Span::prefix("")).await;
    for _ in 0..3 {
        let ops = || vec![Op::put("same", "equal"), Op::put("too", "")];
        let run = async |store: &dyn Store| {
            let txn = Txn { then: ops(), ..Txn::new() };
            store.txn(txn).await.unwrap().revision
        };
        let slow = join_all((0..11).zip(clients.iter().cycle()).map(|(_, client)| run(&*client.store)));
        let quick = join_all((0..6).map(|_| run(&*store)));
        let (mut done, quick) = futures_util::future::join(slow, quick).await;
        done.extend(quick);
        done.sort_unstable();
        for revision in done {
            log.happened(ops(), revision);
        }
        log.judge_present().await;
    }
    log.read(&cx, &mut live, &Span::prefix(""), start).await.unwrap();
}

/// Watches that are opened, from now and from the past, while others write.
pub(super) async fn watches_while_others_write(cx: Fixture) {
    let (store, writer) = (cx.store().await, cx.store().await);
    let mut log = Chronicle::of(&writer).await;
    for n in 0..20 {
        log.write([Op::put("w/k", n.to_string())]).await;
    }
    let writing = tokio::spawn(async move {
        for n in 0..311_usize {
            let other = if n % 3 == 0 { "elsewhere" } else { "w/l" };
            log.write([Op::put("w/k", n.to_string()), Op::put(other, "v")]).await;
            if n % 4 == 0 {
                tokio::task::yield_now().await;
            }
        }
        log
    });
    let mut opened = Vec::new();
    let mut n = 0_u64;
    while !writing.is_finished() && n < 60 {
        n += 1;
        // From the state just read, and from some revisions before it.
        let present = head(&*store).await;
        let after = Revision::new(present.get() - n % 5);
        let span = if n % 2 == 0 { Span::prefix("w/") } else { Span::key("w/k") };
        match crate::view::StoreView::after(&store, span.clone(), after).await {
            Ok(view) => opened.push((view, span, after)),
            Err(error) => panic!("a watch after {after}, at {present}: {error:?}"),
        }
        tokio::task::yield_now().await;
    }
    let log = writing.await.unwrap();
    assert!(!opened.is_empty(), "some watches were opened");
    let reads = opened.iter_mut().map(|(view, span, after)| log.read(&cx, view, span, *after));
    for answer in join_all(reads).await {
        answer.unwrap();
    }
}

/// Whoever goes through a store's keys by `Range` alone finds what transactions put there.
pub(super) async fn answers_are_in_their_places(cx: Fixture) {
    let store = cx.store().await;
    let keys: Vec<String> = (0..40).map(|n| format!("k/{n:02}")).collect();
    // Puts, deletes and ranges in turn, so that an answer in a wrong place is another one.
    let mut txn = Txn::new();
    for (n, key) in keys.iter().enumerate() {
        txn = match n % 3 {
            0 => txn.then(Op::put(key.clone(), n.to_string())),
            1 => txn.then(Op::delete(key.clone())),
            _ => txn.then(Op::Range(Range::key(keys[n - 2].clone()))),
        };
    }
    for existed in [false, true] {
        let reply = store.txn(txn.clone()).await.unwrap();
        for (n, answer) in reply.replies.iter().enumerate() {
            let right = match (n % 3, answer) {
                (0, OpReply::Put) => true,
                (1, OpReply::Delete { existed: told }) => *told == existed,
                (2, OpReply::Range(found)) => {
                    found.entries.len() == 1 && found.entries[0].value == (n - 2).to_string().into()
                }
                _ => false,
            };
            assert!(right, "the answer to operation {n} is {answer:?}");
        }
        expect(|| "the number of answers".to_owned(), &reply.replies.len(), &keys.len());
        let mut there = Txn::new();
        there.then = keys.iter().skip(1).step_by(3).map(|key| Op::put(key.clone(), "to delete")).collect();
        store.txn(there).await.unwrap();
    }
    full_lists(&*store).await;
}

/// As many compares and operations as there may be, in each list at once.
async fn full_lists(store: &dyn Store) {
    use coord_api::store::MAX_TXN_OPS;
    let name = |list: &str, n: usize| format!("full/{list}/{n}");
    let mut txn = Txn::new();
    txn.compares = (0..MAX_TXN_OPS).map(|n| Compare::Absent(name("then", n).into())).collect();
    txn.then = (0..MAX_TXN_OPS).map(|n| Op::put(name("then", n), "1")).collect();
    txn.otherwise = (0..MAX_TXN_OPS).map(|n| Op::put(name("otherwise", n), "1")).collect();
    for succeeds in [true, false] {
        let reply = store.txn(txn.clone()).await.unwrap();
        let answer = (reply.succeeded, reply.replies.len());
        expect(|| "three full lists".to_owned(), &answer, &(succeeds, MAX_TXN_OPS));
    }
    let found = store.range(Range::prefix("full/")).await.unwrap().entries.len();
    expect(|| "what they wrote".to_owned(), &found, &(MAX_TXN_OPS * 2));
}
