//! How a store lies in sled's tree: the names of what is there, and what it looks like.
//!
//! No value in the tree is longer than [`PIECE`], and no name than [`LONGEST_NAME`]. A leaf of
//! sled's holds 20 pairs at most (17, and 3 that come with a merge), and is written as a whole now
//! and then. What is over 128 KiB then, sled writes to a file of its own, which it removes late,
//! and never when the process ends before: so nothing may come to that size.

use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use coord_api::store::Lease;
use coord_api::{LeaseId, Revision};
use sled::IVec;

use crate::engine::{Counters, LeaseChange, Stored};
use crate::storage::Mutation;

/// The first format had no records; the second wrote them into the tree, and entries of any size
/// under their own names.
pub(super) const FORMATS: RangeInclusive<u8> = 1..=3;

/// The entry of the store itself.
pub(super) const META: &[u8] = b"m";
pub(super) const LEASE: u8 = b'l';
pub(super) const KEY: u8 = b'k';
/// A record of the second format.
pub(super) const RECORD: u8 = b'w';
/// A part of an entry that is too large to lie under its own name.
pub(super) const PART: u8 = b'x';

/// The most that a name and its value take together. 20 of them, with what sled adds, stay below
/// 128 KiB.
pub(super) const PIECE: usize = 6 * 1024;

/// Longer names are kept in the value: an inner node of sled's holds some 320 names.
const LONGEST_NAME: usize = 256;

/// What a part of an entry holds.
const ENTRY_PART: usize = PIECE - 16;

/// Whether an entry is kept as it is, under its own name.
pub(super) fn fits(name: &[u8], value: &[u8]) -> bool {
    name.len() <= LONGEST_NAME && name.len() + value.len() <= PIECE
}

/// The parts of an entry that does not fit.
pub(super) fn entry_parts(name: &[u8], value: &[u8]) -> Vec<IVec> {
    let mut whole = Vec::with_capacity(8 + name.len() + value.len());
    put_bytes(&mut whole, name);
    put_bytes(&mut whole, value);
    whole.chunks(ENTRY_PART).map(IVec::from).collect()
}

/// What [`entry_parts`] has parted, put together again; `None` if a part is missing.
pub(super) fn decode_parts(mut whole: &[u8]) -> Option<(IVec, IVec)> {
    let name = IVec::from(take_bytes(&mut whole)?);
    let value = IVec::from(take_bytes(&mut whole)?);
    whole.is_empty().then_some((name, value))
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    // Names and values are bounded far below (R4, R6); one that were not would not decode.
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
}

pub(super) fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = bytes.try_get_u32().ok()?;
    let (taken, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(taken)
}

/// The entry that a mutation changes, and what it holds then.
pub(super) fn entry(mutation: &Mutation) -> (IVec, Option<IVec>) {
    match mutation {
        Mutation::Put(key, stored) => (key_name(key), Some(encode_stored(stored))),
        Mutation::Delete(key) => (key_name(key), None),
        Mutation::Lease(LeaseChange::Granted(lease)) => {
            (lease_name(lease.id), Some(IVec::from(&lease.ttl.as_secs().to_be_bytes())))
        }
        Mutation::Lease(LeaseChange::Gone(id)) => (lease_name(*id), None),
    }
}

fn key_name(key: &[u8]) -> IVec {
    IVec::from([&[KEY], key].concat())
}

fn lease_name(id: LeaseId) -> IVec {
    number_name(LEASE, id.get())
}

pub(super) fn record_name(number: u64) -> IVec {
    number_name(RECORD, number)
}

fn number_name(kind: u8, number: u64) -> IVec {
    IVec::from([&[kind][..], &number.to_be_bytes()].concat())
}

pub(super) fn decode_number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// The name of one part of the entry with this number.
pub(super) fn part_name(entry: u64, part: u32) -> IVec {
    IVec::from([&[PART][..], &entry.to_be_bytes(), &part.to_be_bytes()].concat())
}

/// What [`part_name`] names.
pub(super) fn decode_part_name(mut bytes: &[u8]) -> Option<(u64, u32)> {
    let numbers = (bytes.try_get_u64().ok()?, bytes.try_get_u32().ok()?);
    bytes.is_empty().then_some(numbers)
}

fn encode_stored(stored: &Stored) -> IVec {
    let mut out = Vec::with_capacity(24 + stored.value.len());
    out.put_u64(stored.created.get());
    out.put_u64(stored.modified.get());
    // Leases count from one.
    out.put_u64(stored.lease.map_or(0, LeaseId::get));
    out.put_slice(&stored.value);
    out.into()
}

pub(super) fn decode_stored(mut bytes: &[u8]) -> Option<Stored> {
    let created = Revision::new(bytes.try_get_u64().ok()?);
    let modified = Revision::new(bytes.try_get_u64().ok()?);
    let lease = bytes.try_get_u64().ok()?;
    Some(Stored {
        value: Bytes::copy_from_slice(bytes).into(),
        created,
        modified,
        lease: (lease > 0).then(|| LeaseId::new(lease)),
    })
}

pub(super) fn decode_lease(id: &[u8], ttl: &[u8]) -> Option<Lease> {
    Some(Lease { id: LeaseId::new(decode_number(id)?), ttl: Duration::from_secs(decode_number(ttl)?) })
}

/// What `m` says.
pub(super) struct Meta {
    pub(super) format: u8,
    pub(super) counters: Counters,
    /// The number of the first record that is not in what this stands beside.
    pub(super) next_record: u64,
    pub(super) store_id: String,
}

pub(super) fn encode_meta(store_id: &str, counters: Counters, next_record: u64) -> Vec<u8> {
    let mut out = vec![*FORMATS.end()];
    for number in [counters.revision.get(), counters.next_lease, counters.keys, counters.leases, next_record]
    {
        out.put_u64(number);
    }
    out.put_slice(store_id.as_bytes());
    out
}

pub(super) fn decode_meta(mut bytes: &[u8]) -> Option<Meta> {
    let format = bytes.try_get_u8().ok().filter(|format| FORMATS.contains(format))?;
    let revision = Revision::new(bytes.try_get_u64().ok()?);
    let next_lease = bytes.try_get_u64().ok()?;
    let keys = bytes.try_get_u64().ok()?;
    let leases = bytes.try_get_u64().ok()?;
    let next_record = if format == *FORMATS.start() { 0 } else { bytes.try_get_u64().ok()? };
    let counters = Counters { revision, next_lease, keys, leases };
    Some(Meta { format, counters, next_record, store_id: String::from_utf8(bytes.to_vec()).ok()? })
}
