//! A client that follows its configuration without a failed call (K1, K2).
//!
//! A pool, a connection, a producer: each is made from a configuration and has to be made anew when
//! that changes. To close the old one and open the new one fails every call in between. [`Live`]
//! builds and tries the new one first, swaps, and retires the old one when nobody uses it.
//!
//! How that is done for one kind of client is said by a [`Reload`].
//!
//! # Examples
//!
//! ```
//! use std::sync::Arc;
//!
//! use coord_service::live::{Change, Live, LiveOptions, Reload};
//! use tokio::sync::watch;
//!
//! /// Greets people: a client that is easily built.
//! struct Greetings;
//!
//! #[async_trait::async_trait]
//! impl Reload for Greetings {
//!     type Config = String;
//!     type Client = String;
//!
//!     fn plan(&self, old: &String, new: &String) -> Change {
//!         if old == new { Change::Same } else { Change::Rebuild }
//!     }
//!
//!     async fn build(&self, config: &String) -> coord::Result<String> {
//!         Ok(format!("{config}, world"))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> coord::Result<()> {
//! let (config, follow) = watch::channel(Arc::new("hello".to_owned()));
//! let live = Live::start("greetings", Greetings, follow, LiveOptions::default());
//! live.ready().await;
//! assert_eq!(*live.current()?, "hello, world");
//!
//! config.send_replace(Arc::new("goodbye".to_owned()));
//! live.wait_for(|status| status.generation == 2).await;
//! assert_eq!(*live.current()?, "goodbye, world");
//! live.close().await;
//! # Ok(())
//! # }
//! ```

mod serving;
mod worker;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use coord::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::causes::Causes;
use crate::health::{Reporter, State};

pub use serving::Current;

use serving::Serving;
use worker::Worker;

/// What it takes to go from one configuration to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Same,
    /// The client can be told: [`Reload::apply`].
    InPlace,
    /// A new client is built: [`Reload::build`].
    Rebuild,
    /// The process has to be started again, because of the named field. Until then the old
    /// configuration stays in use, all of it, and the status says so.
    Restart(&'static str),
}

/// How the client of one kind is made, tried, told and retired.
///
/// Each method is called by one task, never two at a time; what it does is bounded by
/// [`LiveOptions::timeout`]. A panic counts as a failure. Errors show in status and log, so they
/// must not hold secrets.
#[async_trait]
pub trait Reload: Send + Sync + 'static {
    /// What a client is made from.
    type Config: Send + Sync + 'static;
    /// The client.
    type Client: Send + Sync + 'static;

    /// Whether a configuration can be used at all. One that cannot is refused before it is planned
    /// for, and the one before stays. No I/O. By default every one can.
    ///
    /// # Errors
    ///
    /// What is wrong, with the field, and without secrets.
    fn check(&self, _config: &Self::Config) -> Result<(), String> {
        Ok(())
    }

    /// What it takes to go from `old` to `new`. No I/O.
    fn plan(&self, old: &Self::Config, new: &Self::Config) -> Change;

    /// Makes a client.
    ///
    /// # Errors
    ///
    /// When this configuration gives none at the moment. It is tried again, with pauses, until it
    /// does or the configuration changes.
    async fn build(&self, config: &Self::Config) -> Result<Self::Client>;

    /// Asks a client whether it works: a new one before it is used, and the one in use from time to
    /// time. By default nothing is asked.
    ///
    /// # Errors
    ///
    /// When it does not work.
    async fn probe(&self, _client: &Self::Client) -> Result<()> {
        Ok(())
    }

    /// Tells a client its new configuration, for which [`plan`](Self::plan) said
    /// [`InPlace`](Change::InPlace). No I/O. By default there is nothing to tell.
    ///
    /// # Errors
    ///
    /// When it does not take it. The old configuration counts as the one in use, and it is tried
    /// again.
    fn apply(&self, _client: &Self::Client, _config: &Self::Config) -> Result<()> {
        Ok(())
    }

    /// Ends a client: nobody uses it any more, or the time for that is over and those who still do
    /// have to fail. By default it is only dropped.
    async fn retire(&self, _client: &Self::Client) {}
}

