//! What a recipe is written against.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Compare, Entry, Range, RangeReply, Span, Store};
use coord_api::{Error, ErrorKind, Fence, LeaseId, Loss, Outcome, Result, WatchStart};
use coord_home::Home;
use parking_lot::Mutex;

use crate::ground::Ground;
use crate::health::ClientHealth;
use crate::losses::LossLog;
use crate::owner::Owner;
use crate::retention::Retentions;
use crate::session::{SessionRef, Sessions};
use crate::telemetry::Telemetry;
use crate::watch::{Hub, ResumingWatch, Subscription};

/// How long closing waits for the store (R8).
const CLOSE_WITHIN: Duration = Duration::from_millis(4_500);

/// A client of one store: its requests, and the sessions and watches over it. Cheap to clone; all
/// clones are one.
///
/// This is what the author of a recipe needs: [`enter`](Self::enter) a session and place entries on
/// its lease, [`subscribe`](Self::subscribe) to a range or [`follow`](Self::follow) it, read and
/// list. Sessions are shared: whatever one client holds with one TTL hangs on one lease (R9a).
/// Watches are shared by those who [subscribe](Self::subscribe) to the same range.
///
/// Background work lives in its [`Home`]. It ends with what it serves, or with
/// [`close`](Self::close).
#[derive(Clone)]
pub struct Client {
    shared: Arc<ClientParts>,
}

struct ClientParts {
    ground: Arc<Ground>,
    sessions: Sessions,
    retentions: Arc<Retentions>,
    losses: Arc<LossLog>,
    hub: Hub,
    /// What recipes share, by its type.
    shared: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

impl Drop for ClientParts {
    /// Nobody is left to make anything with it. What is held goes on; what is over ends, also where
    /// the store is never reached again.
    fn drop(&mut self) {
        self.ground.abandon();
    }
}

impl Client {
    /// A client of `store`, named `name` for people who look into it, whose background work lives
    /// in `home`.
    pub fn new(store: Arc<dyn Store>, name: impl Into<String>, home: Home) -> Self {
        let ground = Ground::new(store, name.into(), home);
        let (sessions, hub) = (Sessions::new(Arc::clone(&ground)), Hub::new(Arc::clone(&ground)));
        let retentions = Arc::new(Retentions::new(Arc::clone(&ground)));
        let losses = LossLog::new(Arc::clone(&ground), Arc::clone(&retentions));
        let sink: Weak<LossLog> = Arc::downgrade(&losses);
        ground.telemetry.write_down(sink);
        let shared = Mutex::default();
        Client { shared: Arc::new(ClientParts { ground, sessions, retentions, losses, hub, shared }) }
    }

    fn ground(&self) -> &Arc<Ground> {
        &self.shared.ground
    }

    /// The store. Its answers are heard by the [telemetry](Self::telemetry).
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.ground().store
    }

    /// Where background work lives, and whose clock deadlines go by.
    pub fn home(&self) -> &Home {
        &self.ground().home
    }

    /// The name, for people who look into the store.
    pub fn name(&self) -> &str {
        &self.ground().name
    }

    /// Who writes at this moment, for people who look into the store: the value of whatever stands
    /// for nothing else.
    pub fn owner(&self) -> Owner {
        Owner::now(self.name())
    }

    /// What the operator is told.
    pub fn telemetry(&self) -> &Telemetry {
        &self.ground().telemetry
    }

    /// How it is doing, as far as it knows by itself. No I/O.
    pub fn health(&self) -> ClientHealth {
        let (live_watches, suspended_watches) = self.telemetry().watches();
        ClientHealth {
            out_of_reach: self.telemetry().out_of_reach(),
            sessions: self.shared.sessions.health(),
            live_watches,
            suspended_watches,
        }
    }

    /// Whether what it loses from now on is written down in the store (R84): so it is, unless this
    /// says otherwise.
    pub fn write_losses(&self, on: bool) {
        self.shared.losses.set(on);
    }

    /// Checks that background work can be started and timed. What is leased or watched needs it.
    ///
    /// # Errors
    ///
    /// `Internal` outside of a runtime where the home needs one, `Unavailable` where no thread is
    /// to be had, `Closed` in the child of a fork. Nothing was sent.
    pub fn ready(&self, operation: &'static str) -> Result<()> {
        self.ground().ready(operation)
    }

    /// Whether it was closed, or is another process's: a fork leaves its child nothing.
    pub fn is_closed(&self) -> bool {
        self.ground().is_closed()
    }

    /// Resolves once it is [closed](Self::close). Cancel safe.
    pub async fn closing(&self) {
        self.ground().closing.cancelled().await;
    }

