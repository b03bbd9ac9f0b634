//! An entry on a session's lease that someone holds: what is behind lock guards, ids and registrations.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::handle::Leased;
use coord_api::{Error, ErrorKind, FencingToken, HandleState, Loss, Lost, Outcome, Result, Revision};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::lease::{Held, Session, SessionUse};
use super::loss::LossCell;

/// An entry that is being written, is held, or is being given back.
///
/// Made before its write is sent, so that a call dropped at any await point hands the entry to the session's debts (R9, R29).
pub(crate) struct Holding {
    session: SessionUse,
    /// Its number among the session's holdings and debts.
    number: u64,
    key: Bytes,
    entry: Mutex<Entry>,
    loss: Arc<LossCell>,
    /// How the release ended; locked while one is under way.
    released: tokio::sync::Mutex<Option<Result<()>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// Its create and mod revision, as last known.
    known: Option<(Revision, Revision)>,
    /// A write was sent and not answered: what is known may be out of date.
    in_flight: bool,
}

impl Holding {
    /// A holding of nothing yet.
    pub(crate) fn new(session: SessionUse, key: Bytes) -> Self {
        Holding {
            number: session.nonce(),
            session,
            key,
            entry: Mutex::new(Entry::default()),
            loss: Arc::new(LossCell::default()),
            released: tokio::sync::Mutex::new(None),
        }
    }

    /// A write of the entry is sent: from here on it may exist.
    pub(crate) fn sending(&self) {
        self.entry.lock().in_flight = true;
        self.track();
    }

    /// The write changed nothing, and will not.
    pub(crate) fn not_written(&self) {
        let known = {
            let mut entry = self.entry.lock();
            entry.in_flight = false;
            entry.known.is_some()
        };
        if !known {
            self.untrack();
        }
    }

    /// The entry was written: from here on its loss is noticed.
    pub(crate) fn written(&self, created: Revision, modified: Revision) {
        let session = self.session.session();
        session.debts.taken_over(&self.key);
        *self.entry.lock() = Entry { known: Some((created, modified)), in_flight: false };
        self.track();
    }

    /// Has the session count it among its holdings, or learns that the session is over.
    fn track(&self) {
        let session = self.session.session();
        let modified = self.modified();
        let mut state = session.state.lock();
        if state.shut {
            drop(state);
            self.loss.set(session.over.get().unwrap_or(Loss::Expired));
        } else {
            state.holdings.insert(self.number, Held { key: self.key.clone(), loss: Arc::clone(&self.loss), modified });
            drop(state);
            self.session.leave();
        }
    }

    /// The entry's key.
    pub(crate) fn key(&self) -> &Bytes {
        &self.key
    }

    /// The session it hangs on.
    pub(crate) fn session(&self) -> &SessionUse {
        &self.session
    }

