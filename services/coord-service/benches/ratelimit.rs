//! What a decision costs, at one key and at 10,000 keys, against governor in the same run.
//!
//! governor is asked as it is best asked: a limiter for each rule is at hand, so that it has no
//! rule to look up, and its keys are those that it keeps. At one key some of the decisions are
//! denials, for both.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;

use coord::prelude::*;
use coord_memory::MemoryProvider;
use coord_service::ratelimit::{LimitRule, LimitScope, RateLimiter};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use governor::{Quota, RateLimiter as Governor};

/// So much that about half of what one thread asks for at one key is admitted.
const ONE_KEY: u32 = 1_000_000;
/// So much that all is admitted.
const MANY_KEYS: u32 = 100_000;

fn ours(scope: LimitScope, rate: u32) -> RateLimiter {
    let coord = MemoryProvider::new();
    let rule = LimitRule::per_second(rate).with_burst(1_000).with_scope(scope);
    let mut builder = RateLimiter::builder(Arc::clone(coord.config()), "bench").env("bench");
    // Among others, as a service has them.
    for name in 0..40 {
        builder = builder.rule(format!("rule-{name}"), LimitRule::per_second(10));
    }
    builder.rule("login", rule).build().unwrap()
}

fn governor(rate: u32) -> governor::DefaultKeyedRateLimiter<String> {
    let rate = NonZeroU32::new(rate).unwrap();
    Governor::keyed(Quota::per_second(rate).allow_burst(NonZeroU32::new(1_000).unwrap()))
}

fn decisions(c: &mut Criterion) {
    let mut group = c.benchmark_group("decision");
    for (count, rate) in [(1_usize, ONE_KEY), (10_000, MANY_KEYS)] {
        let keys: Vec<String> = (0..count).map(|key| format!("user-{key:06}")).collect();
        let scopes = [("instance", LimitScope::Instance), ("cluster", LimitScope::Cluster)];
        for (name, scope) in scopes {
            let limiter = ours(scope, rate);
            let mut keys = keys.iter().cycle();
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter(|| black_box(limiter.allow("login", keys.next().unwrap())));
            });
        }
        let limiter = governor(rate);
        let mut keys = keys.iter().cycle();
        group.bench_function(BenchmarkId::new("governor", count), |b| {
            b.iter(|| black_box(limiter.check_key(keys.next().unwrap())));
        });
    }
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
