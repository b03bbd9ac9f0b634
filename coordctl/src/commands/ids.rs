//! Which instance ids are taken.

use std::collections::BTreeMap;

use clap::Args;
use coord::inspect::IdView;
use serde::Serialize;

use super::{Remaining, Session, host_and_pid};
use crate::error::Failure;
use crate::show::{Table, or_dash};
use crate::time;

/// Which instance ids are taken.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The name of a service: its ids are shown, with who has them.
    service: Option<String>,
}

#[derive(Serialize)]
struct Ids {
    ids: Vec<IdView>,
    remaining_seconds: Remaining,
}

impl Arguments {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let inspect = session.coord.inspect();
        let Some(service) = self.service else {
            let look = async |session: &Session<'_>| session.ask(inspect.id_counts()).await;
            let table = |counts: &BTreeMap<String, usize>| {
                let mut table = Table::new(&["SERVICE", "IDS"], "no instance id is taken");
                counts.iter().for_each(|(service, count)| table.row([service.clone(), count.to_string()]));
                vec![table]
            };
            return session.show(look, table).await;
        };
        let look = async |session: &Session<'_>| {
            let ids = session.ask(inspect.ids(&service)).await?;
            let remaining_seconds = session.remaining(ids.iter().map(|id| id.session)).await?;
            Ok(Ids { ids, remaining_seconds })
        };
        session.show(look, |found| vec![found.table(&service)]).await
    }
}

impl Ids {
    fn table(&self, service: &str) -> Table {
        const COLUMNS: &[&str] =
            &["ID", "OWNER", "GENERATION", "SESSION", "HOST", "PID", "SINCE", "TTL LEFT"];
        let mut table = Table::new(COLUMNS, format!("no instance id of {service} is taken"));
        for id in &self.ids {
            let owner = [id.id.to_string(), or_dash(id.owner.as_deref()), id.token.to_string()];
            let process = host_and_pid(id.process.as_ref());
            let age = [or_dash(id.since_ms.map(time::ago)), self.remaining_seconds.of(id.session)];
            table.row(owner.into_iter().chain([or_dash(id.session)]).chain(process).chain(age));
        }
        table
    }
}
