//! What the leader writes: the ends of conflicts, conflict names made real, deletions forgotten.

use std::collections::BTreeSet;

use super::append::Draft;
use super::event::{Body, Fields, Strategy, Version};
use super::id::{Dot, EditId, NodeId};
use super::node::Node;
use super::path::RelPath;
use super::view::{PathView, Place};

/// What is kept of a file in conflict: the version, with the greatest time and all fields that any
/// changed, so that who comes later is weighed against all; the edits that it stands for; and those
/// that it does not show. `None` for a file with one version.
#[must_use]
pub fn kept(node: &Node) -> Option<(Version, Vec<Dot>, Vec<Dot>)> {
    if node.siblings.len() < 2 {
        return None;
    }
    let visible = node.visible()?;
    let mut keep = visible.version;
    keep.time = node.latest();
    let mut stands_for = BTreeSet::new();
    for (dot, sibling) in &node.siblings {
        keep.changed = keep.changed.with(sibling.version.changed);
        if !sibling.stands_for.is_empty() {
            stands_for.extend(sibling.stands_for.iter().cloned());
        } else if !sibling.version.is_deleted() {
            stands_for.insert(dot.clone());
        }
    }
    Some((keep, stands_for.into_iter().collect(), visible.losers))
}

/// Ends the conflict of a file: the later one is kept; with [`Strategy::Fork`], each loser that is
/// not a deletion becomes a file of its own. Goes into one append. Empty for a file in peace.
#[must_use]
pub fn resolve(id: NodeId, node: &Node, by: Strategy) -> Vec<Draft> {
    let Some((keep, stands_for, losers)) = kept(node) else { return Vec::new() };
    let names = |dots: &[Dot]| dots.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let about = names(&node.siblings.keys().cloned().collect::<Vec<_>>());
    let mut drafts = Vec::new();
    if by == Strategy::Fork {
        for loser in &losers {
            let Some(sibling) = node.siblings.get(loser).filter(|sibling| !sibling.version.is_deleted())
            else {
                continue;
            };
            let copy = NodeId::forked(&id, loser);
            let version = own_file(&sibling.version, loser);
            let body = Body::Fork { of: loser.clone(), version };
            let edit = EditId::of_lead("coord.global.edit.fork", &copy, &loser.to_string());
            drafts.push(Draft { edit, node: copy, context: Default::default(), body });
        }
    }
    let edit = EditId::of_lead("coord.global.edit.resolve", &id, &about);
    let body = Body::Resolve { keep, stands_for, losers, by };
    drafts.push(Draft { edit, node: id, context: node.context.clone(), body });
    drafts
}

/// What lost, as a file of its own under its conflict name.
fn own_file(version: &Version, dot: &Dot) -> Version {
    let (directory, name) = match version.path.as_str().rsplit_once('/') {
        Some((directory, name)) => (format!("{directory}/"), name),
        None => (String::new(), version.path.as_str()),
    };
    let name = super::path::conflict_name(name, dot, None);
    // Where the path is too long for that, it keeps its own; then it shows under a conflict name.
    let path = RelPath::new(format!("{directory}{name}")).unwrap_or_else(|_| version.path.clone());
    Version { path, base: None, changed: Fields::ALL, ..version.clone() }
}

/// Makes what gives way real: a file that shows under a conflict name is renamed to it, and one
/// that hides behind an equal one is deleted. `None` for a file that is shown at its path, or in
/// conflict: that ends first.
#[must_use]
pub fn make_real(id: NodeId, node: &Node, view: &PathView) -> Option<Draft> {
    if node.siblings.len() > 1 {
        return None;
    }
    let visible = node.visible()?;
    let from = visible.version.shows();
    let time = super::clock::Hlc::after(0, visible.version.time);
    let version = match view.giving_way().get(&id)? {
        Place::Conflict(path) => {
            let path = RelPath::new(path).ok()?;
            Version { path, base: Some(from), changed: Fields::PATH, time, ..visible.version }
        }
        Place::Hidden { .. } => {
            let was = visible.version.content;
            Version {
                content: None,
                was,
                base: Some(from),
                changed: Fields::CONTENT,
                time,
                ..visible.version
            }
        }
        Place::Own(_) => return None,
    };
    let edit = EditId::of_lead("coord.global.edit.real", &id, version.path.as_str());
    Some(Draft { edit, node: id, context: node.context.clone(), body: Body::Write(version) })
}

/// The files that what the leader writes of one is decided by: name their positions as seen with
/// [`Ledger::write`](crate::ledger::Ledger::write). One that hides behind another is deleted for
/// that one's sake.
#[must_use]
pub fn decided_by(id: &NodeId, view: &PathView) -> Vec<NodeId> {
    match view.place(id) {
        Some(Place::Hidden { behind }) => vec![*id, behind],
        _ => vec![*id],
    }
}

/// Forgets a deletion, which all have seen. `None` for a file that is there or in conflict.
#[must_use]
pub fn forget(id: NodeId, node: &Node) -> Option<Draft> {
    let forgettable = node.siblings.len() == 1 && node.visible()?.is_deleted();
    let edit = EditId::of_lead("coord.global.edit.forget", &id, "");
    forgettable.then(|| Draft { edit, node: id, context: node.context.clone(), body: Body::Forget })
}
