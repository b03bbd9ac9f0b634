//! Requests of the cluster: whichever of its members answers them.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use coord_api::store::Effect;
use coord_api::{Error, ErrorKind, Outcome, Result};
use coord_recipes::Home;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::Fault;
use crate::members::{Asked, Members};
use crate::options::EtcdOptions;
use crate::survey::{SLACK, Survey};

/// A caller who gave up after waiting at least so long had reason to. Renewals are given up long
/// before an attempt's timeout.
const GIVEN_UP: Duration = Duration::from_millis(250);

/// How often a call takes another link because the one that it had has ended. One of them may end
/// as it is made.
const NEW_LINKS: usize = 2;

/// One cluster, as a client has it.
#[derive(Debug)]
pub(crate) struct Cluster {
    members: Arc<Members>,
    survey: Arc<Survey>,
}

impl Cluster {
    /// The cluster of the options. No I/O but reading files.
    pub(crate) fn new(options: &EtcdOptions, closing: CancellationToken) -> Result<Self> {
        let members = Members::new(options, closing)?;
        Ok(Cluster { survey: Survey::new(Arc::clone(&members), options.discovery), members })
    }

    /// The members, for what lives on a connection to one of them.
    pub(crate) fn members(&self) -> &Arc<Members> {
        &self.members
    }

    /// Who the members are, and how that is found out.
    pub(crate) fn survey(&self) -> &Survey {
        &self.survey
    }

    /// Where what goes on in the background does so.
    pub(crate) fn home(&self) -> &Home {
        self.members.home()
    }

    /// Ends with the client.
    pub(crate) fn closing(&self) -> &CancellationToken {
        self.members.closing()
    }

    /// When a request that begins now must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        self.home().now() + self.members.total_timeout
    }

    /// Makes a request: of the preferred member, and of the others in turn where that is safe and
    /// the fault is the member's (R2).
    ///
    /// Each attempt is bounded, and all of them together. `Closed` when the client is, or is closed
    /// meanwhile. It is polled where the caller is; what it waits for goes on in the home.
    pub(crate) fn call<T, F>(
        &self,
        operation: &'static str,
        effect: Effect,
        request: impl Fn(Asked) -> F,
    ) -> impl Future<Output = Result<T>>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.call_within(operation, effect, self.members.attempt_timeout, request)
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
        let total = self.members.total_timeout;
        if !self.survey.is_done() {
            // Boxed: it happens once.
            Box::pin(self.survey.ensure(limit.min(total)))
                .await
                .map_err(|fault| fault.into_error(operation, effect))?;
        }
        let (mut since, mut tried, mut links) = (self.home().now(), 1, 0);
        loop {
            let left = total.saturating_sub(since - started);
            let fault = match self.attempt(since, limit.min(left), &request).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            since = self.home().now();
            if fault.over && links < NEW_LINKS {
                links += 1;
                continue;
            }
            if tried >= self.members.count() || !fault.may_try_another(effect) || since - started >= total {
                return Err(fault.into_error(operation, effect));
            }
            tried += 1;
        }
    }

    /// Refuses what cannot be done any more, or here, before anything is sent.
    fn ready(&self, operation: &'static str) -> Result<()> {
        if self.closing().is_cancelled() {
            return Err(Error::closed(operation));
        }
        self.home().ready().map_err(|error| Fault::no_home(&error).into_error(operation, Effect::Read))
    }

    async fn attempt<T, F>(
        &self,
        since: Instant,
        limit: Duration,
        request: impl Fn(Asked) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let asked = self.members.asked()?;
        let mut watched =
            ReportOnDrop { members: &self.members, asked: asked.clone(), since, answered: false };
        let mut answering = pin!(request(asked));
        let answer = self.members.until(since + limit, answering.as_mut()).await;
        watched.answered = true;
        match answer {
            Err(fault) if fault.over => {
                self.members.replace(&watched.asked);
                Err(fault)
            }
            Err(fault) if fault.blames_member => {
                self.members.report_failure(&watched.asked, &fault);
                Err(Fault {
                    message: format!("{} ({})", fault.message, watched.asked.member.name).into(),
                    ..fault
                })
            }
            answer => answer,
        }
    }

    /// Succeeds when a member answers, and prefers it (R3). Fails when none did within `limit`.
    pub(crate) async fn connect(&self, operation: &'static str, limit: Duration) -> Result<()> {
        self.ready(operation)?;
        let limit = limit.min(Members::FOR_EVER);
        let connected =
            self.members.until(self.home().now() + limit + SLACK, self.survey.insist(limit)).await;
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

/// Reports a failure of the member when its caller gives up waiting and drops the call, as one does
/// whose lease is about to run out.
struct ReportOnDrop<'a> {
    members: &'a Members,
    asked: Asked,
    since: Instant,
    answered: bool,
}

impl Drop for ReportOnDrop<'_> {
    fn drop(&mut self) {
        if !self.answered && self.members.home().now().saturating_duration_since(self.since) >= GIVEN_UP {
            self.members.report_failure(&self.asked, &Fault::unavailable("its caller gave up waiting"));
        }
    }
}
