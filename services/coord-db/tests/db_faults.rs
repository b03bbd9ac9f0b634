//! A PostgreSQL that fails under load: nothing that was answered is lost, nothing is written twice,
//! and no call takes longer than its deadline.
#![cfg(feature = "postgres")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use coord::{ErrorKind, Outcome};
use coord_db::sqlx::postgres::{PgConnectOptions, PgConnection};
use coord_db::sqlx::{self, AssertSqlSafe, ConnectOptions, Postgres};
use coord_db::{Db, DbError};
use coord_servers::postgres::Postgres as Server;
use coord_servers::process::Signal;
use coord_service::health::State;
use serde_json::{Value, json};

use common::{SOON, Service, eventually};

/// How long a call may take, in these tests.
const TIMEOUT_MS: u64 = 1_000;

/// How long a caller waits after each call.
const PAUSE: Duration = Duration::from_millis(5);

/// What a machine that does much else may add to that.
const SLACK: Duration = Duration::from_secs(3);

fn config(server: &Server, password: &str) -> Value {
    json!({
        "url": server.url(), "password": password, "max_connections": 4, "min_connections": 4,
        "timeout_ms": TIMEOUT_MS, "acquire_timeout_ms": TIMEOUT_MS
    })
}

async fn outside(server: &Server, password: &str) -> PgConnection {
    let options: PgConnectOptions = server.url().parse().unwrap();
    options.password(password).connect().await.unwrap()
}

async fn run(connection: &mut PgConnection, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(connection).await.unwrap();
}

