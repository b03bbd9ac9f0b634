//! The nemesis: which faults strike a history, when, whom, and for how long.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use super::scale::{Scale, part};

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Blow {
    /// The client is cut off: its calls fail at once.
    Cut,
    /// The client hangs: its calls get no answer.
    Hang,
    /// All clients are cut off.
    CutAll,
    /// The client's watches break.
    BreakWatches,
    /// The client's next writes, up to three, are refused, and known not to be applied.
    Refuse,
    /// The client's next writes get lost.
    LoseRequest,
    /// The answers to the client's next writes get lost.
    LoseAnswer,
    /// The client's next writes get stuck, their callers told nothing of them, and are applied when
    /// the fault ends.
    Hold,
    /// The client's next requests take as long as the fault on their way.
    Delay,
    /// The client's next writes are applied at once, and their answers take as long as the fault.
    LateAnswer,
    /// A live lease is ended behind its owner's back.
    ExpireLease,
    /// The history is forgotten.
    Compact,
    /// The client dies, and another takes its place.
    Crash,
    /// The store is killed and opened again.
    Restart,
    /// A fault of the servers, which the harness makes.
    Server(&'static str),
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Blow::Cut => "cut",
            Blow::Hang => "hang",
            Blow::CutAll => "cut all",
            Blow::BreakWatches => "break watches",
            Blow::Refuse => "refuse a write",
            Blow::LoseRequest => "lose a write",
            Blow::LoseAnswer => "lose an answer",
            Blow::Hold => "apply a write late",
            Blow::Delay => "delay a request",
            Blow::LateAnswer => "delay an answer",
            Blow::ExpireLease => "expire a lease",
            Blow::Compact => "compact",
            Blow::Crash => "crash a client",
            Blow::Restart => "restart the store",
            Blow::Server(name) => name,
        })
    }
}

impl Strike {
    /// How many requests it strikes, where it strikes requests.
    pub(super) fn times(&self) -> u128 {
        1 + self.lasting.as_millis() % 3
    }
}

/// A fault at its time.
#[derive(Clone, Copy, Debug)]
pub struct Strike {
    /// When, from the beginning of the history.
    pub at: Duration,
    /// What.
    pub blow: Blow,
    /// The client that it strikes, where it strikes one.
    pub client: usize,
    /// For how long, where it lasts.
    pub lasting: Duration,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} (client {}) for {:?}", self.at, self.blow, self.client, self.lasting)
    }
}

/// Draws the faults of a history, in their order.
pub(super) fn draw(rng: &mut Rng, clients: usize, scale: &Scale) -> Vec<Strike> {
    // 200 operations take about one TTL.
    let longer = u32::try_from(scale.operations / 200).unwrap_or(u32::MAX).max(1);
    let mut strikes: Vec<Strike> = (0..scale.strikes)
        .map(|_| Strike {
            // While there is work: what comes later finds everyone at rest.
            at: part(rng, scale.ttl * longer),
            blow: blow(rng, scale),
            client: rng.usize(..clients),
            lasting: lasting(rng, scale.ttl),
        })
        .collect();
    strikes.sort_by_key(|strike| strike.at);
    strikes
}

/// Mostly short, now and then longer than a lease.
fn lasting(rng: &mut Rng, ttl: Duration) -> Duration {
    let longest = match rng.u8(..8) {
        0..=2 => ttl / 50,
        3..=4 => ttl / 5,
        5 => ttl,
        6 => ttl * 3 / 2,
        _ => ttl * 5 / 2,
    };
    part(rng, longest)
}

fn blow(rng: &mut Rng, scale: &Scale) -> Blow {
    if scale.restarts && rng.u8(..8) == 0 {
        return Blow::Restart;
    }
    if rng.u8(..4) == 0 {
        if let Some(name) = rng.choice(scale.server_faults) {
            return Blow::Server(name);
        }
    }
    match rng.u8(..20) {
        0..=1 => Blow::Cut,
        2..=3 => Blow::Hang,
        4 => Blow::CutAll,
        5..=6 => Blow::BreakWatches,
        7 => Blow::Refuse,
        8..=9 => Blow::LoseRequest,
        10..=12 => Blow::LoseAnswer,
        13..=14 => Blow::Hold,
        15 => Blow::Delay,
        16 => Blow::LateAnswer,
        17 => Blow::ExpireLease,
        18 => Blow::Compact,
        _ => Blow::Crash,
    }
}
