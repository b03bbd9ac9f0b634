//! The set of endpoints, and which of them are ready.
//!
//! Calls read the ready connections without a lock. Everything else is behind one mutex that is
//! held for no I/O.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use coord_api::{Error, ErrorKind};
use coord_home::Home;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use crate::connection::{EndpointConnection, Manner};
use crate::endpoint::{Endpoint, Scheme};
use crate::error::{OPERATION, no_home};
use crate::files::{self, Holder, LEAST, OpenFiles};
use crate::meter::ChannelMeter;
use crate::options::{ChannelOptions, Policy, Readiness};
use crate::resolver::Lookup;
use crate::state::{EndpointState, Phase, Skipped};
use crate::worker::{self, WorkerHost};

/// How many endpoints that cannot be used are logged one by one when the set changes. Of further
/// ones only the number is logged.
const MOST_TOLD: usize = 10;

/// How long a channel has fewer connections after the process ran out of files. Each further
/// shortage doubles it, …
const SHORTEST_SHORTAGE: Duration = Duration::from_secs(30);

/// … up to this. A shortage that comes at least this long after the end of the last one counts as
/// the first again.
const LONGEST_SHORTAGE: Duration = Duration::from_secs(600);

/// The endpoints of a channel.
#[derive(Debug)]
pub(crate) struct EndpointPool {
    pub(crate) options: ChannelOptions,
    pub(crate) home: Home,
    /// Where the bodies of streaming requests are polled, so that a body that blocks delays no
    /// connection. `None` if the channel's home was given by the user, who may have several threads
    /// there, or wants no further thread.
    pub(crate) body_home: Option<Home>,
    pub(crate) lookup: Lookup,
    /// The files of its connections, and of connections that are being made.
    pub(crate) files: OpenFiles,
    meter: ChannelMeter,
    made: Instant,
    /// Decides which endpoints this channel connects where it may not connect all of them.
    preference_seed: u64,
    set: Mutex<EndpointEntries>,
    /// The connections of the endpoints that are ready, in the order of the set.
    ready: ArcSwap<Vec<Arc<EndpointConnection>>>,
    turn: AtomicUsize,
    /// Wakes the calls that wait for an endpoint.
    changed: Notify,
}

#[derive(Debug, Default)]
struct EndpointEntries {
    members: Vec<EndpointEntry>,
    skipped: Vec<Skipped>,
    /// When the set was known to be the present one, the last time before now.
    confirmed: Option<Instant>,
    /// Whether it is known to be the present one now.
    current: bool,
    /// Why there is no set yet.
    unread: Option<Error>,
    next_id: u64,
    shortage: Option<Shortage>,
    /// When other endpoints were connected the last time because none of those in use was ready.
    looked_elsewhere: Option<Instant>,
    closed: bool,
    /// The runtime that the channel lived in is gone.
    home_ended: bool,
}

/// The process ran out of files.
#[derive(Debug)]
struct Shortage {
    /// How many connections are made at most; `None` once it is over.
    limit: Option<usize>,
    /// How long it lasts.
    pause: Duration,
    since: Instant,
    /// Ends the task that waits for its end.
    _timer: DropGuard,
}

#[derive(Debug)]
struct EndpointEntry {
    /// Unique in the pool, so that a worker never speaks for a successor with the same address.
    id: u64,
    endpoint: Endpoint,
    /// If there are more endpoints than may be connected, those with the highest ranks are. The
    /// rank depends on the endpoint and the channel alone (rendezvous hashing): so a change of the
    /// set changes no more connections than it must, and different channels connect different
    /// endpoints.
    rank: u64,
    phase: Phase,
    since: Instant,
    failure: Option<Error>,
    connection: Option<Arc<EndpointConnection>>,
    connections: u64,
    ping_after: Duration,
    /// Ends the worker; `None` while it is not to be connected.
    worker: Option<DropGuard>,
}

impl EndpointEntry {
    /// The order in which endpoints are connected where not all are: those that failed come after
    /// those that did not, and those that just failed come last.
    fn failure_rank(&self) -> u8 {
        match self.phase {
            Phase::Ejected => 2,
            Phase::Idle if self.failure.is_some() => 1,
            _ => 0,
        }
    }

