//! How far a region has come in a space.

use serde::{Deserialize, Serialize};

/// How far a region has come in a space, as it says itself after its cursor is durable (G4). It
/// holds the floor of the log (G17), and tells where a file is the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The life of its disk that says so; of an actor `region#incarnation` the number.
    pub incarnation: u32,
    /// Up to this position the log is folded.
    pub folded: u64,
    /// Up to this position the content that the region keeps is on its disk too.
    pub content: u64,
    /// When the instance received it, in milliseconds since 1970 on the instance's clock. It is
    /// shown, and decides nothing.
    pub at_ms: u64,
}

impl Ack {
    /// What holds after `next`, where `self` held before. Within an incarnation neither position
    /// goes back: what is lower is ignored. A later incarnation begins anew, lower too, since its
    /// disk was restored; an earlier one is ignored whole.
    ///
    /// The order in which acks arrive does not matter for incarnation and positions, nor does a
    /// repeat.
    #[must_use]
    pub fn followed_by(self, next: Self) -> Self {
        if next.incarnation != self.incarnation {
            return if next.incarnation > self.incarnation { next } else { self };
        }
        // A late one tells nothing of the present: the time stays with the positions.
        let is_late = next.folded < self.folded || next.content < self.content;
        Self {
            incarnation: self.incarnation,
            folded: self.folded.max(next.folded),
            content: self.content.max(next.content),
            at_ms: if is_late { self.at_ms } else { next.at_ms },
        }
    }

    /// How many positions of a log that ends at `position` are not folded yet.
    #[must_use]
    pub const fn behind(&self, position: u64) -> u64 {
        position.saturating_sub(self.folded)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ack(incarnation: u32, folded: u64, content: u64, at_ms: u64) -> Ack {
        Ack { incarnation, folded, content, at_ms }
    }

    #[test]
    fn within_an_incarnation_nothing_goes_back() {
        let before = ack(2, 10, 8, 1_000);
        assert_eq!(before.followed_by(ack(2, 12, 12, 2_000)), ack(2, 12, 12, 2_000));
        assert_eq!(before.followed_by(ack(2, 9, 7, 2_000)), before, "a late one");
        assert_eq!(before.followed_by(ack(2, 12, 7, 2_000)), ack(2, 12, 8, 1_000), "late in one of the two");
        // What is as it was is so now. The clock may have been set back meanwhile.
        assert_eq!(before.followed_by(ack(2, 10, 8, 2_000)), ack(2, 10, 8, 2_000));
        assert_eq!(before.followed_by(ack(2, 10, 8, 500)), ack(2, 10, 8, 500));
    }

    #[test]
    fn a_new_incarnation_begins_anew_and_an_old_one_is_ignored() {
        let before = ack(2, 10, 8, 1_000);
        assert_eq!(before.followed_by(ack(3, 4, 0, 900)), ack(3, 4, 0, 900));
        assert_eq!(before.followed_by(ack(1, 99, 99, 2_000)), before);
        assert_eq!((before.behind(15), before.behind(10), before.behind(3)), (5, 0, 0));
    }

    fn acks() -> impl Strategy<Value = Ack> {
        (0_u32..3, 0_u64..4, 0_u64..4, 0_u64..4)
            .prop_map(|(i, folded, content, at)| ack(i, folded, content, at))
    }

    proptest! {
        /// Where an ack stands does not depend on the order in which instances wrote, nor on
        /// repeats.
        #[test]
        fn the_order_of_arrival_is_not_seen(a in acks(), b in acks(), c in acks()) {
            let stands = |ack: Ack| (ack.incarnation, ack.folded, ack.content);
            prop_assert_eq!(stands(a.followed_by(b)), stands(b.followed_by(a)));
            prop_assert_eq!(
                stands(a.followed_by(b).followed_by(c)),
                stands(a.followed_by(b.followed_by(c)))
            );
            prop_assert_eq!(a.followed_by(b).followed_by(b), a.followed_by(b));
            let after = a.followed_by(b);
            prop_assert!(after.incarnation >= a.incarnation);
            let is_same = after.incarnation == a.incarnation;
            prop_assert!(!is_same || after.folded >= a.folded && after.content >= a.content);
        }
    }
}
