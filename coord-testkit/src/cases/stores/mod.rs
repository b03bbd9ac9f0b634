//! What a store promises: S1 to S6, on the bare store.

use std::sync::Arc;

use bytes::Bytes;
use coord_api::store::{Batch, Change, Entry, Op, Range, Span, Store, Txn};
use coord_api::{LeaseId, Revision};

use crate::case::Case;
use crate::view::StoreView;

mod s1;
mod s2;
mod s3;
mod s4;
mod s5;
mod s6;

/// The list of these cases, for a macro that makes something of it.
#[doc(hidden)]
#[macro_export]
macro_rules! stores_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            s1 {
                a_write_gets_a_new_greater_revision,
                one_counter_serves_all_keys_and_clients,
                a_transaction_stamps_all_its_changes_with_one_revision,
                what_changes_nothing_leaves_the_revision,
                an_equal_value_is_a_change,
                a_key_knows_its_create_and_its_mod_revision,
                a_key_knows_its_lease,
                all_clients_see_one_identity,
                random_sequences_answer_as_the_model_does => $crate::model::store,
            }
            s2 {
                a_range_is_a_key_a_directory_or_an_interval,
                a_range_comes_in_byte_order,
                a_range_comes_by_create_revision_on_demand,
                a_limit_says_whether_there_is_more,
                a_continuation_reads_on_at_the_same_revision,
                a_past_revision_reads_as_it_was,
                a_revision_that_is_yet_to_come_is_not_in_history,
                later_keys_are_left_out_on_demand,
                values_are_left_out_on_demand,
                a_range_is_one_snapshot,
                ten_thousand_keys_are_all_there,
                random_ranges_find_what_a_plain_model_finds => |cx| $crate::model::long(cx, $crate::model::Mostly::Ranges),
                a_bad_range_is_an_invalid_argument,
                a_bad_span_is_an_invalid_argument,
                random_sequences_answer_as_the_model_does => $crate::model::store,
            }
            s3 {
                each_compare_holds_when_it_should_and_only_then,
                one_compare_that_does_not_hold_decides,
                operations_run_in_order_and_a_range_sees_earlier_writes,
                a_range_inside_has_every_option,
                every_operation_is_answered,
                what_a_transaction_read_is_not_older_than_any_acknowledged_write,
                what_a_transaction_compared_is_not_older_than_any_acknowledged_write,
                increments_of_many_clients_add_up,
                of_many_creators_exactly_one_succeeds,
                random_transactions_do_what_a_plain_model_does => |cx| $crate::model::long(cx, $crate::model::Mostly::Txns),
                one_write_for_each_key,
                a_full_list_of_operations_passes_and_one_more_does_not,
                a_transaction_is_bounded_in_bytes,
                a_refused_transaction_changes_nothing,
                a_bad_transaction_is_an_invalid_argument,
                random_sequences_answer_as_the_model_does => $crate::model::store,
            }
            s4 {
                a_watch_delivers_every_change_after_where_it_is_armed,
                a_watch_from_now_is_armed_at_its_call,
                a_watch_that_is_read_late_tells_all_the_same,
                a_watch_from_the_past_delivers_exactly_what_came_after,
                the_changes_of_one_revision_are_one_batch_in_order,
                a_watch_sees_its_span_alone,
                what_changes_nothing_is_not_delivered,
                a_put_says_whether_it_created,
                progress_is_never_ahead_of_the_stream,
                a_dropped_watch_disturbs_no_other,
                a_stalled_watch_delivers_all_or_says_so,
                watches_of_random_transactions_tell_every_change => |cx| $crate::model::long(cx, $crate::model::Mostly::Watches),
                every_lost_revision_is_compacted_and_every_other_is_not,
                history_that_is_gone_is_compacted,
                a_watch_that_falls_behind_a_compaction_is_told,
                a_continuation_into_lost_history_is_compacted,
                what_was_not_compacted_is_still_there,
                random_sequences_answer_as_the_model_does => $crate::model::store,
            }
            s5 {
                a_ttl_is_rounded_up_to_whole_seconds,
                a_bad_ttl_is_an_invalid_argument,
                no_lease_is_granted_twice,
                nothing_expires_before_its_ttl,
                what_is_not_renewed_is_gone_by_ttl_and_lag,
                a_renewed_lease_stays,
                an_expiry_shows_in_watches,
                revoking_deletes_the_keys_in_one_revision,
                revoking_what_is_gone_is_ok,
                keeping_alive_what_is_gone_is_lease_lost,
                a_put_under_a_dead_lease_fails_whole,
                a_dead_lease_counts_in_the_list_that_runs_alone,
                a_put_moves_its_key_to_its_lease,
                a_lookup_tells_the_time_left_and_the_keys,
                the_keys_of_random_leases_are_what_a_plain_model_says => |cx| $crate::model::long(cx, $crate::model::Mostly::Leases),
                each_key_goes_with_its_own_lease,
                a_lease_outlives_the_crash_of_its_client,
                five_hundred_leases_expire_together,
                random_sequences_answer_as_the_model_does => $crate::model::store,
            }
            s6 {
                what_was_acknowledged_survives: persistent,
                revisions_never_go_back: persistent,
                the_store_keeps_its_identity: persistent,
                history_is_right_or_compacted: persistent,
                a_lease_resumes_and_expires: persistent,
                a_lease_resumes_and_can_be_renewed: persistent,
                no_lease_is_granted_twice_across_reopening: persistent,
            }
        }
    };
}

pub(crate) const CASES: &[Case] = stores_cases!([crate::list_cases]);

/// Writes a key.
async fn put(store: &dyn Store, key: &'static str, value: &'static str) -> Revision {
    store.txn(Txn::new().then(Op::put(key, value))).await.expect("a put").revision
}

/// Writes a key under a lease.
async fn put_leased(store: &dyn Store, key: &'static str, value: &'static str, lease: LeaseId) -> Revision {
    store.txn(Txn::new().then(Op::put_leased(key, value, lease))).await.expect("a put under a lease").revision
}

/// Deletes a key.
async fn delete(store: &dyn Store, key: &'static str) -> Revision {
    store.txn(Txn::new().then(Op::delete(key))).await.expect("a delete").revision
}

/// Reads a key.
async fn get(store: &dyn Store, key: &'static str) -> Option<Entry> {
    store.range(Range::key(key)).await.expect("a read").entries.pop()
}

/// The store's present revision.
async fn head(store: &dyn Store) -> Revision {
    store.range(Range::key("no such key")).await.expect("a read").revision
}

/// The keys that a range finds, in its order.
async fn keys(store: &dyn Store, range: Range) -> Vec<Bytes> {
    store.range(range).await.expect("a range").entries.into_iter().map(|entry| entry.key).collect()
}

/// Watches from now on.
async fn watch(store: &Arc<dyn Store>, span: Span) -> StoreView {
    StoreView::now(store, span).await.expect("a watch")
}

/// What a batch says, for short: keys with what became of them.
fn told(batch: &Batch) -> Vec<(Bytes, Option<Bytes>)> {
    let tell = |change: &Change| match change {
        Change::Put(entry) => (entry.key.clone(), Some(entry.value.clone().into_bytes())),
        Change::Delete { key } => (key.clone(), None),
    };
    batch.changes.iter().map(tell).collect()
}
