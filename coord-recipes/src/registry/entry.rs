//! One registered entry: how it gets into the store, how its loss is noticed, how it goes (R34,
//! R37, R38).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_api::handle::Leased as _;
use coord_api::store::{Compare, Entry, Op, Range, Txn};
use coord_api::{ErrorKind, LeaseId, Loss, Outcome, Result, Revision, Takeover, Value};
use coord_core::session::{LeasedEntry, Placed, Token};
use coord_core::telemetry::{Counted, Subject};
use coord_core::{Client, backoff};
use coord_home::Backoff;
use tokio::time::Instant;

use super::fate::Verdict;
use super::follower::{Followed, Interest};
use super::lifecycle::{Action, Event, Lifecycle};
use super::{CONTRACT, REGISTRATIONS, UNREGISTER, record};

/// What should be in the store.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) content: Value,
    /// A whole number of seconds.
    pub(super) ttl: Duration,
}

/// What happened to an entry.
#[derive(Debug)]
pub(super) enum EntryEvent {
    /// It is in the store as wanted.
    Held,
    /// It was lost, and must be written again.
    Lost,
    /// A live foreign owner holds the key; where that one is reached, where it is known.
    Foreign(Option<String>),
    /// An attempt to write it failed.
    Failed(coord_api::Error),
}

/// The entry under one key, as one provider wants it.
#[derive(Debug)]
pub(super) struct RegisteredEntry {
    client: Client,
    key: Bytes,
    /// `service/id`, as its owner knows it.
    name: String,
    /// Whether it is held or heals, for the metrics.
    counted: Counted,
    wanted: Option<Wanted>,
    lifecycle: Lifecycle,
    /// The entry that is written, or being written.
    current: Option<Arc<LeasedEntry>>,
    /// The entry under the lease of another TTL, until it has moved.
    moving_from: Option<Arc<LeasedEntry>>,
    /// A lease that was lost with the entry on it, until the entry stands on another: while the
    /// store keeps the one, it keeps the other.
    left_on: Option<LeaseId>,
    /// The token of the write that was sent last: kept, where it goes over an entry of this
    /// provider.
    token: Token,
    interest: Interest,
    /// What is told of the entry; none before it was to be written for the first time.
    followed: Option<Followed>,
    /// Whether it was written once, and so is followed.
    is_told: bool,
    backoff: Backoff,
}

impl RegisteredEntry {
    pub(super) fn new(client: Client, key: Bytes, name: String, interest: Interest) -> Self {
        RegisteredEntry {
            client,
            key,
            name,
            counted: Counted::by(REGISTRATIONS),
            wanted: None,
            lifecycle: Lifecycle::default(),
            current: None,
            moving_from: None,
            left_on: None,
            token: Token::New,
            interest,
            followed: None,
            is_told: false,
            backoff: backoff(),
        }
    }

    /// What is wanted now.
    pub(super) fn wanted(&self) -> Option<&Wanted> {
        self.wanted.as_ref()
    }

    /// Wants something else, to be written at once: registered anew, or as an update of what is
    /// registered.
    pub(super) fn want(&mut self, wanted: Wanted, takeover: Option<Takeover>) {
        self.wanted = Some(wanted);
        self.lifecycle.step(Event::Wanted(takeover));
    }

    /// The entry on its lease, once it was written there; until then under the lease that it moves
    /// away from.
    pub(super) fn entry(&self) -> Option<&Arc<LeasedEntry>> {
        self.current.as_ref().filter(|entry| entry.number().is_some()).or(self.moving_from.as_ref())
    }

    /// Tries again after a pause.
    pub(super) fn retry_later(&mut self) {
        let then = self.client.home().now() + self.backoff.pause();
        self.lifecycle.step(Event::Failed(then));
    }

    /// What happens next; pending for ever while nothing is wanted.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a write that was under way is fenced off before the next one.
    pub(super) async fn next(&mut self) -> EntryEvent {
        match self.lifecycle.action() {
            Action::Rest => return std::future::pending().await,
            Action::Follow => return self.follow().await,
            Action::GiveWay => return EntryEvent::Foreign(None),
            Action::Write => {}
            Action::WriteAt(then) => {
                let home = self.client.home().clone();
                // Followed during the pause as well: who is superseded meanwhile learns it at once.
                tokio::select! {
                    biased;
                    news = self.follow(), if self.is_followed() => return news,
                    () = home.sleep_until(then) => {}
                }
            }
        }
        match Box::pin(self.place()).await {
            Ok(news) => news,
            Err(error) => EntryEvent::Failed(error),
        }
    }

