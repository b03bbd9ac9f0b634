use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;

fn id(n: usize) -> RegionId {
    RegionId::new(format!("r{n}")).unwrap()
}

/// A leader that looks at regions which are there or not.
struct Leader {
    health: Health,
    now: u64,
    /// How many heartbeats each has sent.
    counters: Vec<u64>,
}

impl Leader {
    /// Begins at a moment that is not 0.
    fn of(regions: usize) -> Self {
        let now = 77 * MINUTE;
        let mut leader = Self { health: Health::new(now), now, counters: vec![1; regions] };
        leader.tick(0, |_| true);
        leader
    }

    /// Looks and ticks after `step`, with a heartbeat of each region that is there.
    fn tick(&mut self, step: u64, is_there: impl Fn(usize) -> bool) -> Vec<Changed> {
        self.now += step;
        let members: Vec<RegionId> = (0..self.counters.len()).map(id).collect();
        self.health.members(&members, self.now);
        for (n, counter) in self.counters.iter_mut().enumerate() {
            *counter += u64::from(is_there(n));
            self.health.seen(&id(n), *counter, self.now);
        }
        self.health.tick(self.now)
    }

    /// Looks every 10 seconds for so long.
    fn go_on(&mut self, duration: u64, is_there: impl Fn(usize) -> bool) {
        for _ in 0..duration / (10 * SECOND) {
            self.tick(10 * SECOND, &is_there);
        }
    }

    /// A sign for each: there, quiet, away.
    fn states(&self) -> String {
        let sign = |(_, state)| match state {
            RegionState::Active => '+',
            RegionState::Degraded => '?',
            RegionState::Offline => '-',
        };
        self.health.states().map(sign).collect()
    }
}

#[test]
fn who_is_quiet_is_degraded_after_a_minute_and_offline_after_five() {
    let mut leader = Leader::of(3);
    leader.go_on(50 * SECOND, |n| n > 0);
    assert_eq!(leader.states(), "+++");
    let changed = leader.tick(10 * SECOND, |n| n > 0);
    assert_eq!(leader.states(), "?++");
    let (from, to) = (Some(RegionState::Active), RegionState::Degraded);
    assert_eq!(changed, [Changed { region: id(0), from, to }]);
    leader.go_on(230 * SECOND, |n| n > 0);
    assert_eq!(leader.states(), "?++");
    let changed = leader.tick(10 * SECOND, |n| n > 0);
    assert_eq!(leader.states(), "-++");
    let (from, to) = (Some(RegionState::Degraded), RegionState::Offline);
    assert_eq!(changed, [Changed { region: id(0), from, to }]);
    assert_eq!(leader.health.preserving(), None, "one of three is not half");
    let changed = leader.tick(10 * SECOND, |_| true);
    assert_eq!((leader.states().as_str(), changed.len()), ("+++", 1), "heard again, active at once");
    assert!(leader.tick(10 * SECOND, |_| true).is_empty());
}

/// One region is never half of those that count.
#[test]
fn one_region_is_offline_by_itself() {
    let mut leader = Leader::of(1);
    leader.go_on(5 * MINUTE, |_| false);
    assert_eq!((leader.states().as_str(), leader.health.preserving()), ("-", None));
    // Nor is it of two, or the last of three.
    let mut leader = Leader::of(2);
    leader.go_on(5 * MINUTE, |n| n == 1);
    assert_eq!((leader.states().as_str(), leader.health.preserving()), ("-+", None));
    leader.go_on(10 * MINUTE, |n| n == 1);
    leader.go_on(5 * MINUTE, |_| false);
    assert_eq!((leader.states().as_str(), leader.health.preserving()), ("--", None));
}

#[test]
fn all_gone_at_once_are_offline_after_fifteen_minutes_more() {
    for regions in 2..6 {
        let mut leader = Leader::of(regions);
        let began = leader.now;
        leader.go_on(MINUTE, |_| false);
        assert_eq!(leader.states(), "?".repeat(regions));
        assert_eq!(leader.health.preserving(), Some(began + 16 * MINUTE));
        leader.go_on(15 * MINUTE - 10 * SECOND, |_| false);
        assert_eq!(leader.states(), "?".repeat(regions));
        assert_eq!(leader.health.preserving(), Some(began + 16 * MINUTE));
        leader.go_on(10 * SECOND, |_| false);
        assert_eq!((leader.states(), leader.health.preserving()), ("-".repeat(regions), None));
        leader.go_on(60 * MINUTE, |_| false);
        assert_eq!(leader.health.preserving(), None, "it is over for good");
        leader.go_on(10 * SECOND, |_| true);
        assert_eq!(leader.states(), "+".repeat(regions));
    }
}

