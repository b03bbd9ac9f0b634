//! Follows the instances that share limits, and the moments at which something happens by itself.

use std::sync::Arc;
use std::time::Duration;

use coord::coord_core::{Home, backoff};
use coord::{Error, ErrorKind, ServiceChange, ServiceEvent, ServiceRegistry, Watch};
use tokio_util::sync::CancellationToken;

use super::control::Control;
use super::members::Membership;

/// How long opening the watch may take before it is tried anew.
const ATTEMPT: Duration = Duration::from_secs(10);

const OPERATION: &str = "ratelimit.members";

/// The task that follows a service's instances.
pub(super) struct Worker {
    control: Arc<Control>,
    registry: Arc<dyn ServiceRegistry>,
    service: String,
    /// Where it lives, and whose timers it uses.
    home: Home,
    stop: CancellationToken,
}

impl Worker {
    pub(super) fn new(
        control: Arc<Control>,
        registry: Arc<dyn ServiceRegistry>,
        service: String,
        home: Home,
        stop: CancellationToken,
    ) -> Self {
        control.followed(true);
        Worker { control, registry, service, home, stop }
    }

    /// Runs until it is stopped.
    pub(super) async fn run(self) {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = self.keep_time() => {}
            () = self.keep_registration() => {}
            () = self.follow() => {}
        }
    }

    /// Does what is to be done at certain moments.
    async fn keep_time(&self) {
        loop {
            let next = self.control.advance(self.home.now());
            tokio::select! {
                () = self.control.rescheduled.notified() => {}
                () = async {
                    match next {
                        Some(next) => self.home.sleep_until(next).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    }

    /// Looks whether the own registration is over for good: then its id may be another process's.
    async fn keep_registration(&self) {
        let mut registrations = self.control.registrations();
        loop {
            // What it waits for does not keep it.
            let lost = registrations
                .borrow_and_update()
                .as_ref()
                .map(|registration| registration.upgrade().map(|registration| registration.lost()));
            let lost = async {
                match lost {
                    Some(Some(lost)) => drop(lost.await),
                    // It was dropped.
                    Some(None) => {}
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = registrations.changed() => if changed.is_err() { return },
                () = lost => {
                    self.control.members([Membership::Superseded], self.home.now());
                    if registrations.changed().await.is_err() {
                        return;
                    }
                }
            }
            self.control.members([Membership::Registered], self.home.now());
        }
    }

    async fn follow(&self) {
        let mut backoff = backoff();
        loop {
            let opened = self.home.timeout(ATTEMPT, self.registry.watch(&self.service)).await;
            let error = match opened {
                Ok(Ok(watch)) => {
                    self.control.watching(Some(watch.status()));
                    let (error, is_read) = self.take(watch).await;
                    self.control.watching(None);
                    if is_read {
                        backoff.reset();
                    }
                    error
                }
                Ok(Err(error)) => error,
                Err(_) => Error::new(ErrorKind::Timeout, OPERATION, "the registry did not answer in time"),
            };
            let is_closed = error.kind() == ErrorKind::Closed;
            self.control.failed(Some(error));
            if is_closed {
                // For good: the share stays as it is.
                std::future::pending::<()>().await;
            }
            self.home.sleep(backoff.pause()).await;
        }
    }

    /// Takes what the watch tells until it ends; says why it did, and whether it told anything.
    async fn take(&self, mut watch: Watch<ServiceEvent>) -> (Error, bool) {
        let mut is_read = false;
        let mut changes = Vec::new();
        loop {
            let event = match watch.next().await {
                Some(Ok(event)) => event,
                Some(Err(error)) => return (error, is_read),
                None => {
                    return (Error::new(ErrorKind::Unavailable, OPERATION, "the watch ended"), is_read);
                }
            };
            is_read = true;
            let is_last = match event {
                ServiceEvent::Resync(snapshot) => {
                    let ids = snapshot.into_iter().map(|instance| instance.id).collect();
                    changes.push(Membership::All(ids));
                    true
                }
                ServiceEvent::Change { change, last, .. } => {
                    changes.extend(membership(change));
                    last
                }
            };
            // What many leases take along that end at once comes in one revision, and counts once.
            if is_last {
                self.control.failed(None);
                self.control.members(changes.drain(..), self.home.now());
            }
            tokio::task::consume_budget().await;
        }
    }
}

fn membership(change: ServiceChange) -> Option<Membership> {
    match change {
        ServiceChange::Added(instance) => Some(Membership::Came(instance.id)),
        ServiceChange::Removed(instance) => Some(Membership::Went(instance.id)),
        _ => None,
    }
}

impl Drop for Worker {
    /// However the task ended, those who wait are told.
    fn drop(&mut self) {
        self.control.watching(None);
        self.control.followed(false);
    }
}