/// Callers that write rows, each its own number in a transaction, and what became of them.
struct Load {
    stop: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<Tally>>,
    answered: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Tally {
    kept: BTreeSet<i64>,
    unsure: BTreeSet<i64>,
    not_applied: BTreeSet<i64>,
    errors: Vec<DbError>,
    longest: Duration,
}

impl Load {
    fn start(db: &Db<Postgres>, callers: usize) -> Self {
        let (stop, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let (answered, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let callers = (0..callers)
            .map(|_| {
                let (db, stop, next) = (db.clone(), Arc::clone(&stop), Arc::clone(&next));
                let (answered, failed) = (Arc::clone(&answered), Arc::clone(&failed));
                tokio::spawn(async move {
                    let mut tally = Tally::default();
                    while !stop.load(Ordering::SeqCst) {
                        let n = next.fetch_add(1, Ordering::SeqCst);
                        let begun = Instant::now();
                        let written: Result<(), DbError> = db
                            .transaction(|mut tx| async move {
                                let insert = sqlx::query("INSERT INTO t (n) VALUES ($1)").bind(n);
                                insert.execute(&mut *tx).await?;
                                Ok(())
                            })
                            .await;
                        tally.longest = tally.longest.max(begun.elapsed());
                        match written {
                            Ok(()) => {
                                answered.fetch_add(1, Ordering::SeqCst);
                                tally.kept.insert(n);
                            }
                            Err(error) => {
                                failed.fetch_add(1, Ordering::SeqCst);
                                match error.outcome() {
                                    Outcome::Unknown => tally.unsure.insert(n),
                                    Outcome::NotApplied => tally.not_applied.insert(n),
                                };
                                tally.errors.push(error);
                            }
                        }
                        // So that the machine has time for the rest.
                        tokio::time::sleep(PAUSE).await;
                    }
                    tally
                })
            })
            .collect();
        Load { stop, callers, answered, failed }
    }

    /// Waits until so many more calls were answered.
    async fn goes_on(&self, calls: usize) {
        let until = self.answered.load(Ordering::SeqCst) + calls;
        eventually("calls are answered", async || self.answered.load(Ordering::SeqCst) >= until).await;
    }

    async fn fails(&self, calls: usize) {
        let until = self.failed.load(Ordering::SeqCst) + calls;
        eventually("calls fail", async || self.failed.load(Ordering::SeqCst) >= until).await;
    }

    async fn end(self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Tally::default();
        for caller in self.callers {
            let mut one = caller.await.unwrap();
            all.kept.append(&mut one.kept);
            all.unsure.append(&mut one.unsure);
            all.not_applied.append(&mut one.not_applied);
            all.errors.append(&mut one.errors);
            all.longest = all.longest.max(one.longest);
        }
        all
    }
}

impl Tally {
    /// Compares what the callers were told with the rows.
    async fn is_true_of(&self, connection: &mut PgConnection) {
        let rows: Vec<i64> = sqlx::query_scalar("SELECT n FROM t").fetch_all(connection).await.unwrap();
        let there: BTreeSet<i64> = rows.iter().copied().collect();
        assert_eq!(there.len(), rows.len(), "none is there twice");
        let lost: Vec<_> = self.kept.difference(&there).collect();
        assert!(lost.is_empty(), "{lost:?} were answered and are not there");
        let ghosts: Vec<_> = self.not_applied.intersection(&there).collect();
        assert!(ghosts.is_empty(), "{ghosts:?} were said not to be applied, and are there");
        let unsure = there.difference(&self.kept).filter(|n| self.unsure.contains(n)).count();
        assert_eq!(there.len(), self.kept.len() + unsure);
        for error in self.errors.iter().filter(|error| error.operation() != "db.commit") {
            assert_eq!(error.outcome(), Outcome::NotApplied, "it was not committed: {error}");
        }
        // Up to the commit, and the commit.
        let limit = 2 * Duration::from_millis(TIMEOUT_MS) + SLACK;
        assert!(self.longest < limit, "a call took {:?}", self.longest);
    }
}

/// A server with a table, and a service on it.
async fn start(settings: &[&str]) -> (Server, Service<Postgres>) {
    let server = Server::start(settings);
    let mut connection = outside(&server, server.password()).await;
    // Twice the same number would be seen.
    run(&mut connection, "CREATE TABLE t (id BIGSERIAL PRIMARY KEY, n BIGINT NOT NULL)").await;
    let service = Service::start(config(&server, server.password())).await;
    service.until("a pool", |status| status.generation == 1).await;
    (server, service)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_and_comes_back_loses_nothing_that_was_answered() {
    let (mut server, service) = start(&[]).await;
    let load = Load::start(&service.db, 16);
    for _ in 0..3 {
        load.goes_on(50).await;
        server.kill();
        load.fails(16).await;
        server.restart();
        load.goes_on(50).await;
    }
    // And one that is told to end, by which its connections are told so too.
    server.stop();
    service.app.health().wait_for(|state| matches!(state, State::Down(_))).await;
    server.restart();
    load.goes_on(50).await;
    service.app.health().wait_for(|state| *state == State::Ready).await;
    assert_eq!(service.db.status().generation, 1, "the pool is the same: it has connected anew");
    let tally = load.end().await;
    for error in &tally.errors {
        let kinds = [ErrorKind::Unavailable, ErrorKind::Timeout];
        assert!(kinds.contains(&error.kind()), "{error}");
    }
    tally.is_true_of(&mut outside(&server, server.password()).await).await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_holds_no_call_longer_than_its_deadline() {
    let (server, service) = start(&[]).await;
    let load = Load::start(&service.db, 16);
    for _ in 0..2 {
        load.goes_on(50).await;
        server.signal(Signal::Stop);
        load.fails(48).await;
        service.app.health().wait_for(|state| matches!(state, State::Down(_))).await;
        server.signal(Signal::Continue);
        load.goes_on(50).await;
        service.app.health().wait_for(|state| *state == State::Ready).await;
    }
    let tally = load.end().await;
    for error in &tally.errors {
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    }
    tally.is_true_of(&mut outside(&server, server.password()).await).await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_changes_of_the_password_under_64_callers_fail_no_call() {
    let (server, service) = start(&[]).await;
    let mut admin = outside(&server, server.password()).await;
    // All are open before a pool is used: what is not cannot be opened until the configuration
    // follows.
    let config = |password: &str| {
        let mut config = config(&server, password);
        config["max_connections"] = 2.into();
        config["min_connections"] = 2.into();
        // Of what is slow, no call is to fail here.
        config["acquire_timeout_ms"] = 20_000.into();
        config["timeout_ms"] = 20_000.into();
        config
    };
    service.configure(config(server.password())).await;
    service.until("a small pool", |status| status.generation == 2).await;
    let load = Load::start(&service.db, 32);
    // And 32 on the pool itself.
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..32)
        .map(|_| {
            let (db, stop) = (service.db.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut calls = 0_u64;
                while !stop.load(Ordering::SeqCst) {
                    sqlx::query("SELECT 1").execute(&*db.pool()?).await?;
                    calls += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                Ok::<_, DbError>(calls)
            })
        })
        .collect();
    for swap in 1..=100_u64 {
        let password = format!("password-{swap}");
        // The server first: until the configuration follows, no connection can be opened.
        run(&mut admin, &format!("ALTER ROLE coord PASSWORD '{password}'")).await;
        service.configure(config(&password)).await;
        service.until("a swap", |status| status.generation == swap + 2).await;
    }
    stop.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.await.unwrap().unwrap() > 100, "it reads all the time");
    }
    let tally = load.end().await;
    assert!(tally.errors.is_empty(), "{} failed, as by {:?}", tally.errors.len(), tally.errors.first());
    assert!(tally.kept.len() > 1_000, "they write all the time");
    tally.is_true_of(&mut admin).await;
    let connections: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'coord' AND pid <> pg_backend_pid()",
    )
    .fetch_one(&mut admin)
    .await
    .unwrap();
    assert!(connections <= 2 * 2, "two pools at most: {connections}");
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_waits_for_the_configuration_where_the_password_was_changed_before() {
    let (server, service) = start(&[]).await;
    let mut admin = outside(&server, server.password()).await;
    let patient = |password: &str| {
        let mut config = config(&server, password);
        config["acquire_timeout_ms"] = 10_000.into();
        config["timeout_ms"] = 10_000.into();
        config
    };
    service.configure(patient(server.password())).await;
    service.until("patience", |status| status.generation == 2).await;
    run(&mut admin, "ALTER ROLE coord PASSWORD 'second-password'").await;
    // No connection is left, so that each call has to open one.
    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                  WHERE usename = 'coord' AND pid <> pg_backend_pid()";
    run(&mut admin, others).await;
    let callers: Vec<_> = (0..8_i64)
        .map(|n| {
            let db = service.db.clone();
            tokio::spawn(async move {
                db.call(|mut connection| async move {
                    let insert = sqlx::query("INSERT INTO t (n) VALUES ($1)").bind(n);
                    insert.execute(&mut *connection).await?;
                    Ok::<_, DbError>(())
                })
                .await
            })
        })
        .collect();
    // They are refused, and wait.
    service.app.health().wait_for(|state| matches!(state, State::Down(why) if why.contains("28P01"))).await;
    service.configure(patient("second-password")).await;
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&mut admin).await.unwrap();
    assert_eq!(rows, 8);
    // Where nothing follows, they are told.
    let mut impatient = patient("second-password");
    impatient["acquire_timeout_ms"] = 300.into();
    service.configure(impatient).await;
    service.until("less patience", |status| status.generation == 4).await;
    run(&mut admin, "ALTER ROLE coord PASSWORD 'third-password'").await;
    run(&mut admin, others).await;
    let error = service.db.begin().await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unauthenticated, Outcome::NotApplied));
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_connections_fails_calls_with_what_to_do_and_writes_nothing() {
    let server = Server::start(&["max_connections=7", "superuser_reserved_connections=3"]);
    let mut admin = outside(&server, server.password()).await;
    run(&mut admin, "CREATE TABLE t (id BIGSERIAL PRIMARY KEY, n BIGINT NOT NULL)").await;
    run(
        &mut admin,
        "CREATE ROLE app LOGIN PASSWORD 'app'; GRANT ALL ON t TO app; GRANT ALL ON t_id_seq TO app",
    )
    .await;
    let url = server.url().replace("coord@", "app@");
    let config = |most: u32| {
        json!({
            "url": url, "password": "app", "max_connections": most, "timeout_ms": TIMEOUT_MS,
            "acquire_timeout_ms": TIMEOUT_MS
        })
    };
    // There are three for others than superusers. Somebody else takes two.
    let service = Service::<Postgres>::start(config(2)).await;
    service.until("a pool", |status| status.generation == 1).await;
    let options: PgConnectOptions = url.parse().unwrap();
    let options = options.password("app");
    let others = (options.connect().await.unwrap(), options.connect().await.unwrap());
    let load = Load::start(&service.db, 16);
    load.goes_on(20).await;
    load.fails(5).await;
    // The pool has the only one left, so that no other pool takes its place.
    service.configure(config(1)).await;
    let status = service.until("a failed swap", |status| status.fault.is_some()).await;
    assert_eq!(status.generation, 1);
    load.goes_on(20).await;
    drop(others);
    service.until("a smaller pool", |status| status.generation == 2).await;
    load.goes_on(20).await;
    let tally = load.end().await;
    for error in &tally.errors {
        assert!([ErrorKind::Timeout, ErrorKind::Exhausted].contains(&error.kind()), "{error}");
        assert_eq!(error.outcome(), Outcome::NotApplied, "{error}");
    }
    tally.is_true_of(&mut admin).await;
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_exhausted_keeps_nothing_and_passes() {
    let (server, service) = start(&[]).await;
    let big = |rows: i32| {
        service.db.transaction(move |mut tx| async move {
            sqlx::query("CREATE TABLE big (v TEXT)").execute(&mut *tx).await?;
            sqlx::query("ALTER TABLE big ALTER v SET STORAGE PLAIN").execute(&mut *tx).await?;
            let insert = "INSERT INTO big SELECT repeat('x', 4000) FROM generate_series(1, $1)";
            sqlx::query(insert).bind(rows).execute(&mut *tx).await?;
            Ok::<_, DbError>(())
        })
    };
    // Not a whole number of its blocks: the last one meets the limit in its midst.
    server.limit_files(Some(4 * 1024 * 1024 + 4096));
    let error = big(2_000).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Exhausted, Outcome::NotApplied), "{error}");
    server.limit_files(None);
    big(2_000).await.unwrap();
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_at_the_start_is_waited_for() {
    let mut server = Server::start(&[]);
    let mut config = config(&server, server.password());
    config["acquire_timeout_ms"] = 200.into();
    server.kill();
    let service = Service::<Postgres>::start(config).await;
    let down = |state: &State| matches!(state, State::Down(why) if why.contains("Connection refused"));
    tokio::time::timeout(SOON, service.app.health().wait_for(down)).await.unwrap();
    assert_eq!(service.db.begin().await.unwrap_err().kind(), ErrorKind::Unavailable);
    server.restart();
    service.until("a pool", |status| status.generation == 1).await;
    service.app.health().wait_for(|state| *state == State::Ready).await;
    service.db.begin().await.unwrap().commit().await.unwrap();
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_an_answer_is_unknown_be_it_applied_or_not() {
    let (mut server, service) = start(&[]).await;
    let mut admin = outside(&server, server.password()).await;
    // A commit that takes longer than our deadline.
    run(
        &mut admin,
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(2); RETURN NULL; END'; \
         CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION wait()",
    )
    .await;
    let write = |n: i64| {
        service.db.transaction(move |mut tx| async move {
            sqlx::query("INSERT INTO t (n) VALUES ($1)").bind(n).execute(&mut *tx).await?;
            Ok::<_, DbError>(())
        })
    };
    let rows = "SELECT count(*) FROM t";
    let error = write(1).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Timeout, Outcome::Unknown), "{error}");
    assert_eq!(error.operation(), "db.commit");
    eventually("it is applied all the same", async || {
        let rows: i64 = sqlx::query_scalar(rows).fetch_one(&mut admin).await.unwrap();
        rows == 1
    })
    .await;
    let write = write(2);
    let killing = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        tokio::task::block_in_place(|| server.kill());
    };
    let (written, ()) = tokio::join!(write, killing);
    assert_eq!(written.unwrap_err().outcome(), Outcome::Unknown);
    server.restart();
    let mut admin = outside(&server, server.password()).await;
    let rows: i64 = sqlx::query_scalar(rows).fetch_one(&mut admin).await.unwrap();
    assert_eq!(rows, 1, "that one is not");
    service.end().await;
}

