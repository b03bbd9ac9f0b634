//! A cache as a part of a service.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use coord::Result;
use coord_service::live::LiveOptions;
use coord_service::{Component, LiveComponent, Scope, Setting};

use crate::cache::Cache;
use crate::config::CacheConfig;
use crate::engine::{Engines, Front};
use crate::meter::Meter;
use crate::tuning::Tuning;

impl Cache {
    /// A cache that is configured by `setting`, for [`App::add`](coord_service::App::add).
    ///
    /// The service can do without it: while it is down, the service is degraded (K9), unless it is
    /// [required](CacheComponent::required). It is closed in
    /// [`Phase::Clients`](coord_service::shutdown::Phase::Clients).
    pub fn open(setting: Setting) -> CacheComponent {
        CacheComponent { setting, options: LiveOptions::default(), required: false }
    }
}

/// A cache that is to be started: [`Cache::open`].
pub struct CacheComponent {
    setting: Setting,
    options: LiveOptions,
    required: bool,
}

impl CacheComponent {
    /// Sets how its client is built, probed and retired.
    #[must_use]
    pub fn with_options(mut self, options: LiveOptions) -> Self {
        self.options = options;
        self
    }

    /// The service is of no use without it.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }
}

#[async_trait]
impl Component for CacheComponent {
    type Handle = Cache;

    /// Starts it. A Redis that is away is tried again (K2).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when environment, service and component are not segments of a key (R4).
    async fn start(self, scope: Scope) -> Result<Cache> {
        let prefix = format!("{}:", self.setting.key()?);
        let meter = Arc::new(Meter::new(self.setting.component()));
        let absent = Arc::new(Tuning::new(&CacheConfig::default()));
        let front = Arc::new(Front::empty());
        let engines = Engines::new(prefix, Arc::clone(&absent), Arc::clone(&front), Arc::clone(&meter));
        let live = LiveComponent::new(self.setting, engines)
            .with_options(self.options)
            .with_check(CacheConfig::check);
        let live = if self.required { live } else { live.optional() };
        Ok(Cache::new(live.start(scope).await?, front, absent, meter))
    }
}

impl fmt::Debug for CacheComponent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheComponent")
            .field("setting", &self.setting)
            .field("options", &self.options)
            .field("required", &self.required)
            .finish()
    }
}
