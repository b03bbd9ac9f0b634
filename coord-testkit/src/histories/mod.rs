//! Random histories: clients that work at once while a nemesis disturbs them, and judges of what
//! they saw.
//!
//! A [`Plan`] is drawn from a seed before anything runs. [`run`] carries it out: workers do their
//! operations, watchers watch, faults strike. An undisturbed client keeps a log of what really
//! happened in the store. Then all is healed, and the store must come to hold exactly what live
//! handles hold. At last everything is judged: each config key by a search for a linearization,
//! watches against the log, grants against each other and the log.
//!
//! What breaks is reported by rule. Under virtual time the same plan gives the same history, so
//! that [`shrink`] can leave parts of it out, again and again, until only what breaks the rule is
//! left.
//!
//! # Environment
//!
//! The kit's cases run a few histories each. `COORD_TESTKIT_SEED` makes them others, and the same
//! ones again for the same seed; `COORD_TESTKIT_HISTORIES` says how many each case runs.

mod convergence;
mod follow;
mod holdings;
mod judge;
mod nemesis;
mod plan;
mod registry;
mod replay;
mod scale;
mod shrink;
mod truth;
mod work;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use coord_api::Revision;
use coord_api::store::{Op, Txn};
use futures_util::FutureExt;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, advance, sleep, timeout};

pub use nemesis::{Blow, Strike};
pub use plan::{Act, LetGo, Plan, Step, Watcher, Worker, Workload};
pub(crate) use replay::{BY_CHANCE, SHORTENING, number, own_number, uphold, uphold_across_restarts};
pub use scale::Scale;
pub use shrink::shrink;

use crate::failure::message;
use crate::fixture::Fixture;
use crate::harness::{Harness, Time};
use crate::layout;
use crate::linearizability::Call;
use world::World;

/// The name of what is written last.
const END: &str = "end";

/// A rule that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// The rule, in lower case.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
    /// Nothing was proven: the search for a linearization gave up. It counts as broken.
    pub undecided: bool,
}

impl Breach {
    pub(crate) fn new(rule: &'static str, what: impl Into<String>) -> Self {
        Breach { rule, what: what.into(), undecided: false }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// How much happened.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Operations that were carried out.
    pub operations: usize,
    /// Handles that were given out.
    pub grants: usize,
    /// Faults that struck.
    pub faults: BTreeMap<Blow, usize>,
    /// Faults that the harness does not provide.
    pub not_provided: BTreeSet<&'static str>,
}

/// What came of a history.
#[derive(Clone, Debug, Default)]
pub struct HistoryOutcome {
    /// What was broken; nothing, of a good backend.
    pub breaches: Vec<Breach>,
    /// What happened, line by line.
    pub history: Vec<String>,
    /// How much.
    pub tally: Tally,
}

impl HistoryOutcome {
    /// Whether a rule was broken.
    pub fn breaks(&self, rule: &str) -> bool {
        self.breaches.iter().any(|breach| breach.rule == rule)
    }
}

/// Carries a plan out on a store, which need not be empty, and judges what was seen.
pub async fn run(cx: &Fixture, plan: &Plan) -> HistoryOutcome {
    // A history writes down by itself what happens.
    let cx = &cx.unrecorded();
    if cx.virtual_time() {
        align_clock().await;
    }
    // Whoever draws from the thread's generator draws the same in each run: jitter, for one.
    fastrand::seed(plan.seed);
    let world = match World::new(cx, plan).await {
        Ok(world) => world,
        Err(breach) => return HistoryOutcome { breaches: vec![breach], ..HistoryOutcome::default() },
    };
    let mut tasks = JoinSet::new();
    let mut kept = Aborted(Vec::new());
    let following = tokio::spawn({
        let world = Arc::clone(&world);
        async move {
            let follow = Arc::clone(&world.truth).follow(Arc::clone(&world.moments));
            if let Err(panic) = AssertUnwindSafe(follow).catch_unwind().await {
                world.breach("s4", format!("an undisturbed watch of everything: {}", message(&*panic)));
            }
        }
    });
    kept.0.push(following.abort_handle());
    let nemesis = tokio::spawn({
        let (world, strikes, clients) = (Arc::clone(&world), plan.strikes.clone(), plan.clients);
        async move {
            if let Err(panic) = AssertUnwindSafe(world.strike(&strikes)).catch_unwind().await {
                world.breach("r1", format!("the nemesis went down: {}", message(&*panic)));
                // Nobody else ends the faults under way, and workers may be waiting for that.
                world.heal(clients).await;
            }
        }
    });
    kept.0.push(nemesis.abort_handle());
    let watchers: Vec<_> = plan
        .watchers
        .iter()
        .map(|watcher| tokio::spawn(watch(Arc::clone(&world), plan.workload, *watcher)))
        .collect();
    kept.0.extend(watchers.iter().map(tokio::task::JoinHandle::abort_handle));
    for (number, worker) in plan.workers.iter().enumerate() {
        let (work, steps) = (work::Work::new(Arc::clone(&world), number, worker), worker.steps.clone());
        tasks.spawn(async move { work.run(&steps).await });
    }
    // Everything that a worker waits for ends by itself; the nemesis ends too.
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            world.breach("r1", format!("a worker went down: {}", panicked(error)));
        }
    }
    if let Err(error) = nemesis.await {
        world.breach("r1", format!("the nemesis went down: {}", panicked(error)));
    }
    world.heal(plan.clients).await;
    finish(&world, plan).await;
    for (watcher, watching) in plan.watchers.iter().zip(watchers) {
        match timeout(cx.soon(), watching).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => world.breach("r20", format!("a watcher went down: {}", panicked(error))),
            Err(_) => {
                world.breach("r20", format!("nothing disturbs it and {watcher:?} is not told of the end"))
            }
        }
    }
    let judged = judge::judge(&world);
    for breach in judged {
        world.broken(breach);
    }
    for closed in world.close().await {
        if let Err(error) = closed {
            world.breach("r8", format!("nothing disturbs it and a provider cannot be closed: {error:?}"));
        }
    }
    let mut notes = world.notes();
    HistoryOutcome {
        breaches: std::mem::take(&mut notes.breaches),
        history: std::mem::take(&mut notes.lines),
        tally: std::mem::take(&mut notes.tally),
    }
}

