//! Instance ids: R41 to R44.

use coord_api::{IdOptions, InstanceId, Provider, Result, Wait};

use super::handle;
use crate::case::Case;
use crate::fixture::Fixture;
use crate::handle::Ids;
use crate::histories::{Workload, uphold, uphold_across_restarts};
use crate::model::{Contract, contract};

mod r41;
mod r42;
mod r43;
mod r44;

/// The list of these cases, for a macro that makes something of it.
#[doc(hidden)]
#[macro_export]
macro_rules! ids_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r41 {
                one_after_the_other_gets_the_smallest_free_id,
                several_providers_share_one_range,
                n_at_once_of_one_provider_hold_the_n_smallest,
                n_at_once_of_several_providers_hold_the_n_smallest,
                n_at_once_fill_the_gaps,
                hundreds_at_once_hold_the_smallest,
                the_range_is_inclusive_and_may_start_anywhere,
                the_default_range_starts_at_one,
                a_range_without_a_good_id_is_an_invalid_argument,
                another_range_of_the_same_service_is_an_invalid_argument,
                services_are_unrelated,
                bad_input_is_an_invalid_argument_before_any_request,
                what_is_no_id_is_passed_over,
                an_id_that_others_hold_is_passed_over,
                sixteen_at_once_cost_at_most_four_requests,
                the_cost_does_not_grow_with_what_is_held,
                in_random_histories_every_id_was_the_smallest_free_one => |cx| uphold(cx, Workload::Ids),
                random_sequences_answer_as_the_model_does => |cx| contract(cx, Contract::Ids),
            }
            r42 {
                when_none_is_free_it_is_exhausted_at_once,
                to_be_refused_takes_no_longer_than_to_be_served,
                no_id_is_one_past_the_end,
                exhausted_callers_leave_nothing_behind,
                a_waiting_call_gets_a_released_id,
                a_waiting_call_gets_a_dropped_id,
                a_waiting_call_gets_a_crashed_holders_id,
                a_waiting_call_times_out,
                who_waits_for_hours_is_served => handle::who_waits_for_hours_is_served::<Ids>,
                who_waits_for_hours_is_served_after_a_crash => handle::who_waits_for_hours_is_served_after_a_crash::<Ids>,
                a_freed_id_goes_to_one_contender,
                waiters_of_one_provider_share_what_is_freed,
                nobody_sleeps_while_an_id_is_free,
                no_freed_id_is_missed_with_a_broken_watch,
                no_freed_id_is_missed_between_looking_and_watching,
                a_call_dropped_at_any_await_point_leaks_no_id => handle::an_acquire_dropped_at_any_await_point_leaves_nothing::<Ids>,
                a_call_dropped_at_any_moment_leaks_no_id,
                a_waiting_call_dropped_at_any_await_point_leaks_no_id,
                a_dropped_call_that_is_applied_late_leaks_no_id => handle::a_dropped_acquire_that_is_applied_late_leaves_nothing::<Ids>,
                a_call_whose_answer_was_lost_leaks_no_id,
                random_histories_leak_no_id => |cx| uphold(cx, Workload::Ids),
                random_sequences_answer_as_the_model_does => |cx| contract(cx, Contract::Ids),
                what_is_free_is_had_however_short_the_wait,
            }
            r43 {
                no_two_live_handles_share_an_id,
                a_claim_in_doubt_grants_only_what_is_in_the_store,
                newcomers_at_once_share_no_id,
                each_grant_has_a_larger_generation,
                the_generation_is_the_keys_create_revision,
                generations_rise_across_crashes => handle::numbers_rise_across_crashes::<Ids>,
                generations_rise_across_reopening: persistent => handle::numbers_rise_across_reopening::<Ids>,
                an_id_is_held_for_as_long_as_its_client_lives => handle::is_held_for_as_long_as_its_client_lives::<Ids>,
                an_id_is_held_for_hours => handle::is_held_for_hours::<Ids>,
                hours_of_work_end_none_of_them => handle::is_held_for_hours_of_work::<Ids>,
                many_calls_left_alone_hold_up_no_other => handle::many_calls_left_alone_hold_up_no_other::<Ids>,
                a_call_left_alone_holds_up_no_other => handle::a_call_left_alone_holds_up_no_other::<Ids>,
                a_release_left_alone_holds_up_no_other => handle::a_release_left_alone_holds_up_no_other::<Ids>,
                an_id_outlives_the_runtime_that_acquired_it => handle::outlives_the_runtime_that_acquired_it::<Ids>,
                is_held_compares_the_clock_itself => handle::is_held_compares_the_clock_itself::<Ids>,
                after_a_crash_it_is_free_by_ttl_and_lag => handle::after_a_crash_it_is_free_by_ttl_and_lag::<Ids>,
                a_lost_lease_is_noticed_within_a_second => handle::a_lost_lease_is_noticed_within_a_second::<Ids>,
                a_removed_entry_is_noticed_with_the_next_renewal => handle::a_removed_entry_is_noticed_with_the_next_renewal::<Ids>,
                lost_fires_at_the_local_deadline => handle::lost_fires_at_the_local_deadline::<Ids>,
                the_deadline_counts_from_the_sending => handle::its_deadline_counts_from_the_sending::<Ids>,
                only_an_answered_renewal_prolongs_an_id => handle::only_an_answered_renewal_prolongs_it::<Ids>,
                a_renewal_answered_too_late_revives_no_id => handle::a_renewal_answered_after_its_deadline_revives_nothing::<Ids>,
                under_a_partition_the_loss_comes_before_the_next_grant => handle::under_a_partition_the_loss_comes_before_the_next_grant::<Ids>,
                every_lost_fires_when_the_id_is_gone => handle::every_lost_fires_when_it_is_gone::<Ids>,
                every_lost_fires_at_the_deadline => handle::every_lost_fires_at_its_deadline::<Ids>,
                an_id_is_believed_in_no_longer_than_was_asked_for => handle::it_is_believed_in_no_longer_than_was_asked_for::<Ids>,
                a_lost_id_is_never_held_again => handle::what_was_lost_is_never_held_again::<Ids>,
                in_random_histories_no_two_live_handles_share_an_id => |cx| uphold(cx, Workload::Ids),
                in_random_histories_across_restarts_no_two_live_handles_share_an_id: persistent => |cx| uphold_across_restarts(cx, Workload::Ids),
                random_sequences_answer_as_the_model_does => |cx| contract(cx, Contract::Ids),
            }
            r44 {
                a_released_id_is_free_at_once,
                a_released_id_returns_every_time,
                a_second_release_repeats_nothing => handle::a_second_release_repeats_nothing::<Ids>,
                a_late_release_never_frees_a_successor,
                releasing_what_was_lost_is_lease_lost => handle::releasing_what_was_lost_is_lease_lost::<Ids>,
                a_failed_release_is_unknown_and_repeated => handle::a_failed_release_is_unknown_and_repeated::<Ids>,
                a_release_applied_late_harms_no_successor => handle::a_release_applied_late_harms_no_successor::<Ids>,
                a_release_dropped_at_any_await_point_frees_the_id => handle::a_release_dropped_at_any_await_point_frees_it::<Ids>,
                one_provider_holds_several_ids,
                every_lost_fires_when_it_is_given_back => handle::every_lost_fires_when_it_is_given_back::<Ids>,
                lost_fires_on_release => handle::lost_fires_on_release::<Ids>,
                in_random_histories_only_the_holder_frees_its_id => |cx| uphold(cx, Workload::Ids),
                random_sequences_answer_as_the_model_does => |cx| contract(cx, Contract::Ids),
            }
        }
    };
}

pub(crate) const CASES: &[Case] = ids_cases!([crate::list_cases]);

/// Ids from `1..=max`, for the TTL of the case.
fn up_to(cx: &Fixture, max: u32) -> IdOptions {
    IdOptions::default().with_range(1..=max).with_ttl(cx.ttl())
}

/// Acquires an id of the service `s` from `1..=max`.
async fn acquire(cx: &Fixture, provider: &dyn Provider, max: u32) -> Result<InstanceId> {
    provider.allocator().acquire_id_with("s", up_to(cx, max)).await
}

/// Waits for one, as long as it takes.
async fn await_one(cx: &Fixture, provider: &dyn Provider, max: u32) -> Result<InstanceId> {
    provider.allocator().acquire_id_with("s", up_to(cx, max).with_wait(Wait::Forever)).await
}

/// The ids of some handles, sorted.
fn numbers<'a>(held: impl IntoIterator<Item = &'a InstanceId>) -> Vec<u32> {
    let mut ids: Vec<u32> = held.into_iter().map(InstanceId::id).collect();
    ids.sort_unstable();
    ids
}
