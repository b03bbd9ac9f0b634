//! S5 Lease.

use std::collections::BTreeSet;
use std::time::Duration;

use coord_api::store::{Compare, Op, Range, Span, Txn};
use coord_api::{ErrorKind, LeaseId, Outcome};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, sleep_until};

use super::{delete, get, head, keys, put, put_leased, told, watch};
use crate::bad;
use crate::fixture::Fixture;
use crate::wait::eventually;

pub(super) async fn a_ttl_is_rounded_up_to_whole_seconds(cx: Fixture) {
    let store = cx.store().await;
    for asked in [
        Duration::from_nanos(1),
        Duration::from_millis(1_001),
        cx.ttl(),
        cx.ttl() + Duration::from_nanos(1),
        Duration::from_secs(9_000_000_000),
    ] {
        let granted = store.grant_lease(asked).await.unwrap();
        assert!(granted.ttl >= asked, "{asked:?} asked for, {:?} granted", granted.ttl);
        assert_eq!(granted.ttl.subsec_nanos(), 0, "whole seconds");
        let kept = store.keep_alive(granted.id).await.unwrap();
        assert_eq!(kept, granted.ttl, "a renewal is for the granted TTL");
        store.revoke_lease(granted.id).await.unwrap();
    }
}

pub(super) async fn a_bad_ttl_is_an_invalid_argument(cx: Fixture) {
    let store = cx.store().await;
    for bad in bad::TTLS {
        let error = store.grant_lease(bad).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (ErrorKind::InvalidArgument, Outcome::NotApplied),
            "{bad:?}"
        );
    }
}

pub(super) async fn a_lease_is_a_number_from_one_to_below_two_to_the_63(cx: Fixture) {
    let store = cx.store().await;
    for _ in 0..3 {
        let id = store.grant_lease(cx.long_ttl()).await.unwrap().id;
        assert_ne!(id, LeaseId::new(0), "zero is no lease's");
        // The type holds none that is larger: those all come as this one.
        assert_ne!(id, LeaseId::MAX, "a store keeps to leases below 2^63 - 1");
        put_leased(&*store, "k", "1", id).await;
        assert_eq!(get(&*store, "k").await.unwrap().lease, Some(id));
    }
}

pub(super) async fn no_lease_is_granted_twice(cx: Fixture) {
    let stores = join_all((0..4).map(|_| cx.store())).await;
    let granted =
        join_all((0..40).zip(stores.iter().cycle()).map(|(_, store)| store.grant_lease(cx.ttl()))).await;
    let ids: BTreeSet<LeaseId> = granted.into_iter().map(|lease| lease.unwrap().id).collect();
    assert_eq!(ids.len(), 40);
    store_revokes_all(&cx, &ids).await;
    let again = stores[0].grant_lease(cx.ttl()).await.unwrap().id;
    assert!(!ids.contains(&again), "nor after it was revoked");
}

async fn store_revokes_all(cx: &Fixture, ids: &BTreeSet<LeaseId>) {
    let store = cx.store().await;
    for id in ids {
        store.revoke_lease(*id).await.unwrap();
    }
}

pub(super) async fn nothing_expires_before_its_ttl(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let asked = Instant::now();
    let lease = store.grant_lease(cx.ttl()).await.unwrap();
    put_leased(&*store, "k", "1", lease.id).await;
    // The grant was no earlier than asked for; until its TTL later the key must be there.
    let deadline = asked + lease.ttl;
    while Instant::now() < deadline {
        let found = get(&*other, "k").await;
        assert!(
            found.is_some() || Instant::now() >= deadline,
            "gone {:?} too early",
            deadline - Instant::now()
        );
        sleep(lease.ttl / 50).await;
    }
}

