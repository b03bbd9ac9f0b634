//! A service with a database, and its configuration.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

use std::sync::Arc;
use std::time::Duration;

use coord::{ConfigCenter, ConfigCenterExt};
use coord_db::{Db, Engine};
use coord_service::live::{LiveOptions, LiveStatus};
use coord_service::{App, Boot, OnUnreachable};
use serde_json::Value;

/// The deadline of what happens soon.
pub const SOON: Duration = Duration::from_secs(30);

/// Where the configuration of the database lies.
pub const KEY: &str = "dev/im/db";

/// A service with a database.
pub struct Service<DB: Engine> {
    pub app: App,
    pub db: Db<DB>,
}

impl<DB: Engine> Service<DB> {
    /// A service on an own store in memory, whose database has this configuration.
    pub async fn start(config: Value) -> Self {
        let boot = Boot::bare("im");
        let coord = boot.connect("memory://", OnUnreachable::Fail).await.unwrap();
        let app = boot.upgrade(&coord).await.unwrap();
        set(app.coord().provider().config(), &config).await;
        let options = LiveOptions::default()
            .with_probe_every(Duration::from_millis(50))
            .with_retry(Duration::from_millis(200));
        let db = app.add(Db::<DB>::open(app.config("db")).with_options(options)).await.unwrap();
        app.started();
        Service { app, db }
    }

    /// Changes the configuration.
    pub async fn configure(&self, config: Value) {
        set(self.app.coord().provider().config(), &config).await;
    }

    /// Waits for a state of the pool.
    pub async fn until(&self, what: &str, wanted: impl FnMut(&LiveStatus) -> bool + Send) -> LiveStatus {
        let waited = tokio::time::timeout(SOON, self.db.wait_for(wanted)).await;
        waited.unwrap_or_else(|_| panic!("not within {SOON:?}: {what}; {:?}", self.db.status()))
    }

    /// Ends it.
    pub async fn end(self) {
        drop(self.db);
        let report = self.app.end().await;
        assert!(report.is_clean(), "{report:?}");
    }
}

async fn set(config: &Arc<dyn ConfigCenter>, value: &Value) {
    config.set(KEY, value).await.unwrap();
}

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Polls a future so many times, each time when it has asked for it, and drops it. Says whether it
/// was over.
pub async fn poll_times<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut polled = 0;
    std::future::poll_fn(|context| {
        polled += 1;
        match future.as_mut().poll(context) {
            std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
            std::task::Poll::Pending if polled >= times => std::task::Poll::Ready(None),
            std::task::Poll::Pending => std::task::Poll::Pending,
        }
    })
    .await
}

#[cfg(feature = "migrate")]
mod migrations {
    use std::sync::Arc;

    use coord_db::sqlx::SqlSafeStr;
    use coord_db::sqlx::migrate::{Migration, MigrationType, Migrator};

    /// Two migrations: the second one counts how often it was applied.
    pub fn migrator() -> Arc<Migrator> {
        let migration = |version, statement: &'static str| {
            let (kind, text) = (MigrationType::Simple, statement.into_sql_str());
            Migration::new(version, "a change".into(), kind, text, false)
        };
        Arc::new(Migrator::with_migrations(vec![
            migration(1, "CREATE TABLE migrated (value INTEGER); INSERT INTO migrated VALUES (0)"),
            migration(2, "UPDATE migrated SET value = value + 1"),
        ]))
    }
}

#[cfg(feature = "migrate")]
#[allow(unused_imports, reason = "each test program uses a part of it")]
pub use migrations::migrator;
