//! One server, or three that know each other.

use std::net::TcpListener;
use std::sync::Arc;

use crate::binary::Binary;
use crate::peers::{CutOff, Peers, Pids};
use crate::server::{Config, Server};

/// How often a cluster is started anew because somebody took one of its ports meanwhile.
const TRIES: usize = 10;

/// One etcd server, or a cluster of three.
#[derive(Debug)]
pub struct Cluster {
    servers: Vec<Server>,
    /// The ways between the members, where they can be cut. Dropped after the servers.
    peers: Option<Peers>,
}

impl Cluster {
    /// Starts one server.
    ///
    /// # Panics
    ///
    /// When it does not start; the message has the end of its log.
    pub fn single(binary: &Binary) -> Self {
        Cluster::single_with(binary, &[])
    }

    /// As [`single`](Self::single), with further flags.
    ///
    /// # Panics
    ///
    /// As [`single`](Self::single).
    pub fn single_with(binary: &Binary, flags: &[&str]) -> Self {
        Cluster::start_single(binary, flags, "http://127.0.0.1:0", false)
    }

    /// As [`single_with`](Self::single_with), for clients that encrypt. The flags name the certificate, `--cert-file`, and its key, `--key-file`.
    ///
    /// # Panics
    ///
    /// As [`single`](Self::single).
    pub fn single_encrypted(binary: &Binary, flags: &[&str]) -> Self {
        Cluster::start_single(binary, flags, "https://127.0.0.1:0", false)
    }

    /// As [`single`](Self::single), with data that is on the disk before a write is acknowledged, as on a server that is not a test's.
    ///
    /// # Panics
    ///
    /// As [`single`](Self::single).
    pub fn single_durable(binary: &Binary) -> Self {
        Cluster::start_single(binary, &[], "http://127.0.0.1:0", true)
    }

    fn start_single(binary: &Binary, flags: &[&str], client: &str, durable: bool) -> Self {
        let any = "http://127.0.0.1:0".to_owned();
        let config = Config {
            name: "n0".to_owned(),
            peer: any.clone(),
            advertised: any.clone(),
            cluster: format!("n0={any}"),
            client: client.to_owned(),
            durable,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        Cluster { servers: vec![Server::new(binary, config).unwrap_or_else(|why| panic!("{why}"))], peers: None }
    }

    /// Starts three servers that form a cluster.
    ///
    /// # Panics
    ///
    /// When it does not start; the message has the end of a log.
    pub fn three(binary: &Binary) -> Self {
        Cluster::three_with(binary, &[])
    }

    /// As [`three`](Self::three), with further flags for each of them.
    ///
    /// # Panics
    ///
    /// As [`three`](Self::three).
    pub fn three_with(binary: &Binary, flags: &[&str]) -> Self {
        Cluster::start_three(binary, flags, false)
    }

    /// As [`three`](Self::three), with ways between them that can be cut: [`cut_off`](Self::cut_off). Needs Linux.
    ///
    /// # Panics
    ///
    /// As [`three`](Self::three).
    pub fn three_with_peer_links(binary: &Binary) -> Self {
        Cluster::start_three(binary, &[], true)
    }

    fn start_three(binary: &Binary, flags: &[&str], links: bool) -> Self {
        let mut last = String::new();
        for _ in 0..TRIES {
            match Cluster::try_three(binary, flags, links) {
                Ok(cluster) => return cluster,
                // Peers must be known beforehand, so that their ports are free ones that somebody else may take first.
                Err(why) if why.contains("address already in use") => last = why,
                Err(why) => panic!("{why}"),
            }
        }
        panic!("no three free ports after {TRIES} tries: {last}");
    }

    fn try_three(binary: &Binary, flags: &[&str], links: bool) -> Result<Self, String> {
        let listen = free_ports(3)?.into_iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>();
        let pids: Pids = listen.iter().map(|_| Arc::default()).collect();
        let peers = links.then(|| Peers::start(listen.clone(), pids.clone())).transpose()?;
        let advertised = peers.as_ref().map_or(listen.as_slice(), Peers::addresses);
        let cluster = advertised.iter().enumerate().map(|(n, peer)| format!("n{n}=http://{peer}")).collect::<Vec<_>>().join(",");
        let mut servers = Vec::new();
        let mut starting = Vec::new();
        for (n, ((peer, advertised), pid)) in listen.iter().zip(advertised).zip(pids).enumerate() {
            let config = Config {
                name: format!("n{n}"),
                peer: format!("http://{peer}"),
                advertised: format!("http://{advertised}"),
                cluster: cluster.clone(),
                client: "http://127.0.0.1:0".to_owned(),
                durable: false,
                flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            };
            let (server, started) = Server::starting(binary, config, pid)?;
            servers.push(server);
            starting.push(started);
        }
        for (server, started) in servers.iter_mut().zip(starting) {
            started.wait(server)?;
        }
        Ok(Cluster { servers, peers })
    }

    /// Cuts a member off from the others, until the answer is dropped: nothing passes between them, and connections stay open. Its clients reach it as before.
    ///
    /// # Panics
    ///
    /// When the cluster was not started [`with peer links`](Self::three_with_peer_links).
    pub fn cut_off(&self, member: usize) -> CutOff {
        self.peer_links().cut(member)
    }

    /// Whether no member is cut off from the others. One that is cannot be started: it would wait for them.
    pub fn is_whole(&self) -> bool {
        self.peers.as_ref().is_none_or(Peers::are_whole)
    }

    fn peer_links(&self) -> &Peers {
        self.peers.as_ref().expect("the cluster was started with peer links")
    }

    /// The servers.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The servers, to kill and to restart them.
    pub fn servers_mut(&mut self) -> &mut [Server] {
        &mut self.servers
    }

    /// The addresses for clients: `127.0.0.1:PORT` each.
    pub fn endpoints(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.endpoint().to_owned()).collect()
    }

    /// Kills all servers and starts them again on their data. Members that were cut off are so no more.
    ///
    /// # Panics
    ///
    /// When one does not start.
    pub fn restart(&mut self) {
        self.servers.iter_mut().for_each(Server::kill);
        self.peers.iter().for_each(Peers::heal);
        self.restart_killed();
    }

    /// Starts the servers that were killed again on their data, all at once, for they may need each other.
    ///
    /// # Panics
    ///
    /// When one does not start.
    pub fn restart_killed(&mut self) {
        let killed: Vec<_> = self.servers.iter_mut().filter(|server| !server.is_running()).collect();
        let starting: Vec<_> = killed.into_iter().map(|server| (server.restarting(), server)).collect();
        for (started, server) in starting {
            started.wait(server).unwrap_or_else(|why| panic!("{why}"));
        }
    }
}

/// Ports that nobody listens on at this moment.
fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let bound = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>();
    let ports = bound.and_then(|bound| bound.iter().map(|listener| Ok(listener.local_addr()?.port())).collect());
    ports.map_err(|error| format!("no free port: {error}"))
}
