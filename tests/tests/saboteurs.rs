//! The kit is tested: each broken backend fails a case of the rule that it breaks, and each
//! harmless one passes everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use coord_testkit::saboteurs::{Saboteur, harmless, saboteurs};
use coord_testkit::{Case, Harness, Need, Verdict, cases, run};
use coord_tests::harness::memory::Volatile;
use coord_tests::harness::sled::Durable;

/// Does work on each item, on as many threads as there are processors to a builder, and keeps the
/// answers in order.
fn each<T: Sync, A: Send>(items: &[T], work: impl Fn(&T) -> A + Sync) -> Vec<A> {
    let (next, answers) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::SeqCst);
                    let Some(item) = items.get(index) else { return };
                    let answer = work(item);
                    answers.lock().unwrap_or_else(PoisonError::into_inner).insert(index, answer);
                }
            });
        }
    });
    answers.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

/// Runs a case on the backend that is good but for one thing.
fn verdict(
    case: &Case,
    over: impl Fn(Arc<dyn Harness>) -> Arc<dyn Harness> + Send + 'static,
    persistent: bool,
) -> Verdict {
    run(case, async move {
        let good: Arc<dyn Harness> =
            if persistent { Arc::new(Durable::start()) } else { Arc::new(Volatile::start()) };
        over(good)
    })
}

/// Whether a case draws what it does. Such a case minimises what it finds, which takes a while:
/// here a break must be found without it.
fn is_drawn(case: &Case) -> bool {
    case.sentence.contains("random_histories") || case.sentence.starts_with("random_sequences")
}

/// The cases of a rule that a backend can run.
fn cases_of(rule: &str, persistent: bool) -> impl Iterator<Item = &'static Case> {
    cases().filter(move |case| {
        case.rule == rule && !is_drawn(case) && (persistent || case.need != Some(Need::persistent))
    })
}

/// Holds the ids of the backends to run, with commas between them, for someone who writes one.
/// Without it all are run.
const CHOSEN: &str = "COORD_TESTKIT_BACKENDS";

fn is_chosen(saboteur: &Saboteur) -> bool {
    std::env::var(CHOSEN).map_or(true, |chosen| chosen.split(',').any(|id| id == saboteur.id))
}

/// How many cases of a rule must fail a backend until it counts as failed there, where that is
/// about the store itself: one case may be the only one of its kind.
const CASES_AGAINST: usize = 2;

/// Which cases of a rule fail a saboteur, and of how many. Once there are enough the others are not
/// run.
fn failed_by(saboteur: &'static Saboteur, rule: &str) -> (Vec<&'static str>, usize) {
    let all: Vec<&Case> = cases_of(rule, saboteur.persistent).collect();
    let failed = |case: &&&Case| {
        matches!(verdict(case, |good| saboteur.over(good), saboteur.persistent), Verdict::Failed(_))
    };
    (all.iter().filter(failed).map(|case| case.sentence).take(CASES_AGAINST).collect(), all.len())
}

#[test]
fn each_is_failed_at_the_rule_that_it_breaks() {
    let start = Instant::now();
    let expected: Vec<(&Saboteur, &str)> = saboteurs()
        .filter(|saboteur| is_chosen(saboteur))
        .flat_map(|saboteur| saboteur.rules.iter().map(move |rule| (saboteur, *rule)))
        .collect();
    assert!(!expected.is_empty(), "{CHOSEN} names none");
    let outcomes = each(&expected, |(saboteur, rule)| {
        let start = Instant::now();
        (failed_by(saboteur, rule), start.elapsed())
    });
    let (mut table, mut missed) = (String::new(), Vec::new());
    for ((saboteur, rule), ((failed, of), took)) in expected.iter().zip(&outcomes) {
        let _ = writeln!(
            table,
            "| {} | {} | {rule} | {} of {of} | {} ms | {}",
            saboteur.id,
            saboteur.breaks,
            failed.len(),
            took.as_millis(),
            failed.join(", ")
        );
        if failed.is_empty() {
            missed.push(format!("{} at {rule}", saboteur.id));
        }
    }
    #[expect(clippy::print_stdout, reason = "the table is what this test is for")]
    {
        println!("{table}\n{} saboteurs in {:?}", saboteurs().count(), start.elapsed());
    }
    assert_eq!(missed, Vec::<String>::new(), "not failed at the rule that they break");
}

/// Set, every harmless backend meets every case, which takes ten minutes.
const EVERY_CASE: &str = "COORD_TESTKIT_EVERY_CASE";

/// One in so many cases a harmless backend meets otherwise, each backend others, so that each case
/// meets as many backends.
const ONE_IN: usize = 3;

