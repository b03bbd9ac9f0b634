//! A store forgets its history up to a cut (S1, S2, S4, S5, S6), wherever that is: at a creation, a
//! deletion, the end of a lease. Whole entries are compared, not only revisions.

use coord_api::store::{Op, Span};
use coord_api::{LeaseId, Revision};

use super::chronicle::{Chronicle, expect};
use super::{delete, get, head, put};
use crate::fixture::Fixture;
use crate::view::StoreView;

/// A history in which every kind of change follows every other one.
async fn varied(cx: &Fixture) -> (Chronicle, LeaseId) {
    let store = cx.store().await;
    let (ended, kept) = (
        store.grant_lease(cx.long_ttl()).await.unwrap().id,
        store.grant_lease(cx.long_ttl()).await.unwrap().id,
    );
    let mut log = Chronicle::of(&store).await;
    log.write([Op::put("a", "1"), Op::put("b", ""), Op::put("old", "never written again")]).await;
    log.delete("a").await;
    log.put("a", "2").await;
    log.write([Op::put_leased("l/1", "1", ended), Op::put_leased("l/2", "1", ended)]).await;
    log.write([Op::delete("b"), Op::put("d", "1")]).await;
    log.put("b", "2").await;
    log.delete("b").await;
    log.write([Op::put_leased("c", "1", kept), Op::put_leased("m", "1", kept)]).await;
    log.revoke(ended).await;
    log.delete("c").await;
    log.write([Op::put_leased("l/1", "2", kept)]).await;
    log.write([Op::delete("a"), Op::delete("d")]).await;
    log.write([Op::put("m", "2"), Op::put("a", "3"), Op::put("d", "3")]).await;
    log.delete("a").await;
    log.put("z", "1").await;
    log.delete("z").await;
    (log, kept)
}

pub(super) async fn reads(cx: Fixture) {
    let (log, _) = varied(&cx).await;
    let numbers = 0..log.pages().len();
    log.judge_reads(numbers.clone(), Revision::ZERO).await;
    for cut in log.pages().iter().skip(1).map(|page| page.revision) {
        cx.compact(cut).await;
        log.judge_reads(numbers.clone(), cut).await;
        log.judge_present().await;
    }
}

pub(super) async fn watches(cx: Fixture) {
    let (log, _) = varied(&cx).await;
    let numbers = 0..log.pages().len();
    for cut in log.pages().iter().skip(1).map(|page| page.revision) {
        cx.compact(cut).await;
        log.judge_watches(&cx, Span::prefix(""), numbers.clone(), cut).await;
    }
}

pub(super) async fn a_cut_leaves_no_gap_in_a_part(cx: Fixture) {
    let (mut log, _) = varied(&cx).await;
    let numbers = 0..log.pages().len();
    for (round, cut) in [5, 7, 10, 14, 16].into_iter().enumerate() {
        let cut = log.pages()[cut].revision;
        cx.compact(cut).await;
        for span in [Span::key("a"), Span::prefix("l/"), Span::Interval("b".into(), "d".into())] {
            log.judge_watches(&cx, span, numbers.clone().filter(|n| n % 5 == round), cut).await;
        }
        // And life goes on.
        log.put("a", "after a cut").await;
        log.delete("a").await;
        log.judge_present().await;
    }
}

pub(super) async fn live_watches(cx: Fixture) {
    let store = cx.store().await;
    let mut log = Chronicle::of(&store).await;
    let mut live = StoreView::now(&store, Span::prefix("")).await.unwrap();
    for round in 0..12 {
        let before = log.last().revision;
        match round % 3 {
            0 => log.put("k", "v").await,
            1 => log.write([Op::put("k", "w"), Op::put("l", "v")]).await,
            _ => log.write([Op::delete("k"), Op::delete("l")]).await,
        };
        // Everything up to here was told, and is forgotten then: at a put, or at a deletion.
        log.read(&cx, &mut live, &Span::prefix(""), before).await.unwrap();
        cx.compact(log.last().revision).await;
    }
    log.judge_present().await;
}

pub(super) async fn revisions(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let lease = store.grant_lease(cx.long_ttl()).await.unwrap().id;
    let mut last = put(&*store, "kept", "1").await;
    for round in 0..5 {
        for n in 0..=round {
            last = put(&*store, "k", "v").await.max(last);
            if n % 2 == 0 {
                last = delete(&*store, "k").await.max(last);
            }
        }
        if round == 3 {
            // Now there is nothing at all.
            store.txn(coord_api::store::Txn::new().then(Op::put_leased("l", "1", lease))).await.unwrap();
            delete(&*store, "kept").await;
            delete(&*store, "k").await;
            store.revoke_lease(lease).await.unwrap();
            last = head(&*store).await.max(last);
        }
        cx.compact(last).await;
        for store in [&store, &other, &cx.store().await] {
            expect(|| format!("the revision after {last} was forgotten"), &head(&**store).await, &last);
        }
        let next = put(&*other, "next", "1").await;
        assert!(next > last, "a change after revision {last}, which was forgotten, is at {next}");
        let found = get(&*store, "next").await.expect("it was just put");
        expect(|| "the revision of what was just put".to_owned(), &found.modified, &next);
        last = delete(&*store, "next").await;
        assert!(last > next, "a deletion after revision {next} is at {last}");
        expect(|| "the revision after a deletion".to_owned(), &head(&*other).await, &last);
    }
}

pub(super) async fn leases(cx: Fixture) {
    let (mut log, kept) = varied(&cx).await;
    let (store, other) = (cx.store().await, cx.store().await);
    cx.compact(log.last().revision).await;
    let keys = log.keys_of(kept);
    let info = other.lease(kept).await.unwrap().expect("what is forgotten are changes, and not leases");
    expect(|| "the keys of a lease after a cut".to_owned(), &info.keys, &keys);
    expect(
        || "a renewal after a cut".to_owned(),
        &store.keep_alive(kept).await.map_err(|error| error.kind()),
        &Ok(cx.long_ttl()),
    );
    let before = log.last().revision;
    let mut watch = StoreView::after(&other, Span::prefix(""), before).await.unwrap();
    log.revoke(kept).await;
    log.read(&cx, &mut watch, &Span::prefix(""), before).await.unwrap();
    log.judge_present().await;
}

async fn what_is_left(cx: &Fixture, log: &Chronicle, cut: Revision) {
    let numbers = 0..log.pages().len();
    log.judge_reads_left(numbers.clone(), cut).await;
    log.judge_watches_left(cx, Span::prefix(""), numbers, cut).await;
}

pub(super) async fn across_reopening(cx: Fixture) {
    let (log, _) = varied(&cx).await;
    cx.reopen().await;
    let log = log.seen_by(cx.store().await);
    log.judge_present().await;
    what_is_left(&cx, &log, Revision::ZERO).await;
    let cut = log.pages()[10].revision;
    cx.compact(cut).await;
    cx.reopen().await;
    let log = log.seen_by(cx.store().await);
    log.judge_present().await;
    what_is_left(&cx, &log, cut).await;
    // All of it, and the newest revision is a deletion.
    cx.compact(log.last().revision).await;
    cx.reopen().await;
    let mut log = log.seen_by(cx.store().await);
    log.judge_present().await;
    let cut = log.last().revision;
    log.put("a", "later").await;
    what_is_left(&cx, &log, cut).await;
    log.judge_present().await;
}
