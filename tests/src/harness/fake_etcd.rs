//! The kit's harness over etcd's store on the fake etcd: all of the protocol, and no process.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a harness that cannot be made fails its case")]

use std::sync::Arc;
use std::time::Duration;

use coord_api::store::Store;
use coord_api::{Provider, Revision};
use coord_etcd::{EtcdOptions, EtcdProvider, EtcdStore};
use coord_fake_etcd::{FakeEtcd, FakeEtcdOptions};
use coord_testkit::{Client, Harness, Time};

use super::etcd::{assemble, compact_at, namespaced};

/// A fake, and who is connected to it.
pub struct Fake {
    server: FakeEtcd,
}

impl Fake {
    /// Starts a fake on a free port.
    pub fn start() -> Self {
        let options = FakeEtcdOptions::default().with_min_lease_ttl(Duration::from_secs(1));
        Fake { server: FakeEtcd::start(options).expect("there is a free port") }
    }
}

#[async_trait::async_trait]
impl Harness for Fake {
    async fn client(&self) -> Client {
        let options = EtcdOptions::new([self.server.endpoint()]);
        let store = EtcdStore::connect(&options).await.expect("the server answers");
        let provider = EtcdProvider::over(store.clone(), &options).expect("good options");
        let crashing = store.clone();
        Client::new(Arc::new(store), provider, move || async move {
            crashing.close().await.expect("closing does no I/O")
        })
    }

    fn assemble(&self, store: Arc<dyn Store>) -> Arc<dyn Provider> {
        assemble(store)
    }

    fn namespaced(&self, store: Arc<dyn Store>, namespace: &str) -> Arc<dyn Provider> {
        namespaced(store, namespace)
    }

    async fn compact(&self, through: Revision) {
        compact_at(&self.server.endpoint(), through).await.unwrap();
    }

    async fn another(&self) -> Option<Arc<dyn Harness>> {
        Some(Arc::new(Fake::start()))
    }

    fn time(&self) -> Time {
        Time::Real
    }

    // Leases end on time, where the machine has time for it.
    fn lag(&self) -> Duration {
        Duration::from_secs(1)
    }
}
