//! How a generator is opened.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use coord::coord_core::{Client, homeless};
use coord::store::round_ttl;
use coord::{Error, IdOptions, InstanceIdAllocator, InstanceIdKeeper, Result, Wait};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Uid;
use super::clock::{Clocks, DayClock};
use super::generator::Generator;
use super::layout::MAX_WORKER;
use super::shared::Shared;
use super::task::{Task, Worker};

const OPEN: &str = "uid.open";

/// The longest TTL of a worker's number: after a crash the time in its ids may be two thirds of it
/// ahead.
const MAX_TTL: Duration = Duration::from_secs(24 * 3_600);

/// The options of a [`Uid`].
pub struct UidBuilder {
    client: Client,
    allocator: Arc<dyn InstanceIdAllocator>,
    service: String,
    ids: IdOptions,
    day: DayClock,
}

impl UidBuilder {
    /// A generator for `service` over any client and allocator of one store. Most have a
    /// [`Coord`](coord::Coord), and use [`Uid::builder`].
    pub fn new(client: &Client, allocator: &Arc<dyn InstanceIdAllocator>, service: &str) -> Self {
        UidBuilder {
            client: client.clone(),
            allocator: Arc::clone(allocator),
            service: service.to_owned(),
            ids: IdOptions::default().with_range(0..=MAX_WORKER),
            day: DayClock::Machine,
        }
    }

    /// Sets the numbers that a worker may have; `0..=1023` by default. Services that have a store
    /// each and share their ids need ranges that do not overlap. One provider has one range for a
    /// service (R41).
    #[must_use]
    pub fn workers(mut self, range: RangeInclusive<u32>) -> Self {
        self.ids = self.ids.with_range(range);
        self
    }

    /// Sets for how long a number is kept for a process that died, and after how much of an outage
    /// it is lost: the TTL of its lease, rounded up to whole seconds (R7), a day at most. 30 s by
    /// default.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ids = self.ids.with_ttl(ttl);
        self
    }

    /// Sets how long to wait for a number where all are taken. Not at all by default.
    #[must_use]
    pub fn wait(mut self, wait: Wait) -> Self {
        self.ids = self.ids.with_wait(wait);
        self
    }

    /// Sets the clock of day: how long ago 1970 was. The machine's by default; a test gives its
    /// own. It is called once for each call for ids, where that is made; it must not block.
    #[must_use]
    pub fn clock(mut self, since_1970: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        self.day = DayClock::Given(Arc::new(since_1970));
        self
    }

    /// Takes a number, stores its first horizon, and gives out ids from then on. Four requests,
    /// where the provider has a lease of this TTL already; three where the number has never had a
    /// horizon.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a service that is not one segment of a key (R4), for numbers beyond
    /// [`MAX_WORKER`] and for a TTL of zero or of more than a day, before any I/O; where this
    /// provider allocates ids of the service from another range already. `Exhausted` where all
    /// numbers are taken and nobody is to wait; `Timeout` where the wait is over. `Codec` where
    /// someone else has written what stands in place of the horizon. `LeaseLost`, `Unavailable`,
    /// `Closed`, `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropped, it gives the number back.
    pub async fn open(self) -> Result<Uid> {
        let UidBuilder { client, allocator, service, ids, day } = self;
        let about = |error: Error| error.in_operation(OPEN).about(&service);
        let ttl = check(&ids).map_err(about)?;
        let keeper = InstanceIdKeeper::acquire(allocator, service.clone(), ids).await.map_err(about)?;
        let (changes, held) = (keeper.changes(), keeper.current());
        let held = held.ok_or_else(|| about(Error::lease_lost(OPEN, "the number was lost at once")))?;
        let mut worker = Worker::new(&client, &service, held);
        let clocks = Clocks::new(day, client.home().clone());
        let generator = Generator::new(ttl * 2 / 3);
        generator.look(clocks.read());
        let shared = Shared::new(service.clone(), client, generator, clocks, keeper);
        worker.store(&shared, ttl / 5).await.map_err(about)?;
        let (shared, closing) = (Arc::new(shared), CancellationToken::new());
        let (ended, has_ended) = watch::channel(None);
        let task = Task {
            shared: Arc::clone(&shared),
            worker: Some(worker),
            limit: ttl / 5,
            closing: closing.clone(),
            ended,
        };
        let home = shared.client.home().clone();
        home.spawn(task.run(changes)).map_err(|error| about(homeless(OPEN, error)))?;
        Ok(Uid::new(shared, closing, has_ended))
    }
}

/// Checks what can be checked without the store; gives the TTL in whole seconds.
fn check(ids: &IdOptions) -> Result<Duration> {
    if *ids.range.end() > MAX_WORKER {
        return Err(Error::invalid_argument(
            OPEN,
            "numbers of workers up to 1023; an id has no room for more",
        ));
    }
    let ttl = round_ttl(OPEN, ids.ttl)?;
    if ttl > MAX_TTL {
        return Err(Error::invalid_argument(
            OPEN,
            "a TTL of more than a day; after a crash ids could be as far ahead",
        ));
    }
    Ok(ttl)
}

impl fmt::Debug for UidBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UidBuilder")
            .field("service", &self.service)
            .field("ids", &self.ids)
            .field("clock", &self.day)
            .finish_non_exhaustive()
    }
}
