//! What is to be stored of a partition's progress, and what must be stored before a message is
//! delivered.
//!
//! Kafka stores one offset for each partition of a group, with a text beside it. The offset is that
//! of the first message that is not done; the text is ours, and says how often that message was
//! begun. So a message whose handler takes its process along is counted, whoever has the partition
//! next, and is given up after as many times as on other engines (K5).
//!
//! To store it before each message would cost a request for each. It is not needed: while the
//! broker has *some* message in the text as begun, a crash is noticed. Who takes over then delivers
//! that message as begun once more, and stores each step on its own until it has passed all that
//! the one before can have reached, [`MAX_UNSTORED`] messages. If the message that does it is
//! among them, the next crash finds its own number.

/// How many messages may be done, and not stored to be.
pub(super) const MAX_UNSTORED: i64 = 256;

/// What the text beside an offset begins with.
const BEGUN: &str = "mq-begun=";

/// Where a group is in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The first message that is not done.
    pub(super) offset: i64,
    /// How often it was delivered so far.
    pub(super) begun: u32,
}

impl Position {
    /// Nothing of it was begun.
    pub(super) fn at(offset: i64) -> Self {
        Position { offset, begun: 0 }
    }

    /// As Kafka has it: an offset, and a text beside it, which others may have written.
    pub(super) fn read(offset: i64, text: &str) -> Self {
        let begun = text.strip_prefix(BEGUN).and_then(|begun| begun.parse().ok()).unwrap_or_default();
        Position { offset, begun }
    }

    /// The text beside the offset.
    pub(super) fn text(self) -> String {
        format!("{BEGUN}{}", self.begun)
    }
}

/// The progress of a partition for as long as it is ours.
#[derive(Debug)]
pub(super) struct Ledger {
    now: Position,
    /// What the broker has.
    stored: Position,
    /// Each step is stored on its own up to this offset.
    careful_until: i64,
    /// Each step is stored on its own at all times.
    each: bool,
    /// Nothing waits behind what is done.
    idle: bool,
}

impl Ledger {
    /// Of a partition that was taken over; `each` has each step stored on its own.
    pub(super) fn new(stored: Position, each: bool) -> Self {
        let careful_until = match stored.begun {
            0 => stored.offset,
            _ => stored.offset.saturating_add(MAX_UNSTORED),
        };
        Ledger { now: stored, stored, careful_until, each, idle: true }
    }

    /// The message at this offset is to be delivered, once more.
    pub(super) fn begin(&mut self, offset: i64) {
        // Between two messages there may be numbers that no message has.
        if offset > self.now.offset {
            self.now = Position::at(offset);
        }
        self.now.begun = self.now.begun.saturating_add(1);
        self.idle = false;
    }

    /// The message that was begun last is not delivered after all.
    pub(super) fn not_begun(&mut self) {
        self.now.begun = self.now.begun.saturating_sub(1);
    }

    /// How often the present message was begun.
    pub(super) fn begun(&self) -> u32 {
        self.now.begun
    }

    /// Whether the message that was begun last may be delivered now: whether a crash would be
    /// noticed by whoever comes next.
    pub(super) fn may_deliver(&self) -> bool {
        if self.is_stored() {
            return true;
        }
        let is_first = self.now.begun == 1;
        let is_hasty = !self.each && self.now.offset >= self.careful_until;
        is_first && is_hasty && self.stored.begun > 0 && self.unstored() < MAX_UNSTORED
    }

    /// The message at this offset is done.
    pub(super) fn done(&mut self, offset: i64) {
        self.now = Position::at(offset.saturating_add(1));
    }

    /// Nothing waits behind what is done.
    pub(super) fn idle(&mut self) {
        self.idle = true;
    }

    /// What is to be stored, if anything is. Where more is under way, the next message counts as
    /// begun, so that it needs no request of its own; not so where it has to be `exact`.
    pub(super) fn to_store(&self, exact: bool) -> Option<Position> {
        let is_between = self.now.begun == 0 && self.now.offset > self.careful_until;
        let wanted = match is_between && !(exact || self.each || self.idle) {
            true => Position { begun: 1, ..self.now },
            false => self.now,
        };
        (self.stored != wanted).then_some(wanted)
    }

    /// Whether it should be stored before its turn.
    pub(super) fn is_urgent(&self) -> bool {
        (self.each && !self.is_stored()) || self.unstored() >= MAX_UNSTORED / 2
    }

    /// The broker has this.
    pub(super) fn stored(&mut self, position: Position) {
        self.stored = position;
    }

    /// Whether the broker has where it is.
    pub(super) fn is_stored(&self) -> bool {
        self.stored == self.now
    }

    /// Whether the broker has all that was said of messages: that the last one is done, or how
    /// often the present one was begun.
    pub(super) fn is_settled(&self) -> bool {
        self.is_stored() || (self.now.begun == 0 && self.stored.offset == self.now.offset)
    }

