//! How a document becomes the value in use (R23).

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use coord_api::{Error, ErrorKind, Value, Version, json};
use serde::de::DeserializeOwned;

use super::guard::{Panicked, discard, guarded};
use super::metrics;
use super::reader::Cell;
use super::same::same;
use super::status::{ConfigFault, ConfigSource, FaultStage};

const OPERATION: &str = "config_manager.update";

/// What becomes of the value when its key is deleted (R24).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeletePolicy {
    /// The last value stays in use.
    #[default]
    Keep,
    /// The default is in use again, once the update callback agreed.
    Default,
}

pub(super) type Check<T> = Box<dyn Fn(&T) -> Result<(), Refusal> + Send + Sync>;
pub(super) type Callback<T> = Box<dyn Fn(&Arc<T>, &Arc<T>) -> Result<(), Refusal> + Send + Sync>;
pub(super) type Listener<T> = Box<dyn Fn(&Arc<T>, &Arc<T>) + Send + Sync>;

/// The steps between a document and its use, as the user wants them.
pub(super) struct Updates<T> {
    pub(super) default: Arc<T>,
    pub(super) validate: Option<Check<T>>,
    pub(super) callback: Option<Callback<T>>,
    pub(super) listener: Option<Listener<T>>,
    pub(super) on_delete: DeletePolicy,
}

impl<T: DeserializeOwned> Updates<T> {
    pub(super) fn new(default: T) -> Self {
        let _ = guarded(metrics::describe);
        Updates::of(Arc::new(default))
    }

    /// None but the default.
    pub(super) fn of(default: Arc<T>) -> Self {
        Updates {
            default,
            validate: None,
            callback: None,
            listener: None,
            on_delete: DeletePolicy::default(),
        }
    }

    fn decode(document: &Value) -> Result<Arc<T>, (FaultStage, Error)> {
        let decoded = guarded(|| json::decode::<T>(OPERATION, document))
            .unwrap_or_else(|panicked| Err(panicked.into()));
        decoded.map(Arc::new).map_err(|error| (FaultStage::Decode, error))
    }

    fn validate(&self, new: &Arc<T>) -> Result<(), (FaultStage, Error)> {
        let Some(validate) = &self.validate else { return Ok(()) };
        asked("the validator refused the value", || validate(new))
            .map_err(|error| (FaultStage::Validate, error))
    }

    /// The update callback, which may refuse.
    fn announce(&self, old: &Arc<T>, new: &Arc<T>) -> Result<(), (FaultStage, Error)> {
        let Some(callback) = &self.callback else { return Ok(()) };
        asked("the update callback refused the value", || callback(old, new))
            .map_err(|error| (FaultStage::Callback, error))
    }
}

/// Asks the user's code for a yes.
fn asked(message: &'static str, code: impl FnOnce() -> Result<(), Refusal>) -> Result<(), Error> {
    match guarded(code) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(refusal)) => {
            Err(Error::new(ErrorKind::InvalidArgument, OPERATION, message).with_source(refusal))
        }
        Err(panicked) => Err(panicked.into()),
    }
}

impl From<Panicked> for Error {
    fn from(_: Panicked) -> Self {
        Error::new(ErrorKind::Internal, OPERATION, "the application's code panicked")
    }
}

/// Follows the documents of one run.
pub(super) struct DocumentFollower<T> {
    cell: Arc<Cell<T>>,
    updates: Arc<Updates<T>>,
    /// The document that was refused last, and why. It is looked at again when it is written again.
    refused: Option<(Version, Value, ConfigFault)>,
}

impl<T: DeserializeOwned> DocumentFollower<T> {
    pub(super) fn new(cell: Arc<Cell<T>>, updates: Arc<Updates<T>>) -> Self {
        DocumentFollower { cell, updates, refused: None }
    }

    /// The key holds this document.
    pub(super) fn found(&mut self, document: Value, version: Version) {
        match &self.refused {
            Some((refused, bytes, fault)) if *refused == version && *bytes == document => {
                return self.cell.failed(fault.clone());
            }
            _ => self.refused = None,
        }
        let in_use = self.cell.document();
        if in_use.as_ref() == Some(&document) {
            return self.cell.confirmed(document, version);
        }
        // Decoded first: a document can say the same and be no `T`, as `8.0` is no integer.
        let new = match Updates::decode(&document) {
            Ok(new) => new,
            Err((stage, error)) => return self.refuse(stage, error, version, document),
        };
        if in_use.is_some_and(|in_use| same(&in_use, &document)) {
            self.cell.confirmed(document, version);
            return self.dropped(Some(version), new);
        }
        let old = self.cell.value();
        match self.updates.validate(&new).and_then(|()| self.updates.announce(&old, &new)) {
            Ok(()) => {
                let before = self.cell.loaded(Arc::clone(&new), document, version);
                counted("applied", "all");
                log(|| {
                    tracing::debug!(key = self.cell.key, version = version.get(), "configuration updated")
                });
                self.tell(Some(version), &old, &new);
                self.dropped(Some(version), (before, old, new));
            }
            Err((stage, error)) => {
                self.dropped(Some(version), (old, new));
                self.refuse(stage, error, version, document);
            }
        }
    }

