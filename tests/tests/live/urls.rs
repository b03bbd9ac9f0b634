//! A store of etcd that is opened by its URL.

use std::time::Duration;

use coord::prelude::*;
use coord::{ErrorKind, Source};
use coord_servers::etcd::{Binary, Cluster, Series};

#[tokio::test]
async fn two_clients_of_one_url_share_a_store_and_are_two_owners() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let url = format!("etcd://{}", cluster.endpoints().join(","));
    let source = Source::open(&url).await.unwrap();
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
    let inside = coord::open(&format!("{url}/team/a?connect_timeout=5s")).await.unwrap();
    assert_eq!(inside.config().get::<String>("greeting").await.unwrap(), None, "a namespace is its own");
}

#[tokio::test]
async fn a_lazy_url_connects_when_it_is_first_used() {
    let lazy = coord::open("etcd://127.0.0.1:1?lazy&attempts=1&total_timeout=2s").await.unwrap();
    assert!(lazy.config().get_raw("greeting").await.unwrap_err().is_transient());
}
