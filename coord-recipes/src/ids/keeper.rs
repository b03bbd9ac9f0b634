//! An instance id that is held again after it was lost.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use coord_api::{
    Error, ErrorKind, Fence, FencingToken, IdOptions, InstanceId, InstanceIdAllocator, Loss, Result,
};
use coord_core::{Home, backoff, homeless};
use futures_util::{Stream, stream};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

const ACQUIRE: &str = "id_keeper.acquire";

/// Keeps an instance id held for as long as it lives: where the id is lost, it takes another one by
/// itself.
///
/// An [`InstanceId`] that is lost stays lost (R43), as it must: another process may have the number
/// by now. A service that runs for months still needs a number after an outage of a minute. It asks
/// [`current`](Self::current) each time that it uses the number, and does without, or waits for
/// [a change](Self::changes), while there is none.
///
/// ```
/// # use std::sync::Arc;
/// # use coord_api::prelude::*;
/// # use coord_api::IdOptions;
/// # use coord_recipes::InstanceIdKeeper;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_api::Result<()> {
/// # let coord = coord_memory::MemoryProvider::new();
/// let options = IdOptions::default().with_range(0..=1023);
/// let keeper = InstanceIdKeeper::acquire(Arc::clone(coord.allocator()), "snowflake", options).await?;
/// if let Some(kept) = keeper.current() {
///     println!("{} of generation {}", kept.id(), kept.generation());
/// }
/// # keeper.release().await
/// # }
/// ```
///
/// - What it gives is held at that moment by this machine's clock (R32), never by hope.
/// - Each id that it takes has a greater [generation](KeptId::generation) than those before it,
///   also where the number is the same (R43).
/// - Its task lives on a [home](Home::shared) of its own and outlives the runtime that made it. It
///   ends with the keeper, and where the provider is closed.
///
/// Dropped, it gives the id back, as a dropped [`InstanceId`] does (R9).
pub struct InstanceIdKeeper {
    shared: Arc<KeeperState>,
    changes: watch::Receiver<Option<KeptId>>,
    /// Dropped, the task ends.
    _task: AbortOnDropHandle<()>,
}

/// An id that a keeper holds, or held. It keeps nothing held: the keeper does.
#[derive(Clone)]
pub struct KeptId {
    id: u32,
    generation: FencingToken,
    handle: Weak<InstanceId>,
}

impl KeptId {
    fn of(held: &Arc<InstanceId>) -> Self {
        KeptId { id: held.id(), generation: held.generation(), handle: Arc::downgrade(held) }
    }

    /// The number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Greater for each id that the keeper takes.
    pub fn generation(&self) -> FencingToken {
        self.generation
    }

    /// Ties a write to the same store to this id: it is applied only while the keeper holds this
    /// one, by the word of the store (R55). Of an id that is over, it fails every write.
    pub fn fence(&self) -> Fence {
        self.handle.upgrade().map_or_else(|| Fence::broken(""), |held| held.fence())
    }

    /// Whether this id is held at this moment, by this machine's clock (R32). Once `false`, `false`
    /// for ever; the keeper may hold another one by then.
    pub fn is_held(&self) -> bool {
        self.handle.upgrade().is_some_and(|held| held.is_held())
    }

    /// The time left to the local deadline of this id, which each renewal moves; zero when it is
    /// not held.
    pub fn ttl(&self) -> Duration {
        self.handle.upgrade().map_or(Duration::ZERO, |held| held.ttl())
    }
}

impl PartialEq for KeptId {
    /// Of one keeper, the same taking of an id.
    fn eq(&self, other: &Self) -> bool {
        (self.id, self.generation) == (other.id, other.generation)
    }
}

impl Eq for KeptId {}

impl fmt::Debug for KeptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptId")
            .field("id", &self.id)
            .field("generation", &self.generation)
            .field("held", &self.is_held())
            .finish()
    }
}

struct KeeperState {
    service: String,
    held: Mutex<Option<Arc<InstanceId>>>,
    /// Why no id is held, where that is so.
    failure: Mutex<Option<Error>>,
}