pub(super) async fn what_is_not_renewed_is_gone_by_ttl_and_lag(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let lease = store.grant_lease(cx.ttl()).await.unwrap();
    let txn = Txn::new()
        .then(Op::put_leased("k", "1", lease.id))
        .then(Op::put_leased("l", "1", lease.id))
        .then(Op::put("free", "1"));
    store.txn(txn).await.unwrap();
    sleep(cx.gone_by(lease.ttl)).await;
    assert_eq!(keys(&*other, Range::prefix("")).await, ["free"], "all its keys are gone, and nothing else");
    assert_eq!(other.lease(lease.id).await.unwrap(), None);
}

pub(super) async fn a_renewed_lease_stays(cx: Fixture) {
    let store = cx.store().await;
    let lease = store.grant_lease(cx.ttl()).await.unwrap();
    put_leased(&*store, "k", "1", lease.id).await;
    let mut renewed = Instant::now();
    for _ in 0..10 {
        sleep(lease.ttl / 2).await;
        let now = Instant::now();
        assert_eq!(store.keep_alive(lease.id).await.unwrap(), lease.ttl);
        renewed = now;
        assert!(get(&*store, "k").await.is_some());
    }
    sleep_until(renewed + lease.ttl - lease.ttl / 20).await;
    assert!(get(&*store, "k").await.is_some(), "a renewal is for a full TTL");
    sleep_until(Instant::now() + lease.ttl / 20 + cx.lag() + cx.slack()).await;
    assert_eq!(get(&*store, "k").await, None, "and for no more");
}

pub(super) async fn an_expiry_shows_in_watches(cx: Fixture) {
    let (store, watcher) = (cx.store().await, cx.store().await);
    let lease = store.grant_lease(cx.ttl()).await.unwrap();
    let written = put_leased(&*store, "l/k", "1", lease.id).await;
    let mut watch = watch(&watcher, Span::prefix("l/")).await;
    let start = Instant::now();
    let batch = watch.expect(cx.gone_by(lease.ttl) + cx.soon()).await;
    assert!(start.elapsed() <= cx.gone_by(lease.ttl), "after {:?}", start.elapsed());
    assert!(batch.revision > written);
    assert_eq!(told(&batch), [("l/k".into(), None)]);
    assert_eq!(head(&*store).await, batch.revision);
}

pub(super) async fn revoking_deletes_the_keys_in_one_revision(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let lease = store.grant_lease(cx.long_ttl()).await.unwrap().id;
    for key in ["r/b", "r/a", "r/c"] {
        put_leased(&*store, key, "1", lease).await;
    }
    put(&*store, "r/free", "1").await;
    let mut watch = watch(&store, Span::prefix("r/")).await;
    other.revoke_lease(lease).await.unwrap();
    assert_eq!(keys(&*store, Range::prefix("r/")).await, ["r/free"]);
    let batch = watch.expect(cx.soon()).await;
    let gone: BTreeSet<_> = told(&batch).into_iter().collect();
    assert_eq!(gone, ["r/a", "r/b", "r/c"].map(|key| (key.into(), None)).into());
    assert_eq!(batch.changes.len(), 3);
    assert_eq!(store.lease(lease).await.unwrap(), None);
}

pub(super) async fn revoking_what_is_gone_is_ok(cx: Fixture) {
    let store = cx.store().await;
    let lease = store.grant_lease(cx.ttl()).await.unwrap().id;
    store.revoke_lease(lease).await.unwrap();
    let before = head(&*store).await;
    store.revoke_lease(lease).await.unwrap();
    store.revoke_lease(LeaseId::new(0x7abc_def0_1234_5678)).await.unwrap();
    assert_eq!(head(&*store).await, before);
}

pub(super) async fn keeping_alive_what_is_gone_is_lease_lost(cx: Fixture) {
    let store = cx.store().await;
    let revoked = store.grant_lease(cx.ttl()).await.unwrap().id;
    store.revoke_lease(revoked).await.unwrap();
    let expired = store.grant_lease(cx.ttl()).await.unwrap();
    sleep(cx.gone_by(expired.ttl)).await;
    for gone in [revoked, expired.id, LeaseId::new(0x7abc_def0_1234_5678)] {
        assert_eq!(store.keep_alive(gone).await.unwrap_err().kind(), ErrorKind::LeaseLost, "{gone}");
        assert_eq!(store.lease(gone).await.unwrap(), None, "asking does not bring it back");
    }
}

