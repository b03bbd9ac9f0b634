//! Small types that all contracts use: revisions, leases, tokens and opaque values.

use std::fmt;
use std::num::{ParseIntError, TryFromIntError};
use std::ops::Deref;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The largest number of a [`Revision`] or a [`LeaseId`]: what a signed number of 64 bits holds.
const LARGEST: u64 = i64::MAX.unsigned_abs();

const fn at_most_largest(number: u64) -> u64 {
    if number < LARGEST { number } else { LARGEST }
}

/// A point in a store's history: one counter per store, raised by every committed write (S1).
///
/// Gaps are legal, so never compute with it; compare it. [`Revision::ZERO`] is before every write,
/// [`Revision::MAX`] after every one.
///
/// It is below 2^63, so that a store keeps it in a signed number as it is: what is made of a larger
/// one is [`Revision::MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Revision(u64);

/// The revision of a config key's last write (R11).
pub type Version = Revision;

impl Revision {
    /// Before every write. As an expected [`Version`] it means "the key is absent" (R12).
    pub const ZERO: Revision = Revision(0);

    /// After every write: no store comes to it, and so one may keep it for "not yet".
    pub const MAX: Revision = Revision(LARGEST);

    /// The revision with this number, or [`Revision::MAX`] where that is less.
    pub const fn new(number: u64) -> Self {
        Revision(at_most_largest(number))
    }

    /// The number, which is below 2^63.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The next number. It saturates, so that a hostile store cannot cause an overflow.
    pub const fn next(self) -> Self {
        Revision::new(self.0.saturating_add(1))
    }
}

impl From<u64> for Revision {
    /// As [`Revision::new`].
    fn from(number: u64) -> Self {
        Revision::new(number)
    }
}

impl From<Revision> for u64 {
    fn from(revision: Revision) -> Self {
        revision.0
    }
}

impl From<Revision> for i64 {
    fn from(revision: Revision) -> Self {
        signed(revision.0)
    }
}

impl TryFrom<i64> for Revision {
    type Error = TryFromIntError;

    /// Refuses a number below zero.
    fn try_from(number: i64) -> Result<Self, TryFromIntError> {
        u64::try_from(number).map(Revision::new)
    }
}

/// A number that is at most [`LARGEST`], with a sign.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a lease in its store. Shown in hexadecimal, as in keys.
///
/// It is below 2^63, as a [`Revision`] is: what is made of a larger number is [`LeaseId::MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(u64);

impl LeaseId {
    /// The largest one. No store grants it.
    pub const MAX: LeaseId = LeaseId(LARGEST);

    /// The lease with this number, or [`LeaseId::MAX`] where that is less.
    pub const fn new(number: u64) -> Self {
        LeaseId(at_most_largest(number))
    }

    /// The number, which is below 2^63.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl From<LeaseId> for i64 {
    fn from(lease: LeaseId) -> Self {
        signed(lease.0)
    }
}

impl TryFrom<i64> for LeaseId {
    type Error = TryFromIntError;

    /// Refuses a number below zero.
    fn try_from(number: i64) -> Result<Self, TryFromIntError> {
        u64::try_from(number).map(LeaseId::new)
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl FromStr for LeaseId {
    type Err = ParseIntError;

    /// Reads what [`Display`](fmt::Display) shows.
    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        u64::from_str_radix(text, 16).map(LeaseId::new)
    }
}

/// As it is shown, for programs that have no integers of 64 bits.
impl Serialize for LeaseId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LeaseId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseId({:x})", self.0)
    }
}

/// Orders the grants of one thing: greater than every earlier grant's number of the same key (R25,
/// R43).
///
/// Hand it to whatever the grant protects and let that refuse a smaller number than it has seen:
/// this is what protects a resource where clocks cannot, for example from a holder whose machine
/// was suspended (R32).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The token with this number.
    pub const fn new(number: u64) -> Self {
        FencingToken(number)
    }

    /// The number, for the protected resource.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Revision> for FencingToken {
    /// A grant's token is the create revision of its key.
    fn from(created: Revision) -> Self {
        FencingToken(created.get())
    }
}

/// Opaque bytes that a store keeps. Cheap to clone.
///
/// Configuration holds secrets, so `Debug` shows the length and never the bytes.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(Bytes);

impl Value {
    /// The empty value, which is legal (R6).
    pub const fn new() -> Self {
        Value(Bytes::new())
    }

    /// A value over bytes that live as long as the program.
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        Value(Bytes::from_static(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, without a copy.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} bytes)", self.0.len())
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Value(bytes)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Value(bytes.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value(text.into())
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Value(Bytes::from_static(text.as_bytes()))
    }
}

impl From<&'static [u8]> for Value {
    fn from(bytes: &'static [u8]) -> Self {
        Value(Bytes::from_static(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_and_leases_are_below_two_to_the_63() {
        for number in [i64::MAX.unsigned_abs(), 1 << 63, u64::MAX] {
            assert_eq!((Revision::new(number), LeaseId::new(number)), (Revision::MAX, LeaseId::MAX));
            let read: Revision = serde_json::from_str(&number.to_string()).unwrap();
            assert_eq!(read, Revision::MAX);
        }
        assert_eq!(Revision::MAX.next(), Revision::MAX);
        assert_eq!(Revision::new((1 << 63) - 2).next(), Revision::MAX);
        assert_eq!(serde_json::to_string(&Revision::new(7)).unwrap(), "7");
    }

    #[test]
    fn they_go_into_a_signed_number_and_come_back() {
        for number in [0, 1, 7, i64::MAX - 1, i64::MAX] {
            assert_eq!(i64::from(Revision::try_from(number).unwrap()), number);
            assert_eq!(i64::from(LeaseId::try_from(number).unwrap()), number);
        }
        for number in [-1, i64::MIN] {
            assert!(Revision::try_from(number).is_err() && LeaseId::try_from(number).is_err());
        }
    }
}
