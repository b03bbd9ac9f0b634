use std::collections::BTreeMap;

use super::super::append::{Accepted, Appending, Known, hello};
use super::super::event::BlobRef;
use super::super::path::RelPath;
use super::super::*;
use super::{Need, Replica};

/// A coordinator that keeps all content.
#[derive(Clone)]
struct Coordinator {
    head: Head,
    entries: Vec<Entry>,
    nodes: BTreeMap<NodeId, Node>,
    actors: BTreeMap<Actor, ActorRecord>,
}

impl Known for Coordinator {
    fn actor(&self, actor: &Actor) -> Option<ActorRecord> {
        self.actors.get(actor).copied()
    }

    fn node(&self, id: &NodeId) -> Option<Node> {
        self.nodes.get(id).cloned()
    }

    fn has_content(&self, _: &Hash) -> bool {
        true
    }
}

impl Coordinator {
    fn new() -> Self {
        Self {
            head: Head::new(Names::Folded),
            entries: Vec::new(),
            nodes: BTreeMap::new(),
            actors: BTreeMap::new(),
        }
    }

    fn greet(&mut self, replica: &mut Replica) {
        let region = RegionId::new("a").unwrap();
        let last =
            self.actors.iter().map(|(actor, record)| (actor.incarnation(), *record)).max_by_key(|(n, _)| *n);
        let named = replica.actor().and_then(|actor| self.actor(actor));
        let greeting = hello(&self.head, &region, last, named, &replica.hello(), false, 100).unwrap();
        self.actors.extend(greeting.actors);
        replica.welcome(greeting.welcome, self.head.position);
    }

    /// Takes what is to be pushed up to the first that is refused.
    fn take(&mut self, replica: &mut Replica) -> Option<(u64, Refusal)> {
        let store = self.clone();
        let mut appending = Appending::new(&store, &self.head, 1_000);
        let mut refused = None;
        for event in replica.to_push() {
            match appending.take(event, replica.session) {
                Ok(Accepted::At(_) | Accepted::Before) => {}
                Err(refusal) => {
                    refused = Some((event.dot().seq, refusal));
                    break;
                }
            }
        }
        if let Some(append) = appending.finish() {
            self.head = append.head;
            self.entries.push(append.entry);
            self.actors.extend(append.actors);
            for (id, node) in append.nodes {
                self.nodes.insert(id, node.unwrap());
            }
        }
        refused
    }

    fn pull(&self, replica: &mut Replica) {
        for entry in &self.entries {
            replica.fold(entry, usize::MAX).unwrap();
        }
    }
}

fn region() -> Replica {
    let (space, region) = (SpaceName::new("main").unwrap(), RegionId::new("a").unwrap());
    Replica::new(space, region, Names::Folded, Session::from([1; 16]))
}

fn blob(n: u32) -> BlobRef {
    BlobRef { hash: Hash::of_content(&n.to_be_bytes()), size: 4 }
}

fn edit(n: u32) -> EditId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    EditId::from(id)
}

fn path(path: &str) -> RelPath {
    RelPath::new(path).unwrap()
}

fn everything(replica: &mut Replica) -> usize {
    replica.seal(usize::MAX, |_| true)
}

#[test]
fn ten_thousand_saves_offline_are_one_event() {
    let mut replica = region();
    for n in 0..10_000 {
        replica.found(&path("log.txt"), blob(n), n.into(), n.into(), edit(n)).unwrap();
    }
    assert_eq!(replica.outbox().pending().count(), 1);
    let mut coordinator = Coordinator::new();
    coordinator.greet(&mut replica);
    assert_eq!(everything(&mut replica), 1);
    assert_eq!(coordinator.take(&mut replica), None);
    assert_eq!(coordinator.head.position, 1);
    let node = coordinator.nodes.values().next().unwrap();
    assert_eq!(node.visible().unwrap().version.content, Some(blob(9_999)));
}

#[test]
fn a_file_that_never_rests_holds_up_only_itself() {
    let mut replica = region();
    replica.found(&path("busy"), blob(1), 1, 1, edit(1));
    replica.found(&path("other"), blob(2), 1, 1, edit(2));
    Coordinator::new().greet(&mut replica);
    // The content of the busy one is never at the coordinator before the next save.
    let sealed = replica.seal(usize::MAX, |hash| *hash == blob(2).hash);
    assert_eq!(sealed, 1);
    assert_eq!(replica.to_push().count(), 1);
    assert_eq!(replica.outbox().pending().count(), 1);
}

#[test]
fn a_touch_alone_is_no_edit() {
    let mut replica = region();
    assert!(replica.found(&path("a"), blob(1), 1, 1, edit(1)).is_some());
    assert!(replica.found(&path("a"), blob(1), 2, 2, edit(2)).is_none());
}