#[test]
fn exactly_half_is_half() {
    let gone = |regions, gone: usize| {
        let mut leader = Leader::of(regions);
        leader.go_on(5 * MINUTE, |n| n >= gone);
        (leader.states(), leader.health.preserving().is_some())
    };
    assert_eq!(gone(4, 2), ("??++".into(), true));
    assert_eq!(gone(5, 2), ("--+++".into(), false));
    assert_eq!(gone(5, 3), ("???++".into(), true));
    assert_eq!(gone(3, 2), ("??+".into(), true));
}

/// Those of long ago are no part of it, neither as gone nor as there.
#[test]
fn who_was_offline_before_does_not_vote() {
    let mut leader = Leader::of(10);
    for gone in 1..=6 {
        leader.go_on(7 * MINUTE, |n| n >= gone);
    }
    assert_eq!((leader.states().as_str(), leader.health.preserving()), ("------++++", None));
    leader.go_on(5 * MINUTE, |n| n >= 8);
    assert_eq!(leader.states(), "------??++", "two of the four that were there");
    assert!(leader.health.preserving().is_some());
}

/// Each mass silence is waited out: a second one during the first makes it longer.
#[test]
fn another_half_during_it_makes_it_longer() {
    let mut leader = Leader::of(4);
    let began = leader.now;
    leader.go_on(10 * MINUTE, |n| n > 1);
    assert_eq!(leader.health.preserving(), Some(began + 16 * MINUTE));
    leader.go_on(MINUTE, |_| false);
    assert_eq!(leader.health.preserving(), Some(began + 26 * MINUTE));
    leader.go_on(15 * MINUTE - 10 * SECOND, |_| false);
    assert_eq!(leader.states(), "????");
    leader.go_on(10 * SECOND, |_| false);
    assert_eq!((leader.states().as_str(), leader.health.preserving()), ("----", None));
}

/// Within 5 minutes counts, one by one over a longer time does not.
#[test]
fn one_by_one_is_no_mass_silence() {
    let mut leader = Leader::of(4);
    leader.go_on(5 * MINUTE + 10 * SECOND, |n| n > 0);
    leader.go_on(5 * MINUTE, |n| n > 1);
    assert_eq!((leader.states().as_str(), leader.health.preserving()), ("--++", None));

    let mut leader = Leader::of(4);
    leader.go_on(4 * MINUTE, |n| n > 0);
    leader.go_on(10 * MINUTE, |n| n > 1);
    assert_eq!(leader.states(), "??++");
    // Who was offline before it was seen stays so; the other one is spared.
    let mut leader = Leader::of(4);
    leader.go_on(4 * MINUTE + 50 * SECOND, |n| n > 0);
    leader.go_on(10 * MINUTE, |n| n > 1);
    assert_eq!(leader.states(), "-?++");
    assert!(leader.health.preserving().is_some());
}

/// Who comes and goes is heard each time, and counts once.
#[test]
fn flapping() {
    let mut leader = Leader::of(4);
    for _ in 0..20 {
        leader.go_on(4 * MINUTE, |n| n > 0);
        assert_eq!(leader.states(), "?+++");
        leader.go_on(10 * SECOND, |_| true);
        assert_eq!(leader.states(), "++++");
    }
    assert_eq!(leader.health.preserving(), None);
    // During a silence of others, it does not make that longer without an end.
    leader.go_on(MINUTE, |n| n > 1);
    leader.go_on(10 * SECOND, |n| n != 1);
    let mut minutes = 0;
    while leader.health.state(&id(1)) != Some(RegionState::Offline) {
        leader.go_on(70 * SECOND, |n| n > 1);
        leader.go_on(10 * SECOND, |n| n != 1);
        minutes += 1;
        assert!(minutes < 24, "{:?}", leader.health);
    }
}

