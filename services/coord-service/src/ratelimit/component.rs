//! A limiter as a part of a service.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord::Result;
use tokio::time::sleep;

use super::builder::RateLimiterBuilder;
use super::limiter::RateLimiter;
use super::status::{ClusterStanding, LimiterStatus};
use crate::causes::Causes;
use crate::component::{Component, Scope};
use crate::health::State;
use crate::shutdown::Phase;

/// How often its health is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl LimiterStatus {
    /// What it means for the service (K9): degraded where a document was refused or rules or
    /// instances cannot be read; decisions go on by what is known.
    pub fn health(&self) -> State {
        if let Some((name, fault)) = self.faults.iter().next() {
            return State::Degraded(format!("the rule {name} is not in use: {fault}"));
        }
        let unread = self.last_error.as_ref().or(self.cluster.last_error.as_ref());
        match (unread, self.cluster.standing) {
            (Some(error), _) => State::Degraded(Causes(error).to_string()),
            (None, ClusterStanding::NotRegistered) => State::Degraded(
                "this instance is not registered, and admits nothing by shared rules".to_owned(),
            ),
            (None, _) => State::Ready,
        }
    }
}

/// It starts at once, is never more than degraded, and follows rules and instances until
/// subscriptions and servers have ended.
#[async_trait]
impl Component for RateLimiterBuilder {
    type Handle = Arc<RateLimiter>;

    async fn start(self, scope: Scope) -> Result<Arc<RateLimiter>> {
        let limiter = Arc::new(self.build()?);
        let reporter = scope.report("ratelimit", false);
        reporter.set(limiter.start().await.health());
        let (looked_at, end) = (Arc::downgrade(&limiter), scope.shutdown().begun());
        tokio::spawn(async move {
            let look = async {
                while let Some(limiter) = looked_at.upgrade() {
                    reporter.set(limiter.status().health());
                    drop(limiter);
                    sleep(LOOK_EVERY).await;
                }
            };
            tokio::select! {
                () = end => {}
                () = look => {}
            }
        });
        let stopping = Arc::downgrade(&limiter);
        scope.shutdown().on(Phase::Leases, "ratelimit", async move {
            if let Some(limiter) = stopping.upgrade() {
                limiter.stop().await;
            }
        });
        Ok(limiter)
    }
}
