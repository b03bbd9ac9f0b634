//! Keeps one endpoint connected: connects ahead of time, notices the end, probes until it is back.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use coord_api::{Error, ErrorKind};
use coord_home::{Backoff, BackoffPolicy};
use futures_util::FutureExt;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::connection::{EndpointConnection, Manner};
use crate::dial::dial;
use crate::endpoint::Endpoint;
use crate::files;
use crate::options::ChannelOptions;
use crate::resolver::Lookup;

/// A connection that held for this long, or answered a call, was a good one: the endpoint is tried
/// again at once when it drops. Otherwise a server that accepts and hangs up would be tried without
/// a pause.
const GOOD: Duration = Duration::from_secs(1);

/// The longest pause between signs of life, however often the server complains.
const LONGEST_PING_PAUSE: Duration = Duration::from_secs(24 * 3_600);

/// Whom a worker works for: it says how to connect, and is told what comes of it. Each worker has a
/// number there.
pub(crate) trait WorkerHost: Send + Sync + 'static {
    fn options(&self) -> &ChannelOptions;

    fn lookup(&self) -> &Lookup;

    /// How to connect, where the connection has to prove itself by a call or not, and may be silent
    /// for so long before it is asked for a sign of life.
    fn manner(&self, on_trial: bool, ping_after: Duration) -> Manner<'_>;

    /// There is a connection that takes calls.
    fn admit(&self, id: u64, connection: &Arc<EndpointConnection>);

    /// The connection dropped, or there is none to be had. `again` says whether another one is
    /// tried at once.
    fn fail(self: &Arc<Self>, id: u64, failure: Error, again: bool);

    /// The endpoint is asked for signs of life less often.
    fn pings_after(&self, id: u64, after: Duration);

    /// The worker was dropped: the runtime that it lived in is gone.
    fn abandoned(&self, id: u64);
}

/// Keeps an endpoint connected until it is stopped.
pub(crate) async fn run(host: Arc<impl WorkerHost>, id: u64, endpoint: Endpoint, stopped: CancellationToken) {
    let _end = WorkerEnd { host: Arc::clone(&host), id, stopped: stopped.clone() };
    let mut worker = EndpointWorker::new(host.options(), id, endpoint);
    stopped.run_until_cancelled(worker.keep_connected(&host)).await;
}

/// Speaks for a worker that ended otherwise: its runtime is gone.
struct WorkerEnd<H: WorkerHost> {
    host: Arc<H>,
    id: u64,
    stopped: CancellationToken,
}

impl<H: WorkerHost> Drop for WorkerEnd<H> {
    fn drop(&mut self) {
        if !self.stopped.is_cancelled() {
            self.host.abandoned(self.id);
        }
    }
}

struct EndpointWorker {
    id: u64,
    endpoint: Endpoint,
    backoff: Backoff,
    /// Whether calls went unanswered on the last connection: the server's kernel and its HTTP/2 may
    /// be fine, so the next one has to prove itself by a call.
    silent: bool,
    /// The address that was no good the last time.
    last_failed: Option<SocketAddr>,
    /// How many attempts have failed since the last connection.
    failures: usize,
    /// How long a connection may be silent before it is asked for a sign of life: longer each time
    /// that the server complains (gRPC's proposal A8).
    ping_after: Duration,
}

impl EndpointWorker {
    fn new(options: &ChannelOptions, id: u64, endpoint: Endpoint) -> Self {
        let policy = BackoffPolicy::new(options.backoff_min.saturating_mul(2), options.backoff_max);
        EndpointWorker {
            id,
            endpoint,
            backoff: options.backoff(policy, id),
            silent: false,
            last_failed: None,
            failures: 0,
            ping_after: options.keep_alive.interval,
        }
    }

    async fn keep_connected(&mut self, host: &Arc<impl WorkerHost>) {
        loop {
            // What others wrote may panic here, such as a verifier of certificates. The others go
            // on, and so does this.
            let turn = AssertUnwindSafe(self.turn(host)).catch_unwind().await;
            let again = turn.unwrap_or_else(|_| {
                host.fail(
                    self.id,
                    Error::new(ErrorKind::Internal, "grpc.connect", "connecting panicked"),
                    false,
                );
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
    async fn turn(&mut self, host: &Arc<impl WorkerHost>) -> bool {
        let manner = host.manner(self.silent, self.ping_after);
        let dialled = dial(&self.endpoint, host.lookup(), manner, self.last_failed, self.failures).await;
        match dialled {
            Ok(connection) => {
                self.failures = 0;
                self.use_up(host, Arc::new(connection)).await
            }
            Err(failure) => {
                self.failures = self.failures.wrapping_add(1);
                let out_of_files = files::is_out_of_files(&failure);
                host.fail(self.id, failure, false);
                if out_of_files {
                    files::give_back();
                }
                false
            }
        }
    }

    async fn use_up(&mut self, host: &Arc<impl WorkerHost>, connection: Arc<EndpointConnection>) -> bool {
        let since = Instant::now();
        host.admit(self.id, &connection);
        let lost = tokio::select! {
            () = connection.suspect.cancelled() => None,
            why = connection.until_ended() => Some(why),
        };
        self.silent = lost.is_none();
        let good = since.elapsed() >= GOOD && !self.silent || connection.answered() > 0;
        self.last_failed = (self.silent || !good).then(|| connection.leads_to());
        if let Some(why) = lost {
            host.fail(self.id, why, good);
            if connection.was_overdone().await {
                self.ping_after =
                    self.ping_after.saturating_mul(2).min(LONGEST_PING_PAUSE.max(self.ping_after));
                let (endpoint, after) = (self.endpoint.to_string(), self.ping_after);
                coord_home::event!(
                    WARN,
                    endpoint,
                    ?after,
                    "the server ended the connection because of too many pings; they come less often now"
                );
                host.pings_after(self.id, after);
            }
        }
        good
    }
}
