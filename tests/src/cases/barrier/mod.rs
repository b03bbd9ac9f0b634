//! Barriers: R61 and R62. They are types of coord-recipes over any store, nothing that a backend
//! provides.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a case fails by panicking"
)]

use coord_api::{Result, Wait};
use coord_recipes::{Barrier, BarrierOptions, Party};
use coord_testkit::{Case, Fixture};

use super::primitives::{self, Primitives};

mod r61;
mod r62;

/// Hands the list of these cases to a macro, as [`coord_testkit::list_cases!`] says.
#[macro_export]
macro_rules! barrier_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r61 {
                all_are_let_through_once_all_are_there,
                one_generation_comes_after_the_other,
                one_that_comes_too_early_waits_for_the_next_generation,
                one_that_went_away_is_not_counted,
                one_that_crashed_is_not_counted,
                one_whose_place_is_gone_enters_anew,
                a_release_that_comes_late_lets_nobody_through,
                a_release_in_doubt_is_settled,
                without_waiting_others_that_are_to_come_are_a_conflict,
                a_time_to_wait_ends_the_waiting,
                another_number_of_parties_is_an_invalid_argument,
                what_is_wrong_is_an_invalid_argument_before_any_request,
                what_others_left_is_written_over,
                to_enter_is_one_request_and_one_of_the_last,
                an_entry_dropped_at_any_await_point_leaves_nothing,
                names_that_nest_are_unrelated,
            }
            r62 {
                all_leave_together,
                who_dropped_its_party_has_left,
                who_crashed_has_left,
                the_last_one_clears_up,
                who_waits_for_the_next_generation_keeps_nobody_from_leaving,
                to_leave_is_one_request,
                the_fence_of_a_party_holds_until_it_leaves,
                one_that_was_lost_is_told,
            }
        }
    };
}

/// The cases of R61 and R62.
pub const CASES: &[Case] = barrier_cases!([coord_testkit::list_cases]);

const PARTIES: &str = "/barriers/b/p/";
const RELEASE: &str = "/barriers/b/release";

/// The barrier `b` of a further client.
async fn barrier(cx: &Fixture) -> Barrier {
    Primitives::of(&cx.client().await).barrier("b")
}

fn options(cx: &Fixture) -> BarrierOptions {
    BarrierOptions::default().with_ttl(cx.ttl())
}

fn at_once(cx: &Fixture) -> BarrierOptions {
    options(cx).with_wait(Wait::Never)
}

type Waiter = tokio::task::JoinHandle<Result<Party>>;

/// Enters in a task of its own, and waits until it has its place.
async fn waiter(cx: &Fixture, barrier: &Barrier, parties: u32) -> Waiter {
    let store = cx.store().await;
    let before = primitives::entries(&*store, PARTIES).await.len();
    let (barrier, options) = (barrier.clone(), options(cx));
    let waiter = tokio::spawn(async move { barrier.enter(parties, options).await });
    coord_testkit::wait::eventually(cx.soon(), "it has its place", || async {
        (primitives::entries(&*store, PARTIES).await.len() > before).then_some(())
    })
    .await;
    waiter
}

/// What a waiter has got.
async fn entered(cx: &Fixture, waiter: Waiter) -> Party {
    coord_testkit::wait::within(cx.soon(), "it is let through", waiter).await.unwrap().unwrap()
}

/// So many parties that have met.
async fn met(cx: &Fixture, barriers: &[&Barrier]) -> Vec<Party> {
    let parties = u32::try_from(barriers.len()).unwrap();
    let all = barriers.iter().map(|barrier| barrier.enter(parties, options(cx)));
    let all = coord_testkit::wait::within(cx.soon(), "they meet", futures_util::future::join_all(all)).await;
    all.into_iter().map(Result::unwrap).collect()
}
