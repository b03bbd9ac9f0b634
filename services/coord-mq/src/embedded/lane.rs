//! The messages of one partition for one group.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord::coord_core::session::{LeasedEntry, Placed, Token};
use coord::coord_core::telemetry::Subject;
use coord::handle::Leased as _;
use coord::store::{Compare, Entry, Op, OpReply, Order, Range, Txn};
use coord::{Error, ErrorKind, Result, Revision};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::bells::{Bells, Point};
use super::keys::Watched;
use super::record::{decode, encode};
use super::topics::Topic;
use super::under::{end_under, lost, under};
use super::{CONTRACT, Shared};
use crate::delivery::Delivery;
use crate::engine::{Lane, Place, Settled};
use crate::message::Outgoing;
use crate::name::dead_of;

const LANE: &str = "mq.lane";

/// How many messages are handled under one claim, and for how long, before others have their turn.
const TENURE: u32 = 64;
const TENURE_TIME: Duration = Duration::from_secs(2);

/// For how long others have their turn then: a tenth of the time that it took, at least and at
/// most.
const YIELD: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// After what time it is looked for messages though nobody has said that there are any.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

pub(super) struct EmbeddedLane {
    shared: Arc<Shared>,
    place: Place,
    stop: CancellationToken,
    ears: Option<Ears>,
    claim: Option<Claimed>,
    /// As of which point nothing was to be had; `None` where that is not known.
    nothing: Option<Point>,
    /// The revision at which this lane itself has freed the partition.
    freed_by_us: Revision,
    /// Until when others have their turn.
    yields: Option<Instant>,
}

/// What wakes the lane.
struct Ears {
    topic: Arc<Topic>,
    queue: String,
    /// Kept for as long as it is listened to.
    _bells: Arc<Bells>,
    bell: watch::Receiver<Point>,
    freed: watch::Receiver<Point>,
}

/// The partition is this lane's.
struct Claimed {
    entry: LeasedEntry,
    since: Instant,
    /// How many messages were settled under the claim.
    settled: u32,
    /// The oldest message.
    head: Option<Waiting>,
    /// Whether others came after it, when it was read.
    more: bool,
    /// The revision at which it was read.
    read_at: Revision,
}

struct Waiting {
    key: Bytes,
    message: Outgoing,
    /// How often it was delivered, as the store has it.
    deliveries: u32,
    /// Whether the handler has it, or had it.
    taken: bool,
    /// When it is to be delivered again.
    again: Option<Instant>,
}

impl EmbeddedLane {
    pub(super) fn new(shared: Arc<Shared>, place: Place, stop: CancellationToken) -> Self {
        EmbeddedLane {
            shared,
            place,
            stop,
            ears: None,
            claim: None,
            nothing: None,
            freed_by_us: Revision::ZERO,
            yields: None,
        }
    }

    async fn listen(&mut self) -> Result<&mut Ears> {
        if self.ears.is_none() {
            let Place { topic: name, group, partition } = &self.place;
            let topic = self.shared.topics.read(LANE, name).await?;
            let Some(queue) = topic.record.groups.get(group).cloned() else {
                return Err(Error::new(ErrorKind::Closed, LANE, "the group was removed").about(group));
            };
            let bells = self.shared.bells(&topic, name)?;
            let bell = bells.of(Watched::Bell(*partition))?;
            let freed = bells.of(Watched::Claim(queue.clone(), *partition))?;
            self.ears = Some(Ears { topic, queue, _bells: bells, bell, freed });
            self.nothing = None;
        }
        self.ears.as_mut().ok_or_else(|| Error::new(ErrorKind::Internal, LANE, "nothing to listen to"))
    }

