//! The service as processes that are killed, with nothing but themselves and with real servers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod alone;
mod servers;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_servers::process::{Process, Signal};
use im_service::replay::Client;
use im_service::transcript::{self, Line};
use tokio::time::{Instant, sleep};

/// How long a test waits for what must come.
const LIMIT: Duration = Duration::from_secs(90);

fn transcript(count: usize) -> Vec<Line> {
    let mut lines = transcript::read(&transcript_file()).unwrap();
    lines.truncate(count);
    lines
}

/// The first messages of each `of`-th room, from the `n`-th on: of rooms that no other part has.
fn part(n: usize, of: usize) -> Vec<Line> {
    let mut lines = transcript::read(&transcript_file()).unwrap();
    lines.retain(|line| line.room["room-".len()..].parse::<usize>().unwrap() % of == n);
    lines.truncate(200);
    lines
}

/// Where a test ends the process: between each two steps of a send, and of the consumer.
const STEPS: [&str; 5] = ["stored", "published", "marked", "recorded", "counted"];

fn transcript_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/transcript.jsonl")
}

/// Waits until `look` gives something.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// An instance as a process of its own, at one address for as long as this lives.
struct Im {
    options: Vec<String>,
    failpoints: String,
    address: SocketAddr,
    admin: SocketAddr,
    directory: tempfile::TempDir,
    process: Option<Process>,
    /// What it has written.
    lines: Arc<Mutex<Vec<String>>>,
    ended: Receiver<()>,
}

impl Im {
    /// Starts an instance with these options.
    async fn start(options: &[String]) -> Self {
        let mut im = Im::new(options);
        im.restart("").await;
        im
    }

    fn new(options: &[String]) -> Self {
        let ports = coord_servers::free_ports(2).unwrap();
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        Im {
            options: options.to_vec(),
            failpoints: String::new(),
            address: at(ports[0]),
            admin: at(ports[1]),
            directory: tempfile::tempdir().unwrap(),
            process: None,
            lines: Arc::default(),
            ended: channel().1,
        }
    }

    /// Kills it, starts it again and waits until it is ready. `failpoints` says where it is to end
    /// by itself.
    async fn restart(&mut self, failpoints: &str) {
        self.failpoints = failpoints.to_owned();
        self.process = None;
        let mut command = vec!["env".to_owned(), format!("FAILPOINTS={failpoints}")];
        command.extend([env!("CARGO_BIN_EXE_im-service").to_owned()]);
        command.extend(["--listen".to_owned(), self.address.to_string()]);
        command.extend(["--admin".to_owned(), self.admin.to_string()]);
        command.extend(self.options.iter().cloned());
        let (told, ended) = channel();
        let lines = Arc::clone(&self.lines);
        let process = Process::start(command, self.directory.path(), move |line| {
            // It is dropped with the end of the output.
            let _ = &told;
            lines.lock().unwrap().push(line.to_owned());
        });
        self.process = Some(process.unwrap());
        self.ended = ended;
        let what = format!("the instance is ready: {failpoints}");
        until(&what, async || {
            (self.has_ended() || self.operators("/readyz").await.is_some_and(|answer| answer.0 == 200))
                .then_some(())
        })
        .await;
    }

    fn has_ended(&self) -> bool {
        matches!(self.ended.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected))
    }

    /// The status and the text of a page for operators.
    async fn operators(&self, path: &str) -> Option<(u16, String)> {
        let client = Client::new(&[self.admin]).unwrap();
        let answer = client.ask(http::Request::builder(), path, String::new()).await.ok()?;
        Some((answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned()))
    }

    /// Whether a line of what it wrote has all of `parts`.
    fn wrote(&self, parts: &[&str]) -> bool {
        self.lines.lock().unwrap().iter().any(|line| parts.iter().all(|part| line.contains(part)))
    }

    fn signal(&self, signal: Signal) {
        self.process.as_ref().unwrap().signal(signal);
    }

    fn kill(&mut self) {
        self.process = None;
    }

    /// What it last wrote, to explain a failure.
    fn log(&self) -> String {
        let lines = self.lines.lock().unwrap();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}
