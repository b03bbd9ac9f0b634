//! Who stands at a barrier, as far as its changes are known. Pure: no clock, no store.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use coord_api::store::{Change, Entry};
use coord_api::{Revision, Value};
use coord_core::keys;
use coord_core::watch::SharedDelivery;

/// How many generations a record names: whoever looks late finds its own.
const NAMED: usize = 16;

/// The record of a barrier: the places up to which it has released its parties, the last one first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    generations: Vec<Revision>,
    /// When it was written; `None` where there is none.
    pub(super) modified: Option<Revision>,
}

impl Record {
    /// What others left there counts as a record of nothing, which is written over.
    pub(super) fn of(entry: &Entry) -> Self {
        let text = std::str::from_utf8(&entry.value).unwrap_or_default();
        let number = |part: &str| part.parse().ok().map(Revision::new);
        let generations: Option<Vec<Revision>> = text.split(' ').take(NAMED).map(number).collect();
        Record { generations: generations.unwrap_or_default(), modified: Some(entry.modified) }
    }

    /// Up to which place parties were released.
    fn released(&self) -> Revision {
        self.generations.first().copied().unwrap_or_default()
    }

    /// The generation with which the party at `place` was released.
    fn generation_of(&self, place: Revision) -> Option<Revision> {
        self.generations.iter().rev().copied().find(|generation| *generation >= place)
    }

    /// The record once the party at `place` has released the others.
    pub(super) fn with(&self, place: Revision) -> Value {
        let all = std::iter::once(place).chain(self.generations.iter().copied()).take(NAMED);
        all.map(|generation| generation.get().to_string()).collect::<Vec<_>>().join(" ").into()
    }
}

/// Where a party stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Others are still to come.
    Waiting,
    /// It is the last one for which the others wait: it is to release them.
    Last,
    /// It was released, with this generation.
    Released(Revision),
    /// Those who came before wait for another number of parties.
    OtherNumber(u32),
    /// Its place is gone.
    Gone,
}

/// The places of a barrier, and its record.
#[derive(Debug)]
pub(super) struct BarrierView {
    directory: Bytes,
    /// The number of parties that each place waits for; the oldest first.
    by_place: BTreeMap<(Revision, Bytes), u32>,
    created: HashMap<Bytes, Revision>,
    pub(super) record: Record,
}

impl BarrierView {
    pub(super) fn new(directory: Bytes) -> Self {
        BarrierView {
            directory,
            by_place: BTreeMap::new(),
            created: HashMap::new(),
            record: Record::default(),
        }
    }

    pub(super) fn put(&mut self, entry: &Entry) {
        if let Some(number) = keys::barrier_number(&self.directory, &entry.key) {
            self.remove(&entry.key);
            self.created.insert(entry.key.clone(), entry.created);
            self.by_place.insert((entry.created, entry.key.clone()), number);
        } else if entry.key == keys::barrier_release(&self.directory) {
            self.record = Record::of(entry);
        }
    }

    fn remove(&mut self, key: &Bytes) {
        if let Some(created) = self.created.remove(key) {
            self.by_place.remove(&(created, key.clone()));
        } else if *key == keys::barrier_release(&self.directory) {
            self.record = Record::default();
        }
    }

    /// Takes what a watch of the directory has delivered.
    pub(super) fn apply(&mut self, delivery: &SharedDelivery) {
        match delivery {
            SharedDelivery::Resync { state, .. } => {
                *self = BarrierView::new(self.directory.clone());
                state.entries.iter().for_each(|entry| self.put(entry));
            }
            SharedDelivery::Batch(batch) => {
                for change in &batch.changes {
                    match change {
                        Change::Put(entry) => self.put(entry),
                        Change::Delete { key } => self.remove(key),
                    }
                }
            }
        }
    }

    /// Where the party stands that has its place under `key`, since `place`.
    pub(super) fn standing(&self, key: &Bytes, place: Revision) -> Standing {
        if let Some(generation) = self.record.generation_of(place) {
            return Standing::Released(generation);
        }
        let own = (place, key.clone());
        let Some(number) = self.by_place.get(&own) else { return Standing::Gone };
        let released = self.record.released();
        let mut counted = self.by_place.iter().filter(|((place, _), _)| *place > released);
        let Some(((_, _), first)) = counted.clone().next() else { return Standing::Gone };
        if first != number {
            return Standing::OtherNumber(*first);
        }
        // Who waits for another number is about to leave, and does not count.
        let before = counted.by_ref().take_while(|(place, _)| **place < own);
        let before = before.filter(|(_, other)| *other == number).count();
        let last = usize::try_from(*number).unwrap_or(usize::MAX) - 1;
        if before == last { Standing::Last } else { Standing::Waiting }
    }

