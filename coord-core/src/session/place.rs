//! An entry on a session's lease that someone holds: what is behind lock guards, ids and
//! registrations; and the one way in which such entries are written.
//!
//! # The write protocol
//!
//! Before a write is sent, the session knows of its entries, so that a call dropped at any await
//! point leaves a pending release (R9, R29). It goes under the session's fence (R2). Where its
//! answer is lost, the fence is moved, so that it cannot be applied later, and the entries are read
//! back. In each case the entry knows what became of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::handle::Leased;
use coord_api::store::{Entry, Txn, TxnReply};
use coord_api::{Error, ErrorKind, Fence, FencingToken, HandleState, Loss, Lost, Outcome, Result, Revision};
use parking_lot::Mutex;

use super::batching;
use super::loss::LossCell;
use super::pending::Release;
use super::reference::SessionRef;
use super::session::{Session, Written};
use super::state::Tracked;
use crate::flight::SingleFlight;
use crate::telemetry::Subject;

/// How the transaction that writes entries is built: once, and once more where it must be sent
/// again.
pub type Build<'a> = &'a (dyn Fn() -> Txn + Send + Sync);

/// What became of a write of entries.
#[derive(Debug)]
pub enum Placed {
    /// They are written; the answers of the transaction. A [batched](LeasedEntry::place_batched)
    /// one has none.
    Written(TxnReply),
    /// A compare did not hold, and nothing is written; the answers of its `otherwise`.
    Refused(TxnReply),
    /// The answer was lost. The write is fenced off, and this is what stands under the entries'
    /// keys now, in their order. An entry that stands on the session's lease may be what was
    /// written; whether it is, the caller [says](LeasedEntry::confirm). Those of the others know
    /// that they were not written.
    Found(Vec<Option<Entry>>),
}

/// Which fencing token an entry has after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A new one: the revision of the write.
    New,
    /// The one that it had, where it had one: the write goes over an entry of one's own.
    Kept,
}

/// An entry that is being written, is held, or is being given back.
///
/// Made before its write is sent, so that a call dropped at any await point leaves the release of
/// the entry to its session (R9, R29). It is a [`Leased`] handle: what a recipe gives to its user
/// can be made of it.
///
/// # Dropping
///
/// Dropped while held, it is released by its session, which goes on trying for as long as the lease
/// lives (R9).
pub struct LeasedEntry {
    shared: Arc<EntryParts>,
}

/// What a release under way needs as well, which goes on when its caller, or the entry, goes away.
struct EntryParts {
    session: SessionRef,
    /// Its number among the session's entries and pending releases.
    number: u64,
    key: Bytes,
    known: Mutex<EntryState>,
    loss: Arc<LossCell>,
    /// How the last release ended.
    released: Mutex<Option<Result<()>>>,
    releasing: SingleFlight<()>,
}

/// What is known of an entry in the store.
#[derive(Clone, Copy, Debug, Default)]
struct EntryState {
    /// How it stands in the store, once it was written.
    written: Option<WrittenEntry>,
    /// A write was sent and not answered, and gives this token: what is known may be out of date.
    in_flight: Option<Token>,
    /// When what the next write goes over was created, where that is not this entry.
    over: Option<Revision>,
}

/// How an entry stands in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WrittenEntry {
    /// The revision that is its token.
    number: Revision,
    created: Revision,
    modified: Revision,
}

impl EntryState {
    /// It was written at `modified`, by the write that is in flight, which went over an entry that
    /// was created at `over`, or over none that is not its own.
    fn written_at(&mut self, modified: Revision, over: Option<Revision>, token: Token) {
        let before = self.written.filter(|_| token == Token::Kept);
        let written = WrittenEntry {
            number: before.map_or(modified, |before| before.number),
            created: over.or(before.map(|before| before.created)).unwrap_or(modified),
            modified,
        };
        *self = EntryState { written: Some(written), ..EntryState::default() };
    }
}

