//! The documents of a directory that is followed: each has a cell and a follower of its own, as the
//! one of a config manager has.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use coord_api::{ConfigEvent, Invalid, Snapshot, Value, Version};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::reader::{ConfigReader, Current};
use super::status::{ConfigFault, ConfigSource, DirectoryStatus, FaultStage, Watching};
use super::updates::{DeletePolicy, DocumentFollower, Refusal, Updates};
use super::worker::Followed;

type Check<T> = Arc<dyn Fn(&str, &T) -> Result<(), Refusal> + Send + Sync>;
type Callback<T> = Arc<dyn Fn(&str, &Arc<T>, &Arc<T>) -> Result<(), Refusal> + Send + Sync>;
type Listener<T> = Arc<dyn Fn(&str, &Arc<T>, &Arc<T>) + Send + Sync>;

/// The steps between a document and its use, as the user wants them.
pub(super) struct Callbacks<T> {
    pub(super) validate: Option<Check<T>>,
    pub(super) update: Option<Callback<T>>,
    pub(super) change: Option<Listener<T>>,
    pub(super) on_delete: DeletePolicy,
}

impl<T> Default for Callbacks<T> {
    fn default() -> Self {
        Callbacks { validate: None, update: None, change: None, on_delete: DeletePolicy::Default }
    }
}

impl<T: DeserializeOwned + 'static> Callbacks<T> {
    /// The same for the document of this name.
    fn of(&self, name: &str, default: Arc<T>) -> Updates<T> {
        let name: Arc<str> = name.into();
        let mut updates = Updates::of(default);
        updates.on_delete = self.on_delete;
        if let Some(check) = self.validate.clone() {
            let name = Arc::clone(&name);
            updates.validate = Some(Box::new(move |value| check(&name, value)));
        }
        if let Some(callback) = self.update.clone() {
            let name = Arc::clone(&name);
            updates.callback = Some(Box::new(move |old, new| callback(&name, old, new)));
        }
        if let Some(listener) = self.change.clone() {
            updates.listener = Some(Box::new(move |old, new| listener(&name, old, new)));
        }
        updates
    }
}

/// How far the directory was followed.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    revision: Version,
    /// Whether it was followed, and is not any more.
    over: bool,
}

/// What a directory and its task share.
pub(super) struct Shared<T> {
    /// With a `/` at its end.
    directory: String,
    default: Arc<T>,
    /// Those in use. It changes when one comes or goes; a value that changes is swapped in its
    /// cell.
    documents: ArcSwap<HashMap<String, ConfigReader<T>>>,
    faults: Mutex<BTreeMap<String, ConfigFault>>,
    last_error: Mutex<Option<ConfigFault>>,
    watch: Mutex<Watching>,
    seen: watch::Sender<Seen>,
}

impl<T> Shared<T> {
    pub(super) fn new(directory: &str, default: Arc<T>) -> Self {
        Shared {
            directory: format!("{directory}/"),
            default,
            documents: ArcSwap::default(),
            faults: Mutex::default(),
            last_error: Mutex::default(),
            watch: Mutex::new(Watching::Stopped),
            seen: watch::Sender::default(),
        }
    }

    pub(super) fn directory(&self) -> &str {
        self.directory.strip_suffix('/').unwrap_or(&self.directory)
    }

    #[inline]
    pub(super) fn get(&self, name: &str) -> Option<Current<T>> {
        let current = self.documents.load().get(name)?.current();
        // The default is what a document has that is just about to go.
        (!current.is(&self.default)).then_some(current)
    }

    pub(super) fn default_value(&self) -> Current<T> {
        Current::of(Arc::clone(&self.default))
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.documents.load().keys().cloned().collect();
        names.sort_unstable();
        names
    }

    pub(super) fn reader(&self, name: &str) -> Option<ConfigReader<T>> {
        self.documents.load().get(name).cloned()
    }

    /// Waits until everything up to this version was taken. Says whether it was: else the directory
    /// is not followed any more.
    pub(super) async fn seen(&self, version: Version) -> bool {
        let mut seen = self.seen.subscribe();
        let waited = seen.wait_for(|seen| seen.revision >= version || seen.over).await;
        waited.is_ok_and(|seen| seen.revision >= version)
    }

    pub(super) fn over(&self) {
        self.seen.send_modify(|seen| seen.over = true);
    }

    pub(super) fn status(&self) -> DirectoryStatus {
        DirectoryStatus {
            documents: self.documents.load().len(),
            faults: self.faults.lock().clone(),
            last_error: self.last_error.lock().clone(),
            seen: self.seen.borrow().revision,
            watch: self.watch.lock().state(),
        }
    }
}

/// A document that is followed.
struct Document<T> {
    reader: ConfigReader<T>,
    follower: DocumentFollower<T>,
}

/// The documents of one run.
pub(super) struct Documents<T> {
    shared: Arc<Shared<T>>,
    callbacks: Arc<Callbacks<T>>,
    /// Those that are there, and those whose last value stays.
    followed: HashMap<String, Document<T>>,
}

