//! Writes of one session that come at once, sent together.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Compare, Op, Txn, TxnReply};
use coord_api::{Error, ErrorKind, Loss, Outcome, Result, Revision};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::lease::{Doubt, Leased, Session, Write};
use crate::gather::gather;

/// Writes that one transaction carries at most. Stores may take no more than 128 operations in one.
const BATCH: usize = 100;

/// Bytes of keys and values that one transaction carries at most, where it carries more than one write. Stores may take no more than 1 MiB.
const BYTES: usize = 256 << 10;

/// How long writes wait for the batch before them. One that takes longer hangs, and the next batch goes beside it.
const PATIENCE: Duration = Duration::from_millis(100);

/// The writes that wait while others are on their way. Bounded by the calls under way.
#[derive(Debug, Default)]
pub(super) struct Together {
    queue: Mutex<Queue>,
    /// A write came.
    added: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
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
    fn take_batch(&mut self) -> Vec<Waiting> {
        let (mut keys, mut bytes) = (HashSet::new(), 0);
        let mut batch = Vec::new();
        while let Some(next) = self.waiting.front() {
            bytes += next.bytes();
            let fits = batch.len() < BATCH && bytes <= BYTES && next.keys().all(|key| !keys.contains(key));
            if !fits && !batch.is_empty() {
                break;
            }
            keys.extend(next.keys().cloned());
            batch.extend(self.waiting.pop_front());
        }
        batch
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
            queue.next += 1;
            let number = queue.next;
            queue.waiting.push_back(Waiting { number, compares: write.compares.clone(), then: write.then.clone(), answer: tell });
            number
        };
        let mut place = Place { session: self, number, settled: false, answer };
        self.together.added.notify_one();
        let answer = tokio::select! {
            biased;
            answer = &mut place.answer => answer.ok(),
            // Nobody sends it any more.
            _ = self.over.wait() => None,
        };
        match place.take(answer) {
            Answer::Done(revision) => Ok(Write::Done(TxnReply { succeeded: true, revision, replies: Vec::new() })),
            Answer::Failed(error) => Err(error),
            Answer::Alone => self.write(write).await,
        }
    }

    /// Sends what waits, for as long as the session lives. The session's task does: so no caller that goes away or stands still holds up the others.
    pub(super) async fn send_together(&self) {
        let mut under_way = FuturesUnordered::new();
        loop {
            if under_way.is_empty() {
                gather(BATCH, || self.together.queue.lock().waiting.len()).await;
                match self.next_batch() {
                    Some(batch) => under_way.push(self.send(batch)),
                    None => self.together.added.notified().await,
                }
                continue;
            }
            tokio::select! {
                biased;
                _ = under_way.next() => {}
                () = self.core.home.sleep(PATIENCE) => if let Some(batch) = self.next_batch() {
                    under_way.push(self.send(batch));
                },
            }
        }
    }

    async fn send(&self, (batch, doubt): (Vec<Waiting>, Doubt<'_>)) {
        let mut txn = Txn::new().when(Compare::Modified(self.key.clone(), doubt.fence()));
        for waiting in &batch {
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
        for waiting in batch {
            // Who does not wait any more has left the write to the session's debts.
            let _ = waiting.answer.send(answer.clone());
        }
    }

    /// What goes next, and under which fence: both at one moment, so that a fence that is put up later stops all of it.
    fn next_batch(&self) -> Option<(Vec<Waiting>, Doubt<'_>)> {
        let mut queue = self.together.queue.lock();
        if queue.waiting.is_empty() {
            return None;
        }
        let doubt = self.doubt();
        Some((queue.take_batch(), doubt))
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
    fn take(&mut self, answer: Option<Answer>) -> Answer {
        if let Some(answer) = answer {
            self.settled = true;
            return answer;
        }
        // The session is over. What was sent and not answered stays in doubt.
        let loss = self.session.check().unwrap_or(Loss::Expired);
        let outcome = if self.take_back() { Outcome::NotApplied } else { Outcome::Unknown };
        self.settled = outcome == Outcome::NotApplied;
        Answer::Failed(self.session.lost_error(loss).with_outcome(outcome))
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
