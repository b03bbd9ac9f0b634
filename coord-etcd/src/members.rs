//! The members of the cluster, and which of them is asked.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use coord_api::{Error, ErrorKind, Outcome, Result};
use coord_recipes::Home;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::connection::{Common, Link};
use crate::dial::{Dialing, Target};
use crate::error::{Effect, Fault};
use crate::flight::Flight;
use crate::health::Health;
use crate::identity::Identity;
use crate::kv::barrier;
use crate::options::{Discovery, EtcdOptions};
use crate::pace::Pace;
use crate::survey::SLACK;

/// A caller who gave up after waiting at least so long had reason to. Renewals are given up long before an attempt's timeout.
const GIVEN_UP: Duration = Duration::from_millis(250);

/// Longer than anyone waits, and still a time that can be added to the present.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3_600);

/// How long a member that failed may take to pass a trial, however long calls may take.
const TRIAL_WITHIN: Duration = Duration::from_secs(5);

/// How often a call takes another link because the one that it had has ended. One of them may end as it is made.
const NEW_LINKS: usize = 2;

/// The members of one cluster.
///
/// One of them is asked until it fails: the first one by chance, so that many clients spread over the cluster. Then another one is, one that has not failed lately if there is any.
/// A member that failed is tried again in the background, one request at a time and over a new connection, as one that swallowed a request may swallow them all. When the first one
/// passes it is asked again, or else all clients would be with the same member after each has been restarted.
///
/// Who they are, and what becomes of them in the course of time, is found out in `survey`.
#[derive(Debug)]
pub(crate) struct Members {
    /// The endpoints of the options.
    pub(crate) targets: Vec<Target>,
    pub(crate) discovery: Discovery,
    list: Mutex<List>,
    pub(crate) common: Common,
    /// These members, for those who try one again.
    weak: Weak<Members>,
    /// How many links were made.
    links: AtomicU64,
    pub(crate) attempt_timeout: Duration,
    total_timeout: Duration,
    pace: Pace,
    closing: CancellationToken,
    /// Whether it is known who the members are.
    pub(crate) surveyed: AtomicBool,
    pub(crate) surveying: Flight<()>,
    /// A member has failed: perhaps it is none any more.
    pub(crate) news: Notify,
}

#[derive(Debug)]
struct List {
    /// Never empty.
    members: Vec<Arc<Member>>,
    /// The member that is asked while it answers.
    usual: Arc<Member>,
    /// The member that is asked now.
    preferred: Arc<Member>,
}

/// A member of the cluster, as it is reached in one way.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) target: Target,
    pub(crate) name: String,
    /// Whether no endpoint names it, but the cluster does.
    pub(crate) learnt: bool,
    /// Whether the cluster has said that a member is reached so.
    pub(crate) is_advertised: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    link: Option<Arc<Link>>,
    health: Health,
    /// Tries it again, while it counts as failed.
    trials: Option<JoinHandle<()>>,
    /// The foreign cluster that it was found in, which was reported.
    foreign: Option<u64>,
}

impl Member {
    fn new(target: Target, learnt: bool) -> Arc<Self> {
        Arc::new(Member { name: target.to_string(), target, learnt, is_advertised: AtomicBool::new(false), state: Mutex::default() })
    }

    /// When it last failed, unless it has recovered.
    pub(crate) fn failed(&self) -> Option<Instant> {
        self.state.lock().health.failed()
    }

    /// It has answered. Where it had failed, it is as one that has passed a trial.
    pub(crate) fn recover(&self, now: Instant) {
        let mut state = self.state.lock();
        if state.health.failed().is_some() {
            state.health.recover(now);
        }
    }

    /// Whether it was asked, and answered as one of the cluster.
    pub(crate) fn has_answered(&self) -> bool {
        let state = self.state.lock();
        state.health.failed().is_none() && state.link.as_ref().is_some_and(|link| link.main.is_identified())
    }
}

/// A member that was asked, by the link over which it was.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) member: Arc<Member>,
    pub(crate) link: Arc<Link>,
}

