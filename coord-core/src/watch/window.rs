//! What a shared watch has delivered, and how far each of its readers has come. Pure: nothing is
//! read from a store or awaited here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use coord_api::store::{Batch, Entry, RangeReply};
use coord_api::watch::WatchStatusSender;
use coord_api::{Error, Revision, WatchState, WatchStatus};
use slab::Slab;

/// Deliveries that the window holds at most.
const ITEMS: usize = 1_024;

/// Bytes of keys and values that the window holds at most; a single delivery may be larger.
const BYTES: usize = 8 << 20;

/// What the readers of a shared watch receive.
#[derive(Clone, Debug)]
pub enum SharedDelivery {
    /// The changes of one revision.
    Batch(Arc<Batch>),
    /// The whole span at one revision (R19).
    Resync {
        /// The whole span.
        state: Arc<RangeReply>,
        /// Whether the store was replaced, so that its revisions may have gone back (S1).
        replaced: bool,
    },
}

impl SharedDelivery {
    /// The state of the same store.
    pub(super) fn resync(state: Arc<RangeReply>) -> Self {
        SharedDelivery::Resync { state, replaced: false }
    }

    pub(super) fn revision(&self) -> Revision {
        match self {
            SharedDelivery::Batch(batch) => batch.revision,
            SharedDelivery::Resync { state, .. } => state.revision,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            SharedDelivery::Batch(batch) => batch.bytes(),
            SharedDelivery::Resync { state, .. } => state.entries.iter().map(Entry::bytes).sum(),
        }
    }
}

/// What comes next for a reader.
#[derive(Debug)]
pub(super) enum ReaderNext {
    Delivery(SharedDelivery),
    /// Something left the window before this reader had read it: it must read the state anew.
    Lagged,
    /// Nobody reads the watch on the store any more.
    Deserted,
    End(Error),
    /// Nothing yet; the waker is kept.
    Pending,
}

/// A bounded window of deliveries, and a cursor for each reader.
#[derive(Debug)]
pub(super) struct Window {
    items: VecDeque<SharedDelivery>,
    bytes: usize,
    /// The number of the first item in the window.
    first: u64,
    /// The window holds everything after this revision.
    floor: Revision,
    /// Everything up to this revision was delivered into the window.
    seen: Revision,
    live: bool,
    /// What read the watch on the store ended by accident, and nobody has gone on yet.
    deserted: bool,
    /// Why there will be no more items.
    end: Option<Error>,
    readers: Slab<Reader>,
    /// The length at which items that every reader has read are dropped.
    trim_at: usize,
    /// Those who waited for a change of the state, and are to be woken once the window is free.
    state_wakers: Vec<Waker>,
}

#[derive(Debug)]
pub(super) struct Reader {
    /// The number of the next item to read.
    cursor: u64,
    /// What this reader knows already: everything up to this revision.
    known: Revision,
    waker: Option<Waker>,
    /// Says how the watch on the store is doing, to whoever holds the reader's status.
    status: WatchStatusSender,
}

impl Default for Window {
    fn default() -> Self {
        Window {
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
            state_wakers: Vec::new(),
        }
    }
}

impl Window {
    /// The watch on the store was armed: it delivers what comes after `seen`.
    pub(super) fn armed(&mut self, seen: Revision, live: bool) {
        (self.floor, self.seen) = (seen, seen);
        self.set_live(live);
    }

    /// The watch on the store has come up to `seen`.
    pub(super) fn reached(&mut self, seen: Revision, live: bool) {
        self.seen = seen;
        self.set_live(live);
    }

    fn set_live(&mut self, live: bool) {
        if self.live != live {
            self.live = live;
            self.tell_state();
        }
    }

    fn tell_state(&mut self) {
        let state = self.state();
        let wakers = self.readers.iter().flat_map(|(_, reader)| reader.status.replace(state));
        self.state_wakers.extend(wakers);
    }

    /// Takes in a delivery, and drops the oldest ones where there are too many.
    pub(super) fn push(&mut self, item: SharedDelivery) {
        self.bytes += item.bytes();
        self.items.push_back(item);
        if self.items.len() >= self.trim_at {
            let read = self.readers.iter().map(|(_, reader)| reader.cursor).min().unwrap_or(u64::MAX);
            while self.first < read && !self.items.is_empty() {
                self.pop();
            }
            self.trim_at = (self.items.len() * 2).max(16);
        }
        while self.items.len() > ITEMS || (self.bytes > BYTES && self.items.len() > 1) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(item) = self.items.pop_front() {
            self.bytes -= item.bytes();
            self.floor = item.revision();
            self.first += 1;
        }
    }

    /// There will be no more deliveries.
    pub(super) fn end(&mut self, why: Error) {
        self.live = false;
        self.end = Some(why);
        self.tell_state();
    }

    /// What read the watch on the store has ended by accident.
    pub(super) fn desert(&mut self) {
        self.set_live(false);
        self.deserted = true;
    }

    /// Whoever asks first is to go on reading, after this revision.
    pub(super) fn take_over(&mut self) -> Option<Revision> {
        std::mem::take(&mut self.deserted).then_some(self.seen)
    }

