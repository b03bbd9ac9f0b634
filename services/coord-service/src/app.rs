//! A service that is made of parts, and runs until it is told to end.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coord::store::Store;
use coord::{Coord, Error, Result, VersionsInUse};
use parking_lot::Mutex;
use tokio::signal;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::admin::{Admin, AdminConfig};
use crate::causes::Causes;
use crate::clog::{Clog, ClogReload};
use crate::component::{Component, LiveComponent, Scope};
use crate::health::{Health, Reporter, State};
use crate::live::{Live, LiveOptions};
use crate::metrics::Metrics;
use crate::setting::Setting;
use crate::shutdown::{Phase, Shutdown, ShutdownReport};

/// How often the store is asked whether it is there, and how long it may take to say so.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// How often samples that wait are summed up, while nobody asks for the page of metrics.
const SUM_UP_EVERY: Duration = Duration::from_secs(5);

/// What a service brings along from its first phase.
#[derive(Debug)]
pub(crate) struct Beginnings {
    pub(crate) service: String,
    pub(crate) scope: Scope,
    /// Keeps the service from being ready while parts are still to come.
    pub(crate) starting: Reporter,
    /// Whether the service is of no use without coord.
    pub(crate) required: bool,
    /// Whether operators are told which versions of its documents are in use.
    pub(crate) tells_versions: bool,
    pub(crate) logs: Option<Clog>,
    pub(crate) metrics: Option<Metrics>,
    /// Where the operators' listener is, whatever a document says.
    pub(crate) admin: Option<SocketAddr>,
}

/// A service in its second phase: configured by the config centre.
#[derive(Debug)]
pub struct App {
    service: String,
    coord: Coord,
    scope: Scope,
    /// There until all parts are.
    starting: Mutex<Option<Reporter>>,
    /// Tells which versions of its documents are in use.
    versions: Option<Arc<VersionsInUse>>,
    admin: Option<Arc<Live<Admin>>>,
    /// They end with the service, and with this where that is dropped.
    tasks: Vec<AbortOnDropHandle<()>>,
}

impl App {
    /// A service over `coord`, which is closed at its end, and whose state is a part of the
    /// service's health (K9): degraded while the store is away, or down where it is required.
    pub(crate) async fn start(beginnings: Beginnings, coord: Coord) -> Result<Self> {
        let Beginnings { service, scope, starting, required, tells_versions, logs, metrics, admin: fixed } =
            beginnings;
        let versions = tells_versions.then(|| coord.versions_in_use()).transpose()?.map(Arc::new);
        let starting = Mutex::new(Some(starting));
        let mut app = App { service, coord, scope, starting, versions, admin: None, tasks: Vec::new() };
        if let Some(logs) = logs {
            let reload = ClogReload::new(logs);
            let closing = reload.clone();
            app.shutdown().on(Phase::Logs, "clog", closing.close());
            // Their configuration is followed for as long as there is somebody to see it.
            let logs = LiveComponent::new(app.config("clog"), reload).optional().with_phase(Phase::Admin);
            app.add(logs).await?;
        }
        let reporter = app.scope.report("coord", required);
        app.own(ask(app.coord.clone(), reporter, app.shutdown().clone()));
        let closing = app.coord.clone();
        app.shutdown().on(Phase::Store, "coord", async move {
            if let Err(error) = closing.provider().close().await {
                tracing::warn!(error = %Causes(&error), "coord was not closed; leases run out by themselves");
            }
        });
        if let Some(metrics) = metrics {
            let (begun, summed) = (app.shutdown().begun(), metrics.clone());
            app.own(async move {
                tokio::select! {
                    () = begun => {}
                    never = summed.upkeep(SUM_UP_EVERY) => match never {},
                }
            });
            let admin = Admin::new(app.health().clone(), Arc::new(move || metrics.render()));
            app.admin = Some(match fixed {
                Some(listen) => app.listen_at(admin, listen).await,
                None => {
                    let admin = LiveComponent::new(app.config("admin"), admin);
                    app.add(admin.optional().with_phase(Phase::Admin)).await?
                }
            });
        }
        Ok(app)
    }

