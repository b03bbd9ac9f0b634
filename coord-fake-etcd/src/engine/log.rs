//! What happened, in order: what watches are fed from.

use std::collections::VecDeque;
use std::sync::Arc;

use super::keys::Change;
use super::span::Span;

/// How many revisions before a compaction are kept for watches that had seen everything and are
/// about to see the rest. etcd has as many in the channel of each stream.
const KEPT_FOR_LIVE: i64 = 128;

/// How much a watch is given at a time, so that the store is not held for long and no response is
/// too large.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portion {
    pub(crate) revisions: usize,
    pub(crate) bytes: usize,
    /// Changes that are looked at, wanted or not.
    pub(crate) changes: usize,
}

/// What there is for a watch.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) changes: Vec<Arc<Change>>,
    /// Up to where they are all that happened.
    pub(crate) through: i64,
}

/// The changes since the last compaction, and a few before.
#[derive(Debug, Default)]
pub(crate) struct Log {
    changes: VecDeque<Arc<Change>>,
    /// The oldest revision whose changes are all there.
    oldest: i64,
    size: usize,
}

impl Log {
    pub(crate) fn push(&mut self, change: Arc<Change>) {
        self.size += change.size();
        self.changes.push_back(change);
    }

    /// How many bytes it takes, about.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The oldest revision whose changes are all there.
    pub(crate) fn oldest(&self) -> i64 {
        self.oldest
    }

    /// What happened in `span` from the revision `from` on, up to `head`, which is the last one.
    /// Whole revisions, and at least one of them.
    pub(crate) fn find(
        &self,
        span: &Span,
        wanted: impl Fn(&Change) -> bool,
        from: i64,
        head: i64,
        portion: Portion,
    ) -> Found {
        let first = self.changes.partition_point(|change| change.kv.mod_revision < from);
        let mut found = Found { changes: Vec::new(), through: head };
        let (mut revisions, mut bytes, mut last) = (0, 0, 0);
        for (looked_at, change) in self.changes.range(first..).enumerate() {
            let revision = change.kv.mod_revision;
            if revision != last {
                let full = revisions >= portion.revisions || bytes >= portion.bytes;
                if full || looked_at >= portion.changes {
                    found.through = revision - 1;
                    break;
                }
            }
            if span.contains(&change.kv.key) && wanted(change) {
                let of_before = found.changes.last().map(|change| change.kv.mod_revision);
                revisions += usize::from(of_before != Some(revision));
                bytes += change.size();
                found.changes.push(Arc::clone(change));
            }
            last = revision;
        }
        found
    }

    /// Forgets what is older than `revision`, but for what live watches may be about to see.
    pub(crate) fn compact(&mut self, revision: i64) {
        self.oldest = self.oldest.max(revision.saturating_sub(KEPT_FOR_LIVE));
        let kept = self.changes.partition_point(|change| change.kv.mod_revision < self.oldest);
        self.size -= self.changes.drain(..kept).map(|change| change.size()).sum::<usize>();
    }
}
