//! Elections: R51 to R54, and work under a handle, R76. They are types of coord-recipes over any
//! store, nothing that a backend provides.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a case fails by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use coord_api::handle::Leased;
use coord_api::{ErrorKind, Provider, Result, Wait};
use coord_recipes::{CampaignOptions, Election, Leadership};
use coord_testkit::handle::Kind;
use coord_testkit::{Case, Client, Fixture};

use super::primitives::{self, Primitives};

mod r51;
mod r52;
mod r53;
mod r54;
mod r76;

pub use r76::{RunWhileHeld, WhileHeld, cases as while_held_cases};

/// Hands the list of these cases to a macro, as [`coord_testkit::list_cases!`] says.
#[macro_export]
macro_rules! election_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r51 {
                one_leads_and_the_others_wait_in_order,
                a_candidate_whose_lease_died_runs_anew,
                a_candidate_that_goes_away_leaves_no_ghost,
                without_waiting_another_leader_is_a_conflict,
                a_campaign_and_a_resignation_are_one_request_each,
                what_is_wrong_is_an_invalid_argument_before_any_request,
                names_that_nest_are_unrelated,
                tokens_rise_across_crashes => handle::numbers_rise_across_crashes::<Elections>,
                tokens_rise_across_reopening: persistent => handle::numbers_rise_across_reopening::<Elections>,
                a_leader_leads_for_as_long_as_its_client_lives => handle::is_held_for_as_long_as_its_client_lives::<Elections>,
                a_leader_outlives_the_runtime_that_elected_it => handle::outlives_the_runtime_that_acquired_it::<Elections>,
                its_state_compares_the_clock_itself => handle::is_held_compares_the_clock_itself::<Elections>,
                lost_fires_at_the_local_deadline => handle::lost_fires_at_the_local_deadline::<Elections>,
                a_lost_lease_is_noticed_within_a_second => handle::a_lost_lease_is_noticed_within_a_second::<Elections>,
                a_removed_entry_is_noticed_with_the_next_renewal => handle::a_removed_entry_is_noticed_with_the_next_renewal::<Elections>,
                under_a_partition_the_loss_comes_before_the_next_leader => handle::under_a_partition_the_loss_comes_before_the_next_grant::<Elections>,
                a_lost_leadership_never_comes_back => handle::what_was_lost_is_never_held_again::<Elections>,
                its_fence_holds_while_it_leads => fenced::holds_while_it_is_held::<Elections>,
                its_fence_breaks_with_its_entry => fenced::breaks_with_its_entry::<Elections>,
                its_fence_is_of_one_leadership => fenced::is_of_one_grant::<Elections>,
                its_fence_costs_no_request => fenced::costs_no_request::<Elections>,
                its_fence_outlives_what_it_proclaims,
                after_a_crash_another_one_leads_by_ttl_and_lag => handle::after_a_crash_it_is_free_by_ttl_and_lag::<Elections>,
                a_campaign_dropped_at_any_await_point_leaves_nothing => handle::an_acquire_dropped_at_any_await_point_leaves_nothing::<Elections>,
                a_dropped_campaign_that_is_applied_late_leaves_nothing => handle::a_dropped_acquire_that_is_applied_late_leaves_nothing::<Elections>,
            }
            r52 {
                what_the_leader_says_is_replaced_in_place,
                who_does_not_lead_any_more_says_nothing,
                a_proclamation_in_doubt_is_unknown_and_can_be_repeated,
                a_late_proclamation_changes_nothing,
                of_proclamations_at_once_one_comes_after_the_other,
            }
            r53 {
                a_dropped_leadership_is_free => handle::is_free_once_dropped::<Elections>,
                a_leadership_may_be_dropped_outside_a_runtime => handle::may_be_dropped_outside_a_runtime::<Elections>,
                a_leadership_may_be_dropped_after_its_client => handle::may_be_dropped_after_its_provider::<Elections>,
                a_drop_never_blocks_on_a_store_that_hangs => handle::a_drop_never_blocks_on_a_store_that_hangs::<Elections>,
                a_resignation_that_failed_is_repeated_once_dropped => handle::a_release_that_failed_is_repeated_once_dropped::<Elections>,
                nothing_dropped_leads_for_ever => handle::nothing_dropped_is_held_for_ever::<Elections>,
                a_second_resignation_repeats_nothing => handle::a_second_release_repeats_nothing::<Elections>,
                a_failed_resignation_is_unknown_and_repeated => handle::a_failed_release_is_unknown_and_repeated::<Elections>,
                resigning_what_was_lost_is_lease_lost => handle::releasing_what_was_lost_is_lease_lost::<Elections>,
                a_resignation_applied_late_harms_no_successor => handle::a_release_applied_late_harms_no_successor::<Elections>,
                a_resignation_dropped_at_any_await_point_frees_it => handle::a_release_dropped_at_any_await_point_frees_it::<Elections>,
                lost_fires_on_a_resignation => handle::lost_fires_on_release::<Elections>,
                leading_ends_with_the_work_and_not_before,
                a_lost_leadership_ends_the_work,
                where_leading_is_dropped_the_work_ends_first,
                where_the_work_panics_another_one_leads,
            }
            r54 {
                the_leader_is_told_and_every_change,
                that_nobody_leads_is_told,
                a_candidate_that_waits_is_no_leader,
                many_observers_share_one_watch,
                a_lost_history_is_told_as_the_state,
                asking_for_the_leader_sees_the_last_election,
                what_others_left_in_the_directory_leads_nobody,
            }
            r76 {
                work_is_done_while_the_handle_is_held => r76::work_is_done_while_the_handle_is_held::<RunWhileHeld>,
                at_the_loss_the_work_is_dropped_before_the_error => r76::at_the_loss_the_work_is_dropped_before_the_error::<RunWhileHeld>,
                no_step_begins_once_the_handle_is_lost => r76::no_step_begins_once_the_handle_is_lost::<RunWhileHeld>,
                a_value_that_was_ready_is_returned => r76::a_value_that_was_ready_is_returned::<RunWhileHeld>,
                a_value_counts_whatever_its_last_step_has_lost => r76::a_value_counts_whatever_its_last_step_has_lost::<RunWhileHeld>,
                nothing_is_released_at_the_end => r76::nothing_is_released_at_the_end::<RunWhileHeld>,
                any_handle_will_do => r76::any_handle_will_do::<RunWhileHeld>,
            }
        }
    };
}

