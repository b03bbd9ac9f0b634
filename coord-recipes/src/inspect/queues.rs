//! Locks, elections and semaphores: who has a turn, and who waits for one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use coord_api::store::{Entry, Span};
use coord_api::{FencingToken, LeaseId, Result, Revision, key};
use coord_core::{SessionOwner, keys};
use serde::Serialize;

use super::{Inspect, Owners};
use crate::queue::{Item, Reading, WaitQueue};
use crate::{election, lock, semaphore};

/// A lock, an election or a semaphore in which somebody stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct QueueView {
    /// Its name.
    pub name: String,
    /// How many permits a semaphore has, where anybody has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permits: Option<u32>,
    /// Those who have their turn, in the order in which they came.
    pub holders: Vec<StandingView>,
    /// Those who wait, in the order in which they are served.
    pub waiters: Vec<StandingView>,
}

/// Somebody who stands in a queue.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StandingView {
    /// The name of the client, as its entry says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// When it entered the queue, by its clock: milliseconds since 1970. A grant writes nothing, so
    /// that nobody knows since when it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Its session; `None` where a program of another kind wrote it without a lease.
    pub session: Option<LeaseId>,
    /// Who has the session; `None` where that is over, or not one of coord's.
    pub process: Option<SessionOwner>,
    /// Its fencing token, if it holds, or will have when it does.
    pub token: FencingToken,
    /// The revision at which its entry was written last.
    pub version: Revision,
    /// How it stands there.
    #[serde(flatten)]
    pub entered: Entered,
}

/// In which way somebody stands in a queue.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Entered {
    /// In that of a lock.
    Lock {
        /// Whether others may hold it at the same time.
        mode: StandingMode,
    },
    /// In that of a semaphore.
    Semaphore {
        /// How many permits it takes.
        permits: u32,
    },
    /// In that of an election.
    Election {
        /// What it says, as text, at most 256 bytes of it.
        value: String,
    },
}

/// How a lock is held, or wanted (R45).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StandingMode {
    /// By nobody else.
    Exclusive,
    /// With others.
    Shared,
    /// With others, after it was exclusive (R46).
    Downgraded,
}

/// What is shown of an election's value, in bytes.
const MAX_SHOWN: usize = 256;

/// One of the three kinds of queues.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    operation: &'static str,
    root: &'static str,
    reading: Reading,
    directory: fn(&str) -> Bytes,
    entered: fn(&Bytes, &Entry) -> Entered,
}

pub(super) const LOCK: Kind = Kind {
    operation: "inspect.locks",
    root: keys::LOCKS,
    reading: lock::READING,
    directory: keys::lock_queue,
    entered: |queue, entry| Entered::Lock {
        mode: match keys::lock_place(queue, &entry.key) {
            Some(true) => StandingMode::Shared,
            _ if keys::is_downgraded(&entry.value) => StandingMode::Downgraded,
            _ => StandingMode::Exclusive,
        },
    },
};

pub(super) const ELECTION: Kind = Kind {
    operation: "inspect.elections",
    root: keys::ELECTIONS,
    reading: election::READING,
    directory: keys::election,
    entered: |_, entry| {
        let value = entry.value.get(..MAX_SHOWN).unwrap_or(&entry.value);
        Entered::Election { value: String::from_utf8_lossy(value).into_owned() }
    },
};

pub(super) const SEMAPHORE: Kind = Kind {
    operation: "inspect.semaphores",
    root: keys::SEMAPHORES,
    reading: semaphore::READING,
    directory: keys::semaphore,
    entered: |directory, entry| Entered::Semaphore {
        permits: keys::semaphore_weight(directory, &entry.key).unwrap_or_default(),
    },
};