#[test]
fn who_comes_during_it_is_spared_too_and_who_is_deregistered_is_forgotten() {
    let mut leader = Leader::of(2);
    let began = leader.now;
    leader.go_on(4 * MINUTE, |_| false);
    leader.counters.push(1);
    leader.go_on(10 * MINUTE, |_| false);
    assert_eq!(leader.states(), "???");
    // It has made it longer, for it went quiet with half of the others.
    let until = leader.health.preserving().unwrap();
    assert!(until >= began + 16 * MINUTE);
    // Two are deregistered: one of one is quiet, and it goes on until it is over.
    leader.counters.truncate(1);
    leader.go_on(10 * SECOND, |_| false);
    assert_eq!((leader.states().as_str(), leader.health.state(&id(1))), ("?", None));
    assert!(!leader.health.seen(&id(1), 99, leader.now), "it is no member");
    assert_eq!(leader.health.preserving(), Some(until));
    leader.go_on(until - leader.now + 10 * SECOND, |_| false);
    assert_eq!(leader.states(), "-");
    // Registered anew it has its full time, and its counter begins anew too.
    leader.counters.push(1);
    leader.go_on(4 * MINUTE, |_| false);
    assert_eq!(leader.states(), "-?");
    leader.counters[1] = 0;
    leader.go_on(10 * SECOND, |_| false);
    assert_eq!(leader.states(), "-+", "another counter is a new heartbeat");
}

/// A leader that was away has not watched: nobody is offline for what it did not see.
#[test]
fn a_pause_counts_for_nobody() {
    let mut leader = Leader::of(3);
    leader.go_on(4 * MINUTE, |n| n > 0);
    let changed = leader.tick(10 * MINUTE, |_| false);
    assert_eq!((leader.states().as_str(), changed.len()), ("?++", 0), "its first look finds nobody new");
    leader.go_on(50 * SECOND, |n| n > 0);
    assert_eq!(leader.states(), "?++");
    leader.go_on(10 * SECOND, |n| n > 0);
    assert_eq!(leader.states(), "-++", "five minutes that were watched");
    // What it holds back during a mass silence, it holds back for as long as was said, of that.
    leader.go_on(2 * MINUTE, |_| false);
    let until = leader.health.preserving().unwrap();
    leader.tick(10 * MINUTE, |_| false);
    assert_eq!(leader.health.preserving(), Some(until + 10 * MINUTE));
    // Up to 30 s it has watched.
    let mut leader = Leader::of(3);
    for _ in 0..2 {
        leader.tick(WATCH_GAP_MS, |n| n > 0);
    }
    assert_eq!(leader.states(), "?++");
    for _ in 0..100 {
        leader.tick(WATCH_GAP_MS + 1, |n| n > 0);
    }
    assert_eq!(leader.states(), "?++");
    // A heartbeat that is seen after a pause is one.
    leader.tick(10 * MINUTE, |_| true);
    assert_eq!(leader.states(), "+++");
    // A clock that goes back stands still.
    leader.health.tick(0);
    assert_eq!(leader.states(), "+++");
}

/// A new leader knows nothing of the one before.
#[test]
fn a_new_leader_counts_anew() {
    let mut leader = Leader::of(3);
    leader.go_on(4 * MINUTE, |n| n > 0);
    leader.health = Health::new(leader.now);
    leader.go_on(5 * MINUTE, |n| n > 0);
    assert_eq!(leader.states(), "?++", "it was first seen at the first tick");
    leader.go_on(10 * SECOND, |n| n > 0);
    assert_eq!(leader.states(), "-++");
    // Half that it has never heard may be away for the reason for which the last leader is.
    leader.health = Health::new(leader.now);
    leader.go_on(10 * MINUTE, |n| n > 1);
    assert_eq!(leader.states(), "??+");
}

/// A schedule: how long between two looks, and for how long each region is not there before.
#[derive(Clone, Debug)]
struct Step {
    after: u64,
    quiet: Vec<bool>,
}

fn steps(regions: usize, most: usize) -> impl Strategy<Value = Vec<Step>> {
    // Mostly regular, at times a pause.
    let after = prop_oneof![8 => SECOND..=WATCH_GAP_MS, 1 => WATCH_GAP_MS + 1..20 * MINUTE];
    let quiet = proptest::collection::vec(proptest::bool::weighted(0.3), regions);
    let step = (after, quiet).prop_map(|(after, quiet)| Step { after, quiet });
    proptest::collection::vec(step, 0..most)
}

fn which(regions: usize) -> impl Strategy<Value = Vec<bool>> {
    proptest::collection::vec(any::<bool>(), regions)
}

