//! Idempotent execution: R56 to R60. It is a type of coord-recipes over any store, nothing that a
//! backend provides.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a case fails by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use coord_api::handle::Leased;
use coord_api::{ErrorKind, Provider, Result, Value, Wait};
use coord_recipes::{Begun, Execution, Once, OnceError, OnceOptions, WorkFailure};
use coord_testkit::handle::Kind;
use coord_testkit::{Case, Client, Fixture};
use coord_testkit::{fence_cases as fenced, handle_cases as handle};

use super::primitives::{self, Primitives};

mod r56;
mod r57;
mod r58;
mod r59;
mod r60;

/// Hands the list of these cases to a macro, as [`coord_testkit::list_cases!`] says.
#[macro_export]
macro_rules! once_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r56 {
                what_was_done_is_not_done_again,
                of_many_at_once_one_does_it,
                every_result_is_recorded_byte_for_byte,
                a_run_is_two_requests_and_a_repeat_is_one,
                who_asks_at_once_over_one_client_shares_the_requests,
                names_that_nest_are_unrelated,
            }
            r57 {
                a_live_one_is_never_doubled,
                work_that_failed_is_done_anew,
                work_that_was_dropped_is_done_anew,
                work_that_panicked_is_done_anew,
                one_that_was_lost_goes_on_with_a_smaller_token,
                a_dropped_one_is_free => handle::is_free_once_dropped::<Executions>,
                one_may_be_dropped_outside_a_runtime => handle::may_be_dropped_outside_a_runtime::<Executions>,
                one_may_be_dropped_after_its_client => handle::may_be_dropped_after_its_provider::<Executions>,
                a_drop_never_blocks_on_a_store_that_hangs => handle::a_drop_never_blocks_on_a_store_that_hangs::<Executions>,
                a_release_that_failed_is_repeated_once_dropped => handle::a_release_that_failed_is_repeated_once_dropped::<Executions>,
                nothing_dropped_is_held_for_ever => handle::nothing_dropped_is_held_for_ever::<Executions>,
                a_failed_release_is_unknown_and_repeated => handle::a_failed_release_is_unknown_and_repeated::<Executions>,
                a_release_applied_late_harms_no_successor => handle::a_release_applied_late_harms_no_successor::<Executions>,
                lost_fires_at_the_local_deadline => handle::lost_fires_at_the_local_deadline::<Executions>,
                a_lost_lease_is_noticed_within_a_second => handle::a_lost_lease_is_noticed_within_a_second::<Executions>,
                a_removed_entry_is_noticed_with_the_next_renewal => handle::a_removed_entry_is_noticed_with_the_next_renewal::<Executions>,
                under_a_partition_the_loss_comes_before_the_next_run => handle::under_a_partition_the_loss_comes_before_the_next_grant::<Executions>,
                it_is_held_for_as_long_as_its_client_lives => handle::is_held_for_as_long_as_its_client_lives::<Executions>,
                after_a_crash_it_is_free_by_ttl_and_lag => handle::after_a_crash_it_is_free_by_ttl_and_lag::<Executions>,
                it_outlives_the_runtime_that_began_it => handle::outlives_the_runtime_that_acquired_it::<Executions>,
                tokens_rise_across_crashes => handle::numbers_rise_across_crashes::<Executions>,
                its_fence_holds_while_it_is_held => fenced::holds_while_it_is_held::<Executions>,
                its_fence_breaks_with_its_entry => fenced::breaks_with_its_entry::<Executions>,
                its_fence_is_of_one_execution => fenced::is_of_one_grant::<Executions>,
                its_fence_costs_no_request => fenced::costs_no_request::<Executions>,
            }
            r58 {
                one_that_was_lost_records_nothing_and_has_its_result,
                a_successor_is_not_overwritten,
                a_record_in_doubt_is_settled,
                a_store_that_does_not_answer_is_asked_again,
                a_late_record_changes_nothing,
                a_completion_dropped_at_any_await_point_is_recorded_or_free,
                recording_is_no_loss,
            }
            r59 {
                others_wait_for_the_result,
                who_waits_takes_over_where_it_is_not_done,
                without_waiting_another_one_is_a_conflict,
                a_time_to_wait_ends_the_waiting,
                something_else_under_the_same_key_is_an_invalid_argument,
                a_run_dropped_at_any_await_point_leaves_nothing => handle::an_acquire_dropped_at_any_await_point_leaves_nothing::<Executions>,
                a_dropped_run_that_is_applied_late_leaves_nothing => handle::a_dropped_acquire_that_is_applied_late_leaves_nothing::<Executions>,
                a_call_left_alone_holds_up_no_other => handle::a_call_left_alone_holds_up_no_other::<Executions>,
            }
            r60 {
                a_result_outlives_its_client,
                a_result_is_kept_for_the_retention_and_hardly_longer,
                a_retention_lease_that_is_gone_is_replaced_and_nobodys_loss,
                a_failure_for_good_is_recorded,
                a_result_that_is_too_large_is_a_failure_for_good,
                what_is_forgotten_is_done_anew,
                what_is_wrong_is_an_invalid_argument_before_any_request,
                what_others_left_is_codec,
            }
        }
    };
}

