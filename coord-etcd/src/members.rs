//! The members of the cluster, and which of them is asked.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use coord_api::{Error, Outcome, Result};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::connection::{Link, require_runtime};
use crate::error::{Effect, Fault};
use crate::options::{Credentials, EtcdOptions};
use crate::pace::Pace;
use crate::status::status;

/// A caller who gave up after waiting at least so long had reason to. Renewals are given up long before an attempt's timeout.
const GIVEN_UP: Duration = Duration::from_millis(250);

/// Longer than anyone waits, and still a time that can be added to the present.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3_600);

/// The pause between two looks at a member that does not answer yet.
const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// The members of one cluster.
///
/// One of them is asked until it fails; then the next one is, and stays. The first one is chosen by chance, so that many clients spread over the cluster. A member
/// that gave no answer is connected to anew when its turn comes again: a connection that swallowed one request may swallow them all.
#[derive(Debug)]
pub(crate) struct Members {
    members: Vec<Member>,
    preferred: AtomicUsize,
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
    link: Mutex<Option<Arc<Link>>>,
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
    pub(crate) fn new(options: &EtcdOptions, closing: CancellationToken) -> Result<Self> {
        let members: Vec<_> =
            options.endpoints()?.into_iter().map(|(name, endpoint)| Member { name, endpoint, link: Mutex::new(None) }).collect();
        let bound = |timeout: Option<Duration>| timeout.map_or(FOR_EVER, |timeout| timeout.min(FOR_EVER));
        let attempt_timeout = bound(options.retry.attempt_timeout);
        Ok(Members {
            preferred: AtomicUsize::new(fastrand::usize(..members.len())),
            members,
            links: AtomicU64::new(0),
            credentials: options.credentials.clone().map(Arc::new),
            attempt_timeout,
            total_timeout: bound(options.retry.total_timeout),
            pace: Pace::new(attempt_timeout),
            closing,
        })
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
        let link = Arc::clone(self.members.get(index)?.link.lock().as_ref()?);
        Some(Asked { index, link })
    }

    /// A member, connected to when it is first used.
    async fn member(&self, index: usize) -> Result<Asked, Fault> {
        let member = self.members.get(index).ok_or_else(|| Fault::nonsense("no such member"))?;
        if let Some(link) = &*member.link.lock() {
            return Ok(Asked { index, link: Arc::clone(link) });
        }
        let number = self.links.fetch_add(1, Ordering::Relaxed);
        let made = Arc::new(Link::new(number, &member.endpoint, self.credentials.clone()).await?);
        // Whoever was first: what is made twice did no I/O yet.
        let link = Arc::clone(member.link.lock().get_or_insert(made));
        Ok(Asked { index, link })
    }

    /// A member failed, or was silent: the next one is preferred from now on, and this one is connected to anew when it is asked again.
    pub(crate) fn accuse(&self, asked: &Asked, why: &str) {
        self.give_up_on(asked.whom(), why);
    }

    fn give_up_on(&self, whom: Whom, why: &str) {
        let next = (whom.index + 1) % self.members.len();
        let moved = self.preferred.compare_exchange(whom.index, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if let Some(member) = self.members.get(whom.index) {
            let mut link = member.link.lock();
            if link.as_ref().is_some_and(|link| link.number == whom.link) {
                *link = None;
            }
        }
        if moved {
            tracing::debug!(member = self.name(whom), why, "another member is asked from now on");
        }
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
