//! How metrics are kept.

use std::collections::BTreeMap;

use coord::operations::{DURATION_BUCKETS, RATIO_BUCKETS};

/// How [`Metrics`](super::Metrics) are kept.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MetricsOptions {
    /// How many series a name may have.
    pub series_per_name: usize,
    /// How many series there may be in all.
    pub series: usize,
    /// Labels of every series.
    pub labels: BTreeMap<String, String>,
    /// Buckets of histograms, by name or end of the name. Those of coord's own are as its alerts
    /// need them ([`coord::operations`]).
    pub buckets: BTreeMap<String, Vec<f64>>,
}

impl Default for MetricsOptions {
    fn default() -> Self {
        MetricsOptions {
            series_per_name: 1_000,
            series: 20_000,
            labels: BTreeMap::new(),
            buckets: BTreeMap::from([
                ("_seconds".to_owned(), DURATION_BUCKETS.to_vec()),
                ("_bytes".to_owned(), BYTES.to_vec()),
                ("_ratio".to_owned(), RATIO_BUCKETS.to_vec()),
            ]),
        }
    }
}

impl MetricsOptions {
    /// Sets the buckets of the histograms with this name, or, where it begins with `_`, whose name
    /// ends so. A full name counts before an end. The bounds are finite, and each is greater than
    /// the one before.
    #[must_use]
    pub fn with_buckets(mut self, name: impl Into<String>, bounds: impl Into<Vec<f64>>) -> Self {
        self.buckets.insert(name.into(), bounds.into());
        self
    }

    /// Adds a label to every series, such as the service's name.
    #[must_use]
    pub fn with_label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// Sets how many series there may be: with one name, and in all.
    #[must_use]
    pub fn with_series(mut self, per_name: usize, total: usize) -> Self {
        self.series_per_name = per_name;
        self.series = total;
        self
    }
}

const BYTES: [f64; 10] =
    [64.0, 256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

/// The buckets of what has none of its own.
pub(super) const OTHERS: [f64; 13] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0];