pub(super) async fn a_put_under_a_dead_lease_fails_whole(cx: Fixture) {
    let store = cx.store().await;
    let revoked = store.grant_lease(cx.ttl()).await.unwrap().id;
    store.revoke_lease(revoked).await.unwrap();
    let expired = store.grant_lease(cx.ttl()).await.unwrap();
    sleep(cx.gone_by(expired.ttl)).await;
    let before = head(&*store).await;
    for dead in [revoked, expired.id, LeaseId::new(0x7abc_def0_1234_5678)] {
        let txn = Txn::new().then(Op::put("free", "1")).then(Op::put_leased("k", "1", dead));
        let error = store.txn(txn).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::LeaseLost, Outcome::NotApplied), "{dead}");
    }
    assert_eq!(head(&*store).await, before);
    assert_eq!(keys(&*store, Range::prefix("")).await.len(), 0);
}

pub(super) async fn a_put_moves_its_key_to_its_lease(cx: Fixture) {
    let store = cx.store().await;
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(store.grant_lease(cx.long_ttl()).await.unwrap().id);
    }
    for key in ["to another", "to none", "away", "kept"] {
        put_leased(&*store, key, "1", leases[0]).await;
    }
    put_leased(&*store, "to another", "2", leases[1]).await;
    put(&*store, "to none", "2").await;
    delete(&*store, "away").await;
    put(&*store, "away", "without a lease").await;
    put_leased(&*store, "kept", "2", leases[0]).await;
    assert_eq!(store.lease(leases[0]).await.unwrap().unwrap().keys, ["kept"]);
    store.revoke_lease(leases[0]).await.unwrap();
    assert_eq!(keys(&*store, Range::prefix("")).await, ["away", "to another", "to none"]);
    store.revoke_lease(leases[1]).await.unwrap();
    assert_eq!(keys(&*store, Range::prefix("")).await, ["away", "to none"]);
}

pub(super) async fn a_lookup_tells_the_time_left_and_the_keys(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let asked = Instant::now();
    let lease = store.grant_lease(cx.ttl() * 3).await.unwrap();
    assert_eq!(store.lease(lease.id).await.unwrap().unwrap().keys.len(), 0);
    for key in ["b", "a", "c"] {
        put_leased(&*store, key, "1", lease.id).await;
    }
    delete(&*store, "c").await;
    sleep(lease.ttl / 2).await;
    let info = other.lease(lease.id).await.unwrap().unwrap();
    assert_eq!(info.keys, ["a", "b"]);
    // Stores tell whole seconds.
    let second = Duration::from_secs(1);
    let left = (asked + lease.ttl).saturating_duration_since(Instant::now());
    assert!(info.remaining + second >= left, "{:?} left, {:?} told", left, info.remaining);
    assert!(
        info.remaining <= lease.ttl / 2 + second + cx.lag(),
        "{:?} told after half of {:?}",
        info.remaining,
        lease.ttl
    );
    store.keep_alive(lease.id).await.unwrap();
    let renewed = other.lease(lease.id).await.unwrap().unwrap();
    assert!(
        renewed.remaining + second >= lease.ttl && renewed.remaining <= lease.ttl,
        "{:?} told after a renewal",
        renewed.remaining
    );
}

