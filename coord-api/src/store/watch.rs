//! What a store's watch delivers.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use futures_core::stream::BoxStream;

use super::range::Entry;
use crate::error::Result;
use crate::types::Revision;

/// An item of a store's watch (S4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// All changes of one revision inside the span.
    Batch(Batch),
    /// Everything up to this revision was delivered. It may be rare, and nothing waits for it.
    Progress(Revision),
}

/// The changes of one revision, in the order in which the transaction made them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The revision.
    pub revision: Revision,
    /// The changes, at least one.
    pub changes: Vec<Change>,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Written. It was created when `created` equals `modified`.
    Put(Entry),
    /// Deleted, by a client or by the end of its lease.
    Delete {
        /// The key.
        key: Bytes,
    },
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &Bytes {
        match self {
            Change::Put(entry) => &entry.key,
            Change::Delete { key } => key,
        }
    }

    /// The bytes of its key and its value.
    pub fn bytes(&self) -> usize {
        match self {
            Change::Put(entry) => entry.bytes(),
            Change::Delete { key } => key.len(),
        }
    }
}

impl Batch {
    /// The bytes of the keys and values of its changes.
    pub fn bytes(&self) -> usize {
        self.changes.iter().map(Change::bytes).fold(0, usize::saturating_add)
    }
}

/// A watch of a store (S4): where it is armed, and its stream. It ends after its first error.
/// Dropping it ends the watch, on the server too.
pub struct StoreWatch {
    armed: Revision,
    stream: BoxStream<'static, Result<StoreEvent>>,
}

impl StoreWatch {
    /// A watch that delivers every change after `armed` through `stream`.
    pub fn new(armed: Revision, stream: impl Stream<Item = Result<StoreEvent>> + Send + 'static) -> Self {
        StoreWatch { armed, stream: Box::pin(stream) }
    }

    /// The revision at which it is armed: every later change is delivered. With `after` given, that
    /// revision; else one that is at most the store's present one, so that a replica which lags may
    /// deliver once more what its caller knows already.
    ///
    /// A store that is behind a given `after` (it was restored from a backup, or a replica lags)
    /// reports its own, smaller one.
    pub fn armed(&self) -> Revision {
        self.armed
    }

    /// The next item, `None` after the end.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: an item that is not returned stays in the stream.
    pub async fn next(&mut self) -> Option<Result<StoreEvent>> {
        poll_fn(|cx| self.stream.as_mut().poll_next(cx)).await
    }
}

impl Stream for StoreWatch {
    type Item = Result<StoreEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for StoreWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreWatch").field("armed", &self.armed).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Revision;

    #[test]
    fn a_batch_is_as_large_as_its_changes() {
        let put = Entry {
            key: "abc".into(),
            value: "de".into(),
            created: Revision::ZERO,
            modified: Revision::ZERO,
            lease: None,
        };
        let changes = vec![Change::Put(put), Change::Delete { key: "f".into() }];
        assert_eq!(changes.iter().map(Change::bytes).collect::<Vec<_>>(), [5, 1]);
        assert_eq!(Batch { revision: Revision::new(1), changes }.bytes(), 6);
    }
}