    /// Runs one call: `Closed` without I/O once the client is closed, and `Closed` with `outcome`
    /// if that happens meanwhile (R8). Errors name `operation`.
    ///
    /// # Errors
    ///
    /// `Closed`, and those of `call`.
    ///
    /// # Cancel safety
    ///
    /// As `call`.
    pub async fn run<T>(
        &self,
        operation: &'static str,
        outcome: Outcome,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.ground().run(operation, outcome, call).await
    }

    /// As [`run`](Self::run), for a call about `key`, which its error names.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// # Cancel safety
    ///
    /// As `call`.
    pub async fn run_on<T>(
        &self,
        operation: &'static str,
        key: &str,
        outcome: Outcome,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.ground().run_on(operation, key, outcome, call).await
    }

    /// One key, as it is now.
    ///
    /// # Errors
    ///
    /// Those of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn read(&self, key: Bytes) -> Result<Option<Entry>> {
        self.ground().read(key).await
    }

    /// All of a span at one revision, read in pages (R14).
    ///
    /// # Errors
    ///
    /// Those of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn list(&self, span: Span) -> Result<RangeReply> {
        self.ground().list(span).await
    }

    /// All that a range finds at one revision, read in pages: that which it names, or the present
    /// one.
    ///
    /// # Errors
    ///
    /// `Compacted` where the history of the revision that it names is gone; those of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn list_range(&self, range: Range) -> Result<RangeReply> {
        self.ground().list_range(range).await
    }

    /// Reads for a watch, whose transient faults nobody sees: `read` is called again, after pauses
    /// that grow to 2 s, until there is an answer (R20).
    ///
    /// # Errors
    ///
    /// `Closed` once the client is closed, and what trying again does not help against:
    /// `InvalidArgument`, `Unauthenticated`, `PermissionDenied`, `Codec`.
    ///
    /// # Cancel safety
    ///
    /// As `read`.
    pub async fn read_for_watch<T, F>(&self, read: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.ground().read_for_watch(read).await
    }

    /// Enters the live session of a TTL, which is made where there is none: then this pays a grant
    /// and a write (R9a).
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a TTL that no store takes, before any I/O; `LeaseLost` where each new
    /// lease was lost at once; as [`ready`](Self::ready); and those of the store.
    ///
    /// # Cancel safety
    ///
    /// Dropped while a session is made, it may leave a lease behind that carries nothing, and is
    /// revoked after one TTL.
    pub async fn enter(&self, operation: &'static str, ttl: Duration) -> Result<SessionRef> {
        self.shared.sessions.enter(operation, ttl).await
    }

    /// What the transaction of a fenced write compares, in the order of the fences (R55). Nothing
    /// is sent but to learn which store this is, once, and only where there are fences.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for too many fences, and for one of another store or namespace;
    /// `LeaseLost` where one is known not to hold; and those of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn fenced(&self, operation: &'static str, fences: &[Fence]) -> Result<Vec<Compare>> {
        if fences.is_empty() {
            return Ok(Vec::new());
        }
        Fence::check(operation, fences)?;
        Fence::check_store(operation, fences, self.ground().store_id().await?)?;
        Ok(fences.iter().flat_map(Fence::compares).collect())
    }

    /// The fence of a handle of this client that has nothing in the store at the moment.
    pub fn broken_fence(&self) -> Fence {
        Fence::broken(self.ground().known_store_id().cloned().unwrap_or_default())
    }

    /// A lease for one key that is to be kept for `retention` from now on, whatever becomes of this
    /// client: it is kept for at most 1.25 times that, in whole seconds, and the store's lag (R60).
    /// Such a lease is never renewed, and closing the client does not revoke it. It is granted
    /// where none that was granted before serves: one each quarter of the retention, and each
    /// thousand keys.
    ///
    /// Where a write then fails because this lease is gone, [say so](Self::retention_lease_gone),
    /// and ask for another one.
    ///
    /// # Errors
    ///
    /// As [`check_retention`](crate::check_retention), before any I/O; as [`ready`](Self::ready);
    /// `Timeout` where the store takes longer to grant one than a quarter of the retention; and
    /// those of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a grant that has begun goes on.
    pub async fn retention_lease(&self, operation: &'static str, retention: Duration) -> Result<LeaseId> {
        self.shared.retentions.lease(operation, retention).await
    }

    /// A [lease of a retention](Self::retention_lease) is gone: it is used no more.
    pub fn retention_lease_gone(&self, lease: LeaseId) {
        self.shared.retentions.gone(lease);
    }

    /// Watches a span, sharing the watch on the store with everyone who watches the same span (R16
    /// to R22).
    ///
    /// # Errors
    ///
    /// As [`ready`](Self::ready), and those of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn subscribe(&self, span: Span, start: WatchStart) -> Result<Subscription> {
        self.shared.hub.subscribe(span, start).await
    }

    /// Follows a span with a watch of one's own, which begins with the state of the whole span.
    /// Nothing is sent before it is polled.
    pub fn follow(&self, span: Span) -> ResumingWatch {
        ResumingWatch::from_snapshot(Arc::clone(self.ground()), span)
    }

    /// As [`follow`](Self::follow), for a span whose state at `revision` is known: it begins with
    /// what came later.
    pub fn follow_after(&self, span: Span, revision: coord_api::Revision) -> ResumingWatch {
        ResumingWatch::after(Arc::clone(self.ground()), span, revision)
    }

    /// What all recipes of one kind over this client share: made by `make` when it is first asked
    /// for, and kept for as long as the client. So a primitive can be made anew wherever it is
    /// used, and all of them wait in one queue, or share one cache.
    ///
    /// `make` must not ask for anything that is shared itself, nor hold this client: the two would
    /// keep each other for ever.
    pub fn shared<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let mut shared = self.shared.shared.lock();
        let known = shared.get(&TypeId::of::<T>()).cloned();
        if let Some(known) = known.and_then(|known| known.downcast::<T>().ok()) {
            return known;
        }
        let made = Arc::new(make());
        shared.insert(TypeId::of::<T>(), Arc::clone(&made) as Arc<dyn Any + Send + Sync>);
        made
    }

    /// Whether a lease is, or was, this client's: what hangs on it is no stranger's (R34).
    pub fn owns(&self, lease: LeaseId) -> bool {
        self.ground().owns(lease)
    }

    /// Makes sure that nothing is left on the lease of a session that is over, nor comes back to
    /// it: the lease must be gone for good.
    ///
    /// # Errors
    ///
    /// Those of the store, outcome `Unknown`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn end_lease(&self, lease: LeaseId) -> Result<()> {
        if self.ground().may_be_alive(lease) {
            self.ground().revoke(lease).await.map_err(|error| error.with_outcome(Outcome::Unknown))?;
        }
        Ok(())
    }

    /// Refuses new work from now on and ends what is pending, before [`close`](Self::close) gives
    /// back what is held (R8).
    pub fn begin_close(&self) {
        self.ground().begin_close();
    }

    /// Closes it (R8): refuses new work, ends what is pending, tells every handle, revokes every
    /// lease, and closes the store's client. Waits for the store 4.5 s at most.
    ///
    /// # Errors
    ///
    /// `Unavailable`, outcome `Unknown`, where leases could not be revoked; they expire then.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it has closed the client; leases that were not revoked expire.
    pub async fn close(&self) -> Result<()> {
        const OPERATION: &str = "provider.close";
        let ground = self.ground();
        // The child of a fork has nothing to give back, and nothing to say on its parent's
        // connections.
        if ground.home.is_left_behind() {
            return Ok(());
        }
        ground.begin_close();
        // Told first: nobody may believe to hold what is about to be free.
        self.shared.sessions.lose_all(Loss::Closed);
        let revoked = match ground.home.timeout(CLOSE_WITHIN, self.revoke_all()).await {
            Ok(Ok(())) => Ok(()),
            // The store's client is closed: by an earlier close, or because it is gone. What it
            // held ends with its leases.
            Ok(Err(error)) if error.kind() == ErrorKind::Closed => Ok(()),
            Ok(Err(error)) => Err(Error::new(
                ErrorKind::Unavailable,
                OPERATION,
                "what was held could not be revoked, and expires",
            )
            .with_source(error)),
            Err(_) => Err(Error::new(
                ErrorKind::Unavailable,
                OPERATION,
                "the store did not answer; what was held expires",
            )),
        };
        if revoked.is_ok() {
            ground.alive_leases().into_iter().for_each(|lease| ground.forget(lease));
            ground.store.close().await.map_err(|error| error.in_operation(OPERATION))?;
        }
        revoked.map_err(|error| error.with_outcome(Outcome::Unknown))
    }

    /// Revokes every lease that may be alive, all at once.
    async fn revoke_all(&self) -> Result<()> {
        let ground = self.ground();
        let revocations = ground.alive_leases().into_iter().map(|lease| ground.revoke(lease));
        futures_util::future::join_all(revocations).await.into_iter().collect()
    }

    /// Its owner is gone without closing it: what is held stays held until it is dropped too (R9),
    /// what nothing holds any more is revoked at once.
    pub fn abandon(&self) {
        self.ground().abandon();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("name", &self.name())
            .field("store", self.store())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use coord_memory::MemoryStore;

    use super::*;
    use crate::telemetry::{LastRenewal, Subject};

    /// The store never comes back, so that nothing of the client's is ever answered.
    #[tokio::test(start_paused = true)]
    async fn of_a_client_that_is_gone_nothing_goes_on_though_its_store_is_gone_as_well() {
        let ttl = Duration::from_secs(10);
        for abandons in [true, false] {
            let store = MemoryStore::new();
            let client = Client::new(Arc::new(store.clone()), "client", Home::callers());
            let session = client.enter("test", ttl).await.unwrap();
            let watch = client.subscribe(Span::prefix("k"), WatchStart::Now).await.unwrap();
            let ground: Weak<Ground> = Arc::downgrade(client.ground());
            store.disconnect();
            drop((session, watch));
            if abandons {
                client.abandon();
            }
            drop(client);
            client_is_gone(&ground, ttl).await;
        }
    }

    /// What it lost is written when the store is back, or by nobody once it is gone (R84).
    #[tokio::test(start_paused = true)]
    async fn what_was_lost_is_written_for_as_long_as_the_client_is_there() {
        for stays in [true, false] {
            let store = MemoryStore::new();
            let client = Client::new(Arc::new(store.clone()), "client", Home::callers());
            let ground: Weak<Ground> = Arc::downgrade(client.ground());
            store.disconnect();
            let subject = Subject::new("test", "a");
            subject.held(None);
            let renewal = LastRenewal { ago: Duration::from_secs(1), failure: None };
            client.telemetry().lost(&[&subject], Loss::Expired, LeaseId::new(1), &renewal);
            tokio::time::sleep(Duration::from_secs(60)).await;
            let kept = stays.then_some(client);
            client_is_gone_unless(kept.is_some(), &ground).await;
            store.reconnect();
            tokio::time::sleep(Duration::from_secs(60)).await;
            let written = store.range(Range::prefix(crate::keys::LOSSES)).await.unwrap().entries.len();
            assert_eq!(written, usize::from(stays));
        }
    }

    /// What is told of it is what it did, and an outage is told as long as it lasts.
    #[tokio::test(start_paused = true)]
    async fn a_client_knows_how_it_is_doing() {
        let store = MemoryStore::new();
        let client = Client::new(Arc::new(store.clone()), "client", Home::callers());
        let health = client.health();
        assert!(health.is_good() && health.sessions.is_empty(), "{health:?}");
        assert_eq!((health.live_watches, health.suspended_watches), (0, 0));

        let session = client.enter("test", Duration::from_secs(30)).await.unwrap();
        let watch = client.subscribe(Span::prefix("k"), WatchStart::Now).await.unwrap();
        tokio::time::sleep(Duration::from_secs(25)).await;
        let health = client.health();
        assert!(health.is_good(), "{health:?}");
        assert_eq!((health.live_watches, health.suspended_watches), (1, 0));
        let [of_it] = &health.sessions[..] else { panic!("{health:?}") };
        assert_eq!(of_it.ttl, Duration::from_secs(30));
        assert!(of_it.renewed_ago <= Duration::from_secs(10) && of_it.failure.is_none(), "{of_it:?}");

        store.disconnect();
        tokio::time::sleep(Duration::from_secs(15)).await;
        let health = client.health();
        assert!(!health.is_good() && health.sessions[0].failure.is_some(), "{health:?}");
        assert!(health.out_of_reach.is_some_and(|since| since >= Duration::from_secs(1)), "{health:?}");
        assert_eq!((health.live_watches, health.suspended_watches), (0, 1));

        store.reconnect();
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(client.health().out_of_reach.is_none());
        drop((session, watch));
        tokio::time::sleep(Duration::from_secs(120)).await;
        let health = client.health();
        assert!(health.is_good() && health.sessions.is_empty(), "{health:?}");
        assert_eq!((health.live_watches, health.suspended_watches), (0, 0));
    }

    async fn client_is_gone_unless(stays: bool, ground: &Weak<Ground>) {
        if !stays {
            client_is_gone(ground, Duration::from_secs(30)).await;
        }
    }

    /// Nothing holds it by the end of its leases.
    async fn client_is_gone(ground: &Weak<Ground>, ttl: Duration) {
        tokio::time::sleep(ttl * 3).await;
        assert_eq!(ground.strong_count(), 0, "tasks of it go on");
    }
}