    /// Claims the partition if a message waits in it.
    async fn claim(&mut self) -> Result<bool> {
        let partition = self.place.partition;
        let shared = Arc::clone(&self.shared);
        let ears = self.listen().await?;
        let epoch = ears.bell.borrow().0;
        let directory = &ears.topic.directory;
        let messages = directory.messages(&ears.queue, partition);
        let (count, key) =
            (directory.deliveries(&ears.queue, partition), directory.claim(&ears.queue, partition));
        let oldest = || Range::new(messages.clone()).with_order(Order::OldestFirst);
        let look = Txn::new()
            .then(Op::Range(oldest().with_keys_only().with_limit(1)))
            .then(Op::Range(Range::key(count.clone())))
            .then(Op::Range(Range::key(key.clone())));
        let seen = shared.client.store().txn(look).await?;
        let (first, counted, claimed) = (seen.try_range(0)?, seen.try_range(1)?, seen.try_range(2)?);
        if first.entries.is_empty() || !claimed.entries.is_empty() {
            self.nothing = Some((epoch, seen.revision));
            return Ok(false);
        }
        let counted = counted.entries.first();
        let deliveries = counted.map_or(0, read_count).saturating_add(1);
        let as_seen = match counted {
            Some(counted) => Compare::Modified(count.clone(), counted.modified),
            None => Compare::Absent(count.clone()),
        };
        let session = shared.client.enter(LANE, shared.ack_wait).await?;
        let entry =
            LeasedEntry::new(session.clone(), key.clone(), Subject::new(CONTRACT, &*self.place.topic));
        // All claims of a partition have one key: this tells them apart; the name is for people.
        let own = format!("{} {:x}", shared.client.name(), fastrand::u64(..));
        let claim = || {
            Txn::new()
                .when(Compare::Absent(key.clone()))
                .when(as_seen.clone())
                .then(Op::put_leased(key.clone(), own.clone(), session.lease()))
                .then(Op::put(count.clone(), deliveries.to_string()))
                .then(Op::Range(oldest().with_limit(1)))
                .then(Op::Range(oldest().with_keys_only().with_limit(2)))
        };
        let (head, more, read_at) = match entry.place(&claim).await? {
            Placed::Written(reply) => {
                let (first, two) = (reply.try_range(2)?, reply.try_range(3)?);
                (first.entries.first().cloned(), two.entries.len() > 1, reply.revision)
            }
            // Somebody was faster.
            Placed::Refused(_) => return Ok(false),
            Placed::Found(found) => match found.first() {
                Some(Some(found)) if found.value.as_ref() == own.as_bytes() => {
                    entry.confirm(found, Token::New);
                    let first = shared.client.store().range(oldest().with_limit(1)).await?;
                    (first.entries.first().cloned(), true, first.revision)
                }
                _ => return Ok(false),
            },
        };
        session.freshen().await?;
        entry.held();
        let head = head.map(|head| waiting(&head, deliveries)).transpose()?;
        self.claim = Some(Claimed { entry, since: Instant::now(), settled: 0, head, more, read_at });
        Ok(true)
    }

    /// The message that is at hand, for the handler.
    async fn take(&mut self) -> Result<Option<Delivery>> {
        let Some(claimed) = &mut self.claim else { return Ok(None) };
        let Some(head) = &mut claimed.head else {
            self.free().await;
            return Ok(None);
        };
        if head.taken {
            // It was had before: count it once more, before anybody has it.
            let Some(ears) = &self.ears else { return Ok(None) };
            let count = ears.topic.directory.deliveries(&ears.queue, self.place.partition);
            let deliveries = head.deliveries.saturating_add(1);
            let counted = Op::put(count, deliveries.to_string());
            let key = head.key.clone();
            let build =
                |own| Txn::new().when(own).then(counted.clone()).then(Op::Range(Range::key(key.clone())));
            let reply = under(&self.shared, &claimed.entry, &build).await?;
            if reply.try_range(1)?.entries.is_empty() {
                return Err(Error::new(ErrorKind::Closed, LANE, "the group was removed"));
            }
            head.deliveries = deliveries;
        }
        (head.taken, head.again) = (true, None);
        let Outgoing { id, key, headers, payload } = head.message.clone();
        Ok(Some(Delivery {
            topic: self.place.topic.clone(),
            group: self.place.group.clone(),
            partition: self.place.partition,
            id,
            key,
            headers,
            payload,
            deliveries: head.deliveries,
        }))
    }

