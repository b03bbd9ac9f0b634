//! Up to where the log may be trimmed (G17). Pure: whoever trims reads first, and moves the floor
//! of the ledger then.

use std::collections::BTreeMap;

use super::ack::Ack;
use crate::model::{Head, RegionId};

/// How much of the log is kept, in positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// So many stay where somebody is behind, whoever that is: who takes a snapshot and comes back
    /// finds the log there.
    pub at_least: u64,
    /// `retention.log`: who is farther behind than this holds nothing any more, and takes a
    /// snapshot.
    pub at_most: u64,
}

impl Default for Retention {
    /// At least 10,000, at most a million.
    fn default() -> Self {
        Self { at_least: 10_000, at_most: 1_000_000 }
    }
}

/// Where each of `members` stands: one that never sent an ack stands at the beginning. Members are
/// those that are registered and not drained; the acks of others hold nothing.
#[must_use]
pub fn held_by<'a>(
    members: impl IntoIterator<Item = &'a RegionId>,
    acks: &BTreeMap<RegionId, Ack>,
) -> Vec<u64> {
    members.into_iter().map(|id| acks.get(id).map_or(0, |ack| ack.folded)).collect()
}

/// Up to where the log may be trimmed: the new floor, at least the present one and at most the end
/// of the log.
///
/// `members` are the positions up to which members have folded ([`held_by`]), `snapshots` those at
/// which snapshots that are running were begun: their readers need the log from there on.
///
/// - No one who is at the present floor or beyond, and at most [`Retention::at_most`] behind the
///   end, is cut off.
/// - Who is farther behind holds nothing; nor does who is below the present floor: it takes a
///   snapshot in any case.
/// - Where anyone is behind at all, [`Retention::at_least`] positions stay.
#[must_use]
pub fn floor(
    head: &Head,
    members: impl IntoIterator<Item = u64>,
    snapshots: impl IntoIterator<Item = u64>,
    retention: Retention,
) -> u64 {
    let end = head.position;
    let bound = end.saturating_sub(retention.at_most).max(head.floor);
    let mut to = end;
    for at in members.into_iter().chain(snapshots).filter(|at| *at < end) {
        to = to.min(end.saturating_sub(retention.at_least));
        if at >= bound {
            to = to.min(at);
        }
    }
    to.max(head.floor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Names;

    fn head(position: u64, floor: u64) -> Head {
        Head { position, floor, ..Head::new(Names::Folded) }
    }

    const RETENTION: Retention = Retention { at_least: 10, at_most: 100 };

    #[test]
    fn members_hold_the_floor_within_the_bound() {
        let at = |position, now, members: &[u64], snapshots: &[u64]| {
            floor(&head(position, now), members.iter().copied(), snapshots.iter().copied(), RETENTION)
        };
        assert_eq!(at(1_000, 0, &[950, 980], &[]), 950);
        assert_eq!(at(1_000, 0, &[900], &[]), 900, "just within the bound");
        assert_eq!(at(1_000, 0, &[899], &[]), 990, "beyond it: a snapshot, and some of the log for after");
        assert_eq!(at(1_000, 0, &[899, 950], &[]), 950);
        assert_eq!(at(1_000, 0, &[995], &[]), 990, "at least so many stay");
        assert_eq!(at(1_000, 0, &[1_000], &[]), 1_000, "nobody is behind");
        assert_eq!(at(1_000, 0, &[], &[]), 1_000, "nobody is there");
        assert_eq!(at(1_000, 0, &[1_000], &[940]), 940, "a running snapshot holds it too");
        assert_eq!(at(1_000, 0, &[2_000], &[]), 1_000, "an ack from before a restore");
        assert_eq!(at(1_000, 970, &[950], &[]), 990, "below the floor: a snapshot in any case");
        assert_eq!(at(1_000, 995, &[998], &[]), 995, "it does not move down");
        assert_eq!(at(50, 0, &[0], &[]), 0);
        assert_eq!(at(5, 0, &[4], &[]), 0);
        assert_eq!(at(0, 0, &[], &[]), 0);
    }

    #[test]
    fn who_never_sent_an_ack_stands_at_the_beginning_and_who_is_no_member_nowhere() {
        let id = |name: &str| RegionId::new(name).unwrap();
        let ack = |folded| Ack { incarnation: 1, folded, content: 0, at_ms: 0 };
        let acks = [(id("a"), ack(7)), (id("gone"), ack(3))].into();
        assert_eq!(held_by(&[id("a"), id("new")], &acks), [7, 0]);
    }

    proptest! {
        #[test]
        fn it_cuts_off_nobody_within_the_bound(
            position in 0_u64..400,
            now in 0_u64..400,
            members in proptest::collection::vec(0_u64..500, 0..6),
            snapshots in proptest::collection::vec(0_u64..400, 0..3),
            at_least in 0_u64..150,
            at_most in 0_u64..300,
        ) {
            let head = head(position, now.min(position));
            let retention = Retention { at_least, at_most };
            let to = floor(&head, members.iter().copied(), snapshots.iter().copied(), retention);
            prop_assert!(head.floor <= to && to <= position);
            let all = || members.iter().chain(&snapshots).copied();
            let bound = position.saturating_sub(at_most);
            for at in all().filter(|at| *at >= bound && *at >= head.floor) {
                prop_assert!(to <= at, "{} is cut off by {}", at, to);
            }
            let is_behind = all().any(|at| at < position);
            prop_assert!(!is_behind || to <= head.floor.max(position.saturating_sub(at_least)));
            // Nobody holds it for nothing.
            let least = all().filter(|at| *at >= bound && *at >= head.floor).min().unwrap_or(position);
            let kept = if is_behind { position.saturating_sub(at_least) } else { position };
            prop_assert_eq!(to, least.min(kept).min(position).max(head.floor));
            // Trimmed again, nothing moves.
            let trimmed = Head { floor: to, ..head };
            let again = floor(&trimmed, members.iter().copied(), snapshots.iter().copied(), retention);
            prop_assert!(again >= to);
        }
    }
}
