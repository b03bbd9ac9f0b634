//! Which id comes next: a state that asks neither clock nor store, and takes no lock (R63 to R66).

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::clock::Reading;
use super::layout::{END_MS, Tick, worker_of};

/// How far the time in the ids may be ahead of the base, in milliseconds (R65).
pub(super) const AHEAD_MS: u64 = 1_000;

const NANOS_PER_MS: u64 = 1_000_000;

/// Set in [`Generator::next`] while nothing is given out. No id has this bit.
const STOPPED: u64 = 1 << 63;

/// The ids of one worker after another.
///
/// Everything that may change at any moment lies in `next`: whoever takes ids moves it from what
/// they have seen to what comes after, in one step. The number of the worker is a part of it, so
/// that a step which began before a worker's number was lost fails after that.
#[derive(Debug)]
pub(super) struct Generator {
    /// The id that comes next, if no time passes, or [`STOPPED`] with it.
    next: AtomicU64,
    /// The horizon that is stored for the worker, in milliseconds since the epoch (R64).
    horizon: AtomicU64,
    /// When the worker's number may be another's, by the monotonic clock (R66).
    deadline: AtomicU64,
    /// How far the base is ahead of the monotonic clock, in nanoseconds. It only rises (R65).
    ahead: AtomicI64,
    /// How far ahead of the time in the ids a horizon is stored, in milliseconds.
    span: u64,
}

/// A horizon that stands in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// In milliseconds since the epoch.
    pub(super) horizon: u64,
    /// Whether it was written under the number that is held now, and not by who had it before.
    pub(super) is_own: bool,
}

/// Ids that were given out: one after the other, of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Issued {
    /// The first one's place.
    pub(super) first: Tick,
    /// Their worker.
    pub(super) worker: u32,
    /// Whether the horizon has come so near that a later one should have been stored by now.
    pub(super) is_near_horizon: bool,
}

/// Why there is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no worker.
    Stopped,
    /// The deadline that is known has passed (R66).
    Expired,
    /// Nothing is left below the horizon that is known to be stored (R64).
    AtHorizon,
    /// The ids are too far ahead of the base; there may be some again after this time (R65).
    Exhausted(Duration),
}

