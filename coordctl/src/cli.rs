//! The arguments.

use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use coord::{Coord, Source};

use crate::commands;
use crate::dev;
use crate::error::Failure;
use crate::show::ShowArguments;
use crate::terminal::Terminal;

/// One command for each question about a store of coord.
#[derive(Debug, Parser)]
#[command(name = "coordctl", version, max_term_width = 100)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) store: StoreArguments,
    #[command(flatten)]
    pub(crate) show: ShowArguments,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong arguments or documents, 3 no such thing, \
    4 the store does not answer, 5 changed meanwhile, 6 not allowed, 7 doctor has found something.";

/// Which store.
#[derive(Debug, Args)]
pub(crate) struct StoreArguments {
    /// The store: etcd://host:2379, etcds://…, sled:///directory. A password belongs into
    /// COORD_ETCD_PASSWORD, or into the file that `password_file` names.
    #[arg(
        long,
        env = "COORD_URL",
        default_value = "etcd://localhost:2379",
        global = true,
        hide_env_values = true
    )]
    pub(crate) url: String,
    /// How long one question may take.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s", global = true)]
    pub(crate) timeout: Duration,
}

impl StoreArguments {
    /// Opens it; with `is_ill` also one that does not answer.
    pub(crate) async fn open(&self, is_ill: bool) -> Result<Coord, Failure> {
        let open = async {
            let source = Source::open(&self.url).await?;
            if is_ill { source.client_lazy() } else { source.client().await }
        };
        let opening = tokio::time::timeout(self.timeout, open).await;
        Ok(opening.map_err(|_| {
            coord::Error::new(coord::ErrorKind::Timeout, "coord.open", "the store does not answer")
        })??)
    }
}

/// What is asked, or done.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    #[command(flatten)]
    OnStore(commands::Verb),
    /// An etcd for a laptop, without anything to install.
    Dev(dev::Arguments),
    /// The completion of a shell, to be sourced by it.
    Completion {
        /// The shell.
        shell: Shell,
    },
    /// The manual page, as roff: coordctl man | man -l -
    Man,
}

/// The completion of a shell.
pub(crate) fn completion(shell: Shell, terminal: &mut Terminal) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "coordctl", &mut script);
    terminal.print(&String::from_utf8_lossy(&script));
}

/// The manual page.
pub(crate) fn man(terminal: &mut Terminal) -> Result<(), Failure> {
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
    rendered.map_err(|error| Failure::Io("the manual page".to_owned(), error))?;
    terminal.print(&String::from_utf8_lossy(&page));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_no_contradiction() {
        Cli::command().debug_assert();
    }
}
