//! To change the configuration.

use std::path::PathBuf;

use clap::Args;
use coord::prelude::*;
use coord::{Error, ErrorKind, Version, WriteOptions};

use super::super::Session;
use super::document::{Document, difference, given};
use super::schema::{SchemaArguments, Written, refused};
use super::{Author, version};
use crate::error::Failure;
use crate::show::plain;

/// Write a document, and leave a record of who did it.
///
/// Where the document KEY.schema.json is there, it is the JSON schema of KEY: what is not as it
/// says is not written.
#[derive(Debug, Args)]
pub(super) struct Set {
    /// Its key, such as `dev/chat/clog`.
    key: String,
    /// The document; `-` reads standard input.
    value: Option<String>,
    /// The document lies in this file.
    #[arg(short, long, conflicts_with = "value")]
    file: Option<PathBuf>,
    /// Only over this version; 0 means that it must not be there.
    #[arg(long, value_parser = version)]
    if_version: Option<Version>,
    /// It need not be JSON.
    #[arg(long)]
    raw: bool,
    /// Show what would be changed, and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    schema: SchemaArguments,
    #[command(flatten)]
    author: Author,
}

impl Set {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let value = given(self.value, self.file.as_deref(), self.raw)?;
        let key = plain(&self.key);
        let schemas = self.schema.read()?;
        if let Some(checker) = schemas.of(session, &self.key, &Written::new()).await? {
            checker.check(&self.key, &value).map_err(|wrong| refused(&wrong))?;
        }
        if self.dry_run {
            let present = session.ask(session.coord.config().get_raw(&self.key)).await?;
            let at = present.as_ref().map_or(Version::ZERO, |present| present.version);
            if self.if_version.is_some_and(|expected| expected != at) {
                return Err(Failure::Conflict(format!("{key} is at version {at}; nothing would be changed")));
            }
            let before = present.map_or_else(String::new, |present| Document::of(&present.value).pretty());
            let after = Document::of(&value).pretty();
            let text = match before == after {
                true => format!("{key} says so already, at version {at}\n"),
                false => difference(&before, &after, &format!("{key} {at}"), &format!("{key} (not written)")),
            };
            session.terminal.print(&text);
            return Ok(());
        }
        let mut options = WriteOptions::default().with_note(self.author.note());
        options.expected = self.if_version;
        let written = session.ask(session.coord.config().write_with(&self.key, value, options)).await;
        told(session, &key, written)?;
        alone(session, &self.key).await
    }
}

/// Says so where nothing else lies in the environment of a key: it may be none that anybody has.
async fn alone(session: &mut Session<'_>, key: &str) -> Result<(), Failure> {
    let Some((env, _)) = key.split_once('/') else { return Ok(()) };
    let found = session.ask(session.coord.config().list_raw(env)).await?;
    if found.items.iter().all(|entry| entry.key == key) {
        let env = plain(env);
        session
            .terminal
            .complain(&format!("nothing else lies under {env}/: is that an APP_ENV that anybody has?\n"));
    }
    Ok(())
}

/// Says what became of a write.
fn told(session: &mut Session<'_>, key: &str, written: Result<Version, Failure>) -> Result<(), Failure> {
    match written {
        Ok(version) => {
            session.terminal.print(&format!("{key} is at version {version}\n"));
            Ok(())
        }
        Err(Failure::Coord(error)) if error.kind() == ErrorKind::Conflict => Err(conflict(key, &error)),
        Err(failure) => Err(failure),
    }
}

/// Somebody else was faster.
pub(super) fn conflict(key: &str, error: &Error) -> Failure {
    let at = error.current_version().map_or_else(String::new, |version| format!(", which is {version}"));
    Failure::Conflict(format!(
        "{key} is at another version{at}; nothing was written: look at it and try again"
    ))
}

/// Publish an old version anew.
#[derive(Debug, Args)]
pub(super) struct Rollback {
    /// The key.
    key: String,
    /// The version to go back to; by default the one before the present one.
    #[arg(long, value_parser = version)]
    to: Option<Version>,
    #[command(flatten)]
    author: Author,
}

impl Rollback {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let key = plain(&self.key);
        let history = session.ask(session.coord.history().of(&self.key)).await?;
        // Where the last change has no record, the newest record is the one before.
        let kept = history.published.iter().rev().map(|published| published.version);
        let before = kept.clone().find(|version| *version != history.current);
        let to = self.to.or(before).ok_or_else(|| {
            Failure::NotFound(format!("what {key} was before is not kept; see `config history {key}`"))
        })?;
        if history.version(to).is_none() {
            let message = format!("no version {to} of {key} is kept; see `config history {key}`");
            return Err(Failure::NotFound(message));
        }
        let mut note = self.author.note();
        if note.text.is_empty() {
            note.text = format!("back to version {to}");
        }
        let rolled = session.coord.history();
        let written = session.ask(rolled.rollback(&self.key, to, history.current, note)).await;
        told(session, &key, written)
    }
}

/// Delete a document.
#[derive(Debug, Args)]
pub(super) struct Delete {
    /// The key.
    key: String,
    /// Only this version.
    #[arg(long, value_parser = version)]
    if_version: Option<Version>,
    /// Do it without asking.
    #[arg(long)]
    yes: bool,
}

impl Delete {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let key = plain(&self.key);
        let absent = || Failure::NotFound(format!("there is no {key}"));
        if self.if_version.is_none() {
            session.ask_twice(&format!("Delete {key}?"), &self.key, self.yes)?;
        }
        let config = session.coord.config();
        let deleted = match self.if_version {
            Some(version) => session.ask(config.compare_and_delete(&self.key, version)).await,
            None => session.ask(config.delete(&self.key)).await,
        };
        match deleted {
            Ok(true) => {
                session.terminal.print(&format!("{key} is deleted\n"));
                Ok(())
            }
            Ok(false) => Err(absent()),
            Err(Failure::Coord(error)) if error.kind() == ErrorKind::Conflict => Err(conflict(&key, &error)),
            Err(failure) => Err(failure),
        }
    }
}
