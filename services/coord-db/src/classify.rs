//! What a database's own number for a failure means: pure tables.

use coord::ErrorKind;

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meaning {
    pub(crate) kind: ErrorKind,
    /// What it is and what to do, without values.
    pub(crate) advice: &'static str,
    /// Whether the whole transaction succeeds when it is run again.
    pub(crate) retry: bool,
    /// Whether the answer says nothing about a commit that was under way.
    pub(crate) unsure: bool,
}

const fn means(kind: ErrorKind, advice: &'static str) -> Meaning {
    Meaning { kind, advice, retry: false, unsure: false }
}

/// It was in the way of somebody else, and is run again.
const fn again(advice: &'static str) -> Meaning {
    Meaning { kind: ErrorKind::Conflict, advice, retry: true, unsure: false }
}

/// The server went away, or cannot go on.
const fn unsure(kind: ErrorKind, advice: &'static str) -> Meaning {
    Meaning { kind, advice, retry: false, unsure: true }
}

/// The meaning of each kind of constraint.
pub(crate) fn constraint(kind: &sqlx::error::ErrorKind) -> Option<Meaning> {
    use sqlx::error::ErrorKind as Sqlx;
    Some(match kind {
        Sqlx::UniqueViolation | Sqlx::ExclusionViolation => {
            means(ErrorKind::Conflict, "there is such a row already; read it, or take another key")
        }
        Sqlx::ForeignKeyViolation => means(
            ErrorKind::Conflict,
            "the row refers to one that is not there, or is referred to; write the other one first",
        ),
        Sqlx::NotNullViolation => means(ErrorKind::InvalidArgument, "a column must have a value"),
        Sqlx::CheckViolation => means(ErrorKind::InvalidArgument, "a value is none that the table takes"),
        _ => return None,
    })
}

const LOCKED: &str = "another transaction holds a lock for too long; make transactions shorter";
const CANCELLED: &str = "the statement took too long and was cancelled; see statement_timeout_ms";
const SHUTDOWN: &str = "the server ends or is starting; it is tried again by itself";
const FULL: &str = "the disk or a limit of the database is full; make room";
const STATEMENT: &str = "the statement is wrong, or names what is not there";
const VALUE: &str = "a value is none that its column takes";
const FORBIDDEN: &str = "the user may not do that; grant it the right";
const CREDENTIALS: &str = "the user or the password is refused; repair the configuration";
pub(crate) const OUT_OF_CONNECTIONS: &str =
    "the server has no connection left; lower max_connections of the pools, or raise the server's";
const READ_ONLY: &str = "the server takes no writes at the moment; it may be a standby";

/// The meaning of an SQLSTATE of PostgreSQL, and of MySQL where its own number says no more.
pub(crate) fn sqlstate(code: &str) -> Meaning {
    use ErrorKind::{Conflict, Exhausted, Internal, InvalidArgument, Timeout, Unavailable};
    match code {
        "40001" => again("another transaction was faster; run this one again"),
        "40P01" => again("transactions waited for each other, and this one was ended; run it again"),
        "25006" => means(Unavailable, READ_ONLY),
        "25P02" => means(
            InvalidArgument,
            "an earlier statement of the transaction failed, so that nothing of it is kept; \
             return the error of that statement",
        ),
        "25P03" | "25P04" => means(Timeout, "the transaction took too long, and was ended by the server"),
        "28000" | "28P01" => means(ErrorKind::Unauthenticated, CREDENTIALS),
        "3D000" | "3F000" => means(InvalidArgument, "there is no such database or schema"),
        "42501" => means(ErrorKind::PermissionDenied, FORBIDDEN),
        "53300" | "08004" => unsure(Exhausted, OUT_OF_CONNECTIONS),
        "55P03" => means(Timeout, LOCKED),
        "57014" | "70100" => means(Timeout, CANCELLED),
        "57P01" | "57P02" | "57P03" | "57P05" => unsure(Unavailable, SHUTDOWN),
        _ => match code.get(..2).unwrap_or_default() {
            "08" => unsure(Unavailable, "the connection broke"),
            "0A" | "42" | "26" | "34" | "54" => means(InvalidArgument, STATEMENT),
            "21" | "22" => means(InvalidArgument, VALUE),
            "23" | "44" => means(Conflict, "the rows do not satisfy a constraint"),
            "40" => unsure(Conflict, "the transaction was rolled back"),
            "53" => unsure(Exhausted, FULL),
            "55" => means(Conflict, "what it needs is not in the state for it"),
            "58" => unsure(Unavailable, "the server's machine fails; see the server's log"),
            "P0" => means(InvalidArgument, "a function of the database refused it"),
            _ => unsure(Internal, "the database failed; see its log"),
        },
    }
}

