//! Calls that wait to be sent together. Pure: who sends them is elsewhere.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use coord_api::store::{MAX_TXN_OPS, Op, OpReply};
use coord_api::{Error, Revision};
use tokio::sync::oneshot;

/// Operations that one transaction carries at most.
pub(super) const OPS: usize = MAX_TXN_OPS;

/// Bytes of keys and values that one transaction carries at most, where it carries more than one
/// operation: 1 MiB.
pub(super) const BYTES: usize = 1 << 20;

/// What became of a call that waited.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// It was done, with others, at this revision.
    Done(OpReply, Revision),
    /// All of them failed with it.
    Failed(Error),
    /// Nothing was done, for the sake of one of them. It must be sent by itself.
    Alone,
    /// It was not sent: who would have sent it is gone. It must be queued again.
    NotSent,
}

/// One operation that is sent, and those who wait for it: one for a write, and for a read all who
/// asked the same.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) key: Bytes,
    pub(super) op: Op,
    pub(super) callers: Vec<oneshot::Sender<Answer>>,
}

impl Shared {
    pub(super) fn tell(self, answer: &Answer) {
        for caller in self.callers {
            // Who does not wait any more does not hear of it.
            let _ = caller.send(answer.clone());
        }
    }
}

/// A call that waits.
#[derive(Debug)]
struct Waiting {
    op: Op,
    caller: oneshot::Sender<Answer>,
}

/// The calls that wait, by key. Bounded by the calls under way: one that was given up goes with the
/// next batch that reaches its key.
#[derive(Debug, Default)]
pub(super) struct CallQueue {
    /// The keys with calls that wait, each once, in the order in which it is their turn.
    turns: VecDeque<Bytes>,
    waiting: HashMap<Bytes, VecDeque<Waiting>>,
    calls: usize,
}

impl CallQueue {
    pub(super) fn len(&self) -> usize {
        self.calls
    }

    /// Queues a call of `op`, which is about `key` alone.
    pub(super) fn add(&mut self, key: Bytes, op: Op) -> oneshot::Receiver<Answer> {
        let (caller, answer) = oneshot::channel();
        let waiting = self.waiting.entry(key.clone()).or_default();
        if waiting.is_empty() {
            self.turns.push_back(key);
        }
        waiting.push_back(Waiting { op, caller });
        self.calls += 1;
        answer
    }

    /// What is sent next: of each key the oldest call, and with a read all that ask the same, as
    /// much as fits; at least one, however large. What was given up meanwhile is not. Empty where
    /// nothing waits.
    ///
    /// A key's second write waits for the next batch: each is a version of its own (R11, R18).
    pub(super) fn take_batch(&mut self) -> Vec<Shared> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let mut again = Vec::new();
        while batch.len() < OPS {
            let Some(key) = self.turns.pop_front() else { break };
            let Some(calls) = self.waiting.get_mut(&key) else { continue };
            while calls.front().is_some_and(|call| call.caller.is_closed()) {
                calls.pop_front();
                self.calls -= 1;
            }
            let size = calls.front().map_or(0, |call| call.op.bytes());
            if !batch.is_empty() && bytes + size > BYTES {
                self.turns.push_front(key);
                break;
            }
            if let Some(first) = calls.pop_front() {
                let mut callers = vec![first.caller];
                if matches!(first.op, Op::Range(_)) {
                    let (same, others) = calls.drain(..).partition::<Vec<_>, _>(|call| call.op == first.op);
                    callers.extend(same.into_iter().map(|call| call.caller));
                    calls.extend(others);
                }
                self.calls -= callers.len();
                bytes += size;
                batch.push(Shared { key: key.clone(), op: first.op, callers });
            }
            if calls.is_empty() {
                self.waiting.remove(&key);
            } else {
                again.push(key);
            }
        }
        self.turns.extend(again);
        batch
    }

    /// Tells all that wait that nobody sends them.
    pub(super) fn send_back(&mut self) {
        for call in std::mem::take(self).waiting.into_values().flatten() {
            let _ = call.caller.send(Answer::NotSent);
        }
    }
}