    /// Whether everyone has left who was there up to this generation.
    pub(super) fn has_left(&self, generation: Revision) -> bool {
        self.by_place.keys().next().is_none_or(|(place, _)| *place > generation)
    }
}

#[cfg(test)]
mod tests {
    use coord_api::LeaseId;

    use super::*;

    fn directory() -> Bytes {
        keys::barrier("b")
    }

    fn key(place: u64, number: u32) -> Bytes {
        keys::barrier_entry(&directory(), LeaseId::new(1), place, number)
    }

    fn entry(key: Bytes, place: u64, value: &str) -> Entry {
        let place = Revision::new(place);
        Entry { key, value: value.to_owned().into(), created: place, modified: place, lease: None }
    }

    fn view(parties: &[(u64, u32)], record: Option<&str>) -> BarrierView {
        let mut view = BarrierView::new(directory());
        for (place, number) in parties {
            view.put(&entry(key(*place, *number), *place, "me"));
        }
        if let Some(record) = record {
            view.put(&entry(keys::barrier_release(&directory()), 99, record));
        }
        view
    }

    fn stands(view: &BarrierView, place: u64, number: u32) -> Standing {
        view.standing(&key(place, number), Revision::new(place))
    }

    #[test]
    fn the_last_of_those_who_are_counted_releases() {
        let view = view(&[(2, 3), (4, 3), (6, 3), (8, 3)], None);
        let all: Vec<_> = [2, 4, 6, 8].iter().map(|place| stands(&view, *place, 3)).collect();
        assert_eq!(all, [Standing::Waiting, Standing::Waiting, Standing::Last, Standing::Waiting]);
        assert_eq!(stands(&view, 5, 3), Standing::Gone);
    }

    #[test]
    fn who_was_released_is_not_counted_again() {
        let view = view(&[(2, 2), (4, 2), (6, 2), (8, 2), (10, 2)], Some("4"));
        assert_eq!(stands(&view, 2, 2), Standing::Released(Revision::new(4)));
        assert_eq!(stands(&view, 6, 2), Standing::Waiting);
        assert_eq!(stands(&view, 8, 2), Standing::Last);
        assert_eq!(stands(&view, 10, 2), Standing::Waiting);
        assert!(view.has_left(Revision::new(1)) && !view.has_left(Revision::new(4)));
    }

    #[test]
    fn who_looks_late_finds_its_own_generation() {
        let view = view(&[], Some("12 7 3"));
        let generation = |place| match stands(&view, place, 2) {
            Standing::Released(generation) => generation.get(),
            other => panic!("{other:?}"),
        };
        assert_eq!([2, 3, 4, 7, 8, 12].map(generation), [3, 3, 7, 7, 12, 12]);
        assert_eq!(stands(&view, 13, 2), Standing::Gone);
        assert!(view.has_left(Revision::new(99)));
        let record = Record { generations: (1..=16).rev().map(Revision::new).collect(), modified: None };
        let next = Record::of(&entry(
            Bytes::new(),
            1,
            std::str::from_utf8(&record.with(Revision::new(20))).unwrap(),
        ));
        assert_eq!((next.generations.len(), next.released()), (16, Revision::new(20)));
    }

    #[test]
    fn another_number_than_that_of_the_first_does_not_count() {
        let view = view(&[(2, 2), (4, 3), (6, 2)], None);
        assert_eq!(stands(&view, 4, 3), Standing::OtherNumber(2));
        assert_eq!(stands(&view, 6, 2), Standing::Last);
    }

    #[test]
    fn what_others_left_is_a_record_of_nothing() {
        for garbage in ["", "many", "4 x", "-1", "18446744073709551616"] {
            let view = view(&[(2, 2), (4, 2)], Some(garbage));
            assert_eq!(stands(&view, 4, 2), Standing::Last, "{garbage:?}");
            assert_eq!(view.record.modified, Some(Revision::new(99)));
        }
    }
}
