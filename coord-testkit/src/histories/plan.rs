//! What a history will do: drawn from a seed before it begins, as data, so that a part of it can be
//! run by itself.

use std::fmt;
use std::time::Duration;

use coord_api::LockMode;
use fastrand::Rng;

use super::nemesis::{self, Strike};
use super::scale::{Scale, part};

/// Which contracts a history uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Workload {
    /// The config centre: gets, sets, compare-and-sets, deletes, lists, watches.
    Config,
    /// Locks: acquires, tries, calls that are dropped, unlocks, dropped guards.
    Locks,
    /// Instance ids: the same.
    Ids,
    /// The registry: registrations, take-overs, updates, discovery, watches.
    Registry,
    /// Everything leased, on shared leases.
    Mixed,
    /// Locks that may be shared, and downgrades.
    SharedLocks,
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 6] = [
        Workload::Config,
        Workload::Locks,
        Workload::Ids,
        Workload::Registry,
        Workload::Mixed,
        Workload::SharedLocks,
    ];

    /// One of them after the other, by the number of a history.
    pub fn in_turn(number: u64) -> Workload {
        let [config, locks, ids, registry, mixed, shared_locks] = Workload::ALL;
        match number % 6 {
            0 => config,
            1 => locks,
            2 => ids,
            3 => registry,
            4 => mixed,
            _ => shared_locks,
        }
    }
}

/// The workers of a history: as many operations overlap at most.
const WORKERS: usize = 5;

/// Keys of each kind.
pub(super) const KEYS: u8 = 3;

/// What a history will do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it was drawn from.
    pub seed: u64,
    /// The contracts that it uses.
    pub workload: Workload,
    /// The TTL of everything leased.
    pub ttl: Duration,
    /// How long a request is under way at most, and its answer.
    pub latency: Duration,
    /// How many clients there are.
    pub clients: usize,
    /// The workers: each does one thing after the other, with a client that others may use as well.
    pub workers: Vec<Worker>,
    /// The watchers.
    pub watchers: Vec<Watcher>,
    /// The faults.
    pub strikes: Vec<Strike>,
}

/// One who does one thing after the other.
#[derive(Clone, Debug)]
pub struct Worker {
    /// The client it works with.
    pub client: usize,
    /// What it does.
    pub steps: Vec<Step>,
}

/// One who watches.
#[derive(Clone, Copy, Debug)]
pub struct Watcher {
    /// The client it watches with.
    pub client: usize,
    /// A key of the config centre alone; else the directory of all.
    pub key: Option<u8>,
    /// Begins with the state, else with what comes.
    pub snapshot: bool,
    /// After so many events it drops the watch and goes on with a new one.
    pub resumes_after: usize,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Its number among those of its worker, which stays the same where others are left out.
    pub number: usize,
    /// How long the worker waits before it.
    pub after: Duration,
    /// The key that it is about.
    pub key: u8,
    /// What it does.
    pub act: Act,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the methods that they call")]
pub enum Act {
    Get,
    Set,
    /// With the version that the worker saw last.
    CompareAndSet,
    /// Compare-and-set of what must be absent.
    Create,
    Delete,
    CompareAndDelete,
    List,
    /// Two keys at one revision, with the raw store.
    SetTwo,
    /// Waits so long, not at all where zero; a patience shorter than that drops the call.
    Acquire {
        mode: LockMode,
        wait: Duration,
        patience: Option<Duration>,
    },
    /// What the worker has held for longest; a patience drops the call.
    Downgrade {
        patience: Option<Duration>,
    },
    AcquireId {
        wait: Duration,
        patience: Option<Duration>,
    },
    Register {
        exclusive: bool,
        patience: Option<Duration>,
    },
    /// Of the worker's last registration.
    Update,
    Discover,
    /// What the worker has held for longest.
    LetGo(LetGo),
}

/// How a handle is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetGo {
    /// Released.
    Release,
    /// Released, by a call that is dropped after that time.
    Impatiently(Duration),
    /// Dropped.
    Drop,
}

impl Plan {
    /// Draws the plan of a seed.
    pub fn draw(seed: u64, workload: Workload, scale: &Scale) -> Plan {
        let mut rng = Rng::with_seed(seed);
        let clients = rng.usize(2..=4);
        let workers = (0..WORKERS)
            .map(|worker| {
                let count = scale.operations / WORKERS + usize::from(worker < scale.operations % WORKERS);
                let steps = (0..count).map(|number| step(&mut rng, number, workload, scale.ttl)).collect();
                Worker { client: worker % clients, steps }
            })
            .collect();
        let watchers = match workload {
            Workload::Config | Workload::Registry => {
                (0..clients).map(|client| watcher(&mut rng, client)).collect()
            }
            _ => Vec::new(),
        };
        let latency = pick(&mut rng, Duration::ZERO, &[Duration::from_millis(2), scale.ttl / 500]);
        let strikes = nemesis::draw(&mut rng, clients, scale);
        Plan { seed, workload, ttl: scale.ttl, latency, clients, workers, watchers, strikes }
    }

