//! Who the members of the cluster are: found out before the first request, and looked at again in the course of time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use coord_api::ErrorKind;
use etcd_client::proto::PbMemberListResponse;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::dial::Target;
use crate::error::{Effect, Fault};
use crate::members::{ContainsSame, Member, Members};
use crate::options::{Discovery, target};
use crate::status::{self, Told};

/// The pause between two looks at a member that does not answer yet.
const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// How long the other members are waited for once one has answered, so that one cluster is chosen where there are two. Those that agree are not waited for once they are more than half.
const GRACE: Duration = Duration::from_secs(1);

/// How much longer a caller waits than what it waits for takes at most, so that it hears why.
pub(crate) const SLACK: Duration = Duration::from_millis(250);

/// How often it is asked who the members are. Half of it, or half as much again, by chance.
const EVERY: Duration = Duration::from_secs(10);

/// The shortest pause before it is asked because a member has failed.
const AFTER_A_FAILURE: Duration = Duration::from_secs(1);

impl Members {
    /// Finds out who the members are, unless that is known: once for all who need it.
    pub(crate) async fn survey(&self, limit: Duration) -> Result<(), Fault> {
        let surveyed = || self.surveyed.load(Ordering::Acquire).then_some(());
        let survey = || {
            let members = self.weak();
            async move {
                let Some(members) = members.upgrade() else { return Err(Fault::closed()) };
                let closing = members.closing().clone();
                let deadline = Instant::now() + limit;
                closing.run_until_cancelled(members.find_out(deadline, false)).await.unwrap_or_else(|| Err(Fault::closed()))
            }
        };
        // Who waits may have less patience than who began.
        let surveyed = self.home().timeout(limit + SLACK, self.surveying.join(self.home(), surveyed, survey)).await;
        surveyed.unwrap_or_else(|_| Err(Fault { accuses: false, ..self.late() }))
    }

    /// Asks all members until one of them answers, or until each refuses for good.
    pub(crate) async fn connect_insistently(&self, limit: Duration) -> Result<(), Fault> {
        let members = self.weak();
        let asking = self.home().spawn(async move {
            let Some(members) = members.upgrade() else { return Err(Fault::closed()) };
            members.find_out(Instant::now() + limit, true).await
        });
        let mut asking = asking.map_err(|error| Fault::homeless(&error)).map(AbortOnDrop)?;
        (&mut asking.0).await.unwrap_or_else(|_| Err(Fault::unavailable("connecting was broken off")))
    }

    /// Looks the names up, asks who the members are, and decides which cluster is meant. `insistent` asks members that fail again.
    async fn find_out(&self, deadline: Instant, insistent: bool) -> Result<(), Fault> {
        self.look_up(deadline).await;
        let all = self.all();
        // Of a single one, any answer will say.
        if all.len() > 1 || insistent {
            self.probe_all(&all, deadline, insistent).await?;
        }
        if !self.surveyed.swap(true, Ordering::AcqRel) && (self.discovery != Discovery::Off || self.has_names()) {
            drop(self.home().spawn(keep_up(self.weak())));
        }
        Ok(())
    }