    /// Whether a write was sent and not answered.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.entry.lock().in_flight
    }

    /// The entry's mod revision, once written.
    pub(crate) fn modified(&self) -> Option<Revision> {
        self.entry.lock().known.map(|(_, modified)| modified)
    }

    /// The entry's create revision, once written.
    pub(crate) fn created(&self) -> Option<Revision> {
        self.entry.lock().known.map(|(created, _)| created)
    }

    /// The end of this holding.
    pub(crate) fn loss(&self) -> &Arc<LossCell> {
        &self.loss
    }

    /// Lets the entry be: it is gone, or another's. A write that is still under way becomes a debt.
    pub(crate) fn disown(&self, loss: Loss) {
        if self.is_in_flight() {
            self.owe();
        }
        self.untrack();
        *self.entry.lock() = Entry::default();
        self.loss.set(loss);
    }

    fn untrack(&self) {
        self.session.session().untrack(self.number);
    }

    fn over(&self) -> Option<Loss> {
        let session = self.session.session().check();
        // The session is over first, and tells those on it one after the other. None of them may say meanwhile that it is held (R32).
        self.loss.get().or(session)
    }

    fn owe(&self) {
        let session = self.session.session();
        // The lease takes its entries along.
        if session.over.get().is_some() {
            return;
        }
        let Entry { known, in_flight } = *self.entry.lock();
        match known {
            _ if in_flight => session.debts.add(self.number, self.key.clone(), None),
            Some((_, modified)) => session.debts.add(self.number, self.key.clone(), Some(modified)),
            None => {}
        }
    }

    /// Whether the session that carries it is over: then nothing of it can be written any more, and only the end of its lease takes it away.
    pub(crate) fn is_stranded(&self) -> bool {
        self.session.session().check().is_some()
    }

    /// Removes whatever of it is in the store, also where it was lost before: an entry that was removed can have been written again by a write of its own that
    /// was under way.
    ///
    /// # Errors
    ///
    /// `LeaseLost` where nothing of it was left, or whatever kept the store from answering; then it is a debt.
    pub(crate) async fn erase(&self) -> Result<()> {
        // The session is needed until the store has answered: its end would overtake the release.
        let _needed = self.session.clone();
        self.untrack();
        self.loss.set(Loss::Released);
        self.give_back().await
    }

    /// Sends the release. What is not acknowledged, or not waited for, becomes a debt.
    async fn give_back(&self) -> Result<()> {
        let session: &Arc<Session> = self.session.session();
        let mut unpaid = Unpaid { holding: self, paid: false };
        let removed = async {
            if self.is_in_flight() {
                session.settle().await?;
                // Nothing is on its way any more: what hangs here on this lease is this holding's.
                let found = self.session.read(&self.key).await?.filter(|entry| entry.lease == Some(session.lease));
                *self.entry.lock() = Entry { known: found.map(|found| (found.created, found.modified)), in_flight: false };
            }
            match self.modified() {
                Some(modified) => session.remove(&self.key, modified).await,
                None => Ok(false),
            }
        };
        match removed.await {
            Ok(existed) => {
                unpaid.paid = true;
                if existed { Ok(()) } else { Err(Error::lease_lost("release", "the entry was gone already")) }
            }
            Err(error) if error.kind() == ErrorKind::LeaseLost => Err(error),
            Err(error) => Err(error.with_outcome(Outcome::Unknown)),
        }
    }
}

/// A release under way; unless it was paid, it ends as a debt.
struct Unpaid<'a> {
    holding: &'a Holding,
    paid: bool,
}

impl Drop for Unpaid<'_> {
    fn drop(&mut self) {
        if self.paid {
            // An earlier, failed release may have left a debt.
            self.holding.session.session().debts.forget(self.holding.number);
        } else {
            self.holding.owe();
        }
    }
}

#[async_trait]
impl Leased for Holding {
    fn fencing_token(&self) -> FencingToken {
        self.created().unwrap_or_default().into()
    }

    fn state(&self) -> HandleState {
        match self.over() {
            Some(loss) => HandleState::Ended(loss),
            None => HandleState::Held,
        }
    }

    fn ttl(&self) -> Duration {
        match self.over() {
            Some(_) => Duration::ZERO,
            None => self.session.session().state.lock().deadline.saturating_duration_since(Instant::now()),
        }
    }

    fn lost(&self) -> Lost {
        self.loss.lost()
    }

    async fn release(&self) -> Result<()> {
        let mut released = self.released.lock().await;
        match &*released {
            None => match self.over() {
                Some(Loss::Closed) => return Err(Error::closed("release")),
                Some(Loss::Released) | None => {}
                Some(_) => return Err(Error::lease_lost("release", "it was lost before it was released")),
            },
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) if error.kind() == ErrorKind::LeaseLost => return Err(error.clone()),
            // The answer was lost: ask again.
            Some(Err(_)) => {}
        }
        let answer = self.session.session().core.run("release", Outcome::Unknown, self.erase()).await;
        *released = Some(answer.clone());
        answer
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let over = self.over().is_some();
        if !over {
            self.loss.set(Loss::Released);
            self.owe();
        }
        self.untrack();
    }
}

impl fmt::Debug for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holding")
            .field("key", &self.key)
            .field("entry", &*self.entry.lock())
            .field("loss", &self.loss.get())
            .finish_non_exhaustive()
    }
}
