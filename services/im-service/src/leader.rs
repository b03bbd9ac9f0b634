//! What one of all instances does: it publishes what a crash left unpublished, and removes what is
//! too old.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use coord::{CampaignOptions, Coord, ErrorKind, run_while_held};
use coord_service::health::State;
use coord_service::shutdown::Phase;
use coord_service::{App, metrics};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::SERVICE;
use crate::messages::Row;
use crate::service::Service;

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many messages it publishes at a time.
const AT_A_TIME: i64 = 500;

/// How long a leader that died is waited for.
const TTL: Duration = Duration::from_secs(5);

/// The pause before it runs for leader again.
const AGAIN: Duration = Duration::from_secs(1);

/// What the leader is configured with: the document of the component `leader`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeaderConfig {
    /// How many messages of a room are kept, at least 1. 100,000 by default.
    pub keep_per_room: i64,
}

impl Default for LeaderConfig {
    fn default() -> Self {
        LeaderConfig { keep_per_room: 100_000 }
    }
}

impl LeaderConfig {
    fn check(&self) -> Result<(), String> {
        match self.keep_per_room >= 1 {
            true => Ok(()),
            false => Err(format!("keep_per_room: at least 1, and it is {}", self.keep_per_room)),
        }
    }
}

/// Has this instance run for leader until the service ends.
///
/// # Errors
///
/// Where the service's name is no part of a key.
pub async fn start(app: &App, service: Arc<Service>, instance: &str) -> coord::Result<()> {
    let setting = app.config("leader");
    let config = setting.follow(LeaderConfig::check).await?;
    let reporter = app.health().register("leader", false);
    let (coord, instance) = (app.coord().clone(), instance.to_owned());
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let keep = || config.current().keep_per_room;
        let lead = async {
            reporter.set(State::Ready);
            loop {
                let ended = term(&coord, &instance, &service, &keep).await;
                reporter.set(match ended {
                    Err(error) if error.kind() != ErrorKind::LeaseLost => {
                        State::Degraded(format!("nobody may lead: {error}"))
                    }
                    _ => State::Ready,
                });
                sleep(AGAIN).await;
            }
        };
        stopped.run_until_cancelled(lead).await;
    });
    // The leadership goes back while the store is there.
    app.shutdown().on(Phase::Leases, "leader", async move {
        stop.cancel();
        let _ = task.await;
    });
    Ok(())
}

/// A time as leader, until that is lost.
async fn term(
    coord: &Coord,
    instance: &str,
    service: &Service,
    keep: &(impl Fn() -> i64 + Sync),
) -> coord::Result<Infallible> {
    let election = coord.election(SERVICE);
    let leadership = election.campaign(instance.to_owned(), CampaignOptions::default().with_ttl(TTL)).await?;
    tracing::info!(instance, "leads");
    metrics::gauge("im_leads", 1.0, &[]);
    let _told = Told;
    run_while_held(&leadership, work(service, keep)).await
}

/// Says that it leads no more, however that ends.
struct Told;

impl Drop for Told {
    fn drop(&mut self) {
        metrics::gauge("im_leads", 0.0, &[]);
        tracing::info!("leads no more");
    }
}

async fn work(service: &Service, keep: &impl Fn() -> i64) -> Infallible {
    // What is unpublished may be on its way. What is so at a second look is not.
    let mut before = BTreeSet::new();
    loop {
        match service.messages.unpublished(AT_A_TIME).await {
            Ok(rows) => {
                let left = rows.iter().map(|row| row.id).collect();
                publish(service, rows.into_iter().filter(|row| before.contains(&row.id))).await;
                before = left;
            }
            Err(error) => tracing::warn!(%error, "it is not known what is unpublished"),
        }
        match service.messages.trim(keep().max(1)).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "old messages were removed"),
            Err(error) => tracing::warn!(%error, "old messages were not removed"),
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn publish(service: &Service, rows: impl Iterator<Item = Row>) {
    for row in rows {
        match service.tell(&row).await {
            Ok(()) => {
                metrics::inc("im_told_by_leader_total", &[]);
                tracing::info!(id = row.id, "published what had been left");
            }
            Err(error) => {
                tracing::warn!(id = row.id, %error, "still not published");
                return;
            }
        }
    }
}
