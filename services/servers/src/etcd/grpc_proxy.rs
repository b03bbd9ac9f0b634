//! etcd's own proxy between clients and servers, which speaks gRPC to both.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::binary::Binary;
use crate::free_ports;
use crate::process::Process;

/// How long a proxy may take to start, on a machine that is busy with other tests.
const START_WITHIN: Duration = Duration::from_secs(30);

/// `etcd grpc-proxy`, as a process that ends with its owner.
#[derive(Debug)]
pub struct GrpcProxy {
    endpoint: String,
    process: Process,
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
        let (endpoints, directory) = (endpoints.join(","), data.path().join("data"));
        let command = [binary.path.as_os_str(), "grpc-proxy".as_ref(), "start".as_ref()].into_iter().chain([
            "--endpoints".as_ref(),
            endpoints.as_ref(),
            "--listen-addr".as_ref(),
            endpoint.as_ref(),
            "--advertise-client-url".as_ref(),
            endpoint.as_ref(),
            "--data-dir".as_ref(),
            directory.as_os_str(),
        ]);
        let process = Process::start(command, data.path(), |_| {}).unwrap_or_else(|why| panic!("{why}"));
        let proxy = GrpcProxy { endpoint, process, _data: data };
        let begun = Instant::now();
        while TcpStream::connect(&proxy.endpoint).is_err() {
            assert!(begun.elapsed() < START_WITHIN, "the proxy does not start: {}", proxy.process.log());
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
        self.process.pid()
    }
}
