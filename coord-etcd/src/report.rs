//! What a cluster says of itself, for those who operate it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use coord_api::store::Effect;
use coord_api::{Error, ErrorKind, Result};
use etcd_client::proto::{PbMember, PbStatusResponse};
use etcd_client::{AlarmAction, AlarmType, Client};
use futures_util::future::join_all;

use crate::cluster::Cluster;
use crate::error::Fault;
use crate::members::{Asked, Member, Members};
use crate::survey::DEFAULT_CLUSTER;
use crate::target::Target;

const OPERATION: &str = "etcd.report";

/// What a cluster says of itself: [`EtcdStore::report`](crate::EtcdStore::report).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClusterReport {
    /// The number of the cluster, in hexadecimal: the
    /// [`store_id`](coord_api::store::StoreStatus::store_id) of its store.
    pub cluster: String,
    /// Whether that is the number of every etcd that was started alone with its default flags, so
    /// that nothing tells this cluster from another one of them: see `--initial-cluster-token`.
    pub has_default_id: bool,
    /// Who belongs to it, by their names, those that do not answer included.
    pub members: Vec<MemberReport>,
    /// The alarms that are raised. While one for space is, nothing can be written; `Err` with the
    /// reason where the cluster does not tell this user.
    pub alarms: Result<Vec<Alarm>>,
}

/// A member of a cluster.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemberReport {
    /// Its number.
    pub id: u64,
    /// Its name, which may be empty.
    pub name: String,
    /// Where the cluster says that it is reached.
    pub client_urls: Vec<String>,
    /// Whether it only follows, and has no vote.
    pub is_learner: bool,
    /// What it says of itself, or why it does not: `Unavailable` where it does not answer, or is
    /// none of those that the client reaches; `PermissionDenied` where only administrators may ask.
    pub state: Result<MemberState>,
}

/// What a member says of itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemberState {
    /// The version of its server, as `3.5.16`.
    pub version: String,
    /// Whether it leads.
    pub is_leader: bool,
    /// How long its answer took, over a connection that there was.
    pub round_trip: Duration,
    /// Bytes of its database on disk.
    pub db_size: u64,
    /// Bytes of its database that hold something; the rest is given back by a defragmentation.
    pub db_size_in_use: u64,
    /// The bytes at which it refuses writes. `None` before etcd 3.6, which does not tell.
    pub db_quota: Option<u64>,
    /// The term of the election that its leader came out of.
    pub raft_term: u64,
    /// The last entry of its log.
    pub raft_index: u64,
    /// The last entry that it has applied. One that falls far behind the others is ill.
    pub raft_applied_index: u64,
    /// What it complains of.
    pub errors: Vec<String>,
}

/// An alarm that a member has raised. It stays until somebody disarms it: `etcdctl alarm disarm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Alarm {
    /// The number of the member.
    pub member: u64,
    /// What for.
    pub kind: AlarmKind,
}

/// What an alarm is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AlarmKind {
    /// Its database has reached the quota: nothing can be written in the whole cluster.
    NoSpace,
    /// Its data differs from the others'.
    Corrupt,
    /// One that this version does not know, by etcd's number.
    Other(i32),
}

/// What one member says of itself, and how long that took.
type Told = Result<(PbStatusResponse, Duration)>;

/// Asks the cluster who belongs to it, and each member how it is.
pub(crate) async fn report(cluster: &Cluster) -> Result<ClusterReport> {
    let listed = cluster.call(OPERATION, Effect::Read, |asked| async move { list(&asked).await }).await?;
    let members = cluster.members();
    // So that those whom no endpoint names are reached as well. Where that fails, they are not.
    drop(within(members, cluster.survey().discover()).await);
    let asked = join_all(members.all().into_iter().map(|member| async move {
        let state = ask(members, &member).await;
        (member, state)
    }));
    let alarms = cluster.call(OPERATION, Effect::Read, |asked| async move { alarms(&asked).await });
    let (asked, alarms) = futures_util::future::join(asked, alarms).await;
    let mut members: Vec<_> = listed.1.into_iter().map(|member| described(member, &asked)).collect();
    members.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    let (cluster, has_default_id) = (format!("{:x}", listed.0), listed.0 == DEFAULT_CLUSTER);
    Ok(ClusterReport { cluster, has_default_id, members, alarms })
}

