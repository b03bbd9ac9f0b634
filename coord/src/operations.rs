#![doc = include_str!("../OPERATIONS.md")]

/// Upper bounds for histograms of durations, in seconds: from what a store in memory needs to what
/// an outage costs. For every metric whose name ends in `_duration_seconds`.
pub const DURATION_BUCKETS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

/// Upper bounds for histograms of shares, such as `coord_lease_margin_ratio`; the alerts need that
/// of 0.4.
pub const RATIO_BUCKETS: [f64; 10] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
