//! What is counted, over the facade of `metrics`.

use coord::Outcome;
use coord_service::metrics::facade::{Gauge, counter, gauge};
use sqlx::{Database, Pool};

use crate::error::DbError;

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Committed,
    RolledBack,
    /// The commit was sent and not answered.
    Unknown,
}

/// Counts what happens to one component.
#[derive(Clone)]
pub(crate) struct Meter {
    component: String,
    in_use: Gauge,
    idle: Gauge,
}

impl Meter {
    pub(crate) fn new(component: &str) -> Self {
        let connections = |state: &'static str| gauge!("db_connections", "component" => component.to_owned(), "state" => state);
        Meter { component: component.to_owned(), in_use: connections("in_use"), idle: connections("idle") }
    }

    /// Notes how many connections there are.
    pub(crate) fn pool<DB: Database>(&self, pool: &Pool<DB>) {
        let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
        self.idle.set(f64::from(idle));
        self.in_use.set(f64::from(pool.size().saturating_sub(idle)));
    }

    /// Counts a failure by its kind.
    pub(crate) fn failed(&self, error: &DbError) {
        counter!(
            "db_failures_total",
            "component" => self.component.clone(),
            "operation" => error.operation(),
            "kind" => error.kind().as_str()
        )
        .increment(1);
    }

    /// Counts a transaction by its end.
    pub(crate) fn ended(&self, ended: Ended) {
        let result = match ended {
            Ended::Committed => "committed",
            Ended::RolledBack => "rolled_back",
            Ended::Unknown => "unknown",
        };
        counter!("db_transactions_total", "component" => self.component.clone(), "result" => result)
            .increment(1);
    }

    /// Counts a transaction that is run again.
    pub(crate) fn retried(&self) {
        counter!("db_transaction_retries_total", "component" => self.component.clone()).increment(1);
    }
}

impl From<Outcome> for Ended {
    /// The end of a transaction whose commit failed.
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::NotApplied => Ended::RolledBack,
            Outcome::Unknown => Ended::Unknown,
        }
    }
}
