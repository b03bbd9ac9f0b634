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
                thousands_of_instances_are_all_found,
                it_is_one_snapshot,
                a_bad_name_is_an_invalid_argument_before_any_request,
                in_random_histories_a_discovery_is_one_snapshot => |cx| uphold(cx, Workload::Registry),
                random_sequences_answer_as_the_model_does => |cx| contract(cx, Contract::Registry),
            }
            r36 {
                a_registration_is_there_for_as_long_as_its_owner_lives,
                a_registration_outlives_the_runtime_that_registered_it => handle::outlives_the_runtime_that_acquired_it::<Registrations>,
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
                after_an_outage_it_comes_back,
                after_an_outage_of_many_ttls_it_comes_back,
                an_update_that_failed_is_carried_out_by_healing,
                its_state_shows_the_loss_and_lost_does_not_fire,
                its_state_shows_the_loss_for_as_long_as_it_cannot_be_healed,
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
                unregister_while_healing_wins,
                unregister_while_cut_off_is_unknown_and_a_debt,
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

/// The same, told apart by a piece of metadata.
fn version(id: impl Into<String>, version: impl Into<String>) -> ServiceInstance {
    instance(id).with_metadata("version", version)
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
