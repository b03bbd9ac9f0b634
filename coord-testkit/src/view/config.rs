//! The view of one who watches the config centre.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coord_api::{ConfigEntry, ConfigEvent, Revision, Snapshot, Value, Version, Watch};

use super::{Breach, holds};
use crate::wait::within;

/// A change as it was made, or as it was told: key, version, and the value unless the key was
/// deleted.
pub type Change = (String, Version, Option<Value>);

/// A key that is not always UTF-8, so that no two have one name.
fn name(key: &[u8]) -> String {
    std::str::from_utf8(key).map_or_else(|_| key.escape_ascii().to_string(), str::to_owned)
}

/// The view of one who watches the config centre.
#[derive(Debug)]
pub struct ConfigView {
    start: Revision,
    /// Everything up to here was told.
    seen: Revision,
    /// The revision that is being told, and the keys that it told so far.
    open: Option<(Revision, BTreeSet<String>)>,
    state: BTreeMap<String, (Value, Version)>,
    /// Whether `state` is all there is: after the first `Resync`.
    whole: bool,
    told: Vec<Change>,
    /// After which revision, and up to which, a `Resync` told the outcome alone.
    skipped: Vec<(Revision, Revision)>,
}

impl ConfigView {
    /// The view of a watch of everything that comes after `start`.
    pub fn after(start: Revision) -> Self {
        ConfigView {
            start,
            seen: start,
            open: None,
            state: BTreeMap::new(),
            whole: false,
            told: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Takes an event.
    ///
    /// # Panics
    ///
    /// When it does not follow from the ones before (R18, R19, R21).
    pub fn take(&mut self, event: ConfigEvent) {
        let taken = self.follow_up(event);
        assert!(taken.is_ok(), "{taken:?}");
    }

    /// Takes an event, or says which rule it breaks, and how.
    pub(crate) fn follow_up(&mut self, event: ConfigEvent) -> Result<(), Breach> {
        match event {
            ConfigEvent::Put { entry, created, last } => {
                self.change(&entry.key, entry.version, last)?;
                let there = self.state.contains_key(&entry.key);
                holds("r21", !(self.whole || there) || created != there, || {
                    format!("a put says whether it created: {entry:?}")
                })?;
                self.state.insert(entry.key.clone(), (entry.value.clone(), entry.version));
                self.told.push((entry.key, entry.version, Some(entry.value)));
            }
            ConfigEvent::Delete { key, version, last } => {
                self.change(&key, version, last)?;
                let was = self.state.remove(&key);
                holds("r11", was.is_some() || !self.whole, || {
                    format!("deleted, but not there: {key} at {version}")
                })?;
                self.told.push((key, version, None));
            }
            ConfigEvent::Invalid { record, last } => {
                let key = name(&record.key);
                self.change(&key, record.version, last)?;
                self.state.insert(key.clone(), (record.value.clone(), record.version));
                self.told.push((key, record.version, Some(record.value)));
            }
            ConfigEvent::InvalidDeleted { key, version, last } => {
                let key = name(&key);
                self.change(&key, version, last)?;
                self.state.remove(&key);
                self.told.push((key, version, None));
            }
            ConfigEvent::Resync(snapshot) => self.resync(snapshot)?,
        }
        Ok(())
    }

    /// Reads a watch until everything up to `revision` was told, which must come within `limit`.
    ///
    /// # Panics
    ///
    /// When it does not, when the watch ends, and as [`take`](Self::take).
    pub async fn follow(&mut self, watch: &mut Watch<ConfigEvent>, revision: Revision, limit: Duration) {
        let what = format!("everything up to revision {revision} is told");
        let told = within(limit, &what, async {
            while self.seen < revision {
                match watch.next().await {
                    Some(Ok(event)) => self.take(event),
                    other => return Err(format!("the watch ended before revision {revision}: {other:?}")),
                }
            }
            Ok(())
        });
        assert_eq!(told.await, Ok(()));
    }

    /// Everything up to this revision was told.
    pub fn seen(&self) -> Revision {
        self.seen
    }

    /// How often a `Resync` came.
    pub fn resyncs(&self) -> usize {
        self.skipped.len()
    }

    /// What was told, one by one.
    pub fn told(&self) -> &[Change] {
        &self.told
    }

    /// What is there, as far as it was told.
    pub fn state(&self) -> &BTreeMap<String, (Value, Version)> {
        &self.state
    }

    /// Checks what was told against what was done: `log` holds every change in the watched span in
    /// order, at least as far as was told.
    ///
    /// # Panics
    ///
    /// When a change is missing, invented, or out of order.
    pub fn check(&self, log: &[Change]) {
        let compared = self.compare(log);
        assert!(compared.is_ok(), "{compared:?}");
    }

    /// Compares what was told with what was done, or says which rule is broken, and how.
    pub(crate) fn compare(&self, log: &[Change]) -> Result<(), Breach> {
        let skipped = |revision: Revision| {
            self.skipped.iter().any(|(after, through)| revision > *after && revision <= *through)
        };
        let expected: Vec<&Change> = log
            .iter()
            .filter(|(_, revision, _)| {
                *revision > self.start && *revision <= self.seen && !skipped(*revision)
            })
            .collect();
        let first = self.told.iter().zip(&expected).position(|(told, done)| told != *done);
        let Some(first) = first
            .or_else(|| (self.told.len() != expected.len()).then(|| self.told.len().min(expected.len())))
        else {
            return Ok(());
        };
        let (told, done) = (self.told.get(first), expected.get(first));
        // Told what was not done is a matter of content; not told what was done, or in another
        // order, one of the stream.
        let rule = if told.is_some_and(|told| !log.contains(told)) { "r21" } else { "r18" };
        Err((
            rule,
            format!("change {first} was told as {told:?}, and done as {done:?}; skipped: {:?}", self.skipped),
        ))
    }

    /// Checks the state against a listing of the watched span.
    ///
    /// # Panics
    ///
    /// When they differ.
    pub fn check_state(&self, listed: &[ConfigEntry]) {
        let listed: Vec<_> = listed.iter().map(|entry| (&entry.key, &entry.value, entry.version)).collect();
        let told: Vec<_> = self.state.iter().map(|(key, (value, version))| (key, value, *version)).collect();
        assert_eq!(told, listed, "the state as told, and as listed");
    }

    fn change(&mut self, key: &str, revision: Revision, last: bool) -> Result<(), Breach> {
        match &mut self.open {
            Some((open, keys)) => {
                holds("r18", *open == revision, || {
                    format!("the changes of revision {open} were not complete when {revision} began")
                })?;
                holds("r18", keys.insert(key.to_owned()), || {
                    format!("{key} was told twice at revision {revision}")
                })?;
            }
            None => {
                holds("r18", revision > self.seen, || {
                    format!("{key} at revision {revision} came after revision {}", self.seen)
                })?;
                self.open = Some((revision, BTreeSet::from([key.to_owned()])));
            }
        }
        if last {
            self.seen = revision;
            self.open = None;
        }
        Ok(())
    }

    fn resync(&mut self, snapshot: Snapshot<ConfigEntry>) -> Result<(), Breach> {
        let items = &snapshot.items;
        holds("r19", snapshot.revision >= self.seen, || {
            format!("a resync goes back from {} to {}", self.seen, snapshot.revision)
        })?;
        let sorted = items.windows(2).all(|pair| matches!(pair, [one, other] if one.key < other.key));
        holds("r19", sorted, || "a resync is in byte order".to_owned())?;
        let newest = items.iter().map(|entry| entry.version).max().unwrap_or_default();
        holds("r19", newest <= snapshot.revision, || {
            format!("a resync at {} holds {newest}", snapshot.revision)
        })?;
        self.skipped.push((self.seen, snapshot.revision));
        self.open = None;
        self.seen = snapshot.revision;
        self.whole = true;
        self.state =
            snapshot.items.into_iter().map(|entry| (entry.key, (entry.value, entry.version))).collect();
        for record in snapshot.invalid {
            self.state.insert(name(&record.key), (record.value, record.version));
        }
        Ok(())
    }
}