#[cfg(test)]
mod tests {
    use coord_api::store::Range;

    use super::*;

    fn put(key: &str, value: &str) -> (Bytes, Op) {
        (key.to_owned().into(), Op::put(key.to_owned(), value.to_owned().into_bytes()))
    }

    /// Adds calls whose callers wait for as long as the answers are kept.
    fn queue(calls: impl IntoIterator<Item = (Bytes, Op)>) -> (CallQueue, Vec<oneshot::Receiver<Answer>>) {
        let mut queue = CallQueue::default();
        let answers = calls.into_iter().map(|(key, op)| queue.add(key, op)).collect();
        (queue, answers)
    }

    /// The values, or else the keys, of the batches to come.
    fn batches(queue: &mut CallQueue) -> Vec<Vec<String>> {
        let mut batches = Vec::new();
        loop {
            let batch = queue.take_batch();
            if batch.is_empty() {
                assert_eq!((queue.len(), queue.turns.len(), queue.waiting.len()), (0, 0, 0));
                return batches;
            }
            let name = |shared: &Shared| match &shared.op {
                Op::Put { value, .. } => String::from_utf8_lossy(value).into_owned(),
                _ => format!("{}x{}", String::from_utf8_lossy(&shared.key), shared.callers.len()),
            };
            batches.push(batch.iter().map(name).collect());
        }
    }

    #[test]
    fn of_each_key_one_write_at_a_time_in_order() {
        let writes = [put("a", "a1"), put("a", "a2"), put("b", "b1"), put("a", "a3"), put("c", "c1")];
        let (mut queue, _answers) = queue(writes);
        assert_eq!(queue.len(), 5);
        assert_eq!(batches(&mut queue), [vec!["a1", "b1", "c1"], vec!["a2"], vec!["a3"]]);
    }

    #[test]
    fn who_has_waited_longest_goes_first() {
        let many = (0..OPS).map(|n| put(&format!("k{n}"), "many"));
        let (mut queue, mut answers) = queue([put("a", "a1"), put("a", "a2")].into_iter().chain(many));
        let first = queue.take_batch();
        assert_eq!(first.len(), OPS);
        answers.push(queue.add("late".into(), put("late", "late").1));
        assert_eq!(batches(&mut queue), [vec!["many", "a2", "late"]]);
    }

    #[test]
    fn the_same_reads_are_one() {
        let read = |key: &'static str| (Bytes::from(key), Op::Range(Range::key(key)));
        let other = (Bytes::from("a"), Op::Range(Range::key("a").with_keys_only()));
        let (mut queue, _answers) = queue([read("a"), other, read("a"), read("b"), read("a")]);
        assert_eq!(batches(&mut queue), [vec!["ax3", "bx1"], vec!["ax1"]]);
    }

    #[test]
    fn as_much_as_fits_and_at_least_one() {
        let large =
            |key: &str, bytes: usize| (key.to_owned().into(), Op::put(key.to_owned(), vec![b'.'; bytes]));
        let (mut queue, _answers) =
            queue([large("a", BYTES + 1), large("b", BYTES / 2), large("c", BYTES / 2), large("d", 1)]);
        let sizes: Vec<_> =
            std::iter::from_fn(|| Some(queue.take_batch().len()).filter(|size| *size > 0)).collect();
        assert_eq!(sizes, [1, 1, 2]);
    }

    #[test]
    fn what_was_given_up_is_not_sent() {
        let (mut queue, mut answers) =
            queue([put("a", "a1"), put("a", "a2"), put("b", "b1"), put("c", "c1")]);
        answers.remove(0);
        answers.remove(1);
        assert_eq!(batches(&mut queue), [vec!["a2", "c1"]]);
    }

    #[test]
    fn what_nobody_sends_is_sent_back() {
        let (mut queue, answers) = queue([put("a", "a1"), put("a", "a2"), put("b", "b1")]);
        queue.send_back();
        for mut answer in answers {
            assert!(matches!(answer.try_recv(), Ok(Answer::NotSent)));
        }
        assert_eq!(queue.len(), 0);
    }
}
