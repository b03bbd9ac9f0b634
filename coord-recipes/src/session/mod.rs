//! Sessions: one shared lease for everything that one provider holds with one TTL (R9, R9a, R30 to R32).

mod debts;
mod holding;
mod lease;
mod loss;
mod tasks;
mod together;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use coord_api::store::round_ttl;
use coord_api::{Error, LeaseId, Loss, Result};
use parking_lot::Mutex;

use crate::core::{Core, require_runtime};

pub(crate) use holding::Holding;
use lease::Session;
pub(crate) use lease::{Leased, SessionUse, Write};
pub(crate) use loss::LossCell;

/// The sessions of one provider, one for each TTL.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// Bounded by the number of different TTLs that the program asks for.
    by_ttl: Mutex<HashMap<Duration, Arc<Slot>>>,
    /// Every session that still runs.
    live: Mutex<BTreeMap<LeaseId, Weak<Session>>>,
}

/// Holds the session of a TTL; locked while a new one is made, so that many callers make one.
type Slot = tokio::sync::Mutex<Weak<Session>>;

impl Sessions {
    /// The live session of a TTL, made where there is none: then this pays a grant and a write (R9a).
    ///
    /// # Cancel safety
    ///
    /// Dropped while a session is made, it may leave a lease behind that carries nothing and expires by itself.
    pub(crate) async fn enter(&self, core: &Arc<Core>, operation: &'static str, ttl: Duration) -> Result<SessionUse> {
        require_runtime(operation)?;
        let ttl = round_ttl(operation, ttl)?;
        let slot = Arc::clone(self.by_ttl.lock().entry(ttl).or_default());
        let mut current = slot.lock().await;
        if let Some(session) = current.upgrade().and_then(Session::enter) {
            return Ok(session);
        }
        let session = Session::open(core, ttl).await?;
        self.remember(&session);
        // Closing tells every session that it finds; this one may have come too late to be found.
        if core.is_closed() {
            session.lose(Loss::Closed);
        }
        *current = Arc::downgrade(&session);
        Session::enter(session).ok_or_else(|| Error::lease_lost(operation, "the new lease was lost at once"))
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
