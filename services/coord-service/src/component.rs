//! The parts that a service is made of, and what a part needs to know of the whole.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord::Result;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::health::{Health, Reporter};
use crate::live::{Live, LiveOptions, Reload};
use crate::setting::{Following, Setting};
use crate::shutdown::{Phase, Shutdown};

/// How long a part may take to get its first client, before the service goes on without it.
const READY_WITHIN: Duration = Duration::from_secs(5);

/// How often it is looked whether a configuration is in use.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A part of a service: made before it runs, started by [`App::add`](crate::App::add).
#[async_trait]
pub trait Component: Send {
    /// What the rest of the program uses it by.
    type Handle: Send;

    /// Starts it. `scope` is where it says how it is, and what it has to do at the end.
    ///
    /// # Errors
    ///
    /// For what no retry can mend, for example a name that is no segment of a key. A server that
    /// does not answer is none: the part starts, is [`Down`](crate::health::State::Down) and tries
    /// again (K2).
    async fn start(self, scope: Scope) -> Result<Self::Handle>;
}

/// What a part of a service knows of the whole.
#[derive(Clone, Debug)]
pub struct Scope {
    health: Health,
    shutdown: Shutdown,
}

impl Scope {
    /// For parts on this health board that end by this shutdown.
    pub fn new(health: Health, shutdown: Shutdown) -> Self {
        Scope { health, shutdown }
    }

    /// Where the part says how it is: [`Health::register`].
    pub fn report(&self, name: impl Into<String>, required: bool) -> Reporter {
        self.health.register(name, required)
    }

    /// The board on which the parts say how they are.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The end of the service.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Says on the board, as `<component> configuration`, whether the configuration that is
    /// followed is in use, until the service ends or the configuration is followed no more.
    pub fn report_setting<T: Send + Sync + 'static>(&self, setting: &Setting, following: &Following<T>) {
        let reporter = self.report(format!("{} configuration", setting.component()), false);
        let (following, end) = (following.downgrade(), self.shutdown.begun());
        tokio::spawn(async move {
            let look = async {
                while let Some(health) = following.health() {
                    reporter.set(health);
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            };
            tokio::select! {
                () = end => {}
                () = look => {}
            }
        });
    }
}

/// A [`Live`] client as a part of a service: it follows the setting, reports its health, and is
/// closed in [`Phase::Clients`].
pub struct LiveComponent<R: Reload> {
    setting: Setting,
    reload: R,
    options: LiveOptions,
    required: bool,
    phase: Phase,
    check: Check<R::Config>,
}

type Check<T> = Box<dyn Fn(&T) -> Result<(), String> + Send + Sync>;

impl<R: Reload> LiveComponent<R> {
    /// A required part, configured by `setting`.
    pub fn new(setting: Setting, reload: R) -> Self {
        LiveComponent {
            setting,
            reload,
            options: LiveOptions::default(),
            required: true,
            phase: Phase::Clients,
            check: Box::new(|_| Ok(())),
        }
    }

    /// Sets how the client behaves.
    #[must_use]
    pub fn with_options(mut self, options: LiveOptions) -> Self {
        self.options = options;
        self
    }

    /// The service can do without it: where it is down, the service is degraded.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.required = false;
        self
    }

    /// Has it closed in another phase.
    #[must_use]
    pub fn with_phase(mut self, phase: Phase) -> Self {
        self.phase = phase;
        self
    }

    /// Has each document seen by `check` before it is used, after [`Reload::check`]: it refuses one
    /// by saying which field is wrong, without secrets.
    #[must_use]
    pub fn with_check(
        mut self,
        check: impl Fn(&R::Config) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.check = Box::new(check);
        self
    }
}

#[async_trait]
impl<R: Reload> Component for LiveComponent<R>
where
    R::Config: Default + DeserializeOwned,
{
    type Handle = Arc<Live<R>>;

    async fn start(self, scope: Scope) -> Result<Arc<Live<R>>> {
        let name = self.setting.component().to_owned();
        let reporter = scope.report(&name, self.required);
        let (reload, checking) = (Arc::new(self.reload), self.check);
        let refusing = Arc::clone(&reload);
        let check = move |config: &R::Config| {
            refusing.check(config)?;
            checking(config)
        };
        let following = self.setting.follow(check).await?;
        scope.report_setting(&self.setting, &following);
        let live = Live::start_reporting(reload, following.newest(), self.options, &name, reporter);
        let live = Arc::new(live);
        let closing = Arc::clone(&live);
        let ends = scope.shutdown.on(self.phase, &name, async move { closing.close().await });
        // The configuration is followed for as long as the client is, or the store.
        scope.shutdown.on(self.phase.min(Phase::Clients), format!("{name} configuration"), async move {
            drop(following);
        });
        if ends && timeout(READY_WITHIN, live.ready()).await.is_err() {
            tracing::warn!(component = name, "the service starts without it");
        }
        Ok(live)
    }
}

impl<R: Reload> fmt::Debug for LiveComponent<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveComponent")
            .field("setting", &self.setting)
            .field("options", &self.options)
            .field("required", &self.required)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}