/// The number of the cluster, and its members.
async fn list(asked: &Asked) -> Result<(u64, Vec<PbMember>), Fault> {
    let listed = asked
        .link
        .main
        .ask(Effect::Read, Client::cluster_client, |mut cluster| async move { cluster.member_list().await });
    let listed = listed.await?.0;
    Ok((listed.header.map(|header| header.cluster_id).unwrap_or_default(), listed.members))
}

async fn alarms(asked: &Asked) -> Result<Vec<Alarm>, Fault> {
    // Of alarms, etcd does not say which cluster they are of. This member has said who it is.
    asked.link.main.identify().await?;
    let told = asked.link.main.ask_anybody(Client::maintenance_client, |mut maintenance| async move {
        maintenance.alarm(AlarmAction::Get, AlarmType::None, None).await
    });
    let kind = |alarm| match alarm {
        _ if alarm == AlarmType::Nospace as i32 => AlarmKind::NoSpace,
        _ if alarm == AlarmType::Corrupt as i32 => AlarmKind::Corrupt,
        _ => AlarmKind::Other(alarm),
    };
    let alarms = told.await?.0.alarms;
    Ok(alarms.into_iter().map(|told| Alarm { member: told.member_id, kind: kind(told.alarm) }).collect())
}

async fn ask(members: &Members, member: &Arc<Member>) -> Told {
    let asking = async {
        let asked = members.asking(Arc::clone(member))?;
        // The connection is made first, so that its time is not taken for the answer's.
        asked.link.main.identify().await?;
        let began = members.home().now();
        let told =
            asked.link.main.ask(Effect::Read, Client::maintenance_client, |mut maintenance| async move {
                maintenance.status().await
            });
        Ok((told.await?.0, members.home().now() - began))
    };
    within(members, asking).await.map_err(|fault| fault.into_error(OPERATION, Effect::Read))
}

/// For as long as one attempt may take.
async fn within<T>(members: &Members, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    members.until(members.home().now() + members.attempt_timeout, work).await
}

/// A member as the cluster lists it, with what was heard of those who were asked.
fn described(listed: PbMember, asked: &[(Arc<Member>, Told)]) -> MemberReport {
    let told = asked.iter().find_map(|(_, told)| match told {
        Ok((told, took)) if told.header.is_some_and(|header| header.member_id == listed.id) => {
            Some((told, *took))
        }
        _ => None,
    });
    let is_there = |member: &Member| {
        let urls = listed.client_ur_ls.iter().filter_map(|url| Target::parse(url, false).ok());
        urls.into_iter().any(|target| target.is_same_place(&member.target))
    };
    let state = match told {
        Some((told, took)) => Ok(state(listed.id, told, took)),
        None => Err(asked
            .iter()
            .find_map(|(member, told)| told.as_ref().err().filter(|_| is_there(member)).cloned())
            .unwrap_or_else(|| {
                let why = "none of the endpoints that answer is this member";
                Error::new(ErrorKind::Unavailable, OPERATION, why)
            })),
    };
    MemberReport {
        id: listed.id,
        name: listed.name,
        client_urls: listed.client_ur_ls,
        is_learner: listed.is_learner,
        state,
    }
}

fn state(id: u64, told: &PbStatusResponse, round_trip: Duration) -> MemberState {
    let bytes = |size: i64| u64::try_from(size).unwrap_or_default();
    MemberState {
        version: told.version.clone(),
        is_leader: told.leader == id,
        round_trip,
        db_size: bytes(told.db_size),
        db_size_in_use: bytes(told.db_size_in_use),
        db_quota: Some(bytes(told.db_size_quota)).filter(|quota| *quota > 0),
        raft_term: told.raft_term,
        raft_index: told.raft_index,
        raft_applied_index: told.raft_applied_index,
        errors: told.errors.clone(),
    }
}
