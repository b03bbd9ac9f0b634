//! Logs as a part of a service: they follow their configuration as any live client does.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord::{Error, ErrorKind, Result};
use tokio::task::spawn_blocking;

use super::{Clog, ClogError, LogConfig};
use crate::live::{Change, Reload};

/// How long what waits may take to be written at the end.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);

/// Has logs follow their configuration ([`Clog::apply`]); what fails is told and tried again, and
/// so is an output that takes nothing.
#[derive(Clone, Debug)]
pub(crate) struct ClogReload(Arc<Clog>);

impl ClogReload {
    pub(crate) fn new(logs: Clog) -> Self {
        ClogReload(Arc::new(logs))
    }

    /// Writes what waits, as far as the output takes it.
    pub(crate) async fn close(self) {
        // Where something is lost nobody is left to be told.
        let _ = spawn_blocking(move || self.0.close(CLOSED_WITHIN)).await;
    }
}

fn failed(operation: &'static str, error: ClogError) -> Error {
    let kind = match error {
        ClogError::Config { .. } => ErrorKind::InvalidArgument,
        ClogError::Closed => ErrorKind::Closed,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, operation, "the logs stay as they are").with_source(error)
}

#[async_trait]
impl Reload for ClogReload {
    type Config = LogConfig;
    type Client = Arc<Clog>;

    fn check(&self, config: &LogConfig) -> Result<(), String> {
        config.check().map_err(|error| error.to_string())
    }

    fn plan(&self, old: &LogConfig, new: &LogConfig) -> Change {
        match (old == new, old.output == new.output) {
            (true, _) => Change::Same,
            (_, true) => Change::InPlace,
            // A file has to be opened, which may take its time.
            (_, false) => Change::Rebuild,
        }
    }

    async fn build(&self, config: &LogConfig) -> Result<Arc<Clog>> {
        let (logs, config) = (Arc::clone(&self.0), config.clone());
        match spawn_blocking(move || logs.apply(&config)).await {
            Ok(applied) => applied.map_err(|error| failed("clog.build", error))?,
            Err(error) => {
                return Err(
                    Error::new(ErrorKind::Internal, "clog.build", "ended by accident").with_source(error)
                );
            }
        }
        Ok(Arc::clone(&self.0))
    }

    async fn probe(&self, logs: &Arc<Clog>) -> Result<()> {
        match logs.status().failing {
            Some(why) => Err(Error::new(ErrorKind::Unavailable, "clog.probe", why)),
            None => Ok(()),
        }
    }

    fn apply(&self, logs: &Arc<Clog>, config: &LogConfig) -> Result<()> {
        logs.apply(config).map_err(|error| failed("clog.apply", error))
    }
}
