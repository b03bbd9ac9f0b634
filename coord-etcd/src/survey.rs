//! Who the members of the cluster are: found out before the first request, and looked at again in
//! the course of time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use coord_api::ErrorKind;
use coord_api::store::Effect;
use etcd_client::Client;
use etcd_client::proto::PbMemberListResponse;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::error::Fault;
use crate::flight::Flight;
use crate::members::{Member, Members};
use crate::options::Discovery;
use crate::status::{self, MemberStatus};
use crate::target::Target;

/// The pause between two looks at a member that does not answer yet.
const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// How long the other members are waited for once one has answered, so that one cluster is chosen
/// where there are two. Those that agree are not waited for once they are more than half.
const GRACE: Duration = Duration::from_secs(1);

/// How much longer a caller waits than what it waits for takes at most, so that it hears why.
pub(crate) const SLACK: Duration = Duration::from_millis(250);

/// How often it is asked who the members are. Half of it, or half as much again, by chance.
const EVERY: Duration = Duration::from_secs(10);

/// The shortest pause before it is asked because a member has failed.
const AFTER_A_FAILURE: Duration = Duration::from_secs(1);

/// What every etcd is called that was started alone with its default flags: the id is made of the
/// first members' peer URLs and of a token. One of several members never is.
pub(crate) const DEFAULT_CLUSTER: u64 = 0xcdf8_1819_4e3a_8c32;

/// The surveys of one cluster: who its members are.
#[derive(Debug)]
pub(crate) struct Survey {
    members: Arc<Members>,
    discovery: Discovery,
    /// This survey, for what goes on in the background.
    weak: Weak<Survey>,
    /// Whether it is known who the members are.
    done: AtomicBool,
    under_way: Flight<()>,
}

impl Survey {
    pub(crate) fn new(members: Arc<Members>, discovery: Discovery) -> Arc<Self> {
        Arc::new_cyclic(|weak| Survey {
            members,
            discovery,
            weak: Weak::clone(weak),
            done: AtomicBool::new(false),
            under_way: Flight::default(),
        })
    }

    /// Whether it is known who the members are.
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Finds out who the members are, unless that is known: once for all who need it.
    pub(crate) async fn ensure(&self, limit: Duration) -> Result<(), Fault> {
        let surveyed = || self.is_done().then_some(());
        let survey = || {
            let survey = Weak::clone(&self.weak);
            async move {
                let Some(survey) = survey.upgrade() else { return Err(Fault::closed()) };
                let deadline = Instant::now() + limit;
                let closing = survey.members.closing().clone();
                closing
                    .run_until_cancelled(survey.find_out(deadline, false))
                    .await
                    .unwrap_or_else(|| Err(Fault::closed()))
            }
        };
        // Who waits may have less patience than who began.
        let home = self.members.home();
        let surveyed = home.timeout(limit + SLACK, self.under_way.join(home, surveyed, survey)).await;
        surveyed.unwrap_or_else(|_| Err(Fault { blames_member: false, ..self.members.late() }))
    }

    /// Asks all members until one of them answers, or until each refuses for good.
    pub(crate) async fn insist(&self, limit: Duration) -> Result<(), Fault> {
        let survey = Weak::clone(&self.weak);
        let asking = self.members.home().spawn(async move {
            let Some(survey) = survey.upgrade() else { return Err(Fault::closed()) };
            survey.find_out(Instant::now() + limit, true).await
        });
        let mut asking = asking.map_err(|error| Fault::no_home(&error)).map(AbortOnDrop)?;
        (&mut asking.0).await.unwrap_or_else(|_| Err(Fault::unavailable("connecting was broken off")))
    }

    /// Looks the names up, asks who the members are, and decides which cluster is meant.
    /// `insistent` asks members that fail again.
    async fn find_out(&self, deadline: Instant, insistent: bool) -> Result<(), Fault> {
        self.look_up(deadline).await;
        let all = self.members.all();
        // Of a single one, any answer will say.
        if all.len() > 1 || insistent {
            self.probe_all(&all, deadline, insistent).await?;
        }
        if !self.done.swap(true, Ordering::AcqRel) && (self.discovery != Discovery::Off || self.has_names()) {
            drop(self.members.home().spawn(keep_up(Weak::clone(&self.weak))));
        }
        Ok(())
    }

