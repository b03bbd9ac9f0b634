//! The pool that serves, and how it is made, tried and retired.

use std::fmt;
use std::marker::PhantomData;
#[cfg(feature = "migrate")]
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord::{Error, ErrorKind, Outcome, Result};
use coord_service::live::{Change, Reload};
use sqlx::pool::PoolOptions;
use sqlx::{Connection, Pool};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::config::DbConfig;
use crate::engine::Engine;
use crate::error::DbError;
use crate::meter::Meter;

/// How long a pool that is retired may take to close its connections, where those who had them
/// should have given them back.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Tells databases in memory of one process from each other.
static MEMORIES: AtomicU64 = AtomicU64::new(0);

/// A pool, and what a call needs to know of its configuration.
pub(crate) struct Client<DB: Engine> {
    pub(crate) pool: Pool<DB>,
    /// Which of the pools of this component it is.
    pub(crate) number: u64,
    pub(crate) meter: Meter,
    pub(crate) acquire_timeout: Duration,
    timeout_ms: AtomicU64,
    place: String,
    /// Held by the one of this process that changes the tables.
    #[cfg(feature = "migrate")]
    pub(crate) migrating: Arc<Mutex<()>>,
}

impl<DB: Engine> Client<DB> {
    /// How long a call may take.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.load(Ordering::Relaxed))
    }

    /// Whether all connections are in use.
    fn is_exhausted(&self) -> bool {
        self.pool.num_idle() == 0 && self.pool.size() >= self.pool.options().get_max_connections()
    }

    /// Asks the server for an answer.
    async fn ask(&self) -> sqlx::Result<()> {
        if !self.is_exhausted() {
            let mut connection = match self.pool.acquire().await {
                Err(sqlx::Error::PoolTimedOut) if self.is_exhausted() => return self.ask_beside().await,
                acquired => acquired?,
            };
            return DB::ask(&mut connection).await;
        }
        self.ask_beside().await
    }

    /// That callers use all connections says nothing about the server: one more is opened.
    async fn ask_beside(&self) -> sqlx::Result<()> {
        match DB::Connection::connect_with(&self.pool.connect_options()).await {
            Ok(mut connection) => {
                DB::ask(&mut connection).await?;
                connection.close().await
            }
            // It has answered, and the callers have theirs.
            Err(error) if DbError::is_out_of_connections(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl<DB: Engine> fmt::Debug for Client<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("place", &self.place)
            .field("size", &self.pool.size())
            .field("idle", &self.pool.num_idle())
            .finish_non_exhaustive()
    }
}

/// Makes the pools of one component.
pub(crate) struct Pools<DB: Engine> {
    component: String,
    /// The name of the database in memory, should the configuration want one.
    memory: String,
    /// Keeps that database from going with the last connection of a pool.
    keeper: Mutex<Option<DB::Connection>>,
    built: AtomicU64,
    #[cfg(feature = "migrate")]
    migrating: Arc<Mutex<()>>,
    engine: PhantomData<fn() -> DB>,
}

impl<DB: Engine> Pools<DB> {
    pub(crate) fn new(component: &str) -> Self {
        let memory = format!("coord-db-{}", MEMORIES.fetch_add(1, Ordering::Relaxed));
        Pools {
            component: component.to_owned(),
            memory,
            keeper: Mutex::new(None),
            built: AtomicU64::new(0),
            #[cfg(feature = "migrate")]
            migrating: Arc::default(),
            engine: PhantomData,
        }
    }

    /// Whether each field has a value that it can have: those of the URL included.
    pub(crate) fn check(config: &DbConfig) -> Result<(), String> {
        config.check()?;
        DB::options(config, "").map(drop)
    }
}

#[async_trait]
impl<DB: Engine> Reload for Pools<DB> {
    type Config = DbConfig;
    type Client = Client<DB>;

    fn plan(&self, old: &DbConfig, new: &DbConfig) -> Change {
        match () {
            // What is in memory would be left behind without a word.
            () if DB::is_in_memory(old) != DB::is_in_memory(new) => Change::Restart("url"),
            () if !old.has_pool_of(new) => Change::Rebuild,
            () if old.timeout_ms != new.timeout_ms => Change::InPlace,
            () => Change::Same,
        }
    }

    async fn build(&self, config: &DbConfig) -> Result<Client<DB>> {
        let options = DB::options(config, &self.memory)
            .map_err(|message| Error::new(ErrorKind::InvalidArgument, "db.build", message))?;
        let place = DB::place(&options);
        let failed =
            |error| DbError::from_sqlx("db.build", error).with_outcome(Outcome::NotApplied).shown(&place);
        if DB::is_in_memory(config) {
            let mut keeper = self.keeper.lock().await;
            if keeper.is_none() {
                *keeper = Some(DB::Connection::connect_with(&options).await.map_err(failed)?);
            }
        }
        let statement_timeout_ms = config.statement_timeout_ms;
        let pool = PoolOptions::<DB>::new()
            .max_connections(config.max_connections)
            .min_connections(config.min_connections)
            .acquire_timeout(config.acquire_timeout())
            .idle_timeout(Duration::from_millis(config.idle_timeout_ms))
            .max_lifetime(Duration::from_millis(config.max_lifetime_ms))
            .after_connect(move |connection, _| Box::pin(DB::prepare(connection, statement_timeout_ms)))
            .connect_with(options.clone())
            .await;
        let pool = match pool {
            // A pool does not say what it has tried again and again.
            Err(error @ sqlx::Error::PoolTimedOut) => {
                let one = timeout(config.acquire_timeout(), DB::Connection::connect_with(&options)).await;
                return Err(failed(one.ok().and_then(sqlx::Result::err).unwrap_or(error)));
            }
            pool => pool.map_err(failed)?,
        };
        Ok(Client {
            pool,
            number: self.built.fetch_add(1, Ordering::Relaxed),
            meter: Meter::new(&self.component),
            acquire_timeout: config.acquire_timeout(),
            timeout_ms: AtomicU64::new(config.timeout_ms),
            place,
            #[cfg(feature = "migrate")]
            migrating: Arc::clone(&self.migrating),
        })
    }

    async fn probe(&self, client: &Client<DB>) -> Result<()> {
        client.meter.pool(&client.pool);
        let within = client.timeout();
        let asked = match timeout(within, client.ask()).await {
            Ok(asked) => asked.map_err(|error| DbError::from_sqlx("db.probe", error)),
            Err(_) => Err(DbError::late("db.probe", within, Outcome::NotApplied)),
        };
        asked.map_err(|error| error.with_outcome(Outcome::NotApplied).shown(&client.place))
    }

    fn apply(&self, client: &Client<DB>, config: &DbConfig) -> Result<()> {
        client.timeout_ms.store(config.timeout_ms, Ordering::Relaxed);
        Ok(())
    }

    async fn retire(&self, client: &Client<DB>) {
        if timeout(CLOSE_WITHIN, client.pool.close()).await.is_err() {
            tracing::warn!(component = self.component, "a pool was left with connections in use");
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Sqlite;

    use super::*;

    fn plan(old: &str, new: impl Fn(&mut DbConfig)) -> Change {
        let old = DbConfig { url: old.into(), ..DbConfig::default() };
        let mut changed = old.clone();
        new(&mut changed);
        Pools::<Sqlite>::new("db").plan(&old, &changed)
    }

    #[test]
    fn each_field_takes_what_the_table_says() {
        let file = "sqlite:a.db";
        assert_eq!(plan(file, |_| {}), Change::Same);
        assert_eq!(plan(file, |c| c.timeout_ms = 1), Change::InPlace);
        assert_eq!(plan(file, |c| c.max_connections = 1), Change::Rebuild);
        assert_eq!(plan(file, |c| c.password = Some("x".into())), Change::Rebuild);
        assert_eq!(plan(file, |c| c.url = "sqlite:b.db".into()), Change::Rebuild);
        assert_eq!(plan(file, |c| c.url = "".into()), Change::Restart("url"));
        assert_eq!(plan("", |c| c.url = file.into()), Change::Restart("url"));
        assert_eq!(plan("", |c| c.url = "sqlite::memory:".into()), Change::Rebuild, "the same data");
    }
}
