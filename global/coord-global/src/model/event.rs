//! Events: what the log is made of.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Refusal;
use super::clock::Hlc;
use super::id::{Dot, EditId, Hash, NodeId, RegionId};
use super::path::RelPath;
use super::vector::VersionVector;

/// The format of the events that this build writes, and the newest that it reads.
pub const FORMAT: u8 = 1;

/// The largest event, in bytes.
pub const EVENT_MAX: usize = 8 * 1024;

/// Content, by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobRef {
    /// The SHA-256 of the content.
    pub hash: Hash,
    /// Its size in bytes.
    pub size: u64,
}

/// What of a file an edit changed.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fields(u8);

impl Fields {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Where it lies.
    pub const PATH: Self = Self(1);
    /// Its content, and when that was modified.
    pub const CONTENT: Self = Self(2);
    /// All else that is known about it.
    pub const META: Self = Self(4);
    /// All: of a file that is new.
    pub const ALL: Self = Self(7);

    /// Either's.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is among these.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether none is in both.
    #[must_use]
    pub const fn is_disjoint(self, other: Self) -> bool {
        self.0 & other.0 == 0
    }

    /// Whether these are fields that this build knows.
    const fn is_known(self) -> bool {
        self.0 <= Self::ALL.0
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(Self::PATH, "path"), (Self::CONTENT, "content"), (Self::META, "meta")];
        f.debug_set()
            .entries(names.iter().filter(|(field, _)| self.has(*field)).map(|(_, name)| name))
            .finish()
    }
}

/// A file as an edit leaves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Where it lies.
    pub path: RelPath,
    /// Its content; `None`: it is deleted.
    pub content: Option<BlobRef>,
    /// When its content was modified, in milliseconds since 1970, as its disk said.
    pub modified_ms: u64,
    /// All else that is known about it: the executable bit, and what users keep there.
    pub meta: BTreeMap<String, String>,
    /// Of a file that is deleted: the content that it had, for who restores it.
    pub was: Option<BlobRef>,
    /// What the edit started from ([`Version::shows`] of it); `None`: from nothing.
    pub base: Option<Hash>,
    /// What the edit changed.
    pub changed: Fields,
    /// When it was made.
    pub time: Hlc,
    /// The region that has the content first.
    pub primary: RegionId,
}

impl Version {
    /// What a reader sees of it, as a hash: two versions that show the same are no conflict,
    /// whoever made them, when, and from what.
    #[must_use]
    pub fn shows(&self) -> Hash {
        let (hash, size) =
            self.content.map_or((Hash::ZERO, u64::MAX), |content| (content.hash, content.size));
        let size = size.to_be_bytes();
        let modified = self.modified_ms.to_be_bytes();
        let mut parts: Vec<&[u8]> = vec![self.path.as_str().as_bytes(), hash.as_bytes(), &size, &modified];
        for (key, value) in &self.meta {
            parts.push(key.as_bytes());
            parts.push(value.as_bytes());
        }
        Hash::of("coord.global.shows", &parts)
    }

    /// Whether it is a deletion.
    #[must_use]
    pub const fn is_deleted(&self) -> bool {
        self.content.is_none()
    }

    /// Whether it has the same of `fields` as `other`.
    #[must_use]
    pub fn agrees(&self, other: &Self, fields: Fields) -> bool {
        let differs = |field| fields.has(field);
        !(differs(Fields::PATH) && self.path != other.path
            || differs(Fields::CONTENT) && self.content != other.content
            || differs(Fields::META) && self.meta != other.meta)
    }

    /// Takes `fields` of `other`.
    pub(crate) fn take(&mut self, other: &Self, fields: Fields) {
        if fields.has(Fields::PATH) {
            self.path = other.path.clone();
        }
        if fields.has(Fields::CONTENT) {
            self.content = other.content;
            self.modified_ms = other.modified_ms;
            self.primary = other.primary.clone();
        }
        if fields.has(Fields::META) {
            self.meta.clone_from(&other.meta);
        }
    }
}