impl LeasedEntry {
    /// An entry under `key` that is not written yet, and will stand for `subject`.
    pub fn new(session: SessionRef, key: Bytes, subject: Subject) -> Self {
        let shared = EntryParts {
            number: session.nonce(),
            session,
            key,
            known: Mutex::default(),
            loss: Arc::new(LossCell::of(subject)),
            released: Mutex::new(None),
            releasing: SingleFlight::default(),
        };
        LeasedEntry { shared: Arc::new(shared) }
    }

    /// Writes it with a new token, by the transaction that `build` makes.
    ///
    /// The transaction is sent under the session's fence: nothing of it is applied after the
    /// session is over, or once a doubt is [settled](SessionRef::settle). It must put the entry's
    /// key on the session's lease.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when the session is over, or whatever kept the store from answering. The entry
    /// knows of a doubt, and leaves a pending release where it is dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the entry is in doubt: [`look`](Self::look) says what became of it, and dropped it
    /// leaves a pending release.
    pub async fn place(&self, build: Build<'_>) -> Result<Placed> {
        Self::place_all(&[self], Token::New, build).await
    }

    /// As [`place`](Self::place), for several entries of one session at once.
    ///
    /// # Errors
    ///
    /// As [`place`](Self::place); `Internal` for entries of different sessions, or none.
    ///
    /// # Cancel safety
    ///
    /// As [`place`](Self::place).
    pub async fn place_all(entries: &[&Self], token: Token, build: Build<'_>) -> Result<Placed> {
        let session = one_session(entries)?;
        let doubt = begin(session, entries, token)?;
        conclude(session, entries, token, session.write_under(doubt, build).await).await
    }

    /// As [`place`](Self::place), for a write that needs no answer of its operations: what comes at
    /// once for one session is sent together.
    ///
    /// # Errors
    ///
    /// As [`place`](Self::place).
    ///
    /// # Cancel safety
    ///
    /// As [`place`](Self::place).
    pub async fn place_batched(&self, token: Token, build: Build<'_>) -> Result<Placed> {
        let (session, entries) = (self.shared.session.session(), [self]);
        // It goes under the fence of the batch that takes it.
        begin(session, &entries, token)?.answered();
        let answer = batching::write_batched(session, &self.shared.key, build).await;
        conclude(session, &entries, token, answer).await
    }

    /// Ends it by a write of one's own, instead of its release: one that moves its key to another
    /// lease, or deletes it together with other keys. The transaction must compare that the entry
    /// is still there, and not leave it on the session's lease.
    ///
    /// `Written`, and the entry is over as if it had been released; `Refused`, and it is as it was.
    /// Where the answer was lost and the entry stands as it was, the write is sent again; where it
    /// does not, and the session is there, so that nothing else has ended the entry, `Found` has
    /// what stands in its place.
    ///
    /// # Errors
    ///
    /// `LeaseLost` when the session is over, outcome `Unknown` where the write may have been
    /// applied before; or when another lease that the transaction names is gone, and then the entry
    /// is as it was; whatever kept the store from answering.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the write may or may not be applied; dropped as well, the entry leaves a pending
    /// release, which does nothing where the write was applied.
    pub async fn end_by(&self, build: Build<'_>) -> Result<Placed> {
        let (session, entries) = (self.shared.session.session(), [self]);
        loop {
            let doubt = begin(session, &entries, Token::Kept)?;
            // No look at the lease may take it for removed while the write is under way.
            self.shared.leaving();
            match session.write_under(doubt, build).await {
                Ok(Written::Done(reply)) => {
                    self.shared.left();
                    return Ok(Placed::Written(reply));
                }
                Ok(Written::Refused(reply)) => {
                    self.shared.stays();
                    return Ok(Placed::Refused(reply));
                }
                Ok(Written::FencedOff(_)) => {}
                Err(error) if error.is_transient() && error.outcome() == Outcome::Unknown => {
                    session.settle().await.map_err(|second| match second.kind() {
                        ErrorKind::LeaseLost => second.with_outcome(Outcome::Unknown),
                        _ => error,
                    })?;
                }
                Err(error) => {
                    if error.outcome() == Outcome::NotApplied {
                        self.shared.stays();
                    }
                    return Err(error);
                }
            }
            // Were the session gone, so would be the entry, whatever became of the write.
            let found = session.look(&self.shared.key).await?;
            if found.as_ref().map(|found| found.modified) != self.modified() {
                self.shared.left();
                return Ok(Placed::Found(vec![found]));
            }
        }
    }

