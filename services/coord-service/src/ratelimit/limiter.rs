//! The limiter, as an application uses it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coord::coord_core::{Home, homeless};
use coord::{ConfigDirectory, Error, ErrorKind, Registration, Result, ServiceRegistry, Version};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::control::{Control, LimitedRule};
use super::decision::{Decision, DenialReason};
use super::exact::{Asking, EXACT_TIMEOUT, ExactAnswer, ExactRequest, ExactScope, ExactStatus, Route};
use super::members::{FIRST_ANSWER, SETTLING};
use super::meter::Meter;
use super::rule::{LimitScope, RuleDocument};
use super::status::{ClusterStanding, ClusterStatus, LimiterStatus, document_faults};
use super::worker::Worker;

/// How long it takes from an instance's registration until it has its share (R69).
pub const SETTLING_TIME: Duration = SETTLING;

const START: &str = "ratelimit.start";
const SETTLED: &str = "ratelimit.settled";
const ASK: &str = "ratelimit.exact";

/// Admits requests by rules that may change while it runs: see the [module](super).
///
/// Before [`start`](Self::start) it goes by the rules of its code alone, and admits nothing by
/// those that instances share. Its tasks end with [`stop`](Self::stop), or with it.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use coord::prelude::*;
/// use coord_service::ratelimit::{LimitRule, RateLimiter};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> coord::Result<()> {
/// let coord = coord_memory::MemoryProvider::new();
/// let limiter = RateLimiter::builder(Arc::clone(coord.config()), "gateway")
///     .env("prod")
///     .rule("default", LimitRule::per_second(100))
///     .build()?;
/// limiter.start().await;
///
/// let rule = LimitRule::per_second(5).with_burst(2);
/// let version = coord.config().set("prod/gateway/ratelimit/login", &rule).await?;
/// limiter.wait_until(version).await?;
///
/// assert!(limiter.allow("login", "ann").is_allowed());
/// assert!(limiter.allow("login", "ann").is_allowed());
/// let denied = limiter.allow("login", "ann");
/// assert_eq!(denied.retry_after().map(|wait| wait.as_millis()), Some(200));
/// assert!(limiter.allow("login", "bob").is_allowed());
/// assert!(limiter.allow("search", "ann").is_allowed(), "by the rule `default`");
/// limiter.stop().await;
/// # coord.close().await
/// # }
/// ```
pub struct RateLimiter {
    control: Arc<Control>,
    documents: ConfigDirectory<RuleDocument>,
    cluster: Option<Cluster>,
    exact: Option<Arc<dyn ExactScope>>,
    asking: Arc<Asking>,
    home: Home,
    running: Mutex<Option<Running>>,
}

/// Where those are found that limits are shared with.
pub(super) struct Cluster {
    pub(super) registry: Arc<dyn ServiceRegistry>,
    pub(super) service: String,
}

/// The tasks of a limiter that was started. Dropped, they end.
struct Running {
    stop: CancellationToken,
    tasks: Vec<AbortOnDropHandle<()>>,
}

impl Running {
    fn is_whole(&self) -> bool {
        !self.tasks.iter().any(|task| task.is_finished())
    }
}

impl RateLimiter {
    pub(super) fn new(
        control: Arc<Control>,
        documents: ConfigDirectory<RuleDocument>,
        cluster: Option<Cluster>,
        exact: Option<Arc<dyn ExactScope>>,
        asking: Arc<Asking>,
        home: Home,
    ) -> Self {
        RateLimiter { control, documents, cluster, exact, asking, home, running: Mutex::new(None) }
    }

    /// Begins to follow the rules, and the instances that they are shared with, and waits for the
    /// first answers: some seconds at most.
    ///
    /// It never fails: what went wrong stands in the status that it returns, and it goes on trying.
    /// Its tasks live on threads of their own, or, where the clock is paused, on the runtime that
    /// starts it. Idempotent.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves the limiter running.
    pub async fn start(&self) -> LimiterStatus {
        if let Err(error) = self.spawn() {
            self.control.failed(Some(error));
        }
        self.documents.start().await;
        let mut cluster = self.control.clusters();
        let answered = cluster.wait_for(|status| status.over || status.standing != ClusterStanding::Waiting);
        let _ = self.home.timeout(FIRST_ANSWER, answered).await;
        self.status()
    }

