//! Names: of regions, of who writes, of files, of edits.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// The longest name of a region or a space, in bytes.
pub const NAME_MAX: usize = 63;

/// That is no name of its kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error(
    "{name:?} is no {what}: a region and a space are 1 to 63 bytes of a to z, 0 to 9 and `-`, a letter or \
     a digit first; an actor is `region#incarnation`, an id 32 hexadecimal digits, a hash 64"
)]
pub struct NameError {
    /// Of what kind the name should have been.
    pub what: Cow<'static, str>,
    /// The name, shortened.
    pub name: String,
}

impl NameError {
    fn new(what: &'static str, name: &str) -> Self {
        Self { what: what.into(), name: name.chars().take(NAME_MAX).collect() }
    }
}

/// Bytes for programs, hexadecimal digits for people.
macro_rules! digits {
    ($name:ident, $length:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if !deserializer.is_human_readable() {
                    return Ok(Self(<[u8; $length]>::deserialize(deserializer)?));
                }
                let text = String::deserialize(deserializer)?;
                let mut bytes = [0; $length];
                hex::decode_to_slice(text, &mut bytes).map_err(de::Error::custom)?;
                Ok(Self(bytes))
            }
        }
    };
}

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash([u8; 32]);

digits!(Hash, 32);

impl Hash {
    /// Stands where nothing came before: at the start of a chain.
    pub const ZERO: Self = Self([0; 32]);

    /// The hash of some bytes as they are, without a domain: of a file's content.
    #[must_use]
    pub fn of_content(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The hash of what `parts` say, in the domain that `what` names. Each part goes in with its
    /// length, so that no two lists of parts are the same bytes.
    #[must_use]
    pub(crate) fn of(what: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in std::iter::once(&what.as_bytes()).chain(parts) {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// Its 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Hash {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for Hash {
    type Err = NameError;

    /// Reads 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NameError::new("hash", text))?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0.get(..4).unwrap_or_default()))
    }
}

/// A name of a region or a space: 1 to 63 bytes of `a` to `z`, `0` to `9` and `-`, a letter or a
/// digit first.
fn check_name(what: &'static str, name: &str) -> Result<(), NameError> {
    let fits = (1..=NAME_MAX).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if fits { Ok(()) } else { Err(NameError::new(what, name)) }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a name of 1 to 63 bytes: `a` to `z`, `0` to `9` and `-`, a letter or a digit
            /// first.
            ///
            /// # Errors
            ///
            /// [`NameError`].
            pub fn new(name: impl AsRef<str>) -> Result<Self, NameError> {
                check_name($what, name.as_ref())?;
                Ok(Self(name.as_ref().into()))
            }

            /// The name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A site that has the tree.
    RegionId,
    "region"
);
name!(
    /// A tree. No two have anything in common: not a node, not an actor, not a blob.
    SpaceName,
    "space"
);

/// Who writes: one life of one region's disk, or the instances of the coordinator.
///
/// A region whose disk is restored from a copy goes on as its next incarnation, so that an edit's
/// name is never given twice. The instances write under two names that they share, each with the
/// epoch of the store as its incarnation: what a store that is restored forgot is named by nobody
/// again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Actor {
    who: Who,
    incarnation: u32,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Who {
    Region(RegionId),
    Api,
    Lead,
}

impl Actor {
    /// A region's `incarnation`; the first one is 1.
    #[must_use]
    pub const fn region(region: RegionId, incarnation: u32) -> Self {
        Self { who: Who::Region(region), incarnation }
    }

    /// What a caller of the API writes as.
    #[must_use]
    pub const fn api(epoch: u32) -> Self {
        Self { who: Who::Api, incarnation: epoch }
    }

    /// What the leader writes as.
    #[must_use]
    pub const fn lead(epoch: u32) -> Self {
        Self { who: Who::Lead, incarnation: epoch }
    }

    /// Whether this is one of the two names that the coordinator's instances share.
    #[must_use]
    pub const fn is_instance(&self) -> bool {
        !matches!(self.who, Who::Region(_))
    }

    /// The region, if it is one.
    #[must_use]
    pub const fn of_region(&self) -> Option<&RegionId> {
        match &self.who {
            Who::Region(region) => Some(region),
            Who::Api | Who::Lead => None,
        }
    }

    /// Which life of the region's disk, or the epoch.
    #[must_use]
    pub const fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// What stands in a conflict name: the region, `api` or `lead`.
    #[must_use]
    pub fn label(&self) -> &str {
        match &self.who {
            Who::Region(region) => region.as_str(),
            Who::Api => "api",
            Who::Lead => "lead",
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tilde = if self.is_instance() { "~" } else { "" };
        write!(f, "{tilde}{}#{}", self.label(), self.incarnation)
    }
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Actor {
    type Err = NameError;

    /// Reads what [`Display`](fmt::Display) writes, and nothing else: an actor has one spelling.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let refused = || NameError::new("actor", text);
        let (who, incarnation) = text.split_once('#').ok_or_else(refused)?;
        let number: u32 = incarnation.parse().map_err(|_| refused())?;
        if number == 0 || incarnation.starts_with(['0', '+']) {
            return Err(refused());
        }
        let who = match who {
            "~api" => Who::Api,
            "~lead" => Who::Lead,
            region => Who::Region(RegionId::new(region).map_err(|_| refused())?),
        };
        Ok(Self { who, incarnation: number })
    }
}

impl TryFrom<String> for Actor {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Actor> for String {
    fn from(actor: Actor) -> Self {
        actor.to_string()
    }
}

/// An edit's name: the how-manieth of its actor it is, from 1.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// Who wrote it.
    pub actor: Actor,
    /// The how-manieth edit of that actor, from 1, without gaps.
    pub seq: u64,
}

impl Dot {
    /// The `seq`-th edit of `actor`.
    #[must_use]
    pub const fn new(actor: Actor, seq: u64) -> Self {
        Self { actor, seq }
    }
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.actor, self.seq)
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        digits!($name, 16);

        impl $name {
            /// Its 16 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl From<[u8; 16]> for $name {
            fn from(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0.get(..4).unwrap_or_default()))
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            /// Reads 32 hexadecimal digits.
            fn from_str(text: &str) -> Result<Self, NameError> {
                let refused = || NameError::new("id", text);
                let mut bytes = [0; 16];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| refused())?;
                Ok(Self(bytes))
            }
        }
    };
}

