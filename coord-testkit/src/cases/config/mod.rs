//! The config centre: R10 to R15.

use coord_api::{Error, ErrorKind, Value, Version};

use crate::case::Case;
use crate::histories::{Workload, uphold, uphold_across_restarts};
use crate::model::{Contract, contract};

mod r10;
mod r11;
mod r12;
mod r13;
mod r14;
mod r15;

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