    /// How many operations it has.
    pub fn operations(&self) -> usize {
        self.workers.iter().map(|worker| worker.steps.len()).sum()
    }
}

/// One of several; the first one stands apart, so that there always is one.
fn pick<T: Copy>(rng: &mut Rng, first: T, others: &[T]) -> T {
    let chosen = rng.usize(..=others.len());
    chosen.checked_sub(1).and_then(|other| others.get(other).copied()).unwrap_or(first)
}

fn watcher(rng: &mut Rng, client: usize) -> Watcher {
    Watcher {
        client,
        key: rng.bool().then(|| rng.u8(..KEYS)),
        snapshot: rng.bool(),
        resumes_after: pick(rng, 3, &[20, usize::MAX]),
    }
}

fn step(rng: &mut Rng, number: usize, workload: Workload, ttl: Duration) -> Step {
    // Mostly at once or soon, now and then much later: work comes in bursts.
    let longest = pick(rng, Duration::ZERO, &[ttl / 200, ttl / 50, ttl / 50, ttl / 50, ttl / 20, ttl / 5]);
    let act = match workload {
        Workload::Config => config(rng),
        Workload::Locks => leased(rng, ttl, acquire),
        Workload::Ids => leased(rng, ttl, acquire_id),
        Workload::Registry => registry(rng, ttl),
        Workload::Mixed => match rng.u8(..3) {
            0 => leased(rng, ttl, acquire),
            1 => leased(rng, ttl, acquire_id),
            _ => registry(rng, ttl),
        },
        Workload::SharedLocks => match rng.u8(..8) {
            0 => Act::Downgrade { patience: patience(rng, ttl) },
            1..=3 => leased(rng, ttl, acquire),
            _ => leased(rng, ttl, share),
        },
    };
    Step { number, after: part(rng, longest), key: rng.u8(..KEYS), act }
}

fn config(rng: &mut Rng) -> Act {
    match rng.u8(..16) {
        0..=3 => Act::Get,
        4..=6 => Act::Set,
        7..=9 => Act::CompareAndSet,
        10 => Act::Create,
        11..=12 => Act::Delete,
        13 => Act::CompareAndDelete,
        14 => Act::List,
        _ => Act::SetTwo,
    }
}

fn acquire(wait: Duration, patience: Option<Duration>) -> Act {
    Act::Acquire { mode: LockMode::Exclusive, wait, patience }
}

fn share(wait: Duration, patience: Option<Duration>) -> Act {
    Act::Acquire { mode: LockMode::Shared, wait, patience }
}

fn acquire_id(wait: Duration, patience: Option<Duration>) -> Act {
    Act::AcquireId { wait, patience }
}

fn leased(rng: &mut Rng, ttl: Duration, kind: fn(Duration, Option<Duration>) -> Act) -> Act {
    if rng.bool() {
        return Act::LetGo(let_go(rng, ttl));
    }
    let wait = pick(rng, Duration::ZERO, &[ttl / 20, ttl / 2, ttl * 2]);
    let patience = patience(rng, ttl);
    kind(wait, patience)
}

fn registry(rng: &mut Rng, ttl: Duration) -> Act {
    match rng.u8(..10) {
        0..=3 => Act::Register { exclusive: rng.u8(..4) == 0, patience: patience(rng, ttl) },
        4..=5 => Act::Update,
        6 => Act::Discover,
        _ => Act::LetGo(let_go(rng, ttl)),
    }
}

fn patience(rng: &mut Rng, ttl: Duration) -> Option<Duration> {
    (rng.u8(..4) == 0).then(|| part(rng, ttl / 20))
}

fn let_go(rng: &mut Rng, ttl: Duration) -> LetGo {
    match rng.u8(..5) {
        0..=1 => LetGo::Release,
        2 => LetGo::Impatiently(part(rng, ttl / 100)),
        _ => LetGo::Drop,
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {:?}, {} clients, TTL {:?}, up to {:?} each way, {} operations, {} faults",
            self.seed,
            self.workload,
            self.clients,
            self.ttl,
            self.latency,
            self.operations(),
            self.strikes.len()
        )?;
        for strike in &self.strikes {
            writeln!(f, "  {strike}")?;
        }
        Ok(())
    }
}
