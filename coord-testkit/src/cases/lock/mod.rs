//! Locks: R25 to R33, and R45 to R47.

use std::sync::Arc;

use coord_api::prelude::*;
use coord_api::{LockGuard, Provider, Result};
use tokio::task::JoinHandle;

use super::handle;
use super::leased::queue;
use crate::case::Case;
use crate::fixture::Fixture;
use crate::handle::Locks;
use crate::histories::{Workload, uphold, uphold_across_restarts};
use crate::model::{Contract, contract};
use crate::wait::eventually;

mod r25;
mod r26;
mod r27;
mod r28;
mod r29;
mod r30;
mod r31;
mod r32;
mod r33;
mod r45;
mod r46;
mod r47;

/// The list of these cases, for a macro that makes something of it.
#[doc(hidden)]
#[macro_export]
macro_rules! lock_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r25 {
                increments_under_the_lock_are_all_counted,
                no_two_guards_are_held_at_once,
                what_is_held_for_long_is_granted_to_nobody_else,
                tokens_rise_with_every_grant,
                tokens_rise_across_crashes => handle::numbers_rise_across_crashes::<Locks>,
                tokens_rise_across_closed_providers_and_compactions,
                tokens_rise_across_reopening: persistent => handle::numbers_rise_across_reopening::<Locks>,
                no_grant_before_the_holders_lease_is_over: persistent,
                in_random_histories_grants_never_overlap_and_tokens_rise => |cx| uphold(cx, Workload::Locks),
                in_random_histories_across_restarts_grants_never_overlap_and_tokens_rise: persistent => |cx| uphold_across_restarts(cx, Workload::Locks),
                random_sequences_answer_as_the_model_does => |cx| contract(cx, Contract::Locks),
            }
            r26 {
                a_second_acquire_by_the_same_provider_waits,
                a_second_try_by_the_same_provider_is_a_conflict,
                nested_names_are_unrelated,
                the_names_of_a_directory_are_held_at_once,
                names_that_look_escaped_are_unrelated,
                a_leading_slash_makes_no_other_lock,
                what_others_keep_deeper_in_the_queue_is_unrelated,
            }
            r27 {
                a_held_lock_is_a_conflict_at_once,
                a_try_costs_at_most_two_requests,
                a_failed_try_leaves_no_entry_and_disturbs_no_waiter,
                of_many_tries_exactly_one_succeeds,
                a_queue_of_waiters_is_a_conflict,
                a_free_lock_is_taken,
                a_foreign_entry_is_a_conflict,
                random_sequences_answer_as_the_model_does => |cx| contract(cx, Contract::Locks),
            }
            r28 {
                waiters_are_served_in_the_order_of_their_entries,
                each_waiter_is_served_when_its_own_entry_is_the_oldest,
                an_unlock_grants_to_the_next_waiter_alone,
                a_dropped_guard_grants_to_the_next_waiter_alone,
                a_hand_over_costs_at_most_two_requests,
                the_cost_of_a_hand_over_does_not_grow_with_the_queue,
                many_waiters_of_a_provider_share_one_watch,
                no_watch_reaches_another_lock,
                a_hand_over_inside_a_process_goes_through_the_store,
                no_wake_up_is_lost_with_a_broken_watch,
                no_wake_up_is_lost_between_joining_and_watching,
                no_wake_up_is_lost_over_a_compaction,
                a_waiter_is_served_after_the_holder_crashed,
                who_waits_for_hours_is_served => handle::who_waits_for_hours_is_served::<Locks>,
                who_waits_for_hours_is_served_after_a_crash => handle::who_waits_for_hours_is_served_after_a_crash::<Locks>,
                waiters_keep_their_places_however_long_they_wait,
                what_is_free_is_had_however_short_the_wait,
            }
            r29 {
                an_acquire_dropped_at_any_await_point_leaves_no_lock => handle::an_acquire_dropped_at_any_await_point_leaves_nothing::<Locks>,
                an_acquire_dropped_at_any_moment_leaves_no_ghost,
                a_waiter_dropped_at_any_await_point_leaves_no_ghost,
                a_waiter_dropped_as_it_is_granted_passes_the_lock_on,
                a_try_dropped_at_any_await_point_leaves_no_lock,
                a_timed_out_acquire_leaves_no_ghost,
                an_acquire_times_out_when_it_should,
                each_of_several_waiters_times_out_at_its_own_time,
                a_join_whose_answer_was_lost_leaves_no_ghost,
                a_dropped_join_that_is_applied_late_leaves_no_ghost => handle::a_dropped_acquire_that_is_applied_late_leaves_nothing::<Locks>,
                a_refused_join_leaves_no_ghost,
                a_cut_off_waiter_is_gone_by_ttl_and_lag,
                a_pending_acquire_dropped_outside_a_runtime_leaves_no_ghost,
                random_histories_leave_no_ghost => |cx| uphold(cx, Workload::Locks),
            }
            r30 {
                a_granted_entry_is_the_guards_own_and_live,
                a_waiter_whose_lease_died_is_not_granted_without_an_entry,
                a_waiter_whose_entry_was_removed_is_not_granted_without_one,
                a_waiter_removed_while_it_was_cut_off_is_not_granted_without_an_entry,
                a_guard_has_at_least_half_its_ttl_left,
                a_renewal_that_comes_too_late_grants_nothing,
                in_random_histories_every_grant_is_live => |cx| uphold(cx, Workload::Locks),
                a_guard_of_a_session_that_was_silent_has_at_least_half_its_ttl_left,
            }
            r31 {
                a_lock_is_held_for_as_long_as_its_client_lives => handle::is_held_for_as_long_as_its_client_lives::<Locks>,
                a_lock_is_held_for_hours => handle::is_held_for_hours::<Locks>,
                hours_of_work_end_none_of_them => handle::is_held_for_hours_of_work::<Locks>,
                many_calls_left_alone_hold_up_no_other => handle::many_calls_left_alone_hold_up_no_other::<Locks>,
                a_call_left_alone_holds_up_no_other => handle::a_call_left_alone_holds_up_no_other::<Locks>,
                an_unlock_left_alone_holds_up_no_other => handle::a_release_left_alone_holds_up_no_other::<Locks>,
                renewals_come_at_the_latest_every_third_of_the_ttl,
                a_waiter_is_renewed_too,
                the_smallest_ttl_is_held_as_well,
                a_lock_outlives_the_runtime_that_acquired_it => handle::outlives_the_runtime_that_acquired_it::<Locks>,
            }
            r32 {
                is_held_compares_the_clock_itself => handle::is_held_compares_the_clock_itself::<Locks>,
                lost_fires_at_the_local_deadline_while_the_store_hangs,
                lost_fires_at_the_local_deadline => handle::lost_fires_at_the_local_deadline::<Locks>,
                the_deadline_counts_from_the_sending => handle::its_deadline_counts_from_the_sending::<Locks>,
                only_an_answered_renewal_prolongs_a_lock => handle::only_an_answered_renewal_prolongs_it::<Locks>,
                a_renewal_answered_too_late_revives_no_lock => handle::a_renewal_answered_after_its_deadline_revives_nothing::<Locks>,
                every_lost_fires_when_the_lock_is_gone => handle::every_lost_fires_when_it_is_gone::<Locks>,
                every_lost_fires_at_the_deadline => handle::every_lost_fires_at_its_deadline::<Locks>,
                a_lock_is_believed_in_no_longer_than_was_asked_for => handle::it_is_believed_in_no_longer_than_was_asked_for::<Locks>,
                renewals_whose_answers_are_lost_do_not_count,
                a_lost_lease_is_noticed_within_a_second => handle::a_lost_lease_is_noticed_within_a_second::<Locks>,
                a_removed_entry_is_noticed_with_the_next_renewal => handle::a_removed_entry_is_noticed_with_the_next_renewal::<Locks>,
                a_removed_entry_is_noticed_among_many,
                one_look_a_round_serves_all_handles,
                under_a_partition_the_loss_comes_before_the_next_grant => handle::under_a_partition_the_loss_comes_before_the_next_grant::<Locks>,
                a_lost_guard_is_never_held_again => handle::what_was_lost_is_never_held_again::<Locks>,
                a_short_cut_loses_nothing,
                after_random_histories_what_says_it_is_held_is_there => |cx| uphold(cx, Workload::Mixed),
            }
            r33 {
                after_unlock_the_next_try_succeeds,
                a_second_unlock_repeats_nothing => handle::a_second_release_repeats_nothing::<Locks>,
                an_old_guard_never_frees_its_successor,
                unlocking_what_was_lost_is_lease_lost => handle::releasing_what_was_lost_is_lease_lost::<Locks>,
                unlocking_what_was_removed_is_lease_lost,
                a_failed_unlock_is_unknown_and_repeated => handle::a_failed_release_is_unknown_and_repeated::<Locks>,
                a_guard_whose_unlock_hangs_is_not_held,
                a_guard_that_outlives_its_provider_value_is_unlocked,
                an_unlock_whose_answer_was_lost_harms_no_successor,
                an_unlock_applied_late_harms_no_successor => handle::a_release_applied_late_harms_no_successor::<Locks>,
                an_unlock_dropped_at_any_await_point_frees_the_lock => handle::a_release_dropped_at_any_await_point_frees_it::<Locks>,
                every_lost_fires_when_it_is_given_back => handle::every_lost_fires_when_it_is_given_back::<Locks>,
                lost_fires_on_unlock => handle::lost_fires_on_release::<Locks>,
                ttl_is_the_time_left,
                ttl_runs_down_where_nothing_is_renewed,
                ttl_counts_from_when_the_last_renewal_was_sent => handle::it_is_believed_in_no_longer_than_was_asked_for::<Locks>,
                key_is_the_callers_key,
                in_random_histories_only_the_holder_removes_its_grant => |cx| uphold(cx, Workload::Locks),
                random_sequences_answer_as_the_model_does => |cx| contract(cx, Contract::Locks),
            }
            r45 {
                readers_hold_at_once,
                a_writer_waits_for_every_reader,
                a_reader_does_not_overtake_a_writer_that_waits,
                all_readers_up_to_the_next_writer_are_granted_by_one_change,
                readers_never_see_half_of_what_a_writer_does,
                a_shared_try_is_a_conflict_iff_an_exclusive_one_stands,
                a_crashed_reader_lets_the_writer_in,
                a_reader_that_goes_away_leaves_no_ghost,
                sharing_costs_one_request_and_giving_back_another,
                another_programs_mutex_keeps_readers_out,
                what_others_keep_deeper_in_the_queue_keeps_no_reader_out,
                in_random_histories_readers_share_and_a_writer_does_not => |cx| uphold(cx, Workload::SharedLocks),
                in_random_histories_across_restarts_readers_share_and_a_writer_does_not: persistent => |cx| uphold_across_restarts(cx, Workload::SharedLocks),
            }
            r46 {
                readers_come_in_and_no_writer,
                readers_that_wait_are_let_in,
                a_writer_that_waits_is_not_let_in,
                key_place_and_token_stay,
                a_shared_guard_stays_as_it_is,
                in_doubt_it_counts_as_shared_and_can_be_repeated,
                dropped_at_any_await_point_it_can_be_repeated,
                a_lost_guard_is_not_downgraded,
                applied_late_it_harms_no_successor,
                in_random_histories_a_downgrade_lets_in_no_writer => |cx| uphold(cx, Workload::SharedLocks),
            }
            r47 {
                a_token_is_the_place_of_its_entry,
                a_resource_refuses_nobody_who_holds_and_everyone_who_is_late,
            }
        }
    };
}

pub(crate) const CASES: &[Case] = lock_cases!([crate::list_cases]);

type Waiter = JoinHandle<Result<LockGuard>>;

/// Acquires a lock in a task of its own.
fn acquire(cx: &Fixture, provider: &Arc<dyn Provider>, key: &'static str) -> Waiter {
    let (lock, ttl) = (Arc::clone(provider.lock()), cx.ttl());
    tokio::spawn(async move { lock.acquire(key, ttl).await })
}

/// Acquires a lock that is held, in a task of its own, and waits until it stands in the queue.
async fn stand_in_line(cx: &Fixture, provider: &Arc<dyn Provider>, key: &'static str) -> Waiter {
    let store = cx.store().await;
    let before = queue(&*store, key).await;
    let waiter = acquire(cx, provider, key);
    eventually(cx.soon(), "the waiter stands in the queue", || async {
        let stands = queue(&*store, key).await.iter().any(|entry| !before.contains(entry));
        stands.then_some(())
    })
    .await;
    waiter
}
