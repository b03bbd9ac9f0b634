//! What only real servers can show, beyond the kit: failures by name, sign-ins that expire, members
//! that die or stand still, answers of any size.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod auth;
mod clusters;
mod costs;
mod disk;
mod errors;
mod fake_etcd;
mod garbage;
mod global;
mod go_mutex;
mod grpc_proxy;
mod held;
mod homes;
mod members;
mod quickstart;
mod quota;
mod report;
mod rights;
mod sizes;
mod tls;
mod ttl;
mod urls;
mod watches;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use coord_api::store::{Entry, Op, Range, Span, Store, Txn};
use coord_api::{Result, Revision};
use coord_etcd::{EtcdOptions, EtcdStore};
use coord_servers::etcd::Cluster;
use coord_testkit::wait::eventually;

/// By when anything that needs no waiting is done, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Options for a cluster, with short attempts.
fn options(cluster: &Cluster) -> EtcdOptions {
    EtcdOptions::new(cluster.endpoints())
}

async fn store(cluster: &Cluster) -> EtcdStore {
    EtcdStore::connect(&options(cluster)).await.unwrap()
}

/// Waits until every member answers, one that stood still until now as well.
async fn all_answer(cluster: &Cluster) {
    for endpoint in cluster.endpoints() {
        let member = EtcdStore::connect_lazy(&EtcdOptions::new([endpoint])).unwrap();
        eventually(SOON, "the member answers", async || get(&member, "leader").await.ok()).await;
    }
}

/// A client that asks member `index` for as long as that answers. Which one it is, each client
/// leaves to chance, so it is found out by the members' own counts. All members answer before: a
/// client that finds its own one silent asks another one, but goes back by and by.
async fn store_on(cluster: &Cluster, index: usize, options: &EtcdOptions) -> EtcdStore {
    all_answer(cluster).await;
    for _ in 0..100 {
        let store = EtcdStore::connect(options).await.unwrap();
        eventually(SOON, "the cluster has a leader", async || put(&store, "leader", "").await.ok()).await;
        if members::asked(cluster, &store).await == Some(index) {
            return store;
        }
    }
    panic!("no client asks member {index}");
}

async fn put(store: &impl Store, key: &str, value: impl Into<coord_api::Value>) -> Result<Revision> {
    Ok(store.txn(Txn::new().then(Op::put(key.to_owned(), value))).await?.revision)
}

async fn get(store: &impl Store, key: &str) -> Result<Option<Entry>> {
    Ok(store.range(Range::key(key.to_owned())).await?.entries.pop())
}

/// A client of etcd's own kind, to set a server up with.
async fn raw(cluster: &Cluster, options: Option<etcd_client::ConnectOptions>) -> etcd_client::Client {
    etcd_client::Client::connect(cluster.endpoints(), options).await.unwrap()
}

/// The next change of a watch that is resumed where it breaks.
async fn next(store: &Arc<dyn Store>, span: Span, after: Revision) -> Revision {
    let mut view = coord_testkit::view::StoreView::after(store, span, after).await.unwrap();
    view.expect(SOON).await.revision
}

async fn timed<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let start = std::time::Instant::now();
    (future.await, start.elapsed())
}
