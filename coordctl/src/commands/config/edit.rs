//! Changes a document in an editor.

use std::io::Write as _;
use std::process::Command;

use clap::Args;
use coord::prelude::*;
use coord::{ErrorKind, Version, WriteOptions};

use super::super::Session;
use super::Author;
use super::change::conflict;
use super::document::{Document, check};
use super::schema::{SchemaArguments, Written, refused};
use crate::error::Failure;
use crate::show::plain;

/// Change a document in an editor: that of VISUAL or EDITOR. A version that is newer than the one
/// that was edited is not written over, and what is not as its JSON schema says (the document
/// KEY.schema.json) is not written.
#[derive(Debug, Args)]
pub(super) struct Edit {
    /// Its key.
    key: String,
    /// It need not be JSON.
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    schema: SchemaArguments,
    #[command(flatten)]
    author: Author,
}

impl Edit {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let key = plain(&self.key);
        // A schema that is none is told before anybody writes something.
        let schemas = self.schema.read()?;
        let checker = schemas.of(session, &self.key, &Written::new()).await?;
        let present = session.ask(session.coord.config().get_raw(&self.key)).await?;
        let version = present.as_ref().map_or(Version::ZERO, |present| present.version);
        let before =
            present.map_or_else(|| "{}\n".to_owned(), |present| Document::of(&present.value).pretty());
        let failed = |error| Failure::Io("the file that is edited".to_owned(), error);
        let mut file =
            tempfile::Builder::new().prefix("coordctl-").suffix(".json").tempfile().map_err(failed)?;
        file.write_all(before.as_bytes()).and_then(|()| file.flush()).map_err(failed)?;

        let path = file.into_temp_path();
        let opened = path.to_path_buf();
        let status = tokio::task::spawn_blocking(move || editor().arg(opened).status()).await;
        match status {
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(status)) => return Err(Failure::Usage(format!("the editor ended with {status}"))),
            Ok(Err(error)) => return Err(Failure::Io("the editor (VISUAL, EDITOR)".to_owned(), error)),
            Err(error) => return Err(Failure::Usage(format!("the editor: {error}"))),
        }
        let after = std::fs::read(&path).map_err(failed)?;
        if after == before.as_bytes() {
            session.terminal.print(&format!("{key} is as it was\n"));
            return Ok(());
        }
        let is_json = if self.raw { Ok(()) } else { check(&after, "what was edited") };
        let checked = is_json.and_then(|()| match &checker {
            Some(checker) => checker.check(&self.key, &after).map_err(|wrong| refused(&wrong)),
            None => Ok(()),
        });
        let written = match checked {
            Ok(()) => {
                let options = WriteOptions::default().with_expected(version).with_note(self.author.note());
                session.ask(session.coord.config().write_with(&self.key, after.into(), options)).await
            }
            Err(failure) => Err(failure),
        };
        let failure = match written {
            Ok(version) => {
                session.terminal.print(&format!("{key} is at version {version}\n"));
                return Ok(());
            }
            Err(Failure::Coord(error)) if error.kind() == ErrorKind::Conflict => conflict(&key, &error),
            Err(failure) => failure,
        };
        // Nothing of it is lost.
        if let Ok(kept) = path.keep() {
            session.terminal.complain(&format!("what was edited is in {}\n", kept.display()));
        }
        Err(failure)
    }
}

/// The editor with its options, as the shell would find it.
fn editor() -> Command {
    let named = |name| std::env::var(name).ok().filter(|editor: &String| !editor.trim().is_empty());
    let editor = named("VISUAL").or_else(|| named("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    let mut words = editor.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("vi"));
    command.args(words);
    command
}
