//! The end of a service, in order, with one deadline for all of it (K10).
//!
//! What has to be done at the end is handed over where it is made ([`Shutdown::on`]), each with the
//! [`Phase`] in which its turn comes; when the service ends, the phases follow one another, and all
//! of one phase goes on at once.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//! use coord_service::shutdown::{Phase, Shutdown, ShutdownOptions};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let shutdown = Shutdown::new(ShutdownOptions::default().with_limit(Duration::from_secs(5)));
//! let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
//! for (phase, name) in [(Phase::Clients, "db"), (Phase::Servers, "http")] {
//!     let told = told.clone();
//!     shutdown.on(phase, name, async move { told.send(name).unwrap() });
//! }
//!
//! let report = shutdown.run().await;
//! assert!(report.is_clean());
//! assert_eq!([heard.recv().await, heard.recv().await], [Some("http"), Some("db")]);
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

/// When something is ended, the first one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// The service leaves the registry. [`ShutdownOptions::linger`] follows, in which those who
    /// know its address hear of it, and go on being served.
    Deregister,
    /// HTTP and gRPC take no more requests, and answer those that they have.
    Servers,
    /// Subscriptions take no more messages, finish those that they have, and say so.
    Subscriptions,
    /// Leaders resign, locks are unlocked, ids go back.
    Leases,
    /// Producers send what they have accepted.
    Producers,
    /// Databases, caches and other clients are closed.
    Clients,
    /// The store of coord is closed, and what was still leased is revoked.
    Store,
    /// The [admin listener](crate::admin) ends.
    Admin,
    /// Logs are written out.
    Logs,
}

/// How long the end may take.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownOptions {
    /// How long all of it may take. 30 s by default.
    pub limit: Duration,
    /// How long the service goes on serving after it left the registry. 1 s by default; nothing is
    /// waited for where nothing was registered.
    pub linger: Duration,
}

impl Default for ShutdownOptions {
    fn default() -> Self {
        ShutdownOptions { limit: Duration::from_secs(30), linger: Duration::from_secs(1) }
    }
}

impl ShutdownOptions {
    /// How long all of it may take.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// How long the service goes on serving after it left the registry.
    #[must_use]
    pub fn with_linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }
}

/// What did not end as it should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It was not done in its time, and was dropped where it stood.
    Overdue,
    /// It panicked.
    Panicked,
}

/// What became of a shutdown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// What did not end as it should have: its phase, its name, what happened.
    pub troubles: Vec<(Phase, String, Trouble)>,
}

impl ShutdownReport {
    /// Whether everything ended as it should have.
    pub fn is_clean(&self) -> bool {
        self.troubles.is_empty()
    }
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Hook {
    phase: Phase,
    name: String,
    work: Work,
}

struct Shared {
    options: ShutdownOptions,
    /// `None` once the shutdown has taken them.
    hooks: Mutex<Option<Vec<Hook>>>,
    begun: CancellationToken,
}

/// What has to be done at the end of a service (K10). Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

impl Shutdown {
    /// Nothing has to be done yet.
    pub fn new(options: ShutdownOptions) -> Self {
        let hooks = Mutex::new(Some(Vec::new()));
        Shutdown { shared: Arc::new(Shared { options, hooks, begun: CancellationToken::new() }) }
    }

    /// Has `work` done in `phase`, beside all else of that phase. `name` is for the log.
    ///
    /// The work gets the time that is left, but for a twentieth of the limit for each later phase
    /// that has work to do; then it is dropped. A panic is caught and reported.
    ///
    /// Where the shutdown has begun already, the work is dropped without being polled, and `false`
    /// is returned: what belongs to `phase` may be over. Whoever makes something then ends it
    /// himself.
    pub fn on(
        &self,
        phase: Phase,
        name: impl Into<String>,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> bool {
        let mut hooks = self.shared.hooks.lock();
        let Some(hooks) = hooks.as_mut() else { return false };
        hooks.push(Hook { phase, name: name.into(), work: Box::pin(work) });
        true
    }

    /// Whether the end has begun.
    pub fn has_begun(&self) -> bool {
        self.shared.begun.is_cancelled()
    }

    /// Is done when the end begins, for tasks that are to stop by themselves.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub fn begun(&self) -> impl Future<Output = ()> + Send + 'static {
        self.shared.begun.clone().cancelled_owned()
    }

