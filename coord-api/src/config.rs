//! The config centre: versioned values under keys, compare-and-set, lists and watches.

use std::fmt::Debug;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::fence::Fence;
use crate::json::{decode, encode};
use crate::types::{Value, Version};
use crate::watch::{Invalid, Snapshot, Watch, WatchStart};

/// A value and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<V = Value> {
    /// The value.
    pub value: V,
    /// The revision of the key's last write (R11).
    pub version: Version,
}

/// A key, its value and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry<V = Value> {
    /// The key, without a leading `/`.
    pub key: String,
    /// The value.
    pub value: V,
    /// The revision of the key's last write (R11).
    pub version: Version,
}

/// A change in the config centre, or its whole state anew (R16 to R21).
#[derive(Clone, Debug, PartialEq)]
pub enum ConfigEvent<V = Value> {
    /// A key was written.
    Put {
        /// The key as it is now.
        entry: ConfigEntry<V>,
        /// Whether the key was absent before.
        created: bool,
        /// Whether it is the last change of its revision (R18).
        last: bool,
    },
    /// A key was deleted.
    Delete {
        /// The key, without a leading `/`.
        key: String,
        /// The revision of the deletion.
        version: Version,
        /// Whether it is the last change of its revision (R18).
        last: bool,
    },
    /// A record was written that does not decode, or whose key no call takes (R4, R21). The stream
    /// goes on.
    Invalid {
        /// The record, with its bytes.
        record: Invalid,
        /// Whether it is the last change of its revision (R18).
        last: bool,
    },
    /// What had been left under a key that no call takes was deleted (R21). The key is as in
    /// [`Invalid`], and names none that a call takes.
    InvalidDeleted {
        /// The key, without a leading `/`; not always UTF-8.
        key: Bytes,
        /// The revision of the deletion.
        version: Version,
        /// Whether it is the last change of its revision (R18).
        last: bool,
    },
    /// The whole state: the watch starts with it, or history was lost (R17, R19). What is not in it
    /// is gone.
    Resync(Snapshot<ConfigEntry<V>>),
}

/// The largest value that can be published with a note, in bytes: it is written twice in one
/// transaction (R71).
pub const MAX_PUBLISHED_BYTES: usize = 600 * 1024;

/// The bytes of an author and a note together, at most (R71).
pub const MAX_NOTE_BYTES: usize = 4 * 1024;

/// Who publishes something, and why: what the record of it says (R71).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Note {
    /// Who: a person, or a program.
    pub author: String,
    /// Why.
    pub text: String,
}

impl Note {
    /// A note of someone.
    pub fn new(author: impl Into<String>, text: impl Into<String>) -> Self {
        Note { author: author.into(), text: text.into() }
    }
}

/// On which conditions to write a key: on none by default.
///
/// # Examples
///
/// ```
/// use coord_api::{Version, WriteOptions};
///
/// let create = WriteOptions::default().with_expected(Version::ZERO);
/// assert_eq!(create.expected, Some(Version::ZERO));
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct WriteOptions {
    /// The present version that is written over, [`Version::ZERO`] where the key must be absent
    /// (R12); `None` where any will do.
    pub expected: Option<Version>,
    /// Handles that must be held, by the word of the store (R55).
    pub fences: Vec<Fence>,
    /// Who publishes this, and why: it leaves a record then (R71).
    pub note: Option<Note>,
}

impl WriteOptions {
    /// Writes only over this version; [`Version::ZERO`] means that the key must be absent (R12).
    #[must_use]
    pub fn with_expected(mut self, version: Version) -> Self {
        self.expected = Some(version);
        self
    }

    /// Publishes: leaves a record of who wrote this, and why, beside the value (R71).
    #[must_use]
    pub fn with_note(mut self, note: Note) -> Self {
        self.note = Some(note);
        self
    }

    /// Writes only while the handle that gave this is held; up to
    /// [eight](crate::fence::MAX_FENCES) of them (R55).
    #[must_use]
    pub fn with_fence(mut self, fence: Fence) -> Self {
        self.fences.push(fence);
        self
    }
}

