//! Which processes have sessions, and what hangs on one.

use clap::Args;
use coord::LeaseId;
use coord::inspect::SessionView;

use super::{Session, host_and_pid, started};
use crate::error::Failure;
use crate::show::{Table, or_dash};
use crate::time;

/// Which processes have sessions, or what hangs on one.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The id of a session: all that hangs on it is shown.
    session: Option<LeaseId>,
}

impl Arguments {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let inspect = session.coord.inspect();
        let Some(id) = self.session else {
            let look = async |session: &Session<'_>| session.ask(inspect.sessions()).await;
            return session.show(look, |found| vec![all(found)]).await;
        };
        let look = async |session: &Session<'_>| {
            let found = session.ask(inspect.session(id)).await?;
            found.ok_or_else(|| Failure::NotFound(format!("the session {id} is over, or never was")))
        };
        session.show(look, |found| vec![all(std::slice::from_ref(found)), keys(found)]).await
    }
}

fn all(sessions: &[SessionView]) -> Table {
    const COLUMNS: &[&str] = &["SESSION", "NAME", "HOST", "PID", "STARTED", "VERSION", "KEYS", "TTL LEFT"];
    let mut table = Table::new(COLUMNS, "nobody has a session");
    for view in sessions {
        let process = view.process.as_ref();
        let name = [view.session.to_string(), or_dash(process.map(|process| process.name.as_str()))];
        let version = process.map(|process| process.version.as_str()).filter(|version| !version.is_empty());
        let left = or_dash(view.remaining.map(time::short));
        let rest = [started(process), or_dash(version), view.keys.len().to_string(), left];
        table.row(name.into_iter().chain(host_and_pid(process)).chain(rest));
    }
    table
}

fn keys(session: &SessionView) -> Table {
    let mut table = Table::new(&["KEY"], "nothing hangs on it");
    session.keys.iter().for_each(|key| table.row([key.clone()]));
    table
}
