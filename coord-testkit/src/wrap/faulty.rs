//! A store that fails on demand: its link can be cut or hang, and single requests can be refused,
//! lost, or applied late.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{
    Lease, LeaseInfo, Op, Range, RangeReply, Span, Store, StoreEvent, StoreStatus, StoreWatch, Txn, TxnReply,
};
use coord_api::{Error, ErrorKind, LeaseId, Outcome, Result, Revision};
use futures_util::future::BoxFuture;
use futures_util::stream;
use tokio::time::sleep;

use super::counting::Counter;
use super::signal::Signal;

/// The link between a client and its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// It works.
    Up,
    /// Calls fail at once, and watches break.
    Down,
    /// Calls get no answer and watches are silent, until it is up again: what was waiting then
    /// fails. A black hole.
    Hung,
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It is not sent, and the caller is told so: `Unavailable`, `NotApplied`.
    Refuse,
    /// The store refuses it for good: `PermissionDenied`.
    Deny,
    /// It gets lost on the way: `Timeout`, `Unknown`; never applied.
    LoseRequest,
    /// Its answer gets lost: `Timeout`, `Unknown`; it was applied.
    LoseAnswer,
    /// Its answer takes that long; it was applied at once.
    LateAnswer(Duration),
    /// It gets stuck on the way: `Timeout`, `Unknown`; applied when the case lets it through
    /// ([`Faults::take_held`]).
    Hold,
    /// It is so much slower on its way than others, and answered.
    Delay(Duration),
}