/// Versioned values under keys.
///
/// Keys obey R4, values R6: both are checked before any I/O and are `InvalidArgument` where they
/// break it. This trait carries bytes and is what a backend implements; [`ConfigCenterExt`] adds
/// typed values and is what most code calls.
///
/// # Contract
///
/// - **R10** Histories of get, set, compare-and-set and delete are linearizable per key.
/// - **R11** A write's version is greater than every earlier version of its key, also after delete
///   and re-create, also after a restart.
/// - **R2** A failed write says whether it was applied. None is repeated after an unknown outcome.
/// - **R55** A fenced write is applied only at a revision at which its handles hold.
#[async_trait]
pub trait ConfigCenter: Debug + Send + Sync + 'static {
    /// Reads a key: its value and version, `None` when it is absent (R10).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` (R4), `Unavailable`, `Timeout`, `Closed`, `Unauthenticated`,
    /// `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn get_raw(&self, key: &str) -> Result<Option<Versioned>>;

    /// Writes a key and returns its new version (R10, R11). An equal value is still a new version.
    ///
    /// The options say on which conditions: at an [expected version](WriteOptions::expected) (R12),
    /// while [handles](WriteOptions::fences) are held (R55); and whether it leaves a
    /// [record](WriteOptions::note) (R71). It is one method for all of them, so
    /// that no implementation, and nothing that wraps one, forgets a condition.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` (R4, R6, R55, R71), before any I/O where the store is not needed to know
    /// it; `LeaseLost` where a fence does not hold (R55); else `Conflict` where the version is
    /// another one, which carries the [current version](crate::Error::current_version); nothing was
    /// changed then (R11). `Exhausted`, and those of [`get_raw`](Self::get_raw).
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have written (R2).
    async fn write_with(&self, key: &str, value: Value, options: WriteOptions) -> Result<Version>;

    /// Deletes a key and says whether it existed (R13). Deleting what is absent changes no version
    /// and emits no event (R11).
    ///
    /// # Errors
    ///
    /// Those of [`get_raw`](Self::get_raw).
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have deleted (R2).
    async fn delete(&self, key: &str) -> Result<bool>;

    /// Deletes a key if its present version is `expected`, and says whether it existed: `false`
    /// only for [`Version::ZERO`] on an absent key (R12, R13).
    ///
    /// # Errors
    ///
    /// `Conflict`, which carries the [current version](crate::Error::current_version). Otherwise
    /// those of [`get_raw`](Self::get_raw).
    ///
    /// # Cancel safety
    ///
    /// A dropped call may or may not have deleted (R2).
    async fn compare_and_delete(&self, key: &str, expected: Version) -> Result<bool>;

    /// Lists a directory: one snapshot in byte order (R14). The empty prefix lists everything; one
    /// trailing `/` is legal. `list("a")` never holds `a` itself, nor `ab/…` (R5).
    ///
    /// What is listed, [`get_raw`](Self::get_raw) and [`delete`](Self::delete) take. A key that is
    /// not UTF-8 or breaks R4 was left by someone else; it is among [`Snapshot::invalid`].
    ///
    /// # Errors
    ///
    /// Those of [`get_raw`](Self::get_raw).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn list_raw(&self, prefix: &str) -> Result<Snapshot<ConfigEntry>>;

    /// Watches a key, which need not exist (R16). A key with a trailing `/` is a directory: the
    /// call is then [`watch_prefix_raw`](Self::watch_prefix_raw).
    ///
    /// # Errors
    ///
    /// Those of [`get_raw`](Self::get_raw). Once it returned, transient faults are retried inside
    /// (R20).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the call leaves nothing behind.
    async fn watch_raw(&self, key: &str, start: WatchStart) -> Result<Watch<ConfigEvent>>;

    /// Watches a directory (R5, R16). The empty prefix watches everything.
    ///
    /// # Errors
    ///
    /// Those of [`get_raw`](Self::get_raw). Once it returned, transient faults are retried inside
    /// (R20).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the call leaves nothing behind.
    async fn watch_prefix_raw(&self, prefix: &str, start: WatchStart) -> Result<Watch<ConfigEvent>>;
}

