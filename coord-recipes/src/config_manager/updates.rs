//! How a document becomes the value in use (R23).

use std::any::type_name;
use std::error::Error as StdError;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use coord_api::{Error, ErrorKind, Value, Version};
use serde::de::DeserializeOwned;

use super::reader::Cell;
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

/// The steps between a document and its use, as the user wants them.
pub(super) struct Updates<T> {
    pub(super) default: Arc<T>,
    pub(super) validate: Option<Check<T>>,
    pub(super) callback: Option<Callback<T>>,
    pub(super) on_delete: DeletePolicy,
}

impl<T: DeserializeOwned> Updates<T> {
    pub(super) fn new(default: T) -> Self {
        Updates { default: Arc::new(default), validate: None, callback: None, on_delete: DeletePolicy::default() }
    }

    /// Decode, validate, callback: the new value, or where it was refused.
    pub(super) fn accept(&self, document: &Value, old: &Arc<T>) -> Result<Arc<T>, (FaultStage, Error)> {
        let decoded = guarded(|| serde_json::from_slice::<T>(document).map_err(|fault| Error::json(OPERATION, type_name::<T>(), &fault)));
        let new = Arc::new(decoded.map_err(|error| (FaultStage::Decode, error))?);
        if let Some(validate) = &self.validate {
            let valid = guarded(|| validate(&new).map_err(|refusal| refusal.into_error("the validator refused the value")));
            valid.map_err(|error| (FaultStage::Validate, error))?;
        }
        self.announce(old, &new)?;
        Ok(new)
    }

    /// The callback alone.
    pub(super) fn announce(&self, old: &Arc<T>, new: &Arc<T>) -> Result<(), (FaultStage, Error)> {
        let Some(callback) = &self.callback else { return Ok(()) };
        guarded(|| callback(old, new).map_err(|refusal| refusal.into_error("the update callback refused the value")))
            .map_err(|error| (FaultStage::Callback, error))
    }
}

/// Runs the user's code; a panic in it is an error like any other.
///
/// Asserting unwind safety is sound: the code gets shared references alone, and nothing of ours changes while it runs. What its own state is worth after its
/// panic is its own affair, as with any callback that is called again.
fn guarded<R>(code: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    // The payload is dropped: it may quote the value.
    catch_unwind(AssertUnwindSafe(code))
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, OPERATION, "the application's code panicked")))
}

/// Follows the documents of one run.
pub(super) struct Follower<T> {
    cell: Arc<Cell<T>>,
    updates: Arc<Updates<T>>,
    /// The document that was refused last, and why. It is looked at again when it is written again.
    refused: Option<(Version, Value, ConfigFault)>,
}

impl<T: DeserializeOwned> Follower<T> {
    pub(super) fn new(cell: Arc<Cell<T>>, updates: Arc<Updates<T>>) -> Self {
        Follower { cell, updates, refused: None }
    }

    /// The key holds this document.
    pub(super) fn found(&mut self, document: Value, version: Version) {
        match &self.refused {
            Some((refused, bytes, fault)) if *refused == version && *bytes == document => return self.cell.failed(fault.clone()),
            _ => self.refused = None,
        }
        if self.cell.is_in_use(&document) {
            return self.cell.confirmed(version);
        }
        match self.updates.accept(&document, &self.cell.value()) {
            Ok(value) => {
                tracing::debug!(key = self.cell.key, version = version.get(), "configuration updated");
                self.cell.loaded(value, document, version);
            }
            Err((stage, error)) => self.refuse(stage, error, version, document),
        }
    }

    /// The key holds this document, and it is no good.
    pub(super) fn refuse(&mut self, stage: FaultStage, error: Error, version: Version, document: Value) {
        let fault = ConfigFault::new(stage, Some(version), error);
        self.report(&fault);
        self.cell.failed(fault.clone());
        self.refused = Some((version, document, fault));
    }

    /// The key is absent.
    pub(super) fn absent(&mut self) {
        self.refused = None;
        if self.cell.source() == ConfigSource::Default || self.updates.on_delete == DeletePolicy::Keep {
            return self.cell.absent(None);
        }
        match self.updates.announce(&self.cell.value(), &self.updates.default) {
            Ok(()) => {
                tracing::debug!(key = self.cell.key, "configuration deleted, the default is in use");
                self.cell.absent(Some(Arc::clone(&self.updates.default)));
            }
            Err((stage, error)) => {
                let fault = ConfigFault::new(stage, None, error);
                self.report(&fault);
                self.cell.absent(None);
                self.cell.failed(fault);
            }
        }
    }

    fn report(&self, fault: &ConfigFault) {
        let (kind, version) = (fault.error.kind().as_str(), fault.version.map(Version::get));
        tracing::warn!(key = self.cell.key, stage = %fault.stage, kind, version, "configuration refused, the old one stays");
    }
}

/// What the user's code returned instead of a yes.
#[derive(Debug)]
pub(super) struct Refusal(Box<dyn StdError + Send + Sync>);

impl Refusal {
    pub(super) fn new(reason: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Refusal(reason.into())
    }

    fn into_error(self, message: &'static str) -> Error {
        Error::new(ErrorKind::InvalidArgument, OPERATION, message).with_source(self)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Refusal {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}