/// How a conflict was resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Strategy {
    /// The later one is kept, the other listed.
    LastWriterWins,
    /// The later one is kept, the other becomes a file of its own.
    Fork,
    /// Both were merged.
    Merge,
    /// Somebody decided.
    Manual,
}

/// What an event does to its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Body {
    /// An edit: of a user, at a region or by the API.
    Write(Version),
    /// The end of a conflict.
    Resolve {
        /// What is kept.
        keep: Version,
        /// The edits behind what it covers, but for deletions: who has seen all of these has seen
        /// this (G7).
        stands_for: Vec<Dot>,
        /// What was not kept, and is listed.
        losers: Vec<Dot>,
        /// By what.
        by: Strategy,
    },
    /// A file of its own for what lost.
    Fork {
        /// The edit that lost.
        of: Dot,
        /// It, under a name of its own.
        version: Version,
    },
    /// A deletion that all have seen long ago is forgotten.
    Forget,
}

/// A change of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The format: the first byte of the encoding, so that any build can tell what it cannot read.
    pub format: u8,
    /// Its name.
    pub dot: Dot,
    /// The save that it carries.
    pub edit: EditId,
    /// The file.
    pub node: NodeId,
    /// What of this file its writer had seen.
    pub context: VersionVector,
    /// What it does.
    pub body: Body,
    /// The hash of its actor's edit before; [`Hash::ZERO`] for the first.
    pub prev: Hash,
}

impl Event {
    /// The version that the event leaves, but for one that forgets.
    #[must_use]
    pub const fn version(&self) -> Option<&Version> {
        match &self.body {
            Body::Write(version) | Body::Resolve { keep: version, .. } | Body::Fork { version, .. } => {
                Some(version)
            }
            Body::Forget => None,
        }
    }

    /// What is wrong with it, whatever the file is.
    fn check(&self) -> Result<(), Refusal> {
        if self.format != FORMAT {
            return Err(Refusal::Format { found: self.format, known: FORMAT });
        }
        if self.dot.seq == 0 {
            return Err(Refusal::Body("the edits of an actor are counted from 1".into()));
        }
        if self.context.get(&self.dot.actor) >= self.dot.seq {
            let known = self.dot.seq - 1;
            return Err(Refusal::Future {
                actor: self.dot.actor.clone(),
                claimed: self.context.get(&self.dot.actor),
                known,
            });
        }
        if self.version().is_some_and(|version| !version.changed.is_known()) {
            return Err(Refusal::Body("the edit changes fields that are not known here".into()));
        }
        match &self.body {
            Body::Write(_) => Ok(()),
            Body::Resolve { stands_for, losers, .. } => {
                let seen = stands_for.iter().chain(losers).all(|dot| self.context.contains(dot));
                if seen {
                    Ok(())
                } else {
                    Err(Refusal::Body("a resolution names an edit that it has not seen".into()))
                }
            }
            Body::Fork { version, .. } if version.is_deleted() => {
                Err(Refusal::Body("a deletion is no file of its own".into()))
            }
            Body::Fork { .. } if !self.dot.actor.is_instance() => {
                Err(Refusal::NotTheActor { actor: self.dot.actor.clone() })
            }
            Body::Forget if !self.dot.actor.is_instance() => {
                Err(Refusal::NotTheActor { actor: self.dot.actor.clone() })
            }
            Body::Fork { .. } | Body::Forget => Ok(()),
        }
    }
}

/// An event whose bytes are fixed: the next of its actor is chained to their hash.
///
/// The encoding is [BCS](https://docs.rs/bcs): one event has one sequence of bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Sealed(Arc<Parts>);

#[derive(PartialEq, Eq)]
struct Parts {
    event: Event,
    bytes: Vec<u8>,
    hash: Hash,
}

