//! A PostgreSQL server.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::{Process, Signal};
use crate::{free_ports, program};

/// How long a server may take to be ready, on a machine that does much else.
const SOON: Duration = Duration::from_secs(60);

/// What a server says when it can be used, and when its port or its data are taken.
const READY: &str = "database system is ready to accept connections";

/// Who runs the server where the test is run by root, whom PostgreSQL refuses: `nobody`.
const NOBODY: u32 = 65_534;

/// The superuser of each server, and the password that it begins with.
const USER: &str = "coord";
const PASSWORD: &str = "first-password";

/// A PostgreSQL server on a port and with data of its own, of which a superuser and a password are
/// known. It asks for the password (SCRAM), listens on 127.0.0.1 alone, and does not wait for the
/// disk.
///
/// ```no_run
/// use coord_servers::postgres::Postgres;
///
/// let server = Postgres::start(&[]);
/// println!("{} with the password {}", server.url(), server.password());
/// ```
#[derive(Debug)]
pub struct Postgres {
    directory: TempDir,
    port: u16,
    settings: Vec<String>,
    process: Option<Process>,
}

impl Postgres {
    /// Starts a server with these settings, each as `name=value`.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start(settings: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        give_away(directory.path());
        copy(template(), &directory.path().join("data"));
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut server = Postgres { directory, port: 0, settings, process: None };
        for _ in 0..10 {
            server.port = free_ports(1).expect("there is a free port").pop().unwrap_or_default();
            // Somebody else may have taken the port meanwhile.
            if server.run().is_ok() {
                return server;
            }
        }
        let log = server.run().err().unwrap_or_default();
        panic!("PostgreSQL does not start:\n{log}")
    }

    /// The port of 127.0.0.1 at which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it is reached, by whom, and the database: all but the password.
    pub fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/postgres", self.port)
    }

    /// The superuser's password, until somebody changes it.
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// Kills it and all that it runs, as a machine that fails does. What it wrote stays.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Those are gone by themselves soon, but would keep the next server from starting.
            let children = children(process.pid());
            process.kill();
            send(Signal::Kill, &children);
        }
    }

    /// Has it end as an administrator's command does: it ends its connections and is gone.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            send(Signal::Interrupt, &[process.pid()]);
            let until = Instant::now() + SOON;
            while Path::new("/proc").join(process.pid().to_string()).join("exe").exists() {
                assert!(Instant::now() < until, "PostgreSQL does not end:\n{}", process.log());
                std::thread::sleep(Duration::from_millis(5));
            }
            process.kill();
        }
    }

    /// Starts it again, on the same port and with the same data, after it was killed where it was
    /// not.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn restart(&mut self) {
        self.kill();
        let until = Instant::now() + SOON;
        // What the one before has left may be in use for a moment.
        while let Err(log) = self.run() {
            assert!(Instant::now() < until, "PostgreSQL does not start again:\n{log}");
        }
    }

    /// Has it stand still with all its connections open, or go on.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            let mut all = children(process.pid());
            all.push(process.pid());
            send(signal, &all);
        }
    }

    /// Lets no file grow beyond this size, from the next connection on: what is written beyond it
    /// meets a full disk.
    ///
    /// # Panics
    ///
    /// When the machine cannot do that.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let limit = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
        let process = self.process.as_ref().expect("the server runs");
        for pid in children(process.pid()).into_iter().chain([process.pid()]) {
            // By the one who runs it: root may not, where it is root of a container alone.
            let mut command = command_of(unprivileged(), "prlimit".as_ref());
            let done =
                output(&mut command, &[&format!("--pid={pid}"), &format!("--fsize={limit}:unlimited")]);
            // A child may have ended meanwhile.
            assert!(done.status.success() || pid != process.pid(), "{}", text(&done));
        }
    }

    /// Starts the process and waits until it can be used. Fails with the end of its log.
    fn run(&mut self) -> Result<(), String> {
        let program = programs().join("postgres");
        let mut command = unprivileged();
        command.push(program.into());
        let settings = [
            "fsync=off",
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "shared_buffers=16MB",
            "dynamic_shared_memory_type=mmap",
        ];
        command.extend(["-D".into(), self.directory.path().join("data").into()]);
        command.extend(["-p".into(), self.port.to_string().into()]);
        for setting in settings.into_iter().chain(self.settings.iter().map(String::as_str)) {
            command.extend(["-c".into(), setting.into()]);
        }
        let (tell, told) = channel();
        let process = Process::start(command, self.directory.path(), move |line| {
            if line.contains(READY) {
                let _ = tell.send(());
            }
        })?;
        if is_ready(&told) {
            self.process = Some(process);
            return Ok(());
        }
        Err(process.log())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_ready(told: &Receiver<()>) -> bool {
    match told.recv_timeout(SOON) {
        Ok(()) => true,
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => false,
    }
}

/// The processes that this one has started.
fn children(pid: u32) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let parent_of = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse::<u32>().ok()
    };
    processes
        .filter_map(|process| process.ok()?.file_name().to_str()?.parse().ok())
        .filter(|child| parent_of(*child) == Some(pid))
        .collect()
}

