//! The config centre: R10 to R15, and R55.

use coord_api::{Error, ErrorKind, Value, Version};

use super::fenced;
use crate::case::Case;
use crate::handle::{Ids, Locks, Registrations};
use crate::histories::{Workload, uphold, uphold_across_restarts};
use crate::model::{Contract, contract};

mod r10;
mod r11;
mod r12;
mod r13;
mod r14;
mod r15;
mod r55;

/// The list of these cases, for a macro that makes something of it.
#[doc(hidden)]
#[macro_export]
macro_rules! config_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r10 {
                every_client_reads_what_was_acknowledged_to_any,
                concurrent_histories_are_linearizable,
                overlapping_requests_are_linearizable,
                histories_with_unknown_outcomes_are_linearizable,
                a_list_sees_what_was_acknowledged,
                what_cannot_be_read_is_not_answered_from_before,
                after_a_failure_nothing_is_answered_from_before,
                a_watch_that_is_behind_makes_no_read_late,
                random_histories_under_faults_are_linearizable => |cx| uphold(cx, Workload::Config),
                random_histories_across_restarts_are_linearizable: persistent => |cx| uphold_across_restarts(cx, Workload::Config),
                random_sequences_answer_as_the_model_does => |cx| contract(cx, Contract::Config),
            }
            r11 {
                versions_rise_with_every_write,
                versions_rise_across_delete_and_recreate,
                versions_rise_across_reopening: persistent,
                an_equal_value_is_a_new_version,
                a_version_is_the_revision_of_the_last_write,
                what_a_write_returns_is_what_a_read_finds,
                what_is_written_elsewhere_changes_no_version,
                a_failed_compare_and_set_leaves_no_trace,
                deleting_what_is_absent_leaves_no_trace,
                random_sequences_answer_as_the_model_does => |cx| contract(cx, Contract::Config),
                what_failed_is_in_no_history,
            }
            r12 {
                it_succeeds_iff_the_version_is_the_expected_one,
                expected_zero_creates_iff_absent,
                an_expectation_of_an_absent_key_is_a_conflict,
                a_version_from_the_future_is_a_conflict,
                a_value_that_came_back_is_another_version,
                a_conflict_carries_the_current_version,
                of_many_racers_exactly_one_wins,
                of_many_racers_for_what_was_deleted_none_wins,
                of_many_creators_exactly_one_wins,
                increments_add_up,
                random_sequences_answer_as_the_model_does => |cx| contract(cx, Contract::Config),
            }
            r13 {
                delete_says_whether_the_key_existed,
                what_was_deleted_is_absent_for_everyone,
                of_many_deleters_exactly_one_found_it,
                compare_and_delete_succeeds_iff_the_version_is_the_expected_one,
                of_many_comparing_deleters_exactly_one_wins,
                random_sequences_answer_as_the_model_does => |cx| contract(cx, Contract::Config),
            }
            r14 {
                a_prefix_is_a_directory,
                one_trailing_slash_is_legal,
                the_empty_prefix_lists_all,
                keys_come_sorted_and_relative,
                nothing_found_is_empty,
                the_empty_value_is_listed,
                a_list_is_one_snapshot,
                a_list_is_of_the_revision_that_it_says,
                what_is_listed_is_what_is_read,
                the_list_is_that_of_its_revision,
                ten_thousand_keys_are_one_snapshot,
                two_hundred_large_values_are_complete,
                a_key_that_is_not_utf_8_is_kept_apart,
                what_is_listed_every_call_takes,
                in_random_histories_a_list_is_one_snapshot => |cx| uphold(cx, Workload::Config),
                random_sequences_answer_as_the_model_does => |cx| contract(cx, Contract::Config),
            }
            r15 {
                set_then_get_gives_an_equal_value,
                strings_that_look_like_json_stay_strings,
                floats_are_exact,
                structures_and_absent_parts_come_back,
                underneath_is_json,
                the_wrong_type_is_codec_and_the_data_is_untouched,
                what_json_cannot_say_is_codec_before_any_io,
                what_is_at_the_edge_of_json_comes_back,
                a_byte_order_mark_is_skipped,
                a_list_keeps_apart_what_is_of_another_type,
                a_typed_compare_and_set_obeys_versions,
            }
            r55 {
                the_fence_of_a_lock_holds_while_it_is_held => fenced::holds_while_it_is_held::<Locks>,
                the_fence_of_an_id_holds_while_it_is_held => fenced::holds_while_it_is_held::<Ids>,
                the_fence_of_a_registration_holds_while_it_is_held => fenced::holds_while_it_is_held::<Registrations>,
                the_fence_of_a_lock_breaks_with_its_entry => fenced::breaks_with_its_entry::<Locks>,
                the_fence_of_an_id_breaks_with_its_entry => fenced::breaks_with_its_entry::<Ids>,
                the_fence_of_a_registration_breaks_with_its_entry => fenced::breaks_with_its_entry::<Registrations>,
                the_fence_of_a_lock_is_of_one_grant => fenced::is_of_one_grant::<Locks>,
                the_fence_of_an_id_is_of_one_grant => fenced::is_of_one_grant::<Ids>,
                the_fence_of_a_lock_costs_no_request => fenced::costs_no_request::<Locks>,
                the_fence_of_an_id_costs_no_request => fenced::costs_no_request::<Ids>,
                the_fence_of_a_registration_costs_no_request => fenced::costs_no_request::<Registrations>,
                the_fence_of_a_lock_breaks_what_is_on_its_way => fenced::breaks_what_is_on_its_way::<Locks>,
                the_fence_of_an_id_breaks_what_is_on_its_way => fenced::breaks_what_is_on_its_way::<Ids>,
                the_fence_of_a_registration_breaks_what_is_on_its_way => fenced::breaks_what_is_on_its_way::<Registrations>,
                the_fence_of_an_id_comes_before_a_conflict => fenced::comes_before_a_conflict::<Ids>,
                the_fence_of_a_registration_comes_before_a_conflict => fenced::comes_before_a_conflict::<Registrations>,
                a_broken_fence_comes_before_a_conflict,
                eight_handles_of_every_kind_tie_one_write,
                what_is_wrong_is_an_invalid_argument_before_any_request,
                a_fence_of_another_store_is_an_invalid_argument,
                a_fence_of_another_namespace_is_an_invalid_argument,
                which_store_it_is_costs_no_request_of_whoever_holds_something,
                a_fence_from_before_a_downgrade_fails,
                while_a_downgrade_is_in_doubt_the_guard_fences,
                a_registration_fences_under_one_owner,
                a_registration_that_healed_has_another_fence,
                what_a_crashed_client_held_fences_nothing,
            }
        }
    };
}

pub(crate) const CASES: &[Case] = config_cases!([crate::list_cases]);

/// A value, in short.
fn value(text: impl Into<String>) -> Value {
    Value::from(text.into())
}

/// The version that a conflict carries; fails on any other error.
fn conflict(error: &Error) -> Version {
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    error.current_version().expect("a conflict carries the current version")
}
