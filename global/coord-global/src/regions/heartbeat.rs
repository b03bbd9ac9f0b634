//! What a region sends while it is there.

use std::collections::BTreeMap;

use coord_api::store::Op;
use serde::{Deserialize, Serialize};

use super::ack::Ack;
use super::error::Result;
use super::health::RegionState;
use super::keys;
use super::registry::{Next, Regions, json, read, read_record};
use crate::model::RegionId;

/// What a region sends while it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The region.
    pub region: RegionId,
    /// Its clock, as it claims, in milliseconds since 1970. It is compared with others' clocks
    /// ([`median_offset`](super::median_offset)), and never decides whether the region is there.
    pub at_ms: u64,
    /// How it is, as it claims.
    pub state: RegionState,
    /// How far it has come in the space, if it says so: how far it lags follows from it.
    pub ack: Option<Ack>,
}

/// The last heartbeat of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Another one with each heartbeat, and greater: whoever reads it sees that one has come
    /// without comparing clocks.
    pub counter: u64,
    /// The region's clock in it, as it claims, in milliseconds since 1970.
    pub at_ms: u64,
    /// How the region is, as it claims.
    pub state: RegionState,
}

/// What came of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The counter of the last heartbeat; `None` where there was none, and this one did not count.
    pub counter: Option<u64>,
    /// How far the region has come, as it holds now.
    pub ack: Option<Ack>,
}

impl Regions {
    /// Takes a heartbeat, and the ack that it brings, in one transaction: the counter rises, and
    /// the ack holds as in [`ack`](Self::ack). A heartbeat of an earlier incarnation than the one
    /// whose ack holds does not count at all: it is of a copy of a disk, and would hide that the
    /// region is away.
    ///
    /// # Errors
    ///
    /// [`NotFound`](super::RegionsError::NotFound) for a region that is not registered;
    /// [`Store`](super::RegionsError::Store), after which it may be repeated at any time;
    /// [`Unreadable`](super::RegionsError::Unreadable);
    /// [`Contended`](super::RegionsError::Contended).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it was taken or not, and may be repeated.
    pub async fn heartbeat(&self, heartbeat: &Heartbeat) -> Result<Heard> {
        let id = &heartbeat.region;
        let (status_key, ack_key) = (keys::status(id), keys::ack(self.space(), id));
        let of_heartbeat = [keys::region(id), status_key.clone(), ack_key.clone()];
        self.change(&of_heartbeat, |found| {
            let [record, status, ack] = found else { return Err(self.short()) };
            read_record(record)?.region(id)?;
            let status: Option<Status> = read(status)?;
            let before: Option<Ack> = read(ack)?;
            let counter = status.map(|status| status.counter);
            if let (Some(before), Some(next)) = (before, heartbeat.ack) {
                if next.incarnation < before.incarnation {
                    return Ok(Next::Done(Heard { counter, ack: Some(before) }));
                }
            }
            let counter = counter.unwrap_or(0).wrapping_add(1);
            let status = Status { counter, at_ms: heartbeat.at_ms, state: heartbeat.state };
            let after = after(before, heartbeat.ack);
            let mut ops = vec![Op::put(status_key.clone(), json(&status)?)];
            if let Some(after) = after.filter(|after| before != Some(*after)) {
                ops.push(Op::put(ack_key.clone(), json(&after)?));
            }
            Ok(Next::Write(ops, Heard { counter: Some(counter), ack: after }))
        })
        .await
    }

    /// Takes an ack alone, and returns the one that holds now. Within an incarnation neither
    /// position goes back: what is lower is ignored, and no error. A later incarnation begins anew,
    /// lower too; an earlier one is ignored.
    ///
    /// # Errors
    ///
    /// As [`heartbeat`](Self::heartbeat).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it was taken or not, and may be repeated.
    pub async fn ack(&self, region: &RegionId, ack: Ack) -> Result<Ack> {
        let key = keys::ack(self.space(), region);
        self.change(&[keys::region(region), key.clone()], |found| {
            let [record, before] = found else { return Err(self.short()) };
            read_record(record)?.region(region)?;
            let before: Option<Ack> = read(before)?;
            let after = before.map_or(ack, |before| before.followed_by(ack));
            if before == Some(after) {
                return Ok(Next::Done(after));
            }
            Ok(Next::Write(vec![Op::put(key.clone(), json(&after)?)], after))
        })
        .await
    }

    /// The acks of all regions in the space; those of regions that were deregistered may be among
    /// them.
    ///
    /// # Errors
    ///
    /// [`Store`](super::RegionsError::Store) and [`Unreadable`](super::RegionsError::Unreadable).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn acks(&self) -> Result<BTreeMap<RegionId, Ack>> {
        self.all(&keys::acks(self.space())).await
    }

    /// The last heartbeats of all regions.
    ///
    /// # Errors
    ///
    /// As [`acks`](Self::acks).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn statuses(&self) -> Result<BTreeMap<RegionId, Status>> {
        self.all(keys::STATUSES).await
    }
}

/// The ack that holds after one that came or not.
fn after(before: Option<Ack>, next: Option<Ack>) -> Option<Ack> {
    match (before, next) {
        (Some(before), Some(next)) => Some(before.followed_by(next)),
        (before, next) => next.or(before),
    }
}
