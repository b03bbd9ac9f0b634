//! How a channel behaves, and how a single call may differ.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coord_api::{Error, Result};
use coord_home::{Backoff, BackoffPolicy, Home};

use crate::resolver::Resolver;
#[cfg(feature = "tls")]
use crate::tls::ChannelTls;

/// Which of the ready endpoints a call goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The first one that is ready, in the order of the set (that of their ids, where the set comes
    /// from a registry). The others are connected all the same, so that the next one takes over at
    /// once.
    PickFirst,
}

/// What a call does while no endpoint is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Readiness {
    /// Fail at once with `Unavailable`. Only while the very first answer is still out (the set is
    /// being read, an endpoint is being connected and has not failed) a call waits for it, at most
    /// for the connect timeout.
    #[default]
    FailFast,
    /// Wait for one, until the call's deadline; without a deadline as long as it takes.
    Wait,
}

/// HTTP/2 pings, which find a connection that is open but leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeepAlive {
    /// How long a connection may be silent before it is asked for a sign of life. 330 s by default:
    /// servers of gRPC close connections that ask more often than every 5 min, unless they are told
    /// otherwise. Each time that one does so (GOAWAY with `ENHANCE_YOUR_CALM`) the endpoint is
    /// asked half as often ([`EndpointState::ping_after`](crate::EndpointState::ping_after)).
    pub interval: Duration,
    /// How long the answer may take. 10 s by default.
    pub timeout: Duration,
    /// Whether to ask also while no call is under way. Not by default, because many servers do not
    /// allow it.
    pub while_idle: bool,
}

impl Default for KeepAlive {
    fn default() -> Self {
        KeepAlive { interval: Duration::from_secs(330), timeout: Duration::from_secs(10), while_idle: false }
    }
}

impl KeepAlive {
    /// Sets how long a connection may be silent.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets how long the answer may take.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets whether to ask also while no call is under way.
    #[must_use]
    pub fn with_while_idle(mut self, while_idle: bool) -> Self {
        self.while_idle = while_idle;
        self
    }
}

/// How idempotent calls are repeated.
///
/// A call is repeated only where that is safe: it was [marked](CallOptions::with_idempotent), its
/// request fits the bound, and the last attempt was refused, cut off, timed out or answered with
/// `Unavailable`. (A request that never left is sent elsewhere in any case, marked or not: that is
/// no repetition.)
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct RetryOptions {
    /// How often a call is tried in all. 3 by default.
    pub attempts: u32,
    /// How many repetitions the channel allows for each idempotent call, so that an outage does not
    /// multiply the load. 0.2 by default; 0 to 10.
    pub budget: f32,
    /// How many repetitions a second are allowed beyond the budget, for channels with few calls. 10
    /// by default.
    pub reserve_per_second: u32,
    /// Up to how many bytes of a request are kept to send them again, and of an answer to see it
    /// whole before the caller does. 1 MiB by default.
    pub buffer: usize,
}

impl Default for RetryOptions {
    fn default() -> Self {
        RetryOptions { attempts: 3, budget: 0.2, reserve_per_second: 10, buffer: 1 << 20 }
    }
}

impl RetryOptions {
    /// Sets how often a call is tried in all.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Sets how many repetitions are allowed for each idempotent call.
    #[must_use]
    pub fn with_budget(mut self, budget: f32) -> Self {
        self.budget = budget;
        self
    }

    /// Sets how many repetitions a second are allowed beyond the budget.
    #[must_use]
    pub fn with_reserve_per_second(mut self, reserve: u32) -> Self {
        self.reserve_per_second = reserve;
        self
    }

    /// Sets up to how many bytes are kept.
    #[must_use]
    pub fn with_buffer(mut self, bytes: usize) -> Self {
        self.buffer = bytes;
        self
    }
}

