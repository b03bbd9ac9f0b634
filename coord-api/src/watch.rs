//! Watches as users see them: a stream that ends only for good, and knows how it is doing (R16 to
//! R22).

mod status;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;

use crate::error::{Error, Result};
use crate::types::{Revision, Value};

pub use status::{WatchStatus, WatchStatusSender};

/// Where a watch begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WatchStart {
    /// Every change committed after `watch` returned, and none committed before it was called
    /// (R16).
    #[default]
    Now,
    /// First the state at some revision, as a `Resync`, then exactly the changes after it (R17).
    Snapshot,
    /// Exactly the changes after this revision; a `Resync` first when that history is gone (R18,
    /// R19).
    After(Revision),
}

/// The state of a span at one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot<T> {
    /// The revision of the state.
    pub revision: Revision,
    /// What is there, sorted by key (or id).
    pub items: Vec<T>,
    /// What is there and does not decode: kept apart, so that one bad record harms no other (R21,
    /// R35).
    pub invalid: Vec<Invalid>,
}

impl<T> Snapshot<T> {
    /// A state without invalid records.
    pub fn new(revision: Revision, items: Vec<T>) -> Self {
        Snapshot { revision, items, invalid: Vec::new() }
    }
}

impl<T> IntoIterator for Snapshot<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    /// Iterates over the good items alone.
    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

/// A record that someone left and that does not decode, or whose key no call takes, with its bytes
/// (R21).
#[derive(Clone, Debug)]
pub struct Invalid {
    /// The key, relative to what was watched or listed from; not always UTF-8.
    pub key: Bytes,
    /// The bytes.
    pub value: Value,
    /// The revision of the key's last write.
    pub version: Revision,
    /// Why it is of no use: kind [`Codec`](crate::ErrorKind::Codec) where it does not decode,
    /// `InvalidArgument` where it is an instance at an address under which nobody can be reached
    /// (R34).
    pub error: Error,
}

impl PartialEq for Invalid {
    /// Equal keys, bytes and versions; errors are for people.
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.value == other.value && self.version == other.version
    }
}

/// How a watch is doing (R20).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WatchState {
    /// Attached to the store.
    Live,
    /// Cut off: the store is being tried again, with back-off, for as long as it takes. Nothing is
    /// lost: what happened meanwhile comes as changes or as a `Resync`.
    Suspended,
    /// Over: the provider was closed, a permanent error was delivered, or the watch was dropped.
    Ended,
}

/// A stream of events (R16 to R22).
///
/// - **R20** An `Err` is always the last item: the provider was closed (`Closed`), or the fault is
///   permanent. Transient faults are retried inside.
/// - **R22** Nothing is held for a watch that is not polled beyond a bounded window; what it then
///   cannot deliver becomes a `Resync`.
///
/// Dropping it ends the watch.
pub struct Watch<E> {
    status: WatchStatus,
    stream: Pin<Box<dyn Stream<Item = Result<E>> + Send>>,
}

impl<E> Watch<E> {
    /// Wraps a backend's stream, whose status the backend tells by a [`WatchStatusSender`]. What
    /// changes the events of another watch hands on that one's [`status`](Self::status).
    pub fn new(status: WatchStatus, stream: impl Stream<Item = Result<E>> + Send + 'static) -> Self {
        Watch { status, stream: Box::pin(stream) }
    }

    /// How the watch is doing now.
    pub fn state(&self) -> WatchState {
        self.status.state()
    }

    /// What says how the watch is doing, also while others read it; cheap to clone.
    pub fn status(&self) -> WatchStatus {
        self.status.clone()
    }

    /// The next event; `None` after the end.
    ///
    /// # Errors
    ///
    /// `Closed` when the provider was closed, or the permanent error that ended the watch. It is
    /// the last item.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: an event that is not returned stays in the stream.
    pub async fn next(&mut self) -> Option<Result<E>> {
        poll_fn(|cx| self.stream.as_mut().poll_next(cx)).await
    }
}

impl<E> Stream for Watch<E> {
    type Item = Result<E>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

impl<E> fmt::Debug for Watch<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("state", &self.state()).finish_non_exhaustive()
    }
}
