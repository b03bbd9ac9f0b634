//! What every client of a store owes, whatever the store is: each call ends, and after `close` all.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{
    Effect, Lease, LeaseInfo, Range, RangeReply, Span, Store, StoreStatus, StoreWatch, Txn, TxnReply,
    round_ttl,
};
use coord_api::{Error, ErrorKind, LeaseId, Result, Revision};
use coord_home::Home;
use futures_util::stream;
use tokio_util::sync::CancellationToken;

use crate::error::homeless;

/// A client of a store whose calls and streams all end, as R1, R2 and R8 want it: what the author
/// of a backend puts next to their store, so that it has none of this to do.
///
/// - **Checked.** [`Range::validate`], [`Txn::validate`], [`Span::validate`] and [`round_ttl`] come
///   first: what is refused never reaches the store, and a TTL reaches it in whole seconds (R1,
///   R7). So a store that is reached through this layer alone checks nothing.
/// - **Deadlines.** A call that is not answered within the limit is dropped and is `Timeout`.
/// - **Outcomes.** A call that was begun and ended by its deadline or by `close` has the outcome
///   that [`Effect::in_doubt`] says: `Unknown`, but for a read (R2). What the store itself answers
///   is handed on as it is.
/// - **Closed.** After [`close`](Store::close) each call is `Closed`, without asking the store;
///   those under way end with `Closed` at once, and so does each stream, as its last item. Then
///   the store is closed, within the limit, and only until it said Ok (R8). Clones are the same
///   client.
/// - **Streams** end after their first error. One that ends without an error ends with
///   `Unavailable` (S4, R20).
///
/// It repeats nothing. The timers are those of a [`Home`], so that the caller's runtime needs none.
///
/// # Cancel safety
///
/// That of the store below: a dropped call drops the store's. A call that is left alone after a
/// poll holds up no other one.
#[derive(Clone, Debug)]
pub struct Bounded<S> {
    store: S,
    limit: Duration,
    home: Home,
    closed: CancellationToken,
    /// Whether the store itself is closed.
    ended: Arc<AtomicBool>,
}

impl<S: Store> Bounded<S> {
    /// Bounds each call to `store` by `limit`.
    pub fn new(store: S, limit: Duration) -> Self {
        Bounded {
            store,
            limit,
            home: Home::shared(),
            closed: CancellationToken::new(),
            ended: Arc::default(),
        }
    }

    /// Uses the timers of this [`Home`] instead of those that all layers of the process share.
    #[must_use]
    pub fn with_home(mut self, home: Home) -> Self {
        self.home = home;
        self
    }

    /// The store inside.
    pub fn inner(&self) -> &S {
        &self.store
    }

    async fn run<T>(
        &self,
        operation: &'static str,
        effect: Effect,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        if self.closed.is_cancelled() {
            return Err(Error::closed(operation));
        }
        self.home.ready().map_err(|error| homeless(operation, error))?;
        tokio::select! {
            biased;
            answer = self.home.timeout(self.limit, call) => {
                answer.unwrap_or_else(|_| Err(timed_out(operation).with_outcome(effect.in_doubt())))
            }
            () = self.closed.cancelled() => Err(Error::closed(operation).with_outcome(effect.in_doubt())),
        }
    }
}

