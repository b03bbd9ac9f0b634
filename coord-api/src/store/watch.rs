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

/// A watch of a store (S4): where it is armed, and its stream. It ends after its first error, and
/// may be asked again after its end. Dropping it ends the watch, on the server too.
pub struct StoreWatch {
    armed: Revision,
    /// `None` once it has ended.
    stream: Option<BoxStream<'static, Result<StoreEvent>>>,
}

impl StoreWatch {
    /// A watch that delivers every change after `armed` through `stream`.
    pub fn new(armed: Revision, stream: impl Stream<Item = Result<StoreEvent>> + Send + 'static) -> Self {
        StoreWatch { armed, stream: Some(Box::pin(stream)) }
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
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for StoreWatch {
    type Item = Result<StoreEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let item = stream.as_mut().poll_next(cx);
        if matches!(item, Poll::Ready(None)) {
            self.stream = None;
        }
        item
    }
}

impl fmt::Debug for StoreWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreWatch").field("armed", &self.armed).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::types::Revision;

    /// A stream that ends at once, and must not be asked again.
    struct Once(bool);

    impl Stream for Once {
        type Item = Result<StoreEvent>;

        fn poll_next(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            assert!(!std::mem::replace(&mut self.0, true), "asked after its end");
            Poll::Ready(None)
        }
    }

    #[test]
    fn a_watch_may_be_asked_after_its_end() {
        let mut watch = StoreWatch::new(Revision::ZERO, Once(false));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(matches!(Pin::new(&mut watch).poll_next(&mut cx), Poll::Ready(None)));
        }
    }

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