impl Sealed {
    /// Fixes the bytes of an event.
    ///
    /// # Errors
    ///
    /// What is wrong with the event, whatever the file is that it changes: [`Refusal::Format`],
    /// [`Refusal::TooLarge`] beyond 8 KiB, [`Refusal::Future`] for a context that has its own
    /// event, [`Refusal::Body`], [`Refusal::NotTheActor`].
    pub fn new(event: Event) -> Result<Self, Refusal> {
        event.check()?;
        let bytes = bcs::to_bytes(&event).map_err(|error| Refusal::Encoding(error.to_string()))?;
        Self::of(event, bytes)
    }

    /// Reads the bytes of an event.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and [`Refusal::Encoding`] for bytes that no event is encoded to.
    pub fn read(bytes: Vec<u8>) -> Result<Self, Refusal> {
        if bytes.len() > EVENT_MAX {
            return Err(Refusal::TooLarge { what: "an event".into(), size: bytes.len(), max: EVENT_MAX });
        }
        match bytes.first() {
            Some(&FORMAT) => {}
            Some(&found) => return Err(Refusal::Format { found, known: FORMAT }),
            None => return Err(Refusal::Encoding("there are none".to_owned())),
        }
        let event: Event = bcs::from_bytes(&bytes).map_err(|error| Refusal::Encoding(error.to_string()))?;
        event.check()?;
        Self::of(event, bytes)
    }

    fn of(event: Event, bytes: Vec<u8>) -> Result<Self, Refusal> {
        if bytes.len() > EVENT_MAX {
            return Err(Refusal::TooLarge { what: "an event".into(), size: bytes.len(), max: EVENT_MAX });
        }
        let hash = Hash::of("coord.global.event", &[&bytes]);
        Ok(Self(Arc::new(Parts { event, bytes, hash })))
    }

    /// The event.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.0.event
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// Their hash.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.0.hash
    }

    /// Its name.
    #[must_use]
    pub fn dot(&self) -> &Dot {
        &self.0.event.dot
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sealed").field(self.event()).field(&self.hash()).finish()
    }
}

impl TryFrom<Vec<u8>> for Sealed {
    type Error = Refusal;

    fn try_from(bytes: Vec<u8>) -> Result<Self, Refusal> {
        Self::read(bytes)
    }
}

impl From<Sealed> for Vec<u8> {
    fn from(sealed: Sealed) -> Self {
        sealed.bytes().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::id::{Actor, SpaceName};
    use super::*;

    fn actor(name: &str, incarnation: u32) -> Actor {
        Actor::region(RegionId::new(name).unwrap(), incarnation)
    }

    /// The event of the test vector.
    fn event() -> Event {
        let space = SpaceName::new("main").unwrap();
        let content = BlobRef { hash: Hash::of_content(b"hello"), size: 5 };
        let version = Version {
            path: RelPath::new("docs/hello.txt").unwrap(),
            content: Some(content),
            modified_ms: 1_767_225_600_000,
            meta: [("executable".to_owned(), "true".to_owned())].into(),
            was: None,
            base: None,
            changed: Fields::ALL,
            time: Hlc { ms: 1_767_225_600_000, counter: 2 },
            primary: RegionId::new("beijing").unwrap(),
        };
        Event {
            format: FORMAT,
            dot: Dot::new(actor("beijing", 1), 3),
            edit: EditId::from([7; 16]),
            node: NodeId::created(&space, "docs/hello.txt", &content.hash, 0),
            context: [Dot::new(actor("shanghai", 2), 300), Dot::new(Actor::api(1), 1)].into_iter().collect(),
            body: Body::Write(version),
            prev: Hash::of_content(b"before"),
        }
    }

    /// Whoever writes a client of the log checks its encoder against this. It never changes for
    /// this format: chains of hashes that regions keep for years stand on it.
    #[test]
    fn the_test_vector() {
        let sealed = Sealed::new(event()).unwrap();
        let bytes = concat!(
            "01096265696a696e6723310300000000000000070707070707070707070707070707077a2ddb7926",
            "a080370c96f345d0ac387602067e617069233101000000000000000a7368616e6768616923322c01",
            "000000000000000e646f63732f68656c6c6f2e747874012cf24dba5fb0a30e26e83b2ac5b9e29e1b",
            "161e5c1fa7425e73043362938b9824050000000000000000a8da769b010000010a65786563757461",
            "626c65047472756500000700a8da769b01000002000000076265696a696e676db7d803e74f1ffa7d",
            "8f5adc0bf95b3e15bf4c8373fffadf546227cc6c6742cb",
        );
        assert_eq!(hex::encode(sealed.bytes()), bytes);
        assert_eq!(
            sealed.hash().to_string(),
            "da94990ea042e98ad8df5e06ec7287b656fc54115feffe730913e6c473e7d6bd"
        );
        assert_eq!(Sealed::read(sealed.bytes().to_vec()).unwrap(), sealed);
    }

    #[test]
    fn one_event_has_one_sequence_of_bytes() {
        let bytes = Sealed::new(event()).unwrap().bytes().to_vec();
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(Sealed::read(longer), Err(Refusal::Encoding(_))));
        for cut in 1..bytes.len() {
            assert!(matches!(Sealed::read(bytes[..cut].to_vec()), Err(Refusal::Encoding(_))), "{cut}");
        }
        assert!(matches!(Sealed::read(Vec::new()), Err(Refusal::Encoding(_))));
    }

