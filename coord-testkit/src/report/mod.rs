//! What the kit found, as data and as a matrix of rules and backends: passed, failed, or not run
//! and why.
//!
//! A [`Suite`] is a backend and the cases that it runs, and [`Suite::run`] runs them once. A
//! program calls [`note_panics`](crate::note_panics) first, so that only the report tells what
//! failed. What did not run never counts as passed.

mod markdown;
mod suite;

pub use suite::Suite;

use serde::{Deserialize, Serialize};

use crate::contract::Rule;
use crate::run::Verdict;

/// What the kit found on some backends, each by itself: they need not have been run together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The backends, as they were given.
    pub backends: Vec<Backend>,
}

/// What was found on one backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// The program of its servers, where it has any: `etcd 3.5.30`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The version of the kit.
    pub kit_version: String,
    /// The seed of the first run. Each further run has the next one.
    pub seed: u64,
    /// What chose the cases by their names, where not all of them were run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<String>,
    /// The command that runs a case again, when the case's name is put behind it.
    pub replay: String,
    /// How often all cases were run.
    pub runs: u32,
    /// In how many of those runs at least one case failed.
    pub failed_runs: u32,
    /// How long the runs took in all, by the clock on the wall.
    pub seconds: f64,
    /// How the cases came out.
    pub counts: VerdictCounts,
    /// Every rule of the contract, also one that has no case.
    pub rules: Vec<RuleResult>,
}

/// What was found of one rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleResult {
    /// The rule.
    #[serde(flatten)]
    pub rule: Rule,
    /// How its cases came out.
    pub counts: VerdictCounts,
    /// Its cases.
    pub cases: Vec<CaseResult>,
}

/// What became of one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseResult {
    /// Its name: `r12::of_many_racers_exactly_one_wins`.
    pub case: String,
    /// The first failure, if any run failed.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// In how many runs it failed, where any did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<Failures>,
    /// The longest that it took, by the clock on the wall.
    pub seconds: f64,
}

/// How often a case failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// In how many runs.
    pub count: u32,
    /// The seed of the first of them.
    pub seed: u64,
}

/// How many cases came out which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VerdictCounts {
    /// Passed, in every run.
    pub passed: usize,
    /// Failed, in one run or more.
    pub failed: usize,
    /// Not run.
    pub not_run: usize,
}

impl Report {
    /// Whether a case failed on any backend.
    pub fn failed(&self) -> bool {
        self.backends.iter().any(|backend| backend.failed_runs > 0)
    }

    /// Adds what a further run found on the same backends.
    pub fn merge(&mut self, later: Report) {
        for (backend, later) in self.backends.iter_mut().zip(later.backends) {
            backend.merge(later);
        }
    }

    /// Puts each of the newer backends in the place of the one of its name, or behind all others
    /// where there is none.
    pub fn replace(&mut self, newer: Report) {
        for newer in newer.backends {
            match self.backends.iter_mut().find(|known| known.name == newer.name) {
                Some(known) => *known = newer,
                None => self.backends.push(newer),
            }
        }
    }

    /// The report as JSON.
    ///
    /// # Errors
    ///
    /// The serializer's, which has none for this type.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// The report as a page of Markdown: the matrix, then what failed and how to see it again, then
    /// what was not run and why.
    pub fn to_markdown(&self) -> String {
        markdown::page(self)
    }
}

impl Backend {
    fn merge(&mut self, later: Backend) {
        self.runs += later.runs;
        self.failed_runs += later.failed_runs;
        self.seconds += later.seconds;
        for (rule, later) in self.rules.iter_mut().zip(later.rules) {
            for (case, later) in rule.cases.iter_mut().zip(later.cases) {
                case.merge(later);
            }
        }
        self.count();
    }

    /// Counts its cases.
    fn count(&mut self) {
        self.counts = VerdictCounts::default();
        for rule in &mut self.rules {
            rule.counts = rule
                .cases
                .iter()
                .map(|case| VerdictCounts::of(&case.verdict))
                .fold(VerdictCounts::default(), VerdictCounts::and);
            self.counts = self.counts.and(rule.counts);
        }
    }
}

impl CaseResult {
    fn merge(&mut self, later: CaseResult) {
        self.seconds = self.seconds.max(later.seconds);
        match (&mut self.failures, later.failures) {
            (Some(failures), Some(later)) => failures.count += later.count,
            (None, Some(_)) => (self.verdict, self.failures) = (later.verdict, later.failures),
            (_, None) => {}
        }
    }
}

impl VerdictCounts {
    fn of(verdict: &Verdict) -> Self {
        let (passed, failed, not_run) = match verdict {
            Verdict::Passed => (1, 0, 0),
            Verdict::Failed(_) => (0, 1, 0),
            Verdict::NotRun(_) => (0, 0, 1),
        };
        VerdictCounts { passed, failed, not_run }
    }

    fn and(self, other: VerdictCounts) -> Self {
        VerdictCounts {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            not_run: self.not_run + other.not_run,
        }
    }
}