fn timed_out(operation: &'static str) -> Error {
    Error::new(ErrorKind::Timeout, operation, "the store did not answer in time")
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for Bounded<S> {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        range.validate()?;
        self.run("store.range", Effect::Read, self.store.range(range)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        txn.validate()?;
        self.run("store.txn", txn.effect(), self.store.txn(txn)).await
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        const OPERATION: &str = "store.watch";
        span.validate(OPERATION)?;
        let watch = self.run(OPERATION, Effect::Read, self.store.watch(span, after)).await?;
        let armed = watch.armed();
        let items = stream::unfold(Some((watch, self.closed.clone())), |open| async move {
            let (mut watch, closed) = open?;
            let item = tokio::select! {
                biased;
                () = closed.cancelled() => Err(Error::closed(OPERATION)),
                item = watch.next() => item.unwrap_or_else(|| {
                    Err(Error::new(ErrorKind::Unavailable, OPERATION, "the store ended the stream"))
                }),
            };
            let open = item.is_ok().then_some((watch, closed));
            Some((item, open))
        });
        Ok(StoreWatch::new(armed, items))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        let ttl = round_ttl("store.grant_lease", ttl)?;
        self.run("store.grant_lease", Effect::Write, self.store.grant_lease(ttl)).await
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<Duration> {
        self.run("store.keep_alive", Effect::Idempotent, self.store.keep_alive(id)).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        self.run("store.lease", Effect::Read, self.store.lease(id)).await
    }

    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        self.run("store.revoke_lease", Effect::Idempotent, self.store.revoke_lease(id)).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.run("store.status", Effect::Read, self.store.status()).await
    }

    async fn close(&self) -> Result<()> {
        self.closed.cancel();
        if self.ended.load(Ordering::Acquire) || self.home.ready().is_err() {
            return Ok(());
        }
        let closed = self.home.timeout(self.limit, self.store.close()).await;
        closed.unwrap_or_else(|_| Err(timed_out("store.close")))?;
        self.ended.store(true, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::AtomicUsize;

    use coord_api::Outcome;
    use coord_api::store::{Op, StoreEvent};
    use coord_memory::MemoryStore;
    use futures_util::FutureExt;
    use tokio::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    /// A store that answers nothing but `watch`, or all; and counts what reaches it.
    #[derive(Clone, Debug)]
    struct Silent {
        good: MemoryStore,
        silent: bool,
        asked: Arc<AtomicUsize>,
    }

    impl Silent {
        async fn pass<T>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.silent { pending().await } else { call.await }
        }
    }

    #[async_trait]
    impl Store for Silent {
        async fn range(&self, range: Range) -> Result<RangeReply> {
            self.pass(self.good.range(range)).await
        }

        async fn txn(&self, txn: Txn) -> Result<TxnReply> {
            self.pass(self.good.txn(txn)).await
        }

        async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let watch = self.good.watch(span, after).await?;
            // Ends without a word after its first item.
            Ok(StoreWatch::new(watch.armed(), futures_util::StreamExt::take(watch, 1)))
        }

        async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
            self.pass(self.good.grant_lease(ttl)).await
        }

        async fn keep_alive(&self, id: LeaseId) -> Result<Duration> {
            self.pass(self.good.keep_alive(id)).await
        }

        async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
            self.pass(self.good.lease(id)).await
        }

        async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
            self.pass(self.good.revoke_lease(id)).await
        }

        async fn status(&self) -> Result<StoreStatus> {
            self.pass(self.good.status()).await
        }

        async fn close(&self) -> Result<()> {
            self.pass(self.good.close()).await
        }
    }

    fn over(silent: bool) -> (Bounded<Silent>, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let store = Silent { good: MemoryStore::new(), silent, asked: Arc::clone(&asked) };
        (Bounded::new(store, LIMIT), asked)
    }

    /// Every request but `watch` and `close`, with what is known of it when it is not answered.
    async fn all(store: &impl Store) -> Vec<(Error, Outcome)> {
        let id = LeaseId::new(7);
        let read = Txn::new().then(Op::Range(Range::key("k")));
        let (range, reads, writes, grant, keep, look, revoke, status) = futures_util::join!(
            store.range(Range::key("k")),
            store.txn(read),
            store.txn(Txn::new().then(Op::put("k", "1"))),
            store.grant_lease(Duration::from_secs(1)),
            store.keep_alive(id),
            store.lease(id),
            store.revoke_lease(id),
            store.status(),
        );
        vec![
            (range.unwrap_err(), Outcome::NotApplied),
            (reads.unwrap_err(), Outcome::NotApplied),
            (writes.unwrap_err(), Outcome::Unknown),
            (grant.unwrap_err(), Outcome::Unknown),
            (keep.unwrap_err(), Outcome::Unknown),
            (look.unwrap_err(), Outcome::NotApplied),
            (revoke.unwrap_err(), Outcome::Unknown),
            (status.unwrap_err(), Outcome::NotApplied),
        ]
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_not_answered_ends_at_its_limit() {
        let (store, _) = over(true);
        let begun = Instant::now();
        for (error, outcome) in all(&store).await {
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, outcome), "{error}");
        }
        assert_eq!(begun.elapsed(), LIMIT);
        assert_eq!(store.close().await.unwrap_err().kind(), ErrorKind::Timeout);
        assert_eq!(begun.elapsed(), LIMIT * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn closing_ends_what_is_under_way_in_doubt_and_what_comes_without_asking() {
        let (store, asked) = over(true);
        let closing = store.clone();
        let begun = Instant::now();
        let (errors, closed) = futures_util::join!(all(&store), async move {
            tokio::task::yield_now().await;
            closing.close().await
        });
        assert_eq!(closed.unwrap_err().kind(), ErrorKind::Timeout);
        for (error, outcome) in errors {
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, outcome), "{error}");
        }
        let before = asked.load(Ordering::SeqCst);
        for (error, _) in all(&store).await {
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Closed, Outcome::NotApplied), "{error}");
        }
        assert_eq!(store.watch(Span::key("k"), None).await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!((asked.load(Ordering::SeqCst), begun.elapsed()), (before, LIMIT));
    }

    #[tokio::test(start_paused = true)]
    async fn the_store_is_closed_once() {
        let (store, asked) = over(false);
        store.close().await.unwrap();
        store.clone().close().await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_with_an_error_and_only_then() {
        let (store, _) = over(false);
        let mut ending = store.watch(Span::key("k"), None).await.unwrap();
        let mut closing = store.watch(Span::key("other"), None).await.unwrap();
        store.txn(Txn::new().then(Op::put("k", "1"))).await.unwrap();
        assert!(matches!(ending.next().await, Some(Ok(StoreEvent::Batch(_)))));
        assert_eq!(ending.next().await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(ending.next().await.is_none());

        assert!(closing.next().now_or_never().is_none(), "it waits");
        store.txn(Txn::new().then(Op::put("other", "1"))).await.unwrap();
        store.close().await.unwrap();
        assert_eq!(closing.next().await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
        assert!(closing.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_never_reaches_the_store() {
        let (store, asked) = over(false);
        let errors = [
            store.range(Range::key("")).await.unwrap_err(),
            store.txn(Txn::new().then(Op::put("", ""))).await.unwrap_err(),
            store.watch(Span::key(""), None).await.unwrap_err(),
            store.grant_lease(Duration::ZERO).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        assert_eq!(
            store.grant_lease(Duration::from_millis(1_001)).await.unwrap().ttl,
            Duration::from_secs(2),
            "a TTL comes in whole seconds"
        );
    }
}
