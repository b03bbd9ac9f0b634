//! Keeps one endpoint connected: connects ahead of time, notices the end, probes until it is back.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use coord_api::{Error, ErrorKind};
use futures_util::FutureExt;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::connection::{Connection, Manner};
use crate::dial::dial;
use crate::endpoint::Endpoint;
use crate::files;
use crate::pool::Pool;

/// A connection that held for this long, or answered a call, was a good one: the endpoint is tried again at once when it drops. Otherwise a server that
/// accepts and hangs up would be tried without a pause.
const GOOD: Duration = Duration::from_secs(1);

/// The longest pause between signs of life, however often the server complains.
const LONGEST_PING_PAUSE: Duration = Duration::from_secs(24 * 3_600);

/// Keeps an endpoint connected until it is stopped.
pub(crate) async fn run(pool: Arc<Pool>, id: u64, endpoint: Endpoint, stopped: CancellationToken) {
    let _end = End { pool: Arc::clone(&pool), id, stopped: stopped.clone() };
    let mut worker = Worker::new(&pool, id, endpoint);
    stopped.run_until_cancelled(worker.keep_connected(&pool)).await;
}

/// Speaks for a worker that ended otherwise: its runtime is gone.
struct End {
    pool: Arc<Pool>,
    id: u64,
    stopped: CancellationToken,
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.stopped.is_cancelled() {
            self.pool.abandoned(Some(self.id));
        }
    }
}

struct Worker {
    id: u64,
    endpoint: Endpoint,
    backoff: Backoff,
    /// Whether calls went unanswered on the last connection: the server's kernel and its HTTP/2 may be fine, so the next one has to prove itself by a call.
    silent: bool,
    /// The address that was no good the last time.
    shunned: Option<SocketAddr>,
    /// How many attempts have failed since the last connection.
    failures: usize,
    /// How long a connection may be silent before it is asked for a sign of life: longer each time that the server complains (gRPC's proposal A8).
    ping_after: Duration,
}

impl Worker {
    fn new(pool: &Pool, id: u64, endpoint: Endpoint) -> Self {
        let options = &pool.options;
        let seed = options.jitter_seed.map(|seed| seed.wrapping_add(id));
        Worker {
            id,
            endpoint,
            backoff: Backoff::new(options.backoff_min, options.backoff_max, seed),
            silent: false,
            shunned: None,
            failures: 0,
            ping_after: options.keep_alive.interval,
        }
    }

    async fn keep_connected(&mut self, pool: &Arc<Pool>) {
        loop {
            // What others wrote may panic here, such as a verifier of certificates. The others go on, and so does this.
            let turn = AssertUnwindSafe(self.turn(pool)).catch_unwind().await;
            let again = turn.unwrap_or_else(|_| {
                pool.fail(self.id, Error::new(ErrorKind::Internal, "grpc.connect", "connecting panicked"), false);
                false
            });
            if again {
                self.backoff.reset();
            } else {
                sleep(self.backoff.pause()).await;
            }
        }
    }

    /// One connection from its beginning to its end. Whether the next one is to be made at once.
    async fn turn(&mut self, pool: &Arc<Pool>) -> bool {
        let manner =
            Manner { options: &pool.options, home: &pool.home, files: &pool.files, on_trial: self.silent, ping_after: self.ping_after };
        let dialled = dial(&self.endpoint, &pool.lookup, manner, self.shunned, self.failures).await;
        match dialled {
            Ok(connection) => {
                self.failures = 0;
                self.use_up(pool, Arc::new(connection)).await
            }
            Err(failure) => {
                self.failures = self.failures.wrapping_add(1);
                let out_of_files = files::is_out_of_files(&failure);
                pool.fail(self.id, failure, false);
                if out_of_files {
                    files::give_back();
                }
                false
            }
        }
    }

    async fn use_up(&mut self, pool: &Arc<Pool>, connection: Arc<Connection>) -> bool {
        let since = Instant::now();
        pool.admit(self.id, &connection);
        let lost = tokio::select! {
            () = connection.suspect.cancelled() => None,
            why = connection.over_and_why() => Some(why),
        };
        self.silent = lost.is_none();
        let good = since.elapsed() >= GOOD && !self.silent || connection.answered() > 0;
        self.shunned = (self.silent || !good).then(|| connection.leads_to());
        if let Some(why) = lost {
            pool.fail(self.id, why, good);
            if connection.was_overdone().await {
                self.ping_after = self.ping_after.saturating_mul(2).min(LONGEST_PING_PAUSE.max(self.ping_after));
                let (endpoint, after) = (self.endpoint.to_string(), self.ping_after);
                coord_home::event!(
                    WARN,
                    endpoint,
                    ?after,
                    "the server ended the connection because of too many pings; they come less often now"
                );
                pool.pings_after(self.id, after);
            }
        }
        good
    }
}
