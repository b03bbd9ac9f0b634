//! Leases (S5). What etcd answers about them may be out of date, and its client hides half of it.

use std::collections::HashMap;
use std::time::Duration;

use coord_api::store::{Effect, Lease, LeaseInfo};
use coord_api::{ErrorKind, LeaseId, Outcome, Result};
use etcd_client::{Client, LeaseClient, LeaseTimeToLiveOptions};
use parking_lot::Mutex;

use crate::cluster::Cluster;
use crate::error::Fault;
use crate::members::Asked;
use crate::probe::barrier;
use crate::wire::{lease_id, lease_number};

/// Leases whose granted TTL is remembered. Beyond that etcd is asked.
const REMEMBERED: usize = 4_096;

/// What etcd-client says when a renewal is answered with a TTL of zero.
const GONE: &str = "lease not found";

/// The granted TTLs of leases: a renewal's answer has it, but etcd-client keeps it to itself.
#[derive(Debug, Default)]
pub(crate) struct Granted(Mutex<HashMap<LeaseId, Duration>>);

impl Granted {
    fn remember(&self, id: LeaseId, ttl: Duration) {
        let mut granted = self.0.lock();
        if granted.len() >= REMEMBERED {
            granted.clear();
        }
        granted.insert(id, ttl);
    }

    fn get(&self, id: LeaseId) -> Option<Duration> {
        self.0.lock().get(&id).copied()
    }

    fn forget(&self, id: LeaseId) {
        self.0.lock().remove(&id);
    }
}

/// Grants a lease of whole seconds.
pub(crate) async fn grant(cluster: &Cluster, granted: &Granted, ttl: Duration) -> Result<Lease> {
    let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    let lease = cluster
        .call("store.grant_lease", Effect::Write, |asked| async move {
            let granted = asked.link.main.ask(Effect::Write, Client::lease_client, |mut leases| async move {
                leases.grant(seconds, None).await
            });
            let granted = granted.await?.0;
            if granted.id == 0 || granted.ttl < seconds {
                return Err(Fault::nonsense("etcd granted no lease, or a shorter one"));
            }
            Ok(Lease { id: lease_id(granted.id), ttl: Duration::from_secs(granted.ttl.unsigned_abs()) })
        })
        .await
        // Where there is no space, one may have been granted; but nobody knows of it, so that
        // nothing hangs on it, and it ends by itself.
        .map_err(|error| match error.kind() {
            ErrorKind::Exhausted => error.with_outcome(Outcome::NotApplied),
            _ => error,
        })?;
    granted.remember(lease.id, lease.ttl);
    Ok(lease)
}

/// Renews a lease by one request with one answer. A stream that stays open says Ok while nothing is
/// renewed; an answer does not.
pub(crate) async fn keep_alive(cluster: &Cluster, granted: &Granted, id: LeaseId) -> Result<Duration> {
    const OPERATION: &str = "store.keep_alive";
    let renewed = cluster.call(OPERATION, Effect::Idempotent, |asked| async move {
        if renew(&asked, id).await? {
            return Ok(());
        }
        // After a change of leaders a member may not know yet what it is asked about. When it has
        // caught up, it does.
        barrier(&asked.link.leases).await?;
        if renew(&asked, id).await? { Ok(()) } else { Err(Fault::lease_lost()) }
    });
    if let Err(error) = renewed.await {
        if error.kind() == ErrorKind::LeaseLost {
            granted.forget(id);
        }
        return Err(error);
    }
    if let Some(ttl) = granted.get(id) {
        return Ok(ttl);
    }
    // A lease that another client was granted.
    match look_up(cluster, OPERATION, id).await? {
        Some((ttl, _)) => {
            granted.remember(id, ttl);
            Ok(ttl)
        }
        None => Err(Fault::lease_lost().into_error(OPERATION, Effect::Idempotent)),
    }
}

/// Whether the lease was there to be renewed.
async fn renew(asked: &Asked, id: LeaseId) -> Result<bool, Fault> {
    let (connection, number) = (&asked.link.leases, lease_number(id));
    // etcd-client keeps it to itself which cluster has answered: it is found out before.
    connection.identify().await?;
    connection
        .run(|client| {
            let mut leases = client.lease_client();
            async move {
                match leases.keep_alive(number).await {
                    Ok((keeper, _)) if keeper.id() == number => Ok(true),
                    Ok(_) => Err(Fault::unavailable("etcd renewed another lease than was asked for")),
                    Err(etcd_client::Error::LeaseKeepAliveError(why)) if why == GONE => Ok(false),
                    Err(error) => Err(error.into()),
                }
            }
        })
        .await
}

/// Looks a lease up, not older than what was acknowledged to anyone.
pub(crate) async fn lease(cluster: &Cluster, id: LeaseId) -> Result<Option<LeaseInfo>> {
    Ok(look_up(cluster, "store.lease", id).await?.map(|(_, info)| info))
}

/// The granted TTL, and what else is known of a live lease.
async fn look_up(
    cluster: &Cluster,
    operation: &'static str,
    id: LeaseId,
) -> Result<Option<(Duration, LeaseInfo)>> {
    let number = lease_number(id);
    cluster
        .call(operation, Effect::Read, |asked| async move {
            // The look-up itself is answered by whoever believes to lead.
            barrier(&asked.link.main).await?;
            let found = asked.link.main.ask(Effect::Read, Client::lease_client, |mut leases| async move {
                leases.time_to_live(number, Some(LeaseTimeToLiveOptions::new().with_keys())).await
            });
            let found = match found.await {
                Ok(found) => found.0,
                Err(fault) if fault.kind == ErrorKind::LeaseLost => return Ok(None),
                Err(fault) => return Err(fault),
            };
            // One that has expired and is not yet revoked has less than no time left, but was
            // granted some.
            if found.granted_ttl <= 0 {
                return Ok(None);
            }
            let mut keys: Vec<bytes::Bytes> = found.keys.into_iter().map(Into::into).collect();
            keys.sort_unstable();
            let remaining = Duration::from_secs(found.ttl.try_into().unwrap_or(0));
            Ok(Some((Duration::from_secs(found.granted_ttl.unsigned_abs()), LeaseInfo { remaining, keys })))
        })
        .await
}

/// Revokes a lease. One that is gone is revoked.
pub(crate) async fn revoke(cluster: &Cluster, granted: &Granted, id: LeaseId) -> Result<()> {
    let revoked = cluster
        .call("store.revoke_lease", Effect::Idempotent, |asked| async move {
            let revoke = |mut leases: LeaseClient| async move { leases.revoke(lease_number(id)).await };
            asked.link.main.ask(Effect::Idempotent, Client::lease_client, revoke).await.map(drop)
        })
        .await;
    match revoked {
        Err(error) if error.kind() != ErrorKind::LeaseLost => Err(error),
        _ => {
            granted.forget(id);
            Ok(())
        }
    }
}