/// How a [`Live`] client behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveOptions {
    /// How long to build and to probe may take together, and to retire. 10 s by default.
    pub timeout: Duration,
    /// How long an old client may be used after it was replaced. 30 s by default.
    pub drain: Duration,
    /// How often the client in use is probed. 10 s by default.
    pub probe_every: Duration,
    /// The longest pause before a failed build is tried again; the first one is a fiftieth of it.
    /// 5 s by default.
    pub retry: Duration,
}

impl Default for LiveOptions {
    fn default() -> Self {
        LiveOptions {
            timeout: Duration::from_secs(10),
            drain: Duration::from_secs(30),
            probe_every: Duration::from_secs(10),
            retry: Duration::from_secs(5),
        }
    }
}

impl LiveOptions {
    /// How long to build and to probe may take together, and to retire.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long an old client may be used after it was replaced.
    #[must_use]
    pub fn with_drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// How often the client in use is probed.
    #[must_use]
    pub fn with_probe_every(mut self, every: Duration) -> Self {
        self.probe_every = every;
        self
    }

    /// The longest pause before a failed build is tried again.
    #[must_use]
    pub fn with_retry(mut self, longest: Duration) -> Self {
        self.retry = longest;
        self
    }
}

/// What a configuration did not get past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The client was not built.
    Build,
    /// The client was built and does not work, or the one in use does not work any more.
    Probe,
    /// The client did not take the new configuration.
    Apply,
}

/// Why a live client is not as its configuration says.
#[derive(Clone, Debug)]
pub struct LiveFault {
    /// What failed.
    pub stage: Stage,
    /// How.
    pub error: Error,
    /// How often in a row.
    pub times: u32,
}

impl fmt::Display for LiveFault {
    /// What failed and how, with all causes, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = match self.stage {
            Stage::Build => "not built",
            Stage::Probe => "does not answer as it should",
            Stage::Apply => "did not take its configuration",
        };
        write!(f, "{failed}: {}", Causes(&self.error))
    }
}

/// How a live client is.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LiveStatus {
    /// How many clients were built and used so far; 0 while there was none.
    pub generation: u64,
    /// What failed last, where nothing has succeeded since.
    pub fault: Option<LiveFault>,
    /// The field of the newest configuration that only a restart can bring into use.
    pub waits_for_restart: Option<&'static str>,
    /// Whether an old client is still in use.
    pub retiring: bool,
    /// Whether it was closed, or its task ended by accident.
    pub over: bool,
}

impl LiveStatus {
    /// What it means for the service (K9).
    pub fn health(&self) -> State {
        let fault = self.fault.as_ref().map(ToString::to_string);
        match (self.over, self.generation, fault, self.waits_for_restart) {
            (true, ..) => State::Down("closed".to_owned()),
            (_, 0, None, _) => State::Down("starting".to_owned()),
            (_, 0, Some(fault), _) => State::Down(fault),
            (_, _, Some(fault), _) if self.is_broken() => State::Down(fault),
            (_, _, Some(fault), _) => State::Degraded(fault),
            (_, _, None, Some(field)) => State::Degraded(format!("{field} waits for a restart")),
            (_, _, None, None) => State::Ready,
        }
    }

    /// Whether the client in use was found not to work.
    fn is_broken(&self) -> bool {
        self.fault.as_ref().is_some_and(|fault| fault.stage == Stage::Probe)
    }
}

struct Shared<C> {
    name: String,
    serving: ArcSwapOption<Serving<C>>,
    status: watch::Sender<LiveStatus>,
    reporter: Option<Reporter>,
}

impl<C> Shared<C> {
    fn change(&self, change: impl FnOnce(&mut LiveStatus)) {
        self.status.send_modify(change);
        if let Some(reporter) = &self.reporter {
            let health = self.status.borrow().health();
            reporter.set(health);
        }
    }
}

