//! A real PostgreSQL: what is promised, counted in its rows.
#![cfg(feature = "postgres")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use coord::{ErrorKind, Outcome};
use coord_db::sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use coord_db::sqlx::{self, AssertSqlSafe, PgConnection, Postgres};
use coord_db::{Db, DbError};
use coord_servers::postgres::Postgres as Server;
use serde_json::{Value, json};

use common::{Service, poll_times};

/// The server of all tests here, whose tables have names of their own.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(&["max_connections=100"]))
}

fn config(server: &Server) -> Value {
    json!({ "url": server.url(), "password": server.password(), "max_connections": 8 })
}

/// Whoever looks from outside.
async fn outside(server: &Server) -> PgPool {
    let options: PgConnectOptions = server.url().parse().unwrap();
    PgPoolOptions::new().max_connections(2).connect_with(options.password(server.password())).await.unwrap()
}

/// A service with a table of its own, and who counts its rows from outside.
async fn service(table: &str) -> (Service<Postgres>, PgPool) {
    let outside = outside(server()).await;
    let create = format!("CREATE TABLE {table} (n BIGINT PRIMARY KEY, value BIGINT NOT NULL DEFAULT 0)");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&outside).await.unwrap();
    (Service::start(config(server())).await, outside)
}

async fn rows(pool: &PgPool, table: &str) -> i64 {
    let count = format!("SELECT count(*) FROM {table}");
    sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(pool).await.unwrap()
}

