//! Many instances that come and go, each told of it at its own time, and requests at the worst
//! moments: what all of them admit within any second (R69). In virtual time.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::control::Control;
use super::members::{FIRST_ANSWER, Members, Membership, SETTLING};
use super::rule::{LimitRule, LimitScope, Per};

const STEP: Duration = Duration::from_millis(5);
const STEPS_A_SECOND: usize = 200;

/// When there are requests, always more than are admitted.
#[derive(Clone, Copy, Debug)]
enum Demand {
    Always,
    /// Around each change, and around what follows of it, and at random else: buckets are full when
    /// it matters.
    AtChanges,
}

struct Instance {
    id: String,
    control: Control,
    /// What it has not been told yet.
    news: VecDeque<(Instant, Membership)>,
    /// When it has no requests any more.
    ends: Option<Instant>,
}

struct World {
    random: fastrand::Rng,
    rule: LimitRule,
    /// How much later than another one an instance may be told.
    lag: Duration,
    next_id: u32,
    registered: BTreeSet<String>,
    instances: Vec<Instance>,
}

impl World {
    fn new(seed: u64, rule: LimitRule, lag: Duration) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        World { random, rule, lag, next_id: 0, registered: BTreeSet::new(), instances: Vec::new() }
    }

    fn tell(&mut self, change: &Membership, now: Instant) {
        for instance in &mut self.instances {
            let lag = self.lag.mul_f64(self.random.f64());
            // In order, each at its own time.
            let at = instance.news.back().map_or(now + lag, |(before, _)| (now + lag).max(*before));
            instance.news.push_back((at, change.clone()));
        }
    }

    fn join(&mut self, now: Instant) {
        let id = format!("{:08x}", self.random.u32(..).wrapping_add(self.next_id));
        self.next_id += 1;
        self.registered.insert(id.clone());
        self.tell(&Membership::Came(id.clone()), now);
        let members = Members::new(id.clone(), 1, now + FIRST_ANSWER);
        let control = Control::new(members, 1_000, [("r".to_owned(), self.rule)].into());
        let at = now + self.lag.mul_f64(self.random.f64());
        let news = VecDeque::from([(at, Membership::All(self.registered.clone()))]);
        self.instances.push(Instance { id, control, news, ends: None });
    }

    fn leave(&mut self, now: Instant) {
        let index = self.random.usize(..self.registered.len());
        let Some(id) = self.registered.iter().nth(index).cloned() else { return };
        self.registered.remove(&id);
        self.tell(&Membership::Went(id.clone()), now);
        for instance in self.instances.iter_mut().filter(|instance| instance.id == id) {
            // A crash ends it at once, else clients still send for a while.
            let crashes = self.random.u8(..4) == 0;
            instance.ends = Some(if crashes { now } else { now + 3 * SETTLING });
        }
    }

    fn step(&mut self, now: Instant, is_asked: bool) -> u64 {
        self.instances.retain(|instance| instance.ends.is_none_or(|ends| now < ends));
        let mut admitted = 0;
        for Instance { control, news, .. } in &mut self.instances {
            while news.front().is_some_and(|(at, _)| *at <= now) {
                control.members(news.pop_front().map(|(_, change)| change), now);
            }
            control.advance(now);
            while is_asked && control.with_rule("r", |rule| control.decide(rule, "k", 1)).is_allowed() {
                admitted += 1;
            }
        }
        admitted
    }
}

/// The most that was admitted in a second, both its ends included, and all of it.
fn worst_second(admitted: &[u64]) -> (u64, u64) {
    let worst = admitted.windows(STEPS_A_SECOND + 1).map(|window| window.iter().sum()).max();
    (worst.unwrap_or_default(), admitted.iter().sum())
}