impl<T: DeserializeOwned + 'static> Documents<T> {
    /// Goes on with the documents that are in use already.
    pub(super) fn new(shared: &Arc<Shared<T>>, callbacks: &Arc<Callbacks<T>>) -> Self {
        let mut documents = Documents {
            shared: Arc::clone(shared),
            callbacks: Arc::clone(callbacks),
            followed: HashMap::new(),
        };
        for (name, reader) in shared.documents.load().iter() {
            let document = documents.document(name, reader.clone());
            documents.followed.insert(name.clone(), document);
        }
        documents
    }

    fn document(&self, name: &str, reader: ConfigReader<T>) -> Document<T> {
        let updates = Arc::new(self.callbacks.of(name, Arc::clone(&self.shared.default)));
        Document { follower: DocumentFollower::new(Arc::clone(&reader.cell), updates), reader }
    }

    fn name<'a>(&self, key: &'a str) -> &'a str {
        key.strip_prefix(&*self.shared.directory).unwrap_or(key)
    }

    fn found(&mut self, name: &str, value: Value, version: Version) {
        if !self.followed.contains_key(name) {
            let key = format!("{}{name}", self.shared.directory);
            let reader = ConfigReader::new(key, Arc::clone(&self.shared.default));
            reader.cell.announcer.running(true);
            let document = self.document(name, reader);
            self.followed.insert(name.to_owned(), document);
        }
        if let Some(document) = self.followed.get_mut(name) {
            document.follower.found(value, version);
        }
    }

    fn gone(&mut self, name: &str) {
        if let Some(document) = self.followed.get_mut(name) {
            document.follower.absent();
        }
    }

    /// What lies under a key that no call takes.
    fn foreign(&self, record: Invalid) {
        let fault = ConfigFault::new(FaultStage::Decode, Some(record.version), record.error);
        self.shared.faults.lock().insert(self.foreign_name(&record.key), fault);
    }

    fn foreign_name(&self, key: &[u8]) -> String {
        let key = key.strip_prefix(self.shared.directory.as_bytes()).unwrap_or(key);
        std::str::from_utf8(key).map_or_else(|_| key.escape_ascii().to_string(), str::to_owned)
    }

    fn resync(&mut self, snapshot: Snapshot<coord_api::ConfigEntry>) {
        let there: HashSet<&str> = snapshot.items.iter().map(|entry| self.name(&entry.key)).collect();
        let gone: Vec<String> =
            self.followed.keys().filter(|name| !there.contains(name.as_str())).cloned().collect();
        gone.iter().for_each(|name| self.gone(name));
        self.shared.faults.lock().clear();
        snapshot.invalid.into_iter().for_each(|record| self.foreign(record));
        for entry in snapshot.items {
            let name = self.name(&entry.key).to_owned();
            self.found(&name, entry.value, entry.version);
        }
        let names: Vec<String> = self.followed.keys().cloned().collect();
        self.show(&names);
        // A store that was restored counts from where it stands.
        self.shared.seen.send_modify(|seen| seen.revision = snapshot.revision);
    }

    /// Shows what became of these.
    fn show(&mut self, names: &[String]) {
        let in_use = self.shared.documents.load_full();
        let mut changed: Option<HashMap<String, ConfigReader<T>>> = None;
        for name in names {
            let Some(document) = self.followed.get(name) else { continue };
            let status = document.reader.status();
            {
                let mut faults = self.shared.faults.lock();
                match status.last_error {
                    Some(fault) => faults.insert(name.clone(), fault),
                    None => faults.remove(name),
                };
            }
            let is_loaded = status.source != ConfigSource::Default;
            if is_loaded != in_use.contains_key(name) {
                let changed = changed.get_or_insert_with(|| (*in_use).clone());
                match is_loaded {
                    true => drop(changed.insert(name.clone(), document.reader.clone())),
                    false => drop(changed.remove(name)),
                }
            }
            if !is_loaded && status.missing {
                document.reader.cell.announcer.running(false);
                self.followed.remove(name);
            }
        }
        if let Some(changed) = changed {
            self.shared.documents.store(Arc::new(changed));
        }
    }

    /// Everything up to here was taken, unless more of the same revision comes.
    fn saw(&self, revision: Version, last: bool) {
        if last {
            self.shared.seen.send_modify(|seen| seen.revision = revision);
        }
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> Followed for Documents<T> {
    fn watched(&self) -> &str {
        &self.shared.directory
    }

    fn set_watch(&self, watching: Watching) {
        *self.shared.watch.lock() = watching;
    }

    fn failed(&self, fault: ConfigFault) {
        *self.shared.last_error.lock() = Some(fault);
    }

    fn begin(&self) {
        self.shared.seen.send_modify(|seen| seen.over = false);
        self.followed.values().for_each(|document| document.reader.cell.announcer.running(true));
    }

    fn end(&self) {
        self.shared.watch.lock().stop();
        self.followed.values().for_each(|document| document.reader.cell.announcer.running(false));
        self.shared.over();
    }

    fn take(&mut self, event: ConfigEvent) -> bool {
        *self.shared.last_error.lock() = None;
        match event {
            ConfigEvent::Put { entry, last, .. } => {
                let name = self.name(&entry.key).to_owned();
                self.found(&name, entry.value, entry.version);
                self.show(&[name]);
                self.saw(entry.version, last);
            }
            ConfigEvent::Delete { key, version, last } => {
                let name = self.name(&key).to_owned();
                self.gone(&name);
                self.show(&[name]);
                self.saw(version, last);
            }
            ConfigEvent::Invalid { record, last } => {
                let version = record.version;
                self.foreign(record);
                self.saw(version, last);
            }
            ConfigEvent::InvalidDeleted { key, version, last } => {
                self.shared.faults.lock().remove(&self.foreign_name(&key));
                self.saw(version, last);
            }
            ConfigEvent::Resync(snapshot) => {
                self.resync(snapshot);
                return true;
            }
        }
        false
    }
}
