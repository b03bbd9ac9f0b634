//! One typed setting of a service: loaded, watched, checked and swapped while the service runs
//! (R23, R24).
//!
//! # Examples
//!
//! ```
//! use coord_api::prelude::*;
//! use coord_memory::MemoryStore;
//! use coord_recipes::config_manager::ConfigManager;
//! use coord_recipes::{ProviderOptions, StoreProvider};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
//! struct Limits {
//!     per_second: u32,
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> coord_api::Result<()> {
//! let provider = StoreProvider::new(std::sync::Arc::new(MemoryStore::new()), ProviderOptions::default());
//! let manager = ConfigManager::<Limits>::builder(provider.config().clone(), "gateway", "limits")
//!     .env("prod")
//!     .default_value(Limits { per_second: 10 })
//!     .validate(|limits: &Limits| match limits.per_second {
//!         0 => Err("no request would pass"),
//!         _ => Ok(()),
//!     })
//!     .build()?;
//!
//! let status = manager.start().await;
//! assert!(status.missing);
//! assert_eq!(manager.current().per_second, 10);
//!
//! let mut changes = manager.changes();
//! provider.config().set("prod/gateway/limits", &Limits { per_second: 50 }).await?;
//! changes.changed().await;
//! assert_eq!(manager.current().per_second, 50);
//!
//! manager.stop().await;
//! # Ok(())
//! # }
//! ```

mod application;
mod builder;
mod changes;
mod directory;
mod document;
mod documents;
mod guard;
mod metrics;
mod reader;
mod run;
mod same;
mod status;
mod updates;
mod worker;

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use coord_api::ConfigCenter;
use serde::de::DeserializeOwned;

pub use builder::ConfigManagerBuilder;
pub use changes::ConfigChanges;
pub use directory::{ConfigDirectory, ConfigDirectoryBuilder};
pub use reader::{ConfigReader, Current};
pub use status::{ConfigFault, ConfigSource, ConfigStatus, DirectoryStatus, FaultStage};
pub use updates::DeletePolicy;

use document::Document;
use run::Run;
use updates::Updates;
use worker::Worker;

/// Keeps one typed setting up to date (R23, R24): the JSON under `{env}/{service}/{component}` of a
/// config centre.
///
/// - **R23** [`current`](Self::current) never blocks and never fails: it is the default until a
///   value is loaded, and while the value is missing, invalid or out of reach. A new document is
///   decoded, validated, handed to the update callback and swapped in, in this order; whatever
///   fails keeps the old value, and [`status`](Self::status) shows it.
/// - **R24** No change is missed between loading and watching. A resync reloads.
///   [`start`](Self::start) and [`stop`](Self::stop) are idempotent and can be repeated.
/// - A document counts as changed when it says something else, as JSON, than the one in use. Where
///   only the spelling differs (white space, line ends, a byte order mark, the order of an object's
///   keys, `1.0` for `1.00` or `1`) it raises the version, and nothing else happens. Where that
///   cannot be known, for numbers beyond 64 bits, it counts as changed. So does the first document,
///   after the default.
/// - A document that was refused is looked at again when it is written again, or after a new start.
/// - What the application's code does, the manager outlives: a panic of the callbacks, of decoding,
///   or of the `Drop` of an old value shows in the status and is logged.
///
/// The manager owns its background task: it ends with [`stop`](Self::stop), or with the manager,
/// wherever that is dropped. Share the manager in an [`Arc`], or hand out [readers](Self::reader),
/// which only read.
pub struct ConfigManager<T> {
    reader: ConfigReader<T>,
    config: Arc<dyn ConfigCenter>,
    updates: Arc<Updates<T>>,
    run: Run,
}

impl<T: DeserializeOwned + Send + Sync + 'static> ConfigManager<T> {
    /// A manager for the setting `component` of `service`, with `T`'s default for as long as
    /// nothing was loaded.
    pub fn builder(
        config: Arc<dyn ConfigCenter>,
        service: impl Into<String>,
        component: impl Into<String>,
    ) -> ConfigManagerBuilder<T>
    where
        T: Default,
    {
        ConfigManager::builder_with(config, service, component, T::default())
    }

    /// As [`builder`](Self::builder), for a type without a default of its own.
    pub fn builder_with(
        config: Arc<dyn ConfigCenter>,
        service: impl Into<String>,
        component: impl Into<String>,
        default: T,
    ) -> ConfigManagerBuilder<T> {
        ConfigManagerBuilder::new(config, service.into(), component.into(), default)
    }

    /// Begins to load and to watch, and waits for the first load, at most for the load timeout.
    ///
    /// It never fails: what went wrong stands in the status that it returns, and the manager goes
    /// on trying in the background, with capped and jittered pauses. The first load is over when
    /// the centre answered, be it that the key is missing or that its document is refused. Started
    /// already, it only waits.
    ///
    /// The task and the callbacks live on a thread that all managers of the process share
    /// ([`Home::for_callbacks`](crate::Home::for_callbacks)), whatever becomes of the runtime that
    /// calls, and there need not be one; nothing is renewed there. Under a paused clock it is the
    /// runtime that calls. Callbacks see the runtime and the subscriber of whoever started the
    /// manager: a task that they spawn runs there.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves the manager running.
    pub async fn start(&self) -> ConfigStatus {
        let make = |orders| {
            let document = Document::new(&self.reader.cell, &self.updates);
            Worker::new(Arc::clone(&self.config), document, self.run.home.clone(), orders).run()
        };
        if let Err(error) = self.run.start(make).await {
            let error = coord_core::homeless("config_manager.start", error);
            self.reader.cell.failed(ConfigFault::new(FaultStage::Load, None, error));
        }
        self.status()
    }
}

