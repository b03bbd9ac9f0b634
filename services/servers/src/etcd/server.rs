//! One etcd process.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::binary::{Binary, Series};
use super::network::enter;
use crate::process::{Process, Signal};

/// How long a server may take to start, on a machine that is busy with other tests.
const START_WITHIN: Duration = Duration::from_secs(60);

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
    running: Option<Process>,
    /// Its process id, 0 while it does not run, for those who tell connections of members apart.
    pid: Arc<AtomicU32>,
}

impl Server {
    /// Starts a server of its own, as [`Cluster::single`](super::Cluster::single) does.
    pub(crate) fn new(binary: &Binary, config: Config) -> Result<Self, String> {
        let data = TempDir::new().map_err(|error| format!("no directory for the data of etcd: {error}"))?;
        let mut server = Server { binary: binary.clone(), config, data, running: None, pid: Arc::default() };
        server.spawn()?.wait(&mut server)?;
        Ok(server)
    }

    /// A server that is starting. Members of a cluster wait for each other, so that all are started
    /// before any is waited for. Its process id will stand in `pid`.
    pub(crate) fn starting(
        binary: &Binary,
        config: Config,
        pid: Arc<AtomicU32>,
    ) -> Result<(Self, Starting), String> {
        let data = TempDir::new().map_err(|error| format!("no directory for the data of etcd: {error}"))?;
        let mut server = Server { binary: binary.clone(), config, data, running: None, pid };
        let starting = server.spawn()?;
        Ok((server, starting))
    }

    /// The server's address for clients: `127.0.0.1:PORT`. It stays the same when it is started
    /// again.
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
        self.running.as_ref().expect("the server runs").pid()
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
        self.running.as_ref().expect("the server runs").signal(signal);
    }

    /// Kills the server, as `kill -9` does, and waits until it is gone. Its data stays.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.running.take() {
            self.pid.store(0, Ordering::Relaxed);
            process.kill();
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
        let mut command: Vec<OsString> = Vec::new();
        if let Some(namespace) = &config.namespace {
            command.extend(["nsenter".into(), enter(namespace).into()]);
        }
        command.extend([
            self.binary.path.clone().into(),
            "--data-dir".into(),
            self.data.path().join("data").into(),
        ]);
        let mut flags = vec!["--name", &config.name, "--initial-cluster", &config.cluster];
        flags.extend([
            "--listen-peer-urls",
            &config.peer,
            "--initial-advertise-peer-urls",
            &config.advertised,
        ]);
        flags.extend(["--listen-client-urls", &config.client, "--advertise-client-urls", &config.client]);
        flags.extend(["--heartbeat-interval", "50", "--election-timeout", "500"]);
        flags.extend(match self.binary.series {
            Series::V3_4 => ["--logger", "zap"].as_slice(),
            Series::V3_5 if config.durable => &[],
            Series::V3_5 => &["--unsafe-no-fsync"],
        });
        flags.extend(config.flags.iter().map(String::as_str));
        command.extend(flags.into_iter().map(OsString::from));

        let (tell, told) = channel();
        let process = Process::start(command, self.data.path(), move |line| {
            if let Some(address) = serving(line) {
                let _ = tell.send(address);
            }
        })?;
        self.pid.store(process.pid(), Ordering::Relaxed);
        self.running = Some(process);
        Ok(Starting { told })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A server that was started and does not serve yet.
#[derive(Debug)]
pub(crate) struct Starting {
    told: Receiver<String>,
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
                let log = server.running.as_ref().map(Process::log).unwrap_or_default();
                server.kill();
                let what = match why {
                    RecvTimeoutError::Timeout => "did not serve in time",
                    RecvTimeoutError::Disconnected => "ended instead of serving",
                };
                Err(format!("etcd {} {what}; its log ends in:\n{log}", server.binary.version()))
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
