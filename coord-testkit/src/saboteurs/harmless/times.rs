//! Odd times: of requests, of leases, of clients that come and go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{
    Lease, LeaseInfo, Range, RangeReply, Span, Store, StoreStatus, StoreWatch, Txn, TxnReply, round_ttl,
};
use coord_api::{ErrorKind, LeaseId, Outcome, Result, Revision};
use tokio::sync::OnceCell;
use tokio::time::sleep;

use super::super::store::BrokenStore;
use super::super::{Shared, locked};

/// Every lease lives on for the lag.
pub(super) struct Late(pub(super) Shared<HashMap<LeaseId, Duration>>, pub(super) Duration);

#[async_trait]
impl BrokenStore for Late {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let granted = round_ttl("store.grant_lease", ttl)?;
        let lease = good.grant_lease((granted + self.1).min(Duration::from_secs(9_000_000_000))).await?;
        locked(&self.0).insert(lease.id, granted);
        Ok(Lease { ttl: granted, ..lease })
    }

    async fn keep_alive(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Duration> {
        let kept = good.keep_alive(id).await?;
        Ok(locked(&self.0).get(&id).copied().unwrap_or(kept.saturating_sub(self.1)))
    }

    async fn lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Option<LeaseInfo>> {
        let info = good.lease(id).await?;
        Ok(info.map(|info| LeaseInfo { remaining: info.remaining.saturating_sub(self.1), ..info }))
    }
}

/// Grants whole multiples of five seconds.
pub(super) struct RoundsUp;

#[async_trait]
impl BrokenStore for RoundsUp {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let asked = round_ttl("store.grant_lease", ttl)?.as_secs();
        good.grant_lease(Duration::from_secs(asked.div_ceil(5) * 5)).await
    }
}

/// Takes its time when a client goes.
pub(super) struct ClosesSlowly;

#[async_trait]
impl BrokenStore for ClosesSlowly {
    async fn close(&self, good: &Arc<dyn Store>) -> Result<()> {
        sleep(Duration::from_secs(2)).await;
        good.close().await
    }
}

/// The first request of each client takes its time.
#[derive(Default)]
pub(super) struct FirstIsSlow(OnceCell<()>);

impl FirstIsSlow {
    async fn first(&self) {
        self.0.get_or_init(|| sleep(Duration::from_millis(300))).await;
    }
}

#[async_trait]
impl BrokenStore for FirstIsSlow {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        self.first().await;
        good.range(range).await
    }

    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        self.first().await;
        good.txn(txn).await
    }

    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        self.first().await;
        good.watch(span, after).await
    }

    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        self.first().await;
        good.grant_lease(ttl).await
    }

    async fn keep_alive(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Duration> {
        self.first().await;
        good.keep_alive(id).await
    }

    async fn lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Option<LeaseInfo>> {
        self.first().await;
        good.lease(id).await
    }

    async fn revoke_lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<()> {
        self.first().await;
        good.revoke_lease(id).await
    }

    async fn status(&self, good: &Arc<dyn Store>) -> Result<StoreStatus> {
        self.first().await;
        good.status().await
    }
}

/// Renewals take their time.
pub(super) struct SlowRenewals;

#[async_trait]
impl BrokenStore for SlowRenewals {
    async fn keep_alive(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Duration> {
        let kept = good.keep_alive(id).await;
        sleep(Duration::from_millis(100)).await;
        kept
    }
}

/// Watches, and looks at the status, take their time.
pub(super) struct OpensSlowly;

#[async_trait]
impl BrokenStore for OpensSlowly {
    async fn watch(&self, good: &Arc<dyn Store>, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let watch = good.watch(span, after).await;
        sleep(Duration::from_millis(300)).await;
        watch
    }

    async fn status(&self, good: &Arc<dyn Store>) -> Result<StoreStatus> {
        sleep(Duration::from_millis(300)).await;
        good.status().await
    }
}

/// Tells the time left in whole seconds, as many a server does.
pub(super) struct WholeSeconds;

#[async_trait]
impl BrokenStore for WholeSeconds {
    async fn lease(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Option<LeaseInfo>> {
        let whole =
            |info: LeaseInfo| LeaseInfo { remaining: Duration::from_secs(info.remaining.as_secs()), ..info };
        Ok(good.lease(id).await?.map(whole))
    }
}

/// Says of no write that a closed client met that it was not applied.
pub(super) struct DoubtsAtClose;

#[async_trait]
impl BrokenStore for DoubtsAtClose {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        let writes = !txn.is_read_only();
        good.txn(txn).await.map_err(|error| match error.kind() {
            ErrorKind::Closed if writes => error.with_outcome(Outcome::Unknown),
            _ => error,
        })
    }
}