    fn enter(&mut self, home: &Home, phase: Phase, connection: Option<Arc<EndpointConnection>>) {
        (self.phase, self.since, self.connection) = (phase, home.now(), connection);
    }
}

impl EndpointEntries {
    fn member(&mut self, id: u64) -> Option<&mut EndpointEntry> {
        self.members.iter_mut().find(|member| member.id == id)
    }

    /// How long ago the set was known to be the present one.
    fn age(&self, now: Instant) -> Option<Duration> {
        let confirmed = if self.current { Some(now) } else { self.confirmed };
        confirmed.map(|confirmed| now.saturating_duration_since(confirmed))
    }
}

impl EndpointPool {
    pub(crate) fn new(options: ChannelOptions, home: Home) -> Arc<Self> {
        let pool = Arc::new(EndpointPool {
            preference_seed: options.jitter_seed.unwrap_or_else(|| RandomState::new().hash_one(0)),
            body_home: options.has_own_home().then(|| Home::thread("coord-grpc-body")),
            lookup: Lookup::by(options.resolver.clone()),
            files: OpenFiles::default(),
            meter: ChannelMeter::new(options.name.as_deref().unwrap_or("unnamed")),
            made: home.now(),
            options,
            home,
            set: Mutex::default(),
            ready: ArcSwap::default(),
            turn: AtomicUsize::new(0),
            changed: Notify::new(),
        });
        let holder: Weak<dyn Holder> = Arc::downgrade(&pool) as _;
        files::enrol(holder);
        pool
    }

    /// The connection for the next call, other than `avoid` if there is any other.
    pub(crate) fn pick(&self, avoid: Option<&Arc<EndpointConnection>>) -> Option<Arc<EndpointConnection>> {
        let ready = self.ready.load();
        let first = match self.options.policy {
            Policy::RoundRobin if ready.len() > 1 => self.turn.fetch_add(1, Ordering::Relaxed) % ready.len(),
            _ => 0,
        };
        let (before, from) = ready.split_at(first);
        let open = || from.iter().chain(before).filter(|connection| connection.is_open());
        let other =
            |connection: &&Arc<EndpointConnection>| avoid.is_none_or(|avoid| !Arc::ptr_eq(avoid, connection));
        // A connection that is on trial, and busy with the call that tries it, is better than none.
        let picked = open()
            .filter(other)
            .find(|connection| connection.admits())
            .or_else(|| open().find(other))
            .or_else(|| open().next());
        picked.map(Arc::clone)
    }

    /// As [`pick`](Self::pick), and waits for one where that makes sense.
    ///
    /// Cancel safe.
    pub(crate) async fn connection(
        &self,
        readiness: Readiness,
        avoid: Option<&Arc<EndpointConnection>>,
    ) -> Result<Arc<EndpointConnection>, Status> {
        self.until(readiness, || self.pick(avoid)).await
    }

    /// Waits until an endpoint is ready, and sends nothing to it.
    pub(crate) async fn ready(&self, readiness: Readiness) -> Result<(), Status> {
        self.until(readiness, || {
            self.ready.load().iter().any(|connection| connection.is_open()).then_some(())
        })
        .await
    }

    async fn until<T>(&self, readiness: Readiness, find: impl Fn() -> Option<T>) -> Result<T, Status> {
        if self.home.is_left_behind() {
            return Err(Status::unavailable(
                "the process was forked; this channel is the parent's, make one here",
            ));
        }
        loop {
            if let Some(found) = find() {
                return Ok(found);
            }
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = find() {
                return Ok(found);
            }
            self.check_waiting(readiness)?;
            changed.await;
        }
    }

