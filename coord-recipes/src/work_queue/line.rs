//! Which items of a queue are free, and who is to have them. Pure: no clock, no store.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use coord_api::Revision;
use coord_api::store::{Change, Entry};
use coord_core::keys::{self, QueuePart};
use coord_core::watch::Delivery;

/// An item that nobody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FreeItem {
    pub(super) id: Arc<str>,
    /// When it was written last: each delivery writes it.
    pub(super) modified: Revision,
    /// How often it was delivered.
    pub(super) deliveries: u32,
}

/// A place in the order of a queue: the create revision, and the name among those of one revision.
type Place = (Revision, Arc<str>);

/// What is known of an item.
#[derive(Clone, Copy, Debug)]
struct Item {
    modified: Revision,
    deliveries: u32,
    /// It is not so any more, as a claim of it has shown: what has become of it is still to come.
    is_outdated: bool,
}

/// The items of a queue, their claims and who waits, in the order in which they came.
#[derive(Debug)]
pub(super) struct Line {
    queue: Bytes,
    is_ordered: bool,
    items: BTreeMap<Place, Item>,
    created: HashMap<Arc<str>, Revision>,
    /// The items that are claimed or delayed; a claim may be known before its item.
    claimed: HashSet<Arc<str>>,
    free: BTreeSet<Place>,
    waiters: BTreeSet<Place>,
    joined: HashMap<Arc<str>, Revision>,
}

impl Line {
    /// Nothing is known of the queue in this directory yet.
    pub(super) fn new(queue: Bytes, is_ordered: bool) -> Self {
        Line {
            queue,
            is_ordered,
            items: BTreeMap::new(),
            created: HashMap::new(),
            claimed: HashSet::new(),
            free: BTreeSet::new(),
            waiters: BTreeSet::new(),
            joined: HashMap::new(),
        }
    }

    /// Takes what a watch of the line has delivered, and says who waits no more.
    pub(super) fn apply(&mut self, news: Delivery) -> Vec<Arc<str>> {
        match news {
            Delivery::Batch(batch) => {
                let mut gone = Vec::new();
                for change in batch.changes {
                    match change {
                        Change::Put(entry) => self.put(&entry),
                        Change::Delete { key } => gone.extend(self.delete(&key)),
                    }
                }
                gone
            }
            Delivery::Resync { state, .. } => {
                let before = std::mem::take(&mut self.joined);
                self.replace(&state.entries);
                before.into_keys().filter(|name| !self.waits(name)).collect()
            }
        }
    }

    /// These are all that there are.
    pub(super) fn replace(&mut self, entries: &[Entry]) {
        *self = Line::new(self.queue.clone(), self.is_ordered);
        entries.iter().for_each(|entry| self.put(entry));
    }

    fn name(&self, part: QueuePart, key: &[u8]) -> Option<Arc<str>> {
        keys::name_in_queue(&self.queue, part, key).map(Arc::from)
    }

    fn put(&mut self, entry: &Entry) {
        if let Some(id) = self.name(QueuePart::Item, &entry.key) {
            self.remove_item(&id);
            let item =
                Item { modified: entry.modified, deliveries: deliveries(&entry.value), is_outdated: false };
            let place = (entry.created, Arc::clone(&id));
            if !self.claimed.contains(&id) {
                self.free.insert(place.clone());
            }
            self.items.insert(place, item);
            self.created.insert(id, entry.created);
        } else if let Some(id) = self.name(QueuePart::Claim, &entry.key) {
            if let Some(created) = self.created.get(&id) {
                self.free.remove(&(*created, Arc::clone(&id)));
            }
            self.claimed.insert(id);
        } else if let Some(name) = self.name(QueuePart::Waiter, &entry.key) {
            self.remove_waiter(&name);
            self.waiters.insert((entry.created, Arc::clone(&name)));
            self.joined.insert(name, entry.created);
        }
    }