/// Typed values over any [`ConfigCenter`], JSON underneath (R15).
///
/// What serde_json round-trips comes back equal, exact floats and strings that look like JSON
/// included; what it does not is `Codec` before any I/O, as [`json::encode`](crate::json::encode)
/// says. A value of another type is `Codec`, and the data is untouched. A byte order mark before a
/// document, as some editors leave it, is skipped. Errors, cancel safety and rules are otherwise
/// those of the raw method of the same name.
pub trait ConfigCenterExt: ConfigCenter {
    /// Writes a key, whatever its version is: [`write_with`](ConfigCenter::write_with) without
    /// conditions.
    ///
    /// # Errors
    ///
    /// Those of [`ConfigCenter::write_with`] that are about no condition.
    fn set_raw(&self, key: &str, value: Value) -> impl Future<Output = Result<Version>> + Send {
        async move { self.write_with(key, value, WriteOptions::default()).await }
    }

    /// Writes a key if its present version is `expected`; [`Version::ZERO`] means that it must be
    /// absent (R12). Returns the new version.
    ///
    /// # Errors
    ///
    /// `Conflict`, which carries the [current version](crate::Error::current_version); nothing was
    /// changed (R11). Otherwise those of [`set_raw`](Self::set_raw).
    fn compare_and_set_raw(
        &self,
        key: &str,
        value: Value,
        expected: Version,
    ) -> impl Future<Output = Result<Version>> + Send {
        async move { self.write_with(key, value, WriteOptions::default().with_expected(expected)).await }
    }

    /// Reads a typed value; `None` when the key is absent.
    ///
    /// # Errors
    ///
    /// `Codec` when the value is not a `T`; those of [`ConfigCenter::get_raw`].
    fn get<T: DeserializeOwned>(&self, key: &str) -> impl Future<Output = Result<Option<T>>> + Send {
        async move { Ok(self.get_with_version(key).await?.map(|versioned| versioned.value)) }
    }

    /// Reads a typed value with its version; `None` when the key is absent.
    ///
    /// # Errors
    ///
    /// `Codec` when the value is not a `T`; those of [`ConfigCenter::get_raw`].
    fn get_with_version<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> impl Future<Output = Result<Option<Versioned<T>>>> + Send {
        async move {
            let Some(Versioned { value, version }) = self.get_raw(key).await? else { return Ok(None) };
            Ok(Some(Versioned {
                value: decode("config.get", &value).map_err(|error| error.about(key))?,
                version,
            }))
        }
    }

    /// Writes a typed value and returns its new version.
    ///
    /// # Errors
    ///
    /// `Codec` when JSON could not give the value back, before any I/O; those of
    /// [`set_raw`](Self::set_raw).
    fn set<T: Serialize + Sync + ?Sized>(
        &self,
        key: &str,
        value: &T,
    ) -> impl Future<Output = Result<Version>> + Send {
        let encoded = encode("config.set", value).map_err(|error| error.about(key));
        async move { self.set_raw(key, encoded?).await }
    }

    /// Writes a typed value if the present version is `expected`; [`Version::ZERO`] means that the
    /// key must be absent (R12).
    ///
    /// # Errors
    ///
    /// `Codec` when JSON could not give the value back, before any I/O; those of
    /// [`compare_and_set_raw`](Self::compare_and_set_raw).
    fn compare_and_set<T: Serialize + Sync + ?Sized>(
        &self,
        key: &str,
        value: &T,
        expected: Version,
    ) -> impl Future<Output = Result<Version>> + Send {
        let encoded = encode("config.compare_and_set", value).map_err(|error| error.about(key));
        async move { self.compare_and_set_raw(key, encoded?, expected).await }
    }

    /// Writes a typed value on conditions: at an expected version (R12), while handles are held
    /// (R55).
    ///
    /// # Errors
    ///
    /// `Codec` when JSON could not give the value back, before any I/O; those of
    /// [`ConfigCenter::write_with`].
    fn set_with<T: Serialize + Sync + ?Sized>(
        &self,
        key: &str,
        value: &T,
        options: WriteOptions,
    ) -> impl Future<Output = Result<Version>> + Send {
        let encoded = encode("config.set", value).map_err(|error| error.about(key));
        async move { self.write_with(key, encoded?, options).await }
    }

    /// Publishes a typed value: writes it with a record of who did so, and why (R71).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for more than [`MAX_PUBLISHED_BYTES`] or [`MAX_NOTE_BYTES`]; those of
    /// [`set_with`](Self::set_with).
    fn publish<T: Serialize + Sync + ?Sized>(
        &self,
        key: &str,
        value: &T,
        note: Note,
    ) -> impl Future<Output = Result<Version>> + Send {
        self.set_with(key, value, WriteOptions::default().with_note(note))
    }

