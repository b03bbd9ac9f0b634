//! The task of a generator: it stores horizons in time, goes on with another number after a loss,
//! and gives the number back at the end (R64, R66).

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use coord::coord_core::{Client, backoff};
use coord::recipes::KeptId;
use coord::{Error, ErrorKind, Outcome, Result};
use futures_util::{Stream, StreamExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::horizon::Horizon;
use super::shared::{Shared, lost};

pub(super) const CLOSE: &str = "uid.close";

const STORE: &str = "uid.horizon";

/// How long giving back waits for the store to take the last horizon.
const LAST_HORIZON_WITHIN: Duration = Duration::from_secs(2);

/// How the task has ended, once it has.
pub(super) type Ended = watch::Receiver<Option<Result<()>>>;

/// A worker's number, and its horizon.
#[derive(Debug)]
pub(super) struct Worker {
    held: KeptId,
    horizon: Horizon,
    begun: bool,
}

impl Worker {
    pub(super) fn new(client: &Client, service: &str, held: KeptId) -> Self {
        let horizon = Horizon::new(client.clone(), service, &held);
        Worker { held, horizon, begun: false }
    }

    /// Stores a horizon: the first one, after which ids are given out, or a later one.
    ///
    /// # Errors
    ///
    /// As [`Horizon::store`]; `Timeout` where the store does not answer in time.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may or may not be stored, and is not known to be; the next call finds out.
    pub(super) async fn store(&mut self, shared: &Shared, limit: Duration) -> Result<()> {
        let (generator, clocks) = (&shared.generator, &shared.clocks);
        let begun = self.begun;
        let store = self.horizon.store(|stored| match begun {
            true => generator.next_horizon(clocks.monotonic()),
            false => generator.first_horizon(stored, clocks.monotonic()),
        });
        let stored = within(&shared.client, &shared.service, limit, store).await?;
        match begun {
            true => shared.raised(stored),
            false if shared.begin(self.held.clone(), stored) => self.begun = true,
            false => {
                return Err(Error::lease_lost(STORE, "the worker's number was lost before its first id"));
            }
        }
        Ok(())
    }
}

/// Bounds a write of a horizon.
async fn within<T>(
    client: &Client,
    service: &str,
    limit: Duration,
    store: impl Future<Output = Result<T>>,
) -> Result<T> {
    let bounded = async {
        client.home().timeout(limit, store).await.unwrap_or_else(|_| {
            let fault = "the store did not answer in time";
            Err(Error::new(ErrorKind::Timeout, STORE, fault).with_outcome(Outcome::Unknown))
        })
    };
    client.run_on(STORE, service, Outcome::Unknown, bounded).await
}

/// The task.
pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) worker: Option<Worker>,
    /// How long one request may take, so that several fit between two horizons.
    pub(super) limit: Duration,
    pub(super) closing: CancellationToken,
    pub(super) ended: watch::Sender<Option<Result<()>>>,
}

impl Task {
    /// Runs until the generator is closed, or its provider.
    pub(super) async fn run(mut self, changes: impl Stream<Item = Option<KeptId>> + Send + Unpin) {
        // Also where the runtime that this lives in ends.
        let mut by_accident = AtTheEnd(Some(Arc::clone(&self.shared)));
        let closing = self.closing.clone();
        tokio::select! {
            biased;
            () = closing.cancelled() => {}
            () = self.keep(changes) => {}
        }
        let ended = self.give_back().await;
        by_accident.0 = None;
        self.ended.send_replace(Some(ended.map_err(|error| error.about(&self.shared.service))));
    }

    /// Follows the keeper of the number, until that ends with the provider.
    async fn keep(&mut self, mut changes: impl Stream<Item = Option<KeptId>> + Send + Unpin) {
        loop {
            let change = tokio::select! {
                biased;
                change = changes.next() => change,
                () = serve(&self.shared, &mut self.worker, self.limit) => continue,
            };
            match change {
                None => return,
                Some(Some(held)) if self.worker.as_ref().is_some_and(|worker| worker.held == held) => {}
                Some(held) => {
                    self.shared.stop(lost());
                    self.worker =
                        held.map(|held| Worker::new(&self.shared.client, &self.shared.service, held));
                }
            }
        }
    }

    /// Stores the time after the last id, and gives the number back after that.
    async fn give_back(&mut self) -> Result<()> {
        let free_from = self.shared.stop(Error::closed("uid.next"));
        if self.shared.client.is_closed() {
            let keeper = self.shared.keeper.lock().take();
            drop(keeper);
            let fault = "the provider was closed before; close the generator first, so that its last \
                         horizon can be stored";
            return Err(Error::new(ErrorKind::Closed, CLOSE, fault));
        }
        if let Some(worker) = self.worker.as_mut().filter(|worker| worker.begun) {
            let store = worker.horizon.store(|_| Some(free_from));
            let limit = self.limit.min(LAST_HORIZON_WITHIN);
            if let Err(error) = within(&self.shared.client, &self.shared.service, limit, store).await {
                // Who has the number next begins a little later.
                coord_home::event!(DEBUG, kind = %error.kind(), "the last horizon was not stored");
            }
        }
        let keeper = self.shared.keeper.lock().take();
        match keeper {
            Some(keeper) => keeper.release().await.map_err(|error| error.in_operation(CLOSE)),
            None => Ok(()),
        }
    }
}

/// Stores the horizons of a worker, each in time, until the worker is lost.
async fn serve(shared: &Shared, worker: &mut Option<Worker>, limit: Duration) {
    let home = shared.client.home();
    let mut failures = backoff();
    let mut is_told = false;
    loop {
        let Some(held) = worker else { return pending().await };
        if held.begun {
            let serves = shared.generator.horizon_serves(shared.clocks.monotonic());
            tokio::select! {
                () = home.sleep(serves) => {}
                () = shared.wanted.notified() => {}
            }
        }
        match held.store(shared, limit).await {
            Ok(()) => {
                if std::mem::take(&mut is_told) {
                    let service = shared.service.clone();
                    coord_home::event!(INFO, service, "the horizon of unique ids is stored again");
                }
                failures.reset();
            }
            // Whatever this machine believes: it is another's.
            Err(error) if error.kind() == ErrorKind::LeaseLost => {
                shared.stop(lost());
                *worker = None;
            }
            Err(error) => {
                if !std::mem::replace(&mut is_told, true) {
                    let (service, kind) = (shared.service.clone(), error.kind());
                    coord_home::event!(WARN, service, %kind, "the horizon of unique ids could not be stored");
                }
                shared.failed(error);
                home.sleep(failures.pause()).await;
            }
        }
    }
}

/// However the task ends: nothing stores horizons any more, so nothing may be given out, and the
/// number is given back.
struct AtTheEnd(Option<Arc<Shared>>);

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            let fault = "the task of the generator has ended, and nothing takes a number any more";
            shared.stop(Error::new(ErrorKind::Internal, "uid.next", fault));
            let keeper = shared.keeper.lock().take();
            drop(keeper);
        }
    }
}
