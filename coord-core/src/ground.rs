//! What sessions, watches and recipes of one provider stand on: the store, the home of background
//! work, and whether the provider is closed.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use coord_api::store::{Entry, Range, RangeReply, Span, Store};
use coord_api::{Error, ErrorKind, LeaseId, Outcome, Result, Value};
use coord_home::Home;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::backoff::backoff;
use crate::error::{homeless, is_permanent};
use crate::flight::SingleFlight;
use crate::owner::SessionOwner;
use crate::telemetry::{Reached, Telemetry};

/// Entries that one page of a long list asks for.
const PAGE: usize = 1_000;

/// Leases that are remembered after their end, so that what is left of them is recognised. Far more
/// than can have anything left.
const RECENT_LEASES: usize = 1_024;

/// The leases of one provider.
#[derive(Debug, Default)]
struct Leases {
    /// Granted, and not yet seen to be gone.
    alive: HashSet<LeaseId>,
    /// The last ones that were granted, the oldest first.
    recent: VecDeque<LeaseId>,
}

/// Shared by all of one provider. It knows nothing of the sessions and watches that stand on it.
pub(crate) struct Ground {
    pub(crate) store: Arc<dyn Store>,
    /// Where background work lives, and whose clock deadlines go by.
    pub(crate) home: Home,
    /// The provider's name, for people who look into the store.
    pub(crate) name: String,
    /// The value of its sessions' keys.
    pub(crate) session_value: Value,
    /// What the operator is told.
    pub(crate) telemetry: Arc<Telemetry>,
    /// Whether it is closed. Every call asks, and asking `closing` would take a lock.
    closed: AtomicBool,
    /// Cancelled when it is closed: ends what is waiting.
    pub(crate) closing: CancellationToken,
    /// Cancelled when the provider is dropped: a session that carries nothing is then revoked at
    /// once.
    pub(crate) abandoned: CancellationToken,
    leases: Mutex<Leases>,
    store_id: OnceLock<Arc<str>>,
    asking_for_id: SingleFlight<()>,
}

impl Ground {
    pub(crate) fn new(store: Arc<dyn Store>, name: String, home: Home) -> Arc<Self> {
        let telemetry = Arc::new(Telemetry::new(name.clone(), home.clone()));
        Arc::new(Ground {
            store: Arc::new(Reached::new(store, Arc::clone(&telemetry))),
            home,
            session_value: SessionOwner::here(&name).value(),
            name,
            telemetry,
            closed: AtomicBool::new(false),
            closing: CancellationToken::new(),
            abandoned: CancellationToken::new(),
            leases: Mutex::default(),
            store_id: OnceLock::new(),
            asking_for_id: SingleFlight::default(),
        })
    }

