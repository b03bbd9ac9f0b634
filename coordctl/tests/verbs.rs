//! Each verb, on a store in memory: the nine questions of an operator, one command each.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use coord::prelude::*;
use coord::{
    CampaignOptions, Coord, ErrorKind, IdOptions, LockMode, LockOptions, PermitLimit, PermitOptions,
    ServiceInstance, Source,
};
use coordctl::{Terminal, exit, run};
use serde_json::Value;
use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_secs(30);

/// Of what is to be lost: a third of it passes until its holder hears of it.
const TTL: Duration = Duration::from_secs(2);

struct Store {
    source: Source,
    /// What the commands go through: a process of its own.
    coord: Coord,
}

/// How a command ended, and what it has written.
#[derive(Debug)]
struct Done {
    code: u8,
    out: String,
    complaints: String,
}

impl Store {
    async fn new() -> Self {
        let source = Source::open("memory://?name=ops").await.unwrap();
        let coord = source.client().await.unwrap();
        Store { source, coord }
    }

    async fn client(&self) -> Coord {
        self.source.client().await.unwrap()
    }

    async fn ctl(&self, arguments: &str) -> Done {
        self.answering(arguments, &[]).await
    }

    /// With these answers to what is asked.
    async fn answering(&self, arguments: &str, answers: &[&str]) -> Done {
        let mut terminal = Terminal::in_memory(answers.iter().map(|answer| (*answer).to_owned()));
        let arguments = ["coordctl"].into_iter().chain(arguments.split_whitespace()).map(Into::into);
        let code = run(arguments, Some(self.coord.clone()), &mut terminal).await;
        let (out, complaints) = terminal.written();
        Done { code, out: out.to_owned(), complaints: complaints.to_owned() }
    }

    /// What a command that succeeds writes.
    async fn shows(&self, arguments: &str) -> String {
        let done = self.ctl(arguments).await;
        assert_eq!(done.code, exit::OK, "{arguments}: {done:?}");
        done.out
    }

    async fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.shows(&format!("{arguments} -o json")).await).unwrap()
    }
}

/// Waits until `look` says so.
async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !look().await {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// The lines of a table, each in its columns.
fn rows(table: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
    };
    table.lines().skip(1).map(cells).collect()
}

/// A client that waits for a lock, in a task.
async fn wait_for(store: &Store, lock: &'static str, mode: LockMode, place: usize) {
    let client = store.client().await;
    tokio::spawn(async move {
        let guard = client.lock().acquire_with(lock, LockOptions::default().with_mode(mode)).await;
        std::future::pending::<()>().await;
        drop(guard);
    });
    let inspect = store.coord.inspect();
    until("it waits", async || inspect.lock(lock).await.unwrap().unwrap().waiters.len() == place).await;
}

#[tokio::test]
async fn who_holds_a_lock_and_who_waits() {
    let store = Store::new().await;
    assert_eq!(store.shows("locks").await, "nobody holds or wants a lock\n");
    let holder = store.client().await;
    let guard = holder.lock().acquire("reports/daily", Duration::from_secs(30)).await.unwrap();
    wait_for(&store, "reports/daily", LockMode::Exclusive, 1).await;
    wait_for(&store, "reports/daily", LockMode::Shared, 2).await;

    let all = rows(&store.shows("locks").await);
    let (token, pid) = (guard.fencing_token().to_string(), std::process::id().to_string());
    assert_eq!(all.len(), 1);
    assert_eq!(all[0][..4], ["reports/daily", "ops", "exclusive", &token]);
    assert!(all[0].contains(&pid) && all[0].last().unwrap() == "2", "{all:?}");
    let one = rows(&store.shows("locks reports/daily").await);
    let places: Vec<_> = one.iter().map(|row| (row[0].as_str(), row[2].as_str())).collect();
    assert_eq!(places, [("holds", "exclusive"), ("1. waits", "exclusive"), ("2. waits", "shared")]);

    let json = store.json("locks reports/daily").await;
    let holder = &json["queues"][0]["holders"][0];
    assert_eq!(
        (&holder["token"], &holder["lock"]["mode"]),
        (&guard.fencing_token().get().into(), &"exclusive".into())
    );
    assert_eq!(json["remaining_seconds"].as_object().unwrap().len(), 3);
    assert!(store.shows("locks -o yaml").await.contains("name: reports/daily"));
    let done = store.ctl("locks no/such").await;
    assert_eq!((done.code, done.out.as_str()), (exit::NOT_FOUND, ""), "{done:?}");
}

