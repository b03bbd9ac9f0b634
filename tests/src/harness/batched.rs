//! A plain store in memory, through the layer that sends together what comes at once.

use coord_core::layers::{Batched, Namespace};
use coord_recipes::{ProviderOptions, StoreProvider};
use coord_testkit::StoreHarness;

use crate::third_party::Server;

/// A fresh store.
pub fn start() -> StoreHarness<Server> {
    StoreHarness::new(
        Server::default(),
        |server| async move { Batched::new(server.client()) },
        |server, through| async move { server.compact(through) },
        |store| StoreProvider::new(store, ProviderOptions::default()),
        Namespace::new,
    )
    .batching()
}
