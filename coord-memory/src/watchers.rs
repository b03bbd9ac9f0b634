//! Who watches what: from a changed key to its watchers without asking all of them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;
use coord_api::Revision;
use coord_api::store::Span;
use parking_lot::Mutex;

/// How many revisions a watcher notes one by one. Beyond that it notes only the stretch of history
/// to search.
const NOTED: usize = 64;

/// Where a watcher finds what it has not delivered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PendingLookup {
    /// This revision holds a change of its span.
    At(Revision),
    /// Any revision from the first to the second, both inclusive, may.
    Search(Revision, Revision),
}

/// A watcher. It holds no changes, only revisions to look up in the shared history: so a stalled
/// one costs nothing, and learns that it came too late when it next asks (R22).
#[derive(Debug)]
pub(crate) struct Watcher {
    pub(crate) span: Span,
    id: u64,
    client: u64,
    state: Mutex<WatcherState>,
}

#[derive(Debug, Default)]
struct WatcherState {
    noted: VecDeque<Revision>,
    /// What lies beyond `noted`.
    search: Option<(Revision, Revision)>,
    waker: Option<Waker>,
    /// Whether it stands in the list of those to wake after the next flush.
    listed: bool,
}

impl Watcher {
    /// Notes that `revision` changed something in its span, and says whether that is news.
    /// Revisions must not go back.
    fn note(&self, revision: Revision) -> bool {
        let mut state = self.state.lock();
        if let Some((_, through)) = &mut state.search {
            return std::mem::replace(through, revision) != revision;
        }
        if state.noted.back() == Some(&revision) {
            return false;
        }
        if state.noted.len() < NOTED {
            state.noted.push_back(revision);
        } else {
            state.search = Some((revision, revision));
        }
        true
    }

    /// What to look up next.
    pub(crate) fn pending(&self) -> Option<PendingLookup> {
        let state = self.state.lock();
        let search = || state.search.map(|(from, through)| PendingLookup::Search(from, through));
        state.noted.front().map(|revision| PendingLookup::At(*revision)).or_else(search)
    }

    /// Everything up to `revision` was looked up.
    pub(crate) fn looked_up(&self, revision: Revision) {
        let mut state = self.state.lock();
        while state.noted.front().is_some_and(|noted| *noted <= revision) {
            state.noted.pop_front();
        }
        if let Some((from, through)) = &mut state.search {
            *from = (*from).max(revision.next());
            if from > through {
                state.search = None;
            }
        }
    }

    /// Whom to wake at the next change.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let mut state = self.state.lock();
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => state.waker = Some(cx.waker().clone()),
        }
    }

    /// Takes the waker out. To be woken without a lock held: a waker may run anything.
    pub(crate) fn take_waker(&self) -> Option<Waker> {
        self.state.lock().waker.take()
    }

    /// Says whether it stands in the list of those to wake already; it does from now on, or no
    /// longer.
    pub(crate) fn set_listed(&self, listed: bool) -> bool {
        std::mem::replace(&mut self.state.lock().listed, listed)
    }
}

type Bucket = BTreeMap<u64, Arc<Watcher>>;
/// Every write asks for its key and for each directory above it.
type Buckets = HashMap<Bytes, Bucket, foldhash::fast::RandomState>;

/// All watchers of a store.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    next: u64,
    keys: Buckets,
    directories: Buckets,
    others: Bucket,
}

impl Watchers {
    /// Adds a watcher of a client. With `after` it first searches the history after that revision,
    /// up to the present one, `head`.
    pub(crate) fn add(
        &mut self,
        client: u64,
        span: Span,
        after: Option<Revision>,
        head: Revision,
    ) -> Arc<Watcher> {
        let search = after.map(Revision::next).filter(|from| *from <= head).map(|from| (from, head));
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let watcher = Arc::new(Watcher {
            span,
            id,
            client,
            state: Mutex::new(WatcherState { search, ..WatcherState::default() }),
        });
        let bucket = match &watcher.span {
            Span::Key(key) => self.keys.entry(key.clone()).or_default(),
            Span::Prefix(prefix) if is_directory(prefix) => {
                self.directories.entry(prefix.clone()).or_default()
            }
            _ => &mut self.others,
        };
        bucket.insert(id, Arc::clone(&watcher));
        watcher
    }

    pub(crate) fn remove(&mut self, watcher: &Watcher) {
        let (map, key) = match &watcher.span {
            Span::Key(key) => (&mut self.keys, key),
            Span::Prefix(prefix) if is_directory(prefix) => (&mut self.directories, prefix),
            _ => {
                self.others.remove(&watcher.id);
                return;
            }
        };
        if let Some(bucket) = map.get_mut(key) {
            bucket.remove(&watcher.id);
            if bucket.is_empty() {
                map.remove(key);
            }
        }
    }