    /// Something was deleted; says who waits no more.
    fn delete(&mut self, key: &Bytes) -> Option<Arc<str>> {
        if let Some(id) = self.name(QueuePart::Item, key) {
            self.remove_item(&id);
        } else if let Some(id) = self.name(QueuePart::Claim, key) {
            self.claimed.remove(&id);
            if let Some(created) = self.created.get(&id) {
                let place = (*created, id);
                if let Some(item) = self.items.get_mut(&place) {
                    item.is_outdated = false;
                    self.free.insert(place);
                }
            }
        } else if let Some(name) = self.name(QueuePart::Waiter, key) {
            self.remove_waiter(&name);
            return Some(name);
        }
        None
    }

    fn remove_item(&mut self, id: &Arc<str>) {
        if let Some(created) = self.created.remove(id) {
            let place = (created, Arc::clone(id));
            self.items.remove(&place);
            self.free.remove(&place);
        }
    }

    fn remove_waiter(&mut self, name: &Arc<str>) {
        if let Some(created) = self.joined.remove(name) {
            self.waiters.remove(&(created, Arc::clone(name)));
        }
    }

    /// The item is not as it stands here any more: it was claimed, or a claim of it was refused.
    pub(super) fn outdated(&mut self, tried: &FreeItem) {
        let place = self.created.get(&tried.id).map(|created| (*created, Arc::clone(&tried.id)));
        if let Some(item) = place.and_then(|place| self.items.get_mut(&place)) {
            item.is_outdated |= item.modified == tried.modified;
        }
    }

    /// Whether this one waits.
    pub(super) fn waits(&self, name: &str) -> bool {
        self.joined.contains_key(name)
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// How many items there are, and how many of them are claimed or delayed.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.items.len(), self.items.len() - self.free.len())
    }

    /// The places that can be had, in order: of an ordered queue the first one, or none.
    fn free(&self) -> impl Iterator<Item = &Place> {
        let first = self.items.keys().next().filter(|first| self.is_ordered && self.free.contains(*first));
        let all = (!self.is_ordered).then(|| self.free.iter()).into_iter().flatten();
        first.into_iter().chain(all)
    }

    fn free_item(&self, place: &Place) -> Option<FreeItem> {
        let item = self.items.get(place).filter(|item| !item.is_outdated)?;
        Some(FreeItem { id: Arc::clone(&place.1), modified: item.modified, deliveries: item.deliveries })
    }

    /// What someone may have who comes now, after all who wait; nothing of what `is_tried`.
    pub(super) fn for_newcomer(&self, is_tried: impl Fn(&str) -> bool) -> Option<FreeItem> {
        let places = self.free().skip(self.waiters.len());
        places.filter(|(_, id)| !is_tried(id)).find_map(|place| self.free_item(place))
    }

    /// Who waits and is to have which item, in order; where that is still to be learnt, no one.
    pub(super) fn turns(&self) -> impl Iterator<Item = (&Arc<str>, FreeItem)> {
        let turns = self.waiters.iter().zip(self.free());
        turns.filter_map(|((_, name), place)| Some((name, self.free_item(place)?)))
    }
}

