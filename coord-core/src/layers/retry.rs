//! Repeats what may be repeated, and nothing else (R2).

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{
    Effect, Lease, LeaseInfo, Range, RangeReply, Span, Store, StoreStatus, StoreWatch, Txn, TxnReply,
};
use coord_api::{Error, ErrorKind, LeaseId, Outcome, Result, Revision};
use coord_home::{Backoff, BackoffPolicy, Home};
use tokio::time::Instant;

use crate::error::homeless;

/// How often and how long [`Retry`] tries.
///
/// The pause before attempt *n* + 1 is drawn with equal jitter: at least one half of
/// `initial_delay` × `multiplier`ⁿ⁻¹ (at most `max_delay`), and less than the whole.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Attempts in all, the first one included. Default 3.
    pub max_attempts: u32,
    /// The longest first pause. Default 100 ms.
    pub initial_delay: Duration,
    /// The longest pause. Default 2 s.
    pub max_delay: Duration,
    /// How much longer each pause is than the one before. Default 2.
    pub multiplier: f32,
    /// How long one attempt may take before it counts as `Timeout`. Default: for ever.
    pub attempt_timeout: Option<Duration>,
    /// How long all attempts and pauses may take together. Default: for ever.
    pub total_timeout: Option<Duration>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            max_attempts: 3,
            initial_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(2),
            multiplier: 2.0,
            attempt_timeout: None,
            total_timeout: None,
        }
    }
}

impl RetryPolicy {
    /// Sets the number of attempts, the first one included.
    #[must_use]
    pub fn with_max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets the longest first pause.
    #[must_use]
    pub fn with_initial_delay(mut self, delay: Duration) -> Self {
        self.initial_delay = delay;
        self
    }

    /// Sets the longest pause.
    #[must_use]
    pub fn with_max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// Sets how much longer each pause is than the one before.
    #[must_use]
    pub fn with_multiplier(mut self, multiplier: f32) -> Self {
        self.multiplier = multiplier;
        self
    }

    /// Bounds one attempt.
    #[must_use]
    pub fn with_attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }

    /// Bounds all attempts and pauses together.
    #[must_use]
    pub fn with_total_timeout(mut self, timeout: Duration) -> Self {
        self.total_timeout = Some(timeout);
        self
    }

    /// Checks the policy.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for no attempt at all, a delay or a timeout of zero, a longest pause below
    /// the first one, and a multiplier that is below 1 or not finite.
    pub fn validate(&self) -> Result<()> {
        let refuse = |message: &'static str| Err(Error::invalid_argument("retry.policy", message));
        if self.max_attempts == 0 {
            return refuse("no attempt at all");
        }
        if self.initial_delay.is_zero() {
            return refuse("an initial delay of zero");
        }
        if self.max_delay < self.initial_delay {
            return refuse("a longest delay below the initial one");
        }
        if !self.multiplier.is_finite() || self.multiplier < 1.0 {
            return refuse("a multiplier below 1, or none");
        }
        if [self.attempt_timeout, self.total_timeout].contains(&Some(Duration::ZERO)) {
            return refuse("a timeout of zero");
        }
        Ok(())
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(
            BackoffPolicy::new(self.initial_delay, self.max_delay).with_multiplier(self.multiplier.into()),
        )
    }
}

/// A store that tries again, where that is safe, what failed in passing.
///
/// - **R2** A write is sent again only when it failed with `Unavailable` or `Timeout` and the error
///   says `NotApplied`. After `Unknown`, never.
/// - Reads (ranges, transactions that write nothing, arming a watch, looking up a lease, status)
///   are repeated after every `Unavailable` and `Timeout`.
/// - So are [`revoke_lease`](Store::revoke_lease) and [`keep_alive`](Store::keep_alive), which do
///   nothing the second time that they did not do the first time. A renewal that comes late only
///   makes the lease live longer than its owner believes, who counts from before the first attempt;
///   an owner who must not renew any more drops the call.
/// - [`grant_lease`](Store::grant_lease) counts as a write. After `Unknown` there may be a lease
///   that nobody knows of; it expires by itself.
/// - A watch is not resumed and [`close`](Store::close) is passed on once: neither is bounded.
/// - An attempt that takes too long is dropped and counts as `Timeout`; a write's outcome is then
///   `Unknown`. When the total time is up, or would be after the next pause, the last failure is
///   returned.
///
/// A policy without timeouts starts no timer before something failed, and
/// [`over_bounded`](Retry::over_bounded) none for a range or a transaction. The timers are those of
/// a [`Home`], so that the caller's runtime needs none, and a caller no runtime.
///
/// # Cancel safety
///
/// That of the store below: a dropped call sends nothing again.
#[derive(Clone, Debug)]
pub struct Retry<S> {
    store: S,
    policy: RetryPolicy,
    /// Whether the store keeps to the total time by itself, in one call.
    bounded: bool,
    /// Whose timers.
    home: Home,
}

impl<S: Store> Retry<S> {
    /// Repeats after failures of `store` as `policy` says.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a policy that [`RetryPolicy::validate`] refuses.
    pub fn new(store: S, policy: RetryPolicy) -> Result<Self> {
        policy.validate()?;
        Ok(Retry { store, policy, bounded: false, home: Home::shared() })
    }

