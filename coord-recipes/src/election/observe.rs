//! Following who leads.

use std::collections::BTreeMap;

use bytes::Bytes;
use coord_api::store::{Change, Entry};
use coord_api::{Revision, Watch};
use coord_core::watch::{SharedDelivery, Subscription};

use super::{Item, Leader, item};

/// What watching an election is called in errors.
pub(super) const OPERATION: &str = "election.observe";

/// What happened in an election.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaderEvent {
    /// Who leads, if anyone does: the first event, and whenever history was lost (R19).
    State(Option<Leader>),
    /// Another one leads now.
    Elected(Leader),
    /// The leader says something else (R52).
    Proclaimed(Leader),
    /// Nobody leads any more.
    Vacant,
}

impl LeaderEvent {
    /// Who leads, as of this event.
    pub fn leader(&self) -> Option<&Leader> {
        match self {
            LeaderEvent::State(leader) => leader.as_ref(),
            LeaderEvent::Elected(leader) | LeaderEvent::Proclaimed(leader) => Some(leader),
            LeaderEvent::Vacant => None,
        }
    }
}

/// The candidates, as far as the watch has come.
#[derive(Debug, Default)]
struct Candidates {
    /// The oldest first.
    by_age: BTreeMap<(Revision, Bytes), Leader>,
    created: BTreeMap<Bytes, Revision>,
}

impl Candidates {
    fn leader(&self) -> Option<&Leader> {
        self.by_age.first_key_value().map(|(_, leader)| leader)
    }

    fn put(&mut self, queue: &Bytes, entry: &Entry) {
        if item(queue, entry) != Item::Other {
            self.remove(&entry.key);
            self.created.insert(entry.key.clone(), entry.created);
            self.by_age.insert((entry.created, entry.key.clone()), Leader::of(entry));
        }
    }

    fn remove(&mut self, key: &Bytes) {
        if let Some(created) = self.created.remove(key) {
            self.by_age.remove(&(created, key.clone()));
        }
    }

    /// Takes what was delivered, and says what it changed of who leads.
    fn apply(&mut self, queue: &Bytes, item: &SharedDelivery) -> Option<LeaderEvent> {
        match item {
            SharedDelivery::Resync { state, .. } => {
                *self = Candidates::default();
                state.entries.iter().for_each(|entry| self.put(queue, entry));
                Some(LeaderEvent::State(self.leader().cloned()))
            }
            SharedDelivery::Batch(batch) => {
                let before = self.leader().map(|leader| (leader.token, leader.version));
                for change in &batch.changes {
                    match change {
                        Change::Put(entry) => self.put(queue, entry),
                        Change::Delete { key } => self.remove(key),
                    }
                }
                match (before, self.leader()) {
                    (None, None) => None,
                    (Some(_), None) => Some(LeaderEvent::Vacant),
                    (Some((token, version)), Some(leader)) if token == leader.token => {
                        (version != leader.version).then(|| LeaderEvent::Proclaimed(leader.clone()))
                    }
                    (_, Some(leader)) => Some(LeaderEvent::Elected(leader.clone())),
                }
            }
        }
    }
}

/// The watch over a subscription to the queue.
pub(super) fn watch(subscription: Subscription, queue: Bytes) -> Watch<LeaderEvent> {
    let mut candidates = Candidates::default();
    subscription.into_watch(OPERATION, move |item| candidates.apply(&queue, &item))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use coord_api::LeaseId;
    use coord_api::store::{Batch, RangeReply};

    use super::*;

    fn entry(name: &str, created: u64, modified: u64, value: &str) -> Entry {
        let key = Bytes::from(format!("/elections/e/{name}"));
        Entry {
            key,
            value: value.to_owned().into(),
            created: Revision::new(created),
            modified: Revision::new(modified),
            lease: Some(LeaseId::new(1)),
        }
    }

    fn batch(revision: u64, changes: Vec<Change>) -> SharedDelivery {
        SharedDelivery::Batch(Arc::new(Batch { revision: Revision::new(revision), changes }))
    }

    fn gone(name: &str) -> Change {
        Change::Delete { key: Bytes::from(format!("/elections/e/{name}")) }
    }

    fn says(event: Option<LeaderEvent>) -> (&'static str, Option<String>) {
        let kind = match &event {
            None => "nothing",
            Some(LeaderEvent::State(_)) => "state",
            Some(LeaderEvent::Elected(_)) => "elected",
            Some(LeaderEvent::Proclaimed(_)) => "proclaimed",
            Some(LeaderEvent::Vacant) => "vacant",
        };
        let value = event.as_ref().and_then(|event| event.leader()).map(|leader| &leader.value);
        (kind, value.map(|value| String::from_utf8_lossy(value).into_owned()))
    }

    #[test]
    fn every_change_of_who_leads_is_told_and_nothing_else() {
        let queue = Bytes::from_static(b"/elections/e/");
        let mut candidates = Candidates::default();
        let mut apply = |item: SharedDelivery| says(candidates.apply(&queue, &item));
        let leads = |value: &str| Some(value.to_owned());

        let state = RangeReply { entries: vec![], ..RangeReply::default() };
        assert_eq!(
            apply(SharedDelivery::Resync { state: Arc::new(state), replaced: false }),
            ("state", None)
        );
        assert_eq!(apply(batch(2, vec![Change::Put(entry("b", 2, 2, "one"))])), ("elected", leads("one")));
        assert_eq!(apply(batch(3, vec![Change::Put(entry("a", 3, 3, "two"))])), ("nothing", None));
        assert_eq!(apply(batch(4, vec![Change::Put(entry("a", 3, 4, "2"))])), ("nothing", None));
        assert_eq!(apply(batch(5, vec![Change::Put(entry("b", 2, 5, "1"))])), ("proclaimed", leads("1")));
        assert_eq!(apply(batch(6, vec![Change::Put(entry("x/y", 1, 6, "nested"))])), ("nothing", None));
        assert_eq!(apply(batch(7, vec![gone("b")])), ("elected", leads("2")));
        assert_eq!(apply(batch(8, vec![gone("a")])), ("vacant", None));
        assert_eq!(apply(batch(9, vec![gone("x/y")])), ("nothing", None));
    }
}
