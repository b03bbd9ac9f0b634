//! R36 Liveness.

use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{HandleState, RegisterOptions};
use tokio::time::{Instant, sleep};

use super::super::leased::{delete, entry};
use super::{found, instance, register};
use crate::fixture::Fixture;
use crate::layout;
use crate::wait::{eventually, never_within};

pub(super) async fn a_registration_is_there_for_as_long_as_its_owner_lives(cx: Fixture) {
    let (provider, other) = (cx.provider().await, cx.provider().await);
    let registration = register(&cx, &*provider, instance("a")).await.unwrap();
    let record = entry(&*cx.store().await, layout::service("s", "a")).await.unwrap();
    assert!(record.lease.is_some(), "it hangs on a lease");
    let end = Instant::now() + cx.ttl() * 4;
    while Instant::now() < end {
        assert_eq!(found(&*other).await, [instance("a")]);
        assert_eq!(registration.state(), HandleState::Held);
        sleep(cx.ttl() / 20).await;
    }
    let now = entry(&*cx.store().await, layout::service("s", "a")).await.unwrap();
    assert_eq!(now, record, "renewing writes nothing");
    let mut lost = registration.lost();
    never_within(cx.slack(), "a loss", &mut lost).await;
}

pub(super) async fn after_a_crash_it_is_gone_by_ttl_and_lag(cx: Fixture) {
    let (client, other) = (cx.client().await, cx.provider().await);
    let registration = register(&cx, &*client.provider, instance("a")).await.unwrap();
    sleep(cx.ttl() * 3 / 2).await;
    // It is there for as long as its owner may believe so.
    let left = registration.ttl();
    let crashed = Instant::now();
    client.crash().await;
    while crashed.elapsed() < left {
        let found = found(&*other).await;
        assert!(
            found.len() == 1 || crashed.elapsed() >= left,
            "gone {:?} too early",
            left - crashed.elapsed()
        );
        sleep(cx.ttl() / 50).await;
    }
    let limit = cx.gone_by(cx.ttl()).saturating_sub(crashed.elapsed());
    eventually(limit, "it is gone by TTL and lag", || async {
        found(&*other).await.is_empty().then_some(())
    })
    .await;
}

pub(super) async fn a_crash_takes_along_what_the_owner_registered_and_nothing_else(cx: Fixture) {
    let (client, other) = (cx.client().await, cx.provider().await);
    let mut held = Vec::new();
    for id in ["a", "c", "e"] {
        held.push(register(&cx, &*client.provider, instance(id)).await.unwrap());
    }
    for id in ["b", "d"] {
        held.push(register(&cx, &*other, instance(id)).await.unwrap());
    }
    client.crash().await;
    sleep(cx.gone_by(cx.ttl())).await;
    assert_eq!(found(&*other).await, [instance("b"), instance("d")]);
    assert!(held[3].state().is_held() && held[4].state().is_held());
}

pub(super) async fn the_ttl_is_rounded_up(cx: Fixture) {
    let (client, other) = (cx.client().await, cx.provider().await);
    let mut held = Vec::new();
    for (id, ttl) in [
        ("a", Duration::from_nanos(1)),
        ("b", Duration::from_millis(1_500)),
        ("c", Duration::from_secs(9_000_000_000)),
    ] {
        let options = RegisterOptions::default().with_ttl(ttl);
        held.push(client.provider.registry().register_with(instance(id), options).await.unwrap());
    }
    sleep(Duration::from_secs(4)).await;
    assert_eq!(found(&*other).await.len(), 3, "renewed");
    assert!(held.iter().all(|registration| registration.state().is_held()));
    // The owner of one that lives for centuries may still take it away.
    held[2].unregister().await.unwrap();
    assert_eq!(found(&*other).await, [instance("a"), instance("b")]);
    delete(&*cx.store().await, layout::service("s", "c")).await;
}