    /// Removes the oldest message, and does this with it, in one transaction. Goes on to the next
    /// one, or frees the partition.
    async fn remove(&mut self, dead: Option<&Outgoing>) -> Result<()> {
        let partition = self.place.partition;
        let (Some(claimed), Some(ears)) = (&mut self.claim, &self.ears) else {
            return Err(lost());
        };
        let Some(head) = claimed.head.as_ref() else { return Err(lost()) };
        let directory = &ears.topic.directory;
        let count = directory.deliveries(&ears.queue, partition);
        claimed.settled += 1;
        let goes_on = claimed.more
            && claimed.settled < TENURE
            && claimed.since.elapsed() < TENURE_TIME
            && !self.stop.is_cancelled();
        let dead_topic = match dead {
            Some(_) => Some(self.shared.topics.read(LANE, &dead_of(&self.place.topic)).await?),
            None => None,
        };
        let oldest = || {
            let messages = directory.messages(&ears.queue, partition);
            Range::new(messages).with_order(Order::OldestFirst)
        };
        let build = |own| {
            let mut remove = Txn::new().when(own).then(Op::delete(head.key.clone()));
            if let (Some(letter), Some(topic)) = (dead, &dead_topic) {
                remove = put_dead(remove, letter, topic);
            }
            match goes_on {
                // The next one is delivered as soon as it is read.
                true => remove
                    .then(Op::put(count.clone(), "1"))
                    .then(Op::Range(oldest().with_limit(1)))
                    .then(Op::Range(oldest().with_keys_only().with_limit(2))),
                false => {
                    remove.then(Op::put(count.clone(), "0")).then(Op::delete(claimed.entry.key().clone()))
                }
            }
        };
        if goes_on {
            let reply = under(&self.shared, &claimed.entry, &build).await?;
            let mut ranges = reply.replies.iter().filter_map(|reply| match reply {
                OpReply::Range(range) => Some(range),
                _ => None,
            });
            let (first, two) = (ranges.next(), ranges.next());
            claimed.more = two.is_some_and(|two| two.entries.len() > 1);
            claimed.read_at = reply.revision;
            claimed.head = None;
            let first = first.and_then(|first| first.entries.first());
            claimed.head = first.map(|first| waiting(first, 1)).transpose()?;
            return Ok(());
        }
        let (epoch, read_at) = (ears.bell.borrow().0, claimed.read_at);
        let ended = end_under(&self.shared, &claimed.entry, &build).await?;
        // Of messages that came since, the bell has told.
        let known = (!claimed.more).then_some((epoch, read_at));
        self.yields =
            claimed.more.then(|| Instant::now() + (claimed.since.elapsed() / 10).clamp(YIELD.0, YIELD.1));
        self.claim = None;
        self.nothing = known;
        if let Some(revision) = ended {
            self.freed_by_us = revision;
        }
        Ok(())
    }

    /// Gives the partition back, with what is in it.
    async fn free(&mut self) {
        let Some(claimed) = self.claim.take() else { return };
        self.nothing = None;
        let untouched = claimed.head.as_ref().is_none_or(|head| !head.taken);
        if let (true, Some(ears)) = (untouched, &self.ears) {
            // What nobody had was not delivered.
            let before = claimed.head.as_ref().map_or(0, |head| head.deliveries.saturating_sub(1));
            let count = ears.topic.directory.deliveries(&ears.queue, self.place.partition);
            let build = |own| {
                Txn::new()
                    .when(own)
                    .then(Op::put(count.clone(), before.to_string()))
                    .then(Op::delete(claimed.entry.key().clone()))
            };
            if end_under(&self.shared, &claimed.entry, &build).await.is_ok() {
                return;
            }
        }
        // One that the store does not answer is repeated by the session (R9).
        let _ = claimed.entry.release().await;
    }
}

