//! Where a space stands in the store.

use bytes::Bytes;

use crate::model::{Actor, EditId, Hash, NodeId, RegionId, SpaceName};

/// The keys of a space, all below `/global/s/<space>/`.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    root: String,
}

impl Keys {
    pub(crate) fn of(space: &SpaceName) -> Self {
        Self { root: format!("/global/s/{space}/") }
    }

    pub(crate) fn head(&self) -> Bytes {
        format!("{}head", self.root).into()
    }

    /// All entries of the log, each under its last position.
    pub(crate) fn log(&self) -> Bytes {
        format!("{}log/", self.root).into()
    }

    pub(crate) fn entry(&self, last: u64) -> Bytes {
        format!("{}log/{last:020}", self.root).into()
    }

    /// The last position of the entry under that key.
    pub(crate) fn entry_in(&self, key: &[u8]) -> Option<u64> {
        let key = std::str::from_utf8(key).ok()?;
        key.strip_prefix(&self.root)?.strip_prefix("log/")?.parse().ok()
    }

    pub(crate) fn nodes(&self) -> Bytes {
        format!("{}node/", self.root).into()
    }

    pub(crate) fn node(&self, id: &NodeId) -> Bytes {
        format!("{}node/{id}", self.root).into()
    }

    pub(crate) fn node_in(&self, key: &[u8]) -> Option<NodeId> {
        let key = std::str::from_utf8(key).ok()?;
        key.strip_prefix(&self.root)?.strip_prefix("node/")?.parse().ok()
    }

    /// The files that want a path, by its folded form. No path has two slashes in a row.
    pub(crate) fn at_path(&self, folded: &str) -> Bytes {
        format!("{}path/{folded}//", self.root).into()
    }

    /// All that wants a path, or lies below it where it is a directory.
    pub(crate) fn at_or_below(&self, folded: &str) -> Bytes {
        format!("{}path/{folded}/", self.root).into()
    }

    /// All that wants a path below a directory; of the whole space for none.
    pub(crate) fn below(&self, folded: &str) -> Bytes {
        let slash = if folded.is_empty() { "" } else { "/" };
        format!("{}path/{folded}{slash}", self.root).into()
    }

    /// The folded path and the file in a key of the index.
    pub(crate) fn claim_in<'a>(&self, key: &'a [u8]) -> Option<(&'a str, NodeId)> {
        let key = std::str::from_utf8(key).ok()?;
        let (path, id) = key.strip_prefix(&self.root)?.strip_prefix("path/")?.rsplit_once("//")?;
        Some((path, id.parse().ok()?))
    }

    pub(crate) fn path(&self, folded: &str, id: &NodeId) -> Bytes {
        format!("{}path/{folded}//{id}", self.root).into()
    }

    /// The file that wants a path, in a key of those below [`at_path`](Self::at_path).
    pub(crate) fn in_path(&self, key: &[u8]) -> Option<NodeId> {
        let key = std::str::from_utf8(key).ok()?;
        key.strip_prefix(&self.root)?.rsplit_once("//")?.1.parse().ok()
    }

    pub(crate) fn actor(&self, actor: &Actor) -> Bytes {
        format!("{}actor/{actor}", self.root).into()
    }

    /// All incarnations of a region.
    pub(crate) fn actors_of(&self, region: &RegionId) -> Bytes {
        format!("{}actor/{region}#", self.root).into()
    }

    pub(crate) fn actor_in(&self, key: &[u8]) -> Option<Actor> {
        let key = std::str::from_utf8(key).ok()?;
        key.strip_prefix(&self.root)?.strip_prefix("actor/")?.parse().ok()
    }

    /// What a resolution lists, by its position.
    pub(crate) fn losers(&self) -> Bytes {
        format!("{}conflict/", self.root).into()
    }

    pub(crate) fn loser(&self, position: u64, number: usize) -> Bytes {
        format!("{}conflict/{position:020}-{number:02}", self.root).into()
    }

    /// Position and number of what is listed under that key.
    pub(crate) fn loser_in(&self, key: &[u8]) -> Option<(u64, usize)> {
        let key = std::str::from_utf8(key).ok()?;
        let (position, number) = key.strip_prefix(&self.root)?.strip_prefix("conflict/")?.split_once('-')?;
        Some((position.parse().ok()?, number.parse().ok()?))
    }

    pub(crate) fn content(&self, hash: &Hash) -> Bytes {
        format!("{}blob/{hash}", self.root).into()
    }

    /// What was answered to a write of the API.
    pub(crate) fn request(&self, edit: &EditId) -> Bytes {
        format!("{}req/{edit}", self.root).into()
    }

    /// Below it is all of the space.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn content_in(&self, key: &[u8]) -> Option<Hash> {
        let key = std::str::from_utf8(key).ok()?;
        key.strip_prefix(&self.root)?.strip_prefix("blob/")?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_what_it_is_of() {
        let keys = Keys::of(&SpaceName::new("main").unwrap());
        let id = NodeId::from([7; 16]);
        assert_eq!(keys.node_in(&keys.node(&id)), Some(id));
        assert_eq!(keys.in_path(&keys.path("a/b", &id)), Some(id));
        assert_eq!(keys.entry_in(&keys.entry(42)), Some(42));
        assert_eq!(keys.loser_in(&keys.loser(42, 7)), Some((42, 7)));
        let actor = Actor::region(RegionId::new("a").unwrap(), 3);
        assert_eq!(keys.actor_in(&keys.actor(&actor)), Some(actor));
        assert_eq!(keys.node_in(b"/global/s/other/node/07070707070707070707070707070707"), None);
        // No path's key lies among those of another path.
        assert!(!keys.path("a/b", &id).starts_with(&keys.at_path("a")));
        // Nor a region's actors among those of one whose name goes on.
        let longer = Actor::region(RegionId::new("a-1").unwrap(), 3);
        assert!(!keys.actor(&longer).starts_with(&keys.actors_of(&RegionId::new("a").unwrap())));
    }

    /// Positions sort as numbers do.
    #[test]
    fn entries_lie_in_their_order() {
        let keys = Keys::of(&SpaceName::new("main").unwrap());
        assert!(keys.entry(9) < keys.entry(10) && keys.entry(10) < keys.entry(u64::MAX));
    }
}
