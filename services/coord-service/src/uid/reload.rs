//! A generator as a part of a service.

use std::ops::RangeInclusive;
use std::time::Duration;

use async_trait::async_trait;
use coord::{Coord, Error, Result};
use serde::{Deserialize, Serialize};

use super::{MAX_WORKER, Uid};
use crate::live::{Change, Reload};

/// What a generator of a service is configured with: the document of the component `uid`.
///
/// ```
/// # use coord_service::uid::UidConfig;
/// let config: UidConfig = serde_json::from_str(r#"{"first_worker": 0, "last_worker": 511}"#).unwrap();
/// config.check().unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct UidConfig {
    /// The least number of a worker. 0 by default.
    pub first_worker: u32,
    /// The greatest number of a worker, 1,023 at most, and by default.
    pub last_worker: u32,
    /// The TTL of the number, in seconds: how long ids go on without the store. 30 by default.
    pub ttl_s: u64,
}

impl Default for UidConfig {
    fn default() -> Self {
        UidConfig { first_worker: 0, last_worker: MAX_WORKER, ttl_s: 30 }
    }
}

impl UidConfig {
    /// Whether every field has a value that it can have.
    ///
    /// # Errors
    ///
    /// What is wrong, and the field.
    pub fn check(&self) -> Result<(), String> {
        if self.last_worker > MAX_WORKER {
            return Err(format!("last_worker: it must be {MAX_WORKER} at most, and is {}", self.last_worker));
        }
        if self.first_worker > self.last_worker {
            return Err(format!("first_worker: it must be last_worker ({}) at most", self.last_worker));
        }
        match self.ttl_s {
            1..=86_400 => Ok(()),
            ttl => Err(format!("ttl_s: it must be 1 to 86400, and is {ttl}")),
        }
    }

    fn workers(&self) -> RangeInclusive<u32> {
        self.first_worker..=self.last_worker
    }
}

/// Makes the generator of a service, also where the store is away at the start, and gives its
/// number back at the end: a part for [`LiveComponent`](crate::LiveComponent), to be closed in
/// [`Phase::Leases`](crate::shutdown::Phase::Leases).
///
/// ```
/// use coord_service::shutdown::Phase;
/// use coord_service::uid::UidReload;
/// use coord_service::{Boot, LiveComponent, OnUnreachable};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord::Result<()> {
/// # let boot = Boot::bare("im-logic");
/// # let coord = boot.connect("memory://", OnUnreachable::Fail).await?;
/// # let app = boot.upgrade(&coord).await?;
/// let reload = UidReload::new(app.coord(), app.service());
/// let ids = app.add(LiveComponent::new(app.config("uid"), reload).with_phase(Phase::Leases)).await?;
/// assert!(ids.current()?.next()? < ids.current()?.next()?);
/// # app.end().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct UidReload {
    coord: Coord,
    service: String,
}

impl UidReload {
    /// For the ids of `service`.
    pub fn new(coord: &Coord, service: &str) -> Self {
        UidReload { coord: coord.clone(), service: service.to_owned() }
    }
}

#[async_trait]
impl Reload for UidReload {
    type Config = UidConfig;
    type Client = Uid;

    fn check(&self, config: &UidConfig) -> Result<(), String> {
        config.check()
    }

    /// A process has numbers of one range, and keeps what it has.
    fn plan(&self, old: &UidConfig, new: &UidConfig) -> Change {
        match (old.workers() == new.workers(), old.ttl_s == new.ttl_s) {
            (true, true) => Change::Same,
            (false, _) => Change::Restart("first_worker, last_worker"),
            (true, false) => Change::Restart("ttl_s"),
        }
    }

    async fn build(&self, config: &UidConfig) -> Result<Uid> {
        Uid::builder(&self.coord, &self.service)
            .workers(config.workers())
            .ttl(Duration::from_secs(config.ttl_s))
            .open()
            .await
    }

    async fn probe(&self, uid: &Uid) -> Result<()> {
        match (uid.worker(), uid.last_error()) {
            (_, Some(error)) => Err(error),
            (None, None) => Err(Error::lease_lost("uid.probe", "no number is held at the moment")),
            (Some(_), None) => Ok(()),
        }
    }

    async fn retire(&self, uid: &Uid) {
        if let Err(error) = uid.close().await {
            tracing::warn!(%error, "the number of this worker was not given back; it runs out by itself");
        }
    }
}
