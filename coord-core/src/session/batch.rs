//! Writes of one session that wait to be sent together. Pure: who sends them is elsewhere.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use coord_api::store::{Entry, Op, Txn};
use coord_api::{Error, Revision};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

/// Writes that one transaction carries at most. Stores may take no more than 128 operations in one.
pub(super) const WRITES: usize = 100;

/// Bytes of keys and values that one transaction carries at most, where it carries more than one
/// write. Stores may take no more than 1 MiB.
const BYTES: usize = 256 << 10;

/// The writes that wait while others are on their way. Bounded by the calls under way.
#[derive(Debug, Default)]
pub(super) struct BatchQueue {
    queue: Mutex<WaitingWrites>,
    added: Notify,
}

#[derive(Debug, Default)]
struct WaitingWrites {
    waiting: VecDeque<QueuedWrite>,
    next: u64,
}

/// A write that waits.
#[derive(Debug)]
pub(super) struct QueuedWrite {
    number: u64,
    /// The entry's key.
    pub(super) key: Bytes,
    pub(super) txn: Txn,
    pub(super) answer: oneshot::Sender<BatchAnswer>,
}

/// What became of a write that waited.
#[derive(Clone, Debug)]
pub(super) enum BatchAnswer {
    /// It was applied, with others, at this revision.
    Done(Revision),
    /// Nothing was applied, for the sake of one of them. It must be sent by itself.
    Alone,
    /// Nobody knows whether it was applied, but it is fenced off: what stands under its key now.
    FencedOff(Option<Entry>),
    Failed(Error),
}

impl QueuedWrite {
    fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.txn.then.iter().filter_map(|op| match op {
            Op::Put { key, .. } => Some(key),
            _ => None,
        })
    }

    fn bytes(&self) -> usize {
        self.txn.then.iter().map(Op::bytes).sum()
    }
}

impl WaitingWrites {
    /// What goes with the next transaction: from the front on, as much as fits, of what writes no
    /// key twice. At least one, however large.
    fn take_batch(&mut self) -> Vec<QueuedWrite> {
        let (mut keys, mut bytes) = (HashSet::new(), 0);
        let mut batch = Vec::new();
        while let Some(next) = self.waiting.front() {
            bytes += next.bytes();
            let fits = batch.len() < WRITES && bytes <= BYTES && next.keys().all(|key| !keys.contains(key));
            if !fits && !batch.is_empty() {
                break;
            }
            keys.extend(next.keys().cloned());
            batch.extend(self.waiting.pop_front());
        }
        batch
    }
}

impl BatchQueue {
    /// Queues a write. Its number takes it back.
    pub(super) fn add(&self, key: Bytes, txn: Txn) -> (u64, oneshot::Receiver<BatchAnswer>) {
        let (answer, answered) = oneshot::channel();
        let number = {
            let mut queue = self.queue.lock();
            queue.next += 1;
            let number = queue.next;
            queue.waiting.push_back(QueuedWrite { number, key, txn, answer });
            number
        };
        self.added.notify_one();
        (number, answered)
    }

    /// Puts writes back to where they were taken from: nothing of them was applied, and they are to
    /// be sent again. Those whose callers have gone away are not.
    ///
    /// A caller closes its end of the answer before it [takes its write back](Self::take_back), so
    /// that a write is either found here by its caller or finds its caller gone.
    pub(super) fn put_back(&self, batch: Vec<QueuedWrite>) {
        let mut queue = self.queue.lock();
        for write in batch.into_iter().rev().filter(|write| !write.answer.is_closed()) {
            queue.waiting.push_front(write);
        }
        drop(queue);
        self.added.notify_one();
    }

    /// Whether the write was not sent yet, and so never is.
    pub(super) fn take_back(&self, number: u64) -> bool {
        let mut queue = self.queue.lock();
        let before = queue.waiting.len();
        queue.waiting.retain(|waiting| waiting.number != number);
        queue.waiting.len() < before
    }

    pub(super) fn len(&self) -> usize {
        self.queue.lock().waiting.len()
    }

    /// The next batch, and what `begin` says at the moment that it is taken; `None` where nothing
    /// waits.
    pub(super) fn take<T>(&self, begin: impl FnOnce() -> T) -> Option<(Vec<QueuedWrite>, T)> {
        let mut queue = self.queue.lock();
        if queue.waiting.is_empty() {
            return None;
        }
        let begun = begin();
        Some((queue.take_batch(), begun))
    }

    /// Resolves when a write was added since the last time. A permit is stored when one comes
    /// between a look and the wait.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A write whose caller waits for as long as the answer is kept.
    fn waiting(queue: &BatchQueue, key: &str, bytes: usize) -> (u64, oneshot::Receiver<BatchAnswer>) {
        queue.add(key.to_owned().into(), Txn::new().then(Op::put(key.to_owned(), vec![0; bytes])))
    }

    fn put(queue: &BatchQueue, key: &str, bytes: usize) -> u64 {
        waiting(queue, key, bytes).0
    }

    fn batch(queue: &BatchQueue) -> Vec<u64> {
        queue
            .take(|| ())
            .map(|(writes, ())| writes.iter().map(|write| write.number).collect())
            .unwrap_or_default()
    }

    #[test]
    fn a_batch_writes_no_key_twice_and_keeps_the_order() {
        let queue = BatchQueue::default();
        for key in ["a", "b", "a", "c"] {
            put(&queue, key, 1);
        }
        assert_eq!(batch(&queue), [1, 2]);
        assert_eq!(batch(&queue), [3, 4]);
        assert_eq!(batch(&queue), [0; 0]);
    }

    #[test]
    fn a_batch_is_bounded_in_number_and_bytes_but_takes_at_least_one() {
        let queue = BatchQueue::default();
        for number in 0..WRITES + 5 {
            put(&queue, &number.to_string(), 1);
        }
        assert_eq!(batch(&queue).len(), WRITES);
        assert_eq!(batch(&queue).len(), 5);
        put(&queue, "large", 2 * BYTES);
        put(&queue, "small", 1);
        assert_eq!(batch(&queue).len(), 1);
    }

    #[test]
    fn what_was_taken_back_is_never_sent_and_what_was_sent_is_not_taken_back() {
        let queue = BatchQueue::default();
        let (first, second) = (put(&queue, "a", 1), put(&queue, "b", 1));
        assert!(queue.take_back(first) && !queue.take_back(first));
        assert_eq!(batch(&queue), [second]);
        assert!(!queue.take_back(second));
    }

    #[test]
    fn what_is_put_back_goes_first_and_without_those_who_are_gone() {
        let queue = BatchQueue::default();
        let (first, kept) = waiting(&queue, "a", 1);
        let (_, gone) = waiting(&queue, "b", 1);
        let (third, kept_too) = waiting(&queue, "c", 1);
        let (taken, ()) = queue.take(|| ()).unwrap();
        let (fourth, _kept) = waiting(&queue, "d", 1);
        drop(gone);
        queue.put_back(taken);
        assert_eq!(batch(&queue), [first, third, fourth]);
        drop((kept, kept_too));
    }
}
