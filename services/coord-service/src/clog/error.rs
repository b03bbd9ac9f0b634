//! What can go wrong with logs.

use std::io;
use std::time::Duration;

/// Why the logs are not as they were asked to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClogError {
    /// A field of the configuration is wrong. The old configuration stays.
    #[error("{field}: {why}")]
    Config {
        /// The field, as in `targets.sqlx`.
        field: String,
        /// What it must be.
        why: String,
    },
    /// The output cannot be opened. The old configuration stays.
    #[error("output: {output} cannot be opened")]
    Output {
        /// What was asked for.
        output: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No thread for writing is to be had. The old configuration stays; trying again may help.
    #[error("no thread for writing logs could be started")]
    NoThread(#[source] io::Error),
    /// The process has a subscriber, or a logger of the crate `log`, already, which stays.
    #[error("the process has a subscriber of traces or a logger already")]
    AlreadyInstalled,
    /// The output did not take everything in time. What is left is still tried, unless the logs
    /// were closed.
    #[error("{records} records were not written within {within:?}")]
    NotWritten {
        /// How many are left.
        records: u64,
        /// How long that was waited for.
        within: Duration,
    },
    /// The logs were closed.
    #[error("the logs were closed")]
    Closed,
}
