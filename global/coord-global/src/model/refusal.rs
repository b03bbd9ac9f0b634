//! Why something is not taken.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::id::{Actor, Hash, NameError, NodeId};

/// Why an edit, a name or a sequence of bytes is not taken. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// That is no name of its kind.
    #[error(transparent)]
    Name(#[from] NameError),
    /// That is no path of a file.
    #[error("{path:?} is no path: {why}")]
    Path {
        /// What is wrong with it.
        why: Cow<'static, str>,
        /// The path, shortened.
        path: String,
    },
    /// A version vector names an actor of which nothing was seen.
    #[error("the context names {actor} with 0: leave out whom nothing was seen of")]
    Vector {
        /// The actor.
        actor: Actor,
    },
    /// The bytes are not what an event is encoded to.
    #[error("the bytes are no event: {0}")]
    Encoding(String),
    /// The event or the log is of a format that this build does not know (G26). A newer build
    /// does.
    #[error("format {found} is not known here, {known} is the newest: this build is too old for the space")]
    Format {
        /// The format that was met.
        found: u8,
        /// The newest that this build reads.
        known: u8,
    },
    /// Something is larger than it may be.
    #[error("{what} has {size} bytes, and {max} at most are taken")]
    TooLarge {
        /// What it is.
        what: Cow<'static, str>,
        /// Its size in bytes.
        size: usize,
        /// The most that is taken.
        max: usize,
    },
    /// An edit is not the next one of its actor: something before it is missing (G2). Send from
    /// the first that was not accepted.
    #[error("edit {found} of {actor} came where {expected} is the next one: send from there")]
    Gap {
        /// The actor.
        actor: Actor,
        /// The next edit that is taken.
        expected: u64,
        /// The edit that came.
        found: u64,
    },
    /// Two histories go by one actor's name: its disk was copied or restored (G2, G9). The region
    /// goes on as its next incarnation.
    #[error(
        "edit {seq} of {actor} is another one than was accepted under that name: the disk was copied or restored, go on as the next incarnation"
    )]
    Forked {
        /// The actor.
        actor: Actor,
        /// Where the histories part, as far as it is known.
        seq: u64,
    },
    /// The edit claims to have seen what nobody has written yet, and would swallow it.
    #[error("the context has seen {claimed} edits of {actor}, who made {known}")]
    Future {
        /// The actor that the context names.
        actor: Actor,
        /// What the context claims.
        claimed: u64,
        /// What is so.
        known: u64,
    },
    /// A region writes under another's name, or an instance's.
    #[error("an edit of {actor} does not come from there")]
    NotTheActor {
        /// The actor that the edit names.
        actor: Actor,
    },
    /// Another agent speaks for this region since (G9): of two copies of a disk one goes on.
    #[error("another agent speaks for {actor}: of two copies of a disk one goes on")]
    Busy {
        /// The actor.
        actor: Actor,
    },
    /// The content of the edit is not at the coordinator, or no longer (G21). Upload it and send
    /// the edit again.
    #[error("the content {hash} is not at the coordinator: upload it, then send the edit again")]
    ContentMissing {
        /// The content.
        hash: Hash,
    },
    /// The body of the event does not go together with the file, as the text says.
    #[error("{0}")]
    Body(Cow<'static, str>),
    /// The file has changed since it was looked at: look again, and decide again.
    #[error("the file {node} has changed since: look again")]
    Changed {
        /// The file.
        node: NodeId,
    },
    /// The path is a file's already, or a directory's, or what should be its directory is a file's.
    #[error("the path {path:?} is taken")]
    Taken {
        /// The path.
        path: String,
    },
    /// The log has gone on since it was looked at: look again, and decide again.
    #[error("the log has gone on to {position} since: look again")]
    Moved {
        /// Where it is now.
        position: u64,
    },
    /// The file has as many versions beside each other as are kept.
    #[error("the file has {max} versions beside each other: resolve the conflict first")]
    Siblings {
        /// The most that are kept.
        max: usize,
    },
    /// The space was restored from a backup, or another one (G25): take a snapshot and go on as
    /// the next incarnation.
    #[error("the space is in epoch {known} and not in {claimed}: it was restored, take a snapshot")]
    Epoch {
        /// What the caller goes by.
        claimed: u32,
        /// What is so.
        known: u32,
    },
}

impl Refusal {
    /// Whether it is the edit that is bad, and will be at any time: it is set aside and listed, and
    /// the incarnation ends, for what is behind it cannot keep its place in the chain (G22).
    #[must_use]
    pub const fn is_of_the_edit(&self) -> bool {
        matches!(
            self,
            Self::Name(_)
                | Self::Path { .. }
                | Self::Vector { .. }
                | Self::Encoding(_)
                | Self::TooLarge { .. }
                | Self::Future { .. }
                | Self::Body(_)
                | Self::NotTheActor { .. }
        )
    }
}
