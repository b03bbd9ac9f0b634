//! How a limiter is doing.

use std::collections::BTreeMap;
use std::fmt;

use coord::config_manager::{ConfigFault, DirectoryStatus};
use coord::{Error, Version, WatchState};

use super::decision::DenialReason;
use super::exact::ExactStatus;
use super::rule::LimitRule;

/// How a limiter is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LimiterStatus {
    /// The rules in use, by name.
    pub rules: BTreeMap<String, RuleStatus>,
    /// Documents that were refused, by name, until they are right: the rule that was there before
    /// stays.
    pub faults: BTreeMap<String, DocumentFault>,
    /// How the documents are followed; `None` when they are not.
    pub watch: Option<WatchState>,
    /// Why the documents could not be read, until they could.
    pub last_error: Option<Error>,
    /// The instances that share the limits of scopes `cluster` and `exact`.
    pub cluster: ClusterStatus,
    /// The exact scope.
    pub exact: ExactStatus,
    /// How many decisions allowed a request because there is no rule for it.
    pub unlimited: u64,
}

/// A rule in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleStatus {
    /// What it says.
    pub limit: LimitRule,
    /// Whether it comes from the program, because there is no document.
    pub is_from_code: bool,
    /// How many buckets are kept for it: those that are not full, and some that are.
    pub buckets: usize,
    /// Why nothing is admitted by this instance's share, where that is so.
    pub closed: Option<DenialReason>,
}

/// Why a document is not in use.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DocumentFault {
    /// The version of the document.
    pub version: Option<Version>,
    /// What is wrong, with line, column and field where they are known.
    pub reason: String,
}

impl fmt::Display for DocumentFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// Where this instance stands among those that share limits (R69).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClusterStanding {
    /// The registry has not been read yet: nothing is admitted for a few seconds at most.
    Waiting,
    /// The registry could not be read since the limiter was started, or there is none: limits are
    /// divided by an assumed number of instances. Strict rules admit nothing.
    Assumed,
    /// This instance is not registered, and admits nothing.
    NotRegistered,
    /// This instance has come, and admits nothing for 1 s.
    Settling,
    /// It has its share.
    Member,
    /// It has gone, and goes on for 1 s, without its burst.
    Leaving,
}

/// The instances that share limits, as this one sees them (R69).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// Where this instance stands.
    pub standing: ClusterStanding,
    /// How many instances are live, as far as is known.
    pub live: Option<usize>,
    /// By how many a limit is divided at this moment: the most that were live of late.
    pub divided_by: u32,
    /// Whether the registry is followed without a break. While it is not, this instance keeps its
    /// share; of strict rules only for as long as its registration is held.
    pub is_connected: bool,
    /// Why the registry could not be read, until it could.
    pub last_error: Option<Error>,
    /// Whether nobody follows the registry any more.
    pub(super) over: bool,
}

/// Why documents are not in use, each with all that is known of it in one line.
pub(super) fn document_faults(directory: &DirectoryStatus) -> BTreeMap<String, DocumentFault> {
    let fault = |(name, fault): (&String, &ConfigFault)| {
        (name.clone(), DocumentFault { version: fault.version, reason: reason(&fault.error) })
    };
    directory.faults.iter().map(fault).collect()
}

/// What is at the bottom of an error says most.
fn reason(error: &Error) -> String {
    let mut reason = error.message().to_owned();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        reason = error.to_string();
        cause = error.source();
    }
    reason
}
