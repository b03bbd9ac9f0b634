//! Services, their instances and their instance ids.

use std::collections::BTreeMap;

use coord_api::store::{Entry, Span};
use coord_api::{FencingToken, LeaseId, Result, Revision, ServiceInstance, key};
use coord_core::{SessionOwner, keys};
use serde::Serialize;

use super::{Inspect, Owners};
use crate::registry::decode;

/// A service of which instances are registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// How many of its instances can be read.
    pub instances: usize,
    /// How many records are none (R35).
    pub invalid: usize,
}

/// An instance of a service.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct InstanceView {
    /// What is registered.
    #[serde(flatten)]
    pub instance: ServiceInstance,
    /// The session that it hangs on.
    pub session: Option<LeaseId>,
    /// Who has the session; `None` where that is over, or not one of coord's.
    pub process: Option<SessionOwner>,
    /// The revision at which the record was written last.
    pub version: Revision,
}

/// An instance id that is taken.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct IdView {
    /// The number.
    pub id: u32,
    /// The name of the client that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Since when, by the owner's clock: milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// The session that it hangs on.
    pub session: Option<LeaseId>,
    /// Who has the session; `None` where that is over, or not one of coord's.
    pub process: Option<SessionOwner>,
    /// Its fencing token: greater than those of all who had the number before (R43).
    pub token: FencingToken,
}

impl Inspect {
    /// The services of which an instance is registered, by name.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Timeout`, `Closed`, `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn services(&self) -> Result<Vec<ServiceView>> {
        let entries = self.all("inspect.services", Span::prefix(keys::SERVICES)).await?;
        let mut services: BTreeMap<&str, ServiceView> = BTreeMap::new();
        for entry in &entries {
            let Some((name, _)) = keys::instance_in(&entry.key) else { continue };
            let service = services.entry(name).or_insert_with(|| ServiceView {
                name: name.to_owned(),
                instances: 0,
                invalid: 0,
            });
            match decode(&keys::service(name), entry) {
                Ok(_) => service.instances += 1,
                Err(_) => service.invalid += 1,
            }
        }
        Ok(services.into_values().collect())
    }

    /// The instances of a service, by id.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` (R4) before any I/O; as [`services`](Self::services).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn instances(&self, service: &str) -> Result<Vec<InstanceView>> {
        const OPERATION: &str = "inspect.instances";
        key::check_segment(OPERATION, service)?;
        let directory = keys::service(service);
        let (entries, owners) = self.owned(OPERATION, Span::prefix(directory.clone())).await?;
        let view = |entry: &Entry| {
            Some(InstanceView {
                instance: decode(&directory, entry).ok()?,
                session: entry.lease,
                process: owners.of(entry.lease),
                version: entry.modified,
            })
        };
        Ok(entries.iter().filter_map(view).collect())
    }

    /// The services that have instance ids, and how many are taken.
    ///
    /// # Errors
    ///
    /// As [`services`](Self::services).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn id_counts(&self) -> Result<BTreeMap<String, usize>> {
        let entries = self.all("inspect.ids", Span::prefix(keys::ALLOCATORS)).await?;
        let mut counts = BTreeMap::new();
        for (service, _) in entries.iter().filter_map(|entry| keys::id_in(&entry.key)) {
            *counts.entry(service.to_owned()).or_default() += 1;
        }
        Ok(counts)
    }

    /// The instance ids of a service that are taken, the smallest first.
    ///
    /// # Errors
    ///
    /// As [`instances`](Self::instances).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn ids(&self, service: &str) -> Result<Vec<IdView>> {
        const OPERATION: &str = "inspect.ids";
        key::check_segment(OPERATION, service)?;
        let (entries, owners) = self.owned(OPERATION, Span::prefix(keys::ids(service))).await?;
        let mut ids: Vec<IdView> = entries.iter().filter_map(|entry| id(entry, &owners)).collect();
        ids.sort_by_key(|id| id.id);
        Ok(ids)
    }
}

fn id(entry: &Entry, owners: &Owners) -> Option<IdView> {
    let (_, id) = keys::id_in(&entry.key)?;
    let owner = keys::owner(&entry.value);
    Some(IdView {
        id,
        since_ms: owner.as_ref().and_then(|owner| owner.since_ms),
        owner: owner.map(|owner| owner.name),
        session: entry.lease,
        process: owners.of(entry.lease),
        token: FencingToken::from(entry.created),
    })
}
