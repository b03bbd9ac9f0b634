//! Who of a queue has its turn, as far as its changes are known. Pure: no clock, no store.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use bytes::Bytes;
use coord_api::Revision;

/// What an entry takes of the capacity that those who have their turn share.
///
/// The whole capacity of a lock is [`ALL`]: an exclusive entry weighs all of it, a shared one
/// weighs one.
pub(crate) type Weight = u64;

/// The capacity of a queue in which one entry has its turn at a time.
pub(crate) const ALL: Weight = u64::MAX;

/// The place of an entry: its create revision, and its key among those of one revision.
type Place = (Revision, Bytes);

/// The entries of a queue in the order in which they came.
///
/// An entry has its turn when its weight, and those of all that came before it, are within the
/// capacity. So nobody is overtaken, whatever they weigh (R28, R49), and those who have their turn
/// stand at the front. A turn is not taken back: not when the capacity is lowered (R48).
#[derive(Debug)]
pub(crate) struct WaitQueue {
    capacity: Weight,
    entries: BTreeMap<Place, Weight>,
    by_key: HashMap<Bytes, QueueEntry>,
    /// The last entry that has its turn; it may be gone.
    front: Option<Place>,
    /// What those that have their turn weigh together; wide enough for any number of them.
    taken: u128,
}

/// What is known of an entry.
#[derive(Debug)]
struct QueueEntry {
    created: Revision,
    /// Who wrote it, where it says so.
    owner: Option<String>,
}

impl WaitQueue {
    pub(crate) fn new(capacity: Weight) -> Self {
        WaitQueue { capacity, entries: BTreeMap::new(), by_key: HashMap::new(), front: None, taken: 0 }
    }

    /// What those who have their turn share.
    pub(crate) fn capacity(&self) -> Weight {
        self.capacity
    }

    /// Sets what those who have their turn share.
    pub(crate) fn set_capacity(&mut self, capacity: Weight) {
        self.capacity = capacity;
    }

    /// An entry stands there: a new one, or one that was written anew and may weigh something else.
    pub(crate) fn put(&mut self, key: Bytes, created: Revision, weight: Weight, owner: Option<String>) {
        self.remove(&key);
        let place = (created, key.clone());
        if self.is_at_front(&place) {
            self.taken += u128::from(weight);
        }
        self.entries.insert(place, weight);
        self.by_key.insert(key, QueueEntry { created, owner });
    }

    /// An entry is gone. Says whether it was known.
    pub(crate) fn remove(&mut self, key: &Bytes) -> bool {
        let Some(QueueEntry { created, .. }) = self.by_key.remove(key) else { return false };
        let place = (created, key.clone());
        let weight = self.entries.remove(&place).unwrap_or_default();
        if self.is_at_front(&place) {
            self.taken -= u128::from(weight);
        }
        true
    }

    /// Forgets every entry, and gives the keys of those that were known.
    pub(crate) fn clear(&mut self) -> Vec<Bytes> {
        self.entries.clear();
        (self.front, self.taken) = (None, 0);
        std::mem::take(&mut self.by_key).into_keys().collect()
    }

    /// The next entry whose turn has come since this was last asked; to be asked until there is
    /// none.
    pub(crate) fn next_turn(&mut self) -> Option<Bytes> {
        let after = match &self.front {
            Some(front) => Bound::Excluded(front.clone()),
            None => Bound::Unbounded,
        };
        let (place, weight) = self.entries.range((after, Bound::Unbounded)).next()?;
        let taken = self.taken + u128::from(*weight);
        if taken > u128::from(self.capacity) {
            return None;
        }
        let place = place.clone();
        let key = place.1.clone();
        (self.front, self.taken) = (Some(place), taken);
        Some(key)
    }

    pub(crate) fn contains(&self, key: &Bytes) -> bool {
        self.by_key.contains_key(key)
    }

    /// What an entry weighs, where it is known.
    pub(crate) fn weight(&self, key: &Bytes) -> Option<Weight> {
        let QueueEntry { created, .. } = self.by_key.get(key)?;
        self.entries.get(&(*created, key.clone())).copied()
    }

    /// Whether an entry has its turn.
    pub(crate) fn has_turn(&self, key: &Bytes) -> bool {
        self.by_key.get(key).is_some_and(|entry| self.is_at_front(&(entry.created, key.clone())))
    }

    /// Who wrote the oldest entry, where it says so.
    pub(crate) fn first_owner(&self) -> Option<&str> {
        let ((_, key), _) = self.entries.first_key_value()?;
        self.by_key.get(key)?.owner.as_deref()
    }

    fn is_at_front(&self, place: &Place) -> bool {
        self.front.as_ref().is_some_and(|front| place <= front)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: u64) -> Bytes {
        format!("{name:04}").into()
    }

    fn turns(queue: &mut WaitQueue) -> Vec<Bytes> {
        std::iter::from_fn(|| queue.next_turn()).collect()
    }

    fn queue(capacity: Weight, weights: &[Weight]) -> WaitQueue {
        let mut queue = WaitQueue::new(capacity);
        for (n, weight) in (1..).zip(weights) {
            queue.put(key(n), Revision::new(n), *weight, None);
        }
        queue
    }

