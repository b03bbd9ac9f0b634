//! An entry on a session's lease that someone holds: what is behind lock guards, ids and registrations.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::handle::Leased;
use coord_api::{Error, ErrorKind, FencingToken, HandleState, Loss, Lost, Outcome, Result, Revision};
use parking_lot::Mutex;

use super::lease::{Held, Session, SessionUse};
use super::loss::LossCell;
use crate::flight::SingleFlight;
use crate::telemetry::Subject;

/// An entry that is being written, is held, or is being given back.
///
/// Made before its write is sent, so that a call dropped at any await point hands the entry to the session's debts (R9, R29).
pub(crate) struct Holding {
    shared: Arc<Shared>,
}

/// What a release under way needs as well, which goes on when its caller, or the holding, goes away.
struct Shared {
    session: SessionUse,
    /// Its number among the session's holdings and debts.
    number: u64,
    key: Bytes,
    entry: Mutex<Entry>,
    loss: Arc<LossCell>,
    /// How the last release ended.
    released: Mutex<Option<Result<()>>>,
    releasing: SingleFlight<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// Its create and mod revision, as last known.
    known: Option<(Revision, Revision)>,
    /// A write was sent and not answered: what is known may be out of date.
    in_flight: bool,
}

impl Holding {
    /// A holding of nothing yet, which will stand for `subject`.
    pub(crate) fn new(session: SessionUse, key: Bytes, subject: Subject) -> Self {
        let shared = Shared {
            number: session.nonce(),
            session,
            key,
            entry: Mutex::new(Entry::default()),
            loss: Arc::new(LossCell::of(subject)),
            released: Mutex::new(None),
            releasing: SingleFlight::default(),
        };
        Holding { shared: Arc::new(shared) }
    }

    /// A write of the entry is sent: from here on it may exist.
    pub(crate) fn sending(&self) {
        self.shared.entry.lock().in_flight = true;
        self.shared.track();
    }

    /// The write changed nothing, and will not.
    pub(crate) fn not_written(&self) {
        let known = {
            let mut entry = self.shared.entry.lock();
            entry.in_flight = false;
            entry.known.is_some()
        };
        if !known {
            self.shared.untrack();
        }
    }

    /// The entry was written: from here on its loss is noticed.
    pub(crate) fn written(&self, created: Revision, modified: Revision) {
        self.session().session().debts.taken_over(&self.shared.key);
        *self.shared.entry.lock() = Entry { known: Some((created, modified)), in_flight: false };
        self.shared.track();
    }

    /// The entry's key.
    pub(crate) fn key(&self) -> &Bytes {
        &self.shared.key
    }

    /// The session it hangs on.
    pub(crate) fn session(&self) -> &SessionUse {
        &self.shared.session
    }

    /// Whether a write was sent and not answered.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.shared.is_in_flight()
    }

    /// The entry's mod revision, once written.
    pub(crate) fn modified(&self) -> Option<Revision> {
        self.shared.modified()
    }

    /// The entry's create revision, once written.
    pub(crate) fn created(&self) -> Option<Revision> {
        self.shared.entry.lock().known.map(|(created, _)| created)
    }

    /// The end of this holding.
    pub(crate) fn loss(&self) -> &Arc<LossCell> {
        &self.shared.loss
    }

    /// It is its user's from now on.
    pub(crate) fn held(&self) {
        if let Some(subject) = self.shared.loss.subject() {
            subject.held(self.session().session().core.telemetry.begin());
        }
    }

    /// Tells the operator once more, of another loss than the one that its end was put down to.
    pub(crate) fn report(&self, loss: Loss) {
        if let Some(subject) = self.shared.loss.subject() {
            let session = self.session().session();
            session.core.telemetry.lost(&[subject], loss, &session.last_renewal());
        }
    }

    /// Its entry was found to be gone, and the operator is told.
    pub(crate) fn gone(&self, loss: Loss) {
        self.let_be();
        self.session().session().end_all(vec![Arc::clone(&self.shared.loss)], loss);
    }

    /// Lets the entry be: it is gone, or another's. A write that is still under way becomes a debt.
    pub(crate) fn disown(&self, loss: Loss) {
        self.let_be();
        self.shared.end(loss);
    }

    fn let_be(&self) {
        if self.is_in_flight() {
            self.shared.owe();
        }
        self.shared.untrack();
        *self.shared.entry.lock() = Entry::default();
    }

    /// Whether the session that carries it is over: then nothing of it can be written any more, and only the end of its lease takes it away.
    pub(crate) fn is_stranded(&self) -> bool {
        self.session().session().check().is_some()
    }

    /// Removes whatever of it is in the store, also where it was lost before: an entry that was removed can have been written again by a write of its own that
    /// was under way.
    ///
    /// # Errors
    ///
    /// `LeaseLost` where nothing of it was left, or whatever kept the store from answering; then it is a debt.
    pub(crate) async fn erase(&self) -> Result<()> {
        self.shared.erase().await
    }

    /// Releases it, and remembers how that ended.
    async fn release_once(&self) -> Result<()> {
        if let Some(released) = self.shared.is_released() {
            return released;
        }
        // After a release whose answer was lost it is asked again.
        if self.shared.released.lock().is_none() {
            match self.shared.over() {
                Some(Loss::Closed) => return Err(Error::closed("release")),
                Some(Loss::Released) | None => {}
                Some(_) => return Err(Error::lease_lost("release", "it was lost before it was released")),
            }
        }
        let core = &self.session().session().core;
        // At home, so that a second caller never waits for a first one that is left alone.
        let release = self.shared.releasing.run(&core.home, "release", || {
            let shared = Arc::clone(&self.shared);
            async move { shared.release().await }
        });
        core.run("release", Outcome::Unknown, release).await
    }
}

