//! What the configuration is.

use clap::Args;
use coord::coord_core::time_of_day_ms;
use coord::prelude::*;
use coord::{ConfigEvent, Version, WatchStart};
use serde::Serialize;

use super::super::Session;
use super::document::Document;
use super::version;
use crate::error::Failure;
use crate::show::{Format, Table, plain};
use crate::time;

/// A document, as it is or as it was.
#[derive(Debug, Args)]
pub(super) struct Get {
    /// Its key, such as `dev/chat/clog`.
    key: String,
    /// As it was in this version, which was published with a note.
    #[arg(long, value_parser = version)]
    version: Option<Version>,
}

/// A document, where it lies.
#[derive(Serialize)]
struct Found {
    key: String,
    version: Version,
    value: Document,
}

impl Get {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let absent = || Failure::NotFound(format!("there is no {}", plain(&self.key)));
        let found = match self.version {
            None => {
                let found = session.ask(session.coord.config().get_raw(&self.key)).await?;
                found.map(|found| (found.version, Document::of(&found.value))).ok_or_else(absent)?
            }
            Some(version) => {
                let history = session.ask(session.coord.history().of(&self.key)).await?;
                let published = history.version(version).ok_or_else(|| {
                    let key = plain(&self.key);
                    Failure::NotFound(format!(
                        "no version {version} of {key} is kept; see `config history {key}`"
                    ))
                })?;
                (version, Document::of(&published.value))
            }
        };
        // The document alone, so that it can be handed on.
        if session.show.output == Format::Table {
            session.terminal.print(&found.1.pretty());
            return Ok(());
        }
        let found = Found { key: self.key, version: found.0, value: found.1 };
        session.terminal.print(&crate::show::render(session.show.output, &found, Vec::new)?);
        Ok(())
    }
}

/// The documents of a directory.
#[derive(Debug, Args)]
pub(super) struct List {
    /// The directory, such as `dev/chat`; all of them by default.
    #[arg(default_value = "")]
    directory: String,
}

impl List {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let look = async |session: &Session<'_>| {
            let found = session.ask(session.coord.config().list_raw(&self.directory)).await?;
            let entry = |entry: coord::ConfigEntry| Found {
                value: Document::of(&entry.value),
                version: entry.version,
                key: entry.key,
            };
            Ok(found.items.into_iter().map(entry).collect::<Vec<_>>())
        };
        let table = |found: &Vec<Found>| {
            let mut table = Table::new(&["KEY", "VERSION", "VALUE"], "there is nothing");
            for entry in found {
                table.row([entry.key.clone(), entry.version.to_string(), entry.value.line()]);
            }
            vec![table]
        };
        session.show(look, table).await
    }
}

/// Each change, as it comes: first the state as it is.
#[derive(Debug, Args)]
pub(super) struct Watch {
    /// A key, or a directory.
    key: String,
    /// It is a directory.
    #[arg(long)]
    directory: bool,
    /// End after so many lines.
    #[arg(long)]
    count: Option<u64>,
}

/// A change, as a line of JSON.
#[derive(Serialize)]
struct Line {
    change: &'static str,
    key: String,
    version: Version,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Document>,
}

impl Watch {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let config = session.coord.config();
        let mut watch = match self.directory {
            true => session.ask(config.watch_prefix_raw(&self.key, WatchStart::Snapshot)).await?,
            false => session.ask(config.watch_raw(&self.key, WatchStart::Snapshot)).await?,
        };
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let event = tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(()),
                event = watch.next() => event,
            };
            let Some(event) = event else { return Ok(()) };
            for line in lines(event?) {
                session.terminal.print(&line.text(session.show.output));
                left = left.saturating_sub(1);
                if left == 0 {
                    break;
                }
            }
        }
        Ok(())
    }
}

fn lines(event: ConfigEvent) -> Vec<Line> {
    let line = |change, entry: coord::ConfigEntry| Line {
        change,
        value: Some(Document::of(&entry.value)),
        version: entry.version,
        key: entry.key,
    };
    match event {
        ConfigEvent::Put { entry, created, .. } => {
            vec![line(if created { "created" } else { "changed" }, entry)]
        }
        ConfigEvent::Delete { key, version, .. } => {
            vec![Line { change: "deleted", key, version, value: None }]
        }
        ConfigEvent::Resync(state) => state.items.into_iter().map(|entry| line("is", entry)).collect(),
        // Keys that no call takes.
        _ => Vec::new(),
    }
}

impl Line {
    fn text(&self, format: Format) -> String {
        if format != Format::Table {
            return serde_json::to_string(self).unwrap_or_default() + "\n";
        }
        let now = time::at(time_of_day_ms());
        let value = self.value.as_ref().map_or_else(String::new, Document::line);
        format!("{now}  {:<7}  {}  {}  {value}\n", self.change, plain(&self.key), self.version)
    }
}