    /// Notes a change of `key` for every watcher of it, and hands those to `wake` that did not know
    /// of a change of this revision yet.
    pub(crate) fn note(&self, key: &[u8], revision: Revision, mut wake: impl FnMut(&Arc<Watcher>)) {
        let mut found = |watcher: &Arc<Watcher>| {
            if watcher.note(revision) {
                wake(watcher);
            }
        };
        if let Some(bucket) = self.keys.get(key) {
            bucket.values().for_each(&mut found);
        }
        if !self.directories.is_empty() {
            for (position, _) in key.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
                let bucket = key.get(..=position).and_then(|directory| self.directories.get(directory));
                bucket.into_iter().flat_map(Bucket::values).for_each(&mut found);
            }
        }
        self.others.values().filter(|watcher| watcher.span.contains(key)).for_each(&mut found);
    }

    /// The watchers of a client, in the order in which they came.
    pub(crate) fn of_client(&self, client: u64) -> Vec<Arc<Watcher>> {
        let mut watchers: Vec<_> =
            self.all().filter(|watcher| watcher.client == client).map(Arc::clone).collect();
        watchers.sort_unstable_by_key(|watcher| watcher.id);
        watchers
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Watcher>> {
        self.keys
            .values()
            .chain(self.directories.values())
            .flat_map(Bucket::values)
            .chain(self.others.values())
    }
}

/// Wakes watchers. Never under a lock: a waker may run anything.
pub(crate) fn wake(watchers: Vec<Arc<Watcher>>) {
    for waker in watchers.iter().filter_map(|watcher| watcher.take_waker()) {
        waker.wake();
    }
}

/// Whether the prefix ends where a key's segment ends, so that walking a key's `/` finds it.
fn is_directory(prefix: &[u8]) -> bool {
    prefix.last() == Some(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Revision = Revision::new(1);

    fn noted(watchers: &Watchers, key: &str, revision: u64) -> Vec<u64> {
        let mut found = Vec::new();
        watchers.note(key.as_bytes(), Revision::new(revision), |watcher| found.push(watcher.id));
        found.sort_unstable();
        found
    }

    #[test]
    fn a_key_finds_its_watchers_of_every_kind() {
        let mut watchers = Watchers::default();
        let spans = [
            Span::key("a/b"),
            Span::prefix("a/"),
            Span::prefix("a"),
            Span::prefix(""),
            Span::Interval("a/a".into(), "a/c".into()),
            Span::prefix("a/b/"),
            Span::prefix("/"),
        ];
        let all: Vec<_> = spans.into_iter().map(|span| watchers.add(1, span, None, HEAD)).collect();
        assert_eq!(noted(&watchers, "a/b", 2), [0, 1, 2, 3, 4]);
        assert_eq!(noted(&watchers, "a/b", 2), [0; 0], "once a revision");
        assert_eq!(noted(&watchers, "a/b/c", 3), [1, 2, 3, 4, 5]);
        assert_eq!(noted(&watchers, "ab", 4), [2, 3]);
        assert_eq!(noted(&watchers, "/x", 5), [3, 6]);
        all.iter().for_each(|watcher| watchers.remove(watcher));
        assert_eq!(watchers.all().count(), 0);
        assert!(
            watchers.keys.is_empty() && watchers.directories.is_empty(),
            "a dropped watcher leaves nothing"
        );
    }

    #[test]
    fn a_stalled_watcher_notes_a_bounded_number_of_revisions() {
        let watcher = Watchers::default().add(1, Span::key("a"), None, HEAD);
        for revision in 2..1_000 {
            watcher.note(Revision::new(revision));
            watcher.note(Revision::new(revision));
        }
        assert_eq!(watcher.state.lock().noted.len(), NOTED);
        let mut seen = 0;
        while let Some(PendingLookup::At(revision)) = watcher.pending() {
            watcher.looked_up(revision);
            seen += 1;
        }
        assert_eq!(seen, NOTED);
        assert_eq!(watcher.pending(), Some(PendingLookup::Search(Revision::new(66), Revision::new(999))));
        watcher.looked_up(Revision::new(100));
        assert_eq!(watcher.pending(), Some(PendingLookup::Search(Revision::new(101), Revision::new(999))));
        watcher.looked_up(Revision::new(999));
        assert_eq!(watcher.pending(), None);
    }

    #[test]
    fn a_watcher_of_the_past_first_searches_it() {
        let mut watchers = Watchers::default();
        let head = Revision::new(9);
        let mut pending =
            |after: u64| watchers.add(1, Span::key("a"), Some(Revision::new(after)), head).pending();
        assert_eq!(pending(4), Some(PendingLookup::Search(Revision::new(5), head)));
        assert_eq!(pending(9), None);
        assert_eq!(pending(12), None);
    }
}
