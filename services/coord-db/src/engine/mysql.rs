//! MySQL, and MariaDB.

use std::str::FromStr;

use log::LevelFilter;
use secrecy::ExposeSecret;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, MySql};

use super::sealed::Sealed;
use super::{Engine, check_url};
use crate::config::DbConfig;

const PARAMETERS: [&str; 14] = [
    "sslmode",
    "ssl-mode",
    "sslca",
    "ssl-ca",
    "charset",
    "collation",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "socket",
    "timezone",
    "time-zone",
];

/// The server does not know this variable.
const UNKNOWN_VARIABLE: u16 = 1193;

impl Engine for MySql {}

impl Sealed for MySql {
    const BEGIN: Option<&'static str> = None;

    fn options(config: &DbConfig, _memory: &str) -> Result<MySqlConnectOptions, String> {
        let url = config.url.expose_secret();
        check_url(url, &["mysql", "mariadb"], &PARAMETERS)?;
        // What the parser says may quote the URL.
        let options = MySqlConnectOptions::from_str(url)
            .map_err(|_| "url: it is none, or a parameter has a value that it cannot have".to_owned())?;
        let options = match &config.password {
            Some(password) => options.password(password.expose_secret()),
            None => options,
        };
        Ok(options.log_slow_statements(LevelFilter::Warn, config.slow()))
    }

    fn place(options: &MySqlConnectOptions) -> String {
        let database = options.get_database().unwrap_or("no database");
        match options.get_socket() {
            Some(socket) => format!("{} ({database})", socket.display()),
            None => format!("{}:{} ({database})", options.get_host(), options.get_port()),
        }
    }

    async fn prepare(connection: &mut MySqlConnection, statement_timeout_ms: u64) -> sqlx::Result<()> {
        // MariaDB has another one, in seconds. MySQL's bounds what reads.
        let mysql = format!("SET SESSION max_execution_time = {statement_timeout_ms}");
        match connection.execute(AssertSqlSafe(mysql)).await {
            Err(sqlx::Error::Database(error)) if is_unknown(error.as_ref()) => {
                let seconds = std::time::Duration::from_millis(statement_timeout_ms).as_secs_f64();
                let mariadb = format!("SET SESSION max_statement_time = {seconds}");
                connection.execute(AssertSqlSafe(mariadb)).await.map(drop)
            }
            done => done.map(drop),
        }
    }

    async fn ask(connection: &mut MySqlConnection) -> sqlx::Result<()> {
        connection.execute("SELECT 1").await.map(drop)
    }
}

fn is_unknown(error: &dyn sqlx::error::DatabaseError) -> bool {
    error.try_downcast_ref::<MySqlDatabaseError>().is_some_and(|error| error.number() == UNKNOWN_VARIABLE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_url_names_its_place_and_hides_its_password() {
        let config = DbConfig { url: "mysql://u:hunter2@127.0.0.1:3307/d".into(), ..DbConfig::default() };
        assert_eq!(MySql::place(&MySql::options(&config, "").unwrap()), "127.0.0.1:3307 (d)");
        let config = DbConfig { url: "mysql://u:hunter2@h:port/d".into(), ..DbConfig::default() };
        assert!(!MySql::options(&config, "").unwrap_err().contains("hunter2"));
    }
}
