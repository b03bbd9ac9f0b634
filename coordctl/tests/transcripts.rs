//! What each verb shows, on each store: `TRANSCRIPTS.md` is what this test saw, and it fails where
//! the program shows something else now. `COORDCTL_TRANSCRIPTS=write` writes the page anew.
//!
//! What differs from run to run - times, tokens, sessions, ports, this machine - is not compared.
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
    CampaignOptions, Coord, LockMode, LockOptions, PermitLimit, PermitOptions, ServiceInstance, Source,
};
use coord_servers::etcd::{Binary, Cluster, Series};
use coordctl::{Terminal, exit, run};
use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_secs(60);

/// Of what is taken away on this page: a third of it passes until its holder hears of it.
const TTL: Duration = Duration::from_secs(10);

/// What this machine is called on the page, whatever it is called.
const HOST: &str = "vm";

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/TRANSCRIPTS.md");

/// The page before the stores' parts of it.
const HEAD: &str =
    "Each verb as it is, on a store in memory, in a directory, and on a cluster of etcd. It was written
by the tests, which fail where the program shows something else.

The services that stand there are a chat: `node-1` holds the lock `reports/daily`, for which another
process waits, leads `jobs`, has three of the four permits of `pool`, and is registered as the
instance `c-1` of `chat`, with an id.
";

/// The store, what was asked of it, and what it showed.
struct Transcript {
    coord: Coord,
    text: String,
}

impl Transcript {
    async fn ask(&self, arguments: &[&str]) -> (u8, String) {
        let mut terminal = Terminal::in_memory([]);
        let given = ["coordctl"].iter().chain(arguments).map(Into::into);
        let ended = run(given, Some(self.coord.clone()), &mut terminal).await;
        let (out, complaints) = terminal.written();
        (ended, format!("{out}{complaints}"))
    }

    /// Asks, and writes down what is shown, and how it ends where that is not well.
    async fn ctl(&mut self, arguments: &[&str], code: u8) {
        let (mut ended, mut shown) = self.ask(arguments).await;
        // A machine that is slow for a moment is one of the things that a doctor finds.
        let deadline = Instant::now() + LIMIT;
        while arguments == ["doctor"] && (ended != code || shown.contains("disks")) {
            assert!(Instant::now() < deadline, "{arguments:?}:\n{shown}");
            (ended, shown) = self.ask(arguments).await;
        }
        assert_eq!(ended, code, "{arguments:?}:\n{shown}");
        let quoted = |argument: &&str| {
            if argument.contains([' ', '"', '{']) { format!("'{argument}'") } else { (*argument).to_owned() }
        };
        let line: Vec<String> = arguments.iter().map(quoted).collect();
        self.text += &format!("$ coordctl {}\n{shown}", line.join(" "));
        if code != exit::OK {
            self.text += &format!("(exit code {code})\n");
        }
        self.text.push('\n');
    }

    async fn shows(&mut self, arguments: &[&str]) {
        self.ctl(arguments, exit::OK).await;
    }
}

