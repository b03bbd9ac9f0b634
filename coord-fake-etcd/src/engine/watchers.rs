//! The watches of one stream: where each of them is in history, and what it is told next.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use prost::Message;

use super::keys::Change;
use super::log::Portion;
use super::span::Span;
use super::{Engine, header};
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use crate::proto::mvccpb::Event;
use crate::proto::mvccpb::event::EventType;
use crate::refusal::Refusal;

/// Where a response is of no watch, or of all.
const NO_WATCH: i64 = -1;

/// What a watch is told at a time: as many revisions as etcd tells, while they are not large.
const PORTION: Portion = Portion { revisions: 1_000, bytes: 1 << 20, changes: 20_000 };

/// What is to be done next for a stream.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// Send these.
    Respond(Vec<WatchResponse>),
    /// Nothing, but there may be more.
    Again,
    /// Nothing until something happens.
    Idle,
}

/// One watch.
#[derive(Debug)]
struct Watcher {
    span: Span,
    /// Whence it was asked for; 0 for what is to come.
    start: i64,
    /// The first revision that it was not told of.
    next: i64,
    without_puts: bool,
    without_deletes: bool,
    with_previous: bool,
    in_fragments: bool,
    /// Whether it was told of everything once, so that a compaction alone does not end it.
    live: bool,
    /// Whether it ended because history was compacted. It keeps its id until it is cancelled.
    compacted: bool,
    /// Whether it is to hear from time to time that nothing happened.
    progress_notify: bool,
    /// Whether nothing happened since the last time that was looked at.
    quiet: bool,
    progress_due: bool,
}

impl Watcher {
    fn wants(&self, change: &Change) -> bool {
        if change.deleted { !self.without_deletes } else { !self.without_puts }
    }

    /// Whether it was told of everything, and is not waiting for a revision that is yet to come.
    fn is_synced(&self, head: i64) -> bool {
        !self.compacted && self.next > head && self.start <= head
    }

    /// Whether what it is to be told next can no longer be told.
    fn is_overtaken(&self, engine: &Engine) -> bool {
        if self.live { self.next < engine.log.oldest() } else { self.next < engine.compacted }
    }

    fn event(&self, engine: &Engine, change: &Change) -> Event {
        let kv = &change.kv;
        let before = kv.mod_revision - 1;
        let is_creation = !change.deleted && kv.create_revision == kv.mod_revision;
        let known = self.with_previous && !is_creation && before > 0 && before >= engine.compacted;
        Event {
            r#type: if change.deleted { EventType::Delete.into() } else { EventType::Put.into() },
            kv: Some(kv.clone()),
            prev_kv: if known { engine.keys.at(&kv.key, before).cloned() } else { None },
        }
    }
}

/// The watches of one stream.
#[derive(Debug)]
pub(crate) struct Watchers {
    watchers: BTreeMap<i64, Watcher>,
    next_id: i64,
    /// Whose turn was last.
    turn: i64,
    progress_requested: bool,
    /// The size from which on a response is split for those who can put it together again.
    fragment_bytes: usize,
}

impl Watchers {
    pub(crate) fn new(fragment_bytes: usize) -> Self {
        Watchers {
            watchers: BTreeMap::new(),
            next_id: 0,
            turn: i64::MIN,
            progress_requested: false,
            fragment_bytes,
        }
    }

    /// Begins a watch, or says why not.
    pub(crate) fn create(&mut self, engine: &Engine, request: WatchCreateRequest) -> WatchResponse {
        let created = WatchResponse { header: header(engine.revision), created: true, ..Default::default() };
        match self.begin(engine, request) {
            Ok(watch_id) => WatchResponse { watch_id, ..created },
            Err(reason) => WatchResponse {
                watch_id: NO_WATCH,
                canceled: true,
                cancel_reason: reason.to_owned(),
                ..created
            },
        }
    }

