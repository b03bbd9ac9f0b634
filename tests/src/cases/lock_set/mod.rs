//! Several locks at once: R33a. It is a type of coord-recipes over any locks, nothing that a
//! backend provides.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a case fails by panicking"
)]

use coord_testkit::Case;

use super::primitives;

mod r33a;

/// Hands the list of these cases to a macro, as [`coord_testkit::list_cases!`] says.
#[macro_export]
macro_rules! lock_set_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r33a {
                all_are_held_and_given_back_as_one,
                where_one_cannot_be_had_none_is_held,
                a_time_to_wait_is_for_all_of_them,
                they_are_acquired_one_after_the_other_in_byte_order,
                those_who_want_them_in_any_order_never_wait_in_a_circle,
                one_that_is_lost_ends_them_all,
                one_that_is_lost_while_others_are_waited_for_is_told,
                a_token_is_greater_than_those_of_all_who_held_one_before,
                readers_share_all_of_them,
                their_fence_holds_while_all_are_held,
                dropped_at_any_await_point_it_leaves_nothing,
                what_is_wrong_is_an_invalid_argument_before_any_request,
            }
        }
    };
}

/// The cases of R33a.
pub const CASES: &[Case] = lock_set_cases!([coord_testkit::list_cases]);
