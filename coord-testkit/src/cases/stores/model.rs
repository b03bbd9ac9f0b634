//! A store as the rules describe it, kept in the plainest way, and random requests to hold the real one against it.

use std::collections::BTreeMap;

use bytes::Bytes;
use coord_api::store::{Batch, Change, Compare, Entry, Op, OpReply, Order, Range, RangeReply, Span, Txn, TxnReply};
use coord_api::{LeaseId, Revision, Value};

/// Keys that are easily taken for one another.
const KEYS: [&[u8]; 9] = [b"a", b"a\0", b"a/", b"a/b", b"a/b/c", b"ab", b"a0", b"b", b"\xff"];

const PREFIXES: [&[u8]; 7] = [b"", b"a", b"a/", b"a/b", b"b", b"\xff", b"zz"];

/// Random numbers that are the same each time.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Dice(seed)
    }

    /// A number below `sides`.
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }

    fn key(&mut self) -> Bytes {
        Bytes::from_static(KEYS[self.roll(KEYS.len())])
    }

    pub(super) fn span(&mut self) -> Span {
        match self.roll(3) {
            0 => Span::Key(self.key()),
            1 => Span::Prefix(Bytes::from_static(PREFIXES[self.roll(PREFIXES.len())])),
            _ => {
                let (one, other) = (self.key(), self.key());
                if one < other { Span::Interval(one, other) } else { Span::Prefix(one) }
            }
        }
    }
}

/// What a store should hold.
#[derive(Default)]
pub(super) struct Model {
    pub(super) revision: Revision,
    entries: BTreeMap<Bytes, Entry>,
    /// The states of before, each with its revision.
    past: Vec<(Revision, BTreeMap<Bytes, Entry>)>,
    /// What changed, revision by revision.
    batches: Vec<Batch>,
}

impl Model {
    /// Of a store that is empty.
    pub(super) fn at(revision: Revision) -> Self {
        Model { revision, ..Model::default() }
    }

    /// A random read, of the present or of the past.
    pub(super) fn range(&self, dice: &mut Dice) -> Range {
        let mut range = self.range_inside(dice);
        if dice.one_in(3) && !self.past.is_empty() {
            range.at = Some(self.past[dice.roll(self.past.len())].0);
        }
        range
    }

    fn range_inside(&self, dice: &mut Dice) -> Range {
        let mut range = Range::new(dice.span());
        match dice.roll(4) {
            0 => range.order = Order::OldestFirst,
            1 => range.order = Order::NewestFirst,
            2 => range.after_key = Some(dice.key()),
            _ => {}
        }
        range.limit = dice.one_in(2).then(|| dice.roll(4) + 1);
        range.keys_only = dice.one_in(4);
        if dice.one_in(4) && self.revision > Revision::ZERO {
            range.max_created = Some(Revision::new(dice.roll(usize::try_from(self.revision.get()).unwrap()) as u64 + 1));
        }
        range
    }

    /// A random transaction, whose compares hold about as often as not.
    pub(super) fn txn(&self, dice: &mut Dice, leases: &[LeaseId]) -> Txn {
        let mut txn = Txn::new();
        for _ in 0..dice.roll(3) {
            let key = dice.key();
            let (found, off) = (self.entries.get(&key), u64::from(dice.one_in(3)));
            txn.compares.push(match (dice.roll(6), found) {
                (0, _) => Compare::Absent(key),
                (1, _) => Compare::Present(key),
                (2, Some(entry)) => Compare::Modified(key, Revision::new(entry.modified.get() + off)),
                (3, Some(entry)) => Compare::Created(key, Revision::new(entry.created.get() + off)),
                (4, _) => Compare::Lease(key, leases[dice.roll(leases.len())]),
                _ => Compare::RangeAbsent(dice.span()),
            });
        }
        txn.then = self.ops(dice, leases);
        txn.otherwise = if dice.one_in(2) { self.ops(dice, leases) } else { Vec::new() };
        txn
    }

    fn ops(&self, dice: &mut Dice, leases: &[LeaseId]) -> Vec<Op> {
        let mut ops: Vec<Op> = Vec::new();
        for n in 0..=dice.roll(4) {
            let key = dice.key();
            let written = ops.iter().any(|op| matches!(op, Op::Put { key: other, .. } | Op::Delete { key: other } if *other == key));
            ops.push(match dice.roll(4) {
                0 | 1 if !written => {
                    let value = Value::from(if dice.one_in(4) { String::new() } else { format!("{n}/{}", dice.roll(3)) });
                    let lease = dice.one_in(2).then(|| leases[dice.roll(leases.len())]);
                    Op::Put { key, value, lease }
                }
                2 if !written => Op::Delete { key },
                _ => Op::Range(self.range_inside(dice)),
            });
        }
        ops
    }

