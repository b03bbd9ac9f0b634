//! The keys, each with what became of it, as far back as history reaches.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::span::Span;
use crate::proto::mvccpb::KeyValue;

/// Sizes are compared with a quota, so that what a change costs beside its key and value counts.
const OVERHEAD: usize = 64;

/// One change of one key. It is of the revision `kv.mod_revision`.
#[derive(Debug)]
pub(crate) struct Change {
    /// What was written. Of a deletion the key and the revision, and nothing else.
    pub(crate) kv: KeyValue,
    pub(crate) deleted: bool,
}

impl Change {
    /// How many bytes it takes, about.
    pub(crate) fn size(&self) -> usize {
        self.kv.key.len() + self.kv.value.len() + OVERHEAD
    }
}

/// For each key its changes, in order. One that was never written, or is gone for longer than
/// history reaches, has none.
#[derive(Debug, Default)]
pub(crate) struct KeyTable {
    keys: BTreeMap<Bytes, Vec<Arc<Change>>>,
}

impl KeyTable {
    /// What a key was at a revision.
    pub(crate) fn at(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        at(self.keys.get(key)?, revision)
    }

    /// What a key is.
    pub(crate) fn latest(&self, key: &[u8]) -> Option<&KeyValue> {
        self.at(key, i64::MAX)
    }

    /// The keys of a span that there were at a revision, in their order.
    pub(crate) fn range<'a>(
        &'a self,
        span: &'a Span,
        revision: i64,
    ) -> impl Iterator<Item = &'a KeyValue> + use<'a> {
        let from = (Bound::Included(span.start().as_ref()), Bound::Unbounded);
        self.keys
            .range::<[u8], _>(from)
            .take_while(|(key, _)| span.contains(key))
            .filter_map(move |(_, changes)| at(changes, revision))
    }

    /// Adds a change, which is later than all others.
    pub(crate) fn push(&mut self, change: &Arc<Change>) {
        self.keys.entry(change.kv.key.clone()).or_default().push(Arc::clone(change));
    }

    /// Forgets what nobody sees who reads at `revision` or later.
    pub(crate) fn compact(&mut self, revision: i64) {
        self.keys.retain(|_, changes| {
            let later = changes.partition_point(|change| change.kv.mod_revision <= revision);
            let seen = later.saturating_sub(1);
            let gone = changes.get(seen).is_some_and(|change| change.deleted) && seen < later;
            changes.drain(..if gone { later } else { seen });
            !changes.is_empty()
        });
    }

    /// How many bytes those changes take that are older than `revision`.
    pub(crate) fn size_before(&self, revision: i64) -> usize {
        let older = |change: &&Arc<Change>| change.kv.mod_revision < revision;
        self.keys.values().flatten().filter(older).map(|change| change.size()).sum()
    }
}

fn at(changes: &[Arc<Change>], revision: i64) -> Option<&KeyValue> {
    let later = changes.partition_point(|change| change.kv.mod_revision <= revision);
    let change = changes.get(later.checked_sub(1)?)?;
    (!change.deleted).then_some(&change.kv)
}
