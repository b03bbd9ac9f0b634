//! The messages of one partition for one group.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord::{Error, ErrorKind, Outcome, Result};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::member::Member;
use super::slot::{Look, Slot, Take, Term};
use crate::delivery::Delivery;
use crate::engine::{Lane, Place, Settled};
use crate::message::Outgoing;
use crate::name::dead_of;

const LANE: &str = "mq.lane";
const ACK: &str = "mq.ack";

/// How soon a message comes again whose dead letter could not be stored.
const AFTER_FAILED_LETTER: Duration = Duration::from_secs(1);

/// How long it is waited at the end for other lanes of the same member, so that it has left the
/// group before another one of this process joins it.
const FOR_OTHERS: Duration = Duration::from_secs(1);

pub(super) struct KafkaLane {
    shared: Arc<Shared>,
    place: Place,
    stop: CancellationToken,
    member: Option<Arc<Member>>,
    /// It was said that all is well with the member.
    greeted: bool,
    /// While which term the message was taken.
    taken: Option<Term>,
}

impl KafkaLane {
    pub(super) fn new(shared: Arc<Shared>, place: Place, stop: CancellationToken) -> Self {
        KafkaLane { shared, place, stop, member: None, greeted: false, taken: None }
    }

    /// The member of the group, which joins where there is none.
    async fn member(&mut self) -> Result<Arc<Member>> {
        if let Some(member) = &self.member {
            return Ok(Arc::clone(member));
        }
        let member = self.shared.member(&self.place.topic, &self.place.group).await?;
        self.member = Some(Arc::clone(&member));
        Ok(member)
    }

    fn slot_of<'a>(&self, member: &'a Member) -> Result<&'a Slot<super::member::MemberContext>> {
        member.slot(self.place.partition).ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, LANE, "the topic has fewer partitions than before")
                .about(&self.place.topic)
        })
    }

    /// Waits until what was said of the message that was taken is stored.
    ///
    /// # Errors
    ///
    /// It may not be.
    async fn stored(&self, member: &Member, term: Term) -> Result<()> {
        let slot = self.slot_of(member)?;
        let deadline = Instant::now() + self.shared.config.load().publish_timeout();
        let mut bell = slot.listen();
        loop {
            bell.mark_unchanged();
            if slot.is_stored(term)? {
                return Ok(());
            }
            member.store_now();
            if timeout_at(deadline, bell.changed()).await.is_err() {
                return Err(Error::new(ErrorKind::Timeout, ACK, "Kafka did not answer in time")
                    .with_outcome(Outcome::Unknown));
            }
        }
    }

    async fn publish(&self, letter: &Outgoing) -> Result<()> {
        let deadline = Instant::now() + self.shared.config.load().publish_timeout();
        self.shared.publish(&dead_of(&self.place.topic), letter, deadline).await
    }

    /// Gives the message back that was taken, if one was, and leaves the member.
    fn detach(&mut self) -> Option<(Arc<Member>, bool)> {
        let member = self.member.take()?;
        if let (Some(term), Ok(slot)) = (self.taken.take(), self.slot_of(&member)) {
            slot.release(term, None);
        }
        let comes_back = !self.stop.is_cancelled();
        let leaves = member.detach(comes_back);
        Some((member, leaves))
    }
}

#[async_trait]
impl Lane for KafkaLane {
    async fn ready(&mut self) -> Result<()> {
        let member = self.member().await?;
        let slot = self.slot_of(&member)?;
        let mut bell = slot.listen();
        loop {
            bell.mark_unchanged();
            if let Some(fault) = member.fault() {
                return Err(fault);
            }
            // A partition may have no message for long, or belong to others: that all is well is
            // seen by whoever is told that there may be one.
            if !self.greeted && member.has_joined() {
                self.greeted = true;
                return Ok(());
            }
            match slot.look()? {
                Look::Ready => return Ok(()),
                Look::Later(at) => {
                    let _ = timeout_at(at, bell.changed()).await;
                }
                Look::Nothing => {
                    let _ = bell.changed().await;
                }
            }
        }
    }

    async fn next(&mut self, wait: Duration) -> Result<Option<Delivery>> {
        let Some(member) = self.member.clone() else { return Ok(None) };
        let slot = self.slot_of(&member)?;
        let until = Instant::now() + wait;
        let mut bell = slot.listen();
        loop {
            bell.mark_unchanged();
            match slot.take() {
                Take::Message { term, record, begun } => {
                    self.taken = Some(term);
                    let Place { topic, group, partition } = self.place.clone();
                    let (id, key, headers) = (record.id, record.key, record.headers);
                    let (payload, deliveries) = (record.payload, begun);
                    return Ok(Some(Delivery {
                        topic,
                        group,
                        partition,
                        id,
                        key,
                        headers,
                        payload,
                        deliveries,
                    }));
                }
                Take::NotStored => member.store_now(),
                Take::Nothing => return Ok(None),
            }
            tokio::select! {
                _ = bell.changed() => {}
                () = sleep_until(until) => return Ok(None),
                () = self.stop.cancelled() => return Ok(None),
            }
        }
    }

    async fn progress(&mut self) -> Result<()> {
        // The thread that polls is the sign of life.
        Ok(())
    }

    async fn settle(&mut self, how: Settled<'_>) -> Result<()> {
        let (Some(term), Some(member)) = (self.taken, self.member.clone()) else {
            return Err(Error::new(ErrorKind::Internal, ACK, "no message was taken"));
        };
        let slot = self.slot_of(&member)?;
        match how {
            Settled::Done => {
                self.taken = None;
                if slot.done(term)? {
                    member.store_now();
                }
                Ok(())
            }
            Settled::Again(after) => {
                let again = Instant::now() + after;
                let stored = self.stored(&member, term).await;
                self.taken = None;
                slot.release(term, Some(again));
                stored
            }
            Settled::Dead(letter) => match self.publish(letter).await {
                Ok(()) => {
                    self.taken = None;
                    slot.done(term)?;
                    self.stored(&member, term).await
                }
                Err(error) => {
                    self.taken = None;
                    slot.release(term, Some(Instant::now() + AFTER_FAILED_LETTER));
                    Err(error)
                }
            },
        }
    }

    async fn close(&mut self) {
        match self.detach() {
            Some((member, true)) => member.over().await,
            Some((member, false)) if self.stop.is_cancelled() => {
                let _ = timeout(FOR_OTHERS, member.over()).await;
            }
            _ => {}
        }
    }
}

impl Drop for KafkaLane {
    fn drop(&mut self) {
        self.detach();
    }
}
