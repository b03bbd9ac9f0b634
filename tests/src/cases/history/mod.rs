//! What was published: R71 and R72. `History` is a type of coord-recipes over any store, nothing
//! that a backend provides; what it reads, any config centre has written.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a case fails by panicking"
)]

use std::sync::Arc;

use coord_api::{Note, Provider, Result, Value, Version, WriteOptions};
use coord_recipes::{History, KeyHistory};
use coord_testkit::{Case, Fixture};

use super::primitives::{self, Primitives};

mod r71;
mod r72;

/// Hands the list of these cases to a macro, as [`coord_testkit::list_cases!`] says.
#[macro_export]
macro_rules! history_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r71 {
                a_record_has_the_revision_of_its_value,
                it_names_the_version_that_it_replaced,
                a_plain_write_or_delete_shows_as_a_gap,
                of_many_publishers_each_replaces_another_one,
                what_is_refused_leaves_no_record,
                twenty_to_29_are_kept,
                it_outlives_a_compaction,
                it_outlives_reopening: persistent,
                what_is_too_large_is_an_invalid_argument_before_any_request,
                a_publication_is_one_request_and_trimming_one_in_ten,
                one_in_doubt_is_not_sent_again,
                what_others_left_there_is_kept_apart,
                names_that_nest_are_unrelated,
            }
            r72 {
                a_rollback_is_a_new_version_byte_for_byte,
                it_is_a_compare_and_set,
                a_version_without_a_record_is_an_invalid_argument,
                what_was_deleted_comes_back,
                of_many_rollbacks_exactly_one_wins,
                the_differences_of_two_versions_are_told,
            }
        }
    };
}

/// The cases of R71 and R72.
pub const CASES: &[Case] = history_cases!([coord_testkit::list_cases]);

const KEY: &str = "app/limits";

/// Where the records of the key lie.
const RECORDS: &str = "/config-history/app%2Flimits/";

/// A config centre, and what was published in it.
struct Centre {
    provider: Arc<dyn Provider>,
    history: History,
}

impl Centre {
    fn of(client: &coord_testkit::Client) -> Self {
        let primitives = Primitives::of(client);
        Centre { history: primitives.history(), provider: primitives.provider }
    }

    async fn new(cx: &Fixture) -> Self {
        Centre::of(&cx.client().await)
    }

    async fn publish(&self, value: &str, note: &str) -> Result<Version> {
        let options = WriteOptions::default().with_note(Note::new("ann", note));
        self.provider.config().write_with(KEY, Value::from(value.to_owned()), options).await
    }

    async fn read(&self) -> KeyHistory {
        self.history.of(KEY).await.unwrap()
    }
}

/// The versions of a history.
fn versions(history: &KeyHistory) -> Vec<Version> {
    history.published.iter().map(|published| published.version).collect()
}

/// Which of a history follow a gap.
fn gaps(history: &KeyHistory) -> Vec<bool> {
    history.published.iter().map(|published| published.after_gap).collect()
}
