//! Registration and discovery: R34 to R38.

use std::time::Duration;

use coord_api::{Provider, RegisterOptions, Registration, ServiceInstance, Takeover};

use super::handle;
use super::leased::{BACKOFF_CAP, ONE_SECOND};
use crate::case::Case;
use crate::fixture::Fixture;
use crate::handle::Registrations;
use crate::histories::{Workload, uphold, uphold_across_restarts};
use crate::model::{Contract, contract};
use crate::wait::eventually;

mod r34;
mod r35;
mod r36;
mod r37;
mod r38;

/// The list of these cases, for a macro that makes something of it.
#[doc(hidden)]
#[macro_export]
macro_rules! registry_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r34 {
                what_is_registered_is_discovered_by_every_client,
                the_same_owner_again_replaces_in_place,
                the_same_owner_again_with_another_ttl_moves_the_entry,
                an_update_replaces_in_place,
                an_update_replaces_every_field,
                an_update_leaves_the_entry_on_its_lease,
                a_name_in_the_metadata_is_kept_as_it_is,
                a_conflict_says_where_the_other_one_is_reached,
                a_takeover_of_a_crashed_owner_outlives_its_lease,
                registering_many_times_at_once_leaves_one,
                a_dropped_handle_of_a_replaced_registration_removes_nothing,
                a_live_foreign_owner_is_taken_over,
                a_superseded_owner_never_fights_back,
                an_owner_superseded_after_a_failed_register_never_fights_back,
                an_owner_superseded_after_an_abandoned_register_never_fights_back,
                an_owner_superseded_while_it_updates_never_fights_back,
                a_takeover_has_a_greater_fencing_number,
                a_takeover_by_an_owner_that_was_superseded_unseen_has_a_greater_number,
                a_restarted_process_takes_its_own_id_back,
                an_exclusive_registration_of_a_live_foreign_id_is_a_conflict,
                an_exclusive_registration_of_ones_own_id_replaces,
                an_exclusive_registration_of_what_is_gone_succeeds,
                of_many_exclusive_registrations_one_succeeds,
                ids_are_unique_per_service_only,
                what_is_registered_together_is_found_together,
                together_replaces_and_takes_over_as_one_by_one,
                together_all_are_registered_or_none,
                together_with_bad_input_none_is_registered,
                together_as_ordered_and_as_asked_for,
                an_update_by_one_who_has_not_heard_of_the_takeover_writes_nothing,
                a_register_by_one_who_has_not_heard_of_the_takeover_is_a_takeover,
                a_register_that_hangs_holds_up_no_other,
                a_register_of_many_dropped_at_any_await_point_leaves_nothing,
                bad_input_is_an_invalid_argument_before_any_request,
                an_address_of_nobody_is_an_invalid_argument_before_any_request,
                addresses_of_all_kinds_are_registered,
                a_bad_update_changes_nothing,
                a_record_over_one_mebibyte_is_an_invalid_argument,
                a_registration_whose_answer_was_lost_is_there_or_gone,
                a_register_dropped_at_any_await_point_leaves_nothing,
                a_register_dropped_at_any_moment_leaves_nothing,
                a_dropped_register_that_is_applied_late_leaves_nothing,
                a_failed_register_leaves_what_was_registered_before,
                a_failed_register_with_another_ttl_leaves_what_was_registered_before,
                in_random_histories_no_superseded_owner_comes_back => |cx| uphold(cx, Workload::Registry),
                random_sequences_answer_as_the_model_does => |cx| contract(cx, Contract::Registry),
            }
            r35 {
                an_unknown_service_has_no_instances,
                instances_are_sorted_by_id,
                a_service_is_found_by_its_exact_name,
                what_does_not_decode_is_skipped_and_counted,
                an_address_of_nobody_is_skipped_and_counted_and_harms_no_other,
                records_of_other_programs_are_found,
                a_good_record_one_level_down_is_of_no_instance,
                nor_is_one_deeper_or_of_a_service_whose_name_begins_so,
                what_cannot_be_read_is_not_answered_from_before,
                after_a_failure_nothing_is_answered_from_before,
                a_watch_that_is_behind_makes_no_discovery_late,
                ones_own_instances_are_found_where_they_are_in_the_store,
                what_one_registered_is_not_found_once_it_is_gone,
                a_snapshot_is_of_the_revision_that_it_says,
                the_set_is_that_of_its_revision,
                what_one_registers_is_found_before_the_watch_tells_of_it,
                thousands_of_instances_are_all_found,
                it_is_one_snapshot,
                a_bad_name_is_an_invalid_argument_before_any_request,
                in_random_histories_a_discovery_is_one_snapshot => |cx| uphold(cx, Workload::Registry),
                random_sequences_answer_as_the_model_does => |cx| contract(cx, Contract::Registry),
            }
            r36 {
                a_registration_is_there_for_as_long_as_its_owner_lives,
                a_registration_outlives_the_runtime_that_registered_it => handle::outlives_the_runtime_that_acquired_it::<Registrations>,
                a_registration_is_there_for_hours => handle::is_held_for_hours::<Registrations>,
                hours_of_work_end_none_of_them => handle::is_held_for_hours_of_work::<Registrations>,
                many_calls_left_alone_hold_up_no_other => handle::many_calls_left_alone_hold_up_no_other::<Registrations>,
                a_call_left_alone_holds_up_no_other => handle::a_call_left_alone_holds_up_no_other::<Registrations>,
                an_unregister_left_alone_holds_up_no_other => handle::a_release_left_alone_holds_up_no_other::<Registrations>,
                after_a_crash_it_is_gone_by_ttl_and_lag,
                a_crash_takes_along_what_the_owner_registered_and_nothing_else,
                the_ttl_is_rounded_up,
                after_random_histories_no_crashed_owner_is_registered => |cx| uphold(cx, Workload::Registry),
            }
            r37 {
                after_a_revocation_it_comes_back_on_a_live_lease,
                after_a_foreign_deletion_it_comes_back,
                it_comes_back_every_time,
                it_comes_back_with_its_latest_content,
                many_come_back_together,
                it_comes_back_with_every_field,
                after_an_outage_it_comes_back,
                after_an_outage_of_many_ttls_it_comes_back,
                an_update_that_failed_is_carried_out_by_healing,
                its_state_shows_the_loss_and_lost_does_not_fire,
                its_state_shows_the_loss_for_as_long_as_it_cannot_be_healed,
                the_deadline_counts_from_the_sending => handle::its_deadline_counts_from_the_sending::<Registrations>,
                a_registration_is_believed_in_no_longer_than_was_asked_for => handle::it_is_believed_in_no_longer_than_was_asked_for::<Registrations>,
                only_an_answered_renewal_prolongs_a_registration => handle::only_an_answered_renewal_prolongs_it::<Registrations>,
                a_heal_whose_answer_was_lost_is_no_foreign_owner,
                a_healer_that_finds_a_live_foreign_owner_ends_as_superseded,
                an_owner_that_was_cut_off_does_not_take_the_id_back,
                a_foreign_record_in_its_place_supersedes_it,
                after_random_histories_everyone_live_is_registered => |cx| uphold(cx, Workload::Registry),
                after_random_histories_across_restarts_everyone_live_is_registered: persistent => |cx| uphold_across_restarts(cx, Workload::Registry),
            }
            r38 {
                after_unregister_it_is_gone_for_good,
                unregister_is_idempotent_and_harms_no_successor,
                unregister_after_a_takeover_is_ok_and_removes_nothing,
                who_has_not_heard_of_the_takeover_removes_nothing,
                unregister_while_healing_wins,
                unregister_while_cut_off_is_unknown_and_pending,
                a_failed_unregister_asks_the_store_again,
                an_unregister_whose_answer_was_lost_does_not_bring_it_back,
                an_update_applied_late_does_not_bring_it_back,
                a_failed_register_applied_late_does_not_bring_it_back_after_another,
                a_heal_applied_late_does_not_bring_it_back,
                a_late_write_of_a_lost_lease_does_not_bring_it_back,
                a_heal_applied_late_after_a_move_does_not_bring_it_back,
                unregister_is_not_ok_while_its_lost_lease_keeps_the_entry,
                an_unregister_dropped_at_any_await_point_wins_too,
                a_second_unregister_repeats_nothing => handle::a_second_release_repeats_nothing::<Registrations>,
                an_unregister_applied_late_harms_no_successor => handle::a_release_applied_late_harms_no_successor::<Registrations>,
                every_lost_fires_when_it_is_given_back => handle::every_lost_fires_when_it_is_given_back::<Registrations>,
                lost_fires_on_unregister => handle::lost_fires_on_release::<Registrations>,
                in_random_histories_nothing_unregistered_reappears => |cx| uphold(cx, Workload::Registry),
                random_sequences_answer_as_the_model_does => |cx| contract(cx, Contract::Registry),
            }
        }
    };
}

