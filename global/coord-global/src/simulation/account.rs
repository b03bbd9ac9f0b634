//! What happened in schedules.

use std::collections::BTreeMap;

/// What happened in a schedule.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    pub(super) made: u64,
    pub(super) accepted: u64,
    pub(super) why: BTreeMap<&'static str, u64>,
    pub(super) covered: u64,
    pub(super) kept: u64,
    pub(super) listed: u64,
    pub(super) forked: u64,
    pub(super) forgotten: u64,
    pub(super) alive: u64,
    pub(super) races: u64,
    pub(super) late: u64,
    pub(super) snapshots: u64,
    pub(super) renewed: u64,
    pub(super) restored: u64,
    pub(super) busy: u64,
    /// Agents that were killed: not in every kind of schedule.
    pub(super) killed: u64,
    pub(super) disks: u64,
    pub(super) clones: u64,
    pub(super) stores: u64,
    pub(super) trims: u64,
    pub(super) swept: u64,
    pub(super) losers: u64,
}

impl Account {
    fn numbers(&mut self) -> [(&'static str, &mut u64); 20] {
        [
            ("made", &mut self.made),
            ("accepted", &mut self.accepted),
            ("covered", &mut self.covered),
            ("kept", &mut self.kept),
            ("listed", &mut self.listed),
            ("forked", &mut self.forked),
            ("forgotten", &mut self.forgotten),
            ("alive", &mut self.alive),
            ("races", &mut self.races),
            ("late", &mut self.late),
            ("snapshots", &mut self.snapshots),
            ("renewed", &mut self.renewed),
            ("restored", &mut self.restored),
            ("busy", &mut self.busy),
            ("disks", &mut self.disks),
            ("clones", &mut self.clones),
            ("stores", &mut self.stores),
            ("trims", &mut self.trims),
            ("swept", &mut self.swept),
            ("losers", &mut self.losers),
        ]
    }

    pub(super) fn add(&mut self, other: &Self) {
        let mut other = other.clone();
        for ((_, sum), (_, more)) in self.numbers().into_iter().zip(other.numbers()) {
            *sum += *more;
        }
        for (why, count) in other.why {
            *self.why.entry(why).or_default() += count;
        }
        self.killed += other.killed;
    }

    /// Schedules in which something never happens say nothing about it.
    pub(super) fn has_seen_everything(&self) {
        let mut this = self.clone();
        for (what, count) in this.numbers() {
            assert!(*count > 0, "{what} never happened");
        }
        for why in ["replaced", "copied", "equal", "taken back", "gone with its disk"] {
            assert!(self.why.contains_key(why), "no edit was {why}");
        }
    }
}
