//! R70 Exact.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::{Error, ErrorKind, Result};
use coord_service::ratelimit::{
    EXACT_TIMEOUT, ExactAnswer, ExactRequest, ExactScope, LimitScope, RateLimiter,
};
use coord_testkit::Fixture;
use tokio::time::Instant;

use super::{allowed, builder, burst, set};

/// A server that does as it is told.
#[derive(Debug, Default)]
struct Server {
    does: AtomicUsize,
    asked: AtomicUsize,
}

const ALLOWS: usize = 0;
const DENIES: usize = 1;
const FAILS: usize = 2;
const HANGS: usize = 3;

#[async_trait]
impl ExactScope for Server {
    async fn decide(&self, request: &ExactRequest<'_>) -> Result<ExactAnswer> {
        assert_eq!((request.rule, request.key), ("login", "k"));
        self.asked.fetch_add(1, Ordering::SeqCst);
        match self.does.load(Ordering::SeqCst) {
            ALLOWS => Ok(ExactAnswer::Allowed),
            DENIES => Ok(ExactAnswer::Denied { retry_after: Some(Duration::from_secs(7)) }),
            FAILS => Err(Error::new(ErrorKind::Unavailable, "server", "it is away")),
            _ => std::future::pending().await,
        }
    }
}

async fn limiter(cx: &Fixture, does: usize) -> (RateLimiter, Arc<Server>) {
    let provider = cx.provider().await;
    let server = Arc::new(Server::default());
    server.does.store(does, Ordering::SeqCst);
    let limiter = builder(&provider).exact(Arc::clone(&server) as Arc<dyn ExactScope>).build().unwrap();
    limiter.start().await;
    set(cx, &provider, &[&limiter], "login", burst(5).with_scope(LimitScope::Exact)).await;
    (limiter, server)
}

pub(super) async fn the_exact_scope_decides(cx: Fixture) {
    let (limiter, server) = limiter(&cx, ALLOWS).await;
    for _ in 0..20 {
        assert!(limiter.allow_exact("login", "k").await.is_allowed());
    }
    server.does.store(DENIES, Ordering::SeqCst);
    let denied = limiter.allow_exact("login", "k").await;
    assert_eq!(denied.retry_after(), Some(Duration::from_secs(7)));
    let status = limiter.status().exact;
    assert_eq!((status.answers, status.decided, status.in_its_place), (true, 21, 0));
}

pub(super) async fn one_that_hangs_has_fifty_milliseconds_and_then_the_share_decides(cx: Fixture) {
    let (limiter, server) = limiter(&cx, HANGS).await;
    let begun = Instant::now();
    assert!(limiter.allow_exact("login", "k").await.is_allowed());
    assert!(begun.elapsed() >= EXACT_TIMEOUT && begun.elapsed() <= EXACT_TIMEOUT + cx.slack());
    for _ in 0..4 {
        assert!(limiter.allow_exact("login", "k").await.is_allowed());
    }
    assert!(!limiter.allow_exact("login", "k").await.is_allowed());
    let status = limiter.status().exact;
    assert_eq!((status.answers, status.decided, status.in_its_place), (false, 0, 6));
    assert_eq!(status.last_error.unwrap().kind(), ErrorKind::Timeout);
    // No other one waits, but for one in each second.
    let asked = server.asked.load(Ordering::SeqCst);
    assert!(asked <= 1 + begun.elapsed().as_secs() as usize, "{asked}");
}

pub(super) async fn one_that_fails_leaves_it_to_the_share_and_shows(cx: Fixture) {
    let (limiter, server) = limiter(&cx, FAILS).await;
    for _ in 0..5 {
        assert!(limiter.allow_exact("login", "k").await.is_allowed());
    }
    assert!(!limiter.allow_exact("login", "k").await.is_allowed());
    let status = limiter.status().exact;
    assert_eq!((status.answers, status.in_its_place), (false, 6));
    assert_eq!(status.last_error.unwrap().kind(), ErrorKind::Unavailable);
    server.does.store(ALLOWS, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(limiter.allow_exact("login", "k").await.is_allowed(), "it is asked again");
    let status = limiter.status().exact;
    assert!(status.answers && status.last_error.is_none());
}

pub(super) async fn its_outage_gives_out_no_second_burst(cx: Fixture) {
    let (limiter, server) = limiter(&cx, ALLOWS).await;
    for _ in 0..5 {
        assert!(limiter.allow_exact("login", "k").await.is_allowed());
    }
    server.does.store(FAILS, Ordering::SeqCst);
    assert!(!limiter.allow_exact("login", "k").await.is_allowed());
    assert_eq!(allowed(&limiter, "login", "k"), 0);
}
