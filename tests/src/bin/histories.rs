//! Runs many seeded histories under faults, as many at once as there are cores, and says what they
//! broke.
//!
//! ```text
//! cargo run --release -p coord-tests --bin histories -- --store memory --count 100000
//! ```
//!
//! Every history is drawn from its seed alone and runs on a fresh store, so that any of them can be
//! run again by itself: `--replay SEED`. Interrupted with Ctrl-C it says with which seed to go on.
//! What sled writes lies in `TMPDIR`; on a file system in memory that is several times as fast.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use coord_testkit::Harness;
use coord_testkit::histories::{Blow, HistoryOutcome, Plan, Scale, Workload, execute, shrink};
use coord_tests::harness::{memory, sled, sqlite};
use coord_tests::progress;

/// The kinds of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Memory,
    Sled,
    Sqlite,
}

impl Kind {
    /// A fresh store.
    fn harness(self) -> Arc<dyn Harness> {
        match self {
            Kind::Memory => Arc::new(memory::Volatile::start()),
            Kind::Sled => Arc::new(sled::Durable::start()),
            Kind::Sqlite => Arc::new(sqlite::File::start()),
        }
    }
}

/// Runs many seeded histories under faults, and says what they broke.
#[derive(Debug, Parser)]
struct Options {
    /// What they run on
    #[arg(long, value_enum, default_value_t = Kind::Memory)]
    store: Kind,
    /// How many
    #[arg(long, default_value_t = 1_000)]
    count: u64,
    /// The seed of the first one; each further one has the next
    #[arg(long, value_name = "FIRST", default_value_t = 1)]
    seed: u64,
    /// Shows the history of this seed, and the shortest part of it that breaks the same rule
    #[arg(long, value_name = "SEED")]
    replay: Option<u64>,
    /// So many at a time [default: one for each core]
    #[arg(long)]
    threads: Option<usize>,
    /// What the workers do [default: each kind in turn]
    #[arg(long, value_parser = workload)]
    workload: Option<Workload>,
    /// Operations of a history
    #[arg(long, default_value_t = 200)]
    operations: usize,
    /// Faults of a history
    #[arg(long, default_value_t = 12)]
    faults: usize,
}

fn workload(name: &str) -> Result<Workload, String> {
    let known = Workload::ALL.map(|workload| format!("{workload:?}").to_lowercase());
    let found = Workload::ALL.into_iter().zip(&known).find(|(_, known)| *known == name);
    found.map(|(workload, _)| workload).ok_or_else(|| format!("it is one of {}", known.join(", ")))
}

impl Options {
    fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
    }

    fn plan(&self, seed: u64) -> Plan {
        let scale = Scale {
            operations: self.operations,
            strikes: self.faults,
            restarts: self.store != Kind::Memory,
            server_faults: &[],
            ttl: Duration::from_secs(10),
        };
        Plan::draw(seed, self.workload.unwrap_or(Workload::in_turn(seed)), &scale)
    }

    fn execute(&self, plan: &Plan) -> HistoryOutcome {
        execute(async { self.store.harness() }, plan)
    }

    /// The shortest part of a plan that breaks the same rule.
    fn shortest(&self, plan: Plan, rule: &str) -> Plan {
        let shrinking = shrink(plan, 1_000, async |candidate: &Plan| self.execute(candidate).breaks(rule));
        // It waits for nothing: each execution brings its own runtime.
        futures_util::FutureExt::now_or_never(shrinking)
            .unwrap_or_else(|| unreachable!("nothing in it waits"))
    }
}

/// What all threads have done.
#[derive(Default)]
struct Done {
    histories: u64,
    operations: usize,
    grants: usize,
    faults: BTreeMap<Blow, usize>,
    violations: u64,
    undecided: u64,
    /// How many histories broke each rule.
    rules: BTreeMap<&'static str, u64>,
    /// The seeds that broke something, with what they broke.
    broken: Vec<(u64, String)>,
}

