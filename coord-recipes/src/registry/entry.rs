//! One registered entry: how it gets into the store, how its loss is noticed, how it goes (R34, R37, R38).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_api::handle::Leased as _;
use coord_api::store::{Change, Compare, Entry, Op, Range, Span};
use coord_api::{ErrorKind, LeaseId, Loss, Outcome, Result, Revision, Takeover, Value};
use tokio::time::Instant;

use super::record;
use crate::backoff::Backoff;
use crate::core::Core;
use crate::session::{Holding, Leased, Write};
use crate::telemetry::{Contract, Counted, Subject};
use crate::watch::{Feed, Resuming};

/// What should be in the store.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) content: Value,
    /// A whole number of seconds.
    pub(super) ttl: Duration,
    /// What to do with a live foreign owner; `None` when healing, which never fights (R37).
    pub(super) takeover: Option<Takeover>,
}

/// What happened to an entry.
#[derive(Debug)]
pub(super) enum Event {
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
    core: Arc<Core>,
    key: Bytes,
    /// `service/id`, as its owner knows it.
    name: String,
    /// Whether it is held or heals, for the metrics.
    counted: Counted,
    /// Since when it is lost, once it was held.
    lost_at: Option<Instant>,
    wanted: Option<Wanted>,
    /// Whether the store holds what is wanted, as far as is known.
    placed: bool,
    holding: Option<Arc<Holding>>,
    /// The entry under the lease of another TTL, until it has moved.
    moving: Option<Arc<Holding>>,
    /// A lease that was lost with the entry on it, until the entry stands on another: while the store keeps the one, it keeps the other.
    left_on: Option<LeaseId>,
    /// Whether the write that was sent last goes over an entry of this provider, and so keeps its number.
    renews: bool,
    /// A foreign owner was found in its place, and was to be replaced: who does not want that any more is superseded.
    superseded: bool,
    feed: Option<Resuming>,
    backoff: Backoff,
    retry_at: Option<Instant>,
}

impl RegisteredEntry {
    pub(super) fn new(core: Arc<Core>, key: Bytes, name: String) -> Self {
        RegisteredEntry {
            core,
            key,
            name,
            counted: Counted::registration(),
            lost_at: None,
            wanted: None,
            placed: false,
            holding: None,
            moving: None,
            left_on: None,
            renews: false,
            superseded: false,
            feed: None,
            backoff: Backoff::new(),
            retry_at: None,
        }
    }

    /// What is wanted now.
    pub(super) fn wanted(&self) -> Option<&Wanted> {
        self.wanted.as_ref()
    }

    /// Wants something else, to be written at once.
    pub(super) fn want(&mut self, wanted: Wanted) {
        self.wanted = Some(wanted);
        self.placed = false;
        self.retry_at = None;
    }

    /// The entry on its lease, once it was written there; until then under the lease that it moves away from.
    pub(super) fn holding(&self) -> Option<&Arc<Holding>> {
        self.holding.as_ref().filter(|holding| holding.created().is_some()).or(self.moving.as_ref())
    }

    /// Tries again after a pause.
    pub(super) fn retry_later(&mut self) {
        self.retry_at = Some(self.core.home.now() + self.backoff.pause());
    }

    /// The next event; pending for ever while nothing is wanted.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a write that was under way is fenced off before the next one.
    pub(super) async fn next(&mut self) -> Event {
        if self.wanted.is_none() {
            return std::future::pending().await;
        }
        if self.placed {
            return self.follow().await;
        }
        if self.superseded && self.wanted.as_ref().is_some_and(|wanted| wanted.takeover.is_none()) {
            return Event::Foreign(None);
        }
        if let Some(retry_at) = self.retry_at {
            let core = Arc::clone(&self.core);
            // Followed during the pause as well: who is superseded meanwhile learns it at once.
            tokio::select! {
                biased;
                event = self.follow(), if self.is_followed() => return event,
                () = core.home.sleep_until(retry_at) => self.retry_at = None,
            }
        }
        match Box::pin(self.place()).await {
            Ok(event) => event,
            Err(error) => Event::Failed(error),
        }
    }

