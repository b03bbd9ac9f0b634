//! The exact scope of rate limits, by the Redis of a cache (R70).

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use coord::{Error, ErrorKind, Result};
use coord_service::ratelimit::{ExactAnswer, ExactRequest, ExactScope};

use crate::cache::Cache;
use crate::engine::Inner;

impl Cache {
    /// What decides on rate limits of scope `exact`, for
    /// [`RateLimiterBuilder::exact`](coord_service::ratelimit::RateLimiterBuilder::exact): one
    /// script on Redis, by the server's clock (R70).
    ///
    /// Instances share a limit when their caches have one Redis and one prefix. While the engine is
    /// `memory`, it fails, and each instance goes by its share, as while Redis is away.
    pub fn exact_scope(&self) -> Arc<dyn ExactScope> {
        Arc::new(OnRedis(self.clone()))
    }
}

struct OnRedis(Cache);

#[async_trait]
impl ExactScope for OnRedis {
    async fn decide(&self, request: &ExactRequest<'_>) -> Result<ExactAnswer> {
        const DECIDE: &str = "ratelimit.exact";
        let client = self.0.client(DECIDE)?;
        match &client.engine {
            Inner::Redis(redis) => redis.decide(request).await,
            Inner::Memory(_) => {
                let message = "limits that are exact need a cache of the engine redis";
                Err(Error::new(ErrorKind::Unavailable, DECIDE, message))
            }
        }
    }
}

impl fmt::Debug for OnRedis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnRedis").field(&self.0).finish()
    }
}
