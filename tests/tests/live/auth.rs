//! Signing in: what is refused, and what must not be seen of tokens that expire or are forgotten.

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::store::{Op, Range, Span, Store, Txn};
use coord_api::{ConfigEvent, ErrorKind, Value, WatchStart};
use coord_etcd::{Credentials, EtcdOptions, EtcdProvider, EtcdStore};
use coord_servers::etcd::{Binary, Cluster, Series};
use coord_testkit::wait::{eventually, within};
use etcd_client::{ConnectOptions, Permission, PermissionType, RoleRevokePermissionOptions};

use super::held::Held;
use super::{SOON, get, next, options, put, raw, timed};

const ALL: [Series; 2] = [Series::V3_4, Series::V3_5];
const TOKEN_TTL: Duration = Duration::from_secs(2);

/// A server that asks who one is, and knows `shop`, who may use `/shop/`. Tokens expire after 2 s
/// without use.
async fn guarded(series: Series) -> Cluster {
    let cluster =
        Cluster::single_with(&Binary::find(series), &["--auth-token", "simple", "--auth-token-ttl", "2"]);
    let mut client = raw(&cluster, None).await;
    client.user_add("root", "root-password", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("shop").await.unwrap();
    client.role_grant_permission("shop", Permission::read_write("/shop/").with_prefix()).await.unwrap();
    client.user_add("shop", "hunter2", None).await.unwrap();
    client.user_grant_role("shop", "shop").await.unwrap();
    client.auth_enable().await.unwrap();
    cluster
}

fn as_shop(cluster: &Cluster) -> EtcdOptions {
    options(cluster).with_credentials(Credentials::new("shop", "hunter2"))
}

#[tokio::test]
async fn who_one_is_and_what_one_may_do_are_told_apart() {
    for series in ALL {
        let cluster = guarded(series).await;
        let nobody = EtcdStore::connect_lazy(&options(&cluster)).unwrap();
        assert_eq!(
            get(&nobody, "/shop/k").await.unwrap_err().kind(),
            ErrorKind::Unauthenticated,
            "{series:?}"
        );

        let wrong = options(&cluster).with_credentials(Credentials::new("shop", "hunter3"));
        let refused = EtcdStore::connect(&wrong).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unauthenticated, "{series:?}: {refused}");
        let lazy = EtcdStore::connect_lazy(&wrong).unwrap();
        assert_eq!(
            put(&lazy, "/shop/k", "v").await.unwrap_err().kind(),
            ErrorKind::Unauthenticated,
            "{series:?}"
        );

        let shop = EtcdStore::connect(&as_shop(&cluster)).await.unwrap();
        put(&shop, "/shop/k", "v").await.unwrap();
        let root = options(&cluster).with_credentials(Credentials::new("root", "root-password"));
        let (shops, roots) =
            (shop.status().await.unwrap(), EtcdStore::connect(&root).await.unwrap().status().await.unwrap());
        assert_eq!(
            shops.store_id, roots.store_id,
            "{series:?}: the cluster is the same, however little a user may know"
        );
        let denied = [
            get(&shop, "/other/k").await.unwrap_err(),
            put(&shop, "/other/k", "v").await.unwrap_err(),
            shop.range(Range::prefix("/")).await.unwrap_err(),
            shop.watch(Span::key("/other/k"), None).await.unwrap_err(),
        ];
        for error in denied {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{series:?}: {error}");
        }
        let lease = shop.grant_lease(Duration::from_secs(5)).await.unwrap().id;
        assert_eq!(shop.keep_alive(lease).await.unwrap(), Duration::from_secs(5));
        assert!(shop.lease(lease).await.unwrap().is_some(), "looking a lease up needs no right to read");
        shop.revoke_lease(lease).await.unwrap();
        assert_eq!(shop.keep_alive(lease).await.unwrap_err().kind(), ErrorKind::LeaseLost, "{series:?}");
    }
}

