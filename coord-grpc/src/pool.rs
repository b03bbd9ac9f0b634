//! The set of endpoints, and which of them are ready.
//!
//! Calls read the ready connections without a lock. Everything else is behind one mutex that is held for no I/O.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use coord_api::{Error, ErrorKind};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use crate::connection::Connection;
use crate::endpoint::{Endpoint, Scheme};
use crate::options::{ChannelOptions, Policy, Readiness};
use crate::state::{EndpointState, Phase, Skipped};
use crate::worker;

const OPERATION: &str = "grpc.channel";

/// The endpoints of a channel.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) options: ChannelOptions,
    runtime: Handle,
    set: Mutex<Set>,
    /// The connections of the endpoints that are ready, in the order of the set.
    ready: ArcSwap<Vec<Arc<Connection>>>,
    turn: AtomicUsize,
    /// Who waits for an endpoint looks again.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Set {
    members: Vec<Member>,
    skipped: Vec<Skipped>,
    /// When the set was known to be the present one.
    confirmed: Option<Instant>,
    /// Why there is no set yet.
    unread: Option<Error>,
    next_id: u64,
    closed: bool,
}

#[derive(Debug)]
struct Member {
    /// Unique in the pool, so that a worker never speaks for a successor with the same address.
    id: u64,
    endpoint: Endpoint,
    phase: Phase,
    since: Instant,
    failure: Option<Error>,
    connection: Option<Arc<Connection>>,
    connections: u64,
    /// Ends the worker.
    _worker: DropGuard,
}

impl Member {
    fn enter(&mut self, phase: Phase, connection: Option<Arc<Connection>>) {
        (self.phase, self.since, self.connection) = (phase, Instant::now(), connection);
    }
}

impl Set {
    fn member(&mut self, id: u64) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.id == id)
    }
}

impl Pool {
    pub(crate) fn new(options: ChannelOptions, runtime: Handle) -> Arc<Self> {
        Arc::new(Pool {
            options,
            runtime,
            set: Mutex::default(),
            ready: ArcSwap::default(),
            turn: AtomicUsize::new(0),
            changed: Notify::new(),
        })
    }

    /// The connection for the next call, other than `avoid` if there is any other.
    pub(crate) fn pick(&self, avoid: Option<&Arc<Connection>>) -> Option<Arc<Connection>> {
        let ready = self.ready.load();
        let first = match self.options.policy {
            Policy::RoundRobin if ready.len() > 1 => self.turn.fetch_add(1, Ordering::Relaxed) % ready.len(),
            _ => 0,
        };
        let (before, from) = ready.split_at(first);
        let open = || from.iter().chain(before).filter(|connection| connection.is_open());
        let other = |connection: &&Arc<Connection>| avoid.is_none_or(|avoid| !Arc::ptr_eq(avoid, connection));
        // One that is on trial and busy is better than none.
        let picked = open().filter(other).find(|connection| connection.admits()).or_else(|| open().find(other)).or_else(|| open().next());
        picked.map(Arc::clone)
    }

    /// As [`pick`](Self::pick), and waits for one where that makes sense.
    ///
    /// Cancel safe.
    pub(crate) async fn connection(&self, readiness: Readiness, avoid: Option<&Arc<Connection>>) -> Result<Arc<Connection>, Status> {
        self.until(readiness, || self.pick(avoid)).await
    }

    /// Waits until an endpoint is ready, and leaves it alone.
    pub(crate) async fn ready(&self, readiness: Readiness) -> Result<(), Status> {
        self.until(readiness, || self.ready.load().iter().any(|connection| connection.is_open()).then_some(())).await
    }

    async fn until<T>(&self, readiness: Readiness, find: impl Fn() -> Option<T>) -> Result<T, Status> {
        loop {
            if let Some(found) = find() {
                return Ok(found);
            }
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = find() {
                return Ok(found);
            }
            self.hope(readiness)?;
            changed.await;
        }
    }

    /// Whether to wait for an endpoint; if not, why there is none.
    fn hope(&self, readiness: Readiness) -> Result<(), Status> {
        let set = self.set.lock();
        if set.closed {
            return Err(Status::unavailable("the channel was dropped"));
        }
        let open = match (&set.confirmed, &set.unread) {
            (None, unread) => unread.is_none(),
            // One that counts as ready here has just dropped its connection, and its worker is about to say what comes of it.
            (Some(_), _) => set.members.iter().any(|member| member.phase != Phase::Ejected),
        };
        if open || readiness == Readiness::Wait {
            return Ok(());
        }
        let count = set.members.len();
        let last = set.members.iter().rev().find_map(|member| member.failure.as_ref().map(|failure| (&member.endpoint, failure)));
        Err(Status::unavailable(match (&set.unread, last) {
            (Some(unread), _) if set.confirmed.is_none() => format!("the set of endpoints could not be read yet: {unread}"),
            (_, Some((endpoint, failure))) => format!("none of {count} endpoints is ready; {endpoint}: {}", failure.message()),
            _ => format!("there is no endpoint ({} were skipped)", set.skipped.len()),
        }))
    }

