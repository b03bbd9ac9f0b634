//! Logs: records of `tracing`, as lines for people or for machines, changed while the program runs.
//!
//! ```
//! use coord_service::clog::{Clog, LogConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Phase 1: text on the console, before anything else is known.
//! let logs = Clog::console("im-logic")?;
//! logs.install()?;
//! tracing::info!(version = "1.2.0", "starting");
//!
//! // Phase 2: as the configuration says, and each time that it changes.
//! let config: LogConfig = serde_json::from_str(r#"{"level": "debug", "format": "json"}"#)?;
//! logs.apply(&config)?;
//! tracing::info!(user = 7, "signed in");
//!
//! // A document that is wrong changes nothing, and says where it is.
//! let wrong = LogConfig::default().with_level("lout");
//! assert!(logs.apply(&wrong).unwrap_err().to_string().starts_with("level: "));
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised (K3)
//!
//! - **One line a record**, whatever is in it: line feeds, the controls of terminals and what else
//!   ends lines is escaped. In JSON these stand on top: `time` (RFC 3339, UTC, microseconds),
//!   `level`, `message`, `service`, `trace_id`, `span_id` and `request_id` where the task has a
//!   [context](crate::trace), `caller` (`file:line`), `target`, `span` (the innermost). Then follow
//!   the fields of the event and those of its spans, from the innermost outwards, side by side.
//! - **A name stands once.** An event's field counts before a span's, an inner span's before an
//!   outer one's, and of two in one event the later. A field named as one of those on top is
//!   `field.<name>`; `trace_id`, `span_id` and `request_id` only where the task has a context.
//! - **Each value is right in JSON.** Numbers that are infinite or none are `"inf"`, `"-inf"`,
//!   `"NaN"`; integers beyond 64 bits are strings; what `Debug` or `Display` made is a string; an
//!   error is written with its causes. A value is cut after 16 KiB (`…`), and of a line that is
//!   longer than 256 KiB the fields that follow are left out (`"truncated":true`).
//! - **Secrets**: of fields named as in [`SECRET_FIELDS`] the value is `[redacted]`. Types of
//!   secrets, such as those of `secrecy`, hide themselves in `Debug`.
//! - **Changed while running** ([`Clog::apply`]): level, levels of targets, format and output, all
//!   at once, for every record that begins after it returned. Spans that were opened before are in
//!   it with their fields: values are kept as values, and spans of INFO and above are kept whatever
//!   the level, unless that is `off`. A wrong field is named, and the old configuration stays.
//! - **Nobody who logs waits for the output.** A record goes into a queue of 4 MiB
//!   ([`ClogBuilder::queue_bytes`]; a thread writes, and has as much again in hand). While it is
//!   full records are lost, and only then: that is counted in
//!   `coord_log_records_lost_total{reason="full"}`, in [`ClogStatus::lost`], and by a WARN with
//!   `lost=<number>` in the output, as soon as that takes something again. An output that fails (no
//!   space left) is tried again, at least each second, and no line is torn; errors are counted in
//!   `coord_log_write_errors_total`. One lone record is written at once; in a busy program they
//!   gather for 5 ms.
//! - **A file that is moved or deleted** (rotation) is opened anew before the next line, by itself
//!   on Unix, and by [`Clog::reopen`]; one that is truncated in place goes on at its beginning.
//! - **At exit** [`Clog::close`] writes what waits, within a deadline; dropping [`Clog`] does so
//!   within a second. At a panic the panic is recorded and all is written within a second, before
//!   the program ends ([`Clog::install`]). A program that a signal ends, or `std::process::exit`,
//!   loses what waits: at most the last 5 ms, where the output keeps up.
//!
//! # Names of the seeds
//!
//! | seeds (Go) | here |
//! |---|---|
//! | `clog.Init(ctx, cfg, opts…)` | [`Clog::console`] and [`Clog::install`], then [`Clog::apply`] |
//! | `clog.New(ctx, cfg, opts…)` | [`Clog::new`] with [`Clog::layer`] |
//! | `clog.WithNamespace(service)` | the service's name in [`Clog::console`] |
//! | `clog.Module(name)`, `clog.Namespace(name)` | the target, which is the module's path by itself, or `target: "…"` |
//! | `clog.Debug`, `Info`, `Warn`, `Error(msg, fields…)` | `tracing::debug!`, `info!`, `warn!`, `error!` |
//! | `clog.Fatal(msg)` | `tracing::error!`, and an error returned from `main` |
//! | `clog.String(k, v)`, `clog.Int(k, v)`, … | `k = v`, `k = %v` (`Display`), `k = ?v` (`Debug`) |
//! | `clog.Err(err)` | `error = &err as &dyn Error`, with its causes |
//! | `logger.With(fields…)` | a span: `tracing::info_span!("name", k = v)` |
//! | `clog.WithContext(ctx)`, `clog.C(ctx)`, `clog.WithTraceID` | [`trace::scope`](crate::trace::scope); records have the ids by themselves |
//! | `Config.Level`, `Format`, `Output` | [`LogConfig`], the same names and values; `fatal` is no level |
//! | `Config.AddSource` | always: `caller` |
//! | `Config.EnableColor` | colours on terminals, unless `NO_COLOR` is set |
//! | `Config.Rotation` | the tools of the system: the file is followed |
//! | `Config.RootPath` | none: `caller` is as the compiler has it |