    /// Whether to wait for an endpoint; if not, why there is none.
    fn check_waiting(&self, readiness: Readiness) -> Result<(), Status> {
        let set = self.set.lock();
        if set.closed {
            return Err(Status::unavailable("the channel was dropped"));
        }
        if set.home_ended {
            return Err(Status::unavailable("the runtime that the channel lived in has ended"));
        }
        let open = match (&set.confirmed, &set.unread) {
            (None, unread) => unread.is_none(),
            // An endpoint that still counts as ready here has just lost its connection; its worker
            // is about to report what became of it.
            (Some(_), _) => {
                set.members.iter().any(|member| matches!(member.phase, Phase::Connecting | Phase::Ready))
            }
        };
        if open || readiness == Readiness::Wait {
            return Ok(());
        }
        let count = set.members.len();
        let last = set
            .members
            .iter()
            .rev()
            .find_map(|member| member.failure.as_ref().map(|failure| (&member.endpoint, failure)));
        Err(Status::unavailable(match (&set.unread, last) {
            (Some(unread), _) if set.confirmed.is_none() => {
                format!("the set of endpoints could not be read yet: {unread}")
            }
            (_, Some((endpoint, failure))) => {
                format!("none of {count} endpoints is ready; {endpoint}: {}", failure.message())
            }
            _ => format!("there is no endpoint ({} were skipped)", set.skipped.len()),
        }))
    }

    /// Replaces the set. Endpoints that stay keep their connections; those that go finish the calls
    /// that they have.
    pub(crate) fn replace(
        self: &Arc<Self>,
        wanted: impl IntoIterator<Item = (String, Endpoint)>,
        mut skipped: Vec<Skipped>,
    ) {
        let mut set = self.set.lock();
        if set.closed {
            return;
        }
        let mut old: HashMap<Endpoint, EndpointEntry> =
            set.members.drain(..).map(|member| (member.endpoint.clone(), member)).collect();
        let mut taken: HashMap<Endpoint, String> = HashMap::new();
        let mut added = 0;
        for (id, endpoint) in wanted {
            if let Some(error) = self.wrong_protocol(&endpoint) {
                skipped.push(Skipped { id, error });
            } else if let Some(owner) = taken.get(&endpoint) {
                let error = Error::new(
                    ErrorKind::Conflict,
                    OPERATION,
                    format!("{owner} has the address {endpoint} already"),
                );
                skipped.push(Skipped { id, error });
            } else {
                taken.insert(endpoint.clone(), id);
                let member = old.remove(&endpoint).unwrap_or_else(|| {
                    added += 1;
                    self.member(&mut set, endpoint)
                });
                set.members.push(member);
            }
        }
        let news = newly_skipped(&set.skipped, &skipped);
        set.skipped = skipped;
        (set.confirmed, set.unread) = (Some(self.home.now()), None);
        self.choose_connected(&mut set);
        self.publish(&set);
        let skipped = set.skipped.len();
        drop(set);
        for skipped in news.iter().take(MOST_TOLD) {
            let (id, why) = (skipped.id.clone(), skipped.error.message().to_owned());
            coord_home::event!(WARN, id, why, "an endpoint cannot be used, and is skipped");
        }
        if news.len() > MOST_TOLD {
            let more = news.len() - MOST_TOLD;
            coord_home::event!(WARN, more, "more endpoints cannot be used; the channel's state has them all");
        }
        let removed = old.len();
        coord_home::event!(DEBUG, added, removed, skipped, "endpoints changed");
    }

    fn wrong_protocol(&self, endpoint: &Endpoint) -> Option<Error> {
        let wrong = match endpoint.scheme() {
            Scheme::Https if !self.options.uses_tls() => "an https address in a channel without TLS",
            Scheme::Http if self.options.uses_tls() => "an http address in a channel with TLS",
            _ => return None,
        };
        Some(Error::invalid_argument(OPERATION, wrong))
    }

    fn member(&self, set: &mut EndpointEntries, endpoint: Endpoint) -> EndpointEntry {
        set.next_id += 1;
        let mut hasher = DefaultHasher::new();
        (self.preference_seed, &endpoint).hash(&mut hasher);
        EndpointEntry {
            id: set.next_id,
            rank: hasher.finish(),
            endpoint,
            phase: Phase::Idle,
            since: self.home.now(),
            failure: None,
            connection: None,
            connections: 0,
            ping_after: self.options.keep_alive.interval,
            worker: None,
        }
    }

