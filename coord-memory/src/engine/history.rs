//! The window of the newest changes: what watches deliver and older reads undo.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use coord_api::Revision;
use coord_api::store::{Batch, Change, Span};

use super::keys::Stored;

/// How much history is kept: the oldest revisions go first, always whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HistoryWindow {
    pub(crate) changes: usize,
    pub(crate) bytes: usize,
}

/// One change of one key.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) revision: Revision,
    pub(crate) key: Bytes,
    pub(crate) before: Option<Arc<Stored>>,
    pub(crate) after: Option<Arc<Stored>>,
}

impl Record {
    /// What the record may keep alive. A value that two records share is counted twice: the bound
    /// errs on the safe side.
    fn bytes(&self) -> usize {
        let value = |stored: &Option<Arc<Stored>>| stored.as_ref().map_or(0, |stored| stored.value.len());
        size_of::<Record>() + self.key.len() + value(&self.before) + value(&self.after)
    }

    fn change(&self) -> Change {
        match &self.after {
            Some(stored) => Change::Put(stored.to_entry(self.key.clone())),
            None => Change::Delete { key: self.key.clone() },
        }
    }
}

#[derive(Debug)]
pub(crate) struct History {
    records: VecDeque<Record>,
    bytes: usize,
    compacted: Revision,
    window: HistoryWindow,
}

impl History {
    /// An empty history that begins after `oldest`.
    pub(crate) fn new(oldest: Revision, window: HistoryWindow) -> Self {
        History { records: VecDeque::new(), bytes: 0, compacted: oldest, window }
    }

    /// The oldest revision whose state can be read, and after which a watch can start.
    pub(crate) fn oldest(&self) -> Revision {
        self.compacted
    }

    pub(crate) fn push(&mut self, record: Record) {
        self.bytes += record.bytes();
        self.records.push_back(record);
    }

    /// The changes after `revision`, oldest first.
    pub(crate) fn after(&self, revision: Revision) -> impl Iterator<Item = &Record> {
        let from = self.records.partition_point(|record| record.revision <= revision);
        self.records.range(from..)
    }

    /// The same, for the few that were just made: looks for them from the end.
    pub(crate) fn newest(&self, revision: Revision) -> impl Iterator<Item = &Record> {
        let newer = self.records.iter().rev().take_while(|record| record.revision > revision).count();
        self.records.range(self.records.len() - newer..)
    }

    /// The first revision in `from..=through` that changed something in `span`, with its changes
    /// there.
    pub(crate) fn first_batch(&self, span: &Span, from: Revision, through: Revision) -> Option<Batch> {
        let start = self.records.partition_point(|record| record.revision < from);
        let mut inside = self
            .records
            .range(start..)
            .take_while(|record| record.revision <= through)
            .filter(|record| span.contains(&record.key));
        let first = inside.next()?;
        let mut changes = vec![first.change()];
        changes.extend(inside.take_while(|record| record.revision == first.revision).map(Record::change));
        Some(Batch { revision: first.revision, changes })
    }

    /// Drops what no longer fits the window.
    pub(crate) fn trim(&mut self) {
        while self.records.len() > self.window.changes || self.bytes > self.window.bytes {
            match self.records.front() {
                Some(oldest) => self.compact(oldest.revision),
                None => return,
            }
        }
    }

    /// Forgets every change up to `through`, which must not lie beyond the store's revision.
    pub(crate) fn compact(&mut self, through: Revision) {
        while self.records.front().is_some_and(|oldest| oldest.revision <= through) {
            if let Some(record) = self.records.pop_front() {
                self.bytes = self.bytes.saturating_sub(record.bytes());
            }
        }
        self.compacted = self.compacted.max(through);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(revision: u64, key: &'static str, value: usize) -> Record {
        let revision = Revision::new(revision);
        let after =
            Stored { value: vec![0; value].into(), created: revision, modified: revision, lease: None };
        Record { revision, key: key.into(), before: None, after: Some(Arc::new(after)) }
    }

    fn revisions(history: &History) -> Vec<u64> {
        history.after(Revision::ZERO).map(|record| record.revision.get()).collect()
    }

    #[test]
    fn the_window_drops_whole_revisions_by_number_and_by_bytes() {
        let mut history = History::new(Revision::new(1), HistoryWindow { changes: 3, bytes: 10_000 });
        for (revision, key) in [(2, "a"), (2, "b"), (3, "a"), (4, "a")] {
            history.push(record(revision, key, 1));
        }
        history.trim();
        assert_eq!(revisions(&history), [3, 4]);
        assert_eq!(history.oldest(), Revision::new(2));
        history.push(record(5, "a", 9_990));
        history.trim();
        assert!(revisions(&history).is_empty(), "one revision beyond the window empties it");
        assert_eq!((history.oldest(), history.bytes), (Revision::new(5), 0));
    }

    #[test]
    fn a_batch_holds_the_changes_of_one_revision_inside_the_span() {
        let mut history = History::new(Revision::new(1), HistoryWindow { changes: 100, bytes: 100_000 });
        for (revision, key) in [(2, "b"), (3, "a/1"), (3, "b"), (3, "a/2"), (4, "a/1")] {
            history.push(record(revision, key, 1));
        }
        let first = |from, through| {
            history.first_batch(&Span::prefix("a/"), Revision::new(from), Revision::new(through))
        };
        let batch = first(2, 9).unwrap();
        assert_eq!(batch.revision, Revision::new(3));
        assert_eq!(
            batch.changes.iter().map(|change| change.key().clone()).collect::<Vec<_>>(),
            ["a/1", "a/2"]
        );
        assert_eq!(first(4, 9).unwrap().revision, Revision::new(4));
        assert!(first(2, 2).is_none());
        assert!(first(5, 9).is_none());
    }
}
