//! The outsider's store, for other programs than its own test.

use coord_recipes::layers::Namespace;
use coord_recipes::{ProviderOptions, StoreProvider};
use coord_testkit::StoreHarness;

#[path = "../outsider/store.rs"]
mod store;

pub(crate) type Outsider = StoreHarness<store::Server>;

pub(crate) fn start() -> Outsider {
    StoreHarness::new(
        store::Server::default(),
        |server| async move { server.client() },
        |server, through| async move { server.compact(through) },
        |store| StoreProvider::new(store, ProviderOptions::default()),
        Namespace::new,
    )
}