/// Sends a signal to processes; one that is gone already takes none.
fn send(signal: Signal, processes: &[u32]) {
    if processes.is_empty() {
        return;
    }
    let processes = processes.iter().map(ToString::to_string);
    let sent = Command::new("kill").arg(signal.option()).args(processes).output();
    sent.expect("kill can be run");
}

/// Where the programs of PostgreSQL are: `initdb` stands beside `postgres`.
fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let cached = "postgresql/root/usr/lib/postgresql/15/bin/postgres";
        let found = program::find("COORD_POSTGRES", cached, "postgres", "scripts/postgresql.sh");
        let found = found.canonicalize().expect("it is there");
        found.parent().map(Path::to_owned).expect("it lies in a directory")
    })
}

/// What stands before a command so that it is run by somebody else than root, and with the
/// libraries that were unpacked with it.
fn unprivileged() -> Vec<OsString> {
    let mut command: Vec<OsString> = Vec::new();
    if is_root() {
        let [user, group] = ["--reuid", "--regid"].map(|option| format!("{option}={NOBODY}").into());
        command.extend(["setpriv".into(), user, group, "--clear-groups".into()]);
    }
    // …/usr/lib/postgresql/15/bin: the libraries lie in …/usr/lib/x86_64-linux-gnu.
    let libraries = programs().ancestors().nth(3).map(|lib| {
        let directories = fs::read_dir(lib).into_iter().flatten().flatten();
        directories.map(|entry| entry.path()).find(|path| path.to_string_lossy().ends_with("-linux-gnu"))
    });
    if let Some(Some(libraries)) = libraries.filter(|_| programs().components().any(is_cache)) {
        let mut setting = OsString::from("LD_LIBRARY_PATH=");
        setting.push(libraries);
        command.extend(["env".into(), setting]);
    }
    command.extend(["env".into(), "LC_ALL=C".into()]);
    command
}

fn is_cache(component: std::path::Component<'_>) -> bool {
    component.as_os_str() == ".cache"
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Gives a directory to the one who runs the server.
fn give_away(directory: &Path) {
    if is_root() {
        chown(directory, Some(NOBODY), Some(NOBODY)).expect("root can give a directory away");
    }
}

/// The data that each server begins with. To make them takes seconds, so they are made once and
/// kept beside what the scripts unpack, or for this process where that cannot be written.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<(PathBuf, Option<TempDir>)> = OnceLock::new();
    let (path, _) = TEMPLATE.get_or_init(|| {
        let version = text(&output(&mut Command::new(programs().join("postgres")), &["--version"]));
        let version: String = version.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').collect();
        let owner = if is_root() { "root" } else { "user" };
        let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/postgresql-data");
        let path = kept.join(format!("{version}-{owner}"));
        if path.join("PG_VERSION").exists() {
            return (path, None);
        }
        let made = make_template();
        let data = made.path().join("data");
        let moved = fs::create_dir_all(&kept).is_ok() && {
            // Others may do the same at the same time: the first one's is kept.
            let mine = kept.join(format!("{version}-{owner}.{}", std::process::id()));
            copy(&data, &mine);
            if fs::rename(&mine, &path).is_err() {
                let _ = fs::remove_dir_all(&mine);
            }
            path.join("PG_VERSION").exists()
        };
        if moved { (path, None) } else { (data, Some(made)) }
    });
    path
}

fn make_template() -> TempDir {
    let made = tempfile::tempdir().expect("there is room for a directory");
    let password = made.path().join("password");
    fs::write(&password, PASSWORD).expect("a file can be written");
    give_away(made.path());
    let mut command = command_of(unprivileged(), programs().join("initdb").as_os_str());
    command.arg("-D").arg(made.path().join("data")).arg("--pwfile").arg(&password);
    let arguments =
        ["--no-sync", "--username", USER, "--auth=scram-sha-256", "--wal-segsize=1", "--encoding=UTF8"];
    let done = output(&mut command, &arguments);
    assert!(done.status.success(), "initdb failed: {}", text(&done));
    made
}

/// Copies a directory with the owners of its files.
fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    let done = command.arg("-a").arg(from).arg(to).output().expect("cp can be run");
    assert!(done.status.success(), "the data of PostgreSQL cannot be copied: {}", text(&done));
}

/// A command of a program with what stands before it.
fn command_of(before: Vec<OsString>, program: &OsStr) -> Command {
    let mut all = before.into_iter().chain([program.to_owned()]);
    let mut command = Command::new(all.next().unwrap_or_default());
    command.args(all);
    command
}

fn output(command: &mut Command, arguments: &[&str]) -> Output {
    // Somebody else than root may not see the directory that the test was started in.
    command.current_dir(env::temp_dir()).args(arguments).output().expect("a program of PostgreSQL can be run")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_server_listens_is_killed_and_comes_back_on_its_port() {
        let mut server = Postgres::start(&["max_connections=10"]);
        let port = server.port();
        let listens = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        assert!(listens());
        let pid = server.process.as_ref().map(Process::pid).unwrap_or_default();
        assert!(children(pid).len() > 2, "it has processes for its own work");
        server.kill();
        assert!(!listens() && children(pid).is_empty());
        server.restart();
        assert!(listens());
        server.stop();
        assert!(!listens());
        server.restart();
        assert!(listens());
        assert_eq!(server.port(), port);
    }
}
