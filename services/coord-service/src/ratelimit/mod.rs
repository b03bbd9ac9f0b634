//! Rate limits whose rules change while the service runs (R68 to R70).
//!
//! ```
//! use std::sync::Arc;
//!
//! use coord::prelude::*;
//! use coord_service::ratelimit::{LimitRule, LimitScope, RateLimiter};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> coord::Result<()> {
//! # let coord = coord_memory::MemoryProvider::new();
//! let instance = coord::ServiceInstance::new("gateway", "gateway-1", "localhost", 8080);
//! let registration = Arc::new(coord.registry().register(instance).await?);
//! let limiter = RateLimiter::builder(Arc::clone(coord.config()), "gateway")
//!     .env("prod")
//!     .cluster(Arc::clone(coord.registry()), "gateway-1")
//!     .build()?;
//! limiter.set_registration(&registration);
//! limiter.start().await;
//!
//! // One key of the config centre for each rule.
//! let rule = LimitRule::per_second(100).with_burst(20).with_scope(LimitScope::Cluster);
//! let version = coord.config().set("prod/gateway/ratelimit/login", &rule).await?;
//! limiter.wait_until(version).await?;
//!
//! // A second after it was registered, this instance has its share, and may say that it is ready.
//! limiter.settled().await?;
//! if let Some(wait) = limiter.allow("login", "ann").retry_after() {
//!     println!("429, Retry-After: {}", wait.as_secs() + 1);
//! }
//! limiter.stop().await;
//! # coord.close().await
//! # }
//! ```
//!
//! # Rules
//!
//! A rule is a [document](LimitRule) under `{env}/{service}/ratelimit/<rule>` in the config centre.
//! The application names the rule at each decision; where there is none of that name, the rule
//! `default` decides, and where there is none either, the request is allowed and counted.
//!
//! - **R68** A decision does no I/O and waits for nothing. A rule acts within a second of its
//!   commit. A document that is wrong is refused, with line and field in the
//!   [status](LimiterStatus::faults), and the rule that was there stays.
//! - A change of a rule keeps its buckets: each stays as full, in proportion, as it was. So a
//!   change hands out no new burst, and takes none away. That holds for a rule that is deleted and
//!   comes back, too, until its buckets are full.
//!
//! # Buckets
//!
//! Each rule has a bucket for each key, which holds the burst and fills at the rate (the generic
//! cell rate algorithm). What is admitted in any time is at most the burst and the rate of that
//! time; where the rule was changed in it, the greatest burst, and where its burst was raised more
//! than once, the first and all that it was raised by.
//!
//! Full buckets are forgotten, and at most [65,536](DEFAULT_MAX_BUCKETS) of a rule are kept, by
//! [option](RateLimiterBuilder::max_buckets) more or less; what happens beyond stands there.
//!
//! # Scopes
//!
//! | scope | who shares the limit | costs |
//! |---|---|---|
//! | `instance` | nobody | nothing |
//! | `cluster` | the instances that are registered, each its part | nothing |
//! | `exact` | all instances, to the last request | a request to a server |
//!
//! - **R69** Of scope `cluster`, each instance has the rate and the burst divided by the number of
//!   live instances, by the registry's watch, so that no decision and no change of instances costs
//!   a write. While all of them are connected, they admit no more than rate and burst within any
//!   second, all together. So one that has come admits nothing for a second (see
//!   [`settled`](RateLimiter::settled)), one that has gone goes on for a second without its burst,
//!   and the others grow a tenth of a second after that.
//! - An instance that is cut off keeps its share, also where others have come meanwhile; by a rule
//!   that is `strict`, for as long as its registration is [held](RateLimiter::set_registration).
//! - One that is not registered admits nothing. Where the registry was never reached, or there is
//!   none, the number of instances is [assumed](RateLimiterBuilder::assumed_instances).
//! - Requests are whole. Where the burst is less than one for each instance, buckets hold one,
//!   and what an instance admits within a second is a whole number, for some one more than for
//!   others. Where not even rate and burst are one for each, some instances have no share at all: a
//!   limit for one user is often so small, and wants scope `exact`, or callers that stay with an
//!   instance.
//! - **R70** Of scope `exact`, what [`ExactScope`] stands for decides. It has 50 ms; then the share
//!   does, and that is counted and in the [status](LimiterStatus::exact).
//!
//! # To be seen
//!
//! | metric | labels | |
//! |---|---|---|
//! | `coord_ratelimit_decisions_total` | `rule`, `result`: `allowed`, `denied` | requests that were decided on |
//! | `coord_ratelimit_unlimited_total` | | requests that no rule was for |
//! | `coord_ratelimit_evicted_total` | `rule` | buckets that were forgotten before they were full |
//! | `coord_ratelimit_buckets` | `rule` | buckets that are not full |
//! | `coord_ratelimit_instances` | | by how many limits are divided |
//! | `coord_ratelimit_exact_total` | `result`: `answered`, `timeout`, `failed`, `skipped`, `absent`, `not_awaited` | how decisions of exact rules came about |
//!
//! They are brought up to date each second, so that a decision costs no call of the recorder.
//!
//! # Why not governor
//!
//! [governor](https://docs.rs/governor) is the limiter that most know, and counts in the same way.
//! What it does not have is a limit that changes while its buckets stay, which is what rules and
//! shares need at every turn: a new limit there is a new limiter, with full buckets. Nor does it
//! bound the number of keys.

mod bucket;
mod buckets;
mod builder;
mod component;
mod control;
mod decision;
mod exact;
mod limiter;
mod members;
mod meter;
mod rule;
mod share;
#[cfg(test)]
mod simulation;
mod status;
mod worker;

pub use builder::{DEFAULT_MAX_BUCKETS, RateLimiterBuilder};
pub use decision::{Decision, Denial, DenialReason};
pub use exact::{EXACT_TIMEOUT, ExactAnswer, ExactRequest, ExactScope, ExactStatus};
pub use limiter::{RateLimiter, SETTLING_TIME};
pub use rule::{LimitRule, LimitScope, Per, RuleFault};
pub use status::{ClusterStanding, ClusterStatus, DocumentFault, LimiterStatus, RuleStatus};