    async fn probe_all(&self, all: &[Arc<Member>], deadline: Instant, insistent: bool) -> Result<(), Fault> {
        let mut probes: FuturesUnordered<_> =
            all.iter().map(|member| self.probe(Arc::clone(member), Duration::ZERO, deadline)).collect();
        let mut answers: Vec<(Arc<Member>, MemberStatus)> = Vec::new();
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
                Err(fault) if !fault.blames_member && !fault.over => refusals.push(fault),
                Err(fault) => {
                    // Silence says less than what was heard before it: the last look is cut short
                    // where time runs out.
                    if fault.kind != ErrorKind::Timeout || last.kind == ErrorKind::Timeout {
                        last = fault;
                    }
                    if insistent && Instant::now() + PROBE_PAUSE < deadline {
                        probes.push(self.probe(Arc::clone(&member), PROBE_PAUSE, deadline));
                    }
                    if !failed.contains(&member) {
                        failed.push(Arc::clone(&member));
                    }
                }
            }
            failed.retain(|failed| !answers.iter().any(|(member, _)| failed == member));
            if answers.is_empty() && refusals.is_empty() {
                continue;
            }
            patience = patience.min(Instant::now() + GRACE);
            let of = |cluster: u64| answers.iter().filter(|(_, told)| told.cluster() == cluster).count();
            let is_known = self.members.common.identity.known().is_some_and(|known| of(known) > 0);
            let most_agree =
                answers.iter().any(|(_, told)| told.cluster() != 0 && of(told.cluster()) * 2 > all.len());
            let all_were_asked = answers.len() + failed.len() + refusals.len() >= all.len();
            if is_known || most_agree || all_were_asked {
                break;
            }
        }
        let Some(cluster) = self.choose(all, &answers) else { return Err(refusals.pop().unwrap_or(last)) };
        let mut first = None;
        for (member, told) in &answers {
            let asked = self.members.asking(Arc::clone(member))?;
            match asked.link.main.recognise(told.header.as_ref()) {
                Ok(()) => {
                    self.members.recover(member);
                    first = first.or(Some(member));
                }
                Err(fault) => {
                    last = Fault { message: format!("{} ({})", fault.message, member.name).into(), ..fault };
                    self.members.report_failure(&asked, &last);
                }
            }
        }
        let Some(first) = first else { return Err(last) };
        if cluster == DEFAULT_CLUSTER && answers.len() > 1 {
            coord_home::event!(
                WARN,
                cluster = %format_args!("{cluster:x}"),
                "several endpoints answer as the one etcd that was started alone with its defaults; if \
                 they are several, a lock is held on each: start each with an --initial-cluster-token"
            );
        }
        // Many clients that begin at once spread over the members, unless the one by chance has not
        // answered.
        let usual = self.members.usual();
        let usual_answers =
            answers.iter().any(|(member, told)| *member == usual && told.cluster() == cluster);
        self.members.prefer(if usual_answers && !insistent { &usual } else { first });
        Ok(())
    }

    /// The cluster that is meant: the one that is known or, before it is, the one that most members
    /// belong to and, of two, that of the first endpoint. So clients with the same endpoints come
    /// to the same cluster.
    fn choose(&self, all: &[Arc<Member>], answers: &[(Arc<Member>, MemberStatus)]) -> Option<u64> {
        let place = |member: &Arc<Member>| all.iter().position(|known| known == member).unwrap_or(all.len());
        let mut clusters: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
        for (member, told) in answers.iter().filter(|(_, told)| told.cluster() != 0) {
            let (count, first) = clusters.entry(told.cluster()).or_insert((0, usize::MAX));
            (*count, *first) = (*count + 1, place(member).min(*first));
        }
        let most = clusters.into_iter().max_by_key(|(_, (count, first))| (*count, usize::MAX - first));
        // A cluster that the options name may be none of them: then each is told to be another.
        most.map(|(cluster, _)| self.members.common.identity.fix(cluster))
            .or_else(|| answers.first().map(|_| 0))
    }

    /// Asks one member who it is.
    async fn probe(
        &self,
        member: Arc<Member>,
        pause: Duration,
        deadline: Instant,
    ) -> (Arc<Member>, Result<MemberStatus, Fault>) {
        if !pause.is_zero() {
            sleep(pause).await;
        }
        let probed = match self.members.asking(Arc::clone(&member)) {
            Ok(asked) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let probed =
                    timeout(left.min(self.members.attempt_timeout), status::ask(&asked.link.main)).await;
                let probed = probed.unwrap_or_else(|_| Err(self.members.late()));
                // The next one is over a new link, for which all that it needs is looked at again.
                match &probed {
                    Err(fault) if fault.blames_member => self.members.report_failure(&asked, fault),
                    Err(fault) if fault.over => self.members.replace(&asked),
                    _ => {}
                }
                probed
            }
            Err(fault) => Err(fault),
        };
        (member, probed)
    }

    fn has_names(&self) -> bool {
        self.members.targets.iter().any(|target| target.known_address().is_none())
    }

    /// Looks the endpoints' names up: where one has several addresses, each is a member.
    async fn look_up(&self, deadline: Instant) {
        if !self.has_names() {
            return;
        }
        let look_up = |endpoint: &Target| {
            let (dialing, endpoint) = (self.members.common.dialing.clone(), endpoint.clone());
            async move { timeout_at(deadline, dialing.addresses(&endpoint)).await.ok().and_then(Result::ok) }
        };
        let found = join_all(self.members.targets.iter().map(look_up)).await;
        let known = self.members.all();
        let mut members: Vec<(Target, bool)> = Vec::new();
        for (endpoint, addresses) in self.members.targets.iter().zip(found) {
            let is_of = |target: &Target| target.host == endpoint.host && target.port == endpoint.port;
            let at = |address: IpAddr| Target { address: Some(address), ..endpoint.clone() };
            match addresses {
                // A name of one address is looked up for each connection.
                Some(addresses)
                    if addresses.len() > 1
                        || addresses
                            .iter()
                            .any(|a| known.iter().any(|member| member.target == at(a.ip()))) =>
                {
                    members.extend(addresses.iter().map(|address| (at(address.ip()), false)));
                }
                Some(_) => members.push((endpoint.clone(), false)),
                None => members.extend(
                    known
                        .iter()
                        .filter(|member| !member.learnt && is_of(&member.target))
                        .map(|member| (member.target.clone(), false)),
                ),
            }
        }
        members
            .extend(known.iter().filter(|member| member.learnt).map(|member| (member.target.clone(), true)));
        self.members.become_these(&members);
    }

    /// Asks the cluster who its members are.
    pub(crate) async fn discover(&self) -> Result<(), Fault> {
        if self.discovery == Discovery::Off {
            return Ok(());
        }
        let asked = self.members.asked()?;
        let told = asked.link.main.ask(Effect::Read, Client::cluster_client, |mut cluster| async move {
            cluster.member_list().await
        });
        let advertised = self.advertised(&told.await?.0);
        let named: Vec<_> = self.members.all().into_iter().filter(|member| !member.learnt).collect();
        for member in &named {
            if advertised.iter().any(|target| target.is_same_place(&member.target)) {
                member.is_advertised.store(true, Ordering::Relaxed);
            }
        }
        // One that was advertised may have been replaced since.
        let mut answering = named.iter().filter(|member| self.members.has_answered(member)).peekable();
        let agree = answering.peek().is_some()
            && answering.all(|member| member.is_advertised.load(Ordering::Relaxed));
        let has_learnt = self.members.all().iter().any(|member| member.learnt);
        if self.discovery == Discovery::Agreeing && !agree && !has_learnt {
            return Ok(());
        }
        let learnt = advertised
            .iter()
            .filter(|target| !named.iter().any(|member| target.is_same_place(&member.target)));
        let learnt: Vec<_> = learnt.map(|target| (target.clone(), true)).collect();
        let members: Vec<_> =
            named.iter().map(|member| (member.target.clone(), false)).chain(learnt).collect();
        self.members.become_these(&members);
        Ok(())
    }

    /// Where the cluster says that its members are reached, as far as it is of use.
    fn advertised(&self, told: &PbMemberListResponse) -> Vec<Target> {
        let encrypted = self.members.targets.iter().any(|target| target.encrypted);
        let voting = told.members.iter().filter(|member| !member.is_learner);
        let targets =
            voting.flat_map(|member| &member.client_ur_ls).filter_map(|url| Target::parse(url, false).ok());
        let is_somewhere =
            |target: &Target| target.known_address().is_none_or(|address| !address.is_unspecified());
        targets.filter(|target| target.encrypted == encrypted && is_somewhere(target)).collect()
    }
}

impl MemberStatus {
    fn cluster(&self) -> u64 {
        self.header.as_ref().map(|header| header.cluster_id).unwrap_or_default()
    }
}

/// Looks at who the members are, by and by and soon after one of them has failed.
async fn keep_up(survey: Weak<Survey>) {
    let mut pause = Duration::ZERO;
    loop {
        let Some(closing) = survey.upgrade().map(|survey| survey.members.closing().clone()) else { return };
        if closing.run_until_cancelled(wait(&survey, pause)).await.is_none() {
            return;
        }
        let Some(survey) = survey.upgrade() else { return };
        let limit = survey.members.attempt_timeout;
        let looked = closing.run_until_cancelled(async {
            survey.look_up(Instant::now() + limit).await;
            timeout(limit, survey.discover()).await
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
async fn wait(survey: &Weak<Survey>, pause: Duration) {
    // Only the members are held meanwhile, which the client ends.
    let Some(members) = survey.upgrade().map(|survey| Arc::clone(&survey.members)) else { return };
    let failed = async {
        members.failure.notified().await;
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