impl Members {
    /// The members that the options name. No I/O but reading files.
    pub(crate) fn new(options: &EtcdOptions, closing: CancellationToken) -> Result<Arc<Self>> {
        let checked = options.check()?;
        let home = options.home.clone().unwrap_or_else(|| Home::thread("coord-etcd"));
        let members: Vec<_> = checked.targets.iter().map(|target| Member::new(target.clone(), false)).collect();
        let Some(usual) = fastrand::choice(&members).cloned() else { return crate::options::refuse("no endpoint") };
        let attempt_timeout = checked.attempt_timeout.min(FOR_EVER);
        let total_timeout = checked.total_timeout.min(FOR_EVER);
        let common = Common {
            dialing: Dialing {
                home: home.clone(),
                resolver: options.resolver.clone(),
                encryption: checked.encryption,
                connect_timeout: options.connect_timeout.min(FOR_EVER),
                keepalive_interval: options.keepalive_interval.min(FOR_EVER),
                keepalive_timeout: options.keepalive_timeout.min(FOR_EVER),
            },
            account: checked.account,
            identity: Arc::new(Identity::new(checked.cluster)),
            sign_in_within: total_timeout,
            near: options.near,
        };
        Ok(Arc::new_cyclic(|weak| Members {
            targets: checked.targets,
            discovery: options.discovery,
            list: Mutex::new(List { members, preferred: Arc::clone(&usual), usual }),
            common,
            weak: Weak::clone(weak),
            links: AtomicU64::new(0),
            attempt_timeout,
            total_timeout,
            pace: Pace::new(home, attempt_timeout),
            closing,
            surveyed: AtomicBool::new(false),
            surveying: Flight::default(),
            news: Notify::new(),
        }))
    }

    /// The endpoints' addresses.
    pub(crate) fn names(&self) -> Vec<String> {
        self.targets.iter().map(Target::authority).collect()
    }

    /// Where what goes on in the background does so.
    pub(crate) fn home(&self) -> &Home {
        &self.common.dialing.home
    }

