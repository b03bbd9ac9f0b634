//! Servers on hosts of their own, as far as the network can tell: each in a network namespace, all
//! on one bridge, by cables that can be pulled. Needs Linux, `ip` and `unshare`, and the right to
//! make namespaces, which root has.
//!
//! What a pulled cable does no proxy can do: packets vanish. No connection is closed, new ones are
//! not refused, and neither side is told.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Set for a program that runs in a network of its own.
const INSIDE: &str = "COORD_TEST_NETWORK";

/// Numbers the networks of this process.
static NEXT: AtomicU8 = AtomicU8::new(0);

/// Runs this program again, with the same arguments, in a network that holds nothing but what the
/// program makes, and waits for its end: whether it succeeded. `None` in the program that runs
/// there, which goes on.
///
/// # Errors
///
/// When no such network can be made here, with the reason.
pub fn in_network_of_its_own() -> Result<Option<bool>, String> {
    if env::var_os(INSIDE).is_some() {
        run("ip", &["link", "set", "lo", "up"])?;
        return Ok(None);
    }
    // Root needs no more; some systems let others be root of what they make.
    let flags: &[&str] =
        if run("unshare", &["--net", "true"]).is_ok() { &["--net"] } else { &["--map-root-user", "--net"] };
    run("unshare", &[flags, &["true"]].concat())
        .map_err(|why| format!("network namespaces cannot be made, run this as root: {why}"))?;
    let program = env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
    let ended = Command::new("unshare")
        .args(flags)
        .arg(program)
        .args(env::args_os().skip(1))
        .env(INSIDE, "own")
        .status();
    ended.map(|status| Some(status.success())).map_err(|error| format!("unshare cannot be run: {error}"))
}

/// Hosts on one bridge.
#[derive(Debug)]
pub(crate) struct Network {
    bridge: String,
    hosts: Vec<Host>,
}

/// A network namespace, which lives for as long as its holder.
#[derive(Debug)]
struct Host {
    address: String,
    cable: Arc<Cable>,
    holder: Child,
}

impl Network {
    /// Makes a bridge with so many hosts.
    ///
    /// # Errors
    ///
    /// With what could not be done, and why.
    pub(crate) fn new(hosts: u8) -> Result<Self, String> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let bridge = format!("etcd{number}");
        run("ip", &["link", "add", &bridge, "type", "bridge"])?;
        let mut network = Network { bridge, hosts: Vec::new() };
        run("ip", &["addr", "add", &format!("10.77.{number}.254/24"), "dev", &network.bridge])?;
        run("ip", &["link", "set", &network.bridge, "up"])?;
        for host in 1..=hosts {
            network.hosts.push(Host::new(
                &network.bridge,
                format!("{}-{host}", network.bridge),
                format!("10.77.{number}.{host}"),
            )?);
        }
        Ok(network)
    }

    /// Each host's address, and its namespace.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = (&str, PathBuf)> {
        self.hosts.iter().map(|host| (host.address.as_str(), host.namespace()))
    }

    /// Pulls a host's cable.
    pub(crate) fn pull(&self, host: usize) -> Pulled {
        let cable = &self.hosts.get(host).expect("the host is one of the network's").cable;
        let mut pulled = cable.pulled();
        *pulled += 1;
        cable.set("down");
        drop(pulled);
        Pulled(Arc::clone(cable))
    }

    /// Whether no cable is pulled.
    pub(crate) fn is_whole(&self) -> bool {
        self.hosts.iter().all(|host| *host.cable.pulled() == 0)
    }

    /// Plugs all cables in again, before their time.
    pub(crate) fn heal(&self) {
        for host in &self.hosts {
            let mut pulled = host.cable.pulled();
            *pulled = 0;
            host.cable.set("up");
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.hosts.clear();
        let _ = run("ip", &["link", "del", &self.bridge]);
    }
}

impl Host {
    fn new(bridge: &str, cable: String, address: String) -> Result<Self, String> {
        // It ends with its input, and so with this process.
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo; read -r end"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().map_err(|error| format!("unshare cannot be run: {error}"))?;
        let made = holder.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut String::new()));
        let host = Host { address, cable: Arc::new(Cable { name: cable, pulled: Mutex::new(0) }), holder };
        if !matches!(made, Some(Ok(1))) {
            return Err("a network namespace cannot be made".to_owned());
        }
        let (name, pid, namespace) = (&host.cable.name, host.holder.id().to_string(), host.namespace());
        run("ip", &["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
        run("ip", &["link", "set", name, "master", bridge, "up"])?;
        let address = format!("{}/24", host.address);
        for inside in [
            ["addr", "add", &address, "dev", "eth0"].as_slice(),
            &["link", "set", "eth0", "up"],
            &["link", "set", "lo", "up"],
        ] {
            run("nsenter", &[&[&*enter(&namespace), "ip"], inside].concat())?;
        }
        Ok(host)
    }

    fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// The argument of `nsenter` that says where.
pub(crate) fn enter(namespace: &Path) -> String {
    format!("--net={}", namespace.display())
}

/// What connects a host to the bridge.
#[derive(Debug)]
struct Cable {
    name: String,
    /// How many faults have pulled it at this moment.
    pulled: Mutex<usize>,
}

impl Cable {
    fn pulled(&self) -> MutexGuard<'_, usize> {
        self.pulled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: &str) {
        // Fails where the network is gone already, and then there is nothing to set.
        let _ = run("ip", &["link", "set", &self.name, state]);
    }
}

/// A cable is pulled for as long as this lives.
#[derive(Debug)]
pub(crate) struct Pulled(Arc<Cable>);

impl Drop for Pulled {
    fn drop(&mut self) {
        let mut pulled = self.0.pulled();
        *pulled = pulled.saturating_sub(1);
        if *pulled == 0 {
            self.0.set("up");
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let ran = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program} cannot be run: {error}"))?;
    let said =
        || format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&ran.stderr).trim());
    if ran.status.success() { Ok(()) } else { Err(said()) }
}