pub(super) async fn each_key_goes_with_its_own_lease(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let mut watch = watch(&other, Span::prefix("l/")).await;
    let asked = Instant::now();
    let ttl = cx.ttl() * 3;
    let (short, renewed) = (store.grant_lease(ttl).await.unwrap(), store.grant_lease(ttl).await.unwrap());
    for (key, lease) in
        [("l/short", short.id), ("l/moved", short.id), ("l/renewed", renewed.id), ("l/freed", renewed.id)]
    {
        put_leased(&*store, key, "1", lease).await;
    }
    put_leased(&*store, "l/moved", "2", renewed.id).await;
    put(&*store, "l/freed", "2").await;
    for _ in 0..6 {
        watch.expect(cx.soon()).await;
    }
    // Renewed by another client, for longer than the other one lives.
    while asked.elapsed() < cx.gone_by(short.ttl) {
        assert_eq!(other.keep_alive(renewed.id).await.unwrap(), renewed.ttl);
        sleep(renewed.ttl / 5).await;
    }
    let batch = watch.expect(cx.soon()).await;
    assert_eq!(told(&batch), [("l/short".into(), None)], "and nothing of any other lease");
    assert_eq!(keys(&*store, Range::prefix("l/")).await, ["l/freed", "l/moved", "l/renewed"]);
    assert_eq!(store.keep_alive(short.id).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    sleep(cx.gone_by(renewed.ttl)).await;
    let gone: BTreeSet<_> = told(&watch.expect(cx.soon()).await).into_iter().collect();
    assert_eq!(gone, ["l/moved", "l/renewed"].map(|key| (key.into(), None)).into());
    assert_eq!(keys(&*other, Range::prefix("l/")).await, ["l/freed"]);
}

pub(super) async fn a_lease_outlives_the_crash_of_its_client(cx: Fixture) {
    let client = cx.client().await;
    let other = cx.store().await;
    let lease = client.store.grant_lease(cx.ttl()).await.unwrap();
    put_leased(&*client.store, "k", "1", lease.id).await;
    client.crash().await;
    assert!(get(&*other, "k").await.is_some(), "a crash revokes nothing");
    assert_eq!(
        other.keep_alive(lease.id).await.unwrap(),
        lease.ttl,
        "a lease is the store's, not the client's"
    );
    eventually(cx.gone_by(lease.ttl), "the key goes with its lease", async || {
        get(&*other, "k").await.is_none().then_some(())
    })
    .await;
}

pub(super) async fn five_hundred_leases_expire_together(cx: Fixture) {
    let store = cx.store().await;
    let ttl = cx.ttl();
    let mut last = Duration::ZERO;
    for n in 0..500 {
        let lease = store.grant_lease(ttl).await.unwrap();
        store.txn(Txn::new().then(Op::put_leased(format!("many/{n}"), "1", lease.id))).await.unwrap();
        last = lease.ttl;
    }
    sleep(cx.gone_by(last)).await;
    assert_eq!(keys(&*store, Range::prefix("many/")).await.len(), 0);
}

pub(super) async fn a_dead_lease_counts_in_the_list_that_runs_alone(cx: Fixture) {
    let (store, other) = (cx.store().await, cx.store().await);
    let (live, dead) =
        (store.grant_lease(cx.long_ttl()).await.unwrap().id, store.grant_lease(cx.ttl()).await.unwrap().id);
    put_leased(&*store, "k", "1", live).await;
    other.revoke_lease(dead).await.unwrap();
    let (there, absent) = (Compare::Present("k".into()), Compare::Absent("k".into()));
    let both = |compare: &Compare, then, otherwise| {
        let put = |lease| Op::put_leased("l", "2", lease);
        Txn::new()
            .when(compare.clone())
            .then(put(then))
            .then(Op::delete("k"))
            .otherwise(put(otherwise))
            .otherwise(Op::delete("k"))
    };
    for txn in [both(&there, dead, live), both(&absent, live, dead)] {
        let before = head(&*store).await;
        let error = store.txn(txn.clone()).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::LeaseLost, Outcome::NotApplied), "{txn:?}");
        assert_eq!(head(&*store).await, before, "{txn:?}");
        assert_eq!(keys(&*other, Range::prefix("")).await, ["k"], "{txn:?}");
    }
    for txn in [both(&there, live, dead), both(&absent, dead, live)] {
        store.txn(txn.clone()).await.unwrap();
        let found = get(&*other, "l").await.unwrap();
        assert_eq!((found.lease, get(&*store, "k").await), (Some(live), None), "{txn:?}");
        put(&*store, "k", "again").await;
        delete(&*store, "l").await;
    }
}