    /// Ends with the client.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    pub(crate) fn weak(&self) -> Weak<Members> {
        Weak::clone(&self.weak)
    }

    /// Who the members are.
    pub(crate) fn all(&self) -> Vec<Arc<Member>> {
        self.list.lock().members.clone()
    }

    fn count(&self) -> usize {
        self.list.lock().members.len()
    }

    /// Makes a request: of the preferred member, and of the others in turn where that is safe and the fault is the member's (R2).
    ///
    /// Each attempt is bounded, and all of them together. `Closed` when the client is, or is closed meanwhile. It is polled where the caller is; what it waits for goes on in
    /// the home.
    pub(crate) fn call<T, F>(
        &self,
        operation: &'static str,
        effect: Effect,
        request: impl Fn(Asked) -> F,
    ) -> impl Future<Output = Result<T>>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.call_within(operation, effect, self.attempt_timeout, request)
    }

    /// As [`call`](Self::call), with another bound for each attempt.
    pub(crate) async fn call_within<T, F>(
        &self,
        operation: &'static str,
        effect: Effect,
        limit: Duration,
        request: impl Fn(Asked) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.ready(operation)?;
        let started = self.home().now();
        self.pace.keep(started);
        if !self.surveyed.load(Ordering::Acquire) {
            // Boxed: it happens once.
            Box::pin(self.survey(limit.min(self.total_timeout))).await.map_err(|fault| fault.into_error(operation, effect))?;
        }
        let (mut since, mut tried, mut links) = (self.home().now(), 1, 0);
        loop {
            let left = self.total_timeout.saturating_sub(since - started);
            let fault = match self.attempt(since, limit.min(left), &request).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            since = self.home().now();
            if fault.over && links < NEW_LINKS {
                links += 1;
                continue;
            }
            if tried >= self.count() || !fault.moves_on(effect) || since - started >= self.total_timeout {
                return Err(fault.into_error(operation, effect));
            }
            tried += 1;
        }
    }

    /// Refuses what cannot be done any more, or here, before anything is sent.
    fn ready(&self, operation: &'static str) -> Result<()> {
        if self.closing.is_cancelled() {
            return Err(Error::closed(operation));
        }
        self.home().ready().map_err(|error| Fault::homeless(&error).into_error(operation, Effect::Read))
    }

    /// When a request that begins now must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        self.home().now() + self.total_timeout
    }

    async fn attempt<T, F>(&self, since: Instant, limit: Duration, request: impl Fn(Asked) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let asked = self.asked()?;
        let mut patience = Patience { members: self, asked: asked.clone(), since, settled: false };
        let answer = tokio::select! {
            biased;
            answer = self.home().timeout_at(since + limit, request(asked)) => answer.unwrap_or_else(|_| Err(self.late())),
            () = self.closing.cancelled() => Err(Fault::closed()),
        };
        patience.settled = true;
        match answer {
            Err(fault) if fault.over => {
                self.replace(&patience.asked);
                Err(fault)
            }
            Err(fault) if fault.accuses => {
                self.accuse(&patience.asked, &fault);
                Err(Fault { message: format!("{} ({})", fault.message, patience.asked.member.name).into(), ..fault })
            }
            answer => answer,
        }
    }

    /// Why there was no answer in time: that nobody can sign in, where that is known, or else nothing is.
    pub(crate) fn late(&self) -> Fault {
        self.common.account.as_ref().and_then(|account| account.refusal()).unwrap_or_else(Fault::silent)
    }

    /// The preferred member.
    fn asked(&self) -> Result<Asked, Fault> {
        self.asking(self.preferred())
    }

    /// The member that is asked now.
    pub(crate) fn preferred(&self) -> Arc<Member> {
        Arc::clone(&self.list.lock().preferred)
    }

    /// A member, by the link to it, which is made where there is none.
    pub(crate) fn asking(&self, member: Arc<Member>) -> Result<Asked, Fault> {
        let mut state = member.state.lock();
        let link = match &state.link {
            Some(link) => Arc::clone(link),
            None => Arc::clone(state.link.insert(self.link(&member.target)?)),
        };
        drop(state);
        Ok(Asked { member, link })
    }

    /// A new link to a member. No I/O.
    fn link(&self, target: &Target) -> Result<Arc<Link>, Fault> {
        let number = self.links.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Link::new(number, target, &self.common)?))
    }

    /// The connection has ended, which says nothing of the member: the next request makes another one.
    pub(crate) fn replace(&self, asked: &Asked) {
        let mut state = asked.member.state.lock();
        if state.link.as_ref().is_some_and(|link| link.number == asked.link.number) {
            state.link = None;
        }
    }

    /// A member failed, or was silent: another one is asked from now on, and this one is tried again by and by, over a new link.
    pub(crate) fn accuse(&self, asked: &Asked, fault: &Fault) {
        let member = &asked.member;
        // Counted first: the members' own locks are taken under that of their list, and never the other way round.
        let is_alone = self.count() == 1;
        let mut state = member.state.lock();
        if state.link.as_ref().is_none_or(|link| link.number != asked.link.number) {
            // It speaks of a link that nobody uses any more, and says nothing of how the member does now.
            return;
        }
        state.link = None;
        state.health.fail(self.home().now());
        if !is_alone {
            self.try_again(member, &mut state);
        }
        let reported = fault.foreign.is_none() || state.foreign == fault.foreign;
        state.foreign = fault.foreign.or(state.foreign);
        drop(state);
        if !reported {
            let (member, why) = (member.name.clone(), fault.message.clone());
            coord_home::event!(WARN, member, %why, "a member of another cluster is among the endpoints; it is not used");
        }
        self.leave(member, fault);
        self.news.notify_one();
    }

    /// Prefers another member, if this one was preferred.
    fn leave(&self, member: &Arc<Member>, fault: &Fault) {
        let mut list = self.list.lock();
        if !Arc::ptr_eq(&list.preferred, member) {
            return;
        }
        let Some(next) = another_than(member, &list.members) else { return };
        list.preferred = next;
        drop(list);
        let (member, why) = (member.name.clone(), fault.message.clone());
        coord_home::event!(DEBUG, member, %why, "another member is asked from now on");
    }

    /// Sees to it that a member that failed is tried again, while others are asked.
    fn try_again(&self, member: &Arc<Member>, state: &mut State) {
        if state.trials.as_ref().is_some_and(|trials| !trials.is_finished()) {
            return;
        }
        let trials = try_until_it_answers(self.weak(), Arc::downgrade(member));
        let closing = self.closing.clone();
        // Without a home there are no calls, and then the next failure begins the trials.
        state.trials = self.home().spawn(async move { closing.run_until_cancelled(trials).await.unwrap_or_default() }).ok();
    }

    /// Tries a member once, over a link of its own. Whether it has passed, so that no further trials are needed.
    async fn trial(&self, member: &Arc<Member>) -> bool {
        let answered = self.home().timeout(self.attempt_timeout.min(TRIAL_WITHIN), async {
            let link = self.link(&member.target)?;
            link.main.identify().await?;
            match barrier(&link.main).await {
                Err(fault) if fault.accuses => Err(fault),
                // Whatever else it says, it has come as far as the others.
                _ => Ok(()),
            }
        });
        let passed = matches!(answered.await, Ok(Ok(())));
        // The link is not kept: until it is needed it might break unseen, and whoever moves here has just lost one.
        let mut state = member.state.lock();
        if !passed {
            state.health.fail_trial();
            return false;
        }
        state.health.recover(self.home().now());
        state.foreign = None;
        state.trials = None;
        drop(state);
        let mut list = self.list.lock();
        let goes_home = Arc::ptr_eq(&list.usual, member);
        if goes_home {
            list.preferred = Arc::clone(member);
        }
        drop(list);
        let member = member.name.clone();
        coord_home::event!(DEBUG, member, goes_home, "a member that had failed answers again");
        true
    }

    /// From now on, this member is asked while it answers.
    pub(crate) fn prefer(&self, member: &Arc<Member>) {
        let mut list = self.list.lock();
        list.usual = Arc::clone(member);
        list.preferred = Arc::clone(member);
    }

    /// The member that is asked while it answers.
    pub(crate) fn usual(&self) -> Arc<Member> {
        Arc::clone(&self.list.lock().usual)
    }

    /// These are the members from now on, each with whether the cluster alone names it. One that is asked now and answers stays, whatever is said of it.
    pub(crate) fn become_these(&self, targets: &[(Target, bool)]) {
        let mut list = self.list.lock();
        let known = |target: &Target| list.members.iter().find(|member| member.target == *target).cloned();
        let mut members: Vec<Arc<Member>> = Vec::new();
        for (target, learnt) in targets {
            if !members.iter().any(|member| member.target == *target) {
                members.push(known(target).unwrap_or_else(|| Member::new(target.clone(), *learnt)));
            }
        }
        let stays = |member: &&Arc<Member>| Arc::ptr_eq(member, &list.preferred) && member.has_answered();
        let staying: Vec<_> = list.members.iter().filter(|member| !members.contains_same(member)).filter(stays).cloned().collect();
        members.extend(staying);
        let Some(any) = members.iter().min_by_key(|member| member.failed()).cloned() else { return };
        let names = |members: &[Arc<Member>]| members.iter().map(|member| member.name.clone()).collect::<Vec<_>>();
        let (before, now) = (names(&list.members), names(&members));
        if !members.contains_same(&list.usual) {
            let by_chance = || fastrand::choice(&members).unwrap_or(&any);
            list.usual = Arc::clone(if members.contains_same(&list.preferred) { &list.preferred } else { by_chance() });
        }
        if !members.contains_same(&list.preferred) {
            list.preferred = Arc::clone(if list.usual.failed().is_none() { &list.usual } else { &any });
        }
        list.members = members;
        drop(list);
        if before != now {
            coord_home::event!(INFO, ?before, ?now, "the members of the cluster have changed");
        }
    }

    /// How long to wait before a member that failed is tried again; `None` where it is none any more.
    fn pause(&self, member: &Arc<Member>) -> Option<Duration> {
        let is_member = self.list.lock().members.contains_same(member);
        is_member.then(|| member.state.lock().health.pause(fastrand::f64()))
    }

    /// Succeeds when a member answers, and prefers it (R3). Fails when none did within `limit`.
    pub(crate) async fn connect(&self, operation: &'static str, limit: Duration) -> Result<()> {
        self.ready(operation)?;
        let limit = limit.min(FOR_EVER);
        let connected = tokio::select! {
            biased;
            connected = self.home().timeout(limit + SLACK, self.connect_insistently(limit)) => connected.unwrap_or_else(|_| Err(self.late())),
            () = self.closing.cancelled() => Err(Fault::closed()),
        };
        connected.map_err(|fault| {
            // What a member refuses it refuses for good; all else is one that is out of reach.
            let kind = match fault.kind {
                ErrorKind::Timeout | ErrorKind::Internal => ErrorKind::Unavailable,
                kind => kind,
            };
            Fault { kind, outcome: Outcome::NotApplied, ..fault }.into_error(operation, Effect::Read)
        })
    }
}