impl Done {
    fn add(&mut self, seed: u64, outcome: &HistoryOutcome) {
        self.histories += 1;
        self.operations += outcome.tally.operations;
        self.grants += outcome.tally.grants;
        for (blow, times) in &outcome.tally.faults {
            *self.faults.entry(*blow).or_default() += times;
        }
        if let Some(first) = outcome.breaches.first() {
            let undecided = outcome.breaches.iter().all(|breach| breach.undecided);
            *(if undecided { &mut self.undecided } else { &mut self.violations }) += 1;
            self.broken.push((seed, first.to_string()));
            let rules: BTreeSet<_> = outcome.breaches.iter().map(|breach| breach.rule).collect();
            rules.into_iter().for_each(|rule| *self.rules.entry(rule).or_default() += 1);
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    match options.replay {
        Some(seed) => replay(&options, seed),
        None => run(&options),
    }
}

/// Shows one history, and the shortest part of it that breaks the same rule.
fn replay(options: &Options, seed: u64) -> ExitCode {
    let plan = options.plan(seed);
    let outcome = options.execute(&plan);
    print!("{plan}");
    outcome.history.iter().for_each(|line| println!("{line}"));
    let Some(first) = outcome.breaches.first() else {
        println!("nothing is broken");
        return ExitCode::SUCCESS;
    };
    let shortest = options.shortest(plan, first.rule);
    let outcome = options.execute(&shortest);
    println!("\nthe shortest history found that breaks {}:", first.rule);
    print!("{shortest}");
    outcome.history.iter().for_each(|line| println!("{line}"));
    ExitCode::FAILURE
}

fn run(options: &Options) -> ExitCode {
    let bar = progress::bar(options.count);
    let (next, end) = (AtomicU64::new(options.seed), options.seed.saturating_add(options.count));
    let (done, stop) = (Mutex::new(Done::default()), AtomicBool::new(false));
    let begun = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..options.threads())
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        let seed = next.fetch_add(1, Ordering::SeqCst);
                        if seed >= end {
                            return;
                        }
                        let outcome = options.execute(&options.plan(seed));
                        if let Some(breach) = outcome.breaches.first() {
                            bar.suspend(|| eprintln!("seed {seed} breaks {breach}"));
                        }
                        done.lock().unwrap_or_else(PoisonError::into_inner).add(seed, &outcome);
                        bar.inc(1);
                        if seed % 64 == 0 {
                            bar.set_message(format!("go on with --seed {seed}"));
                        }
                    }
                })
            })
            .collect();
        until_interrupted(&stop, || workers.iter().all(thread::ScopedJoinHandle::is_finished));
    });
    bar.finish_and_clear();
    let last = next.load(Ordering::SeqCst).min(end);
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    print_closing_lines(options, &done, begun.elapsed(), last);
    if done.violations + done.undecided == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Waits for Ctrl-C, or until all is done.
fn until_interrupted(stop: &AtomicBool, all_done: impl Fn() -> bool) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        while !all_done() {
            if tokio::time::timeout(Duration::from_millis(100), &mut interrupted).await.is_ok() {
                stop.store(true, Ordering::SeqCst);
                return;
            }
        }
    });
}

fn print_closing_lines(options: &Options, done: &Done, took: Duration, next: u64) {
    let store = format!("{:?}", options.store).to_lowercase();
    let faults: usize = done.faults.values().sum();
    let by_kind: Vec<String> = done.faults.iter().map(|(blow, times)| format!("{blow} {times}")).collect();
    for (seed, breach) in &done.broken {
        println!("seed {seed} broke {breach}\n    --store {store} --replay {seed}");
    }
    println!(
        "{} histories of {} operations on {store}, seeds {} to {}",
        done.histories,
        options.operations,
        options.seed,
        next.saturating_sub(1)
    );
    println!(
        "operations {}, handles given out {}, faults {faults} ({})",
        done.operations,
        done.grants,
        by_kind.join(", ")
    );
    let by_rule: Vec<String> =
        done.rules.iter().map(|(rule, times)| format!(", {rule} in {times}")).collect();
    println!("violations {}, undecided {}{}", done.violations, done.undecided, by_rule.concat());
    println!(
        "{:.1} s on {} threads, {:.1} histories a second",
        took.as_secs_f64(),
        options.threads(),
        done.histories as f64 / took.as_secs_f64()
    );
    if done.histories < options.count {
        println!("interrupted: go on with --seed {next} --count {}", options.count - done.histories);
    }
}
