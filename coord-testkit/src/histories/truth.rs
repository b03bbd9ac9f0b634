//! What really happened in the store: an undisturbed client watches everything, from before the
//! history to its end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Batch, Change, Entry, Range, Span, Store};
use coord_api::{ErrorKind, LeaseId, Revision, Value};
use tokio::time::sleep;

use super::Breach;
use crate::layout;
use crate::linearizability::Moments;
use crate::view::StoreView;

/// A revision, and the moment at which it was seen: it was committed before.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) at: u64,
    pub(super) batch: Batch,
}

#[derive(Debug, Default)]
struct Log {
    seen: Arc<Vec<Seen>>,
    state: BTreeMap<Bytes, Entry>,
    through: Revision,
    /// The log leaves out what happened after the first and up to the second: the store's history
    /// was lost.
    gaps: Vec<(Revision, Revision)>,
}

/// The log of everything that happened in the store.
#[derive(Debug)]
pub(super) struct Truth {
    store: Arc<dyn Store>,
    start: Revision,
    log: Mutex<Log>,
}

impl Truth {
    /// The log of a store, from its present revision on.
    pub(super) async fn begin(store: Arc<dyn Store>) -> Result<Arc<Self>, Breach> {
        let now = store
            .range(Range::prefix(""))
            .await
            .map_err(|error| Breach::new("s2", format!("the store cannot be read: {error}")))?;
        let state = now.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        let log = Log { state, through: now.revision, ..Log::default() };
        Ok(Arc::new(Truth { store, start: now.revision, log: Mutex::new(log) }))
    }

    /// Follows the store for as long as it is polled.
    pub(super) async fn follow(self: Arc<Self>, moments: Arc<Moments>) {
        loop {
            let after = self.through();
            let Ok(mut view) = StoreView::after(&self.store, Span::prefix(""), after).await else {
                self.begin_anew().await;
                continue;
            };
            while let Ok(batch) = view.next().await {
                self.note(batch, &moments);
            }
            self.begin_anew().await;
        }
    }

    /// The store's client was replaced, and its history may be lost.
    async fn begin_anew(&self) {
        sleep(Duration::from_millis(5)).await;
        let through = self.through();
        match self.store.watch(Span::prefix(""), Some(through)).await {
            Err(error) if error.kind() == ErrorKind::Compacted => {}
            _ => return,
        }
        if let Ok(now) = self.store.range(Range::prefix("")).await {
            let mut log = self.log();
            if now.revision > through {
                log.gaps.push((through, now.revision));
            }
            log.through = now.revision;
            log.state = now.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        }
    }

