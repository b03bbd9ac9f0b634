//! The present state: every key, found by hash and walked in byte order.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use coord_api::store::{Entry, Span};
use coord_api::{LeaseId, Revision, Value};

/// What a key holds. Shared between the present state and the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) value: Value,
    pub(crate) created: Revision,
    pub(crate) modified: Revision,
    pub(crate) lease: Option<LeaseId>,
}

impl Stored {
    pub(crate) fn to_entry(&self, key: Bytes) -> Entry {
        Entry {
            key,
            value: self.value.clone(),
            created: self.created,
            modified: self.modified,
            lease: self.lease,
        }
    }
}

/// All keys. What they hold stands in slots; a hash index serves the reads and writes of one key,
/// which are most, and a tree the ranges. An overwrite touches the hash index alone.
#[derive(Debug, Default)]
pub(crate) struct KeyTable {
    slots: Vec<Option<Arc<Stored>>>,
    free: Vec<usize>,
    index: HashMap<Bytes, usize, foldhash::fast::RandomState>,
    order: BTreeMap<Bytes, usize>,
}

impl KeyTable {
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Arc<Stored>> {
        self.slot(*self.index.get(key)?)
    }

    pub(crate) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Arc<Stored>> {
        let slot = *self.index.get(key)?;
        self.slots.get_mut(slot)?.as_mut()
    }

    /// Adds a key that is not there yet.
    pub(crate) fn insert_new(&mut self, key: Bytes, stored: Arc<Stored>) {
        let slot = match self.free.pop() {
            Some(slot) => {
                if let Some(place) = self.slots.get_mut(slot) {
                    *place = Some(stored);
                }
                slot
            }
            None => {
                self.slots.push(Some(stored));
                self.slots.len() - 1
            }
        };
        self.index.insert(key.clone(), slot);
        self.order.insert(key, slot);
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<Arc<Stored>> {
        let slot = self.index.remove(key)?;
        self.order.remove(key);
        self.free.push(slot);
        self.slots.get_mut(slot)?.take()
    }

    /// The keys of `span` after `after_key`, in byte order.
    pub(crate) fn range<'a>(
        &'a self,
        span: &Span,
        after_key: Option<&[u8]>,
    ) -> impl Iterator<Item = (&'a Bytes, &'a Arc<Stored>)> {
        let end = span.end();
        let lower = match after_key {
            Some(after) if after >= span.start() => Bound::Excluded(after),
            _ => Bound::Included(span.start()),
        };
        // The tree refuses an interval that is turned round, which a caller may well ask for: it
        // holds nothing.
        let empty = end.as_deref().is_some_and(|end| match lower {
            Bound::Excluded(start) | Bound::Included(start) => start >= end,
            Bound::Unbounded => false,
        });
        let walk = (!empty).then(|| {
            let upper = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            self.order.range::<[u8], _>((lower, upper))
        });
        walk.into_iter().flatten().filter_map(|(key, slot)| Some((key, self.slot(*slot)?)))
    }

    fn slot(&self, slot: usize) -> Option<&Arc<Stored>> {
        self.slots.get(slot)?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(value: &'static str) -> Arc<Stored> {
        Arc::new(Stored {
            value: value.into(),
            created: Revision::new(2),
            modified: Revision::new(2),
            lease: None,
        })
    }

    fn keys_of(keys: &KeyTable, span: Span, after: Option<&[u8]>) -> Vec<String> {
        keys.range(&span, after).map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect()
    }

    #[test]
    fn keys_come_in_byte_order_and_their_slots_are_used_again() {
        let mut keys = KeyTable::default();
        for key in ["b", "a/x", "a", "ab", "a/"] {
            keys.insert_new(key.into(), stored("1"));
        }
        assert_eq!(keys_of(&keys, Span::prefix(""), None), ["a", "a/", "a/x", "ab", "b"]);
        assert_eq!(keys_of(&keys, Span::prefix("a/"), None), ["a/", "a/x"]);
        assert!(keys.remove(b"a/x").is_some());
        assert!(keys.remove(b"a/x").is_none());
        keys.insert_new("c".into(), stored("2"));
        assert_eq!(keys.slots.len(), 5);
        assert_eq!(keys.get(b"c").map(|stored| stored.value.clone()), Some("2".into()));
        assert_eq!(keys.len(), 5);
    }

    #[test]
    fn intervals_that_are_empty_or_turned_round_hold_nothing() {
        let mut keys = KeyTable::default();
        for key in ["a", "b", "c"] {
            keys.insert_new(key.into(), stored("1"));
        }
        let interval = |from: &'static str, to: &'static str| Span::Interval(from.into(), to.into());
        assert_eq!(keys_of(&keys, interval("a", "c"), None), ["a", "b"]);
        assert!(keys_of(&keys, interval("c", "a"), None).is_empty());
        assert!(keys_of(&keys, interval("b", "b"), None).is_empty());
        assert_eq!(keys_of(&keys, interval("a", "c"), Some(b"a")), ["b"]);
        assert!(keys_of(&keys, interval("a", "c"), Some(b"c")).is_empty());
        assert!(keys_of(&keys, interval("a", "c"), Some(b"z")).is_empty());
        assert_eq!(keys_of(&keys, interval("b", "z"), Some(b"a")), ["b", "c"]);
        assert!(keys_of(&keys, Span::key("b"), Some(b"b")).is_empty());
    }
}