    /// Whether there will be no more deliveries.
    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// How the watch is doing.
    pub(super) fn state(&self) -> WatchState {
        match (self.has_ended(), self.live) {
            (true, _) => WatchState::Ended,
            (false, true) => WatchState::Live,
            (false, false) => WatchState::Suspended,
        }
    }

    /// Whether everything after `revision` can be read from it.
    pub(super) fn reaches_back_to(&self, revision: Revision) -> bool {
        self.floor <= revision
    }

    /// Adds a reader of what comes from now on and is newer than `known`.
    pub(super) fn add_reader(&mut self, known: Revision) -> (usize, WatchStatus) {
        let cursor = self.first + self.items.len() as u64;
        self.insert(cursor, known)
    }

    /// Adds a reader of everything after `known`. What left the window since makes it lag at once.
    pub(super) fn add_reader_after(&mut self, known: Revision) -> (usize, WatchStatus) {
        let cursor = if self.reaches_back_to(known) { self.first } else { self.first.saturating_sub(1) };
        self.insert(cursor, known)
    }

    fn insert(&mut self, cursor: u64, known: Revision) -> (usize, WatchStatus) {
        let sender = WatchStatusSender::new(self.state());
        let status = sender.status();
        (self.readers.insert(Reader { cursor, known, waker: None, status: sender }), status)
    }

    /// The reader knows everything up to `revision`.
    pub(super) fn know(&mut self, id: usize, revision: Revision) {
        if let Some(reader) = self.readers.get_mut(id) {
            reader.known = revision;
        }
    }

    /// Removes a reader. Its status ends when what this returns is dropped, which wakes those who
    /// wait for that: it is done once the window is free.
    #[must_use = "dropping it under the lock of the window would wake others there"]
    pub(super) fn remove_reader(&mut self, id: usize) -> Option<Reader> {
        self.readers.try_remove(id)
    }

    /// The reader was given the state at `revision`, and goes on from there. Says whether it can:
    /// the window may have moved on while the state was read.
    pub(super) fn go_on_from(&mut self, id: usize, revision: Revision) -> bool {
        let (reaches, first) = (self.reaches_back_to(revision), self.first);
        if let Some(reader) = self.readers.get_mut(id).filter(|_| reaches) {
            (reader.cursor, reader.known) = (first, revision);
        }
        reaches
    }

    /// What comes next for a reader.
    pub(super) fn next(&mut self, id: usize, waker: &Waker) -> ReaderNext {
        let Some(reader) = self.readers.get_mut(id) else { return ReaderNext::End(Error::closed("watch")) };
        while let Some(index) = reader.cursor.checked_sub(self.first) {
            let Some(item) = usize::try_from(index).ok().and_then(|index| self.items.get(index)) else {
                return match &self.end {
                    Some(error) => ReaderNext::End(error.clone()),
                    None if self.deserted => ReaderNext::Deserted,
                    None => {
                        reader.waker = Some(waker.clone());
                        ReaderNext::Pending
                    }
                };
            };
            reader.cursor += 1;
            match item {
                SharedDelivery::Batch(batch) if batch.revision <= reader.known => {}
                SharedDelivery::Resync { state, replaced: false } if state.revision <= reader.known => {}
                item => {
                    reader.known = item.revision();
                    return ReaderNext::Delivery(item.clone());
                }
            }
        }
        ReaderNext::Lagged
    }

