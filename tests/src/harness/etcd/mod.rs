//! The kit's harness over real servers: each case has a fresh cluster of its own, which is gone
//! when the case is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a harness that cannot be made fails its case"
)]

pub mod faults;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use coord_api::store::Store;
use coord_api::{Provider, Revision};
use coord_etcd::{EtcdOptions, EtcdProvider, EtcdStore};
use coord_recipes::layers::{Namespace, Observe, Retry};
use coord_recipes::{ProviderOptions, StoreProvider};
use coord_testkit::{Client, Harness, Reopened, Time};

use coord_servers::etcd::{Binary, Cluster, Series};
use faults::{ServerFault, Ways};

/// How long a member may take to compact its history where members may be cut off, and how long
/// where none of them is, but the machine may be busy.
const COMPACTED_WITHIN: Duration = Duration::from_secs(2);
const COMPACTED_UNDISTURBED: Duration = Duration::from_secs(30);

/// A cluster, and who is connected to it.
pub struct Etcd {
    cluster: Arc<Mutex<Cluster>>,
    clients: Mutex<Vec<EtcdStore>>,
    disturbed: bool,
    /// Makes another one of its kind.
    make: fn(Series) -> Self,
    series: Series,
    /// What can be done to the servers.
    faults: &'static [&'static str],
    /// The connections of all clients to the servers, kept here because a case may keep nothing of
    /// a client but its store.
    ways: Mutex<Vec<Ways>>,
}

impl Etcd {
    /// One server.
    pub fn single(series: Series) -> Self {
        Etcd::over(Cluster::single(&Binary::find(series)), Etcd::single, series)
    }

    /// Three servers.
    pub fn three(series: Series) -> Self {
        Etcd::over(Cluster::three(&Binary::find(series)), Etcd::three, series)
    }

    /// Three servers that die, stand still and are cut off from each other where a history says so.
    /// Each client has a connection of its own to each of them, which can be cut as well.
    pub fn disturbed(series: Series) -> Self {
        let cluster = Cluster::three_with_peer_links(&Binary::find(series));
        Etcd {
            disturbed: true,
            faults: faults::WITH_PEER_LINKS,
            ..Etcd::over(cluster, Etcd::disturbed, series)
        }
    }

    /// As [`disturbed`](Self::disturbed), with each server on a host of its own, whose cable is
    /// pulled where a history says so. It must run in a network of its own.
    pub fn unplugged(series: Series) -> Self {
        let cluster = Cluster::three_on_hosts(&Binary::find(series));
        Etcd { disturbed: true, faults: faults::ON_HOSTS, ..Etcd::over(cluster, Etcd::unplugged, series) }
    }

    fn over(cluster: Cluster, make: fn(Series) -> Self, series: Series) -> Self {
        Etcd {
            make,
            series,
            cluster: Arc::new(Mutex::new(cluster)),
            clients: Mutex::default(),
            disturbed: false,
            faults: &[],
            ways: Mutex::default(),
        }
    }

    fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().expect("nothing panics in here")
    }

    fn options(&self) -> EtcdOptions {
        EtcdOptions::new(self.cluster().endpoints())
    }
}

/// Forgets the history at one member.
pub(super) async fn compact_at(endpoint: &str, through: Revision) -> Result<(), String> {
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{endpoint}")).unwrap().connect_lazy();
    let mut client =
        etcd_client::Client::from_channel(etcd_client::Channel::Tonic(channel), None).await.unwrap();
    match client.compact(i64::try_from(through.get()).unwrap(), None).await {
        Ok(_) => Ok(()),
        Err(error) if error.to_string().contains("has been compacted") => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Puts the layers of `EtcdProvider` around a store.
pub(super) fn assemble(store: Arc<dyn Store>) -> Arc<dyn Provider> {
    let mut policy = EtcdOptions::default().retry;
    policy.attempt_timeout = None;
    let layered = Observe::new(Retry::new(store, policy).expect("a good policy"), "etcd");
    StoreProvider::new(Arc::new(layered), ProviderOptions::default())
}

pub(super) fn namespaced(store: Arc<dyn Store>, namespace: &str) -> Arc<dyn Provider> {
    assemble(Arc::new(Namespace::new(store, namespace).expect("a good namespace")))
}

#[async_trait::async_trait]
impl Harness for Etcd {
    async fn client(&self) -> Client {
        let mut options = self.options();
        let ways = match self.disturbed {
            true => Some(Ways::to(&options.endpoints).await),
            false => None,
        };
        if let Some(ways) = &ways {
            self.ways.lock().unwrap().push(ways.clone());
            options.endpoints = ways.endpoints();
            // So that several fit into the TTLs of a history.
            options.retry.attempt_timeout = Some(Duration::from_millis(500));
            options.retry.total_timeout = Some(Duration::from_secs(3));
        }
        let store = match self.disturbed {
            // Servers may be away for a while.
            true => EtcdStore::connect_lazy(&options).expect("good options"),
            false => EtcdStore::connect(&options).await.expect("the servers answer"),
        };
        let provider = EtcdProvider::over(store.clone(), &options).expect("good options");
        self.clients.lock().unwrap().push(store.clone());
        let crashing = store.clone();
        let client = Client::new(Arc::new(store), provider, move || async move {
            crashing.close().await.expect("closing does no I/O")
        });
        match ways {
            Some(ways) => client.with_network(ways),
            None => client,
        }
    }

    fn assemble(&self, store: Arc<dyn Store>) -> Arc<dyn Provider> {
        assemble(store)
    }

    fn namespaced(&self, store: Arc<dyn Store>, namespace: &str) -> Arc<dyn Provider> {
        namespaced(store, namespace)
    }

    async fn compact(&self, through: Revision) {
        // Any member will do. One that stands still, or is cut off, never answers, and it is this
        // same task that ends such a fault later: so none is waited for without a limit.
        let limit = if self.disturbed { COMPACTED_WITHIN } else { COMPACTED_UNDISTURBED };
        let mut last = String::new();
        for endpoint in self.options().endpoints {
            match tokio::time::timeout(limit, compact_at(&endpoint, through)).await {
                Ok(Ok(())) => return,
                Ok(Err(why)) => last = why,
                Err(_) => last = format!("{endpoint} is silent"),
            }
        }
        assert!(self.disturbed, "nobody compacts: {last}");
    }

    async fn reopen(&self) -> Reopened {
        for client in self.clients.lock().unwrap().drain(..) {
            drop(tokio::spawn(async move { client.close().await }));
        }
        self.cluster().restart();
        Reopened::Done
    }

    async fn another(&self) -> Option<Arc<dyn Harness>> {
        Some(Arc::new((self.make)(self.series)))
    }

    fn server_faults(&self) -> &'static [&'static str] {
        self.faults
    }

    async fn server_fault(&self, name: &'static str) -> Option<Box<dyn Send>> {
        Some(Box::new(ServerFault::make(&self.cluster, name).await?))
    }

    fn time(&self) -> Time {
        Time::Real
    }

    // Expiries are looked for every 500 ms, and revoked by a proposal each.
    fn lag(&self) -> Duration {
        // Of three, a new leader counts each lease from its election on.
        if self.disturbed { Duration::from_secs(8) } else { Duration::from_millis(1_500) }
    }
}
