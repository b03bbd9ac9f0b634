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

    #[test]
    fn what_means_something_else_to_some_store_is_refused() {
        let refused = |range: Range| range.validate().is_err();
        assert!(refused(Range::key("")));
        assert!(refused(Range::new(Span::Interval("b".into(), "a".into()))));
        assert!(refused(Range::new(Span::Interval("a".into(), "a".into()))));
        assert!(refused(Range::key("a").with_at(Revision::ZERO)));
        assert!(refused(Range::key("a").with_max_created(Revision::ZERO)));
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
