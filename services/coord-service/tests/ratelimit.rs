//! The rate limiter over the embedded store, in virtual time (R68 to R70).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord::prelude::*;
use coord::{Error, ErrorKind, Registration, Result, ServiceInstance};
use coord_memory::MemoryProvider;
use coord_service::ratelimit::{
    ClusterStanding, DenialReason, ExactAnswer, ExactRequest, ExactScope, LimitRule, LimitScope, Per,
    RateLimiter, RateLimiterBuilder, SETTLING_TIME,
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use parking_lot::Mutex;
use tokio::time::{Instant, advance, sleep, timeout};

const ENV: &str = "test";
const SERVICE: &str = "gateway";

fn key(rule: &str) -> String {
    format!("{ENV}/{SERVICE}/ratelimit/{rule}")
}

fn builder(coord: &MemoryProvider) -> RateLimiterBuilder {
    RateLimiter::builder(Arc::clone(coord.config()), SERVICE).env(ENV)
}

/// One that is registered, and shares limits.
async fn member(coord: &MemoryProvider, id: &str) -> (RateLimiter, Arc<Registration>) {
    let registration = register(coord, id).await;
    let limiter = builder(coord).cluster(Arc::clone(coord.registry()), id).build().unwrap();
    limiter.set_registration(&registration);
    limiter.start().await;
    (limiter, registration)
}

async fn register(coord: &MemoryProvider, id: &str) -> Arc<Registration> {
    let instance = ServiceInstance::new(SERVICE, id, "localhost", 8080);
    Arc::new(coord.registry().register(instance).await.unwrap())
}

async fn set(coord: &MemoryProvider, limiter: &RateLimiter, rule: &str, limit: LimitRule) {
    let version = coord.config().set(&key(rule), &limit).await.unwrap();
    timeout(Duration::from_secs(10), limiter.wait_until(version)).await.expect("it is taken").unwrap();
}

/// How many are allowed one after the other, at one moment.
fn allowed(limiter: &RateLimiter, rule: &str, key: &str) -> usize {
    (0..10_000).take_while(|_| limiter.allow(rule, key).is_allowed()).count()
}

fn reason(limiter: &RateLimiter, rule: &str) -> Option<DenialReason> {
    match limiter.allow(rule, "k") {
        coord_service::ratelimit::Decision::Denied(denial) => Some(denial.reason),
        _ => None,
    }
}

/// Waits until `holds`, for at most ten seconds of the runtime's clock.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

fn rule(rate: u32, burst: u32) -> LimitRule {
    LimitRule::per_second(rate).with_burst(burst)
}

fn shared(rate: u32, burst: u32) -> LimitRule {
    rule(rate, burst).with_scope(LimitScope::Cluster)
}

// ---- R68: rules ----

#[tokio::test(start_paused = true)]
async fn a_rule_admits_its_burst_and_its_rate() {
    let coord = MemoryProvider::new();
    coord.config().set(&key("login"), &rule(10, 3)).await.unwrap();
    let limiter = builder(&coord).build().unwrap();
    let status = limiter.start().await;
    assert_eq!(status.rules["login"].limit, rule(10, 3));
    assert_eq!((allowed(&limiter, "login", "ann"), allowed(&limiter, "login", "bob")), (3, 3));
    let wait = limiter.allow("login", "ann").retry_after().unwrap();
    assert_eq!(wait, Duration::from_millis(100));
    advance(wait).await;
    assert_eq!(allowed(&limiter, "login", "ann"), 1);
    assert!(!limiter.allow_n("login", "carl", 4).is_allowed());
    assert!(limiter.allow_n("login", "carl", 3).is_allowed());
    limiter.stop().await;
    assert_eq!(allowed(&limiter, "login", "dora"), 3, "the last rules stay");
}

#[tokio::test(start_paused = true)]
async fn a_rule_acts_within_a_second_of_its_commit() {
    let coord = MemoryProvider::new();
    let limiter = builder(&coord).build().unwrap();
    limiter.start().await;
    for burst in [3, 7, 2] {
        coord.client().config().set(&key("login"), &rule(1, burst)).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(allowed(&limiter, "login", &format!("of {burst}")), burst as usize);
    }
    coord.config().delete(&key("login")).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(allowed(&limiter, "login", "of none"), 10_000);
}

#[tokio::test(start_paused = true)]
async fn a_change_neither_refills_nor_empties() {
    let coord = MemoryProvider::new();
    let limiter = builder(&coord).build().unwrap();
    limiter.start().await;
    set(&coord, &limiter, "login", rule(1, 10)).await;
    assert_eq!(allowed(&limiter, "login", "empty"), 10);
    assert!(limiter.allow_n("login", "half", 5).is_allowed());
    set(&coord, &limiter, "login", rule(2, 100)).await;
    let had = ["empty", "half", "full"].map(|key| allowed(&limiter, "login", key));
    assert_eq!(had, [0, 50, 100]);
    // Written again, spelled in another way, of another scope, deleted and made again.
    set(&coord, &limiter, "login", rule(2, 100)).await;
    set(&coord, &limiter, "login", shared(2, 100)).await;
    coord.config().set_raw(&key("login"), "{\"burst\":100,\n \"rate\":2}".to_owned().into()).await.unwrap();
    assert!(coord.config().delete(&key("login")).await.unwrap());
    set(&coord, &limiter, "login", rule(2, 100)).await;
    assert_eq!(["empty", "half", "full"].map(|key| allowed(&limiter, "login", key)), [0, 0, 0]);
    advance(Duration::from_millis(500)).await;
    assert_eq!(allowed(&limiter, "login", "empty"), 1, "at the new rate");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_document_is_told_by_line_and_field_and_the_old_rule_stays() {
    let coord = MemoryProvider::new();
    let limiter = builder(&coord).build().unwrap();
    limiter.start().await;
    set(&coord, &limiter, "login", rule(1, 3)).await;
    for (text, told) in [
        ("{\n  \"rate\": 1,\n  \"burst\": \"many\"\n}", "line 3, column 12: `burst`: invalid type: string"),
        ("{\n  \"rate\": 0\n}", "line 2, column 11: `rate`: 0 is not from 1 to 1,000,000"),
        ("{\n  \"rate\": 1,\n  \"bust\": 1\n}", "unknown field `bust`"),
        ("{\n  \"rate\": 1,\n", "line 3, column 0"),
    ] {
        let version = coord.config().set_raw(&key("login"), text.to_owned().into()).await.unwrap();
        limiter.wait_until(version).await.unwrap();
        let status = limiter.status();
        assert!(status.faults["login"].reason.contains(told), "{text}: {}", status.faults["login"]);
        assert_eq!(status.faults["login"].version, Some(version));
        assert_eq!(status.rules["login"].limit, rule(1, 3));
    }
    assert_eq!(allowed(&limiter, "login", "ann"), 3);
    set(&coord, &limiter, "login", rule(1, 4)).await;
    assert!(limiter.status().faults.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_unknown_rule_is_the_default_or_admitted_and_counted() {
    let coord = MemoryProvider::new();
    let limiter = builder(&coord).rule("default", rule(1, 2)).build().unwrap();
    assert_eq!(allowed(&limiter, "anything", "k"), 2, "also before it was started");
    limiter.start().await;
    assert_eq!((allowed(&limiter, "else", "k"), allowed(&limiter, "else", "l")), (0, 2), "one bucket a key");
    set(&coord, &limiter, "default", rule(1, 5)).await;
    assert_eq!(allowed(&limiter, "anything", "m"), 5, "the document counts more than the code");
    assert!(!limiter.status().rules["default"].is_from_code);
    coord.config().delete(&key("default")).await.unwrap();
    until("the code counts again", || limiter.status().rules["default"].is_from_code).await;
    assert_eq!(allowed(&limiter, "anything", "n"), 2);

    let none = builder(&coord).build().unwrap();
    none.start().await;
    assert_eq!((allowed(&none, "anything", "k"), none.status().unlimited), (10_000, 10_000));
    let wrong = builder(&coord).rule("r", rule(0, 1)).build().unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::InvalidArgument);
    assert_eq!(
        std::error::Error::source(&wrong).unwrap().to_string(),
        "`rate`: 0 is not from 1 to 1,000,000"
    );
}

#[tokio::test(start_paused = true)]
async fn the_store_may_be_away() {
    let coord = MemoryProvider::new();
    coord.disconnect();
    let limiter = builder(&coord)
        .rule("login", rule(1, 3))
        .rule("shared", shared(1, 3))
        .rule("strict", shared(1, 3).with_strict(true))
        .cluster(Arc::clone(coord.registry()), "a")
        .build()
        .unwrap();
    let status = limiter.start().await;
    assert!(status.last_error.is_some() && status.cluster.last_error.is_some(), "{status:?}");
    assert_eq!(status.cluster.standing, ClusterStanding::Assumed);
    assert_eq!((allowed(&limiter, "login", "k"), allowed(&limiter, "shared", "k")), (3, 3));
    assert_eq!(reason(&limiter, "strict"), Some(DenialReason::CutOff));
    coord.reconnect();
    until("it is read", || limiter.status().cluster.standing != ClusterStanding::Assumed).await;
    let _registration = register(&coord, "a").await;
    limiter.settled().await.unwrap();
    assert_eq!(limiter.status().cluster.standing, ClusterStanding::Member);
}

#[tokio::test(start_paused = true)]
async fn buckets_are_bounded_and_full_ones_forgotten() {
    let coord = MemoryProvider::new();
    let limiter = builder(&coord).rule("login", rule(10, 5)).max_buckets(100).build().unwrap();
    limiter.start().await;
    let buckets = || limiter.status().rules["login"].buckets;
    for key in 0..1_000 {
        assert!(limiter.allow("login", &key.to_string()).is_allowed());
    }
    assert!((1..=100).contains(&buckets()), "{}", buckets());
    until("they are forgotten", || buckets() == 0).await;
}

// ---- R69: shared by a cluster ----

#[tokio::test(start_paused = true)]
async fn each_instance_has_its_part() {
    let coord = MemoryProvider::new();
    let mut members = Vec::new();
    for id in ["a", "b", "c", "d"] {
        members.push(member(&coord.client(), id).await);
    }
    for (limiter, _) in &members {
        limiter.settled().await.unwrap();
        set(&coord, limiter, "login", shared(100, 40)).await;
        assert_eq!(allowed(limiter, "login", "k"), 10);
    }
    sleep(Duration::from_millis(200)).await;
    let sum: usize = members.iter().map(|(limiter, _)| allowed(limiter, "login", "k")).sum();
    assert_eq!(sum, 20, "of the rate");
    let cluster = members[0].0.status().cluster;
    assert_eq!((cluster.live, cluster.divided_by, cluster.is_connected), (Some(4), 4, true));

    let (limiter, registration) = members.pop().unwrap();
    registration.unregister().await.unwrap();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(allowed(&members[0].0, "login", "k"), 13);
    assert_eq!(reason(&limiter, "login"), Some(DenialReason::NotRegistered));
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_admits_nothing_for_a_second() {
    let coord = MemoryProvider::new();
    let (old, _a) = member(&coord, "a").await;
    old.settled().await.unwrap();
    set(&coord, &old, "login", shared(100, 100)).await;
    let start = Instant::now();
    let (new, _b) = member(&coord.client(), "b").await;
    until("the old one makes room", || old.status().cluster.divided_by == 2).await;
    while start.elapsed() < SETTLING_TIME {
        assert_eq!(reason(&new, "login"), Some(DenialReason::Settling), "after {:?}", start.elapsed());
        sleep(Duration::from_millis(1)).await;
    }
    new.settled().await.unwrap();
    assert_eq!(allowed(&new, "login", "k"), 50);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_registered_admits_nothing() {
    let coord = MemoryProvider::new();
    let (_a, _registration) = member(&coord, "a").await;
    let stranger = builder(&coord).cluster(Arc::clone(coord.registry()), "stranger").build().unwrap();
    stranger.start().await;
    set(&coord, &stranger, "login", shared(100, 100)).await;
    set(&coord, &stranger, "mine", rule(100, 100)).await;
    assert_eq!(reason(&stranger, "login"), Some(DenialReason::NotRegistered));
    assert_eq!(stranger.status().rules["login"].closed, Some(DenialReason::NotRegistered));
    assert_eq!(allowed(&stranger, "mine", "k"), 100, "what it shares with nobody");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_cut_off_keeps_its_share_and_a_strict_one_to_its_local_deadline() {
    let coord = MemoryProvider::new();
    let cut = coord.client();
    let (limiter, registration) = member(&cut, "a").await;
    let (_b, _registration) = member(&coord, "b").await;
    limiter.settled().await.unwrap();
    set(&coord, &limiter, "login", shared(100, 100)).await;
    set(&coord, &limiter, "strict", shared(100, 100).with_strict(true)).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!((allowed(&limiter, "login", "k"), allowed(&limiter, "strict", "k")), (50, 50));
    cut.disconnect();
    // Others come meanwhile.
    let (_c, _registration) = member(&coord, "c").await;
    let left = registration.ttl();
    assert!(left > Duration::from_secs(5));
    sleep(left - Duration::from_millis(10)).await;
    assert_eq!((allowed(&limiter, "login", "k"), allowed(&limiter, "strict", "k")), (50, 50));
    let cluster = limiter.status().cluster;
    assert_eq!((cluster.is_connected, cluster.divided_by), (false, 2));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(allowed(&limiter, "login", "k"), 50);
    assert_eq!(reason(&limiter, "strict"), Some(DenialReason::CutOff));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(allowed(&limiter, "login", "k"), 50);
    // It comes back as a newcomer.
    cut.reconnect();
    until("it is back", || limiter.status().cluster.standing == ClusterStanding::Settling).await;
    limiter.settled().await.unwrap();
    sleep(Duration::from_secs(2)).await;
    assert_eq!((allowed(&limiter, "login", "k"), allowed(&limiter, "strict", "k")), (33, 33));
}

#[tokio::test(start_paused = true)]
async fn one_whose_id_another_process_took_has_no_share() {
    let coord = MemoryProvider::new();
    let (old, _old) = member(&coord, "a").await;
    old.settled().await.unwrap();
    set(&coord, &old, "login", shared(100, 100)).await;
    let (new, _new) = member(&coord.client(), "a").await;
    until("it is over", || old.status().cluster.standing == ClusterStanding::NotRegistered).await;
    assert_eq!(reason(&old, "login"), Some(DenialReason::NotRegistered));
    new.settled().await.unwrap();
    assert_eq!(new.status().cluster.divided_by, 1);
}

#[tokio::test(start_paused = true)]
async fn more_instances_than_requests_leave_some_without_a_share() {
    let coord = MemoryProvider::new();
    let mut members = Vec::new();
    for id in ["a", "b", "c", "d", "e"] {
        members.push(member(&coord.client(), id).await);
    }
    sleep(Duration::from_secs(2)).await;
    for (limiter, _) in &members {
        set(&coord, limiter, "login", shared(2, 1)).await;
    }
    let had: Vec<usize> = members.iter().map(|(limiter, _)| allowed(limiter, "login", "k")).collect();
    assert_eq!(had, [1, 1, 1, 0, 0]);
    assert_eq!(reason(&members[4].0, "login"), Some(DenialReason::NoShare));
}

/// What R69 promises, counted: a hundred instances come and go while requests come at all times,
/// and no second admits more than rate and burst, over all of them.
#[tokio::test(start_paused = true)]
async fn joins_and_leaves_admit_no_more_than_rate_and_burst_in_any_second() {
    const STEP: Duration = Duration::from_millis(10);
    const STEPS_A_SECOND: usize = 100;
    for (rate, burst) in [(500, 500), (500, 50), (500, 5)] {
        let coord = MemoryProvider::new();
        let mut random = fastrand::Rng::with_seed(rate.into());
        let rule = shared(rate, burst);
        coord.config().set(&key("login"), &rule).await.unwrap();
        let mut live = Vec::new();
        let mut gone: Vec<(Instant, RateLimiter)> = Vec::new();
        let mut admitted: Vec<usize> = Vec::new();
        let (mut changes, mut next) = (0, 0);
        while changes < 100 || admitted.len() < next {
            if admitted.len() >= next && changes < 100 {
                if live.len() > 1 && (live.len() > 15 || random.u8(..5) < 2) {
                    let (limiter, registration): (RateLimiter, Arc<Registration>) =
                        live.swap_remove(random.usize(..live.len()));
                    registration.unregister().await.unwrap();
                    gone.push((Instant::now() + 2 * SETTLING_TIME, limiter));
                } else {
                    live.push(member(&coord.client(), &format!("{:x}-{changes}", random.u16(..))).await);
                }
                changes += 1;
                next = admitted.len() + random.usize(..2 * STEPS_A_SECOND);
            }
            gone.retain(|(until, _)| Instant::now() < *until);
            let limiters = live.iter().map(|(limiter, _)| limiter).chain(gone.iter().map(|(_, gone)| gone));
            admitted.push(limiters.map(|limiter| allowed(limiter, "login", "k")).sum());
            sleep(STEP).await;
        }
        let worst = admitted.windows(STEPS_A_SECOND + 1).map(|second| second.iter().sum()).max();
        let (worst, permitted) = (worst.unwrap_or(0), (rate + burst) as usize);
        assert!(worst * 100 <= permitted * 105, "{worst} of {permitted}");
        let used = admitted.iter().sum::<usize>() * STEPS_A_SECOND / admitted.len();
        assert!(used * 100 >= rate as usize * 60, "{used} of {rate} each second");
    }
}

// ---- R70: exact ----

/// An exact scope that does as it is told.
#[derive(Debug, Default)]
struct Fake {
    does: Mutex<Does>,
    asked: AtomicUsize,
}

#[derive(Clone, Copy, Debug, Default)]
enum Does {
    #[default]
    Allows,
    Denies,
    Fails,
    Hangs,
}

#[async_trait]
impl ExactScope for Fake {
    async fn decide(&self, request: &ExactRequest<'_>) -> Result<ExactAnswer> {
        assert_eq!((request.rule, request.key, request.count), ("login", "k", 1));
        assert_eq!(request.limit.rate(), 100);
        self.asked.fetch_add(1, Ordering::Relaxed);
        let does = *self.does.lock();
        match does {
            Does::Allows => Ok(ExactAnswer::Allowed),
            Does::Denies => Ok(ExactAnswer::Denied { retry_after: Some(Duration::from_secs(7)) }),
            Does::Fails => Err(Error::new(ErrorKind::Unavailable, "fake", "no server")),
            Does::Hangs => std::future::pending().await,
        }
    }
}

async fn exact(burst: u32) -> (Arc<MemoryProvider>, RateLimiter, Arc<Fake>) {
    let (coord, fake) = (MemoryProvider::new(), Arc::new(Fake::default()));
    let rule = rule(100, burst).with_scope(LimitScope::Exact);
    coord.config().set(&key("login"), &rule).await.unwrap();
    let limiter = builder(&coord).exact(Arc::clone(&fake) as Arc<dyn ExactScope>).build().unwrap();
    limiter.start().await;
    (coord, limiter, fake)
}

#[tokio::test(start_paused = true)]
async fn the_exact_scope_decides() {
    let (_coord, limiter, fake) = exact(5).await;
    for _ in 0..20 {
        assert!(limiter.allow_exact("login", "k").await.is_allowed(), "whatever the share is");
    }
    *fake.does.lock() = Does::Denies;
    let denied = limiter.allow_exact("login", "k").await;
    assert_eq!(denied.retry_after(), Some(Duration::from_secs(7)));
    let status = limiter.status().exact;
    assert!(status.is_there && status.answers);
    assert_eq!((status.decided, status.in_its_place), (21, 0));
    // Whoever does not wait goes by the share, of which that was taken.
    assert_eq!(allowed(&limiter, "login", "k"), 0);
    assert_eq!(limiter.status().exact.in_its_place, 1);
    assert!(limiter.allow_exact("other", "k").await.is_allowed(), "no rule of that scope");
    assert_eq!(fake.asked.load(Ordering::Relaxed), 21);
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_has_fifty_milliseconds_and_then_the_share_decides() {
    let (_coord, limiter, fake) = exact(5).await;
    *fake.does.lock() = Does::Hangs;
    let start = Instant::now();
    assert!(limiter.allow_exact("login", "k").await.is_allowed());
    assert_eq!(start.elapsed(), Duration::from_millis(50));
    let status = limiter.status().exact;
    assert!(!status.answers);
    assert_eq!(status.last_error.unwrap().kind(), ErrorKind::Timeout);
    // Nobody waits for it again before a second is over.
    let start = Instant::now();
    let had = allowed_exactly(&limiter).await;
    assert_eq!((had, start.elapsed(), fake.asked.load(Ordering::Relaxed)), (4, Duration::ZERO, 1));
    sleep(Duration::from_secs(1)).await;
    *fake.does.lock() = Does::Allows;
    assert!(limiter.allow_exact("login", "k").await.is_allowed());
    assert!(limiter.status().exact.answers && limiter.status().exact.last_error.is_none());
    assert_eq!((limiter.status().exact.decided, limiter.status().exact.in_its_place), (1, 6));
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_is_asked_once_a_second() {
    let (_coord, limiter, fake) = exact(5).await;
    *fake.does.lock() = Does::Fails;
    let mut had = 0;
    for _ in 0..400 {
        had += usize::from(limiter.allow_exact("login", "k").await.is_allowed());
        sleep(Duration::from_millis(10)).await;
    }
    assert!((395..=405).contains(&had), "the share, which is all of it: {had}");
    assert_eq!(fake.asked.load(Ordering::Relaxed), 4);
    assert_eq!(limiter.status().exact.last_error.unwrap().kind(), ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn its_outage_hands_out_no_second_burst() {
    let (_coord, limiter, fake) = exact(50).await;
    for _ in 0..50 {
        assert!(limiter.allow_exact("login", "k").await.is_allowed());
    }
    *fake.does.lock() = Does::Fails;
    assert!(!limiter.allow_exact("login", "k").await.is_allowed());
}

#[tokio::test(start_paused = true)]
async fn without_an_exact_scope_the_share_decides_and_it_shows() {
    let coord = MemoryProvider::new();
    let rule = LimitRule::new(60, Per::Minute).with_burst(2).with_scope(LimitScope::Exact);
    let limiter = builder(&coord).rule("login", rule).build().unwrap();
    limiter.start().await;
    assert!(limiter.allow_exact("login", "k").await.is_allowed());
    assert!(limiter.allow_exact_n("login", "k", 0).await.is_allowed());
    assert!(limiter.allow_exact("login", "k").await.is_allowed());
    assert_eq!(limiter.allow_exact("login", "k").await.retry_after(), Some(Duration::from_secs(1)));
    let status = limiter.status().exact;
    assert!(!status.is_there && !status.answers);
    assert_eq!((status.decided, status.in_its_place), (0, 4));
}

// ---- metrics ----

#[test]
fn what_it_decides_is_counted() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let (_coord, limiter, fake) = exact(5).await;
            assert!(limiter.allow("unknown", "k").is_allowed());
            assert!(limiter.allow_exact("login", "k").await.is_allowed());
            *fake.does.lock() = Does::Hangs;
            assert_eq!(allowed_exactly(&limiter).await, 5);
            limiter.stop().await;
        });
    });
    let mut counted: Vec<(String, u64)> = Vec::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let labels: Vec<&str> = key.key().labels().map(metrics::Label::value).collect();
        if let DebugValue::Counter(value) = value {
            counted.push((format!("{} {}", key.key().name(), labels.join(" ")), value));
        }
    }
    for (series, value) in [
        ("coord_ratelimit_decisions_total login allowed", 6),
        ("coord_ratelimit_decisions_total login denied", 1),
        ("coord_ratelimit_unlimited_total ", 1),
        ("coord_ratelimit_exact_total answered", 1),
        ("coord_ratelimit_exact_total timeout", 1),
        ("coord_ratelimit_exact_total skipped", 5),
    ] {
        assert!(counted.contains(&(series.to_owned(), value)), "{series} {value}: {counted:?}");
    }
}

/// How many are allowed one after the other, by whoever decides.
async fn allowed_exactly(limiter: &RateLimiter) -> usize {
    let mut count = 0;
    while count < 1_000 && limiter.allow_exact("login", "k").await.is_allowed() {
        count += 1;
    }
    count
}

// ---- starting and stopping ----

#[tokio::test(start_paused = true)]
async fn it_starts_and_stops_again_and_again() {
    let coord = MemoryProvider::new();
    let (limiter, _registration) = member(&coord, "a").await;
    limiter.start().await;
    limiter.settled().await.unwrap();
    limiter.stop().await;
    limiter.stop().await;
    assert!(limiter.settled().await.is_ok(), "its share stays");
    coord.config().set(&key("login"), &shared(10, 10)).await.unwrap();
    limiter.start().await;
    assert_eq!(allowed(&limiter, "login", "k"), 10);
    drop(limiter);
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_of_the_end() {
    let coord = MemoryProvider::new();
    let limiter = builder(&coord).cluster(Arc::clone(coord.registry()), "a").build().unwrap();
    limiter.start().await;
    let limiter = Arc::new(limiter);
    let waiting = tokio::spawn({
        let limiter = Arc::clone(&limiter);
        async move { limiter.settled().await }
    });
    sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished(), "nobody registered it");
    limiter.stop().await;
    assert_eq!(waiting.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn it_outlives_the_runtime_that_started_it() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (coord, limiter) = runtime().block_on(async {
        let coord = MemoryProvider::new();
        let (limiter, _registration) = member(&coord, "a").await;
        // The registration goes, and the share with it.
        (coord, limiter)
    });
    runtime().block_on(async {
        set(&coord, &limiter, "login", rule(1, 3)).await;
        assert_eq!(allowed(&limiter, "login", "k"), 3);
        until("it saw that it is not registered", || {
            limiter.status().cluster.standing == ClusterStanding::NotRegistered
        })
        .await;
        limiter.stop().await;
    });
}
