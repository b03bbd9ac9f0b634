//! The kit is tested: each broken backend fails a case of the rule that it breaks, and each harmless one passes everything.
#![allow(clippy::expect_used, reason = "a harness that cannot be made fails its case")]

mod backends;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use coord_testkit::saboteurs::{Saboteur, saboteurs};
use coord_testkit::{Case, Harness, Need, Verdict, cases, run};

use backends::{Durable, Volatile};

/// Does work on each item, on as many threads as there are processors to a builder, and keeps the answers in order.
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
fn verdict(case: &Case, over: impl Fn(Arc<dyn Harness>) -> Arc<dyn Harness> + Send + 'static, persistent: bool) -> Verdict {
    run(case, async move {
        let good: Arc<dyn Harness> = if persistent { Arc::new(Durable::start()) } else { Arc::new(Volatile::start()) };
        over(good)
    })
}

/// The cases of a rule that a backend can run.
fn cases_of(rule: &str, persistent: bool) -> impl Iterator<Item = &'static Case> {
    cases().filter(move |case| case.rule == rule && (persistent || case.need != Some(Need::persistent)))
}

/// Which cases of a rule fail a saboteur, and of how many.
fn failed_by(saboteur: &'static Saboteur, rule: &str) -> (Vec<&'static str>, usize) {
    let all: Vec<&Case> = cases_of(rule, saboteur.persistent).collect();
    let failed = |case: &&&Case| verdict(case, |good| saboteur.over(good), saboteur.persistent) != Verdict::Passed;
    (all.iter().filter(failed).map(|case| case.sentence).collect(), all.len())
}

#[test]
fn each_is_failed_at_the_rule_that_it_breaks() {
    let start = Instant::now();
    let expected: Vec<(&Saboteur, &str)> =
        saboteurs().flat_map(|saboteur| saboteur.rules.iter().map(move |rule| (saboteur, *rule))).collect();
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