mod builder;
mod config;
mod error;
mod escape;
mod layer;
mod output;
mod panics;
mod record;
mod redact;
mod reload;
mod shared;
mod sink;
mod stamp;
mod value;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing_log::{AsLog, LogTracer, log};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt;

pub use builder::ClogBuilder;
pub use config::LogConfig;
pub use error::ClogError;
pub use layer::ClogLayer;
pub use redact::SECRET_FIELDS;

pub(crate) use reload::ClogReload;

use config::LogOutput;
use output::Output;
use shared::{Lost, Shared, State};
use sink::Sink;

/// How long dropping the logs, or a panic, waits for the output.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How many outputs that were replaced may still be written to. Beyond, what waits for the oldest
/// is given up, and counted as lost: it took nothing all the while.
const MAX_RETIRING: usize = 8;

/// The logs of a process: whoever has this owns them. See the [module's documentation](self).
///
/// Dropping it closes them, within a second.
#[derive(Debug)]
pub struct Clog {
    shared: Arc<Shared>,
    /// How much may wait for an output.
    queue_bytes: usize,
    applied: Mutex<Applied>,
}

/// What is applied.
#[derive(Debug)]
struct Applied {
    config: LogConfig,
    output: LogOutput,
    /// Outputs that were replaced.
    retiring: Vec<Arc<Sink>>,
    /// Whether records of the crate `log` come here.
    bridged: bool,
    closed: bool,
}

/// How the logs are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClogStatus {
    /// Records that were lost since the start.
    pub lost: u64,
    /// Bytes that wait for the output.
    pub waiting: usize,
    /// Why the output fails, if it does.
    pub failing: Option<String>,
}

impl Clog {
    /// Logs as text, of INFO and above, on standard output: for the time before the configuration
    /// is known.
    ///
    /// # Errors
    ///
    /// [`ClogError::Output`] where there is no standard output, and [`ClogError::NoThread`].
    pub fn console(service: &str) -> Result<Self, ClogError> {
        Clog::new(service, &LogConfig::default().with_format("text"))
    }

    /// Logs as the configuration says. Blocks for as long as opening a file takes.
    ///
    /// # Errors
    ///
    /// [`ClogError::Config`], [`ClogError::Output`] and [`ClogError::NoThread`].
    pub fn new(service: &str, config: &LogConfig) -> Result<Self, ClogError> {
        Clog::builder(service).config(config.clone()).start()
    }

    /// Logs with more choices.
    pub fn builder(service: &str) -> ClogBuilder {
        ClogBuilder::new(service)
    }

    /// The logs as a layer, for a subscriber of one's own, or for tests:
    ///
    /// ```
    /// use coord_service::clog::Clog;
    /// use tracing_subscriber::layer::SubscriberExt;
    ///
    /// let logs = Clog::builder("im-logic").writer(std::io::sink()).start().unwrap();
    /// let subscriber = tracing_subscriber::registry().with(logs.layer());
    /// tracing::subscriber::with_default(subscriber, || tracing::info!("only here"));
    /// ```
    pub fn layer(&self) -> ClogLayer {
        ClogLayer::new(Arc::clone(&self.shared))
    }

    /// Has the process log here: what is recorded by `tracing` and by the crate `log`, and panics,
    /// which go on to the hook that was there before.
    ///
    /// Where the crate `log` has a logger already its records stay with that, and a WARN says so.
    ///
    /// # Errors
    ///
    /// [`ClogError::AlreadyInstalled`] where the process has a subscriber.
    pub fn install(&self) -> Result<(), ClogError> {
        let subscriber = Registry::default().with(self.layer());
        tracing::subscriber::set_global_default(subscriber).map_err(|_| ClogError::AlreadyInstalled)?;
        {
            let mut applied = self.applied.lock();
            applied.bridged = LogTracer::builder().init().is_ok();
            if applied.bridged {
                log::set_max_level(self.shared.state().filter.most_of_events().as_log());
            }
        }
        if !self.applied.lock().bridged {
            tracing::warn!("the crate `log` has a logger of its own; what it gets is not logged here");
        }
        self.hook_panics();
        Ok(())
    }

    /// Has panics recorded, and all that waits written within a second, before the hook that was
    /// there goes on. [`install`](Self::install) does so.
    pub fn hook_panics(&self) {
        panics::hook(&self.shared);
    }

