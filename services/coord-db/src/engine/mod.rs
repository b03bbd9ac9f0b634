//! What differs between databases, beyond what sqlx makes alike.

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod sqlite;

use std::future::Future;

use sqlx::{Connection, Database};

use crate::config::DbConfig;

/// How connections of a database are opened.
pub(crate) type ConnectOptions<DB> = <<DB as Database>::Connection as Connection>::Options;

/// A database that [`Db`](crate::Db) is for: [`Sqlite`](sqlx::Sqlite), and with the features of
/// these names [`Postgres`](sqlx::Postgres) and [`MySql`](sqlx::MySql). It cannot be implemented by
/// others.
pub trait Engine: Database + sealed::Sealed {}

pub(crate) mod sealed {
    use super::{ConnectOptions, DbConfig, Future};

    /// What [`Db`](crate::Db) asks of a database. Errors of `options` are for people: they name the
    /// field, and hold no secret.
    pub trait Sealed: sqlx::Database {
        /// What begins a transaction, where it is not `BEGIN`.
        const BEGIN: Option<&'static str>;

        /// How to open connections. `memory` is the name of the database that lives in this
        /// process, where the configuration is for one.
        fn options(config: &DbConfig, memory: &str) -> Result<ConnectOptions<Self>, String>;

        /// Where that is, without secrets.
        fn place(options: &ConnectOptions<Self>) -> String;

        /// Whether the database is gone with its last connection.
        fn is_in_memory(_config: &DbConfig) -> bool {
            false
        }

        /// Tells a new connection what cannot be said when it is opened.
        fn prepare(
            _connection: &mut Self::Connection,
            _statement_timeout_ms: u64,
        ) -> impl Future<Output = sqlx::Result<()>> + Send {
            async { Ok(()) }
        }

        /// The same without a bound on a statement.
        #[cfg(feature = "migrate")]
        fn without_statement_timeout(options: &ConnectOptions<Self>) -> ConnectOptions<Self> {
            options.clone()
        }

        /// Asks for an answer.
        fn ask(connection: &mut Self::Connection) -> impl Future<Output = sqlx::Result<()>> + Send;

        /// Fails where the transaction has failed already, so that to commit it would do nothing
        /// and say that all is well.
        fn before_commit(
            _connection: &mut Self::Connection,
        ) -> impl Future<Output = sqlx::Result<()>> + Send {
            async { Ok(()) }
        }
    }
}

/// Looks whether a URL has one of these schemes, and only parameters of these names, or that begin
/// with one that ends in `[`. sqlx would log the value of one that it does not know, which may be a
/// misspelt password.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn check_url(url: &str, schemes: &[&str], known: &[&str]) -> Result<(), String> {
    has_scheme(url, schemes)?;
    // Else the rest of a password that was not encoded would be taken for a host or a database.
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    if after_scheme.split(['/', '?', '#']).skip(1).any(|part| part.contains('@')) {
        return Err("url: a `/`, `?`, `#` or `@` in a name or a password must be percent-encoded".to_owned());
    }
    let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
    let parameters = parameters.split_once('#').map_or(parameters, |(parameters, _)| parameters);
    let is_known = |parameter: &str| {
        parameter.split_once('=').is_some_and(|(name, _)| {
            known.iter().any(|known| *known == name || known.ends_with('[') && name.starts_with(known))
        })
    };
    match parameters.split('&').all(|parameter| parameter.is_empty() || is_known(parameter)) {
        true => Ok(()),
        // Not which: where a password has a question mark in it, that would be a part of it.
        false => Err(format!("url: it has a parameter that is none of {}", known.join(", "))),
    }
}

fn has_scheme(url: &str, schemes: &[&str]) -> Result<(), String> {
    let given = url.split_once(':').map_or("", |(scheme, _)| scheme);
    if schemes.contains(&given) {
        return Ok(());
    }
    let schemes = schemes.join(": or ");
    match given.is_empty() {
        true if url.is_empty() => Err(format!("url: it is missing, and must begin with {schemes}:")),
        _ => Err(format!("url: it must begin with {schemes}: (the engine is the program's choice)")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    #[cfg(any(feature = "postgres", feature = "mysql"))]
    #[test]
    fn a_url_is_refused_without_being_shown() {
        use super::*;

        let known = ["sslmode", "options["];
        let check = |url: &str| check_url(url, &["postgres", "postgresql"], &known);
        let refused = |url: &str| check(url).unwrap_err();
        assert!(refused("").contains("missing"));
        assert!(refused("hunter2").contains("must begin with postgres: or postgresql:"));
        assert_eq!(
            refused("postgres://h/d?sslmode=x&passwort=hunter2"),
            "url: it has a parameter that is none of sslmode, options["
        );
        let urls = ["hunter2", "mysql://u:hunter2@h/d", "postgres://h/d?hunter2", "hunter2:x"];
        let unencoded =
            ["postgres://u:a?hunter2=b@h/d", "postgres://u:1/hunter2@h/d", "postgres://u:1#hunter2@h/d"];
        for url in urls.into_iter().chain(unencoded) {
            assert!(!refused(url).contains("hunter2"), "{url}");
        }
        check("postgres://u:p@h/d?sslmode=b&options[search_path]=x#y").unwrap();
    }
}
