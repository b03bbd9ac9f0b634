//! Takes a lock from who holds it.

use clap::Args;
use coord::FencingToken;

use super::Session;
use crate::error::Failure;
use crate::show::plain;

/// Take a lock from who holds it, or one who waits out of its queue, by name and token.
#[derive(Debug, Args)]
#[command(
    after_help = "The holder hears of it with its next renewal; whoever is next has the lock at once. What the old \
                        holder does until it hears of it is kept out only where its token is looked at. Never the \
                        successor's lock is taken: the token names one grant."
)]
pub(crate) struct Arguments {
    /// The lock.
    name: String,
    /// The token, as `coordctl locks NAME` shows it.
    #[arg(long)]
    token: u64,
    /// Do it without asking.
    #[arg(long)]
    yes: bool,
}

impl Arguments {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let Arguments { name, token, yes } = self;
        let gone = || {
            let look = format!("`coordctl locks {name}` shows who does");
            Failure::NotFound(format!("nobody holds or wants the lock {name} by the token {token}; {look}"))
        };
        let inspect = session.coord.inspect();
        let lock = session.ask(inspect.lock(&name)).await?.ok_or_else(gone)?;
        let standing = lock.holders.iter().chain(&lock.waiters);
        let who = standing.clone().find(|standing| standing.token.get() == token).ok_or_else(gone)?;
        let holds = lock.holders.iter().any(|holder| holder.token == who.token);
        let owner = plain(who.owner.as_deref().unwrap_or("somebody without a name"));
        let what = match holds {
            true => format!("Take the lock {} from {owner}, who holds it?", plain(&name)),
            false => format!("Take {owner} out of the queue of the lock {}?", plain(&name)),
        };
        session.ask_twice(&what, &token.to_string(), yes)?;
        if !session.ask(inspect.break_lock(&name, FencingToken::new(token))).await? {
            return Err(gone());
        }
        let next = match holds {
            true => session.ask(inspect.lock(&name)).await?.and_then(|lock| lock.holders.into_iter().next()),
            false => None,
        };
        let next = next.map(|next| {
            let owner = plain(next.owner.as_deref().unwrap_or("somebody without a name"));
            format!("; {owner} holds it now, by the token {}", next.token)
        });
        session.terminal.print(&format!("taken from {owner}{}\n", next.unwrap_or_default()));
        Ok(())
    }
}