#[tokio::test]
async fn who_leads_and_who_has_permits() {
    let store = Store::new().await;
    let client = store.client().await;
    let leads = client.election("jobs").campaign("node-1: busy", CampaignOptions::default()).await.unwrap();
    let permits = PermitOptions::new(PermitLimit::First(3));
    let _permit = client.semaphore("pool").acquire(2, permits).await.unwrap();
    let elections = rows(&store.shows("elections").await);
    assert_eq!(elections[0][..4], ["jobs", "ops", "node-1: busy", &leads.fencing_token().to_string()]);
    assert_eq!(rows(&store.shows("elections jobs").await)[0][0], "holds");
    assert_eq!(rows(&store.shows("semaphores").await)[0][..3], ["pool", "ops", "2/3"]);
    assert_eq!(rows(&store.shows("semaphores pool").await)[0][2], "2/3");
}

#[tokio::test]
async fn which_instances_and_ids_there_are_and_what_hangs_on_a_session() {
    let store = Store::new().await;
    let client = store.client().await;
    let instance = ServiceInstance::new("chat", "c-1", "localhost", 7000);
    let _registration = client.registry().register(instance).await.unwrap();
    let id = client.allocator().acquire_id("chat", 100).await.unwrap();
    assert_eq!(rows(&store.shows("services").await), [["chat", "1", "0"]]);
    let instances = rows(&store.shows("services chat").await);
    assert_eq!(instances[0][..3], ["c-1", "localhost:7000", "-"]);
    assert_eq!(rows(&store.shows("ids").await), [["chat", "1"]]);
    let ids = rows(&store.shows("ids chat").await);
    assert_eq!(ids[0][..3], [id.id().to_string(), "ops".to_owned(), id.generation().to_string()]);

    let session = store.json("services chat").await["instances"][0]["session"].as_str().unwrap().to_owned();
    let all = rows(&store.shows("sessions").await);
    assert!(all.iter().any(|row| row[0] == session), "{all:?}");
    let one = store.shows(&format!("sessions {session}")).await;
    assert!(one.contains("/services/chat/c-1"), "{one}");
    assert_eq!(store.ctl("sessions abc").await.code, exit::NOT_FOUND);
    assert_eq!(store.ctl("sessions xyz").await.code, exit::USAGE);
}

