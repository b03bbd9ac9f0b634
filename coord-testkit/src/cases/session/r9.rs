//! R9 Drop.

use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{IdOptions, RegisterOptions, ServiceInstance};
use tokio::time::Instant;

use super::super::leased::{Lasting, ONE_SECOND, drop_outside_a_runtime, entries, entry, queue};
use crate::fixture::Fixture;
use crate::layout;
use crate::wait::{eventually, within};
use crate::wrap::Fault;

fn instance(id: &str) -> ServiceInstance {
    ServiceInstance::new("s", id, "localhost", 80)
}

fn of_ttl(cx: &Fixture) -> RegisterOptions {
    RegisterOptions::default().with_ttl(cx.ttl())
}

/// Waits until nobody is registered any more.
async fn nobody_is_registered(cx: &Fixture, limit: Duration) {
    let provider = cx.provider().await;
    eventually(limit, "nobody is registered", || async {
        provider.registry().discover("s").await.unwrap().items.is_empty().then_some(())
    })
    .await;
}

pub(super) async fn a_provider_may_be_dropped_outside_a_runtime(cx: Fixture) {
    let other = cx.provider().await;
    let provider = cx.provider().await;
    let guard = provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let registration = provider.registry().register_with(instance("a"), of_ttl(&cx)).await.unwrap();
    let watch = provider.registry().watch("s").await.unwrap();
    drop_outside_a_runtime((provider, watch, guard, registration));
    // At the latest with its lease, which nobody renews any more.
    let limit = cx.gone_by(cx.ttl()) + ONE_SECOND;
    within(limit, "the lock is free", other.lock().acquire("k", cx.ttl()))
        .await
        .unwrap()
        .unlock()
        .await
        .unwrap();
    nobody_is_registered(&cx, limit).await;
}

pub(super) async fn many_releases_that_failed_are_repeated(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let store = cx.store().await;
    let kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
    let mut guards = Vec::new();
    for n in 0..300 {
        guards.push(client.provider.lock().acquire(&format!("k{n}"), cx.ttl()).await.unwrap());
    }
    let start = Instant::now();
    let cut = Lasting::begin(&faults, Fault::Refuse, |request| request.deletes(layout::LOCKS));
    drop(guards);
    tokio::time::sleep(cx.ttl() / 4).await;
    cut.end();
    let limit = cx.ttl().saturating_sub(start.elapsed());
    eventually(limit, "all are released", || async {
        (entries(&*store, layout::LOCKS.to_owned()).await.len() == 1).then_some(())
    })
    .await;
    assert!(kept.is_held());
}

pub(super) async fn a_pending_release_harms_no_successor(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (other, store) = (cx.provider().await, cx.store().await);
    let registration = client.provider.registry().register_with(instance("a"), of_ttl(&cx)).await.unwrap();
    let guard = client.provider.lock().acquire("k", cx.ttl()).await.unwrap();
    let cut = Lasting::begin(&faults, Fault::Refuse, |request| request.deletes("/"));
    drop((registration, guard));
    tokio::time::sleep(cx.ttl() / 8).await;
    // Someone takes over what is to be removed.
    let registered = other
        .registry()
        .register_with(instance("a").with_metadata("of", "other"), of_ttl(&cx))
        .await
        .unwrap();
    let waiter = {
        let (lock, ttl) = (std::sync::Arc::clone(client.provider.lock()), cx.ttl());
        tokio::spawn(async move { lock.acquire("k", ttl).await })
    };
    tokio::time::sleep(cx.ttl() / 8).await;
    cut.end();
    let guard = within(cx.ttl(), "the release is repeated", waiter).await.unwrap().unwrap();
    tokio::time::sleep(cx.ttl() * 2).await;
    assert!(guard.is_held());
    assert_eq!(queue(&*store, "k").await.len(), 1);
    assert!(registered.state().is_held());
    assert_eq!(
        other.registry().discover("s").await.unwrap().items,
        [instance("a").with_metadata("of", "other")]
    );
}

pub(super) async fn a_pending_release_is_not_done_by_an_earlier_one_of_the_same_key(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let store = cx.store().await;
    let _kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
    let acquire =
        || client.provider.allocator().acquire_id_with("s", IdOptions::default().with_ttl(cx.ttl()));
    // The release of the first is applied at once, and while its answer is out the id is taken and
    // dropped again.
    faults.next(Fault::LateAnswer(Duration::from_millis(300)), |request| request.deletes(layout::IDS));
    drop(acquire().await.unwrap());
    eventually(cx.soon(), "the id is free", || async {
        entry(&*store, layout::id("s", 1)).await.is_none().then_some(())
    })
    .await;
    let second = acquire().await.unwrap();
    assert_eq!(second.id(), 1);
    drop(second);
    let limit = ONE_SECOND + cx.slack();
    eventually(limit, "the id is free again", || async {
        entry(&*store, layout::id("s", 1)).await.is_none().then_some(())
    })
    .await;
}

pub(super) async fn a_late_release_does_not_do_that_of_a_later_handle(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let store = cx.store().await;
    let _kept = client.provider.lock().acquire("kept", cx.ttl()).await.unwrap();
    let acquire =
        || client.provider.allocator().acquire_id_with("s", IdOptions::default().with_ttl(cx.ttl()));
    let first = acquire().await.unwrap();
    faults.next_delete(Fault::LoseAnswer, layout::IDS);
    first.release().await.unwrap_err();
    let second = acquire().await.unwrap();
    assert_eq!(second.id(), 1);
    // The release of the second is pending, and the first is released once more.
    faults.next_delete(Fault::Refuse, layout::IDS);
    drop(second);
    eventually(cx.soon(), "its release is refused", || async { (faults.unused() == 0).then_some(()) }).await;
    let _ = within(cx.soon(), "an answer", first.release()).await;
    let what = "the id of the second is free";
    eventually(cx.ttl(), what, || async { entry(&*store, layout::id("s", 1)).await.is_none().then_some(()) })
        .await;
}