    /// What stands under the entry's key after a write whose answer nobody has. That is fenced off
    /// first: nothing of it is applied later (R2). The entry counts as not written until it is
    /// [confirmed](Self::confirm).
    ///
    /// # Errors
    ///
    /// `LeaseLost` when the session is over, or whatever kept the store from answering; the doubt
    /// stays.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn look(&self) -> Result<Option<Entry>> {
        let session = self.shared.session.session();
        session.settle().await?;
        let found = session.ground.read(self.shared.key.clone()).await?;
        self.shared.not_written();
        Ok(found)
    }

    /// What stands in the store is this entry, as its last write has left it.
    pub fn confirm(&self, found: &Entry, token: Token) {
        self.goes_over(Some(found));
        self.shared.written(found.modified, token);
    }

    /// The next write goes over this entry, which another session, or nobody any more, has written;
    /// over none where it is `None`. The key keeps its create revision then.
    pub fn goes_over(&self, found: Option<&Entry>) {
        self.shared.known.lock().over = found.map(|found| found.created);
    }

    /// What ties a write to this entry, for as long as nobody has written it anew: for entries
    /// whose value says in which way they are held. While a write of its own is in doubt it is tied
    /// to the entry alone, however that is written (R55).
    pub fn fence_unwritten(&self) -> Fence {
        self.shared.fence(true)
    }

    /// The entry's key.
    pub fn key(&self) -> &Bytes {
        &self.shared.key
    }

    /// The session it hangs on.
    pub fn session(&self) -> &SessionRef {
        &self.shared.session
    }

    /// Whether a write was sent whose outcome is not known.
    pub fn is_in_doubt(&self) -> bool {
        self.shared.known.lock().in_flight.is_some()
    }

    /// The entry's mod revision, once written.
    pub fn modified(&self) -> Option<Revision> {
        self.shared.known.lock().written.map(|written| written.modified)
    }

    /// The revision that is the entry's token, once written.
    pub fn number(&self) -> Option<Revision> {
        self.shared.known.lock().written.map(|written| written.number)
    }

    /// The end of this entry.
    pub fn loss(&self) -> &Arc<LossCell> {
        &self.shared.loss
    }

    /// It is its user's from now on: its loss is told to the operator. A place in a queue, for
    /// example, is not.
    pub fn held(&self) {
        if let Some(subject) = self.shared.loss.subject() {
            subject.held(self.number());
        }
    }

    /// Tells the operator of a loss without ending it: of one that ended already, for another
    /// reason that is known now.
    pub fn report(&self, loss: Loss) {
        if let Some(subject) = self.shared.loss.subject() {
            let session = self.shared.session.session();
            session.ground.telemetry.lost(&[subject], loss, session.lease, &session.last_renewal());
        }
    }

    /// It is gone from the store, or another's: it ends, and the operator is told. A write that is
    /// still under way becomes a pending release.
    pub fn end_lost(&self, loss: Loss) {
        self.shared.let_go();
        self.shared.session.session().end_all(vec![Arc::clone(&self.shared.loss)], loss);
    }

    /// As [`end_lost`](Self::end_lost), where that was intended and is nobody's trouble.
    pub fn end(&self, loss: Loss) {
        self.shared.let_go();
        self.shared.loss.set(loss);
    }

    /// Whether the session that carries it is over: then nothing of it can be written any more, and
    /// only the end of its lease takes it away.
    pub fn is_stranded(&self) -> bool {
        self.shared.session.session().check().is_some()
    }

    /// Removes whatever of it is in the store, also where it was lost before: an entry that was
    /// removed can have been written again by a write of its own that was under way.
    ///
    /// # Errors
    ///
    /// `LeaseLost` where nothing of it was left, or whatever kept the store from answering; the
    /// release is pending then.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the release is pending.
    pub async fn erase(&self) -> Result<()> {
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
        let ground = &self.shared.session.session().ground;
        // At home, so that a second caller never waits for a first one that is left alone.
        let release = self.shared.releasing.run(&ground.home, "release", || {
            let shared = Arc::clone(&self.shared);
            async move { shared.release().await }
        });
        ground.run("release", Outcome::Unknown, release).await
    }
}

