//! Values that are loaded where they are not in the cache.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::cache::{Cache, check_ttl, decode, encode};
use crate::flight::{Lead, Part};
use crate::meter::LoadResult;
use crate::tuning::Tuning;

const LOAD: &str = "cache.load";

impl Cache {
    /// The value of a key; where there is none, what `load` says, which is set then for a time, as
    /// by [`set`](Self::set).
    ///
    /// - Of all calls in this process that want one key at the same time, one loads; the others
    ///   wait for it, and get the same. Where the call that loads is dropped, another one loads.
    /// - Where the key is set or deleted in this process while it is loaded, what is loaded is not
    ///   kept, and who comes after that loads anew: so what is read before a change of the database
    ///   does not stay after it, where the key is deleted after the change. Other processes know
    ///   nothing of it.
    /// - A load that failed is told to all who waited for it, and is not kept: the next call loads.
    ///   A value that there is none of is a value: load an `Option`.
    /// - It does not need the cache. Where that is away, or refuses the value, the value is loaded
    ///   and returned all the same; what failed is counted. So is what is there and is no `T`.
    /// - A load has `load_timeout_ms`, and so do those who wait. Each request to the cache has
    ///   `timeout_ms`; where the first was not answered, no second one is made.
    ///
    /// # Errors
    ///
    /// What `load` fails with; `Timeout` where it takes too long; `InvalidArgument` for a key or a
    /// time that is out of bounds; `Codec` for a value that JSON cannot give back, and where a call
    /// of the same key loads another type at the same time.
    ///
    /// # Cancel safety
    ///
    /// Where it loads, a dropped call drops `load`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # async fn example(cache: &coord_cache::Cache) -> coord::Result<()> {
    /// # async fn name_of(user: u64) -> coord::Result<String> { Ok("Ann".to_owned()) }
    /// let user = 7;
    /// let name: String =
    ///     cache.get_or_load(&format!("name:{user}"), Duration::from_secs(60), || name_of(user)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_or_load<T, F>(
        &self,
        key: &str,
        ttl: impl Into<Option<Duration>>,
        load: impl FnOnce() -> F,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<T>>,
    {
        let ttl = ttl.into();
        let loading = async {
            let value = load().await?;
            let bytes = encode(LOAD, key, &value)?;
            Ok((value, bytes))
        };
        self.value_or_load(key, ttl, loading, |bytes| decode(LOAD, key, bytes)).await
    }

    /// As [`get_or_load`](Self::get_or_load), of bytes as they are.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load).
    ///
    /// # Cancel safety
    ///
    /// As [`get_or_load`](Self::get_or_load).
    pub async fn get_or_load_bytes<F>(
        &self,
        key: &str,
        ttl: impl Into<Option<Duration>>,
        load: impl FnOnce() -> F,
    ) -> Result<Bytes>
    where
        F: Future<Output = Result<Bytes>>,
    {
        let ttl = ttl.into();
        let loading = async {
            let bytes = load().await?;
            Ok((bytes.clone(), bytes))
        };
        self.value_or_load(key, ttl, loading, |bytes| Ok(bytes.clone())).await
    }

    /// What is there and can be decoded, or else is loaded.
    async fn value_or_load<V>(
        &self,
        key: &str,
        ttl: Option<Duration>,
        load: impl Future<Output = Result<(V, Bytes)>>,
        decode: impl Fn(&Bytes) -> Result<V>,
    ) -> Result<V> {
        let ttl = check_ttl(LOAD, key, ttl)?;
        let seen = self.shared.flights.ended(key);
        let mut found = self.find(key, &decode).await?;
        if let Found::Value(value, _) = found {
            return Ok(value);
        }
        let within = self.tuning().load_timeout();
        let lead = match self.shared.flights.join(key, seen, within).await {
            Part::Leads(lead) => lead,
            Part::Waited(loaded) => {
                self.shared.meter.loaded(LoadResult::Shared);
                return loaded.and_then(|bytes| decode(&bytes));
            }
            Part::Late => {
                self.shared.meter.loaded(LoadResult::TimedOut);
                return Err(overdue(key, within));
            }
        };
        if lead.look_again {
            found = self.find(key, &decode).await?;
        }
        if let Found::Value(value, bytes) = found {
            lead.land(Ok(bytes));
            return Ok(value);
        }
        let (result, loaded) = match timeout(within, load).await {
            Ok(Ok(loaded)) => (LoadResult::Loaded, Ok(loaded)),
            Ok(Err(error)) => (LoadResult::Failed, Err(error)),
            Err(_) => (LoadResult::TimedOut, Err(overdue(key, within))),
        };
        self.shared.meter.loaded(result);
        match loaded {
            Ok((value, bytes)) => {
                // Before others may load again. One that does not answer is not waited for twice.
                if matches!(found, Found::Nothing) {
                    self.keep(key, bytes.clone(), ttl, &lead).await;
                }
                lead.land(Ok(bytes));
                Ok(value)
            }
            Err(error) => {
                lead.land(Err(error.clone()));
                Err(error)
            }
        }
    }

    /// Keeps what was loaded, unless the key was written meanwhile. Counted where it fails; the
    /// value is there all the same.
    async fn keep(&self, key: &str, bytes: Bytes, ttl: Option<Duration>, lead: &Lead) {
        if !lead.is_current() {
            return;
        }
        if let Err(error) = self.store(key, bytes, ttl).await {
            tracing::debug!(%error, "what was loaded is not kept");
        }
        if !lead.is_current() {
            // Whoever wrote it may have done so before.
            if let Err(error) = self.remove(key).await {
                tracing::debug!(%error, "what was loaded may be kept, though it is old");
            }
        }
    }

    /// What is in the cache and can be decoded.
    async fn find<V>(&self, key: &str, decode: impl Fn(&Bytes) -> Result<V>) -> Result<Found<V>> {
        match self.get_bytes(key).await {
            Ok(Some(bytes)) => match decode(&bytes) {
                Ok(value) => Ok(Found::Value(value, bytes)),
                Err(error) => {
                    self.count(LOAD, error);
                    Ok(Found::Nothing)
                }
            },
            Ok(None) => Ok(Found::Nothing),
            Err(error) if error.kind() == ErrorKind::InvalidArgument => Err(error),
            Err(error) if error.kind() == ErrorKind::Codec => Ok(Found::Nothing),
            Err(_) => Ok(Found::Away),
        }
    }

    fn tuning(&self) -> Arc<Tuning> {
        match self.shared.live.current() {
            Ok(client) => Arc::clone(&client.tuning),
            Err(_) => Arc::clone(&self.shared.absent),
        }
    }
}

/// What a look into the cache has found.
enum Found<V> {
    Value(V, Bytes),
    Nothing,
    /// The cache does not answer.
    Away,
}

fn overdue(key: &str, within: Duration) -> Error {
    let message = format!("it was not loaded within {within:?}; see `load_timeout_ms`");
    Error::new(ErrorKind::Timeout, LOAD, message).about(key)
}
