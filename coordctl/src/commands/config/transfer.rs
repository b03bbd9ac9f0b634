//! Documents to a file and from it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use coord::prelude::*;
use coord::{ErrorKind, Version, WriteOptions};
use serde::{Deserialize, Serialize};

use super::super::Session;
use super::Author;
use super::document::Document;
use super::schema::{SchemaArguments, Written, refused};
use crate::error::Failure;
use crate::show::Table;

/// Write the documents of a directory to a file, as JSON.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The directory, such as `dev/chat`; all of them by default.
    #[arg(default_value = "")]
    directory: String,
    /// The file; standard output by default.
    #[arg(short, long)]
    file: Option<PathBuf>,
}

/// The documents of a directory.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Documents {
    documents: BTreeMap<String, Exported>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exported {
    /// The version that it had; zero for one that was added to the file.
    #[serde(default)]
    version: Version,
    value: Document,
}

impl Export {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let found = session.ask(session.coord.config().list_raw(&self.directory)).await?;
        let exported = |entry: coord::ConfigEntry| {
            (entry.key, Exported { version: entry.version, value: Document::of(&entry.value) })
        };
        let documents = Documents { documents: found.items.into_iter().map(exported).collect() };
        let text = serde_json::to_string_pretty(&documents).unwrap_or_default() + "\n";
        match self.file {
            None => session.terminal.print(&text),
            Some(path) => {
                let name = path.display().to_string();
                std::fs::write(&path, text).map_err(|error| Failure::Io(name.clone(), error))?;
                let count = documents.documents.len();
                session.terminal.print(&format!("{count} documents in {name}\n"));
            }
        }
        Ok(())
    }
}

/// Write the documents of a file that `export` has made, where nobody else has changed them since.
///
/// What the store and the file say alike is left alone. What was changed in the store since the
/// export, and says something else than the file, is a conflict: it is told, and not written.
/// Documents that are not in the file are left alone.
///
/// Where one of those that would be written is not as its JSON schema says (the document
/// KEY.schema.json, in the file or in the store), nothing is written.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The file.
    file: PathBuf,
    /// Show what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    schema: SchemaArguments,
    #[command(flatten)]
    author: Author,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Step {
    /// It says so already.
    Same,
    Create,
    Change,
    /// Somebody else has changed it.
    Conflict,
}

#[derive(Debug, Serialize)]
struct Planned {
    key: String,
    step: Step,
    /// The version in the store.
    present: Version,
}

impl Import {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let name = self.file.display().to_string();
        let text = std::fs::read(&self.file).map_err(|error| Failure::Io(name.clone(), error))?;
        let documents: Documents = serde_json::from_slice(&text)
            .map_err(|error| Failure::Usage(format!("{name} was not made by `export`: {error}")))?;
        let schemas = self.schema.read()?;
        let mut plan = Vec::new();
        let mut written = Written::new();
        for (key, exported) in documents.documents {
            let value = exported.value.value()?;
            let found = session.ask(session.coord.config().get_raw(&key)).await?;
            let present = found.as_ref().map_or(Version::ZERO, |found| found.version);
            let says_so = found.as_ref().is_some_and(|found| Document::of(&found.value) == exported.value);
            let step = match (says_so, present) {
                (true, _) => Step::Same,
                (false, present) if present != exported.version => Step::Conflict,
                (false, Version::ZERO) => Step::Create,
                (false, _) => Step::Change,
            };
            if matches!(step, Step::Create | Step::Change) {
                written.insert(key.clone(), value.to_vec());
            }
            plan.push(Planned { key, step, present });
        }
        let mut wrong = Vec::new();
        for (key, value) in &written {
            if let Some(checker) = schemas.of(session, key, &written).await? {
                wrong.extend(checker.check(key, value).err());
            }
        }
        if !wrong.is_empty() {
            return Err(refused(&wrong.join("\n")));
        }
        for planned in &mut plan {
            let Some(value) = written.remove(&planned.key).filter(|_| !self.dry_run) else { continue };
            let options =
                WriteOptions::default().with_expected(planned.present).with_note(self.author.note());
            let done = session.coord.config().write_with(&planned.key, value.into(), options);
            match session.ask(done).await {
                Ok(_) => {}
                Err(Failure::Coord(error)) if error.kind() == ErrorKind::Conflict => {
                    planned.step = Step::Conflict;
                }
                Err(failure) => return Err(failure),
            }
        }
        let conflicts = plan.iter().filter(|planned| planned.step == Step::Conflict).count();
        let text = crate::show::render(session.show.output, &plan, || vec![table(&plan, self.dry_run)])?;
        session.terminal.print(&text);
        match conflicts {
            0 => Ok(()),
            conflicts => Err(Failure::Conflict(format!(
                "{conflicts} documents were changed by somebody else since the export, and were left alone"
            ))),
        }
    }
}

fn table(plan: &[Planned], dry_run: bool) -> Table {
    let mut table = Table::new(&["KEY", "WAS AT", ""], "the file has no documents");
    for planned in plan {
        let step = match (planned.step, dry_run) {
            (Step::Same, _) => "says so already",
            (Step::Conflict, _) => "CONFLICT: changed since the export",
            (Step::Create, true) => "would be created",
            (Step::Create, false) => "created",
            (Step::Change, true) => "would be changed",
            (Step::Change, false) => "changed",
        };
        table.row([planned.key.clone(), planned.present.to_string(), step.to_owned()]);
    }
    table
}
