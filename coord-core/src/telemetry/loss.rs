//! What is known of a loss, and who is told of it.

use std::sync::Arc;

use coord_api::LeaseId;
use serde::{Deserialize, Serialize};

/// Something that a client held and lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LossRecord {
    /// The client's name.
    pub provider: String,
    /// What it was: `lock`, `election`, `id`, `registration`, …
    pub contract: String,
    /// Its name: the key of the lock, for example.
    pub key: String,
    /// Its fencing token, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// The lease that it hung on.
    pub session: LeaseId,
    /// Why: `expired`, `removed` or `superseded`.
    pub reason: String,
    /// How long before that the last renewal had been sent that was answered, in milliseconds.
    pub renewed_ago_ms: u64,
    /// How the last renewal failed, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When, by the client's clock: milliseconds since 1970.
    pub at_ms: u64,
}

/// Keeps what was lost.
pub(crate) trait LossSink: Send + Sync {
    /// These were lost. Does not wait.
    fn record(self: Arc<Self>, records: Vec<LossRecord>);
}