/// The session of these entries.
fn one_session<'a>(entries: &[&'a LeasedEntry]) -> Result<&'a Arc<Session>> {
    let mut sessions = entries.iter().map(|entry| entry.shared.session.session());
    let first = sessions.next();
    let same = first.filter(|first| sessions.all(|session| Arc::ptr_eq(first, session)));
    same.ok_or_else(|| {
        Error::new(
            ErrorKind::Internal,
            "session",
            "entries of one session are written together, and at least one",
        )
    })
}

/// The write of these entries is about to be sent: from here on they may exist.
fn begin<'a>(
    session: &'a Session,
    entries: &[&LeasedEntry],
    token: Token,
) -> Result<super::session::Doubt<'a>> {
    let leaving = entries.iter().filter(|entry| entry.shared.session.take_count()).count();
    let tracked = entries.iter().map(|entry| {
        let mut known = entry.shared.known.lock();
        known.in_flight = Some(token);
        (entry.shared.number, entry.shared.tracked(&known))
    });
    session.begin_write(tracked.collect(), leaving).inspect_err(|_| {
        let loss = session.over.get().unwrap_or(Loss::Expired);
        for entry in entries {
            entry.shared.not_written();
            entry.shared.loss.set(loss);
        }
    })
}

/// Finds out what became of a write, and has the entries know it.
async fn conclude(
    session: &Arc<Session>,
    entries: &[&LeasedEntry],
    token: Token,
    answer: Result<Written>,
) -> Result<Placed> {
    match answer {
        Ok(Written::Done(reply)) => {
            entries.iter().for_each(|entry| entry.shared.written(reply.revision, token));
            Ok(Placed::Written(reply))
        }
        Ok(Written::Refused(reply)) => {
            entries.iter().for_each(|entry| entry.shared.not_written());
            Ok(Placed::Refused(reply))
        }
        Ok(Written::FencedOff(found)) => Ok(found_instead(session, entries, vec![found])),
        Err(error) if error.is_transient() && error.outcome() == Outcome::Unknown => {
            // The first error says more to the caller than a second one.
            session
                .settle()
                .await
                .map_err(|second| if second.kind() == ErrorKind::LeaseLost { second } else { error })?;
            Ok(found_instead(session, entries, read_all(session, entries).await?))
        }
        Err(error) => {
            if error.outcome() == Outcome::NotApplied {
                entries.iter().for_each(|entry| entry.shared.not_written());
            }
            Err(error)
        }
    }
}

/// What stands under the entries' keys after a write that is fenced off. Those that do not stand on
/// this lease were not written.
fn found_instead(session: &Session, entries: &[&LeasedEntry], found: Vec<Option<Entry>>) -> Placed {
    for (entry, found) in entries.iter().zip(&found) {
        if found.as_ref().is_none_or(|found| found.lease != Some(session.lease)) {
            entry.shared.not_written();
        }
    }
    Placed::Found(found)
}

/// What stands under the entries' keys.
async fn read_all(session: &Session, entries: &[&LeasedEntry]) -> Result<Vec<Option<Entry>>> {
    match entries {
        [entry] => Ok(vec![session.ground.read(entry.shared.key.clone()).await?]),
        _ => session.read_all(entries.iter().map(|entry| &entry.shared.key)).await,
    }
}

impl EntryParts {
    fn tracked(&self, known: &EntryState) -> Tracked {
        Tracked {
            key: self.key.clone(),
            loss: Arc::clone(&self.loss),
            modified: known.written.map(|written| written.modified),
        }
    }

