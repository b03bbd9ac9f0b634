//! The rights that a service needs are those that the README tells operators to give, and no
//! others.

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{
    ConfigEvent, ErrorKind, IdOptions, Outcome, RegisterOptions, ServiceEvent, ServiceInstance, Value,
    Version, WatchStart,
};
use coord_etcd::{Credentials, EtcdOptions, EtcdProvider};
use coord_servers::etcd::{Binary, Cluster, Series};
use coord_testkit::wait::{eventually, within};
use etcd_client::Permission;

use super::{SOON, options, raw};

const ALL: [Series; 2] = [Series::V3_4, Series::V3_5];
const TTL: Duration = Duration::from_secs(3);
const PASSWORD: &str = "hunter2";

/// What the README names where there is no namespace.
const WITHOUT_NAMESPACE: [&str; 5] =
    ["/config/", "/locks/", "/sessions/", "/services/", "/im-infra/allocators/"];

/// A server with a user `user`, whose role may read and write what begins with these prefixes, and
/// a user `nobody`, who has no role.
async fn guarded(series: Series, prefixes: &[&str]) -> Cluster {
    let cluster = Cluster::single(&Binary::find(series));
    let mut client = raw(&cluster, None).await;
    for name in ["root", "user", "nobody"] {
        client.user_add(name, PASSWORD, None).await.unwrap();
    }
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("service").await.unwrap();
    for prefix in prefixes {
        client.role_grant_permission("service", Permission::read_write(*prefix).with_prefix()).await.unwrap();
    }
    client.user_grant_role("user", "service").await.unwrap();
    client.auth_enable().await.unwrap();
    cluster
}

async fn signed_in(options: EtcdOptions, user: &str) -> Arc<EtcdProvider> {
    EtcdProvider::connect(options.with_credentials(Credentials::new(user, PASSWORD))).await.unwrap()
}

/// Everything that each contract does, by two processes.
async fn every_contract_works(one: &EtcdProvider, two: &EtcdProvider) {
    let (config, value) = (one.config(), |text: &str| Value::from(text.to_owned()));
    let mut watch = two.config().watch_prefix_raw("", WatchStart::Snapshot).await.unwrap();
    let first = within(SOON, "the state", watch.next()).await.unwrap().unwrap();
    assert!(matches!(first, ConfigEvent::Resync(ref state) if state.items.is_empty()), "{first:?}");
    let created = config.compare_and_set_raw("app/k", value("1"), Version::ZERO).await.unwrap();
    let event = within(SOON, "the change", watch.next()).await.unwrap().unwrap();
    assert!(
        matches!(event, ConfigEvent::Put { ref entry, created: true, .. } if entry.version == created),
        "{event:?}"
    );
    let set = config.set_raw("app/k", value("2")).await.unwrap();
    assert_eq!(
        config.compare_and_set_raw("app/k", value("3"), created).await.unwrap_err().current_version(),
        Some(set)
    );
    assert_eq!(two.config().get_raw("app/k").await.unwrap().unwrap().version, set);
    assert_eq!(two.config().list_raw("").await.unwrap().items.len(), 1);
    assert_eq!(two.config().list_raw("app").await.unwrap().items.len(), 1);
    let mut one_key = two.config().watch_raw("app/k", WatchStart::After(created)).await.unwrap();
    let event = within(SOON, "the past", one_key.next()).await.unwrap().unwrap();
    assert!(matches!(event, ConfigEvent::Put { ref entry, .. } if entry.version == set), "{event:?}");
    assert!(config.compare_and_delete("app/k", set).await.unwrap());
    assert!(!config.delete("app/k").await.unwrap());

    let guard = one.lock().acquire("jobs/nightly", TTL).await.unwrap();
    assert_eq!(two.lock().try_acquire("jobs/nightly", TTL).await.unwrap_err().kind(), ErrorKind::Conflict);
    let registered = RegisterOptions::default().with_ttl(TTL);
    let instance = |port| ServiceInstance::new("shop", "shop-1", "127.0.0.1", port);
    let mut services = two.registry().watch("shop").await.unwrap();
    let first = within(SOON, "the set", services.next()).await.unwrap().unwrap();
    assert!(matches!(first, ServiceEvent::Resync(ref set) if set.items.is_empty()), "{first:?}");
    let registration = one.registry().register_with(instance(1), registered).await.unwrap();
    let event = within(SOON, "the instance", services.next()).await.unwrap().unwrap();
    assert!(matches!(event, ServiceEvent::Change { .. }), "{event:?}");
    registration.update(instance(2)).await.unwrap();
    assert_eq!(two.registry().discover("shop").await.unwrap().items, [instance(2)]);
    let all = (0..3).map(|n| ServiceInstance::new("many", format!("n{n}"), "127.0.0.1", 1)).collect();
    let _given_back_by_closing = one.registry().register_all(all, registered).await.unwrap();
    assert_eq!(two.registry().discover("many").await.unwrap().items.len(), 3);
    let ids = IdOptions::default().with_ttl(TTL).with_range(1..=2);
    let (mine, theirs) = (
        one.allocator().acquire_id_with("shop", ids.clone()).await.unwrap(),
        two.allocator().acquire_id_with("shop", ids.clone()).await.unwrap(),
    );
    assert_eq!((mine.id(), theirs.id()), (1, 2));
    assert_eq!(
        one.allocator().acquire_id_with("shop", ids.clone()).await.unwrap_err().kind(),
        ErrorKind::Exhausted
    );

    // Waiting reads queues and watches them; renewals read leases.
    let options = coord_api::LockOptions::default().with_ttl(TTL).with_wait(coord_api::Wait::For(SOON));
    let waiting = two.lock().acquire_with("jobs/nightly", options);
    let handed_over = async {
        tokio::time::sleep(TTL + Duration::from_secs(1)).await;
        assert!(
            guard.is_held() && registration.state().is_held() && mine.is_held() && theirs.is_held(),
            "renewed beyond the TTL"
        );
        guard.unlock().await.unwrap();
    };
    let (next, ()) = tokio::join!(waiting, handed_over);
    let next = next.unwrap();
    assert!(next.fencing_token() > guard.fencing_token());
    let freed = two.allocator().acquire_id_with("shop", ids.with_wait(coord_api::Wait::For(SOON)));
    let (freed, ()) = tokio::join!(freed, async { mine.release().await.unwrap() });
    assert_eq!(freed.unwrap().id(), 1);
    next.unlock().await.unwrap();
    registration.unregister().await.unwrap();
    assert_eq!(two.registry().discover("shop").await.unwrap().items, []);
    // What is left is given back by closing.
    let _so_is_the_lock = one.lock().acquire("jobs/nightly", TTL).await.unwrap();
    one.close().await.unwrap();
    assert_eq!(two.registry().discover("many").await.unwrap().items, []);
    two.lock().try_acquire("jobs/nightly", TTL).await.unwrap().unlock().await.unwrap();
    two.close().await.unwrap();
}

