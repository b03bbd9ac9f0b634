//! The config manager, and directories of documents: R23, R24 and R67. They are types of
//! coord-recipes over any config centre, nothing that a backend provides, and the kit does not know
//! coord-recipes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a case fails by panicking")]

use std::sync::{Arc, Mutex};

use coord_api::Provider;
use coord_recipes::config_manager::{ConfigManager, ConfigManagerBuilder};
use coord_testkit::Case;
use serde::{Deserialize, Serialize};

mod r23;
mod r24;
mod r67;

/// Hands the list of these cases to a macro, as [`coord_testkit::list_cases!`] says.
#[macro_export]
macro_rules! manager_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r23 {
                current_is_the_default_until_a_value_is_loaded,
                current_neither_blocks_nor_fails_out_of_reach,
                an_invalid_value_keeps_the_old_one_and_is_visible,
                it_decodes_validates_calls_back_and_then_swaps,
                the_callback_runs_for_a_changed_value_alone,
                another_spelling_of_a_value_is_no_change,
                the_callback_may_call_current,
                the_callback_never_runs_twice_at_once,
                the_callback_never_runs_after_stop_returned,
                a_panic_of_the_users_is_a_failure_like_any,
                a_value_whose_drop_panics_is_replaced_and_that_is_visible,
                the_change_callback_sees_the_new_value_and_refuses_none,
                it_shows_no_value,
            }
            r24 {
                no_change_is_missed_between_load_and_watch,
                changes_are_followed,
                changes_can_be_waited_for,
                a_resync_reloads,
                a_deleted_key_keeps_the_last_value,
                a_deleted_key_returns_to_the_default_by_policy,
                a_deletion_while_cut_off_is_noticed,
                start_and_stop_are_idempotent,
                it_can_be_started_again,
                it_outlives_a_long_outage,
                a_dropped_manager_leaves_no_task,
                its_key_is_environment_service_and_component,
                a_value_that_was_stored_is_loaded_after_reopening: persistent,
            }
            r67 {
                each_document_of_the_directory_is_followed,
                one_bad_document_disturbs_no_other,
                a_refused_document_keeps_its_old_value_and_is_visible,
                a_name_without_a_document_has_the_default,
                ones_own_write_is_seen_after_waiting_for_it,
                waiting_ends_with_the_directory,
                a_resync_reloads_all_of_it,
                a_deleted_document_is_gone_or_stays_by_policy,
                callbacks_are_told_the_name,
                a_panic_for_one_document_disturbs_no_other,
                keys_that_no_call_takes_are_visible,
                a_thousand_documents_are_one_watch_and_reads_are_none,
                a_reader_waits_for_one_document,
                its_name_is_checked_and_it_shows_no_value,
            }
        }
    };
}

/// The cases of R23, R24 and R67.
pub const CASES: &[Case] = manager_cases!([coord_testkit::list_cases]);

/// What is managed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Limits {
    per_second: u32,
}

/// Where the managed value stands in the config centre.
const KEY: &str = "dev/gateway/limits";

fn limits(per_second: u32) -> Limits {
    Limits { per_second }
}

/// A builder for the usual manager, whose default is 1.
fn builder(provider: &Arc<dyn Provider>) -> ConfigManagerBuilder<Limits> {
    ConfigManager::builder(Arc::clone(provider.config()), "gateway", "limits")
        .env("dev")
        .default_value(limits(1))
}

/// Notes what happened, in order.
#[derive(Clone, Debug, Default)]
struct Notes {
    notes: Arc<Mutex<Vec<String>>>,
}

impl Notes {
    fn note(&self, note: impl Into<String>) {
        self.notes.lock().unwrap().push(note.into());
    }

    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().unwrap())
    }
}

/// Waits until a manager uses a value.
async fn uses(cx: &coord_testkit::Fixture, manager: &ConfigManager<Limits>, per_second: u32) {
    let what = format!("{per_second} is in use");
    coord_testkit::wait::eventually(cx.soon() * 3, &what, async || {
        (manager.current().per_second == per_second).then_some(())
    })
    .await;
}
