//! Who is registered, and how all of a region is changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use coord_api::store::{Compare, Entry, Op, Range, Store, Txn};
use coord_api::{Error, ErrorKind};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{RegionsError, Result};
use super::health::{Health, RegionState};
use super::keys;
use crate::model::{RegionId, SpaceName};

/// What the calls of this module are called in errors of the store.
const OPERATION: &str = "global.regions";

/// How often a change is tried that others come before.
const TRIES: u32 = 16;

/// The most regions of one page.
pub const PAGE_MAX: usize = 1_000;

/// What a region says of itself has at most so many bytes as JSON, and so has the name of its
/// owner.
pub const INFO_MAX: usize = 16 << 10;

/// What a region says of itself when it is registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionInfo {
    /// Its name in keys, actors and conflict names.
    pub id: RegionId,
    /// Its name for people.
    pub name: String,
    /// Where it says that it can be reached. It is shown, and nobody ever dials it.
    pub endpoint: String,
    /// Where it is, for people.
    pub location: String,
    /// Whatever an operator sorts regions by.
    pub labels: BTreeMap<String, String>,
    /// How it is, as it claims; its last heartbeat claims it anew.
    pub claimed_state: RegionState,
}

/// A region that is registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// What it says of itself.
    pub info: RegionInfo,
    /// Who has registered it.
    pub owner: String,
    /// Whether an operator has drained it: it holds the floor of no log, and is not active.
    pub drained: bool,
}

/// Who asks for a change that the owner may make, and an operator too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker<'a> {
    /// Somebody by that name, as the API has identified them.
    Owner(&'a str),
    /// An operator, for any region.
    Operator,
}

/// What stands under the key of a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    /// It is registered.
    Registered(Region),
    /// It was: this stays, so that what is late finds another revision than it compares.
    Deregistered {
        /// Who had registered it.
        owner: String,
    },
}

impl Record {
    fn owner(&self) -> &str {
        match self {
            Self::Registered(region) => &region.owner,
            Self::Deregistered { owner } => owner,
        }
    }
}

/// What was found of a region.
pub(super) struct Found(Option<Record>);

impl Found {
    /// The region, if it is registered.
    pub(super) fn region(self, id: &RegionId) -> Result<Region> {
        match self.0 {
            Some(Record::Registered(region)) => Ok(region),
            _ => Err(not_found(id)),
        }
    }
}

/// What is to be done with what was found.
pub(super) enum Next<R> {
    /// Nothing.
    Done(R),
    /// These writes, if all is still as it was found.
    Write(Vec<Op>, R),
}

/// The regions, and how far each has come in a space: see the [module](super). Clones are the
/// same.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use coord_global::model::{RegionId, SpaceName};
/// use coord_global::regions::{Ack, Asker, RegionInfo, RegionState, Regions};
/// use coord_memory::MemoryStore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let regions = Regions::of(Arc::new(MemoryStore::new()), SpaceName::new("main")?);
/// let id = RegionId::new("amsterdam")?;
/// let info = RegionInfo {
///     id: id.clone(),
///     name: "Amsterdam".into(),
///     endpoint: "https://ams.example.org".into(),
///     location: "NL".into(),
///     labels: [("tier".into(), "edge".into())].into(),
///     claimed_state: RegionState::Active,
/// };
/// regions.register("ops@example.org", &info).await?;
///
/// let ack = |folded| Ack { incarnation: 1, folded, content: folded, at_ms: 0 };
/// regions.ack(&id, ack(7)).await?;
/// // What is late changes nothing.
/// assert_eq!(regions.ack(&id, ack(5)).await?, ack(7));
///
/// regions.deregister(&id, Asker::Owner("ops@example.org")).await?;
/// assert!(!regions.is_registered(&id).await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Regions {
    store: Arc<dyn Store>,
    space: SpaceName,
}

impl Regions {
    /// The regions in a store, with their acks in `space`. Nothing is read or written.
    #[must_use]
    pub fn of(store: Arc<dyn Store>, space: SpaceName) -> Self {
        Self { store, space }
    }

    /// The space.
    #[must_use]
    pub const fn space(&self) -> &SpaceName {
        &self.space
    }

