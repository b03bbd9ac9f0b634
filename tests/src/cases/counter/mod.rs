//! Counters: R78. They are types of coord-recipes over any store, nothing that a backend provides.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a case fails by panicking"
)]

use std::time::Duration;

use coord_recipes::Counter;
use coord_testkit::{Case, Fixture};

use super::primitives::{self, Primitives};

mod r78;

/// Hands the list of these cases to a macro, as [`coord_testkit::list_cases!`] says.
#[macro_export]
macro_rules! counter_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r78 {
                what_nobody_added_to_is_zero,
                each_addition_counts_once_and_has_its_value,
                those_who_wait_at_the_same_time_share_a_write,
                a_repeat_with_its_token_gets_the_recorded_value,
                another_amount_under_a_token_is_an_invalid_argument,
                tokens_at_once_count_once,
                a_token_is_kept_for_the_retention,
                a_retention_lease_that_is_gone_is_replaced,
                an_addition_in_doubt_is_unknown_and_a_repeat_with_its_token_counts_once,
                a_late_addition_is_not_counted_twice,
                what_does_not_fit_is_exhausted_and_changes_nothing,
                what_is_wrong_is_an_invalid_argument_before_any_request,
                what_others_left_is_codec,
                one_that_is_left_alone_holds_up_no_other,
                names_that_nest_are_unrelated,
            }
        }
    };
}

/// The cases of R78.
pub const CASES: &[Case] = counter_cases!([coord_testkit::list_cases]);

const COUNTER: &str = "/counters/c";
const TOKENS: &str = "/counter-tokens/c/";

/// How long a token is kept, where any time would do.
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// The counter `c` of a further client.
async fn counter(cx: &Fixture) -> Counter {
    Primitives::of(&cx.client().await).counter("c")
}
