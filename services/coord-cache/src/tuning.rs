//! What of a cache's configuration is changed in place.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::CacheConfig;

/// The numbers that calls go by. Each call reads them anew.
#[derive(Debug, Default)]
pub(crate) struct Tuning {
    timeout_ms: AtomicU64,
    default_ttl_ms: AtomicU64,
    load_timeout_ms: AtomicU64,
    connect_timeout_ms: AtomicU64,
    max_value_bytes: AtomicU64,
}

impl Tuning {
    pub(crate) fn new(config: &CacheConfig) -> Self {
        let tuning = Tuning::default();
        tuning.set(config);
        tuning
    }

    /// All of them, to be compared.
    pub(crate) fn numbers(&self) -> [u64; 5] {
        [
            &self.timeout_ms,
            &self.default_ttl_ms,
            &self.load_timeout_ms,
            &self.connect_timeout_ms,
            &self.max_value_bytes,
        ]
        .map(|number| number.load(Ordering::Relaxed))
    }

    pub(crate) fn set(&self, config: &CacheConfig) {
        for (number, value) in [
            (&self.timeout_ms, config.timeout_ms),
            (&self.default_ttl_ms, config.default_ttl_ms),
            (&self.load_timeout_ms, config.load_timeout_ms),
            (&self.connect_timeout_ms, config.redis.connect_timeout_ms),
            (&self.max_value_bytes, config.max_value_bytes),
        ] {
            number.store(value, Ordering::Relaxed);
        }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn timeout(&self) -> Duration {
        milliseconds(&self.timeout_ms)
    }

    #[cfg(feature = "redis")]
    pub(crate) fn connect_timeout(&self) -> Duration {
        milliseconds(&self.connect_timeout_ms)
    }

    pub(crate) fn default_ttl(&self) -> Duration {
        milliseconds(&self.default_ttl_ms)
    }

    pub(crate) fn load_timeout(&self) -> Duration {
        milliseconds(&self.load_timeout_ms)
    }

    pub(crate) fn max_value_bytes(&self) -> u64 {
        self.max_value_bytes.load(Ordering::Relaxed)
    }
}

fn milliseconds(number: &AtomicU64) -> Duration {
    Duration::from_millis(number.load(Ordering::Relaxed))
}