/// The meaning of a result code of SQLite, the extended one.
pub(crate) fn sqlite(code: u32) -> Meaning {
    use ErrorKind::{Conflict, Exhausted, Internal, InvalidArgument, PermissionDenied, Timeout, Unavailable};
    // SQLITE_BUSY_SNAPSHOT: what was read is not the newest any more.
    if code == 517 {
        return again("another connection wrote what this transaction has read; run it again");
    }
    match code & 0xff {
        1 | 25 => means(InvalidArgument, STATEMENT),
        3 | 23 => means(PermissionDenied, FORBIDDEN),
        4 => again("the statement was ended by another one; run the transaction again"),
        // It has waited for statement_timeout_ms already.
        5 => Meaning { retry: true, ..means(Timeout, LOCKED) },
        6 => again("another connection has locked the table; run the transaction again"),
        7 => means(Exhausted, "there is no memory left"),
        8 => means(PermissionDenied, "the file cannot be written"),
        9 => means(Timeout, CANCELLED),
        10 => unsure(Unavailable, "the disk fails"),
        11 => means(Internal, "the file is damaged; bring back a copy of it"),
        13 => means(Exhausted, FULL),
        14 => means(Unavailable, "the file cannot be opened; see whether its directory is there"),
        17 => again("the tables have changed; run the transaction again"),
        18 | 20 => means(InvalidArgument, VALUE),
        19 => means(Conflict, "the rows do not satisfy a constraint"),
        26 => means(InvalidArgument, "the file is no database"),
        _ => unsure(Internal, "SQLite failed"),
    }
}

/// The meaning of a number of MySQL, where its SQLSTATE does not say it.
#[cfg(any(feature = "mysql", test))]
pub(crate) fn mysql(number: u16) -> Option<Meaning> {
    use ErrorKind::{Exhausted, InvalidArgument, PermissionDenied, Timeout, Unavailable};
    Some(match number {
        1044 | 1142 | 1143 | 1227 | 1370 => means(PermissionDenied, FORBIDDEN),
        1040 | 1203 | 1226 => unsure(Exhausted, OUT_OF_CONNECTIONS),
        1021 | 1041 | 1114 => unsure(Exhausted, FULL),
        1045 | 1698 => means(ErrorKind::Unauthenticated, CREDENTIALS),
        1205 | 3572 => Meaning { retry: true, ..means(Timeout, LOCKED) },
        1213 => again("transactions waited for each other, and this one was ended; run it again"),
        1290 | 1792 | 1836 => means(Unavailable, READ_ONLY),
        1366 => means(InvalidArgument, VALUE),
        1053 | 1077 | 1079 => unsure(Unavailable, SHUTDOWN),
        1317 | 1969 | 3024 => means(Timeout, CANCELLED),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_run_again_is_known_for_each_database() {
        for meaning in [sqlstate("40001"), sqlstate("40P01"), sqlite(517), sqlite(5), sqlite(6)] {
            assert!(meaning.retry && !meaning.unsure, "{meaning:?}");
        }
        assert!(mysql(1213).is_some_and(|meaning| meaning.retry));
        assert!(!sqlstate("23505").retry && !sqlstate("57P01").retry && !sqlite(13).retry);
    }

    #[test]
    fn an_end_of_the_server_says_nothing_about_a_commit() {
        for code in ["57P01", "57P02", "08006", "58030", "XX000", "40003"] {
            assert!(sqlstate(code).unsure, "{code}");
        }
        for code in ["23505", "40001", "25P02", "22001", "P0001"] {
            assert!(!sqlstate(code).unsure, "{code}");
        }
    }

    #[test]
    fn kinds_say_what_to_do() {
        let kinds = [
            ("28P01", ErrorKind::Unauthenticated),
            ("42501", ErrorKind::PermissionDenied),
            ("42P01", ErrorKind::InvalidArgument),
            ("53300", ErrorKind::Exhausted),
            ("53100", ErrorKind::Exhausted),
            ("57014", ErrorKind::Timeout),
            ("57P03", ErrorKind::Unavailable),
            ("", ErrorKind::Internal),
        ];
        for (code, kind) in kinds {
            assert_eq!(sqlstate(code).kind, kind, "{code}");
        }
        // SQLITE_READONLY_DBMOVED, SQLITE_IOERR_WRITE, SQLITE_FULL, SQLITE_CANTOPEN_ISDIR.
        let kinds = [
            (1032, ErrorKind::PermissionDenied),
            (778, ErrorKind::Unavailable),
            (13, ErrorKind::Exhausted),
            (526, ErrorKind::Unavailable),
        ];
        for (code, kind) in kinds {
            assert_eq!(sqlite(code).kind, kind, "{code}");
        }
        assert_eq!(mysql(1045).map(|meaning| meaning.kind), Some(ErrorKind::Unauthenticated));
        assert_eq!(mysql(1064), None);
    }
}
