//! The report tells what happened: what passed, what failed and how to see it again, what did not
//! run and why; and a harness of closures does what it is told.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a case fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use coord_api::store::Store;
use coord_testkit::contract::rules;
use coord_testkit::report::{Backend, CaseResult, Report, Suite, VerdictCounts};
use coord_testkit::{Case, Harness, Time, Verdict};
use coord_tests::harness::third_party;

/// Cases that do what their names say, under a rule that is none.
mod r99 {
    use coord_testkit::Fixture;

    pub(super) async fn this_one_passes(cx: Fixture) {
        assert!(cx.store().await.status().await.is_ok());
    }

    pub(super) async fn this_one_fails(_: Fixture) {
        panic!("it saw a | and\na second line");
    }

    pub(super) async fn this_one_fails_by_its_seed(cx: Fixture) {
        assert_ne!(cx.seed(0), Fixture::clone(&cx).with_seed(2).seed(0), "the third seed");
    }

    pub(super) async fn this_one_opens_its_store_again(cx: Fixture) {
        cx.reopen().await;
    }
}

macro_rules! own_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r99 { this_one_passes, this_one_fails, this_one_fails_by_its_seed, this_one_opens_its_store_again: persistent }
        }
    };
}

const CASES: &[Case] = own_cases!([coord_testkit::list_cases]);

fn suite(name: &str, harness: fn() -> third_party::ThirdParty) -> Suite {
    Suite::new(name, "run", move || async move { harness() }).with_cases(CASES).only("r99::")
}

fn report(seed: u64) -> Report {
    let suites = [
        suite("volatile", third_party::start),
        suite("persistent", || third_party::start().reopening(|_| async {})),
    ];
    Report { backends: suites.iter().map(|suite| suite.run(seed, 2)).collect() }
}

fn case<'a>(backend: &'a Backend, name: &str) -> &'a CaseResult {
    let mut cases = backend.rules.iter().flat_map(|rule| &rule.cases);
    cases.find(|case| case.case == format!("r99::{name}")).unwrap()
}

#[test]
fn what_did_not_run_has_not_passed() {
    let report = report(0);
    let [volatile, persistent] = &report.backends[..] else { panic!("two backends") };
    assert_eq!(volatile.counts, VerdictCounts { passed: 2, failed: 1, not_run: 1 });
    assert_eq!(persistent.counts, VerdictCounts { passed: 3, failed: 1, not_run: 0 });
    let reopened = |backend| case(backend, "this_one_opens_its_store_again").verdict.clone();
    assert_eq!(reopened(volatile), Verdict::NotRun("a volatile store has nothing to open again".to_owned()));
    assert_eq!(reopened(persistent), Verdict::Passed);
    assert!(report.failed());
}

#[test]
fn every_rule_has_a_row_also_without_a_case() {
    let mut report = report(0);
    let numbers: Vec<String> =
        report.backends[0].rules.iter().map(|result| result.rule.number.clone()).collect();
    let expected: Vec<String> =
        rules().into_iter().map(|rule| rule.number).chain(["R99".to_owned()]).collect();
    assert_eq!(numbers, expected);
    // A backend whose cases were chosen has not shown that the others are missing.
    report.backends[1].only = None;
    let page = report.to_markdown();
    for rule in rules() {
        let row = format!("| **{}** {} | – left out | – no case |\n", rule.number, rule.title);
        assert!(page.contains(&row), "{row}{page}");
    }
    assert!(page.contains("| **cases** | only `r99::` | all |\n"), "{page}");
}

#[test]
fn a_failure_tells_what_was_seen_and_how_to_see_it_again() {
    let page = report(7).to_markdown();
    assert!(page.contains("| **R99**  | ✘ 1 of 3, 1 not run ("), "{page}");
    assert!(page.contains("- **R99** on volatile: `r99::this_one_fails`\n  ```text\n  it saw a | and\n  a second line (at tests/tests/report.rs:"), "{page}");
    assert!(page.contains("Again: `COORD_TESTKIT_SEED=7 run r99::this_one_fails`"), "{page}");
    assert!(
        page.contains(
            "- volatile: a volatile store has nothing to open again. `r99::this_one_opens_its_store_again`\n"
        ),
        "{page}"
    );
}

#[test]
fn further_runs_are_counted() {
    let mut all = report(0);
    (1..4).for_each(|seed| all.merge(report(seed)));
    let volatile = &all.backends[0];
    assert_eq!((volatile.runs, volatile.failed_runs), (4, 4));
    let failures = |name| case(volatile, name).failures.map(|failures| (failures.count, failures.seed));
    assert_eq!(failures("this_one_fails"), Some((4, 0)));
    assert_eq!(failures("this_one_fails_by_its_seed"), Some((1, 2)));
    assert_eq!(failures("this_one_passes"), None);
    assert_eq!(volatile.counts, VerdictCounts { passed: 1, failed: 2, not_run: 1 });
    let page = all.to_markdown();
    assert!(page.contains("seeds 0 to 3"), "{page}");
    assert!(page.contains("`r99::this_one_fails_by_its_seed`, 1 of 4 runs\n"), "{page}");
}

#[test]
fn a_rule_that_one_backend_alone_knows_has_a_row() {
    let mut report = report(0);
    report.backends[0].rules.retain(|result| result.rule.number != "R99");
    let page = report.to_markdown();
    assert!(page.contains("| **R99**  | – left out | ✘ 1 of 4 ("), "{page}");
}

#[test]
fn it_can_be_read_back() {
    let report = report(0);
    assert_eq!(serde_json::from_str::<Report>(&report.to_json().unwrap()).unwrap(), report);
}

#[tokio::test(start_paused = true)]
async fn a_harness_of_closures_does_what_it_is_told() {
    let harness = third_party::start();
    assert_eq!((harness.time(), harness.ttl()), (Time::Virtual, Duration::from_secs(10)));
    let client = harness.client().await;
    let (store, other) = (Arc::clone(&client.store), harness.client().await);
    client.crash().await;
    assert!(store.status().await.is_err(), "a crashed client is closed");
    assert!(other.store.status().await.is_ok(), "and no other one is");
    let real = third_party::start().real_time(Duration::from_millis(700));
    assert_eq!(
        (real.time(), real.lag(), real.ttl()),
        (Time::Real, Duration::from_millis(700), Duration::from_secs(2))
    );
    assert_eq!(real.with_ttl(Duration::from_secs(3)).ttl(), Duration::from_secs(3));
}
