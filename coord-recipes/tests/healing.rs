//! Answers that overtake each other while a registration heals.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::prelude::*;
use coord_api::store::{
    Lease, LeaseInfo, Op, Range, RangeReply, Span, Store, StoreStatus, StoreWatch, Txn, TxnReply,
};
use coord_api::{Error, ErrorKind, HandleState, LeaseId, RegisterOptions, Result, Revision, ServiceInstance};
use coord_memory::MemoryStore;
use coord_recipes::{ProviderOptions, StoreProvider};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// A store that can be cut off, and that holds back the first refusal of a registration's write
/// until a lease was revoked.
#[derive(Debug)]
struct Overtaken {
    store: MemoryStore,
    cut: AtomicBool,
    revoked: Notify,
    held_back: AtomicBool,
}

impl Overtaken {
    fn reach(&self) -> Result<()> {
        match self.cut.load(Ordering::SeqCst) {
            true => Err(Error::new(ErrorKind::Unavailable, "store", "cut off")),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Store for Overtaken {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        self.reach()?;
        self.store.range(range).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        self.reach()?;
        let registers =
            txn.then.iter().any(|op| matches!(op, Op::Put { key, .. } if key.starts_with(b"/services/")));
        let reply = self.store.txn(txn).await?;
        if registers && !reply.succeeded && !self.held_back.swap(true, Ordering::SeqCst) {
            self.revoked.notified().await;
        }
        Ok(reply)
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        self.reach()?;
        self.store.watch(span, after).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        self.reach()?;
        self.store.grant_lease(ttl).await
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<Duration> {
        self.reach()?;
        self.store.keep_alive(id).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        self.reach()?;
        self.store.lease(id).await
    }

    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        self.reach()?;
        // Later than the write that heals, and answered before it.
        while !self.held_back.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(10)).await;
        }
        self.store.revoke_lease(id).await?;
        self.revoked.notify_one();
        Ok(())
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.reach()?;
        self.store.status().await
    }

    coord_api::forward_store! { self => self.store; close }
}

/// R37: an owner's own entry, left under a lease that is revoked just then, is no stranger's.
#[tokio::test(start_paused = true)]
async fn a_healer_knows_its_own_old_entry_though_its_lease_is_gone_meanwhile() {
    let ttl = Duration::from_secs(10);
    let store = MemoryStore::new();
    let overtaken = Arc::new(Overtaken {
        store: store.client(),
        cut: AtomicBool::new(false),
        revoked: Notify::new(),
        held_back: AtomicBool::new(false),
    });
    let coord = StoreProvider::new(Arc::clone(&overtaken) as Arc<dyn Store>, ProviderOptions::default());
    let instance = ServiceInstance::new("svc", "one", "127.0.0.1", 80);
    let registration =
        coord.registry().register_with(instance, RegisterOptions::default().with_ttl(ttl)).await.unwrap();
    // Someone keeps the lease alive in the store while its owner is cut off past its own deadline:
    // the old entry is there when it comes back.
    let lease =
        store.range(Range::key("/services/svc/one")).await.unwrap().entries.first().unwrap().lease.unwrap();
    overtaken.cut.store(true, Ordering::SeqCst);
    while registration.state() == HandleState::Held {
        store.keep_alive(lease).await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    overtaken.cut.store(false, Ordering::SeqCst);
    let back = async {
        while registration.state() != HandleState::Held {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), back).await.expect("it is back");
    assert!(
        overtaken.held_back.load(Ordering::SeqCst),
        "the answers did not overtake each other: this proves nothing"
    );
}
