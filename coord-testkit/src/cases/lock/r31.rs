//! R31 Renewal.

use std::collections::BTreeMap;
use std::time::Duration;

use coord_api::ErrorKind;
use coord_api::prelude::*;
use tokio::time::{Instant, sleep};

use super::super::leased::note_renewals;
use super::stand_in_line;
use crate::fixture::Fixture;
use crate::wait::{never_within, within};

pub(super) async fn renewals_come_at_the_latest_every_third_of_the_ttl(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let noted = note_renewals(&faults);
    let mut start = BTreeMap::new();
    let mut held = Vec::new();
    for (key, ttl) in [("a", cx.ttl()), ("b", cx.ttl() * 2)] {
        held.push(client.provider.lock().acquire(key, ttl).await.unwrap());
        start.insert(
            super::super::leased::holders_lease(&*cx.store().await, key).await,
            (Instant::now(), ttl),
        );
    }
    sleep(cx.ttl() * 6).await;
    let (end, noted) = (Instant::now(), noted.lock().unwrap().clone());
    for (lease, (start, ttl)) in start {
        let sent = noted.iter().filter(|(renewed, _)| *renewed == lease).map(|(_, at)| *at);
        let moments: Vec<Instant> = std::iter::once(start).chain(sent).chain([end]).collect();
        let longest =
            moments.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0])).max().unwrap();
        assert!(longest <= ttl / 3 + cx.slack(), "{longest:?} between two renewals of a TTL of {ttl:?}");
    }
    assert!(held.iter().all(coord_api::LockGuard::is_held));
}

pub(super) async fn a_waiter_is_renewed_too(cx: Fixture) {
    let holder = cx.provider().await.lock().acquire("k", cx.ttl()).await.unwrap();
    let first = stand_in_line(&cx, &cx.provider().await, "k").await;
    let mut second = stand_in_line(&cx, &cx.provider().await, "k").await;
    never_within(cx.ttl() * 3, "a grant", &mut second).await;
    holder.unlock().await.unwrap();
    let first = within(cx.soon(), "the first kept its place", first).await.unwrap().unwrap();
    never_within(cx.slack(), "a grant to the second", &mut second).await;
    first.unlock().await.unwrap();
}

pub(super) async fn the_smallest_ttl_is_held_as_well(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    for ttl in [Duration::from_nanos(1), Duration::from_millis(999), Duration::from_secs(1)] {
        let guard = provider.lock().acquire("k", ttl).await.unwrap();
        sleep(Duration::from_millis(2_500)).await;
        assert!(guard.is_held(), "a TTL of {ttl:?} is rounded up, and renewed");
        assert_eq!(other.lock().try_acquire("k", ttl).await.unwrap_err().kind(), ErrorKind::Conflict);
        guard.unlock().await.unwrap();
    }
}
