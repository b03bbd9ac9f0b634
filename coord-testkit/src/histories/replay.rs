//! Histories as cases: a few seeds each, and what is needed to see a failure again.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::{Breach, HistoryOutcome, Plan, Scale, Workload, run, shrink};
use crate::failure::Failure;
use crate::fixture::Fixture;

/// How often a plan that broke a rule is run again to shorten it.
const TRIES: usize = 400;

/// How long that may take by the clock on the wall: an author waits for it.
pub(crate) const SHORTENING: Duration = Duration::from_secs(30);

/// Runs histories of a workload and fails where any rule is broken; the rule of the case is told of
/// first.
///
/// # Panics
///
/// When a rule was broken, whichever: with the rule, the seed, the command that shows it again, and
/// the shortest history found.
pub(crate) async fn uphold(cx: Fixture, workload: Workload) {
    uphold_at(&cx, workload, &scale(&cx, false)).await;
}

/// As [`uphold`], and the store is killed and opened again in between.
///
/// # Panics
///
/// As [`uphold`].
pub(crate) async fn uphold_across_restarts(cx: Fixture, workload: Workload) {
    // A store that cannot ends the case here, and not in the middle of a history.
    cx.reopen().await;
    uphold_at(&cx, workload, &scale(&cx, true)).await;
}

async fn uphold_at(cx: &Fixture, workload: Workload, scale: &Scale) {
    let mut not_provided = None;
    for seed in seeds(cx) {
        let plan = Plan::draw(seed, workload, scale);
        let outcome = run(cx, &plan).await;
        let own = outcome.breaches.iter().find(|breach| breach.rule == cx.rule());
        if let Some(breach) = own.or(outcome.breaches.first()).cloned() {
            let (title, plan, outcome) = shortest(cx, plan, outcome, breach.rule).await;
            fail(cx, title, &plan, &outcome, &breach);
        }
        not_provided = not_provided.or_else(|| outcome.tally.not_provided.first().copied());
    }
    if let Some(reason) = not_provided {
        cx.not_run(reason);
    }
}

/// How large histories are on this store: where its time is real, they are short.
fn scale(cx: &Fixture, restarts: bool) -> Scale {
    let (operations, strikes) = if cx.virtual_time() { (200, 12) } else { (60, 6) };
    Scale { operations, strikes, restarts, server_faults: cx.harness().server_faults(), ttl: cx.ttl() }
}

/// The seeds of a case's histories: a few of its own, which follow from the seed of the run.
fn seeds(cx: &Fixture) -> impl Iterator<Item = u64> {
    let few = if cx.virtual_time() { 5 } else { 1 };
    let count = number("COORD_TESTKIT_HISTORIES").unwrap_or(few);
    let own = own_number(&cx.case_name());
    let cx = cx.clone();
    (0..count).map(move |n| cx.seed(own + n))
}

/// A number that a case shares with few others, so that each draws histories of its own.
pub(crate) fn own_number(case: &str) -> u64 {
    case.bytes().fold(0_u64, |hash, byte| (hash * 31 + u64::from(byte)) % 1_000_003) << 20
}

/// A number in the environment.
pub(crate) fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.trim().parse().ok()
}

/// The shortest history found that breaks the same rule, where it breaks it each time; else the
/// whole one. And what it is.
async fn shortest(
    cx: &Fixture,
    plan: Plan,
    outcome: HistoryOutcome,
    rule: &str,
) -> (&'static str, Plan, HistoryOutcome) {
    if !cx.virtual_time() {
        return ("Time is real here, so that no two histories are the same. This one", plan, outcome);
    }
    let until = Instant::now() + SHORTENING;
    if !run(cx, &plan).await.breaks(rule) {
        return (BY_CHANCE, plan, outcome);
    }
    let short = shrink(plan.clone(), TRIES, async |candidate| {
        Instant::now() < until && run(cx, candidate).await.breaks(rule)
    })
    .await;
    let again = run(cx, &short).await;
    if again.breaks(rule) { ("The shortest history found", short, again) } else { (BY_CHANCE, plan, outcome) }
}

/// What does not come out the same the second time.
pub(crate) const BY_CHANCE: &str = "The same was right when it was carried out again: it depends on chance, as it does where a store \
     works in `spawn_blocking` or on threads of its own. What was wrong once";

fn fail(cx: &Fixture, title: &str, plan: &Plan, outcome: &HistoryOutcome, first: &Breach) -> ! {
    let breach = outcome.breaches.iter().find(|breach| breach.rule == first.rule).unwrap_or(first);
    let mut shown = format!("Again: COORD_TESTKIT_SEED={} cargo test {}\n", cx.run_seed(), cx.case_name());
    let _ = write!(shown, "{title}:\n{plan}");
    for line in &outcome.history {
        let _ = writeln!(shown, "{line}");
    }
    Failure { rule: breach.rule, what: breach.what.clone(), shown }.raise()
}
