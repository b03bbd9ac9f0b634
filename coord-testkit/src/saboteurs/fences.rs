//! What breaks fenced writes (R55).

use async_trait::async_trait;
use coord_api::fence::MAX_FENCES;
use coord_api::prelude::*;
use coord_api::store::{Compare, Entry, Op, Range, Store, Txn};
use coord_api::{Error, ErrorKind, Fence, Result, Value, Version, WriteOptions};

use super::provider::{BrokenProvider, Good};
use super::{Sabotage, Saboteur};
use crate::layout;

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new("fences-ignored", "a fenced write ignores its fences", &["r55"], || breaks(Break::Ignored)),
    Saboteur::new("first-fence-only", "looks at the first of several fences", &["r55"], || {
        breaks(Break::FirstOnly)
    }),
    Saboteur::new("fence-checks-here-only", "asks the handle and never the store", &["r55"], || {
        breaks(Break::HereOnly)
    }),
    Saboteur::new("fence-checks-existence-only", "a fence holds while its key exists", &["r55"], || {
        breaks(Break::Compares(|compare| Compare::Present(key(&compare))))
    }),
    Saboteur::new("fence-checks-lease-only", "another grant on the same lease is as good", &["r55"], || {
        breaks(Break::Compares(|compare| match compare {
            Compare::Created(key, _) => Compare::Present(key),
            other => other,
        }))
    }),
    Saboteur::new("fence-checks-create-only", "another owner of the same key is as good", &["r55"], || {
        breaks(Break::Compares(|compare| match compare {
            Compare::Lease(key, _) => Compare::Present(key),
            other => other,
        }))
    }),
    Saboteur::new("fence-survives-downgrade", "holds after the lock became shared", &["r55"], || {
        breaks(Break::SurvivesRewrite)
    }),
    Saboteur::new("fence-checked-before", "looks at the fences before it writes", &["r55"], || {
        breaks(Break::CheckedBefore)
    }),
    Saboteur::new("fence-after-conflict", "a conflict comes before a broken fence", &["r55"], || {
        breaks(Break::AfterConflict)
    }),
    Saboteur::new("broken-fence-is-conflict", "a broken fence is a conflict", &["r55"], || {
        breaks(Break::Kind(ErrorKind::Conflict))
    }),
    Saboteur::new(
        "fence-of-any-store",
        "a fence of another store is looked for in this one",
        &["r55"],
        || breaks(Break::AnyStore),
    ),
    Saboteur::new("fence-of-another-store-is-lost", "and said to be lost", &["r55"], || {
        breaks(Break::Foreign)
    }),
    Saboteur::new("ninth-fence-dropped", "the ninth fence is left out", &["r55"], || {
        breaks(Break::NinthDropped)
    }),
    Saboteur::new(
        "fence-asks-for-what-it-knows",
        "asks the store of what is not held here",
        &["r55"],
        || breaks(Break::AsksAlways),
    ),
];

fn breaks(broken: Break) -> Sabotage {
    Sabotage::provider(move || broken)
}

#[derive(Clone, Copy)]
enum Break {
    Ignored,
    FirstOnly,
    HereOnly,
    /// Compares something else in the store.
    Compares(fn(Compare) -> Compare),
    SurvivesRewrite,
    CheckedBefore,
    AfterConflict,
    Kind(ErrorKind),
    AnyStore,
    Foreign,
    NinthDropped,
    AsksAlways,
}

const OPERATION: &str = "config.set";

fn key(compare: &Compare) -> bytes::Bytes {
    compare.key().cloned().unwrap_or_default()
}

/// What there is of the entry that a compare is about.
async fn found(store: &dyn Store, compare: &Compare) -> Result<Option<Entry>> {
    Ok(store.range(Range::key(key(compare))).await?.entries.pop())
}

