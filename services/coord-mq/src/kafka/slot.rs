//! A partition of a group as this process has it: the message at its head, and its progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coord::{Error, ErrorKind, Outcome, Result};
use parking_lot::Mutex;
use rdkafka::consumer::ConsumerContext;
use rdkafka::consumer::base_consumer::PartitionQueue;
use tokio::sync::watch;
use tokio::time::Instant;

use super::error;
use super::ledger::{Ledger, Position};
use super::record::Record;

const SETTLE: &str = "mq.ack";

/// The number of a time for which a partition is ours: what belongs to an earlier one counts for
/// nothing.
pub(super) type Term = u64;

/// A partition, ours or not.
pub(super) struct Slot<C: ConsumerContext> {
    owned: Mutex<Option<Owned<C>>>,
    /// Rings when something has changed.
    bell: Arc<watch::Sender<()>>,
}

struct Owned<C: ConsumerContext> {
    term: Term,
    queue: PartitionQueue<C>,
    ledger: Ledger,
    head: Option<Head>,
    /// The partition is to be given up: nothing more is delivered.
    going: bool,
}

/// The first message that is not done.
struct Head {
    record: Record,
    /// It is begun, and not delivered yet.
    begun: bool,
    /// It is being handled.
    taken: bool,
    /// It comes again then.
    not_before: Option<Instant>,
}

/// What there is to do for somebody who handles messages.
pub(super) enum Look {
    /// There is a message.
    Ready,
    /// There will be one.
    Later(Instant),
    /// Nothing, until the bell rings.
    Nothing,
}

/// What is delivered.
pub(super) enum Take {
    /// A message, which was begun so many times.
    Message { term: Term, record: Record, begun: u32 },
    /// It has to be stored first that it is begun.
    NotStored,
    /// Nothing.
    Nothing,
}

