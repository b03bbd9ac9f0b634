//! Which file lies where: a pure function of the files (G14).
//!
//! Two files may want one path, since each was made where the other was not known, or since their
//! names differ in nothing that counts. Who claimed it first has it. Whoever comes later hides if
//! it has the same content, and else shows under a conflict name. A file gives way to a directory
//! of its name. A directory has one spelling: that of the file below it that claimed first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use super::event::BlobRef;
use super::id::{Dot, NodeId};
use super::node::Node;
use super::path::{Names, RelPath, conflict_name, directories};

/// Where a file is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At its own path, directories spelled as they are shown.
    Own(String),
    /// Under a conflict name, since its path is taken.
    Conflict(String),
    /// Nowhere: the file that has its path has the same content.
    Hidden {
        /// That file.
        behind: NodeId,
    },
}

impl Place {
    /// The path at which it is shown.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Own(path) | Self::Conflict(path) => Some(path),
            Self::Hidden { .. } => None,
        }
    }
}

/// A file that wants a path.
#[derive(Clone, Debug, PartialEq)]
struct Claim {
    path: RelPath,
    folded: String,
    claimed: u64,
    content: Option<BlobRef>,
    dot: Dot,
}

/// Of a directory, by its folded path: how often its own name is spelled how.
type Spellings = BTreeMap<String, usize>;

/// All files that are there, and where each is shown.
#[derive(Clone, Debug)]
pub struct PathView {
    names: Names,
    claims: BTreeMap<NodeId, Claim>,
    at: BTreeMap<String, BTreeSet<(u64, NodeId)>>,
    directories: BTreeMap<String, Spellings>,
    /// Folded paths at which somebody gives way.
    crowded: BTreeSet<String>,
    /// Who gives way, and where it is shown; made when it is asked for.
    giving_way: OnceLock<BTreeMap<NodeId, Place>>,
}

/// Where the same files are, they are shown at the same places.
impl PartialEq for PathView {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names && self.claims == other.claims
    }
}

impl PathView {
    /// No files.
    #[must_use]
    pub const fn new(names: Names) -> Self {
        Self {
            names,
            claims: BTreeMap::new(),
            at: BTreeMap::new(),
            directories: BTreeMap::new(),
            crowded: BTreeSet::new(),
            giving_way: OnceLock::new(),
        }
    }

    /// The file is now like this; `None` or a deleted one is not there.
    pub fn set(&mut self, id: NodeId, node: Option<&Node>) {
        let claim = node.and_then(|node| {
            let visible = node.visible().filter(|visible| !visible.is_deleted())?;
            let folded = self.names.fold(visible.version.path.as_str());
            let dot = visible.lead()?.clone();
            Some(Claim {
                path: visible.version.path,
                folded,
                claimed: node.claimed,
                content: visible.version.content,
                dot,
            })
        });
        self.giving_way.take();
        if let Some(old) = self.claims.remove(&id) {
            self.leave(id, &old);
        }
        if let Some(claim) = claim {
            self.join(id, &claim);
            self.claims.insert(id, claim);
        }
    }

    fn join(&mut self, id: NodeId, claim: &Claim) {
        self.at.entry(claim.folded.clone()).or_default().insert((claim.claimed, id));
        self.is_it_crowded(&claim.folded);
        for (folded, spelled) in directories(&claim.folded).zip(claim.path.directories()) {
            let spellings = self.directories.entry(folded.to_owned()).or_default();
            let new = spellings.is_empty();
            *spellings.entry(last(spelled).to_owned()).or_default() += 1;
            if new && self.at.contains_key(folded) {
                self.crowded.insert(folded.to_owned());
            }
        }
    }

    fn leave(&mut self, id: NodeId, claim: &Claim) {
        if let Some(here) = self.at.get_mut(&claim.folded) {
            here.remove(&(claim.claimed, id));
            if here.is_empty() {
                self.at.remove(&claim.folded);
            }
        }
        self.is_it_crowded(&claim.folded);
        for (folded, spelled) in directories(&claim.folded).zip(claim.path.directories()) {
            let Some(spellings) = self.directories.get_mut(folded) else { continue };
            if let Some(count) = spellings.get_mut(last(spelled)) {
                *count -= 1;
                if *count == 0 {
                    spellings.remove(last(spelled));
                }
            }
            if spellings.is_empty() {
                self.directories.remove(folded);
                self.is_it_crowded(folded);
            }
        }
    }

    fn is_it_crowded(&mut self, folded: &str) {
        let files = self.at.get(folded).map_or(0, BTreeSet::len);
        if files > 1 || files == 1 && self.directories.contains_key(folded) {
            self.crowded.insert(folded.to_owned());
        } else {
            self.crowded.remove(folded);
        }
    }

    /// Where a file is shown; `None` if it is not there.
    #[must_use]
    pub fn place(&self, id: &NodeId) -> Option<Place> {
        let claim = self.claims.get(id)?;
        if self.crowded.contains(&claim.folded) {
            if let Some(place) = self.giving_way().get(id) {
                return Some(place.clone());
            }
        }
        Some(Place::Own(self.spelled(&claim.path, &claim.folded)))
    }