    /// Connects the members that the channel may have, and leaves the others, which finish the
    /// calls that they have.
    fn choose_connected(self: &Arc<Self>, set: &mut EndpointEntries) {
        let shortage = set.shortage.as_ref().and_then(|shortage| shortage.limit);
        let limit = self.options.max_connections.min(shortage.unwrap_or(usize::MAX));
        let wanted: Option<HashSet<u64>> = (set.members.len() > limit).then(|| {
            let mut ranked: Vec<_> = set.members.iter().enumerate().collect();
            ranked.sort_by_key(|(place, member)| {
                // In a shortage those that are connected go on: another one would need a file.
                let connected = shortage.is_some() && member.connection.is_some();
                let rank =
                    if self.options.policy == Policy::PickFirst { *place as u64 } else { !member.rank };
                (member.failure_rank(), !connected, rank)
            });
            ranked.into_iter().take(limit).map(|(_, member)| member.id).collect()
        });
        for member in &mut set.members {
            let wanted = wanted.as_ref().is_none_or(|wanted| wanted.contains(&member.id));
            if wanted && member.worker.is_none() {
                self.start_worker(member);
            } else if !wanted && member.worker.take().is_some() {
                member.enter(&self.home, Phase::Idle, None);
            }
        }
    }

    fn start_worker(self: &Arc<Self>, member: &mut EndpointEntry) {
        let stop = CancellationToken::new();
        let work = worker::run(Arc::clone(self), member.id, member.endpoint.clone(), stop.clone());
        match self.home.spawn(work) {
            Ok(_) => member.enter(&self.home, Phase::Connecting, None),
            Err(error) => {
                member.failure = Some(no_home(error));
                member.enter(&self.home, Phase::Ejected, None);
            }
        }
        member.worker = Some(stop.drop_guard());
    }

    /// Whoever works for this channel was dropped: the runtime that it lived in is gone, and so are
    /// all connections.
    pub(crate) fn abandon(&self, worker: Option<u64>) {
        let mut set = self.set.lock();
        set.home_ended = true;
        if let Some(member) = worker.and_then(|id| set.member(id)) {
            member.failure = Some(no_home(coord_home::HomeError::Ended));
            member.enter(&self.home, Phase::Ejected, None);
        }
        self.publish(&set);
    }