#[async_trait]
impl Lane for EmbeddedLane {
    async fn ready(&mut self) -> Result<()> {
        if let Some(head) = self.claim.as_ref().and_then(|claimed| claimed.head.as_ref()) {
            if let Some(again) = head.again {
                let lost = self.claim.as_ref().map(|claimed| claimed.entry.loss());
                tokio::select! {
                    () = sleep_until(again) => {}
                    () = async { match lost { Some(lost) => { lost.wait().await; } None => std::future::pending().await } } => {}
                }
            }
            return Ok(());
        }
        if let Some(until) = self.yields {
            sleep_until(until).await;
            self.yields = None;
        }
        let (nothing, freed_by_us) = (self.nothing, self.freed_by_us);
        let Some(nothing) = nothing else { return Ok(()) };
        let ears = self.listen().await?;
        let is_news = |point: &Point| *point > nothing;
        let over = |_| Error::new(ErrorKind::Unavailable, LANE, "the watch of the topic ended");
        let heard = async {
            tokio::select! {
                heard = ears.bell.wait_for(is_news) => heard.map(drop).map_err(over),
                heard = ears.freed.wait_for(|point| is_news(point) && point.1 != freed_by_us) => {
                    heard.map(drop).map_err(over)
                }
            }
        };
        match timeout(LOOK_AGAIN, heard).await {
            Ok(Err(error)) => {
                self.ears = None;
                Err(error)
            }
            Ok(Ok(())) => Ok(()),
            Err(_) => {
                self.nothing = None;
                Ok(())
            }
        }
    }

    async fn next(&mut self, _wait: Duration) -> Result<Option<Delivery>> {
        if self.stop.is_cancelled() {
            return Ok(None);
        }
        if self.claim.is_none() && !self.claim().await? {
            return Ok(None);
        }
        self.take().await
    }

    async fn progress(&mut self) -> Result<()> {
        // The session renews its lease by itself.
        Ok(())
    }

    async fn settle(&mut self, how: Settled<'_>) -> Result<()> {
        let settled = match how {
            Settled::Done => self.remove(None).await,
            Settled::Dead(letter) => loop {
                match self.remove(Some(letter)).await {
                    // Somebody has subscribed to the dead letters meanwhile: it is read anew.
                    Err(error) if error.kind() == ErrorKind::Conflict => {}
                    settled => break settled,
                }
            },
            Settled::Again(after) => {
                let head = self.claim.as_mut().and_then(|claimed| claimed.head.as_mut());
                let Some(head) = head else { return Err(lost()) };
                head.again = Some(Instant::now() + after);
                Ok(())
            }
        };
        if settled.is_err() {
            // Whatever became of it, the store says.
            self.claim = None;
            self.nothing = None;
        }
        settled
    }

    async fn close(&mut self) {
        self.free().await;
    }
}

fn read_count(entry: &Entry) -> u32 {
    std::str::from_utf8(&entry.value).ok().and_then(|count| count.parse().ok()).unwrap_or_default()
}

fn waiting(entry: &Entry, deliveries: u32) -> Result<Waiting> {
    let message = decode(LANE, &entry.value.clone().into_bytes())?;
    Ok(Waiting { key: entry.key.clone(), message, deliveries, taken: false, again: None })
}

/// Stores a dead letter, if its topic is as it was seen.
fn put_dead(txn: Txn, letter: &Outgoing, topic: &Topic) -> Txn {
    let value = encode(letter);
    let txn = txn.when(topic.unchanged()).then(Op::put(topic.directory.bell(0), ""));
    topic.queues().fold(txn, |txn, queue| {
        txn.then(Op::put(topic.directory.message(queue, 0, &letter.id), value.clone()))
    })
}