    async fn place(&mut self) -> Result<EntryEvent> {
        let Some(wanted) = self.wanted.clone() else { return Ok(EntryEvent::Lost) };
        let entry = self.live_entry(wanted.ttl).await?;
        self.followed.get_or_insert_with(|| self.interest.follow(self.key.clone()));
        // What is to be written over, and whether it is this provider's own.
        let mut seen = entry.modified().map(|modified| (modified, true));
        let mut found = if entry.is_in_doubt() { Some(entry.look().await?) } else { None };
        loop {
            if let Some(found) = found.take() {
                match found {
                    Some(found)
                        if found.lease == Some(entry.session().lease()) && found.value == wanted.content =>
                    {
                        entry.confirm(&found, self.token);
                        return Ok(self.on_placed(&entry, found.modified));
                    }
                    Some(found) if !self.may_replace(&found) => {
                        return Ok(EntryEvent::Foreign(record::reached_at(&found)));
                    }
                    None if self.is_followed() => return Ok(self.follow().await),
                    found => seen = self.look_at(&entry, found.as_ref()),
                }
            }
            self.token = if seen.is_some_and(|(_, ours)| ours) { Token::Kept } else { Token::New };
            let write = || {
                let condition = match seen {
                    Some((modified, _)) => Compare::Modified(self.key.clone(), modified),
                    None => Compare::Absent(self.key.clone()),
                };
                let put = Op::put_leased(self.key.clone(), wanted.content.clone(), entry.session().lease());
                let look = Op::Range(Range::key(self.key.clone()));
                Txn::new().when(condition).then(put).otherwise(look)
            };
            match entry.place_batched(self.token, &write).await? {
                Placed::Written(reply) => return Ok(self.on_placed(&entry, reply.revision)),
                Placed::Refused(reply) => match reply.range(0).and_then(|found| found.entries.first()) {
                    Some(found) if !self.may_replace(found) => {
                        return Ok(EntryEvent::Foreign(record::reached_at(found)));
                    }
                    None if self.is_followed() => return Ok(self.follow().await),
                    found => seen = self.look_at(&entry, found),
                },
                Placed::Found(mut entries) => found = Some(entries.pop().flatten()),
            }
        }
    }

    /// What is to be written over, and whether it is this provider's own. A foreign owner's place
    /// is remembered as lost.
    fn look_at(&mut self, own: &LeasedEntry, found: Option<&Entry>) -> Option<(Revision, bool)> {
        own.goes_over(found);
        let entry = found?;
        let ours = self.is_ours(entry.lease);
        if !ours {
            self.lifecycle.step(Event::Contested);
        }
        Some((entry.modified, ours))
    }

    /// Whether an entry that is not as wanted still is this owner's, and the watch tells its fate.
    ///
    /// An entry that was held and is not there any more was removed, and must be written again
    /// (R37); or a foreign owner took its place and left, and it must not (R34). Only the watch,
    /// which tells all of it in order, knows.
    fn is_followed(&self) -> bool {
        let alive = self.entry().is_some_and(|entry| entry.loss().get().is_none());
        self.lifecycle.goes_on() && self.is_told && alive
    }

    /// The entry to write with, on a live session of this TTL.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: an entry stays in its place until nothing of it is on its way any more.
    async fn live_entry(&mut self, ttl: Duration) -> Result<Arc<LeasedEntry>> {
        if let Some(entry) = self.current.clone() {
            let held = entry.state().is_held();
            if held && entry.session().asked() == ttl {
                return Ok(entry);
            }
            if held {
                settle(&entry, self.token).await?;
            } else {
                fence_off(&self.client, &entry).await?;
                if entry.is_stranded() && entry.number().is_some() {
                    self.left_on = Some(entry.session().lease());
                }
            }
            self.current = None;
            if held && entry.number().is_some() {
                // The entry stands here; where it stood before it does not any more.
                if let Some(before) = self.moving_from.replace(entry) {
                    before.end(Loss::Superseded);
                }
            }
        }
        // A move that came to nothing ends where it began.
        let stays =
            self.moving_from.take_if(|moving| moving.session().asked() == ttl && moving.state().is_held());
        let entry = match stays {
            Some(entry) => entry,
            None => {
                let session = self.client.enter("registry.register", ttl).await?;
                Arc::new(LeasedEntry::new(
                    session,
                    self.key.clone(),
                    Subject::new(CONTRACT, self.name.clone()),
                ))
            }
        };
        self.current = Some(Arc::clone(&entry));
        Ok(entry)
    }

    /// Whether the entry that stands there may be overwritten: it is this provider's, or a takeover
    /// was asked for.
    fn may_replace(&self, entry: &Entry) -> bool {
        self.is_ours(entry.lease) || self.lifecycle.replaces()
    }

    fn is_ours(&self, lease: Option<LeaseId>) -> bool {
        lease.is_some_and(|lease| self.client.owns(lease))
    }