#[tokio::test]
async fn an_expired_token_is_not_seen() {
    for series in ALL {
        let cluster = guarded(series).await;
        let shop = EtcdStore::connect(&as_shop(&cluster)).await.unwrap();
        let lease = shop.grant_lease(Duration::from_secs(60)).await.unwrap().id;
        let first = put(&shop, "/shop/k", "1").await.unwrap();
        shop.keep_alive(lease).await.unwrap();
        drop(shop.watch(Span::key("/shop/k"), None).await.unwrap());
        // Longer than any token lives unused; nothing else says that it has expired.
        tokio::time::sleep(TOKEN_TTL * 2).await;
        let watch = shop.watch(Span::key("/shop/k"), None).await.unwrap();
        assert!(watch.armed() >= first, "{series:?}");
        shop.keep_alive(lease).await.unwrap();
        let second = put(&shop, "/shop/k", "2").await.unwrap();
        let shop: Arc<dyn Store> = Arc::new(shop);
        assert_eq!(next(&shop, Span::key("/shop/k"), first).await, second, "{series:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgot_its_tokens_is_not_seen() {
    for series in ALL {
        let mut cluster = guarded(series).await;
        let provider = EtcdProvider::connect(as_shop(&cluster).with_namespace("shop")).await.unwrap();
        let mut watch = provider.config().watch_raw("k", WatchStart::Now).await.unwrap();
        provider.config().set_raw("k", Value::from("1")).await.unwrap();
        within(SOON, "the first change", watch.next()).await.unwrap().unwrap();
        // Simple tokens live in memory.
        cluster.restart();
        provider.config().set_raw("k", Value::from("2")).await.unwrap();
        within(SOON, "the watch is back", watch.next()).await.unwrap().unwrap();
        provider.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_restart_nor_an_expired_token_is_seen_by_calls_watches_and_holders() {
    // A watch is to be back within a second; the rest is what a busy machine adds.
    const BACK: Duration = Duration::from_millis(1_000 + 1_000);
    for series in ALL {
        let mut cluster = guarded(series).await;
        let provider = EtcdProvider::connect(as_shop(&cluster).with_namespace("shop")).await.unwrap();
        let mut watch = provider.config().watch_raw("k", WatchStart::Now).await.unwrap();
        let held = Held::new(&provider, Duration::from_secs(6)).await;
        let fence = held.guard.fencing_token();
        for (disturbance, restarts) in [
            ("tokens expired", false),
            ("a restart", true),
            ("tokens expired after it", false),
            ("another", true),
        ] {
            if restarts {
                cluster.restart();
            } else {
                tokio::time::sleep(TOKEN_TTL * 2).await;
            }
            let ((), took) = timed(async {
                let written = provider.config().set_raw("k", Value::from(disturbance)).await.unwrap();
                match within(SOON, "the watch is back", watch.next()).await {
                    Some(Ok(ConfigEvent::Put { entry, .. })) => {
                        assert_eq!(
                            (entry.version, entry.value),
                            (written, Value::from(disturbance)),
                            "{series:?}: neither a gap nor an error"
                        );
                    }
                    other => panic!("{series:?}, {disturbance}: {other:?}"),
                }
            })
            .await;
            assert!(took <= BACK, "{series:?}, {disturbance}: back after {took:?}");
            let read = provider.config().get_raw("k").await.unwrap().unwrap();
            assert_eq!(read.value, Value::from(disturbance), "{series:?}");
            held.assert_held(disturbance);
        }
        // Held all the time, and not lost and taken anew; beyond the TTL it can only have been
        // renewed with tokens that came later.
        assert_eq!(provider.registry().discover("held").await.unwrap().items.len(), 1, "{series:?}");
        assert_eq!(held.guard.fencing_token(), fence);
        held.release().await;
        provider.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_changed_set_of_rights_is_not_seen_but_in_what_it_allows() {
    for series in ALL {
        let cluster = guarded(series).await;
        let shop = EtcdStore::connect(&as_shop(&cluster)).await.unwrap();
        put(&shop, "/shop/k", "1").await.unwrap();
        let root = ConnectOptions::new().with_user("root", "root-password");
        let mut root = raw(&cluster, Some(root)).await;
        root.role_grant_permission("shop", Permission::new(PermissionType::Read, "/more")).await.unwrap();
        // Tokens of the simple kind are withdrawn when rights change.
        put(&shop, "/shop/k", "2").await.unwrap();
        assert_eq!(get(&shop, "/more").await.unwrap(), None);
        root.role_revoke_permission("shop", "/more", None::<RoleRevokePermissionOptions>).await.unwrap();
        assert_eq!(get(&shop, "/more").await.unwrap_err().kind(), ErrorKind::PermissionDenied, "{series:?}");
    }
}

#[tokio::test]
async fn a_server_that_asks_nobody_takes_everybody() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let shop = EtcdStore::connect(&as_shop(&cluster)).await.unwrap();
    shop.txn(Txn::new().then(Op::put("/shop/k", "1"))).await.unwrap();
}

/// The page says so. etcd renews a lease only for whom may write the keys on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_missing_ends_watches_for_good_and_what_is_held_after_its_ttl() {
    let cluster = guarded(Series::V3_5).await;
    let provider = EtcdProvider::connect(as_shop(&cluster).with_namespace("shop")).await.unwrap();
    let mut watch = provider.config().watch_raw("k", WatchStart::Now).await.unwrap();
    let held = Held::new(&provider, Duration::from_secs(3)).await;
    // Its token lives as short as the others.
    let root = async || {
        Box::pin(raw(&cluster, Some(ConnectOptions::new().with_user("root", "root-password")))).await
    };
    root().await.user_revoke_role("shop", "shop").await.unwrap();
    match within(SOON, "the watch ends", watch.next()).await {
        Some(Err(error)) => assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}"),
        other => panic!("{other:?}"),
    }
    within(SOON, "the lock is lost", held.guard.lost()).await;
    within(SOON, "the id is lost", held.id.lost()).await;
    root().await.user_grant_role("shop", "shop").await.unwrap();
    // Registrations come back by themselves; all else is to be opened and acquired again.
    eventually(SOON, "it is registered", async || held.registration.state().is_held().then_some(())).await;
    let mut watch = provider.config().watch_raw("k", WatchStart::Now).await.unwrap();
    provider.config().set_raw("k", Value::from("v")).await.unwrap();
    within(SOON, "the change", watch.next()).await.unwrap().unwrap();
    let guard = provider.lock().acquire_timeout("held", Duration::from_secs(3), SOON).await.unwrap();
    guard.unlock().await.unwrap();
    provider.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_password_is_read_again_for_each_sign_in() {
    let mut cluster = guarded(Series::V3_5).await;
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "hunter2\n").unwrap();
    let given = Arc::new(std::sync::Mutex::new("hunter2".to_owned()));
    let function = Arc::clone(&given);
    let mut stores = Vec::new();
    for credentials in [
        Credentials::from_file("shop", &file),
        Credentials::from_fn("shop", move || Ok(function.lock().unwrap().clone().into())),
    ] {
        let store = EtcdStore::connect(&options(&cluster).with_credentials(credentials)).await.unwrap();
        put(&store, "/shop/k", "1").await.unwrap();
        stores.push(store);
    }
    let mut root = raw(&cluster, Some(ConnectOptions::new().with_user("root", "root-password"))).await;
    root.user_change_password("shop", "hunter3").await.unwrap();
    std::fs::write(&file, "hunter3\r\n").unwrap();
    *given.lock().unwrap() = "hunter3".to_owned();
    // Tokens live in memory.
    cluster.restart();
    for store in &stores {
        eventually(SOON, "the new password is used", async || put(store, "/shop/k", "2").await.ok()).await;
    }
    // One that cannot be read is not taken for none.
    std::fs::remove_file(&file).unwrap();
    *given.lock().unwrap() = String::new();
    cluster.restart();
    for store in &stores {
        eventually(SOON, "the old password is used", async || put(store, "/shop/k", "3").await.ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_unauthenticated_however_many_ask_at_once() {
    for series in ALL {
        // A sign-in takes a good part of a second of a processor.
        let cluster = Cluster::single_with(&Binary::find(series), &["--bcrypt-cost", "12"]);
        let mut client = raw(&cluster, None).await;
        client.user_add("root", "root-password", None).await.unwrap();
        client.user_grant_role("root", "root").await.unwrap();
        client.auth_enable().await.unwrap();
        let mut wrong = options(&cluster).with_credentials(Credentials::new("root", "hunter3"));
        // One sign-in for all has time enough beside other work; one for each has not.
        wrong.retry.attempt_timeout = Some(SOON);
        wrong.retry.total_timeout = Some(SOON);
        let provider = EtcdProvider::connect_lazy(wrong).unwrap();
        let calls = (0..200).map(|n| {
            let provider = Arc::clone(&provider);
            async move {
                match n % 4 {
                    0 => provider.config().get_raw("k").await.map(drop),
                    1 => provider.config().set_raw("k", Value::from("v")).await.map(drop),
                    2 => provider.lock().acquire("l", Duration::from_secs(10)).await.map(drop),
                    _ => provider.config().watch_raw("k", WatchStart::Now).await.map(drop),
                }
            }
        });
        for (n, called) in futures_util::future::join_all(calls).await.into_iter().enumerate() {
            let error = called.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{series:?}, call {n}: {error}");
        }
    }
}
