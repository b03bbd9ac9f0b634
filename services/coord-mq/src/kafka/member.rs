//! A member of a group: a consumer of librdkafka with the threads that drive it.
//!
//! One thread polls for as long as the member lives, so that the brokers never take it for dead
//! however long a handler works (K6); partitions come and go there. Messages do not pass through
//! it: each partition has a queue of its own, from which one message at a time is taken by whoever
//! handles it, and librdkafka fetches no more than the queue has room for. Another thread stores
//! what was done, of all partitions in one request, one request at a time.
//!
//! A partition that is to be given up is given up when the message in hand is settled, or after the
//! time that the brokers would wait for a sign of life; the poll goes on meanwhile.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use coord::{Error, ErrorKind, Result};
use parking_lot::{Condvar, Mutex};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::sync::watch;

use super::context::KafkaContext;
use super::error;
use super::ledger::{Ledger, Position};
use super::slot::{Slot, Term};
use crate::count;

const GROUP: &str = "mq.group";

/// How long one poll waits for something to happen.
const POLL: Duration = Duration::from_millis(100);

/// The same while a partition is about to come or to go.
const POLL_IN_CHANGE: Duration = Duration::from_millis(10);

/// How long one question for the places of a group may take.
const ASK_WITHIN: Duration = Duration::from_secs(2);

/// The pause before it is stored again what could not be.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// How long what went wrong keeps messages from being handled: librdkafka tries again by itself,
/// and does not say when that succeeds.
const FAULT_FOR: Duration = Duration::from_secs(2);

/// How long a member without lanes waits for new ones.
const LINGER: Duration = Duration::from_secs(5);

/// What a member is made from.
pub(super) struct Membership {
    /// The names of the topic and the group here, for metrics.
    pub(super) topic: String,
    pub(super) group: String,
    /// The name of the topic on the brokers.
    pub(super) name: String,
    pub(super) partitions: u16,
    pub(super) settings: ClientConfig,
    pub(super) context: KafkaContext,
    /// How long what was done may wait to be stored.
    pub(super) commit_interval: Duration,
    /// How long a partition that is to be given up waits for the message in hand.
    pub(super) patience: Duration,
}

type Native = BaseConsumer<MemberContext>;

/// A member of a group.
pub(super) struct Member {
    of: Membership,
    slots: Vec<Slot<MemberContext>>,
    lanes: Mutex<Lanes>,
    commits: Commits,
    /// Held while something is being stored.
    storing: Mutex<()>,
    /// What librdkafka asks for, to be done by the thread that polls.
    changes: Mutex<VecDeque<Assignment>>,
    /// Nothing is ours any more, whatever is assigned.
    leaving: AtomicBool,
    /// Partitions were assigned once, or it was said that none are.
    joined: AtomicBool,
    fault: Mutex<Option<(Error, Instant)>>,
    ended: watch::Sender<bool>,
}

/// Who handles messages of it.
#[derive(Default)]
struct Lanes {
    count: usize,
    ending: bool,
}

/// What wakes the thread that stores.
#[derive(Default)]
struct Commits {
    wanted: Mutex<Wanted>,
    woken: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Wanted {
    /// Somebody waits for it.
    now: bool,
    over: bool,
}

/// A change of what is assigned.
enum Assignment {
    Assign(Vec<i32>),
    Revoke { partitions: Vec<i32>, since: Instant },
}

impl Member {
    /// Joins a group.
    ///
    /// # Errors
    ///
    /// What librdkafka does not take; `Exhausted` where there is no thread to be had.
    pub(super) fn join(of: Membership) -> Result<Arc<Self>> {
        let slots = (0..of.partitions).map(|_| Slot::new()).collect();
        let member = Arc::new(Member {
            of,
            slots,
            lanes: Mutex::default(),
            commits: Commits::default(),
            storing: Mutex::default(),
            changes: Mutex::default(),
            leaving: AtomicBool::new(false),
            joined: AtomicBool::new(false),
            fault: Mutex::default(),
            ended: watch::Sender::new(false),
        });
        let run = Arc::clone(&member);
        let thread = thread::Builder::new().name("mq-kafka-poll".to_owned()).spawn(move || {
            let over = Over(&run);
            run.live();
            drop(over);
        });
        match thread {
            Ok(_) => Ok(member),
            Err(error) => Err(Error::new(ErrorKind::Exhausted, GROUP, "no thread").with_source(error)),
        }
    }