    /// Whether the provider was closed, or is another process's: a fork leaves its child nothing.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire) || self.home.is_left_behind()
    }

    /// Checks that background work can be started and timed: everything that is leased or watched
    /// needs it.
    ///
    /// # Errors
    ///
    /// As [`homeless`] says.
    pub(crate) fn ready(&self, operation: &'static str) -> Result<()> {
        self.home.ready().map_err(|error| homeless(operation, error))
    }

    /// Refuses new work from now on and ends what is pending (R8).
    pub(crate) fn begin_close(&self) {
        self.closed.store(true, Ordering::Release);
        self.closing.cancel();
    }

    /// Runs one call of a contract: `Closed` without I/O once the provider is closed, and `Closed`
    /// with `outcome` if that happens meanwhile (R8).
    pub(crate) async fn run<T>(
        &self,
        operation: &'static str,
        outcome: Outcome,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        if self.is_closed() {
            return Err(Error::closed(operation));
        }
        tokio::select! {
            biased;
            result = call => result.map_err(|error| error.in_operation(operation)),
            () = self.closing.cancelled() => Err(Error::closed(operation).with_outcome(outcome)),
        }
    }

    /// As [`run`](Self::run), for a call about `key`, which its error names.
    pub(crate) async fn run_on<T>(
        &self,
        operation: &'static str,
        key: &str,
        outcome: Outcome,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.run(operation, outcome, call).await.map_err(|error| error.about(key))
    }

    /// The store's identity, asked for once.
    pub(crate) async fn store_id(self: &Arc<Self>) -> Result<&Arc<str>> {
        loop {
            if let Some(id) = self.store_id.get() {
                return Ok(id);
            }
            let ask = || {
                let core = Arc::clone(self);
                async move {
                    let id = core.store.status().await?.store_id;
                    let _ = core.store_id.set(id.into());
                    Ok(())
                }
            };
            self.asking_for_id.run(&self.home, "store.status", ask).await?;
        }
    }

    /// The store's identity, where it was asked for. Whoever has a session has asked.
    pub(crate) fn known_store_id(&self) -> Option<&Arc<str>> {
        self.store_id.get()
    }

    /// Ends what nothing holds any more, as nobody is left who could ask for something.
    pub(crate) fn abandon(&self) {
        // In the child of a fork its tasks are another process's.
        if !self.home.is_left_behind() {
            self.abandoned.cancel();
        }
    }

    /// Takes note of a lease that was granted to this provider.
    pub(crate) fn granted(&self, lease: LeaseId) {
        let mut leases = self.leases.lock();
        leases.alive.insert(lease);
        leases.recent.push_back(lease);
        if leases.recent.len() > RECENT_LEASES {
            leases.recent.pop_front();
        }
    }

    /// Whether a lease is, or was, this provider's: what hangs on it is no stranger's (R34). An
    /// answer that was on its way while the lease was revoked may still show it.
    pub(crate) fn owns(&self, lease: LeaseId) -> bool {
        let leases = self.leases.lock();
        leases.alive.contains(&lease) || leases.recent.contains(&lease)
    }

    /// Whether a lease of this provider may still be alive in the store.
    pub(crate) fn may_be_alive(&self, lease: LeaseId) -> bool {
        self.leases.lock().alive.contains(&lease)
    }

    /// The leases that may still be alive in the store: what closing revokes.
    pub(crate) fn alive_leases(&self) -> Vec<LeaseId> {
        self.leases.lock().alive.iter().copied().collect()
    }

    /// Revokes a lease.
    pub(crate) async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.store.revoke_lease(lease).await?;
        self.forget(lease);
        Ok(())
    }

    /// Forgets a lease that has ended, or is left to end by itself.
    pub(crate) fn forget(&self, lease: LeaseId) {
        self.leases.lock().alive.remove(&lease);
    }

    /// All of a span at one revision, in pages (R14).
    pub(crate) async fn list(&self, span: Span) -> Result<RangeReply> {
        self.list_range(Range::new(span)).await
    }

    /// All that a range finds, in pages at one revision.
    pub(crate) async fn list_range(&self, range: Range) -> Result<RangeReply> {
        let named = range.at.is_some();
        'snapshot: loop {
            let mut all = self.store.range(range.clone().with_limit(PAGE)).await?;
            while all.more {
                let Some(last) = all.entries.last() else {
                    return Err(Error::new(
                        ErrorKind::Internal,
                        "store.range",
                        "a page without entries says that more follow",
                    ));
                };
                let page =
                    range.clone().with_limit(PAGE).with_after_key(last.key.clone()).with_at(all.revision);
                match self.store.range(page).await {
                    Ok(page) => {
                        all.entries.extend(page.entries);
                        all.more = page.more;
                    }
                    // The history under the pages was compacted: a newer snapshot is as good.
                    Err(error) if error.kind() == ErrorKind::Compacted && !named => continue 'snapshot,
                    Err(error) => return Err(error),
                }
            }
            return Ok(all);
        }
    }

    /// Reads for a watch, whose transient faults nobody sees: again and again, until there is an
    /// answer or no more trying helps (R20).
    pub(crate) async fn read_for_watch<T, F>(&self, mut read: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut backoff = backoff();
        loop {
            match self.run("watch", Outcome::NotApplied, read()).await {
                Err(error) if !is_permanent(&error) && self.ready("watch").is_ok() => {
                    self.home.sleep(backoff.pause()).await
                }
                answer => return answer,
            }
        }
    }

    /// One key, as it is now.
    pub(crate) async fn read(&self, key: bytes::Bytes) -> Result<Option<Entry>> {
        Ok(self.store.range(Range::key(key)).await?.entries.into_iter().next())
    }
}

impl fmt::Debug for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ground")
            .field("name", &self.name)
            .field("store", &self.store)
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
