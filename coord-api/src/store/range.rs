//! Ranges: reads of many keys at one revision.

use bytes::Bytes;

use super::span::Span;
use crate::error::{Error, Result};
use crate::types::{LeaseId, Revision, Value};

/// In which order a range comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// By key, in byte order.
    #[default]
    Key,
    /// By create revision, the smallest first; keys of one revision in no particular order.
    OldestFirst,
    /// By create revision, the greatest first; keys of one revision in no particular order.
    NewestFirst,
}

/// A request for a range (S2).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Range {
    /// The keys asked for.
    pub span: Span,
    /// Only keys after this one: the continuation of a limited range. Only in [`Order::Key`].
    pub after_key: Option<Bytes>,
    /// The state at this revision; the present one where `None`. Not inside a transaction.
    pub at: Option<Revision>,
    /// At most so many entries; all where `None`. Never zero.
    pub limit: Option<usize>,
    /// The order of the entries.
    pub order: Order,
    /// Only keys created at or before this revision.
    pub max_created: Option<Revision>,
    /// Leave the values out.
    pub keys_only: bool,
}

impl Range {
    /// All of `span` at the present revision, in byte order.
    pub fn new(span: Span) -> Self {
        Range {
            span,
            after_key: None,
            at: None,
            limit: None,
            order: Order::Key,
            max_created: None,
            keys_only: false,
        }
    }

    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Range::new(Span::key(key))
    }

    /// Every key that starts with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Range::new(Span::prefix(prefix))
    }

    /// Continues after `key`.
    #[must_use]
    pub fn with_after_key(mut self, key: impl Into<Bytes>) -> Self {
        self.after_key = Some(key.into());
        self
    }

    /// Reads the state at `revision`.
    #[must_use]
    pub fn with_at(mut self, revision: Revision) -> Self {
        self.at = Some(revision);
        self
    }

    /// Returns at most `limit` entries.
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Sets the order.
    #[must_use]
    pub fn with_order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Only keys created at or before `revision`.
    #[must_use]
    pub fn with_max_created(mut self, revision: Revision) -> Self {
        self.max_created = Some(revision);
        self
    }

    /// Leaves the values out.
    #[must_use]
    pub fn with_keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    /// The smallest key that it may find: that of its span, or the first one after
    /// [`after_key`](Self::after_key).
    pub fn start(&self) -> Bytes {
        let start = self.span.start();
        match &self.after_key {
            Some(after) if after.as_ref() >= start => [after.as_ref(), &[0]].concat().into(),
            _ => Bytes::copy_from_slice(start),
        }
    }

    /// Whether it is about this entry: order, limit, and the revision of the state apart.
    pub fn finds(&self, entry: &Entry) -> bool {
        self.span.contains(&entry.key)
            && self.after_key.as_ref().is_none_or(|after| entry.key > *after)
            && self.max_created.is_none_or(|revision| entry.created <= revision)
    }

    /// The revision of the state that it reads (S2), in a store that has all its states from that
    /// at revision `compacted` to that at `present`.
    ///
    /// # Errors
    ///
    /// `Compacted` where it names a revision whose state is gone, or that is yet to come.
    pub fn revision(&self, present: Revision, compacted: Revision) -> Result<Revision> {
        let at = self.at.unwrap_or(present);
        if at == present || (compacted <= at && at < present) {
            return Ok(at);
        }
        Err(Error::compacted("store.range", Some(compacted)))
    }

    /// How many entries a store has to look for: one more than the limit tells whether there are
    /// more. Without a limit it is as large as a signed number can be.
    pub fn needed(&self) -> usize {
        const ALL: usize = isize::MAX.unsigned_abs();
        self.limit.map_or(ALL, |limit| limit.saturating_add(1).min(ALL))
    }

    /// Checks what every store refuses: a bad span, limit zero, revision zero (which to some stores
    /// means the present), and a continuation in an order other than by key.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`.
    pub fn validate(&self) -> Result<()> {
        self.span.validate("store.range")?;
        if self.limit == Some(0) {
            return Err(Error::invalid_argument("store.range", "a limit of zero entries"));
        }
        if self.at == Some(Revision::ZERO) || self.max_created == Some(Revision::ZERO) {
            return Err(Error::invalid_argument("store.range", "revision zero"));
        }
        if self.after_key.is_some() && self.order != Order::Key {
            return Err(Error::invalid_argument("store.range", "a continuation needs the order by key"));
        }
        Ok(())
    }
}

/// What a range found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeReply {
    /// The revision of the state that was read: [`Range::at`], or the store's present one.
    pub revision: Revision,
    /// The entries, in the order asked for.
    pub entries: Vec<Entry>,
    /// Whether [`Range::limit`] left entries out.
    pub more: bool,
}

