//! The model: what an edit is, and what becomes of a tree when edits from many regions meet.
//!
//! Pure: no I/O, no clock, no chance. What is here decides; whoever stores, sends and schedules
//! stands around it.
//!
//! | module | what it answers |
//! |---|---|
//! | [`id`], [`vector`], [`clock`] | who wrote what, who has seen it, who was last |
//! | [`event`] | what stands in the log, byte by byte |
//! | [`sibling`], [`node`], [`visible`] | what an event makes of a file, and what a reader sees of it |
//! | [`path`], [`view`] | which paths are one, and which file has which |
//! | [`log`], [`append`] | what an append compares and writes |
//! | [`state`], [`outbox`], [`replica`] | a region: what it has folded, what it wrote itself, what stands on its disk |
//! | [`leader`] | how conflicts end, and what is forgotten |

pub mod append;
pub mod clock;
pub mod event;
pub mod id;
pub mod leader;
pub mod log;
pub mod node;
pub mod outbox;
pub mod path;
mod refusal;
pub mod replica;
pub mod sibling;
pub mod state;
mod tracked;
pub mod vector;
pub mod view;
pub mod visible;

#[cfg(test)]
mod samples;

pub use clock::Hlc;
pub use event::{BlobRef, Body, Event, Fields, Sealed, Strategy, Version};
pub use id::{Actor, Dot, EditId, Hash, NameError, NodeId, RegionId, Session, SpaceName};
pub use log::{ActorRecord, Entry, Head, Tally};
pub use node::{End, Folded, Node, fold};
pub use path::{Names, RelPath};
pub use refusal::Refusal;
pub use replica::Replica;
pub use sibling::Sibling;
pub use state::State;
pub use vector::{Causality, VersionVector};
pub use view::{PathView, Place};
pub use visible::Visible;
