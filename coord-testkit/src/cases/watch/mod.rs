//! Watches: R16 to R22, and R39 for services.

use std::sync::Arc;

use coord_api::prelude::*;
use coord_api::store::{Op, Store, Txn};
use coord_api::{Provider, Revision, Value};

use crate::case::Case;
use crate::fixture::Fixture;
use crate::histories::{Workload, uphold, uphold_across_restarts};
use crate::layout;
use crate::view::Change;

mod r16;
mod r17;
mod r18;
mod r19;
mod r20;
mod r21;
mod r22;
mod r39;

/// The list of these cases, for a macro that makes something of it.
#[doc(hidden)]
#[macro_export]
macro_rules! watch_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r16 {
                no_change_is_missed_right_after_watch_returned,
                a_missing_key_can_be_watched,
                a_key_with_a_trailing_slash_is_its_directory,
                a_key_is_watched_alone,
                a_directory_is_watched_without_its_neighbours,
                the_empty_prefix_watches_all,
                later_watchers_are_as_good_as_the_first,
            }
            r17 {
                a_snapshot_comes_first,
                a_snapshot_and_what_comes_after_leave_no_gap,
                a_snapshot_of_a_key_and_what_comes_after_leave_no_gap,
                after_a_revision_comes_exactly_what_followed,
                a_list_and_a_watch_after_it_leave_no_gap,
            }
            r18 {
                changes_come_once_and_in_order,
                two_quick_puts_are_two_changes,
                the_changes_of_one_revision_come_together,
                all_watchers_see_the_same,
                broken_watches_lose_and_double_nothing,
                a_cut_link_loses_and_doubles_nothing,
                a_hanging_link_loses_and_doubles_nothing,
                in_random_histories_changes_come_once_and_in_order => |cx| uphold(cx, Workload::Config),
                in_random_histories_across_restarts_changes_come_once_and_in_order: persistent => |cx| uphold_across_restarts(cx, Workload::Config),
            }
            r19 {
                history_lost_while_cut_off_is_a_resync,
                a_deletion_at_the_compacted_revision_is_not_missed,
                a_watch_from_lost_history_starts_with_a_resync,
                a_watch_from_before_reopening_misses_nothing: persistent,
                a_resync_of_nothing_says_that_all_is_gone,
                in_random_histories_the_state_told_is_the_state_there => |cx| uphold(cx, Workload::Config),
            }
            r20 {
                closing_ends_it_with_closed,
                it_outlives_a_long_outage,
                it_outlives_hours_in_which_nothing_happens,
                it_outlives_hours_of_what_is_not_its_business,
                it_outlives_hours_in_which_nobody_reads_it,
                its_state_says_how_it_is_doing,
                a_permanent_error_is_the_last_item,
                a_refused_watch_says_so_at_once,
                closing_ends_every_kind_of_watch,
                it_outlives_the_provider_value_that_opened_it,
                it_outlives_the_runtime_that_opened_it,
                in_random_histories_no_watch_ends_or_stalls => |cx| uphold(cx, Workload::Config),
            }
            r21 {
                a_put_tells_key_value_version_and_whether_it_created,
                a_deletion_tells_key_and_version,
                an_expired_key_shows_as_a_deletion,
                a_value_of_a_key_is_told_byte_by_byte,
                a_value_in_a_directory_is_told_byte_by_byte,
                every_change_of_a_revision_tells_its_content,
                what_is_not_utf_8_is_apart_in_a_snapshot_and_a_stream,
                what_does_not_decode_comes_with_its_bytes_and_the_stream_goes_on,
                a_key_that_is_not_utf_8_harms_no_other,
                a_deletion_names_no_key_but_the_one_that_was_deleted,
                what_no_call_takes_is_apart_in_a_snapshot_and_a_stream,
                in_random_histories_what_is_told_was_done => |cx| uphold(cx, Workload::Config),
            }
            r22 {
                a_stalled_watcher_delays_neither_writers_nor_watchers,
                what_a_stalled_watcher_cannot_hold_becomes_a_resync,
                a_watch_left_alone_after_a_poll_holds_up_no_other,
                a_watch_whose_opening_is_left_alone_holds_up_no_other,
                watches_left_alone_among_their_events_hold_up_no_other,
                many_openings_left_alone_hold_up_no_other,
                a_stalled_watch_of_the_store_delays_nobody,
                a_thousand_dropped_watchers_leave_nothing,
                watchers_dropped_at_any_moment_leave_nothing,
                what_a_store_holds_for_a_stalled_watch_is_bounded,
                what_a_store_holds_for_a_watch_of_the_past_is_bounded,
                what_a_provider_holds_for_a_stalled_watcher_is_bounded,
            }
            r39 {
                it_starts_with_the_full_set,
                it_starts_with_an_empty_set_too,
                instances_are_added_updated_and_removed,
                a_crashed_instance_is_removed_with_its_content,
                a_removal_does_not_need_history,
                a_bad_record_takes_the_place_of_an_instance,
                a_service_is_watched_without_its_neighbours,
                its_state_says_how_it_is_doing,
                an_update_tells_every_field,
                a_good_record_one_level_down_is_not_told,
                it_outlives_a_long_outage,
                it_outlives_hours_in_which_nothing_happens,
                it_outlives_hours_of_what_is_not_its_business,
                broken_watches_lose_and_double_nothing,
                history_lost_while_cut_off_is_a_resync,
                closing_ends_it_with_closed,
                in_random_histories_a_service_is_told_as_it_was => |cx| uphold(cx, Workload::Registry),
            }
        }
    };
}

pub(crate) const CASES: &[Case] = watch_cases!([crate::list_cases]);

/// A writer who keeps a log of the changes that he made.
struct Writer {
    provider: Arc<dyn Provider>,
    store: Arc<dyn Store>,
    log: Vec<Change>,
}

impl Writer {
    async fn new(cx: &Fixture) -> Self {
        let client = cx.client().await;
        Writer { provider: client.provider, store: client.store, log: Vec::new() }
    }

    async fn put(&mut self, key: &str, text: impl Into<String>) -> Revision {
        let value = Value::from(text.into());
        let version = self.provider.config().set_raw(key, value.clone()).await.unwrap();
        self.log.push((key.to_owned(), version, Some(value)));
        version
    }

    async fn delete(&mut self, key: &str) -> Revision {
        // A deletion does not tell its revision; the store does.
        self.all(&[(key, None)]).await
    }

    /// Several changes at one revision, put or deleted.
    async fn all(&mut self, changes: &[(&str, Option<&str>)]) -> Revision {
        let txn = changes.iter().fold(Txn::new(), |txn, (key, text)| {
            let key = layout::config(key);
            txn.then(match text {
                Some(text) => Op::put(key, (*text).to_owned()),
                None => Op::delete(key),
            })
        });
        let revision = self.store.txn(txn).await.unwrap().revision;
        let values = changes
            .iter()
            .map(|(key, text)| ((*key).to_owned(), revision, text.map(|text| Value::from(text.to_owned()))));
        self.log.extend(values);
        revision
    }

    /// The changes under a directory.
    fn log_of(&self, directory: &str) -> Vec<Change> {
        self.log.iter().filter(|(key, _, _)| key.starts_with(directory)).cloned().collect()
    }
}
