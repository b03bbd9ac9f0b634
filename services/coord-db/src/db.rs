//! A database that follows its configuration.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord::{ErrorKind, Outcome};
use coord_home::{Backoff, BackoffPolicy};
use coord_service::live::{Current, Live, LiveOptions, LiveStatus};
use coord_service::{Component, LiveComponent, Scope, Setting};
use sqlx::Pool;
use tokio::time::{Instant, sleep, timeout_at};

use crate::client::{Client, Pools};
use crate::engine::Engine;
use crate::error::{DbError, is_retryable};
use crate::held::{Held, Shape};
use crate::lent::{Lent, lend};
use crate::transaction::Transaction;

/// How long the pauses are before a connection is asked for again, and a transaction is run again.
const ASK_AGAIN: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(20), Duration::from_millis(200));
const RUN_AGAIN: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(5), Duration::from_millis(500));

/// How often [`Db::transaction_retrying`] runs a transaction.
const RUNS: u32 = 10;

/// To build and probe a pool takes as long as a connection and an answer may take.
const BUILD_WITHIN: Duration = Duration::from_secs(60);

/// A connection for one call.
pub struct Connection<DB: Engine>(Held<DB>);

/// A connection for the body of a [`Db::call`].
pub type LentConnection<DB> = Lent<Connection<DB>>;

/// A transaction for the body of a [`Db::transaction`], which commits it.
pub type LentTransaction<DB> = Lent<Transaction<DB>>;

/// A database: a pool of connections that is made anew when its configuration changes, without a
/// failed call (K1). Cheap to clone; all clones are one.
///
/// | | deadline | for |
/// |---|---|---|
/// | [`pool`](Self::pool) | `acquire_timeout_ms`, and the server's `statement_timeout_ms` | all that sqlx can do |
/// | [`call`](Self::call) | `timeout_ms` too | statements without a transaction |
/// | [`transaction`](Self::transaction) | `timeout_ms` up to the commit, and for the commit | what is written together |
/// | [`begin`](Self::begin) | `timeout_ms` to begin, and to commit | the same, without a closure |
pub struct Db<DB: Engine> {
    live: Arc<Live<Pools<DB>>>,
}

/// The pool that serves at the moment, for one use: a [`sqlx::Pool`].
///
/// As long as this is kept, the pool is not retired, up to the drain. So take it anew for each use,
/// and keep it until the use is over; a clone of the pool that is kept for longer fails.
pub struct PoolRef<DB: Engine>(pub(crate) Current<Client<DB>>);

/// A [`Db`] that is not started yet, for [`App::add`](coord_service::App::add).
pub struct OpenDb<DB: Engine>(LiveComponent<Pools<DB>>);

impl<DB: Engine> Db<DB> {
    /// A database that is configured by `setting`, to be started by
    /// [`App::add`](coord_service::App::add): a required part of the service, closed in
    /// [`Phase::Clients`](coord_service::shutdown::Phase::Clients).
    pub fn open(setting: Setting) -> OpenDb<DB> {
        let pools = Pools::new(setting.component());
        let options = LiveOptions::default().with_timeout(BUILD_WITHIN);
        OpenDb(LiveComponent::new(setting, pools).with_options(options).with_check(Pools::<DB>::check))
    }

    /// The pool that serves at the moment: take it for each use.
    ///
    /// ```
    /// # async fn f(db: coord_db::Db<sqlx::Sqlite>) -> Result<(), coord_db::DbError> {
    /// let rows: Vec<(i64, String)> =
    ///     sqlx::query_as("SELECT id, name FROM rooms").fetch_all(&*db.pool()?).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `Unavailable` while there is none yet, `Closed` after [`close`](Self::close).
    pub fn pool(&self) -> Result<PoolRef<DB>, DbError> {
        Ok(PoolRef(self.live.current()?))
    }

    /// Runs statements on one connection, within `timeout_ms` (K7).
    ///
    /// To get a connection is tried again until `acquire_timeout_ms` are over, on the pool that
    /// serves then: a password that was changed before the configuration followed fails no call.
    ///
    /// # Errors
    ///
    /// Those of the body, and those of the connection. `Timeout` with [`Outcome::Unknown`] where
    /// the body was not done in time: what it had sent may have been done. The connection is closed
    /// then.
    ///
    /// # Cancel safety
    ///
    /// As the body is: a statement that was sent may be done. The connection goes back to the pool
    /// once it has answered.
    pub async fn call<T, E, F, Fut>(&self, body: F) -> Result<T, E>
    where
        F: FnOnce(LentConnection<DB>) -> Fut,
        Fut: Future<Output = Result<T, E>> + Send,
        E: From<DbError>,
    {
        let (mut held, deadline) = self.acquire("db.call").await?;
        let within = held.client.timeout();
        // Until the body is over.
        held.shape = Shape::Doubtful;
        let (lent, back) = lend(Connection(held));
        let done = timeout_at(deadline, body(lent)).await;
        let connection = back.take();
        if let Ok(done) = done {
            if let Some(mut connection) = connection {
                connection.0.shape = Shape::Sound;
            }
            return done;
        }
        let late = DbError::late("db.call", within, Outcome::Unknown);
        if let Some(mut connection) = connection {
            connection.0.client.meter.failed(&late);
            connection.0.shape = Shape::Broken;
        }
        Err(late.into())
    }

