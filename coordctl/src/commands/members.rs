//! The members of a cluster, and what is wrong with them.

use coord::etcd::{AlarmKind, ClusterReport, MemberReport};
use serde::Serialize;

use super::Session;
use crate::error::Failure;
use crate::show::{Table, or_dash};

/// Where etcd refuses writes, unless it is told otherwise.
const DEFAULT_QUOTA: u64 = 2 << 30;

/// A database that is that full, in percent, is looked after while there is time.
const NEARLY_FULL: u64 = 80;

/// Entries that a member that is well is never behind.
const FAR_BEHIND: u64 = 5_000;

/// What a cluster says of itself.
#[derive(Debug, Serialize)]
pub(super) struct Members {
    members: Vec<Member>,
    /// Whether nothing tells it from others that were started alone with their defaults.
    has_default_id: bool,
    /// Why not all of it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct Member {
    /// In hexadecimal, as etcdctl shows it.
    id: String,
    name: String,
    urls: Vec<String>,
    role: &'static str,
    alarms: Vec<String>,
    /// Why it says nothing of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    state: Option<State>,
}

#[derive(Debug, Default, Serialize)]
struct State {
    version: String,
    round_trip_ms: f64,
    db_size: u64,
    db_size_in_use: u64,
    db_quota: Option<u64>,
    raft_term: u64,
    raft_index: u64,
    raft_applied_index: u64,
    errors: Vec<String>,
}

/// Something that is wrong: what, and what to do.
pub(super) struct Wrong {
    pub(super) found: String,
    pub(super) advice: &'static str,
    /// Whether something does not work, and not only should be looked at.
    pub(super) is_bad: bool,
}

impl Members {
    /// `None` of what is no cluster.
    pub(super) async fn of(session: &Session<'_>) -> Option<Self> {
        let etcd = session.coord.etcd()?;
        let report = session.ask(etcd.report()).await;
        let unknown = |failure: Failure| Members {
            members: Vec::new(),
            has_default_id: false,
            unknown: Some(failure.to_string()),
        };
        Some(report.map_or_else(unknown, Members::from))
    }