impl InstanceIdKeeper {
    /// Takes a first id of `service`, and keeps one from then on. The options count for each id
    /// that is taken; where a later one cannot be had, be it that none is free or that the store is
    /// out of reach, it is tried again, after growing pauses of at most 2 s.
    ///
    /// # Errors
    ///
    /// Those of [`acquire_id_with`](InstanceIdAllocator::acquire_id_with), for the first id alone.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call leaks no id.
    pub async fn acquire(
        allocator: Arc<dyn InstanceIdAllocator>,
        service: impl Into<String>,
        options: IdOptions,
    ) -> Result<Self> {
        let service = service.into();
        let first = Arc::new(allocator.acquire_id_with(&service, options.clone()).await?);
        let (tell, changes) = watch::channel(Some(KeptId::of(&first)));
        let shared =
            Arc::new(KeeperState { service, held: Mutex::new(Some(first)), failure: Mutex::new(None) });
        let home = Home::shared();
        let keeping = Keeping { home: home.clone(), allocator, options, shared: Arc::clone(&shared), tell };
        let task = home.spawn(keeping.run()).map_err(|error| homeless(ACQUIRE, error))?;
        Ok(InstanceIdKeeper { shared, changes, _task: AbortOnDropHandle::new(task) })
    }

    /// The id that is held at this moment, by this machine's clock; `None` while there is none.
    /// Never blocks.
    pub fn current(&self) -> Option<KeptId> {
        self.shared.held.lock().as_ref().filter(|held| held.is_held()).map(KeptId::of)
    }

    /// Why there is no id, where there is none: how the last try failed.
    pub fn last_error(&self) -> Option<Error> {
        self.shared.failure.lock().clone()
    }

    /// What is held now, and each change from then on: `None` when it was lost, and what was taken
    /// instead. Who reads slowly gets the last one only. Ends with the keeper, and where the
    /// provider is closed.
    pub fn changes(&self) -> impl Stream<Item = Option<KeptId>> + Send + Unpin + use<> {
        let mut changes = self.changes.clone();
        changes.mark_changed();
        Box::pin(stream::unfold(changes, |mut changes| async move {
            changes.changed().await.ok()?;
            let kept = changes.borrow_and_update().clone();
            Some((kept, changes))
        }))
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        &self.shared.service
    }

    /// Gives the id back and keeps none any more.
    ///
    /// # Errors
    ///
    /// Those of [`InstanceId::release`]; `Ok` where none was held.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it has ended the keeper; the id is given back as a dropped one is (R9).
    pub async fn release(self) -> Result<()> {
        let InstanceIdKeeper { shared, changes, _task: task } = self;
        let held = shared.held.lock().take();
        drop((task, changes));
        match held {
            Some(held) => held.release().await,
            None => Ok(()),
        }
    }
}

impl fmt::Debug for InstanceIdKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstanceIdKeeper")
            .field("service", &self.service())
            .field("current", &self.current())
            .finish_non_exhaustive()
    }
}

/// The task of a keeper.
struct Keeping {
    home: Home,
    allocator: Arc<dyn InstanceIdAllocator>,
    options: IdOptions,
    shared: Arc<KeeperState>,
    tell: watch::Sender<Option<KeptId>>,
}

impl Keeping {
    async fn run(self) {
        loop {
            let held = self.shared.held.lock().clone();
            let Some(held) = held else { return };
            let loss = held.lost().await;
            if matches!(loss, Loss::Closed | Loss::Released) {
                return;
            }
            let lost = (KeptId::of(&held), self.home.now());
            drop(held);
            self.lose(
                Error::lease_lost(ACQUIRE, format!("the id was lost: {loss}")).about(&self.shared.service),
            );
            let Some(taken) = self.take().await.map(Arc::new) else { return };
            let (kept, after_s) =
                (KeptId::of(&taken), self.home.now().saturating_duration_since(lost.1).as_secs_f64());
            let (service, id, before) = (self.shared.service.clone(), kept.id, lost.0.id);
            coord_home::event!(WARN, service, id, before, after_s, "an instance id is held again");
            *self.shared.failure.lock() = None;
            *self.shared.held.lock() = Some(taken);
            self.tell.send_replace(Some(kept));
        }
    }

    fn lose(&self, why: Error) {
        let lost = self.shared.held.lock().take();
        *self.shared.failure.lock() = Some(why);
        self.tell.send_replace(None);
        drop(lost);
    }

    /// Takes an id, for as long as that takes; `None` where the provider is closed.
    async fn take(&self) -> Option<InstanceId> {
        let mut backoff = backoff();
        loop {
            match self.allocator.acquire_id_with(&self.shared.service, self.options.clone()).await {
                Ok(taken) => return Some(taken),
                Err(error) => {
                    let closed = error.kind() == ErrorKind::Closed;
                    *self.shared.failure.lock() = Some(error);
                    if closed {
                        return None;
                    }
                }
            }
            self.home.sleep(backoff.pause()).await;
        }
    }
}

impl Drop for Keeping {
    /// However the task ended: nothing keeps an id any more, so nobody may count on one.
    fn drop(&mut self) {
        let held = self.shared.held.lock().take();
        self.tell.send_replace(None);
        drop(held);
    }
}