    #[test]
    fn a_format_or_body_that_is_not_known_stops_the_reader() {
        let mut bytes = Sealed::new(event()).unwrap().bytes().to_vec();
        bytes[0] = FORMAT + 1;
        assert_eq!(Sealed::read(bytes), Err(Refusal::Format { found: FORMAT + 1, known: FORMAT }));
        let mut event = event();
        event.body = Body::Forget;
        event.dot.actor = Actor::lead(1);
        let mut bytes = Sealed::new(event).unwrap().bytes().to_vec();
        let body = bytes.len() - 33;
        assert_eq!(bytes[body], 3, "the number of Forget");
        bytes[body] = 4;
        assert!(matches!(Sealed::read(bytes), Err(Refusal::Encoding(_))));
    }

    #[test]
    fn what_no_event_may_say() {
        let refused = |change: &dyn Fn(&mut Event)| {
            let mut event = event();
            change(&mut event);
            Sealed::new(event).unwrap_err()
        };
        assert!(matches!(refused(&|event| event.dot.seq = 0), Refusal::Body(_)));
        let own = |event: &mut Event| event.context.insert(&event.dot.clone());
        assert!(matches!(refused(&own), Refusal::Future { .. }));
        assert!(matches!(refused(&|event| event.body = Body::Forget), Refusal::NotTheActor { .. }));
        let unseen = |event: &mut Event| {
            let Body::Write(keep) = event.body.clone() else { unreachable!() };
            let of = Dot::new(actor("shanghai", 2), 301);
            event.body =
                Body::Resolve { keep, stands_for: vec![of], losers: vec![], by: super::Strategy::Manual };
        };
        assert!(matches!(refused(&unseen), Refusal::Body(_)));
        let large = |event: &mut Event| {
            if let Body::Write(version) = &mut event.body {
                version.meta.insert("note".to_owned(), "x".repeat(EVENT_MAX));
            }
        };
        assert!(matches!(refused(&large), Refusal::TooLarge { .. }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut of_our_format = bytes.clone();
            of_our_format.insert(0, FORMAT);
            for bytes in [bytes, of_our_format] {
                if let Ok(sealed) = Sealed::read(bytes.clone()) {
                    prop_assert_eq!(sealed.bytes(), &bytes[..]);
                }
            }
        }

        #[test]
        fn a_flipped_bit_is_another_event(bit in 0_usize..2_000) {
            let sealed = Sealed::new(event()).unwrap();
            let mut bytes = sealed.bytes().to_vec();
            let at = bit / 8 % bytes.len();
            bytes[at] ^= 1 << (bit % 8);
            if let Ok(other) = Sealed::read(bytes.clone()) {
                prop_assert!(other.event() != sealed.event() && other.hash() != sealed.hash());
                let again = Sealed::new(other.event().clone()).unwrap();
                prop_assert_eq!(again.bytes(), &bytes[..]);
            }
        }
    }
}
