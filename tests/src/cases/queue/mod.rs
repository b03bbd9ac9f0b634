//! Queues of work: R79 to R81. They are types of coord-recipes over any store, nothing that a
//! backend provides.
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
use coord_api::store::{Compare, Op, Txn};
use coord_api::{Error, ErrorKind, Provider, Result, Wait};
use coord_recipes::{Claim, ClaimOptions, Queue};
use coord_testkit::handle::Kind;
use coord_testkit::wait::{eventually, within};
use coord_testkit::{Case, Client, Fixture};
use coord_testkit::{fence_cases as fenced, handle_cases as handle};
use tokio::task::JoinHandle;

use super::primitives::{self, Primitives};

mod r79;
mod r80;
mod r81;

/// Hands the list of these cases to a macro, as [`coord_testkit::list_cases!`] says.
#[macro_export]
macro_rules! queue_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r79 {
                items_come_in_the_order_in_which_they_were_pushed,
                to_push_is_one_request,
                a_push_whose_answer_is_lost_is_there_once,
                a_push_in_doubt_whose_item_was_taken_since_is_not_made_again,
                a_push_in_doubt_whose_item_is_had_leaves_it_alone,
                a_push_that_is_applied_late_is_not_there_twice,
                a_push_that_cannot_be_settled_is_unknown,
                a_push_whose_session_is_lost_before_it_is_settled_is_unknown,
                items_outlive_who_pushed_them,
                receipts_do_not_pile_up,
                what_is_wrong_is_an_invalid_argument_before_any_request,
                names_that_nest_are_unrelated,
                an_ordered_queue_and_another_one_share_no_name,
            }
            r80 {
                an_item_is_had_by_one_at_a_time,
                who_waits_is_served_in_order,
                an_item_costs_three_requests_and_one_more_where_its_claimer_waited,
                however_many_wait_an_item_costs_as_much,
                an_item_of_a_crashed_claimer_is_delivered_again,
                a_claim_in_doubt_is_settled,
                a_claim_in_doubt_is_not_taken_for_that_of_another_one,
                a_claim_that_comes_late_changes_nothing,
                what_is_seen_too_late_is_refused_and_the_next_item_is_had,
                who_does_not_wait_sees_what_the_store_has,
                a_time_to_wait_ends_the_waiting_and_leaves_no_place,
                one_whose_place_is_gone_waits_anew,
                who_goes_away_lets_the_next_one_have_the_item,
                of_an_ordered_queue_one_item_is_had_at_a_time,
                of_an_ordered_queue_a_retry_holds_up_those_behind_it,
                what_was_delivered_too_often_is_put_aside,
                an_item_without_a_value_is_codec_and_is_put_aside,
                what_others_left_is_no_item,
                all_that_was_pushed_is_done_under_faults,
                a_claim_is_held_for_as_long_as_its_client_lives => handle::is_held_for_as_long_as_its_client_lives::<Claims>,
                after_a_crash_an_item_is_free_by_ttl_and_lag => handle::after_a_crash_it_is_free_by_ttl_and_lag::<Claims>,
                a_claim_outlives_the_runtime_that_made_it => handle::outlives_the_runtime_that_acquired_it::<Claims>,
                a_claim_dropped_at_any_await_point_leaves_nothing => handle::an_acquire_dropped_at_any_await_point_leaves_nothing::<Claims>,
                a_dropped_claim_that_is_applied_late_leaves_nothing => handle::a_dropped_acquire_that_is_applied_late_leaves_nothing::<Claims>,
                its_state_compares_the_clock_itself => handle::is_held_compares_the_clock_itself::<Claims>,
                lost_fires_at_the_local_deadline => handle::lost_fires_at_the_local_deadline::<Claims>,
                a_lost_lease_is_noticed_within_a_second => handle::a_lost_lease_is_noticed_within_a_second::<Claims>,
                a_removed_claim_is_noticed_with_the_next_renewal => handle::a_removed_entry_is_noticed_with_the_next_renewal::<Claims>,
                under_a_partition_the_loss_comes_before_the_next_claim => handle::under_a_partition_the_loss_comes_before_the_next_grant::<Claims>,
                what_was_lost_is_never_held_again => handle::what_was_lost_is_never_held_again::<Claims>,
            }
            r81 {
                what_is_acknowledged_is_gone,
                an_acknowledgement_in_doubt_is_settled,
                what_is_lost_before_it_is_settled_is_not_acknowledged,
                an_acknowledgement_after_the_loss_harms_no_successor,
                an_acknowledgement_that_comes_late_harms_no_successor,
                an_acknowledgement_of_a_removed_claim_harms_no_successor,
                an_item_that_is_given_back_is_free_at_its_old_place,
                a_retry_comes_when_its_time_is_over,
                a_retry_in_doubt_is_settled,
                a_retry_outlives_who_asked_for_it,
                a_delayed_item_comes_when_its_time_is_over,
                a_lease_of_a_delay_that_is_gone_is_replaced,
                dead_items_are_listed_brought_back_and_discarded,
                dropped_claims_are_free => handle::is_free_once_dropped::<Claims>,
                claims_may_be_dropped_outside_a_runtime => handle::may_be_dropped_outside_a_runtime::<Claims>,
                claims_may_be_dropped_after_their_client => handle::may_be_dropped_after_its_provider::<Claims>,
                a_drop_never_blocks_on_a_store_that_hangs => handle::a_drop_never_blocks_on_a_store_that_hangs::<Claims>,
                a_release_that_failed_is_repeated_once_dropped => handle::a_release_that_failed_is_repeated_once_dropped::<Claims>,
                nothing_dropped_is_held_for_ever => handle::nothing_dropped_is_held_for_ever::<Claims>,
                a_second_release_repeats_nothing => handle::a_second_release_repeats_nothing::<Claims>,
                a_failed_release_is_unknown_and_repeated => handle::a_failed_release_is_unknown_and_repeated::<Claims>,
                releasing_what_was_lost_is_lease_lost => handle::releasing_what_was_lost_is_lease_lost::<Claims>,
                a_release_applied_late_harms_no_successor => handle::a_release_applied_late_harms_no_successor::<Claims>,
                a_release_dropped_at_any_await_point_frees_the_item => handle::a_release_dropped_at_any_await_point_frees_it::<Claims>,
                lost_fires_on_release => handle::lost_fires_on_release::<Claims>,
                the_fence_of_a_claim_holds_while_it_is_held => fenced::holds_while_it_is_held::<Claims>,
                the_fence_of_a_claim_breaks_with_its_entry => fenced::breaks_with_its_entry::<Claims>,
                the_fence_of_a_claim_is_of_one_grant => fenced::is_of_one_grant::<Claims>,
                the_fence_of_a_claim_costs_no_request => fenced::costs_no_request::<Claims>,
            }
        }
    };
}

