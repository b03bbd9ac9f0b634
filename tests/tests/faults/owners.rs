//! Owners that come back and find that the world went on without them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coord_api::prelude::*;
use coord_api::store::{Entry, Range, Store};
use coord_api::{ErrorKind, HandleState, LeaseId, Loss, RegisterOptions, ServiceInstance};
use coord_servers::etcd::Way;
use coord_testkit::layout;
use coord_testkit::wait::{eventually, never_within, within};

use crate::links::{cluster_behind_proxies, endpoints};
use crate::{Held, SLACK, SOON, provider};

fn instance(by: &str) -> ServiceInstance {
    ServiceInstance::new("taken", "one", "127.0.0.1", 1).with_metadata("by", by)
}

async fn entry(store: &dyn Store, key: String) -> Option<Entry> {
    store.range(Range::key(key)).await.unwrap().entries.into_iter().next()
}

/// A restarted process registers again while its predecessor is cut off, which comes back after
/// `away`.
async fn is_superseded(ttl: Duration, away: Duration) {
    let (cluster, proxies) = cluster_behind_proxies().await;
    let (old, new) = (provider(endpoints(&proxies)).await, provider(cluster.endpoints()).await);
    let options = RegisterOptions::default().with_ttl(ttl);
    let before = old.registry().register_with(instance("old"), options).await.unwrap();
    proxies.iter().for_each(|proxy| proxy.set(Way::Stands));
    let since = Instant::now();
    let after = within(SOON, "it is taken over", new.registry().register_with(instance("new"), options))
        .await
        .unwrap();
    let key = || layout::service("taken", "one");
    let taken = entry(new.store(), key()).await.unwrap();
    assert_eq!(new.registry().discover("taken").await.unwrap().items, [instance("new")]);
    tokio::time::sleep(away.saturating_sub(since.elapsed())).await;

    proxies.iter().for_each(|proxy| proxy.set(Way::Open));
    let told = within(SOON, "the old one is told", before.lost()).await;
    assert_eq!((told, before.state()), (Loss::Superseded, HandleState::Ended(Loss::Superseded)));
    // It does not come back, however long it waits, and what it lets go is not the other's.
    never_within(ttl * 2, "a loss of the new one", &mut after.lost()).await;
    assert!(before.unregister().await.is_ok());
    assert!(after.state().is_held());
    assert_eq!(entry(new.store(), key()).await, Some(taken), "nobody has written it since");
    after.unregister().await.unwrap();
    assert_eq!(entry(new.store(), key()).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_cut_off_and_taken_over_ends_while_its_lease_lives() {
    is_superseded(Duration::from_secs(6), Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_cut_off_and_taken_over_ends_after_its_lease_did() {
    is_superseded(Duration::from_secs(3), Duration::from_secs(6)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_outlived_its_local_deadline_is_revoked_and_what_was_lost_stays_lost() {
    let ttl = Duration::from_secs(3);
    let (cluster, proxies) = cluster_behind_proxies().await;
    let (cut, other) = (provider(endpoints(&proxies)).await, provider(cluster.endpoints()).await);
    let held = Held::new(&cut, ttl).await;
    let lease = |entry: Option<Entry>| entry.and_then(|entry| entry.lease);
    let store = other.store();
    let own = lease(entry(store, layout::service("held", "one")).await).expect("it hangs on a lease");
    proxies.iter().for_each(|proxy| proxy.set(Way::Stands));
    // Somebody else keeps the lease alive, as a new leader does who counts it anew.
    let kept = tokio::spawn(keep_alive(Arc::new(store.clone()), own));
    within(ttl + SLACK, "the lock is lost by the holder's own clock", held.guard.lost()).await;
    assert_eq!(held.registration.state(), HandleState::Lost, "it heals");
    // Until long after the store would have ended it.
    assert!(
        tokio::time::timeout(ttl, async {
            while !kept.is_finished() {
                tokio::time::sleep(Duration::from_millis(20)).await
            }
        })
        .await
        .is_err()
    );
    let queue = store.range(Range::prefix(layout::lock_queue("held"))).await.unwrap().entries;
    assert_eq!(queue.len(), 1, "the store knows nothing of the loss");

    proxies.iter().for_each(|proxy| proxy.set(Way::Open));
    within(SOON, "the lease is revoked", kept).await.unwrap();
    let moved =
        async || lease(entry(store, layout::service("held", "one")).await).filter(|lease| *lease != own);
    let new = eventually(SOON, "the registration moves to another lease", moved).await;
    assert!(store.lease(new).await.unwrap().is_some());
    eventually(SOON, "it says so", async || held.registration.state().is_held().then_some(())).await;
    assert_eq!(held.guard.state(), HandleState::Ended(Loss::Expired));
    assert!(!held.guard.is_held());
    let next = within(SOON, "the lock is free", other.lock().acquire("held", ttl)).await.unwrap();
    assert!(next.fencing_token() > held.guard.fencing_token());
}

/// Keeps a lease alive until it is gone.
async fn keep_alive(store: Arc<dyn Store>, lease: LeaseId) {
    loop {
        match store.keep_alive(lease).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            Err(error) if error.kind() == ErrorKind::LeaseLost => return,
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
    }
}
