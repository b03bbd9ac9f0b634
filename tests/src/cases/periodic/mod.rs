//! Periodic jobs: R77. They are types of coord-recipes over any store, nothing that a backend
//! provides.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a case fails by panicking"
)]

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coord_api::store::{Entry, Store};
use coord_api::{FencingToken, Result};
use coord_recipes::{Periodic, PeriodicRun};
use coord_testkit::wait::eventually;
use coord_testkit::{Case, Fixture};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::primitives::{self, Primitives, entries};

mod r77;
mod r77_faults;

/// Hands the list of these cases to a macro, as [`coord_testkit::list_cases!`] says.
#[macro_export]
macro_rules! periodic_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r77 {
                once_a_period_one_of_all_does_it,
                a_marker_of_its_own_stands_before_each_run,
                a_run_that_is_longer_than_its_period_skips,
                a_run_that_was_cut_off_is_not_made_up_for,
                a_new_leader_begins_at_once_where_no_marker_stands,
                closing_ends_it_and_leaves_the_marker,
                where_the_job_panics_the_next_one_leads,
                a_run_has_a_number_and_a_fence,
                a_period_is_two_requests,
                names_that_nest_are_unrelated,
                what_is_wrong_is_an_invalid_argument_before_any_request,
                at_the_loss_the_job_is_dropped => r77_faults::at_the_loss_the_job_is_dropped,
                after_a_crash_the_next_run_comes_by_ttl_and_period => r77_faults::after_a_crash_the_next_run_comes_by_ttl_and_period,
                a_marker_in_doubt_is_settled => r77_faults::a_marker_in_doubt_is_settled,
                a_marker_that_was_lost_on_its_way_is_written_anew => r77_faults::a_marker_that_was_lost_on_its_way_is_written_anew,
                a_marker_that_comes_after_the_loss_changes_nothing => r77_faults::a_marker_that_comes_after_the_loss_changes_nothing,
                a_marker_that_comes_after_its_instance_went_changes_nothing => r77_faults::a_marker_that_comes_after_its_instance_went_changes_nothing,
                a_store_that_does_not_answer_is_asked_for_ever => r77_faults::a_store_that_does_not_answer_is_asked_for_ever,
                what_the_store_refuses_is_tried_again => r77_faults::what_the_store_refuses_is_tried_again,
            }
        }
    };
}

/// The cases of R77.
pub const CASES: &[Case] = periodic_cases!([coord_testkit::list_cases]);

const QUEUE: &str = "/periodic/p/q/";
const MARKER: &str = "/periodic/p/marker";

/// The period of the job `p`, where any would do: not the TTL.
fn every(cx: &Fixture) -> Duration {
    if cx.virtual_time() { Duration::from_secs(7) } else { Duration::from_secs(3) }
}

/// A period that no case outlives.
fn long(cx: &Fixture) -> Duration {
    every(cx) * 1_000
}

/// A run that was done, or was begun.
#[derive(Clone, Debug)]
struct Run {
    instance: &'static str,
    token: FencingToken,
    began: Instant,
    ended: Option<Instant>,
}

/// What all instances of a job have done. No two of them may be at work at once.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<Run>>>);

/// Notes the end of a run when it is dropped.
struct AtWork(Log, usize);

impl Log {
    fn begin(&self, instance: &'static str, run: &PeriodicRun) -> AtWork {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A panic here would be the job's, which nobody may look at.
        runs.push(Run { instance, token: run.fencing_token(), began: Instant::now(), ended: None });
        AtWork(self.clone(), runs.len() - 1)
    }

    fn runs(&self) -> Vec<Run> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the end of `limit` at most until this many runs have begun.
    async fn begun(&self, limit: Duration, runs: usize) -> Vec<Run> {
        eventually(limit, &format!("{runs} runs have begun"), || async {
            Some(self.runs()).filter(|begun| begun.len() >= runs)
        })
        .await
    }

    /// Checks that no run began before an earlier one had ended, nor `period` after its beginning;
    /// and that their numbers rise.
    fn check(&self, cx: &Fixture, period: Duration) {
        for pair in self.runs().windows(2) {
            let [one, two] = pair else { unreachable!("windows of two") };
            assert!(one.ended.is_some_and(|ended| ended <= two.began), "two at work at once: {pair:?}");
            let apart = two.began - one.began;
            // Periods are counted from the grants, each a little before its run.
            assert!(apart + cx.slack() >= period, "two within {apart:?}: {pair:?}");
            assert!(two.token > one.token, "{pair:?}");
        }
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut runs = (self.0).0.lock().unwrap_or_else(PoisonError::into_inner);
        runs[self.1].ended = Some(Instant::now());
    }
}

/// The job `p` over a client.
fn job(cx: &Fixture, primitives: &Primitives, every: Duration) -> Periodic {
    Periodic::new(&primitives.client, "p", every).with_ttl(cx.ttl())
}

/// Has an instance do the job `p`, in a task of its own as a service has it; each run takes
/// `lasts`.
fn instance(
    cx: &Fixture,
    name: &'static str,
    primitives: &Primitives,
    (every, lasts): (Duration, Duration),
    log: &Log,
) -> JoinHandle<Result<Infallible>> {
    let (job, log) = (job(cx, primitives, every), log.clone());
    let work = move |run: PeriodicRun| {
        let log = log.clone();
        async move {
            let _at_work = log.begin(name, &run);
            sleep(lasts).await;
        }
    };
    tokio::spawn(async move { job.run(work).await })
}

/// A further client.
async fn further(cx: &Fixture) -> Primitives {
    Primitives::of(&cx.client().await)
}

/// Waits until so many stand in the queue.
async fn stand(cx: &Fixture, store: &dyn Store, candidates: usize) {
    eventually(cx.soon(), &format!("{candidates} stand in the queue"), || async {
        (entries(store, QUEUE).await.len() == candidates).then_some(())
    })
    .await;
}

/// The marker, if one stands.
async fn marker(store: &dyn Store) -> Option<Entry> {
    entries(store, MARKER).await.pop()
}
