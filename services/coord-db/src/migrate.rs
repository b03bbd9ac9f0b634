//! Changes of the tables, each once for all instances of a service.

use coord::Outcome;
use sqlx::migrate::{Migrate, Migrator};
use sqlx::pool::PoolOptions;

use crate::db::Db;
use crate::engine::Engine;
use crate::error::DbError;

impl<DB: Engine> Db<DB>
where
    DB::Connection: Migrate,
{
    /// Applies the migrations that were not applied yet, on a connection of its own, which is
    /// closed afterwards. Nothing bounds how long that takes: neither a deadline of ours, nor
    /// `statement_timeout_ms`.
    ///
    /// PostgreSQL and MySQL have one instance of a service do it while the others wait, by a lock
    /// in the database. With SQLite those of one process wait for each other.
    ///
    /// # Errors
    ///
    /// Those of a migration, with what is in the database and what is not by the rules of sqlx:
    /// each migration is one transaction, where the database can do that.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves the migration under way to the database: it is applied or not.
    pub async fn migrate(&self, migrator: &Migrator) -> Result<(), DbError> {
        let pool = self.pool()?;
        let _alone = pool.0.migrating.lock().await;
        let options = DB::without_statement_timeout(&pool.connect_options());
        let failed = |error| DbError::from_sqlx("db.migrate", error).with_outcome(Outcome::Unknown);
        let own = PoolOptions::<DB>::new().max_connections(1).connect_with(options).await.map_err(failed)?;
        let migrated = migrator.run(&own).await;
        own.close().await;
        migrated.map_err(|error| failed(error.into()))
    }
}
