//! The buckets of one rule, by key.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::mem;

use parking_lot::Mutex;

use super::bucket::{Pace, Refusal, Ticks, duration};
use super::decision::{Decision, DenialReason};

/// What holds for all buckets of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gate {
    pub(super) pace: Pace,
    /// Why nothing is admitted whatever the buckets hold, where that is so. They fill meanwhile.
    pub(super) closed: Option<Closed>,
    /// From when on nothing is admitted any more, because this instance has gone.
    pub(super) ends: Ticks,
}

impl Gate {
    /// Open, for good.
    pub(super) fn open(pace: Pace) -> Self {
        Gate { pace, closed: None, ends: Ticks::MAX }
    }
}

/// Why nothing is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) reason: DenialReason,
    /// Until when, where that is known.
    pub(super) opens: Option<Ticks>,
}

/// What was decided since it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) allowed: u64,
    pub(super) denied: u64,
    /// Buckets that had to go before they were full.
    pub(super) evicted: u64,
}

/// The most parts that the buckets of a rule lie in, each with a lock of its own.
const MAX_PARTS: usize = 64;

/// How many buckets a part holds at least, where the bound allows.
const MIN_PART: usize = 64;

/// The buckets of one rule.
///
/// A bucket is found by a hash of its key of 64 bits (SipHash, with a secret of this process), and
/// the key is not kept: so a bucket costs 16 bytes and what the table needs, however long the keys
/// are. Two keys share a bucket with a chance of one in 2^64.
pub(super) struct Buckets {
    parts: Box<[Part]>,
    part_capacity: usize,
    hasher: RandomState,
}

/// Apart from one another in memory, so that cores that use different ones do not wait.
#[repr(align(128))]
struct Part(Mutex<Inner>);

struct Inner {
    gate: Gate,
    /// When a bucket is full that is not there: in the past, but where all were emptied.
    absent: Ticks,
    /// When each bucket is full, by the hash of its key.
    full_at: HashMap<u64, Ticks, BuildHasherDefault<Hashed>>,
    counts: Counts,
}

impl Buckets {
    /// All full, and never more than `capacity` of them, which is at least one.
    pub(super) fn new(gate: Gate, capacity: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let wanted = (4 * cores).min(capacity / MIN_PART).clamp(1, MAX_PARTS);
        // A power of two, so that a few bits of the hash choose one.
        let count = 1 << wanted.ilog2();
        let part = || {
            let (full_at, counts) = (HashMap::default(), Counts::default());
            Part(Mutex::new(Inner { gate, absent: 0, full_at, counts }))
        };
        Buckets {
            parts: (0..count).map(|_| part()).collect(),
            part_capacity: (capacity / count).max(1),
            hasher: RandomState::new(),
        }
    }

    /// Decides on `count` requests at once.
    #[inline]
    pub(super) fn decide(&self, key: &str, count: u32, now: Ticks) -> Decision {
        self.with(key, |part, hash| part.decide(hash, count, now, self.part_capacity))
    }

    /// Counts what somebody else has admitted.
    pub(super) fn charge(&self, key: &str, count: u32, now: Ticks) {
        self.with(key, |part, hash| {
            part.counts.allowed += u64::from(count);
            let full_at = part.full_at.get(&hash).copied().unwrap_or(part.absent);
            let full_at = part.gate.pace.charge(full_at, now, count);
            part.put(hash, full_at, now, self.part_capacity);
        });
    }

    /// Counts what somebody else has denied.
    pub(super) fn count_denied(&self, key: &str, count: u32) {
        self.with(key, |part, _| part.counts.denied += u64::from(count));
    }

    /// Goes on at another pace: each bucket stays as full as it was, in proportion (R68).
    pub(super) fn reshape(&self, gate: Gate, now: Ticks) {
        for part in &self.parts {
            part.0.lock().reshape(gate, now);
        }
    }

    /// Empties every bucket, those that are not there too.
    pub(super) fn empty(&self, now: Ticks) {
        for part in &self.parts {
            let mut part = part.0.lock();
            part.full_at.clear();
            part.absent = part.gate.pace.empty(now);
        }
    }

    /// Forgets the full ones, and says how many are left.
    pub(super) fn sweep(&self, now: Ticks) -> usize {
        self.parts
            .iter()
            .map(|part| {
                let mut part = part.0.lock();
                part.forget_full(now);
                let length = part.full_at.len();
                if part.full_at.capacity() > 4 * length.max(MIN_PART) {
                    part.full_at.shrink_to(2 * length);
                }
                length
            })
            .sum()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.0.lock().full_at.len()).sum()
    }

    /// What was decided since this was called last.
    pub(super) fn take_counts(&self) -> Counts {
        let mut sum = Counts::default();
        for part in &self.parts {
            let counts = mem::take(&mut part.0.lock().counts);
            sum.allowed += counts.allowed;
            sum.denied += counts.denied;
            sum.evicted += counts.evicted;
        }
        sum
    }

    #[inline]
    fn with<R>(&self, key: &str, work: impl FnOnce(&mut Inner, u64) -> R) -> R {
        let hash = self.hasher.hash_one(key);
        // A table goes by the lowest bits and the highest ones.
        let index = (hash >> 40) as usize & (self.parts.len() - 1);
        #[allow(clippy::indexing_slicing, reason = "masked; and there is always one")]
        let mut part = self.parts[index].0.lock();
        work(&mut part, hash)
    }
}

