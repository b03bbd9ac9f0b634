//! etcd's own proxy between clients and servers, which speaks gRPC to both.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::binary::Binary;
use crate::cluster::free_ports;
use crate::server::GUARDED;

/// How long a proxy may take to start, on a machine that is busy with other tests.
const START_WITHIN: Duration = Duration::from_secs(30);

/// `etcd grpc-proxy`, as a process that ends with its owner.
#[derive(Debug)]
pub struct GrpcProxy {
    endpoint: String,
    guard: Child,
    /// A line on it ends the proxy, and so does its end.
    lifeline: ChildStdin,
    pid: u32,
    _data: TempDir,
}

impl GrpcProxy {
    /// Starts a proxy to these endpoints.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn start(binary: &Binary, endpoints: &[String]) -> Self {
        let data = TempDir::new().expect("a directory for the data of the proxy");
        let port = free_ports(1).unwrap_or_else(|why| panic!("{why}")).remove(0);
        let endpoint = format!("127.0.0.1:{port}");
        let mut command = Command::new("sh");
        command.arg("-c").arg(GUARDED).arg(data.path()).arg(&binary.path).args(["grpc-proxy", "start"]);
        command.args(["--endpoints", &endpoints.join(","), "--listen-addr", &endpoint, "--advertise-client-url", &endpoint]);
        command.arg("--data-dir").arg(data.path().join("data"));
        let mut guard = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a shell starts");
        let lifeline = guard.stdin.take().expect("it was asked for");
        let mut line = String::new();
        BufReader::new(guard.stdout.take().expect("it was asked for")).read_line(&mut line).expect("the shell says whom it guards");
        let pid = line.trim().parse().expect("the process id");
        let proxy = GrpcProxy { endpoint, guard, lifeline, pid, _data: data };
        let begun = Instant::now();
        while TcpStream::connect(&proxy.endpoint).is_err() {
            assert!(begun.elapsed() < START_WITHIN, "the proxy does not start");
            thread::sleep(Duration::from_millis(20));
        }
        proxy
    }

    /// Its address for clients.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

impl Drop for GrpcProxy {
    fn drop(&mut self) {
        let _ = self.lifeline.write_all(b"\n");
        let _ = self.guard.wait();
    }
}
