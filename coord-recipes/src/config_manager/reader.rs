//! The value in use, as everyone reads it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use coord_api::{Value, Version};
use parking_lot::Mutex;

use super::changes::{Announcer, ConfigChanges};
use super::status::{ConfigFault, ConfigSource, ConfigStatus, Watching};

/// Reads what a [`ConfigManager`](super::ConfigManager) manages. Cheap to clone; keeps no task
/// alive.
pub struct ConfigReader<T> {
    pub(super) cell: Arc<Cell<T>>,
}

impl<T> ConfigReader<T> {
    pub(super) fn new(key: String, default: Arc<T>) -> Self {
        let condition =
            Condition { source: ConfigSource::Default, document: None, missing: false, last_error: None };
        let cell = Cell {
            value: ArcSwap::new(default),
            key,
            condition: Mutex::new(condition),
            watch: Mutex::new(Watching::Stopped),
            announcer: Announcer::new(),
        };
        ConfigReader { cell: Arc::new(cell) }
    }

    /// The value in use. Never blocks, never fails (R23).
    #[inline]
    pub fn current(&self) -> Current<T> {
        Current(self.cell.value.load())
    }

    /// The managed key in the config centre: `{env}/{service}/{component}`.
    pub fn key(&self) -> &str {
        &self.cell.key
    }

    /// The changes of the value from now on. See
    /// [`ConfigManager::changes`](super::ConfigManager::changes).
    pub fn changes(&self) -> ConfigChanges {
        self.cell.announcer.changes()
    }

    /// How the manager is doing.
    pub fn status(&self) -> ConfigStatus {
        let watch = self.cell.watch.lock().state();
        let condition = self.cell.condition.lock();
        ConfigStatus {
            source: condition.source,
            missing: condition.missing,
            last_error: condition.last_error.clone(),
            watch,
        }
    }
}

impl<T> Clone for ConfigReader<T> {
    fn clone(&self) -> Self {
        ConfigReader { cell: Arc::clone(&self.cell) }
    }
}

impl<T> fmt::Debug for ConfigReader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigReader")
            .field("key", &self.cell.key)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// The value that was in use when it was read.
///
/// Reading is cheapest while few of these are held by one thread; [`into_arc`](Self::into_arc) is
/// for keeping the value.
pub struct Current<T>(Guard<Arc<T>>);

impl<T> Current<T> {
    /// A value that is in no cell.
    pub(super) fn of(value: Arc<T>) -> Self {
        Current(Guard::from_inner(value))
    }

    /// Whether it is this very value.
    #[inline]
    pub(super) fn is(&self, other: &Arc<T>) -> bool {
        Arc::ptr_eq(&self.0, other)
    }

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
    watch: Mutex<Watching>,
    pub(super) announcer: Announcer,
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

    /// The document that the value in use was made from.
    pub(super) fn document(&self) -> Option<Value> {
        self.condition.lock().document.clone()
    }

    /// Swaps in a value, made from `document`, and gives back the old one: to drop it is the user's
    /// code, which must not run under our lock.
    #[must_use]
    pub(super) fn loaded(&self, value: Arc<T>, document: Value, version: Version) -> Arc<T> {
        let source = ConfigSource::Loaded(version);
        let before = {
            let mut condition = self.condition.lock();
            *condition = Condition { source, document: Some(document), missing: false, last_error: None };
            self.value.swap(value)
        };
        self.announcer.swapped(source);
        before
    }

    /// The value in use was written again, as `document`.
    pub(super) fn confirmed(&self, document: Value, version: Version) {
        let mut condition = self.condition.lock();
        *condition = Condition {
            source: ConfigSource::Loaded(version),
            document: Some(document),
            missing: false,
            last_error: None,
        };
    }

    /// The key is absent; the value stays.
    pub(super) fn absent(&self) {
        let mut condition = self.condition.lock();
        condition.missing = true;
        condition.last_error = None;
    }

    /// The key is absent; the default is swapped in. Gives back the old value, as
    /// [`loaded`](Self::loaded) does.
    #[must_use]
    pub(super) fn returned_to(&self, default: Arc<T>) -> Arc<T> {
        let before = {
            let mut condition = self.condition.lock();
            *condition =
                Condition { source: ConfigSource::Default, document: None, missing: true, last_error: None };
            self.value.swap(default)
        };
        self.announcer.swapped(ConfigSource::Default);
        before
    }

    /// Something went wrong; the value stays. A document that was refused is there.
    pub(super) fn failed(&self, fault: ConfigFault) {
        let mut condition = self.condition.lock();
        condition.missing &= fault.version.is_none();
        condition.last_error = Some(fault);
    }

    pub(super) fn set_watch(&self, watch: Watching) {
        *self.watch.lock() = watch;
    }

    /// The task is over. That the config centre was closed is still worth knowing.
    pub(super) fn stop_watch(&self) {
        self.watch.lock().stop();
        self.announcer.running(false);
    }
}
