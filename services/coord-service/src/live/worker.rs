//! The task behind a live client: it brings each configuration into use, tries again what failed,
//! probes what serves and retires what was replaced.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use coord::{Error, ErrorKind, Result};
use coord_home::{Backoff, BackoffPolicy};
use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::serving::{Retiring, Serving};
use super::{Change, LiveFault, LiveOptions, Reload, Shared, Stage};

pub(super) struct Worker<R: Reload> {
    shared: Arc<Shared<R::Client>>,
    reload: Arc<R>,
    options: LiveOptions,
    backoff: Backoff,
    running: Option<Running<R>>,
    /// The task that retires the client before.
    retiring: Option<JoinHandle<()>>,
}

struct Running<R: Reload> {
    config: Arc<R::Config>,
    client: Retiring<R::Client>,
}

/// Says that it is over, however the task ends.
struct Over<C>(Arc<Shared<C>>);

impl<C> Drop for Over<C> {
    fn drop(&mut self) {
        self.0.serving.store(None);
        self.0.change(|status| status.over = true);
    }
}

impl<R: Reload> Worker<R> {
    pub(super) fn new(shared: Arc<Shared<R::Client>>, reload: Arc<R>, options: LiveOptions) -> Self {
        let backoff = Backoff::new(BackoffPolicy::new(options.retry / 50, options.retry));
        Worker { shared, reload, options, backoff, running: None, retiring: None }
    }

    pub(super) async fn run(mut self, mut config: watch::Receiver<Arc<R::Config>>, stop: CancellationToken) {
        let over = Over(Arc::clone(&self.shared));
        stop.run_until_cancelled(self.follow(&mut config)).await;
        // Nobody gets it from now on, so that its last use ends.
        self.shared.serving.store(None);
        if let Some(running) = self.running.take() {
            retire(Arc::clone(&self.reload), running.client, self.options.clone()).await;
        }
        self.retired().await;
        drop(over);
    }

    async fn follow(&mut self, config: &mut watch::Receiver<Arc<R::Config>>) {
        let mut followed = true;
        loop {
            let newest = Arc::clone(&config.borrow());
            if self.plan(&newest) == Change::Rebuild {
                // So that two serve at most. The configuration may change meanwhile.
                self.retired().await;
            }
            let wanted = Arc::clone(&config.borrow_and_update());
            let done = self.bring_in(wanted).await;
            let pause = if done { self.options.probe_every } else { self.backoff.pause() };
            tokio::select! {
                changed = config.changed(), if followed => {
                    followed = changed.is_ok();
                    self.backoff.reset();
                }
                () = sleep(pause) => if done { self.probe_serving().await },
                () = self.retired(), if self.retiring.is_some() => {}
            }
        }
    }

    fn plan(&self, wanted: &R::Config) -> Change {
        match &self.running {
            None => Change::Rebuild,
            Some(running) => self.reload.plan(&running.config, wanted),
        }
    }

    /// Brings a configuration into use. Says whether there is nothing left to try.
    async fn bring_in(&mut self, wanted: Arc<R::Config>) -> bool {
        let change = self.plan(&wanted);
        let waits_for_restart = match change {
            Change::Restart(field) => Some(field),
            _ => None,
        };
        if let Some(field) = waits_for_restart {
            tracing::warn!(component = self.shared.name, field, "a change waits for a restart");
        }
        self.shared.change(|status| status.waits_for_restart = waits_for_restart);
        let done = match change {
            Change::Same | Change::Restart(_) => Ok(()),
            Change::InPlace => self.tell(wanted),
            Change::Rebuild => self.rebuild(wanted).await,
        };
        match done {
            Ok(()) => {
                self.backoff.reset();
                self.shared.change(|status| {
                    if status.fault.as_ref().is_some_and(|fault| fault.stage != Stage::Probe) {
                        status.fault = None;
                    }
                });
                true
            }
            Err((stage, error)) => {
                self.failed(stage, error);
                false
            }
        }
    }