    /// The file that has a path: the one that claimed it first, unless it gives way to a directory.
    #[must_use]
    pub fn owner(&self, path: &str) -> Option<NodeId> {
        let folded = self.names.fold(path);
        if self.directories.contains_key(&folded) {
            return None;
        }
        self.at.get(&folded)?.first().map(|(_, id)| *id)
    }

    /// All paths that are shown, and the file at each.
    #[must_use]
    pub fn tree(&self) -> BTreeMap<String, NodeId> {
        let places = self.claims.keys().filter_map(|id| Some((self.place(id)?, *id)));
        places.filter_map(|(place, id)| Some((place.path()?.to_owned(), id))).collect()
    }

    /// The files that are not shown at their own path.
    #[must_use]
    pub fn giving_way(&self) -> &BTreeMap<NodeId, Place> {
        self.giving_way.get_or_init(|| self.find_places())
    }

    /// Gives each file that gives way its place: who claimed first chooses first, so that nobody's
    /// place changes when another one comes.
    fn find_places(&self) -> BTreeMap<NodeId, Place> {
        let mut places = BTreeMap::new();
        let mut without: Vec<(u64, NodeId)> = Vec::new();
        for folded in &self.crowded {
            let Some(here) = self.at.get(folded) else { continue };
            let Some((_, first)) = here.first() else { continue };
            let has_it = self.claims.get(first).and_then(|claim| claim.content);
            for (claimed, id) in here {
                let same = self.claims.get(id).and_then(|claim| claim.content) == has_it;
                if id == first && !self.directories.contains_key(folded) {
                } else if id != first && same {
                    places.insert(*id, Place::Hidden { behind: *first });
                } else {
                    without.push((*claimed, *id));
                }
            }
        }
        without.sort_unstable();
        let mut given = BTreeSet::new();
        for (_, id) in without {
            let Some(claim) = self.claims.get(&id) else { continue };
            let (directory, name) = match claim.path.as_str().rsplit_once('/') {
                Some((directory, name)) => (Some(directory), name),
                None => (None, claim.path.as_str()),
            };
            for attempt in 0_u32.. {
                let more = match attempt {
                    0 => None,
                    1 => id.to_string().get(..8).map(ToOwned::to_owned),
                    2 => Some(id.to_string()),
                    more => Some(format!("{id}-{more}")),
                };
                let name = conflict_name(name, &claim.dot, more.as_deref());
                let path = directory.map_or_else(|| name.clone(), |directory| format!("{directory}/{name}"));
                let folded = self.names.fold(&path);
                if !self.at.contains_key(&folded)
                    && !self.directories.contains_key(&folded)
                    && !given.contains(&folded)
                {
                    places.insert(id, Place::Conflict(self.spelled_path(&path, &folded)));
                    given.insert(folded);
                    break;
                }
            }
        }
        places
    }

    fn spelled(&self, path: &RelPath, folded: &str) -> String {
        self.spelled_path(path.as_str(), folded)
    }

    /// A path, its directories spelled as they are shown.
    fn spelled_path(&self, path: &str, folded: &str) -> String {
        let mut spelled = String::with_capacity(path.len());
        for (directory, own) in directories(folded).zip(path.split('/')) {
            spelled.push_str(self.spelling(directory).as_deref().unwrap_or(own));
            spelled.push('/');
        }
        spelled.push_str(last(path));
        spelled
    }

    /// How the name of a directory is spelled.
    fn spelling(&self, folded: &str) -> Option<String> {
        let spellings = self.directories.get(folded)?;
        if spellings.len() == 1 {
            return spellings.keys().next().cloned();
        }
        // Who claimed first of all that lie below it.
        let below = format!("{folded}/");
        let files = self.at.range(below.clone()..).take_while(|(path, _)| path.starts_with(&below));
        let (_, first) = files.filter_map(|(_, here)| here.first()).min()?;
        let path = &self.claims.get(first)?.path;
        path.directories().nth(folded.matches('/').count()).map(|directory| last(directory).to_owned())
    }
}