/// Nothing that touches the store works, and everything says why and that nothing was done.
async fn everything_is_denied(provider: &EtcdProvider, who: &str) {
    let config = provider.config();
    let instance = ServiceInstance::new("shop", "shop-2", "127.0.0.1", 1);
    let denied = [
        ("get", config.get_raw("k").await.map(drop)),
        ("set", config.set_raw("k", Value::from("v")).await.map(drop)),
        ("compare_and_set", config.compare_and_set_raw("k", Value::from("v"), Version::ZERO).await.map(drop)),
        ("delete", config.delete("k").await.map(drop)),
        ("list", config.list_raw("").await.map(drop)),
        ("acquire", provider.lock().acquire_timeout("l", TTL, SOON).await.map(drop)),
        ("try_acquire", provider.lock().try_acquire("l", TTL).await.map(drop)),
        ("register", provider.registry().register(instance).await.map(drop)),
        ("discover", provider.registry().discover("shop").await.map(drop)),
        ("acquire_id", provider.allocator().acquire_id("shop", 10).await.map(drop)),
    ];
    for (what, result) in denied {
        let error = result.expect_err(what);
        assert_eq!(
            (error.kind(), error.outcome()),
            (ErrorKind::PermissionDenied, Outcome::NotApplied),
            "{who}, {what}: {error}"
        );
        assert!(!format!("{error} {error:?}").contains(PASSWORD), "{who}, {what}: {error:?}");
    }
    // A watch is refused when it is asked for, or ends with the reason.
    let ends = [
        ("watch", config.watch_raw("k", WatchStart::Now).await),
        ("watch_prefix", config.watch_prefix_raw("", WatchStart::Snapshot).await),
    ];
    for (what, watch) in ends {
        let error = match watch {
            Ok(mut watch) => within(SOON, what, watch.next()).await.expect(what).expect_err(what),
            Err(error) => error,
        };
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{who}, {what}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_that_the_readme_gives_are_enough_for_every_contract() {
    for series in ALL {
        let cluster = guarded(series, &["/shop/"]).await;
        let named = options(&cluster).with_namespace("shop");
        every_contract_works(&*signed_in(named.clone(), "user").await, &*signed_in(named, "user").await)
            .await;
        nothing_lies_outside(&cluster, &["/shop/"]).await;

        let cluster = guarded(series, &WITHOUT_NAMESPACE).await;
        every_contract_works(
            &*signed_in(options(&cluster), "user").await,
            &*signed_in(options(&cluster), "user").await,
        )
        .await;
        nothing_lies_outside(&cluster, &WITHOUT_NAMESPACE).await;
    }
}

/// All that was ever written began with one of the prefixes, or it could not have been; this is to
/// see that something was.
async fn nothing_lies_outside(cluster: &Cluster, prefixes: &[&str]) {
    let root = options(cluster).with_credentials(Credentials::new("root", PASSWORD));
    let store = coord_etcd::EtcdStore::connect(&root).await.unwrap();
    super::put(&store, &format!("{}later", prefixes[0]), "").await.unwrap();
    let found = eventually(SOON, "the store can be read", async || {
        coord_api::store::Store::range(&store, coord_api::store::Range::prefix("")).await.ok()
    })
    .await;
    assert!(!found.entries.is_empty());
    for entry in found.entries {
        assert!(prefixes.iter().any(|prefix| entry.key.starts_with(prefix.as_bytes())), "{:?}", entry.key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_right_is_denied_everything() {
    for series in ALL {
        let cluster = guarded(series, &["/shop/"]).await;
        let shop = options(&cluster).with_namespace("shop");
        everything_is_denied(&*signed_in(shop.clone(), "nobody").await, "nobody").await;
        // Nor is one namespace's right good for another, also where its name begins alike, nor for
        // none.
        for namespace in ["other", "shopping"] {
            everything_is_denied(
                &*signed_in(options(&cluster).with_namespace(namespace), "user").await,
                namespace,
            )
            .await;
        }
        everything_is_denied(&*signed_in(options(&cluster), "user").await, "no namespace").await;
        // They did no harm.
        let user = signed_in(shop, "user").await;
        assert_eq!(user.config().list_raw("").await.unwrap().items, []);
        user.lock().try_acquire("l", TTL).await.unwrap().unlock().await.unwrap();
        user.close().await.unwrap();
    }
}
