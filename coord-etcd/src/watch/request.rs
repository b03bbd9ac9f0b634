//! A watch and its slot on a stream. This is what the side that wants a watch and the side that
//! runs the stream have in common.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use coord_api::store::StoreEvent;
use coord_api::{Result, Revision};
use etcd_client::WatchOptions;
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::queue::Events;
use crate::error::Fault;
use crate::wire::number;

pub(super) const OPERATION: &str = "store.watch";

/// How many watches share one stream at most. A server queues 128 responses for a stream; beyond
/// that it reads history again, which is slow. One revision may change something in every watch's
/// range, so that there must be fewer watches than that.
const SLOTS: usize = 100;

/// What is to be watched.
#[derive(Clone, Debug)]
pub(super) struct WatchTarget {
    pub(super) span: (Bytes, Option<Bytes>),
    pub(super) after: Option<Revision>,
}

impl WatchTarget {
    /// What to ask for: a watch from the present on, or from the past. A watch from the past begins
    /// *at* the last revision that was seen, and what is delivered again is dropped. Asked in this
    /// way, every server reports a compaction of what follows; asked from the next revision on,
    /// some servers leave out a deletion instead.
    fn request(&self, from_past: bool) -> (Bytes, WatchOptions) {
        let mut options = WatchOptions::new().with_fragment().with_progress_notify();
        if let Some(end) = &self.span.1 {
            options = options.with_range(end.clone());
        }
        if let Some(after) = self.after.filter(|_| from_past) {
            options = options.with_start_revision(number(after).max(1));
        }
        (self.span.0.clone(), options)
    }
}

/// Where the one who wants a watch is told that it was made, or why not.
pub(super) type TellOpened = oneshot::Sender<Result<OpenedWatch, Fault>>;

/// A watch that the server is to make.
#[derive(Debug)]
pub(super) struct WatchRequest {
    target: WatchTarget,
    /// Whether changes are known to have come since.
    from_past: bool,
    slot: WatchSlot,
    tell: TellOpened,
}

impl WatchRequest {
    pub(super) fn new(target: WatchTarget, slot: WatchSlot, tell: TellOpened) -> Self {
        WatchRequest { target, from_past: false, slot, tell }
    }

    /// What to send to the server. A watch is asked for from the present on first, and from the
    /// past only if there were changes since: etcd serves watches from the past only every 100 ms.
    pub(super) fn to_send(&self) -> (Bytes, WatchOptions) {
        self.target.request(self.from_past)
    }

    /// The keys that it is about.
    pub(super) fn span(&self) -> &(Bytes, Option<Bytes>) {
        &self.target.span
    }

    /// The revision after which it is wanted; `present` where the present one is meant.
    pub(super) fn after(&self, present: Revision) -> Revision {
        self.target.after.unwrap_or(present)
    }

    /// Whether the server is asked for it from the past on.
    pub(super) fn is_from_past(&self) -> bool {
        self.from_past
    }

    /// The same, from the past on.
    pub(super) fn with_past(self) -> Self {
        WatchRequest { from_past: true, ..self }
    }

    /// The server has made the watch, under this number. Should nobody wait any more, what is
    /// dropped here cancels it.
    pub(super) fn open(mut self, id: i64, armed: Revision, events: Events) {
        self.slot.id = Some(id);
        let _ = self.tell.send(Ok(OpenedWatch { armed, events: WatchEvents { events, _slot: self.slot } }));
    }

    /// Tells who waits that there will be no watch. Who does not wait any more does not care.
    pub(super) fn refuse(self, fault: Fault) {
        let _ = self.tell.send(Err(fault));
    }
}

/// A watch that the server has confirmed.
#[derive(Debug)]
pub(super) struct OpenedWatch {
    /// It delivers everything after this.
    pub(super) armed: Revision,
    pub(super) events: WatchEvents,
}

/// What a watch delivers, and its slot on the stream that brings it.
#[derive(Debug)]
pub(super) struct WatchEvents {
    events: Events,
    _slot: WatchSlot,
}

impl Stream for WatchEvents {
    type Item = Result<StoreEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_next_unpin(cx)
    }
}

/// What a stream is told to do.
#[derive(Debug)]
pub(super) enum Command {
    /// To ask the server for this watch.
    Watch(WatchRequest),
    /// To cancel the watch of this number.
    Cancel(i64),
    /// To ask the server how far it has come.
    Progress,
    /// To end, for no slot is taken any more.
    End,
}

/// The way to a stream, for those who have a slot on it. The stream ends with the last of them.
#[derive(Debug)]
pub(super) struct StreamHandle {
    /// Bounded by the slots, each of which asks for a watch and cancels it, and by a request for
    /// progress a second.
    commands: UnboundedSender<Command>,
    /// Slots that are taken. Once there are none, none is taken again.
    taken: AtomicUsize,
    retired: AtomicBool,
}

impl StreamHandle {
    /// A stream that is to be, with its first slot and what it will be told.
    pub(super) fn new() -> (Arc<Self>, WatchSlot, UnboundedReceiver<Command>) {
        let (commands, receiver) = unbounded_channel();
        let stream =
            Arc::new(StreamHandle { commands, taken: AtomicUsize::new(1), retired: AtomicBool::new(false) });
        let slot = WatchSlot { stream: Arc::clone(&stream), id: None };
        (stream, slot, receiver)
    }

    /// Whether a slot may be free.
    pub(super) fn is_open(&self) -> bool {
        self.taken.load(Ordering::Acquire) > 0
            && !self.retired.load(Ordering::Acquire)
            && !self.commands.is_closed()
    }

    /// From now on, no further watch is to be made on it.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// A slot, where one is free.
    pub(super) fn take_slot(self: &Arc<Self>) -> Option<WatchSlot> {
        let free = |taken: usize| (taken > 0 && taken < SLOTS).then_some(taken + 1);
        let taken = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, free);
        taken.is_ok().then(|| WatchSlot { stream: Arc::clone(self), id: None })
    }

    /// Tells the stream to do something. What a stream is told that has ended comes to nothing; who
    /// waits for it hears that by the drop of the command.
    pub(super) fn send(&self, command: Command) {
        let _ = self.commands.send(command);
    }
}

/// A slot on a stream: first without a watch, then with one, which is canceled when the slot is
/// given up.
#[derive(Debug)]
pub(super) struct WatchSlot {
    stream: Arc<StreamHandle>,
    id: Option<i64>,
}

impl WatchSlot {
    /// Asks for the watch that is to have this slot.
    pub(super) fn fill(self, target: WatchTarget, tell: TellOpened) {
        let stream = Arc::clone(&self.stream);
        stream.send(Command::Watch(WatchRequest::new(target, self, tell)));
    }
}

impl Drop for WatchSlot {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.stream.send(Command::Cancel(id));
        }
        if self.stream.taken.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.stream.send(Command::End);
        }
    }
}