/// A client that follows its configuration (K1). Share it in an [`Arc`].
///
/// - The new client is built and probed before the swap. Where that fails, the old one stays in
///   use, the status shows why, and it is tried again.
/// - At most two serve at a time: while an old one is still used, a further configuration waits.
/// - The old one is retired when nobody uses it any more, after [`LiveOptions::drain`] at the
///   latest.
/// - Nothing to reach at the start (K2): there is no client, [`current`](Self::current) says so,
///   the health is [`Down`](State::Down), and it is tried again.
///
/// It owns its task, which lives on the runtime that called [`start`](Self::start), as the clients
/// that it builds do, and ends with [`close`](Self::close) or when this is dropped.
pub struct Live<R: Reload> {
    shared: Arc<Shared<R::Client>>,
    stop: CancellationToken,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl<R: Reload> Live<R> {
    /// Begins to build a client of what `config` holds, and follows it. Returns at once.
    ///
    /// When the sender of `config` is dropped, the last configuration stays.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, as `tokio::spawn` does.
    pub fn start(
        name: impl Into<String>,
        reload: impl Into<Arc<R>>,
        config: watch::Receiver<Arc<R::Config>>,
        options: LiveOptions,
    ) -> Self {
        Live::start_with(name.into(), reload.into(), config, options, None)
    }

    /// As [`start`](Self::start), and says on a health board how it is (K9).
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn start_reporting(
        reload: impl Into<Arc<R>>,
        config: watch::Receiver<Arc<R::Config>>,
        options: LiveOptions,
        name: impl Into<String>,
        reporter: Reporter,
    ) -> Self {
        Live::start_with(name.into(), reload.into(), config, options, Some(reporter))
    }

    fn start_with(
        name: String,
        reload: Arc<R>,
        config: watch::Receiver<Arc<R::Config>>,
        options: LiveOptions,
        reporter: Option<Reporter>,
    ) -> Self {
        let (serving, status) = (ArcSwapOption::empty(), watch::Sender::new(LiveStatus::default()));
        let shared = Arc::new(Shared { name, serving, status, reporter });
        let stop = CancellationToken::new();
        let worker = Worker::new(Arc::clone(&shared), reload, options);
        let worker = tokio::spawn(worker.run(config, stop.clone()));
        Live { shared, stop, worker: Mutex::new(Some(worker)) }
    }

    /// The client in use. Takes nanoseconds, and never waits.
    ///
    /// # Errors
    ///
    /// `Unavailable` while there is none yet, with the reason as its source; `Closed` after
    /// [`close`](Self::close).
    #[inline]
    pub fn current(&self) -> Result<Current<R::Client>> {
        match Current::new(self.shared.serving.load()) {
            Some(current) => Ok(current),
            None => Err(self.absent()),
        }
    }

    #[cold]
    fn absent(&self) -> Error {
        let (name, status) = (&self.shared.name, self.shared.status.borrow());
        if status.over {
            return Error::new(ErrorKind::Closed, "live.current", format!("{name} is closed"));
        }
        let error = Error::new(ErrorKind::Unavailable, "live.current", format!("{name} is not there yet"));
        match &status.fault {
            Some(fault) => error.with_source(fault.error.clone()),
            None => error,
        }
    }

    /// How it is.
    pub fn status(&self) -> LiveStatus {
        self.shared.status.borrow().clone()
    }

    /// Waits until `wanted` holds of the status, or it is [over](LiveStatus::over).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub fn wait_for(
        &self,
        mut wanted: impl FnMut(&LiveStatus) -> bool + Send,
    ) -> impl Future<Output = LiveStatus> + Send {
        let mut status = self.shared.status.subscribe();
        async move {
            // The sender lives in what the worker and this share; without it, it is over.
            match status.wait_for(|status| status.over || wanted(status)).await {
                Ok(status) => status.clone(),
                Err(_) => LiveStatus { over: true, ..LiveStatus::default() },
            }
        }
    }

    /// Waits for the first client.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn ready(&self) -> LiveStatus {
        self.wait_for(|status| status.generation > 0).await
    }

    /// Ends it: no new client is built, [`current`](Self::current) is `Closed`, and the last
    /// client is retired when nobody uses it any more, after the [drain](LiveOptions::drain) at the
    /// latest.
    ///
    /// Idempotent.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has begun to close; call again to wait for the end.
    pub async fn close(&self) {
        self.stop.cancel();
        self.wait_for(|_| false).await;
        let worker = self.worker.lock().take();
        if let Some(worker) = worker {
            // The task was over when it said so, but for what it still holds.
            let _ = worker.await;
        }
    }
}

impl<R: Reload> Drop for Live<R> {
    fn drop(&mut self) {
        // The worker retires the last client by itself.
        self.stop.cancel();
    }
}

impl<R: Reload> fmt::Debug for Live<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("name", &self.shared.name).field("status", &self.status()).finish()
    }
}