impl Generator {
    /// One that is stopped, and stores horizons so far ahead.
    pub(super) fn new(span: Duration) -> Self {
        Generator {
            next: AtomicU64::new(STOPPED),
            horizon: AtomicU64::new(0),
            deadline: AtomicU64::new(0),
            ahead: AtomicI64::new(i64::MIN),
            span: u64::try_from(span.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Gives out `count` ids in a row.
    pub(super) fn issue(&self, at: Reading, count: u32) -> Result<Issued, Refusal> {
        let base = self.base(at);
        let base_ms = base / NANOS_PER_MS;
        let mut next = self.next.load(Ordering::Acquire);
        loop {
            if next & STOPPED != 0 {
                return Err(Refusal::Stopped);
            }
            // Of this worker, or of a later one, and then the step below fails.
            let horizon = self.horizon.load(Ordering::Acquire);
            if at.monotonic >= self.deadline.load(Ordering::Acquire) {
                return Err(Refusal::Expired);
            }
            // Where the base has come to the horizon, because the clock was set forward or the
            // store is away, the ids stay a little below it.
            let from = base_ms.min(horizon.saturating_sub(self.kept_below()));
            let first = Tick::of(next).max(Tick::first_of(from));
            let end = first.plus(count);
            if end > Tick::first_of(base_ms + AHEAD_MS + 1) {
                return Err(Refusal::Exhausted(until(end, base)));
            }
            if end > Tick::first_of(horizon) {
                return Err(Refusal::AtHorizon);
            }
            let worker = worker_of(next);
            match self.next.compare_exchange_weak(next, end.id(worker), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    let is_near_horizon = base_ms.max(first.ms()) + self.span / 4 >= horizon;
                    return Ok(Issued { first, worker, is_near_horizon });
                }
                Err(seen) => next = seen,
            }
        }
    }

    /// How much room below the horizon is not jumped over, in milliseconds: a second, which is all
    /// that may be ahead of the base, or less where horizons are near.
    fn kept_below(&self) -> u64 {
        AHEAD_MS.min(self.span / 2)
    }

    /// The base at this moment, in nanoseconds since the epoch (R65).
    fn base(&self, at: Reading) -> u64 {
        let seen = signed(at.day).saturating_sub(signed(at.monotonic));
        let mut ahead = self.ahead.load(Ordering::Acquire);
        // A clock at which ids have no room is no clock.
        if seen > ahead && at.day < END_MS * NANOS_PER_MS {
            ahead = self.ahead.fetch_max(seen, Ordering::AcqRel).max(seen);
        }
        u64::try_from(signed(at.monotonic).saturating_add(ahead)).unwrap_or(0)
    }

    /// Takes a look at the clock of day without giving anything out.
    pub(super) fn look(&self, at: Reading) {
        self.base(at);
    }

    /// The time that ids have now, in milliseconds since the epoch, as far as is known without a
    /// look at the clock of day.
    pub(super) fn now_ms(&self, monotonic: u64) -> u64 {
        let base = signed(monotonic).saturating_add(self.ahead.load(Ordering::Acquire));
        let next = Tick::of(self.next.load(Ordering::Acquire) & !STOPPED).next_whole_ms();
        next.max(u64::try_from(base).unwrap_or(0) / NANOS_PER_MS)
    }

    /// The first horizon of a worker, over what is stored for it. Who [begins](Self::begin) with it
    /// begins at or after all that others have stored. `None` where ids have no room for the time
    /// any more.
    pub(super) fn first_horizon(&self, stored: Option<Stored>, monotonic: u64) -> Option<u64> {
        let free_from = match stored {
            None => 0,
            Some(Stored { horizon, is_own: false }) => horizon,
            // A first horizon of one's own that was stored without an answer. Nothing was given out
            // below it.
            Some(Stored { horizon, is_own: true }) => horizon.saturating_sub(self.span),
        };
        later(self.now_ms(monotonic).max(free_from), self.span)
    }

    /// The horizon to be stored next. `None` where ids have no room for the time any more.
    pub(super) fn next_horizon(&self, monotonic: u64) -> Option<u64> {
        let horizon = later(self.now_ms(monotonic), self.span)?;
        Some(horizon.max(self.horizon.load(Ordering::Acquire)))
    }

    /// For how long the stored horizon is far enough ahead, if no clock is set and no more ids are
    /// taken than there is time for: a third of the TTL after it was stored, the half of the span.
    pub(super) fn horizon_serves(&self, monotonic: u64) -> Duration {
        let horizon = self.horizon.load(Ordering::Acquire).saturating_sub(self.span / 2);
        Duration::from_millis(horizon.saturating_sub(self.now_ms(monotonic)))
    }

    /// A [first horizon](Self::first_horizon) of a worker is stored: ids are given out from now on,
    /// up to the deadline. It must be stopped.
    pub(super) fn begin(&self, worker: u32, horizon: u64, deadline: u64, monotonic: u64) {
        let start = horizon.saturating_sub(self.span);
        let ahead = signed(start.saturating_mul(NANOS_PER_MS)).saturating_sub(signed(monotonic));
        self.ahead.fetch_max(ahead, Ordering::AcqRel);
        self.horizon.store(horizon, Ordering::Release);
        self.deadline.store(deadline, Ordering::Release);
        let floor = Tick::of(self.next.load(Ordering::Acquire) & !STOPPED).next_whole_ms();
        self.next.store(Tick::first_of(start.max(floor)).id(worker), Ordering::Release);
    }

    /// A later horizon of the worker is stored.
    pub(super) fn raise(&self, horizon: u64) {
        self.horizon.fetch_max(horizon, Ordering::AcqRel);
    }

    /// The worker's number was renewed, and is held until then.
    pub(super) fn extend(&self, deadline: u64) {
        self.deadline.fetch_max(deadline, Ordering::AcqRel);
    }

    /// Gives nothing out any more. Gives the time, in milliseconds since the epoch, that no id has
    /// reached.
    pub(super) fn stop(&self) -> u64 {
        Tick::of(self.next.fetch_or(STOPPED, Ordering::AcqRel) & !STOPPED).next_whole_ms()
    }
}

fn signed(nanos: u64) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

/// `span` after `ms`, where ids have room for it.
fn later(ms: u64, span: u64) -> Option<u64> {
    ms.checked_add(span).filter(|horizon| *horizon < END_MS)
}

/// How long after `base` there is room up to `end`.
fn until(end: Tick, base: u64) -> Duration {
    let needed = end.next_whole_ms().saturating_sub(AHEAD_MS + 1).saturating_mul(NANOS_PER_MS);
    Duration::from_nanos(needed.saturating_sub(base))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::uid::layout::{IDS_PER_MS, UidParts};

    const SPAN: Duration = Duration::from_secs(20);
    const HOUR: u64 = 3_600_000;
    /// When the clock of day stands at the beginning, in milliseconds since the epoch.
    const DAY: u64 = 500_000_000_000;
    const WORKER: u32 = 5;

    /// Both clocks, in milliseconds: the monotonic one since the generator was made.
    fn at(day: u64, monotonic: u64) -> Reading {
        Reading { day: day * NANOS_PER_MS, monotonic: monotonic * NANOS_PER_MS }
    }

    /// A generator that has begun at `DAY`, and whose number is held for 30 s.
    fn begun() -> Generator {
        let generator = Generator::new(SPAN);
        generator.look(at(DAY, 0));
        let horizon = generator.first_horizon(None, 0).unwrap();
        assert_eq!(horizon, DAY + 20_000);
        generator.begin(WORKER, horizon, 30_000 * NANOS_PER_MS, 0);
        generator
    }

    fn one(generator: &Generator, day: u64, monotonic: u64) -> (u64, u64) {
        let issued = generator.issue(at(day, monotonic), 1).unwrap();
        assert_eq!(issued.worker, WORKER);
        (issued.first.ms(), issued.first.0 - Tick::first_of(issued.first.ms()).0)
    }

    #[test]
    fn ids_go_with_the_clock_and_count_within_a_millisecond() {
        let generator = begun();
        assert_eq!(one(&generator, DAY, 0), (DAY, 0));
        assert_eq!(one(&generator, DAY, 0), (DAY, 1));
        assert_eq!(one(&generator, DAY + 3, 3), (DAY + 3, 0));
    }

    #[test]
    fn a_clock_that_is_set_back_stops_nothing() {
        let generator = begun();
        one(&generator, DAY + 5, 5);
        assert_eq!(one(&generator, DAY - HOUR, 6), (DAY + 6, 0), "the monotonic clock goes on");
        assert_eq!(one(&generator, DAY - HOUR + 900, 906), (DAY + 906, 0));
    }

    #[test]
    fn a_clock_that_is_set_forward_stops_nothing_and_asks_for_a_later_horizon() {
        let generator = begun();
        one(&generator, DAY, 0);
        let issued = generator.issue(at(DAY + HOUR, 1), 1).unwrap();
        assert_eq!(issued.first.ms(), DAY + 20_000 - AHEAD_MS, "below what is stored");
        assert!(issued.is_near_horizon);
        let horizon = generator.next_horizon(NANOS_PER_MS).unwrap();
        assert_eq!(horizon, DAY + HOUR + 20_000);
        generator.raise(horizon);
        let issued = generator.issue(at(DAY + HOUR, 1), 1).unwrap();
        assert_eq!((issued.first.ms(), issued.is_near_horizon), (DAY + HOUR, false));
    }

    #[test]
    fn below_the_horizon_there_is_a_second_for_a_clock_beyond_it_and_then_nothing() {
        let generator = begun();
        let far = at(DAY + HOUR, 1);
        for _ in 0..10 {
            generator.issue(far, IDS_PER_MS * 100).unwrap();
        }
        assert_eq!(generator.issue(far, 1), Err(Refusal::AtHorizon));
        generator.raise(DAY + 20_001);
        assert_eq!(generator.issue(far, 1).unwrap().first, Tick::first_of(DAY + 20_000));
    }

    #[test]
    fn a_clock_at_which_ids_have_no_room_is_no_clock() {
        let generator = begun();
        assert_eq!(one(&generator, END_MS, 7), (DAY + 7, 0));
        let late = Generator::new(SPAN);
        late.look(at(END_MS - 10, 0));
        assert_eq!(late.first_horizon(None, 0), None);
    }

    #[test]
    fn a_second_is_borrowed_and_then_it_is_exhausted_until_time_has_passed() {
        let generator = begun();
        for _ in 0..1_001 {
            generator.issue(at(DAY, 0), IDS_PER_MS).unwrap();
        }
        let refusal = generator.issue(at(DAY, 0), 1).unwrap_err();
        assert_eq!(refusal, Refusal::Exhausted(Duration::from_millis(1)));
        assert_eq!(generator.issue(at(DAY + 1, 1), 1).unwrap().first, Tick::first_of(DAY + 1_001));
        let all = generator.issue(at(DAY + 1, 1), IDS_PER_MS).unwrap_err();
        assert_eq!(all, Refusal::Exhausted(Duration::from_millis(1)), "all of them, or none");
        assert!(generator.issue(at(DAY + 1, 1), IDS_PER_MS - 1).is_ok());
    }

    #[test]
    fn nothing_is_given_out_from_the_deadline_on_until_it_is_moved() {
        let generator = begun();
        generator.raise(DAY + 60_000);
        let last = Reading { monotonic: 30_000 * NANOS_PER_MS - 1, ..at(DAY + 30_000, 0) };
        assert!(generator.issue(last, 1).is_ok());
        assert_eq!(generator.issue(at(DAY + 30_000, 30_000), 1), Err(Refusal::Expired));
        generator.extend(40_000 * NANOS_PER_MS);
        generator.extend(35_000 * NANOS_PER_MS);
        assert!(generator.issue(at(DAY + 39_999, 39_999), 1).is_ok(), "it is never moved back");
    }

    #[test]
    fn it_begins_at_what_is_stored_or_at_its_clock() {
        let stored = |horizon, is_own| Some(Stored { horizon, is_own });
        let first = |stored| {
            let generator = Generator::new(SPAN);
            generator.look(at(DAY, 0));
            let horizon = generator.first_horizon(stored, 0).unwrap();
            generator.begin(WORKER, horizon, u64::MAX, 0);
            one(&generator, DAY, 0).0
        };
        assert_eq!(first(stored(DAY - 1, false)), DAY);
        assert_eq!(first(stored(DAY + HOUR, false)), DAY + HOUR);
        assert_eq!(first(stored(DAY + 20_000, true)), DAY, "its own, of which it did not know");
        assert_eq!(first(stored(DAY + HOUR + 20_000, true)), DAY + HOUR);
    }

    #[test]
    fn the_base_goes_on_from_a_beginning_in_the_future() {
        let generator = Generator::new(SPAN);
        generator.look(at(DAY, 0));
        let stored = Stored { horizon: DAY + HOUR, is_own: false };
        generator.begin(WORKER, generator.first_horizon(Some(stored), 0).unwrap(), u64::MAX, 0);
        assert_eq!(one(&generator, DAY + 500, 500), (DAY + HOUR + 500, 0));
    }

    #[test]
    fn after_a_loss_another_number_goes_on_above_all_that_was_given_out() {
        let generator = begun();
        let before = generator.issue(at(DAY, 0), IDS_PER_MS * 900).unwrap();
        assert_eq!(generator.stop(), DAY + 900);
        assert_eq!(generator.issue(at(DAY, 0), 1), Err(Refusal::Stopped));
        assert_eq!(generator.stop(), DAY + 900, "once more says the same");
        let horizon = generator.first_horizon(None, 0).unwrap();
        generator.begin(WORKER - 1, horizon, u64::MAX, 0);
        let after = generator.issue(at(DAY - HOUR, 0), 1).unwrap();
        let last = before.first.plus(IDS_PER_MS * 900 - 1).id(WORKER);
        assert_eq!(after.worker, WORKER - 1);
        assert!(after.first.id(after.worker) > last);
    }

    #[test]
    fn what_is_free_at_the_end_is_the_time_after_the_last_id() {
        let generator = begun();
        assert_eq!(generator.stop(), DAY, "none was given out");
        let generator = begun();
        one(&generator, DAY + 7, 7);
        assert_eq!(generator.stop(), DAY + 8);
    }

    #[test]
    fn the_next_horizon_is_wanted_a_third_of_the_ttl_after_the_last() {
        let generator = begun();
        assert_eq!(generator.horizon_serves(0), Duration::from_secs(10));
        assert_eq!(generator.horizon_serves(4_000 * NANOS_PER_MS), Duration::from_secs(6));
        assert_eq!(generator.horizon_serves(12_000 * NANOS_PER_MS), Duration::ZERO);
        assert_eq!(generator.next_horizon(10_000 * NANOS_PER_MS), Some(DAY + 30_000));
    }

    #[test]
    fn with_the_shortest_ttl_the_greatest_batch_fits() {
        let generator = Generator::new(Duration::from_millis(666));
        generator.look(at(DAY, 0));
        generator.begin(WORKER, generator.first_horizon(None, 0).unwrap(), u64::MAX, 0);
        assert!(generator.issue(at(DAY + 600, 600), crate::uid::MAX_BATCH).is_ok());
    }

    #[test]
    fn threads_never_get_the_same_id_and_each_sees_its_own_rise() {
        let generator = begun();
        let taken: Vec<u64> = std::thread::scope(|scope| {
            let take = || {
                let ids: Vec<u64> = (0..20_000)
                    .filter_map(|n| generator.issue(at(DAY + n / 1_000, n / 1_000), 1 + n as u32 % 3).ok())
                    .map(|issued| issued.first.id(issued.worker))
                    .collect();
                assert!(ids.is_sorted_by(|one, two| one < two));
                ids
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), taken.len());
        assert!(taken.iter().all(|id| UidParts::of(*id).worker == WORKER));
    }
}
