//! When a lease ends (S5): to the millisecond, wherever in a second it began, and only by what ends
//! it.

use std::time::Duration;

use coord_api::store::{Compare, Op, Range, Span, Store, Txn};
use coord_api::{ErrorKind, LeaseId, Outcome};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, sleep_until};

use super::chronicle::expect;
use super::{get, head, keys, put, put_leased, watch};
use crate::fixture::Fixture;

/// How far into a second something begins.
const OFFSETS: [u64; 7] = [0, 1, 137, 333, 511, 777, 999];

/// How long before its end a key is looked at once more.
const JUST_BEFORE: Duration = Duration::from_millis(3);

/// The key must be there until `from + ttl`, and gone by `by + ttl` and the lag.
async fn lasts(
    cx: &Fixture,
    store: &dyn Store,
    key: &'static str,
    from: Instant,
    by: Instant,
    ttl: Duration,
) {
    let end = from + ttl;
    for before in [ttl / 3, Duration::from_secs(1), Duration::from_millis(500), JUST_BEFORE] {
        sleep_until((end - before).max(Instant::now())).await;
        let there = get(store, key).await.is_some();
        let now = Instant::now();
        assert!(there || now >= end, "{key} is gone {:?} before its TTL of {ttl:?} is over", end - now);
    }
    sleep_until(by + cx.gone_by(ttl)).await;
    assert!(get(store, key).await.is_none(), "{key} is there though its TTL of {ttl:?} is over");
}

const KEYS: [&str; 7] = ["t/0", "t/1", "t/2", "t/3", "t/4", "t/5", "t/6"];

pub(super) async fn granted_within_a_second(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let (store, other, cx) = (&*store, &*other, &cx);
    join_all(OFFSETS.into_iter().zip(KEYS).map(async |(offset, key)| {
        sleep(Duration::from_millis(offset)).await;
        let asked = Instant::now();
        let lease = store.grant_lease(cx.ttl()).await.unwrap();
        let granted = Instant::now();
        put_leased(store, key, "1", lease.id).await;
        lasts(cx, other, key, asked, granted, lease.ttl).await;
    }))
    .await;
}

pub(super) async fn renewed_within_a_second(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let (store, other, cx) = (&*store, &*other, &cx);
    join_all(OFFSETS.into_iter().zip(KEYS).map(async |(offset, key)| {
        let lease = store.grant_lease(cx.ttl()).await.unwrap();
        put_leased(store, key, "1", lease.id).await;
        // Renewed soon, and late.
        sleep(Duration::from_millis(offset / 5)).await;
        store.keep_alive(lease.id).await.unwrap();
        sleep(lease.ttl / 2 + Duration::from_millis(offset / 2)).await;
        let asked = Instant::now();
        expect(
            || "a renewal".to_owned(),
            &other.keep_alive(lease.id).await.map_err(|error| error.kind()),
            &Ok(lease.ttl),
        );
        lasts(cx, other, key, asked, Instant::now(), lease.ttl).await;
    }))
    .await;
}

/// A renewal that was answered counts, however late it came.
pub(super) async fn renewed_at_the_last_moment(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let (store, other, cx) = (&*store, &*other, &cx);
    // Where time is real, the request must not come too late by itself.
    let room = if cx.virtual_time() { 0 } else { 60 };
    join_all([3, 4, 5, 10, 50, 100, 400].into_iter().zip(KEYS).map(async |(early, key)| {
        let asked = Instant::now();
        let lease = store.grant_lease(cx.ttl()).await.unwrap();
        put_leased(store, key, "1", lease.id).await;
        sleep_until(asked + lease.ttl - Duration::from_millis(early + room)).await;
        let (end, asked) = (asked + lease.ttl, Instant::now());
        match other.keep_alive(lease.id).await {
            Ok(kept) => expect(|| format!("a renewal {early} ms before the end"), &kept, &lease.ttl),
            // The machine was too slow for it.
            Err(error) => {
                assert!(Instant::now() >= end, "a renewal {early} ms before the end: {error:?}");
                expect(|| "a late renewal".to_owned(), &error.kind(), &ErrorKind::LeaseLost);
                return;
            }
        }
        lasts(cx, store, key, asked, Instant::now(), lease.ttl).await;
    }))
    .await;
}

