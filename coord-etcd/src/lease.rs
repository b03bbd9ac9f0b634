//! Leases (S5). What etcd answers about them may be out of date, and its client hides half of it.

use std::collections::HashMap;
use std::time::Duration;

use coord_api::store::{Lease, LeaseInfo};
use coord_api::{LeaseId, Result};
use etcd_client::LeaseTimeToLiveOptions;
use parking_lot::Mutex;

use crate::error::{Effect, Fault};
use crate::kv::{barrier, lease_id, lease_number};
use crate::members::{Asked, Members};

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
pub(crate) async fn grant(members: &Members, granted: &Granted, ttl: Duration) -> Result<Lease> {
    let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    let lease = members
        .call("store.grant_lease", Effect::Write, |asked| async move {
            let granted = asked.link.main.ask(Effect::Write, |client| {
                let mut leases = client.lease_client();
                async move { Ok(leases.grant(seconds, None).await?.0) }
            });
            let granted = granted.await?;
            if granted.id == 0 || granted.ttl < seconds {
                return Err(Fault::nonsense("etcd granted no lease, or a shorter one"));
            }
            Ok(Lease { id: lease_id(granted.id), ttl: Duration::from_secs(granted.ttl.unsigned_abs()) })
        })
        .await?;
    granted.remember(lease.id, lease.ttl);
    Ok(lease)
}

/// Renews a lease by one request with one answer. A stream that stays open says Ok while nothing is renewed; an answer does not.
pub(crate) async fn keep_alive(members: &Members, granted: &Granted, id: LeaseId) -> Result<Duration> {
    const OPERATION: &str = "store.keep_alive";
    let renewed = members.call(OPERATION, Effect::Idempotent, |asked| async move {
        if renew(&asked, id).await? {
            return Ok(());
        }
        // After a change of leaders a member may not know yet what it is asked about. When it has caught up, it does.
        barrier(&asked.link.leases).await?;
        if renew(&asked, id).await? { Ok(()) } else { Err(Fault::lease_lost()) }
    });
    if let Err(error) = renewed.await {
        if error.kind() == coord_api::ErrorKind::LeaseLost {
            granted.forget(id);
        }
        return Err(error);
    }
    if let Some(ttl) = granted.get(id) {
        return Ok(ttl);
    }
    // A lease that another client was granted.
    match look_up(members, OPERATION, id).await? {
        Some((ttl, _)) => {
            granted.remember(id, ttl);
            Ok(ttl)
        }
        None => Err(Fault::lease_lost().into_error(OPERATION, Effect::Idempotent)),
    }
}

/// Whether the lease was there to be renewed.
async fn renew(asked: &Asked, id: LeaseId) -> Result<bool, Fault> {
    let number = lease_number(id);
    // etcd-client keeps it to itself which cluster has answered: it is found out before.
    asked.link.leases.identify().await?;
    asked
        .link
        .leases
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
pub(crate) async fn lease(members: &Members, id: LeaseId) -> Result<Option<LeaseInfo>> {
    Ok(look_up(members, "store.lease", id).await?.map(|(_, info)| info))
}

/// The granted TTL, and what else is known of a live lease.
async fn look_up(members: &Members, operation: &'static str, id: LeaseId) -> Result<Option<(Duration, LeaseInfo)>> {
    let number = lease_number(id);
    members
        .call(operation, Effect::Read, |asked| async move {
            // The look-up itself is answered by whoever believes to lead.
            barrier(&asked.link.main).await?;
            let found = asked.link.main.ask(Effect::Read, |client| {
                let mut leases = client.lease_client();
                async move { Ok(leases.time_to_live(number, Some(LeaseTimeToLiveOptions::new().with_keys())).await?.0) }
            });
            let found = match found.await {
                Ok(found) => found,
                Err(fault) if fault.kind == coord_api::ErrorKind::LeaseLost => return Ok(None),
                Err(fault) => return Err(fault),
            };
            // One that has expired and is not yet revoked has less than no time left, but was granted some.
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
pub(crate) async fn revoke(members: &Members, granted: &Granted, id: LeaseId) -> Result<()> {
    let revoked = members
        .call("store.revoke_lease", Effect::Idempotent, |asked| async move {
            let revoked = asked.link.main.ask(Effect::Idempotent, |client| {
                let mut leases = client.lease_client();
                async move { Ok(leases.revoke(lease_number(id)).await?.0) }
            });
            revoked.await.map(drop)
        })
        .await;
    match revoked {
        Err(error) if error.kind() != coord_api::ErrorKind::LeaseLost => Err(error),
        _ => {
            granted.forget(id);
            Ok(())
        }
    }
}
