//! When leases end (S5): pure.

use std::collections::HashMap;
use std::time::Duration;

use coord_api::LeaseId;
use tokio::time::Instant;

/// When leases end, by one process's own clock: for a store that has no server, or is one.
///
/// A store keeps with each lease a number that each renewal changes, and no time. Who sees a number
/// for the first time gives the lease its whole TTL from then on, and ends it when that is over, if
/// the store still has that number. So no lease ends early (R7), whatever clocks say and whoever
/// dies: it was renewed before that was seen. A lease whose number stays ends as late as the number
/// was seen late, by whoever is there.
#[derive(Clone, Debug, Default)]
pub struct LeaseClock(HashMap<LeaseId, Seen>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    renewal: u64,
    ends: Instant,
}

impl LeaseClock {
    /// A clock that has seen no lease.
    pub fn new() -> Self {
        LeaseClock::default()
    }

    /// Sees that a lease lives, and the number of its last renewal. Says when it ends.
    pub fn see(&mut self, id: LeaseId, ttl: Duration, renewal: u64, now: Instant) -> Instant {
        let seen = self.0.get(&id).copied().filter(|seen| seen.renewal == renewal);
        let seen = seen.unwrap_or(Seen { renewal, ends: now + ttl });
        self.0.insert(id, seen);
        seen.ends
    }

    /// Sees all leases that live, and forgets the others.
    pub fn see_all(&mut self, leases: impl IntoIterator<Item = (LeaseId, Duration, u64)>, now: Instant) {
        let mut all = LeaseClock::new();
        for (id, ttl, renewal) in leases {
            self.see(id, ttl, renewal, now);
            all.0.extend(self.0.remove_entry(&id));
        }
        *self = all;
    }

    /// Forgets a lease that has ended.
    pub fn forget(&mut self, id: LeaseId) {
        self.0.remove(&id);
    }

    /// The leases whose time is over, the first one first, each with the renewal that it counts
    /// from.
    pub fn over(&self, now: Instant) -> Vec<(LeaseId, u64)> {
        let mut over: Vec<_> = self.0.iter().filter(|(_, seen)| seen.ends <= now).collect();
        over.sort_unstable_by_key(|(id, seen)| (seen.ends, **id));
        over.into_iter().map(|(id, seen)| (*id, seen.renewal)).collect()
    }

    /// When the next lease ends, if there is one.
    pub fn next(&self) -> Option<Instant> {
        self.0.values().map(|seen| seen.ends).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);
    const ONE: LeaseId = LeaseId::new(1);
    const TWO: LeaseId = LeaseId::new(2);

    #[test]
    fn a_lease_ends_its_ttl_after_its_last_renewal_was_first_seen() {
        let (mut clock, begin) = (LeaseClock::new(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(clock.see(ONE, TTL, 0, begin), at(10));
        assert_eq!(clock.see(ONE, TTL, 0, at(9)), at(10), "seen again, it is the same renewal");
        assert_eq!(clock.see(ONE, TTL, 1, at(9)), at(19));
        assert_eq!(clock.see(TWO, TTL, 0, at(2)), at(12));
        assert_eq!(clock.next(), Some(at(12)));
        assert_eq!(clock.over(at(11)), []);
        assert_eq!(clock.over(at(12)), [(TWO, 0)]);
        assert_eq!(clock.over(at(19)), [(TWO, 0), (ONE, 1)], "the first one first");
        clock.forget(TWO);
        assert_eq!((clock.over(at(19)), clock.next()), (vec![(ONE, 1)], Some(at(19))));
    }

    #[test]
    fn what_is_not_among_all_is_forgotten() {
        let (mut clock, begin) = (LeaseClock::new(), Instant::now());
        clock.see(ONE, TTL, 0, begin);
        clock.see(TWO, TTL, 0, begin);
        clock.see_all([(TWO, TTL, 0)], begin + TTL);
        assert_eq!(clock.over(begin + TTL), [(TWO, 0)]);
        clock.see_all([(ONE, TTL, 0)], begin + TTL);
        assert_eq!(clock.next(), Some(begin + TTL * 2), "whoever comes back is new");
    }
}