    #[test]
    fn one_at_a_time_where_each_takes_it_all() {
        let mut queue = queue(ALL, &[ALL, ALL, ALL]);
        assert_eq!(turns(&mut queue), [key(1)]);
        assert!(queue.remove(&key(2)), "one that waits goes away");
        assert!(turns(&mut queue).is_empty());
        assert!(queue.remove(&key(1)));
        assert_eq!(turns(&mut queue), [key(3)]);
        assert!(queue.has_turn(&key(3)) && !queue.has_turn(&key(1)));
    }

    #[test]
    fn readers_share_up_to_the_next_writer() {
        let mut queue = queue(ALL, &[1, 1, ALL, 1]);
        assert_eq!(turns(&mut queue), [key(1), key(2)]);
        queue.remove(&key(1));
        assert!(turns(&mut queue).is_empty(), "a reader is still there");
        queue.remove(&key(2));
        assert_eq!(turns(&mut queue), [key(3)]);
        queue.remove(&key(3));
        assert_eq!(turns(&mut queue), [key(4)]);
    }

    #[test]
    fn a_writer_that_becomes_a_reader_lets_readers_in_and_no_writer() {
        let mut queue = queue(ALL, &[ALL, 1, ALL]);
        assert_eq!(turns(&mut queue), [key(1)]);
        queue.put(key(1), Revision::new(1), 1, None);
        assert_eq!(turns(&mut queue), [key(2)]);
        assert!(queue.has_turn(&key(1)));
    }

    #[test]
    fn a_heavy_one_is_not_overtaken() {
        let mut queue = queue(4, &[3, 4, 1]);
        assert_eq!(turns(&mut queue), [key(1)]);
        queue.remove(&key(1));
        assert_eq!(turns(&mut queue), [key(2)]);
        queue.remove(&key(2));
        assert_eq!(turns(&mut queue), [key(3)]);
    }

    #[test]
    fn a_heavy_one_that_goes_away_lets_the_next_ones_in() {
        let mut queue = queue(4, &[3, 4, 1]);
        assert_eq!(turns(&mut queue), [key(1)]);
        queue.remove(&key(2));
        assert_eq!(turns(&mut queue), [key(3)]);
    }

    #[test]
    fn lowering_the_capacity_takes_nothing_back() {
        let mut queue = queue(2, &[1, 1, 1]);
        assert_eq!(turns(&mut queue), [key(1), key(2)]);
        queue.set_capacity(1);
        assert!(queue.has_turn(&key(2)));
        queue.remove(&key(1));
        assert!(turns(&mut queue).is_empty());
        queue.remove(&key(2));
        assert_eq!(turns(&mut queue), [key(3)]);
        queue.set_capacity(2);
        queue.put(key(4), Revision::new(4), 1, None);
        assert_eq!(turns(&mut queue), [key(4)]);
    }

    #[test]
    fn the_oldest_entry_names_who_has_it() {
        let mut queue = WaitQueue::new(ALL);
        assert_eq!(queue.first_owner(), None);
        queue.put(key(2), Revision::new(2), ALL, Some("b".to_owned()));
        queue.put(key(1), Revision::new(1), ALL, Some("a".to_owned()));
        assert_eq!(queue.first_owner(), Some("a"));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Join(Weight),
        Leave(prop::sample::Index),
        Capacity(Weight),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1..5u64).prop_map(Step::Join),
            3 => any::<prop::sample::Index>().prop_map(Step::Leave),
            1 => (1..6u64).prop_map(Step::Capacity),
        ];
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        /// Against the rule as it is written: those at the front whose weights, summed up, are
        /// within the capacity, and whoever had a turn before.
        #[test]
        fn turns_are_what_the_rule_says(steps in steps()) {
            let (mut queue, mut capacity) = (WaitQueue::new(3), 3);
            let mut entries: Vec<(u64, Weight, bool)> = Vec::new();
            for (revision, step) in (1..).zip(steps) {
                match step {
                    Step::Join(weight) => {
                        entries.push((revision, weight, false));
                        queue.put(key(revision), Revision::new(revision), weight, None);
                    }
                    Step::Leave(index) if !entries.is_empty() => {
                        let (gone, ..) = entries.remove(index.index(entries.len()));
                        prop_assert!(queue.remove(&key(gone)));
                    }
                    Step::Leave(_) => {}
                    Step::Capacity(limit) => {
                        capacity = limit;
                        queue.set_capacity(limit);
                    }
                }
                let (mut sum, mut expected) = (0, Vec::new());
                for (name, weight, has_turn) in &mut entries {
                    sum += *weight;
                    if sum <= capacity && !*has_turn {
                        *has_turn = true;
                        expected.push(key(*name));
                    }
                }
                prop_assert_eq!(turns(&mut queue), expected);
                for (name, _, has_turn) in &entries {
                    prop_assert_eq!(queue.has_turn(&key(*name)), *has_turn);
                }
            }
        }
    }
}