    pub(super) fn table(&self) -> Table {
        const HEAD: &[&str] = &[
            "MEMBER",
            "NAME",
            "URL",
            "ROLE",
            "VERSION",
            "ROUND TRIP",
            "DB",
            "IN USE",
            "QUOTA",
            "RAFT",
            "ALARMS",
        ];
        let mut table = Table::new(HEAD, format!("members: {}", or_dash(self.unknown.as_ref())));
        for member in &self.members {
            let state = member.state.as_ref();
            table.row([
                member.id.clone(),
                member.name.clone(),
                member.urls.join(" "),
                member.role.to_owned(),
                or_dash(state.map(|state| &state.version)),
                or_dash(state.map(|state| format!("{:.1} ms", state.round_trip_ms))),
                or_dash(state.map(|state| bytes(state.db_size))),
                or_dash(state.map(|state| bytes(state.db_size_in_use))),
                or_dash(state.and_then(|state| state.db_quota).map(bytes)),
                or_dash(state.map(|state| format!("{}/{}", state.raft_term, state.raft_applied_index))),
                match &member.error {
                    Some(error) => error.clone(),
                    None if member.alarms.is_empty() => "-".to_owned(),
                    None => member.alarms.join(" "),
                },
            ]);
        }
        table
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// What is wrong with it, the worst first.
    pub(super) fn wrong(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        let mut say =
            |is_bad, found: String, advice: &'static str| wrong.push(Wrong { found, advice, is_bad });
        for member in &self.members {
            for alarm in &member.alarms {
                let advice = if alarm == "NOSPACE" {
                    "nothing can be written: etcdctl compact, etcdctl defrag on each member, then etcdctl alarm disarm"
                } else {
                    "take this member out of the cluster, and add it again with an empty directory"
                };
                say(true, format!("{} has raised {alarm}", member.called()), advice);
            }
        }
        for member in &self.members {
            if let Some(error) = &member.error {
                let advice =
                    "is it up, and reached from here? One more than a minority, and nothing can be written";
                say(true, format!("{} does not answer: {error}", member.called()), advice);
            }
        }
        let known = || self.members.iter().filter_map(|member| Some((member, member.state.as_ref()?)));
        if known().next().is_some() && !self.members.iter().any(|member| member.role == "leader") {
            // Its leader may be the one that does not answer, and then that was said.
            let all_answer = self.members.iter().all(|member| member.error.is_none());
            say(
                all_answer,
                "none of those that answer leads".to_owned(),
                "look at the network between the members",
            );
        }
        let newest = known().map(|(_, state)| state.raft_index).max().unwrap_or_default();
        for (member, state) in known() {
            let quota = state.db_quota.unwrap_or(DEFAULT_QUOTA);
            if u128::from(state.db_size) * 100 >= u128::from(quota) * u128::from(NEARLY_FULL) {
                let of = if state.db_quota.is_some() {
                    "its quota"
                } else {
                    "etcd's usual quota; its own it does not tell"
                };
                let found = format!(
                    "{} has {} of the {} of {of}",
                    member.called(),
                    bytes(state.db_size),
                    bytes(quota)
                );
                let advice =
                    "before it refuses writes: etcdctl compact and defrag, or a larger --quota-backend-bytes";
                say(false, found, advice);
            }
            let behind = newest.saturating_sub(state.raft_applied_index);
            if behind > FAR_BEHIND {
                let found = format!("{} is {behind} entries behind", member.called());
                say(false, found, "look at its disk and at its network");
            }
            for error in state.errors.iter().filter(|error| !error.contains("alarm:")) {
                say(false, format!("{} complains: {error}", member.called()), "etcd's own log says more");
            }
        }
        let mut versions: Vec<_> = known().map(|(_, state)| state.version.as_str()).collect();
        versions.sort_unstable();
        versions.dedup();
        if versions.len() > 1 {
            say(false, format!("the versions {}", versions.join(", ")), "finish the upgrade");
        }
        if self.has_default_id {
            let advice =
                "fine on a laptop; else start each cluster with an --initial-cluster-token of its own";
            say(false, "the id of the cluster is that of every etcd with default flags".to_owned(), advice);
        }
        if let Some(why) = &self.unknown {
            say(false, format!("not all is known: {why}"), "ask as a user who may");
        }
        wrong.sort_by_key(|wrong| !wrong.is_bad);
        wrong
    }
}

impl Member {
    fn called(&self) -> &str {
        if self.name.is_empty() { &self.id } else { &self.name }
    }
}

impl From<ClusterReport> for Members {
    fn from(report: ClusterReport) -> Self {
        let alarms = report.alarms.as_deref().unwrap_or_default();
        let of = |id| alarms.iter().filter(move |alarm| alarm.member == id);
        let called = |kind| match kind {
            AlarmKind::NoSpace => "NOSPACE".to_owned(),
            AlarmKind::Corrupt => "CORRUPT".to_owned(),
            kind => format!("{kind:?}"),
        };
        let member = |member: MemberReport| Member {
            id: format!("{:x}", member.id),
            role: match &member.state {
                _ if member.is_learner => "learner",
                Ok(state) if state.is_leader => "leader",
                _ => "follower",
            },
            alarms: of(member.id).map(|alarm| called(alarm.kind)).collect(),
            error: member.state.as_ref().err().map(ToString::to_string),
            name: member.name,
            urls: member.client_urls,
            state: member.state.ok().map(|state| State {
                version: state.version,
                round_trip_ms: state.round_trip.as_secs_f64() * 1_000.0,
                db_size: state.db_size,
                db_size_in_use: state.db_size_in_use,
                db_quota: state.db_quota,
                raft_term: state.raft_term,
                raft_index: state.raft_index,
                raft_applied_index: state.raft_applied_index,
                errors: state.errors,
            }),
        };
        let unknown = report.alarms.as_ref().err().map(|error| format!("the alarms: {error}"));
        let has_default_id = report.has_default_id;
        Members { members: report.members.into_iter().map(member).collect(), has_default_id, unknown }
    }
}

/// A size for people.
fn bytes(size: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (mut amount, mut unit) = (size as f64, "B");
    for larger in UNITS {
        if amount < 1_024.0 {
            break;
        }
        (amount, unit) = (amount / 1_024.0, larger);
    }
    if unit == "B" { format!("{size} B") } else { format!("{amount:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, change: impl FnOnce(&mut Member, &mut State)) -> Member {
        let (mut member, mut state) = (
            Member { name: name.to_owned(), role: "follower", ..Member::default() },
            State {
                version: "3.5.16".to_owned(),
                raft_index: 10_000,
                raft_applied_index: 10_000,
                ..State::default()
            },
        );
        change(&mut member, &mut state);
        member.state = member.error.is_none().then_some(state);
        member
    }

    fn wrong(changes: [Member; 2]) -> Vec<(bool, String)> {
        let leader = member("a", |member, _| member.role = "leader");
        let members = Members {
            members: [leader].into_iter().chain(changes).collect(),
            has_default_id: false,
            unknown: None,
        };
        members.wrong().into_iter().map(|wrong| (wrong.is_bad, wrong.found)).collect()
    }

    #[test]
    fn of_three_that_are_well_nothing_is_said() {
        assert_eq!(wrong([member("b", |_, _| {}), member("c", |_, _| {})]), []);
    }

    #[test]
    fn what_does_not_work_comes_before_what_is_to_be_looked_at() {
        let old = member("b", |_, state| state.version = "3.4.23".to_owned());
        let away = member("c", |member, _| member.error = Some("refused".to_owned()));
        let found = wrong([old, away]);
        assert_eq!(found[0], (true, "c does not answer: refused".to_owned()));
        assert_eq!(found[1], (false, "the versions 3.4.23, 3.5.16".to_owned()));
        let full = member("b", |member, _| member.alarms.push("NOSPACE".to_owned()));
        assert_eq!(wrong([full, member("c", |_, _| {})]), [(true, "b has raised NOSPACE".to_owned())]);
    }

    #[test]
    fn a_database_is_told_of_before_it_is_full() {
        let at = |size, quota| {
            let of = move |_: &mut Member, state: &mut State| (state.db_size, state.db_quota) = (size, quota);
            wrong([member("b", of), member("c", |_, _| {})])
        };
        assert_eq!(at(799, Some(1_000)), []);
        let found = at(800, Some(1_000));
        assert_eq!(found, [(false, "b has 800 B of the 1000 B of its quota".to_owned())]);
        assert_eq!(at(1 << 30, None), []);
        assert!(at(2 << 30, None)[0].1.contains("2.0 GiB of etcd's usual quota"), "{:?}", at(2 << 30, None));
        assert!(at(u64::MAX, None)[0].1.contains("TiB"));
    }

    #[test]
    fn who_falls_behind_and_who_leads_not() {
        let slow = member("b", |_, state| state.raft_applied_index = 4_000);
        assert_eq!(wrong([slow, member("c", |_, _| {})]), [(false, "b is 6000 entries behind".to_owned())]);
        let members = Members { members: vec![member("b", |_, _| {})], has_default_id: true, unknown: None };
        let wrong = members.wrong();
        assert!(wrong[0].is_bad && !wrong[1].is_bad && wrong[1].found.contains("default flags"));
    }
}
