//! What is read of the store, once for all who look at the same time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coord_api::{LeaseId, Result};
use coord_core::{Home, LossRecord, SingleFlight};
use coord_recipes::inspect::{ConfigKeyView, Inspect, QueueView, ServiceView, SessionView};
use parking_lot::Mutex;
use tokio::time::Instant;

/// How many sessions are asked for the time that is left to them, at most, for one viewer.
const SESSIONS_ASKED: usize = 200;

/// How many sessions are remembered. Beyond that all are forgotten, and asked anew.
const SESSIONS_KNOWN: usize = 4_096;

/// Before and after: what happened at one moment is seen by whatever begins at a later one. A clock
/// does not tell them apart where it stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    /// One after all that were before.
    pub(crate) fn now() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Moment(LAST.fetch_add(1, Ordering::SeqCst))
    }
}

/// How new something has to be that was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Newer {
    /// It began after that.
    pub(crate) than: Moment,
    /// And no earlier than that.
    pub(crate) at: Option<Instant>,
}

/// Something that was read.
struct Read<T> {
    /// What was committed before that, it shows.
    began: Moment,
    at: Instant,
    found: Arc<T>,
}

impl<T> Read<T> {
    fn is(&self, newer: Newer) -> bool {
        self.began > newer.than && newer.at.is_none_or(|at| self.at >= at)
    }
}

impl<T> Clone for Read<T> {
    fn clone(&self) -> Self {
        Read { began: self.began, at: self.at, found: Arc::clone(&self.found) }
    }
}

/// Something that many look at: it is read once for all who ask at the same time, and kept.
struct Look<T> {
    flight: SingleFlight<Read<T>>,
    last: Mutex<Option<Read<T>>>,
}

impl<T> Default for Look<T> {
    fn default() -> Self {
        Look { flight: SingleFlight::default(), last: Mutex::new(None) }
    }
}

impl<T: Send + Sync + 'static> Look<T> {
    /// What was found by a reading that is new enough.
    async fn newer<F>(&self, newer: Newer, read: impl Fn() -> F) -> Result<Arc<T>>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        loop {
            let kept = self.last.lock().as_ref().filter(|last| last.is(newer)).cloned();
            if let Some(kept) = kept {
                return Ok(kept.found);
            }
            let start = || {
                let (began, at, reading) = (Moment::now(), Instant::now(), read());
                async move { Ok(Read { began, at, found: Arc::new(reading.await?) }) }
            };
            // It lives on the runtime that serves the page: long lists take their time, which is
            // not to be taken from renewals.
            let found = self.flight.run(&Home::callers(), "ui", start).await?;
            // What was joined may have begun too early, and others may have a later one by now.
            let mut last = self.last.lock();
            if last.as_ref().is_none_or(|last| last.began < found.began) {
                *last = Some(found);
            }
        }
    }
}

/// What is known of the time that is left to a session.
#[derive(Clone, Copy)]
struct Left {
    asked: Instant,
    /// `None`: it is over.
    left: Option<Duration>,
    /// The most that was ever seen.
    most: Duration,
}

/// All that is looked at.
pub(crate) struct Looks {
    inspect: Inspect,
    locks: Look<Vec<QueueView>>,
    elections: Look<Vec<QueueView>>,
    semaphores: Look<Vec<QueueView>>,
    services: Look<Vec<ServiceView>>,
    id_counts: Look<BTreeMap<String, usize>>,
    sessions: Look<Vec<SessionView>>,
    config: Look<Vec<ConfigKeyView>>,
    losses: Look<Vec<LossRecord>>,
    left: Mutex<HashMap<LeaseId, Left>>,
}

macro_rules! looks {
    ($($(#[$doc:meta])* $name:ident: $kind:ty = $read:ident;)*) => {
        impl Looks {
            $($(#[$doc])*
            pub(crate) async fn $name(&self, newer: Newer) -> Result<Arc<$kind>> {
                let read = || {
                    let inspect = self.inspect.clone();
                    async move { inspect.$read().await }
                };
                self.$name.newer(newer, read).await
            })*
        }
    };
}

looks! {
    locks: Vec<QueueView> = locks;
    elections: Vec<QueueView> = elections;
    semaphores: Vec<QueueView> = semaphores;
    services: Vec<ServiceView> = services;
    id_counts: BTreeMap<String, usize> = id_counts;
    sessions: Vec<SessionView> = sessions;
    config: Vec<ConfigKeyView> = config_keys;
    losses: Vec<LossRecord> = losses;
}

impl Looks {
    pub(crate) fn new(inspect: Inspect) -> Self {
        Looks {
            inspect,
            locks: Look::default(),
            elections: Look::default(),
            semaphores: Look::default(),
            services: Look::default(),
            id_counts: Look::default(),
            sessions: Look::default(),
            config: Look::default(),
            losses: Look::default(),
            left: Mutex::default(),
        }
    }

    pub(crate) fn inspect(&self) -> &Inspect {
        &self.inspect
    }

    /// How much time is left to these sessions, and the most that was ever seen of each, as whole
    /// seconds. What was asked after `since` is not asked again; of many, only the first are.
    pub(crate) async fn left(
        &self,
        mut sessions: Vec<LeaseId>,
        since: Instant,
    ) -> Result<BTreeMap<LeaseId, (u64, u64)>> {
        let mut seen = BTreeSet::new();
        sessions.retain(|session| seen.insert(*session));
        let unknown: Vec<LeaseId> = {
            let known = self.left.lock();
            let is_unknown = |session: &&LeaseId| known.get(session).is_none_or(|known| known.asked < since);
            sessions.iter().filter(is_unknown).take(SESSIONS_ASKED).copied().collect()
        };
        let asked = Instant::now();
        let found = match unknown.is_empty() {
            true => BTreeMap::new(),
            false => self.inspect.remaining(unknown.iter().copied()).await?,
        };
        let mut known = self.left.lock();
        if known.len() + unknown.len() > SESSIONS_KNOWN {
            known.clear();
        }
        for session in unknown {
            let left = found.get(&session).copied();
            let before = known.get(&session).map_or(Duration::ZERO, |before| before.most);
            known.insert(session, Left { asked, left, most: before.max(left.unwrap_or_default()) });
        }
        let told = |session: LeaseId| {
            let known = known.get(&session)?;
            // What was read a while ago has become less, unless it was renewed.
            let left = known.left?.saturating_sub(known.asked.elapsed());
            Some((session, (left.as_secs(), known.most.as_secs())))
        };
        Ok(sessions.into_iter().filter_map(told).collect())
    }
}