impl Shared {
    /// Has the session count it among its holdings, or learns that the session is over.
    fn track(&self) {
        let session = self.session.session();
        let modified = self.modified();
        let mut state = session.state.lock();
        if state.shut {
            drop(state);
            self.end(session.over.get().unwrap_or(Loss::Expired));
        } else {
            state.holdings.insert(self.number, Held { key: self.key.clone(), loss: Arc::clone(&self.loss), modified });
            drop(state);
            self.session.leave();
        }
    }

    fn end(&self, loss: Loss) {
        self.session.session().end(&self.loss, loss);
    }

    fn is_in_flight(&self) -> bool {
        self.entry.lock().in_flight
    }

    fn modified(&self) -> Option<Revision> {
        self.entry.lock().known.map(|(_, modified)| modified)
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
        let modified = match known {
            _ if in_flight => None,
            Some((_, modified)) => Some(modified),
            None => return,
        };
        session.debts.add(self.number, self.key.clone(), modified, session.now());
    }

    async fn erase(&self) -> Result<()> {
        // The session is needed until the store has answered: its end would overtake the release.
        let _needed = self.session.clone();
        self.untrack();
        self.end(Loss::Released);
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

    /// How an earlier release ended, where asking the store again would change nothing.
    fn is_released(&self) -> Option<Result<()>> {
        match &*self.released.lock() {
            Some(Err(error)) if error.kind() != ErrorKind::LeaseLost => None,
            released => released.clone(),
        }
    }

    /// Releases it, once.
    async fn release(&self) -> Result<()> {
        if let Some(released) = self.is_released() {
            return released;
        }
        let answer = self.erase().await;
        *self.released.lock() = Some(answer.clone());
        answer
    }
}

/// A release under way; unless it was paid, it ends as a debt.
struct Unpaid<'a> {
    holding: &'a Shared,
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
        match self.shared.over() {
            Some(loss) => HandleState::Ended(loss),
            None => HandleState::Held,
        }
    }

    fn ttl(&self) -> Duration {
        match self.shared.over() {
            Some(_) => Duration::ZERO,
            None => {
                let session = self.session().session();
                session.state.lock().deadline.saturating_duration_since(session.now())
            }
        }
    }

    fn lost(&self) -> Lost {
        self.shared.loss.lost()
    }

    async fn release(&self) -> Result<()> {
        let released = self.release_once().await;
        released.map_err(|error| match self.shared.loss.subject() {
            Some(subject) => error.about(&subject.name),
            None => error,
        })
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        // A fork left its child nothing to give back, and its locks as they were.
        if self.session().session().core.home.is_left_behind() {
            return;
        }
        if self.shared.over().is_none() {
            // Closing ends the leases themselves, and needs no release of each entry besides.
            if self.session().session().core.is_closed() {
                self.shared.end(Loss::Closed);
            } else {
                self.shared.end(Loss::Released);
                self.shared.owe();
            }
        }
        self.shared.untrack();
    }
}

impl fmt::Debug for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holding")
            .field("key", &self.shared.key)
            .field("entry", &*self.shared.entry.lock())
            .field("loss", &self.shared.loss.get())
            .finish_non_exhaustive()
    }
}
