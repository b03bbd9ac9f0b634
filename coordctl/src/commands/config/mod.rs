//! What the configuration is and was, and to change it.

mod change;
mod document;
mod edit;
mod history;
mod look;
mod schema;
mod transfer;
mod uses;

use clap::{Args, Subcommand};
use coord::{Note, Version};

use super::Session;
use crate::error::Failure;

/// What the configuration is and was, and to change it.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// A document, as it is or as it was.
    Get(look::Get),
    /// The documents of a directory.
    List(look::List),
    /// Each change, as it comes.
    Watch(look::Watch),
    /// Who changed a document, when and why.
    History(history::Of),
    /// What was changed between two versions.
    Diff(history::Diff),
    /// Which versions processes have in use.
    Uses(uses::Uses),
    /// Write a document, and leave a record of who did it.
    Set(change::Set),
    /// Publish an old version anew.
    Rollback(change::Rollback),
    /// Delete a document.
    Delete(change::Delete),
    /// Change a document in an editor.
    Edit(edit::Edit),
    /// Write the documents of a directory to a file.
    Export(transfer::Export),
    /// Write the documents of a file, where nobody else has changed them since.
    Import(transfer::Import),
}

impl Arguments {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        match self.verb {
            Verb::Get(verb) => verb.run(session).await,
            Verb::List(verb) => verb.run(session).await,
            Verb::Watch(verb) => verb.run(session).await,
            Verb::History(verb) => verb.run(session).await,
            Verb::Diff(verb) => verb.run(session).await,
            Verb::Uses(verb) => verb.run(session).await,
            Verb::Set(verb) => verb.run(session).await,
            Verb::Rollback(verb) => verb.run(session).await,
            Verb::Delete(verb) => verb.run(session).await,
            Verb::Edit(verb) => verb.run(session).await,
            Verb::Export(verb) => verb.run(session).await,
            Verb::Import(verb) => verb.run(session).await,
        }
    }
}

/// Who changes something, and why: it stands in the document's history.
#[derive(Clone, Debug, Args)]
struct Author {
    /// Why.
    #[arg(long, default_value = "")]
    note: String,
    /// Who.
    #[arg(long, env = "COORD_AUTHOR", default_value_t = user())]
    author: String,
}

impl Author {
    fn note(&self) -> Note {
        Note::new(&self.author, &self.note)
    }
}

fn user() -> String {
    ["USER", "LOGNAME", "USERNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()))
        .unwrap_or_else(|| "somebody".to_owned())
}

/// Reads a version.
fn version(text: &str) -> Result<Version, std::num::ParseIntError> {
    text.parse::<u64>().map(Version::new)
}