    async fn place(&mut self) -> Result<Event> {
        let Some(wanted) = self.wanted.clone() else { return Ok(Event::Lost) };
        let holding = self.live_holding(wanted.ttl).await?;
        let session = holding.session();
        let put = Op::put_leased(self.key.clone(), wanted.content.clone(), session.lease());
        // What is to be written over, and whether it is this provider's own.
        let mut seen = holding.modified().map(|modified| (modified, true));
        loop {
            if holding.is_in_flight() {
                session.settle().await?;
                let found = session.read(&self.key).await?;
                holding.not_written();
                match found {
                    Some(entry) if entry.lease == Some(session.lease()) && entry.value == wanted.content => {
                        return Ok(self.on_placed(&holding, entry.modified));
                    }
                    Some(entry) if !self.may_replace(&entry, &wanted) => return Ok(Event::Foreign(record::reached_at(&entry))),
                    None if self.is_followed() => return Ok(self.follow().await),
                    found => seen = self.look_at(found.as_ref()),
                }
            }
            self.renews = seen.is_some_and(|(_, ours)| ours);
            let condition = match seen {
                Some((modified, _)) => Compare::Modified(self.key.clone(), modified),
                None => Compare::Absent(self.key.clone()),
            };
            let look = Op::Range(Range::key(self.key.clone()));
            let write = Leased { compares: vec![condition], then: vec![put.clone()], otherwise: vec![look] };
            holding.sending();
            match session.write_together(&write).await {
                Ok(Some(Write::Done(reply))) => return Ok(self.on_placed(&holding, reply.revision)),
                Ok(Some(Write::Refused(reply))) => {
                    holding.not_written();
                    match reply.range(0).and_then(|found| found.entries.first()) {
                        Some(entry) if !self.may_replace(entry, &wanted) => return Ok(Event::Foreign(record::reached_at(entry))),
                        None if self.is_followed() => return Ok(self.follow().await),
                        found => seen = self.look_at(found),
                    }
                }
                // Settled: the next turn looks what became of it.
                Ok(None) => {}
                Err(error) => {
                    if error.outcome() == Outcome::NotApplied {
                        holding.not_written();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// What is to be written over, and whether it is this provider's own. A foreign owner's place is remembered as lost.
    fn look_at(&mut self, found: Option<&Entry>) -> Option<(Revision, bool)> {
        let entry = found?;
        let ours = self.is_ours(entry.lease);
        self.superseded |= !ours;
        Some((entry.modified, ours))
    }

    /// Whether an entry that is not as wanted still is this owner's, and the watch tells its fate.
    ///
    /// An entry that was held and is not there any more was removed, and must be written again (R37); or a foreign owner took its place and left, and it must not
    /// (R34). Only the watch, which tells all of it in order, knows.
    fn is_followed(&self) -> bool {
        let keeps = self.wanted.as_ref().is_some_and(|wanted| wanted.takeover.is_none());
        keeps && self.feed.is_some() && self.holding().is_some_and(|holding| holding.loss().get().is_none())
    }

    /// The holding to write with, on a live session of this TTL.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a holding stays in its place until nothing of it is on its way any more.
    async fn live_holding(&mut self, ttl: Duration) -> Result<Arc<Holding>> {
        if let Some(holding) = self.holding.clone() {
            let held = holding.state().is_held();
            if held && holding.session().asked() == ttl {
                return Ok(holding);
            }
            if held {
                clear_up(&holding, self.renews).await?;
            } else {
                bury(&self.core, &holding).await?;
                if holding.is_stranded() && holding.created().is_some() {
                    self.left_on = Some(holding.session().lease());
                }
            }
            self.holding = None;
            if held && holding.created().is_some() {
                // The entry stands here; where it stood before it does not any more.
                if let Some(before) = self.moving.replace(holding) {
                    before.disown(Loss::Superseded);
                }
            }
        }
        // A move that came to nothing ends where it began.
        let stays = self.moving.take_if(|moving| moving.session().asked() == ttl && moving.state().is_held());
        let holding = match stays {
            Some(holding) => holding,
            None => {
                let session = self.core.sessions.enter(&self.core, "registry.register", ttl).await?;
                Arc::new(Holding::new(session, self.key.clone(), Subject::new(Contract::Registration, self.name.clone())))
            }
        };
        self.holding = Some(Arc::clone(&holding));
        Ok(holding)
    }

    /// Whether the entry that stands there may be overwritten: it is this provider's, or a takeover was asked for.
    fn may_replace(&self, entry: &Entry, wanted: &Wanted) -> bool {
        self.is_ours(entry.lease) || wanted.takeover == Some(Takeover::Replace)
    }

    fn is_ours(&self, lease: Option<LeaseId>) -> bool {
        lease.is_some_and(|lease| self.core.owns(lease))
    }

    fn on_placed(&mut self, holding: &Arc<Holding>, modified: Revision) -> Event {
        holding.written(number(holding, self.renews, modified), modified);
        holding.held();
        self.counted.is("held");
        if let Some(since) = self.lost_at.take() {
            self.core.telemetry.healed(&self.name, self.core.home.now().saturating_duration_since(since));
        }
        self.superseded = false;
        if let Some(moved) = self.moving.take() {
            moved.disown(Loss::Superseded);
        }
        self.left_on = None;
        self.placed = true;
        self.backoff.reset();
        if let Some(wanted) = &mut self.wanted {
            wanted.takeover = None;
        }
        self.feed.get_or_insert_with(|| Resuming::after(Arc::clone(&self.core), Span::Key(self.key.clone()), modified));
        Event::Held
    }

    /// Waits until the entry is gone, or another's.
    async fn follow(&mut self) -> Event {
        let (Some(holding), Some(feed)) = (self.holding().cloned(), &mut self.feed) else { return Event::Lost };
        let event = loop {
            tokio::select! {
                biased;
                _ = holding.loss().wait() => break Event::Lost,
                fed = feed.next() => match fed {
                    Ok(fed) => if let Some(event) = judge(&self.core, &holding, &fed) { break event },
                    // What cannot be watched is still noticed by the renewals, only later.
                    Err(_) => {
                        holding.loss().wait().await;
                        break Event::Lost;
                    }
                },
            }
        };
        self.placed = false;
        if matches!(event, Event::Lost) {
            self.counted.is("healing");
            self.lost_at = Some(self.core.home.now());
            if holding.loss().get().is_none() {
                holding.gone(Loss::Removed);
            }
        }
        event
    }

    /// Lets the entry be, for it is another's now.
    pub(super) fn superseded(&mut self) {
        self.counted.leave();
        for holding in self.holding.take().into_iter().chain(self.moving.take()) {
            match holding.loss().get() {
                // It was lost before, and now it is known not to come back.
                Some(_) => holding.report(Loss::Superseded),
                None => holding.gone(Loss::Superseded),
            }
        }
    }

    /// What kept it ended by accident: it is removed by its session, or expires.
    pub(super) fn deserted(&mut self) {
        if let Some(holding) = self.holding().filter(|holding| holding.loss().get().is_none()) {
            holding.report(Loss::Expired);
        }
    }

    /// Removes the entry for good (R38). What the store does not acknowledge becomes a debt.
    ///
    /// # Errors
    ///
    /// Whatever kept the store from answering.
    pub(super) async fn remove(&mut self) -> Result<()> {
        let core = Arc::clone(&self.core);
        core.run("registry.unregister", Outcome::Unknown, self.remove_all()).await
    }

    async fn remove_all(&mut self) -> Result<()> {
        self.wanted = None;
        self.feed = None;
        self.counted.leave();
        let mut result = Ok(());
        let left_on = self.left_on.take();
        for holding in self.holding.take().into_iter().chain(self.moving.take()) {
            let removed =
                if holding.is_stranded() { end_lease(&self.core, holding.session().lease()).await } else { holding.erase().await };
            match removed {
                Err(error) if error.kind() != ErrorKind::LeaseLost => result = Err(error),
                _ => {}
            }
        }
        if let Some(lease) = left_on {
            result = result.and(end_lease(&self.core, lease).await);
        }
        result
    }
}

/// Makes sure that nothing is left on the lease of a session that is over, nor comes back to it: the lease must be gone for good.
async fn end_lease(core: &Core, lease: LeaseId) -> Result<()> {
    if core.may_be_alive(lease) {
        core.revoke(lease).await.map_err(|error| error.with_outcome(Outcome::Unknown))?;
    }
    Ok(())
}

/// The number that orders the owners is the revision at which this one came, or came back: who takes over writes over what was created before it.
fn number(holding: &Holding, renews: bool, modified: Revision) -> Revision {
    holding.created().filter(|_| renews).unwrap_or(modified)
}

/// Finds out what became of a write whose answer was lost: nothing of it is on its way any more (R2).
async fn clear_up(holding: &Holding, renews: bool) -> Result<()> {
    if !holding.is_in_flight() {
        return Ok(());
    }
    let session = holding.session();
    session.settle().await?;
    match session.read(holding.key()).await? {
        Some(entry) if entry.lease == Some(session.lease()) => {
            holding.written(number(holding, renews, entry.modified), entry.modified);
        }
        _ => holding.not_written(),
    }
    Ok(())
}

/// Makes sure that nothing comes back from a holding that was lost while a write of it was under way.
async fn bury(core: &Core, lost: &Holding) -> Result<()> {
    match lost.is_in_flight() {
        true if lost.is_stranded() => end_lease(core, lost.session().lease()).await,
        true => lost.session().settle().await,
        false => Ok(()),
    }
}

/// What a delivery of the entry's watch means.
fn judge(core: &Core, holding: &Holding, fed: &Feed) -> Option<Event> {
    let known = holding.modified().unwrap_or_default();
    let theirs = |entry: &Entry| entry.modified > known && !entry.lease.is_some_and(|lease| core.owns(lease));
    match fed {
        Feed::Batch(batch) if batch.revision <= known => None,
        Feed::Batch(batch) => batch.changes.iter().find_map(|change| match change {
            Change::Put(entry) => theirs(entry).then(|| Event::Foreign(record::reached_at(entry))),
            Change::Delete { .. } => Some(Event::Lost),
        }),
        Feed::Resync { state, .. } => match state.entries.first() {
            Some(entry) => theirs(entry).then(|| Event::Foreign(record::reached_at(entry))),
            None => Some(Event::Lost),
        },
    }
}
