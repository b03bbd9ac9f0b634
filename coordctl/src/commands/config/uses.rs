//! Which versions of the configuration processes have in use.

use clap::Args;
use coord::{LeaseId, SessionOwner, Version};
use serde::Serialize;

use super::super::{Session, host_and_pid};
use crate::error::Failure;
use crate::show::{Table, or_dash};
use crate::time;

/// Which versions processes have in use, as far as they say so; those of others than the present
/// one are marked.
#[derive(Debug, Args)]
pub(super) struct Uses {
    /// Of this document; of all of them by default.
    key: Option<String>,
}

#[derive(Serialize)]
struct Use {
    key: String,
    version: Version,
    /// The version in the store; zero where the document is not there.
    present: Version,
    since_ms: u64,
    owner: String,
    session: Option<LeaseId>,
    process: Option<SessionOwner>,
}

impl Uses {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let look = async |session: &Session<'_>| {
            let inspect = session.coord.inspect();
            let uses = session.ask(inspect.versions_in_use()).await?;
            // Read after what is in use, so that nobody is ahead of it.
            let present = session.ask(inspect.config_keys()).await?;
            let at = |key: &str| present.iter().find(|document| document.key == key);
            let mut found = Vec::new();
            for process in uses {
                for (key, in_use) in process.versions {
                    if self.key.as_ref().is_some_and(|wanted| *wanted != key) {
                        continue;
                    }
                    found.push(Use {
                        present: at(&key).map_or(Version::ZERO, |document| document.version),
                        key,
                        version: in_use.version,
                        since_ms: in_use.since_ms,
                        owner: process.owner.clone(),
                        session: process.session,
                        process: process.process.clone(),
                    });
                }
            }
            found.sort_by(|one, other| (&one.key, one.version).cmp(&(&other.key, other.version)));
            Ok(found)
        };
        session.show(look, |found| vec![table(found)]).await
    }
}

fn table(found: &[Use]) -> Table {
    const COLUMNS: &[&str] = &["KEY", "IN USE", "", "NAME", "HOST", "PID", "SINCE", "SESSION"];
    let mut table = Table::new(COLUMNS, "nobody says which version is in use");
    for one in found {
        let [host, pid] = host_and_pid(one.process.as_ref());
        let behind = match one.version == one.present {
            true => String::new(),
            false => format!("not {}", one.present),
        };
        table.row([
            one.key.clone(),
            one.version.to_string(),
            behind,
            one.owner.clone(),
            host,
            pid,
            time::ago(one.since_ms),
            or_dash(one.session),
        ]);
    }
    table
}
