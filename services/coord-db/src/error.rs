//! The error of databases: the kinds of coord, with what sqlx said as the source.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use coord::{Error, ErrorKind, Outcome};
use sqlx::error::DatabaseError;
use sqlx::sqlite::SqliteError;

use crate::classify::{self, Meaning};

/// A failure of a database: one of [coord's kinds](ErrorKind), which says what to do next, and
/// whether a write was applied.
///
/// What is displayed names the database's code and the constraint, and never a value. The
/// [source](StdError::source) is the error of sqlx: some databases quote values in its text, so
/// think before it is logged.
///
/// | failure | kind |
/// |---|---|
/// | unique or foreign key violated, serialization failure, deadlock, no such row | `Conflict` |
/// | wrong statement or value, `NOT NULL` or `CHECK` violated, failed transaction committed | `InvalidArgument` |
/// | no free connection, statement cancelled, locked, our own deadline | `Timeout` |
/// | no server, broken connection, server ends, standby | `Unavailable` |
/// | too many connections, disk full | `Exhausted` |
/// | wrong user or password | `Unauthenticated` |
/// | no right, file cannot be written | `PermissionDenied` |
/// | a column of another type | `Codec` |
/// | closed | `Closed` |
///
/// It is made by `?` from an error of sqlx or of coord, and becomes an error of coord by `?`.
#[derive(Clone)]
pub struct DbError(Error);

impl DbError {
    pub(crate) fn new(
        kind: ErrorKind,
        operation: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        DbError(Error::new(kind, operation, message))
    }

    /// Our own deadline has passed.
    pub(crate) fn late(operation: &'static str, after: Duration, outcome: Outcome) -> Self {
        let message = format!("it was not done within {after:?}; see timeout_ms");
        DbError(Error::new(ErrorKind::Timeout, operation, message).with_outcome(outcome))
    }

    /// What sqlx said about `operation`.
    pub(crate) fn from_sqlx(operation: &'static str, error: sqlx::Error) -> Self {
        let (meaning, outcome) = judge(&error);
        let message = describe(&error, meaning);
        DbError(Error::new(meaning.kind, operation, message).with_outcome(outcome).with_source(error))
    }

    /// What sqlx said about a commit.
    pub(crate) fn from_commit(error: sqlx::Error) -> Self {
        let outcome = match &error {
            sqlx::Error::Database(_) if !judge(&error).0.unsure => Outcome::NotApplied,
            _ => Outcome::Unknown,
        };
        DbError::from_sqlx("db.commit", error).with_outcome(outcome)
    }

    pub(crate) fn with_outcome(self, outcome: Outcome) -> Self {
        DbError(self.0.with_outcome(outcome))
    }

    /// What went wrong, and so what to do next.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind()
    }

    /// What became of a write: of the statement that failed, or of the whole transaction. `Unknown`
    /// where it was sent and not answered; it must not be repeated without looking.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome()
    }

    /// What was done when it failed, for example `db.commit`.
    pub fn operation(&self) -> &'static str {
        self.0.operation()
    }

    /// What sqlx said, where it said anything.
    pub fn sqlx(&self) -> Option<&sqlx::Error> {
        self.0.source()?.downcast_ref()
    }

    /// The constraint that was violated, where the database names it.
    pub fn constraint(&self) -> Option<&str> {
        self.sqlx()?.as_database_error()?.constraint()
    }

    /// Whether there is such a row already.
    pub fn is_unique_violation(&self) -> bool {
        self.sqlx().and_then(sqlx::Error::as_database_error).is_some_and(|error| error.is_unique_violation())
    }

    /// Whether the transaction as a whole may succeed when it is run again: it changed nothing, and
    /// was only in the way of another one.
    pub fn is_retryable(&self) -> bool {
        self.outcome() == Outcome::NotApplied && self.sqlx().is_some_and(|error| judge(error).0.retry)
    }

    /// Whether the server has refused one more connection because there are too many.
    pub(crate) fn is_out_of_connections(error: &sqlx::Error) -> bool {
        judge(error).0.advice == classify::OUT_OF_CONNECTIONS
    }

    /// As an error for logs and status, whose chain of causes holds no value.
    pub(crate) fn shown(self, place: &str) -> Error {
        Error::new(self.kind(), self.operation(), self.0.message().to_owned())
            .with_outcome(self.outcome())
            .about(place)
    }
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for DbError {
    /// As displayed: what sqlx said may quote values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DbError")
            .field("kind", &self.kind())
            .field("outcome", &self.outcome())
            .field("operation", &self.operation())
            .field("message", &self.0.message())
            .finish()
    }
}

impl StdError for DbError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        DbError::from_sqlx("db.statement", error)
    }
}

impl From<Error> for DbError {
    fn from(error: Error) -> Self {
        DbError(error)
    }
}

impl From<DbError> for Error {
    fn from(error: DbError) -> Self {
        error.0
    }
}

/// Whether an error, or one that caused it, is of a transaction that may succeed when it is run
/// again.
pub(crate) fn is_retryable(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<DbError>() {
            return error.is_retryable();
        }
        if let Some(error) = error.downcast_ref::<sqlx::Error>() {
            return judge(error).0.retry;
        }
        next = error.source();
    }
    false
}

