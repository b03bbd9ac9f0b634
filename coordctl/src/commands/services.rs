//! Which services there are, and the instances of one.

use clap::Args;
use coord::inspect::InstanceView;
use serde::Serialize;

use super::{Remaining, Session, host_and_pid, started};
use crate::error::Failure;
use crate::show::{Table, or_dash};

/// Which services there are, or the instances of one.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The name of a service: its instances are shown.
    name: Option<String>,
}

#[derive(Serialize)]
struct Instances {
    instances: Vec<InstanceView>,
    remaining_seconds: Remaining,
}

impl Arguments {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let inspect = session.coord.inspect();
        let Some(name) = self.name else {
            let look = async |session: &Session<'_>| session.ask(inspect.services()).await;
            let table = |services: &Vec<coord::inspect::ServiceView>| {
                let mut table = Table::new(&["SERVICE", "INSTANCES", "INVALID"], "no instance is registered");
                for service in services {
                    let counts = [service.instances.to_string(), service.invalid.to_string()];
                    table.row([service.name.clone()].into_iter().chain(counts));
                }
                vec![table]
            };
            return session.show(look, table).await;
        };
        let look = async |session: &Session<'_>| {
            let instances = session.ask(inspect.instances(&name)).await?;
            let sessions = instances.iter().map(|instance| instance.session);
            let remaining_seconds = session.remaining(sessions).await?;
            Ok(Instances { instances, remaining_seconds })
        };
        session.show(look, |found| vec![found.table(&name)]).await
    }
}

impl Instances {
    fn table(&self, name: &str) -> Table {
        const COLUMNS: &[&str] =
            &["ID", "ADDRESS", "METADATA", "SESSION", "HOST", "PID", "STARTED", "TTL LEFT"];
        let mut table = Table::new(COLUMNS, format!("no instance of {name} is registered"));
        for view in &self.instances {
            let instance = &view.instance;
            let metadata: Vec<String> =
                instance.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let place = [instance.id.clone(), format!("{}:{}", instance.address, instance.port)];
            let metadata = Some(metadata.join(" ")).filter(|metadata| !metadata.is_empty());
            let process = host_and_pid(view.process.as_ref());
            let age = [started(view.process.as_ref()), self.remaining_seconds.of(view.session)];
            let session = [or_dash(metadata), or_dash(view.session)];
            table.row(place.into_iter().chain(session).chain(process).chain(age));
        }
        table
    }
}
