//! What a cache counts.

use std::borrow::Cow;

use coord::ErrorKind;
use metrics::{Counter, Gauge, Label, counter, gauge};

/// The counters of one cache.
pub(crate) struct Meter {
    name: Cow<'static, str>,
    hits: Counter,
    misses: Counter,
    entries: Gauge,
    bytes: Gauge,
}

/// What became of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadResult {
    Loaded,
    Failed,
    TimedOut,
    /// Another call's load was waited for.
    Shared,
}

impl LoadResult {
    fn as_str(self) -> &'static str {
        match self {
            LoadResult::Loaded => "loaded",
            LoadResult::Failed => "failed",
            LoadResult::TimedOut => "timeout",
            LoadResult::Shared => "shared",
        }
    }
}

impl Meter {
    /// By the recorder that is there when it is made.
    pub(crate) fn new(name: &str) -> Self {
        let label = || vec![Label::new("cache", name.to_owned())];
        Meter {
            name: Cow::Owned(name.to_owned()),
            hits: counter!("coord_cache_hits_total", label()),
            misses: counter!("coord_cache_misses_total", label()),
            entries: gauge!("coord_cache_entries", label()),
            bytes: gauge!("coord_cache_bytes", label()),
        }
    }

    #[inline]
    pub(crate) fn found(&self, is_there: bool) {
        if is_there { self.hits.increment(1) } else { self.misses.increment(1) }
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub(crate) fn size(&self, entries: u64, bytes: u64) {
        self.entries.set(entries as f64);
        self.bytes.set(bytes as f64);
    }

    #[cold]
    pub(crate) fn failed(&self, operation: &'static str, kind: ErrorKind) {
        let name = self.name.to_string();
        counter!(
            "coord_cache_errors_total", "cache" => name, "operation" => operation, "kind" => kind.as_str()
        )
        .increment(1);
    }

    pub(crate) fn loaded(&self, result: LoadResult) {
        let name = self.name.to_string();
        counter!("coord_cache_loads_total", "cache" => name, "result" => result.as_str()).increment(1);
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").field("name", &self.name).finish_non_exhaustive()
    }
}
