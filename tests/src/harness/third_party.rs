//! The store that was written from the guide.

use coord_recipes::layers::Namespace;
use coord_recipes::{ProviderOptions, StoreProvider};
use coord_testkit::StoreHarness;

use crate::third_party::Server;

/// A harness over it.
pub type ThirdParty = StoreHarness<Server>;

/// A fresh store.
pub fn start() -> ThirdParty {
    StoreHarness::new(
        Server::default(),
        |server| async move { server.client() },
        |server, through| async move { server.compact(through) },
        |store| StoreProvider::new(store, ProviderOptions::default()),
        Namespace::new,
    )
}
