//! One document that is followed, for a config manager.

use std::sync::Arc;

use coord_api::{ConfigEvent, Invalid};
use serde::de::DeserializeOwned;

use super::reader::Cell;
use super::status::{ConfigFault, FaultStage, Watching};
use super::updates::{DocumentFollower, Updates};
use super::worker::Followed;

/// The document under one key.
pub(super) struct Document<T> {
    cell: Arc<Cell<T>>,
    follower: DocumentFollower<T>,
}

impl<T: DeserializeOwned> Document<T> {
    pub(super) fn new(cell: &Arc<Cell<T>>, updates: &Arc<Updates<T>>) -> Self {
        let follower = DocumentFollower::new(Arc::clone(cell), Arc::clone(updates));
        Document { cell: Arc::clone(cell), follower }
    }

    fn unreadable(&mut self, record: Invalid) {
        self.follower.refuse(FaultStage::Decode, record.error, record.version, record.value);
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> Followed for Document<T> {
    fn watched(&self) -> &str {
        &self.cell.key
    }

    fn set_watch(&self, watching: Watching) {
        self.cell.set_watch(watching);
    }

    fn failed(&self, fault: ConfigFault) {
        self.cell.failed(fault);
    }

    fn begin(&self) {
        self.cell.announcer.running(true);
    }

    fn end(&self) {
        self.cell.stop_watch();
    }

    fn take(&mut self, event: ConfigEvent) -> bool {
        match event {
            ConfigEvent::Put { entry, .. } => self.follower.found(entry.value, entry.version),
            ConfigEvent::Delete { .. } => self.follower.absent(),
            ConfigEvent::Invalid { record, .. } => self.unreadable(record),
            // Of a key that no call takes, so it is not the managed one.
            ConfigEvent::InvalidDeleted { .. } => {}
            ConfigEvent::Resync(snapshot) => {
                let key = &self.cell.key;
                let entry = snapshot.items.into_iter().find(|entry| entry.key == *key);
                let record = snapshot.invalid.into_iter().find(|record| record.key == key.as_bytes());
                match (entry, record) {
                    (Some(entry), _) => self.follower.found(entry.value, entry.version),
                    (None, Some(record)) => self.unreadable(record),
                    (None, None) => self.follower.absent(),
                }
                return true;
            }
        }
        false
    }
}
