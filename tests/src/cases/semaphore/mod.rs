//! Semaphores: R48 to R50. They are types of coord-recipes over any store, nothing that a backend
//! provides.
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
use coord_recipes::{Permit, PermitLimit, PermitOptions, Semaphore};
use coord_testkit::handle::Kind;
use coord_testkit::{Case, Client, Fixture};
use coord_testkit::{fence_cases as fenced, handle_cases as handle};

use super::primitives::{self, Primitives};

mod r48;
mod r49;
mod r50;

/// Hands the list of these cases to a macro, as [`coord_testkit::list_cases!`] says.
#[macro_export]
macro_rules! semaphore_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r48 {
                never_more_than_the_limit_are_held,
                a_lowered_limit_takes_nothing_back,
                a_raised_limit_lets_waiters_in,
                a_limit_that_changed_elsewhere_is_kept_to,
                permits_of_a_crashed_holder_come_back,
                who_joins_behind_many_waits,
            }
            r49 {
                who_came_first_is_served_first,
                who_wants_many_is_not_overtaken,
                who_goes_away_lets_the_next_ones_in,
                who_waits_for_more_than_a_lowered_limit_leaves,
            }
            r50 {
                a_first_limit_is_stored_where_none_is,
                an_exact_limit_is_that_or_an_error,
                what_is_wrong_is_an_invalid_argument_before_any_request,
                more_than_the_stored_limit_is_an_invalid_argument,
                a_limit_that_is_no_number_is_codec,
                without_waiting_too_few_are_a_conflict,
                permits_and_their_release_are_one_request_each,
                it_is_removed_once_nobody_is_there,
                names_that_nest_are_unrelated,
                dropped_permits_are_free => handle::is_free_once_dropped::<Permits>,
                permits_may_be_dropped_outside_a_runtime => handle::may_be_dropped_outside_a_runtime::<Permits>,
                permits_may_be_dropped_after_their_client => handle::may_be_dropped_after_its_provider::<Permits>,
                a_drop_never_blocks_on_a_store_that_hangs => handle::a_drop_never_blocks_on_a_store_that_hangs::<Permits>,
                a_release_that_failed_is_repeated_once_dropped => handle::a_release_that_failed_is_repeated_once_dropped::<Permits>,
                nothing_dropped_is_held_for_ever => handle::nothing_dropped_is_held_for_ever::<Permits>,
                a_second_release_repeats_nothing => handle::a_second_release_repeats_nothing::<Permits>,
                a_failed_release_is_unknown_and_repeated => handle::a_failed_release_is_unknown_and_repeated::<Permits>,
                releasing_what_was_lost_is_lease_lost => handle::releasing_what_was_lost_is_lease_lost::<Permits>,
                a_release_applied_late_harms_no_successor => handle::a_release_applied_late_harms_no_successor::<Permits>,
                a_release_dropped_at_any_await_point_frees_them => handle::a_release_dropped_at_any_await_point_frees_it::<Permits>,
                lost_fires_on_release => handle::lost_fires_on_release::<Permits>,
                their_state_compares_the_clock_itself => handle::is_held_compares_the_clock_itself::<Permits>,
                lost_fires_at_the_local_deadline => handle::lost_fires_at_the_local_deadline::<Permits>,
                a_lost_lease_is_noticed_within_a_second => handle::a_lost_lease_is_noticed_within_a_second::<Permits>,
                a_removed_entry_is_noticed_with_the_next_renewal => handle::a_removed_entry_is_noticed_with_the_next_renewal::<Permits>,
                under_a_partition_the_loss_comes_before_the_next_grant => handle::under_a_partition_the_loss_comes_before_the_next_grant::<Permits>,
                what_was_lost_is_never_held_again => handle::what_was_lost_is_never_held_again::<Permits>,
                they_are_held_for_as_long_as_their_client_lives => handle::is_held_for_as_long_as_its_client_lives::<Permits>,
                after_a_crash_they_are_free_by_ttl_and_lag => handle::after_a_crash_it_is_free_by_ttl_and_lag::<Permits>,
                they_outlive_the_runtime_that_acquired_them => handle::outlives_the_runtime_that_acquired_it::<Permits>,
                an_acquire_dropped_at_any_await_point_leaves_nothing => handle::an_acquire_dropped_at_any_await_point_leaves_nothing::<Permits>,
                a_dropped_acquire_that_is_applied_late_leaves_nothing => handle::a_dropped_acquire_that_is_applied_late_leaves_nothing::<Permits>,
                their_fence_holds_while_they_are_held => fenced::holds_while_it_is_held::<Permits>,
                their_fence_breaks_with_their_entry => fenced::breaks_with_its_entry::<Permits>,
                their_fence_is_of_one_grant => fenced::is_of_one_grant::<Permits>,
                their_fence_costs_no_request => fenced::costs_no_request::<Permits>,
            }
        }
    };
}

/// The cases of R48 to R50.
pub const CASES: &[Case] = semaphore_cases!([coord_testkit::list_cases]);

/// Permits: the place is a semaphore that has one.
struct Permits;

impl Kind for Permits {
    type Handle = Permit;
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
        format!("/semaphores/{place}/q/")
    }

    async fn beside(source: Primitives, ttl: Duration) -> Result<Box<dyn Leased>> {
        Ok(Box::new(Self::acquire(source, "beside", ttl, Wait::Forever).await?))
    }

    async fn acquire(source: Primitives, place: &'static str, ttl: Duration, wait: Wait) -> Result<Permit> {
        let options = PermitOptions::new(PermitLimit::First(1)).with_ttl(ttl).with_wait(wait);
        source.semaphore(place).acquire(1, options).await
    }
}

const QUEUE: &str = "/semaphores/s/q/";

/// The semaphore `s` of a further client.
async fn semaphore(cx: &Fixture) -> Semaphore {
    Primitives::of(&cx.client().await).semaphore("s")
}

/// So many permits where nobody has said yet.
fn first(cx: &Fixture, limit: u32) -> PermitOptions {
    PermitOptions::new(PermitLimit::First(limit)).with_ttl(cx.ttl())
}

/// As [`first`], without waiting.
fn at_once(cx: &Fixture, limit: u32) -> PermitOptions {
    first(cx, limit).with_wait(Wait::Never)
}

/// Wants permits in a task of its own, and waits until it stands in the queue.
async fn stand_in_line(cx: &Fixture, semaphore: &Semaphore, weight: u32, limit: u32) -> Waiter {
    let store = cx.store().await;
    let before = primitives::entries(&*store, QUEUE).await.len();
    let (semaphore, options) = (semaphore.clone(), first(cx, limit));
    let waiter = tokio::spawn(async move { semaphore.acquire(weight, options).await });
    coord_testkit::wait::eventually(cx.soon(), "the waiter stands in the queue", || async {
        (primitives::entries(&*store, QUEUE).await.len() > before).then_some(())
    })
    .await;
    waiter
}

type Waiter = tokio::task::JoinHandle<Result<Permit>>;
