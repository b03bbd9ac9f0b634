//! A plain store in memory, whose config centre is read by an instance that gray releases may be
//! for: without one, everything must be as without the two keys.

use std::sync::Arc;

use async_trait::async_trait;
use coord_api::store::Store;
use coord_api::{ConfigCenter, DistributedLock, InstanceIdAllocator, Provider, Result, ServiceRegistry};
use coord_core::layers::Namespace;
use coord_recipes::{GrayConfig, GrayIdentity, ProviderOptions, StoreProvider};
use coord_testkit::StoreHarness;

use crate::third_party::Server;

/// A fresh store.
pub fn start() -> StoreHarness<Server> {
    StoreHarness::new(
        Server::default(),
        |server| async move { server.client() },
        |server, through| async move { server.compact(through) },
        |store| Arc::new(Instance::over(store)),
        Namespace::new,
    )
}

/// A provider as an instance has it.
#[derive(Debug)]
struct Instance {
    provider: Arc<StoreProvider>,
    config: Arc<dyn ConfigCenter>,
}

impl Instance {
    #[allow(clippy::expect_used, reason = "the identity is a good one")]
    fn over(store: Arc<dyn Store>) -> Self {
        let provider = StoreProvider::new(store, ProviderOptions::default());
        let me = GrayIdentity::new("me").with_label("zone", "north");
        let config = GrayConfig::new(provider.core(), me).expect("a good identity");
        Instance { config: Arc::new(config), provider }
    }
}

#[async_trait]
impl Provider for Instance {
    fn config(&self) -> &Arc<dyn ConfigCenter> {
        &self.config
    }

    fn lock(&self) -> &Arc<dyn DistributedLock> {
        self.provider.lock()
    }

    fn registry(&self) -> &Arc<dyn ServiceRegistry> {
        self.provider.registry()
    }

    fn allocator(&self) -> &Arc<dyn InstanceIdAllocator> {
        self.provider.allocator()
    }

    async fn close(&self) -> Result<()> {
        self.provider.close().await
    }
}
