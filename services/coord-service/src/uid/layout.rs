//! How an id is made up: `ms | worker | sequence` (R63).

/// The time that ids count from, in milliseconds since 1970: 4 November 2010, as most generators of
/// this kind have it.
pub const EPOCH_UNIX_MS: u64 = 1_288_834_974_657;

/// The greatest number of a worker.
pub const MAX_WORKER: u32 = (1 << WORKER_BITS) - 1;

/// Ids that one worker has in a millisecond.
pub const IDS_PER_MS: u32 = 1 << SEQUENCE_BITS;

const TIME_BITS: u32 = 41;
const WORKER_BITS: u32 = 10;
const SEQUENCE_BITS: u32 = 12;

/// The first millisecond for which an id has no room, counted from [`EPOCH_UNIX_MS`].
pub(super) const END_MS: u64 = 1 << TIME_BITS;

/// What an id is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct UidParts {
    /// When it was given out, in milliseconds since 1970, by the time of its generator (R65).
    pub unix_ms: u64,
    /// The number of the worker that gave it out, up to [`MAX_WORKER`].
    pub worker: u32,
    /// Its number within the millisecond, less than [`IDS_PER_MS`].
    pub sequence: u32,
}

impl UidParts {
    pub(super) fn of(id: u64) -> Self {
        let tick = Tick::of(id);
        UidParts {
            unix_ms: tick.ms().saturating_add(EPOCH_UNIX_MS),
            worker: worker_of(id),
            sequence: low_bits(tick.0, SEQUENCE_BITS),
        }
    }
}

/// A place in the row of one worker's ids: the milliseconds since the epoch, and the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(pub(super) u64);

impl Tick {
    /// The first one of a millisecond.
    pub(super) const fn first_of(ms: u64) -> Self {
        Tick(ms << SEQUENCE_BITS)
    }

    /// That of an id.
    pub(super) const fn of(id: u64) -> Self {
        let time = id >> (WORKER_BITS + SEQUENCE_BITS);
        Tick(time << SEQUENCE_BITS | (id & ((1 << SEQUENCE_BITS) - 1)))
    }

    /// Its millisecond.
    pub(super) const fn ms(self) -> u64 {
        self.0 >> SEQUENCE_BITS
    }

    /// The first millisecond of which nothing lies before it.
    pub(super) const fn next_whole_ms(self) -> u64 {
        self.0.div_ceil(1 << SEQUENCE_BITS)
    }

    /// So many further on.
    pub(super) const fn plus(self, count: u32) -> Self {
        Tick(self.0.saturating_add(count as u64))
    }

    /// The id that a worker has at this place.
    pub(super) const fn id(self, worker: u32) -> u64 {
        let sequence = self.0 & ((1 << SEQUENCE_BITS) - 1);
        self.ms() << (WORKER_BITS + SEQUENCE_BITS) | (worker as u64) << SEQUENCE_BITS | sequence
    }
}

/// The worker of an id.
pub(super) fn worker_of(id: u64) -> u32 {
    low_bits(id >> SEQUENCE_BITS, WORKER_BITS)
}

fn low_bits(number: u64, bits: u32) -> u32 {
    u32::try_from(number & ((1 << bits) - 1)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layout_is_the_one_that_others_know() {
        // An id of that layout whose parts are known.
        let id = 1_541_815_603_606_036_480;
        let parts = UidParts::of(id);
        assert_eq!((parts.unix_ms, parts.worker, parts.sequence), (1_656_432_460_105, 378, 0));
        assert_eq!(Tick::of(id).id(378), id);
    }

    #[test]
    fn the_last_id_is_a_positive_number_for_those_who_have_no_unsigned_ones() {
        let last = Tick(Tick::first_of(END_MS).0 - 1).id(MAX_WORKER);
        assert_eq!(last, i64::MAX as u64);
        assert_eq!(UidParts::of(last).unix_ms, EPOCH_UNIX_MS + END_MS - 1);
    }

    proptest! {
        #[test]
        fn an_id_is_its_parts(ms in 0..END_MS, worker in 0..=MAX_WORKER, sequence in 0..IDS_PER_MS) {
            let tick = Tick::first_of(ms).plus(sequence);
            let id = tick.id(worker);
            prop_assert_eq!(Tick::of(id), tick);
            prop_assert_eq!(UidParts::of(id), UidParts { unix_ms: ms + EPOCH_UNIX_MS, worker, sequence });
            prop_assert_eq!(tick.next_whole_ms(), if sequence == 0 { ms } else { ms + 1 });
            // What comes later is greater, whoever gave it out.
            prop_assert!(Tick::first_of(ms + 1).id(0) > id);
        }
    }
}
