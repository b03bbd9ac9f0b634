//! The config centre as one instance sees it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use coord_api::{
    ConfigCenter, ConfigEntry, ConfigEvent, Outcome, Result, Snapshot, Value, Version, Versioned, Watch,
    WatchStart, WriteOptions, key,
};
use coord_core::Client;

use super::follow;
use super::targets::GrayIdentity;
use super::view::{Both, Scope};
use crate::config::{self, Config};

/// The config centre as one instance sees it: where a [gray release](super::Gray) is for it, the
/// gray value; else the base. It is a [`ConfigCenter`], so that a
/// [`ConfigManager`](crate::config_manager::ConfigManager) and a
/// [`ConfigDirectory`](crate::config_manager::ConfigDirectory) follow it as they follow any other.
///
/// - **R73** A gray value is seen by whom it is for, and by nobody else.
/// - **R74** All that is told is made of both keys at one revision. A promotion never shows the old
///   base to whoever has the gray value.
/// - **R75** Where no release is, the base is what counts; also for who was away when it was
///   withdrawn.
///
/// # Versions and writes
///
/// The version of a base value is the base's, that of a gray value is the release's. A write, or a
/// delete, is one of the base, under whatever conditions: so a compare-and-set of what was read
/// works where that was the base's, and is a `Conflict` where it was a gray value, which is changed
/// by [`Gray::release`](super::Gray::release). A release that has a key without a base is seen as a
/// key that is there; deleting it says that there was none.
///
/// # Watches
///
/// A change of the base arrives as the event that it is. What begins, changes or ends for this
/// instance with a release arrives as a [`Resync`](ConfigEvent::Resync), and so does a change of
/// the base under a gray value: managers and directories take it as any other change. A release for
/// others is no event. What was released and withdrawn again before this instance looked, it is not
/// told.
///
/// # What it costs
///
/// | | requests beside those of the config centre itself |
/// |---|---|
/// | reading a key | none: one transaction reads both |
/// | listing a directory | 1, and 1 for each further thousand releases |
/// | opening a watch | 2 or 3, and a second watch on the store, shared as the first one is |
/// | a change of the base | 1 for each watcher: the keys of the releases in what it watches |
/// | a release for others begins, or ends | none, or 1 more where the base tells of it first |
/// | one for this instance does | reading it anew: 1 for a key, 2 or more for a directory |
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use coord_api::prelude::*;
/// use coord_api::WriteOptions;
/// use coord_recipes::config_manager::ConfigManager;
/// use coord_recipes::{Gray, GrayConfig, GrayIdentity, GrayTargets};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_api::Result<()> {
/// # let store = std::sync::Arc::new(coord_memory::MemoryStore::new());
/// # let provider = coord_recipes::StoreProvider::new(store, Default::default());
/// provider.config().set("limits", &10).await?;
/// let me = GrayConfig::new(provider.core(), GrayIdentity::new("gateway-7"))?;
/// let other = GrayConfig::new(provider.core(), GrayIdentity::new("gateway-8"))?;
///
/// let gray = Gray::new(provider.core());
/// let to_me = GrayTargets::default().with_id("gateway-7");
/// gray.release("limits", &to_me, &20, WriteOptions::default()).await?;
/// assert_eq!((me.get("limits").await?, other.get("limits").await?), (Some(20), Some(10)));
///
/// gray.promote("limits", WriteOptions::default()).await?;
/// assert_eq!((me.get("limits").await?, other.get("limits").await?), (Some(20), Some(20)));
/// # provider.close().await
/// # }
/// ```
#[derive(Clone)]
pub struct GrayConfig {
    client: Client,
    base: Arc<Config>,
    instance: Arc<GrayIdentity>,
}

impl GrayConfig {
    /// The config centre over the client's store, as this instance sees it. No I/O.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for an id, or a label's name, that is no segment of a key (R4), and for a
    /// label's value of more than 512 bytes: no release could name them.
    pub fn new(client: &Client, instance: GrayIdentity) -> Result<Self> {
        instance.check("gray.config")?;
        let base = Arc::new(Config::new(client.clone()));
        Ok(GrayConfig { client: client.clone(), base, instance: Arc::new(instance) })
    }

    /// Who sees it so.
    pub fn instance(&self) -> &GrayIdentity {
        &self.instance
    }

    async fn read(&self, operation: &'static str, name: &str, scope: Scope) -> Result<Both> {
        let read = Both::read(&self.client, &scope);
        self.client.run_on(operation, name, Outcome::NotApplied, read).await
    }

    async fn watch(
        &self,
        operation: &'static str,
        name: &str,
        scope: Scope,
        start: WatchStart,
    ) -> Result<Watch<ConfigEvent>> {
        let open = Box::pin(follow::open(&self.client, &self.instance, scope, start));
        self.client.run_on(operation, name, Outcome::NotApplied, open).await
    }
}

#[async_trait]
impl ConfigCenter for GrayConfig {
    async fn get_raw(&self, key: &str) -> Result<Option<Versioned>> {
        const OPERATION: &str = "config.get";
        let key = key::check(OPERATION, key)?;
        let both = self.read(OPERATION, key, Scope::key(key)).await?;
        let found = both.of(&self.instance).into_iter().next();
        Ok(found.map(|entry| Versioned { value: entry.value, version: entry.modified }))
    }

    async fn write_with(&self, key: &str, value: Value, options: WriteOptions) -> Result<Version> {
        self.base.write_with(key, value, options).await
    }

    async fn delete(&self, key: &str) -> Result<bool> {
        self.base.delete(key).await
    }

    async fn compare_and_delete(&self, key: &str, expected: Version) -> Result<bool> {
        self.base.compare_and_delete(key, expected).await
    }

    async fn list_raw(&self, prefix: &str) -> Result<Snapshot<ConfigEntry>> {
        const OPERATION: &str = "config.list";
        let directory = key::check_prefix(OPERATION, prefix)?;
        let both = self.read(OPERATION, prefix, Scope::directory(directory)).await?;
        Ok(config::snapshot(both.revision, &both.of(&self.instance)))
    }

    async fn watch_raw(&self, key: &str, start: WatchStart) -> Result<Watch<ConfigEvent>> {
        const OPERATION: &str = "config.watch";
        if key.ends_with('/') {
            return self.watch_prefix_raw(key, start).await;
        }
        let key = key::check(OPERATION, key)?;
        self.watch(OPERATION, key, Scope::key(key), start).await
    }

    async fn watch_prefix_raw(&self, prefix: &str, start: WatchStart) -> Result<Watch<ConfigEvent>> {
        const OPERATION: &str = "config.watch_prefix";
        let directory = key::check_prefix(OPERATION, prefix)?;
        self.watch(OPERATION, prefix, Scope::directory(directory), start).await
    }
}

impl fmt::Debug for GrayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrayConfig").field("instance", &self.instance).finish_non_exhaustive()
    }
}
