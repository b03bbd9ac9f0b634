//! The harness of most backends: a store, and the provider that `coord-recipes` makes over it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::Store;
use coord_api::{Provider, Result, Revision};
use futures_util::future::BoxFuture;

use crate::harness::{Client, Harness, Reopened, Time};

type Assemble = Box<dyn Fn(Arc<dyn Store>) -> Arc<dyn Provider> + Send + Sync>;
type Confine = Box<dyn Fn(Arc<dyn Store>, &str) -> Result<Arc<dyn Store>> + Send + Sync>;
/// What is done with the shared side, and takes its time.
type Action<S, A, T> = Box<dyn Fn(Arc<S>, A) -> BoxFuture<'static, T> + Send + Sync>;

/// A [`Harness`] made of closures, for a backend that is a [`Store`]: the whole of what its author
/// writes.
///
/// `S` is the side that all clients share: a running server, an open directory, or the data itself.
/// The harness owns it, so that it ends with the case.
///
/// A client crashes by closing its store, which ends everything of the client's and revokes nothing
/// (R8). Time is virtual unless [`real_time`](Self::real_time) says otherwise, and the store
/// volatile unless [`reopening`](Self::reopening) does. The [first page](crate) shows one.
pub struct StoreHarness<S> {
    server: Arc<S>,
    client: Action<S, (), Arc<dyn Store>>,
    compact: Action<S, Revision, ()>,
    reopen: Option<Action<S, (), ()>>,
    provider: Assemble,
    namespace: Confine,
    time: Time,
    lag: Duration,
    ttl: Option<Duration>,
    batches: bool,
}

impl<S: Send + Sync + 'static> StoreHarness<S> {
    /// The harness of a fresh, empty store behind `server`.
    ///
    /// - `client` makes a further client of it, as independent of the others as another process
    ///   would be.
    /// - `compact` forgets the history up to and including a revision.
    /// - `provider` makes the backend's provider over a store, which may be one inside a wrapper of
    ///   the kit's, and out of reach at this moment (R3).
    /// - `namespace` makes a part of a store a store of its own (R5).
    pub fn new<C, CF, KF, P, N>(
        server: S,
        client: impl Fn(Arc<S>) -> CF + Send + Sync + 'static,
        compact: impl Fn(Arc<S>, Revision) -> KF + Send + Sync + 'static,
        provider: impl Fn(Arc<dyn Store>) -> Arc<P> + Send + Sync + 'static,
        namespace: impl Fn(Arc<dyn Store>, &str) -> Result<N> + Send + Sync + 'static,
    ) -> Self
    where
        C: Store,
        CF: Future<Output = C> + Send + 'static,
        KF: Future<Output = ()> + Send + 'static,
        P: Provider,
        N: Store,
    {
        StoreHarness {
            server: Arc::new(server),
            client: Box::new(move |server, ()| {
                let connecting = client(server);
                Box::pin(async move { Arc::new(connecting.await) as Arc<dyn Store> })
            }),
            compact: Box::new(move |server, through| Box::pin(compact(server, through))),
            reopen: None,
            provider: Box::new(move |store| provider(store)),
            namespace: Box::new(move |store, name| Ok(Arc::new(namespace(store, name)?))),
            time: Time::Virtual,
            lag: Duration::from_millis(1),
            ttl: None,
            batches: false,
        }
    }

    /// The store lives by the clock on the wall, as everything outside of this process does, and
    /// may notice an expiry by `lag` late (R7): with a leader election among its causes, by the
    /// longest of those.
    #[must_use]
    pub fn real_time(mut self, lag: Duration) -> Self {
        self.time = Time::Real;
        self.lag = lag;
        self
    }

    /// The store may notice an expiry by `lag` late (R7), also where its time is virtual.
    #[must_use]
    pub fn with_lag(mut self, lag: Duration) -> Self {
        self.lag = lag;
        self
    }

    /// Calls of one client that come at once may share a revision (R82). See [`Harness::batches`].
    #[must_use]
    pub fn batching(mut self) -> Self {
        self.batches = true;
        self
    }

    /// The TTL that the cases ask for where any would do. See [`Harness::ttl`].
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The store is persistent: `reopen` kills its process, as `kill -9` would, and opens its data
    /// again. See [`Harness::reopen`].
    #[must_use]
    pub fn reopening<F: Future<Output = ()> + Send + 'static>(
        mut self,
        reopen: impl Fn(Arc<S>) -> F + Send + Sync + 'static,
    ) -> Self {
        self.reopen = Some(Box::new(move |server, ()| Box::pin(reopen(server))));
        self
    }
}

#[async_trait]
impl<S: Send + Sync + 'static> Harness for StoreHarness<S> {
    async fn client(&self) -> Client {
        let store = (self.client)(Arc::clone(&self.server), ()).await;
        let crashing = Arc::clone(&store);
        Client::new(Arc::clone(&store), (self.provider)(store), move || async move {
            // Whatever it answers, the client is closed (R8).
            let _ = crashing.close().await;
        })
    }

    fn assemble(&self, store: Arc<dyn Store>) -> Arc<dyn Provider> {
        (self.provider)(store)
    }

    #[expect(clippy::expect_used, reason = "a harness that cannot be made fails its case")]
    fn namespaced(&self, store: Arc<dyn Store>, namespace: &str) -> Arc<dyn Provider> {
        (self.provider)((self.namespace)(store, namespace).expect("a good namespace"))
    }

    async fn compact(&self, through: Revision) {
        (self.compact)(Arc::clone(&self.server), through).await;
    }

    async fn reopen(&self) -> Reopened {
        match &self.reopen {
            Some(reopen) => {
                reopen(Arc::clone(&self.server), ()).await;
                Reopened::Done
            }
            None => Reopened::Volatile,
        }
    }

    fn time(&self) -> Time {
        self.time
    }

    fn lag(&self) -> Duration {
        self.lag
    }

    fn batches(&self) -> bool {
        self.batches
    }

    fn ttl(&self) -> Duration {
        self.ttl.unwrap_or_else(|| self.time.usual_ttl())
    }
}

impl<S> fmt::Debug for StoreHarness<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreHarness")
            .field("time", &self.time)
            .field("lag", &self.lag)
            .finish_non_exhaustive()
    }
}