    /// Ends everything, and says what did not end as it should have. A second call has nothing left
    /// to do, and is over at once.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: where it is dropped, the works under way go on by themselves, and later
    /// phases never come.
    pub async fn run(&self) -> ShutdownReport {
        let mut report = ShutdownReport::default();
        let Some(hooks) = self.shared.hooks.lock().take() else { return report };
        self.shared.begun.cancel();
        let begun = Instant::now();
        for (phase, hooks, later) in by_phase(hooks) {
            let deadline = begun + self.shared.options.until(later);
            tracing::debug!(?phase, works = hooks.len(), "shutting down");
            run_phase(phase, hooks, deadline, &mut report).await;
            if phase == Phase::Deregister {
                sleep(self.shared.options.linger.min(deadline.saturating_duration_since(Instant::now())))
                    .await;
            }
        }
        report
    }
}

impl ShutdownOptions {
    /// How long after the beginning the works of a phase may go on, when so many later phases have
    /// work to do as well. Those get a twentieth of all each, so that a server that hangs does not
    /// keep the leases from being revoked.
    fn until(&self, later: usize) -> Duration {
        let reserved = (self.limit / 20).saturating_mul(u32::try_from(later).unwrap_or(u32::MAX));
        self.limit.saturating_sub(reserved)
    }
}

/// The works of each phase that has any, in order, and how many later phases have some.
fn by_phase(mut hooks: Vec<Hook>) -> Vec<(Phase, Vec<Hook>, usize)> {
    hooks.sort_by_key(|hook| hook.phase);
    let mut phases: Vec<(Phase, Vec<Hook>, usize)> = Vec::new();
    for hook in hooks {
        match phases.last_mut() {
            Some((phase, hooks, _)) if *phase == hook.phase => hooks.push(hook),
            _ => phases.push((hook.phase, vec![hook], 0)),
        }
    }
    let count = phases.len();
    for (index, (_, _, later)) in phases.iter_mut().enumerate() {
        *later = count - index - 1;
    }
    phases
}

async fn run_phase(phase: Phase, hooks: Vec<Hook>, deadline: Instant, report: &mut ShutdownReport) {
    // A task each: one that panics or blocks leaves the others alone.
    let tasks: Vec<(String, JoinHandle<()>)> =
        hooks.into_iter().map(|hook| (hook.name, tokio::spawn(hook.work))).collect();
    for (name, mut task) in tasks {
        let trouble = match timeout_at(deadline, &mut task).await {
            Ok(Ok(())) => continue,
            Ok(Err(_)) => Trouble::Panicked,
            Err(_) => {
                task.abort();
                Trouble::Overdue
            }
        };
        tracing::warn!(?phase, name, ?trouble, "not shut down in order");
        report.troubles.push((phase, name, trouble));
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown")
            .field("options", &self.shared.options)
            .field("begun", &self.has_begun())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    use super::*;

    fn shutdown(limit: u64) -> Shutdown {
        Shutdown::new(ShutdownOptions::default().with_limit(Duration::from_secs(limit)))
    }

    fn noted() -> (UnboundedSender<&'static str>, UnboundedReceiver<&'static str>) {
        unbounded_channel()
    }

    fn all(mut heard: UnboundedReceiver<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| heard.try_recv().ok()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn phases_follow_one_another_whatever_was_added_first() {
        let (shutdown, (told, heard)) = (shutdown(30), noted());
        for (phase, name) in [
            (Phase::Logs, "logs"),
            (Phase::Servers, "http"),
            (Phase::Store, "store"),
            (Phase::Deregister, "registry"),
        ] {
            let told = told.clone();
            shutdown.on(phase, name, async move {
                sleep(Duration::from_millis(10)).await;
                told.send(name).unwrap();
            });
        }
        assert!(shutdown.run().await.is_clean());
        assert_eq!(all(heard), ["registry", "http", "store", "logs"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_left_the_registry_is_served_for_a_while() {
        let shutdown = shutdown(30);
        let begun = Instant::now();
        let (told, heard) = tokio::sync::oneshot::channel();
        shutdown.on(Phase::Deregister, "registry", async {});
        shutdown.on(Phase::Servers, "http", async move { told.send(Instant::now()).unwrap() });
        shutdown.run().await;
        assert_eq!(heard.await.unwrap() - begun, Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_work_that_hangs_leaves_time_for_the_later_ones() {
        let (shutdown, (told, heard)) = (shutdown(20), noted());
        let begun = Instant::now();
        shutdown.on(Phase::Servers, "http", pending());
        let served = told.clone();
        shutdown.on(Phase::Servers, "grpc", async move { served.send("grpc").unwrap() });
        shutdown.on(Phase::Store, "store", async move {
            sleep(Duration::from_millis(900)).await;
            told.send("store").unwrap();
        });
        shutdown.on(Phase::Logs, "logs", pending());
        let report = shutdown.run().await;
        assert_eq!(all(heard), ["grpc", "store"]);
        let overdue = |phase, name: &str| (phase, name.to_owned(), Trouble::Overdue);
        assert_eq!(report.troubles, [overdue(Phase::Servers, "http"), overdue(Phase::Logs, "logs")]);
        assert_eq!(begun.elapsed(), Duration::from_secs(20), "and not longer than the limit");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_ends_its_own_work_alone() {
        let (shutdown, (told, heard)) = (shutdown(30), noted());
        shutdown.on(Phase::Clients, "db", async { panic!("closing") });
        shutdown.on(Phase::Logs, "logs", async move { told.send("logs").unwrap() });
        let report = shutdown.run().await;
        assert_eq!(report.troubles, [(Phase::Clients, "db".to_owned(), Trouble::Panicked)]);
        assert_eq!(all(heard), ["logs"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_too_late_is_told_so() {
        let shutdown = shutdown(30);
        let begun = shutdown.begun();
        assert!(!shutdown.has_begun());
        shutdown.run().await;
        begun.await;
        assert!(!shutdown.on(Phase::Logs, "logs", async {}));
        assert!(shutdown.run().await.is_clean(), "a second one has nothing to do");
    }
}
