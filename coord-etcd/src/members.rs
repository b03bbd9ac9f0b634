//! The members of the cluster, and which of them is asked.

use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use coord_api::{Error, Outcome, Result};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::connection::{Link, require_runtime};
use crate::error::{Effect, Fault};
use crate::health::Health;
use crate::kv::barrier;
use crate::options::{Credentials, EtcdOptions};
use crate::pace::Pace;
use crate::status::status;

/// A caller who gave up after waiting at least so long had reason to. Renewals are given up long before an attempt's timeout.
const GIVEN_UP: Duration = Duration::from_millis(250);

/// Longer than anyone waits, and still a time that can be added to the present.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3_600);

/// The pause between two looks at a member that does not answer yet.
const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// How long a member that failed may take to pass a trial, however long calls may take.
const TRIAL_WITHIN: Duration = Duration::from_secs(5);

/// The members of one cluster.
///
/// One of them is asked until it fails: the first one by chance, so that many clients spread over the cluster. Then another one is, one that has not failed lately if there is any.
/// A member that failed is tried again in the background, one request at a time and over a new connection, as one that swallowed a request may swallow them all. When the first one
/// passes it is asked again, or else all clients would be with the same member after each has been restarted.
#[derive(Debug)]
pub(crate) struct Members {
    members: Vec<Member>,
    /// The member that is asked while it answers.
    home: AtomicUsize,
    /// The member that is asked now.
    preferred: AtomicUsize,
    /// These members, for those who try one again.
    weak: Weak<Members>,
    /// How many links were made.
    links: AtomicU64,
    credentials: Option<Arc<Credentials>>,
    attempt_timeout: Duration,
    total_timeout: Duration,
    pace: Pace,
    closing: CancellationToken,
}

#[derive(Debug)]
struct Member {
    name: String,
    endpoint: Endpoint,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    link: Option<Arc<Link>>,
    health: Health,
    /// Tries it again, while it counts as failed.
    trials: Option<JoinHandle<()>>,
}

/// A member that was asked, by the link over which it was.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    index: usize,
    pub(crate) link: Arc<Link>,
}

impl Asked {
    fn whom(&self) -> Whom {
        Whom { index: self.index, link: self.link.number }
    }
}

/// Which member was asked, and by which of the links that were made.
#[derive(Clone, Copy, Debug)]
struct Whom {
    index: usize,
    link: u64,
}

impl Members {
    /// The members that the options name. No I/O.
    pub(crate) fn new(options: &EtcdOptions, closing: CancellationToken) -> Result<Arc<Self>> {
        let members: Vec<_> =
            options.endpoints()?.into_iter().map(|(name, endpoint)| Member { name, endpoint, state: Mutex::default() }).collect();
        let bound = |timeout: Option<Duration>| timeout.map_or(FOR_EVER, |timeout| timeout.min(FOR_EVER));
        let attempt_timeout = bound(options.retry.attempt_timeout);
        let home = fastrand::usize(..members.len());
        Ok(Arc::new_cyclic(|weak| Members {
            members,
            home: AtomicUsize::new(home),
            preferred: AtomicUsize::new(home),
            weak: Weak::clone(weak),
            links: AtomicU64::new(0),
            credentials: options.credentials.clone().map(Arc::new),
            attempt_timeout,
            total_timeout: bound(options.retry.total_timeout),
            pace: Pace::new(attempt_timeout),
            closing,
        }))
    }