/// One store's part of the page.
async fn transcript(title: &str, url: &str) -> String {
    let source = Source::open(url).await.unwrap();
    let (program, other) = (source.client().await.unwrap(), source.client().await.unwrap());
    let mut transcript = Transcript { coord: source.client().await.unwrap(), text: String::new() };
    let ctl = &mut transcript;

    let options = LockOptions::default().with_ttl(TTL);
    let guard = program.lock().acquire_with("reports/daily", options).await.unwrap();
    let waiting = tokio::spawn(async move {
        let _shared =
            other.lock().acquire_with("reports/daily", options.with_mode(LockMode::Shared)).await.unwrap();
        std::future::pending::<()>().await;
    });
    let inspect = ctl.coord.inspect();
    until(async || inspect.lock("reports/daily").await.unwrap().unwrap().waiters.len() == 1).await;
    let instance = ServiceInstance::new("chat", "c-1", "localhost", 7000);
    let _registration = program.registry().register(instance).await.unwrap();
    let _id = program.allocator().acquire_id("chat", 100).await.unwrap();
    let _leads =
        program.election("jobs").campaign("10.0.0.1:9000", CampaignOptions::default()).await.unwrap();
    let pool = program.semaphore("pool");
    let _permit = pool.acquire(3, PermitOptions::new(PermitLimit::First(4))).await.unwrap();

    ctl.shows(&["status"]).await;
    ctl.shows(&["doctor"]).await;
    ctl.shows(&["locks"]).await;
    ctl.shows(&["locks", "reports/daily"]).await;
    ctl.shows(&["elections"]).await;
    ctl.shows(&["semaphores"]).await;
    ctl.shows(&["services"]).await;
    ctl.shows(&["services", "chat"]).await;
    ctl.shows(&["ids", "chat"]).await;
    let queue = inspect.lock("reports/daily").await.unwrap().unwrap();
    let session = queue.holders[0].session.unwrap().to_string();
    ctl.shows(&["sessions", &session]).await;

    ctl.shows(&["bench", "--for", "300ms", "--yes"]).await;

    let key = "dev/chat/clog";
    let by = |who, note| ["--author", who, "--note", note];
    let set = |value, rest: &[&'static str]| [&["config", "set", key, value], rest].concat();
    let (ann, ben) = (by("ann", "to begin with"), by("ben", "we look for a fault"));
    ctl.shows(&set(r#"{"level": "info"}"#, &[&["--if-version", "0"][..], &ann].concat())).await;
    ctl.shows(&set(r#"{"level": "debug"}"#, &ben)).await;
    ctl.ctl(&set("{}", &["--if-version", "0"]), exit::CONFLICT).await;
    ctl.ctl(&set(r#"{"level": }"#, &[]), exit::USAGE).await;
    let schema = r#"{"properties": {"level": {"enum": ["info", "debug"]}}}"#;
    ctl.shows(&["config", "set", "dev/chat/clog.schema.json", schema]).await;
    ctl.ctl(&set(r#"{"level": "loud"}"#, &[]), exit::USAGE).await;
    ctl.shows(&["config", "list", "dev"]).await;
    ctl.shows(&["config", "history", key]).await;
    ctl.shows(&["config", "diff", key]).await;
    ctl.shows(&["config", "rollback", key, "--author", "ann"]).await;
    ctl.shows(&["config", "get", key]).await;
    ctl.shows(&["config", "watch", key, "--count", "1"]).await;
    ctl.shows(&["config", "export", "dev"]).await;
    ctl.shows(&["config", "delete", key, "--yes"]).await;
    ctl.ctl(&["config", "get", key], exit::NOT_FOUND).await;

    let token = guard.fencing_token().to_string();
    ctl.shows(&["break-lock", "reports/daily", "--token", &token, "--yes"]).await;
    tokio::time::timeout(LIMIT, guard.lost()).await.unwrap();
    until(async || !inspect.losses().await.unwrap().is_empty()).await;
    ctl.shows(&["events", "--since", "10m"]).await;
    ctl.ctl(&["break-lock", "reports/daily", "--token", &token, "--yes"], exit::NOT_FOUND).await;
    ctl.shows(&["evict", "instance", "chat", "c-1", "--yes"]).await;
    ctl.ctl(&["doctor"], exit::UNWELL).await;

    waiting.abort();
    program.close().await.unwrap();
    format!("\n# {title}\n\n```console\n{}\n```\n", transcript.text.trim_end())
}

/// Waits until `look` says so.
async fn until(mut look: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !look().await {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// What is compared of a page: not the room between columns, and no number, nor what has one in it.
fn compared(page: &str) -> Vec<String> {
    let host = host();
    let word = |word: &str| {
        let differs = word.contains(|c: char| c.is_ascii_digit())
            || [host.as_str(), HOST].contains(&word)
            || is_session(word);
        if differs { "#".to_owned() } else { word.to_owned() }
    };
    let line = |line: &str| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ");
    page.lines().map(line).collect()
}

fn host() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    host.trim().to_owned()
}

/// A number of hexadecimal letters alone, which one in some thousands is.
fn is_session(word: &str) -> bool {
    word.len() >= 12 && word.chars().all(|c| c.is_ascii_hexdigit())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_verb_shows_what_the_page_says() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let etcd = cluster.endpoints()[0].trim_start_matches("http://").to_owned();
    let stores = [
        ("In memory", "memory://?name=node-1".to_owned()),
        ("In a directory", format!("sled://{}?name=node-1", directory.path().join("store").display())),
        ("On etcd", format!("etcd://{etcd}/shop?name=node-1")),
    ];
    let mut page = HEAD.to_owned();
    for (title, url) in stores {
        page += &transcript(title, &url).await;
    }
    if std::env::var("COORDCTL_TRANSCRIPTS").is_ok_and(|order| order == "write") {
        let host = host();
        let named = |word| if word == host { HOST } else { word };
        let page: Vec<_> = page.split(' ').map(named).collect();
        std::fs::write(PAGE, page.join(" ")).unwrap();
        return;
    }
    let stands = std::fs::read_to_string(PAGE).expect("the page is there");
    let (stands, shown) = (compared(&stands), compared(&page));
    for (n, (stands, shown)) in stands.iter().zip(&shown).enumerate() {
        assert_eq!(
            stands,
            shown,
            "line {} of TRANSCRIPTS.md; COORDCTL_TRANSCRIPTS=write writes it anew",
            n + 1
        );
    }
    assert_eq!(stands.len(), shown.len(), "COORDCTL_TRANSCRIPTS=write writes it anew");
}
