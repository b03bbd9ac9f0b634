//! How a service starts: first with nothing but its name, then by what the config centre says.

use std::net::SocketAddr;

use coord::{Coord, Error, ErrorKind, Result, Source};

use crate::app::{App, Beginnings};
use crate::causes::Causes;
use crate::clog::{Clog, ClogError};
use crate::component::Scope;
use crate::health::Health;
use crate::metrics::{Metrics, MetricsError, MetricsOptions};
use crate::shutdown::{Shutdown, ShutdownOptions};

/// What to do where the store of coord does not answer at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnUnreachable {
    /// Start all the same, with the default of each configuration. A WARN says so, the service is
    /// degraded, and goes on by configuration when the store is there.
    #[default]
    Defaults,
    /// Do not start.
    Fail,
}

/// A service in its first phase: it can log and count, and nothing else.
#[derive(Debug)]
pub struct Boot(Beginnings);

impl Boot {
    /// Begins to start the service of that name: what the process records is logged as text on
    /// standard output, and what it counts is kept for `/metrics`. Where the process has a
    /// subscriber of `tracing` or a recorder of `metrics` already, that one stays.
    ///
    /// # Errors
    ///
    /// `Internal` where there is no standard output, or no thread that could write to it.
    pub fn start(service: impl Into<String>) -> Result<Self> {
        let mut boot = Boot::bare(service);
        let logs = Clog::console(&boot.0.service).map_err(failed)?;
        match logs.install() {
            Ok(()) => boot = boot.with_logs(logs),
            Err(ClogError::AlreadyInstalled) => {
                tracing::info!("the process has a subscriber of its own, which gets the logs");
            }
            Err(error) => return Err(failed(error)),
        }
        let metrics = Metrics::new(MetricsOptions::default()).map_err(failed)?;
        match metrics.install() {
            Ok(()) => boot = boot.with_metrics(metrics),
            Err(MetricsError::AlreadyInstalled) => {
                tracing::info!("the process has a recorder of its own, which gets the metrics");
            }
            Err(error) => return Err(failed(error)),
        }
        Ok(boot)
    }

    /// Begins to start the service of that name, without logs and metrics: for tests, and for
    /// programs that have their own.
    pub fn bare(service: impl Into<String>) -> Self {
        let scope = Scope::new(Health::new(), Shutdown::new(ShutdownOptions::default()));
        let starting = scope.report("service", true);
        Boot(Beginnings {
            service: service.into(),
            scope,
            starting,
            required: false,
            tells_versions: false,
            logs: None,
            metrics: None,
            admin: None,
        })
    }

    /// Takes over logs that were made and installed with other choices: they follow the
    /// configuration, and are closed at the end.
    #[must_use]
    pub fn with_logs(mut self, logs: Clog) -> Self {
        self.0.logs = Some(logs);
        self
    }

    /// Takes over metrics that were made and installed with other choices: they are shown at
    /// `/metrics`.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Metrics) -> Self {
        self.0.metrics = Some(metrics);
        self
    }

    /// Has the [admin listener](crate::admin) listen there, whatever a document says: for several
    /// instances on one machine. Port 0 takes any that is free.
    #[must_use]
    pub fn with_admin_at(mut self, listen: SocketAddr) -> Self {
        self.0.admin = Some(listen);
        self
    }

    /// Sets how long the end may take.
    #[must_use]
    pub fn with_shutdown(mut self, options: ShutdownOptions) -> Self {
        self.0.scope = Scope::new(self.0.scope.health().clone(), Shutdown::new(options));
        self
    }

    /// The service is of no use without the store of coord: while that is away it is down, and not
    /// only degraded.
    #[must_use]
    pub fn require_coord(mut self) -> Self {
        self.0.required = true;
        self
    }

    /// Tells those who operate the service which versions of its documents this process has in use,
    /// by a key of its own in the store ([`VersionsInUse`](coord::VersionsInUse), R86).
    #[must_use]
    pub fn with_versions_in_use(mut self) -> Self {
        self.0.tells_versions = true;
        self
    }

    /// Opens the store of coord that `url` names. What can be written there is on the page of
    /// [`coord`].
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a URL that is wrong. Where the store does not answer: none with
    /// [`OnUnreachable::Defaults`], and with [`OnUnreachable::Fail`] those of [`coord::open`]. A
    /// password that is refused is an error in any case.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn connect(&self, url: &str, unreachable: OnUnreachable) -> Result<Coord> {
        let source = Source::open(url).await?;
        match source.client().await {
            Err(error) if unreachable == OnUnreachable::Defaults && is_away(error.kind()) => {
                tracing::warn!(store = %source, error = %Causes(&error), "the store is away; the service starts without it");
                source.client_lazy()
            }
            answer => answer,
        }
    }

    /// Goes on to the second phase, in which everything is as the config centre says: the logs by
    /// `{env}/{service}/clog` ([`LogConfig`](crate::clog::LogConfig)), and, where the service has
    /// metrics, the [admin listener](crate::admin) by `{env}/{service}/admin`. Neither keeps the
    /// service from running: what is wrong with them degrades it.
    ///
    /// From then on operators can look, and the service is not ready before the program has added
    /// all of its parts and says so by [`App::started`] or [`App::run_until_signal`] (K9).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when the service's name is no segment of a key (R4).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the service is as if it had never been started, but for logs and metrics, which
    /// stay installed and are not shown any more.
    pub async fn upgrade(self, coord: &Coord) -> Result<App> {
        App::start(self.0, coord.clone()).await
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Internal, "boot.start", "the service can neither log nor count").with_source(error)
}

fn is_away(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout)
}
