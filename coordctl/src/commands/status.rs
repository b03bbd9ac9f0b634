//! Which store it is, whether it answers, and how the members of its cluster are.

use std::time::Instant;

use clap::Args;
use coord::prelude::*;
use coord::store::Store as _;
use serde::Serialize;

use super::Session;
use super::members::Members;
use crate::error::Failure;
use crate::show::Table;

/// Which store it is, whether it answers, and how the members of its cluster are.
#[derive(Debug, Args)]
pub(crate) struct Arguments {}

/// What is known of a store.
#[derive(Serialize)]
struct Status {
    store_id: String,
    version: String,
    /// Milliseconds that a linearizable read took: the median of five.
    round_trip_ms: f64,
    sessions: usize,
    locks: usize,
    elections: usize,
    services: usize,
    instances: usize,
    /// Of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<Members>,
}

impl Arguments {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let tables = |status: &Status| {
            [Some(status.table()), status.cluster.as_ref().map(Members::table)]
                .into_iter()
                .flatten()
                .collect()
        };
        session.show(Status::of, tables).await
    }
}

impl Status {
    async fn of(session: &Session<'_>) -> Result<Self, Failure> {
        let store = session.ask(session.coord.core().store().status()).await?;
        let round_trip_ms = round_trip(session).await?;
        let inspect = session.coord.inspect();
        let services = session.ask(inspect.services()).await?;
        let held = |queues: Vec<coord::inspect::QueueView>| {
            queues.iter().filter(|queue| !queue.holders.is_empty()).count()
        };
        Ok(Status {
            store_id: store.store_id,
            version: store.version,
            round_trip_ms,
            sessions: session.ask(inspect.sessions()).await?.len(),
            locks: held(session.ask(inspect.locks()).await?),
            elections: held(session.ask(inspect.elections()).await?),
            services: services.len(),
            instances: services.iter().map(|service| service.instances).sum(),
            cluster: Members::of(session).await,
        })
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["STORE", ""], "");
        table.row(["identity".to_owned(), self.store_id.clone()]);
        table.row(["version".to_owned(), self.version.clone()]);
        table.row(["round trip".to_owned(), format!("{:.1} ms", self.round_trip_ms)]);
        for (what, count) in [
            ("sessions", self.sessions),
            ("locks held", self.locks),
            ("leaders", self.elections),
            ("services", self.services),
            ("instances", self.instances),
        ] {
            table.row([what.to_owned(), count.to_string()]);
        }
        table
    }
}

/// Milliseconds that a linearizable read takes: the median of five.
pub(super) async fn round_trip(session: &Session<'_>) -> Result<f64, Failure> {
    let mut times = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        session.ask(session.coord.config().get_raw("coordctl/round-trip")).await?;
        times.push(began.elapsed().as_secs_f64() * 1_000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok(times.get(2).copied().unwrap_or_default())
}