impl Inner {
    #[inline]
    fn decide(&mut self, hash: u64, count: u32, now: Ticks, capacity: usize) -> Decision {
        if let Some(Closed { reason, opens }) = self.gate.closed {
            self.counts.denied += u64::from(count);
            return Decision::denied(reason, opens.map(|opens| duration(opens.saturating_sub(now))));
        }
        if now >= self.gate.ends {
            self.counts.denied += u64::from(count);
            return Decision::denied(DenialReason::NotRegistered, None);
        }
        let pace = self.gate.pace;
        let taken = match self.full_at.get_mut(&hash) {
            Some(full_at) => pace.take(*full_at, now, count).map(|next| *full_at = next),
            None => pace.take(self.absent, now, count).map(|next| self.put(hash, next, now, capacity)),
        };
        match taken {
            Ok(()) => {
                self.counts.allowed += u64::from(count);
                Decision::Allowed
            }
            Err(refusal) => {
                self.counts.denied += u64::from(count);
                match refusal {
                    Refusal::Wait(wait) => Decision::denied(DenialReason::Limit, Some(duration(wait))),
                    Refusal::Never => Decision::denied(DenialReason::TooMany, None),
                }
            }
        }
    }

    fn put(&mut self, hash: u64, full_at: Ticks, now: Ticks, capacity: usize) {
        if self.full_at.len() >= capacity && !self.full_at.contains_key(&hash) {
            self.make_room(now, capacity);
        }
        self.full_at.insert(hash, full_at);
    }

    /// Forgets the full ones; where there is none, the one that is closest to it.
    #[cold]
    fn make_room(&mut self, now: Ticks, capacity: usize) {
        self.forget_full(now);
        if self.full_at.len() < capacity {
            return;
        }
        let fullest = self.full_at.iter().min_by_key(|(_, full_at)| **full_at).map(|(hash, _)| *hash);
        if let Some(hash) = fullest {
            self.full_at.remove(&hash);
            self.counts.evicted += 1;
        }
    }

    fn forget_full(&mut self, now: Ticks) {
        let full = now.max(self.absent);
        self.full_at.retain(|_, full_at| *full_at > full);
    }

    fn reshape(&mut self, gate: Gate, now: Ticks) {
        let old = mem::replace(&mut self.gate, gate).pace;
        if old != gate.pace {
            self.absent = old.convert(self.absent, now, gate.pace);
            for full_at in self.full_at.values_mut() {
                *full_at = old.convert(*full_at, now, gate.pace);
            }
        }
    }
}

