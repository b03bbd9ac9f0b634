//! Counts what a limiter does, tells the operator of trouble, and forgets full buckets.
//!
//! All of it calls the application's recorder and log, which may block or panic: so it is a task of
//! its own, where nothing else waits for it.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use coord::coord_core::Home;
use metrics::{counter, describe_counter, describe_gauge, gauge};
use tokio_util::sync::CancellationToken;

use super::control::{Control, RuleCounts};
use super::exact::{Asking, ExactStatus, Route};
use super::status::{ClusterStanding, ClusterStatus};

/// Decisions of each rule, by result: `allowed`, `denied`.
pub(super) const DECISIONS: &str = "coord_ratelimit_decisions_total";
/// Requests that were admitted because there is no rule for them.
pub(super) const UNLIMITED: &str = "coord_ratelimit_unlimited_total";
/// Buckets that had to go before they were full, by rule.
pub(super) const EVICTED: &str = "coord_ratelimit_evicted_total";
/// Buckets that are not full, by rule.
pub(super) const BUCKETS: &str = "coord_ratelimit_buckets";
/// By how many instances limits are divided.
pub(super) const INSTANCES: &str = "coord_ratelimit_instances";
/// Decisions of exact rules, by how they came about.
pub(super) const EXACT: &str = "coord_ratelimit_exact_total";

/// How often it counts.
const EVERY: Duration = Duration::from_secs(1);

/// The task that counts.
pub(super) struct Meter {
    control: Arc<Control>,
    asking: Arc<Asking>,
    has_exact: bool,
    home: Home,
    stop: CancellationToken,
    last: Last,
}

/// What was said last.
#[derive(Default)]
struct Last {
    unlimited: u64,
    routes: Vec<u64>,
    evicting: BTreeSet<Arc<str>>,
    standing: Option<ClusterStanding>,
    is_cut_off: bool,
    is_exact_away: bool,
}

impl Meter {
    pub(super) fn new(
        control: Arc<Control>,
        (asking, has_exact): (Arc<Asking>, bool),
        home: Home,
        stop: CancellationToken,
    ) -> Self {
        Meter { control, asking, has_exact, home, stop, last: Last::default() }
    }

    /// Counts each second, and once more at the end.
    pub(super) async fn run(mut self) {
        let _ = catch_unwind(describe);
        loop {
            let is_over = tokio::select! {
                biased;
                () = self.stop.cancelled() => true,
                () = self.home.sleep(EVERY) => false,
            };
            let rules = self.control.sweep();
            let unlimited = self.control.unlimited();
            let cluster = self.control.cluster();
            let exact = self.asking.status(self.has_exact);
            let totals = self.asking.totals();
            let last = &mut self.last;
            // A recorder that panics is the application's trouble, and no reason to stop.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                last.rules(&rules);
                last.unlimited(unlimited);
                last.routes(&totals);
                last.cluster(&cluster);
                last.exact(&exact);
            }));
            if is_over {
                return;
            }
        }
    }
}

fn describe() {
    describe_counter!(DECISIONS, "Requests that a rate limit decided on, by rule and result");
    describe_counter!(UNLIMITED, "Requests that were admitted because no rule is for them");
    describe_counter!(EVICTED, "Buckets that had to go before they were full, by rule");
    describe_gauge!(BUCKETS, "Buckets that are not full, by rule");
    describe_gauge!(INSTANCES, "By how many instances the limits of a cluster are divided");
    describe_counter!(EXACT, "Decisions of exact rate limits, by how they came about");
}

impl Last {
    fn rules(&mut self, rules: &[RuleCounts]) {
        for RuleCounts { name, counts, buckets } in rules {
            let rule = name.to_string();
            counter!(DECISIONS, "rule" => rule.clone(), "result" => "allowed").increment(counts.allowed);
            counter!(DECISIONS, "rule" => rule.clone(), "result" => "denied").increment(counts.denied);
            counter!(EVICTED, "rule" => rule.clone()).increment(counts.evicted);
            #[allow(clippy::cast_precision_loss, reason = "a gauge")]
            gauge!(BUCKETS, "rule" => rule).set(*buckets as f64);
            if counts.evicted == 0 {
                self.evicting.remove(name);
            } else if self.evicting.insert(Arc::clone(name)) {
                tracing::warn!(
                    rule = &**name,
                    evicted = counts.evicted,
                    "a rate limit has more keys at once than buckets are kept, and forgets some too early"
                );
            }
        }
    }

    fn unlimited(&mut self, total: u64) {
        counter!(UNLIMITED).increment(total.saturating_sub(self.unlimited));
        if self.unlimited == 0 && total > 0 {
            tracing::warn!("requests are admitted that no rate limit is for, and none is the default");
        }
        self.unlimited = total;
    }

    fn routes(&mut self, totals: &[(Route, u64)]) {
        for (index, (route, total)) in totals.iter().enumerate() {
            let before = self.routes.get(index).copied().unwrap_or_default();
            counter!(EXACT, "result" => route.as_str()).increment(total.saturating_sub(before));
        }
        self.routes = totals.iter().map(|(_, total)| *total).collect();
    }

    fn cluster(&mut self, cluster: &ClusterStatus) {
        gauge!(INSTANCES).set(f64::from(cluster.divided_by));
        let standing = cluster.standing;
        if self.standing != Some(standing) {
            let instances = cluster.divided_by;
            match standing {
                ClusterStanding::NotRegistered => tracing::warn!(
                    "this instance is not registered, so limits that instances share admit nothing here"
                ),
                _ => tracing::info!(?standing, instances, "where this instance stands in sharing limits"),
            }
            self.standing = Some(standing);
        }
        let is_cut_off = cluster.live.is_some() && !cluster.is_connected;
        if is_cut_off != self.is_cut_off {
            if is_cut_off {
                let reason = cluster.last_error.as_ref().map(ToString::to_string);
                tracing::warn!(reason, "the registry is out of reach, shares of limits stay as they are");
            } else {
                tracing::info!("the registry is followed again");
            }
            self.is_cut_off = is_cut_off;
        }
    }

    fn exact(&mut self, exact: &ExactStatus) {
        let is_away = exact.is_there && !exact.answers;
        if is_away != self.is_exact_away {
            if is_away {
                let reason = exact.last_error.as_ref().map(ToString::to_string);
                tracing::warn!(reason, "the exact scope does not answer, shares of limits decide");
            } else {
                tracing::info!("the exact scope answers again");
            }
            self.is_exact_away = is_away;
        }
    }
}