/// Puts under a lease meet its end: each is gone with it, or was refused.
pub(super) async fn puts_while_it_is_revoked(cx: Fixture) {
    let clients = join_all((0..4).map(|seed| cx.delayed(seed))).await;
    let reader = cx.store().await;
    for round in 0..6 {
        let lease = clients[0].store.grant_lease(cx.long_ttl()).await.unwrap().id;
        put_leased(&*reader, "o/first", "1", lease).await;
        let puts = (0..20).zip(clients.iter().cycle()).map(async |(n, client)| {
            let key = format!("o/{n}");
            let put =
                Txn::new().then(Op::put_leased(key, round.to_string(), lease)).then(Op::put("o/last", "1"));
            client.store.txn(put).await.map(drop).map_err(|error| (error.kind(), error.outcome()))
        });
        let revoke = async {
            sleep(Duration::from_millis(15)).await;
            clients[round % 4].store.revoke_lease(lease).await
        };
        let (answers, revoked) = futures_util::future::join(join_all(puts), revoke).await;
        revoked.unwrap();
        for answer in answers {
            let right = matches!(answer, Ok(()) | Err((ErrorKind::LeaseLost, Outcome::NotApplied)));
            assert!(right, "a put while its lease is revoked: {answer:?}");
        }
        let mut left = keys(&*reader, Range::prefix("o/")).await;
        left.retain(|key| key != "o/last");
        expect(|| "what hung on a lease that was revoked".to_owned(), &left, &Vec::new());
        expect(|| "the lease".to_owned(), &reader.lease(lease).await.unwrap(), &None);
    }
}

pub(super) async fn each_its_own_ttl(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let (store, other, cx) = (&*store, &*other, &cx);
    let second = Duration::from_secs(1);
    let ttls = [
        cx.ttl(),
        cx.ttl() + second,
        cx.ttl() + second * 2,
        cx.ttl() * 2,
        cx.ttl(),
        cx.ttl() + second,
        cx.ttl(),
    ];
    join_all(ttls.into_iter().zip(KEYS).enumerate().map(async |(n, (ttl, key))| {
        let mut asked = Instant::now();
        let lease = store.grant_lease(ttl).await.unwrap();
        let mut answered = Instant::now();
        put_leased(store, key, "1", lease.id).await;
        // Some are renewed and some are not.
        if n % 2 == 0 {
            sleep(cx.ttl() / 4).await;
            asked = Instant::now();
            expect(
                || format!("a renewal of {ttl:?}"),
                &store.keep_alive(lease.id).await.map_err(|error| error.kind()),
                &Ok(lease.ttl),
            );
            answered = Instant::now();
        }
        lasts(cx, other, key, asked, answered, lease.ttl).await;
    }))
    .await;
}

pub(super) async fn only_renewals_count(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    // Where time is real, a busy machine must have answered all of it long before the end.
    let ttl = if cx.virtual_time() { cx.ttl() } else { cx.ttl() * 5 };
    let (lease, beside) = (store.grant_lease(ttl).await.unwrap(), store.grant_lease(ttl * 3).await.unwrap());
    let granted = Instant::now();
    put_leased(&*store, "t/first", "1", lease.id).await;
    let mut live = watch(&other, Span::prefix("t/")).await;
    for key in ["t/second", "t/third", "t/fourth"] {
        sleep(lease.ttl / 8).await;
        // All that one may do with a lease, but for renewing it.
        put_leased(&*store, key, "1", lease.id).await;
        put_leased(&*store, "t/first", "again", lease.id).await;
        assert!(other.lease(lease.id).await.unwrap().is_some());
        assert!(get(&*other, key).await.is_some());
        let held = Txn::new().when(Compare::Lease(key.into(), lease.id));
        assert!(store.txn(held).await.unwrap().succeeded);
        other.keep_alive(beside.id).await.unwrap();
        store.grant_lease(ttl).await.unwrap();
        live.expect(cx.soon()).await;
        live.expect(cx.soon()).await;
    }
    sleep_until(granted + cx.gone_by(lease.ttl)).await;
    expect(|| "what is left".to_owned(), &keys(&*other, Range::prefix("t/")).await, &Vec::new());
    let batch = live.expect(cx.soon()).await;
    expect(|| "the keys of the lease, in one revision".to_owned(), &batch.changes.len(), &4);
    expect(|| "the lease".to_owned(), &store.lease(lease.id).await.unwrap(), &None);
    assert!(store.lease(beside.id).await.unwrap().is_some());
}

pub(super) async fn long_ones(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    // Where a number of seconds or of milliseconds is too large for 8, 16, 31 or 32 bits.
    let seconds = [256, 257, 65_537, 2_147_484, 4_294_968, 1 << 31, (1 << 32) + 1, 9_000_000_000];
    let mut leases = Vec::new();
    for (n, seconds) in seconds.into_iter().enumerate() {
        let ttl = Duration::from_secs(seconds);
        let lease = store.grant_lease(ttl).await.unwrap();
        expect(|| "the granted TTL".to_owned(), &(lease.ttl >= ttl), &true);
        let key = format!("long/{n}");
        store.txn(Txn::new().then(Op::put_leased(key.clone(), "1", lease.id))).await.unwrap();
        leases.push((lease, key));
    }
    for renewed in [false, true] {
        sleep(cx.gone_by(cx.ttl())).await;
        for (lease, key) in &leases {
            let info = other.lease(lease.id).await.unwrap();
            let info = info.unwrap_or_else(|| panic!("a lease of {:?} is gone", lease.ttl));
            expect(
                || format!("the keys of a lease of {:?}", lease.ttl),
                &info.keys,
                &vec![key.clone().into()],
            );
            let used = cx.gone_by(cx.ttl()) + cx.soon();
            assert!(
                info.remaining <= lease.ttl && info.remaining + used >= lease.ttl,
                "{:?} are left of {:?}, renewed: {renewed}",
                info.remaining,
                lease.ttl
            );
            expect(
                || "a renewal".to_owned(),
                &store.keep_alive(lease.id).await.map_err(|error| error.kind()),
                &Ok(lease.ttl),
            );
        }
        expect(|| "the keys".to_owned(), &keys(&*other, Range::prefix("long/")).await.len(), &leases.len());
    }
    for (lease, _) in &leases {
        store.revoke_lease(lease.id).await.unwrap();
    }
    expect(|| "the keys".to_owned(), &keys(&*other, Range::prefix("long/")).await.len(), &0);
}