    /// Replaces the set. Endpoints that stay keep their connections; those that go finish the calls that they have.
    pub(crate) fn replace(self: &Arc<Self>, wanted: impl IntoIterator<Item = (String, Endpoint)>, mut skipped: Vec<Skipped>) {
        let mut set = self.set.lock();
        if set.closed {
            return;
        }
        let mut old: HashMap<Endpoint, Member> = set.members.drain(..).map(|member| (member.endpoint.clone(), member)).collect();
        let mut taken: HashMap<Endpoint, String> = HashMap::new();
        for (id, endpoint) in wanted {
            if let Some(error) = self.wrong_protocol(&endpoint) {
                skipped.push(Skipped { id, error });
            } else if let Some(owner) = taken.get(&endpoint) {
                let error = Error::new(ErrorKind::Conflict, OPERATION, format!("{owner} has the address {endpoint} already"));
                skipped.push(Skipped { id, error });
            } else {
                taken.insert(endpoint.clone(), id);
                let member = old.remove(&endpoint).unwrap_or_else(|| self.hire(&mut set, endpoint));
                set.members.push(member);
            }
        }
        for endpoint in old.keys() {
            tracing::debug!(%endpoint, "endpoint removed");
        }
        set.skipped = skipped;
        (set.confirmed, set.unread) = (Some(Instant::now()), None);
        self.publish(&set);
    }

    fn wrong_protocol(&self, endpoint: &Endpoint) -> Option<Error> {
        let wrong = match endpoint.scheme() {
            Scheme::Https if !self.options.uses_tls() => "an https address in a channel without TLS",
            Scheme::Http if self.options.uses_tls() => "an http address in a channel with TLS",
            _ => return None,
        };
        Some(Error::invalid_argument(OPERATION, wrong))
    }

    fn hire(self: &Arc<Self>, set: &mut Set, endpoint: Endpoint) -> Member {
        set.next_id += 1;
        let (id, stop) = (set.next_id, CancellationToken::new());
        let work = worker::keep_connected(Arc::clone(self), id, endpoint.clone());
        let stopped = stop.clone();
        self.runtime.spawn(async move { stopped.run_until_cancelled(work).await });
        tracing::debug!(%endpoint, "endpoint added");
        Member {
            id,
            endpoint,
            phase: Phase::Connecting,
            since: Instant::now(),
            failure: None,
            connection: None,
            connections: 0,
            _worker: stop.drop_guard(),
        }
    }

    /// The set is still the present one.
    pub(crate) fn confirm(&self) {
        self.set.lock().confirmed = Some(Instant::now());
    }

    /// The set could not be read.
    pub(crate) fn unread(&self, error: Error) {
        let mut set = self.set.lock();
        set.unread = Some(error);
        self.publish(&set);
    }

    /// A worker has a connection that takes calls.
    pub(crate) fn admit(&self, id: u64, connection: &Arc<Connection>) {
        self.update(id, |member| {
            tracing::debug!(endpoint = %member.endpoint, "endpoint ready");
            member.connections += 1;
            member.enter(Phase::Ready, Some(Arc::clone(connection)));
        });
    }

    /// A worker's connection dropped, or it could not get one. `again` says whether it tries again at once.
    pub(crate) fn fail(&self, id: u64, failure: Error, again: bool) {
        self.update(id, |member| {
            tracing::debug!(endpoint = %member.endpoint, %failure, "endpoint not ready");
            member.failure = Some(failure);
            let phase = if again { Phase::Connecting } else { Phase::Ejected };
            if (member.phase, member.connection.is_some()) != (phase, false) {
                member.enter(phase, None);
            }
        });
    }

    fn update(&self, id: u64, change: impl FnOnce(&mut Member)) {
        let mut set = self.set.lock();
        if let Some(member) = set.member(id) {
            change(member);
            self.publish(&set);
        }
    }

    /// A call got no answer on this connection. If nobody does, and other endpoints are ready, its endpoint is ejected here and now, so that the next call goes
    /// elsewhere; and its worker tries it with a new connection.
    pub(crate) fn unanswered(&self, connection: &Arc<Connection>, patience: Duration) {
        let limit = self.options.attempt_timeout.map_or(patience, |usual| usual.max(patience));
        let silence = connection.silence();
        // Half of it: the last answer may have come while this call was waiting already.
        if silence < limit / 2 {
            return connection.note_nothing();
        }
        let failure = Error::new(ErrorKind::Timeout, OPERATION, format!("calls have gone unanswered for {silence:?}"));
        let mut set = self.set.lock();
        let mine = |member: &Member| member.connection.as_ref().is_some_and(|own| Arc::ptr_eq(own, connection));
        let others = set.members.iter().any(|member| !mine(member) && member.connection.as_ref().is_some_and(|other| other.is_open()));
        if let Some(member) = set.members.iter_mut().find(|member| mine(member)) {
            tracing::debug!(endpoint = %member.endpoint, ?silence, ejected = others, "calls go unanswered");
            member.failure = Some(failure);
            if others {
                member.enter(Phase::Ejected, None);
                self.publish(&set);
            }
        }
        drop(set);
        connection.suspect.cancel();
    }

    fn publish(&self, set: &Set) {
        let ready: Vec<_> = set.members.iter().filter_map(|member| member.connection.clone()).collect();
        self.ready.store(Arc::new(ready));
        self.changed.notify_waiters();
    }

    /// Ends everything but the calls that are under way.
    pub(crate) fn close(&self) {
        let mut set = self.set.lock();
        set.closed = true;
        set.members.clear();
        self.publish(&set);
    }

    pub(crate) fn states(&self) -> (Vec<EndpointState>, Vec<Skipped>, Option<Instant>, Option<Error>) {
        let set = self.set.lock();
        let endpoints = set.members.iter().map(|member| EndpointState {
            endpoint: member.endpoint.clone(),
            phase: member.phase,
            since: member.since.elapsed(),
            failure: member.failure.clone(),
            connections: member.connections,
        });
        (endpoints.collect(), set.skipped.clone(), set.confirmed, set.unread.clone())
    }
}
