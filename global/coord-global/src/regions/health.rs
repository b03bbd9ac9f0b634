//! How the regions are, by the leader's monotonic clock (G16).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::RegionId;

/// Without a new heartbeat for so long a region is degraded, in milliseconds: 1 minute.
pub const DEGRADED_AFTER_MS: u64 = 60_000;

/// Without a new heartbeat for so long it is offline, in milliseconds: 5 minutes.
pub const OFFLINE_AFTER_MS: u64 = 300_000;

/// Half of the regions that have gone quiet within so long have one cause, and it may be the
/// leader's own link, in milliseconds: 5 minutes.
pub const SILENCE_WITHIN_MS: u64 = 300_000;

/// After that nobody becomes offline for so long, in milliseconds: 15 minutes.
pub const PRESERVE_MS: u64 = 900_000;

/// A leader that was away for longer than this did not watch meanwhile, in milliseconds: 30
/// seconds. So it looks, and [ticks](Health::tick), more often.
pub const WATCH_GAP_MS: u64 = 30_000;

/// How a region is: as it says itself, or as the leader finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegionState {
    /// It is there.
    #[default]
    Active,
    /// It works less well than it should; for the leader: it is quiet.
    Degraded,
    /// It is away.
    Offline,
}

/// A region that is in another state than at the last tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The region.
    pub region: RegionId,
    /// How it was; `None` for one that is new.
    pub from: Option<RegionState>,
    /// How it is.
    pub to: RegionState,
}

/// How the regions are, as one leader has it. A leader makes its own, so that with each one all
/// regions have their full time anew.
///
/// It is a state machine: no I/O and no clock. `now` is the leader's monotonic clock in
/// milliseconds, from whatever moment; one that goes back stands still. The leader, at least every
/// 30 seconds ([`WATCH_GAP_MS`]), reads the registry and the heartbeats, calls
/// [`members`](Self::members) and [`seen`](Self::seen) for all of it, and then
/// [`tick`](Self::tick). Where it cannot read, it does not tick: a tick says that it has looked.
///
/// - A region is degraded after a minute without a new heartbeat and offline after five, of time
///   in which the leader watched: a longer gap between two ticks does not count for anybody, nor
///   for the 15 minutes below.
/// - Where half of the regions that were there, and at least two, go quiet within 5 minutes,
///   nobody becomes offline for 15 minutes; [`preserving`](Self::preserving) shows it. Who is
///   offline already stays so.
/// - Whoever is heard again is active at once.
/// - Nothing is deleted by it.
#[derive(Clone, Debug)]
pub struct Health {
    /// The caller's clock at the last tick.
    ticked: u64,
    /// How long was watched until then: what of that clock counts.
    watched: u64,
    /// Until then, of the time that counts, nobody becomes offline.
    preserve_until: u64,
    regions: BTreeMap<RegionId, Watched>,
}

#[derive(Clone, Debug)]
struct Watched {
    /// That of the last heartbeat.
    counter: Option<u64>,
    /// When that was seen, in the time that counts; or since when it is watched.
    last: u64,
    state: RegionState,
    /// What the last tick said.
    told: Option<RegionState>,
}

impl Watched {
    /// When it has gone quiet, if it has.
    fn quiet_since(&self) -> Option<u64> {
        (self.state != RegionState::Active).then(|| self.last.saturating_add(DEGRADED_AFTER_MS))
    }
}

impl Health {
    /// Of a leader that begins at `now`. It knows of no region.
    #[must_use]
    pub const fn new(now: u64) -> Self {
        Self { ticked: now, watched: 0, preserve_until: 0, regions: BTreeMap::new() }
    }

    /// `now` in the time that counts.
    const fn counting(&self, now: u64) -> u64 {
        let since = now.saturating_sub(self.ticked);
        if since > WATCH_GAP_MS { self.watched } else { self.watched.saturating_add(since) }
    }

