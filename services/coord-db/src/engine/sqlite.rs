//! SQLite: in a file, or in memory.

use std::str::FromStr;

use log::LevelFilter;
use secrecy::ExposeSecret;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};
use sqlx::{ConnectOptions, Executor, Sqlite};

use super::sealed::Sealed;
use super::{Engine, has_scheme};
use crate::config::DbConfig;

/// How the database in memory can be called.
const MEMORY: [&str; 3] = ["", "sqlite::memory:", "sqlite://:memory:"];

impl Engine for Sqlite {}

impl Sealed for Sqlite {
    // Two that began by reading could not both go on to write. So one waits for the other at the
    // beginning, where there is nothing to repeat.
    const BEGIN: Option<&'static str> = Some("BEGIN IMMEDIATE");

    fn options(config: &DbConfig, memory: &str) -> Result<SqliteConnectOptions, String> {
        let options = if Self::is_in_memory(config) {
            // One database for all connections of this process, with locks as those of a file.
            SqliteConnectOptions::new().filename(format!("/{memory}")).vfs("memdb").create_if_missing(true)
        } else {
            let url = config.url.expose_secret();
            has_scheme(url, &["sqlite"])?;
            let file = url.trim_start_matches("sqlite:").trim_start_matches("//");
            if file.is_empty() || file.starts_with('?') || url.contains("mode=memory") {
                // A database for each connection, or one that is gone with the pool.
                return Err("url: it names no file, and memory is `sqlite::memory:`".to_owned());
            }
            let options = SqliteConnectOptions::from_str(url).map_err(|error| format!("url: {error}"))?;
            // Readers and the writer do not wait for each other.
            match url.contains("mode=") {
                true => options,
                false => options.create_if_missing(true).journal_mode(SqliteJournalMode::Wal),
            }
        };
        if config.password.is_some() {
            return Err("password: SQLite has none".to_owned());
        }
        Ok(options
            .busy_timeout(config.statement_timeout())
            .log_slow_statements(LevelFilter::Warn, config.slow()))
    }

    fn place(options: &SqliteConnectOptions) -> String {
        options.get_filename().display().to_string()
    }

    fn is_in_memory(config: &DbConfig) -> bool {
        MEMORY.contains(&config.url.expose_secret())
    }

    async fn ask(connection: &mut SqliteConnection) -> sqlx::Result<()> {
        connection.execute("SELECT 1").await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn what_is_wrong_names_its_field() {
        let wrong = |url: &str, password: Option<&str>| {
            let config =
                DbConfig { url: url.into(), password: password.map(Into::into), ..DbConfig::default() };
            Sqlite::options(&config, "name").unwrap_err()
        };
        assert!(wrong("postgres://u:hunter2@h/d", None).starts_with("url: it must begin with sqlite:"));
        assert!(wrong("sqlite:x?mode=what", None).starts_with("url:"));
        for url in ["sqlite:", "sqlite://", "sqlite:?mode=rwc", "sqlite:a?mode=memory&cache=shared"] {
            assert!(wrong(url, None).contains("names no file"), "{url}");
        }
        assert_eq!(wrong("", Some("hunter2")), "password: SQLite has none");
    }

    #[test]
    fn memory_has_several_names_and_a_file_one() {
        for url in MEMORY {
            assert!(Sqlite::is_in_memory(&DbConfig { url: url.into(), ..DbConfig::default() }));
        }
        let config = DbConfig { url: "sqlite:a/b.db".into(), ..DbConfig::default() };
        assert_eq!(Sqlite::place(&Sqlite::options(&config, "name").unwrap()), "a/b.db");
    }
}