    /// The operators' listener at one address, which no document changes.
    async fn listen_at(&self, admin: Admin, listen: SocketAddr) -> Arc<Live<Admin>> {
        let (_, config) = watch::channel(Arc::new(AdminConfig { listen }));
        let reporter = self.scope.report("admin", false);
        let live = Live::start_reporting(admin, config, LiveOptions::default(), "admin", reporter);
        let live = Arc::new(live);
        let closing = Arc::clone(&live);
        self.shutdown().on(Phase::Admin, "admin", async move { closing.close().await });
        // Somebody else may have the port; it is tried again.
        let _ = timeout(ANSWER_WITHIN, live.ready()).await;
        live
    }

    fn own(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(AbortOnDropHandle::new(tokio::spawn(task)));
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The store of coord.
    pub fn coord(&self) -> &Coord {
        &self.coord
    }

    /// How the service is.
    pub fn health(&self) -> &Health {
        self.scope.health()
    }

    /// The end of the service.
    pub fn shutdown(&self) -> &Shutdown {
        self.scope.shutdown()
    }

    /// The listener for those who operate the service, where the service has metrics of its own
    /// ([`Boot`](crate::Boot)).
    pub fn admin(&self) -> Option<&Live<Admin>> {
        self.admin.as_deref()
    }

    /// Where the configuration of a part lies: `{env}/{service}/{component}`.
    pub fn config(&self, component: impl Into<String>) -> Setting {
        let setting = Setting::new(Arc::clone(self.coord.provider().config()), &self.service, component);
        match &self.versions {
            Some(versions) => setting.with_versions_in_use(Arc::clone(versions)),
            None => setting,
        }
    }

    /// Starts a part of the service.
    ///
    /// # Errors
    ///
    /// Those of the part, which are for what no retry can mend.
    ///
    /// # Cancel safety
    ///
    /// As the part says.
    pub async fn add<C: Component>(&self, component: C) -> Result<C::Handle> {
        component.start(self.scope.clone()).await
    }

    /// Says that all parts have been added: from now on the service is ready when they are (K9).
    ///
    /// Until then it is not, so that nothing is sent to a service that is only half there: parts
    /// that were not added yet cannot say that they are not ready. Idempotent.
    pub fn started(&self) {
        if self.starting.lock().take().is_some() {
            tracing::info!(service = self.service, "started");
        }
    }

    /// Runs until the process is told to end, by SIGTERM or SIGINT (Ctrl-C), and ends everything in
    /// order (K10). All parts have been added before ([`started`](Self::started)). A second signal
    /// ends the wait at once, and `None` is returned: what was not done is left.
    ///
    /// # Errors
    ///
    /// Where signals cannot be heard.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe, as [`Shutdown::run`].
    pub async fn run_until_signal(&self) -> std::io::Result<Option<ShutdownReport>> {
        let mut signals = Signals::new()?;
        self.started();
        signals.next().await;
        tracing::info!("told to end");
        self.health().withdraw("shutting down");
        tokio::select! {
            report = self.shutdown().run() => Ok(Some(report)),
            () = signals.next() => Ok(None),
        }
    }

    /// Ends everything in order (K10), as a signal does.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe, as [`Shutdown::run`].
    pub async fn end(&self) -> ShutdownReport {
        self.health().withdraw("shutting down");
        self.shutdown().run().await
    }
}

/// Asks the store from time to time whether it is there, until the service ends.
async fn ask(coord: Coord, reporter: Reporter, shutdown: Shutdown) {
    let asking = async {
        let store = coord.core().store();
        loop {
            reporter.set(match timeout(ANSWER_WITHIN, store.status()).await {
                Ok(Ok(_)) => State::Ready,
                Ok(Err(error)) => away(reporter.is_required(), &error),
                Err(_) => away(
                    reporter.is_required(),
                    &Error::new(coord::ErrorKind::Timeout, "store.status", "no answer"),
                ),
            });
            sleep(ASK_EVERY).await;
        }
    };
    tokio::select! {
        () = shutdown.begun() => {}
        () = asking => {}
    }
}

fn away(required: bool, error: &Error) -> State {
    let why = format!("the store is away: {}", Causes(error));
    if required { State::Down(why) } else { State::Degraded(why) }
}

/// What tells a process to end.
struct Signals {
    #[cfg(unix)]
    terminate: signal::unix::Signal,
    #[cfg(unix)]
    interrupt: signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> std::io::Result<Self> {
        use signal::unix::{SignalKind, signal};
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    #[cfg(not(unix))]
    #[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
    fn new() -> std::io::Result<Self> {
        Ok(Signals {})
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        let _ = signal::ctrl_c().await;
    }
}
