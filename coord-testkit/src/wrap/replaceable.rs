//! A store that can be replaced under its users.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{
    Lease, LeaseInfo, Range, RangeReply, Span, Store, StoreStatus, StoreWatch, Txn, TxnReply,
};
use coord_api::{LeaseId, Result, Revision};

/// A store that can be replaced under its users: a client of a server that restarts sees the same
/// address answer again. Cheap to clone.
#[derive(Clone)]
pub struct Replaceable {
    present: Arc<RwLock<Arc<dyn Store>>>,
}

impl Replaceable {
    /// A store that is `store` at first.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Replaceable { present: Arc::new(RwLock::new(store)) }
    }

    /// Sends what comes next to another store. What is under way stays with the old one.
    pub fn replace(&self, store: Arc<dyn Store>) {
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = store;
    }

    fn present(&self) -> Arc<dyn Store> {
        Arc::clone(&self.present.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Replaceable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Replaceable").field(&self.present()).finish()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for Replaceable {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        self.present().range(range).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        self.present().txn(txn).await
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        self.present().watch(span, after).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        self.present().grant_lease(ttl).await
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<Duration> {
        self.present().keep_alive(id).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        self.present().lease(id).await
    }

    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        self.present().revoke_lease(id).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.present().status().await
    }

    async fn close(&self) -> Result<()> {
        self.present().close().await
    }
}