/// The last name of a path.
fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::event::Version;
    use super::super::id::{Hash, SpaceName};
    use super::super::samples::{dot, file, sibling};
    use super::super::vector::VersionVector;
    use super::*;

    fn node(path: &str, text: &str, claimed: u64, seq: u64) -> Node {
        let version: Version = file(text, 1).at_path(path);
        let of = dot("a", seq);
        let context: VersionVector = [of.clone()].into_iter().collect();
        Node { context, siblings: [(of, sibling(version))].into(), position: claimed, claimed }
    }

    fn id(n: u8) -> NodeId {
        NodeId::created(&SpaceName::new("main").unwrap(), "x", &Hash::of_content(&[n]), 0)
    }

    fn view(files: &[(&str, &str)]) -> PathView {
        let mut view = PathView::new(Names::Folded);
        for (n, (path, text)) in files.iter().enumerate() {
            view.set(id(n as u8), Some(&node(path, text, n as u64 + 1, n as u64 + 1)));
        }
        view
    }

    fn shown(view: &PathView) -> Vec<String> {
        view.tree().into_keys().collect()
    }

    #[test]
    fn who_was_first_has_the_path() {
        let view = view(&[("a.txt", "1"), ("A.TXT", "2"), ("a.txt", "1")]);
        assert_eq!(shown(&view), ["A.conflict-a-2.TXT", "a.txt"]);
        assert_eq!(view.owner("a.TXT"), Some(id(0)));
        assert_eq!(view.place(&id(2)), Some(Place::Hidden { behind: id(0) }));
    }

    #[test]
    fn a_file_gives_way_to_a_directory() {
        let mut view = view(&[("a", "1"), ("A/b", "2")]);
        assert_eq!(shown(&view), ["A/b", "a.conflict-a-1"]);
        assert_eq!(view.owner("a"), None);
        view.set(id(1), None);
        assert_eq!(shown(&view), ["a"]);
    }

    #[test]
    fn a_directory_has_one_spelling() {
        let mut view = view(&[("Docs/a", "1"), ("docs/b", "2"), ("DOCS/c", "3")]);
        assert_eq!(shown(&view), ["Docs/a", "Docs/b", "Docs/c"]);
        view.set(id(0), None);
        assert_eq!(shown(&view), ["docs/b", "docs/c"]);
    }

    #[test]
    fn a_conflict_name_is_free_itself() {
        let view =
            view(&[("a", "1"), ("a", "2"), ("a.conflict-a-2", "3"), ("A.CONFLICT-a-4", "4"), ("a", "5")]);
        let name = format!("a.conflict-a-2-{}", id(1).to_string().get(..8).unwrap());
        assert_eq!(view.place(&id(1)), Some(Place::Conflict(name)));
        assert_eq!(view.place(&id(4)), Some(Place::Conflict("a.conflict-a-5".to_owned())));
    }

    #[test]
    fn exact_names_are_what_they_are() {
        let mut view = PathView::new(Names::Exact);
        view.set(id(0), Some(&node("a", "1", 1, 1)));
        view.set(id(1), Some(&node("A", "2", 2, 2)));
        assert_eq!(shown(&view), ["A", "a"]);
    }

    fn paths() -> impl Strategy<Value = String> {
        let names = prop_oneof![
            Just("a"),
            Just("A"),
            Just("b"),
            Just("a.conflict-a-1"),
            Just("\u{e9}"),
            Just("e\u{301}")
        ];
        proptest::collection::vec(names, 1..4).prop_map(|names| names.join("/"))
    }

    fn changes() -> impl Strategy<Value = Vec<(u8, Option<(String, u8)>)>> {
        proptest::collection::vec((0_u8..8, proptest::option::weighted(0.8, (paths(), 0_u8..2))), 1..40)
    }

    proptest! {
        /// However it came to be, the view is that of the files that are there; no two are shown at
        /// one path, none where a directory is, and each is shown or hides behind an equal one.
        #[test]
        fn it_is_a_function_of_the_files(changes in changes()) {
            let mut view = PathView::new(Names::Folded);
            let mut files: BTreeMap<u8, Node> = BTreeMap::new();
            for (step, (n, file)) in changes.iter().enumerate() {
                let step = step as u64 + 1;
                match file {
                    Some((path, text)) => drop(files.insert(*n, node(path, &text.to_string(), step, step))),
                    None => drop(files.remove(n)),
                }
                view.set(id(*n), files.get(n));
            }
            let mut again = PathView::new(Names::Folded);
            for (n, node) in files.iter().rev() {
                again.set(id(*n), Some(node));
            }
            prop_assert_eq!(view.tree(), again.tree());
            prop_assert_eq!(view.giving_way(), again.giving_way());
            prop_assert_eq!(&view.crowded, &again.crowded);
            prop_assert_eq!(&view.directories, &again.directories);

            let tree = view.tree();
            let folded: BTreeSet<String> = tree.keys().map(|path| Names::Folded.fold(path)).collect();
            prop_assert_eq!(folded.len(), tree.len(), "two are shown at one path: {:?}", tree);
            for path in tree.keys() {
                for directory in directories(path) {
                    prop_assert!(!folded.contains(&Names::Folded.fold(directory)), "{directory} is a file and a directory");
                }
            }
            let spelled: BTreeSet<&str> = tree.keys().flat_map(|path| directories(path)).collect();
            let distinct: BTreeSet<String> = spelled.iter().map(|directory| Names::Folded.fold(directory)).collect();
            prop_assert_eq!(spelled.len(), distinct.len(), "a directory has two spellings: {:?}", spelled);
            for (n, node) in &files {
                match view.place(&id(*n)).unwrap() {
                    Place::Hidden { behind } => {
                        let content = |node: &Node| node.visible().unwrap().version.content;
                        let other = files.iter().find(|(n, _)| id(**n) == behind).unwrap().1;
                        prop_assert_eq!(content(node), content(other));
                    }
                    place => prop_assert_eq!(tree.get(place.path().unwrap()), Some(&id(*n))),
                }
            }
        }
    }
}
