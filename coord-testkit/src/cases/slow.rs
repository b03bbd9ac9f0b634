//! Clients that take a little time, so that what happens at once also overlaps on a store that
//! answers at once.

use std::sync::Arc;
use std::time::Duration;

use coord_api::Provider;

use crate::fixture::Fixture;
use crate::wrap::Delayed;

/// The longest delay on each way: short enough for a hand-over to be prompt all the same.
const LONGEST: Duration = Duration::from_millis(3);

/// The provider of a further client whose requests and answers take up to 3 ms each. Each `n` has
/// delays of its own.
pub(super) async fn slow_provider(cx: &Fixture, n: u64) -> Arc<dyn Provider> {
    cx.wrapped(|store| Arc::new(Delayed::new(store, LONGEST, cx.seed(n)))).await.provider
}
