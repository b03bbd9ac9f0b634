//! The volatile store.
#![allow(clippy::expect_used, reason = "a harness that cannot be made fails its case")]

use std::sync::Arc;
use std::time::Duration;

use coord_api::store::Store;
use coord_api::{Provider, Revision};
use coord_memory::MemoryProvider;
use coord_recipes::layers::Namespace;
use coord_recipes::{ProviderOptions, StoreProvider};
use coord_testkit::{Client, Harness, Time};

/// The volatile store.
pub struct Volatile(Arc<MemoryProvider>);

impl Volatile {
    /// A fresh store.
    pub fn start() -> Self {
        Volatile(MemoryProvider::new())
    }
}

#[async_trait::async_trait]
impl Harness for Volatile {
    async fn client(&self) -> Client {
        let client = self.0.client();
        let crashing = Arc::clone(&client);
        Client::new(Arc::new(client.store().clone()), client, move || async move { crashing.abandon() })
    }

    fn assemble(&self, store: Arc<dyn Store>) -> Arc<dyn Provider> {
        StoreProvider::new(store, ProviderOptions::default())
    }

    fn namespaced(&self, store: Arc<dyn Store>, namespace: &str) -> Arc<dyn Provider> {
        self.assemble(Arc::new(Namespace::new(store, namespace).expect("a good namespace")))
    }

    async fn compact(&self, through: Revision) {
        self.0.compact(through).await.expect("the store is open");
    }

    async fn another(&self) -> Option<Arc<dyn Harness>> {
        Some(Arc::new(Volatile::start()))
    }

    fn time(&self) -> Time {
        Time::Virtual
    }

    fn lag(&self) -> Duration {
        Duration::from_millis(1)
    }
}
