//! A transaction that ends by a commit, or leaves nothing behind.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use coord::Outcome;
use sqlx::SqlSafeStr;
use sqlx_core::transaction::TransactionManager;
use tokio::time::{Instant, timeout_at};

use crate::engine::Engine;
use crate::error::DbError;
use crate::held::{Held, Shape};
use crate::meter::Ended;

/// How far a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// What begins or ends it was sent, and was not answered yet.
    Sent,
    Over,
}

/// A transaction that was begun by [`Db::begin`](crate::Db::begin). The connection of sqlx is
/// reached as `&mut *transaction`.
///
/// Where it is dropped without a [commit](Self::commit), by an error, a panic, or a future that is
/// dropped, it is rolled back (K8). That goes on in the background; its locks are held until then.
///
/// As long as it is open, its pool is not retired, up to the drain.
pub struct Transaction<DB: Engine> {
    held: Held<DB>,
    phase: Phase,
}

impl<DB: Engine> Transaction<DB> {
    pub(crate) async fn begin(held: Held<DB>, deadline: Instant) -> Result<Self, DbError> {
        let within = held.client.timeout();
        let mut transaction = Transaction { held, phase: Phase::Sent };
        let begun =
            DB::TransactionManager::begin(&mut transaction.held, DB::BEGIN.map(SqlSafeStr::into_sql_str));
        match timeout_at(deadline, begun).await {
            Ok(Ok(())) => {
                transaction.phase = Phase::Open;
                Ok(transaction)
            }
            Ok(Err(error)) => {
                if matches!(error, sqlx::Error::Database(_)) {
                    // The server has said no.
                    transaction.phase = Phase::Over;
                }
                Err(DbError::from_sqlx("db.begin", error).with_outcome(Outcome::NotApplied))
            }
            Err(_) => Err(DbError::late("db.begin", within, Outcome::NotApplied)),
        }
    }

    /// Makes what was done in it last.
    ///
    /// # Errors
    ///
    /// With [`Outcome::NotApplied`] it was rolled back. With [`Outcome::Unknown`] the commit was
    /// sent and not answered, within the call's deadline (K7): what it wrote is there, all of it,
    /// or is not. Look before it is written again.
    ///
    /// `InvalidArgument`, not applied, where an earlier statement of it had failed and PostgreSQL
    /// can only roll back.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has either committed or not, as an `Unknown` one.
    pub async fn commit(mut self) -> Result<(), DbError> {
        let committed = self.try_commit().await;
        self.held.client.meter.ended(match &committed {
            Ok(()) => Ended::Committed,
            Err(error) => error.outcome().into(),
        });
        if let Err(error) = &committed {
            self.held.client.meter.failed(error);
        }
        committed
    }

    async fn try_commit(&mut self) -> Result<(), DbError> {
        let within = self.held.client.timeout();
        let deadline = Instant::now() + within;
        match timeout_at(deadline, DB::before_commit(&mut self.held)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return Err(DbError::from_sqlx("db.commit", error).with_outcome(Outcome::NotApplied));
            }
            Err(_) => {
                self.held.shape = Shape::Broken;
                return Err(DbError::late("db.commit", within, Outcome::NotApplied));
            }
        }
        self.phase = Phase::Sent;
        match timeout_at(deadline, DB::TransactionManager::commit(&mut self.held)).await {
            Ok(Ok(())) => {
                self.phase = Phase::Over;
                Ok(())
            }
            Ok(Err(error)) => {
                if matches!(error, sqlx::Error::Database(_)) {
                    self.phase = Phase::Open;
                }
                Err(DbError::from_commit(error))
            }
            Err(_) => Err(DbError::late("db.commit", within, Outcome::Unknown)),
        }
    }

    /// Undoes what was done in it, and waits until that is so.
    ///
    /// # Errors
    ///
    /// Where the server does not answer within the call's deadline. The connection is closed then,
    /// and the server rolls back by itself: nothing is kept in any case.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it is rolled back in any case.
    pub async fn rollback(mut self) -> Result<(), DbError> {
        let within = self.held.client.timeout();
        self.phase = Phase::Sent;
        self.held.client.meter.ended(Ended::RolledBack);
        let rolled_back = DB::TransactionManager::rollback(&mut self.held);
        match timeout_at(Instant::now() + within, rolled_back).await {
            Ok(Ok(())) => {
                self.phase = Phase::Over;
                Ok(())
            }
            Ok(Err(error)) => Err(DbError::from_sqlx("db.rollback", error).with_outcome(Outcome::NotApplied)),
            Err(_) => Err(DbError::late("db.rollback", within, Outcome::NotApplied)),
        }
    }

    /// Gives it up where a statement of it does not answer: nobody waits for that.
    pub(crate) fn abandon(mut self, why: &DbError) {
        self.held.client.meter.failed(why);
        self.held.shape = Shape::Broken;
    }

    /// How long a call may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.held.client.timeout()
    }
}

impl<DB: Engine> Drop for Transaction<DB> {
    fn drop(&mut self) {
        match self.phase {
            Phase::Over => {}
            Phase::Sent => self.held.shape = Shape::Broken,
            Phase::Open => {
                // `commit` and `rollback` have counted it.
                DB::TransactionManager::start_rollback(&mut self.held);
                if self.held.shape == Shape::Sound {
                    self.held.shape = Shape::Doubtful;
                }
            }
        }
    }
}

impl<DB: Engine> Deref for Transaction<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        &self.held
    }
}

impl<DB: Engine> DerefMut for Transaction<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        &mut self.held
    }
}

impl<DB: Engine> fmt::Debug for Transaction<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("phase", &self.phase).field("held", &self.held).finish()
    }
}
