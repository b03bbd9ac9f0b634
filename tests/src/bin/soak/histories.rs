//! Random histories, each on a fresh cluster of three whose servers and links fail as the history's
//! plan says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use coord_servers::etcd::Series;
use coord_testkit::Harness;
use coord_testkit::histories::{Blow, HistoryOutcome, Plan, Scale, Workload, execute};
use coord_tests::harness::etcd::Etcd;
use coord_tests::progress::bar;

use crate::Options;

/// Three elections of the fixture's servers and some.
const TTL: Duration = Duration::from_secs(5);

/// What all threads have done.
#[derive(Default)]
struct Done {
    histories: u64,
    operations: usize,
    grants: usize,
    faults: BTreeMap<Blow, usize>,
    violations: u64,
    undecided: u64,
}

fn plan(seed: u64, options: &Options, faults: &'static [&'static str]) -> Plan {
    let scale = Scale {
        operations: options.operations,
        strikes: options.faults,
        restarts: true,
        server_faults: faults,
        ttl: TTL,
    };
    Plan::draw(seed, Workload::in_turn(seed), &scale)
}

/// Says how many histories broke something, or could not be judged.
pub(crate) fn run(count: u64, options: &Options) -> u64 {
    let bar = bar(count);
    let (next, end) = (AtomicU64::new(options.seed), options.seed + count);
    let done = Mutex::new(Done::default());
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let began = Instant::now();
                    let harness: Arc<dyn Harness> = Arc::new(if options.hosts {
                        Etcd::unplugged(Series::V3_5)
                    } else {
                        Etcd::disturbed(Series::V3_5)
                    });
                    let plan = plan(seed, options, harness.server_faults());
                    let outcome = execute(async { harness }, &plan);
                    bar.suspend(|| tell(seed, options, &plan, &outcome));
                    add(&mut done.lock().unwrap(), &outcome);
                    bar.inc(1);
                    if bar.is_hidden() {
                        let verdict = if outcome.breaches.is_empty() { "ok" } else { "BROKEN" };
                        eprintln!(
                            "{} of {count}: seed {seed} ({:?}) {verdict}, {:.0} s",
                            bar.position(),
                            plan.workload,
                            began.elapsed().as_secs_f64()
                        );
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let done = done.into_inner().unwrap();
    let faults: usize = done.faults.values().sum();
    let by_kind: Vec<String> = done.faults.iter().map(|(blow, times)| format!("{blow} {times}")).collect();
    println!(
        "{} histories of {} operations, seeds {} to {}",
        done.histories,
        options.operations,
        options.seed,
        end - 1
    );
    println!(
        "operations {}, handles given out {}, faults {faults} of {} kinds ({})",
        done.operations,
        done.grants,
        by_kind.len(),
        by_kind.join(", ")
    );
    println!(
        "violations {}, undecided {}; {:.0} s",
        done.violations,
        done.undecided,
        begun.elapsed().as_secs_f64()
    );
    done.violations + done.undecided
}

/// Tells of a history that broke something: the rules, how to run it again, and what happened. Real
/// time does not repeat itself: the history is kept.
fn tell(seed: u64, options: &Options, plan: &Plan, outcome: &HistoryOutcome) {
    if outcome.breaches.is_empty() {
        return;
    }
    let path = std::env::temp_dir().join(format!("coord-soak-{seed}.txt"));
    let written = std::fs::write(&path, format!("{plan}{}\n", outcome.history.join("\n")));
    eprintln!("seed {seed} ({:?}) is broken; its history: {} {written:?}", plan.workload, path.display());
    outcome.breaches.iter().for_each(|breach| eprintln!("    {breach}"));
    eprintln!(
        "    again: scripts/soak.sh histories --count 1 --seed {seed} --operations {} --faults {}{}",
        options.operations,
        options.faults,
        if options.hosts { " --hosts" } else { "" }
    );
}

fn add(done: &mut Done, outcome: &HistoryOutcome) {
    done.histories += 1;
    done.operations += outcome.tally.operations;
    done.grants += outcome.tally.grants;
    for (blow, times) in &outcome.tally.faults {
        *done.faults.entry(*blow).or_default() += times;
    }
    if !outcome.breaches.is_empty() {
        let undecided = outcome.breaches.iter().all(|breach| breach.undecided);
        *(if undecided { &mut done.undecided } else { &mut done.violations }) += 1;
    }
}