async fn insert(connection: &mut PgConnection, table: &str, n: i64) -> Result<(), sqlx::Error> {
    let insert = format!("INSERT INTO {table} (n) VALUES ($1)");
    sqlx::query(AssertSqlSafe(insert)).bind(n).execute(connection).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_kept_after_ok_and_leaves_nothing_otherwise() {
    let (service, outside) = service("kept").await;
    let db = &service.db;
    db.transaction(|mut tx| async move {
        insert(&mut tx, "kept", 1).await?;
        insert(&mut tx, "kept", 2).await?;
        Ok::<_, DbError>(())
    })
    .await
    .unwrap();
    assert_eq!(rows(&outside, "kept").await, 2);
    let error = db
        .transaction(|mut tx| async move {
            insert(&mut tx, "kept", 3).await?;
            insert(&mut tx, "kept", 1).await?;
            Ok::<_, DbError>(())
        })
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Conflict, Outcome::NotApplied));
    assert_eq!(error.constraint(), Some("kept_pkey"));
    let panicking = db.clone();
    let panicked = tokio::spawn(async move {
        panicking
            .transaction(|mut tx| async move {
                insert(&mut tx, "kept", 4).await?;
                let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM kept").fetch_one(&mut *tx).await?;
                assert_eq!(rows, 2, "there are three: this is the panic");
                Ok::<_, DbError>(())
            })
            .await
    });
    assert!(panicked.await.unwrap_err().is_panic());
    assert_eq!(rows(&outside, "kept").await, 2);
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_dropped_at_any_await_leaves_no_row() {
    let (service, outside) = service("dropped").await;
    let db = &service.db;
    let (mut cut, mut kept) = (0, 0);
    for times in 1.. {
        let before = rows(&outside, "dropped").await;
        let is_over = AtomicBool::new(false);
        let body = &is_over;
        let n = 2 * i64::try_from(times).unwrap();
        // An answer that is there at once is no place to be dropped at; these always are.
        let transaction = db.transaction(|mut tx| async move {
            tokio::task::yield_now().await;
            insert(&mut tx, "dropped", n).await?;
            tokio::task::yield_now().await;
            insert(&mut tx, "dropped", n + 1).await?;
            tokio::task::yield_now().await;
            body.store(true, Ordering::SeqCst);
            Ok::<_, DbError>(())
        });
        let done = poll_times(transaction, times).await;
        // Whoever wants the table alone waits for all transactions.
        let mut alone = outside.begin().await.unwrap();
        sqlx::query("LOCK TABLE dropped").execute(&mut *alone).await.unwrap();
        alone.commit().await.unwrap();
        let written = rows(&outside, "dropped").await - before;
        match (done.is_some(), is_over.load(Ordering::SeqCst)) {
            (true, _) => assert_eq!(written, 2),
            (false, false) => assert_eq!(written, 0, "dropped after {times} polls"),
            // The commit may have been sent: all of it or nothing.
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_begin_that_is_dropped_leaves_no_connection_in_a_transaction() {
    let (service, outside) = service("begun").await;
    let mut config = config(server());
    config["max_connections"] = 1.into();
    service.configure(config).await;
    service.until("one connection", |status| status.generation == 2).await;
    let mut begun = 0;
    for times in 1_i64.. {
        let polls = usize::try_from(times).unwrap();
        begun += usize::from(poll_times(service.db.begin(), polls).await.is_some());
        // Whatever is written next on the connection is there at once.
        let insert = sqlx::query("INSERT INTO begun (n) VALUES ($1)").bind(times);
        insert.execute(&*service.db.pool().unwrap()).await.unwrap();
        assert_eq!(rows(&outside, "begun").await, times, "a begin was dropped after {polls} polls");
        if begun == 3 {
            break;
        }
    }
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_transaction_is_not_committed_without_a_word() {
    let (service, outside) = service("failed").await;
    let db = &service.db;
    // The body takes no notice of an error. PostgreSQL keeps nothing of such a transaction.
    let body = async |connection: &mut PgConnection| {
        insert(connection, "failed", 1).await.unwrap();
        insert(connection, "failed", 1).await.unwrap_err();
    };
    let mut transaction = outside.begin().await.unwrap();
    body(&mut transaction).await;
    assert!(transaction.commit().await.is_ok(), "sqlx does not say so");
    let mut transaction = db.begin().await.unwrap();
    body(&mut transaction).await;
    let error = transaction.commit().await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::InvalidArgument, Outcome::NotApplied));
    assert!(error.to_string().contains("earlier statement"), "{error}");
    assert_eq!(rows(&outside, "failed").await, 0);
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serialization_failures_are_run_again_and_lose_no_update() {
    let (service, outside) = service("serial").await;
    insert(&mut outside.acquire().await.unwrap(), "serial", 1).await.unwrap();
    // At first all have read before anyone writes: then one of them gets through.
    let all_have_read = Arc::new(tokio::sync::Barrier::new(4));
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (db, all_have_read) = (service.db.clone(), Arc::clone(&all_have_read));
            tokio::spawn(async move {
                let (mut runs, all_have_read) = (0, &all_have_read);
                for n in 0..5 {
                    let ran = &std::sync::atomic::AtomicUsize::new(0);
                    let run = || {
                        db.transaction_retrying(|mut tx| async move {
                            let is_first = ran.fetch_add(1, Ordering::SeqCst) == 0 && n == 0;
                            sqlx::query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
                                .execute(&mut *tx)
                                .await?;
                            let value: i64 =
                                sqlx::query_scalar("SELECT value FROM serial").fetch_one(&mut *tx).await?;
                            if is_first {
                                all_have_read.wait().await;
                            }
                            let update = sqlx::query("UPDATE serial SET value = $1").bind(value + 1);
                            update.execute(&mut *tx).await?;
                            Ok::<_, DbError>(())
                        })
                    };
                    // Each round somebody gets through.
                    while let Err(error) = run().await {
                        assert!(error.is_retryable(), "{error}");
                    }
                    runs += ran.load(Ordering::SeqCst);
                }
                runs
            })
        })
        .collect();
    let mut runs = 0;
    for writer in writers {
        runs += writer.await.unwrap();
    }
    let value: i64 = sqlx::query_scalar("SELECT value FROM serial").fetch_one(&outside).await.unwrap();
    assert_eq!(value, 4 * 5);
    assert!(runs >= 4 * 5 + 3, "all but one of the first ones ran again");
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_failure_has_the_kind_that_says_what_to_do() {
    let (service, outside) = service("kinds").await;
    sqlx::raw_sql(
        "CREATE ROLE guest LOGIN PASSWORD 'guest'; \
         CREATE TABLE child (n BIGINT REFERENCES kinds (n), m TEXT NOT NULL CHECK (m <> ''))",
    )
    .execute(&outside)
    .await
    .unwrap();
    let mut config = config(server());
    config["statement_timeout_ms"] = 100.into();
    service.configure(config).await;
    service.until("a short time", |status| status.generation == 2).await;
    let db = service.db.clone();
    let fails = async |statement: &'static str| {
        let done = sqlx::raw_sql(statement).execute(&*db.pool().unwrap()).await;
        let error = DbError::from(done.unwrap_err());
        assert_eq!(error.outcome(), Outcome::NotApplied, "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "no value is shown");
        error.kind()
    };
    assert_eq!(fails("SELECT 'hunter2' FROM nowhere").await, ErrorKind::InvalidArgument);
    assert_eq!(fails("NO STATEMENT 'hunter2'").await, ErrorKind::InvalidArgument);
    assert_eq!(fails("SELECT 'hunter2'::bigint").await, ErrorKind::InvalidArgument);
    assert_eq!(fails("INSERT INTO child VALUES (7, 'hunter2')").await, ErrorKind::Conflict);
    assert_eq!(fails("INSERT INTO child (m) VALUES (NULL)").await, ErrorKind::InvalidArgument);
    assert_eq!(fails("INSERT INTO child (m) VALUES ('')").await, ErrorKind::InvalidArgument);
    assert_eq!(fails("SELECT pg_sleep(10)").await, ErrorKind::Timeout);
    assert_eq!(fails("SET ROLE guest; SELECT * FROM kinds").await, ErrorKind::PermissionDenied);
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_call_leaves_unanswered_does_not_reach_the_next_one() {
    let (service, outside) = service("calls").await;
    let mut small = config(server());
    small["max_connections"] = 1.into();
    small["timeout_ms"] = 2_000.into();
    service.configure(small).await;
    service.until("one connection", |status| status.generation == 2).await;
    let db: &Db<Postgres> = &service.db;
    let sleep = |seconds: f64| {
        db.call(move |mut connection| async move {
            sqlx::query("SELECT pg_sleep($1)").bind(seconds).execute(&mut *connection).await?;
            Ok::<_, DbError>(())
        })
    };
    let sleeps = async || {
        let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND state = 'active' AND query LIKE 'SELECT pg_sleep($1)%' AND pid <> pg_backend_pid()";
        while sqlx::query_scalar::<_, i64>(sleeping).fetch_one(&outside).await.unwrap() == 0 {
            tokio::task::yield_now().await;
        }
    };
    // Dropped by the caller, while the server is at it; and by the deadline.
    for _ in 0..2 {
        loop {
            tokio::select! {
                // On a busy machine it may be over before it was looked at.
                done = sleep(1.0) => done.unwrap(),
                () = sleeps() => break,
            }
        }
        let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&*db.pool().unwrap()).await.unwrap();
        assert_eq!(one, 1);
        let error = sleep(60.0).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown));
        db.call(|mut connection| async move {
            sqlx::query("INSERT INTO calls (n) SELECT count(*) FROM calls").execute(&mut *connection).await?;
            Ok::<_, DbError>(())
        })
        .await
        .unwrap();
    }
    assert_eq!(rows(&outside, "calls").await, 2);
    service.end().await;
}