    /// The topic and the group.
    pub(super) fn is_of(&self, topic: &str, group: &str) -> bool {
        self.of.topic == topic && self.of.group == group
    }

    /// One more handles messages of it. Says whether that is possible: not where it is ending.
    pub(super) fn attach(&self) -> bool {
        let mut lanes = self.lanes.lock();
        if lanes.ending {
            return false;
        }
        lanes.count += 1;
        true
    }

    /// One less does. Where it was the last one and comes back no more, the member leaves. Says
    /// whether it does.
    pub(super) fn detach(&self, comes_back: bool) -> bool {
        let mut lanes = self.lanes.lock();
        lanes.count = lanes.count.saturating_sub(1);
        lanes.ending |= lanes.count == 0 && !comes_back;
        lanes.ending
    }

    /// Leaves the group, as soon as what is in hand is settled.
    pub(super) fn end(&self) {
        self.lanes.lock().ending = true;
    }

    /// Waits until it has left.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn over(&self) {
        let mut ended = self.ended.subscribe();
        // The sender lives as long as this.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    pub(super) fn is_over(&self) -> bool {
        *self.ended.borrow()
    }

    /// Whether it is, or was, a member.
    pub(super) fn has_joined(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
    }

    /// What is wrong with it, if anything is.
    pub(super) fn fault(&self) -> Option<Error> {
        let fault = self.fault.lock().clone();
        if self.is_over() {
            let left = || Error::new(ErrorKind::Unavailable, GROUP, "it has left the group");
            return Some(fault.map_or_else(left, |(error, _)| error));
        }
        fault.filter(|(_, since)| since.elapsed() < FAULT_FOR).map(|(error, _)| error)
    }

    pub(super) fn slot(&self, partition: u16) -> Option<&Slot<MemberContext>> {
        self.slots.get(usize::from(partition))
    }

    fn slot_of(&self, partition: i32) -> Option<&Slot<MemberContext>> {
        self.slots.get(usize::try_from(partition).ok()?)
    }

    /// Has what was done stored now.
    pub(super) fn store_now(&self) {
        self.commits.wanted.lock().now = true;
        self.commits.woken.notify_one();
    }

    fn failed(&self, error: Error) {
        tracing::debug!(topic = self.of.topic, group = self.of.group, %error, "a member of a group failed");
        *self.fault.lock() = Some((error, Instant::now()));
        self.slots.iter().for_each(Slot::ring);
    }

    fn succeeded(&self) {
        *self.fault.lock() = None;
    }

    /// Is a member until it is ended. Runs on a thread of its own.
    fn live(self: &Arc<Self>) {
        let context = MemberContext { member: Arc::clone(self) };
        let made = self.of.settings.create_with_context::<_, Native>(context);
        let made = made.and_then(|native| native.subscribe(&[&self.of.name]).map(|()| Arc::new(native)));
        let native = match made {
            Ok(native) => native,
            Err(error) => return self.failed(error::failed(GROUP, error)),
        };
        thread::scope(|scope| {
            // It ends with this scope, whatever becomes of the poll.
            let over = CommitsOver(&self.commits);
            let storing = thread::Builder::new().name("mq-kafka-store".to_owned());
            if let Err(error) = storing.spawn_scoped(scope, || self.store(&native)) {
                let none = Error::new(ErrorKind::Exhausted, GROUP, "no thread").with_source(error);
                return self.failed(none);
            }
            self.poll(&native);
            self.leaving.store(true, Ordering::SeqCst);
            drop(over);
        });
        // The queues hold the consumer.
        self.slots.iter().for_each(Slot::disown);
        // Leaves the group, which blocks.
        drop(native);
    }

    /// Polls, and follows what is assigned, until it is time to leave.
    fn poll(&self, native: &Arc<Native>) {
        let (mut change, mut leave_by, mut alone_since) = (None, None::<Instant>, Instant::now());
        loop {
            let is_changing = change.is_some() || leave_by.is_some();
            match native.poll(if is_changing { POLL_IN_CHANGE } else { POLL }) {
                None => {}
                Some(Ok(_)) => {
                    // Each partition has its own queue before it is assigned.
                    return self.failed(Error::new(ErrorKind::Internal, GROUP, "a message came astray"));
                }
                Some(Err(error)) if self.heard(&error) => return,
                Some(Err(_)) => {}
            }
            change = change.or_else(|| self.changes.lock().pop_front());
            change = change.and_then(|change| self.follow(native, change));
            let is_alone = {
                let mut lanes = self.lanes.lock();
                if lanes.count > 0 {
                    alone_since = Instant::now();
                }
                lanes.ending |= alone_since.elapsed() > LINGER;
                lanes.ending
            };
            if is_alone {
                let by = *leave_by.get_or_insert_with(|| Instant::now() + self.of.patience);
                self.slots.iter().for_each(Slot::go);
                if self.slots.iter().all(Slot::is_settled) || Instant::now() > by {
                    if let Some(change) = change {
                        self.give_in(native, &change);
                    }
                    return;
                }
                self.store_now();
            }
        }
    }