    /// Those who wait for something to come, or for a change of the state.
    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        let mut wakers = self.take_state_wakers();
        wakers.extend(self.readers.iter_mut().filter_map(|(_, reader)| reader.waker.take()));
        wakers
    }

    /// Those who wait for a change of the state.
    pub(super) fn take_state_wakers(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.state_wakers)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::Context;

    use coord_api::ErrorKind;
    use coord_api::store::Change;

    use super::*;

    fn rev(number: u64) -> Revision {
        Revision::new(number)
    }

    fn batch(revision: u64) -> SharedDelivery {
        batch_of(revision, 1)
    }

    fn batch_of(revision: u64, bytes: usize) -> SharedDelivery {
        let key = vec![b'k'; bytes].into();
        SharedDelivery::Batch(Arc::new(Batch {
            revision: rev(revision),
            changes: vec![Change::Delete { key }],
        }))
    }

    fn state(revision: u64, replaced: bool) -> SharedDelivery {
        let state = RangeReply { revision: rev(revision), ..RangeReply::default() };
        SharedDelivery::Resync { state: Arc::new(state), replaced }
    }

    fn window(seen: u64) -> Window {
        let mut window = Window::default();
        window.armed(rev(seen), true);
        window
    }

    fn add(window: &mut Window, known: Revision) -> usize {
        window.add_reader(known).0
    }

    fn add_after(window: &mut Window, known: Revision) -> usize {
        window.add_reader_after(known).0
    }

    /// What a reader reads until it would wait.
    fn read(window: &mut Window, id: usize) -> Vec<u64> {
        let mut read = Vec::new();
        while let ReaderNext::Delivery(item) = window.next(id, Waker::noop()) {
            read.push(item.revision().get());
        }
        read
    }

    #[test]
    fn each_reader_reads_what_it_does_not_know_once_and_in_order() {
        let mut window = window(4);
        let early = add(&mut window, rev(0));
        window.push(batch(5));
        window.push(batch(6));
        let (late, past) = (add(&mut window, rev(7)), add_after(&mut window, rev(5)));
        window.push(batch(7));
        window.push(batch(8));
        assert_eq!(read(&mut window, early), [5, 6, 7, 8]);
        assert_eq!(read(&mut window, late), [8]);
        assert_eq!(read(&mut window, past), [6, 7, 8]);
        assert_eq!(read(&mut window, early), [0; 0]);
    }

    #[test]
    fn who_reads_too_slowly_lags_and_goes_on_from_the_state() {
        let mut window = window(0);
        let (slow, quick) = (add(&mut window, rev(0)), add(&mut window, rev(0)));
        for revision in 1..=ITEMS as u64 + 5 {
            window.push(batch(revision));
            assert_eq!(read(&mut window, quick), [revision]);
        }
        assert!(matches!(window.next(slow, Waker::noop()), ReaderNext::Lagged));
        assert!(!window.go_on_from(slow, rev(4)), "the window has moved on since");
        assert!(window.go_on_from(slow, rev(1_020)));
        assert_eq!(read(&mut window, slow), (1_021..=1_029).collect::<Vec<_>>());
    }

    #[test]
    fn it_is_bounded_in_bytes_but_holds_at_least_one_delivery() {
        let mut window = window(0);
        let reader = add(&mut window, rev(0));
        window.push(batch_of(1, BYTES));
        window.push(batch_of(2, BYTES));
        assert_eq!((window.items.len(), window.bytes), (1, BYTES));
        assert!(matches!(window.next(reader, Waker::noop()), ReaderNext::Lagged));
        let late = add_after(&mut window, rev(0));
        assert!(
            matches!(window.next(late, Waker::noop()), ReaderNext::Lagged),
            "it asked for more than there is"
        );
    }

    #[test]
    fn what_every_reader_has_read_is_dropped() {
        let mut window = window(0);
        let reader = add(&mut window, rev(0));
        for revision in 1..=1_000 {
            window.push(batch(revision));
            assert_eq!(read(&mut window, reader), [revision]);
        }
        assert!(window.items.len() <= 16);
    }

    #[test]
    fn the_state_of_another_store_is_read_even_where_its_revision_is_lower() {
        let mut window = window(9);
        let reader = add(&mut window, rev(9));
        window.push(state(3, false));
        window.push(state(3, true));
        window.push(batch(4));
        assert_eq!(read(&mut window, reader), [3, 4]);
    }

    #[test]
    fn what_came_is_read_before_the_end() {
        let mut window = window(0);
        let reader = add(&mut window, rev(0));
        window.push(batch(1));
        window.end(Error::new(ErrorKind::PermissionDenied, "watch", "no"));
        assert_eq!(read(&mut window, reader), [1]);
        assert!(
            matches!(window.next(reader, Waker::noop()), ReaderNext::End(error) if error.kind() == ErrorKind::PermissionDenied)
        );
        assert_eq!(window.state(), WatchState::Ended);
    }

    #[test]
    fn one_reader_takes_over_what_was_deserted() {
        let mut window = window(0);
        let reader = add(&mut window, rev(0));
        window.reached(rev(7), true);
        window.desert();
        assert_eq!(window.state(), WatchState::Suspended);
        assert!(matches!(window.next(reader, Waker::noop()), ReaderNext::Deserted));
        assert_eq!(window.take_over(), Some(rev(7)));
        assert_eq!(window.take_over(), None);
        assert!(matches!(window.next(reader, Waker::noop()), ReaderNext::Pending));
        assert_eq!(window.take_wakers().len(), 1);
    }

    #[test]
    fn each_reader_is_told_of_the_state_until_it_goes() {
        let mut window = Window::default();
        let (first, status) = window.add_reader(rev(0));
        assert_eq!(status.state(), WatchState::Suspended);
        window.armed(rev(1), true);
        let (_, late) = window.add_reader(rev(0));
        assert_eq!((status.state(), late.state()), (WatchState::Live, WatchState::Live));
        let mut changed = Box::pin(status.changed_from(WatchState::Live));
        assert!(changed.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        window.reached(rev(2), true);
        assert!(window.take_state_wakers().is_empty(), "nothing has changed");
        window.reached(rev(2), false);
        assert_eq!((status.state(), late.state()), (WatchState::Suspended, WatchState::Suspended));
        assert_eq!(window.take_state_wakers().len(), 1);
        drop(window.remove_reader(first));
        window.reached(rev(3), true);
        assert_eq!((status.state(), late.state()), (WatchState::Ended, WatchState::Live));
        window.end(Error::closed("watch"));
        assert_eq!(late.state(), WatchState::Ended);
    }
}
