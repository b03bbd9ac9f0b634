//! How logs begin.

use std::fmt;
use std::io::Write;
use std::sync::Arc;

use parking_lot::Mutex;

use super::config::LogConfig;
use super::error::ClogError;
use super::output::Output;
use super::shared::{Shared, State};
use super::sink::Sink;
use super::{Applied, Clog, open};

const QUEUE_BYTES: usize = 4 * 1024 * 1024;
const LEAST_QUEUE_BYTES: usize = 4 * 1024;

/// How logs begin. Made by [`Clog::builder`].
pub struct ClogBuilder {
    service: Arc<str>,
    config: LogConfig,
    writer: Option<Box<dyn Write + Send>>,
    queue_bytes: usize,
}

impl ClogBuilder {
    pub(super) fn new(service: &str) -> Self {
        ClogBuilder {
            service: service.into(),
            config: LogConfig::default(),
            writer: None,
            queue_bytes: QUEUE_BYTES,
        }
    }

    /// Sets the configuration to begin with.
    #[must_use]
    pub fn config(mut self, config: LogConfig) -> Self {
        self.config = config;
        self
    }

    /// Writes to this, in place of the configuration's output, until one with another output is
    /// applied. It is called by one thread alone, and may block; it gets one or more whole lines at
    /// a time, unless it takes less than it is given.
    #[must_use]
    pub fn writer(mut self, writer: impl Write + Send + 'static) -> Self {
        self.writer = Some(Box::new(writer));
        self
    }

    /// Sets how many bytes may wait for an output, 4 KiB at least. A longer line is lost. Default:
    /// 4 MiB.
    #[must_use]
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes.max(LEAST_QUEUE_BYTES);
        self
    }

    /// Starts the logs. They log nothing before they are [installed](Clog::install), or their
    /// [layer](Clog::layer) is in a subscriber.
    ///
    /// # Errors
    ///
    /// [`ClogError::Config`], [`ClogError::Output`] and [`ClogError::NoThread`].
    pub fn start(self) -> Result<Clog, ClogError> {
        let parsed = self.config.parse()?;
        let output = match self.writer {
            Some(writer) => Output::Writer(writer),
            None => open(&parsed.output, &self.config)?,
        };
        let sink = Sink::start(output, parsed.format, self.queue_bytes, Arc::clone(&self.service));
        let sink = Arc::new(sink.map_err(ClogError::NoThread)?);
        let state = State::new(parsed.filter, parsed.format, sink);
        Ok(Clog {
            shared: Arc::new(Shared::new(self.service, state)),
            queue_bytes: self.queue_bytes,
            applied: Mutex::new(Applied {
                config: self.config,
                output: parsed.output,
                retiring: Vec::new(),
                bridged: false,
                closed: false,
            }),
        })
    }
}

impl fmt::Debug for ClogBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClogBuilder")
            .field("service", &self.service)
            .field("config", &self.config)
            .field("queue_bytes", &self.queue_bytes)
            .finish_non_exhaustive()
    }
}
