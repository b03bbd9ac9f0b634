//! One watch on the store, read by many: a bounded window of what it delivered, and a cursor for each reader.
//!
//! Readers pull. A reader that does not poll costs its cursor and nothing else; what leaves the window before it was read becomes a resync,
//! which the reader makes for itself (R22).

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use coord_api::store::{Batch, Change, RangeReply, Span};
use coord_api::{Error, Result, Revision, WatchStart, WatchState};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use slab::Slab;
use tokio::try_join;
use tokio_util::task::AbortOnDropHandle;

use super::coalesce::Coalesced;
use super::resume::{Feed, Resuming};
use crate::backoff::Backoff;
use crate::core::{Core, homeless, is_permanent};
use crate::flight::SingleFlight;
use crate::telemetry::{Cause, Counted};

/// Deliveries that the window holds at most.
const WINDOW_ITEMS: usize = 1_024;

/// Bytes of keys and values that the window holds at most; a single delivery may be larger.
const WINDOW_BYTES: usize = 8 << 20;

/// What readers receive.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// The changes of one revision.
    Batch(Arc<Batch>),
    /// The whole span at one revision.
    Resync {
        /// The whole span.
        state: Arc<RangeReply>,
        /// Whether the store was replaced, so that its revisions may have gone back.
        replaced: bool,
    },
}

impl Item {
    fn resync(state: Arc<RangeReply>) -> Self {
        Item::Resync { state, replaced: false }
    }

    fn revision(&self) -> Revision {
        match self {
            Item::Batch(batch) => batch.revision,
            Item::Resync { state, .. } => state.revision,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Item::Batch(batch) => batch
                .changes
                .iter()
                .map(|change| match change {
                    Change::Put(entry) => entry.key.len() + entry.value.len(),
                    Change::Delete { key } => key.len(),
                })
                .sum(),
            Item::Resync { state, .. } => state.entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum(),
        }
    }
}

/// A watch on the store and its readers.
pub(crate) struct Channel {
    span: Span,
    /// The arming of the watch on the store: once, for all who come meanwhile.
    arming: SingleFlight<()>,
    /// Reads the watch on the store; none until it is armed.
    driver: Mutex<Option<AbortOnDropHandle<()>>>,
    window: Mutex<Window>,
    /// Reads of the whole span, for all readers that need one at once.
    snapshots: Arc<Coalesced<Arc<RangeReply>>>,
}

struct Window {
    items: VecDeque<Item>,
    bytes: usize,
    /// The number of the first item in the window.
    first: u64,
    /// The window holds everything after this revision.
    floor: Revision,
    /// Everything up to this revision was delivered into the window.
    seen: Revision,
    live: bool,
    /// What read the watch on the store ended by accident, with the runtime that it ran on, and nobody has gone on yet.
    deserted: bool,
    /// Why there will be no more items.
    end: Option<Error>,
    readers: Slab<Reader>,
    /// The length at which items that every reader has read are dropped.
    trim_at: usize,
}

struct Reader {
    /// The number of the next item to read.
    cursor: u64,
    waker: Option<Waker>,
}

impl Window {
    fn next(&self) -> u64 {
        self.first + self.items.len() as u64
    }

    fn pop(&mut self) {
        if let Some(item) = self.items.pop_front() {
            self.bytes -= item.bytes();
            self.floor = item.revision();
            self.first += 1;
        }
    }

    fn push(&mut self, item: Item) {
        self.bytes += item.bytes();
        self.items.push_back(item);
        if self.items.len() >= self.trim_at {
            let read = self.readers.iter().map(|(_, reader)| reader.cursor).min().unwrap_or(u64::MAX);
            while self.first < read && !self.items.is_empty() {
                self.pop();
            }
            self.trim_at = (self.items.len() * 2).max(16);
        }
        while self.items.len() > WINDOW_ITEMS || (self.bytes > WINDOW_BYTES && self.items.len() > 1) {
            self.pop();
        }
    }

    fn wakers(&mut self) -> Vec<Waker> {
        self.readers.iter_mut().filter_map(|(_, reader)| reader.waker.take()).collect()
    }
}

impl Channel {
    pub(crate) fn new(span: Span) -> Arc<Self> {
        Arc::new(Channel {
            span,
            arming: SingleFlight::default(),
            driver: Mutex::new(None),
            window: Mutex::new(Window {
                items: VecDeque::new(),
                bytes: 0,
                first: 0,
                floor: Revision::ZERO,
                seen: Revision::ZERO,
                live: false,
                deserted: false,
                end: None,
                readers: Slab::new(),
                trim_at: 16,
            }),
            snapshots: Arc::default(),
        })
    }