impl RangeReply {
    /// What `range` finds in the state at `revision`, where `entries` are those that it is about,
    /// in its order; beyond [`Range::needed`] there need not be any.
    pub fn of(range: &Range, revision: Revision, mut entries: Vec<Entry>) -> Self {
        let limit = range.limit.unwrap_or(usize::MAX);
        let more = entries.len() > limit;
        entries.truncate(limit);
        if range.keys_only {
            entries.iter_mut().for_each(|entry| entry.value = Value::new());
        }
        RangeReply { revision, entries, more }
    }
}

/// A key as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value; empty with [`Range::keys_only`].
    pub value: Value,
    /// The revision that created it, anew after a deletion.
    pub created: Revision,
    /// The revision of its last write.
    pub modified: Revision,
    /// The lease that it hangs on.
    pub lease: Option<LeaseId>,
}

impl Entry {
    /// The bytes of its key and its value.
    pub fn bytes(&self) -> usize {
        self.key.len().saturating_add(self.value.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn what_means_something_else_to_some_store_is_refused() {
        let refused = |range: Range| range.validate().is_err();
        assert!(refused(Range::key("")));
        assert!(refused(Range::new(Span::Interval("b".into(), "a".into()))));
        assert!(refused(Range::new(Span::Interval("a".into(), "a".into()))));
        assert!(refused(Range::key("a").with_at(Revision::ZERO)));
        assert!(refused(Range::key("a").with_max_created(Revision::ZERO)));
    }

    fn entry(key: &'static str, created: u64) -> Entry {
        let created = Revision::new(created);
        Entry { key: key.into(), value: "1".into(), created, modified: created, lease: None }
    }

    #[test]
    fn a_range_begins_after_what_it_continues() {
        let start = |range: Range| range.start();
        assert_eq!(start(Range::prefix("a/")), "a/");
        assert_eq!(start(Range::prefix("a/").with_after_key("a/b")), "a/b\0");
        assert_eq!(start(Range::prefix("a/").with_after_key("a/")), "a/\0");
        assert_eq!(start(Range::prefix("a/").with_after_key("a")), "a/", "it lies before the span");
    }

    #[test]
    fn a_range_finds_what_it_is_about() {
        let range = Range::prefix("a/").with_after_key("a/b").with_max_created(Revision::new(5));
        for (key, created, found) in
            [("a/c", 5, true), ("a/b", 5, false), ("a/b\0", 5, true), ("a/c", 6, false), ("b", 5, false)]
        {
            assert_eq!(range.finds(&entry(key, created)), found, "{key} {created}");
        }
    }

    #[test]
    fn a_range_reads_the_present_or_a_past_that_is_still_there() {
        let read = |range: Range, present, compacted| {
            range.revision(Revision::new(present), Revision::new(compacted)).map(Revision::get)
        };
        let at = |revision| Range::prefix("").with_at(Revision::new(revision));
        assert_eq!(read(Range::prefix(""), 9, 5).unwrap(), 9);
        assert_eq!(read(Range::prefix(""), 9, 9).unwrap(), 9);
        for revision in 5..=9 {
            assert_eq!(read(at(revision), 9, 5).unwrap(), revision);
        }
        for revision in [1, 4, 10] {
            let error = read(at(revision), 9, 5).unwrap_err();
            assert_eq!(
                (error.kind(), error.oldest_revision()),
                (ErrorKind::Compacted, Some(Revision::new(5)))
            );
        }
    }

    #[test]
    fn one_more_than_the_limit_tells_that_there_are_more() {
        let (all, range) = (Range::prefix(""), Range::prefix("").with_limit(2).with_keys_only());
        assert_eq!((range.needed(), all.with_limit(usize::MAX).needed()), (3, isize::MAX as usize));
        let entries = vec![entry("a", 1), entry("b", 1), entry("c", 1)];
        let reply = RangeReply::of(&range, Revision::new(7), entries.clone());
        assert_eq!((reply.revision.get(), reply.entries.len(), reply.more), (7, 2, true));
        assert!(reply.entries.iter().all(|entry| entry.value.is_empty()));
        let reply = RangeReply::of(&range, Revision::new(7), entries[..2].to_vec());
        assert_eq!((reply.entries.len(), reply.more), (2, false));
        let reply = RangeReply::of(&Range::prefix(""), Revision::new(7), entries.clone());
        assert_eq!((reply.entries, reply.more), (entries, false));
    }

    #[test]
    fn an_entry_is_as_large_as_its_key_and_value() {
        let entry = Entry {
            key: "abc".into(),
            value: "de".into(),
            created: Revision::ZERO,
            modified: Revision::ZERO,
            lease: None,
        };
        assert_eq!(entry.bytes(), 5);
    }
}