    /// What ties a write to the entry: to the one that is known to stand there, whatever is written
    /// over it, or to its last write as well.
    fn fence(self: &Arc<Self>, unwritten: bool) -> Fence {
        let session = self.session.session();
        // Known, for the session was made by then.
        let store = session.ground.known_store_id().cloned().unwrap_or_default();
        let EntryState { written, in_flight, .. } = *self.known.lock();
        let Some(written) = written else { return Fence::broken(store) };
        let entry = Arc::clone(self);
        let held = move || entry.over().is_none();
        let fence = Fence::new(store, self.key.clone(), written.created, session.lease, held);
        if unwritten && in_flight.is_none() { fence.unwritten_since(written.modified) } else { fence }
    }

    /// The entry was written at `modified`: from here on its loss is noticed.
    fn written(&self, modified: Revision, token: Token) {
        let session = self.session.session();
        session.pending.written_over(&self.key);
        let tracked = {
            let mut known = self.known.lock();
            let over = known.over;
            known.written_at(modified, over, token);
            self.tracked(&known)
        };
        if !session.state.lock().written(self.number, tracked) {
            self.loss.set(session.over.get().unwrap_or(Loss::Expired));
        }
    }

    /// The write changed nothing, and will not.
    fn not_written(&self) {
        let written = {
            let mut known = self.known.lock();
            known.in_flight = None;
            known.written.is_some()
        };
        if !written {
            self.session.session().untrack(self.number);
        }
    }

    /// A write is under way that ends the entry.
    fn leaving(&self) {
        let tracked = Tracked { modified: None, ..self.tracked(&self.known.lock()) };
        self.session.session().state.lock().written(self.number, tracked);
    }

    /// The write that was to end the entry did not: it stands as it was.
    fn stays(&self) {
        let tracked = {
            let mut known = self.known.lock();
            known.in_flight = None;
            self.tracked(&known)
        };
        self.session.session().state.lock().written(self.number, tracked);
    }

    /// It is gone from the lease, by a write of its own.
    fn left(&self) {
        *self.known.lock() = EntryState::default();
        self.loss.set(Loss::Released);
        self.let_go();
    }

    fn over(&self) -> Option<Loss> {
        let session = self.session.session().check();
        // The session is over first, and tells those on it one after the other. None of them may
        // say meanwhile that it is held (R32).
        self.loss.get().or(session)
    }

    /// Lets the entry be: it is gone, or another's.
    fn let_go(&self) {
        if self.known.lock().in_flight.is_some() {
            self.leave_pending();
        }
        self.session.session().untrack(self.number);
        *self.known.lock() = EntryState::default();
    }

    /// Leaves the release of what may be in the store to the session.
    fn leave_pending(&self) {
        let session = self.session.session();
        // The lease takes its entries along.
        if session.over.get().is_some() {
            return;
        }
        let modified = match *self.known.lock() {
            EntryState { in_flight: Some(_), .. } => None,
            EntryState { written: Some(written), .. } => Some(written.modified),
            EntryState { written: None, .. } => return,
        };
        session.pending.add(Release {
            number: self.number,
            key: self.key.clone(),
            modified,
            since: session.now(),
        });
    }

    async fn erase(&self) -> Result<()> {
        // The session is needed until the store has answered: its end would overtake the release.
        let _needed = self.session.clone();
        self.session.session().untrack(self.number);
        self.loss.set(Loss::Released);
        self.give_back().await
    }

