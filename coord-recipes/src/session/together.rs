//! Writes of one session that come at once, sent together.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Compare, Op, Txn, TxnReply};
use coord_api::{Error, ErrorKind, Loss, Outcome, Result, Revision};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;

use super::lease::{Doubt, Leased, Session, Write};

/// Writes that one transaction carries at most. Stores may take no more than 128 operations in one.
const BATCH: usize = 100;

/// Bytes of keys and values that one transaction carries at most, where it carries more than one write. Stores may take no more than 1 MiB.
const BYTES: usize = 256 << 10;

/// How long a write waits for the one before it. A longer one hangs, and the others go by themselves.
const PATIENCE: Duration = Duration::from_millis(100);

/// The writes that wait while another one is on its way. Bounded by the calls under way.
#[derive(Debug, Default)]
pub(super) struct Together {
    queue: Mutex<Queue>,
    /// A write came, or one is not on its way any more.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Whether one is on its way.
    flying: bool,
    /// How many have come back.
    flown: u64,
    next: u64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    compares: Vec<Compare>,
    then: Vec<Op>,
    answer: oneshot::Sender<Answer>,
}

/// What became of a write that waited.
#[derive(Clone, Debug)]
enum Answer {
    /// It was applied, with others, at this revision.
    Done(Revision),
    /// Nothing was applied. It must be sent by itself.
    Alone,
    Failed(Error),
}

impl Waiting {
    fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.then.iter().filter_map(|op| match op {
            Op::Put { key, .. } => Some(key),
            _ => None,
        })
    }

    fn bytes(&self) -> usize {
        let size = |op: &Op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            _ => 0,
        };
        self.then.iter().map(size).sum()
    }
}

impl Queue {
    /// What goes with the next transaction: from the front on, as much as fits, of what writes no key twice. At least one, however large.
    fn board(&mut self) -> Vec<Waiting> {
        let (mut keys, mut bytes) = (HashSet::new(), 0);
        let mut boarded = Vec::new();
        while let Some(next) = self.waiting.front() {
            bytes += next.bytes();
            let fits = boarded.len() < BATCH && bytes <= BYTES && next.keys().all(|key| !keys.contains(key));
            if !fits && !boarded.is_empty() {
                break;
            }
            keys.extend(next.keys().cloned());
            boarded.extend(self.waiting.pop_front());
        }
        boarded
    }
}

impl Session {
    /// As [`write`](Self::write), for writes that need no answer of their operations: together with others of this session that come while one is on its way. All are
    /// applied at one revision; where one's compares do not hold, each is sent by itself.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    ///
    /// # Cancel safety
    ///
    /// As [`write`](Self::write).
    pub(super) async fn write_together(&self, write: &Leased) -> Result<Write> {
        let (tell, answer) = oneshot::channel();
        let number = {
            let mut queue = self.together.queue.lock();
            if queue.flying || !queue.waiting.is_empty() {
                queue.next += 1;
                let number = queue.next;
                queue.waiting.push_back(Waiting { number, compares: write.compares.clone(), then: write.then.clone(), answer: tell });
                Some(number)
            } else {
                queue.flying = true;
                None
            }
        };
        let Some(number) = number else {
            let _flying = Flying(self);
            return self.write(write).await;
        };
        self.together.changed.notify_one();
        let mut place = Place { session: self, number, settled: false, answer };
        match place.wait().await {
            Answer::Done(revision) => Ok(Write::Done(TxnReply { succeeded: true, revision, replies: Vec::new() })),
            Answer::Failed(error) => Err(error),
            Answer::Alone => self.write(write).await,
        }
    }

    /// Sends what waits, for as long as the session lives.
    pub(super) async fn send_together(&self) {
        loop {
            let Some((boarded, doubt, _flying)) = self.board() else {
                self.together.changed.notified().await;
                continue;
            };
            let mut txn = Txn::new().when(Compare::Modified(self.key.clone(), doubt.fence()));
            for waiting in &boarded {
                txn.compares.extend(waiting.compares.iter().cloned());
                txn.then.extend(waiting.then.iter().cloned());
            }
            let answer = match self.core.store.txn(txn).await {
                Ok(reply) if reply.succeeded => Answer::Done(reply.revision),
                Ok(_) => Answer::Alone,
                Err(error) if error.kind() == ErrorKind::LeaseLost => {
                    self.lose(Loss::Expired);
                    Answer::Failed(error)
                }
                // It may have been too much for one, or was refused for the sake of one.
                Err(error) if error.outcome() == Outcome::NotApplied => Answer::Alone,
                Err(error) => Answer::Failed(error),
            };
            if !matches!(&answer, Answer::Failed(error) if error.outcome() == Outcome::Unknown) {
                doubt.settle();
            }
            for waiting in boarded {
                // Who does not wait any more has left the write to the session's debts.
                let _ = waiting.answer.send(answer.clone());
            }
        }
    }

    /// What goes next, and under which fence: both at one moment, so that a fence that is put up later stops all of it.
    fn board(&self) -> Option<(Vec<Waiting>, Doubt<'_>, Flying<'_>)> {
        let mut queue = self.together.queue.lock();
        if queue.flying || queue.waiting.is_empty() {
            return None;
        }
        let doubt = self.doubt();
        queue.flying = true;
        Some((queue.board(), doubt, Flying(self)))
    }
}

/// A write is on its way.
struct Flying<'a>(&'a Session);

impl Drop for Flying<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.together.queue.lock();
        queue.flying = false;
        queue.flown += 1;
        drop(queue);
        self.0.together.changed.notify_one();
    }
}

/// The place of a write that waits. Given up, it takes the write back, or leaves the session in doubt where that is on its way.
struct Place<'a> {
    session: &'a Session,
    number: u64,
    /// Whether nothing of it is on its way any more.
    settled: bool,
    answer: oneshot::Receiver<Answer>,
}

impl Place<'_> {
    async fn wait(&mut self) -> Answer {
        let flown = || self.session.together.queue.lock().flown;
        let mut before = flown();
        loop {
            tokio::select! {
                biased;
                answer = &mut self.answer => return self.take(answer),
                () = sleep(PATIENCE) => {}
            }
            let now = flown();
            // None came back for so long: what is not on its way itself goes alone.
            if now == before && self.take_back() {
                self.settled = true;
                return Answer::Alone;
            }
            before = now;
        }
    }

    fn take(&mut self, answer: std::result::Result<Answer, oneshot::error::RecvError>) -> Answer {
        let Ok(answer) = answer else {
            // The session's task is gone. What is not answered stays in doubt.
            let loss = self.session.check().unwrap_or(Loss::Expired);
            return Answer::Failed(self.session.lost_error(loss));
        };
        self.settled = true;
        answer
    }

    /// Whether it was not sent yet, and so never is.
    fn take_back(&self) -> bool {
        let mut queue = self.session.together.queue.lock();
        let before = queue.waiting.len();
        queue.waiting.retain(|waiting| waiting.number != self.number);
        queue.waiting.len() < before
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.settled && !self.take_back() {
            drop(self.session.doubt());
        }
    }
}
