//! What the configuration was.

use clap::Args;
use coord::{Published, Version};
use serde::Serialize;

use super::super::Session;
use super::document::{Document, difference};
use super::version;
use crate::error::Failure;
use crate::show::{Format, Table, plain, render};
use crate::time;

/// Who changed a document, when and why: the newest 20 to 29 changes that were published.
#[derive(Debug, Args)]
pub(super) struct Of {
    /// Its key.
    key: String,
}

#[derive(Serialize)]
struct Change {
    version: Version,
    replaced: Version,
    author: String,
    note: String,
    at_ms: u64,
    /// Whether it was written or deleted otherwise before.
    after_gap: bool,
    value: Document,
}

#[derive(Serialize)]
struct Changes {
    changes: Vec<Change>,
    current: Version,
    /// Whether it was written or deleted otherwise after the last of these.
    ends_with_gap: bool,
}

impl Of {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let look = async |session: &Session<'_>| {
            let history = session.ask(session.coord.history().of(&self.key)).await?;
            let ends_with_gap = history.ends_with_gap();
            let changes = history.published.iter().map(Change::of).collect();
            Ok(Changes { changes, current: history.current, ends_with_gap })
        };
        let key = plain(&self.key);
        session.show(look, |changes| vec![changes.table(&key)]).await
    }
}

impl Change {
    fn of(published: &Published) -> Self {
        Change {
            version: published.version,
            replaced: published.replaced,
            author: published.author.clone(),
            note: published.note.clone(),
            at_ms: published.at,
            after_gap: published.after_gap,
            value: Document::of(&published.value),
        }
    }
}

impl Changes {
    fn table(&self, key: &str) -> Table {
        const COLUMNS: &[&str] = &["VERSION", "WHEN", "WHO", "WHY", "VALUE"];
        let mut table = Table::new(COLUMNS, format!("nothing was published under {key}"));
        let gap = || ["…", "", "", "(written or deleted without a record)", ""].map(str::to_owned);
        for change in &self.changes {
            if change.after_gap {
                table.row(gap());
            }
            let current = if change.version == self.current { " *" } else { "" };
            table.row([
                format!("{}{current}", change.version),
                time::at(change.at_ms),
                change.author.clone(),
                change.note.clone(),
                change.value.line(),
            ]);
        }
        if self.ends_with_gap && !self.changes.is_empty() {
            table.row(gap());
        }
        table
    }
}

/// What was changed between two versions: by default by the last change that was published.
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// The key.
    key: String,
    /// From this version.
    #[arg(long, value_parser = version)]
    from: Option<Version>,
    /// To this version; as it is by default.
    #[arg(long, value_parser = version)]
    to: Option<Version>,
}

#[derive(Serialize)]
struct Difference {
    path: String,
    before: Option<serde_json::Value>,
    after: Option<serde_json::Value>,
}

impl Diff {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let key = plain(&self.key);
        let history = session.ask(session.coord.history().of(&self.key)).await?;
        let newest = history.published.last().map(|published| published.version);
        let nothing = || Failure::NotFound(format!("nothing was published under {key}"));
        let to = self.to.or(newest).ok_or_else(nothing)?;
        let before = |version: Version| {
            let at = history.published.iter().position(|published| published.version == version)?;
            Some(history.published.get(at.checked_sub(1)?)?.version)
        };
        let from = self.from.or_else(|| before(to)).ok_or_else(|| {
            Failure::NotFound(format!("what {key} was before {to} is not kept; see `config history {key}`"))
        })?;
        if session.show.output == Format::Table {
            let text = |version| {
                let published = history.version(version);
                published.map(|published| Document::of(&published.value).pretty()).ok_or_else(|| {
                    Failure::NotFound(format!(
                        "no version {version} of {key} is kept; see `config history {key}`"
                    ))
                })
            };
            let (one, other) = (format!("{key} {from}"), format!("{key} {to}"));
            session.terminal.print(&difference(&text(from)?, &text(to)?, &one, &other));
            return Ok(());
        }
        let found = session.ask(session.coord.history().diff(&self.key, from, to)).await?;
        let found: Vec<Difference> = found
            .into_iter()
            .map(|found| Difference { path: found.path, before: found.before, after: found.after })
            .collect();
        session.terminal.print(&render(session.show.output, &found, Vec::new)?);
        Ok(())
    }
}
