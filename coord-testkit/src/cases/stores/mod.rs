//! What a store promises: S1 to S6, on the bare store.

use std::sync::Arc;

use bytes::Bytes;
use coord_api::store::{Batch, Change, Entry, Op, Range, Span, Store, Txn};
use coord_api::{LeaseId, Revision};

use crate::case::Case;
use crate::view::StoreView;

mod chronicle;
mod cut;
mod identity;
mod lease_time;
mod long;
mod once;
mod s1;
mod s2;
mod s3;
mod s4;
mod s5;
mod s6;
mod siblings;

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
                revisions_are_below_two_to_the_63,
                a_transaction_stamps_all_its_changes_with_one_revision,
                what_changes_nothing_leaves_the_revision,
                an_equal_value_is_a_change,
                a_key_knows_its_create_and_its_mod_revision,
                a_key_knows_its_lease,
                all_clients_see_one_identity,
                nothing_takes_the_revision_back => cut::revisions,
                a_lease_without_keys_leaves_the_revision => lease_time::without_keys,
                no_two_stores_have_one_identity => identity::of_two_stores,
                who_watches_is_told_that_the_store_was_replaced => identity::of_a_replaced_store,
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
                keys_that_differ_in_a_byte_are_two => siblings::ranges,
                long_keys_that_differ_at_the_end_are_two => siblings::long_ranges,
                a_key_is_written_and_deleted_alone => siblings::alone,
                values_are_bytes => siblings::values_are_read,
                a_revision_from_long_ago_reads_as_it_was => long::reads_from_long_ago,
                a_range_of_many_keys_is_one_snapshot => long::a_large_range_is_one_snapshot,
                many_keys_come_in_every_order_and_page => long::many_keys_in_every_way,
                no_number_is_too_large => long::numbers_of_every_width,
                what_is_after_a_cut_reads_as_it_was_wherever_the_cut_is => cut::reads,
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
                compares_tell_keys_apart_that_differ_in_a_byte => siblings::compares,
                compares_tell_long_keys_apart => siblings::long_compares,
                writes_tell_keys_apart_that_differ_in_a_byte => siblings::transactions,
                values_are_bytes_inside => siblings::values_are_read_inside,
                a_transaction_runs_once => once::one_by_one,
                of_many_at_once_each_runs_once => once::many_at_once,
                no_number_in_a_transaction_is_too_large => long::numbers_of_every_width,
                equal_ones_at_once_are_not_one => once::equal_ones_at_once,
                every_answer_is_in_its_place => once::answers_are_in_their_places,
                a_range_of_many_keys_inside_is_one_snapshot => long::a_large_range_inside_is_one_snapshot,
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
                a_watch_tells_keys_apart_that_differ_in_a_byte => siblings::watches,
                values_are_told_whole => siblings::values_are_told,
                values_are_told_whole_from_the_past => siblings::values_are_told_from_the_past,
                a_watch_from_long_ago_tells_all_or_says_so => long::watches_from_long_ago,
                a_reader_who_is_far_behind_is_told_all_or_told_so => long::a_reader_far_behind,
                a_reader_who_stalls_again_and_again_misses_nothing => long::a_reader_who_stalls_again_and_again,
                large_revisions_of_the_past_come_whole => long::large_revisions_from_the_past,
                large_revisions_that_are_read_late_come_whole => long::large_revisions_that_are_read_late,
                heavy_revisions_come_whole => long::heavy_revisions,
                a_watch_after_what_is_yet_to_come_is_armed_at_the_present => long::a_watch_after_what_is_yet_to_come,
                a_watch_of_a_quiet_span_goes_on => long::a_watch_of_a_quiet_span,
                history_that_nobody_forgets_does_not_age => long::history_does_not_age,
                all_watches_of_a_client_tell_alike => long::many_watches_of_one_client,
                of_many_writes_at_once_each_is_told_once => once::many_at_once,
                a_watch_that_is_opened_while_others_write_misses_nothing => once::watches_while_others_write,
                what_is_after_a_cut_is_told_wherever_the_cut_is => cut::watches,
                a_cut_leaves_no_gap_in_any_span => cut::a_cut_leaves_no_gap_in_a_part,
                a_live_watch_goes_on_over_a_cut => cut::live_watches,
                random_sequences_answer_as_the_model_does => $crate::model::store,
            }
            s5 {
                a_ttl_is_rounded_up_to_whole_seconds,
                a_bad_ttl_is_an_invalid_argument,
                no_lease_is_granted_twice,
                a_lease_is_a_number_from_one_to_below_two_to_the_63,
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
                each_key_hangs_on_its_own_lease_alone => siblings::leases,
                wherever_in_a_second_it_was_granted_nothing_expires_early => lease_time::granted_within_a_second,
                wherever_in_a_second_it_was_renewed_nothing_expires_early => lease_time::renewed_within_a_second,
                a_renewal_at_the_last_moment_counts => lease_time::renewed_at_the_last_moment,
                no_put_outlives_the_lease_that_is_revoked_meanwhile => lease_time::puts_while_it_is_revoked,
                each_lease_has_its_own_ttl => lease_time::each_its_own_ttl,
                nothing_but_renewing_makes_a_lease_last => lease_time::only_renewals_count,
                long_leases_last => lease_time::long_ones,
                a_put_at_the_end_of_a_lease_goes_with_it_or_fails => lease_time::puts_at_the_end,
                a_lookup_is_not_older_than_any_acknowledged_write => lease_time::lookups_are_fresh,
                revoking_takes_many_keys_in_one_revision => long::a_revoked_lease_of_many_keys,
                expiring_takes_many_keys_in_one_revision => long::an_expired_lease_of_many_keys,
                leases_outlive_a_cut => cut::leases,
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
                keys_and_values_survive_byte_for_byte: persistent => siblings::across_reopening,
                what_was_cut_off_stays_so: persistent => cut::across_reopening,
                a_transaction_is_whole_after_a_kill: persistent,
                what_a_kill_cut_off_is_told_as_it_was: persistent,
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
