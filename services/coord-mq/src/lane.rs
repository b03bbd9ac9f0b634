//! The work on one partition of a subscription: what is the same whatever carries the messages.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use coord::Result;
use coord_home::Backoff;
use coord_service::trace::{self, TraceContext};
use futures_util::FutureExt;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::count;
use crate::delivery::{Delivery, Verdict};
use crate::engine::{Lane, Place, Settled};
use crate::work::{Work, retry};

/// How long one look for a message takes: where others wait for the same place, and where nobody
/// does.
const LOOK_AMONG_OTHERS: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_secs(5);

/// How long a lane may take to give back what it has.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// How soon a message comes again whose handler has panicked.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// Works on one partition, until the subscription is stopped.
pub(crate) struct Worker {
    work: Arc<Work>,
    partition: u16,
    /// How many there are in all.
    partitions: u16,
    backoff: Backoff,
}

/// Why a lane is worked on no more.
enum Ended {
    /// The subscription is stopped, or the client was replaced.
    Stopped,
    Failed(coord::Error),
}

impl Worker {
    pub(crate) fn new(work: Arc<Work>, partition: u16, partitions: u16) -> Self {
        Worker { work, partition, partitions, backoff: retry() }
    }

    pub(crate) async fn run(mut self) {
        let work = Arc::clone(&self.work);
        while !work.stop.is_cancelled() {
            let live = &work.live;
            // Asked first: a client that comes in between is then looked at anew at once.
            let generation = live.status().generation;
            let failed = match live.current() {
                Ok(engine) => {
                    let stop = work.stop.child_token();
                    let mut lane = engine.lane(self.place(), stop.clone());
                    let ended = {
                        let replaced = live.wait_for(|status| status.generation != generation);
                        let replaced = async {
                            replaced.await;
                            stop.cancel();
                            std::future::pending::<Ended>().await
                        };
                        tokio::select! {
                            ended = self.work(&mut *lane, &stop) => ended,
                            ended = replaced => ended,
                        }
                    };
                    let _ = timeout(CLOSE_WITHIN, lane.close()).await;
                    match ended {
                        Ended::Stopped => None,
                        Ended::Failed(error) => Some(error),
                    }
                }
                Err(error) => Some(error),
            };
            let Some(error) = failed else { continue };
            work.failed(Some(self.partition), &error);
            let pause = self.backoff.pause();
            tokio::select! {
                () = sleep(pause) => {}
                () = work.stop.cancelled() => {}
                _ = live.wait_for(|status| status.generation != generation) => {
                    if live.status().over {
                        return;
                    }
                }
            }
        }
    }

    fn place(&self) -> Place {
        let (topic, group) = (self.work.topic.clone(), self.work.group.clone());
        Place { topic, group, partition: self.partition }
    }

    /// Handles what the lane gives.
    async fn work(&mut self, lane: &mut dyn Lane, stop: &CancellationToken) -> Ended {
        loop {
            match stop.run_until_cancelled(lane.ready()).await {
                None => return Ended::Stopped,
                Some(Err(error)) => return Ended::Failed(error),
                Some(Ok(())) => {}
            }
            let gate = &self.work.gate;
            let Some(permit) = stop.run_until_cancelled(gate.enter()).await else { return Ended::Stopped };
            let among_others = gate.size() < usize::from(self.partitions);
            let wait = if among_others { LOOK_AMONG_OTHERS } else { LOOK };
            match lane.next(wait).await {
                Ok(Some(delivery)) => {
                    if let Err(error) = self.handle(lane, delivery).await {
                        count::unsettled(&self.work.topic, &self.work.group);
                        return Ended::Failed(error);
                    }
                }
                Ok(None) => {}
                Err(error) => return Ended::Failed(error),
            }
            drop(permit);
            self.backoff.reset();
            self.work.succeeded(self.partition);
            if stop.is_cancelled() {
                return Ended::Stopped;
            }
        }
    }

    /// Handles one message, and settles it.
    ///
    /// # Errors
    ///
    /// It is, or may be, delivered again.
    async fn handle(&self, lane: &mut dyn Lane, delivery: Delivery) -> Result<()> {
        let (topic, group) = (&self.work.topic, &self.work.group);
        let begun = Instant::now();
        if delivery.deliveries > 1 {
            count::redelivered(topic, group);
        }
        let retries = self.work.in_use.config.load().retries;
        // Its handlers took their processes along, or the broker was away each time: more often
        // than one that answers is asked, so that no outage alone makes it a dead letter.
        let given_up = delivery.deliveries > retries.saturating_add(1).saturating_mul(2);
        let verdict = match given_up {
            true => Verdict::Dead(format!("delivered {} times, and never settled", delivery.deliveries - 1)),
            false => self.verdict(lane, delivery.clone()).await?,
        };
        let verdict = match verdict {
            Verdict::Retry(_) if delivery.deliveries > retries => {
                Verdict::Dead(format!("to be tried again after {} deliveries", delivery.deliveries))
            }
            verdict => verdict,
        };
        let name = match verdict {
            Verdict::Done => {
                lane.settle(Settled::Done).await?;
                "done"
            }
            Verdict::Retry(after) => {
                lane.settle(Settled::Again(after)).await?;
                "retry"
            }
            Verdict::Dead(why) => {
                let letter = delivery.dead(&why);
                lane.settle(Settled::Dead(&letter)).await?;
                tracing::warn!(topic, group, id = delivery.id, why, "a message was given up");
                "dead"
            }
        };
        count::handled(topic, group, name, begun.elapsed());
        Ok(())
    }

    /// What the handler says. Meanwhile the broker is told that it is at work.
    async fn verdict(&self, lane: &mut dyn Lane, delivery: Delivery) -> Result<Verdict> {
        let pairs = delivery.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let context = TraceContext::from_pairs(pairs);
        let id = delivery.id.clone();
        let handler = Arc::clone(&self.work.handler);
        let handle = async move { handler.handle(delivery).await };
        let mut handle = std::pin::pin!(trace::scope(context, AssertUnwindSafe(handle).catch_unwind()));
        let every = self.work.in_use.config.load().ack_wait() / 3;
        let mut progress = interval_at(Instant::now() + every, every);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let said = loop {
            tokio::select! {
                said = &mut handle => break said,
                _ = progress.tick() => {
                    // The handler goes on whatever becomes of it.
                    if let Err(error) = lane.progress().await {
                        tracing::warn!(id, %error, "it could not be said that a message is being handled");
                    }
                }
            }
        };
        Ok(said.unwrap_or_else(|_| {
            tracing::error!(topic = self.work.topic, group = self.work.group, id, "a handler panicked");
            Verdict::Retry(AFTER_PANIC)
        }))
    }
}