    /// An error of the consumer. Says whether it is its last.
    fn heard(&self, error: &KafkaError) -> bool {
        let is_fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
        match error.rdkafka_error_code() {
            // It connects again by itself, and goes on.
            Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::Resolve) if !is_fatal => {}
            Some(Code::OperationTimedOut | Code::RequestTimedOut) if !is_fatal => {}
            _ => self.failed(error::failed(GROUP, error.clone())),
        }
        is_fatal
    }

    /// Does what librdkafka asks for; gives it back where it is to be tried again.
    fn follow(&self, native: &Arc<Native>, change: Assignment) -> Option<Assignment> {
        match change {
            Assignment::Assign(partitions) => match self.assign(native, &partitions) {
                Ok(()) => {
                    self.joined.store(true, Ordering::Relaxed);
                    self.succeeded();
                    self.slots.iter().for_each(Slot::ring);
                    None
                }
                Err(error) => {
                    if !error.is_transient() {
                        self.failed(error);
                    }
                    thread::sleep(AGAIN_AFTER);
                    Some(Assignment::Assign(partitions))
                }
            },
            Assignment::Revoke { partitions, since } => {
                let slots = || partitions.iter().filter_map(|partition| self.slot_of(*partition));
                // What is lost is others' already.
                let is_late = native.assignment_lost() || since.elapsed() > self.of.patience;
                slots().for_each(Slot::go);
                if !is_late && !slots().all(Slot::is_settled) {
                    self.store_now();
                    return Some(Assignment::Revoke { partitions, since });
                }
                self.revoke(native, &partitions);
                None
            }
        }
    }

    /// Takes partitions over where the group is in them.
    fn assign(&self, native: &Arc<Native>, partitions: &[i32]) -> Result<()> {
        let name = &self.of.name;
        let failed = |error| error::failed(GROUP, error);
        let mut start = TopicPartitionList::new();
        if !partitions.is_empty() {
            let places = native.committed_offsets(self.list(partitions), ASK_WITHIN).map_err(failed)?;
            for place in places.elements() {
                place.error().map_err(failed)?;
                // The binding panics at a text that is not UTF-8, which is none of ours.
                let text = catch_unwind(AssertUnwindSafe(|| place.metadata().to_owned())).unwrap_or_default();
                let (begin, position) = match place.offset() {
                    Offset::Offset(offset) => (place.offset(), Position::read(offset, &text)),
                    // The group was not made, or was forgotten: what is there is handled.
                    _ => (Offset::Beginning, Position::at(0)),
                };
                start.add_partition_offset(name, place.partition(), begin).map_err(failed)?;
                let Some(slot) = self.slot_of(place.partition()) else { continue };
                let queue = native.split_partition_queue(name, place.partition());
                let queue = queue.ok_or_else(|| Error::new(ErrorKind::Internal, GROUP, "no queue"))?;
                slot.own(queue, Ledger::new(position, self.of.commit_interval.is_zero()));
            }
        }
        native.incremental_assign(&start).map_err(failed)?;
        let unknown: Vec<_> =
            partitions.iter().copied().filter(|known| self.slot_of(*known).is_none()).collect();
        if !unknown.is_empty() {
            let (topic, group) = (&self.of.topic, &self.of.group);
            tracing::warn!(topic, group, ?unknown, "the topic has more partitions than before; restart");
            native.pause(&self.list(&unknown)).map_err(failed)?;
        }
        Ok(())
    }

    /// Gives partitions up. Nothing is stored for them from then on.
    fn revoke(&self, native: &Native, partitions: &[i32]) {
        // What is being stored at this moment is waited for.
        let _alone = self.storing.lock();
        partitions.iter().filter_map(|partition| self.slot_of(*partition)).for_each(Slot::disown);
        if let Err(error) = native.incremental_unassign(&self.list(partitions)) {
            self.failed(error::failed(GROUP, error));
        }
    }

    /// Says yes to what librdkafka asks for, at the end, so that it ends.
    fn give_in(&self, native: &Native, change: &Assignment) {
        let _ = match change {
            Assignment::Assign(partitions) => native.incremental_assign(&self.list(partitions)),
            Assignment::Revoke { partitions, .. } => native.incremental_unassign(&self.list(partitions)),
        };
    }

    fn list(&self, partitions: &[i32]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&self.of.name, *partition);
        }
        list
    }

    /// Stores what was done, until it is over. Runs on a thread of its own, since it blocks.
    fn store(&self, native: &Native) {
        let every = if self.of.commit_interval.is_zero() { POLL } else { self.of.commit_interval };
        loop {
            let wanted = {
                let mut wanted = self.commits.wanted.lock();
                if !wanted.now && !wanted.over {
                    self.commits.woken.wait_for(&mut wanted, every);
                }
                let was = *wanted;
                wanted.now = false;
                was
            };
            if wanted.over {
                return;
            }
            if let Err(error) = self.store_once(native) {
                self.refused(&error);
                thread::sleep(AGAIN_AFTER);
            }
        }
    }

    fn store_once(&self, native: &Native) -> std::result::Result<(), KafkaError> {
        let _alone = self.storing.lock();
        let mut batch: Vec<(&Slot<MemberContext>, Term, Position)> = Vec::new();
        let mut list = TopicPartitionList::new();
        for (partition, slot) in (0..).zip(&self.slots) {
            let Some((term, position)) = slot.to_store() else { continue };
            let mut place = list.add_partition(&self.of.name, partition);
            place.set_offset(Offset::Offset(position.offset))?;
            place.set_metadata(position.text());
            batch.push((slot, term, position));
        }
        if batch.is_empty() {
            return Ok(());
        }
        native.commit(&list, CommitMode::Sync)?;
        for (slot, term, position) in batch {
            slot.stored(term, position);
        }
        Ok(())
    }

    /// What was done could not be stored; it is tried again while the partitions are ours.
    fn refused(&self, error: &KafkaError) {
        let (topic, group) = (&self.of.topic, &self.of.group);
        match error.rdkafka_error_code() {
            // While the group rebalances, and while a broker is away.
            Some(
                Code::RebalanceInProgress
                | Code::IllegalGeneration
                | Code::UnknownMemberId
                | Code::BrokerTransportFailure
                | Code::NotCoordinator
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::WaitingForCoordinator,
            ) => tracing::debug!(topic, group, %error, "what was done is not stored yet"),
            _ => self.failed(error::failed("mq.ack", error.clone())),
        }
    }
}