/// A hundred joins and leaves; the worst second, and how much of the rate was used.
async fn simulate(seed: u64, rule: LimitRule, lag: Duration, demand: Demand) -> (u64, f64) {
    const CHANGES: usize = 100;
    let mut world = World::new(seed, rule, lag);
    let start = Instant::now();
    let most = world.random.usize(3..40);
    (0..most / 2 + 1).for_each(|_| world.join(start));
    let mut admitted = Vec::new();
    let mut recent: VecDeque<usize> = VecDeque::new();
    let (mut changes, mut next_change, mut pulse) = (0, 3 * STEPS_A_SECOND, 0);
    let mut step = 0;
    while changes < CHANGES || step < next_change {
        let now = Instant::now();
        if step == next_change && changes < CHANGES {
            let there = world.registered.len();
            match world.random.u8(..4) {
                // A rolling restart: one goes and another one comes in its place.
                0 if there > 1 => {
                    world.leave(now);
                    world.join(now);
                }
                1 | 2 if there > 1 && (there >= most || world.random.bool()) => world.leave(now),
                _ => world.join(now),
            }
            changes += 1;
            recent.push_back(step);
            let pause = if world.random.bool() { 0..STEPS_A_SECOND / 4 } else { 0..3 * STEPS_A_SECOND };
            next_change = step + world.random.usize(pause);
            if next_change == step {
                continue;
            }
        }
        recent.retain(|at| step - at < 3 * STEPS_A_SECOND);
        if world.random.usize(..STEPS_A_SECOND) == 0 {
            pulse = world.random.usize(..40);
        }
        pulse = pulse.saturating_sub(1);
        let is_asked = match demand {
            Demand::Always => true,
            Demand::AtChanges => {
                let near = |at: &usize| {
                    [0, 200, 220, 400, 420].iter().any(|after| (step - at).abs_diff(*after) <= 24)
                };
                pulse > 0 || recent.iter().any(near)
            }
        };
        admitted.push(world.step(now, is_asked));
        tokio::time::advance(STEP).await;
        step += 1;
    }
    let (worst, sum) = worst_second(&admitted);
    let seconds = admitted.len() as f64 / STEPS_A_SECOND as f64;
    let rate = f64::from(rule.rate()) / rule.per().duration().as_secs_f64();
    (worst, sum as f64 / seconds / rate)
}

fn rule(rate: u32, burst: u32) -> LimitRule {
    LimitRule::new(rate, Per::Second).with_burst(burst).with_scope(LimitScope::Cluster)
}

/// Bursts of the rate, of a tenth of it, of less than one request each, and rates that are.
const RULES: [(u32, u32); 5] = [(1_000, 1_000), (1_000, 100), (1_000, 10), (20, 5), (30, 200)];

#[tokio::test(start_paused = true)]
async fn told_at_once_they_admit_no_more_than_rate_and_burst_in_any_second() {
    for (rate, burst) in RULES {
        for (seed, demand) in [(1, Demand::Always), (2, Demand::AtChanges)] {
            let (worst, used) = simulate(seed, rule(rate, burst), Duration::ZERO, demand).await;
            let permitted = u64::from(rate + burst);
            let what = format!("{rate} and {burst}, {demand:?}, {seed}: {worst}, {used:.2} of the rate");
            assert!(worst <= permitted, "{what}");
            assert!(used > if matches!(demand, Demand::Always) { 0.7 } else { 0.3 }, "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn told_late_they_admit_hardly_more() {
    for (rate, burst) in RULES {
        for (seed, demand) in [(3, Demand::Always), (4, Demand::AtChanges)] {
            let lag = Duration::from_millis(100);
            let (worst, used) = simulate(seed, rule(rate, burst), lag, demand).await;
            let permitted = u64::from(rate + burst);
            let what = format!("{rate} and {burst}, {demand:?}, {seed}: {worst}, {used:.2} of the rate");
            assert!(100 * worst <= 105 * permitted, "{what}");
            assert!(used > if matches!(demand, Demand::Always) { 0.6 } else { 0.3 }, "{what}");
        }
    }
}