    /// The members' addresses.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.members.iter().map(|member| member.name.as_str()).collect()
    }

    /// Ends with the client.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Makes a request: of the preferred member, and of the others in turn where that is safe and the fault is the member's (R2).
    ///
    /// Each attempt is bounded, and all of them together. `Closed` when the client is, or is closed meanwhile.
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
        require_runtime().map_err(|fault| fault.into_error(operation, effect))?;
        if self.closing.is_cancelled() {
            return Err(Error::closed(operation));
        }
        self.pace.keep();
        let started = Instant::now();
        let (mut since, mut tried) = (started, 1);
        loop {
            let left = self.total_timeout.saturating_sub(since - started);
            let fault = match self.attempt(since, limit.min(left), &request).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            since = Instant::now();
            if tried >= self.members.len() || !fault.moves_on(effect) || since - started >= self.total_timeout {
                return Err(fault.into_error(operation, effect));
            }
            tried += 1;
        }
    }

    /// When a request that begins now must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.total_timeout
    }

    async fn attempt<T, F>(&self, since: Instant, limit: Duration, request: impl Fn(Asked) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        // Made apart, which is rare, so that not every request is as large as that.
        let asked = match self.connected() {
            Some(asked) => asked,
            None => Box::pin(self.member(self.preferred.load(Ordering::Relaxed))).await?,
        };
        let whom = asked.whom();
        let mut patience = Patience { members: self, whom, since, settled: false };
        let answer = tokio::select! {
            biased;
            answer = timeout_at(since + limit, request(asked)) => answer.unwrap_or_else(|_| Err(Fault::silent())),
            () = self.closing.cancelled() => Err(Fault::closed()),
        };
        patience.settled = true;
        match answer {
            Err(fault) if fault.accuses => {
                self.give_up_on(whom, &fault.message);
                Err(Fault { message: format!("{} ({})", fault.message, self.name(whom)).into(), ..fault })
            }
            answer => answer,
        }
    }

    /// The preferred member, if it was used before.
    fn connected(&self) -> Option<Asked> {
        let index = self.preferred.load(Ordering::Relaxed);
        let link = Arc::clone(self.members.get(index)?.state.lock().link.as_ref()?);
        Some(Asked { index, link })
    }

    /// A member, connected to when it is first used.
    async fn member(&self, index: usize) -> Result<Asked, Fault> {
        let member = self.members.get(index).ok_or_else(|| Fault::nonsense("no such member"))?;
        if let Some(link) = &member.state.lock().link {
            return Ok(Asked { index, link: Arc::clone(link) });
        }
        let made = self.link(member).await?;
        // Whoever was first: what is made twice did no I/O yet.
        let link = Arc::clone(member.state.lock().link.get_or_insert(made));
        Ok(Asked { index, link })
    }

    /// A new link to a member. No I/O.
    async fn link(&self, member: &Member) -> Result<Arc<Link>, Fault> {
        let number = self.links.fetch_add(1, Ordering::Relaxed);
        // Boxed: etcd-client's own making of a client takes 20 KiB.
        Ok(Arc::new(Box::pin(Link::new(number, &member.endpoint, self.credentials.clone())).await?))
    }

    /// A member failed, or was silent: another one is asked from now on, and this one is tried again by and by, over a new link.
    pub(crate) fn accuse(&self, asked: &Asked, why: &str) {
        self.give_up_on(asked.whom(), why);
    }

    fn give_up_on(&self, whom: Whom, why: &str) {
        let Some(member) = self.members.get(whom.index) else { return };
        let mut state = member.state.lock();
        if state.link.as_ref().is_none_or(|link| link.number != whom.link) {
            // It speaks of a link that nobody uses any more, and says nothing of how the member does now.
            return;
        }
        state.link = None;
        state.health.fail(Instant::now());
        self.try_again(whom.index, &mut state);
        drop(state);
        let next = self.another_than(whom.index);
        if self.preferred.compare_exchange(whom.index, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::debug!(member = self.name(whom), why, "another member is asked from now on");
        }
    }

    /// One of the other members that have not failed, by chance; else the one that has not failed for the longest time.
    fn another_than(&self, failed: usize) -> usize {
        let count = self.members.len();
        let start = fastrand::usize(..count);
        let others = self.members.iter().enumerate().cycle().skip(start).take(count).filter(|(index, _)| *index != failed);
        others.min_by_key(|(_, member)| member.state.lock().health.failed()).map_or(failed, |(index, _)| index)
    }

    /// Sees to it that a member that failed is tried again, if there is another one to ask meanwhile.
    fn try_again(&self, index: usize, state: &mut State) {
        if self.members.len() == 1 || state.trials.as_ref().is_some_and(|trials| !trials.is_finished()) {
            return;
        }
        // A call may be dropped where there is no runtime. Then the next failure begins the trials.
        if let Ok(runtime) = Handle::try_current() {
            let trials = try_until_it_answers(Weak::clone(&self.weak), index);
            let closing = self.closing.clone();
            state.trials = Some(runtime.spawn(async move {
                closing.run_until_cancelled(trials).await;
            }));
        }
    }

    /// Tries a member once, over a link of its own. Whether it has passed, so that no further trials are needed.
    async fn trial(&self, index: usize) -> bool {
        let Some(member) = self.members.get(index) else { return true };
        let answered = timeout(self.attempt_timeout.min(TRIAL_WITHIN), async {
            let link = self.link(member).await?;
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
        state.health.recover(Instant::now());
        state.trials = None;
        drop(state);
        let goes_home = index == self.home.load(Ordering::Relaxed);
        if goes_home {
            self.preferred.store(index, Ordering::Relaxed);
        }
        tracing::debug!(member = member.name, goes_home, "a member that had failed answers again");
        true
    }

    /// How long to wait before a member that failed is tried again.
    fn pause(&self, index: usize) -> Duration {
        self.members.get(index).map_or(Duration::ZERO, |member| member.state.lock().health.pause(fastrand::f64()))
    }

    fn name(&self, whom: Whom) -> &str {
        self.members.get(whom.index).map_or("", |member| &member.name)
    }

    /// Succeeds when the first member answers, and prefers it (R3). Fails when none did within `limit`, or one for good.
    pub(crate) async fn connect(&self, operation: &'static str, limit: Duration) -> Result<()> {
        require_runtime().map_err(|fault| fault.into_error(operation, Effect::Read))?;
        let deadline = Instant::now() + limit;
        let mut probes: FuturesUnordered<_> = (0..self.members.len()).map(|index| self.probe(index, deadline)).collect();
        let mut last = Fault::silent();
        while let Some(probed) = probes.next().await {
            match probed {
                Ok(index) => {
                    self.home.store(index, Ordering::Relaxed);
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(());
                }
                Err(fault) if !fault.accuses => return Err(fault.into_error(operation, Effect::Read)),
                Err(fault) => last = fault,
            }
        }
        Err(Fault { kind: coord_api::ErrorKind::Unavailable, outcome: Outcome::NotApplied, ..last }.into_error(operation, Effect::Read))
    }

    /// Asks one member until it answers, or fails for good.
    async fn probe(&self, index: usize, deadline: Instant) -> Result<usize, Fault> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let probed = timeout(left.min(self.attempt_timeout), async {
                let asked = self.member(index).await?;
                status(&asked.link.main).await
            });
            match probed.await.unwrap_or_else(|_| Err(Fault::silent())) {
                Ok(_) => return Ok(index),
                Err(fault) if !fault.accuses || Instant::now() + PROBE_PAUSE >= deadline => return Err(fault),
                Err(_) => sleep(PROBE_PAUSE).await,
            }
        }
    }
}

/// Ends when the member has passed a trial, or when nobody needs it any more.
async fn try_until_it_answers(members: Weak<Members>, index: usize) {
    loop {
        let Some(pause) = members.upgrade().map(|members| members.pause(index)) else { return };
        sleep(pause).await;
        let Some(members) = members.upgrade() else { return };
        if members.trial(index).await {
            return;
        }
    }
}

/// Accuses a member whose caller lost patience and dropped the call, as one does whose lease runs out meanwhile.
struct Patience<'a> {
    members: &'a Members,
    whom: Whom,
    since: Instant,
    settled: bool,
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        if !self.settled && self.since.elapsed() >= GIVEN_UP {
            self.members.give_up_on(self.whom, "its caller gave up waiting");
        }
    }
}