proptest! {
    /// Half of the regions fall silent within 3 minutes, whatever was before, whatever the others
    /// do, and however the leader is paused: for 15 minutes nobody becomes offline. Who is gone for
    /// good is offline in the end, not long after nobody is spared any more.
    #[test]
    fn a_mass_silence_is_waited_out_and_has_an_end(
        (regions, before, silent, delays, after) in (2_usize..8).prop_flat_map(|regions| (
            Just(regions),
            steps(regions, 30),
            which(regions),
            proptest::collection::vec(0..3 * MINUTE, regions),
            steps(regions, 150),
        ))
    ) {
        let mut silent = silent;
        // At least half, and two.
        for n in 0..regions {
            let count = silent.iter().filter(|silent| **silent).count();
            if count * 2 < regions || count < 2 {
                silent[n] = true;
            }
        }
        let mut leader = Leader::of(regions);
        for step in &before {
            leader.tick(step.after, |n| !step.quiet[n]);
        }
        // All are there.
        leader.tick(SECOND, |_| true);
        let began = leader.now;
        let is_gone = |n: usize, now: u64| silent[n] && now >= began + delays[n];
        let last = (0..regions).filter(|n| silent[*n]).map(|n| began + delays[n]).max().unwrap_or(began);
        for step in &after {
            // The others come and go.
            let now = leader.now + step.after;
            let is_there = |n: usize| if silent[n] { !is_gone(n, now) } else { !step.quiet[n] };
            let changed = leader.tick(step.after, is_there);
            let offline: Vec<_> = changed.iter().filter(|c| c.to == RegionState::Offline).collect();
            prop_assert!(offline.is_empty() || now > last + 15 * MINUTE, "{:?} at {}", offline, now - began);
        }
        // From here on the others are there, and the leader watches.
        leader.tick(10 * SECOND, |n| !silent[n]);
        let mut left = 0;
        let all_offline = |leader: &Leader| {
            (0..regions).all(|n| !silent[n] || leader.health.state(&id(n)) == Some(RegionState::Offline))
        };
        while !all_offline(&leader) {
            leader.tick(10 * SECOND, |n| !silent[n]);
            left += 10 * SECOND;
            prop_assert!(left <= 20 * MINUTE, "{:?}", leader.health);
        }
        // And who is there is active.
        for n in (0..regions).filter(|n| !silent[*n]) {
            prop_assert_eq!(leader.health.state(&id(n)), Some(RegionState::Active));
        }
    }

    /// Whatever happens: nobody is offline who was heard in the last 5 minutes, nobody becomes so
    /// while nobody is to, and each that was quiet for 5 minutes that were watched is, at the first
    /// tick at which nobody is spared.
    #[test]
    fn offline_is_what_was_watched_being_quiet(
        (regions, steps) in (1_usize..7).prop_flat_map(|regions| (Just(regions), steps(regions, 200))),
        bursts in proptest::collection::vec((0_usize..200, 0_usize..7, 1_usize..80), 0..8),
    ) {
        let mut leader = Leader::of(regions);
        // By our own account: how long each was quiet, in time and in time that was watched.
        let (mut quiet, mut watched) = (vec![0; regions], vec![0; regions]);
        for (at, step) in steps.iter().enumerate() {
            let in_burst = |n: usize| bursts.iter().any(|(from, of, length)| {
                *of == n && (*from..from + length).contains(&at)
            });
            let is_there = |n: usize| !in_burst(n) && !step.quiet[n];
            let changed = leader.tick(step.after, is_there);
            let counts = if step.after > WATCH_GAP_MS { 0 } else { step.after };
            for n in 0..regions {
                (quiet[n], watched[n]) =
                    if is_there(n) { (0, 0) } else { (quiet[n] + step.after, watched[n] + counts) };
                let state = leader.health.state(&id(n)).unwrap();
                prop_assert!(state != RegionState::Offline || quiet[n] >= OFFLINE_AFTER_MS);
                prop_assert_eq!(state == RegionState::Active, watched[n] < DEGRADED_AFTER_MS);
                if leader.health.preserving().is_none() {
                    prop_assert_eq!(state == RegionState::Offline, watched[n] >= OFFLINE_AFTER_MS);
                }
            }
            let offline = changed.iter().any(|changed| changed.to == RegionState::Offline);
            prop_assert!(!offline || leader.health.preserving().is_none());
        }
    }
}
