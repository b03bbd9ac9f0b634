//! The cache, as an application uses it.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
#[cfg(feature = "redis")]
use std::ops::DerefMut;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord::{Error, Result, json};
use coord_service::live::{Current, Live, LiveStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{MAX_KEY_BYTES, MAX_TTL};
use crate::engine::{Client, Engines, Front, Inner};
use crate::flight::Flights;
use crate::memory::NativeMemory;
use crate::meter::Meter;
use crate::tuning::Tuning;

const GET: &str = "cache.get";
const SET: &str = "cache.set";
const DEL: &str = "cache.del";

/// A cache of values by key, embedded or on Redis. Cheap to clone; all clones are one.
///
/// It is made by [`open`](Self::open). Values are encoded as JSON; the calls on bytes take them as
/// they are.
///
/// - **K1** It follows its configuration without a failed call.
/// - **K2** Where its Redis is away, also at the start, calls fail with `Unavailable` or `Timeout`,
///   and [`get_or_load`](Self::get_or_load) loads.
/// - **K7** A call takes no longer than `timeout_ms`, whatever the server does. The embedded engine
///   waits for nothing.
/// - Keys are 1 to 1,024 bytes long, values at most `max_value_bytes`.
/// - An entry lives for at most the time it was given, to the millisecond. It may go earlier: a
///   cache has a capacity, and a Redis may lose what it has. No entry lives longer than 366 days.
///
/// # Errors
///
/// All calls: `InvalidArgument` for a key, a value or a time that is out of bounds, before anything
/// is sent. On Redis: `Timeout` and `Unavailable` while it is away, `Unauthenticated` and
/// `PermissionDenied` where it refuses us, `Exhausted` where it is out of memory, `Codec` for what
/// is no string there. `Closed` after the end of the service. Of a write that failed,
/// [`Error::outcome`] says whether it may have been applied.
#[derive(Clone)]
pub struct Cache {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) live: Arc<Live<Engines>>,
    pub(crate) front: Arc<Front>,
    /// What calls go by while there is no client.
    pub(crate) absent: Arc<Tuning>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) meter: Arc<Meter>,
}

impl Cache {
    pub(crate) fn new(
        live: Arc<Live<Engines>>,
        front: Arc<Front>,
        absent: Arc<Tuning>,
        meter: Arc<Meter>,
    ) -> Self {
        let flights = Arc::new(Flights::default());
        Cache { shared: Arc::new(Shared { live, front, absent, flights, meter }) }
    }

    /// The value of a key; `None` where there is none, or its time is over.
    ///
    /// # Errors
    ///
    /// `Codec` where what is there is no `T`. Those of [all calls](Self).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        match self.get_bytes(key).await? {
            Some(bytes) => match decode(GET, key, &bytes) {
                Ok(value) => Ok(Some(value)),
                Err(error) => Err(self.count(GET, error)),
            },
            None => Ok(None),
        }
    }

    /// The value of a key as it was encoded.
    ///
    /// # Errors
    ///
    /// Those of [all calls](Self).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn get_bytes(&self, key: &str) -> Result<Option<Bytes>> {
        check_key(GET, key)?;
        if let Some(memory) = &*self.shared.front.load() {
            let found = memory.get(key);
            self.shared.meter.found(found.is_some());
            return Ok(found);
        }
        let client = self.client(GET)?;
        let found = match &client.engine {
            Inner::Memory(memory) => memory.get(key),
            #[cfg(feature = "redis")]
            Inner::Redis(redis) => redis.get(key).await.map_err(|error| self.count(GET, error.about(key)))?,
        };
        self.shared.meter.found(found.is_some());
        Ok(found)
    }

    /// Sets the value of a key for a time: a `Duration`, or `None` for that of the configuration.
    /// Parts of a millisecond count as a whole one.
    ///
    /// # Errors
    ///
    /// `Codec` for a value that JSON cannot give back. Those of [all calls](Self).
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have set it, or may yet.
    pub async fn set<T: Serialize + ?Sized>(
        &self,
        key: &str,
        value: &T,
        ttl: impl Into<Option<Duration>>,
    ) -> Result<()> {
        let (bytes, ttl) = (encode(SET, key, value)?, ttl.into());
        self.set_bytes(key, bytes, ttl).await
    }

    /// As [`set`](Self::set), of a value that is encoded already.
    ///
    /// # Errors
    ///
    /// Those of [all calls](Self).
    ///
    /// # Cancel safety
    ///
    /// As [`set`](Self::set).
    pub async fn set_bytes(
        &self,
        key: &str,
        value: impl Into<Bytes>,
        ttl: impl Into<Option<Duration>>,
    ) -> Result<()> {
        self.shared.flights.forget(key);
        self.store(key, value.into(), ttl.into()).await
    }

    pub(crate) async fn store(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<()> {
        check_key(SET, key)?;
        let ttl = check_ttl(SET, key, ttl)?;
        let client = self.client(SET)?;
        check_value(SET, key, &value, &client.tuning)?;
        let ttl = ttl.unwrap_or_else(|| client.tuning.default_ttl());
        client.set(key, value, ttl).await.map_err(|error| self.count(SET, error.about(key)))
    }

    /// Deletes a key. Says whether there was a value.
    ///
    /// # Errors
    ///
    /// Those of [all calls](Self).
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have deleted it, or may yet.
    pub async fn del(&self, key: &str) -> Result<bool> {
        check_key(DEL, key)?;
        self.shared.flights.forget(key);
        self.remove(key).await
    }

    pub(crate) async fn remove(&self, key: &str) -> Result<bool> {
        let client = self.client(DEL)?;
        client.del(key).await.map_err(|error| self.count(DEL, error.about(key)))
    }

    /// The native connection to Redis, for one use: it is multiplexed, and reached by the commands
    /// of [`redis::AsyncCommands`]. Keys are as they are given, without the prefix. It waits for an
    /// answer as long as a call of ours does, unless it is told otherwise.
    ///
    /// Take it anew for each use, as [`Current`] says. Its connection is not made anew when it
    /// fails, but that of the cache is.
    ///
    /// # Errors
    ///
    /// `Unavailable` and the like while Redis is away; `InvalidArgument` where the engine is
    /// another one.
    #[cfg(feature = "redis")]
    pub fn redis(&self) -> Result<NativeRedis> {
        let client = self.client("cache.redis")?;
        match &client.engine {
            Inner::Redis(redis) => Ok(NativeRedis { connection: redis.native()?, _client: client }),
            Inner::Memory(_) => Err(Error::invalid_argument(
                "cache.redis",
                "the engine of this cache is memory; set `engine`",
            )),
        }
    }

    /// The native cache of the embedded engine, for one use.
    ///
    /// Take it anew for each use, as [`Current`] says: while a cache of another capacity takes
    /// over, what is written to the old one by this way may not be seen in the new one.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` where the engine is another one; `Closed` after the end.
    pub fn moka(&self) -> Result<NativeMoka> {
        let client = self.client("cache.moka")?;
        match &client.engine {
            Inner::Memory(memory) => Ok(NativeMoka { cache: memory.native().clone(), _client: client }),
            #[cfg(feature = "redis")]
            Inner::Redis(_) => {
                Err(Error::invalid_argument("cache.moka", "the engine of this cache is redis; set `engine`"))
            }
        }
    }

    /// How its client is.
    pub fn status(&self) -> LiveStatus {
        self.shared.live.status()
    }

    /// Waits until `wanted` holds of its status, or it is over.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub fn wait_for(
        &self,
        wanted: impl FnMut(&LiveStatus) -> bool + Send,
    ) -> impl Future<Output = LiveStatus> + Send {
        self.shared.live.wait_for(wanted)
    }

    #[inline]
    pub(crate) fn client(&self, operation: &'static str) -> Result<Current<Client>> {
        self.shared.live.current().map_err(|error| self.count(operation, error.in_operation(operation)))
    }

    #[cold]
    pub(crate) fn count(&self, operation: &'static str, error: Error) -> Error {
        let operation = operation.strip_prefix("cache.").unwrap_or(operation);
        self.shared.meter.failed(operation, error.kind());
        error
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("live", &self.shared.live).finish_non_exhaustive()
    }
}