    /// Begins a transaction. [`transaction`](Self::transaction) ends it as well.
    ///
    /// With SQLite it is one that writes (`BEGIN IMMEDIATE`): of several, each waits for its turn
    /// here, for `statement_timeout_ms` at most. One that only reads is begun on the
    /// [pool](Self::pool).
    ///
    /// # Errors
    ///
    /// Those of the connection, with [`Outcome::NotApplied`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is left of a dropped call.
    pub async fn begin(&self) -> Result<Transaction<DB>, DbError> {
        self.begin_until().await.map(|(transaction, _)| transaction)
    }

    async fn begin_until(&self) -> Result<(Transaction<DB>, Instant), DbError> {
        let (held, deadline) = self.acquire("db.begin").await?;
        let meter = held.client.meter.clone();
        let begun = Transaction::begin(held, deadline).await;
        if let Err(error) = &begun {
            meter.failed(error);
        }
        Ok((begun?, deadline))
    }

    /// Runs `body` in a transaction that is committed after `Ok`, and rolled back after `Err`, on a
    /// panic, and where the future is dropped (K8).
    ///
    /// ```
    /// # async fn f(db: coord_db::Db<sqlx::Sqlite>) -> Result<(), coord_db::DbError> {
    /// let id = db
    ///     .transaction(|mut tx| async move {
    ///         sqlx::query("UPDATE rooms SET messages = messages + 1").execute(&mut *tx).await?;
    ///         let done = sqlx::query("INSERT INTO messages (text) VALUES (?)")
    ///             .bind("hello")
    ///             .execute(&mut *tx)
    ///             .await?;
    ///         Ok::<_, coord_db::DbError>(done.last_insert_rowid())
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The body returns the error of each statement. With PostgreSQL nothing can be kept after one
    /// has failed, and the commit says so; after a deadlock MySQL has rolled back all that was
    /// before, which the commit does not say.
    ///
    /// # Errors
    ///
    /// Those of the body, and those of [`begin`](Self::begin) and
    /// [`commit`](Transaction::commit). `Timeout`, not applied, where the body was not done within
    /// `timeout_ms` from the beginning (K7). A [`DbError`] of the body is not applied either, be it
    /// one of a connection that broke.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped before the body is over leaves nothing. Dropped later, the commit may
    /// have been sent: all of it is there, or nothing.
    pub async fn transaction<T, E, F, Fut>(&self, body: F) -> Result<T, E>
    where
        F: FnOnce(LentTransaction<DB>) -> Fut,
        Fut: Future<Output = Result<T, E>> + Send,
        E: From<DbError> + 'static,
    {
        let (transaction, deadline) = self.begin_until().await?;
        let within = transaction.timeout();
        let (lent, back) = lend(transaction);
        let done = timeout_at(deadline, body(lent)).await;
        let Some(transaction) = back.take() else {
            let kept = "the body kept the transaction, which is rolled back when it is dropped";
            return Err(DbError::new(ErrorKind::InvalidArgument, "db.transaction", kept).into());
        };
        match done {
            Ok(Ok(value)) => {
                transaction.commit().await?;
                Ok(value)
            }
            Ok(Err(error)) => {
                if let Err(error) = transaction.rollback().await {
                    // The connection is closed, and the server rolls back.
                    tracing::debug!(%error, "a transaction was not rolled back by command");
                }
                Err(not_applied(error))
            }
            Err(_) => {
                let late = DbError::late("db.transaction", within, Outcome::NotApplied);
                transaction.abandon(&late);
                Err(late.into())
            }
        }
    }