/// The cases of R79 to R81.
pub const CASES: &[Case] = queue_cases!([coord_testkit::list_cases]);

/// Claims: the place is a queue that has one item, which is never acknowledged.
struct Claims;

impl Kind for Claims {
    type Handle = Claim;
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
        format!("/queues/{place}/q/c/")
    }

    async fn beside(source: Primitives, ttl: Duration) -> Result<Box<dyn Leased>> {
        Ok(Box::new(Self::acquire(source, "beside", ttl, Wait::Forever).await?))
    }

    async fn acquire(source: Primitives, place: &'static str, ttl: Duration, wait: Wait) -> Result<Claim> {
        let (item, value) = (format!("/queues/{place}/q/i/1"), format!("/queues/{place}/v/1"));
        let only_one = Txn::new()
            .when(Compare::Absent(item.clone().into()))
            .then(Op::put(item, "0"))
            .then(Op::put(value, "v"));
        source.client.store().txn(only_one).await?;
        let options = ClaimOptions::default().with_ttl(ttl).with_wait(wait);
        let claim = source.queue(place).claim(options).await?;
        claim.ok_or_else(|| Error::new(ErrorKind::Conflict, "queue.claim", "another one has the item"))
    }
}

const ITEMS: &str = "/queues/q/q/i/";
const CLAIMS: &str = "/queues/q/q/c/";
const WAITERS: &str = "/queues/q/q/w/";
const VALUES: &str = "/queues/q/v/";
const RECEIPTS: &str = "/queues/q/p/";

/// The queue `q` of a further client.
async fn queue(cx: &Fixture) -> Queue {
    Primitives::of(&cx.client().await).queue("q")
}

/// A TTL that nothing outlives.
fn options(cx: &Fixture) -> ClaimOptions {
    ClaimOptions::default().with_ttl(cx.long_ttl())
}

/// Without waiting.
fn at_once(cx: &Fixture) -> ClaimOptions {
    options(cx).with_wait(Wait::Never)
}

/// What can be had without waiting.
async fn had(cx: &Fixture, queue: &Queue) -> Option<Claim> {
    within(cx.soon(), "an answer", queue.claim(at_once(cx))).await.unwrap()
}

/// The item that comes next, which is there or about to be.
async fn next(cx: &Fixture, queue: &Queue) -> Claim {
    let claim = within(cx.soon(), "an item is had", queue.claim(options(cx))).await.unwrap();
    claim.expect("who waits as long as it takes has an item")
}

/// What is in an item, as text.
fn text(claim: &Claim) -> String {
    String::from_utf8(claim.value().as_ref().to_vec()).unwrap()
}

type Waiter = JoinHandle<Result<Option<Claim>>>;

/// Waits for an item in a task of its own, once it has its place.
async fn waiter(cx: &Fixture, queue: &Queue, options: ClaimOptions) -> Waiter {
    let store = cx.store().await;
    let before = primitives::entries(&*store, WAITERS).await;
    let queue = queue.clone();
    let waiter = tokio::spawn(async move { queue.claim(options).await });
    eventually(cx.soon(), "it has its place", || async {
        let now = primitives::entries(&*store, WAITERS).await;
        now.iter().any(|place| !before.contains(place)).then_some(())
    })
    .await;
    waiter
}

/// What a waiter has got.
async fn claimed(cx: &Fixture, waiter: Waiter) -> Claim {
    let claim = within(cx.soon(), "it has an item", waiter).await.unwrap().unwrap();
    claim.expect("who waits as long as it takes has an item")
}