/// Says that a member is over, however its thread ends.
struct Over<'a>(&'a Member);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.end();
        // Where the thread panicked.
        self.0.slots.iter().for_each(Slot::disown);
        self.0.ended.send_replace(true);
        self.0.slots.iter().for_each(Slot::ring);
    }
}

/// Ends the thread that stores, however that which polls ends.
struct CommitsOver<'a>(&'a Commits);

impl Drop for CommitsOver<'_> {
    fn drop(&mut self) {
        self.0.wanted.lock().over = true;
        self.0.woken.notify_one();
    }
}

/// Tells a member what its consumer is told.
pub(super) struct MemberContext {
    member: Arc<Member>,
}

impl ClientContext for MemberContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.member.of.context.log(level, facility, line);
    }

    fn stats(&self, statistics: Statistics) {
        let Membership { topic, group, name, .. } = &self.member.of;
        let partitions = statistics.topics.get(name).into_iter().flat_map(|topic| &topic.partitions);
        for (partition, told) in partitions {
            let partition = u16::try_from(*partition).ok();
            if let (Some(partition), Ok(lag)) = (partition, u64::try_from(told.consumer_lag)) {
                let _ = catch_unwind(AssertUnwindSafe(|| count::lag(topic, group, partition, lag)));
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.member.of.context.error(error, reason);
    }
}

impl ConsumerContext for MemberContext {
    /// Runs on the thread that polls, which does it later: it may take its time.
    fn rebalance(&self, native: &Native, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<i32> = list.elements().iter().map(|place| place.partition()).collect();
        let change = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Assignment::Assign(partitions),
            _ => Assignment::Revoke { partitions, since: Instant::now() },
        };
        if self.member.leaving.load(Ordering::SeqCst) {
            self.member.give_in(native, &change);
        } else {
            self.member.changes.lock().push_back(change);
        }
    }
}