/// A request on its way to the store.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// A read.
    Range(&'a Range),
    /// A transaction.
    Txn(&'a Txn),
    /// A watch to be opened.
    Watch(&'a Span),
    /// A lease to be granted.
    Grant,
    /// A lease to be renewed.
    KeepAlive(LeaseId),
    /// A lease to be looked up.
    Lease(LeaseId),
    /// A lease to be revoked.
    Revoke(LeaseId),
    /// A look at the status.
    Status,
}

impl Request<'_> {
    /// Whether it is a transaction that may put a key that starts with `prefix`.
    pub fn puts(&self, prefix: &str) -> bool {
        self.holds(|op| matches!(op, Op::Put { key, .. } if key.starts_with(prefix.as_bytes())))
    }

    /// Whether it is a transaction that may delete a key that starts with `prefix`.
    pub fn deletes(&self, prefix: &str) -> bool {
        self.holds(|op| matches!(op, Op::Delete { key } if key.starts_with(prefix.as_bytes())))
    }

    /// Whether it changes the store.
    pub fn is_write(&self) -> bool {
        matches!(self, Request::Grant | Request::KeepAlive(_) | Request::Revoke(_))
            || self.puts("")
            || self.deletes("")
    }

    fn holds(&self, matches: impl Fn(&Op) -> bool) -> bool {
        match self {
            Request::Txn(txn) => txn.then.iter().chain(&txn.otherwise).any(matches),
            _ => false,
        }
    }
}

type Matches = Box<dyn FnMut(&Request<'_>) -> bool + Send>;

/// A request that got stuck on its way.
pub struct HeldRequest {
    send: BoxFuture<'static, Result<bool>>,
}

impl HeldRequest {
    /// Lets it through to the store. Says whether it did what it was to do: `false` for a
    /// transaction whose compares did not hold.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn apply(self) -> Result<bool> {
        self.send.await
    }
}

impl fmt::Debug for HeldRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldRequest").finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
struct State {
    link: Link,
    /// Raised whenever the link stops working: what was under way then is broken.
    link_breaks: u64,
    /// Raised whenever watches break: older ones are broken.
    watch_breaks: u64,
    /// Raised whenever delays end before their time.
    forgotten: u64,
    /// Whether watches tell nothing, though everything else works.
    watches_silent: bool,
    closed: bool,
}

struct Shared {
    counter: Counter,
    state: Signal<State>,
    script: Mutex<VecDeque<(Matches, Fault)>>,
    held: Mutex<Vec<HeldRequest>>,
}

/// Rules the faults of a [`Faulty`] store. Cheap to clone.
#[derive(Clone)]
pub struct Faults {
    shared: Arc<Shared>,
}

impl Default for Faults {
    fn default() -> Self {
        let state = Signal::new(State {
            link: Link::Up,
            link_breaks: 0,
            watch_breaks: 0,
            forgotten: 0,
            watches_silent: false,
            closed: false,
        });
        let shared =
            Shared { counter: Counter::default(), state, script: Mutex::default(), held: Mutex::default() };
        Faults { shared: Arc::new(shared) }
    }
}

impl Faults {
    /// Cuts the client off: calls fail at once.
    pub fn cut(&self) {
        self.set(Link::Down);
    }

    /// Lets the link hang: calls get no answer.
    pub fn hang(&self) {
        self.set(Link::Hung);
    }

    /// Makes the link work again, and lets watches tell what they kept to themselves.
    pub fn heal(&self) {
        self.shared.state.modify(|state| state.watches_silent = false);
        self.set(Link::Up);
    }

    /// Lets every watch be silent, and nothing else: what it has to tell comes once the link is
    /// [healed](Self::heal).
    pub fn silence_watches(&self) {
        self.shared.state.modify(|state| state.watches_silent = true);
    }

    /// Breaks every open watch, and nothing else.
    pub fn break_watches(&self) {
        self.shared.state.modify(|state| state.watch_breaks += 1);
    }

    /// Does `fault` to the next request that `matches`. Faults given before, and not used up, come
    /// first; the later ones are not asked about a request that one of them takes.
    pub fn next(&self, fault: Fault, matches: impl FnMut(&Request<'_>) -> bool + Send + 'static) {
        lock(&self.shared.script).push_back((Box::new(matches), fault));
    }

    /// Does `fault` to the next transaction that may put a key that starts with `prefix`.
    pub fn next_put(&self, fault: Fault, prefix: impl Into<String>) {
        let prefix = prefix.into();
        self.next(fault, move |request| request.puts(&prefix));
    }

    /// Does `fault` to the next transaction that may delete a key that starts with `prefix`.
    pub fn next_delete(&self, fault: Fault, prefix: impl Into<String>) {
        let prefix = prefix.into();
        self.next(fault, move |request| request.deletes(&prefix));
    }

    /// Takes back the faults that still wait for their request, and lets through what is being
    /// delayed.
    pub fn forget(&self) {
        lock(&self.shared.script).clear();
        self.shared.state.modify(|state| state.forgotten += 1);
    }

    /// How many faults still wait for their request.
    pub fn unused(&self) -> usize {
        lock(&self.shared.script).len()
    }

    /// Takes the requests that are stuck, the oldest first.
    pub fn take_held(&self) -> Vec<HeldRequest> {
        std::mem::take(&mut *lock(&self.shared.held))
    }

    /// The requests that the client made, whatever became of them:
    /// [`Fixture::faulty`](crate::Fixture::faulty) counts them here.
    pub fn counter(&self) -> &Counter {
        &self.shared.counter
    }

    /// Sets the link.
    pub fn set(&self, link: Link) {
        self.shared.state.modify(|state| {
            if state.link == Link::Up {
                state.link_breaks += 1;
                state.watch_breaks += 1;
            }
            state.link = link;
        });
    }

    /// Waits that long, or until faults were taken back more often than `forgotten` times.
    async fn delay(&self, by: Duration, forgotten: u64) {
        let state = &self.shared.state;
        tokio::select! {
            biased;
            _ = state.wait_for(|now| now.forgotten != forgotten) => {}
            () = sleep(by) => {}
        }
    }

    fn scripted(&self, request: &Request<'_>) -> Option<Fault> {
        let mut script = lock(&self.shared.script);
        let index = script.iter_mut().position(|(matches, _)| matches(request))?;
        script.remove(index).map(|(_, fault)| fault)
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("state", &self.shared.state.get())
            .field("unused", &self.unused())
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A store that fails on demand.
pub struct Faulty<S> {
    inner: Arc<S>,
    faults: Faults,
}

impl<S: Store> Faulty<S> {
    /// Does to the requests for `inner` what `faults` say.
    pub fn new(inner: S, faults: Faults) -> Self {
        Faulty { inner: Arc::new(inner), faults }
    }

    /// Sends a request through the link and the script. `did` reads from an answer whether a
    /// request that was held did what it was to do.
    async fn pass<T, F>(
        &self,
        request: Request<'_>,
        send: impl FnOnce(Arc<S>) -> F + Send,
        did: fn(&T) -> bool,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let writes = request.is_write();
        // Asked for first: what is taken back while the request is under way is not to delay it.
        let forgotten = self.faults.shared.state.get().forgotten;
        let fault = self.faults.scripted(&request);
        let call = send(Arc::clone(&self.inner));
        match fault {
            Some(Fault::Refuse) => return Err(Error::new(ErrorKind::Unavailable, "faulty", "refused")),
            Some(Fault::Deny) => return Err(Error::new(ErrorKind::PermissionDenied, "faulty", "denied")),
            Some(Fault::LoseRequest) => return Err(timed_out(writes)),
            Some(Fault::LoseAnswer) => return call.await.and_then(|_| Err(timed_out(writes))),
            Some(Fault::LateAnswer(delay)) => {
                let answer = call.await;
                self.faults.delay(delay, forgotten).await;
                return answer;
            }
            Some(Fault::Hold) => {
                let send = Box::pin(async move { call.await.map(|answer| did(&answer)) });
                lock(&self.faults.shared.held).push(HeldRequest { send });
                return Err(timed_out(writes));
            }
            Some(Fault::Delay(by)) => self.faults.delay(by, forgotten).await,
            None => {}
        }
        let state = &self.faults.shared.state;
        let at_first = state.get();
        if at_first.closed || at_first.link == Link::Up {
            tokio::select! {
                biased;
                answer = call => return answer,
                () = broken(state, |now| now.link_breaks != at_first.link_breaks) => {}
            }
        } else if at_first.link == Link::Down {
            return Err(Error::new(ErrorKind::Unavailable, "faulty", "cut off"));
        }
        // Sent into the void, or its answer was.
        let now = unhung(state).await;
        Err(if now.closed { closed(writes) } else { cut_off(writes) })
    }
}

/// The next item of a watch, once watches tell anything.
async fn told(watch: &mut StoreWatch, state: &Signal<State>) -> Option<Result<StoreEvent>> {
    state.wait_for(|now| now.closed || !now.watches_silent).await;
    let item = watch.next().await;
    state.wait_for(|now| now.closed || !now.watches_silent).await;
    item
}

/// Resolves once `is_broken` says so of a client that is not closed.
async fn broken(state: &Signal<State>, is_broken: impl Fn(&State) -> bool) {
    state.wait_for(|now| !now.closed && is_broken(now)).await;
}

/// Resolves when the link does not hang, or the client was closed.
async fn unhung(state: &Signal<State>) -> State {
    state.wait_for(|now| now.closed || now.link != Link::Hung).await
}

fn outcome(writes: bool) -> Outcome {
    if writes { Outcome::Unknown } else { Outcome::NotApplied }
}

fn timed_out(writes: bool) -> Error {
    Error::new(ErrorKind::Timeout, "faulty", "no answer in time").with_outcome(outcome(writes))
}

fn cut_off(writes: bool) -> Error {
    Error::new(ErrorKind::Unavailable, "faulty", "cut off before the answer came")
        .with_outcome(outcome(writes))
}

fn closed(writes: bool) -> Error {
    Error::closed("faulty").with_outcome(outcome(writes))
}

impl<S: fmt::Debug> fmt::Debug for Faulty<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("inner", &self.inner).field("faults", &self.faults).finish()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for Faulty<S> {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        self.pass(Request::Range(&range.clone()), |inner| async move { inner.range(range).await }, |_| true)
            .await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        self.pass(
            Request::Txn(&txn.clone()),
            |inner| async move { inner.txn(txn).await },
            |reply| reply.succeeded,
        )
        .await
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let shared = Arc::clone(&self.faults.shared);
        let breaks = shared.state.get().watch_breaks;
        let opened = self
            .pass(
                Request::Watch(&span.clone()),
                |inner| async move { inner.watch(span, after).await },
                |_| true,
            )
            .await?;
        let armed = opened.armed();
        let stream = stream::unfold(Some((opened, shared)), move |open| async move {
            let (mut opened, shared) = open?;
            let item = tokio::select! {
                biased;
                () = broken(&shared.state, |now| now.watch_breaks != breaks) => {
                    let now = unhung(&shared.state).await;
                    Err(if now.closed { closed(false) } else { cut_off(false) })
                }
                item = told(&mut opened, &shared.state) => item?,
            };
            let open = item.is_ok().then_some((opened, shared));
            Some((item, open))
        });
        Ok(StoreWatch::new(armed, stream))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        self.pass(Request::Grant, |inner| async move { inner.grant_lease(ttl).await }, |_| true).await
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<Duration> {
        self.pass(Request::KeepAlive(id), |inner| async move { inner.keep_alive(id).await }, |_| true).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        self.pass(Request::Lease(id), |inner| async move { inner.lease(id).await }, |_| true).await
    }

    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        self.pass(Request::Revoke(id), |inner| async move { inner.revoke_lease(id).await }, |()| true).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.pass(Request::Status, |inner| async move { inner.status().await }, |_| true).await
    }

    async fn close(&self) -> Result<()> {
        let closed = self.inner.close().await;
        self.faults.shared.state.modify(|state| state.closed = true);
        closed
    }
}