#[tokio::test]
async fn what_the_configuration_is_was_and_who_changed_it() {
    let store = Store::new().await;
    assert_eq!(store.ctl("config get dev/chat/clog").await.code, exit::NOT_FOUND);
    let set =
        |value, who| format!(r#"config set dev/chat/clog {{"level":"{value}"}} --author {who} --note why"#);
    let done = store.ctl(&format!("{} --dry-run", set("info", "ann"))).await;
    assert!(done.code == exit::OK && done.out.contains("+  \"level\": \"info\""), "{done:?}");
    assert_eq!(store.ctl("config get dev/chat/clog").await.code, exit::NOT_FOUND, "it was a dry run");

    let done = store.ctl(&format!("{} --if-version 0", set("info", "ann"))).await;
    assert!(done.code == exit::OK && done.complaints.contains("nothing else lies under dev/"), "{done:?}");
    store.shows("config set dev/chat/limits 1").await;
    let late = store.ctl(&format!("{} --if-version 0", set("warn", "ben"))).await;
    assert!(late.code == exit::CONFLICT && late.complaints.contains("another version"), "{late:?}");
    let done = store.ctl(&set("debug", "ben")).await;
    assert_eq!((done.code, done.complaints.as_str()), (exit::OK, ""));
    assert_eq!(store.shows("config get dev/chat/clog").await, "{\n  \"level\": \"debug\"\n}\n");
    assert_eq!(rows(&store.shows("config list dev/chat").await)[0][0], "dev/chat/clog");

    let history = rows(&store.shows("config history dev/chat/clog").await);
    let who: Vec<_> = history.iter().map(|row| (row[2].as_str(), row[3].as_str())).collect();
    assert_eq!(who, [("ann", "why"), ("ben", "why")]);
    assert!(history[1][0].ends_with('*'), "the present one: {history:?}");
    let diff = store.shows("config diff dev/chat/clog").await;
    assert!(diff.contains("-  \"level\": \"info\"") && diff.contains("+  \"level\": \"debug\""), "{diff}");
    let diff = store.json("config diff dev/chat/clog").await;
    assert_eq!((&diff[0]["before"], &diff[0]["after"]), (&"info".into(), &"debug".into()));
    let first = history[0][0].clone();
    assert!(store.shows(&format!("config get dev/chat/clog --version {first}")).await.contains("info"));

    store.shows("config rollback dev/chat/clog --author ann").await;
    assert!(store.shows("config get dev/chat/clog").await.contains("info"));
    let history = rows(&store.shows("config history dev/chat/clog").await);
    assert_eq!(history[2][3], format!("back to version {first}"));

    // What is wrong is said before anything is written.
    let done = store.ctl(r#"config set dev/chat/clog {"level":}"#).await;
    assert!(done.code == exit::USAGE && done.complaints.contains("line 1 column"), "{done:?}");
    assert_eq!(store.ctl("config set dev//x 1").await.code, exit::USAGE);
    let done = store.answering("config delete dev/chat/clog", &["y", "dev/chat"]).await;
    assert_eq!(done.code, exit::FAILED, "the word was another one");
    assert_eq!(store.ctl("config delete dev/chat/clog").await.code, exit::USAGE, "nobody to ask");
    store.shows("config delete dev/chat/clog --yes").await;
    assert_eq!(store.ctl("config delete dev/chat/clog --yes").await.code, exit::NOT_FOUND);
}

/// A schema by which a limit is a number, and its key.
const LIMITS_SCHEMA: &str = r#"{"type":"object","properties":{"rate":{"type":"integer","minimum":1}}}"#;

#[tokio::test]
async fn what_is_not_as_the_schema_beside_it_says_is_not_written() {
    let store = Store::new().await;
    let refused = async |arguments: &str, told: &str| {
        let done = store.ctl(arguments).await;
        assert!(done.code == exit::USAGE && done.complaints.contains(told), "{arguments}: {done:?}");
        assert_eq!(done.out, "", "{arguments}");
    };
    // A schema that is none is not written, nor one that needs another one from elsewhere.
    let schema = "dev/shop/limits.schema.json";
    refused(&format!(r#"config set {schema} {{"type":"number?"}}"#), "/type").await;
    refused(&format!("config set {schema} text --raw"), "no JSON schema").await;
    refused(&format!(r#"config set {schema} {{"$ref":"http://127.0.0.1:1/a"}}"#), "none is fetched").await;
    store.shows("config set dev/shop/other 1").await;
    store.shows(&format!("config set {schema} {LIMITS_SCHEMA}")).await;

    let limits = "config set dev/shop/limits";
    refused(&format!(r#"{limits} {{"rate":"hidden"}}"#), "/rate: ").await;
    refused(&format!(r#"{limits} {{"rate":0}} --dry-run"#), "/rate: ").await;
    refused(&format!("{limits} text --raw"), "no JSON").await;
    let done = store.ctl(&format!(r#"{limits} {{"rate":"hidden"}}"#)).await;
    assert!(!done.complaints.contains("hidden"), "values are not repeated: {done:?}");
    assert_eq!(store.ctl("config get dev/shop/limits").await.code, exit::NOT_FOUND);
    store.shows(&format!(r#"{limits} {{"rate":1}} --dry-run"#)).await;
    store.shows(&format!(r#"{limits} {{"rate":1}}"#)).await;
    store.shows(&format!(r#"{limits} {{"rate":0}} --no-schema"#)).await;

    // Another schema, of a file.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("schema.json");
    std::fs::write(&file, r#"{"required":["burst"]}"#).unwrap();
    let by = format!("--schema {}", file.display());
    refused(&format!(r#"{limits} {{"rate":1}} {by}"#), "\"burst\"").await;
    store.shows(&format!(r#"{limits} {{"rate":"x","burst":1}} {by}"#)).await;
    refused(&format!("{limits} 1 {by} --no-schema"), "cannot be used with").await;
    std::fs::write(&file, "[]").unwrap();
    refused(&format!("{limits} 1 {by}"), "is no JSON schema").await;
    assert_eq!(store.ctl(&format!("{limits} 1 --schema {}/no", file.display())).await.code, exit::FAILED);

    // One that somebody wrote otherwise is told, and the document left alone.
    store.shows(&format!("config set {schema} [] --no-schema")).await;
    refused(&format!("{limits} {{}}"), "limits.schema.json is no JSON schema").await;
}

#[tokio::test]
async fn a_file_of_documents_is_checked_before_any_of_it_is_written() {
    let store = Store::new().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("documents.json");
    let import = format!("config import {} --author ann", file.display());
    let write =
        |documents: &str| std::fs::write(&file, format!(r#"{{"documents":{{{documents}}}}}"#)).unwrap();
    let document = |key: &str, value: &str| format!(r#""{key}":{{"value":{{"json":{value}}}}}"#);

    // The schema of the file counts, for it is what will lie there.
    let schema = document("dev/a/limits.schema.json", LIMITS_SCHEMA);
    let (good, bad) = (document("dev/a/limits", r#"{"rate":1}"#), document("dev/a/limits", r#"{"rate":0}"#));
    let free = document("dev/a/free", "1");
    for (documents, dry_run) in [(&bad, " --dry-run"), (&bad, "")] {
        write(&[free.as_str(), &schema, documents].join(","));
        let done = store.ctl(&format!("{import}{dry_run}")).await;
        assert!(done.code == exit::USAGE && done.complaints.contains("/rate: "), "{done:?}");
        assert!(store.coord.config().list_raw("dev").await.unwrap().items.is_empty(), "nothing was written");
    }
    write(&[free.as_str(), &schema, &good].join(","));
    store.shows(&import).await;

    // And else that of the store.
    let version = store.json("config get dev/a/limits").await["version"].as_u64().unwrap();
    write(&bad.replace(r#"{"value""#, &format!(r#"{{"version":{version},"value""#)));
    let done = store.ctl(&import).await;
    assert!(done.code == exit::USAGE && done.complaints.contains("limits.schema.json says"), "{done:?}");
    store.shows(&format!("{import} --no-schema")).await;
    assert_eq!(store.shows("config get dev/a/limits").await, "{\n  \"rate\": 0\n}\n");
}

#[tokio::test]
async fn documents_go_to_a_file_and_come_back_where_nobody_changed_them() {
    let store = Store::new().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("documents.json");
    for key in ["dev/a/x", "dev/a/y"] {
        store.shows(&format!("config set {key} 1")).await;
    }
    store.shows(&format!("config export dev/a --file {}", file.display())).await;
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"json\": 1", "\"json\": 2")).unwrap();
    store.shows("config set dev/a/y 3").await;

    let import = format!("config import {} --author ann", file.display());
    let planned = store.ctl(&format!("{import} --dry-run")).await;
    assert!(planned.code == exit::CONFLICT && planned.out.contains("would be changed"), "{planned:?}");
    assert_eq!(store.shows("config get dev/a/x").await, "1\n");
    let done = store.ctl(&import).await;
    assert_eq!(done.code, exit::CONFLICT, "{done:?}");
    assert_eq!(
        (store.shows("config get dev/a/x").await, store.shows("config get dev/a/y").await),
        ("2\n".into(), "3\n".into())
    );
    std::fs::write(&file, "{}").unwrap();
    assert_eq!(store.ctl(&import).await.code, exit::USAGE);
}

#[tokio::test]
async fn changes_are_shown_as_they_come() {
    let store = Store::new().await;
    store.shows("config set dev/a/x 1").await;
    let client = store.client().await;
    let changing = tokio::spawn(async move {
        for n in 2.. {
            client.config().set("dev/a/x", &n).await.unwrap();
            sleep(Duration::from_millis(5)).await;
        }
    });
    let lines = store.shows("config watch dev/a --directory --count 3 -o json").await;
    changing.abort();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let changes: Vec<_> = lines.iter().map(|line| line["change"].as_str().unwrap()).collect();
    assert_eq!(changes, ["is", "changed", "changed"]);
}

#[tokio::test]
async fn a_lock_is_taken_by_its_token_and_asked_for_twice() {
    let store = Store::new().await;
    let client = store.client().await;
    let guard = client.lock().acquire("a", TTL).await.unwrap();
    wait_for(&store, "a", LockMode::Exclusive, 1).await;
    let token = guard.fencing_token();
    let asked = format!("break-lock a --token {token}");
    for answers in [&["n"][..], &["y", "yes"], &["y", "1"]] {
        assert_eq!(store.answering(&asked, answers).await.code, exit::FAILED, "{answers:?}");
    }
    assert_eq!(store.ctl(&asked).await.code, exit::USAGE, "nobody to ask");
    assert!(guard.is_held());
    let done = store.answering(&asked, &["y", &token.to_string()]).await;
    assert!(done.code == exit::OK && done.out.contains("holds it now"), "{done:?}");
    assert!(done.complaints.contains("Take the lock a from ops, who holds it?"), "{done:?}");
    tokio::time::timeout(LIMIT, guard.lost()).await.unwrap();
    let done = store.ctl(&format!("{asked} --yes")).await;
    assert_eq!(done.code, exit::NOT_FOUND, "never the successor's: {done:?}");
    assert!(store.coord.inspect().lock("a").await.unwrap().unwrap().holders.len() == 1);
}

#[tokio::test]
async fn what_has_to_go_is_evicted() {
    let store = Store::new().await;
    let client = store.client().await;
    let leads =
        client.election("jobs").campaign("x", CampaignOptions::default().with_ttl(TTL)).await.unwrap();
    store.shows(&format!("evict leader jobs --token {} --yes", leads.fencing_token())).await;
    tokio::time::timeout(LIMIT, leads.lost()).await.unwrap();
    let permits = PermitOptions::new(PermitLimit::First(1)).with_ttl(TTL);
    let permit = client.semaphore("pool").acquire(1, permits).await.unwrap();
    store.shows(&format!("evict permit pool --token {} --yes", permit.fencing_token())).await;
    tokio::time::timeout(LIMIT, permit.lost()).await.unwrap();
    let id = client.allocator().acquire_id_with("chat", IdOptions::default().with_ttl(TTL)).await.unwrap();
    store.shows(&format!("evict id chat {} --yes", id.id())).await;
    tokio::time::timeout(LIMIT, id.lost()).await.unwrap();
    let guard = client.lock().acquire("a", TTL).await.unwrap();
    let session = store.coord.inspect().lock("a").await.unwrap().unwrap().holders[0].session.unwrap();
    let done = store.answering(&format!("evict session {session}"), &["y", &session.to_string()]).await;
    assert!(done.code == exit::OK && done.complaints.contains("keys with it"), "{done:?}");
    tokio::time::timeout(LIMIT, guard.lost()).await.unwrap();
    assert_eq!(store.ctl(&format!("evict session {session} --yes")).await.code, exit::NOT_FOUND);
    assert_eq!(store.ctl("evict instance chat c-9 --yes").await.code, exit::NOT_FOUND);
}

#[tokio::test]
async fn why_a_lock_was_lost_ten_minutes_ago() {
    let store = Store::new().await;
    let told = store.shows("events").await;
    assert_eq!(told, "nothing was lost, as far as anybody wrote down\n");
    let client = store.client().await;
    let guard = client.lock().acquire("reports/daily", TTL).await.unwrap();
    store.shows(&format!("break-lock reports/daily --token {} --yes", guard.fencing_token())).await;
    tokio::time::timeout(LIMIT, guard.lost()).await.unwrap();
    until("it is written down", async || store.ctl("events").await.out.contains("reports/daily")).await;
    let events = rows(&store.shows("events --since 10m reports/daily").await);
    assert_eq!(
        events[0][1..6],
        ["ops", "lock", "reports/daily", &guard.fencing_token().to_string(), "removed"]
    );
    assert_eq!(rows(&store.shows("events other").await), Vec::<Vec<String>>::new());
}

#[tokio::test]
async fn whether_the_store_is_well() {
    let store = Store::new().await;
    let status = store.json("status").await;
    assert!(status["round_trip_ms"].as_f64().unwrap() > 0.0 && status["locks"] == 0, "{status}");
    let done = store.ctl("doctor").await;
    assert_eq!(done.code, exit::OK, "{done:?}");
    assert!(rows(&done.out).iter().all(|row| row[0] == "ok"), "{done:?}");
    assert!(store.coord.inspect().locks().await.unwrap().is_empty(), "it leaves nothing behind");

    // A lock that never runs out, and a record that is none.
    let guard = store.client().await.lock().acquire("x", Duration::from_secs(30)).await.unwrap();
    drop(guard);
    let memory = store.coord.core().store();
    for key in ["/locks/old/1", "/services/chat/a"] {
        let put = coord::store::Txn::new().then(coord::store::Op::put(key, "x"));
        memory.txn(put).await.unwrap();
    }
    let done = store.ctl("doctor").await;
    assert_eq!(done.code, exit::UNWELL, "{done:?}");
    for told in ["old is held without a lease", "1 records of chat are none"] {
        assert!(done.out.contains(told), "{told}: {done:?}");
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_another_exit_code() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut terminal = Terminal::in_memory([]);
    let url = format!("etcd://127.0.0.1:{port}?connect_timeout=200ms");
    let arguments = ["coordctl", "--url", &url, "--timeout", "5s", "status"].map(Into::into);
    assert_eq!(run(arguments, None, &mut terminal).await, exit::UNREACHABLE, "{:?}", terminal.written());
    let mut terminal = Terminal::in_memory([]);
    let arguments = ["coordctl", "--url", "etcd://u:hidden@127.0.0.1", "status"].map(Into::into);
    assert_eq!(run(arguments, None, &mut terminal).await, exit::USAGE);
    assert!(!terminal.written().1.contains("hidden"), "{:?}", terminal.written());
}

#[tokio::test]
async fn names_give_no_orders_to_a_terminal() {
    let store = Store::new().await;
    let source = Source::open("memory://?name=a%1Bb").await;
    assert_eq!(source.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let put = coord::store::Txn::new().then(coord::store::Op::put("/locks/x/1", "\u{1b}]0;title\u{7}"));
    store.coord.core().store().txn(put).await.unwrap();
    let shown = store.shows("locks").await;
    assert!(!shown.contains('\u{1b}') && shown.contains("title"), "{shown:?}");
}

#[tokio::test]
async fn completion_and_manual_are_made() {
    let store = Store::new().await;
    for shell in ["bash", "zsh", "fish"] {
        assert!(store.shows(&format!("completion {shell}")).await.contains("break-lock"), "{shell}");
    }
    assert!(store.shows("man").await.contains(".TH coordctl"));
    assert_eq!(store.ctl("--help").await.code, exit::OK);
    assert_eq!(store.ctl("no-such-verb").await.code, exit::USAGE);
}
