//! What the cases of primitives share: a client for them over a client of the harness.
#![allow(clippy::expect_used, reason = "a case fails by panicking")]

use std::sync::Arc;

use coord_api::Provider;
use coord_api::store::{Entry, Op, Order, Range, Store, Txn};
use coord_core::Home;
use coord_recipes::{
    Barrier, Counter, Election, Gray, GrayConfig, GrayIdentity, History, Once, Queue, Semaphore,
};
use coord_testkit::Client;

/// What primitives are made over: one client of the store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Primitives {
    /// The client that they are made over.
    pub client: coord_core::Client,
    /// The contracts over the same store, which may own the store's client.
    pub provider: Arc<dyn Provider>,
}

impl Primitives {
    /// Over a client of the harness.
    pub fn of(client: &Client) -> Self {
        let over = coord_core::Client::new(Arc::clone(&client.store), "kit", Home::new("kit"));
        Primitives { client: over, provider: Arc::clone(&client.provider) }
    }

    /// The barrier of this name.
    pub fn barrier(&self, name: &str) -> Barrier {
        Barrier::new(&self.client, name)
    }

    /// The counter of this name.
    pub fn counter(&self, name: &str) -> Counter {
        Counter::new(&self.client, name)
    }

    /// The election of this name.
    pub fn election(&self, name: &str) -> Election {
        Election::new(&self.client, name)
    }

    /// The gray releases of the config centre.
    pub fn gray(&self) -> Gray {
        Gray::new(&self.client)
    }

    /// The config centre as this instance sees it.
    pub fn gray_config(&self, instance: GrayIdentity) -> GrayConfig {
        GrayConfig::new(&self.client, instance).expect("a good identity")
    }

    /// What was published under the keys of the config centre.
    pub fn history(&self) -> History {
        History::new(&self.client)
    }

    /// What is done once.
    pub fn once(&self) -> Once {
        Once::new(&self.client)
    }

    /// The queue of this name.
    pub fn queue(&self, name: &str) -> Queue {
        Queue::new(&self.client, name)
    }

    /// The ordered queue of this name.
    pub fn ordered_queue(&self, name: &str) -> Queue {
        Queue::ordered(&self.client, name)
    }

    /// The semaphore of this name.
    pub fn semaphore(&self, name: &str) -> Semaphore {
        Semaphore::new(&self.client, name)
    }
}

/// The entries under a prefix, the oldest first.
pub async fn entries(store: &dyn Store, prefix: &str) -> Vec<Entry> {
    let range = Range::prefix(prefix.to_owned()).with_order(Order::OldestFirst);
    store.range(range).await.expect("the store answers").entries
}

/// Writes a key without a lease, as someone else would.
pub async fn put(store: &dyn Store, key: &str, value: &str) {
    let put = Txn::new().then(Op::put(key.to_owned(), value.to_owned()));
    store.txn(put).await.expect("the store answers");
}

/// Deletes a key, as someone else would.
pub async fn delete(store: &dyn Store, key: impl Into<bytes::Bytes>) {
    store.txn(Txn::new().then(Op::delete(key))).await.expect("the store answers");
}
