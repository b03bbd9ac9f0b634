//! A service's instances as they come and go (R39).

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use coord_api::store::Change;
use coord_api::watch::WatchStream;
use coord_api::{Result, Revision, ServiceChange, ServiceEvent, ServiceInstance, WatchState};
use futures_util::Stream;

use super::record;
use coord_core::watch::{SharedDelivery, Subscription};

/// Turns what a directory's watch delivers into changes of a set; it keeps the set, so that a
/// removal carries the last content.
pub(super) struct ServiceWatch {
    directory: Bytes,
    subscription: Subscription,
    instances: BTreeMap<Bytes, ServiceInstance>,
    ready: VecDeque<ServiceEvent>,
}

impl ServiceWatch {
    pub(super) fn new(directory: Bytes, subscription: Subscription) -> Self {
        ServiceWatch { directory, subscription, instances: BTreeMap::new(), ready: VecDeque::new() }
    }

    fn take(&mut self, item: SharedDelivery) {
        match item {
            SharedDelivery::Resync { state, .. } => {
                let snapshot = record::snapshot(&self.directory, state.revision, &state.entries);
                self.instances = snapshot
                    .items
                    .iter()
                    .map(|instance| (Bytes::from(instance.id.clone()), instance.clone()))
                    .collect();
                self.ready.push_back(ServiceEvent::Resync(snapshot));
            }
            SharedDelivery::Batch(batch) => {
                let changes: Vec<ServiceChange> =
                    batch.changes.iter().flat_map(|change| self.apply(change)).collect();
                self.announce(batch.revision, changes);
            }
        }
    }

    fn announce(&mut self, revision: Revision, changes: Vec<ServiceChange>) {
        let count = changes.len();
        for (index, change) in changes.into_iter().enumerate() {
            self.ready.push_back(ServiceEvent::Change { change, revision, last: index + 1 == count });
        }
    }

    fn apply(&mut self, change: &Change) -> Vec<ServiceChange> {
        let id = record::relative(&self.directory, change.key());
        let removed = |instances: &mut BTreeMap<_, _>| instances.remove(&id).map(ServiceChange::Removed);
        match change {
            Change::Delete { .. } => removed(&mut self.instances).into_iter().collect(),
            Change::Put(entry) => match record::decode(&self.directory, entry) {
                Ok(instance) => match self.instances.insert(id, instance.clone()) {
                    Some(_) => vec![ServiceChange::Updated(instance)],
                    None => vec![ServiceChange::Added(instance)],
                },
                // What was there is overwritten with what nobody can reach.
                Err(invalid) => removed(&mut self.instances)
                    .into_iter()
                    .chain([ServiceChange::Invalid(invalid)])
                    .collect(),
            },
        }
    }
}

impl Stream for ServiceWatch {
    type Item = Result<ServiceEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            match ready!(self.subscription.poll_next_delivery(cx)) {
                Some(Ok(item)) => self.take(item),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.in_operation("registry.watch")))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl WatchStream<ServiceEvent> for ServiceWatch {
    fn state(&self) -> WatchState {
        self.subscription.state()
    }
}
