//! Batching: R82 and R83. It is a layer of coord-core over any store, nothing that a backend
//! provides.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a case fails by panicking"
)]

use std::sync::Arc;

use bytes::Bytes;
use coord_api::store::{Op, Range, Store, Txn};
use coord_api::{Result, Revision};
use coord_core::layers::Batched;
use coord_testkit::Case;

mod r82;
mod r83;

/// Hands the list of these cases to a macro, as [`coord_testkit::list_cases!`] says.
#[macro_export]
macro_rules! batched_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r82 {
                what_comes_at_once_costs_few_requests,
                every_write_is_a_version_of_its_own,
                a_read_shows_what_its_revision_has,
                what_was_acknowledged_is_read,
                a_watch_from_a_reads_revision_misses_nothing,
            }
            r83 {
                what_is_refused_fails_its_own_caller_only,
                what_is_too_large_fails_its_own_caller_only,
                a_lost_answer_leaves_every_write_of_it_in_doubt,
                what_did_not_reach_the_store_was_not_applied,
                who_goes_away_takes_nothing_with_it,
            }
        }
    };
}

/// The cases, in the order of the rules.
pub static CASES: &[Case] = batched_cases! { [coord_testkit::list_cases] };

/// A store around one of the harness.
type Layered = Batched<Arc<dyn Store>>;

async fn put(store: &Layered, key: impl Into<Bytes>, value: impl Into<String>) -> Result<Revision> {
    let put = Txn::new().then(Op::put(key, value.into().into_bytes()));
    store.txn(put).await.map(|reply| reply.revision)
}

/// The revision of the look, and the value.
async fn get(store: &Layered, key: impl Into<Bytes>) -> Result<(Revision, Option<String>)> {
    let reply = store.range(Range::key(key)).await?;
    let value =
        reply.entries.first().map(|entry| String::from_utf8_lossy(entry.value.as_bytes()).into_owned());
    Ok((reply.revision, value))
}

async fn delete(store: &Layered, key: impl Into<Bytes>) {
    store.txn(Txn::new().then(Op::delete(key))).await.expect("the store answers");
}
