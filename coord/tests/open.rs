//! Opening each kind of store by its URL.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::Duration;

use coord::prelude::*;
use coord::{ErrorKind, Source};

async fn refused(url: &str) -> String {
    let error = coord::open(url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{url}: {error}");
    error.to_string()
}

/// Two clients of one store see the same, and are two owners.
async fn two_clients_share_a_store(url: &str) {
    let source = Source::open(url).await.unwrap();
    let (one, two) = (source.client().await.unwrap(), source.client().await.unwrap());
    one.config().set("greeting", "hello").await.unwrap();
    assert_eq!(two.config().get::<String>("greeting").await.unwrap().as_deref(), Some("hello"));
    let ttl = Duration::from_secs(10);
    let guard = one.lock().acquire("job", ttl).await.unwrap();
    assert_eq!(two.lock().try_acquire("job", ttl).await.unwrap_err().kind(), ErrorKind::Conflict);
    guard.unlock().await.unwrap();
    one.close().await.unwrap();
    two.lock().try_acquire("job", ttl).await.unwrap().unlock().await.unwrap();
    two.close().await.unwrap();
}

#[tokio::test]
async fn memory() {
    two_clients_share_a_store("memory://").await;
    two_clients_share_a_store("memory:").await;
    refused("memory://host").await;
    refused("memory:///path").await;
    refused("memory://?x=1").await;
}

#[tokio::test]
async fn what_names_no_store_is_refused() {
    for bad in ["", "memory", "redis://h:1", "://"] {
        refused(bad).await;
    }
}

#[cfg(feature = "sled")]
#[tokio::test]
async fn sled() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sled://{}", directory.path().join("store").display());
    two_clients_share_a_store(&url).await;
    let again = coord::open(&url).await.unwrap();
    assert_eq!(again.config().get::<String>("greeting").await.unwrap().as_deref(), Some("hello"), "it was kept");
    refused("sled:").await;
    refused("sled:///").await;
    refused("sled://relative").await;
}

#[cfg(feature = "etcd")]
#[tokio::test]
async fn etcd() {
    use coord_etcd_fixture::{Binary, Cluster, Series};

    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let url = format!("etcd://{}", cluster.endpoints().join(","));
    two_clients_share_a_store(&url).await;
    let inside = coord::open(&format!("{url}/team/a?connect_timeout=5s")).await.unwrap();
    assert_eq!(inside.config().get::<String>("greeting").await.unwrap(), None, "a namespace is its own");
    refused(&format!("{url}/config")).await;
    refused(&format!("{url}?unknown=1")).await;
}

#[cfg(not(feature = "etcd"))]
#[tokio::test]
async fn etcd_without_its_feature_says_which_one() {
    assert!(refused("etcd://localhost:2379").await.contains("feature `etcd`"));
}
