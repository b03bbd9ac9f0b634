//! What a config manager is made from.

use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, Once};
use std::time::Duration;

use coord_api::{ConfigCenter, Error, Result, key};
use coord_home::Home;
use serde::de::DeserializeOwned;

use super::ConfigManager;
use super::reader::ConfigReader;
use super::run::Run;
use super::updates::{DeletePolicy, Refusal, Updates};

const OPERATION: &str = "config_manager.build";
const ENV_VARIABLE: &str = "APP_ENV";
const DEFAULT_ENV: &str = "dev";
pub(super) const LOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes a [`ConfigManager`].
pub struct ConfigManagerBuilder<T> {
    config: Arc<dyn ConfigCenter>,
    env: Option<String>,
    service: String,
    component: String,
    load_timeout: Duration,
    updates: Updates<T>,
}

impl<T: DeserializeOwned + Send + Sync + 'static> ConfigManagerBuilder<T> {
    pub(super) fn new(config: Arc<dyn ConfigCenter>, service: String, component: String, default: T) -> Self {
        ConfigManagerBuilder {
            config,
            env: None,
            service,
            component,
            load_timeout: LOAD_TIMEOUT,
            updates: Updates::new(default),
        }
    }

    /// The environment, instead of the process's `APP_ENV`.
    #[must_use]
    pub fn env(mut self, env: impl Into<String>) -> Self {
        self.env = Some(env.into());
        self
    }

    /// The value for as long as nothing was loaded. It is not validated.
    #[must_use]
    pub fn default_value(mut self, value: T) -> Self {
        self.updates.default = Arc::new(value);
        self
    }

    /// Checks each loaded value; a refused one is not used.
    ///
    /// The reason shows in the status as the cause of the error, and in the log; it must not hold
    /// secrets. A panic counts as a refusal.
    #[must_use]
    pub fn validate<E: Into<Box<dyn StdError + Send + Sync>>>(
        mut self,
        check: impl Fn(&T) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        self.updates.validate = Some(Box::new(move |value| check(value).map_err(Refusal::new)));
        self
    }

    /// Is asked about each change, with the old value and the new one, just before they are
    /// swapped: `current()` is still the old one. What it refuses is not used.
    ///
    /// It runs on the manager's task, never twice at once, and other managers of the process wait
    /// for it, so it should be short. The reason shows in the status as the cause of the error, and
    /// in the log; it must not hold secrets. A panic counts as a refusal. It should not own the
    /// manager, which could then never be dropped; a [reader](ConfigManager::reader) does no harm.
    #[must_use]
    pub fn on_update<E: Into<Box<dyn StdError + Send + Sync>>>(
        mut self,
        callback: impl Fn(&Arc<T>, &Arc<T>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        self.updates.callback = Some(Box::new(move |old, new| callback(old, new).map_err(Refusal::new)));
        self
    }

    /// Is told of each change, with the old value and the new one, just after they were swapped:
    /// `current()` is the new one. It cannot refuse.
    ///
    /// It runs on the manager's task, as the [update callback](Self::on_update) does, never twice
    /// at once and never after [`stop`](ConfigManager::stop) returned. A panic shows in the status,
    /// and the new value stays in use. A task that waits for changes is better off with
    /// [`changes`](ConfigManager::changes).
    #[must_use]
    pub fn on_change(mut self, callback: impl Fn(&Arc<T>, &Arc<T>) + Send + Sync + 'static) -> Self {
        self.updates.listener = Some(Box::new(callback));
        self
    }

    /// What becomes of the value when its key is deleted. [`DeletePolicy::Keep`] by default.
    #[must_use]
    pub fn on_delete(mut self, policy: DeletePolicy) -> Self {
        self.updates.on_delete = policy;
        self
    }

    /// How long [`start`](ConfigManager::start) waits for the first load. 5 s by default.
    #[must_use]
    pub fn load_timeout(mut self, timeout: Duration) -> Self {
        self.load_timeout = timeout;
        self
    }

    /// Makes the manager, which does nothing before [`start`](ConfigManager::start). No I/O.
    ///
    /// The environment is what [`env`](Self::env) said, else that of the variable `APP_ENV`, read
    /// here and only here, else (or where that is empty) `dev`, which is said once, at INFO.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when the environment, the service or the component is not one segment of a
    /// key, or all three are too long for one (R4).
    pub fn build(self) -> Result<ConfigManager<T>> {
        let key = managed_key(self.env, &self.service, &self.component)?;
        Ok(ConfigManager {
            reader: ConfigReader::new(key, Arc::clone(&self.updates.default)),
            config: self.config,
            updates: Arc::new(self.updates),
            run: Run::new(Home::for_callbacks(), self.load_timeout),
        })
    }
}

/// `{env}/{service}/{component}`, where each is one segment of a key.
pub(super) fn managed_key(env: Option<String>, service: &str, component: &str) -> Result<String> {
    let env = match env {
        Some(env) => env,
        None => env_of_process()?,
    };
    for segment in [env.as_str(), service, component] {
        key::check_segment(OPERATION, segment)?;
    }
    let key = format!("{env}/{service}/{component}");
    key::check(OPERATION, &key)?;
    Ok(key)
}

fn env_of_process() -> Result<String> {
    match std::env::var_os(ENV_VARIABLE) {
        Some(env) if !env.is_empty() => {
            env.into_string().map_err(|_| Error::invalid_argument(OPERATION, "APP_ENV is not UTF-8"))
        }
        _ => {
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                coord_home::event!(
                    INFO,
                    env = DEFAULT_ENV,
                    "APP_ENV is not set; configuration is that of the default"
                );
            });
            Ok(DEFAULT_ENV.to_owned())
        }
    }
}

impl<T> fmt::Debug for ConfigManagerBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigManagerBuilder")
            .field("env", &self.env)
            .field("service", &self.service)
            .field("component", &self.component)
            .field("load_timeout", &self.load_timeout)
            .finish_non_exhaustive()
    }
}