    /// These are the regions that are to be there: those that are registered and not drained. Who
    /// is new has its full time from now on; who is not among them any more is forgotten.
    pub fn members<'a>(&mut self, members: impl IntoIterator<Item = &'a RegionId>, now: u64) {
        let last = self.counting(now);
        let members: BTreeSet<&RegionId> = members.into_iter().collect();
        self.regions.retain(|region, _| members.contains(region));
        for region in members {
            if !self.regions.contains_key(region) {
                let new = Watched { counter: None, last, state: RegionState::Active, told: None };
                self.regions.insert(region.clone(), new);
            }
        }
    }

    /// The last heartbeat of a region has that counter. Whether it is a new one: one with another
    /// counter than the last, since who is registered anew counts from the beginning. One of a
    /// region that is no [member](Self::members) is not new.
    pub fn seen(&mut self, region: &RegionId, counter: u64, now: u64) -> bool {
        let last = self.counting(now);
        let Some(watched) = self.regions.get_mut(region) else { return false };
        if watched.counter == Some(counter) {
            return false;
        }
        watched.counter = Some(counter);
        watched.last = watched.last.max(last);
        watched.state = RegionState::Active;
        true
    }

    /// All heartbeats were looked at: says who is in another state than at the last tick.
    pub fn tick(&mut self, now: u64) -> Vec<Changed> {
        self.watched = self.counting(now);
        self.ticked = self.ticked.max(now);
        let quiet = |watched: &Watched, at: u64| at.saturating_sub(watched.last);
        for watched in self.regions.values_mut() {
            if watched.state == RegionState::Active && quiet(watched, self.watched) >= DEGRADED_AFTER_MS {
                watched.state = RegionState::Degraded;
            }
        }
        // Before anybody is offline by this tick, for it may be the same silence.
        self.preserve();
        let is_preserving = self.preserve_until > self.watched;
        let mut changed = Vec::new();
        for (region, watched) in &mut self.regions {
            if watched.state == RegionState::Degraded
                && !is_preserving
                && quiet(watched, self.watched) >= OFFLINE_AFTER_MS
            {
                watched.state = RegionState::Offline;
            }
            let from = watched.told.replace(watched.state);
            if from != Some(watched.state) {
                changed.push(Changed { region: region.clone(), from, to: watched.state });
            }
        }
        changed
    }

    /// Looks whether half of the regions have gone quiet together. Who was offline before that is
    /// not one of them, so that those of long ago do not outvote those that are there.
    fn preserve(&mut self) {
        let latest = self.regions.values().filter_map(Watched::quiet_since).max();
        let Some(latest) = latest else { return };
        let together = |watched: &&Watched| {
            watched.quiet_since().is_some_and(|since| since.saturating_add(SILENCE_WITHIN_MS) >= latest)
        };
        let gone = self.regions.values().filter(together).count();
        let there = self.regions.values().filter(|watched| watched.state != RegionState::Offline);
        let offline_now = self.regions.values().filter(|watched| watched.state == RegionState::Offline);
        let all = there.count() + offline_now.filter(together).count();
        if gone >= 2 && gone * 2 >= all {
            self.preserve_until = self.preserve_until.max(latest.saturating_add(PRESERVE_MS));
        }
    }

    /// How a region is; `None` for one that is no [member](Self::members).
    #[must_use]
    pub fn state(&self, region: &RegionId) -> Option<RegionState> {
        self.regions.get(region).map(|watched| watched.state)
    }

    /// How each of the regions is, in the order of their names.
    pub fn states(&self) -> impl Iterator<Item = (&RegionId, RegionState)> {
        self.regions.iter().map(|(region, watched)| (region, watched.state))
    }

    /// Until when, by the caller's clock in milliseconds, nobody becomes offline because so many
    /// went quiet together; later, should the leader not watch meanwhile. `None` in peace.
    #[must_use]
    pub const fn preserving(&self) -> Option<u64> {
        match self.preserve_until.checked_sub(self.watched) {
            None | Some(0) => None,
            Some(left) => Some(self.ticked.saturating_add(left)),
        }
    }
}

#[cfg(test)]
mod tests;