/// Moves paused time on to where tokio's timers go off: at a whole number of milliseconds since the
/// runtime began. Time was paused somewhere between two, so that the same sleep would otherwise
/// take a millisecond more in one run than in another.
async fn align_clock() {
    let millisecond = Duration::from_millis(1);
    // A sleep that reaches beyond the next whole millisecond ends with the one after it.
    let (mut within, mut beyond) = (Duration::ZERO, millisecond + Duration::from_nanos(1));
    while beyond - within > Duration::from_nanos(1) {
        let middle = (within + beyond) / 2;
        let start = Instant::now();
        sleep(middle).await;
        *(if start.elapsed() > millisecond { &mut beyond } else { &mut within }) = middle;
    }
    advance(within).await;
}

/// Carries a plan out in a runtime of its own, on the fresh store that `harness` makes.
pub fn execute(harness: impl Future<Output = Arc<dyn Harness>>, plan: &Plan) -> HistoryOutcome {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return HistoryOutcome {
                breaches: vec![Breach::new("none", format!("no runtime: {error}"))],
                ..HistoryOutcome::default()
            };
        }
    };
    // Dropped last: it may hold the directory, or the server, that the clients work on.
    let mut kept = None;
    let outcome = runtime.block_on(async {
        let harness = harness.await;
        kept = Some(Arc::clone(&harness));
        if harness.time() == Time::Virtual {
            tokio::time::pause();
        }
        run(&Fixture::new(harness), plan).await
    });
    drop(runtime);
    drop(kept);
    outcome
}

/// The end of a history: the store converges, every key is read and written once more, and the
/// watchers come to see it.
async fn finish(world: &Arc<World>, plan: &Plan) {
    if plan.workload != Workload::Config {
        world.converge().await;
    }
    let reader = world.cx.provider().await;
    let mut last = Txn::new();
    for key in 0..plan::KEYS {
        let name = world.config_key(key);
        if plan.workload == Workload::Config {
            let called = world.moments.next();
            match reader.config().get_raw(&name).await {
                Ok(found) => {
                    let op = crate::linearizability::Op::Get(found.map(|found| (found.value, found.version)));
                    let call = Call::new(op, called, world.moments.next());
                    world.line(format!("in the end, k{key}: {call}"));
                    world.notes().calls.entry(key).or_default().push(call);
                }
                Err(error) => {
                    world.breach("r10", format!("nothing disturbs it and k{key} cannot be read: {error:?}"))
                }
            }
        }
        last = last.then(Op::put(layout::config(&name), "end"));
    }
    if plan.workload == Workload::Registry {
        // Something that the service's watchers are told of too.
        last = last.then(Op::put(
            layout::service(world.service(), END),
            layout::service_record(world.service(), END, "localhost", 1),
        ));
    }
    let store = world.cx.store().await;
    let last = match store.txn(last).await {
        Ok(reply) => reply.revision,
        Err(error) => {
            return world
                .breach("s3", format!("nothing disturbs it and the store cannot be written: {error:?}"));
        }
    };
    world.last.modify(|end| *end = Some(last));
    if !world.truth_reaches(last).await {
        return world
            .breach("s4", format!("an undisturbed watch of everything was not told of revision {last}"));
    }
    if let Err(breach) = world.truth.check().await {
        world.breach(breach.rule, breach.what);
    }
}

/// Watches, and is judged once everything was told.
async fn watch(world: Arc<World>, workload: Workload, watcher: Watcher) {
    let judged = |through: Revision| {
        let world = Arc::clone(&world);
        async move {
            world.truth_reaches(through).await;
            // Where the log left something out, nothing can be compared with it.
            world.truth.is_whole(world.truth.start(), through).then(|| world.truth.seen())
        }
    };
    let breach = if workload == Workload::Config {
        let Some(view) = follow::config(Arc::clone(&world), watcher).await else { return };
        let Some(seen) = judged(view.seen()).await else { return };
        let own = watcher.key.map(|key| layout::config(&world.config_key(key)));
        judge::config_view(&seen, &layout::config(&format!("{}/", world.tag)), own.as_deref(), &view)
    } else {
        let Some(sights) = follow::service(Arc::clone(&world), watcher).await else { return };
        let Some(seen) = judged(sights.last().map_or(Revision::ZERO, |sight| sight.0)).await else { return };
        judge::service_view(&seen, &format!("{}{}/", layout::SERVICES, world.service()), &sights)
    };
    if let Some(breach) = breach {
        world.breach(breach.rule, format!("watcher of client {}: {}", watcher.client, breach.what));
    }
}

fn panicked(error: tokio::task::JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => message(&*panic),
        Err(error) => error.to_string(),
    }
}

/// Tasks that end with their owner.
struct Aborted(Vec<AbortHandle>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}