#[cfg(feature = "migrate")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_are_applied_once_for_all_instances_and_take_their_time() {
    let (one, outside) = service("instances").await;
    let migrator = common::migrator();
    let mut asking = Vec::new();
    let mut services = vec![one];
    for _ in 0..2 {
        let mut config = config(server());
        config["statement_timeout_ms"] = 50.into();
        services.push(Service::<Postgres>::start(config).await);
    }
    for service in &services {
        let (db, migrator) = (service.db.clone(), Arc::clone(&migrator));
        asking.push(tokio::spawn(async move { db.migrate(&migrator).await }));
    }
    for asked in asking {
        asked.await.unwrap().unwrap();
    }
    let applied: i32 = sqlx::query_scalar("SELECT value FROM migrated").fetch_one(&outside).await.unwrap();
    assert_eq!(applied, 1);
    // Longer than a statement may take elsewhere.
    let slow = sqlx::migrate::Migration::new(
        3,
        "slow".into(),
        sqlx::migrate::MigrationType::Simple,
        sqlx::SqlSafeStr::into_sql_str("SELECT pg_sleep(0.2)"),
        false,
    );
    let all = migrator.iter().cloned().chain([slow]).collect();
    services[1].db.migrate(&sqlx::migrate::Migrator::with_migrations(all)).await.unwrap();
    for service in services {
        service.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_hold_all_connections_do_not_take_the_database_down() {
    let mut config = config(server());
    config["max_connections"] = 2.into();
    config["acquire_timeout_ms"] = 2_000.into();
    let service = Service::<Postgres>::start(config).await;
    service.until("a pool", |status| status.generation == 1).await;
    let held = (service.db.begin().await.unwrap(), service.db.begin().await.unwrap());
    // Many probes, at 50 ms each.
    for _ in 0..2 {
        assert_eq!(service.db.begin().await.unwrap_err().kind(), ErrorKind::Timeout);
        assert!(service.db.status().fault.is_none(), "{:?}", service.db.status());
    }
    drop(held);
    service.db.begin().await.unwrap().commit().await.unwrap();
    service.end().await;
}