    /// Registers a region in the name of `owner`, as the API has identified them. By its owner
    /// again is Ok: what it says of itself is what it says now, and it stays drained if it was. One
    /// that was deregistered may be registered anew by anybody.
    ///
    /// # Errors
    ///
    /// [`RegionsError::NotTheOwner`] where somebody else has registered it;
    /// [`RegionsError::Store`], with `InvalidArgument` for an owner without a name, and for more
    /// than [`INFO_MAX`] bytes; [`RegionsError::Unreadable`]; [`RegionsError::Contended`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it was registered or not, and may be repeated.
    pub async fn register(&self, owner: &str, info: &RegionInfo) -> Result<Region> {
        if owner.is_empty() {
            return Err(Error::invalid_argument(OPERATION, "an owner without a name").into());
        }
        if json(info)?.len() > INFO_MAX || owner.len() > INFO_MAX {
            let what = format!("a region that says more than {INFO_MAX} bytes of itself");
            return Err(Error::invalid_argument(OPERATION, what).into());
        }
        let key = keys::region(&info.id);
        self.change(std::slice::from_ref(&key), |found| {
            let before = read_record(found.first().unwrap_or(&None))?.0;
            let drained = match &before {
                Some(Record::Registered(region)) if region.owner != owner => {
                    return Err(RegionsError::NotTheOwner { region: info.id.clone() });
                }
                Some(Record::Registered(region)) => region.drained,
                Some(Record::Deregistered { .. }) | None => false,
            };
            let region = Region { info: info.clone(), owner: owner.to_owned(), drained };
            let after = Record::Registered(region.clone());
            if before.as_ref() == Some(&after) {
                return Ok(Next::Done(region));
            }
            Ok(Next::Write(vec![Op::put(key.clone(), json(&after)?)], region))
        })
        .await
    }

    /// Ends the registration of a region, and removes its last heartbeat and its ack in the space:
    /// it holds the floor no more, its heartbeats are refused, and its Hello is to be. Again is Ok.
    ///
    /// # Errors
    ///
    /// [`RegionsError::NotFound`] for one that never was registered; [`RegionsError::NotTheOwner`];
    /// [`RegionsError::Store`], [`RegionsError::Unreadable`] and [`RegionsError::Contended`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it was deregistered or not, and may be repeated.
    pub async fn deregister(&self, id: &RegionId, asker: Asker<'_>) -> Result<()> {
        let key = keys::region(id);
        self.change(std::slice::from_ref(&key), |found| {
            let record = read_record(found.first().unwrap_or(&None))?.0.ok_or_else(|| not_found(id))?;
            if matches!(asker, Asker::Owner(owner) if owner != record.owner()) {
                return Err(RegionsError::NotTheOwner { region: id.clone() });
            }
            let Record::Registered(Region { owner, .. }) = record else { return Ok(Next::Done(())) };
            let ops = vec![
                Op::put(key.clone(), json(&Record::Deregistered { owner })?),
                Op::delete(keys::status(id)),
                Op::delete(keys::ack(&self.space, id)),
            ];
            Ok(Next::Write(ops, ()))
        })
        .await
    }

    /// Drains a region, or takes it back: one that is drained holds the floor of no log and is not
    /// active, and may go on in all else. The API lets operators do it. Again is Ok.
    ///
    /// # Errors
    ///
    /// [`RegionsError::NotFound`], [`RegionsError::Store`], [`RegionsError::Unreadable`] and
    /// [`RegionsError::Contended`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it was done or not, and may be repeated.
    pub async fn set_drained(&self, id: &RegionId, drained: bool) -> Result<Region> {
        let key = keys::region(id);
        self.change(std::slice::from_ref(&key), |found| {
            let mut region = read_record(found.first().unwrap_or(&None))?.region(id)?;
            if region.drained == drained {
                return Ok(Next::Done(region));
            }
            region.drained = drained;
            let record = Record::Registered(region.clone());
            Ok(Next::Write(vec![Op::put(key.clone(), json(&record)?)], region))
        })
        .await
    }

