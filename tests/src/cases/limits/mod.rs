//! Rate limits: R68 to R70. They are a type of coord-service over any config centre and registry,
//! nothing that a backend provides.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a case fails by panicking"
)]

use std::sync::Arc;

use coord_api::prelude::*;
use coord_api::{Provider, RegisterOptions, Registration, ServiceInstance};
use coord_service::ratelimit::{
    ClusterStanding, Decision, DenialReason, LimitRule, LimitScope, Per, RateLimiter, RateLimiterBuilder,
};
use coord_testkit::wait::{eventually, within};
use coord_testkit::{Case, Fixture};

mod r68;
mod r69;
mod r70;

/// Hands the list of these cases to a macro, as [`coord_testkit::list_cases!`] says.
#[macro_export]
macro_rules! limits_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r68 {
                a_decision_asks_nothing_of_the_store,
                a_rule_acts_within_a_second_of_its_commit,
                a_wrong_document_is_told_by_line_and_field_and_the_old_rule_stays,
                an_unknown_rule_is_the_default_or_admitted_and_counted,
                a_change_neither_refills_nor_empties,
                a_rule_that_comes_back_finds_its_buckets_as_they_were,
                an_outage_leaves_the_rules_as_they_are,
            }
            r69 {
                rate_and_burst_are_divided_by_the_live_instances,
                a_newcomer_admits_nothing_for_a_second,
                who_is_not_registered_admits_nothing,
                joins_and_leaves_admit_no_more_than_rate_and_burst_in_any_second,
                a_crash_gives_its_share_back,
                who_is_cut_off_keeps_its_share_and_a_strict_one_to_its_local_deadline,
                a_change_of_instances_is_no_write,
            }
            r70 {
                the_exact_scope_decides,
                one_that_hangs_has_fifty_milliseconds_and_then_the_share_decides,
                one_that_fails_leaves_it_to_the_share_and_shows,
                its_outage_gives_out_no_second_burst,
            }
        }
    };
}

/// The cases of R68 to R70.
pub const CASES: &[Case] = limits_cases!([coord_testkit::list_cases]);

const SERVICE: &str = "gateway";

/// The key of a rule's document.
fn key(rule: &str) -> String {
    format!("dev/{SERVICE}/ratelimit/{rule}")
}

/// A builder of a limiter that finds its rules there.
fn builder(provider: &Arc<dyn Provider>) -> RateLimiterBuilder {
    RateLimiter::builder(Arc::clone(provider.config()), SERVICE).env("dev")
}

/// A burst alone: what comes back is too late for any case.
fn burst(burst: u32) -> LimitRule {
    LimitRule::new(1, Per::Hour).with_burst(burst)
}

/// Shared by the instances.
fn shared(limit: LimitRule) -> LimitRule {
    limit.with_scope(LimitScope::Cluster)
}

/// Commits a rule and waits until it acts.
async fn set(cx: &Fixture, writer: &Arc<dyn Provider>, limiters: &[&RateLimiter], rule: &str, to: LimitRule) {
    let version = writer.config().set(&key(rule), &to).await.unwrap();
    for limiter in limiters {
        within(cx.soon() * 3, "the rule is taken", limiter.wait_until(version)).await.unwrap();
    }
}

/// An instance that is registered, and its limiter.
struct Member {
    limiter: RateLimiter,
    registration: Arc<Registration>,
}

impl Member {
    async fn new(cx: &Fixture, provider: &Arc<dyn Provider>, id: &str) -> Self {
        let instance = ServiceInstance::new(SERVICE, id, "localhost", 8080);
        let options = RegisterOptions::default().with_ttl(cx.ttl());
        let registering = provider.registry().register_with(instance, options);
        let registration = Arc::new(within(cx.soon(), "it is registered", registering).await.unwrap());
        let limiter = builder(provider).cluster(Arc::clone(provider.registry()), id).build().unwrap();
        limiter.set_registration(&registration);
        limiter.start().await;
        Member { limiter, registration }
    }

    /// One that has its share already.
    async fn settled(cx: &Fixture, provider: &Arc<dyn Provider>, id: &str) -> Self {
        let member = Member::new(cx, provider, id).await;
        within(cx.soon(), "it has its share", member.limiter.settled()).await.unwrap();
        member
    }
}

/// Waits until its limits are divided by so many.
async fn divided_by(cx: &Fixture, limiter: &RateLimiter, instances: u32) {
    let what = format!("it is divided by {instances}");
    eventually(cx.soon(), &what, async || (limiter.status().cluster.divided_by == instances).then_some(()))
        .await;
}

async fn stands(cx: &Fixture, limiter: &RateLimiter, standing: ClusterStanding) {
    let what = format!("it is {standing:?}");
    eventually(cx.soon() + cx.gone_by(cx.ttl()), &what, async || {
        (limiter.status().cluster.standing == standing).then_some(())
    })
    .await;
}

/// How many are allowed one after the other.
fn allowed(limiter: &RateLimiter, rule: &str, key: &str) -> usize {
    (0..10_000).take_while(|_| limiter.allow(rule, key).is_allowed()).count()
}

/// Why nothing is allowed.
fn denied(limiter: &RateLimiter, rule: &str) -> Option<DenialReason> {
    match limiter.allow(rule, "denied") {
        Decision::Denied(denial) => Some(denial.reason),
        Decision::Allowed => None,
    }
}
