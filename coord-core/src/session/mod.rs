//! Sessions: one shared lease for everything that one client holds with one TTL (R9, R9a, R30 to
//! R32), and the one way in which entries on it are written.
//!
//! [`Client::enter`](crate::Client::enter) gives a [`SessionRef`]; a [`LeasedEntry`] made with it
//! is [placed](LeasedEntry::place) and then held.

mod batch;
mod batching;
mod loss;
mod pending;
mod place;
mod reference;
mod releasing;
mod renewal;
#[allow(clippy::module_inception, reason = "the file of the type `Session`")]
mod session;
mod state;
mod task;
mod ttl;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use coord_api::store::round_ttl;
use coord_api::{Error, LeaseId, Loss, Result};
use parking_lot::Mutex;

use crate::error::homeless;
use crate::flight::SingleFlight;
use crate::ground::Ground;
use crate::health::SessionHealth;

pub use loss::LossCell;
pub use place::{Build, LeasedEntry, Placed, Token};
pub use reference::{Fenced, SessionRef};
use session::Session;

/// How many sessions are made for one call: each but the last was lost before the call has entered
/// it.
const TRIES: usize = 3;

/// The sessions of one provider, one for each TTL.
#[derive(Debug)]
pub(crate) struct Sessions {
    ground: Arc<Ground>,
    /// Bounded, however many TTLs the program asks for: see [`ttl::served_by`].
    by_ttl: Mutex<BTreeMap<Duration, Arc<Slot>>>,
    /// Every session that still runs.
    live: Arc<Live>,
}

/// Every session that still runs, by its lease.
type Live = Mutex<BTreeMap<LeaseId, Weak<Session>>>;

/// The session of a TTL.
#[derive(Debug, Default)]
struct Slot {
    current: Mutex<Weak<Session>>,
    /// The making of the next one: once, for all who need it.
    opening: SingleFlight<Arc<Session>>,
}

impl Slot {
    fn current(&self) -> Option<Arc<Session>> {
        self.current.lock().upgrade()
    }
}

impl Sessions {
    pub(crate) fn new(ground: Arc<Ground>) -> Self {
        Sessions { ground, by_ttl: Mutex::default(), live: Arc::default() }
    }

    /// The live session of a TTL, made where there is none: then this pays a grant and a write
    /// (R9a).
    ///
    /// # Cancel safety
    ///
    /// Dropped while a session is made, it may leave a lease behind that carries nothing, and is
    /// revoked after one TTL.
    pub(crate) async fn enter(&self, operation: &'static str, ttl: Duration) -> Result<SessionRef> {
        let ground = &self.ground;
        ground.ready(operation)?;
        let asked = round_ttl(operation, ttl)?;
        let (served, slot) = self.slot(asked);
        for _ in 0..TRIES {
            if let Some(session) = slot.current().filter(|session| session.enter()) {
                return Ok(SessionRef::new(session, asked));
            }
            let session =
                slot.opening.run(&ground.home, operation, || self.open(Arc::clone(&slot), served)).await?;
            if session.enter() {
                return Ok(SessionRef::new(session, asked));
            }
            if ground.is_closed() {
                return Err(Error::closed(operation));
            }
        }
        Err(Error::lease_lost(operation, "each new lease was lost at once"))
    }

    /// The slot that serves a TTL, and its own TTL, which is no shorter.
    fn slot(&self, asked: Duration) -> (Duration, Arc<Slot>) {
        let mut slots = self.by_ttl.lock();
        if let Some(slot) = slots.get(&asked) {
            return (asked, Arc::clone(slot));
        }
        // A slot that somebody else holds as well is about to be used by a call.
        slots.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.current().is_some_and(|session| session.is_open())
        });
        let served = ttl::served_by(asked, slots.keys());
        let slot = slots.entry(served).or_default();
        (served, Arc::clone(slot))
    }

    /// Ends every session, and with it what it carries (R8).
    pub(crate) fn lose_all(&self, loss: Loss) {
        let sessions: Vec<_> = self.live.lock().values().filter_map(Weak::upgrade).collect();
        sessions.iter().for_each(|session| session.lose(loss));
    }

    /// How those that live are doing.
    pub(crate) fn health(&self) -> Vec<SessionHealth> {
        let sessions: Vec<_> = self.live.lock().values().filter_map(Weak::upgrade).collect();
        sessions.iter().filter_map(|session| session.health()).collect()
    }

    /// Makes the session of a slot, unless one has come meanwhile.
    fn open(
        &self,
        slot: Arc<Slot>,
        ttl: Duration,
    ) -> impl Future<Output = Result<Arc<Session>>> + Send + 'static {
        let (ground, live) = (Arc::clone(&self.ground), Arc::clone(&self.live));
        async move {
            if let Some(session) = slot.current().filter(|session| session.is_open()) {
                return Ok(session);
            }
            let (session, made) = Session::make(&ground, ttl).await?;
            // The task owns the session and ends with it: lost, retired or closed.
            if let Err(error) = ground.home.spawn(task::run(Arc::clone(&session), made)) {
                let _ = ground.revoke(session.lease).await;
                ground.forget(session.lease);
                return Err(homeless("session", error));
            }
            remember(&live, &session);
            *slot.current.lock() = Arc::downgrade(&session);
            // Closing tells every session that it finds, and revokes every lease; this one came too
            // late to be found.
            if ground.is_closed() {
                session.lose(Loss::Closed);
                let _ = ground.revoke(session.lease).await;
            }
            Ok(session)
        }
    }
}

fn remember(live: &Live, session: &Arc<Session>) {
    let mut live = live.lock();
    live.retain(|_, session| session.strong_count() > 0);
    live.insert(session.lease, Arc::downgrade(session));
}
