//! The view of one who watches a service.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coord_api::{Revision, ServiceChange, ServiceEvent, ServiceInstance, Snapshot, Watch};

use super::{Breach, holds};
use crate::wait::within;

/// What a service watch told.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Told {
    /// An instance came.
    Added(ServiceInstance),
    /// An instance changed.
    Updated(ServiceInstance),
    /// An instance went.
    Removed(ServiceInstance),
    /// A record that does not decode.
    Invalid(String),
}

/// The view of one who watches a service.
#[derive(Debug, Default)]
pub struct ServiceView {
    seen: Revision,
    open: Option<(Revision, BTreeSet<(String, bool)>)>,
    state: BTreeMap<String, ServiceInstance>,
    told: Vec<Told>,
    resyncs: usize,
}

impl ServiceView {
    /// The view of a watch that was just opened.
    pub fn new() -> Self {
        ServiceView::default()
    }

    /// Takes an event.
    ///
    /// # Panics
    ///
    /// When it does not follow from the ones before (R18, R39).
    pub fn take(&mut self, event: ServiceEvent) {
        let taken = self.follow_up(event);
        assert!(taken.is_ok(), "{taken:?}");
    }

    /// Takes an event, or says which rule it breaks, and how.
    pub(crate) fn follow_up(&mut self, event: ServiceEvent) -> Result<(), Breach> {
        let (change, revision, last) = match event {
            ServiceEvent::Resync(snapshot) => return self.resync(snapshot),
            ServiceEvent::Change { change, revision, last } => (change, revision, last),
        };
        holds("r39", self.resyncs > 0, || {
            format!("a service watch starts with the full set, not with {change:?}")
        })?;
        let told = match change {
            ServiceChange::Added(instance) => {
                let was = self.state.insert(instance.id.clone(), instance.clone());
                holds("r39", was.is_none(), || format!("added, and there already: {instance:?}"))?;
                (instance.id.clone(), Told::Added(instance))
            }
            ServiceChange::Updated(instance) => {
                let was = self.state.insert(instance.id.clone(), instance.clone());
                holds("r39", was.is_some(), || format!("updated, and not there: {instance:?}"))?;
                (instance.id.clone(), Told::Updated(instance))
            }
            ServiceChange::Removed(instance) => {
                let was = self.state.remove(&instance.id);
                holds("r39", was.as_ref() == Some(&instance), || {
                    format!("a removal carries the last content: {instance:?}, not {was:?}")
                })?;
                (instance.id.clone(), Told::Removed(instance))
            }
            ServiceChange::Invalid(record) => {
                let key = String::from_utf8_lossy(&record.key).into_owned();
                let there = self.state.contains_key(&key);
                holds("r39", !there, || {
                    format!("a record that does not decode stands where an instance still does: {key}")
                })?;
                (key.clone(), Told::Invalid(key))
            }
            other => (String::new(), Told::Invalid(format!("{other:?}"))),
        };
        self.change(told.0, matches!(told.1, Told::Invalid(_)), revision, last)?;
        self.told.push(told.1);
        Ok(())
    }

    /// Reads a watch until `done` says of the view that it has come far enough, which must be
    /// within `limit`.
    ///
    /// # Panics
    ///
    /// When it does not, when the watch ends, and as [`take`](Self::take).
    pub async fn follow(
        &mut self,
        watch: &mut Watch<ServiceEvent>,
        what: &str,
        limit: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) {
        let told = within(limit, what, async {
            while !done(self) {
                match watch.next().await {
                    Some(Ok(event)) => self.take(event),
                    other => return Err(format!("the watch ended: {other:?}")),
                }
            }
            Ok(())
        });
        assert_eq!(told.await, Ok(()), "{what}");
    }

    /// Everything up to this revision was told.
    pub fn seen(&self) -> Revision {
        self.seen
    }

    /// How often a `Resync` came, the first included.
    pub fn resyncs(&self) -> usize {
        self.resyncs
    }

    /// What was told, one by one.
    pub fn told(&self) -> &[Told] {
        &self.told
    }

    /// Who is there, sorted by id.
    pub fn instances(&self) -> Vec<ServiceInstance> {
        self.state.values().cloned().collect()
    }

    fn change(&mut self, id: String, invalid: bool, revision: Revision, last: bool) -> Result<(), Breach> {
        match &mut self.open {
            Some((open, ids)) => {
                holds("r39", *open == revision, || {
                    format!("the changes of revision {open} were not complete when {revision} began")
                })?;
                holds("r39", ids.insert((id, invalid)), || format!("told twice at revision {revision}"))?;
            }
            None => {
                holds("r39", revision > self.seen, || {
                    format!("{id} at revision {revision} came after revision {}", self.seen)
                })?;
                self.open = Some((revision, BTreeSet::from([(id, invalid)])));
            }
        }
        if last {
            self.seen = revision;
            self.open = None;
        }
        Ok(())
    }

    fn resync(&mut self, snapshot: Snapshot<ServiceInstance>) -> Result<(), Breach> {
        holds("r39", snapshot.revision >= self.seen, || {
            format!("a resync goes back from {} to {}", self.seen, snapshot.revision)
        })?;
        let sorted = snapshot.items.windows(2).all(|pair| matches!(pair, [one, other] if one.id < other.id));
        holds("r39", sorted, || "a resync is sorted by id".to_owned())?;
        self.seen = snapshot.revision;
        self.open = None;
        self.resyncs += 1;
        self.state = snapshot.items.into_iter().map(|instance| (instance.id.clone(), instance)).collect();
        Ok(())
    }
}
