//! One etcd process.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::binary::{Binary, Series};
use crate::network::enter;

/// How long a server may take to start, on a machine that is busy with other tests.
const START_WITHIN: Duration = Duration::from_secs(60);

/// Lines of the server's log that are kept to explain a failure.
const LOG_LINES: usize = 40;

/// Runs the server and ends it with its owner. A line on the pipe kills the server; a pipe that is closed without one means that the owner is gone, so that its
/// data, `$0`, goes as well.
pub(crate) const GUARDED: &str = r#""$@" </dev/null & server=$!; echo "$server"
read -r line; gone=$?
kill -9 "$server" 2>/dev/null; wait "$server" 2>/dev/null
[ "$gone" -eq 0 ] || rm -rf "$0""#;

/// What can be done to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// It dies at once.
    Kill,
    /// It stands still, with all its connections open.
    Stop,
    /// It goes on.
    Continue,
}

/// How a server is started, apart from its program.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Its name in its cluster.
    pub(crate) name: String,
    /// Where it listens for its peers; port 0 for any.
    pub(crate) peer: String,
    /// Where its peers find it, which may be a proxy.
    pub(crate) advertised: String,
    /// All members with their peers' addresses.
    pub(crate) cluster: String,
    /// Where it listens for clients; port 0 for any. With `https`, for those that encrypt.
    pub(crate) client: String,
    /// Whether a write is on the disk before it is acknowledged. Most tests need not wait for that.
    pub(crate) durable: bool,
    /// Further flags.
    pub(crate) flags: Vec<String>,
    /// The network namespace that it runs in, if it is not this process's.
    pub(crate) namespace: Option<PathBuf>,
}

/// A running etcd server, or one that was killed and can be started again on its data.
#[derive(Debug)]
pub struct Server {
    binary: Binary,
    config: Config,
    data: TempDir,
    running: Option<Running>,
    /// Its process id, 0 while it does not run, for those who tell connections of members apart.
    pid: Arc<AtomicU32>,
}

#[derive(Debug)]
struct Running {
    /// The shell that guards the server.
    guard: Child,
    /// A line on it ends the server, and so does its end.
    lifeline: ChildStdin,
    /// The server's process id.
    pid: u32,
}

impl Server {
    /// Starts a server of its own, as [`Cluster::single`](crate::Cluster::single) does.
    pub(crate) fn new(binary: &Binary, config: Config) -> Result<Self, String> {
        let data = TempDir::new().map_err(|error| format!("no directory for the data of etcd: {error}"))?;
        let mut server = Server { binary: binary.clone(), config, data, running: None, pid: Arc::default() };
        server.spawn()?.wait(&mut server)?;
        Ok(server)
    }

    /// A server that is starting. Members of a cluster wait for each other, so that all are started before any is waited for. Its
    /// process id will stand in `pid`.
    pub(crate) fn starting(binary: &Binary, config: Config, pid: Arc<AtomicU32>) -> Result<(Self, Starting), String> {
        let data = TempDir::new().map_err(|error| format!("no directory for the data of etcd: {error}"))?;
        let mut server = Server { binary: binary.clone(), config, data, running: None, pid };
        let starting = server.spawn()?;
        Ok((server, starting))
    }

    /// The server's address for clients: `127.0.0.1:PORT`. It stays the same when it is started again.
    ///
    /// # Panics
    ///
    /// When it never ran.
    pub fn endpoint(&self) -> &str {
        self.config.client.split_once("://").expect("servers listen at a URL").1
    }

    /// Its process id.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("the server runs").pid
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The program that it runs.
    pub fn binary(&self) -> &Binary {
        &self.binary
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// Whether it was started and not killed since. A server that stands still runs.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Sends the server's process a signal.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().expect("the server runs");
        let name = match signal {
            Signal::Kill => "-KILL",
            Signal::Stop => "-STOP",
            Signal::Continue => "-CONT",
        };
        let sent = Command::new("kill").args([name, &running.pid.to_string()]).status().expect("kill can be run");
        assert!(sent.success(), "process {} takes no signal {name}", running.pid);
    }