    /// Changes level, levels of targets, format and output, for every record that begins after this
    /// returned. Blocks for as long as opening a file takes; nobody who logs waits for that.
    ///
    /// An output that is replaced still gets what waits for it, while the new one gets what comes.
    /// Nothing is lost by that, unless more than 8 that take nothing were replaced.
    ///
    /// # Errors
    ///
    /// [`ClogError::Config`], [`ClogError::Output`], [`ClogError::NoThread`] and
    /// [`ClogError::Closed`]. The old configuration stays then.
    pub fn apply(&self, config: &LogConfig) -> Result<(), ClogError> {
        let parsed = config.parse()?;
        let mut applied = self.applied.lock();
        if applied.closed {
            return Err(ClogError::Closed);
        }
        let sink = match parsed.output == applied.output {
            true => Arc::clone(&self.shared.state().sink),
            false => {
                let output = open(&parsed.output, config)?;
                let service = Arc::from(self.shared.service());
                let sink = Sink::start(output, parsed.format, self.queue_bytes, service);
                Arc::new(sink.map_err(ClogError::NoThread)?)
            }
        };
        sink.set_format(parsed.format);
        let most = parsed.filter.most_of_events();
        let state = State::new(parsed.filter, parsed.format, Arc::clone(&sink));
        let before = self.shared.replace(state);
        if !Arc::ptr_eq(&before.sink, &sink) {
            before.sink.retire();
            applied.retiring.push(Arc::clone(&before.sink));
        }
        applied.retiring.retain(|sink| {
            let ended = sink.has_ended();
            if ended {
                // Something is left where the thread ended by accident.
                self.shared.count_lost(sink.close(Instant::now()), Lost::Closed);
            }
            !ended
        });
        if applied.retiring.len() > MAX_RETIRING {
            let oldest = applied.retiring.remove(0);
            self.shared.count_lost(oldest.close(Instant::now()), Lost::Closed);
        }
        applied.config = config.clone();
        applied.output = parsed.output;
        if applied.bridged {
            log::set_max_level(most.as_log());
        }
        drop(applied);
        self.shared.ask_again();
        Ok(())
    }

    /// The configuration that is applied.
    pub fn config(&self) -> LogConfig {
        self.applied.lock().config.clone()
    }

    /// How the logs are.
    pub fn status(&self) -> ClogStatus {
        let (waiting, failing) = self.shared.state().sink.status();
        ClogStatus { lost: self.shared.lost(), waiting, failing }
    }

    /// Has the file opened anew before the next line, as after a rotation. On Unix it is noticed
    /// without.
    pub fn reopen(&self) {
        self.shared.state().sink.reopen();
    }

    /// Waits until all that was recorded so far is written: handed to the system, not to the disk.
    /// Blocks the thread, at most for `within`.
    ///
    /// # Errors
    ///
    /// [`ClogError::NotWritten`].
    pub fn flush(&self, within: Duration) -> Result<(), ClogError> {
        let deadline = Instant::now() + within;
        let mut sinks = self.applied.lock().retiring.clone();
        sinks.push(Arc::clone(&self.shared.state().sink));
        let records = sinks.iter().map(|sink| sink.flush(deadline)).sum();
        match records {
            0 => Ok(()),
            records => Err(ClogError::NotWritten { records, within }),
        }
    }

    /// Writes what waits, and ends the threads that write. What is recorded from now on is lost,
    /// and counted (`reason="closed"`). Blocks the thread, at most for `within`. Closing again is
    /// nothing.
    ///
    /// A thread that is inside of a write which blocks for ever cannot be ended: it stays, holds
    /// what it was writing, and ends when the write does.
    ///
    /// # Errors
    ///
    /// [`ClogError::NotWritten`], with the number of records that are lost by it.
    pub fn close(&self, within: Duration) -> Result<(), ClogError> {
        let deadline = Instant::now() + within;
        let mut applied = self.applied.lock();
        if std::mem::replace(&mut applied.closed, true) {
            return Ok(());
        }
        let mut sinks = std::mem::take(&mut applied.retiring);
        drop(applied);
        sinks.push(Arc::clone(&self.shared.state().sink));
        // All at once, so that one that is stuck leaves the others their time.
        sinks.iter().for_each(|sink| sink.retire());
        let records = sinks.iter().map(|sink| sink.close(deadline)).sum();
        self.shared.count_lost(records, Lost::Closed);
        match records {
            0 => Ok(()),
            records => Err(ClogError::NotWritten { records, within }),
        }
    }
}

impl Drop for Clog {
    fn drop(&mut self) {
        // Nobody is left who could be told.
        let _ = self.close(LAST_WORDS);
    }
}

fn open(output: &LogOutput, config: &LogConfig) -> Result<Output, ClogError> {
    Output::open(output).map_err(|source| ClogError::Output { output: config.output.clone(), source })
}