    /// Whether it will deliver nothing any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.window.lock().end.is_some()
    }

    fn is_armed(&self) -> bool {
        self.driver.lock().is_some()
    }

    /// Whether everything after `revision` can be read from it.
    pub(crate) fn reaches_back_to(&self, revision: Revision) -> bool {
        self.is_armed() && self.window.lock().floor <= revision
    }

    /// Adds a reader, arming the watch on the store if it is the first.
    pub(crate) async fn subscribe(self: &Arc<Self>, core: &Arc<Core>, start: WatchStart) -> Result<Subscription> {
        let armed = async {
            while !self.is_armed() {
                let arm = || {
                    let (channel, core) = (Arc::clone(self), Arc::clone(core));
                    async move { channel.arm(&core, start).await }
                };
                self.arming.run(&core.home, "watch", arm).await?;
            }
            Ok(())
        };
        let now = async {
            match start {
                // What was committed before this call may still come: a store arms a watch at most at the present (S4), and others may read this channel already.
                WatchStart::Now => core.hub.head(core, &self.span).await,
                _ => Ok(Revision::ZERO),
            }
        };
        let (_, now) = try_join!(armed, now)?;
        let mut subscription = self.add_reader(core, start);
        match start {
            WatchStart::Snapshot => subscription.begin(self.snapshot(core).await?),
            WatchStart::Now => subscription.skip_through = now,
            _ => {}
        }
        Ok(subscription)
    }

    /// Arms the watch on the store, and starts what reads it.
    async fn arm(self: &Arc<Self>, core: &Arc<Core>, start: WatchStart) -> Result<()> {
        if self.is_armed() {
            return Ok(());
        }
        let after = match start {
            WatchStart::After(revision) => Some(revision),
            _ => None,
        };
        let feed = Resuming::arm(Arc::clone(core), self.span.clone(), after).await?;
        {
            let mut window = self.window.lock();
            (window.floor, window.seen, window.live) = (feed.seen(), feed.seen(), feed.is_live());
        }
        self.start(core, feed)
    }

    fn start(self: &Arc<Self>, core: &Arc<Core>, feed: Resuming) -> Result<()> {
        // The driver owns no channel: the last reader to go drops the channel, and that ends the driver.
        let guard = WakeWhenEnded(Arc::downgrade(self));
        let task = core.home.spawn(drive(guard, Arc::clone(core), feed)).map_err(|error| homeless("watch", error))?;
        *self.driver.lock() = Some(AbortOnDropHandle::new(task));
        Ok(())
    }

    /// Goes on reading where a driver that ended by accident, with the runtime that it ran on, left off (R20).
    fn restart_driver(self: &Arc<Self>, core: &Arc<Core>) -> Result<()> {
        if core.is_closed() {
            return Err(Error::closed("watch"));
        }
        let seen = {
            let mut window = self.window.lock();
            // Another reader may have been first.
            if !std::mem::take(&mut window.deserted) {
                return Ok(());
            }
            window.seen
        };
        self.start(core, Resuming::broken_after(Arc::clone(core), self.span.clone(), seen))
    }

    /// The whole span.
    async fn snapshot(&self, core: &Arc<Core>) -> Result<Arc<RangeReply>> {
        let read = || {
            let (core, span) = (Arc::clone(core), self.span.clone());
            Box::pin(async move { core.list(span).await.map(Arc::new) }) as BoxFuture<'static, _>
        };
        self.snapshots.read(&core.home, read).await
    }

    fn add_reader(self: &Arc<Self>, core: &Arc<Core>, start: WatchStart) -> Subscription {
        let mut window = self.window.lock();
        let (cursor, skip_through) = match start {
            // What left the window since it was chosen must be resynced: the reader starts before the window.
            WatchStart::After(revision) if window.floor > revision => (window.first.saturating_sub(1), revision),
            WatchStart::After(revision) => (window.first, revision),
            _ => (window.next(), Revision::ZERO),
        };
        let id = window.readers.insert(Reader { cursor, waker: None });
        drop(window);
        Subscription { core: Arc::clone(core), channel: Arc::clone(self), id, skip_through, first: None, resync: None, ended: false }
    }

    fn publish(&self, change: impl FnOnce(&mut Window)) {
        let wakers = {
            let mut window = self.window.lock();
            change(&mut window);
            window.wakers()
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Wakes the readers of a channel when its driver ends, so that none of them waits for one that is gone.
struct WakeWhenEnded(Weak<Channel>);

impl Drop for WakeWhenEnded {
    fn drop(&mut self) {
        if let Some(channel) = self.0.upgrade() {
            channel.publish(|window| {
                window.live = false;
                window.deserted = true;
            });
        }
    }
}

async fn drive(guard: WakeWhenEnded, core: Arc<Core>, mut feed: Resuming) {
    let mut counted = Counted::watch();
    loop {
        counted.is(if feed.is_live() { "live" } else { "suspended" });
        let step = tokio::select! {
            biased;
            () = core.closing.cancelled() => Err(Error::closed("watch")),
            step = feed.step() => step,
        };
        let Some(channel) = guard.0.upgrade() else { return };
        match step {
            Ok(Some(delivery)) => {
                let item = match delivery {
                    Feed::Batch(batch) => Item::Batch(Arc::new(batch)),
                    Feed::Resync { state, replaced } => {
                        core.telemetry.resync(&channel.span, if replaced { Cause::Replaced } else { Cause::Compacted });
                        Item::Resync { state: Arc::new(state), replaced }
                    }
                };
                channel.publish(|window| {
                    window.seen = feed.seen();
                    window.live = feed.is_live();
                    window.push(item);
                });
            }
            Ok(None) => {
                let mut window = channel.window.lock();
                window.seen = feed.seen();
                window.live = feed.is_live();
            }
            Err(error) => {
                core.telemetry.watch_ended(&channel.span, &error);
                channel.publish(|window| {
                    window.live = false;
                    window.end = Some(error);
                });
                return;
            }
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("span", &self.span).finish_non_exhaustive()
    }
}

/// A reader of a [`Channel`]. Its stream ends after an error, which is permanent (R20).
pub(crate) struct Subscription {
    core: Arc<Core>,
    channel: Arc<Channel>,
    /// Its number among the readers.
    id: usize,
    /// What this reader knows already: everything up to this revision.
    skip_through: Revision,
    /// The state that it starts with.
    first: Option<Arc<RangeReply>>,
    /// A resync under way, because this reader was too slow for the window.
    resync: Option<BoxFuture<'static, Result<Arc<RangeReply>>>>,
    ended: bool,
}

impl Subscription {
    fn begin(&mut self, state: Arc<RangeReply>) {
        self.skip_through = state.revision;
        self.first = Some(state);
    }

    /// How the watch on the store is doing.
    pub(crate) fn state(&self) -> WatchState {
        let window = self.channel.window.lock();
        match (self.ended || window.end.is_some(), window.live) {
            (true, _) => WatchState::Ended,
            (false, true) => WatchState::Live,
            (false, false) => WatchState::Suspended,
        }
    }

    /// The next item, in the manner of a stream.
    pub(crate) fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Item>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(state) = self.first.take() {
            return Poll::Ready(Some(Ok(Item::resync(state))));
        }
        loop {
            if let Some(resync) = &mut self.resync {
                let state = match resync.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(state)) => state,
                    Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(self.end(error)))),
                };
                self.resync = None;
                // The window moved on while the state was read; everything after it must still be there.
                let mut window = self.channel.window.lock();
                if window.floor <= state.revision {
                    let first = window.first;
                    if let Some(reader) = window.readers.get_mut(self.id) {
                        reader.cursor = first;
                    }
                    self.skip_through = state.revision;
                    return Poll::Ready(Some(Ok(Item::resync(state))));
                }
                drop(window);
                self.resync = Some(self.start_resync());
                continue;
            }
            match self.poll_window(cx) {
                Next::Item(item) => return Poll::Ready(Some(Ok(item))),
                Next::Lagged => {
                    self.core.telemetry.resync(&self.channel.span, Cause::Lagged);
                    self.resync = Some(self.start_resync());
                }
                Next::Deserted => {
                    if let Err(error) = self.channel.restart_driver(&self.core) {
                        return Poll::Ready(Some(Err(self.end(error))));
                    }
                }
                Next::End(error) => return Poll::Ready(Some(Err(self.end(error)))),
                Next::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_window(&mut self, cx: &mut Context<'_>) -> Next {
        let mut guard = self.channel.window.lock();
        let window = &mut *guard;
        let Some(reader) = window.readers.get_mut(self.id) else { return Next::End(Error::closed("watch")) };
        while let Some(index) = reader.cursor.checked_sub(window.first) {
            let Some(item) = usize::try_from(index).ok().and_then(|index| window.items.get(index)) else {
                return match &window.end {
                    Some(error) => Next::End(error.clone()),
                    None if window.deserted => Next::Deserted,
                    None => {
                        reader.waker = Some(cx.waker().clone());
                        Next::Pending
                    }
                };
            };
            reader.cursor += 1;
            match item {
                Item::Batch(batch) if batch.revision <= self.skip_through => {}
                Item::Resync { state, replaced: false } if state.revision <= self.skip_through => {}
                item => {
                    self.skip_through = item.revision();
                    return Next::Item(item.clone());
                }
            }
        }
        Next::Lagged
    }

    fn start_resync(&self) -> BoxFuture<'static, Result<Arc<RangeReply>>> {
        let (core, channel) = (Arc::clone(&self.core), Arc::clone(&self.channel));
        Box::pin(async move {
            let mut backoff = Backoff::new();
            loop {
                match core.run("watch", coord_api::Outcome::NotApplied, channel.snapshot(&core)).await {
                    Err(error) if !is_permanent(&error) && core.ready("watch").is_ok() => core.home.sleep(backoff.pause()).await,
                    answer => return answer,
                }
            }
        })
    }

    fn end(&mut self, error: Error) -> Error {
        self.ended = true;
        error
    }
}

enum Next {
    Item(Item),
    Lagged,
    /// Nobody reads the watch on the store any more.
    Deserted,
    End(Error),
    Pending,
}

impl futures_util::Stream for Subscription {
    type Item = Result<Item>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_item(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.channel.window.lock().readers.try_remove(self.id);
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("span", &self.channel.span).field("state", &self.state()).finish_non_exhaustive()
    }
}
