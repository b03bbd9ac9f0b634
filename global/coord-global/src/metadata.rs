//! Files as callers of an API see them: looked up by id and by path, registered, changed and
//! deleted by what the caller has seen of them.
//!
//! A caller that writes says what it had [seen](File::context). Has nobody written since, it is
//! written; else it is [`Stale`](MetadataError::Stale), and the caller looks again, or asks for its
//! version to be kept beside the others. Each call that writes carries the id of the save: asked
//! for again it does nothing more and is answered the same, at whatever instance.
//!
//! ```
//! # use std::sync::Arc;
//! # use coord_global::ledger::Ledger;
//! # use coord_global::metadata::{Change, Metadata, MetadataError, NewFile};
//! # use coord_global::model::{BlobRef, EditId, Hash, Names, RegionId, RelPath, SpaceName};
//! # use coord_memory::MemoryStore;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Arc::new(MemoryStore::new());
//! let ledger = Ledger::open(store, SpaceName::new("main")?, Names::Folded).await?;
//! let metadata = Metadata::new(ledger.clone());
//!
//! let content = BlobRef { hash: Hash::of_content(b"hello"), size: 5 };
//! ledger.put_content(&content.hash, "objects/1").await?;
//! let new = NewFile::new(RelPath::new("docs/hello.txt")?, content, RegionId::new("amsterdam")?);
//! let file = metadata.register(EditId::from([1; 16]), new).await?;
//!
//! // A rename by somebody who has seen the file as it is.
//! let change = Change { path: Some(RelPath::new("docs/hi.txt")?), ..Change::default() };
//! let renamed = metadata.update(EditId::from([2; 16]), file.id, &file.context, change).await?;
//! assert_eq!(renamed.version.path.as_str(), "docs/hi.txt");
//!
//! // Another one, who has not seen that, is told how the file is now.
//! let change = Change { path: Some(RelPath::new("docs/hey.txt")?), ..Change::default() };
//! let stale = metadata.update(EditId::from([3; 16]), file.id, &file.context, change).await;
//! assert!(matches!(stale, Err(MetadataError::Stale { file }) if file.version == renamed.version));
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;

use crate::ledger::{Given, Ledger, LedgerError, Writer};
use crate::model::append::Draft;
use crate::model::{
    Actor, BlobRef, Body, Causality, EditId, Fields, Hlc, Node, NodeId, Refusal, RegionId, RelPath, Version,
    VersionVector,
};

/// How often a write is decided anew after others wrote in between.
const TRIES: usize = 16;

/// A file that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Which one.
    pub id: NodeId,
    /// What is shown of it. Where several versions are in conflict that is the one that leads.
    pub version: Version,
    /// What a caller has seen who was shown this: it goes with the next write. What lost is not in
    /// it.
    pub context: VersionVector,
    /// All that there is of it: who gives this with a write ends the conflict.
    pub known: VersionVector,
    /// How many versions there are beside the one that is shown.
    pub in_conflict: usize,
    /// Where in the log it was changed last.
    pub position: u64,
}

impl File {
    /// A file as the log has left it; `None` for one that is deleted.
    #[must_use]
    pub fn of(id: NodeId, node: &Node) -> Option<Self> {
        let visible = node.visible().filter(|visible| !visible.is_deleted())?;
        let context = node.seen(&visible);
        let in_conflict = visible.losers.len();
        Some(Self {
            id,
            version: visible.version,
            context,
            known: node.context.clone(),
            in_conflict,
            position: node.position,
        })
    }
}

/// A file that is to be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFile {
    /// Where.
    pub path: RelPath,
    /// Its content, which is at the coordinator already (G21).
    pub content: BlobRef,
    /// When it was modified, in milliseconds since 1970; `None`: now.
    pub modified_ms: Option<u64>,
    /// What else is known of it.
    pub meta: BTreeMap<String, String>,
    /// The region that it comes from.
    pub primary: RegionId,
}

impl NewFile {
    /// A file of now, of which nothing else is known.
    #[must_use]
    pub const fn new(path: RelPath, content: BlobRef, primary: RegionId) -> Self {
        Self { path, content, modified_ms: None, meta: BTreeMap::new(), primary }
    }
}

/// What is to be changed of a file: what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Where it lies.
    pub path: Option<RelPath>,
    /// Its content, which is at the coordinator already (G21).
    pub content: Option<BlobRef>,
    /// What else is known of it, all of it.
    pub meta: Option<BTreeMap<String, String>>,
    /// Where others have written since, the change is kept beside theirs, as a conflict, instead of
    /// being [`Stale`](MetadataError::Stale).
    pub keep_conflict: bool,
}