    /// As [`new`](Self::new), over a store of which no range and no transaction takes longer than
    /// the policy's total time by itself. A first attempt at one is left to the store, which saves
    /// a timer for each.
    ///
    /// # Errors
    ///
    /// As `new`.
    pub fn over_bounded(store: S, policy: RetryPolicy) -> Result<Self> {
        Ok(Retry { bounded: true, ..Retry::new(store, policy)? })
    }

    /// Uses the timers of this [`Home`], such as the provider's, instead of those that all layers
    /// of the process share.
    #[must_use]
    pub fn with_home(mut self, home: Home) -> Self {
        self.home = home;
        self
    }

    async fn run<T, F>(
        &self,
        operation: &'static str,
        effect: Effect,
        call: impl Fn() -> F + Send,
    ) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        self.run_bounded(operation, effect, false, call).await
    }

    /// As [`run`](Self::run); `bounded` when a single call needs no bound of ours.
    async fn run_bounded<T, F>(
        &self,
        operation: &'static str,
        effect: Effect,
        bounded: bool,
        call: impl Fn() -> F + Send,
    ) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        let deadline = self.policy.total_timeout.and_then(|total| self.home.now().checked_add(total));
        let mut backoff = None;
        let mut attempt = 1;
        loop {
            let until = if bounded && attempt == 1 { None } else { deadline };
            let error = match self.attempt(operation, effect, until, call()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if attempt >= self.policy.max_attempts
                || !may_repeat(effect, &error)
                || self.home.ready().is_err()
            {
                return Err(error);
            }
            let pause = backoff.get_or_insert_with(|| self.policy.backoff()).pause();
            if deadline.is_some_and(|deadline| deadline.saturating_duration_since(self.home.now()) <= pause) {
                return Err(error);
            }
            let (kind, pause_ms) = (error.kind().as_str(), pause.as_millis());
            coord_home::event!(DEBUG, operation, attempt, kind, pause_ms, "trying again");
            self.home.sleep(pause).await;
            attempt += 1;
        }
    }

    async fn attempt<T>(
        &self,
        operation: &'static str,
        effect: Effect,
        deadline: Option<Instant>,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let own = self.policy.attempt_timeout.and_then(|timeout| self.home.now().checked_add(timeout));
        let Some(until) = [own, deadline].into_iter().flatten().min() else { return call.await };
        self.home.ready().map_err(|error| homeless(operation, error))?;
        match self.home.timeout_at(until, call).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(ErrorKind::Timeout, operation, "the store did not answer in time")
                .with_outcome(effect.in_doubt())),
        }
    }
}

/// Whether a request with this effect may be sent again after this failure (R2).
fn may_repeat(effect: Effect, error: &Error) -> bool {
    error.is_transient() && (effect != Effect::Write || error.outcome() == Outcome::NotApplied)
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for Retry<S> {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        self.run_bounded("store.range", Effect::Read, self.bounded, || self.store.range(range.clone())).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        self.run_bounded("store.txn", txn.effect(), self.bounded, || self.store.txn(txn.clone())).await
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        self.run("store.watch", Effect::Read, || self.store.watch(span.clone(), after)).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        self.run("store.grant_lease", Effect::Write, || self.store.grant_lease(ttl)).await
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<Duration> {
        self.run("store.keep_alive", Effect::Idempotent, || self.store.keep_alive(id)).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        self.run("store.lease", Effect::Read, || self.store.lease(id)).await
    }

    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        self.run("store.revoke_lease", Effect::Idempotent, || self.store.revoke_lease(id)).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.run("store.status", Effect::Read, || self.store.status()).await
    }

    coord_api::forward_store! { self => self.store; close }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_have_equal_jitter_and_a_longest_one() {
        let policy = RetryPolicy::default();
        for _ in 0..100 {
            let mut backoff = policy.backoff();
            for whole in [100, 200, 400, 800, 1_600, 2_000, 2_000, 2_000] {
                let (pause, whole) = (backoff.pause(), Duration::from_millis(whole));
                assert!(pause >= whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let ms = Duration::from_millis;
        let nonsense = [
            RetryPolicy::default().with_max_attempts(0),
            RetryPolicy::default().with_initial_delay(Duration::ZERO),
            RetryPolicy::default().with_max_delay(ms(99)),
            RetryPolicy::default().with_multiplier(0.5),
            RetryPolicy::default().with_multiplier(f32::NAN),
            RetryPolicy::default().with_multiplier(f32::INFINITY),
            RetryPolicy::default().with_attempt_timeout(Duration::ZERO),
            RetryPolicy::default().with_total_timeout(Duration::ZERO),
        ];
        for policy in nonsense {
            assert_eq!(policy.validate().unwrap_err().kind(), ErrorKind::InvalidArgument, "{policy:?}");
        }
        let extreme = RetryPolicy::default()
            .with_max_delay(Duration::MAX)
            .with_multiplier(f32::MAX)
            .with_total_timeout(Duration::MAX);
        extreme.validate().unwrap();
        let mut backoff = extreme.backoff();
        assert!((0..50).all(|_| !backoff.pause().is_zero()));
    }
}