impl<C: ConsumerContext + 'static> Slot<C> {
    pub(super) fn new() -> Self {
        Slot { owned: Mutex::default(), bell: Arc::new(watch::Sender::new(())) }
    }

    /// Hears of every change from now on.
    pub(super) fn listen(&self) -> watch::Receiver<()> {
        self.bell.subscribe()
    }

    pub(super) fn ring(&self) {
        self.bell.send_replace(());
    }

    /// It is ours from now on. The queue has to be polled for each message that comes.
    pub(super) fn own(&self, mut queue: PartitionQueue<C>, ledger: Ledger) {
        static TERMS: AtomicU64 = AtomicU64::new(0);
        let bell = Arc::clone(&self.bell);
        // This runs on a thread of librdkafka: it does no more than to wake.
        queue.set_nonempty_callback(move || {
            bell.send_replace(());
        });
        let term = TERMS.fetch_add(1, Ordering::Relaxed);
        *self.owned.lock() = Some(Owned { term, queue, ledger, head: None, going: false });
        self.ring();
    }

    /// It is ours no longer. Who handles a message of it can store nothing about that any more.
    pub(super) fn disown(&self) {
        let owned = self.owned.lock().take();
        drop(owned);
        self.ring();
    }

    /// It is to be given up: nothing more is delivered.
    pub(super) fn go(&self) {
        if let Some(owned) = self.owned.lock().as_mut().filter(|owned| !owned.going) {
            owned.going = true;
            // It was to be delivered, and is not.
            if let Some(head) = owned.head.as_mut().filter(|head| head.begun) {
                head.begun = false;
                owned.ledger.not_begun();
            }
        }
        self.ring();
    }

    /// Whether it can be given up without loss: nothing is in hand, and all is stored.
    pub(super) fn is_settled(&self) -> bool {
        self.owned.lock().as_ref().is_none_or(|owned| !owned.is_taken() && owned.ledger.is_stored())
    }

    /// Looks for a message, and fetches it where there is none at hand.
    ///
    /// # Errors
    ///
    /// Those of librdkafka about this partition.
    pub(super) fn look(&self) -> Result<Look> {
        let mut owned = self.owned.lock();
        let Some(owned) = &mut *owned else { return Ok(Look::Nothing) };
        if owned.going {
            return Ok(Look::Nothing);
        }
        if owned.head.is_none() {
            match owned.queue.poll(std::time::Duration::ZERO) {
                Some(Ok(message)) => {
                    let record = Record::read(&message);
                    owned.head = Some(Head { record, begun: false, taken: false, not_before: None });
                }
                Some(Err(error)) => return Err(error::failed("mq.lane", error)),
                None => owned.ledger.idle(),
            }
        }
        Ok(match &owned.head {
            Some(head) if head.taken => Look::Nothing,
            Some(Head { not_before: Some(at), .. }) if *at > Instant::now() => Look::Later(*at),
            Some(_) => Look::Ready,
            None => Look::Nothing,
        })
    }

    /// Takes the message that is there.
    pub(super) fn take(&self) -> Take {
        let mut owned = self.owned.lock();
        let Some(owned) = owned.as_mut().filter(|owned| !owned.going) else { return Take::Nothing };
        let Some(head) = owned.head.as_mut() else { return Take::Nothing };
        if head.taken || head.not_before.is_some_and(|at| at > Instant::now()) {
            return Take::Nothing;
        }
        if !head.begun {
            head.begun = true;
            owned.ledger.begin(head.record.offset);
        }
        if !owned.ledger.may_deliver() {
            return Take::NotStored;
        }
        (head.begun, head.taken, head.not_before) = (false, true, None);
        Take::Message { term: owned.term, record: head.record.clone(), begun: owned.ledger.begun() }
    }

    /// The message that was taken is done. Says whether that should be stored at once.
    ///
    /// # Errors
    ///
    /// The partition is ours no longer.
    pub(super) fn done(&self, term: Term) -> Result<bool> {
        let urgent = self.with(term, |owned| {
            if let Some(head) = owned.head.take() {
                owned.ledger.done(head.record.offset);
            }
            owned.ledger.is_urgent()
        });
        self.ring();
        urgent
    }

    /// The message that was taken comes again at that time. Nothing where the partition is ours no
    /// longer.
    pub(super) fn release(&self, term: Term, at: Option<Instant>) {
        let _ = self.with(term, |owned| {
            if let Some(head) = &mut owned.head {
                (head.taken, head.not_before) = (false, at);
            }
        });
        self.ring();
    }

    /// Whether what was said of the last message is stored.
    ///
    /// # Errors
    ///
    /// The partition is ours no longer.
    pub(super) fn is_stored(&self, term: Term) -> Result<bool> {
        self.with(term, |owned| owned.ledger.is_settled())
    }

    /// What is to be stored, if anything is.
    pub(super) fn to_store(&self) -> Option<(Term, Position)> {
        let owned = self.owned.lock();
        let owned = owned.as_ref()?;
        let position = owned.ledger.to_store(owned.going)?;
        Some((owned.term, position))
    }

    /// The brokers have it.
    pub(super) fn stored(&self, term: Term, position: Position) {
        let _ = self.with(term, |owned| owned.ledger.stored(position));
        self.ring();
    }

    fn with<T>(&self, term: Term, act: impl FnOnce(&mut Owned<C>) -> T) -> Result<T> {
        match self.owned.lock().as_mut().filter(|owned| owned.term == term) {
            Some(owned) => Ok(act(owned)),
            None => Err(Error::new(
                ErrorKind::Unavailable,
                SETTLE,
                "the partition was given to another process, or to nobody: the message is delivered again",
            )
            .with_outcome(Outcome::NotApplied)),
        }
    }
}

impl<C: ConsumerContext> Owned<C> {
    fn is_taken(&self) -> bool {
        self.head.as_ref().is_some_and(|head| head.taken)
    }
}