/// The cases of R56 to R60.
pub const CASES: &[Case] = once_cases!([coord_testkit::list_cases]);

/// Executions: the place is a key that is to be done once.
struct Executions;

impl Kind for Executions {
    type Handle = Execution;
    type Source = Primitives;

    const TAKEN: ErrorKind = ErrorKind::Conflict;

    fn source(client: &Client) -> Primitives {
        Primitives::of(client)
    }

    fn provider(source: &Primitives) -> &Arc<dyn Provider> {
        &source.provider
    }

    async fn close(source: Primitives) -> Result<()> {
        source.client.close().await
    }

    fn entries(place: &str) -> String {
        format!("/once/{place}")
    }

    async fn beside(source: Primitives, ttl: Duration) -> Result<Box<dyn Leased>> {
        Ok(Box::new(Self::acquire(source, "beside", ttl, Wait::Forever).await?))
    }

    async fn acquire(
        source: Primitives,
        place: &'static str,
        ttl: Duration,
        wait: Wait,
    ) -> Result<Execution> {
        match source.once().begin(place, OnceOptions::default().with_ttl(ttl).with_wait(wait)).await {
            Ok(Begun::Mine(execution)) => Ok(execution),
            Err(OnceError::Coord(error)) => Err(error),
            other => panic!("nothing was recorded: {other:?}"),
        }
    }
}

const RECORD: &str = "/once/k";

/// What a further client does once.
async fn once(cx: &Fixture) -> Once {
    Primitives::of(&cx.client().await).once()
}

fn options(cx: &Fixture) -> OnceOptions {
    OnceOptions::default().with_ttl(cx.ttl())
}

fn at_once(cx: &Fixture) -> OnceOptions {
    options(cx).with_wait(Wait::Never)
}

/// Begins the key `k`, which must be free.
async fn begin(once: &Once, options: OnceOptions) -> Execution {
    match once.begin("k", options).await.unwrap() {
        Begun::Mine(execution) => execution,
        other => panic!("it was done already: {other:?}"),
    }
}

/// The result of the key `k`, which must have been done.
async fn done(cx: &Fixture, once: &Once) -> Value {
    match once.begin("k", at_once(cx)).await.unwrap() {
        Begun::Done(value) => value,
        other => panic!("it was not done: {other:?}"),
    }
}

/// Work that must not be done.
async fn never(_: &Execution) -> std::result::Result<Value, WorkFailure> {
    panic!("it is done a second time")
}

/// The kind of an error of coord's own.
fn kind(error: &OnceError) -> ErrorKind {
    error.coord().unwrap_or_else(|| panic!("an error of the work: {error}")).kind()
}
