//! Looking into a store: R84 to R86. It is a module of coord-recipes over any store, nothing that
//! a backend provides.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a case fails by panicking"
)]

use coord_testkit::Case;

use super::primitives;

mod r84;
mod r85;
mod r86;

/// Hands the list of these cases to a macro, as [`coord_testkit::list_cases!`] says.
#[macro_export]
macro_rules! inspect_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r84 {
                what_was_lost_is_written_down_with_its_reason,
                what_is_lost_in_an_outage_is_written_down_when_the_store_is_back,
                a_write_whose_answer_is_lost_tells_it_once,
                what_was_given_back_is_no_loss,
                by_option_nothing_is_written,
            }
            r85 {
                who_holds_and_who_waits_is_told_in_order,
                readers_and_writers_are_told_apart,
                permits_and_candidates_are_told,
                entries_of_others_are_told_as_far_as_they_say,
                instances_and_ids_are_told_with_their_owners,
                what_hangs_on_a_session_is_told_and_ends_with_it,
                looking_writes_nothing,
                who_holds_is_ended_by_token_and_hears_of_it,
                a_token_that_is_over_ends_nobody,
                one_who_waits_is_ended_and_the_others_stay,
            }
            r86 {
                what_a_manager_has_in_use_is_told_and_follows_it,
                it_is_taken_back_when_it_is_dropped,
                what_was_lost_is_told_anew,
                a_write_whose_answer_is_lost_tells_it_once,
                what_others_left_there_is_passed_over,
            }
        }
    };
}

/// The cases of R84 to R86.
pub const CASES: &[Case] = inspect_cases!([coord_testkit::list_cases]);
