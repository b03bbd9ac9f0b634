//! The task of a config manager or directory: opens the watch, follows it, and opens it again for
//! as long as it takes.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use coord_api::{ConfigCenter, ConfigEvent, Error, ErrorKind, Watch, WatchStart};
use coord_core::{Home, backoff};
use coord_home::Backoff;
use futures_util::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::application::Application;
use super::guard::discard;
use super::run::Orders;
use super::status::{ConfigFault, FaultStage, Watching};
use super::updates::{counted, log, reason};

const OPERATION: &str = "config_manager.load";

/// How long opening the watch may take before it is tried anew: a centre that never answers must
/// not stop the trying.
const ATTEMPT: Duration = Duration::from_secs(10);

/// What is followed: one document, or a directory of them.
pub(super) trait Followed: Send + 'static {
    /// The key that is watched, with a `/` at its end where it is a directory.
    fn watched(&self) -> &str;

    /// How the watch is doing, or that nothing watches any more.
    fn set_watch(&self, watching: Watching);

    /// Nothing could be read.
    fn failed(&self, fault: ConfigFault);

    /// The task is about to begin.
    fn begin(&self);

    /// The task is over.
    fn end(&self);

    /// Takes an event, and says whether all that there was is known by now. It calls the
    /// application's code.
    fn take(&mut self, event: ConfigEvent) -> bool;
}

/// One run, from a start to its stop.
pub(super) struct Worker<F: Followed> {
    config: Arc<dyn ConfigCenter>,
    followed: F,
    /// Where it lives, and whose timers it uses.
    home: Home,
    application: Application,
    stop: CancellationToken,
    /// The open watch, which is the config centre's code. It lies here so that it is dropped where
    /// a panic of its `Drop` is caught, also after one of its polls has panicked.
    watch: Option<Watch<ConfigEvent>>,
    backoff: Backoff,
    /// Whether the centre was out of reach at the last try: then another failure is no news.
    unreachable: bool,
    /// Told when the first load is over. It closes with this task, which is how others know that
    /// the task has ended; so it is the last field.
    loaded: watch::Sender<bool>,
}

impl<F: Followed> Worker<F> {
    pub(super) fn new(
        config: Arc<dyn ConfigCenter>,
        followed: F,
        home: Home,
        (stop, loaded): Orders,
    ) -> Self {
        followed.set_watch(Watching::Opening);
        followed.begin();
        Worker {
            config,
            followed,
            home,
            application: Application::current(),
            stop,
            watch: None,
            backoff: backoff(),
            unreachable: false,
            loaded,
        }
    }

    /// Runs until it is stopped or the config centre is closed.
    pub(super) async fn run(mut self) {
        loop {
            // A config centre that panics, or a layer in it, is out of reach like one that fails.
            let error = match AssertUnwindSafe(self.follow()).catch_unwind().await {
                Ok(None) => return,
                Ok(Some(error)) => error,
                Err(payload) => {
                    let _ = discard(payload);
                    panicked()
                }
            };
            let closed = error.kind() == ErrorKind::Closed;
            self.followed.set_watch(if closed { Watching::Ended } else { Watching::Opening });
            let dropped = discard(self.watch.take());
            self.out_of_reach(if dropped.is_ok() || closed { error } else { panicked() });
            if closed {
                return;
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.home.sleep(self.backoff.pause()) => {}
            }
        }
    }

    /// Opens a watch and follows it until that fails, and says why; `None` when the manager was
    /// stopped.
    async fn follow(&mut self) -> Option<Error> {
        let opened = tokio::select! {
            biased;
            () = self.stop.cancelled() => return None,
            opened = self.home.timeout(ATTEMPT, self.config.watch_raw(self.followed.watched(), WatchStart::Snapshot)) => opened,
        };
        match opened {
            Ok(Ok(watch)) => {
                self.followed.set_watch(Watching::Open(watch.status()));
                self.watch = Some(watch);
            }
            Ok(Err(error)) => return Some(error),
            Err(_) => {
                return Some(Error::new(
                    ErrorKind::Timeout,
                    OPERATION,
                    "the config centre did not answer in time",
                ));
            }
        }
        loop {
            let item = tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                item = next_event(&mut self.watch) => item,
            };
            match item {
                Some(Ok(event)) => self.take(event),
                Some(Err(error)) => return Some(error),
                None => return Some(Error::new(ErrorKind::Unavailable, OPERATION, "the watch ended")),
            }
            // Changes that come faster than they are taken must not keep the thread from other
            // tasks.
            tokio::task::consume_budget().await;
        }
    }

    fn take(&mut self, event: ConfigEvent) {
        self.backoff.reset();
        self.unreachable = false;
        let Worker { application, followed, .. } = self;
        if application.run(|| followed.take(event)) {
            self.loaded.send_replace(true);
        }
    }

    fn out_of_reach(&mut self, error: Error) {
        counted("failed", FaultStage::Load.as_str());
        let (key, kind) = (self.followed.watched(), error.kind().as_str());
        self.application.run(|| {
            if self.unreachable {
                log(|| {
                    tracing::debug!(key, kind, reason = reason(&error), "configuration still out of reach")
                });
            } else {
                log(|| tracing::warn!(key, kind, reason = reason(&error), "configuration out of reach"));
            }
        });
        self.unreachable = true;
        self.followed.failed(ConfigFault::new(FaultStage::Load, None, error));
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::Internal, OPERATION, "the config centre panicked")
}

/// The next event of the open watch. Cancel safe.
async fn next_event(watch: &mut Option<Watch<ConfigEvent>>) -> Option<coord_api::Result<ConfigEvent>> {
    watch.as_mut()?.next().await
}

impl<F: Followed> Drop for Worker<F> {
    /// However the task ended, also with a runtime whose clock is paused: nothing watches any more.
    fn drop(&mut self) {
        self.followed.end();
        // Nobody follows it any more, so that a panic would be no news.
        let _ = discard(self.watch.take());
    }
}
