//! A service with a cache, on a store in memory.
#![allow(dead_code, unreachable_pub, reason = "each test uses what it needs")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use coord::Coord;
use coord::prelude::*;
use coord_cache::Cache;
use coord_service::live::{LiveOptions, LiveStatus};
use coord_service::shutdown::ShutdownOptions;
use coord_service::{App, Boot, OnUnreachable};
use serde_json::Value;
use tokio::time::timeout;

pub const LIMIT: Duration = Duration::from_secs(30);
pub const DOCUMENT: &str = "dev/gateway/cache";

pub struct Service {
    pub app: App,
    pub coord: Coord,
    pub cache: Cache,
}

/// Quick to try again, so that tests do not wait.
pub fn options() -> LiveOptions {
    LiveOptions::default().with_retry(Duration::from_millis(500)).with_probe_every(Duration::from_millis(100))
}

impl Service {
    pub async fn start(document: Option<Value>) -> Service {
        let boot = Boot::bare("gateway")
            .with_shutdown(ShutdownOptions::default().with_linger(Duration::from_millis(1)));
        let coord = boot.connect("memory://", OnUnreachable::Fail).await.unwrap();
        if let Some(document) = document {
            coord.provider().config().set(DOCUMENT, &document).await.unwrap();
        }
        let app = boot.upgrade(&coord).await.unwrap();
        let cache = app.add(Cache::open(app.config("cache")).with_options(options())).await.unwrap();
        app.started();
        Service { app, coord, cache }
    }

    pub async fn put(&self, document: Value) {
        self.coord.provider().config().set(DOCUMENT, &document).await.unwrap();
    }

    /// Waits until the status of the cache is as wanted.
    pub async fn until(&self, what: &str, wanted: impl FnMut(&LiveStatus) -> bool + Send) -> LiveStatus {
        let status = timeout(LIMIT, self.cache.wait_for(wanted)).await;
        status.unwrap_or_else(|_| panic!("never: {what}; {:?}", self.cache.status()))
    }

    pub async fn generation(&self, generation: u64) -> LiveStatus {
        self.until("a generation", |status| status.generation == generation).await
    }

    /// What the health board says of the parts of this name.
    pub fn health(&self, name: &str) -> String {
        let parts = self.app.health().parts();
        parts.iter().filter(|part| part.name == name).map(|part| part.state.to_string()).collect()
    }

    pub async fn end(self) {
        assert!(self.app.end().await.is_clean());
    }
}

/// Waits until `holds`.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < LIMIT, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// An error with all that caused it, in each form in which it may be shown.
pub fn shown(error: &coord::Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(" {error} {error:?}");
        cause = error.source();
    }
    text
}

pub fn shared<T>(value: T) -> Arc<T> {
    Arc::new(value)
}
