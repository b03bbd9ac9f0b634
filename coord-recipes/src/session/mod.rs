//! Sessions: one shared lease for everything that one provider holds with one TTL (R9, R9a, R30 to R32).

mod debts;
mod holding;
mod lease;
mod loss;
mod tasks;
mod together;
mod ttl;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use coord_api::store::round_ttl;
use coord_api::{Error, LeaseId, Loss, Result};
use parking_lot::Mutex;

use crate::core::Core;
use crate::flight::SingleFlight;

pub(crate) use holding::Holding;
use lease::Session;
pub(crate) use lease::{Leased, SessionUse, Write};
pub(crate) use loss::LossCell;

/// How often a session is made for a caller whose session is lost before the caller is on it.
const TRIES: usize = 3;

/// The sessions of one provider, one for each TTL.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// Bounded, however many TTLs the program asks for: see [`ttl::served_by`].
    by_ttl: Mutex<BTreeMap<Duration, Arc<Slot>>>,
    /// Every session that still runs.
    live: Mutex<BTreeMap<LeaseId, Weak<Session>>>,
}

/// The session of a TTL.
#[derive(Debug, Default)]
struct Slot {
    current: Mutex<Weak<Session>>,
    /// The making of the next one: once, for all who need it.
    opening: SingleFlight<Arc<Session>>,
}

impl Slot {
    fn current(&self) -> Option<Arc<Session>> {
        self.current.lock().upgrade().filter(|session| session.is_open())
    }
}

impl Sessions {
    /// The live session of a TTL, made where there is none: then this pays a grant and a write (R9a).
    ///
    /// # Cancel safety
    ///
    /// Dropped while a session is made, it may leave a lease behind that carries nothing, and is revoked after one TTL.
    pub(crate) async fn enter(&self, core: &Arc<Core>, operation: &'static str, ttl: Duration) -> Result<SessionUse> {
        core.ready(operation)?;
        let asked = round_ttl(operation, ttl)?;
        let (served, slot) = self.slot(asked);
        for _ in 0..TRIES {
            if let Some(session) = slot.current().and_then(|session| Session::enter(session, asked)) {
                return Ok(session);
            }
            let session = slot.opening.run(&core.home, operation, || open(Arc::clone(core), Arc::clone(&slot), served)).await?;
            if let Some(session) = Session::enter(session, asked) {
                return Ok(session);
            }
            if core.is_closed() {
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
        // A slot that a caller has is about to be used.
        slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.current().is_some());
        let served = ttl::served_by(asked, slots.keys());
        let slot = slots.entry(served).or_default();
        (served, Arc::clone(slot))
    }

    /// Ends every session, and with it what it carries (R8).
    pub(crate) fn lose_all(&self, loss: Loss) {
        let sessions: Vec<_> = self.live.lock().values().filter_map(Weak::upgrade).collect();
        sessions.iter().for_each(|session| session.lose(loss));
    }

    fn remember(&self, session: &Arc<Session>) {
        let mut live = self.live.lock();
        live.retain(|_, session| session.strong_count() > 0);
        live.insert(session.lease, Arc::downgrade(session));
    }
}

/// Makes the session of a slot, unless one has come meanwhile.
async fn open(core: Arc<Core>, slot: Arc<Slot>, ttl: Duration) -> Result<Arc<Session>> {
    if let Some(session) = slot.current() {
        return Ok(session);
    }
    let session = Session::open(&core, ttl).await?;
    core.sessions.remember(&session);
    *slot.current.lock() = Arc::downgrade(&session);
    // Closing tells every session that it finds, and revokes every lease; this one came too late to be found.
    if core.is_closed() {
        session.lose(Loss::Closed);
        let _ = core.revoke(session.lease).await;
    }
    Ok(session)
}
