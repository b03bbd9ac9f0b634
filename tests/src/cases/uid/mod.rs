//! Unique ids: R63 to R66. They are a type of coord-service over any store, nothing that a backend
//! provides.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a case fails by panicking"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use coord_api::store::{Entry, Store};
use coord_service::uid::{Uid, UidBuilder};
use coord_testkit::{Case, Client, Fixture};
use tokio::time::Instant;

use super::primitives::{self, Primitives, entries};

mod r63;
mod r64;
mod r65;
mod r66;

/// Hands the list of these cases to a macro, as [`coord_testkit::list_cases!`] says.
#[macro_export]
macro_rules! uid_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r63 {
                ids_of_many_generators_are_different_and_rise,
                who_has_a_number_after_a_crash_gives_out_greater_ones,
                who_has_a_number_after_a_release_gives_out_greater_ones,
                of_two_who_believe_to_have_a_number_each_has_ids_of_its_own,
                services_have_numbers_of_their_own,
            }
            r64 {
                the_horizon_is_stored_before_the_first_id,
                a_later_horizon_is_stored_in_time,
                a_start_is_four_requests,
                giving_back_stores_the_time_after_the_last_id,
                a_first_horizon_whose_answer_was_lost_is_ones_own,
                a_horizon_that_was_lost_on_its_way_is_stored_anew,
                a_last_horizon_that_comes_late_changes_nothing,
                nothing_is_given_out_where_the_first_horizon_is_not_stored,
            }
            r65 {
                clocks_that_are_set_stop_nothing,
                an_id_asks_nothing_of_the_store,
                a_second_is_borrowed_and_no_more,
            }
            r66 {
                nothing_is_given_out_from_the_local_deadline_on,
                it_goes_on_with_another_number_above_all_before,
                a_number_that_was_taken_away_is_replaced,
                what_is_wrong_is_an_invalid_argument_before_any_request,
            }
        }
    };
}

/// The cases of R63 to R66.
pub const CASES: &[Case] = uid_cases!([coord_testkit::list_cases]);

/// When the clocks of day stand at the beginning, in milliseconds since 1970.
const DAY: i64 = 1_790_000_000_000;

const HOUR: i64 = 3_600_000;

/// A clock of day that can be set.
#[derive(Clone, Debug)]
struct Day {
    began: Instant,
    set: Arc<AtomicI64>,
}

impl Day {
    fn new() -> Self {
        Day { began: Instant::now(), set: Arc::default() }
    }

    fn set_by(&self, ms: i64) {
        self.set.fetch_add(ms, Ordering::SeqCst);
    }

    fn unix_ms(&self) -> u64 {
        let passed = i64::try_from(self.began.elapsed().as_millis()).unwrap();
        u64::try_from(DAY + passed + self.set.load(Ordering::SeqCst)).unwrap()
    }
}

/// A generator of the service `u` over a client, with the TTL of the harness.
fn builder(cx: &Fixture, client: &Client, day: &Day) -> UidBuilder {
    let (primitives, day) = (Primitives::of(client), day.clone());
    UidBuilder::new(&primitives.client, primitives.provider.allocator(), "u")
        .ttl(cx.ttl())
        .clock(move || Duration::from_millis(day.unix_ms()))
}

async fn open(cx: &Fixture, client: &Client, day: &Day) -> Uid {
    builder(cx, client, day).open().await.unwrap()
}

/// How far ahead of the time in the ids horizons are stored, in milliseconds.
fn span(cx: &Fixture) -> u64 {
    u64::try_from((cx.ttl() * 2 / 3).as_millis()).unwrap()
}

/// The horizon of a worker, as it stands in the store.
async fn horizon(store: &dyn Store, worker: u32) -> (u64, Entry) {
    let found = entries(store, &format!("/uid/u/{worker}")).await.remove(0);
    (std::str::from_utf8(&found.value).unwrap().parse().unwrap(), found)
}

fn unix_ms(id: u64) -> u64 {
    Uid::parts(id).unix_ms
}