/// The cases of R51 to R54 and R76.
pub const CASES: &[Case] = election_cases!([coord_testkit::list_cases]);

use coord_testkit::{fence_cases as fenced, handle_cases as handle};

/// Leaderships: the place is an election.
struct Elections;

impl Kind for Elections {
    type Handle = Leadership;
    type Source = Primitives;

    const TAKEN: ErrorKind = ErrorKind::Conflict;

    fn source(client: &Client) -> Primitives {
        Primitives::of(client)
    }

    fn provider(source: &Primitives) -> &Arc<dyn Provider> {
        &source.provider
    }

    async fn close(source: Primitives) -> Result<()> {
        source.client.close().await
    }

    fn entries(place: &str) -> String {
        format!("/elections/{place}/")
    }

    async fn beside(source: Primitives, ttl: Duration) -> Result<Box<dyn Leased>> {
        Ok(Box::new(Self::acquire(source, "beside", ttl, Wait::Forever).await?))
    }

    async fn acquire(
        source: Primitives,
        place: &'static str,
        ttl: Duration,
        wait: Wait,
    ) -> Result<Leadership> {
        let options = CampaignOptions::default().with_ttl(ttl).with_wait(wait);
        source.election(place).campaign("someone", options).await
    }
}

/// How most cases run for leader.
fn options(cx: &Fixture) -> CampaignOptions {
    CampaignOptions::default().with_ttl(cx.ttl())
}

/// The election `e` of a further client.
async fn election(cx: &Fixture) -> Election {
    Primitives::of(&cx.client().await).election("e")
}

/// Asserts what the leader says, if there is one.
async fn leader_says(election: &Election, expected: Option<&str>) {
    let leader = election.leader().await.unwrap();
    assert_eq!(
        leader.map(|leader| leader.value),
        expected.map(|says| coord_api::Value::from(says.to_owned()))
    );
}