    /// Lists a directory of typed values. What is not a `T` is among [`Snapshot::invalid`].
    ///
    /// # Errors
    ///
    /// Those of [`ConfigCenter::list_raw`].
    fn list<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> impl Future<Output = Result<Snapshot<ConfigEntry<T>>>> + Send {
        async move { Ok(decode_snapshot("config.list", self.list_raw(prefix).await?)) }
    }

    /// Watches a key, or a directory where the key ends in `/`. What is not a `T` arrives as
    /// [`ConfigEvent::Invalid`], and the stream goes on (R21).
    ///
    /// # Errors
    ///
    /// Those of [`ConfigCenter::watch_raw`].
    fn watch<T: DeserializeOwned + 'static>(
        &self,
        key: &str,
        start: WatchStart,
    ) -> impl Future<Output = Result<Watch<ConfigEvent<T>>>> + Send {
        async move { Ok(typed(self.watch_raw(key, start).await?)) }
    }

    /// Watches a directory. What is not a `T` arrives as [`ConfigEvent::Invalid`], and the stream
    /// goes on (R21).
    ///
    /// # Errors
    ///
    /// Those of [`ConfigCenter::watch_prefix_raw`].
    fn watch_prefix<T: DeserializeOwned + 'static>(
        &self,
        prefix: &str,
        start: WatchStart,
    ) -> impl Future<Output = Result<Watch<ConfigEvent<T>>>> + Send {
        async move { Ok(typed(self.watch_prefix_raw(prefix, start).await?)) }
    }
}

impl<C: ConfigCenter + ?Sized> ConfigCenterExt for C {}

fn decode_entry<T: DeserializeOwned>(
    operation: &'static str,
    entry: ConfigEntry,
) -> std::result::Result<ConfigEntry<T>, Invalid> {
    let ConfigEntry { key, value, version } = entry;
    match decode(operation, &value) {
        Ok(value) => Ok(ConfigEntry { key, value, version }),
        Err(error) => Err(Invalid { key: Bytes::from(key), value, version, error }),
    }
}

fn decode_snapshot<T: DeserializeOwned>(
    operation: &'static str,
    raw: Snapshot<ConfigEntry>,
) -> Snapshot<ConfigEntry<T>> {
    let mut decoded =
        Snapshot { revision: raw.revision, items: Vec::with_capacity(raw.items.len()), invalid: raw.invalid };
    for entry in raw.items {
        match decode_entry(operation, entry) {
            Ok(entry) => decoded.items.push(entry),
            Err(invalid) => decoded.invalid.push(invalid),
        }
    }
    decoded
}

/// The same watch, with its values decoded.
fn typed<T: DeserializeOwned + 'static>(raw: Watch<ConfigEvent>) -> Watch<ConfigEvent<T>> {
    Watch::new(raw.status(), TypedEvents { raw, decodes: PhantomData })
}

/// The events of a raw watch with their values decoded.
struct TypedEvents<T> {
    raw: Watch<ConfigEvent>,
    decodes: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> TypedEvents<T> {
    fn decode(event: ConfigEvent) -> ConfigEvent<T> {
        const OPERATION: &str = "config.watch";
        match event {
            ConfigEvent::Put { entry, created, last } => match decode_entry(OPERATION, entry) {
                Ok(entry) => ConfigEvent::Put { entry, created, last },
                Err(record) => ConfigEvent::Invalid { record, last },
            },
            ConfigEvent::Delete { key, version, last } => ConfigEvent::Delete { key, version, last },
            ConfigEvent::Invalid { record, last } => ConfigEvent::Invalid { record, last },
            ConfigEvent::InvalidDeleted { key, version, last } => {
                ConfigEvent::InvalidDeleted { key, version, last }
            }
            ConfigEvent::Resync(snapshot) => ConfigEvent::Resync(decode_snapshot(OPERATION, snapshot)),
        }
    }
}

impl<T: DeserializeOwned> Stream for TypedEvents<T> {
    type Item = Result<ConfigEvent<T>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.raw).poll_next(cx).map(|item| item.map(|event| event.map(Self::decode)))
    }
}
