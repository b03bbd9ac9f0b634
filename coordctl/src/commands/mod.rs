//! The verbs, a file each.

mod bench;
mod break_lock;
mod certificates;
mod config;
mod doctor;
mod elections;
mod events;
mod evict;
mod ids;
mod locks;
mod members;
mod queue;
mod semaphores;
mod services;
mod sessions;
mod status;
mod ui;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Subcommand;
use coord::{Coord, LeaseId, SessionOwner};
use serde::Serialize;

use crate::error::Failure;
use crate::show::{ShowArguments, Table, or_dash, render};
use crate::terminal::Terminal;
use crate::time;

/// What is asked of a store, or done to it.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Status(status::Arguments),
    Doctor(doctor::Arguments),
    Locks(locks::Arguments),
    Elections(elections::Arguments),
    Semaphores(semaphores::Arguments),
    Services(services::Arguments),
    Ids(ids::Arguments),
    Sessions(sessions::Arguments),
    Config(config::Arguments),
    Events(events::Arguments),
    Bench(bench::Arguments),
    BreakLock(break_lock::Arguments),
    Evict(evict::Arguments),
    Ui(ui::Arguments),
}

impl Verb {
    /// Whether it says what is wrong with a store that does not answer.
    pub(crate) fn is_for_the_ill(&self) -> bool {
        matches!(self, Verb::Doctor(_))
    }
}

/// What a verb works with.
pub(crate) struct Session<'a> {
    pub(crate) coord: Coord,
    pub(crate) terminal: &'a mut Terminal,
    pub(crate) show: ShowArguments,
    /// How long one question may take.
    pub(crate) time: Duration,
}

pub(crate) async fn run(verb: Verb, session: &mut Session<'_>) -> Result<(), Failure> {
    match verb {
        Verb::Status(arguments) => arguments.run(session).await,
        Verb::Doctor(arguments) => arguments.run(session).await,
        Verb::Locks(arguments) => arguments.run(session).await,
        Verb::Elections(arguments) => arguments.run(session).await,
        Verb::Semaphores(arguments) => arguments.run(session).await,
        Verb::Services(arguments) => arguments.run(session).await,
        Verb::Ids(arguments) => arguments.run(session).await,
        Verb::Sessions(arguments) => arguments.run(session).await,
        Verb::Config(arguments) => arguments.run(session).await,
        Verb::Events(arguments) => arguments.run(session).await,
        Verb::Bench(arguments) => arguments.run(session).await,
        Verb::BreakLock(arguments) => arguments.run(session).await,
        Verb::Evict(arguments) => arguments.run(session).await,
        Verb::Ui(arguments) => arguments.run(session).await,
    }
}

impl Session<'_> {
    /// Asks the store, for as long as a question may take.
    pub(crate) async fn ask<T>(
        &self,
        question: impl Future<Output = coord::Result<T>>,
    ) -> Result<T, Failure> {
        let late = || coord::Error::new(coord::ErrorKind::Timeout, "coordctl", "the store does not answer");
        Ok(tokio::time::timeout(self.time, question).await.map_err(|_| late())??)
    }

    /// Shows what `look` finds; again and again where that was asked for, until Ctrl-C.
    pub(crate) async fn show<T: Serialize>(
        &mut self,
        mut look: impl AsyncFnMut(&Self) -> Result<T, Failure>,
        table: impl Fn(&T) -> Vec<Table>,
    ) -> Result<(), Failure> {
        let mut before = String::new();
        loop {
            let found = look(self).await?;
            let text = render(self.show.output, &found, || table(&found))?;
            let Some(every) = self.show.watch else {
                self.terminal.print(&text);
                return Ok(());
            };
            if text != before {
                // Where nobody sits, each state is written behind the one before.
                let clear = if self.terminal.is_interactive() { "\u{1b}[2J\u{1b}[H" } else { "" };
                self.terminal.print(&format!("{clear}{text}"));
                before = text;
            }
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(()),
                () = tokio::time::sleep(every) => {}
            }
        }
    }

    /// Asks whether, unless `yes`.
    pub(crate) fn ask_once(&mut self, what: &str, yes: bool) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        let answer = self.terminal.ask(&format!("{what} [y/N] "))?.ok_or_else(unasked)?;
        if matches!(answer.as_str(), "y" | "Y" | "yes") { Ok(()) } else { Err(Failure::Declined) }
    }

    /// Asks twice, unless `yes`: whether, and for a word that shows that it is meant.
    pub(crate) fn ask_twice(&mut self, what: &str, word: &str, yes: bool) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        self.ask_once(what, yes)?;
        let answer = self.terminal.ask(&format!("type {word} to do it: "))?.ok_or_else(unasked)?;
        if answer == word { Ok(()) } else { Err(Failure::Declined) }
    }

    /// How long sessions live unless they are renewed.
    pub(crate) async fn remaining(
        &self,
        sessions: impl IntoIterator<Item = Option<LeaseId>>,
    ) -> Result<Remaining, Failure> {
        let asked: std::collections::BTreeSet<LeaseId> = sessions.into_iter().flatten().collect();
        let found = self.ask(self.coord.inspect().remaining(asked)).await?;
        Ok(Remaining(found.into_iter().map(|(session, time)| (session, time.as_secs())).collect()))
    }
}

fn unasked() -> Failure {
    Failure::Usage("there is nobody to ask; --yes does it without".to_owned())
}

/// How many seconds sessions live unless they are renewed.
#[derive(Debug, Serialize)]
pub(crate) struct Remaining(BTreeMap<LeaseId, u64>);

impl Remaining {
    pub(crate) fn of(&self, session: Option<LeaseId>) -> String {
        let seconds = session.and_then(|session| self.0.get(&session));
        or_dash(seconds.map(|seconds| time::short(Duration::from_secs(*seconds))))
    }
}

/// Host and process of a session.
pub(crate) fn host_and_pid(process: Option<&SessionOwner>) -> [String; 2] {
    let host = process.map(|process| process.host.as_str()).filter(|host| !host.is_empty());
    let pid = process.map(|process| process.pid).filter(|pid| *pid > 0);
    [or_dash(host), or_dash(pid)]
}

/// When a process was started, as how long ago.
pub(crate) fn started(process: Option<&SessionOwner>) -> String {
    or_dash(process.filter(|process| process.started_ms > 0).map(|process| time::ago(process.started_ms)))
}