    /// The process ran out of files: has fewer connections for a while, so that others in this
    /// process get some. Returns how many it gives back.
    fn make_do_with_fewer(self: &Arc<Self>) -> usize {
        let mut set = self.set.lock();
        if set.closed || set.home_ended {
            return 0;
        }
        let now = self.home.now();
        let pause = match &set.shortage {
            Some(last) if now.saturating_duration_since(last.since) < last.pause + LONGEST_SHORTAGE => {
                if last.limit.is_some() { last.pause } else { (last.pause * 2).min(LONGEST_SHORTAGE) }
            }
            _ => SHORTEST_SHORTAGE,
        };
        let held = self.files.count();
        let timer = CancellationToken::new();
        let (pool, stopped) = (Arc::downgrade(self), timer.clone());
        let over = async move {
            if stopped.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
                if let Some(pool) = pool.upgrade() {
                    pool.try_all_again();
                }
            }
        };
        // Where there is no home there are no connections either.
        let _ = self.home.spawn(over);
        // A quarter of the connections is given back.
        let limit = LEAST.max(held - held / 4);
        set.shortage = Some(Shortage { limit: Some(limit), pause, since: now, _timer: timer.drop_guard() });
        self.choose_connected(&mut set);
        self.publish(&set);
        held.saturating_sub(limit)
    }

    /// A shortage may be over.
    fn try_all_again(self: &Arc<Self>) {
        let mut set = self.set.lock();
        if let Some(shortage) = &mut set.shortage {
            shortage.limit = None;
        }
        if !set.closed {
            self.choose_connected(&mut set);
            self.publish(&set);
        }
    }

    /// Whether the set is known to be the present one, from now on.
    pub(crate) fn set_current(&self, current: bool) {
        let mut set = self.set.lock();
        if set.current != current {
            (set.current, set.confirmed) = (current, Some(self.home.now()));
        }
    }

    /// The set could not be read.
    pub(crate) fn unread(&self, error: Error) {
        let mut set = self.set.lock();
        set.unread = Some(error);
        self.publish(&set);
    }

    /// If all endpoints that are in use have failed, connects others; not more often than a dead
    /// endpoint is probed.
    fn look_elsewhere(self: &Arc<Self>) {
        let mut set = self.set.lock();
        let all = |phases: [Phase; 2]| set.members.iter().all(|member| phases.contains(&member.phase));
        if !all([Phase::Ejected, Phase::Idle]) || all([Phase::Ejected; 2]) {
            return;
        }
        let now = self.home.now();
        if set
            .looked_elsewhere
            .is_some_and(|last| now.saturating_duration_since(last) < self.options.backoff_max)
        {
            return;
        }
        set.looked_elsewhere = Some(now);
        self.choose_connected(&mut set);
        self.publish(&set);
    }

    fn update(&self, id: u64, change: impl FnOnce(&mut EndpointEntry)) {
        let mut set = self.set.lock();
        // A worker may be about to end.
        if let Some(member) = set.member(id).filter(|member| member.worker.is_some()) {
            change(member);
            self.publish(&set);
        }
    }

    /// A call got no answer on this connection. If nobody does, and other endpoints are ready, its
    /// endpoint is ejected here and now, so that the next call goes elsewhere; and its worker tries
    /// it with a new connection.
    pub(crate) fn unanswered(&self, connection: &Arc<EndpointConnection>, patience: Duration) {
        let limit = self.options.attempt_timeout.map_or(patience, |usual| usual.max(patience));
        let silence = connection.silence();
        // Half of the limit, because the last answer may have come when this call had already
        // waited for a while.
        if silence < limit / 2 {
            return connection.note_nothing();
        }
        let failure =
            Error::new(ErrorKind::Timeout, OPERATION, format!("calls have gone unanswered for {silence:?}"));
        let mut set = self.set.lock();
        let mine = |member: &EndpointEntry| {
            member.connection.as_ref().is_some_and(|own| Arc::ptr_eq(own, connection))
        };
        let others = set
            .members
            .iter()
            .any(|member| !mine(member) && member.connection.as_ref().is_some_and(|other| other.is_open()));
        if let Some(member) = set.members.iter_mut().find(|member| mine(member)) {
            member.failure = Some(failure);
            if others {
                member.enter(&self.home, Phase::Ejected, None);
                self.publish(&set);
            }
        }
        drop(set);
        connection.suspect.cancel();
        let endpoint = connection.to_string();
        coord_home::event!(DEBUG, endpoint, ?silence, ejected = others, "calls go unanswered");
    }

    fn publish(&self, set: &EndpointEntries) {
        let ready: Vec<_> = set.members.iter().filter_map(|member| member.connection.clone()).collect();
        self.ready.store(Arc::new(ready));
        self.meter.show_phases(set.members.iter().map(|member| member.phase));
        self.changed.notify_waiters();
    }

    /// Ends everything but the calls that are under way.
    pub(crate) fn close(&self) {
        let mut set = self.set.lock();
        set.closed = true;
        set.members.clear();
        self.publish(&set);
    }

    /// Shows how old the set is, for as long as this is polled.
    pub(crate) async fn show_age(&self, every: Duration) {
        while self.meter.is_heard() {
            let now = self.home.now();
            let age = self.set.lock().age(now);
            self.meter.show_age(age.unwrap_or_else(|| now.saturating_duration_since(self.made)));
            tokio::time::sleep(every).await;
        }
    }

    /// The endpoints, what was skipped, how old the set is, and why it could not be read.
    pub(crate) fn states(&self) -> (Vec<EndpointState>, Vec<Skipped>, Option<Duration>, Option<Error>) {
        let set = self.set.lock();
        let now = self.home.now();
        let since = |then: Instant| now.saturating_duration_since(then);
        let endpoints = set.members.iter().map(|member| EndpointState {
            endpoint: member.endpoint.clone(),
            phase: member.phase,
            since: since(member.since),
            failure: member.failure.clone(),
            connections: member.connections,
            ping_after: member.ping_after,
        });
        (endpoints.collect(), set.skipped.clone(), set.age(now), set.unread.clone())
    }
}

impl WorkerHost for EndpointPool {
    fn options(&self) -> &ChannelOptions {
        &self.options
    }

    fn lookup(&self) -> &Lookup {
        &self.lookup
    }