    fn on_placed(&mut self, entry: &LeasedEntry, modified: Revision) -> EntryEvent {
        entry.held();
        self.counted.is("held");
        if let Some(since) = self.lifecycle.lost_at() {
            self.healed(since);
        }
        if let Some(moved) = self.moving_from.take() {
            moved.end(Loss::Superseded);
        }
        self.left_on = None;
        self.lifecycle.step(Event::Placed);
        self.backoff.reset();
        if let Some(followed) = &self.followed {
            followed.placed(modified);
            self.is_told = true;
        }
        EntryEvent::Held
    }

    /// Waits until the entry is gone, or another's.
    async fn follow(&mut self) -> EntryEvent {
        let (Some(entry), Some(followed)) = (self.entry().cloned(), &self.followed) else {
            return self.on_lost(None);
        };
        let verdict = tokio::select! {
            biased;
            _ = entry.loss().wait() => Verdict::Gone,
            verdict = followed.verdict(entry.modified().unwrap_or_default()) => verdict,
        };
        match verdict {
            Verdict::Foreign => EntryEvent::Foreign(None),
            Verdict::Gone => self.on_lost(Some(&entry)),
        }
    }

    fn on_lost(&mut self, entry: Option<&LeasedEntry>) -> EntryEvent {
        self.lifecycle.step(Event::Lost(self.client.home().now()));
        self.counted.is("healing");
        if let Some(entry) = entry.filter(|entry| entry.loss().get().is_none()) {
            entry.end_lost(Loss::Removed);
        }
        EntryEvent::Lost
    }

    /// It had been lost since then, and is in the store again.
    fn healed(&self, since: Instant) {
        let after_s = self.client.home().now().saturating_duration_since(since).as_secs_f64();
        let (provider, key) = (self.client.name().to_owned(), self.name.clone());
        coord_home::event!(WARN, provider, contract = CONTRACT, key, after_s, "registered again");
    }

    /// Lets the entry be, for it is another's now.
    pub(super) fn superseded(&mut self) {
        self.counted.leave();
        for entry in self.current.take().into_iter().chain(self.moving_from.take()) {
            match entry.loss().get() {
                // It was lost before, and now it is known not to come back.
                Some(_) => entry.report(Loss::Superseded),
                None => entry.end_lost(Loss::Superseded),
            }
        }
    }

    /// What kept it ended by accident: it is removed by its session, or expires.
    pub(super) fn deserted(&mut self) {
        if let Some(entry) = self.entry().filter(|entry| entry.loss().get().is_none()) {
            entry.report(Loss::Expired);
        }
    }

    /// Wants nothing any more. What is left of it is to be removed (R38).
    pub(super) fn give_up(&mut self) -> Remains {
        self.wanted = None;
        self.lifecycle.step(Event::Over);
        (self.followed, self.is_told) = (None, false);
        self.counted.leave();
        let entries = self.current.take().into_iter().chain(self.moving_from.take()).collect();
        Remains { client: self.client.clone(), entries, left_on: self.left_on.take() }
    }
}

/// What may be in the store of an entry that nobody wants any more.
#[derive(Debug)]
pub(super) struct Remains {
    client: Client,
    entries: Vec<Arc<LeasedEntry>>,
    left_on: Option<LeaseId>,
}

impl Remains {
    /// Removes them for good (R38). What the store does not acknowledge becomes a pending release,
    /// and is asked again by the next call.
    ///
    /// # Errors
    ///
    /// Whatever kept the store from answering.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the release is pending.
    pub(super) async fn remove(&self) -> Result<()> {
        self.client.run(UNREGISTER, Outcome::Unknown, self.remove_all()).await
    }

    async fn remove_all(&self) -> Result<()> {
        let mut result = Ok(());
        for entry in &self.entries {
            let removed = if entry.is_stranded() {
                self.client.end_lease(entry.session().lease()).await
            } else {
                entry.erase().await
            };
            match removed {
                Err(error) if error.kind() != ErrorKind::LeaseLost => result = Err(error),
                _ => {}
            }
        }
        if let Some(lease) = self.left_on {
            result = result.and(self.client.end_lease(lease).await);
        }
        result
    }
}

/// Finds out what became of a write whose answer was lost: nothing of it is on its way any more
/// (R2).
async fn settle(entry: &LeasedEntry, token: Token) -> Result<()> {
    if entry.is_in_doubt() {
        let found = entry.look().await?;
        if let Some(found) = found.filter(|found| found.lease == Some(entry.session().lease())) {
            entry.confirm(&found, token);
        }
    }
    Ok(())
}

/// Makes sure that nothing comes back from an entry that was lost while a write of it was under
/// way.
async fn fence_off(client: &Client, lost: &LeasedEntry) -> Result<()> {
    match lost.is_in_doubt() {
        true if lost.is_stranded() => client.end_lease(lost.session().lease()).await,
        true => lost.session().settle().await,
        false => Ok(()),
    }
}
