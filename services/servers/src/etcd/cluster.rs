//! One server, or three that know each other.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::binary::Binary;
use super::network::{Network, Pulled};
use super::peers::{Cut, Peers, Pids};
use super::server::{Config, Server};
use crate::free_ports;

/// How often a cluster is started anew because somebody took one of its ports meanwhile.
const TRIES: usize = 10;

/// One etcd server, or a cluster of three.
#[derive(Debug)]
pub struct Cluster {
    servers: Vec<Server>,
    /// What is between the members, where it can be cut. Dropped after the servers.
    between: Between,
}

#[derive(Debug)]
enum Between {
    /// Nothing that can be cut.
    Nothing,
    /// Proxies between the members alone: clients reach one that is cut off as before.
    Proxies(Peers),
    /// A network of its own: clients do not reach one that is cut off, and packets vanish.
    Network(Network),
}

/// A server that is to join a cluster.
#[derive(Clone, Debug)]
pub struct Newcomer {
    name: String,
    peer: String,
}

impl Newcomer {
    /// Where the other members will find it.
    pub fn peer(&self) -> &str {
        &self.peer
    }
}

/// A member is cut off from the others for as long as this lives.
#[derive(Debug)]
#[must_use = "the cut ends when this is dropped"]
pub struct CutOff {
    _ends: Ends,
}

#[derive(Debug)]
enum Ends {
    Proxies { _cut: Cut },
    Network { _pulled: Pulled },
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

    /// As [`single_with`](Self::single_with), for clients that encrypt. The flags name the
    /// certificate, `--cert-file`, and its key, `--key-file`.
    ///
    /// # Panics
    ///
    /// As [`single`](Self::single).
    pub fn single_encrypted(binary: &Binary, flags: &[&str]) -> Self {
        Cluster::start_single(binary, flags, "https://127.0.0.1:0", false)
    }

