//! One of each thing that is leased, to see whether a disturbance takes it away.

use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{IdOptions, InstanceId, LockGuard, RegisterOptions, Registration, ServiceInstance};
use coord_etcd::EtcdProvider;
use futures_util::FutureExt;

/// A lock, a registration and an instance id of one provider.
pub(super) struct Held {
    pub(super) guard: LockGuard,
    pub(super) registration: Registration,
    pub(super) id: InstanceId,
}

impl Held {
    pub(super) async fn new(provider: &EtcdProvider, ttl: Duration) -> Self {
        let guard = provider.lock().acquire("held", ttl).await.unwrap();
        let instance = ServiceInstance::new("held", "one", "127.0.0.1", 1);
        let registration = provider
            .registry()
            .register_with(instance, RegisterOptions::default().with_ttl(ttl))
            .await
            .unwrap();
        let id =
            provider.allocator().acquire_id_with("held", IdOptions::default().with_ttl(ttl)).await.unwrap();
        Held { guard, registration, id }
    }

    pub(super) fn assert_held(&self, when: &str) {
        let states = [self.guard.state(), self.registration.state(), self.id.state()];
        assert!(states.iter().all(|state| state.is_held()), "{when}: {states:?}");
        let lost = [self.guard.lost(), self.registration.lost(), self.id.lost()].map(FutureExt::now_or_never);
        assert!(lost.iter().all(Option::is_none), "{when}: {lost:?}");
    }

    /// Gives all of it back, which the store acknowledges.
    pub(super) async fn release(self) {
        self.guard.unlock().await.unwrap();
        self.registration.unregister().await.unwrap();
        self.id.release().await.unwrap();
    }
}
