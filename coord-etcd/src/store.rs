//! The store over an etcd cluster.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{
    Effect, Lease, LeaseInfo, Range, RangeReply, Span, Store, StoreStatus, StoreWatch, Txn, TxnReply,
    round_ttl,
};
use coord_api::{LeaseId, Result, Revision};
use coord_recipes::Home;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::certificates::{self, CertificateReport};
use crate::cluster::Cluster;
use crate::kv;
use crate::lease::{self, Granted};
use crate::options::EtcdOptions;
use crate::report::{self, ClusterReport};
use crate::status;
use crate::watch::Watches;

/// One client of an etcd cluster, as a [`Store`].
///
/// - Each member is connected to by itself. Where one fails, reads and renewals go on at another
///   one within the same call; a write does only when it was not applied. The client goes back when
///   the one that failed has answered a trial of its own.
/// - Every attempt is bounded by
///   [`RetryPolicy::attempt_timeout`](coord_recipes::layers::RetryPolicy) of the options' retry
///   policy, and a request with all its attempts by `total_timeout`. No attempt is repeated after a
///   pause: that is done by the [`Retry`](coord_recipes::layers::Retry) layer, which
///   [`EtcdProvider`](crate::EtcdProvider) has around its store.
/// - **S4** A watch that is not read for long, or that has gone deaf, ends with `Unavailable`. The
///   past is watched from the last revision that was seen on, inclusively, and what was seen is
///   dropped.
/// - **S5** A lease is `LeaseLost` only when a member says so that has caught up with everything
///   acknowledged.
/// - The namespace of the options is not applied here: [`EtcdProvider`](crate::EtcdProvider) does
///   that.
///
/// Cheap to clone; clones are the same client, which ends with [`close`](Store::close) or with its
/// last clone.
///
/// A request is polled where its caller is; connections, streams, look-ups, trials and timers live
/// in the client's [`Home`], by default a thread of its own ([`EtcdOptions::home`]). So it may be
/// opened in one runtime and used in another one, or outside of any.
#[derive(Clone)]
pub struct EtcdStore {
    inner: Arc<EtcdClient>,
}

struct EtcdClient {
    cluster: Arc<Cluster>,
    granted: Granted,
    watches: Watches,
    /// Cancels everything that runs for the client when its last clone is dropped.
    _closes: DropGuard,
}

impl EtcdStore {
    /// A client that connects when it is first used (R3). No I/O but reading the files that the
    /// options name.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for options that [`EtcdOptions::validate`] refuses.
    pub fn connect_lazy(options: &EtcdOptions) -> Result<Self> {
        let closing = CancellationToken::new();
        let cluster = Arc::new(Cluster::new(options, closing.clone())?);
        let watches = Watches::new(Arc::clone(&cluster));
        Ok(EtcdStore {
            inner: Arc::new(EtcdClient {
                cluster,
                granted: Granted::default(),
                watches,
                _closes: closing.drop_guard(),
            }),
        })
    }

    /// A client that is connected: one member answered within the connect timeout (R3).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for options that [`EtcdOptions::validate`] refuses; `Unauthenticated` for
    /// a wrong password; `Unavailable` when no member answered rightly in time.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn connect(options: &EtcdOptions) -> Result<Self> {
        let store = EtcdStore::connect_lazy(options)?;
        store.reach(options).await?;
        Ok(store)
    }

    /// Where connections, watches and timers live.
    pub fn home(&self) -> &Home {
        self.inner.cluster.home()
    }

    /// What the cluster says of itself: who belongs to it, and how each of them is. It is for those
    /// who operate it, and costs a few requests to each member, which are asked at the same time.
    /// Members that do not answer are in it, each with the reason.
    ///
    /// # Errors
    ///
    /// Those of a read, where no member says who belongs to the cluster.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn report(&self) -> Result<ClusterReport> {
        report::report(&self.inner.cluster).await
    }

    /// Until when the certificates of encrypted connections are valid: those that the servers show,
    /// the client's own and its authorities'. `None` where nothing is encrypted.
    ///
    /// It is for those who operate the cluster: each server is connected to once more, at the same
    /// time and within the connect timeout, and asked nothing. What it shows is told also where it
    /// is not trusted, so that it can be seen why a cluster cannot be reached any more.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn certificates(&self) -> Option<CertificateReport> {
        certificates::report(self.inner.cluster.members()).await
    }

    /// Waits until one member has answered.
    pub(crate) async fn reach(&self, options: &EtcdOptions) -> Result<()> {
        self.inner.cluster.connect("etcd.connect", options.connect_timeout).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for EtcdStore {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        range.validate()?;
        kv::range(&self.inner.cluster, &range).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        txn.validate()?;
        kv::txn(&self.inner.cluster, &txn).await
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        span.validate("store.watch")?;
        self.inner.watches.open(&self.inner.cluster, &span, after).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        let ttl = round_ttl("store.grant_lease", ttl)?;
        lease::grant(&self.inner.cluster, &self.inner.granted, ttl).await
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<Duration> {
        lease::keep_alive(&self.inner.cluster, &self.inner.granted, id).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        lease::lease(&self.inner.cluster, id).await
    }

    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        lease::revoke(&self.inner.cluster, &self.inner.granted, id).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.inner
            .cluster
            .call("store.status", Effect::Read, |asked| async move { status::status(&asked.link.main).await })
            .await
    }

    async fn close(&self) -> Result<()> {
        self.inner.cluster.closing().cancel();
        Ok(())
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore")
            .field("members", &self.inner.cluster.members().names())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use coord_api::store::Op;

    use super::*;

    #[test]
    fn the_future_of_a_request_is_small() {
        let store = EtcdStore::connect_lazy(&EtcdOptions::default()).unwrap();
        // In a debug build. A request, or a future that makes one, that is stored once more than it
        // must be makes it larger.
        let sizes = [
            size_of_val(&*store.range(Range::key("k"))),
            size_of_val(&*store.txn(Txn::new().then(Op::put("k", "v")))),
        ];
        assert!(sizes.iter().all(|size| *size <= 1_600), "{sizes:?} bytes");
    }
}
