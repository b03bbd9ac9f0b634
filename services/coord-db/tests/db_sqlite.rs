//! SQLite, in memory and in a file: what is promised, without a server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use coord::{ConfigCenterExt, ErrorKind, Outcome};
use coord_db::sqlx::{self, Sqlite};
use coord_db::{Db, DbError};
use coord_service::health::State;
use coord_service::live::LiveOptions;
use serde_json::json;

use common::{Service, eventually, poll_times};

async fn create(db: &Db<Sqlite>) {
    sqlx::raw_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER NOT NULL UNIQUE)")
        .execute(&*db.pool().unwrap())
        .await
        .unwrap();
}

async fn insert(connection: &mut sqlx::SqliteConnection, n: i64) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO t (n) VALUES (?)").bind(n).execute(connection).await.map(drop)
}

async fn rows(db: &Db<Sqlite>) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&*db.pool().unwrap()).await.unwrap()
}

/// In memory, and in a file that goes with the second value.
async fn both() -> Vec<(Service<Sqlite>, Option<tempfile::TempDir>)> {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("a.db").display());
    let memory = Service::start(json!({})).await;
    let file = Service::start(json!({ "url": url })).await;
    for service in [&memory, &file] {
        create(&service.db).await;
    }
    vec![(memory, None), (file, Some(directory))]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_kept_after_ok_and_leaves_nothing_otherwise() {
    for (service, _directory) in both().await {
        let db = &service.db;
        let done: Result<i64, DbError> = db
            .transaction(|mut tx| async move {
                insert(&mut tx, 1).await?;
                insert(&mut tx, 2).await?;
                Ok(7)
            })
            .await;
        assert_eq!((done.unwrap(), rows(db).await), (7, 2));
        // An error of the body: nothing of it is there when the call returns.
        let error: DbError = db
            .transaction(|mut tx| async move {
                insert(&mut tx, 3).await?;
                insert(&mut tx, 1).await?;
                Ok(())
            })
            .await
            .unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Conflict, Outcome::NotApplied));
        assert!(error.is_unique_violation() && !error.is_retryable());
        assert!(matches!(error.sqlx(), Some(sqlx::Error::Database(_))));
        assert_eq!(rows(db).await, 2);
        // A panic.
        let panicking = db.clone();
        let panicked = tokio::spawn(async move {
            panicking
                .transaction(|mut tx| async move {
                    insert(&mut tx, 4).await?;
                    assert_eq!(rows_of(&mut tx).await, 2, "there are three: this is the panic");
                    Ok::<_, DbError>(())
                })
                .await
        });
        assert!(panicked.await.unwrap_err().is_panic());
        // The next writer waits for the end of the one before.
        let mut transaction = db.begin().await.unwrap();
        assert_eq!(rows_of(&mut transaction).await, 2);
        insert(&mut transaction, 5).await.unwrap();
        transaction.rollback().await.unwrap();
        let mut transaction = db.begin().await.unwrap();
        insert(&mut transaction, 6).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(rows(db).await, 3);
        service.end().await;
    }
}