    fn spawn(&self) -> Result<()> {
        let mut running = self.running.lock();
        if running.as_ref().is_some_and(Running::is_whole) {
            return Ok(());
        }
        // What is left of tasks of which one has ended by accident.
        *running = None;
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();
        let mut spawn = |home: &Home, task: futures_util::future::BoxFuture<'static, ()>| {
            let task = home.spawn(task).map_err(|error| homeless(START, error))?;
            tasks.push(AbortOnDropHandle::new(task));
            Ok::<_, Error>(())
        };
        if let Some(Cluster { registry, service }) = &self.cluster {
            self.home.ready().map_err(|error| homeless(START, error))?;
            self.control.wait(self.home.now() + FIRST_ANSWER);
            let (control, registry) = (Arc::clone(&self.control), Arc::clone(registry));
            let worker = Worker::new(control, registry, service.clone(), self.home.clone(), stop.clone());
            spawn(&self.home, Box::pin(worker.run()))?;
        }
        // Where the application's recorder and log may be called.
        let home = Home::for_callbacks();
        let asking = (Arc::clone(&self.asking), self.exact.is_some());
        let meter = Meter::new(Arc::clone(&self.control), asking, home.clone(), stop.clone());
        spawn(&home, Box::pin(meter.run()))?;
        *running = Some(Running { stop, tasks });
        Ok(())
    }

    /// Ends following rules and instances. The last ones stay, and decisions go on by them.
    /// Idempotent; [`start`](Self::start) begins again.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has begun to stop the limiter; call again to wait for the end.
    pub async fn stop(&self) {
        let running = self.running.lock().take();
        if let Some(running) = running {
            running.stop.cancel();
            for task in running.tasks {
                // One that panicked has ended as well.
                let _ = task.await;
            }
        }
        self.documents.stop().await;
    }

    /// Whether one request of `key` may go on, by the rule of this name (R68).
    ///
    /// No I/O, and nothing to wait for. Where there is no such rule, `default` decides; where there
    /// is none either, the request is allowed, and [counted](LimiterStatus::unlimited). A rule of
    /// scope `exact` goes by this instance's share, for asking takes time:
    /// [`allow_exact`](Self::allow_exact) asks.
    ///
    /// `key` is whose requests are counted together: a user, an address, or `""` for everyone. Its
    /// bucket is found by a hash of it, so that long keys cost no memory.
    #[inline]
    pub fn allow(&self, rule: &str, key: &str) -> Decision {
        self.allow_n(rule, key, 1)
    }

    /// As [`allow`](Self::allow), for `count` requests at once, or for one that counts as so many:
    /// all or none.
    #[inline]
    pub fn allow_n(&self, rule: &str, key: &str, count: u32) -> Decision {
        self.control.with_rule(rule, |rule| {
            if rule.limit.scope() == LimitScope::Exact {
                self.asking.count(Route::NotAwaited);
            }
            self.control.decide(rule, key, count)
        })
    }

    /// As [`allow`](Self::allow), and asks the exact scope where the rule is of scope `exact`
    /// (R70): it has [50 ms](EXACT_TIMEOUT), and then this instance's share decides. While it does
    /// not answer, one decision a second asks it, and the others do not wait. What it admits is
    /// taken from the share as well, so that its outage hands out no second burst.
    ///
    /// For rules of other scopes it waits for nothing.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have counted the request.
    pub async fn allow_exact(&self, rule: &str, key: &str) -> Decision {
        self.allow_exact_n(rule, key, 1).await
    }

    /// As [`allow_exact`](Self::allow_exact), for `count` requests at once: all or none.
    ///
    /// # Cancel safety
    ///
    /// As [`allow_exact`](Self::allow_exact).
    pub async fn allow_exact_n(&self, rule: &str, key: &str, count: u32) -> Decision {
        let rule = match self.control.rule(rule) {
            Some(rule) if rule.limit.scope() == LimitScope::Exact && count > 0 => rule,
            _ => return self.allow_n(rule, key, count),
        };
        match self.ask(&rule, key, count).await {
            Some(ExactAnswer::Allowed) => {
                rule.buckets.charge(key, count, self.control.now());
                Decision::Allowed
            }
            Some(ExactAnswer::Denied { retry_after }) => {
                rule.buckets.count_denied(key, count);
                let reason = retry_after.map_or(DenialReason::TooMany, |_| DenialReason::Limit);
                Decision::denied(reason, retry_after)
            }
            None => self.control.decide(&rule, key, count),
        }
    }

    /// What the exact scope says; `None` where it says nothing.
    async fn ask(&self, rule: &LimitedRule, key: &str, count: u32) -> Option<ExactAnswer> {
        let Some(exact) = &self.exact else {
            self.asking.count(Route::Absent);
            return None;
        };
        if !self.asking.may_ask(self.control.now()) {
            self.asking.count(Route::Skipped);
            return None;
        }
        let request = ExactRequest::new(&rule.name, key, count, rule.limit);
        let (route, error) = match self.home.timeout(EXACT_TIMEOUT, exact.decide(&request)).await {
            Ok(Ok(answer)) => {
                self.asking.answered();
                return Some(answer);
            }
            Ok(Err(error)) => (Route::Failed, error),
            Err(_) => {
                let message = "the exact scope did not answer within 50 ms";
                (Route::TimedOut, Error::new(ErrorKind::Timeout, ASK, message))
            }
        };
        self.asking.failed(route, error, self.control.now());
        None
    }

    /// Hands over this instance's registration, by which strict rules know whether it is cut off:
    /// they admit by its share until the registration's local deadline (R32, R69). Without it, they
    /// do while the registry is followed without a break.
    ///
    /// It stays the application's, which may drop it. A registration that is over for good, as one
    /// whose id another process has taken, ends this instance's share. Another one may be handed
    /// over then.
    pub fn set_registration(&self, registration: &Arc<Registration>) {
        self.control.set_registration(Arc::downgrade(registration));
    }

    /// Waits until this instance has its share of the limits that instances share: a second after
    /// it was registered. Best done before it says that it is ready.
    ///
    /// # Errors
    ///
    /// `Closed` when the limiter is not running any more.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn settled(&self) -> Result<()> {
        let mut cluster = self.control.clusters();
        let is_settled = |status: &ClusterStatus| {
            matches!(status.standing, ClusterStanding::Member | ClusterStanding::Assumed)
        };
        let waited = cluster.wait_for(|status| status.over || is_settled(status)).await;
        match waited {
            Ok(status) if is_settled(&status) => Ok(()),
            _ => Err(Error::new(ErrorKind::Closed, SETTLED, "the limiter was stopped; start it again")),
        }
    }

    /// Waits until everything up to this version of its rules' documents was taken: it is in use
    /// then, or was refused. Give it the version that a write has returned.
    ///
    /// # Errors
    ///
    /// As [`ConfigDirectory::wait_until`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn wait_until(&self, version: Version) -> Result<()> {
        self.documents.wait_until(version).await
    }

    /// How it is doing.
    pub fn status(&self) -> LimiterStatus {
        let documents = self.documents.status();
        LimiterStatus {
            rules: self.control.rule_statuses(),
            faults: document_faults(&documents),
            watch: documents.watch,
            last_error: documents.last_error.map(|fault| fault.error),
            cluster: self.control.cluster(),
            exact: self.exact_status(),
            unlimited: self.control.unlimited(),
        }
    }

    fn exact_status(&self) -> ExactStatus {
        self.asking.status(self.exact.is_some())
    }

    /// Where its rules lie in the config centre: `{env}/{service}/ratelimit`.
    pub fn directory(&self) -> &str {
        self.documents.directory()
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter")
            .field("directory", &self.directory())
            .field("cluster", &self.control.cluster())
            .finish_non_exhaustive()
    }
}