id!(
    /// A file, whatever it is called.
    NodeId
);
id!(
    /// A save, from the moment in which it is made: long before it has a [`Dot`], and the same
    /// still when it is issued again by another incarnation. 16 random bytes.
    EditId
);
id!(
    /// A run of a region's agent. 16 random bytes.
    Session
);

/// The first half of a hash: enough to tell all that there ever is apart.
fn first_16(hash: Hash) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
    bytes
}

impl NodeId {
    /// The file that is made at `path` with `content`. Regions that start with equal trees make
    /// the same files; `counter` is the first that gives an id that nobody has, for who makes a
    /// file where one of the same content was deleted before.
    #[must_use]
    pub fn created(space: &SpaceName, path: &str, content: &Hash, counter: u32) -> Self {
        let parts: [&[u8]; 4] =
            [space.as_str().as_bytes(), path.as_bytes(), content.as_bytes(), &counter.to_be_bytes()];
        Self::from(first_16(Hash::of("coord.global.node.created", &parts)))
    }

    /// The file that keeps what lost at `of`, as `dot`: whoever makes it makes the same one.
    #[must_use]
    pub fn forked(of: &Self, dot: &Dot) -> Self {
        Self::from(first_16(Hash::of(
            "coord.global.node.forked",
            &[of.as_bytes(), dot.to_string().as_bytes()],
        )))
    }
}

impl EditId {
    /// The edit that puts back what a restored store forgot of `dot`: every region that had seen
    /// it gives it the same name.
    #[must_use]
    pub fn again(dot: &Dot) -> Self {
        Self::from(first_16(Hash::of("coord.global.edit.again", &[dot.to_string().as_bytes()])))
    }

    /// The edit that keeps in a file of its own what may or may not have been accepted.
    #[must_use]
    pub fn copy(edit: &Self) -> Self {
        Self::from(first_16(Hash::of("coord.global.edit.copy", &[edit.as_bytes()])))
    }

    /// An edit of the leader's: whoever is the leader gives it the same name.
    #[must_use]
    pub(crate) fn of_lead(what: &str, node: &NodeId, about: &str) -> Self {
        Self::from(first_16(Hash::of(what, &[node.as_bytes(), about.as_bytes()])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_has_one_spelling() {
        for text in ["beijing#1", "~api#1", "~lead#12", "a-1#4294967295"] {
            assert_eq!(text.parse::<Actor>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "beijing",
            "beijing#",
            "beijing#0",
            "beijing#01",
            "beijing#+1",
            "Beijing#1",
            "~root#1",
            "a#4294967296",
        ] {
            assert!(text.parse::<Actor>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_plain() {
        let longest = "a".repeat(NAME_MAX);
        for name in ["a", "0", "us-east-1", &longest] {
            assert!(RegionId::new(name).is_ok(), "{name}");
        }
        let too_long = "a".repeat(NAME_MAX + 1);
        for name in ["", "-a", "A", "a.b", "a/b", "a#1", "~api", "ä", &too_long] {
            assert!(RegionId::new(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_file_is_told_from_any_other() {
        let space = SpaceName::new("main").unwrap();
        let content = Hash::of_content(b"x");
        let first = NodeId::created(&space, "a/b", &content, 0);
        assert_eq!(first, NodeId::created(&space, "a/b", &content, 0));
        let others = [
            NodeId::created(&SpaceName::new("docs").unwrap(), "a/b", &content, 0),
            NodeId::created(&space, "a/c", &content, 0),
            NodeId::created(&space, "a/b", &Hash::of_content(b"y"), 0),
            NodeId::created(&space, "a/b", &content, 1),
        ];
        assert!(others.iter().all(|other| *other != first));
    }
}
