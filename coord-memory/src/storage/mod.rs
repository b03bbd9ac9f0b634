//! Where commits are kept. The volatile store keeps them nowhere; a durable one hands them to a
//! [`Storage`].

#![cfg_attr(not(feature = "sled"), allow(dead_code, reason = "only a durable store has a storage"))]

#[cfg(feature = "sled")]
pub(crate) mod sled;

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use coord_api::Result;
use coord_api::store::Lease;

use crate::engine::{Counters, LeaseChange, Record, Stored};

/// What a commit changed, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    Put(Bytes, Arc<Stored>),
    Delete(Bytes),
    Lease(LeaseChange),
}

impl Mutation {
    /// The memory that it holds until it is written.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Mutation>()
            + match self {
                Mutation::Put(key, stored) => key.len() + stored.value.len(),
                Mutation::Delete(key) => key.len(),
                Mutation::Lease(_) => 0,
            }
    }
}

impl From<&Record> for Mutation {
    fn from(record: &Record) -> Self {
        match &record.after {
            Some(stored) => Mutation::Put(record.key.clone(), Arc::clone(stored)),
            None => Mutation::Delete(record.key.clone()),
        }
    }
}

/// One or more commits, written as one.
#[derive(Debug)]
pub(crate) struct StorageWrite {
    /// In the order of the commits: if there are several mutations of one key, the last one counts.
    pub(crate) mutations: Vec<Mutation>,
    /// The counters of the store after these commits.
    pub(crate) counters: Counters,
}

/// Keeps commits.
pub(crate) trait Storage: fmt::Debug + Send + Sync {
    /// Writes all or nothing. When it returns, the write survives the end of the process (S6).
    /// Blocks.
    ///
    /// # Errors
    ///
    /// After an error it is not known what the storage holds, and it is never written again.
    fn write(&self, write: &StorageWrite) -> Result<()>;

    /// Called when the last client has ended, shortly before the storage is dropped.
    fn let_go(&self);
}

/// What a storage held when it was opened.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) store_id: String,
    pub(crate) counters: Counters,
    pub(crate) leases: Vec<Lease>,
    pub(crate) keys: Vec<(Bytes, Stored)>,
}

/// The identity of a new store: 128 bits that no other one has, from the seeds that the standard
/// library draws for its hash maps.
pub(crate) fn new_store_id() -> String {
    let draw = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", draw(), draw())
}