    fn manner(&self, on_trial: bool, ping_after: Duration) -> Manner<'_> {
        Manner { options: &self.options, home: &self.home, files: &self.files, on_trial, ping_after }
    }

    fn admit(&self, id: u64, connection: &Arc<EndpointConnection>) {
        self.update(id, |member| {
            let endpoint = member.endpoint.to_string();
            coord_home::event!(DEBUG, endpoint, "endpoint ready");
            member.connections += 1;
            member.enter(&self.home, Phase::Ready, Some(Arc::clone(connection)));
        });
    }

    fn fail(self: &Arc<Self>, id: u64, failure: Error, again: bool) {
        self.update(id, |member| {
            let (endpoint, why) = (member.endpoint.to_string(), failure.to_string());
            coord_home::event!(DEBUG, endpoint, why, "endpoint not ready");
            member.failure = Some(failure);
            let phase = if again { Phase::Connecting } else { Phase::Ejected };
            if (member.phase, member.connection.is_some()) != (phase, false) {
                member.enter(&self.home, phase, None);
            }
        });
        if !again {
            self.look_elsewhere();
        }
    }

    fn pings_after(&self, id: u64, after: Duration) {
        self.update(id, |member| member.ping_after = after);
    }

    fn abandoned(&self, id: u64) {
        self.abandon(Some(id));
    }
}

impl Holder for EndpointPool {
    fn is_left_behind(&self) -> bool {
        self.home.is_left_behind()
    }

    fn give_back(self: Arc<Self>) -> usize {
        self.make_do_with_fewer()
    }
}

/// What is skipped now, and was not before or for another reason.
fn newly_skipped(before: &[Skipped], now: &[Skipped]) -> Vec<Skipped> {
    let known: HashSet<_> =
        before.iter().map(|skipped| (skipped.id.as_str(), skipped.error.message())).collect();
    now.iter()
        .filter(|skipped| !known.contains(&(skipped.id.as_str(), skipped.error.message())))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::IpAddr;

    use super::*;
    use crate::resolver::Resolver;

    /// Never finds out.
    #[derive(Debug)]
    struct Silent;

    #[async_trait::async_trait]
    impl Resolver for Silent {
        async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            std::future::pending().await
        }
    }

    fn pool(endpoints: usize) -> Arc<EndpointPool> {
        let pool =
            EndpointPool::new(ChannelOptions::default().with_resolver(Arc::new(Silent)), Home::callers());
        pool.replace(
            (0..endpoints).map(|n| (n.to_string(), Endpoint::new(&format!("e{n}"), 80).unwrap())),
            Vec::new(),
        );
        pool
    }

    fn idle(pool: &EndpointPool) -> usize {
        pool.states().0.iter().filter(|state| state.phase == Phase::Idle).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_shortage_ends_and_the_next_one_lasts_longer() {
        let pool = pool(10);
        assert_eq!(idle(&pool), 0);
        for pause in [30, 60, 120, 240, 480, 600, 600] {
            pool.make_do_with_fewer();
            assert_eq!(idle(&pool), 10 - LEAST);
            tokio::time::sleep(Duration::from_secs(pause - 1)).await;
            assert_eq!(idle(&pool), 10 - LEAST, "{pause}");
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_eq!(idle(&pool), 0, "{pause}");
        }
        tokio::time::sleep(LONGEST_SHORTAGE * 2).await;
        pool.make_do_with_fewer();
        tokio::time::sleep(SHORTEST_SHORTAGE + Duration::from_secs(1)).await;
        assert_eq!(idle(&pool), 0, "after a long time it is the first again");
        pool.close();
    }

    #[test]
    fn only_what_is_new_among_the_skipped_is_told() {
        let skipped = |id: &str, why: &'static str| Skipped {
            id: id.to_owned(),
            error: Error::invalid_argument("t", why),
        };
        let before = [skipped("a", "x"), skipped("b", "x")];
        let now = [skipped("a", "x"), skipped("b", "y"), skipped("c", "x")];
        let news: Vec<_> = newly_skipped(&before, &now).into_iter().map(|skipped| skipped.id).collect();
        assert_eq!(news, ["b", "c"]);
    }
}