    /// The key holds this document, and it is no good.
    pub(super) fn refuse(&mut self, stage: FaultStage, error: Error, version: Version, document: Value) {
        let fault = ConfigFault::new(stage, Some(version), error);
        self.report(&fault, "configuration refused, the old one stays");
        self.cell.failed(fault.clone());
        self.refused = Some((version, document, fault));
    }

    /// The key is absent.
    pub(super) fn absent(&mut self) {
        self.refused = None;
        if self.cell.source() == ConfigSource::Default || self.updates.on_delete == DeletePolicy::Keep {
            return self.cell.absent();
        }
        let (old, new) = (self.cell.value(), Arc::clone(&self.updates.default));
        match self.updates.announce(&old, &new) {
            Ok(()) => {
                let before = self.cell.returned_to(Arc::clone(&new));
                counted("applied", "all");
                log(|| tracing::debug!(key = self.cell.key, "configuration deleted, the default is in use"));
                self.tell(None, &old, &new);
                self.dropped(None, (before, old, new));
            }
            Err((stage, error)) => {
                self.dropped(None, (old, new));
                let fault = ConfigFault::new(stage, None, error);
                self.report(&fault, "configuration deleted, the old one stays all the same");
                self.cell.absent();
                self.cell.failed(fault);
            }
        }
    }

    /// Tells the user of a change that was made.
    fn tell(&self, version: Option<Version>, old: &Arc<T>, new: &Arc<T>) {
        let Some(listener) = &self.updates.listener else { return };
        if let Err(panicked) = guarded(|| listener(old, new)) {
            self.went_wrong(FaultStage::Change, version, panicked);
        }
    }

    /// Drops what may be the last of a value.
    fn dropped<V>(&self, version: Option<Version>, values: V) {
        if let Err(panicked) = discard(values) {
            self.went_wrong(FaultStage::Drop, version, panicked);
        }
    }

    fn went_wrong(&self, stage: FaultStage, version: Option<Version>, panicked: Panicked) {
        let fault = ConfigFault::new(stage, version, panicked.into());
        self.report(&fault, "the application's code panicked, the manager goes on");
        self.cell.failed(fault);
    }

    fn report(&self, fault: &ConfigFault, what: &'static str) {
        counted(if fault.stage.is_refusal() { "refused" } else { "panicked" }, fault.stage.as_str());
        let (kind, version) = (fault.error.kind().as_str(), fault.version.map(Version::get));
        log(
            || tracing::warn!(key = self.cell.key, stage = %fault.stage, kind, version, reason = reason(&fault.error), "{what}"),
        );
    }
}

/// Counts what became of an update. The recorder is the user's.
pub(super) fn counted(result: &'static str, stage: &'static str) {
    let _ = guarded(|| metrics::updated(result, stage));
}

/// Records an event. The sink is the user's.
pub(super) fn log(event: impl FnOnce()) {
    // There is nobody left to tell.
    let _ = guarded(event);
}

/// What went wrong, with its causes, in one line.
pub(super) fn reason(error: &Error) -> String {
    let mut reason = error.message().to_owned();
    let mut cause = error.source();
    while let Some(error) = cause {
        reason = format!("{reason}: {error}");
        cause = error.source();
    }
    reason
}

/// How many causes of a refusal are kept.
const CAUSES: usize = 8;

/// What the user's code returned instead of a yes, and its causes, in words: its own type, whose
/// `Display` or `Drop` may panic, is not kept.
#[derive(Debug)]
pub(super) struct Refusal {
    text: String,
    cause: Option<Box<Refusal>>,
}

impl Refusal {
    /// Runs the user's code.
    pub(super) fn new(reason: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let reason = reason.into();
        Refusal::of(&*reason, CAUSES)
    }

    fn of(error: &(dyn StdError + 'static), causes: usize) -> Self {
        let cause =
            error.source().filter(|_| causes > 0).map(|cause| Box::new(Refusal::of(cause, causes - 1)));
        Refusal { text: error.to_string(), cause }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Refusal {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}