/// All that is logged by this program.
fn log() -> &'static Mutex<Vec<u8>> {
    #[derive(Clone, Copy)]
    struct Log;

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            log().lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    static LOG: OnceLock<Mutex<Vec<u8>>> = OnceLock::new();
    static INSTALLED: OnceLock<()> = OnceLock::new();
    let log = LOG.get_or_init(Mutex::default);
    INSTALLED.get_or_init(|| {
        let subscriber =
            tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::TRACE);
        subscriber.with_ansi(false).with_writer(|| Log).init();
    });
    log
}

fn logged() -> String {
    String::from_utf8_lossy(&log().lock().unwrap()).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_and_shown_nowhere() {
    log();
    let server = Server::start(&[]);
    let secret = "hunter2-of-this-test";
    let service = Service::<Postgres>::start(config(&server, secret)).await;
    let down = |state: &State| matches!(state, State::Down(why) if why.contains("28P01"));
    let state = tokio::time::timeout(SOON, service.app.health().wait_for(down)).await.unwrap();
    assert!(state.why().is_some_and(|why| why.contains("password is refused")), "{state}");
    let error = service.db.begin().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "there is no pool yet");
    // In the URL, and misspelt.
    let url = server.url().replace("coord@", &format!("coord:{secret}@"));
    for url in [url.clone(), format!("{url}?passwort={secret}"), format!("{}?{secret}", server.url())] {
        service.configure(json!({ "url": url })).await;
        eventually("it is told", async || service.db.status().fault.is_some()).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let config: coord_db::DbConfig = serde_json::from_value(config(&server, secret)).unwrap();
    let shown = format!(
        "{error} {error:?} {:?} {:?} {:?} {config:?}",
        service.db,
        service.db.status(),
        service.app.health()
    );
    assert!(!shown.contains(secret), "{shown}");
    service.configure(json!({ "url": server.url(), "password": server.password() })).await;
    service.until("a pool", |status| status.generation == 1).await;
    assert!(!format!("{:?}", service.db.pool().unwrap()).contains(server.password()));
    service.end().await;
    let logged = logged();
    assert!(logged.contains("a client is in use"), "the log is looked at");
    let lines: Vec<_> = logged.lines().filter(|line| line.contains(secret)).collect();
    assert!(lines.is_empty(), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_statements_are_logged_without_values() {
    log();
    let server = Server::start(&[]);
    let mut config = config(&server, server.password());
    config["slow_ms"] = 50.into();
    let service = Service::<Postgres>::start(config).await;
    service.until("a pool", |status| status.generation == 1).await;
    let value = "a-value-that-is-nobodys-business";
    service
        .db
        .call(|mut connection| async move {
            let slow = sqlx::query("SELECT pg_sleep(0.1), $1::text AS slowly").bind(value);
            slow.execute(&mut *connection).await?;
            Ok::<_, DbError>(())
        })
        .await
        .unwrap();
    service.end().await;
    let logged = logged();
    let slow = |line: &&str| line.contains("WARN") && line.contains("slow statement");
    assert!(logged.lines().any(|line| slow(&line)), "{logged}");
    assert!(logged.contains("$1::text AS slowly"));
    assert!(!logged.contains(value), "no value is logged, at no level");
}