    /// Runs a transaction that the store ran, too, and checks the store's answer.
    pub(super) fn ran(&mut self, txn: &Txn, reply: &TxnReply) {
        let holds = txn.compares.iter().all(|compare| self.holds(compare));
        assert_eq!(reply.succeeded, holds, "{txn:?}");
        let ops = if holds { &txn.then } else { &txn.otherwise };
        assert_eq!(reply.replies.len(), ops.len(), "{txn:?}");
        let (before, mut changes) = (self.revision, Vec::new());
        for (op, answer) in ops.iter().zip(&reply.replies) {
            match op {
                Op::Put { key, value, lease } => {
                    let created = self.entries.get(key).map_or(reply.revision, |entry| entry.created);
                    let entry = Entry { key: key.clone(), value: value.clone(), created, modified: reply.revision, lease: *lease };
                    self.entries.insert(key.clone(), entry.clone());
                    changes.push(Change::Put(entry));
                    assert_eq!(*answer, OpReply::Put);
                }
                Op::Delete { key } => {
                    let existed = self.entries.remove(key).is_some();
                    changes.extend(existed.then(|| Change::Delete { key: key.clone() }));
                    assert_eq!(*answer, OpReply::Delete { existed }, "{txn:?}");
                }
                Op::Range(range) => {
                    let OpReply::Range(found) = answer else { panic!("not the answer of a range: {answer:?}") };
                    self.check(range, found);
                }
            }
        }
        if changes.is_empty() {
            assert_eq!(reply.revision, before, "what changes nothing leaves the revision: {txn:?}");
        } else {
            self.changed(reply.revision, changes);
        }
    }

    /// A lease was revoked; its keys are gone at `revision`, where it had any.
    pub(super) fn revoked(&mut self, lease: LeaseId, revision: Revision) {
        let gone = self.keys_of(lease);
        if gone.is_empty() {
            return assert_eq!(revision, self.revision, "nothing hung on the lease");
        }
        self.entries.retain(|_, entry| entry.lease != Some(lease));
        self.changed(revision, gone.into_iter().map(|key| Change::Delete { key }).collect());
    }

    /// The keys that hang on a lease.
    pub(super) fn keys_of(&self, lease: LeaseId) -> Vec<Bytes> {
        self.entries.values().filter(|entry| entry.lease == Some(lease)).map(|entry| entry.key.clone()).collect()
    }

    fn changed(&mut self, revision: Revision, changes: Vec<Change>) {
        assert!(revision > self.revision, "{revision} after {}", self.revision);
        self.revision = revision;
        self.past.push((revision, self.entries.clone()));
        self.batches.push(Batch { revision, changes });
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.entries.contains_key(key),
            Compare::Present(key) => self.entries.contains_key(key),
            Compare::Modified(key, revision) => self.entries.get(key).is_some_and(|entry| entry.modified == *revision),
            Compare::Created(key, revision) => self.entries.get(key).is_some_and(|entry| entry.created == *revision),
            Compare::Lease(key, lease) => self.entries.get(key).is_some_and(|entry| entry.lease == Some(*lease)),
            Compare::RangeAbsent(span) => !self.entries.keys().any(|key| span.contains(key)),
        }
    }

    /// Checks what the store found.
    pub(super) fn check(&self, range: &Range, found: &RangeReply) {
        let state = match range.at {
            Some(at) => &self.past.iter().find(|(revision, _)| *revision == at).expect("a revision that was").1,
            None => &self.entries,
        };
        let mut all: Vec<Entry> = state
            .values()
            .filter(|entry| range.span.contains(&entry.key))
            .filter(|entry| range.after_key.as_ref().is_none_or(|after| entry.key > *after))
            .filter(|entry| range.max_created.is_none_or(|latest| entry.created <= latest))
            .cloned()
            .collect();
        match range.order {
            Order::Key => {}
            Order::OldestFirst => all.sort_by_key(|entry| entry.created),
            Order::NewestFirst => all.sort_by_key(|entry| std::cmp::Reverse(entry.created)),
        }
        let whole = all.clone();
        let more = range.limit.is_some_and(|limit| all.len() > limit);
        all.truncate(range.limit.unwrap_or(usize::MAX));
        assert_eq!(found.more, more, "{range:?}");
        let bare = |entry: &Entry| Entry { value: if range.keys_only { Value::new() } else { entry.value.clone() }, ..entry.clone() };
        let whole: Vec<Entry> = whole.iter().map(bare).collect();
        if range.order == Order::Key {
            assert_eq!(found.entries, all.iter().map(bare).collect::<Vec<_>>(), "{range:?}");
        } else {
            // Keys of one revision come in any order.
            let created = |entries: &[Entry]| entries.iter().map(|entry| entry.created).collect::<Vec<_>>();
            assert_eq!(created(&found.entries), created(&all), "{range:?}");
            assert!(found.entries.iter().all(|entry| whole.contains(entry)), "{range:?}: {:?}", found.entries);
        }
    }

    /// What a watch of `span` has to tell after a revision; the keys of a revoked lease in any order.
    pub(super) fn told(&self, span: &Span, after: Revision) -> Vec<(Revision, Vec<Change>)> {
        let inside = |batch: &Batch| batch.changes.iter().filter(|change| span.contains(change.key())).cloned().collect::<Vec<_>>();
        let batches = self.batches.iter().filter(|batch| batch.revision > after);
        batches.map(|batch| (batch.revision, inside(batch))).filter(|(_, changes)| !changes.is_empty()).collect()
    }
}
