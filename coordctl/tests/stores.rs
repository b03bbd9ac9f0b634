//! The program as a process, on a directory and on a cluster of etcd. What it shows there is one
//! session for the page of whoever looks for an example: `--nocapture` prints it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and shows what was written"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use coord::ServiceInstance;
use coord::prelude::*;
use coord_servers::etcd::{Binary, Cluster, Series};
use coordctl::exit;

/// A store, and what was asked of it.
struct Store {
    url: String,
}

impl Store {
    /// What a call writes, and how it ends.
    fn ctl(&self, arguments: &[&str]) -> (u8, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordctl"));
        command.env("COORD_URL", &self.url).env("COORD_AUTHOR", "ann").args(arguments);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + std::str::from_utf8(&output.stderr).unwrap();
        println!("$ coordctl {}\n{text}", arguments.join(" "));
        (u8::try_from(output.status.code().unwrap()).unwrap(), text)
    }

    fn shows(&self, arguments: &[&str]) -> String {
        let (code, text) = self.ctl(arguments);
        assert_eq!(code, exit::OK, "{arguments:?}:\n{text}");
        text
    }
}

/// What needs nobody else: the configuration, and whether the store is well.
fn configuration(store: &Store) {
    assert!(store.shows(&["status"]).contains("round trip"));
    assert!(store.shows(&["doctor"]).contains("taken and given back"));
    let key = "dev/chat/clog";
    store.shows(&[
        "config",
        "set",
        key,
        r#"{"level": "info"}"#,
        "--if-version",
        "0",
        "--note",
        "to begin with",
    ]);
    store.shows(&["config", "set", key, r#"{"level": "debug"}"#, "--note", "we look for a fault"]);
    let (code, _) = store.ctl(&["config", "set", key, "{}", "--if-version", "0"]);
    assert_eq!(code, exit::CONFLICT);
    let history = store.shows(&["config", "history", key]);
    assert!(history.contains("ann") && history.contains("we look for a fault"), "{history}");
    assert!(store.shows(&["config", "diff", key]).contains("+  \"level\": \"debug\""));
    store.shows(&["config", "rollback", key, "--note", "found it"]);
    assert!(store.shows(&["config", "get", key]).contains("info"));
    assert!(store.shows(&["config", "list", "dev/chat"]).contains(key));

    // The editor is a program that changes the file, and in its time somebody else the document.
    let edit = |script: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordctl"));
        let directory = tempfile::tempdir().unwrap();
        let editor = directory.path().join("editor");
        std::fs::write(&editor, format!("#!/bin/sh\n{script}\n")).unwrap();
        let editor = format!("sh {}", editor.display());
        command.env("COORD_URL", &store.url).env("EDITOR", editor).env_remove("VISUAL");
        let output = command.env("TMPDIR", directory.path()).args(["config", "edit", key]).output().unwrap();
        let left = std::fs::read_dir(directory.path()).unwrap().count() - 1;
        (u8::try_from(output.status.code().unwrap()).unwrap(), left, output)
    };
    let (code, left, output) = edit(r#"sed -i s/info/warn/ "$1""#);
    assert_eq!((code, left), (exit::OK, 0), "{output:?}");
    assert!(store.shows(&["config", "get", key]).contains("warn"));
    let (code, left, output) = edit("true");
    assert_eq!((code, left), (exit::OK, 0), "{output:?}");
    let (code, left, output) = edit(r#"echo '{"level":' > "$1""#);
    assert_eq!((code, left), (exit::USAGE, 1), "what was edited is kept: {output:?}");
    let schema = format!("{key}.schema.json");
    store.shows(&["config", "set", &schema, r#"{"required": ["level"]}"#]);
    let (code, left, output) = edit(r#"echo '{}' > "$1""#);
    assert_eq!((code, left), (exit::USAGE, 1), "what was edited is kept: {output:?}");
    store.shows(&["config", "delete", &schema, "--yes"]);
    if store.url.starts_with("etcd") {
        let ctl = env!("CARGO_BIN_EXE_coordctl");
        let (code, left, output) = edit(&format!(r#"{ctl} config set {key} 1 >&2; echo 2 > "$1""#));
        assert_eq!((code, left), (exit::CONFLICT, 1), "{output:?}");
        assert_eq!(store.shows(&["config", "get", key]), "1\n");
    }
    store.shows(&["config", "delete", key, "--yes"]);
    assert_eq!(store.ctl(&["config", "get", key]).0, exit::NOT_FOUND);
}

#[test]
fn on_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    configuration(&Store { url: format!("sled://{}", directory.path().join("store").display()) });
}

#[tokio::test(flavor = "multi_thread")]
async fn on_etcd() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let store =
        Store { url: format!("etcd://{}/shop", cluster.endpoints()[0].trim_start_matches("http://")) };
    configuration(&store);
    let status = store.shows(&["status"]);
    assert!(status.contains("leader") && status.contains("3.5.") && status.contains("KiB"), "{status}");
    assert!(store.shows(&["doctor"]).contains("1, all well"));

    // A program that stands there.
    let url = format!("{}?name=node-1", store.url);
    let program = coord::open(&url).await.unwrap();
    let guard = program.lock().acquire("reports/daily", Duration::from_secs(5)).await.unwrap();
    let instance = ServiceInstance::new("chat", "c-1", "localhost", 7000);
    let _registration = program.registry().register(instance).await.unwrap();
    let id = program.allocator().acquire_id("chat", 100).await.unwrap();
    let _leads =
        program.election("jobs").campaign("node-1", coord::CampaignOptions::default()).await.unwrap();
    let permits = coord::PermitOptions::new(coord::PermitLimit::First(4));
    let _permit = program.semaphore("pool").acquire(3, permits).await.unwrap();
    let pid = std::process::id().to_string();
    for (arguments, told) in [
        (&["locks"][..], &["reports/daily", "node-1", "exclusive", &pid][..]),
        (&["elections"], &["jobs", "node-1"]),
        (&["semaphores", "pool"], &["holds", "3/4"]),
        (&["services", "chat"], &["c-1", "localhost:7000", &pid]),
        (&["ids", "chat"], &[&id.id().to_string(), "node-1"]),
        (&["sessions"], &["node-1", &pid]),
        (&["locks", "reports/daily", "-o", "yaml"], &["owner: node-1", "mode: exclusive"]),
    ] {
        let text = store.shows(arguments);
        told.iter().for_each(|told| assert!(text.contains(told), "{told}: {text}"));
    }
    let token = guard.fencing_token().to_string();
    assert_eq!(
        store.ctl(&["break-lock", "reports/daily", "--token", &token]).0,
        exit::USAGE,
        "nobody to ask"
    );
    store.shows(&["break-lock", "reports/daily", "--token", &token, "--yes"]);
    tokio::time::timeout(Duration::from_secs(60), guard.lost()).await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !store.shows(&["events", "--since", "10m"]).contains("removed") {
        assert!(tokio::time::Instant::now() < deadline, "what was lost is not written down");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (code, doctor) = store.ctl(&["doctor"]);
    assert_eq!(code, exit::UNWELL);
    assert!(doctor.contains("1 within the last hour"), "{doctor}");
    program.close().await.unwrap();
}

/// `coordctl dev`, which another coordctl talks to.
#[test]
fn on_an_etcd_of_its_own() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coordctl"));
    command.args(["dev", "--listen", "127.0.0.1:0"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut dev = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(dev.stderr.take().unwrap()).lines();
    let url = BufReader::new(dev.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    let mut orders = dev.stdin.take().unwrap();
    let mut order = |line: &str| {
        writeln!(orders, "{line}").unwrap();
        told.next().unwrap().unwrap()
    };
    let store = Store { url };
    configuration(&store);
    assert!(order("compact").contains("is gone"));
    assert!(order("nonsense").contains("no such order"));
    assert!(order("status").starts_with("revision "));
    assert_eq!(order("full on"), "it is out of space");
    assert_ne!(store.ctl(&["config", "set", "a", "1"]).0, exit::OK);
    assert!(store.shows(&["status"]).contains("NOSPACE"));
    let (code, doctor) = store.ctl(&["doctor"]);
    assert!(code == exit::UNWELL && doctor.contains("has raised NOSPACE"), "{doctor}");
    assert_eq!(order("full off"), "it is out of space no more");
    store.shows(&["config", "set", "a", "1"]);
    assert_eq!(order("refuse on"), "new connections are reset");
    assert_eq!(store.ctl(&["--timeout", "3s", "status"]).0, exit::UNREACHABLE);
    assert_eq!(order("refuse off"), "new connections are reset no more");
    assert_eq!(store.shows(&["config", "get", "a"]), "1\n");
    assert_eq!(order("quit"), "it ends");
    assert!(dev.wait().unwrap().success());
}

/// What a server answers to this request.
fn http(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "{request}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// `coordctl ui`, which answers who asks by a name of its own, until it is asked to end.
#[test]
fn the_page_is_served_until_it_is_asked_to_end() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sled://{}", directory.path().join("store").display());
    let store = Store { url: url.clone() };
    store.shows(&["config", "set", "dev/a", "1"]);
    let (code, _) = store.ctl(&["ui", "--allow-edit"]);
    assert_eq!(code, exit::USAGE, "who may edit is not said");

    let mut command = Command::new(env!("CARGO_BIN_EXE_coordctl"));
    command.env("COORD_URL", &url).env("COORD_UI_TOKEN", "a token of some length");
    let mut ui = command
        .args(["ui", "--listen", "127.0.0.1:0", "--allow-edit"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let page = BufReader::new(ui.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    let address = page.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let found = http(&address, &format!("GET / HTTP/1.1\r\nhost: {address}"));
    assert!(found.starts_with("HTTP/1.1 200 ") && found.contains("assets/ui.js"), "{found}");
    let by_another_name = http(&address, "GET / HTTP/1.1\r\nhost: elsewhere.example");
    assert!(by_another_name.starts_with("HTTP/1.1 403 "), "{by_another_name}");
    let body = r#"{"key":"dev/a","text":"2","expected":0,"author":"ann"}"#;
    let order = |token: &str| {
        let request = "POST /api/config HTTP/1.1\r\ncontent-type: application/json";
        let head = format!("{request}\r\nhost: {address}\r\nauthorization: Bearer {token}");
        http(
            &address,
            &format!("{head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()),
        )
    };
    assert!(order("another token of a length").starts_with("HTTP/1.1 403 "));
    assert!(order("a token of some length").starts_with("HTTP/1.1 409 "), "it is not absent");

    assert!(Command::new("kill").args(["-TERM", &ui.id().to_string()]).status().unwrap().success());
    assert!(ui.wait().unwrap().success());
    assert_eq!(store.shows(&["config", "get", "dev/a"]), "1\n");
}
