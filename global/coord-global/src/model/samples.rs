//! What the unit tests of the model are made of: one file, and events of it.

use super::clock::Hlc;
use super::event::{BlobRef, Body, Event, FORMAT, Fields, Strategy, Version};
use super::id::{Actor, Dot, EditId, Hash, NodeId, RegionId, SpaceName};
use super::node::{Folded, Node, fold};
use super::path::{Names, RelPath};
use super::sibling::Sibling;
use super::vector::VersionVector;

pub(crate) fn actor(name: &str) -> Actor {
    Actor::region(RegionId::new(name).unwrap(), 1)
}

pub(crate) fn dot(name: &str, seq: u64) -> Dot {
    Dot::new(actor(name), seq)
}

#[allow(clippy::unnecessary_wraps, reason = "as a version has it")]
pub(crate) fn content(text: &str) -> Option<BlobRef> {
    Some(BlobRef { hash: Hash::of_content(text.as_bytes()), size: text.len() as u64 })
}

/// The file with that text.
pub(crate) fn file(text: &str, time: u64) -> Version {
    Version {
        path: RelPath::new("file").unwrap(),
        content: content(text),
        modified_ms: 0,
        meta: [].into(),
        was: None,
        base: None,
        changed: Fields::ALL,
        time: Hlc::at(time),
        primary: RegionId::new("a").unwrap(),
    }
}

impl Version {
    pub(crate) fn at_path(mut self, path: &str) -> Self {
        self.path = RelPath::new(path).unwrap();
        self
    }
}

pub(crate) fn sibling(version: Version) -> Sibling {
    Sibling { version, stands_for: Vec::new() }
}

fn event(name: &str, seq: u64, seen: &[(&str, u64)], body: Body) -> Event {
    let mut edit = [0; 16];
    edit[0] = name.as_bytes()[0];
    edit[8..].copy_from_slice(&seq.to_be_bytes());
    Event {
        format: FORMAT,
        dot: dot(name, seq),
        edit: EditId::from(edit),
        node: node(),
        context: seen.iter().map(|(name, seq)| dot(name, *seq)).collect(),
        body,
        prev: Hash::ZERO,
    }
}

/// The file's id.
pub(crate) fn node() -> NodeId {
    NodeId::created(&SpaceName::new("main").unwrap(), "file", &Hash::ZERO, 0)
}

/// An edit of the file, at the time of its number.
pub(crate) fn write(name: &str, seq: u64, text: &str, seen: &[(&str, u64)]) -> Event {
    event(name, seq, seen, Body::Write(file(text, seq)))
}

/// A deletion of the file.
pub(crate) fn delete(name: &str, seq: u64, seen: &[(&str, u64)]) -> Event {
    let version = Version { content: None, was: content("one"), ..file("", seq) };
    event(name, seq, seen, Body::Write(version))
}

impl Event {
    pub(crate) fn set_time(&mut self, time: Hlc) {
        if let Body::Write(version) = &mut self.body {
            version.time = time;
        }
    }

    pub(crate) fn set_path(&mut self, path: &str) {
        if let Body::Write(version) = &mut self.body {
            version.path = RelPath::new(path).unwrap();
        }
    }
}

/// One file and its log.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) node: Option<Node>,
    /// What the coordinator's clock says.
    pub(crate) at: u64,
    position: u64,
    resolutions: u64,
}

impl Sample {
    pub(crate) fn new() -> Self {
        Self { node: None, at: 1_000, position: 0, resolutions: 0 }
    }

    pub(crate) fn fold(&mut self, event: Event) -> Folded {
        self.position += 1;
        self.resolutions += u64::from(event.dot.actor.is_instance());
        let (node, folded) = fold(Names::Folded, self.node.take(), self.position, self.at, &event);
        self.node = node;
        folded
    }

    pub(crate) fn siblings(&self) -> Vec<Dot> {
        self.node.iter().flat_map(|node| node.siblings.keys().cloned()).collect()
    }

    fn by_lead(&self, body: Body) -> Event {
        let context: VersionVector = self.node.as_ref().unwrap().context.clone();
        let dot = Dot::new(Actor::lead(1), self.resolutions + 1);
        Event { dot, context, ..event("z", 1, &[], body) }
    }

    /// The leader's end of the file's conflict.
    pub(crate) fn resolve(&self) -> Event {
        let node = self.node.as_ref().unwrap();
        let (keep, stands_for, losers) = super::leader::kept(node).unwrap();
        self.by_lead(Body::Resolve { keep, stands_for, losers, by: Strategy::LastWriterWins })
    }

    /// The leader forgets the file.
    pub(crate) fn forget(&self) -> Event {
        self.by_lead(Body::Forget)
    }
}
