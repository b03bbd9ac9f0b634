//! A map that knows which of its entries have changed since they were last written down.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

/// A [`BTreeMap`] to read, whose changes are remembered by their keys: as many as there were
/// entries, at most, until they are [written](Self::written).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tracked<K, V> {
    entries: BTreeMap<K, V>,
    changed: BTreeSet<K>,
}

impl<K, V> Default for Tracked<K, V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), changed: BTreeSet::new() }
    }
}

impl<K, V> Deref for Tracked<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &BTreeMap<K, V> {
        &self.entries
    }
}

/// What was read is what is written.
impl<K: Ord, V> FromIterator<(K, V)> for Tracked<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self { entries: entries.into_iter().collect(), changed: BTreeSet::new() }
    }
}

impl<K: Ord + Copy, V> Tracked<K, V> {
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.changed.insert(key);
        self.entries.insert(key, value)
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let removed = self.entries.remove(key)?;
        self.changed.insert(*key);
        Some(removed)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let found = self.entries.get_mut(key)?;
        self.changed.insert(*key);
        Some(found)
    }

    /// Takes all entries out up to and with `last`.
    pub(crate) fn take_up_to(&mut self, last: &K) -> BTreeMap<K, V> {
        let mut taken = BTreeMap::new();
        while let Some(entry) = self.entries.first_entry().filter(|entry| entry.key() <= last) {
            let (key, value) = entry.remove_entry();
            self.changed.insert(key);
            taken.insert(key, value);
        }
        taken
    }

    /// Takes all entries out.
    pub(crate) fn take(&mut self) -> BTreeMap<K, V> {
        self.changed.extend(self.entries.keys());
        std::mem::take(&mut self.entries)
    }

    /// What has changed: `None` where there is nothing any more.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (K, Option<&V>)> {
        self.changed.iter().map(|key| (*key, self.entries.get(key)))
    }

    /// The changes are written down.
    pub(crate) fn written(&mut self) {
        self.changed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_known_until_it_is_written() {
        let mut map: Tracked<u8, char> = [(1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')].into_iter().collect();
        assert_eq!(map.changes().count(), 0);
        map.insert(5, 'e');
        *map.get_mut(&4).unwrap() = 'x';
        map.remove(&9);
        map.get_mut(&9);
        assert_eq!(map.take_up_to(&2).len(), 2);
        let changes: Vec<_> = map.changes().collect();
        assert_eq!(changes, [(1, None), (2, None), (4, Some(&'x')), (5, Some(&'e'))]);
        map.written();
        assert_eq!(map.take().len(), 3);
        assert_eq!(map.changes().collect::<Vec<_>>(), [(3, None), (4, None), (5, None)]);
    }
}
