//! Keeps one endpoint connected: connects ahead of time, notices the end, probes until it is back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::connection::Connection;
use crate::endpoint::Endpoint;
use crate::pool::Pool;

/// A connection that held for this long, or answered a call, was a good one: the endpoint is tried again at once when it drops. Otherwise a server that
/// accepts and hangs up would be tried without a pause.
const GOOD: Duration = Duration::from_secs(1);

/// Runs until it is dropped.
pub(crate) async fn keep_connected(pool: Arc<Pool>, id: u64, endpoint: Endpoint) {
    let seed = pool.options.jitter_seed.map(|seed| seed.wrapping_add(id));
    let mut backoff = Backoff::new(pool.options.backoff_min, pool.options.backoff_max, seed);
    // Whether calls went unanswered on the last connection: the server's kernel and its HTTP/2 may be fine, so the next one has to prove itself by a call.
    let mut silent = false;
    loop {
        match Connection::open(&endpoint, &pool.options, silent).await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                let since = Instant::now();
                pool.admit(id, &connection);
                let lost = tokio::select! {
                    () = connection.suspect.cancelled() => None,
                    why = connection.over_and_why() => Some(why),
                };
                silent = lost.is_none();
                let good = since.elapsed() >= GOOD && !silent || connection.answered() > 0;
                if let Some(why) = lost {
                    pool.fail(id, why, good);
                }
                if good {
                    backoff.reset();
                    continue;
                }
            }
            Err(failure) => pool.fail(id, failure, false),
        }
        sleep(backoff.pause()).await;
    }
}