    async fn probe_all(&self, all: &[Arc<Member>], deadline: Instant, insistent: bool) -> Result<(), Fault> {
        let mut probes: FuturesUnordered<_> = all.iter().map(|member| self.probe(Arc::clone(member), Duration::ZERO, deadline)).collect();
        let mut answers: Vec<(Arc<Member>, Told)> = Vec::new();
        let (mut failed, mut refusals, mut last) = (Vec::new(), Vec::new(), Fault::silent());
        let mut patience = deadline;
        loop {
            let (member, probed) = tokio::select! {
                probed = probes.next() => match probed {
                    Some(probed) => probed,
                    None => break,
                },
                () = sleep_until(patience) => break,
            };
            match probed {
                Ok(told) => answers.push((Arc::clone(&member), told)),
                // A member that is well, and will not have us. Another one may.
                Err(fault) if !fault.accuses && !fault.over => refusals.push(fault),
                Err(fault) => {
                    last = fault;
                    if insistent && Instant::now() + PROBE_PAUSE < deadline {
                        probes.push(self.probe(Arc::clone(&member), PROBE_PAUSE, deadline));
                    }
                    if !failed.contains_same(&member) {
                        failed.push(Arc::clone(&member));
                    }
                }
            }
            failed.retain(|failed| !answers.iter().any(|(member, _)| Arc::ptr_eq(failed, member)));
            if answers.is_empty() && refusals.is_empty() {
                continue;
            }
            patience = patience.min(Instant::now() + GRACE);
            let of = |cluster: u64| answers.iter().filter(|(_, told)| told.cluster() == cluster).count();
            let is_known = self.common.identity.known().is_some_and(|known| of(known) > 0);
            let most_agree = answers.iter().any(|(_, told)| told.cluster() != 0 && of(told.cluster()) * 2 > all.len());
            let all_were_asked = answers.len() + failed.len() + refusals.len() >= all.len();
            if is_known || most_agree || all_were_asked {
                break;
            }
        }
        let Some(cluster) = self.choose(all, &answers) else { return Err(refusals.pop().unwrap_or(last)) };
        let mut first = None;
        for (member, told) in &answers {
            let asked = self.asking(Arc::clone(member))?;
            match asked.link.main.recognise(told.header.as_ref()) {
                Ok(()) => {
                    member.recover(Instant::now());
                    first = first.or(Some(member));
                }
                Err(fault) => {
                    last = Fault { message: format!("{} ({})", fault.message, member.name).into(), ..fault };
                    self.accuse(&asked, &last);
                }
            }
        }
        let Some(first) = first else { return Err(last) };
        // Many clients that begin at once spread over the members, unless the one by chance has not answered.
        let usual = self.usual();
        let usual_answers = answers.iter().any(|(member, told)| Arc::ptr_eq(member, &usual) && told.cluster() == cluster);
        self.prefer(if usual_answers && !insistent { &usual } else { first });
        Ok(())
    }

    /// The cluster that is meant: the one that is known or, before it is, the one that most members belong to and, of two, that of the first endpoint. So clients with the
    /// same endpoints come to the same cluster.
    fn choose(&self, all: &[Arc<Member>], answers: &[(Arc<Member>, Told)]) -> Option<u64> {
        let place = |member: &Arc<Member>| all.iter().position(|known| Arc::ptr_eq(known, member)).unwrap_or(all.len());
        let mut clusters: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
        for (member, told) in answers.iter().filter(|(_, told)| told.cluster() != 0) {
            let (count, first) = clusters.entry(told.cluster()).or_insert((0, usize::MAX));
            (*count, *first) = (*count + 1, place(member).min(*first));
        }
        let most = clusters.into_iter().max_by_key(|(_, (count, first))| (*count, usize::MAX - first));
        // A cluster that the options name may be none of them: then each is told to be another.
        most.map(|(cluster, _)| self.common.identity.settle(cluster)).or_else(|| answers.first().map(|_| 0))
    }