/// The native connection to Redis, for one use. Dereferences to it.
#[cfg(feature = "redis")]
#[derive(Debug)]
pub struct NativeRedis {
    connection: redis::aio::MultiplexedConnection,
    /// Keeps the connection from being ended.
    _client: Current<Client>,
}

#[cfg(feature = "redis")]
impl Deref for NativeRedis {
    type Target = redis::aio::MultiplexedConnection;

    fn deref(&self) -> &Self::Target {
        &self.connection
    }
}

#[cfg(feature = "redis")]
impl DerefMut for NativeRedis {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.connection
    }
}

/// The native cache of the embedded engine, for one use. Dereferences to it.
#[derive(Debug)]
pub struct NativeMoka {
    cache: NativeMemory,
    _client: Current<Client>,
}

impl Deref for NativeMoka {
    type Target = NativeMemory;

    fn deref(&self) -> &Self::Target {
        &self.cache
    }
}

#[inline]
fn check_key(operation: &'static str, key: &str) -> Result<()> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(Error::invalid_argument(operation, "a key is 1 to 1,024 bytes long"));
    }
    Ok(())
}

/// The time as whole milliseconds, rounded up.
pub(crate) fn check_ttl(
    operation: &'static str,
    key: &str,
    ttl: Option<Duration>,
) -> Result<Option<Duration>> {
    let Some(ttl) = ttl else { return Ok(None) };
    if ttl.is_zero() || ttl > MAX_TTL {
        let message = "a time to live is more than none, and at most 366 days";
        return Err(Error::invalid_argument(operation, message).about(key));
    }
    let milliseconds = u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    Ok(Some(Duration::from_millis(milliseconds)))
}

fn check_value(operation: &'static str, key: &str, value: &Bytes, tuning: &Tuning) -> Result<()> {
    let (length, most) = (value.len(), tuning.max_value_bytes());
    if u64::try_from(length).unwrap_or(u64::MAX) > most {
        let message = format!("the value is {length} bytes long, and may be {most}; see `max_value_bytes`");
        return Err(Error::invalid_argument(operation, message).about(key));
    }
    Ok(())
}

pub(crate) fn encode<T: Serialize + ?Sized>(operation: &'static str, key: &str, value: &T) -> Result<Bytes> {
    match json::encode(operation, value) {
        Ok(value) => Ok(value.into_bytes()),
        Err(error) => Err(error.about(key)),
    }
}

pub(crate) fn decode<T: DeserializeOwned>(operation: &'static str, key: &str, bytes: &Bytes) -> Result<T> {
    json::decode(operation, bytes).map_err(|error| error.about(key))
}