/// Runs the cases that are wanted on the harmless backends, one in so many on each; none may fail.
fn pass_all(wanted: fn(&Case) -> bool, one_in: usize) {
    let all: Vec<(&'static Saboteur, &Case)> = harmless()
        .enumerate()
        .filter(|(_, odd)| is_chosen(odd))
        .flat_map(|(n, odd)| {
            let wanted = cases().filter(move |case| wanted(case));
            wanted.skip(n % one_in).step_by(one_in).map(move |case| (odd, case))
        })
        .collect();
    let verdicts = each(&all, |(odd, case)| {
        let odd: &'static Saboteur = odd;
        verdict(case, move |good| odd.over(good), case.need == Some(Need::persistent))
    });
    let failed: Vec<String> = all
        .iter()
        .zip(verdicts)
        .filter(|(_, verdict)| *verdict != Verdict::Passed)
        .map(|((odd, case), verdict)| format!("{}: {}::{} {verdict}", odd.id, case.rule, case.sentence))
        .collect();
    assert!(failed.is_empty(), "what the contract allows was failed:\n{}", failed.join("\n"));
}

#[test]
fn harmless_ones_pass_everything() {
    let one_in = if std::env::var_os(EVERY_CASE).is_some() { 1 } else { ONE_IN };
    pass_all(|case| !is_drawn(case), one_in);
}

#[test]
#[ignore = "NOT RUN: it takes minutes; `cargo test -p coord-tests --test saboteurs -- --ignored`"]
fn harmless_ones_pass_what_is_drawn() {
    pass_all(is_drawn, 1);
}

/// The breaks that a kit like this must catch at the least.
const NAMED: [&str; 51] = [
    // The config centre.
    "compare-and-set ignores the version",
    "compares the value instead (ABA)",
    "create-if-absent overwrites",
    "a failed one raises the version",
    "version restarts after delete and create",
    "after reopening",
    "is wall-clock milliseconds",
    "set acknowledged before it is applied",
    "acknowledged, lost on crash",
    "Unknown reported as NotApplied",
    "delete of nothing says it existed",
    "`a/b` sees `a/bc`",
    "list in hash order",
    "empty value reads as absent",
    // Watches.
    "first event after subscribing lost",
    "gap between snapshot and stream",
    "resumes from now after a reconnect",
    "skips silently over a compaction",
    "Resync without the deletions",
    "two quick puts become one",
    "two revisions swapped",
    "a lagging subscriber loses the oldest",
    "a slow one blocks the writer",
    "ends quietly on disconnect",
    "a failed write emits an event",
    "expiry emits no DELETE",
    // Sessions.
    "a drop whose release failed is forgotten while its lease is renewed",
    "a lease past its local deadline is renewed after healing",
    "two acquires of one key in one provider share an entry",
    "a re-sent set makes A-B-A",
    // Locks.
    "unlock asks for no owner",
    "an old guard's second unlock frees the next holder",
    "token constant or restarted",
    "two waiters woken by one release",
    "cancelled waiter stays in the queue",
    "the renewal task dies and the guard still says held",
    "never lost while the server hangs",
    "an expired lease is revived",
    "TTL ignored",
    "fractions of a second rounded down",
    "try blocks",
    // Registration, discovery and ids.
    "a key without lease",
    "not registered again after loss",
    "the healer takes the id back from its new owner",
    "`a` lists `ab`",
    "an id given to two at once",
    "a released id never returns",
    "one past the end",
    "the holder of a lost id is not told",
    "one bad record fails the whole list",
    "`..` escapes the namespace",
];

/// The oddities that no kit like this may take for breaks.
const ALLOWED: [&str; 7] = [
    "50 ms of random latency",
    "a Resync now and then",
    "batches",
    "revisions with gaps",
    "expiry up to the lag late",
    "TTLs rounded up",
    "a reconnect every 200 ms that resumes rightly",
];

#[test]
fn every_break_that_was_named_has_a_saboteur_and_every_rule_is_broken_by_one() {
    let missing: Vec<&str> =
        NAMED.into_iter().filter(|named| !saboteurs().any(|saboteur| saboteur.breaks == *named)).collect();
    assert_eq!(missing, Vec::<&str>::new());
    let missing: Vec<&str> =
        ALLOWED.into_iter().filter(|named| !harmless().any(|odd| odd.breaks == *named)).collect();
    assert_eq!(missing, Vec::<&str>::new());
    let ids: BTreeSet<&str> = saboteurs().chain(harmless()).map(|saboteur| saboteur.id).collect();
    assert_eq!(ids.len(), saboteurs().count() + harmless().count(), "no id is given twice");
    let broken: BTreeSet<&str> = saboteurs().flat_map(|saboteur| saboteur.rules).copied().collect();
    let unbroken: BTreeSet<&str> =
        cases().map(|case| case.rule).filter(|rule| !broken.contains(rule)).collect();
    assert_eq!(unbroken, BTreeSet::new(), "rules that no saboteur breaks");
}
