//! nats-server with JetStream.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::free_ports;
use crate::process::{Process, Signal};
use crate::program::find;

/// How long it may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How many ports are tried, where somebody else takes them.
const PORTS: usize = 5;

/// What it says when it serves.
const READY: &str = "Server is ready";

/// What it says when somebody else has its port.
const TAKEN: &str = "address already in use";

/// Who may do what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsUser {
    /// The name.
    pub name: String,
    /// The password.
    pub password: String,
    /// The subjects that it may not publish to.
    pub deny: Option<String>,
}

impl NatsUser {
    /// Who may do everything.
    pub fn new(name: impl Into<String>, password: impl Into<String>) -> Self {
        NatsUser { name: name.into(), password: password.into(), deny: None }
    }
}

/// A server on a free port of the loopback interface, with a directory of its own. It is gone when
/// this is dropped.
#[derive(Debug)]
pub struct NatsServer {
    directory: tempfile::TempDir,
    port: u16,
    user: Option<NatsUser>,
    /// How many bytes JetStream may store.
    max_store: Option<u64>,
    process: Option<Process>,
}

impl NatsServer {
    /// A server that anybody may use.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start() -> Self {
        NatsServer::start_with(None, None)
    }

    /// A server for one user, that stores so many bytes.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start_with(user: Option<NatsUser>, max_store: Option<u64>) -> Self {
        let directory = tempfile::Builder::new().prefix("coord-nats-").tempdir().expect("a directory");
        let mut server = NatsServer { directory, port: 0, user, max_store, process: None };
        for _ in 0..PORTS {
            server.port = *free_ports(1).expect("a free port").first().expect("one");
            if server.run() {
                return server;
            }
        }
        panic!("{PORTS} free ports were taken before nats-server had them");
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Kills it, as `kill -9` does. What it wrote stays.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Runs it again, where it was and with what it had.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.run(), "somebody else has taken the port of nats-server");
    }

    /// Runs it again for another user.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn restart_for(&mut self, user: Option<NatsUser>) {
        self.user = user;
        self.restart();
    }

    /// Has it serve another user from now on, and no other, without a restart.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn change_user(&mut self, user: Option<NatsUser>) {
        self.user = user;
        self.write_config();
        let pid = self.process.as_ref().expect("nats-server runs").pid();
        let told = Command::new("kill").args(["-HUP", &pid.to_string()]).status().expect("kill can be run");
        assert!(told.success(), "nats-server takes no signal");
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("nats-server runs").signal(signal);
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    fn config(&self) -> std::path::PathBuf {
        self.directory.path().join("nats.conf")
    }

    fn write_config(&self) {
        let store = self.directory.path().join("store");
        let max_store = self.max_store.map_or(String::new(), |bytes| format!("max_file_store: {bytes}"));
        let user = self.user.as_ref().map_or(String::new(), |user| {
            let deny = user.deny.as_ref().map_or(String::new(), |subjects| {
                format!(", permissions: {{ publish: {{ deny: \"{subjects}\" }} }}")
            });
            let (name, password) = (&user.name, &user.password);
            format!("authorization {{ users: [ {{ user: \"{name}\", password: \"{password}\"{deny} }} ] }}\n")
        });
        let text = format!(
            "listen: \"127.0.0.1:{}\"\njetstream {{ store_dir: \"{}\"\n{max_store} }}\n{user}",
            self.port,
            store.display()
        );
        fs::write(self.config(), text).expect("the configuration can be written");
    }

    /// Runs it. Says whether it has its port.
    fn run(&mut self) -> bool {
        self.write_config();
        let program = find("COORD_TEST_NATS_BIN", "nats/nats-server", "nats-server", "scripts/nats.sh");
        let (tell, told) = channel();
        let command = [program.into_os_string(), "-c".into(), self.config().into_os_string()];
        let process = Process::start(command, self.directory.path(), move |line| {
            let _ = tell.send(line.to_owned());
        })
        .expect("nats-server can be run");
        let is_ready = await_ready(&told, &process, self.directory.path());
        self.process = is_ready.then_some(process);
        is_ready
    }
}

fn await_ready(told: &Receiver<String>, process: &Process, directory: &Path) -> bool {
    let until = Instant::now() + READY_WITHIN;
    while let Ok(line) = told.recv_timeout(until.saturating_duration_since(Instant::now())) {
        if line.contains(READY) {
            return true;
        }
        if line.contains(TAKEN) {
            return false;
        }
    }
    panic!("nats-server in {} is not ready:\n{}", directory.display(), process.log());
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    /// What it says to who comes.
    fn greeting(server: &NatsServer) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).ok()?;
        stream.write_all(b"PING\r\n").ok()?;
        let mut said = [0; 4];
        stream.read_exact(&mut said).ok()?;
        Some(String::from_utf8_lossy(&said).into_owned())
    }

    #[test]
    fn it_is_there_while_it_runs() {
        let mut server = NatsServer::start();
        let url = server.url();
        assert_eq!(greeting(&server).as_deref(), Some("INFO"));
        server.kill();
        assert_eq!(greeting(&server), None);
        server.restart();
        assert_eq!((greeting(&server).as_deref(), server.url()), (Some("INFO"), url));
        server.change_user(Some(NatsUser::new("ann", "secret")));
        assert!(server.directory.path().join("store/jetstream").exists());
    }
}
