//! What can be done to a cluster of three and to the ways to it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use coord_testkit::Network;
use coord_testkit::wrap::Link;

use coord_servers::etcd::{Cluster, CutOff, Proxy, Signal, Way};

/// The faults of servers with proxies between them, by the names that histories call them by.
pub const WITH_PEER_LINKS: &[&str] = &[
    LEADER_KILLED,
    FOLLOWER_KILLED,
    LEADER_STANDS,
    FOLLOWER_STANDS,
    MAJORITY_KILLED,
    LEADER_CUT_OFF,
    FOLLOWER_CUT_OFF,
];
/// The faults of servers on hosts of their own.
pub const ON_HOSTS: &[&str] = &[
    LEADER_KILLED,
    FOLLOWER_KILLED,
    LEADER_STANDS,
    FOLLOWER_STANDS,
    MAJORITY_KILLED,
    LEADER_UNPLUGGED,
    FOLLOWER_UNPLUGGED,
];
const LEADER_KILLED: &str = "leader killed";
const FOLLOWER_KILLED: &str = "follower killed";
const LEADER_STANDS: &str = "leader stands still";
const FOLLOWER_STANDS: &str = "follower stands still";
const MAJORITY_KILLED: &str = "majority killed";
const LEADER_CUT_OFF: &str = "leader cut off from its peers";
const FOLLOWER_CUT_OFF: &str = "follower cut off from its peers";
const LEADER_UNPLUGGED: &str = "leader unplugged";
const FOLLOWER_UNPLUGGED: &str = "follower unplugged";

/// What is done to a server.
#[derive(Clone, Copy)]
enum Blow {
    Signal(Signal),
    CutOff,
}

/// The ways of one client to all servers.
#[derive(Clone)]
pub struct Ways(pub Vec<Proxy>);

impl Ways {
    /// A proxy before each server.
    ///
    /// # Panics
    ///
    /// When there is no free port.
    pub async fn to(endpoints: &[String]) -> Self {
        let mut proxies = Vec::new();
        for endpoint in endpoints {
            proxies.push(Proxy::start(endpoint).await.expect("there is a free port"));
        }
        Ways(proxies)
    }

    /// The addresses of the proxies.
    pub fn endpoints(&self) -> Vec<String> {
        self.0.iter().map(|proxy| proxy.endpoint().to_owned()).collect()
    }
}

#[async_trait::async_trait]
impl Network for Ways {
    async fn set(&self, link: Link) {
        let way = match link {
            Link::Up => Way::Open,
            Link::Down => Way::Closed,
            Link::Hung => Way::Stands,
        };
        self.0.iter().for_each(|proxy| proxy.set(way));
    }
}

/// A fault of servers under way. It ends, in the background, when this is dropped.
pub struct ServerFault {
    cluster: Arc<Mutex<Cluster>>,
    victims: Vec<usize>,
    /// Where it is a cut.
    cut: Option<CutOff>,
}

impl ServerFault {
    /// Makes a fault by its name; `None` where there is no leader to choose the victim by.
    pub async fn make(cluster: &Arc<Mutex<Cluster>>, name: &'static str) -> Option<Self> {
        let endpoints = lock(cluster).endpoints();
        let leader = leader(&endpoints).await?;
        let follower = (leader + 1) % endpoints.len();
        let (victims, blow) = match name {
            LEADER_KILLED => (vec![leader], Blow::Signal(Signal::Kill)),
            FOLLOWER_KILLED => (vec![follower], Blow::Signal(Signal::Kill)),
            LEADER_STANDS => (vec![leader], Blow::Signal(Signal::Stop)),
            FOLLOWER_STANDS => (vec![follower], Blow::Signal(Signal::Stop)),
            MAJORITY_KILLED => (vec![leader, follower], Blow::Signal(Signal::Kill)),
            LEADER_CUT_OFF | LEADER_UNPLUGGED => (vec![leader], Blow::CutOff),
            FOLLOWER_CUT_OFF | FOLLOWER_UNPLUGGED => (vec![follower], Blow::CutOff),
            _ => return None,
        };
        let mut fault = ServerFault { cluster: Arc::clone(cluster), victims, cut: None };
        for victim in &fault.victims {
            let mut cluster = lock(cluster);
            let server = cluster.servers_mut().get_mut(*victim)?;
            match blow {
                Blow::Signal(Signal::Kill) => server.kill(),
                Blow::Signal(signal) if server.is_running() => server.signal(signal),
                Blow::Signal(_) => {}
                Blow::CutOff => fault.cut = Some(cluster.cut_off(*victim)),
            }
        }
        Some(fault)
    }
}

impl Drop for ServerFault {
    fn drop(&mut self) {
        if self.cut.is_some() {
            // It ends by itself, and without the cluster's lock, which somebody may have who waits
            // for that.
            return;
        }
        let (cluster, victims) = (Arc::clone(&self.cluster), std::mem::take(&mut self.victims));
        // Starting a server takes its time, which whoever drops this may not have.
        thread::spawn(move || {
            for victim in &victims {
                let mut cluster = lock(&cluster);
                let Some(server) = cluster.servers_mut().get_mut(*victim) else { return };
                if server.is_running() {
                    server.signal(Signal::Continue);
                }
            }
            loop {
                let mut cluster = lock(&cluster);
                if cluster.is_whole() {
                    // Members of a killed majority need each other to start.
                    return cluster.restart_killed();
                }
                drop(cluster);
                thread::sleep(Duration::from_millis(20));
            }
        });
    }
}

/// Which server leads, once one does.
async fn leader(endpoints: &[String]) -> Option<usize> {
    for _ in 0..20 {
        for (index, endpoint) in endpoints.iter().enumerate() {
            let asked = tokio::time::timeout(Duration::from_millis(500), async {
                let mut client = etcd_client::Client::connect([endpoint], None).await.ok()?;
                let status = client.status().await.ok()?;
                (status.leader() != 0 && status.header()?.member_id() == status.leader()).then_some(index)
            });
            if let Ok(Some(index)) = asked.await {
                return Some(index);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    None
}

fn lock(cluster: &Mutex<Cluster>) -> MutexGuard<'_, Cluster> {
    cluster.lock().unwrap_or_else(PoisonError::into_inner)
}
