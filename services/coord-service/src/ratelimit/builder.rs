//! Makes a limiter.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use coord::coord_core::Home;
use coord::{ConfigCenter, ConfigDirectory, Error, ErrorKind, Result, ServiceRegistry, key};
use tokio::time::Instant;

use super::control::Control;
use super::exact::{Asking, ExactScope};
use super::limiter::{Cluster, RateLimiter};
use super::members::{FIRST_ANSWER, Members};
use super::rule::{LimitRule, RuleDocument};

const OPERATION: &str = "ratelimit.build";

/// The component of a service that its rules are, in the config centre.
const COMPONENT: &str = "ratelimit";

/// How many buckets of one rule are kept.
pub const DEFAULT_MAX_BUCKETS: usize = 65_536;

/// Makes a [`RateLimiter`].
pub struct RateLimiterBuilder {
    config: Arc<dyn ConfigCenter>,
    service: String,
    env: Option<String>,
    rules: BTreeMap<String, LimitRule>,
    cluster: Option<(Arc<dyn ServiceRegistry>, String)>,
    assumed: u32,
    exact: Option<Arc<dyn ExactScope>>,
    max_buckets: usize,
}

impl RateLimiter {
    /// A limiter by the rules of `service`: the documents under `{env}/{service}/ratelimit/` in the
    /// config centre.
    pub fn builder(config: Arc<dyn ConfigCenter>, service: impl Into<String>) -> RateLimiterBuilder {
        RateLimiterBuilder {
            config,
            service: service.into(),
            env: None,
            rules: BTreeMap::new(),
            cluster: None,
            assumed: 1,
            exact: None,
            max_buckets: DEFAULT_MAX_BUCKETS,
        }
    }
}

impl RateLimiterBuilder {
    /// The environment, instead of the process's `APP_ENV`.
    #[must_use]
    pub fn env(mut self, env: impl Into<String>) -> Self {
        self.env = Some(env.into());
        self
    }

    /// What the rule of this name says while there is no document of it, or none could be read.
    /// That of the name `default` is for all that there is no other rule for.
    #[must_use]
    pub fn rule(mut self, name: impl Into<String>, rule: LimitRule) -> Self {
        self.rules.insert(name.into(), rule);
        self
    }

    /// By which registry instances of this service find those that they share limits with (R69),
    /// and by what id this one is registered there.
    ///
    /// Without it, or while the registry was never reached, the number of instances is
    /// [assumed](Self::assumed_instances).
    #[must_use]
    pub fn cluster(mut self, registry: Arc<dyn ServiceRegistry>, instance: impl Into<String>) -> Self {
        self.cluster = Some((registry, instance.into()));
        self
    }

    /// By how many instances limits are divided while nothing is known of them: 1 by default, so
    /// that each instance has all of a limit. Rules that are strict admit nothing then. Zero counts
    /// as 1.
    #[must_use]
    pub fn assumed_instances(mut self, instances: u32) -> Self {
        self.assumed = instances;
        self
    }

    /// What decides for rules of scope `exact` (R70). Without it, the instance's share does.
    #[must_use]
    pub fn exact(mut self, exact: Arc<dyn ExactScope>) -> Self {
        self.exact = Some(exact);
        self
    }

    /// The most buckets that are kept of one rule: [`DEFAULT_MAX_BUCKETS`] by default, of some 40
    /// bytes each. Zero counts as 1.
    ///
    /// A bucket that is full again is like one that nobody has used, and is forgotten. Where more
    /// keys than this are not full at the same time, a new key takes the place of one that is
    /// closest to it, which is then full too early: that is counted, and told at WARN.
    #[must_use]
    pub fn max_buckets(mut self, buckets: usize) -> Self {
        self.max_buckets = buckets;
        self
    }

    /// Makes the limiter, which follows nothing before [`start`](RateLimiter::start). No I/O.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when the environment, the service or the instance is not one segment of a
    /// key, or for a [rule](Self::rule) that does not [check](LimitRule::check).
    pub fn build(self) -> Result<RateLimiter> {
        for (name, rule) in &self.rules {
            rule.check().map_err(|fault| {
                Error::new(ErrorKind::InvalidArgument, OPERATION, "a rule is wrong")
                    .with_source(fault)
                    .about(name)
            })?;
        }
        let now = Instant::now();
        let members = match &self.cluster {
            Some((_, instance)) => {
                key::check_segment(OPERATION, instance).map_err(|error| error.about(instance))?;
                Members::new(instance.clone(), self.assumed, now + FIRST_ANSWER)
            }
            None => Members::assumed(self.assumed, now),
        };
        let control = Arc::new(Control::new(members, self.max_buckets.max(1), self.rules));
        let told = Arc::clone(&control);
        let mut documents =
            ConfigDirectory::<RuleDocument>::builder(self.config, self.service.clone(), COMPONENT)
                .validate(|_, document| document.check())
                .on_change(move |name, _, document| told.set_document(name, document.rule()));
        if let Some(env) = self.env {
            documents = documents.env(env);
        }
        let service = self.service;
        Ok(RateLimiter::new(
            control,
            documents.build()?,
            self.cluster.map(|(registry, _)| Cluster { registry, service }),
            self.exact,
            Arc::new(Asking::default()),
            Home::shared(),
        ))
    }
}

impl fmt::Debug for RateLimiterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiterBuilder")
            .field("service", &self.service)
            .field("env", &self.env)
            .field("rules", &self.rules)
            .field("max_buckets", &self.max_buckets)
            .finish_non_exhaustive()
    }
}
