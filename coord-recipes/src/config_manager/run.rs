//! Starting and stopping the task that follows documents (R24).

use std::future::Future;
use std::time::Duration;

use coord_home::{Home, HomeError};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a task is given: by what it is stopped, and whom it tells that the first load is over. It
/// keeps the sender for as long as it runs.
pub(super) type Orders = (CancellationToken, watch::Sender<bool>);

/// A task that can be started and stopped, again and again.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) home: Home,
    load_timeout: Duration,
    running: Mutex<Option<Running>>,
}

/// A task that was started.
#[derive(Clone, Debug)]
struct Running {
    stop: CancellationToken,
    /// Whether the first load is over. It closes when the task has ended.
    loaded: watch::Receiver<bool>,
}

impl Running {
    fn has_ended(&self) -> bool {
        self.loaded.has_changed().is_err()
    }

    async fn ended(mut self) {
        while self.loaded.changed().await.is_ok() {}
    }
}

impl Run {
    pub(super) fn new(home: Home, load_timeout: Duration) -> Self {
        Run { home, load_timeout, running: Mutex::new(None) }
    }

    /// Starts the task that `make` makes, unless one runs already, and waits until its first load
    /// is over, or for as long as a load may take.
    pub(super) async fn start<F>(&self, make: impl Fn(Orders) -> F) -> Result<(), HomeError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.home.ready()?;
        let mut running = loop {
            let stopping = {
                let mut slot = self.running.lock();
                match &*slot {
                    Some(running) if running.has_ended() => *slot = None,
                    Some(running) if !running.stop.is_cancelled() => break running.clone(),
                    _ => {}
                }
                match &*slot {
                    Some(stopping) => stopping.clone(),
                    None => {
                        let (report, loaded) = watch::channel(false);
                        let stop = CancellationToken::new();
                        self.home.spawn(make((stop.clone(), report)))?;
                        break slot.insert(Running { stop, loaded }).clone();
                    }
                }
            };
            stopping.ended().await;
        };
        // Loaded, ended or timed out: the status tells which.
        let _ = self.home.timeout(self.load_timeout, running.loaded.wait_for(|loaded| *loaded)).await;
        Ok(())
    }

    /// Stops the task, and waits for its end.
    pub(super) async fn stop(&self) {
        let running = self.running.lock().clone();
        if let Some(running) = running {
            running.stop.cancel();
            running.ended().await;
        }
    }

    /// Stops the task without waiting; says whether there is one.
    pub(super) fn abandon(&mut self) -> bool {
        let running = self.running.get_mut();
        if let Some(running) = running {
            running.stop.cancel();
        }
        running.is_some()
    }
}