pub(crate) const CASES: &[Case] = registry_cases!([crate::list_cases]);

/// An instance of the service `s`.
fn instance(id: impl Into<String>) -> ServiceInstance {
    ServiceInstance::new("s", id, "localhost", 80)
}

/// The same, told apart by a piece of metadata and by its port.
fn version(id: impl Into<String>, version: impl Into<String>) -> ServiceInstance {
    let version = version.into();
    let mut instance = instance(id);
    instance.port = version.bytes().fold(1_000, |port, byte| port + u16::from(byte));
    instance.with_metadata("version", version)
}

/// Registers for the TTL of the case.
async fn register(
    cx: &Fixture,
    provider: &dyn Provider,
    instance: ServiceInstance,
) -> coord_api::Result<Registration> {
    provider.registry().register_with(instance, RegisterOptions::default().with_ttl(cx.ttl())).await
}

/// Registers all of them for the TTL of the case.
async fn register_all(
    cx: &Fixture,
    provider: &dyn Provider,
    instances: Vec<ServiceInstance>,
) -> coord_api::Result<Vec<Registration>> {
    provider.registry().register_all(instances, RegisterOptions::default().with_ttl(cx.ttl())).await
}

/// Registers unless a live foreign owner holds the id.
async fn register_exclusively(
    cx: &Fixture,
    provider: &dyn Provider,
    instance: ServiceInstance,
) -> coord_api::Result<Registration> {
    let options = RegisterOptions::default().with_ttl(cx.ttl()).with_takeover(Takeover::Exclusive);
    provider.registry().register_with(instance, options).await
}

/// Who is found in the service `s`.
async fn found(provider: &dyn Provider) -> Vec<ServiceInstance> {
    provider.registry().discover("s").await.unwrap().items
}

/// Waits until exactly these are found.
async fn eventually_found(
    limit: Duration,
    provider: &dyn Provider,
    what: &str,
    expected: &[ServiceInstance],
) {
    eventually(limit, what, || async { (found(provider).await == expected).then_some(()) }).await;
}

/// How long a registration may take to come back once the store is reachable (R37).
fn healed_within(cx: &Fixture) -> Duration {
    BACKOFF_CAP + ONE_SECOND + cx.slack()
}
