//! What can be seen of a config manager besides its value.

use std::collections::BTreeMap;
use std::fmt;

use coord_api::{Error, Version, WatchState, WatchStatus};

/// How a config manager is doing (R23).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConfigStatus {
    /// Where the value in use comes from.
    pub source: ConfigSource,
    /// Whether the key was absent when last heard of. A loaded value may still be in use then, by
    /// [policy](super::DeletePolicy).
    pub missing: bool,
    /// What went wrong last, until something goes right.
    pub last_error: Option<ConfigFault>,
    /// How the watch is doing; `None` when the manager is not running. `Suspended` also while the
    /// first load is under way or tried again. `Ended` when the config centre was closed.
    pub watch: Option<WatchState>,
}

impl ConfigStatus {
    /// The version of the value in use; `None` while that is the default.
    pub fn version(&self) -> Option<Version> {
        match self.source {
            ConfigSource::Loaded(version) => Some(version),
            ConfigSource::Default => None,
        }
    }
}

/// How a directory is doing (R67).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DirectoryStatus {
    /// How many documents are in use.
    pub documents: usize,
    /// What went wrong with single documents, by name, until something goes right with them:
    /// mostly, why one is not in use as it stands in the config centre. Keys that no call takes are
    /// among them, with what is no UTF-8 in them escaped.
    pub faults: BTreeMap<String, ConfigFault>,
    /// Why the directory could not be read, until it could.
    pub last_error: Option<ConfigFault>,
    /// Everything up to this revision was taken.
    pub seen: Version,
    /// How the watch is doing; `None` when the directory is not followed.
    pub watch: Option<WatchState>,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// It is the default: nothing was loaded yet, or it was deleted and the
    /// [policy](super::DeletePolicy) says so.
    Default,
    /// It was loaded; the last version that had this value.
    Loaded(Version),
}

/// Why an update did not happen, or what went wrong with it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConfigFault {
    /// Where it failed.
    pub stage: FaultStage,
    /// The version of the document that was refused, or whose use went wrong; `None` when the fault
    /// is about none.
    pub version: Option<Version>,
    /// What went wrong. The cause, where there is one, is what the validator or the callback
    /// returned.
    pub error: Error,
}

impl ConfigFault {
    pub(super) fn new(stage: FaultStage, version: Option<Version>, error: Error) -> Self {
        ConfigFault { stage, version, error }
    }
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.stage, self.error)
    }
}

/// The steps of an update, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultStage {
    /// The config centre did not give the document: out of reach, closed, or it refuses.
    Load,
    /// The document is not a value of the type.
    Decode,
    /// The validator refused the value.
    Validate,
    /// The update callback refused the value.
    Callback,
    /// The change callback panicked. The new value is in use all the same.
    Change,
    /// The `Drop` of the old value panicked. The new one is in use all the same.
    Drop,
}

impl FaultStage {
    /// Whether what failed here is not in use: faults of later stages are about a value that is.
    pub(super) fn is_refusal(self) -> bool {
        !matches!(self, FaultStage::Change | FaultStage::Drop)
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            FaultStage::Load => "load",
            FaultStage::Decode => "decode",
            FaultStage::Validate => "validate",
            FaultStage::Callback => "callback",
            FaultStage::Change => "change",
            FaultStage::Drop => "drop",
        }
    }
}

impl fmt::Display for FaultStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the task is watching.
pub(super) enum Watching {
    /// The manager is not running.
    Stopped,
    /// There is no watch now; one is being opened.
    Opening,
    /// There is a watch, which says itself how it is doing.
    Open(WatchStatus),
    /// The task ended by itself: the config centre was closed.
    Ended,
}

impl Watching {
    /// The task is over. That the config centre was closed is still worth knowing.
    pub(super) fn stop(&mut self) {
        if !matches!(self, Watching::Ended) {
            *self = Watching::Stopped;
        }
    }

    pub(super) fn state(&self) -> Option<WatchState> {
        match self {
            Watching::Stopped => None,
            Watching::Opening => Some(WatchState::Suspended),
            Watching::Open(status) => Some(status.state()),
            Watching::Ended => Some(WatchState::Ended),
        }
    }
}