    /// Kills the server, as `kill -9` does, and waits until it is gone. Its data stays.
    pub fn kill(&mut self) {
        // The guard kills and reaps the server, and ends after it. A guard that is gone already takes no line.
        if let Some(Running { mut guard, mut lifeline, .. }) = self.running.take() {
            self.pid.store(0, Ordering::Relaxed);
            let _ = lifeline.write_all(b"kill\n");
            drop(lifeline);
            guard.wait().expect("the guard of the server can be waited for");
        }
    }

    /// Starts a killed server again, on its data and at its addresses.
    ///
    /// # Panics
    ///
    /// When it does not start; the message has the end of its log.
    pub fn restart(&mut self) {
        self.kill();
        let started = self.spawn().and_then(|starting| starting.wait(self));
        started.unwrap_or_else(|why| panic!("{why}"));
    }

    /// As [`restart`](Self::restart), for members that need each other to start.
    pub(crate) fn restarting(&mut self) -> Starting {
        self.kill();
        self.spawn().unwrap_or_else(|why| panic!("{why}"))
    }

    fn spawn(&mut self) -> Result<Starting, String> {
        let config = &self.config;
        let mut command = Command::new("sh");
        command.args(["-c", GUARDED]).arg(self.data.path());
        if let Some(namespace) = &config.namespace {
            command.args(["nsenter", &enter(namespace)]);
        }
        command.arg(&self.binary.path);
        command.arg("--data-dir").arg(self.data.path().join("data"));
        command.args(["--name", &config.name, "--initial-cluster", &config.cluster]);
        command.args(["--listen-peer-urls", &config.peer, "--initial-advertise-peer-urls", &config.advertised]);
        command.args(["--listen-client-urls", &config.client, "--advertise-client-urls", &config.client]);
        command.args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
        command.args(match self.binary.series {
            Series::V3_4 => ["--logger", "zap"].as_slice(),
            Series::V3_5 if config.durable => &[],
            Series::V3_5 => &["--unsafe-no-fsync"],
        });
        command.args(&config.flags).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut guard = command.spawn().map_err(|error| format!("etcd cannot be run: {error}"))?;
        let (Some(lifeline), Some(stdout), Some(stderr)) = (guard.stdin.take(), guard.stdout.take(), guard.stderr.take()) else {
            return Err("the pipes to etcd are missing".to_owned());
        };
        let mut pid = String::new();
        BufReader::new(stdout).read_line(&mut pid).map_err(|error| format!("etcd cannot be run: {error}"))?;
        let pid = pid.trim().parse().map_err(|_| format!("the shell says `{pid}` instead of a process id"))?;
        self.pid.store(pid, Ordering::Relaxed);
        self.running = Some(Running { guard, lifeline, pid });

        let (tell, told) = channel();
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&log);
        // The thread ends when the server closes its log, by ending.
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(address) = serving(&line) {
                    let _ = tell.send(address);
                }
                let mut kept = kept.lock().expect("nothing panics in here");
                kept.push_back(line);
                if kept.len() > LOG_LINES {
                    kept.pop_front();
                }
            }
        });
        Ok(Starting { told, log })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A process that stands still cannot be waited for by its guard, but dies by `kill -9` all the same.
        self.kill();
    }
}

/// A server that was started and does not serve yet.
#[derive(Debug)]
pub(crate) struct Starting {
    told: Receiver<String>,
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Starting {
    /// Waits until the server serves its clients.
    pub(crate) fn wait(self, server: &mut Server) -> Result<(), String> {
        let deadline = Instant::now() + START_WITHIN;
        match self.told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(address) => {
                let (scheme, _) = server.config.client.split_once("://").ok_or("servers listen at a URL")?;
                server.config.client = format!("{scheme}://{address}");
                Ok(())
            }
            Err(why) => {
                server.kill();
                let log = self.log.lock().expect("nothing panics in here");
                let what = match why {
                    RecvTimeoutError::Timeout => "did not serve in time",
                    RecvTimeoutError::Disconnected => "ended instead of serving",
                };
                Err(format!(
                    "etcd {} {what}; its log ends in:\n{}",
                    server.binary.version(),
                    Vec::from_iter(log.iter().cloned()).join("\n")
                ))
            }
        }
    }
}

/// The address in the log line that says that clients are served. A like line is about peers.
fn serving(line: &str) -> Option<String> {
    if !line.contains("serving client traffic") {
        return None;
    }
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    Some(line.get("address")?.as_str()?.to_owned())
}