    /// As [`transaction`](Self::transaction), and runs the body again where the transaction was in
    /// the way of another one: serialization failures, deadlocks, locks of SQLite. 10 times at
    /// most, with pauses. What the body does beside the transaction is done as often.
    ///
    /// A commit of which the outcome is unknown is never run again.
    ///
    /// # Errors
    ///
    /// Those of the last run.
    ///
    /// # Cancel safety
    ///
    /// As [`transaction`](Self::transaction).
    pub async fn transaction_retrying<T, E, F, Fut>(&self, mut body: F) -> Result<T, E>
    where
        F: FnMut(LentTransaction<DB>) -> Fut,
        Fut: Future<Output = Result<T, E>> + Send,
        E: From<DbError> + std::error::Error + 'static,
    {
        let mut backoff = Backoff::new(RUN_AGAIN);
        for _ in 1..RUNS {
            match self.transaction(&mut body).await {
                Err(error) if is_retryable(&error) => {
                    if let Ok(client) = self.live.current() {
                        client.meter.retried();
                    }
                    sleep(backoff.pause()).await;
                }
                done => return done,
            }
        }
        self.transaction(body).await
    }

    /// A connection, and until when the call may take.
    async fn acquire(&self, operation: &'static str) -> Result<(Held<DB>, Instant), DbError> {
        let mut client = self.live.current()?;
        let (begun, mut backoff) = (Instant::now(), Backoff::new(ASK_AGAIN));
        let deadline = begun + client.timeout();
        let until = deadline.min(begun + client.acquire_timeout);
        loop {
            let acquired = match timeout_at(until, client.pool.acquire()).await {
                Ok(acquired) => acquired,
                Err(_) => Err(sqlx::Error::PoolTimedOut),
            };
            let error = match acquired {
                Ok(connection) => return Ok((Held::new(connection, client), deadline)),
                Err(error) => DbError::from_sqlx(operation, error).with_outcome(Outcome::NotApplied),
            };
            let (number, meter) = (client.number, client.meter.clone());
            // So that its pool can be retired.
            drop(client);
            // Nothing was sent, so that it can be tried again.
            let again = match error.kind() {
                ErrorKind::Unavailable => {
                    let pause = backoff.pause();
                    Instant::now() + pause < until && {
                        sleep(pause).await;
                        true
                    }
                }
                // It is of no use to ask this pool again: the next one is waited for.
                ErrorKind::Unauthenticated | ErrorKind::Closed => {
                    let next = |client: Current<Client<DB>>| client.number != number;
                    let swapped = self.live.wait_for(|_| self.live.current().is_ok_and(next));
                    timeout_at(until, swapped).await.is_ok_and(|status| !status.over)
                }
                _ => false,
            };
            if !again {
                meter.failed(&error);
                return Err(error);
            }
            client = self.live.current()?;
        }
    }

    /// How it is.
    pub fn status(&self) -> LiveStatus {
        self.live.status()
    }

    /// Waits until `wanted` holds of the status, or it is [over](LiveStatus::over).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn wait_for(&self, wanted: impl FnMut(&LiveStatus) -> bool + Send) -> LiveStatus {
        self.live.wait_for(wanted).await
    }

    /// Closes it when nobody uses it any more, after the drain at the latest. At the end of a
    /// service that is done in its turn.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has begun to close.
    pub async fn close(&self) {
        self.live.close().await;
    }
}

/// The error of a body whose transaction was rolled back: whatever its statement did is undone.
fn not_applied<E: 'static>(mut error: E) -> E {
    let any: &mut dyn Any = &mut error;
    if let Some(error) = any.downcast_mut::<DbError>() {
        *error = error.clone().with_outcome(Outcome::NotApplied);
    }
    error
}

impl<DB: Engine> OpenDb<DB> {
    /// The service can do without it: where it is down, the service is degraded.
    #[must_use]
    pub fn optional(self) -> Self {
        OpenDb(self.0.optional())
    }

    /// Sets how the pool is swapped and probed. The [timeout](LiveOptions::timeout) must be longer
    /// than `acquire_timeout_ms` and `timeout_ms` together.
    #[must_use]
    pub fn with_options(self, options: LiveOptions) -> Self {
        OpenDb(self.0.with_options(options))
    }
}

#[async_trait]
impl<DB: Engine> Component for OpenDb<DB> {
    type Handle = Db<DB>;

    async fn start(self, scope: Scope) -> coord::Result<Db<DB>> {
        Ok(Db { live: self.0.start(scope).await? })
    }
}

impl<DB: Engine> Deref for PoolRef<DB> {
    type Target = Pool<DB>;

    fn deref(&self) -> &Pool<DB> {
        &self.0.pool
    }
}

impl<DB: Engine> Deref for Connection<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        &self.0
    }
}

impl<DB: Engine> std::ops::DerefMut for Connection<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        &mut self.0
    }
}

impl<DB: Engine> Clone for Db<DB> {
    fn clone(&self) -> Self {
        Db { live: Arc::clone(&self.live) }
    }
}

impl<DB: Engine> fmt::Debug for Db<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.live.fmt(f)
    }
}

impl<DB: Engine> fmt::Debug for OpenDb<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<DB: Engine> fmt::Debug for PoolRef<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<DB: Engine> fmt::Debug for Connection<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
