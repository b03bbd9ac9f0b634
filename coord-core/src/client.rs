//! What a recipe is written against.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Entry, RangeReply, Span, Store};
use coord_api::{Error, ErrorKind, LeaseId, Loss, Outcome, Result, WatchStart};
use coord_home::Home;

use crate::ground::Ground;
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
    hub: Hub,
}

impl Client {
    /// A client of `store`, named `name` for people who look into it, whose background work lives
    /// in `home`.
    pub fn new(store: Arc<dyn Store>, name: impl Into<String>, home: Home) -> Self {
        let ground = Ground::new(store, name.into(), home);
        let (sessions, hub) = (Sessions::new(Arc::clone(&ground)), Hub::new(Arc::clone(&ground)));
        Client { shared: Arc::new(ClientParts { ground, sessions, hub }) }
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

    /// What the operator is told.
    pub fn telemetry(&self) -> &Telemetry {
        &self.ground().telemetry
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
        // In the child of a fork its tasks are another process's.
        if !self.ground().home.is_left_behind() {
            self.ground().abandoned.cancel();
        }
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
