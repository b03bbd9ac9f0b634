//! A version of a file beside others.

use serde::{Deserialize, Serialize};

use super::event::Version;
use super::id::Dot;
use super::vector::VersionVector;

/// A version that nothing has covered yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sibling {
    /// The file as that edit leaves it. Its time is the one that counts, not the one that was
    /// claimed.
    pub version: Version,
    /// Of a resolution: the edits behind it, but for deletions. Who has seen all of them has seen
    /// it. Empty for any other.
    pub stands_for: Vec<Dot>,
}

/// Whether `context` has seen a version: it, or all edits that it stands for.
pub(crate) fn covers(context: &VersionVector, dot: &Dot, sibling: &Sibling) -> bool {
    let by_parts =
        !sibling.stands_for.is_empty() && sibling.stands_for.iter().all(|part| context.contains(part));
    context.contains(dot) || by_parts
}