/// What an error of sqlx means, and what it says about a write of which it is the answer.
fn judge(error: &sqlx::Error) -> (Meaning, Outcome) {
    let plain = |kind, advice| Meaning { kind, advice, retry: false, unsure: true };
    match error {
        sqlx::Error::Database(error) => (meaning(error.as_ref()), Outcome::NotApplied),
        sqlx::Error::PoolTimedOut => (
            plain(
                ErrorKind::Timeout,
                "no connection was free or could be opened within acquire_timeout_ms; \
                 hold them shorter, or raise max_connections",
            ),
            Outcome::NotApplied,
        ),
        sqlx::Error::PoolClosed => {
            (plain(ErrorKind::Closed, "the pool was closed; take it anew for each use"), Outcome::NotApplied)
        }
        sqlx::Error::RowNotFound => (
            plain(ErrorKind::Conflict, "there is no such row; where that can be, use fetch_optional"),
            Outcome::NotApplied,
        ),
        sqlx::Error::Io(_) => (
            plain(ErrorKind::Unavailable, "the server is not reached, or broke the connection"),
            Outcome::Unknown,
        ),
        sqlx::Error::Tls(_) => (
            plain(ErrorKind::Unavailable, "there is no TLS with the server; see sslmode and certificates"),
            Outcome::NotApplied,
        ),
        sqlx::Error::Configuration(_) => {
            (plain(ErrorKind::InvalidArgument, "the connection cannot be configured so"), Outcome::NotApplied)
        }
        sqlx::Error::InvalidArgument(_) | sqlx::Error::Encode(_) | sqlx::Error::TypeNotFound { .. } => {
            (plain(ErrorKind::InvalidArgument, "a value cannot be sent so"), Outcome::NotApplied)
        }
        // The statement was run: it is its answer that is not understood.
        sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. } => {
            (plain(ErrorKind::Codec, "a column is not of the type that was asked for"), Outcome::Unknown)
        }
        sqlx::Error::WorkerCrashed => {
            (plain(ErrorKind::Unavailable, "the connection has ended"), Outcome::Unknown)
        }
        sqlx::Error::Protocol(_) => {
            (plain(ErrorKind::Unavailable, "the server's answer is not understood"), Outcome::Unknown)
        }
        _ => (plain(ErrorKind::Internal, "sqlx failed; see the source of the error"), Outcome::Unknown),
    }
}

fn meaning(error: &dyn DatabaseError) -> Meaning {
    if let Some(meaning) = classify::constraint(&error.kind()) {
        return meaning;
    }
    let code = error.code().unwrap_or_default();
    if error.try_downcast_ref::<SqliteError>().is_some() {
        return classify::sqlite(code.parse().unwrap_or_default());
    }
    #[cfg(feature = "mysql")]
    if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return classify::mysql(error.number()).unwrap_or_else(|| classify::sqlstate(&code));
    }
    classify::sqlstate(&code)
}

/// What to do, and what the database calls it, without what it says: that may quote values.
fn describe(error: &sqlx::Error, meaning: Meaning) -> String {
    let Some(database) = error.as_database_error() else {
        return match error {
            // Of the operating system: it knows no values.
            sqlx::Error::Io(error) => format!("{} ({error})", meaning.advice),
            sqlx::Error::Tls(error) => format!("{} ({error})", meaning.advice),
            _ => meaning.advice.to_owned(),
        };
    };
    let code = database.code().unwrap_or_default();
    match (database.constraint(), database.table()) {
        (Some(constraint), _) => format!("{} (code {code}, constraint {constraint})", meaning.advice),
        (None, Some(table)) => format!("{} (code {code}, table {table})", meaning.advice),
        (None, None) => format!("{} (code {code})", meaning.advice),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_error_of_coord_and_back_stays_as_it_is() {
        let error = DbError::from(sqlx::Error::PoolTimedOut);
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotApplied));
        assert!(matches!(error.sqlx(), Some(sqlx::Error::PoolTimedOut)));
        let error = Error::from(error);
        assert!(error.source().is_some_and(|source| source.is::<sqlx::Error>()));
        assert!(DbError::from(error).sqlx().is_some());
    }

    #[test]
    fn a_commit_without_an_answer_is_unknown() {
        let broken = || sqlx::Error::Io(io::ErrorKind::BrokenPipe.into());
        assert_eq!(DbError::from_commit(broken()).outcome(), Outcome::Unknown);
        assert_eq!(DbError::from_commit(sqlx::Error::WorkerCrashed).outcome(), Outcome::Unknown);
        assert!(!DbError::from_commit(broken()).is_retryable());
    }

    #[test]
    fn what_is_shown_has_no_causes() {
        let error = DbError::from(sqlx::Error::Protocol("a value".to_owned())).shown("127.0.0.1:1 (d)");
        assert!(error.source().is_none() && !error.to_string().contains("a value"), "{error}");
        assert!(error.to_string().contains("127.0.0.1:1 (d)"), "{error}");
    }
}