impl<T> ConfigManager<T> {
    /// Ends loading and watching. Once it returned, no callback runs and the value changes no more;
    /// [`current`](Self::current) keeps the last one.
    ///
    /// Idempotent. A callback that is running is waited for, so do not wait for this inside a
    /// callback.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has begun to stop the manager; call again to wait for the end.
    pub async fn stop(&self) {
        self.run.stop().await;
    }

    /// The value in use. Never blocks, never fails (R23).
    #[inline]
    pub fn current(&self) -> Current<T> {
        self.reader.current()
    }

    /// Waits for the next change of the value, from this call on, and says where the new one comes
    /// from. `None` when the manager is not running any more, as [`ConfigChanges::changed`] says.
    ///
    /// Between two calls a change can pass unnoticed; a loop is better off with
    /// [`changes`](Self::changes).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub fn changed(&self) -> impl Future<Output = Option<ConfigSource>> + Send + 'static {
        let mut changes = self.changes();
        async move { changes.changed().await }
    }

    /// The changes of the value from now on, none of which is missed.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use coord_api::prelude::*;
    /// # use coord_recipes::config_manager::ConfigManager;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> coord_api::Result<()> {
    /// # let provider = coord_memory::MemoryProvider::new();
    /// let config = Arc::clone(provider.config());
    /// let manager = ConfigManager::<u32>::builder(config, "gateway", "workers").env("prod").build()?;
    /// let mut changes = manager.changes();
    /// manager.start().await;
    ///
    /// provider.config().set("prod/gateway/workers", &8).await?;
    /// assert!(changes.changed().await.is_some());
    /// assert_eq!(*manager.current(), 8);
    ///
    /// manager.stop().await;
    /// assert_eq!(changes.changed().await, None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn changes(&self) -> ConfigChanges {
        self.reader.changes()
    }

    /// How the manager is doing.
    pub fn status(&self) -> ConfigStatus {
        self.reader.status()
    }

    /// A handle that only reads, cheap to clone. It outlives the manager and then keeps the last
    /// value.
    pub fn reader(&self) -> ConfigReader<T> {
        self.reader.clone()
    }

    /// The managed key in the config centre: `{env}/{service}/{component}`.
    pub fn key(&self) -> &str {
        &self.reader.cell.key
    }
}

impl<T> Drop for ConfigManager<T> {
    fn drop(&mut self) {
        if !self.run.abandon() {
            // There is no task that would tell those who wait.
            self.reader.cell.announcer.running(false);
        }
    }
}

impl<T> fmt::Debug for ConfigManager<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigManager")
            .field("key", &self.key())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
