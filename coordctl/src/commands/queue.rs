//! What locks, elections and semaphores have in common.

use coord::inspect::{Entered, QueueView, StandingMode, StandingView};
use serde::Serialize;

use super::{Remaining, Session, host_and_pid};
use crate::error::Failure;
use crate::show::{Table, or_dash};
use crate::time;

/// Queues, and how long the sessions live that stand in them.
#[derive(Serialize)]
pub(super) struct Queues {
    pub(super) queues: Vec<QueueView>,
    pub(super) remaining_seconds: Remaining,
}

impl Queues {
    pub(super) async fn of(session: &Session<'_>, queues: Vec<QueueView>) -> Result<Self, Failure> {
        let standing = queues.iter().flat_map(|queue| queue.holders.iter().chain(&queue.waiters));
        let remaining_seconds = session.remaining(standing.map(|standing| standing.session)).await?;
        Ok(Queues { queues, remaining_seconds })
    }

    /// Who has a turn in each, and how many wait.
    pub(super) fn all(&self, columns: &'static [&'static str], nothing: &str) -> Vec<Table> {
        let mut table = Table::new(columns, nothing);
        for queue in &self.queues {
            let waiters = queue.waiters.len().to_string();
            if queue.holders.is_empty() {
                let permits = queue.permits.map(|permits| format!("0/{permits}"));
                let nobody = ["-"; 6].map(str::to_owned);
                let cells = [queue.name.clone(), "-".to_owned(), or_dash(permits)].into_iter();
                table.row(cells.chain(nobody).chain([waiters.clone()]));
            }
            for holder in &queue.holders {
                let cells = [queue.name.clone()].into_iter().chain(self.standing(queue, holder));
                table.row(cells.chain([waiters.clone()]));
            }
        }
        vec![table]
    }

    /// Everybody in one of them, in order.
    pub(super) fn one(&self, columns: &'static [&'static str]) -> Vec<Table> {
        let mut table = Table::new(columns, "nobody");
        for queue in &self.queues {
            for (place, standing) in [("holds", &queue.holders), ("waits", &queue.waiters)] {
                for (at, standing) in standing.iter().enumerate() {
                    let place = match place {
                        "waits" => format!("{}. waits", at + 1),
                        place => place.to_owned(),
                    };
                    table.row([place].into_iter().chain(self.standing(queue, standing)));
                }
            }
        }
        vec![table]
    }

    fn standing(&self, queue: &QueueView, standing: &StandingView) -> impl Iterator<Item = String> + use<> {
        let how = match &standing.entered {
            Entered::Lock { mode } => match mode {
                StandingMode::Exclusive => "exclusive".to_owned(),
                StandingMode::Shared => "shared".to_owned(),
                StandingMode::Downgraded => "downgraded".to_owned(),
                _ => "-".to_owned(),
            },
            Entered::Semaphore { permits } => format!("{permits}/{}", or_dash(queue.permits)),
            Entered::Election { value } => value.clone(),
            _ => "-".to_owned(),
        };
        let owner = or_dash(standing.owner.as_deref());
        let since = or_dash(standing.since_ms.map(time::ago));
        let ids = [standing.token.to_string(), or_dash(standing.session)];
        let left = self.remaining_seconds.of(standing.session);
        let process = host_and_pid(standing.process.as_ref());
        [owner, how].into_iter().chain(ids).chain(process).chain([since, left])
    }
}

/// One queue by its name, or why there is none.
pub(super) fn found(what: &str, name: &str, queue: Option<QueueView>) -> Result<Vec<QueueView>, Failure> {
    let nothing = || Failure::NotFound(format!("nobody holds or wants the {what} {name}"));
    queue.map(|queue| vec![queue]).ok_or_else(nothing)
}
