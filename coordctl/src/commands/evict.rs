//! Ends what has to be ended by hand.

use clap::{Args, Subcommand};
use coord::{FencingToken, LeaseId};

use super::Session;
use crate::error::Failure;
use crate::show::plain;

/// End a session, a leadership, a permit, an instance or an instance id.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Do it without asking.
    #[arg(long, global = true)]
    yes: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// All that hangs on a session goes: its locks, instances, ids.
    Session {
        /// The session, as `coordctl sessions` shows it.
        session: LeaseId,
    },
    /// Who leads, or runs, does not any more.
    Leader {
        /// The election.
        name: String,
        /// The token, as `coordctl elections NAME` shows it.
        #[arg(long)]
        token: u64,
    },
    /// Who has permits, or wants some, has none.
    Permit {
        /// The semaphore.
        name: String,
        /// The token, as `coordctl semaphores NAME` shows it.
        #[arg(long)]
        token: u64,
    },
    /// An instance leaves the registry; one that is alive registers anew.
    Instance {
        /// The service.
        service: String,
        /// The instance's id.
        id: String,
    },
    /// An instance id is free.
    Id {
        /// The service.
        service: String,
        /// The number.
        id: u32,
    },
}

impl What {
    /// What is ended, and the word that is asked for.
    fn told(&self) -> (String, String) {
        match self {
            What::Session { session } => (format!("the session {session}"), session.to_string()),
            What::Leader { name, token } => {
                (format!("{token} in the election {}", plain(name)), token.to_string())
            }
            What::Permit { name, token } => {
                (format!("{token} in the semaphore {}", plain(name)), token.to_string())
            }
            What::Instance { service, id } => {
                (format!("the instance {} of {}", plain(id), plain(service)), id.clone())
            }
            What::Id { service, id } => {
                (format!("the instance id {id} of {}", plain(service)), id.to_string())
            }
        }
    }
}

impl Arguments {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let (told, word) = self.what.told();
        let hangs = match &self.what {
            What::Session { session: id } => {
                let found = session.ask(session.coord.inspect().session(*id)).await?;
                found.map(|found| format!(", and {} keys with it", found.keys.len()))
            }
            _ => None,
        };
        session.ask_twice(&format!("End {told}{}?", hangs.unwrap_or_default()), &word, self.yes)?;
        let inspect = session.coord.inspect();
        let there = match &self.what {
            What::Session { session: id } => session.ask(inspect.end_session(*id)).await?,
            What::Leader { name, token } => {
                session.ask(inspect.end_leadership(name, FencingToken::new(*token))).await?
            }
            What::Permit { name, token } => {
                session.ask(inspect.end_permit(name, FencingToken::new(*token))).await?
            }
            What::Instance { service, id } => session.ask(inspect.remove_instance(service, id)).await?,
            What::Id { service, id } => session.ask(inspect.end_id(service, *id)).await?,
        };
        if !there {
            return Err(Failure::NotFound(format!("{told} is not there")));
        }
        session.terminal.print(&format!("ended {told}\n"));
        Ok(())
    }
}
