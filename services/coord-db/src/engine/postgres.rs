//! PostgreSQL.

use std::str::FromStr;

use log::LevelFilter;
use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Executor, Postgres};

use super::sealed::Sealed;
use super::{Engine, check_url};
use crate::config::DbConfig;

const PARAMETERS: [&str; 19] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "options[",
];

impl Engine for Postgres {}

impl Sealed for Postgres {
    const BEGIN: Option<&'static str> = None;

    fn options(config: &DbConfig, _memory: &str) -> Result<PgConnectOptions, String> {
        let url = config.url.expose_secret();
        check_url(url, &["postgres", "postgresql"], &PARAMETERS)?;
        // What the parser says may quote the URL.
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| "url: it is none, or a parameter has a value that it cannot have".to_owned())?;
        let options = match &config.password {
            Some(password) => options.password(password.expose_secret()),
            None => options,
        };
        Ok(options
            .options([("statement_timeout", config.statement_timeout_ms)])
            .log_slow_statements(LevelFilter::Warn, config.slow()))
    }

    fn place(options: &PgConnectOptions) -> String {
        let database = options.get_database().unwrap_or_else(|| options.get_username());
        match options.get_socket() {
            Some(socket) => format!("{} ({database})", socket.display()),
            None => format!("{}:{} ({database})", options.get_host(), options.get_port()),
        }
    }

    #[cfg(feature = "migrate")]
    fn without_statement_timeout(options: &PgConnectOptions) -> PgConnectOptions {
        // The last one counts.
        options.clone().options([("statement_timeout", 0)])
    }

    async fn ask(connection: &mut PgConnection) -> sqlx::Result<()> {
        connection.execute("SELECT 1").await.map(drop)
    }

    // The server answers a COMMIT of a transaction in which a statement failed by rolling back, and
    // that is no error to sqlx. Any other statement is refused.
    async fn before_commit(connection: &mut PgConnection) -> sqlx::Result<()> {
        Self::ask(connection).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn the_password_counts_before_the_one_in_the_url_and_neither_is_shown() {
        let config = DbConfig {
            url: "postgres://u:hunter1@127.0.0.1:5433/d?sslmode=disable".into(),
            password: Some("hunter2".into()),
            ..DbConfig::default()
        };
        let options = Postgres::options(&config, "").unwrap();
        let shown = format!("{options:?}");
        assert!(shown.contains("hunter2") && !shown.contains("hunter1"), "sqlx shows it: we must not");
        assert_eq!(Postgres::place(&options), "127.0.0.1:5433 (d)");
        assert_eq!(options.get_options(), Some("-c statement_timeout=5000"));
    }

    #[test]
    fn a_url_that_does_not_parse_is_not_quoted() {
        for url in ["postgres://u:hunter2@h:port/d", "postgres://u@h/d?sslmode=hunter2"] {
            let config = DbConfig { url: url.into(), ..DbConfig::default() };
            let error = Postgres::options(&config, "").unwrap_err();
            assert!(error.starts_with("url:") && !error.contains("hunter2"), "{error}");
        }
    }
}
