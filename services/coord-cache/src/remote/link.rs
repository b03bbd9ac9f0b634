//! One connection to Redis, which is made anew when it fails.
//!
//! The client's own connection manager has callers wait while it connects, with pauses, for longer
//! than they may; it keeps a connection whose server says nothing for ever, and gives up for good
//! when a server refuses the password once. Here a call waits for a connection only while the first
//! try to connect anew is under way, and at most until its own deadline; then it fails at once,
//! until there is a connection again.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use coord::{Error, ErrorKind, Outcome, Result};
use coord_home::{Backoff, BackoffPolicy};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisError};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::dial::{Dialer, Driver, ping};
use super::error::{failed, outcome};
use crate::tuning::Tuning;

/// Pauses between tries to connect anew.
const BACKOFF: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(20), Duration::from_secs(1));

/// A connection that ends sooner than this counts as one more try that failed.
const SHORT_LIVED: Duration = Duration::from_secs(1);

/// Whether a call changes something, which decides what is known of one that failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Reads,
    Writes,
}

impl Effect {
    /// A failure of a call of this kind, which may have done so much.
    fn of(self, error: Error, applied: Outcome) -> Error {
        match self {
            Effect::Reads => error,
            Effect::Writes => error.with_outcome(applied),
        }
    }
}

/// A connection that is kept. Ends when dropped.
pub(super) struct Link {
    shared: Arc<Shared>,
    keeper: AbortOnDropHandle<()>,
}

struct Shared {
    dialer: Dialer,
    tuning: Arc<Tuning>,
    state: ArcSwap<State>,
    /// Told after each change of the state.
    changed: watch::Sender<()>,
    /// Told when a call got no answer.
    suspect: Notify,
}

enum State {
    Up(MultiplexedConnection),
    /// There was a connection a moment ago.
    Joining,
    Away(Error),
}

impl Link {
    /// Connects, and keeps the connection from then on.
    pub(super) async fn open(dialer: Dialer, tuning: Arc<Tuning>) -> Result<Self> {
        let (connection, driver) = dialer.dial(tuning.connect_timeout()).await?;
        let shared = Arc::new(Shared {
            dialer,
            tuning,
            state: ArcSwap::from_pointee(State::Up(connection.clone())),
            changed: watch::Sender::new(()),
            suspect: Notify::new(),
        });
        let keeper = tokio::spawn(keep(Arc::clone(&shared), connection, driver));
        Ok(Link { shared, keeper: AbortOnDropHandle::new(keeper) })
    }

    /// The connection, where there is one at this moment.
    pub(super) fn connection(&self, operation: &'static str) -> Result<MultiplexedConnection> {
        match &**self.shared.state.load() {
            State::Up(connection) => Ok(connection.clone()),
            State::Joining => {
                Err(Error::new(ErrorKind::Unavailable, operation, "Redis is being connected to"))
            }
            State::Away(error) => Err(away(operation, error)),
        }
    }