impl Change {
    fn apply(&self, version: &mut Version) {
        version.changed = Fields::default();
        if let Some(path) = self.path.as_ref().filter(|path| **path != version.path) {
            version.path = path.clone();
            version.changed = version.changed.with(Fields::PATH);
        }
        if let Some(content) = self.content.filter(|content| Some(*content) != version.content) {
            version.content = Some(content);
            version.changed = version.changed.with(Fields::CONTENT);
        }
        if let Some(meta) = self.meta.as_ref().filter(|meta| **meta != version.meta) {
            version.meta = meta.clone();
            version.changed = version.changed.with(Fields::META);
        }
    }
}

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// There is no such file, or it is deleted.
    #[error("there is no file {id}")]
    NotFound {
        /// Which.
        id: NodeId,
    },
    /// Something else has the path.
    #[error("the path {path:?} is taken")]
    AlreadyExists {
        /// The path.
        path: String,
        /// The file that has it; `None` for a directory, or where a file has what should be its
        /// directory.
        by: Option<NodeId>,
    },
    /// Others have written since the caller looked. Look at what there is now, and decide again.
    #[error("the file {} has changed since it was looked at", file.id)]
    Stale {
        /// The file as it is now.
        file: Box<File>,
    },
}

impl From<Refusal> for MetadataError {
    fn from(refusal: Refusal) -> Self {
        LedgerError::from(refusal).into()
    }
}

/// What a call returns.
pub type Result<T> = std::result::Result<T, MetadataError>;

/// The files of a space. Clones are the same.
#[derive(Clone, Debug)]
pub struct Metadata {
    ledger: Ledger,
}

impl Metadata {
    /// The files of the space that the ledger has.
    #[must_use]
    pub const fn new(ledger: Ledger) -> Self {
        Self { ledger }
    }