/// One of the other members that have not failed, by chance; else the one that has not failed for the longest time.
fn another_than(failed: &Arc<Member>, members: &[Arc<Member>]) -> Option<Arc<Member>> {
    let start = fastrand::usize(..members.len().max(1));
    let others = members.iter().cycle().skip(start).take(members.len()).filter(|member| !Arc::ptr_eq(member, failed));
    others.min_by_key(|member| member.failed()).cloned()
}

/// Whether the very same member is among these.
pub(crate) trait ContainsSame {
    fn contains_same(&self, member: &Arc<Member>) -> bool;
}

impl ContainsSame for Vec<Arc<Member>> {
    fn contains_same(&self, member: &Arc<Member>) -> bool {
        self.iter().any(|known| Arc::ptr_eq(known, member))
    }
}

/// Ends when the member has passed a trial, or when nobody needs it any more.
async fn try_until_it_answers(members: Weak<Members>, member: Weak<Member>) {
    loop {
        let both = || Some((members.upgrade()?, member.upgrade()?));
        let Some(pause) = both().and_then(|(members, member)| members.pause(&member)) else { return };
        tokio::time::sleep(pause).await;
        let Some((members, member)) = both() else { return };
        if members.trial(&member).await {
            return;
        }
    }
}

/// Accuses a member whose caller lost patience and dropped the call, as one does whose lease runs out meanwhile.
struct Patience<'a> {
    members: &'a Members,
    asked: Asked,
    since: Instant,
    settled: bool,
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        if !self.settled && self.members.home().now().saturating_duration_since(self.since) >= GIVEN_UP {
            self.members.accuse(&self.asked, &Fault::unavailable("its caller gave up waiting"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// Each thread takes the locks that the other one takes.
    #[test]
    fn who_accuses_a_member_and_who_learns_of_all_of_them_do_not_wait_for_each_other() {
        let closing = CancellationToken::new();
        let members = Members::new(&EtcdOptions::new(["127.0.0.1:1", "127.0.0.1:2"]), closing.clone()).unwrap();
        let targets: Vec<_> = members.targets.iter().map(|target| (target.clone(), false)).collect();
        let (tell, done) = mpsc::channel();
        let (accusing, told) = (Arc::clone(&members), tell.clone());
        thread::spawn(move || {
            for _ in 0..3_000 {
                let asked = accusing.asking(accusing.preferred()).unwrap();
                accusing.accuse(&asked, &Fault::silent());
            }
            told.send(()).unwrap();
        });
        thread::spawn(move || {
            for _ in 0..100_000 {
                members.become_these(&targets);
            }
            tell.send(()).unwrap();
        });
        for _ in 0..2 {
            done.recv_timeout(Duration::from_secs(60)).expect("neither waits for ever");
        }
        closing.cancel();
    }
}
