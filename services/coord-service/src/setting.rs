//! What one component of a service is configured with: the JSON under
//! `{env}/{service}/{component}` of the config centre, followed while the service runs.

use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, Weak};

use coord::config_manager::ConfigManagerBuilder;
use coord::{ConfigCenter, ConfigManager, Result, VersionsInUse};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::causes::Causes;
use crate::document::Document;
use crate::health::State;

/// Where the configuration of one component lies.
#[derive(Clone)]
pub struct Setting {
    config: Arc<dyn ConfigCenter>,
    env: Option<String>,
    service: String,
    component: String,
    versions: Option<Arc<VersionsInUse>>,
}

impl Setting {
    /// The JSON under `{env}/{service}/{component}`. The environment is that of the variable
    /// `APP_ENV`, or `dev`, unless [`with_env`](Self::with_env) gives another one.
    pub fn new(
        config: Arc<dyn ConfigCenter>,
        service: impl Into<String>,
        component: impl Into<String>,
    ) -> Self {
        let (service, component) = (service.into(), component.into());
        Setting { config, env: None, service, component, versions: None }
    }

    /// Sets the environment.
    #[must_use]
    pub fn with_env(mut self, env: impl Into<String>) -> Self {
        self.env = Some(env.into());
        self
    }

    /// Tells operators from then on which version is in use (R86).
    #[must_use]
    pub fn with_versions_in_use(mut self, versions: Arc<VersionsInUse>) -> Self {
        self.versions = Some(versions);
        self
    }

    /// The component's name.
    pub fn component(&self) -> &str {
        &self.component
    }

    /// The key of the config centre that it lies at: `{env}/{service}/{component}`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when environment, service and component are not segments of a key (R4).
    pub fn key(&self) -> Result<String> {
        Ok(self.manager::<()>().build()?.key().to_owned())
    }

    fn manager<T>(&self) -> ConfigManagerBuilder<T>
    where
        T: Default + DeserializeOwned + Send + Sync + 'static,
    {
        let manager = ConfigManager::builder(Arc::clone(&self.config), &self.service, &self.component);
        match &self.env {
            Some(env) => manager.env(env),
            None => manager,
        }
    }

    /// Loads the configuration and follows it (R23, R24). It waits for the first load for 5 s at
    /// most; where the centre does not answer, or there is nothing to read, `T`'s default is what
    /// is followed, a WARN says so, and it is tried again (K2).
    ///
    /// A document that is no `T` is refused, which names the line and the field, and quotes
    /// nothing; the one before stays. So does one that `check` refuses, which sees each `T` before
    /// it is used. Its error names the field, and must not hold secrets.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when environment, service and component are not segments of a key (R4).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is left of a dropped call.
    pub async fn follow<T, E>(
        &self,
        check: impl Fn(&T) -> Result<(), E> + Send + Sync + 'static,
    ) -> Result<Following<T>>
    where
        T: Default + DeserializeOwned + Send + Sync + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let newest = watch::Sender::new(Arc::new(T::default()));
        let told = newest.clone();
        let manager = self
            .manager()
            .validate(move |document: &Document<T>| document.check(&check))
            .on_change(move |_, new| {
                if let Some(new) = new.value() {
                    told.send_replace(new);
                }
            })
            .build()?;
        if let Some(versions) = &self.versions {
            versions.follow(&manager.reader());
        }
        let status = manager.start().await;
        if status.missing {
            tracing::warn!(key = manager.key(), "there is no configuration; the defaults are used");
        } else if status.version().is_none() {
            tracing::warn!(key = manager.key(), "the configuration was not loaded; the defaults are used");
        }
        Ok(Following { manager: Arc::new(manager), newest: newest.subscribe() })
    }
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setting")
            .field("env", &self.env)
            .field("service", &self.service)
            .field("component", &self.component)
            .finish_non_exhaustive()
    }
}

/// A configuration that is followed, for as long as this lives. Clones are one.
pub struct Following<T> {
    manager: Arc<ConfigManager<Document<T>>>,
    newest: watch::Receiver<Arc<T>>,
}

impl<T> Clone for Following<T> {
    fn clone(&self) -> Self {
        Following { manager: Arc::clone(&self.manager), newest: self.newest.clone() }
    }
}

impl<T: Send + Sync + 'static> Following<T> {
    /// The configuration in use.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.newest.borrow())
    }

    /// The configuration in use and each later one.
    pub fn newest(&self) -> watch::Receiver<Arc<T>> {
        self.newest.clone()
    }

    /// What it means for the service (K9): degraded where a document was refused or could not be
    /// read; the one before, or the default, is in use.
    pub fn health(&self) -> State {
        health(&self.manager)
    }

    pub(crate) fn downgrade(&self) -> Followed<T> {
        Followed(Arc::downgrade(&self.manager))
    }
}

/// A configuration that somebody else follows.
pub(crate) struct Followed<T>(Weak<ConfigManager<Document<T>>>);

impl<T: Send + Sync + 'static> Followed<T> {
    /// [`Following::health`]; `None` where it is followed no more.
    pub(crate) fn health(&self) -> Option<State> {
        self.0.upgrade().map(|manager| health(&manager))
    }
}

fn health<T>(manager: &ConfigManager<T>) -> State {
    match manager.status().last_error {
        None => State::Ready,
        Some(fault) => State::Degraded(format!("not in use: {}", Causes(&fault.error))),
    }
}

impl<T> fmt::Debug for Following<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Following").field("key", &self.manager.key()).finish_non_exhaustive()
    }
}