async fn rows_of(connection: &mut sqlx::SqliteConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_dropped_at_any_await_leaves_no_row() {
    for (service, _directory) in both().await {
        let db = &service.db;
        let (mut cut, mut kept) = (0, 0);
        for times in 1.. {
            let before = rows(db).await;
            let is_over = AtomicBool::new(false);
            let body = &is_over;
            let n = 2 * i64::try_from(times).unwrap();
            let transaction = db.transaction(|mut tx| async move {
                tokio::task::yield_now().await;
                insert(&mut tx, n).await?;
                tokio::task::yield_now().await;
                insert(&mut tx, n + 1).await?;
                tokio::task::yield_now().await;
                body.store(true, Ordering::SeqCst);
                Ok::<_, DbError>(())
            });
            let done = poll_times(transaction, times).await;
            // A writer gets its turn when the one before is over.
            db.begin().await.unwrap().rollback().await.unwrap();
            let written = rows(db).await - before;
            match (done.is_some(), is_over.load(Ordering::SeqCst)) {
                (true, _) => assert_eq!(written, 2),
                (false, false) => assert_eq!(written, 0, "dropped after {times} polls"),
                // The commit was sent: all of it or nothing.
                (false, true) => assert!([0, 2].contains(&written), "{written} of 2 rows"),
            }
            cut += usize::from(!is_over.load(Ordering::SeqCst));
            kept += usize::from(done.is_some());
            if kept == 3 {
                break;
            }
        }
        assert!(cut >= 3, "it was dropped {cut} times within the body");
        service.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_wait_for_each_other_and_lose_no_update() {
    for (service, _directory) in both().await {
        let db = &service.db;
        insert(&mut db.pool().unwrap().acquire().await.unwrap(), 0).await.unwrap();
        let writers: Vec<_> = (0..8)
            .map(|_| {
                let db = db.clone();
                tokio::spawn(async move {
                    for _ in 0..10 {
                        db.transaction(|mut tx| async move {
                            let n: i64 = sqlx::query_scalar("SELECT n FROM t").fetch_one(&mut *tx).await?;
                            sqlx::query("UPDATE t SET n = ?").bind(n + 1).execute(&mut *tx).await?;
                            Ok::<_, DbError>(())
                        })
                        .await
                        .unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        let n: i64 = sqlx::query_scalar("SELECT n FROM t").fetch_one(&*db.pool().unwrap()).await.unwrap();
        assert_eq!(n, 8 * 10);
        service.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_is_swapped_under_callers_and_keeps_what_is_in_memory() {
    for (service, directory) in both().await {
        let url = directory.as_ref().map(|d| format!("sqlite:{}", d.path().join("a.db").display()));
        let url = url.unwrap_or_default();
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let callers: Vec<_> = (0..16_i64)
            .map(|caller| {
                let (db, stop, calls) = (service.db.clone(), Arc::clone(&stop), Arc::clone(&calls));
                tokio::spawn(async move {
                    let mut written = 0;
                    while !stop.load(Ordering::SeqCst) {
                        calls.fetch_add(1, Ordering::SeqCst);
                        if caller > 0 {
                            sqlx::query("SELECT max(n) FROM t").execute(&*db.pool()?).await?;
                            continue;
                        }
                        written += 1;
                        db.transaction(|mut tx| async move {
                            insert(&mut tx, written).await.map_err(DbError::from)
                        })
                        .await?;
                    }
                    Ok::<_, DbError>(written)
                })
            })
            .collect();
        for size in 0..20_u64 {
            let called = calls.load(Ordering::SeqCst);
            service.configure(json!({ "url": url, "max_connections": 4 + size % 2 })).await;
            service.until("a swap", |status| status.generation == 2 + size).await;
            eventually("calls", async || calls.load(Ordering::SeqCst) > called + 16).await;
        }
        stop.store(true, Ordering::SeqCst);
        let mut written = 0;
        for caller in callers {
            written += caller.await.unwrap().unwrap();
        }
        assert_eq!(rows(&service.db).await, written, "each row is there");
        service.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_exhausted_and_leaves_nothing() {
    for (service, _directory) in both().await {
        let db = &service.db;
        let error = db
            .transaction(|mut tx| async move {
                sqlx::query("PRAGMA max_page_count = 8").execute(&mut *tx).await?;
                for n in 0..100_000 {
                    insert(&mut tx, n).await?;
                }
                Ok::<_, DbError>(())
            })
            .await
            .unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Exhausted, Outcome::NotApplied));
        assert_eq!(rows(db).await, 0);
        service.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_document_is_refused_by_its_field_and_the_old_one_stays() {
    let service = Service::<Sqlite>::start(json!({ "max_connections": 3 })).await;
    create(&service.db).await;
    let wrong = [
        (json!({ "max_connections": 0 }), "max_connections is 0"),
        (json!({ "connections": 5 }), "line 1, column"),
        (json!({ "url": "postgres://u:hunter2@127.0.0.1/d" }), "url: it must begin with sqlite:"),
        (json!({ "url": 20_071_960 }), "line 1, column"),
        (json!({ "timeout_ms": "hunter2" }), "line 1, column"),
    ];
    for (document, told) in wrong {
        service.configure(document).await;
        let said = |state: &State| state.why().is_some_and(|why| why.contains(told));
        let state = tokio::time::timeout(common::SOON, service.app.health().wait_for(said)).await;
        let state = state.unwrap_or_else(|_| panic!("{told}: {:?}", service.app.health()));
        let text = format!("{state:?} {:?} {:?}", service.app.health(), service.db);
        assert!(!text.contains("hunter2") && !text.contains("20071960"), "{text}");
        assert_eq!(service.db.pool().unwrap().options().get_max_connections(), 3);
        assert_eq!(rows(&service.db).await, 0);
    }
    // What only a restart can bring.
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("b.db").display());
    service.configure(json!({ "url": url })).await;
    let status = service.until("a restart", |status| status.waits_for_restart.is_some()).await;
    assert_eq!((status.waits_for_restart, status.generation), (Some("url"), 1));
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_longer_than_its_deadline_is_given_up() {
    let service = Service::<Sqlite>::start(json!({ "timeout_ms": 200, "acquire_timeout_ms": 100 })).await;
    let db = &service.db;
    create(db).await;
    let error = db
        .transaction(|mut tx| async move {
            insert(&mut tx, 1).await?;
            std::future::pending::<()>().await;
            Ok::<_, DbError>(())
        })
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::NotApplied));
    let error = db
        .call(|_connection| async move {
            std::future::pending::<()>().await;
            Ok::<_, DbError>(())
        })
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown));
    // Told in place, while connections are in use.
    service.configure(json!({ "timeout_ms": 300, "acquire_timeout_ms": 100 })).await;
    eventually("the new deadline", async || {
        let error = db
            .call(|_connection| async move {
                std::future::pending::<()>().await;
                Ok::<_, DbError>(())
            })
            .await
            .unwrap_err();
        error.to_string().contains("300ms")
    })
    .await;
    assert_eq!((rows(db).await, service.db.status().generation), (0, 1));
    // No connection is free.
    service.configure(json!({ "max_connections": 1, "acquire_timeout_ms": 100 })).await;
    service.until("a small pool", |status| status.generation == 2).await;
    let held = db.begin().await.unwrap();
    let error = db.begin().await.unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Timeout, "db.begin"));
    drop(held);
    db.begin().await.unwrap().commit().await.unwrap();
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_body_cannot_keep_its_transaction() {
    let service = Service::<Sqlite>::start(json!({})).await;
    let db = &service.db;
    create(db).await;
    let kept = std::sync::Mutex::new(None);
    let error = db
        .transaction(|mut tx| {
            let kept = &kept;
            async move {
                insert(&mut tx, 1).await?;
                *kept.lock().unwrap() = Some(tx);
                Ok::<_, DbError>(())
            }
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    drop(kept);
    db.begin().await.unwrap().rollback().await.unwrap();
    assert_eq!(rows(db).await, 0);
    service.end().await;
}

#[test]
fn a_transaction_that_outlives_its_runtime_ends_with_it() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let transaction = runtime.block_on(async {
        let service = Service::<Sqlite>::start(json!({})).await;
        service.db.begin().await.unwrap()
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    drop(transaction);
}

#[cfg(feature = "migrate")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_are_applied_once_however_many_ask_for_them() {
    for (service, _directory) in both().await {
        let migrator = common::migrator();
        let asking: Vec<_> = (0..4)
            .map(|_| {
                let (db, migrator) = (service.db.clone(), Arc::clone(&migrator));
                tokio::spawn(async move { db.migrate(&migrator).await })
            })
            .collect();
        for asked in asking {
            asked.await.unwrap().unwrap();
        }
        let applied: i64 = sqlx::query_scalar("SELECT value FROM migrated")
            .fetch_one(&*service.db.pool().unwrap())
            .await
            .unwrap();
        assert_eq!(applied, 1);
        service.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_counted() {
    use coord_service::metrics::{Metrics, MetricsOptions};

    let metrics = Metrics::new(MetricsOptions::default()).unwrap();
    metrics.install().unwrap();
    let service = Service::<Sqlite>::start(json!({})).await;
    // The other tests of this program count as well.
    let key = format!("{}-counted", common::KEY);
    let config = json!({ "max_connections": 3, "min_connections": 3 });
    service.app.coord().provider().config().set(&key, &config).await.unwrap();
    let options = LiveOptions::default().with_probe_every(Duration::from_millis(50));
    let counted = Db::<Sqlite>::open(service.app.config("db-counted")).with_options(options);
    let db = &service.app.add(counted).await.unwrap();
    sqlx::raw_sql("CREATE TABLE t (n INTEGER PRIMARY KEY)").execute(&*db.pool().unwrap()).await.unwrap();
    let write = |n: i64| {
        db.transaction(move |mut tx| async move {
            sqlx::query("INSERT INTO t VALUES (?)").bind(n).execute(&mut *tx).await?;
            Ok::<_, DbError>(())
        })
    };
    write(1).await.unwrap();
    write(2).await.unwrap();
    write(1).await.unwrap_err();
    let held = db.begin().await.unwrap();
    let shows = |line: &str| metrics.render().lines().any(|shown| shown == line);
    let counted = [
        r#"db_transactions_total{component="db-counted",result="committed"} 2"#,
        r#"db_transactions_total{component="db-counted",result="rolled_back"} 1"#,
    ];
    for line in counted {
        assert!(shows(line), "{line} is not in {}", metrics.render());
    }
    eventually("the gauges", async || {
        shows(r#"db_connections{component="db-counted",state="in_use"} 1"#)
            && shows(r#"db_connections{component="db-counted",state="idle"} 2"#)
    })
    .await;
    drop(held);
    service.end().await;
}
