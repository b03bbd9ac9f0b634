//! The work of a subscription: what its task, those of its partitions, and its owner share.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use coord::{Error, Result};
use coord_home::{Backoff, BackoffPolicy};
use coord_service::Scope;
use coord_service::health::{Reporter, State};
use coord_service::live::Live;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::SUBSCRIBE;
use crate::delivery::Handler;
use crate::gate::Gate;
use crate::reload::{Engines, InUse};

/// The pauses before what failed is tried again: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How a subscription is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionStatus {
    /// Whether the group is there, so that no message passes it by.
    pub ready: bool,
    /// What failed last, where nothing has succeeded since: for people, without secrets.
    pub fault: Option<String>,
    /// Whether it is over: stopped, or ended by accident.
    pub over: bool,
}

/// The work of a subscription.
pub(crate) struct Work {
    pub(crate) live: Arc<Live<Engines>>,
    pub(crate) in_use: InUse,
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) gate: Gate,
    pub(crate) stop: CancellationToken,
    pub(crate) status: watch::Sender<SubscriptionStatus>,
    /// What fails at the moment, by its partition; `None` for the group.
    faults: Mutex<BTreeMap<Option<u16>, String>>,
    reporter: Reporter,
}

/// What a subscription stands on.
pub(crate) struct Ground<'a> {
    pub(crate) name: &'a str,
    pub(crate) live: &'a Arc<Live<Engines>>,
    pub(crate) in_use: &'a InUse,
    pub(crate) scope: &'a Scope,
}

impl Work {
    pub(crate) fn new(ground: &Ground<'_>, topic: &str, group: &str, handler: Arc<dyn Handler>) -> Self {
        Work {
            live: Arc::clone(ground.live),
            in_use: ground.in_use.clone(),
            topic: topic.to_owned(),
            group: group.to_owned(),
            handler,
            gate: Gate::new(ground.in_use.concurrency.subscribe()),
            stop: CancellationToken::new(),
            status: watch::Sender::default(),
            faults: Mutex::default(),
            reporter: ground.scope.report(format!("{} {topic}/{group}", ground.name), false),
        }
    }

    /// Waits until it is over.
    pub(crate) async fn over(&self) {
        let mut status = self.status.subscribe();
        // The sender lives as long as this.
        let _ = status.wait_for(|status| status.over).await;
    }

    /// Something failed, of a partition or of the group.
    pub(crate) fn failed(&self, part: Option<u16>, error: &Error) {
        tracing::warn!(topic = self.topic, group = self.group, partition = part, %error, "a subscription failed");
        self.faults.lock().insert(part, with_causes(error));
        self.show();
    }

    /// A partition is worked on again.
    pub(crate) fn succeeded(&self, part: u16) {
        if self.faults.lock().remove(&Some(part)).is_some() {
            self.show();
        }
    }

    /// The group is there.
    pub(crate) fn made(&self) {
        self.faults.lock().remove(&None);
        self.status.send_modify(|status| status.ready = true);
        self.show();
    }

    fn show(&self) {
        let fault = self.faults.lock().values().next().cloned();
        self.status.send_modify(|status| status.fault = fault);
        let status = self.status.borrow().clone();
        self.reporter.set(match (status.over, status.fault) {
            (true, _) => State::Down("closed".to_owned()),
            (_, Some(fault)) => State::Degraded(fault),
            (_, None) if !status.ready => State::Down("starting".to_owned()),
            (_, None) => State::Ready,
        });
    }
}

/// An error and what caused it, in one line.
fn with_causes(error: &Error) -> String {
    let mut line = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

/// Says that the subscription is over, however its task ends.
pub(crate) struct Over(pub(crate) Arc<Work>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.stop.cancel();
        self.0.status.send_modify(|status| status.over = true);
        self.0.show();
    }
}

pub(crate) fn retry() -> Backoff {
    Backoff::new(BackoffPolicy::new(RETRY.0, RETRY.1))
}

/// The subscriptions of a queue, to be ended with the service.
pub(crate) struct Subscriptions {
    /// `None` once they were told to end.
    known: Mutex<Option<Vec<Weak<Work>>>>,
}

impl Subscriptions {
    pub(crate) fn new() -> Self {
        Subscriptions { known: Mutex::new(Some(Vec::new())) }
    }

    /// Keeps one in mind.
    ///
    /// # Errors
    ///
    /// `Closed` when they were told to end.
    pub(crate) fn remember(&self, work: &Arc<Work>) -> Result<()> {
        let mut known = self.known.lock();
        let Some(known) = known.as_mut() else { return Err(Error::closed(SUBSCRIBE)) };
        known.retain(|known| known.strong_count() > 0);
        known.push(Arc::downgrade(work));
        Ok(())
    }

    /// Ends all of them, and waits for that.
    pub(crate) async fn end(&self) {
        let known = self.known.lock().take().unwrap_or_default();
        let all: Vec<_> = known.iter().filter_map(Weak::upgrade).collect();
        all.iter().for_each(|work| work.stop.cancel());
        for work in all {
            work.over().await;
        }
    }
}
