//! A store that takes its time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{
    Lease, LeaseInfo, Range, RangeReply, Span, Store, StoreStatus, StoreWatch, Txn, TxnReply,
};
use coord_api::{LeaseId, Result, Revision};
use tokio::time::sleep;

/// A store that takes its time: every request is under way for a while before it is carried out,
/// and its answer for a while after, so that the requests of several clients overlap in every way.
/// The same seed gives the same delays.
#[derive(Debug)]
pub struct Delayed<S> {
    inner: S,
    longest: Duration,
    random: AtomicU64,
}

impl<S> Delayed<S> {
    /// Delays requests to `inner`, and their answers, by up to `longest` each.
    pub fn new(inner: S, longest: Duration, seed: u64) -> Self {
        Delayed { inner, longest, random: AtomicU64::new(seed.wrapping_mul(2).wrapping_add(1)) }
    }

    async fn pass(&self) {
        // SplitMix64: nothing depends on its quality.
        let mut x = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        let thousandth = u32::try_from(x % 1_000).unwrap_or(0);
        sleep(self.longest * thousandth / 1_000).await;
    }

    async fn delayed<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        self.pass().await;
        let answer = request.await;
        self.pass().await;
        answer
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for Delayed<S> {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        self.delayed(self.inner.range(range)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        self.delayed(self.inner.txn(txn)).await
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        self.delayed(self.inner.watch(span, after)).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        self.delayed(self.inner.grant_lease(ttl)).await
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<Duration> {
        self.delayed(self.inner.keep_alive(id)).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        self.delayed(self.inner.lease(id)).await
    }

    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        self.delayed(self.inner.revoke_lease(id)).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.delayed(self.inner.status()).await
    }

    coord_api::forward_store! { self => self.inner; close }
}
