//! A directory of documents, each kept current (R67).

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coord_api::{ConfigCenter, Error, ErrorKind, Result, Version};
use coord_home::Home;
use serde::de::DeserializeOwned;

use super::builder::{LOAD_TIMEOUT, managed_key};
use super::documents::{Callbacks, Documents, Shared};
use super::reader::{ConfigReader, Current};
use super::run::Run;
use super::status::{ConfigFault, DirectoryStatus, FaultStage};
use super::updates::{DeletePolicy, Refusal};
use super::worker::{Followed as _, Worker};

const WAIT: &str = "config_directory.wait_until";

/// Keeps a directory of documents of one type up to date: the JSON under each key of
/// `{env}/{service}/{component}/` in a config centre, by the rest of its key.
///
/// - **R67** What holds for a [`ConfigManager`](super::ConfigManager)'s document holds for each of
///   them (R23, R24), and one that is refused, or whose callback panics, disturbs no other.
/// - Reading does no I/O and takes no lock. A name without a document has the default, by
///   [`current`](Self::current), or is `None`, by [`get`](Self::get).
/// - [`wait_until`](Self::wait_until) a version is for who must see a write of his own.
/// - A document that was deleted is gone; by [policy](ConfigDirectoryBuilder::on_delete) its last
///   value stays. Names whose last value stays are kept for as long as the directory.
///
/// It owns its background task, as a manager does: that ends with [`stop`](Self::stop), or with the
/// directory. All that a revision changes is told by one watch, whatever the number of documents;
/// a document that comes or goes costs time with the number of them, a changed one does not.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use coord_api::prelude::*;
/// use coord_recipes::config_manager::ConfigDirectory;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_api::Result<()> {
/// # let provider = coord_memory::MemoryProvider::new();
/// let config = Arc::clone(provider.config());
/// let limits = ConfigDirectory::<u32>::builder(config, "gateway", "limits").env("prod").build()?;
/// limits.start().await;
/// assert_eq!(limits.get("login").as_deref(), None);
///
/// let version = provider.config().set("prod/gateway/limits/login", &5).await?;
/// provider.config().set("prod/gateway/limits/search", "no number").await?;
/// limits.wait_until(version).await?;
/// assert_eq!(limits.get("login").as_deref(), Some(&5));
/// limits.stop().await;
/// # Ok(())
/// # }
/// ```
pub struct ConfigDirectory<T> {
    config: Arc<dyn ConfigCenter>,
    shared: Arc<Shared<T>>,
    callbacks: Arc<Callbacks<T>>,
    run: Run,
}

impl<T: DeserializeOwned + Send + Sync + 'static> ConfigDirectory<T> {
    /// A directory of the documents of `component` of `service`, with `T`'s default for names
    /// without one.
    pub fn builder(
        config: Arc<dyn ConfigCenter>,
        service: impl Into<String>,
        component: impl Into<String>,
    ) -> ConfigDirectoryBuilder<T>
    where
        T: Default,
    {
        ConfigDirectory::builder_with(config, service, component, T::default())
    }

    /// As [`builder`](Self::builder), for a type without a default of its own.
    pub fn builder_with(
        config: Arc<dyn ConfigCenter>,
        service: impl Into<String>,
        component: impl Into<String>,
        default: T,
    ) -> ConfigDirectoryBuilder<T> {
        ConfigDirectoryBuilder {
            config,
            env: None,
            service: service.into(),
            component: component.into(),
            default: Arc::new(default),
            load_timeout: LOAD_TIMEOUT,
            callbacks: Callbacks::default(),
        }
    }

    /// Begins to load and to watch, and waits for the first load, at most for the load timeout.
    ///
    /// It never fails: what went wrong stands in the status that it returns, and it goes on trying.
    /// Where the task and the callbacks run, [`ConfigManager::start`](super::ConfigManager::start)
    /// says.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves the directory running.
    pub async fn start(&self) -> DirectoryStatus {
        let make = |orders| {
            let documents = Documents::new(&self.shared, &self.callbacks);
            Worker::new(Arc::clone(&self.config), documents, self.run.home.clone(), orders).run()
        };
        if let Err(error) = self.run.start(make).await {
            let error = coord_core::homeless("config_directory.start", error);
            let fault = ConfigFault::new(FaultStage::Load, None, error);
            Documents::new(&self.shared, &self.callbacks).failed(fault);
        }
        self.status()
    }
}

impl<T> ConfigDirectory<T> {
    /// Ends loading and watching. Once it returned, no callback runs and no value changes any more;
    /// the last ones stay.
    ///
    /// Idempotent. A callback that is running is waited for, so do not wait for this inside a
    /// callback.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has begun to stop the directory; call again to wait for the end.
    pub async fn stop(&self) {
        self.run.stop().await;
    }

    /// The document of this name, or the default where there is none in use. Never blocks, never
    /// fails (R23).
    #[inline]
    pub fn current(&self, name: &str) -> Current<T> {
        self.get(name).unwrap_or_else(|| self.shared.default_value())
    }

    /// The document of this name; `None` where there is none in use. Never blocks.
    #[inline]
    pub fn get(&self, name: &str) -> Option<Current<T>> {
        self.shared.get(name)
    }

    /// The names of the documents in use, sorted.
    pub fn names(&self) -> Vec<String> {
        self.shared.names()
    }