    fn begin(&mut self, engine: &Engine, request: WatchCreateRequest) -> Result<i64, &'static str> {
        if request.start_revision < 0 {
            return Err(Refusal::Compacted.text());
        }
        // The smallest key there is.
        let key = if request.key.is_empty() { Bytes::from_static(b"\0") } else { request.key.clone() };
        let span = Span::new(&key, &request.range_end);
        if matches!(&span, Span::Range(start, end) if start >= end) {
            return Err("mvcc: watcher range is empty");
        }
        let id = match request.watch_id {
            0 => {
                while self.watchers.contains_key(&self.next_id) {
                    self.next_id += 1;
                }
                self.next_id += 1;
                self.next_id - 1
            }
            id if self.watchers.contains_key(&id) => {
                return Err("mvcc: duplicate watch ID provided on the WatchStream");
            }
            id => id,
        };
        let (start, head) = (request.start_revision, engine.revision);
        let filtered = |filter| request.filters().any(|asked| asked == filter);
        let watcher = Watcher {
            span,
            start,
            next: if start == 0 { head + 1 } else { start },
            without_puts: filtered(FilterType::Noput),
            without_deletes: filtered(FilterType::Nodelete),
            with_previous: request.prev_kv,
            in_fragments: request.fragment,
            live: start == 0 || start > head,
            compacted: false,
            progress_notify: request.progress_notify,
            quiet: true,
            progress_due: false,
        };
        self.watchers.insert(id, watcher);
        Ok(id)
    }

    /// Ends a watch. One that there is not is not answered for.
    pub(crate) fn cancel(&mut self, engine: &Engine, watch_id: i64) -> Option<WatchResponse> {
        self.watchers.remove(&watch_id)?;
        let header = header(engine.revision);
        Some(WatchResponse { header, watch_id, canceled: true, ..Default::default() })
    }

    /// Has the stream told how far it is, as soon as all of its watches are there.
    pub(crate) fn request_progress(&mut self) {
        self.progress_requested = true;
    }

    /// Has those watches told how far they are that want to hear of it and heard nothing since the
    /// last call.
    pub(crate) fn notify_progress(&mut self) {
        for watcher in self.watchers.values_mut().filter(|watcher| watcher.progress_notify) {
            watcher.progress_due = watcher.quiet;
            watcher.quiet = true;
        }
    }

    /// What there is to be told. Each watch has its turn.
    pub(crate) fn next(&mut self, engine: &Engine) -> Next {
        let later = (Bound::Excluded(self.turn), Bound::Unbounded);
        let turns: Vec<i64> =
            self.watchers.range(later).chain(self.watchers.range(..=self.turn)).map(|(id, _)| *id).collect();
        for id in turns {
            let Some(watcher) = self.watchers.get_mut(&id) else { continue };
            let told = tell(engine, id, watcher, self.fragment_bytes);
            if told != Next::Idle {
                self.turn = id;
                return told;
            }
        }
        if !std::mem::take(&mut self.progress_requested) || self.watchers.is_empty() {
            return Next::Idle;
        }
        let head = engine.revision;
        if !self.watchers.values().all(|watcher| watcher.is_synced(head)) {
            // etcd does not answer either.
            return Next::Idle;
        }
        Next::Respond(vec![progress(head, NO_WATCH)])
    }
}

fn progress(head: i64, watch_id: i64) -> WatchResponse {
    WatchResponse { header: header(head), watch_id, ..Default::default() }
}

fn tell(engine: &Engine, id: i64, watcher: &mut Watcher, fragment_bytes: usize) -> Next {
    let head = engine.revision;
    if watcher.compacted {
        return Next::Idle;
    }
    if watcher.next > head {
        if std::mem::take(&mut watcher.progress_due) && watcher.is_synced(head) {
            return Next::Respond(vec![progress(head, id)]);
        }
        return Next::Idle;
    }
    if watcher.is_overtaken(engine) {
        watcher.compacted = true;
        return Next::Respond(vec![WatchResponse {
            // etcd says no revision here.
            header: header(0),
            watch_id: id,
            canceled: true,
            compact_revision: engine.compacted,
            ..Default::default()
        }]);
    }
    let found = engine.log.find(&watcher.span, |change| watcher.wants(change), watcher.next, head, PORTION);
    watcher.next = found.through + 1;
    watcher.live |= watcher.next > head;
    if found.changes.is_empty() {
        return if watcher.next > head { Next::Idle } else { Next::Again };
    }
    watcher.quiet = false;
    let events = found.changes.iter().map(|change| watcher.event(engine, change)).collect();
    let response =
        WatchResponse { header: header(found.through), watch_id: id, events, ..Default::default() };
    Next::Respond(if watcher.in_fragments { fragments(response, fragment_bytes) } else { vec![response] })
}

/// Splits a response between its events, where it is not smaller than `limit`. All but the last
/// part say that there is more.
fn fragments(response: WatchResponse, limit: usize) -> Vec<WatchResponse> {
    if response.encoded_len() < limit {
        return vec![response];
    }
    let WatchResponse { events, .. } = response;
    let part = WatchResponse { events: Vec::new(), fragment: true, ..response };
    let empty = part.encoded_len();
    let mut parts = Vec::new();
    let (mut current, mut size) = (part.clone(), empty);
    for event in events {
        let length = event.encoded_len();
        // A byte says what follows, and a few how long it is.
        let length = 1 + prost::length_delimiter_len(length) + length;
        if size + length >= limit && !current.events.is_empty() {
            parts.push(std::mem::replace(&mut current, part.clone()));
            size = empty;
        }
        size += length;
        current.events.push(event);
    }
    current.fragment = false;
    parts.push(current);
    parts
}
