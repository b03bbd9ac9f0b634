//! What the pool of a `Db` costs more than the pool of sqlx, and how many calls fail at a swap,
//! with the drain and without.
//!
//! `cargo bench -p coord-db --bench db --features postgres` prints ratios of one run, on this
//! machine. The calls at a swap need a PostgreSQL (`scripts/postgresql.sh`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a program for people")]

use std::time::{Duration, Instant};

use coord::{ConfigCenterExt, Coord};
use coord_db::sqlx::{self, Sqlite};
use coord_db::{Db, Engine};
use coord_service::live::LiveOptions;
use coord_service::{App, Boot, OnUnreachable};
use serde_json::{Value, json};

/// Rounds of so many queries each, of both pools in turn; the median of the ratios counts.
const ROUNDS: usize = 301;
const QUERIES: u32 = 200;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    take().await;
    #[cfg(feature = "postgres")]
    for (how, drain) in [("drained", Duration::from_secs(30)), ("closed at once", Duration::ZERO)] {
        swap(how, drain).await;
    }
}

async fn start<DB: Engine>(config: Value, options: LiveOptions) -> (App, Coord, Db<DB>) {
    let boot = Boot::bare("bench");
    let coord = boot.connect("memory://", OnUnreachable::Fail).await.unwrap();
    coord.provider().config().set("dev/bench/db", &config).await.unwrap();
    let app = boot.upgrade(&coord).await.unwrap();
    let db = app.add(Db::open(app.config("db")).with_options(options)).await.unwrap();
    (app, coord, db)
}

/// A query on the pool of a `Db`, taken for it, and on the same pool of sqlx.
async fn take() {
    let (app, _coord, db) = start::<Sqlite>(json!({}), LiveOptions::default()).await;
    let raw = db.pool().unwrap();
    let query = || sqlx::query_scalar::<_, i64>("SELECT 1");
    let mut ratios = Vec::new();
    for round in 0..2 * ROUNDS {
        let mut times = [Duration::ZERO; 2];
        // Each is the first one as often as the other.
        for which in [round % 2, (round + 1) % 2] {
            let begun = Instant::now();
            for _ in 0..QUERIES {
                match which {
                    0 => query().fetch_one(&*db.pool().unwrap()).await.unwrap(),
                    _ => query().fetch_one(&*raw).await.unwrap(),
                };
            }
            if let Some(time) = times.get_mut(which) {
                *time = begun.elapsed();
            }
        }
        let [ours, theirs] = times;
        ratios.push(ours.as_secs_f64() / theirs.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ROUNDS).copied().unwrap_or_default();
    println!("a query on db.pool(), of SQLite in memory: {median:.3} x the raw pool");
    drop(raw);
    app.end().await;
}

/// 64 callers during 100 swaps.
#[cfg(feature = "postgres")]
async fn swap(how: &str, drain: Duration) {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    let server = coord_servers::postgres::Postgres::start(&[]);
    let config = |swap: u64| {
        json!({
            "url": server.url(), "password": server.password(), "max_connections": 8,
            "min_connections": 8, "slow_ms": 10_000 + swap
        })
    };
    let options = LiveOptions::default().with_drain(drain);
    let (app, coord, db) = start::<sqlx::Postgres>(config(0), options).await;
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let (db, stop) = (db.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut calls, mut failed) = (0_u64, 0_u64);
                while !stop.load(Ordering::Relaxed) {
                    calls += 1;
                    let pool = db.pool().unwrap();
                    if sqlx::query("SELECT pg_sleep(0.002)").execute(&*pool).await.is_err() {
                        failed += 1;
                    }
                }
                (calls, failed)
            })
        })
        .collect();
    for swap in 1..=100 {
        coord.provider().config().set("dev/bench/db", &config(swap)).await.unwrap();
        db.wait_for(|status| status.generation > swap).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut calls, mut failed) = (0, 0);
    for caller in callers {
        let (made, lost) = caller.await.unwrap();
        calls += made;
        failed += lost;
    }
    println!("100 swaps under 64 callers, {how}: {failed} of {calls} calls failed");
    app.end().await;
}