async fn hold(store: &dyn Store, fences: &[Fence]) -> Result<bool> {
    for compare in fences.iter().flat_map(Fence::compares) {
        if !compare.holds(found(store, &compare).await?.as_ref()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn without_fences(options: &WriteOptions) -> WriteOptions {
    let mut options = options.clone();
    options.fences.clear();
    options
}

/// Writes in one transaction, under compares of its own.
async fn under(
    good: &Good,
    written: &str,
    value: Value,
    options: &WriteOptions,
    compares: impl Iterator<Item = Compare>,
) -> Result<Version> {
    Fence::check(OPERATION, &options.fences)?;
    let mut txn = Txn::new().then(Op::put(layout::config(written), value.clone()));
    txn.compares.extend(compares);
    if options.expected.is_some() {
        // What else there is to say of it the good one says.
        return good.provider.config().write_with(written, value, options.clone()).await;
    }
    match good.store.txn(txn).await? {
        reply if reply.succeeded => Ok(reply.revision),
        _ => Err(Fence::lost(OPERATION)),
    }
}

#[async_trait]
impl BrokenProvider for Break {
    async fn write(
        &self,
        good: &Good,
        key: &str,
        value: Value,
        mut options: WriteOptions,
    ) -> Result<Version> {
        let config = good.provider.config();
        // What is wrong with the call the good one finds.
        let is_wrong = options.fences.is_empty()
            || options.fences.len() > MAX_FENCES
            || coord_api::key::check(OPERATION, key).is_err()
            || coord_api::key::check_value(OPERATION, &value).is_err();
        match self {
            Break::NinthDropped => options.fences.truncate(MAX_FENCES),
            _ if is_wrong => {}
            Break::Ignored => options.fences.clear(),
            Break::FirstOnly => options.fences.truncate(1),
            Break::HereOnly => {
                Fence::check(OPERATION, &options.fences)?;
                options.fences.clear();
            }
            Break::Compares(other) => {
                let compares: Vec<Compare> =
                    options.fences.iter().flat_map(Fence::compares).map(other).collect();
                return under(good, key, value, &options, compares.into_iter()).await;
            }
            Break::SurvivesRewrite => {
                let mut compares = Vec::new();
                for compare in options.fences.iter().flat_map(Fence::compares) {
                    let entry = found(&*good.store, &compare).await?;
                    compares.push(match (compare, entry) {
                        (Compare::Modified(key, _), Some(entry)) => Compare::Created(key, entry.created),
                        (compare, _) => compare,
                    });
                }
                return under(good, key, value, &options, compares.into_iter()).await;
            }
            Break::CheckedBefore => {
                Fence::check(OPERATION, &options.fences)?;
                if !hold(&*good.store, &options.fences).await? {
                    return Err(Fence::lost(OPERATION));
                }
                options = without_fences(&options);
            }
            Break::AfterConflict => {
                if let Some(expected) = options.expected {
                    let current = config.get_raw(key).await?.map_or(Version::ZERO, |found| found.version);
                    if current != expected {
                        return Err(Error::version_conflict(OPERATION, current));
                    }
                }
            }
            Break::Kind(kind) => {
                return config.write_with(key, value, options).await.map_err(|error| {
                    let is_lost = error.kind() == ErrorKind::LeaseLost;
                    if is_lost { Error::new(*kind, OPERATION, "a fence") } else { error }
                });
            }
            Break::AnyStore => {
                let compares: Vec<Compare> = options.fences.iter().flat_map(Fence::compares).collect();
                return under(good, key, value, &options, compares.into_iter()).await;
            }
            Break::Foreign => {
                return config.write_with(key, value, options).await.map_err(|error| {
                    let is_wrong = error.kind() == ErrorKind::InvalidArgument;
                    if is_wrong { Fence::lost(OPERATION) } else { error }
                });
            }
            Break::AsksAlways => {
                hold(&*good.store, &options.fences).await?;
            }
        }
        if options.fences.is_empty() && options.expected.is_none() {
            return self.set(good, key, value).await;
        }
        config.write_with(key, value, options).await
    }
}
