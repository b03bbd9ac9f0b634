//! The whole kit on a store that its author wrote from the guide.

use coord_recipes::layers::Namespace;
use coord_recipes::{ProviderOptions, StoreProvider};
use coord_testkit::StoreHarness;

use coord_tests::third_party as store;

coord_testkit::conformance!(
    volatile,
    StoreHarness::new(
        store::Server::default(),
        |server| async move { server.client() },
        |server, through| async move { server.compact(through) },
        |store| StoreProvider::new(store, ProviderOptions::default()),
        Namespace::new,
    )
);