    fn tell(&mut self, wanted: Arc<R::Config>) -> std::result::Result<(), (Stage, Error)> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let applied =
            std::panic::catch_unwind(AssertUnwindSafe(|| self.reload.apply(&running.client.client, &wanted)));
        caught("live.apply", applied).map_err(|error| (Stage::Apply, error))?;
        running.config = wanted;
        Ok(())
    }

    /// Builds, probes, swaps. The client before retires by itself.
    async fn rebuild(&mut self, wanted: Arc<R::Config>) -> std::result::Result<(), (Stage, Error)> {
        let deadline = Instant::now() + self.options.timeout;
        let build = guarded("live.build", deadline, self.reload.build(&wanted));
        let client = build.await.map_err(|error| (Stage::Build, error))?;
        let probe = guarded("live.probe", deadline, self.reload.probe(&client));
        if let Err(error) = probe.await {
            let within = Instant::now() + self.options.timeout;
            let _ = guarded("live.retire", within, self.reload.retire(&client).map(Ok)).await;
            return Err((Stage::Probe, error));
        }
        let (serving, client) = Serving::new(client);
        drop(self.shared.serving.swap(Some(Arc::new(serving))));
        let before = self.running.replace(Running { config: wanted, client });
        self.shared.change(|status| {
            status.generation += 1;
            status.fault = None;
            status.retiring = before.is_some();
        });
        tracing::info!(component = self.shared.name, swapped = before.is_some(), "a client is in use");
        if let Some(before) = before {
            let retire = retire(Arc::clone(&self.reload), before.client, self.options.clone());
            self.retiring = Some(tokio::spawn(retire));
        }
        Ok(())
    }

    async fn probe_serving(&mut self) {
        let Some(running) = &self.running else { return };
        let deadline = Instant::now() + self.options.timeout;
        match guarded("live.probe", deadline, self.reload.probe(&running.client.client)).await {
            Ok(()) => self.shared.change(|status| {
                if status.fault.as_ref().is_some_and(|fault| fault.stage == Stage::Probe) {
                    status.fault = None;
                }
            }),
            Err(error) => self.failed(Stage::Probe, error),
        }
    }

    fn failed(&self, stage: Stage, error: Error) {
        self.shared.change(|status| {
            let times = match &status.fault {
                Some(fault) if fault.stage == stage => fault.times.saturating_add(1),
                _ => 1,
            };
            status.fault = Some(LiveFault { stage, error, times });
        });
    }

    /// Waits until the client before is retired. Cancel safe.
    async fn retired(&mut self) {
        if let Some(task) = &mut self.retiring {
            // It catches panics by itself; a runtime that ends takes this task along.
            let _ = task.await;
            self.retiring = None;
            self.shared.change(|status| status.retiring = false);
        }
    }
}

/// Retires a client once nobody uses it, or the time for that is over.
async fn retire<R: Reload>(reload: Arc<R>, client: Retiring<R::Client>, options: LiveOptions) {
    if timeout(options.drain, client.unused.cancelled()).await.is_err() {
        tracing::warn!(drain = ?options.drain, "a client that was replaced is still in use, and is ended");
    }
    let within = Instant::now() + options.timeout;
    if let Err(error) = guarded("live.retire", within, reload.retire(&client.client).map(Ok)).await {
        tracing::warn!(%error, "a client that was replaced did not end as it should");
    }
}

/// Runs the application's code until a deadline; a panic is an error.
async fn guarded<T>(
    operation: &'static str,
    deadline: Instant,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match timeout_at(deadline, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(done) => caught(operation, done),
        Err(_) => Err(Error::new(ErrorKind::Timeout, operation, "it took too long")),
    }
}

fn caught<T>(
    operation: &'static str,
    done: std::result::Result<Result<T>, Box<dyn Any + Send>>,
) -> Result<T> {
    done.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, operation, "it panicked")))
}