#[test]
fn what_nobody_has_heard_of_is_taken_back() {
    let mut replica = region();
    replica.found(&path("a"), blob(1), 1, 1, edit(1));
    replica.vanished("a", 2, edit(2));
    assert!(replica.outbox().is_empty());
    assert!(replica.view().tree().is_empty());
}

#[test]
fn what_is_accepted_stays_until_it_is_folded() {
    let mut replica = region();
    let mut coordinator = Coordinator::new();
    replica.found(&path("a"), blob(1), 1, 1, edit(1));
    coordinator.greet(&mut replica);
    everything(&mut replica);
    coordinator.take(&mut replica);
    let actor = replica.actor().unwrap().clone();
    replica.answered(coordinator.actors[&actor]);
    assert_eq!(replica.to_push().count(), 0, "it is not sent again");
    assert_eq!(replica.outbox().sealed_from(0).count(), 1);
    coordinator.pull(&mut replica);
    assert!(replica.outbox().is_empty());
    assert_eq!(replica.base().nodes, coordinator.nodes);
}

/// Each kind of edit that is bad is set aside with its reason, and what is behind it is issued
/// again under the next incarnation: nothing waits, nothing is lost (G22).
#[test]
fn a_bad_edit_is_set_aside_and_nothing_waits() {
    let mut replica = region();
    let mut coordinator = Coordinator::new();
    coordinator.greet(&mut replica);
    for n in 1..=3 {
        replica.found(&path(&format!("f{n}")), blob(n), 1, 1, edit(n));
    }
    everything(&mut replica);
    // The coordinator does not know what the second one has seen.
    let bad = Refusal::Future { actor: Actor::api(1), claimed: 9, known: 0 };
    assert!(bad.is_of_the_edit());
    replica.refused(2, bad.clone());
    assert_eq!(replica.need(), Need::Hello);
    assert_eq!(replica.set_aside().len(), 1);
    let aside = replica.set_aside().next().unwrap();
    assert_eq!((aside.edit, &aside.reason), (edit(2), &bad));
    coordinator.greet(&mut replica);
    assert_eq!(replica.actor().unwrap().incarnation(), 2);
    assert_eq!(everything(&mut replica), 2);
    assert_eq!(coordinator.take(&mut replica), None);
    coordinator.pull(&mut replica);
    let tree: Vec<String> = replica.view().tree().into_keys().collect();
    assert_eq!(tree, ["f1", "f3"]);
}

#[test]
fn an_edit_that_is_too_large_gets_no_name() {
    let mut replica = region();
    replica.found(&path("a"), blob(1), 1, 1, edit(1));
    replica.found(&path("b"), blob(2), 1, 1, edit(2));
    Coordinator::new().greet(&mut replica);
    let (order, _) = replica.outbox().pending().next().unwrap();
    let pending = replica.outbox.pending_mut(order).unwrap();
    pending.version.meta.insert("note".to_owned(), "x".repeat(event::EVENT_MAX));
    assert_eq!(everything(&mut replica), 1);
    assert!(matches!(replica.set_aside().next().unwrap().reason, Refusal::TooLarge { .. }));
    assert_eq!(replica.to_push().count(), 1);
}

/// A clock of 2001 and one of 2099: an edit on top of another is later, whoever made it.
#[test]
fn sequential_edits_never_conflict_whatever_the_clocks_say() {
    let mut replica = region();
    let mut coordinator = Coordinator::new();
    coordinator.greet(&mut replica);
    for (n, wall) in [4_070_908_800_000_u64, 978_307_200_000, 0].into_iter().enumerate() {
        let n = n as u32;
        replica.found(&path("a"), blob(n), wall, wall, edit(n));
        everything(&mut replica);
        assert_eq!(coordinator.take(&mut replica), None);
        coordinator.pull(&mut replica);
        let node = coordinator.nodes.values().next().unwrap();
        assert_eq!(node.siblings.len(), 1);
        assert_eq!(node.visible().unwrap().version.content, Some(blob(n)));
    }
}

#[test]
fn only_one_of_two_names_that_differ_in_case_and_the_disk_keeps_both_files() {
    let mut replica = region();
    replica.found(&path("Readme"), blob(1), 1, 1, edit(1));
    replica.found(&path("README"), blob(2), 2, 2, edit(2));
    let tree = replica.view().tree();
    assert_eq!(tree.len(), 2);
    assert_eq!(tree.keys().filter(|path| path.contains(".conflict-a-")).count(), 1);
    // A rename of the one file by case alone is one file with its new name.
    let mut replica = region();
    replica.found(&path("Readme"), blob(1), 1, 1, edit(1));
    replica.moved("Readme", &path("README"), 2, edit(2));
    assert_eq!(replica.view().tree().into_keys().collect::<Vec<_>>(), ["README"]);
}