pub(super) async fn puts_at_the_end(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let asked = Instant::now();
    let lease = store.grant_lease(cx.ttl()).await.unwrap();
    let granted = Instant::now();
    sleep_until(asked + lease.ttl - lease.ttl / 50).await;
    let mut gone = false;
    for n in 0.. {
        let key = format!("end/{n}");
        match store.txn(Txn::new().then(Op::put_leased(key, "1", lease.id))).await {
            Ok(_) => assert!(!gone, "a put under a lease that was gone before"),
            Err(error) => {
                let answer = (error.kind(), error.outcome());
                expect(|| "a put".to_owned(), &answer, &(ErrorKind::LeaseLost, Outcome::NotApplied));
                assert!(Instant::now() >= asked + lease.ttl, "it is gone too early");
                gone = true;
            }
        }
        if gone {
            expect(
                || "the keys of what is gone".to_owned(),
                &keys(&*other, Range::prefix("end/")).await,
                &Vec::new(),
            );
            expect(|| "the lease".to_owned(), &other.lease(lease.id).await.unwrap(), &None);
            let renewed = other.keep_alive(lease.id).await.map_err(|error| error.kind());
            expect(|| "a renewal".to_owned(), &renewed, &Err(ErrorKind::LeaseLost));
        }
        if Instant::now() >= granted + cx.gone_by(lease.ttl) {
            break;
        }
        sleep(lease.ttl / 1_000).await;
    }
    assert!(gone, "a lease that nobody renewed is there after {:?}", granted.elapsed());
}

pub(super) async fn lookups_are_fresh(cx: Fixture) {
    let stores = join_all((0..3).map(|_| cx.store())).await;
    let pair = |n: usize| (&*stores[n % 3], &*stores[(n + 1) % 3]);
    let lease = stores[0].grant_lease(cx.ttl() * 10).await.unwrap().id;
    let told =
        async |store: &dyn Store, lease: LeaseId| store.lease(lease).await.unwrap().map(|info| info.keys);
    for n in 0..24 {
        let (writer, reader) = pair(n);
        expect(|| "the keys before".to_owned(), &told(reader, lease).await, &Some(Vec::new()));
        put_leased(writer, "k", "1", lease).await;
        expect(|| "the keys after a put".to_owned(), &told(reader, lease).await, &Some(vec!["k".into()]));
        if n % 2 == 0 {
            put(writer, "k", "off the lease").await;
        } else {
            super::delete(writer, "k").await;
        }
        expect(|| "the keys after it went".to_owned(), &told(reader, lease).await, &Some(Vec::new()));
        let short = writer.grant_lease(cx.ttl()).await.unwrap().id;
        expect(|| "a new lease".to_owned(), &told(reader, short).await, &Some(Vec::new()));
        put_leased(reader, "s", "1", short).await;
        reader.revoke_lease(short).await.unwrap();
        expect(|| "a revoked lease".to_owned(), &told(writer, short).await, &None);
        let renewed = writer.keep_alive(short).await.map_err(|error| error.kind());
        expect(|| "its renewal".to_owned(), &renewed, &Err(ErrorKind::LeaseLost));
        assert!(get(writer, "s").await.is_none());
    }
}

/// A lease without keys comes, is renewed, and goes: the revision stays.
pub(super) async fn without_keys(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let last = put(&*store, "k", "1").await;
    let (revoked, expired) =
        (store.grant_lease(cx.ttl()).await.unwrap(), store.grant_lease(cx.ttl()).await.unwrap());
    store.keep_alive(revoked.id).await.unwrap();
    other.lease(revoked.id).await.unwrap();
    expect(|| "the revision after a grant, a renewal and a look-up".to_owned(), &head(&*other).await, &last);
    other.revoke_lease(revoked.id).await.unwrap();
    expect(|| "the revision after a lease without keys was revoked".to_owned(), &head(&*store).await, &last);
    sleep(cx.gone_by(expired.ttl)).await;
    expect(|| "the revision after a lease without keys expired".to_owned(), &head(&*store).await, &last);
    let next = put(&*store, "k", "2").await;
    expect(
        || "the revision of the next change".to_owned(),
        &get(&*other, "k").await.map(|entry| entry.modified),
        &Some(next),
    );
}
