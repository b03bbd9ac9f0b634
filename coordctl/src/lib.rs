#![doc = include_str!("../README.md")]

mod cli;
mod commands;
mod dev;
mod error;
mod show;
mod stop;
mod terminal;
mod time;
#[doc = include_str!("../TRANSCRIPTS.md")]
pub mod transcripts {}

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind as ClapKind;
use coord::{Coord, Provider as _};

pub use error::{Failure, exit};
pub use terminal::Terminal;

use cli::{Cli, Verb};
use commands::Session;

/// The program: what its arguments say, on the terminal of the process.
pub async fn main() -> ExitCode {
    let mut terminal = Terminal::of_process();
    ExitCode::from(run(std::env::args_os(), None, &mut terminal).await)
}

/// Does what the arguments say, and says how it ended: one of [`exit`].
///
/// With `coord` it looks into that store, whatever the arguments name: for tests, and for programs
/// that have one open.
///
/// # Cancel safety
///
/// A dropped call may have changed what its verb changes.
pub async fn run(
    arguments: impl IntoIterator<Item = OsString>,
    coord: Option<Coord>,
    terminal: &mut Terminal,
) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let is_help = matches!(error.kind(), ClapKind::DisplayHelp | ClapKind::DisplayVersion);
            if is_help {
                terminal.print(&error.render().to_string());
                return exit::OK;
            }
            terminal.complain(&error.render().to_string());
            return exit::USAGE;
        }
    };
    match dispatch(cli, coord, terminal).await {
        Ok(()) => exit::OK,
        Err(failure) => {
            terminal.complain(&format!("coordctl: {failure}\n"));
            failure.exit_code()
        }
    }
}

async fn dispatch(cli: Cli, coord: Option<Coord>, terminal: &mut Terminal) -> Result<(), Failure> {
    let Cli { store, show, verb } = cli;
    let verb = match verb {
        Verb::OnStore(verb) => verb,
        Verb::Completion { shell } => {
            cli::completion(shell, terminal);
            return Ok(());
        }
        Verb::Dev(arguments) => return arguments.run(terminal).await,
        Verb::Man => return cli::man(terminal),
    };
    let given = coord.is_some();
    let coord = match coord {
        Some(coord) => coord,
        None => store.open(verb.is_for_the_ill()).await?,
    };
    let mut session = Session { coord: coord.clone(), terminal, show, time: store.timeout };
    let done = commands::run(verb, &mut session).await;
    // What it read is shown, whatever becomes of the connection.
    if !given {
        let _ = tokio::time::timeout(store.timeout, coord.close()).await;
    }
    done
}