impl Kind {
    /// What stands in one queue; `None` where nobody does, and nothing is said about it.
    fn view(&self, name: &str, entries: &[&Entry], owners: &Owners) -> Option<QueueView> {
        let directory = (self.directory)(name);
        let mut queue = WaitQueue::new(self.reading.capacity);
        let mut permits = None;
        let mut standing = Vec::new();
        for entry in entries {
            match (self.reading.item)(&directory, entry) {
                Item::Entry(weight) => {
                    queue.put(entry.key.clone(), entry.created, weight, None);
                    standing.push(*entry);
                }
                Item::Capacity(capacity) => {
                    queue.set_capacity(capacity);
                    permits = u32::try_from(capacity).ok();
                }
                Item::Other => {}
            }
        }
        if standing.is_empty() && permits.is_none() {
            return None;
        }
        standing.sort_by(|one, other| (one.created, &one.key).cmp(&(other.created, &other.key)));
        let turns: BTreeSet<Bytes> = std::iter::from_fn(|| queue.next_turn()).collect();
        let (holders, waiters): (Vec<&Entry>, Vec<&Entry>) =
            standing.into_iter().partition(|entry| turns.contains(&entry.key));
        let views = |entries: Vec<&Entry>| {
            entries.into_iter().map(|entry| self.standing(&directory, entry, owners)).collect()
        };
        Some(QueueView { name: name.to_owned(), permits, holders: views(holders), waiters: views(waiters) })
    }

    fn standing(&self, directory: &Bytes, entry: &Entry, owners: &Owners) -> StandingView {
        let entered = (self.entered)(directory, entry);
        // The value of a candidate is what it says.
        let owner = match &entered {
            Entered::Election { .. } => None,
            _ => keys::owner(&entry.value),
        };
        let process = owners.of(entry.lease);
        StandingView {
            since_ms: owner.as_ref().and_then(|owner| owner.since_ms),
            owner: owner.map(|owner| owner.name).or_else(|| Some(process.as_ref()?.name.clone())),
            session: entry.lease,
            process,
            token: FencingToken::from(entry.created),
            version: entry.modified,
            entered,
        }
    }

    /// The entry with this token, if it stands in the queue.
    pub(super) fn find<'a>(
        &self,
        name: &str,
        entries: &'a [Entry],
        token: FencingToken,
    ) -> Option<&'a Entry> {
        let directory = (self.directory)(name);
        let is_wanted = |entry: &&Entry| {
            FencingToken::from(entry.created) == token
                && matches!((self.reading.item)(&directory, entry), Item::Entry(_))
        };
        entries.iter().find(is_wanted)
    }

    pub(super) fn span(&self, name: &str) -> Span {
        Span::prefix((self.directory)(name))
    }
}

impl Inspect {
    async fn queues(&self, kind: Kind) -> Result<Vec<QueueView>> {
        let (entries, owners) = self.owned(kind.operation, Span::prefix(kind.root)).await?;
        let mut by_name: BTreeMap<String, Vec<&Entry>> = BTreeMap::new();
        for entry in &entries {
            if let Some(name) = keys::name_in(kind.root, &entry.key) {
                by_name.entry(name).or_default().push(entry);
            }
        }
        Ok(by_name.iter().filter_map(|(name, entries)| kind.view(name, entries, &owners)).collect())
    }

    async fn queue(&self, kind: Kind, name: &str) -> Result<Option<QueueView>> {
        key::check(kind.operation, name)?;
        let (entries, owners) = self.owned(kind.operation, kind.span(name)).await?;
        Ok(kind.view(name, &entries.iter().collect::<Vec<_>>(), &owners))
    }

    /// The locks that are held or wanted, by name.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Timeout`, `Closed`, `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn locks(&self) -> Result<Vec<QueueView>> {
        self.queues(LOCK).await
    }

    /// One lock; `None` where nobody holds or wants it.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` (R4) before any I/O; as [`locks`](Self::locks).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn lock(&self, name: &str) -> Result<Option<QueueView>> {
        self.queue(LOCK, name).await
    }

    /// The elections in which somebody runs, by name.
    ///
    /// # Errors
    ///
    /// As [`locks`](Self::locks).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn elections(&self) -> Result<Vec<QueueView>> {
        self.queues(ELECTION).await
    }

    /// One election; `None` where nobody runs.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn election(&self, name: &str) -> Result<Option<QueueView>> {
        self.queue(ELECTION, name).await
    }

    /// The semaphores that were ever used, by name.
    ///
    /// # Errors
    ///
    /// As [`locks`](Self::locks).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn semaphores(&self) -> Result<Vec<QueueView>> {
        self.queues(SEMAPHORE).await
    }

    /// One semaphore; `None` where it was never used.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn semaphore(&self, name: &str) -> Result<Option<QueueView>> {
        self.queue(SEMAPHORE, name).await
    }
}