    /// Reads one document for longer, and waits for its changes; `None` where there is none in use.
    /// It ends when the document is gone: one that comes back has another reader.
    pub fn reader(&self, name: &str) -> Option<ConfigReader<T>> {
        self.shared.reader(name)
    }

    /// Waits until everything up to this version of one of its documents was taken: it is in use
    /// then, or was refused. Give it the version that a write has returned.
    ///
    /// # Errors
    ///
    /// `Closed` when the directory is not followed any more: it was stopped, or the config centre
    /// was closed. Before the first start it waits.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn wait_until(&self, version: Version) -> Result<()> {
        if self.shared.seen(version).await {
            return Ok(());
        }
        let message = "the directory is not followed any more; start it again";
        Err(Error::new(ErrorKind::Closed, WAIT, message).about(self.directory()))
    }

    /// How the directory is doing.
    pub fn status(&self) -> DirectoryStatus {
        self.shared.status()
    }

    /// The directory in the config centre: `{env}/{service}/{component}`.
    pub fn directory(&self) -> &str {
        self.shared.directory()
    }
}

impl<T> Drop for ConfigDirectory<T> {
    fn drop(&mut self) {
        if !self.run.abandon() {
            // There is no task that would tell those who wait.
            self.shared.over();
        }
    }
}

impl<T> fmt::Debug for ConfigDirectory<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigDirectory")
            .field("directory", &self.directory())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// Makes a [`ConfigDirectory`].
pub struct ConfigDirectoryBuilder<T> {
    config: Arc<dyn ConfigCenter>,
    env: Option<String>,
    service: String,
    component: String,
    default: Arc<T>,
    load_timeout: Duration,
    callbacks: Callbacks<T>,
}

impl<T: DeserializeOwned + Send + Sync + 'static> ConfigDirectoryBuilder<T> {
    /// The environment, instead of the process's `APP_ENV`.
    #[must_use]
    pub fn env(mut self, env: impl Into<String>) -> Self {
        self.env = Some(env.into());
        self
    }

    /// What a name without a document has. It is not validated.
    #[must_use]
    pub fn default_value(mut self, value: T) -> Self {
        self.default = Arc::new(value);
        self
    }

    /// Checks each loaded value, which it is given with its name; a refused one is not used.
    ///
    /// What [`ConfigManagerBuilder::validate`](super::ConfigManagerBuilder::validate) says holds
    /// here.
    #[must_use]
    pub fn validate<E: Into<Box<dyn StdError + Send + Sync>>>(
        mut self,
        check: impl Fn(&str, &T) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        let check = move |name: &str, value: &T| check(name, value).map_err(Refusal::new);
        self.callbacks.validate = Some(Arc::new(check));
        self
    }

    /// Is asked about each change, with its name, the old value and the new one, just before they
    /// are swapped. The old one of a new name is the default. What it refuses is not used.
    ///
    /// What [`ConfigManagerBuilder::on_update`](super::ConfigManagerBuilder::on_update) says holds
    /// here.
    #[must_use]
    pub fn on_update<E: Into<Box<dyn StdError + Send + Sync>>>(
        mut self,
        callback: impl Fn(&str, &Arc<T>, &Arc<T>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        let callback =
            move |name: &str, old: &Arc<T>, new: &Arc<T>| callback(name, old, new).map_err(Refusal::new);
        self.callbacks.update = Some(Arc::new(callback));
        self
    }

    /// Is told of each change, with its name, the old value and the new one, just after they were
    /// swapped. It cannot refuse.
    ///
    /// What [`ConfigManagerBuilder::on_change`](super::ConfigManagerBuilder::on_change) says holds
    /// here.
    #[must_use]
    pub fn on_change(mut self, callback: impl Fn(&str, &Arc<T>, &Arc<T>) + Send + Sync + 'static) -> Self {
        self.callbacks.change = Some(Arc::new(callback));
        self
    }

    /// What becomes of a document that is deleted. [`DeletePolicy::Default`] by default: it is
    /// gone.
    #[must_use]
    pub fn on_delete(mut self, policy: DeletePolicy) -> Self {
        self.callbacks.on_delete = policy;
        self
    }

    /// How long [`start`](ConfigDirectory::start) waits for the first load. 5 s by default.
    #[must_use]
    pub fn load_timeout(mut self, timeout: Duration) -> Self {
        self.load_timeout = timeout;
        self
    }

    /// Makes the directory, which does nothing before [`start`](ConfigDirectory::start). No I/O.
    ///
    /// # Errors
    ///
    /// Those of [`ConfigManagerBuilder::build`](super::ConfigManagerBuilder::build).
    pub fn build(self) -> Result<ConfigDirectory<T>> {
        let directory = managed_key(self.env, &self.service, &self.component)?;
        Ok(ConfigDirectory {
            config: self.config,
            shared: Arc::new(Shared::new(&directory, self.default)),
            callbacks: Arc::new(self.callbacks),
            run: Run::new(Home::for_callbacks(), self.load_timeout),
        })
    }
}

impl<T> fmt::Debug for ConfigDirectoryBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigDirectoryBuilder")
            .field("env", &self.env)
            .field("service", &self.service)
            .field("component", &self.component)
            .field("load_timeout", &self.load_timeout)
            .finish_non_exhaustive()
    }
}