    fn unstored(&self) -> i64 {
        self.now.offset.saturating_sub(self.stored.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores what there is to be stored.
    fn store(ledger: &mut Ledger, exact: bool) -> Option<Position> {
        let position = ledger.to_store(exact)?;
        ledger.stored(position);
        Some(position)
    }

    fn at(offset: i64, begun: u32) -> Option<Position> {
        Some(Position { offset, begun })
    }

    #[test]
    fn positions_are_read_as_they_were_written() {
        let position = Position { offset: 7, begun: 3 };
        assert_eq!(Position::read(7, &position.text()), position);
        for foreign in ["", "x", "mq-begun=", "mq-begun=many"] {
            assert_eq!(Position::read(7, foreign), Position::at(7));
        }
    }

    #[test]
    fn the_first_message_is_stored_as_begun_and_those_behind_it_need_not_be() {
        let mut ledger = Ledger::new(Position::at(5), false);
        assert_eq!(ledger.to_store(true), None, "nothing was done");
        ledger.begin(5);
        assert!(!ledger.may_deliver());
        assert_eq!(store(&mut ledger, false), at(5, 1));
        assert!(ledger.may_deliver());
        for offset in 5..20 {
            ledger.done(offset);
            ledger.begin(offset + 1);
            assert!(ledger.may_deliver(), "{offset}");
        }
        // In the midst of it, between two messages, and when there are no more.
        assert_eq!(store(&mut ledger, false), at(20, 1));
        ledger.done(20);
        assert_eq!(store(&mut ledger, false), at(21, 1));
        ledger.idle();
        assert_eq!(store(&mut ledger, false), at(21, 0));
        assert_eq!(store(&mut ledger, true), None);
        ledger.begin(21);
        assert!(!ledger.may_deliver(), "a crash while nothing was in hand is not a message's fault");
    }

    #[test]
    fn no_more_is_done_than_whoever_comes_next_is_careful_for() {
        let mut ledger = Ledger::new(Position::at(0), false);
        ledger.begin(0);
        store(&mut ledger, false);
        let mut offset = 0;
        while ledger.may_deliver() {
            ledger.done(offset);
            offset += 1;
            ledger.begin(offset);
        }
        assert_eq!(offset, MAX_UNSTORED);
        assert!(ledger.is_urgent());
        store(&mut ledger, false);
        assert!(ledger.may_deliver() && !ledger.is_urgent());
    }

    #[test]
    fn after_a_crash_each_message_is_stored_on_its_own() {
        let mut ledger = Ledger::new(Position { offset: 5, begun: 1 }, false);
        ledger.begin(5);
        assert_eq!(ledger.begun(), 2);
        assert!(!ledger.may_deliver());
        assert_eq!(store(&mut ledger, false), at(5, 2));
        assert!(ledger.may_deliver());
        for offset in 6..5 + MAX_UNSTORED {
            ledger.done(offset - 1);
            ledger.begin(offset);
            assert!(!ledger.may_deliver(), "{offset}");
            assert_eq!(store(&mut ledger, false), at(offset, 1));
            assert!(ledger.may_deliver());
        }
        ledger.done(4 + MAX_UNSTORED);
        ledger.begin(5 + MAX_UNSTORED);
        assert!(ledger.may_deliver(), "nobody was here before");
    }

    #[test]
    fn a_message_that_comes_again_is_stored_as_such() {
        let mut ledger = Ledger::new(Position::at(0), false);
        ledger.begin(0);
        store(&mut ledger, false);
        ledger.done(0);
        ledger.begin(1);
        assert!(ledger.may_deliver());
        // It is to be tried again: that it was begun is stored first.
        assert_eq!(store(&mut ledger, true), at(1, 1));
        ledger.begin(1);
        assert!(!ledger.may_deliver());
        assert_eq!(store(&mut ledger, false), at(1, 2));
        assert!(ledger.may_deliver());
    }

    #[test]
    fn what_was_begun_and_not_delivered_does_not_count() {
        let mut ledger = Ledger::new(Position::at(3), false);
        ledger.begin(3);
        assert_eq!(store(&mut ledger, false), at(3, 1));
        ledger.not_begun();
        assert_eq!(store(&mut ledger, true), at(3, 0));
    }

    #[test]
    fn with_each_on_its_own_nothing_waits() {
        let mut ledger = Ledger::new(Position::at(0), true);
        for offset in 0..3 {
            ledger.begin(offset);
            assert!(ledger.is_urgent() && !ledger.may_deliver());
            assert_eq!(store(&mut ledger, false), at(offset, 1));
            ledger.done(offset);
            assert!(ledger.is_urgent());
        }
        assert_eq!(store(&mut ledger, false), at(3, 0));
    }

    #[test]
    fn numbers_that_no_message_has_are_passed() {
        let mut ledger = Ledger::new(Position { offset: 5, begun: 3 }, false);
        ledger.begin(9);
        assert_eq!(ledger.begun(), 1, "what was begun was another one");
        assert_eq!(store(&mut ledger, false), at(9, 1));
    }

    /// A message that kills its process is given up after as many deliveries as it should, wherever
    /// it lies behind what is stored, and no other one is given up for it.
    #[test]
    fn a_message_that_kills_its_process_is_the_one_that_is_counted() {
        for deadly in [0, 1, 40, 255, 256, 300] {
            let mut broker = Position::at(0);
            let mut most = [0_u32; 400];
            for _crash in 0..12 {
                let mut ledger = Ledger::new(broker, false);
                let mut offset = broker.offset;
                loop {
                    ledger.begin(offset);
                    while !ledger.may_deliver() {
                        broker = store(&mut ledger, false).unwrap();
                    }
                    let seen = &mut most[usize::try_from(offset).unwrap()];
                    *seen = (*seen).max(ledger.begun());
                    if offset == deadly {
                        break;
                    }
                    ledger.done(offset);
                    offset += 1;
                }
            }
            let counted = most[usize::try_from(deadly).unwrap()];
            assert!((11..=12).contains(&counted), "{deadly}: {counted}");
            let others = most.iter().enumerate().filter(|(at, _)| i64::try_from(*at).unwrap() != deadly);
            assert!(others.into_iter().all(|(_, begun)| *begun <= 2), "{deadly}");
        }
    }
}