/// Says of a method, by its path `/package.Service/Method`, whether it is idempotent.
type IdempotentMethods = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// How a channel behaves.
#[derive(Clone)]
#[non_exhaustive]
pub struct ChannelOptions {
    /// Which of the ready endpoints a call goes to.
    pub policy: Policy,
    /// What a call does while no endpoint is ready.
    pub readiness: Readiness,
    /// How long it may take to connect: name, TCP, TLS, and the server's first HTTP/2 frame. 5 s by
    /// default.
    pub connect_timeout: Duration,
    /// How long an attempt waits for the head of the answer. 5 s by default; `None` waits until the
    /// call's deadline. A stream that was answered goes on for as long as it likes.
    pub attempt_timeout: Option<Duration>,
    /// The deadline of calls that name none (`Request::set_timeout`), counted from the call to the
    /// head of its answer. None by default.
    pub deadline: Option<Duration>,
    /// HTTP/2 pings.
    pub keep_alive: KeepAlive,
    /// The pauses between probes of an endpoint that is out of reach grow from this, 100 ms by
    /// default, …
    pub backoff_min: Duration,
    /// … to this, 5 s by default, jitter included.
    pub backoff_max: Duration,
    /// How idempotent calls are repeated; `None`, the default, repeats none.
    pub retry: Option<RetryOptions>,
    /// Where the jitter of the pauses begins, and which endpoints are used where there are too
    /// many, so that a run can be repeated. By default it is chosen at random; channels that share
    /// it do the same at the same time.
    pub jitter_seed: Option<u64>,
    /// What the channel is called in metrics. By default it is the name of the service that it
    /// follows, else `unnamed`.
    pub name: Option<String>,
    /// How many connections the channel has at most, 128 by default. Of more endpoints than that it
    /// uses a part: with [`Policy::PickFirst`] the first ones, otherwise those that rank highest by
    /// a hash of the endpoint and the channel. So each channel uses others, all endpoints get their
    /// share where there are many channels, and a change of the set changes no more connections
    /// than endpoints. When none of its part is ready it tries others.
    pub max_connections: usize,
    home: Option<Home>,
    pub(crate) resolver: Option<Arc<dyn Resolver>>,
    idempotent: Option<IdempotentMethods>,
    #[cfg(feature = "tls")]
    tls: Option<ChannelTls>,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        ChannelOptions {
            policy: Policy::default(),
            readiness: Readiness::default(),
            connect_timeout: Duration::from_secs(5),
            attempt_timeout: Some(Duration::from_secs(5)),
            deadline: None,
            keep_alive: KeepAlive::default(),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            retry: None,
            jitter_seed: None,
            name: None,
            max_connections: 128,
            home: None,
            resolver: None,
            idempotent: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl ChannelOptions {
    /// Sets which of the ready endpoints a call goes to.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets what a call does while no endpoint is ready.
    #[must_use]
    pub fn with_readiness(mut self, readiness: Readiness) -> Self {
        self.readiness = readiness;
        self
    }

    /// Sets how long it may take to connect.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long an attempt waits for the head of the answer.
    #[must_use]
    pub fn with_attempt_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.attempt_timeout = timeout.into();
        self
    }

    /// Sets the deadline of calls that name none.
    #[must_use]
    pub fn with_deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.deadline = deadline.into();
        self
    }

    /// Sets the HTTP/2 pings.
    #[must_use]
    pub fn with_keep_alive(mut self, keep_alive: KeepAlive) -> Self {
        self.keep_alive = keep_alive;
        self
    }

    /// Sets the shortest and the longest pause between probes.
    #[must_use]
    pub fn with_backoff(mut self, min: Duration, max: Duration) -> Self {
        (self.backoff_min, self.backoff_max) = (min, max);
        self
    }

    /// Sets how idempotent calls are repeated.
    #[must_use]
    pub fn with_retry(mut self, retry: impl Into<Option<RetryOptions>>) -> Self {
        self.retry = retry.into();
        self
    }

    /// Sets where the jitter begins.
    #[must_use]
    pub fn with_jitter_seed(mut self, seed: u64) -> Self {
        self.jitter_seed = Some(seed);
        self
    }

    /// Sets what the channel is called in metrics. Names are few: each makes series of its own.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets how many connections the channel has at most.
    #[must_use]
    pub fn with_max_connections(mut self, most: usize) -> Self {
        self.max_connections = most;
        self
    }

    /// Sets who finds the addresses of host names. By default that is the system, which is asked
    /// for at most 16 names at once in the whole process, and once for all channels that want the
    /// same name.
    #[must_use]
    pub fn with_resolver(mut self, resolver: Arc<dyn Resolver>) -> Self {
        self.resolver = Some(resolver);
        self
    }

    /// Sets where the channel lives: its connections, its timers, and what follows the registry. By
    /// default that is a thread of its own, whichever runtime makes the channel or calls over it,
    /// and whatever becomes of that. Requests that come bit by bit are then drawn by a second
    /// thread, started by the first of them; elsewhere they are drawn where the channel lives, and
    /// must not block it.
    ///
    /// Channels that are given the same [`Home`] share its thread. One with very many calls a
    /// second may be given a runtime of several threads ([`Home::runtime`]); whoever gives it keeps
    /// it running.
    #[must_use]
    pub fn with_home(mut self, home: Home) -> Self {
        self.home = Some(home);
        self
    }

    pub(crate) fn has_own_home(&self) -> bool {
        self.home.is_none()
    }

    /// Where the channel lives.
    pub(crate) fn home(&self) -> Home {
        self.home.clone().unwrap_or_else(|| Home::thread("coord-grpc"))
    }

    /// Sets which methods are idempotent, by their path `/package.Service/Method`, for clients
    /// whose calls cannot be [marked](CallOptions::with_idempotent) one by one.
    #[must_use]
    pub fn with_idempotent_methods(mut self, methods: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.idempotent = Some(Arc::new(methods));
        self
    }

