//! A service's instances as they come and go (R39).

use std::collections::BTreeMap;

use bytes::Bytes;
use coord_api::store::Change;
use coord_api::{Revision, ServiceChange, ServiceEvent, ServiceInstance};

use super::record;
use coord_core::watch::SharedDelivery;

/// The instances of a service as its directory's watch tells them; they are kept, so that a removal
/// carries the last content.
pub(super) struct WatchedInstances {
    directory: Bytes,
    by_id: BTreeMap<Bytes, ServiceInstance>,
}

impl WatchedInstances {
    pub(super) fn new(directory: Bytes) -> Self {
        WatchedInstances { directory, by_id: BTreeMap::new() }
    }

    /// Takes in what the watch delivered, and says what that means to whoever follows the service.
    pub(super) fn take(&mut self, delivery: SharedDelivery) -> Vec<ServiceEvent> {
        match delivery {
            SharedDelivery::Resync { state, .. } => {
                let snapshot = record::snapshot(&self.directory, state.revision, &state.entries);
                self.by_id = snapshot
                    .items
                    .iter()
                    .map(|instance| (Bytes::from(instance.id.clone()), instance.clone()))
                    .collect();
                vec![ServiceEvent::Resync(snapshot)]
            }
            SharedDelivery::Batch(batch) => {
                let changes: Vec<ServiceChange> =
                    batch.changes.iter().flat_map(|change| self.apply(change)).collect();
                announcements(batch.revision, changes)
            }
        }
    }

    fn apply(&mut self, change: &Change) -> Vec<ServiceChange> {
        let id = record::relative(&self.directory, change.key());
        let removed = |instances: &mut BTreeMap<_, _>| instances.remove(&id).map(ServiceChange::Removed);
        match change {
            Change::Delete { .. } => removed(&mut self.by_id).into_iter().collect(),
            Change::Put(entry) => match record::decode(&self.directory, entry) {
                Ok(instance) => match self.by_id.insert(id, instance.clone()) {
                    Some(_) => vec![ServiceChange::Updated(instance)],
                    None => vec![ServiceChange::Added(instance)],
                },
                // What was there is overwritten with what nobody can reach.
                Err(invalid) => {
                    removed(&mut self.by_id).into_iter().chain([ServiceChange::Invalid(invalid)]).collect()
                }
            },
        }
    }
}

fn announcements(revision: Revision, changes: Vec<ServiceChange>) -> Vec<ServiceEvent> {
    let count = changes.len();
    let numbered = changes.into_iter().enumerate();
    let event = |(index, change)| ServiceEvent::Change { change, revision, last: index + 1 == count };
    numbered.map(event).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use coord_api::store::{Batch, Entry, RangeReply};

    use super::*;

    const DIRECTORY: &str = "/services/shop/";

    fn instance(id: &str, port: u16) -> ServiceInstance {
        ServiceInstance::new("shop", id, "localhost", port)
    }

    fn put(id: &str, value: impl Into<coord_api::Value>) -> Change {
        Change::Put(Entry {
            key: format!("{DIRECTORY}{id}").into(),
            value: value.into(),
            created: Revision::new(1),
            modified: Revision::new(1),
            lease: None,
        })
    }

    fn put_instance(id: &str, port: u16) -> Change {
        put(id, record::encode("t", &instance(id, port)).unwrap())
    }

    fn delete(id: &str) -> Change {
        Change::Delete { key: format!("{DIRECTORY}{id}").into() }
    }

    fn batch(revision: u64, changes: Vec<Change>) -> SharedDelivery {
        SharedDelivery::Batch(Arc::new(Batch { revision: Revision::new(revision), changes }))
    }

    /// What the events of one revision say, of which the last alone is marked.
    fn changes(events: Vec<ServiceEvent>) -> Vec<ServiceChange> {
        let count = events.len();
        let numbered = events.into_iter().enumerate();
        let change = |(index, event)| match event {
            ServiceEvent::Change { change, last, .. } => {
                assert_eq!(last, index + 1 == count);
                change
            }
            ServiceEvent::Resync(snapshot) => panic!("{snapshot:?}"),
        };
        numbered.map(change).collect()
    }

    #[test]
    fn an_instance_is_added_updated_and_removed_with_its_last_content() {
        let mut watched = WatchedInstances::new(DIRECTORY.into());
        let told = changes(watched.take(batch(2, vec![put_instance("a", 1), put_instance("b", 1)])));
        assert_eq!(told, [ServiceChange::Added(instance("a", 1)), ServiceChange::Added(instance("b", 1))]);
        let told = changes(watched.take(batch(3, vec![put_instance("a", 2), delete("b")])));
        assert_eq!(
            told,
            [ServiceChange::Updated(instance("a", 2)), ServiceChange::Removed(instance("b", 1))]
        );
        assert!(watched.take(batch(4, vec![delete("b")])).is_empty(), "it is gone already");
    }

    #[test]
    fn what_is_written_over_with_garbage_is_removed() {
        let mut watched = WatchedInstances::new(DIRECTORY.into());
        watched.take(batch(2, vec![put_instance("a", 1)]));
        match changes(watched.take(batch(3, vec![put("a", "garbage")]))).as_slice() {
            [ServiceChange::Removed(gone), ServiceChange::Invalid(record)] => {
                assert_eq!((gone, record.key.as_ref()), (&instance("a", 1), b"a".as_slice()));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_resync_is_the_whole_truth() {
        let mut watched = WatchedInstances::new(DIRECTORY.into());
        watched.take(batch(2, vec![put_instance("a", 1), put_instance("b", 1)]));
        let Change::Put(entry) = put_instance("b", 2) else { unreachable!() };
        let state = RangeReply { revision: Revision::new(5), entries: vec![entry], ..RangeReply::default() };
        match watched.take(SharedDelivery::Resync { state: Arc::new(state), replaced: false }).as_slice() {
            [ServiceEvent::Resync(snapshot)] => assert_eq!(snapshot.items, [instance("b", 2)]),
            other => panic!("{other:?}"),
        }
        assert!(watched.take(batch(6, vec![delete("a")])).is_empty(), "it went unseen");
        let told = changes(watched.take(batch(7, vec![delete("b")])));
        assert_eq!(told, [ServiceChange::Removed(instance("b", 2))]);
    }
}
