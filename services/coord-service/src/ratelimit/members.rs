//! Who shares a limit, as one instance sees it: a pure state machine (R69).
//!
//! What all instances admit within any second must stay within rate and burst, though none of them
//! asks another, and each learns at its own time that one has come or gone. So a part shrinks at
//! once and grows late:
//!
//! - Who has come admits nothing for a second, in which the others learn of it and shrink. Its
//!   buckets are empty when it comes, and fill meanwhile.
//! - Who has gone may go on for a second, for requests still reach it; but without its burst: its
//!   buckets are empty when it goes.
//! - The others grow a second and a lag after it has gone. So each goes by the greatest number of
//!   instances that it knew of in that time, and by its last place among them.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// How long an instance that has come admits nothing, and how long one that has gone goes on.
pub(super) const SETTLING: Duration = Duration::from_secs(1);

/// How long an instance goes on as if one that has gone were there: what that one may go on, and
/// what an instance may learn of it sooner than another (one that is connected has its answers
/// within 100 ms).
pub(super) const GROWTH_DELAY: Duration = Duration::from_millis(1_100);

/// How long to wait for the registry's first answer before going on without.
pub(super) const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// The most earlier counts that are kept; two become one beyond.
const MAX_COUNTS: usize = 64;

/// What an instance may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The registry has not said anything yet. Until then nothing is admitted.
    Waiting { until: Instant },
    /// The registry has said nothing for long, or there is none: a number of instances is assumed.
    Assumed,
    /// It is not registered.
    Outside,
    /// It has come, and admits nothing until then.
    Settling { until: Instant },
    /// It has its share.
    Member,
    /// It has gone, and goes on until then, without its burst.
    Leaving { until: Instant },
}

/// How many share a limit, and where this instance stands among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) instances: u32,
    /// How many stand before it, in the order of their ids.
    pub(super) rank: u32,
}

impl Count {
    /// At least as many as in each.
    fn max(self, other: Count) -> Count {
        Count { instances: self.instances.max(other.instances), rank: self.rank.max(other.rank) }
    }
}

/// A change of who is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Membership {
    /// These, and nobody else.
    All(BTreeSet<String>),
    Came(String),
    Went(String),
    /// Its id belongs to another process.
    Superseded,
    /// It is registered, maybe anew.
    Registered,
}

/// The members as one of them sees them.
#[derive(Debug)]
pub(super) struct Members {
    own: String,
    ids: BTreeSet<String>,
    /// Whether the registry has said who they are.
    known: bool,
    /// Whether another process has the own id.
    superseded: bool,
    standing: Standing,
    now: Count,
    /// Earlier counts that still count, and until when; the oldest first. None is covered by a
    /// later one.
    earlier: VecDeque<(Instant, Count)>,
}

impl Members {
    /// Of the instance `own`, with nothing known about them. `until` is when to go on without the
    /// registry, with `assumed` instances.
    pub(super) fn new(own: String, assumed: u32, until: Instant) -> Self {
        Members {
            own,
            ids: BTreeSet::new(),
            known: false,
            superseded: false,
            standing: Standing::Waiting { until },
            now: Count { instances: assumed.max(1), rank: 0 },
            earlier: VecDeque::new(),
        }
    }

    /// Where nothing ever says who they are.
    pub(super) fn assumed(assumed: u32, now: Instant) -> Self {
        Members { standing: Standing::Assumed, ..Members::new(String::new(), assumed, now) }
    }

    /// Waits anew for the registry's first answer, unless there was one.
    pub(super) fn wait(&mut self, until: Instant) {
        if !self.known {
            self.standing = Standing::Waiting { until };
        }
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    /// How many are live, as far as is known.
    pub(super) fn live(&self) -> Option<usize> {
        self.known.then_some(self.ids.len())
    }

    /// By what the share is computed.
    pub(super) fn count(&self) -> Count {
        self.earlier.iter().fold(self.now, |count, (_, earlier)| count.max(*earlier))
    }

    /// When [`advance`](Self::advance) has something to do.
    pub(super) fn next(&self) -> Option<Instant> {
        let standing = match self.standing {
            Standing::Waiting { until } | Standing::Settling { until } | Standing::Leaving { until } => {
                Some(until)
            }
            Standing::Assumed | Standing::Outside | Standing::Member => None,
        };
        let count = self.earlier.front().map(|(until, _)| *until);
        standing.into_iter().chain(count).min()
    }

    /// Goes on to this moment.
    pub(super) fn advance(&mut self, now: Instant) {
        while self.earlier.front().is_some_and(|(until, _)| *until <= now) {
            self.earlier.pop_front();
        }
        match self.standing {
            Standing::Waiting { until } if until <= now => self.standing = Standing::Assumed,
            Standing::Settling { until } if until <= now => self.standing = Standing::Member,
            Standing::Leaving { until } if until <= now => self.standing = Standing::Outside,
            _ => {}
        }
    }

    /// Takes in a change, and says whether the own buckets are to be emptied, because this
    /// instance has come or gone.
    #[must_use]
    pub(super) fn take(&mut self, change: Membership, now: Instant) -> bool {
        self.advance(now);
        match change {
            Membership::Superseded => self.superseded = true,
            Membership::Registered => self.superseded = false,
            Membership::All(ids) => self.set(now, |known| *known = ids),
            Membership::Came(id) => self.set(now, |known| known.extend([id])),
            Membership::Went(id) => self.set(now, |known| known.retain(|known| *known != id)),
        }
        self.known && self.stand(now)
    }

    fn set(&mut self, now: Instant, change: impl FnOnce(&mut BTreeSet<String>)) {
        change(&mut self.ids);
        let rank = self.ids.range::<String, _>(..&self.own).count();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let before = self.now;
        self.now = Count { instances: number(self.ids.len()).max(1), rank: number(rank) };
        // What was assumed was shared with nobody.
        if self.known && before.max(self.now) != self.now {
            self.keep(now + GROWTH_DELAY, before);
        }
        self.known = true;
    }

    /// Keeps an earlier count; those that it covers go.
    fn keep(&mut self, until: Instant, count: Count) {
        while self.earlier.back().is_some_and(|(_, earlier)| count.max(*earlier) == count) {
            self.earlier.pop_back();
        }
        self.earlier.push_back((until, count));
        if self.earlier.len() > MAX_COUNTS {
            let oldest = self.earlier.pop_front();
            if let (Some((_, oldest)), Some((_, second))) = (oldest, self.earlier.front_mut()) {
                *second = second.max(oldest);
            }
        }
    }

    fn stand(&mut self, now: Instant) -> bool {
        let is_in = !self.superseded && self.ids.contains(&self.own);
        let until = now + SETTLING;
        let (next, emptied) = match (self.standing, is_in) {
            (Standing::Settling { .. } | Standing::Member, true) => return false,
            (Standing::Outside | Standing::Leaving { .. }, false) => return false,
            (_, true) => (Standing::Settling { until }, true),
            (Standing::Member | Standing::Assumed, false) => (Standing::Leaving { until }, true),
            (Standing::Waiting { .. } | Standing::Settling { .. }, false) => (Standing::Outside, false),
        };
        self.standing = next;
        emptied
    }
}

#[cfg(test)]
mod tests;