    /// Uses TLS for all endpoints.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: ChannelTls) -> Self {
        self.tls = Some(tls);
        self
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> Option<&ChannelTls> {
        self.tls.as_ref()
    }

    pub(crate) fn uses_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Pauses by a policy. Where the options have a seed, those of each `user` are the same each
    /// time, and others than those of the others.
    pub(crate) fn backoff(&self, policy: BackoffPolicy, user: u64) -> Backoff {
        match self.jitter_seed {
            Some(seed) => Backoff::with_seed(policy, seed.wrapping_add(user)),
            None => Backoff::new(policy),
        }
    }

    pub(crate) fn is_idempotent(&self, method: &str) -> bool {
        self.idempotent.as_ref().is_some_and(|idempotent| idempotent(method))
    }

    /// What no channel could work with.
    pub(crate) fn validate(&self, operation: &'static str) -> Result<()> {
        let zero = [Some(self.connect_timeout), self.attempt_timeout, self.deadline, Some(self.backoff_min)];
        let pings = [self.keep_alive.interval, self.keep_alive.timeout];
        if zero.into_iter().flatten().chain(pings).any(|duration| duration.is_zero()) {
            return Err(Error::invalid_argument(operation, "a timeout or back-off of zero"));
        }
        if self.backoff_max < self.backoff_min {
            return Err(Error::invalid_argument(operation, "a longest back-off below the shortest"));
        }
        if self.max_connections == 0 {
            return Err(Error::invalid_argument(
                operation,
                "a channel that may have no connection; `max_connections` is at least 1",
            ));
        }
        if let Some(retry) = self.retry {
            if !(0.0..=10.0).contains(&retry.budget)
                || retry.attempts == 0
                || retry.reserve_per_second > 1_000_000
            {
                return Err(Error::invalid_argument(
                    operation,
                    "a retry budget outside of 0 to 10, no attempt, or more than 1,000,000 repetitions a second",
                ));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ChannelOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelOptions")
            .field("policy", &self.policy)
            .field("readiness", &self.readiness)
            .field("connect_timeout", &self.connect_timeout)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("deadline", &self.deadline)
            .field("keep_alive", &self.keep_alive)
            .field("backoff_min", &self.backoff_min)
            .field("backoff_max", &self.backoff_max)
            .field("retry", &self.retry)
            .field("max_connections", &self.max_connections)
            .field("tls", &self.uses_tls())
            .finish_non_exhaustive()
    }
}

/// How one call differs from the channel's options. It goes into the extensions of the request:
///
/// ```
/// use coord_grpc::{CallOptions, Readiness};
///
/// let mut request = tonic::Request::new(());
/// request.extensions_mut().insert(CallOptions::default().with_idempotent().with_readiness(Readiness::Wait));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallOptions {
    /// Whether the call may be repeated.
    pub idempotent: bool,
    /// What the call does while no endpoint is ready; `None` leaves it to the channel.
    pub readiness: Option<Readiness>,
    /// How long an attempt waits for the head of the answer; `None` leaves it to the channel,
    /// `Some(None)` waits until the deadline.
    pub attempt_timeout: Option<Option<Duration>>,
}

impl CallOptions {
    /// Marks a unary call as idempotent: made twice it does no more than made once, so it may be
    /// repeated if the channel has [`retry`](ChannelOptions::with_retry) on.
    ///
    /// Its answer is read to the end, or to the bound, before the caller gets any of it, so that
    /// one that breaks off half-way can be had again. That makes it unfit for streams.
    #[must_use]
    pub fn with_idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Sets what the call does while no endpoint is ready.
    #[must_use]
    pub fn with_readiness(mut self, readiness: Readiness) -> Self {
        self.readiness = Some(readiness);
        self
    }

    /// Sets how long an attempt waits for the head of the answer; `None` waits until the deadline.
    #[must_use]
    pub fn with_attempt_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.attempt_timeout = Some(timeout.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use coord_api::ErrorKind;

    use super::*;

    #[test]
    fn what_cannot_work_is_refused() {
        assert!(ChannelOptions::default().validate("t").is_ok());
        let zero = Duration::ZERO;
        for bad in [
            ChannelOptions::default().with_connect_timeout(zero),
            ChannelOptions::default().with_attempt_timeout(zero),
            ChannelOptions::default().with_deadline(zero),
            ChannelOptions::default().with_backoff(zero, zero),
            ChannelOptions::default().with_backoff(Duration::from_secs(2), Duration::from_secs(1)),
            ChannelOptions::default().with_keep_alive(KeepAlive::default().with_timeout(zero)),
            ChannelOptions::default().with_retry(RetryOptions::default().with_budget(f32::NAN)),
            ChannelOptions::default().with_retry(RetryOptions::default().with_attempts(0)),
            ChannelOptions::default().with_max_connections(0),
        ] {
            assert_eq!(bad.validate("t").unwrap_err().kind(), ErrorKind::InvalidArgument, "{bad:?}");
        }
    }
}
