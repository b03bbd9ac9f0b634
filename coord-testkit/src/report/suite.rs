//! A backend and the cases that it runs, on a few threads.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use super::{Backend, CaseResult, Failures, RuleResult, VerdictCounts};
use crate::case::Case;
use crate::cases::cases;
use crate::contract::{Rule, rules};
use crate::harness::Harness;
use crate::run::{Verdict, run_with_seed};

/// A backend and the cases that it runs: all of the kit's, and those that were added.
pub struct Suite {
    name: String,
    threads: Option<usize>,
    server: Option<String>,
    only: Option<String>,
    replay: String,
    cases: Vec<&'static Case>,
    harness: Box<dyn Fn() -> BoxFuture<'static, Arc<dyn Harness>> + Send + Sync>,
}

impl Suite {
    /// The kit's cases on the backend `name`. `harness` makes a harness with a fresh, empty store,
    /// inside the runtime of each case. `replay` is the command that runs one case by itself, when
    /// the case's name is put behind it: `cargo test --test conformance`.
    pub fn new<H, F>(
        name: impl Into<String>,
        replay: impl Into<String>,
        harness: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        H: Harness,
        F: Future<Output = H> + Send + 'static,
    {
        let harness = move || {
            let starting = harness();
            Box::pin(async move { Arc::new(starting.await) as Arc<dyn Harness> }) as BoxFuture<'static, _>
        };
        Suite {
            name: name.into(),
            threads: None,
            server: None,
            only: None,
            replay: replay.into(),
            cases: cases().collect(),
            harness: Box::new(harness),
        }
    }

    /// Names the program of the backend's servers, and its version, for the report.
    #[must_use]
    pub fn with_server(mut self, server: impl Into<String>) -> Self {
        self.server = Some(server.into());
        self
    }

    /// How many cases a program had best run at a time, where that is not one for each core.
    /// Servers of their own want fewer, so that none of them is starved; waiting for their clocks
    /// wants more.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Runs further cases too.
    #[must_use]
    pub fn with_cases(mut self, cases: &'static [Case]) -> Self {
        self.cases.extend(cases);
        self
    }

    /// Leaves out the cases whose name (`r12::of_many_racers_exactly_one_wins`) does not contain
    /// `part`.
    #[must_use]
    pub fn only(mut self, part: &str) -> Self {
        self.cases.retain(|case| name(case).contains(part));
        self.only = Some(part.to_owned());
        self
    }

    /// The backend's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many cases suit the backend at a time, where [`with_threads`](Self::with_threads) said
    /// so.
    pub fn threads(&self) -> Option<usize> {
        self.threads
    }

    /// How many cases it has.
    pub fn count(&self) -> usize {
        self.cases.len()
    }

    /// Runs every case once, so many at a time as there are `threads`.
    pub fn run(&self, seed: u64, threads: usize) -> Backend {
        self.run_and_tell(seed, threads, |_| {})
    }

    /// As [`run`](Self::run), and hands each result on as soon as it is there.
    pub fn run_and_tell(&self, seed: u64, threads: usize, tell: impl Fn(&CaseResult) + Sync) -> Backend {
        let begin = Instant::now();
        let places: Vec<_> = self.cases.iter().map(|_| Mutex::new(None)).collect();
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    while let Some((case, place)) =
                        at(&self.cases, &places, next.fetch_add(1, Ordering::Relaxed))
                    {
                        let begin = Instant::now();
                        let verdict = run_with_seed(case, seed, (self.harness)());
                        let result = result(case, seed, verdict, begin.elapsed());
                        tell(&result);
                        *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                    }
                });
            }
        });
        let nobody = |case| result(case, seed, Verdict::Failed("nobody ran it".to_owned()), Duration::ZERO);
        let told = places.into_iter().map(|place| place.into_inner().unwrap_or_else(PoisonError::into_inner));
        let results: Vec<_> = self
            .cases
            .iter()
            .zip(told)
            .map(|(case, told)| (*case, told.unwrap_or_else(|| nobody(case))))
            .collect();
        let mut backend = Backend {
            name: self.name.clone(),
            server: self.server.clone(),
            kit_version: env!("CARGO_PKG_VERSION").to_owned(),
            seed,
            only: self.only.clone(),
            replay: self.replay.clone(),
            runs: 1,
            failed_runs: u32::from(results.iter().any(|(_, result)| result.failures.is_some())),
            seconds: rounded(begin.elapsed()),
            counts: VerdictCounts::default(),
            rules: by_rule(results),
        };
        backend.count();
        backend
    }
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suite")
            .field("name", &self.name)
            .field("cases", &self.cases.len())
            .finish_non_exhaustive()
    }
}

/// A case's whole name.
fn name(case: &Case) -> String {
    format!("{}::{}", case.rule, case.sentence)
}

fn at<'a, A, B>(one: &'a [A], other: &'a [B], index: usize) -> Option<(&'a A, &'a B)> {
    Some((one.get(index)?, other.get(index)?))
}

fn result(case: &Case, seed: u64, verdict: Verdict, took: Duration) -> CaseResult {
    let failures = matches!(verdict, Verdict::Failed(_)).then_some(Failures { count: 1, seed });
    CaseResult { case: name(case), verdict, failures, seconds: rounded(took) }
}

/// Every rule with its cases, in the contract's order; behind them what belongs to no rule of the
/// contract, each under its own name.
fn by_rule(mut results: Vec<(&Case, CaseResult)>) -> Vec<RuleResult> {
    let mut ordered = Vec::new();
    for rule in rules() {
        let (own, others) = results.into_iter().partition(|(case, _)| rule.is(case.rule));
        results = others;
        ordered.push(uncounted(rule, Vec::into_iter(own).map(|(_, result)| result).collect()));
    }
    for (case, result) in results {
        let number = case.rule.to_uppercase();
        match ordered.iter_mut().find(|known| known.rule.number == number) {
            Some(known) => known.cases.push(result),
            None => ordered.push(uncounted(Rule { number, title: String::new() }, vec![result])),
        }
    }
    ordered
}

/// What was found of a rule, before its cases are counted.
fn uncounted(rule: Rule, cases: Vec<CaseResult>) -> RuleResult {
    RuleResult { rule, counts: VerdictCounts::default(), cases }
}

/// Seconds, to the millisecond.
fn rounded(took: Duration) -> f64 {
    (took.as_secs_f64() * 1_000.0).round() / 1_000.0
}