    /// Asks one member who it is.
    async fn probe(&self, member: Arc<Member>, pause: Duration, deadline: Instant) -> (Arc<Member>, Result<Told, Fault>) {
        if !pause.is_zero() {
            sleep(pause).await;
        }
        let probed = match self.asking(Arc::clone(&member)) {
            Ok(asked) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let probed = timeout(left.min(self.attempt_timeout), status::ask(&asked.link.main)).await;
                let probed = probed.unwrap_or_else(|_| Err(self.late()));
                // The next one is over a new link, for which all that it needs is looked at again.
                match &probed {
                    Err(fault) if fault.accuses => self.accuse(&asked, fault),
                    Err(fault) if fault.over => self.replace(&asked),
                    _ => {}
                }
                probed
            }
            Err(fault) => Err(fault),
        };
        (member, probed)
    }

    fn has_names(&self) -> bool {
        self.targets.iter().any(|target| target.known_address().is_none())
    }

    /// Looks the endpoints' names up: where one has several addresses, each is a member.
    async fn look_up(&self, deadline: Instant) {
        if !self.has_names() {
            return;
        }
        let look_up = |endpoint: &Target| {
            let (dialing, endpoint) = (self.common.dialing.clone(), endpoint.clone());
            async move { timeout_at(deadline, dialing.addresses(&endpoint)).await.ok().and_then(Result::ok) }
        };
        let found = join_all(self.targets.iter().map(look_up)).await;
        let known = self.all();
        let mut members: Vec<(Target, bool)> = Vec::new();
        for (endpoint, addresses) in self.targets.iter().zip(found) {
            let is_of = |target: &Target| target.host == endpoint.host && target.port == endpoint.port;
            let at = |address: IpAddr| Target { address: Some(address), ..endpoint.clone() };
            match addresses {
                // A name of one address is looked up for each connection.
                Some(addresses)
                    if addresses.len() > 1 || addresses.iter().any(|a| known.iter().any(|member| member.target == at(a.ip()))) =>
                {
                    members.extend(addresses.iter().map(|address| (at(address.ip()), false)));
                }
                Some(_) => members.push((endpoint.clone(), false)),
                None => members.extend(
                    known.iter().filter(|member| !member.learnt && is_of(&member.target)).map(|member| (member.target.clone(), false)),
                ),
            }
        }
        members.extend(known.iter().filter(|member| member.learnt).map(|member| (member.target.clone(), true)));
        self.become_these(&members);
    }

    /// Asks the cluster who its members are.
    async fn discover(&self) -> Result<(), Fault> {
        if self.discovery == Discovery::Off {
            return Ok(());
        }
        let asked = self.asking(self.preferred())?;
        let told = asked.link.main.ask(Effect::Read, |client| {
            let mut cluster = client.cluster_client();
            async move { Ok(cluster.member_list().await?.0) }
        });
        let advertised = self.advertised(&told.await?);
        let named: Vec<_> = self.all().into_iter().filter(|member| !member.learnt).collect();
        for member in &named {
            if advertised.iter().any(|target| is_same(target, &member.target)) {
                member.is_advertised.store(true, Ordering::Relaxed);
            }
        }
        // One that was advertised may have been replaced since.
        let mut answering = named.iter().filter(|member| member.has_answered()).peekable();
        let agree = answering.peek().is_some() && answering.all(|member| member.is_advertised.load(Ordering::Relaxed));
        let has_learnt = self.all().iter().any(|member| member.learnt);
        if self.discovery == Discovery::Agreeing && !agree && !has_learnt {
            return Ok(());
        }
        let learnt = advertised.iter().filter(|target| !named.iter().any(|member| is_same(target, &member.target)));
        let learnt: Vec<_> = learnt.map(|target| (target.clone(), true)).collect();
        let members: Vec<_> = named.iter().map(|member| (member.target.clone(), false)).chain(learnt).collect();
        self.become_these(&members);
        Ok(())
    }

    /// Where the cluster says that its members are reached, as far as it is of use.
    fn advertised(&self, told: &PbMemberListResponse) -> Vec<Target> {
        let encrypted = self.targets.iter().any(|target| target.encrypted);
        let voting = told.members.iter().filter(|member| !member.is_learner);
        let targets = voting.flat_map(|member| &member.client_ur_ls).filter_map(|url| target(url, false).ok());
        let is_somewhere = |target: &Target| target.known_address().is_none_or(|address| !address.is_unspecified());
        targets.filter(|target| target.encrypted == encrypted && is_somewhere(target)).collect()
    }
}

impl Told {
    fn cluster(&self) -> u64 {
        self.header.as_ref().map(|header| header.cluster_id).unwrap_or_default()
    }
}

/// Whether both lead to the same place, as far as can be told without asking anyone.
fn is_same(a: &Target, b: &Target) -> bool {
    a.port == b.port && (a.host == b.host || (a.known_address().is_some() && a.known_address() == b.known_address()))
}

/// Looks at who the members are, by and by and soon after one of them has failed.
async fn keep_up(members: Weak<Members>) {
    let mut pause = Duration::ZERO;
    loop {
        let Some(closing) = members.upgrade().map(|members| members.closing().clone()) else { return };
        if closing.run_until_cancelled(wait(&members, pause)).await.is_none() {
            return;
        }
        let Some(members) = members.upgrade() else { return };
        let looked = closing.run_until_cancelled(async {
            members.look_up(Instant::now() + members.attempt_timeout).await;
            timeout(members.attempt_timeout, members.discover()).await
        });
        match looked.await {
            None => return,
            Some(Ok(Err(fault))) if fault.kind != ErrorKind::Closed => {
                let why = fault.message;
                coord_home::event!(DEBUG, %why, "nobody says who the members of the cluster are");
            }
            Some(_) => {}
        }
        pause = EVERY.mul_f64(0.5 + fastrand::f64());
    }
}

/// Waits for a pause, or until a member has failed.
async fn wait(members: &Weak<Members>, pause: Duration) {
    let failed = async {
        match members.upgrade() {
            Some(members) => members.news.notified().await,
            None => return,
        }
        sleep(AFTER_A_FAILURE).await;
    };
    let _ = timeout(pause, failed).await;
}

/// A task that ends when nobody waits for it any more.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