    /// A file.
    ///
    /// # Errors
    ///
    /// [`MetadataError::NotFound`]; [`MetadataError::Ledger`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn get(&self, id: NodeId) -> Result<File> {
        let node = self.ledger.node(&id).await?;
        node.and_then(|node| File::of(id, &node)).ok_or(MetadataError::NotFound { id })
    }

    /// Several files. Those that are not there are left out.
    ///
    /// # Errors
    ///
    /// [`MetadataError::Ledger`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn batch_get(&self, ids: &[NodeId]) -> Result<Vec<File>> {
        let nodes = self.ledger.read(ids).await?;
        Ok(ids.iter().filter_map(|id| File::of(*id, nodes.get(id)?)).collect())
    }

    /// The file that has a path: the one that claimed it first (G14). `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`MetadataError::Ledger`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn at_path(&self, path: &RelPath) -> Result<Option<File>> {
        let claims = self.ledger.at_path(path.as_str()).await?;
        let Some(first) = claims.first() else { return Ok(None) };
        match self.get(*first).await {
            Ok(file) => Ok(Some(file)),
            // It was deleted in between.
            Err(MetadataError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The files below a directory, at any depth, in the order of their folded paths; an empty one
    /// is the whole space. At most `most`, and 1,000, of those behind `after`; what comes with them
    /// is the next `after`, and `None` at the end.
    ///
    /// # Errors
    ///
    /// [`MetadataError::Ledger`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn list(
        &self,
        directory: &str,
        after: Option<&(String, NodeId)>,
        most: usize,
    ) -> Result<(Vec<File>, Option<(String, NodeId)>)> {
        let claims = self.ledger.below(directory, after, most).await?;
        let ids: Vec<NodeId> = claims.iter().map(|(_, id)| *id).collect();
        Ok((self.batch_get(&ids).await?, claims.into_iter().last()))
    }

    /// Registers a file. One that is there with the same content is that file: to register it again
    /// is Ok.
    ///
    /// # Errors
    ///
    /// [`MetadataError::AlreadyExists`]; [`MetadataError::Ledger`], with
    /// [`Refusal::ContentMissing`] where the content is not at the coordinator yet.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it may have been written. Ask again with the same `edit`.
    pub async fn register(&self, edit: EditId, new: NewFile) -> Result<File> {
        let now = self.ledger.now_ms();
        let modified_ms = new.modified_ms.unwrap_or(now);
        let is_asked_again = self.ledger.was_answered(&edit).await?;
        for counter in 0.. {
            let id = NodeId::created(self.ledger.space(), new.path.as_str(), &new.content.hash, counter);
            if is_asked_again {
                // It is one of those that were made by this content here.
                let Some(node) = self.ledger.node(&id).await? else {
                    return Err(MetadataError::NotFound { id });
                };
                match File::of(id, &node) {
                    Some(file) => return Ok(file),
                    None => continue,
                }
            }
            let version = Version {
                path: new.path.clone(),
                content: Some(new.content),
                modified_ms,
                meta: new.meta.clone(),
                was: None,
                base: None,
                changed: Fields::ALL,
                time: Hlc::at(modified_ms),
                primary: new.primary.clone(),
            };
            let draft = Draft { edit, node: id, context: VersionVector::new(), body: Body::Write(version) };
            let given = Given { free: [new.path.clone()].into(), ..Given::from([(id, 0)]) };
            match self.ledger.write(Writer::Api, vec![draft], given).await {
                Ok(_) => return self.get(id).await,
                // One of the same content was there once: this is another file.
                Err(LedgerError::Refused(Refusal::Changed { .. })) => {
                    if let Some(file) = self.same(&new).await? {
                        return Ok(file);
                    }
                }
                Err(LedgerError::Refused(Refusal::Taken { path })) => {
                    if let Some(file) = self.same(&new).await? {
                        return Ok(file);
                    }
                    let by = self.at_path(&new.path).await?.map(|file| file.id);
                    return Err(MetadataError::AlreadyExists { path, by });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(LedgerError::Contended { tries: u32::MAX }.into())
    }

    /// The file that is there already as it is to be registered.
    async fn same(&self, new: &NewFile) -> Result<Option<File>> {
        let there = self.at_path(&new.path).await?;
        Ok(there.filter(|file| {
            file.version.path == new.path
                && file.version.content == Some(new.content)
                && file.version.meta == new.meta
        }))
    }

    /// Changes a file by what the caller had `seen` of it. What is so already is Ok.
    ///
    /// # Errors
    ///
    /// [`MetadataError::Stale`] where others have written since; [`MetadataError::NotFound`];
    /// [`MetadataError::AlreadyExists`] for a rename; [`MetadataError::Ledger`], with
    /// [`Refusal::Future`] for a context that has seen more than there is, and
    /// [`Refusal::Siblings`] where 32 versions are in conflict.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it may have been written. Ask again with the same `edit`.
    pub async fn update(
        &self,
        edit: EditId,
        id: NodeId,
        seen: &VersionVector,
        change: Change,
    ) -> Result<File> {
        match self.write(edit, id, seen, change.keep_conflict, |version| change.apply(version)).await? {
            Some(file) => Ok(file),
            None => Err(MetadataError::NotFound { id }),
        }
    }

    /// Deletes a file by what the caller had `seen` of it. One that is deleted is Ok.
    ///
    /// # Errors
    ///
    /// [`MetadataError::Stale`] where others have written since; [`MetadataError::NotFound`] for
    /// one that never was; [`MetadataError::Ledger`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it may have been written. Ask again with the same `edit`.
    pub async fn delete(&self, edit: EditId, id: NodeId, seen: &VersionVector) -> Result<()> {
        let delete = |version: &mut Version| {
            (version.was, version.content) = (version.content, None);
            version.changed = Fields::CONTENT;
        };
        self.write(edit, id, seen, false, delete).await.map(drop)
    }

    /// Writes by what was seen. `None` for a file that is deleted.
    async fn write(
        &self,
        edit: EditId,
        id: NodeId,
        seen: &VersionVector,
        keep_conflict: bool,
        change: impl Fn(&mut Version),
    ) -> Result<Option<File>> {
        for _ in 0..TRIES {
            let Some(node) = self.ledger.node(&id).await? else {
                return Err(MetadataError::NotFound { id });
            };
            let Some(file) = File::of(id, &node) else { return Ok(None) };
            let mut version = Version {
                base: Some(file.version.shows()),
                time: Hlc::after(self.ledger.now_ms(), file.version.time),
                ..file.version.clone()
            };
            change(&mut version);
            if version.changed == Fields::default() {
                return Ok(Some(file));
            }
            // What was shown is what counts: who has seen that has not overlooked anybody.
            let is_current = matches!(seen.compare(&file.context), Causality::Equal | Causality::After);
            if !is_current && !keep_conflict {
                if self.ledger.was_answered(&edit).await? {
                    // It is its own write that it has not seen.
                    return Ok(Some(file));
                }
                self.is_possible(seen).await?;
                return Err(MetadataError::Stale { file: Box::new(file) });
            }
            let moves = version.path != file.version.path
                && self.ledger.folded(version.path.as_str()).await
                    != self.ledger.folded(file.version.path.as_str()).await;
            let path = version.path.clone();
            let given = Given {
                seen: if is_current { [(id, file.position)].into() } else { BTreeMap::new() },
                free: if moves { [path.clone()].into() } else { Default::default() },
                ..Given::default()
            };
            let draft = Draft { edit, node: id, context: seen.clone(), body: Body::Write(version) };
            match self.ledger.write(Writer::Api, vec![draft], given).await {
                Ok(_) => {
                    let node = self.ledger.node(&id).await?;
                    return Ok(node.and_then(|node| File::of(id, &node)));
                }
                // Somebody was faster: look again.
                Err(LedgerError::Refused(Refusal::Changed { .. })) => {}
                Err(LedgerError::Refused(Refusal::Taken { path: taken })) => {
                    let by = self.at_path(&path).await?.map(|file| file.id);
                    return Err(MetadataError::AlreadyExists { path: taken, by });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(LedgerError::Contended { tries: TRIES as u32 }.into())
    }

    /// Refuses a context that has seen what nobody has written: it would swallow that.
    async fn is_possible(&self, seen: &VersionVector) -> Result<()> {
        for (actor, claimed) in seen.iter() {
            let known = self.ledger.actor(actor).await?.map_or(0, |record| record.seq);
            if claimed > known {
                return Err(Refusal::Future { actor: Actor::clone(actor), claimed, known }.into());
            }
        }
        Ok(())
    }
}