/// What is hashed already is its own hash.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Never called: keys are of 64 bits. Any function would do.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap as StdHashMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::bucket::SECOND;
    use super::*;

    fn gate(rate: u64, burst: u64) -> Gate {
        let interval = SECOND / rate;
        Gate::open(Pace { interval, depth: interval * burst })
    }

    fn admitted(buckets: &Buckets, key: &str, now: Ticks) -> usize {
        (0..1_000).take_while(|_| buckets.decide(key, 1, now).is_allowed()).count()
    }

    #[test]
    fn each_key_has_a_bucket_of_its_own() {
        let buckets = Buckets::new(gate(10, 3), 1_000);
        assert_eq!((admitted(&buckets, "a", 0), admitted(&buckets, "b", 0)), (3, 3));
        assert_eq!((admitted(&buckets, "a", SECOND / 10), admitted(&buckets, "c", 0)), (1, 3));
        let denied = buckets.decide("a", 1, SECOND / 10);
        assert_eq!(denied, Decision::denied(DenialReason::Limit, Some(Duration::from_millis(100))));
        assert_eq!(buckets.decide("d", 4, 0), Decision::denied(DenialReason::TooMany, None));
        let counts = buckets.take_counts();
        assert_eq!((counts.allowed, counts.denied, counts.evicted), (10, 4 + 1 + 4, 0));
        assert_eq!(buckets.take_counts(), Counts::default());
    }

    #[test]
    fn full_ones_are_forgotten_and_others_kept() {
        let buckets = Buckets::new(gate(1, 2), 1_000);
        assert_eq!((admitted(&buckets, "a", 0), admitted(&buckets, "b", SECOND)), (2, 2));
        assert_eq!((buckets.len(), buckets.sweep(2 * SECOND - 1)), (2, 2));
        assert_eq!((buckets.sweep(2 * SECOND), buckets.sweep(3 * SECOND)), (1, 0));
        assert_eq!(admitted(&buckets, "a", 3 * SECOND), 2);
    }

    #[test]
    fn their_number_is_bounded_and_the_emptiest_stay() {
        for capacity in [1, 7, 64, 1_000, 5_000] {
            let buckets = Buckets::new(gate(1, 10), capacity);
            assert_eq!(admitted(&buckets, "the emptiest", 0), 10);
            for key in 0..2 * capacity {
                assert!(buckets.decide(&key.to_string(), 1, 0).is_allowed());
            }
            assert!(buckets.len() <= capacity, "{} of {capacity}", buckets.len());
            assert!(buckets.take_counts().evicted >= capacity as u64);
            if capacity >= 64 {
                assert_eq!(admitted(&buckets, "the emptiest", 0), 0, "{capacity}");
            }
        }
    }

    #[test]
    fn full_ones_make_room_first() {
        let buckets = Buckets::new(gate(1, 10), 50);
        (0..50).for_each(|key| assert!(buckets.decide(&key.to_string(), 1, 0).is_allowed()));
        (50..100).for_each(|key| assert!(buckets.decide(&key.to_string(), 1, SECOND).is_allowed()));
        assert_eq!((buckets.len(), buckets.take_counts().evicted), (50, 0));
    }

    #[test]
    fn a_change_of_the_pace_keeps_what_is_in_them() {
        let buckets = Buckets::new(gate(10, 4), 1_000);
        assert_eq!(admitted(&buckets, "empty", 0), 4);
        assert!(buckets.decide("half", 2, 0).is_allowed());
        buckets.reshape(gate(100, 40), 0);
        let had = ["empty", "half", "full"].map(|key| admitted(&buckets, key, 0));
        assert_eq!(had, [0, 20, 40], "the limiter that refills at reload would say 40 each");
        buckets.reshape(gate(10, 4), SECOND);
        assert_eq!(["empty", "half", "new"].map(|key| admitted(&buckets, key, SECOND)), [4, 4, 4]);
    }

    #[test]
    fn closed_ones_admit_nothing_and_fill() {
        let opens = Some(SECOND);
        let closed = Closed { reason: DenialReason::Settling, opens };
        let buckets = Buckets::new(Gate { closed: Some(closed), ..gate(10, 20) }, 1_000);
        buckets.empty(0);
        let denied = buckets.decide("a", 1, SECOND / 4);
        assert_eq!(denied, Decision::denied(DenialReason::Settling, Some(Duration::from_millis(750))));
        buckets.reshape(gate(10, 20), SECOND);
        assert_eq!(admitted(&buckets, "a", SECOND), 10, "what came back since they were emptied");
        assert_eq!(buckets.sweep(SECOND), 1);
        assert_eq!(admitted(&buckets, "b", 2 * SECOND), 20);
    }

    #[test]
    fn they_end_with_the_membership() {
        let buckets = Buckets::new(Gate { ends: SECOND, ..gate(10, 4) }, 1_000);
        assert!(buckets.decide("a", 1, SECOND - 1).is_allowed());
        assert_eq!(buckets.decide("a", 1, SECOND), Decision::denied(DenialReason::NotRegistered, None));
    }

    #[test]
    fn what_others_admitted_is_taken_from_them() {
        let buckets = Buckets::new(gate(10, 4), 1_000);
        buckets.charge("a", 3, 0);
        assert_eq!(admitted(&buckets, "a", 0), 1);
        buckets.charge("a", 100, 0);
        assert_eq!(admitted(&buckets, "a", SECOND / 10), 1, "it is empty at worst");
    }

    proptest! {
        /// Many keys, pauses, sweeps and changes, against one bucket for each key that nothing is
        /// ever done to but what the rule says.
        #[test]
        fn they_decide_as_buckets_that_are_never_forgotten(
            steps in prop::collection::vec((0..12_u8, 0..SECOND / 3, 1..4_u32, 0..40_u8), 1..400),
        ) {
            let buckets = Buckets::new(gate(5, 5), 10_000);
            let (mut pace, mut now) = (gate(5, 5).pace, 0);
            let mut model: StdHashMap<u8, Ticks> = StdHashMap::new();
            for (key, pause, count, what) in steps {
                now += pause;
                match what {
                    0 => {
                        buckets.sweep(now);
                    }
                    1 | 2 => {
                        let next = gate(u64::from(count) * 3, u64::from(key) + 1);
                        buckets.reshape(next, now);
                        for key in 0..12 {
                            let full_at = model.entry(key).or_default();
                            *full_at = pace.convert(*full_at, now, next.pace);
                        }
                        pace = next.pace;
                    }
                    _ => {
                        let full_at = model.entry(key).or_default();
                        let expected = pace.take(*full_at, now, count);
                        let decided = buckets.decide(&key.to_string(), count, now);
                        prop_assert_eq!(decided.is_allowed(), expected.is_ok());
                        *full_at = expected.unwrap_or(*full_at);
                    }
                }
            }
        }
    }
}