    /// Sends the release. What is not acknowledged, or not waited for, becomes pending.
    async fn give_back(&self) -> Result<()> {
        let session = self.session.session();
        let mut releasing = Releasing { entry: self, acknowledged: false };
        let removed = async {
            if self.known.lock().in_flight.is_some() {
                session.settle().await?;
                // Nothing is on its way any more: what hangs here on this lease is this entry.
                let found = session
                    .ground
                    .read(self.key.clone())
                    .await?
                    .filter(|entry| entry.lease == Some(session.lease));
                *self.known.lock() = EntryState {
                    written: found.map(|found| WrittenEntry {
                        number: found.created,
                        created: found.created,
                        modified: found.modified,
                    }),
                    ..EntryState::default()
                };
            }
            let written = self.known.lock().written;
            match written {
                Some(written) => session.remove(&self.key, written.modified).await,
                None => Ok(false),
            }
        };
        match removed.await {
            Ok(existed) => {
                releasing.acknowledged = true;
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

/// A release under way; unless it is acknowledged, it becomes pending.
struct Releasing<'a> {
    entry: &'a EntryParts,
    acknowledged: bool,
}

impl Drop for Releasing<'_> {
    fn drop(&mut self) {
        if self.acknowledged {
            // An earlier, failed release may be pending.
            self.entry.session.session().pending.forget(self.entry.number);
        } else {
            self.entry.leave_pending();
        }
    }
}

#[async_trait]
impl Leased for LeasedEntry {
    fn fencing_token(&self) -> FencingToken {
        self.number().unwrap_or_default().into()
    }

    fn fence(&self) -> Fence {
        self.shared.fence(false)
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
            None => self.shared.session.session().left().unwrap_or_default(),
        }
    }

    fn lost(&self) -> Lost {
        self.shared.loss.lost()
    }

    async fn release(&self) -> Result<()> {
        let released = self.release_once().await;
        released.map_err(|error| match self.shared.loss.subject() {
            Some(subject) => error.about(subject.name()),
            None => error,
        })
    }
}

impl Drop for LeasedEntry {
    fn drop(&mut self) {
        let session = self.shared.session.session();
        // A fork left its child nothing to give back, and its locks as they were.
        if session.ground.home.is_left_behind() {
            return;
        }
        let held = self.shared.over().is_none();
        // Closing ends the leases themselves, and needs no release of each entry besides.
        let closed = session.ground.is_closed();
        if held {
            self.shared.loss.set(if closed { Loss::Closed } else { Loss::Released });
            if !closed {
                self.shared.leave_pending();
            }
        }
        session.untrack(self.shared.number);
        // Last, for it is the user's code that hears it.
        if let Some(subject) = self.shared.loss.subject().filter(|_| held && !closed) {
            session.ground.telemetry.dropped(subject);
        }
    }
}

impl fmt::Debug for LeasedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeasedEntry")
            .field("key", &self.shared.key)
            .field("known", &*self.shared.known.lock())
            .field("loss", &self.shared.loss.get())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(number: u64, created: u64, modified: u64) -> Option<WrittenEntry> {
        let [number, created, modified] = [number, created, modified].map(Revision::new);
        Some(WrittenEntry { number, created, modified })
    }

    #[test]
    fn a_token_is_the_revision_of_the_write_unless_it_is_kept() {
        let mut entry = EntryState { in_flight: Some(Token::New), ..EntryState::default() };
        entry.written_at(Revision::new(5), None, Token::New);
        assert_eq!((entry.written, entry.in_flight), (known(5, 5, 5), None));
        entry.written_at(Revision::new(7), None, Token::Kept);
        assert_eq!(entry.written, known(5, 5, 7));
        entry.written_at(Revision::new(9), None, Token::New);
        assert_eq!(entry.written, known(9, 9, 9));
    }

    #[test]
    fn there_is_nothing_to_keep_before_the_first_write() {
        let mut entry = EntryState::default();
        entry.written_at(Revision::new(5), None, Token::Kept);
        assert_eq!(entry.written, known(5, 5, 5));
    }

    #[test]
    fn what_goes_over_an_entry_is_as_old_as_that() {
        let mut entry = EntryState::default();
        entry.written_at(Revision::new(5), Some(Revision::new(3)), Token::New);
        assert_eq!(entry.written, known(5, 3, 5));
        entry.written_at(Revision::new(7), None, Token::Kept);
        assert_eq!(entry.written, known(5, 3, 7));
    }
}
