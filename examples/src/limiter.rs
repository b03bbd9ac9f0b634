//! A rate limiter whose rules can change while it runs.

use std::sync::Arc;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use parking_lot::RwLock;

use crate::rules::{Client, Limit, Method, Period, RateLimits, Rule};

/// Admits requests by the rules of one service.
#[derive(Debug)]
pub struct Limiter {
    rules: RwLock<Arc<Buckets>>,
}

/// Whether a request may go on, and which rule said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may go on.
    pub admitted: bool,
    /// The name of the rule, or `None` for the default.
    pub rule: Option<String>,
}

#[derive(Debug)]
struct Buckets {
    default: Arc<Bucket>,
    rules: Vec<(Rule, Arc<Bucket>)>,
}

#[derive(Debug)]
struct Bucket {
    limit: Limit,
    limiter: DefaultDirectRateLimiter,
}

impl Bucket {
    fn new(limit: Limit) -> Self {
        let requests = limit.requests.get();
        let quota = match limit.per {
            Period::Second => Quota::per_second(requests),
            Period::Minute => Quota::per_minute(requests),
            Period::Hour => Quota::per_hour(requests),
        };
        Bucket { limit, limiter: RateLimiter::direct(quota.allow_burst(limit.burst.get())) }
    }
}

impl Limiter {
    /// A limiter with these rules.
    pub fn new(limits: &RateLimits) -> Self {
        let default = Arc::new(Bucket::new(limits.default));
        let rules =
            limits.rules.iter().map(|rule| (rule.clone(), Arc::new(Bucket::new(rule.limit())))).collect();
        Limiter { rules: RwLock::new(Arc::new(Buckets { default, rules })) }
    }

    /// Takes over other rules. A limit that did not change keeps its count: an edit must not hand
    /// everybody a fresh burst.
    pub fn apply(&self, limits: &RateLimits) {
        let old = Arc::clone(&self.rules.read());
        let kept = |bucket: Option<&Arc<Bucket>>, limit: Limit| match bucket {
            Some(bucket) if bucket.limit == limit => Arc::clone(bucket),
            _ => Arc::new(Bucket::new(limit)),
        };
        let default = kept(Some(&old.default), limits.default);
        let rules = limits
            .rules
            .iter()
            .map(|rule| {
                let earlier =
                    old.rules.iter().find(|(earlier, _)| earlier.name == rule.name).map(|(_, bucket)| bucket);
                (rule.clone(), kept(earlier, rule.limit()))
            })
            .collect();
        *self.rules.write() = Arc::new(Buckets { default, rules });
    }

    /// Decides on a request, and counts it if it may go on.
    pub fn check(&self, method: Method, path: &str, client: Client) -> Verdict {
        let buckets = Arc::clone(&self.rules.read());
        match buckets.rules.iter().find(|(rule, _)| rule.fits(method, path, client)) {
            Some((rule, bucket)) => {
                Verdict { admitted: bucket.limiter.check().is_ok(), rule: Some(rule.name.clone()) }
            }
            None => Verdict { admitted: buckets.default.limiter.check().is_ok(), rule: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Count, Route};

    fn count(number: u32) -> Count {
        Count::new(number).unwrap()
    }

    fn rule(name: &str, route: &str, burst: u32) -> Rule {
        let route = Route::new(route).unwrap();
        Rule {
            name: name.into(),
            route,
            methods: Vec::new(),
            client: None,
            requests: count(1),
            per: Period::Hour,
            burst: count(burst),
        }
    }

    fn admitted(limiter: &Limiter, path: &str) -> usize {
        (0..50).filter(|_| limiter.check(Method::Get, path, Client::User).admitted).count()
    }

    #[test]
    fn the_first_rule_that_fits_decides_and_the_default_otherwise() {
        let limits =
            RateLimits { rules: vec![rule("one", "/a", 1), rule("all", "/*", 2)], ..RateLimits::default() };
        let limiter = Limiter::new(&limits);
        assert_eq!(
            limiter.check(Method::Get, "/a", Client::User),
            Verdict { admitted: true, rule: Some("one".into()) }
        );
        assert_eq!(
            limiter.check(Method::Get, "/a", Client::User),
            Verdict { admitted: false, rule: Some("one".into()) }
        );
        assert_eq!(admitted(&limiter, "/b"), 2);
        assert_eq!(Limiter::new(&RateLimits::default()).check(Method::Get, "/", Client::User).rule, None);
    }

    #[test]
    fn new_rules_serve_at_once_and_unchanged_ones_keep_their_count() {
        let mut limits =
            RateLimits { rules: vec![rule("a", "/a", 3), rule("b", "/b", 3)], ..RateLimits::default() };
        let limiter = Limiter::new(&limits);
        assert_eq!((admitted(&limiter, "/a"), admitted(&limiter, "/b")), (3, 3));
        limits.rules[0].burst = count(7);
        limiter.apply(&limits);
        assert_eq!((admitted(&limiter, "/a"), admitted(&limiter, "/b")), (7, 0));
    }
}