    /// As [`single`](Self::single), with data that is on the disk before a write is acknowledged,
    /// as on a server that is not a test's.
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
            flags: with_token(flags),
            namespace: None,
        };
        Cluster {
            servers: vec![Server::new(binary, config).unwrap_or_else(|why| panic!("{why}"))],
            between: Between::Nothing,
        }
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

    /// As [`three`](Self::three), with ways between them that can be cut:
    /// [`cut_off`](Self::cut_off). Needs Linux.
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
                // Peers must be known beforehand, so that their ports are free ones that somebody
                // else may take first.
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
        let advertised = peers.as_ref().map_or(listen.clone(), |peers| peers.addresses().to_vec());
        let places = listen.into_iter().zip(advertised).zip(pids).map(|((listen, advertised), pid)| Place {
            listen,
            advertised,
            client: "127.0.0.1:0".to_owned(),
            namespace: None,
            pid,
        });
        let servers = start_at(binary, flags, places.collect())?;
        Ok(Cluster { servers, between: peers.map_or(Between::Nothing, Between::Proxies) })
    }

    /// As [`three`](Self::three), each member on a host of its own whose cable can be pulled:
    /// [`cut_off`](Self::cut_off). Only for a program in a
    /// [network of its own](super::in_network_of_its_own), where nobody else has these addresses
    /// and ports.
    ///
    /// # Panics
    ///
    /// As [`three`](Self::three), and where namespaces cannot be made.
    pub fn three_on_hosts(binary: &Binary) -> Self {
        let start = || {
            let network = Network::new(3)?;
            let places = network.hosts().map(|(address, namespace)| Place {
                listen: format!("{address}:2380"),
                advertised: format!("{address}:2380"),
                client: format!("{address}:2379"),
                namespace: Some(namespace),
                pid: Arc::default(),
            });
            Ok(Cluster {
                servers: start_at(binary, &[], places.collect())?,
                between: Between::Network(network),
            })
        };
        start().unwrap_or_else(|why: String| panic!("{why}"))
    }

    /// Cuts a member off from the others, until the answer is dropped: nothing passes between them,
    /// and connections stay open. Its clients reach it as before, unless it is
    /// [on a host of its own](Self::three_on_hosts).
    ///
    /// # Panics
    ///
    /// When the cluster was started neither [with peer links](Self::three_with_peer_links) nor on
    /// hosts.
    pub fn cut_off(&self, member: usize) -> CutOff {
        let ends = match &self.between {
            Between::Nothing => {
                panic!("the cluster was started with nothing between its members that can be cut")
            }
            Between::Proxies(peers) => Ends::Proxies { _cut: peers.cut(member) },
            Between::Network(network) => Ends::Network { _pulled: network.pull(member) },
        };
        CutOff { _ends: ends }
    }

    /// Whether no member is cut off from the others. One that is cannot be started: it would wait
    /// for them.
    pub fn is_whole(&self) -> bool {
        match &self.between {
            Between::Nothing => true,
            Between::Proxies(peers) => peers.are_whole(),
            Between::Network(network) => network.is_whole(),
        }
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

    /// A member that the cluster does not have yet. The cluster is to be told of its
    /// [peer URL](Newcomer::peer) before it [joins](Self::join).
    ///
    /// # Panics
    ///
    /// When there is no free port.
    pub fn newcomer(&self) -> Newcomer {
        let numbers = self
            .servers
            .iter()
            .filter_map(|server| server.config().name.strip_prefix('n')?.parse::<usize>().ok());
        let name = format!("n{}", numbers.max().map_or(0, |last| last + 1));
        let port = free_ports(1).unwrap_or_else(|why| panic!("{why}")).remove(0);
        Newcomer { name, peer: format!("http://127.0.0.1:{port}") }
    }

    /// Starts a newcomer, of which the cluster was told. It is the last of the servers.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn join(&mut self, newcomer: Newcomer) {
        let one = self.servers.first().expect("a cluster has servers");
        let members = self.servers.iter().map(|server| (&server.config().name, &server.config().advertised));
        let members =
            members.chain([(&newcomer.name, &newcomer.peer)]).map(|(name, peer)| format!("{name}={peer}"));
        let mut config = Config {
            name: newcomer.name.clone(),
            peer: newcomer.peer.clone(),
            advertised: newcomer.peer.clone(),
            cluster: members.collect::<Vec<_>>().join(","),
            client: format!(
                "http://127.0.0.1:{}",
                free_ports(1).unwrap_or_else(|why| panic!("{why}")).remove(0)
            ),
            ..one.config().clone()
        };
        config.flags.extend(["--initial-cluster-state".to_owned(), "existing".to_owned()]);
        self.servers.push(Server::new(one.binary(), config).unwrap_or_else(|why| panic!("{why}")));
    }

    /// Ends a server, of which the cluster was told that it is no member any more, and removes its
    /// data.
    ///
    /// # Panics
    ///
    /// When there is no such server.
    pub fn leave(&mut self, member: usize) {
        drop(self.servers.remove(member));
    }

    /// Kills all servers and starts them again on their data. Members that were cut off are so no
    /// more.
    ///
    /// # Panics
    ///
    /// When one does not start.
    pub fn restart(&mut self) {
        self.servers.iter_mut().for_each(Server::kill);
        match &self.between {
            Between::Nothing => {}
            Between::Proxies(peers) => peers.heal(),
            Between::Network(network) => network.heal(),
        }
        self.restart_killed();
    }

    /// Starts the servers that were killed again on their data, all at once, for they may need each
    /// other.
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

/// Where a member of a cluster is.
struct Place {
    listen: String,
    advertised: String,
    client: String,
    namespace: Option<PathBuf>,
    pid: Arc<AtomicU32>,
}

/// A token that no other cluster of the tests has, and the flags: etcd makes a cluster's identity
/// of that and of its members' addresses, which may be the same.
fn with_token(flags: &[&str]) -> Vec<String> {
    static CLUSTERS: AtomicU32 = AtomicU32::new(0);
    let token = format!("{}-{}", std::process::id(), CLUSTERS.fetch_add(1, Ordering::Relaxed));
    let own = ["--initial-cluster-token".to_owned(), token];
    own.into_iter().chain(flags.iter().map(|flag| (*flag).to_owned())).collect()
}

/// Starts the members of one cluster, and waits until all of them serve.
fn start_at(binary: &Binary, flags: &[&str], places: Vec<Place>) -> Result<Vec<Server>, String> {
    let flags = with_token(flags);
    let members = places.iter().enumerate().map(|(n, place)| format!("n{n}=http://{}", place.advertised));
    let cluster = members.collect::<Vec<_>>().join(",");
    let mut servers = Vec::new();
    let mut starting = Vec::new();
    for (n, place) in places.into_iter().enumerate() {
        let config = Config {
            name: format!("n{n}"),
            peer: format!("http://{}", place.listen),
            advertised: format!("http://{}", place.advertised),
            cluster: cluster.clone(),
            client: format!("http://{}", place.client),
            durable: false,
            flags: flags.clone(),
            namespace: place.namespace,
        };
        let (server, started) = Server::starting(binary, config, place.pid)?;
        servers.push(server);
        starting.push(started);
    }
    for (server, started) in servers.iter_mut().zip(starting) {
        started.wait(server)?;
    }
    Ok(servers)
}