    /// A region that is registered.
    ///
    /// # Errors
    ///
    /// [`RegionsError::NotFound`], [`RegionsError::Store`] and [`RegionsError::Unreadable`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn get(&self, id: &RegionId) -> Result<Region> {
        let found = self.store.range(Range::key(keys::region(id))).await?;
        read_record(&found.entries.into_iter().next())?.region(id)
    }

    /// Whether a region is registered: one that is not gets no Hello.
    ///
    /// # Errors
    ///
    /// [`RegionsError::Store`] and [`RegionsError::Unreadable`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn is_registered(&self, id: &RegionId) -> Result<bool> {
        match self.get(id).await {
            Ok(_) => Ok(true),
            Err(RegionsError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The regions that are registered, in the order of their names: at most `most`, and
    /// [`PAGE_MAX`], of those behind `after`. Fewer than that are the last.
    ///
    /// # Errors
    ///
    /// As [`is_registered`](Self::is_registered).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn list(&self, after: Option<&RegionId>, most: usize) -> Result<Vec<Region>> {
        let most = most.clamp(1, PAGE_MAX);
        let mut listed = Vec::new();
        let mut after = after.map(keys::region);
        // Those that were deregistered stand between them.
        while listed.len() < most {
            let page = self.page(keys::REGIONS, after.take(), most - listed.len()).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            for entry in &page {
                if let Record::Registered(region) = parse(entry)? {
                    listed.push(region);
                }
            }
        }
        Ok(listed)
    }

    /// All regions that are members: registered and not drained. They are whom [`Health`] watches,
    /// and who holds the floor.
    ///
    /// # Errors
    ///
    /// As [`is_registered`](Self::is_registered).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn members(&self) -> Result<Vec<Region>> {
        let mut members = Vec::new();
        let mut after: Option<RegionId> = None;
        loop {
            let page = self.list(after.as_ref(), PAGE_MAX).await?;
            let is_last = page.len() < PAGE_MAX;
            after = page.last().map(|region| region.info.id.clone());
            members.extend(page.into_iter().filter(|region| !region.drained));
            if is_last {
                return Ok(members);
            }
        }
    }

    /// The members that are active, as the leader's health has it.
    ///
    /// # Errors
    ///
    /// As [`is_registered`](Self::is_registered).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn active(&self, health: &Health) -> Result<Vec<Region>> {
        let states: BTreeMap<RegionId, RegionState> =
            health.states().map(|(id, state)| (id.clone(), state)).collect();
        let mut active = self.members().await?;
        active.retain(|region| states.get(&region.info.id) == Some(&RegionState::Active));
        Ok(active)
    }

    async fn page(&self, prefix: &str, after: Option<Bytes>, most: usize) -> Result<Vec<Entry>> {
        let mut range = Range::prefix(prefix.to_owned()).with_limit(most);
        if let Some(after) = after {
            range = range.with_after_key(after);
        }
        Ok(self.store.range(range).await?.entries)
    }

    /// All that is below `prefix`, by the region that it is of.
    pub(super) async fn all<T: DeserializeOwned>(&self, prefix: &str) -> Result<BTreeMap<RegionId, T>> {
        let mut all = BTreeMap::new();
        let mut after = None;
        loop {
            let page = self.page(prefix, after, PAGE_MAX).await?;
            let Some(last) = page.last() else { return Ok(all) };
            after = Some(last.key.clone());
            for entry in &page {
                let id = keys::region_in(prefix, &entry.key)
                    .ok_or_else(|| unreadable(entry, &"it is of no region"))?;
                all.insert(id, parse(entry)?);
            }
            if page.len() < PAGE_MAX {
                return Ok(all);
            }
        }
    }

    /// Reads `keys`, and writes what `next` makes of them, if all of them are still as they were
    /// read: a lost race costs one request more. One transaction writes, or none.
    pub(super) async fn change<R: Send>(
        &self,
        keys: &[Bytes],
        next: impl Fn(&[Option<Entry>]) -> Result<Next<R>> + Send + Sync,
    ) -> Result<R> {
        let reads = || keys.iter().map(|key| Op::Range(Range::key(key.clone())));
        let mut reply = self.store.txn(reads().fold(Txn::new(), Txn::then)).await?;
        for _ in 0..TRIES {
            let found = (0..keys.len()).map(|index| {
                let range = reply.range(index).ok_or_else(|| self.short())?;
                Ok(range.entries.first().cloned())
            });
            let found = found.collect::<Result<Vec<Option<Entry>>>>()?;
            let (ops, result) = match next(&found)? {
                Next::Done(result) => return Ok(result),
                Next::Write(ops, result) => (ops, result),
            };
            let compares = keys.iter().zip(&found).map(|(key, found)| match found {
                Some(entry) => Compare::Modified(key.clone(), entry.modified),
                None => Compare::Absent(key.clone()),
            });
            let txn = compares.fold(Txn::new(), Txn::when);
            let txn = ops.into_iter().fold(txn, Txn::then);
            reply = self.store.txn(reads().fold(txn, Txn::otherwise)).await?;
            if reply.succeeded {
                return Ok(result);
            }
        }
        Err(RegionsError::Contended { tries: TRIES })
    }

    /// The store has answered less than it was asked.
    pub(super) fn short(&self) -> RegionsError {
        Error::new(ErrorKind::Internal, OPERATION, "the store did not answer what was asked").into()
    }
}

fn not_found(region: &RegionId) -> RegionsError {
    RegionsError::NotFound { region: region.clone() }
}

fn unreadable(entry: &Entry, why: &dyn std::fmt::Display) -> RegionsError {
    RegionsError::Unreadable { key: String::from_utf8_lossy(&entry.key).into_owned(), why: why.to_string() }
}

fn parse<T: DeserializeOwned>(entry: &Entry) -> Result<T> {
    serde_json::from_slice(&entry.value).map_err(|why| unreadable(entry, &why))
}

/// What stands under a key, if anything does.
pub(super) fn read<T: DeserializeOwned>(entry: &Option<Entry>) -> Result<Option<T>> {
    entry.as_ref().map(parse).transpose()
}

/// What stands under the key of a region.
pub(super) fn read_record(entry: &Option<Entry>) -> Result<Found> {
    read(entry).map(Found)
}

/// A value as JSON, for people too.
pub(super) fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| {
        Error::new(ErrorKind::Internal, OPERATION, format!("a value cannot be written: {error}")).into()
    })
}
