//! The log of a space: its head, its entries, and who has written how much.

use serde::{Deserialize, Serialize};

use super::event::Sealed;
use super::id::{Hash, Session};
use super::node::{End, Folded};
use super::path::Names;

/// The newest format of a log that this build reads.
pub const LOG_FORMAT: u8 = 1;

/// The end of the log. Every append compares it and writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The format of what is in the log. A reader that does not know it stops (G26).
    pub format: u8,
    /// Which paths are one.
    pub names: Names,
    /// Counts the times that the store was restored from a backup (G25). From 1.
    pub epoch: u32,
    /// The position of the last event; 0 for none.
    pub position: u64,
    /// The chain of all events up to it.
    pub chain: Hash,
    /// Up to here entries may be gone.
    pub floor: u64,
    /// What became of all versions that there ever were.
    pub tally: Tally,
}

impl Head {
    /// Of a log without events.
    #[must_use]
    pub fn new(names: Names) -> Self {
        Self {
            format: LOG_FORMAT,
            names,
            epoch: 1,
            position: 0,
            chain: Hash::ZERO,
            floor: 0,
            tally: Tally::default(),
        }
    }
}

/// The chain after one more event.
#[must_use]
pub fn chained(chain: Hash, event: &Sealed) -> Hash {
    Hash::of("coord.global.log", &[chain.as_bytes(), event.hash().as_bytes()])
}

/// What became of all versions that there ever were: each that was inserted is there or has ended
/// in one of these ways (G6), also where the log that tells of it is trimmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Versions that events left.
    pub inserted: u64,
    /// Of those: covered by an edit whose writer had seen them.
    pub covered: u64,
    /// Of those: kept by a resolution, as a part of what it keeps or as an equal of it.
    pub kept: u64,
    /// Of those: listed by a resolution.
    pub listed: u64,
    /// Of those: made a file of its own.
    pub forked: u64,
    /// Of those: deletions that all have seen, forgotten.
    pub forgotten: u64,
}

impl Tally {
    /// Counts what an event did.
    pub fn count(&mut self, folded: &Folded) {
        self.inserted += u64::from(folded.inserted);
        for (_, _, end) in &folded.ended {
            *match end {
                End::Covered => &mut self.covered,
                End::Kept => &mut self.kept,
                End::Listed => &mut self.listed,
                End::Forked => &mut self.forked,
                End::Forgotten => &mut self.forgotten,
            } += 1;
        }
    }

    /// How many versions must be there.
    #[must_use]
    pub const fn alive(&self) -> u64 {
        self.inserted.saturating_sub(self.covered + self.kept + self.listed + self.forked + self.forgotten)
    }
}

/// What one append wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When the coordinator took it, in milliseconds since 1970.
    pub received_ms: u64,
    /// The position of its first event.
    pub first: u64,
    /// The chain of all events before it.
    pub chain: Hash,
    /// Its events, at positions without a gap.
    pub events: Vec<Sealed>,
}

impl Entry {
    /// The position of its last event.
    #[must_use]
    pub fn last(&self) -> u64 {
        (self.first + self.events.len() as u64).saturating_sub(1)
    }
}

/// How far an actor has come. It is never removed: names of edits are given once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorRecord {
    /// Its last edit.
    pub seq: u64,
    /// The hash of that.
    pub hash: Hash,
    /// The agent that speaks for it.
    pub session: Option<Session>,
}
