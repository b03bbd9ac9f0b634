//! The value in use, as everyone reads it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use coord_api::{ConfigEvent, Value, Version, Watch, WatchState};
use parking_lot::Mutex;

use super::status::{ConfigFault, ConfigSource, ConfigStatus};

/// Reads what a [`ConfigManager`](super::ConfigManager) manages. Cheap to clone; keeps no task alive.
pub struct ConfigReader<T> {
    pub(super) cell: Arc<Cell<T>>,
}

impl<T> ConfigReader<T> {
    pub(super) fn new(key: String, default: Arc<T>) -> Self {
        let condition = Condition { source: ConfigSource::Default, document: None, missing: false, last_error: None };
        let cell = Cell { value: ArcSwap::new(default), key, condition: Mutex::new(condition), watch: Mutex::new(Watching::Stopped) };
        ConfigReader { cell: Arc::new(cell) }
    }

    /// The value in use. Never blocks, never fails (R23).
    #[inline]
    pub fn current(&self) -> Current<T> {
        Current(self.cell.value.load())
    }

    /// How the manager is doing.
    pub fn status(&self) -> ConfigStatus {
        let watch = self.cell.watch.lock().state();
        let condition = self.cell.condition.lock();
        ConfigStatus { source: condition.source, missing: condition.missing, last_error: condition.last_error.clone(), watch }
    }
}

impl<T> Clone for ConfigReader<T> {
    fn clone(&self) -> Self {
        ConfigReader { cell: Arc::clone(&self.cell) }
    }
}

impl<T> fmt::Debug for ConfigReader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigReader").field("key", &self.cell.key).field("status", &self.status()).finish_non_exhaustive()
    }
}

/// The value that was in use when it was read.
///
/// Reading is cheapest while few of these are held by one thread; [`into_arc`](Self::into_arc) is for keeping the value.
pub struct Current<T>(Guard<Arc<T>>);

impl<T> Current<T> {
    /// The value, to keep for as long as one likes.
    pub fn into_arc(self) -> Arc<T> {
        Guard::into_inner(self.0)
    }
}

impl<T> Deref for Current<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Current<T> {
    /// Never shows the value: configuration holds secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current").finish_non_exhaustive()
    }
}

/// What the manager, its task and its readers share.
pub(super) struct Cell<T> {
    value: ArcSwap<T>,
    pub(super) key: String,
    condition: Mutex<Condition>,
    pub(super) watch: Mutex<Watching>,
}

struct Condition {
    source: ConfigSource,
    /// The bytes of the value in use; `None` for the default.
    document: Option<Value>,
    missing: bool,
    last_error: Option<ConfigFault>,
}

impl<T> Cell<T> {
    pub(super) fn value(&self) -> Arc<T> {
        self.value.load_full()
    }

    pub(super) fn source(&self) -> ConfigSource {
        self.condition.lock().source
    }

    /// Whether the value in use was made from these bytes.
    pub(super) fn is_in_use(&self, document: &Value) -> bool {
        self.condition.lock().document.as_ref() == Some(document)
    }

    /// Swaps in a value, made from `document`.
    pub(super) fn loaded(&self, value: Arc<T>, document: Value, version: Version) {
        let mut condition = self.condition.lock();
        self.value.store(value);
        *condition = Condition { source: ConfigSource::Loaded(version), document: Some(document), missing: false, last_error: None };
    }

    /// The document in use was written again.
    pub(super) fn confirmed(&self, version: Version) {
        let mut condition = self.condition.lock();
        condition.source = ConfigSource::Loaded(version);
        condition.missing = false;
        condition.last_error = None;
    }

    /// The key is absent; `default` is swapped in where one is given.
    pub(super) fn absent(&self, default: Option<Arc<T>>) {
        let mut condition = self.condition.lock();
        if let Some(default) = default {
            self.value.store(default);
            condition.source = ConfigSource::Default;
            condition.document = None;
        }
        condition.missing = true;
        condition.last_error = None;
    }

    /// Something went wrong; the value stays. A document that was refused is there.
    pub(super) fn failed(&self, fault: ConfigFault) {
        let mut condition = self.condition.lock();
        condition.missing &= fault.version.is_none();
        condition.last_error = Some(fault);
    }

    pub(super) fn set_watch(&self, watch: Watching) {
        let before = std::mem::replace(&mut *self.watch.lock(), watch);
        // Ending a watch is the config centre's code, which should not run under our lock.
        drop(before);
    }

    /// The task is over. That the config centre was closed is still worth knowing.
    pub(super) fn stop_watch(&self) {
        if !matches!(&*self.watch.lock(), Watching::Ended) {
            self.set_watch(Watching::Stopped);
        }
    }
}

/// The task's watch. It lies here so that everyone can ask how it is doing; only the task polls it.
pub(super) enum Watching {
    /// The manager is not running.
    Stopped,
    /// There is no watch now; one is being opened.
    Opening,
    /// The watch.
    Open(Watch<ConfigEvent>),
    /// The task ended by itself: the config centre was closed.
    Ended,
}

impl Watching {
    fn state(&self) -> Option<WatchState> {
        match self {
            Watching::Stopped => None,
            Watching::Opening => Some(WatchState::Suspended),
            Watching::Open(watch) => Some(watch.state()),
            Watching::Ended => Some(WatchState::Ended),
        }
    }
}