/// How often an item was delivered, by what stands in it.
pub(super) fn deliveries(value: &[u8]) -> u32 {
    std::str::from_utf8(value).ok().and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use coord_api::Value;
    use coord_api::store::RangeReply;

    use super::*;

    fn queue() -> Bytes {
        keys::queue("q", false)
    }

    fn line(is_ordered: bool) -> Line {
        Line::new(queue(), is_ordered)
    }

    fn put(line: &mut Line, part: QueuePart, name: &str, created: u64, modified: u64, value: &str) {
        line.put(&Entry {
            key: keys::queue_part(&queue(), part, name),
            value: Value::from(value.to_owned()),
            created: Revision::new(created),
            modified: Revision::new(modified),
            lease: None,
        });
    }

    fn item(line: &mut Line, id: &str, created: u64) {
        put(line, QueuePart::Item, id, created, created, "0");
    }

    fn claim(line: &mut Line, id: &str, created: u64, at: u64) {
        put(line, QueuePart::Claim, id, at, at, "me");
        put(line, QueuePart::Item, id, created, at, "1");
    }

    fn delete(line: &mut Line, part: QueuePart, name: &str) {
        line.delete(&keys::queue_part(&queue(), part, name));
    }

    fn waiter(line: &mut Line, name: &str, created: u64) {
        put(line, QueuePart::Waiter, name, created, created, "");
    }

    fn turns(line: &Line) -> Vec<(String, String)> {
        line.turns().map(|(name, item)| (name.to_string(), item.id.to_string())).collect()
    }

    fn pair(name: &str, id: &str) -> (String, String) {
        (name.to_owned(), id.to_owned())
    }

    fn next(line: &Line) -> Option<String> {
        line.for_newcomer(|_| false).map(|item| item.id.to_string())
    }

    #[test]
    fn the_nth_who_waits_has_the_nth_free_item() {
        let mut line = line(false);
        for (id, created) in [("a", 3), ("b", 2), ("c", 5)] {
            item(&mut line, id, created);
        }
        claim(&mut line, "a", 3, 9);
        waiter(&mut line, "late", 8);
        waiter(&mut line, "early", 7);
        assert_eq!(turns(&line), [pair("early", "b"), pair("late", "c")]);
        assert_eq!(next(&line), None, "who waits comes first");
        delete(&mut line, QueuePart::Claim, "a");
        assert_eq!(turns(&line), [pair("early", "b"), pair("late", "a")], "at its old place");
        assert_eq!(next(&line).as_deref(), Some("c"));
        delete(&mut line, QueuePart::Waiter, "early");
        assert_eq!(turns(&line), [pair("late", "b")]);
    }

    #[test]
    fn of_an_ordered_queue_the_oldest_alone_is_had() {
        let mut line = line(true);
        item(&mut line, "a", 1);
        item(&mut line, "b", 2);
        waiter(&mut line, "one", 3);
        waiter(&mut line, "two", 4);
        assert_eq!(turns(&line), [pair("one", "a")]);
        claim(&mut line, "a", 1, 5);
        assert_eq!((turns(&line), next(&line)), (vec![], None));
        delete(&mut line, QueuePart::Claim, "a");
        assert_eq!(turns(&line), [pair("one", "a")]);
        delete(&mut line, QueuePart::Item, "a");
        assert_eq!(turns(&line), [pair("one", "b")]);
    }

    #[test]
    fn a_claim_that_is_known_before_its_item_counts() {
        let mut line = line(false);
        put(&mut line, QueuePart::Claim, "a", 1, 1, "");
        item(&mut line, "a", 1);
        assert_eq!((next(&line), line.counts()), (None, (1, 1)));
        delete(&mut line, QueuePart::Claim, "a");
        assert_eq!((next(&line).as_deref(), line.counts()), (Some("a"), (1, 0)));
    }

    #[test]
    fn what_was_refused_is_not_tried_again_before_it_has_changed() {
        let mut line = line(false);
        item(&mut line, "a", 1);
        waiter(&mut line, "one", 2);
        let refused = line.turns().next().unwrap().1;
        line.outdated(&refused);
        assert_eq!(turns(&line), []);
        claim(&mut line, "a", 1, 3);
        delete(&mut line, QueuePart::Claim, "a");
        assert_eq!(line.turns().next().unwrap().1.deliveries, 1);
        line.outdated(&refused);
        assert_eq!(turns(&line), [pair("one", "a")], "that was about an earlier state of it");
    }

    #[test]
    fn who_comes_now_leaves_alone_what_others_try() {
        let mut line = line(false);
        item(&mut line, "a", 1);
        item(&mut line, "b", 2);
        assert_eq!(line.for_newcomer(|id| id == "a").map(|item| item.id), Some("b".into()));
    }

    #[test]
    fn a_resync_replaces_everything_and_what_is_foreign_is_nothing() {
        let mut line = line(false);
        item(&mut line, "a", 1);
        waiter(&mut line, "one", 2);
        claim(&mut line, "gone", 1, 1);
        let foreign = Entry {
            key: [keys::queue_line(&queue()).as_ref(), b"x/y"].concat().into(),
            value: Value::default(),
            created: Revision::new(3),
            modified: Revision::new(3),
            lease: None,
        };
        let state =
            RangeReply { entries: vec![foreign], revision: Revision::new(4), ..RangeReply::default() };
        let resync = Delivery::Resync { state, replaced: false };
        assert_eq!(line.apply(resync), [Arc::from("one")]);
        assert_eq!((line.counts(), line.waiting(), line.waits("one")), ((0, 0), 0, false));
    }
}