    fn note(&self, batch: Batch, moments: &Moments) {
        let mut log = self.log();
        for change in &batch.changes {
            match change {
                Change::Put(entry) => log.state.insert(entry.key.clone(), entry.clone()),
                Change::Delete { key } => log.state.remove(key),
            };
        }
        log.through = batch.revision;
        Arc::make_mut(&mut log.seen).push(Seen { at: moments.next(), batch });
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything up to this revision is in the log.
    pub(super) fn through(&self) -> Revision {
        self.log().through
    }

    /// The revision at which it begins.
    pub(super) fn start(&self) -> Revision {
        self.start
    }

    /// The leases of the sessions that are alive now.
    pub(super) fn sessions(&self) -> Vec<LeaseId> {
        self.log()
            .state
            .range(Bytes::from_static(layout::SESSIONS.as_bytes())..)
            .map_while(|(key, entry)| session(key).and(entry.lease))
            .collect()
    }

    /// The store's present revision, at least; `None` while it does not answer.
    pub(super) async fn head(&self) -> Option<Revision> {
        self.store.range(Range::key("no such key")).await.ok().map(|reply| reply.revision)
    }

    /// All that lies under a prefix now, by a read.
    pub(super) async fn read(&self, prefix: String) -> Option<Vec<Entry>> {
        self.store.range(Range::prefix(prefix)).await.ok().map(|reply| reply.entries)
    }

    /// The log so far.
    pub(super) fn seen(&self) -> Arc<Vec<Seen>> {
        Arc::clone(&self.log().seen)
    }

    /// Whether the log has all of what came after the first revision, up to the second.
    pub(super) fn is_whole(&self, after: Revision, through: Revision) -> bool {
        self.log().gaps.iter().all(|(from, to)| *from >= through || *to <= after)
    }

    /// Compares the state that the log adds up to with a read of everything (S4).
    pub(super) async fn check(&self) -> Result<(), Breach> {
        let now = self
            .store
            .range(Range::prefix(""))
            .await
            .map_err(|error| Breach::new("s2", format!("the store cannot be read: {error}")))?;
        let log = self.log();
        if log.through < now.revision {
            // More is on its way.
            return Ok(());
        }
        let told: Vec<&Entry> = log.state.values().collect();
        let differs = now.entries.iter().ne(told.iter().copied());
        if differs && log.through == now.revision {
            return Err(Breach::new(
                "s4",
                format!("what a watch of everything told is not what is there at revision {}", now.revision),
            ));
        }
        Ok(())
    }
}

/// The lease that a session's key names.
pub(super) fn session(key: &[u8]) -> Option<LeaseId> {
    let hex = std::str::from_utf8(key.strip_prefix(layout::SESSIONS.as_bytes())?).ok()?;
    u64::from_str_radix(hex, 16).ok().map(LeaseId::new)
}

/// The life of one entry under a key: from its creation to its deletion.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) key: Bytes,
    pub(super) created: Revision,
    pub(super) lease: Option<LeaseId>,
    /// What was written, and when.
    pub(super) writes: Vec<(Revision, Value)>,
    pub(super) deleted: Option<Deleted>,
}

/// The end of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deleted {
    pub(super) revision: Revision,
    /// When that was seen.
    pub(super) at: u64,
    /// Whether it went with its lease.
    pub(super) with_lease: bool,
}

/// The lives of all entries under a prefix, in the order of their creation.
pub(super) fn lives(seen: &[Seen], prefix: &str) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    let mut live: BTreeMap<Bytes, usize> = BTreeMap::new();
    for Seen { at, batch } in seen {
        let ended: Vec<LeaseId> = batch
            .changes
            .iter()
            .filter_map(|change| match change {
                Change::Delete { key } => session(key),
                Change::Put(_) => None,
            })
            .collect();
        for change in batch.changes.iter().filter(|change| change.key().starts_with(prefix.as_bytes())) {
            match change {
                Change::Put(entry) => {
                    let index = *live.entry(entry.key.clone()).or_insert_with(|| {
                        lives.push(Life {
                            key: entry.key.clone(),
                            created: entry.created,
                            lease: None,
                            writes: Vec::new(),
                            deleted: None,
                        });
                        lives.len() - 1
                    });
                    if let Some(life) = lives.get_mut(index) {
                        life.lease = entry.lease;
                        life.writes.push((batch.revision, entry.value.clone()));
                    }
                }
                Change::Delete { key } => {
                    if let Some(life) = live.remove(key).and_then(|index| lives.get_mut(index)) {
                        let with_lease = life.lease.is_some_and(|lease| ended.contains(&lease));
                        life.deleted = Some(Deleted { revision: batch.revision, at: *at, with_lease });
                    }
                }
            }
        }
    }
    lives
}

/// A log written by hand: revisions, keys, and values, `None` where the key was deleted. Each is
/// seen at the moment that is its place.
#[cfg(test)]
pub(super) fn log(changes: &[(u64, &str, Option<Value>)]) -> Vec<Seen> {
    let mut created: BTreeMap<&str, Revision> = BTreeMap::new();
    let seen = changes.iter().zip(1..).map(|((revision, key, value), at)| {
        let revision = Revision::new(*revision);
        let key_bytes = Bytes::from((*key).to_owned());
        let change = match value {
            Some(value) => {
                let created = *created.entry(key).or_insert(revision);
                Change::Put(Entry {
                    key: key_bytes,
                    value: value.clone(),
                    created,
                    modified: revision,
                    lease: None,
                })
            }
            None => {
                created.remove(key);
                Change::Delete { key: key_bytes }
            }
        };
        Seen { at, batch: Batch { revision, changes: vec![change] } }
    });
    seen.collect()
}
