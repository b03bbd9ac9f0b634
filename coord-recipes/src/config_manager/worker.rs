//! The task of a config manager: opens the watch, follows it, and opens it again for as long as it
//! takes.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use coord_api::{ConfigCenter, ConfigEvent, Error, ErrorKind, Invalid, Result, WatchStart};
use coord_core::{Home, backoff};
use coord_home::Backoff;
use futures_util::{FutureExt, Stream};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::application::Application;
use super::guard::discard;
use super::reader::{Cell, ConfigReader, Watching};
use super::status::{ConfigFault, FaultStage};
use super::updates::{Follower, Updates, counted, log, reason};

const OPERATION: &str = "config_manager.load";

/// How long opening the watch may take before it is tried anew: a centre that never answers must
/// not stop the trying.
const ATTEMPT: Duration = Duration::from_secs(10);

/// One run of a manager, from a start to its stop.
pub(super) struct Worker<T> {
    config: Arc<dyn ConfigCenter>,
    cell: Arc<Cell<T>>,
    follower: Follower<T>,
    /// Where it lives, and whose timers it uses.
    home: Home,
    application: Application,
    stop: CancellationToken,
    backoff: Backoff,
    /// Whether the centre was out of reach at the last try: then another failure is no news.
    unreachable: bool,
    /// Told when the first load is over. It closes with this task, which is how others know that
    /// the task has ended; so it is the last field.
    loaded: watch::Sender<bool>,
}

impl<T: DeserializeOwned> Worker<T> {
    pub(super) fn new(
        config: Arc<dyn ConfigCenter>,
        reader: &ConfigReader<T>,
        updates: Arc<Updates<T>>,
        home: Home,
        stop: CancellationToken,
        loaded: watch::Sender<bool>,
    ) -> Self {
        let cell = Arc::clone(&reader.cell);
        let follower = Follower::new(Arc::clone(&cell), updates);
        let _ = cell.set_watch(Watching::Opening);
        cell.announcer.running(true);
        Worker {
            config,
            cell,
            follower,
            home,
            application: Application::current(),
            stop,
            backoff: backoff(),
            unreachable: false,
            loaded,
        }
    }

    /// Runs until it is stopped or the config centre is closed.
    pub(super) async fn run(mut self) {
        loop {
            // A config centre that panics, or a layer in it, is out of reach like one that fails.
            let error = match AssertUnwindSafe(self.watch()).catch_unwind().await {
                Ok(None) => return,
                Ok(Some(error)) => error,
                Err(payload) => {
                    let _ = discard(payload);
                    panicked()
                }
            };
            let closed = error.kind() == ErrorKind::Closed;
            let ended = self.cell.set_watch(if closed { Watching::Ended } else { Watching::Opening });
            self.out_of_reach(if ended.is_ok() || closed { error } else { panicked() });
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

    /// Watches until that fails, and says why; `None` when the manager was stopped.
    async fn watch(&mut self) -> Option<Error> {
        let opened = tokio::select! {
            biased;
            () = self.stop.cancelled() => return None,
            opened = self.home.timeout(ATTEMPT, self.config.watch_raw(&self.cell.key, WatchStart::Snapshot)) => opened,
        };
        match opened {
            Ok(Ok(watch)) => {
                let _ = self.cell.set_watch(Watching::Open(watch));
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
                item = next_event(&self.cell) => item,
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
        let Worker { application, follower, .. } = self;
        match event {
            ConfigEvent::Put { entry, .. } => application.run(|| follower.found(entry.value, entry.version)),
            ConfigEvent::Delete { .. } => application.run(|| follower.absent()),
            ConfigEvent::Invalid { record, .. } => self.unreadable(record),
            // Of a key that no call takes, so it is not the managed one.
            ConfigEvent::InvalidDeleted { .. } => {}
            ConfigEvent::Resync(snapshot) => {
                let key = &self.cell.key;
                let entry = snapshot.items.into_iter().find(|entry| entry.key == *key);
                let record = snapshot.invalid.into_iter().find(|record| record.key == key.as_bytes());
                match (entry, record) {
                    (Some(entry), _) => application.run(|| follower.found(entry.value, entry.version)),
                    (None, Some(record)) => self.unreadable(record),
                    (None, None) => application.run(|| follower.absent()),
                }
                self.loaded.send_replace(true);
            }
        }
    }

    fn unreadable(&mut self, record: Invalid) {
        self.application
            .run(|| self.follower.refuse(FaultStage::Decode, record.error, record.version, record.value));
    }

    fn out_of_reach(&mut self, error: Error) {
        counted("failed", FaultStage::Load.as_str());
        let (key, kind) = (self.cell.key.as_str(), error.kind().as_str());
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
        self.cell.failed(ConfigFault::new(FaultStage::Load, None, error));
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::Internal, OPERATION, "the config centre panicked")
}

/// The next event of the open watch. Cancel safe.
async fn next_event<T>(cell: &Cell<T>) -> Option<Result<ConfigEvent>> {
    poll_fn(|cx| match &mut *cell.watch.lock() {
        Watching::Open(watch) => Pin::new(watch).poll_next(cx),
        _ => Poll::Ready(None),
    })
    .await
}

impl<T> Drop for Worker<T> {
    /// However the task ended, also with a runtime whose clock is paused: nothing watches any more.
    fn drop(&mut self) {
        self.cell.stop_watch();
    }
}