    /// Asks the server, and waits for its answer for this time at most, all in all (K7).
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        operation: &'static str,
        command: &Cmd,
        within: Duration,
        effect: Effect,
    ) -> Result<T> {
        match self.ask(operation, command, within, effect).await? {
            Ok(answer) => Ok(answer),
            Err(error) => Err(effect.of(failed(operation, &error), outcome(&error))),
        }
    }

    /// As [`query`](Self::query); `None` where the server answers with this code.
    pub(super) async fn query_unless<T: FromRedisValue>(
        &self,
        operation: &'static str,
        command: &Cmd,
        within: Duration,
        effect: Effect,
        code: &str,
    ) -> Result<Option<T>> {
        match self.ask(operation, command, within, effect).await? {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.code() == Some(code) => Ok(None),
            Err(error) => Err(effect.of(failed(operation, &error), outcome(&error))),
        }
    }

    async fn ask<T: FromRedisValue>(
        &self,
        operation: &'static str,
        command: &Cmd,
        within: Duration,
        effect: Effect,
    ) -> Result<std::result::Result<T, RedisError>> {
        let deadline = Instant::now() + within;
        let up = match &**self.shared.state.load() {
            State::Up(connection) => Some(connection.clone()),
            _ => None,
        };
        let mut connection = match up {
            Some(connection) => connection,
            None => self.join(operation, deadline).await?,
        };
        match timeout_at(deadline, command.query_async(&mut connection)).await {
            Ok(answer) => Ok(answer),
            Err(_) => {
                self.shared.suspect.notify_one();
                Err(effect.of(late(operation, within), Outcome::Unknown))
            }
        }
    }

    /// The connection, waited for while it is being made anew.
    async fn join(&self, operation: &'static str, deadline: Instant) -> Result<MultiplexedConnection> {
        let mut changed = self.shared.changed.subscribe();
        loop {
            match &**self.shared.state.load() {
                State::Up(connection) => return Ok(connection.clone()),
                State::Away(error) => return Err(away(operation, error)),
                State::Joining => {}
            }
            match timeout_at(deadline, changed.changed()).await {
                Ok(_) => {}
                Err(_) => {
                    let message = "Redis was not connected to again in time";
                    return Err(Error::new(ErrorKind::Timeout, operation, message));
                }
            }
        }
    }

    /// Whether the server answers.
    pub(super) async fn probe(&self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let mut connection = self.join("cache.probe", deadline).await?;
        match timeout_at(deadline, ping(&mut connection)).await {
            Ok(answer) => answer.map_err(|error| failed("cache.probe", &error)),
            Err(_) => {
                self.shared.suspect.notify_one();
                Err(late("cache.probe", within))
            }
        }
    }

    /// Ends the connection, also for those who still use it.
    pub(super) fn close(&self) {
        self.keeper.abort();
        let error = Error::new(ErrorKind::Closed, "cache.connect", "this client was replaced");
        self.shared.set(State::Away(error));
    }
}

fn away(operation: &'static str, error: &Error) -> Error {
    Error::new(error.kind(), operation, "Redis is away").with_source(error.clone())
}

fn late(operation: &'static str, within: Duration) -> Error {
    Error::new(ErrorKind::Timeout, operation, format!("Redis did not answer within {within:?}"))
}

impl Shared {
    fn set(&self, state: State) {
        self.state.store(Arc::new(state));
        self.changed.send_replace(());
    }

    /// Connects anew, for as long as it takes.
    async fn reconnect(&self, backoff: &mut Backoff) -> (MultiplexedConnection, Driver) {
        loop {
            match self.dialer.dial(self.tuning.connect_timeout()).await {
                Ok(connected) => return connected,
                Err(error) => {
                    self.set(State::Away(error));
                    sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// Waits until a call has got no answer, nor the question whether anybody is there.
    async fn silent(&self, connection: &MultiplexedConnection) {
        loop {
            self.suspect.notified().await;
            let mut connection = connection.clone();
            if timeout(self.tuning.timeout(), ping(&mut connection)).await.is_err() {
                return;
            }
        }
    }
}

/// Makes the connection anew whenever it fails.
async fn keep(shared: Arc<Shared>, mut connection: MultiplexedConnection, mut driver: Driver) {
    let mut backoff = Backoff::new(BACKOFF);
    loop {
        let since = Instant::now();
        let why = run_until_lost(driver, shared.silent(&connection)).await;
        tracing::warn!(server = %shared.dialer, why, "the connection to Redis is lost");
        if since.elapsed() < SHORT_LIVED {
            let error = Error::new(ErrorKind::Unavailable, "cache.connect", "the connection does not last");
            shared.set(State::Away(error));
            sleep(backoff.pause()).await;
        } else {
            backoff.reset();
            shared.set(State::Joining);
        }
        (connection, driver) = shared.reconnect(&mut backoff).await;
        tracing::info!(server = %shared.dialer, "connected to Redis again");
        shared.set(State::Up(connection.clone()));
    }
}

/// Runs a connection until it is lost, and says why. A task of its own, for answers must not wait
/// for questions whether the server is there.
async fn run_until_lost(driver: Driver, silent: impl Future<Output = ()>) -> &'static str {
    let mut driver = AbortOnDropHandle::new(tokio::spawn(driver));
    tokio::select! {
        _ = &mut driver => "it was closed",
        () = silent => "the server says nothing",
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &**self.shared.state.load() {
            State::Up(_) => "up".to_owned(),
            State::Joining => "joining".to_owned(),
            State::Away(error) => format!("away: {error}"),
        };
        f.debug_struct("Link").field("server", &self.shared.dialer).field("state", &state).finish()
    }
}
