//! The ways between the members of a cluster, which can be cut for one of them while its clients go
//! on reaching it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

/// How often it is looked who made a connection. A server that has just started is not known at
/// once.
const LOOKS: usize = 50;

/// The pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// The process ids of the members, 0 for one that does not run.
pub(crate) type Pids = Vec<Arc<AtomicU32>>;

/// The cuts under way, each with its member.
type Cuts = BTreeMap<u64, usize>;

/// A member is cut off from the others for as long as this lives.
#[derive(Debug)]
pub(crate) struct Cut {
    cuts: Arc<watch::Sender<Cuts>>,
    id: u64,
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.cuts.send_modify(|cuts| {
            cuts.remove(&self.id);
        });
    }
}

/// Proxies before the members' addresses for peers. All members see the same address of a peer, so
/// that who makes a connection is found out by whose socket it is: this needs Linux.
///
/// They run on a thread of their own: members need each other to start, which whoever starts them
/// waits for.
#[derive(Debug)]
pub(crate) struct Peers {
    addresses: Vec<String>,
    cuts: Arc<watch::Sender<Cuts>>,
    next: AtomicU64,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Peers {
    /// Starts a proxy before each of the `servers`, `host:port`, which are the processes `pids` in
    /// the same order.
    ///
    /// # Errors
    ///
    /// When there is no port or no thread.
    pub(crate) fn start(servers: Vec<String>, pids: Pids) -> Result<Self, String> {
        let no = |error: std::io::Error| format!("no way between the peers: {error}");
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for _ in &servers {
            let listener = TcpListener::bind("127.0.0.1:0").map_err(no)?;
            listener.set_nonblocking(true).map_err(no)?;
            addresses.push(listener.local_addr().map_err(no)?.to_string());
            listeners.push(listener);
        }
        let (cuts, seen) = watch::channel(Cuts::new());
        let (end, ended) = tokio::sync::oneshot::channel();
        let (tell, told) = mpsc::channel();
        let thread = thread::Builder::new().name("peers".to_owned()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(tell.send(Err(no(error)))),
            };
            runtime.block_on(async move {
                for (to, (listener, server)) in listeners.into_iter().zip(servers).enumerate() {
                    match tokio::net::TcpListener::from_std(listener) {
                        Ok(listener) => {
                            drop(tokio::spawn(accept(listener, server, to, pids.clone(), seen.clone())))
                        }
                        Err(error) => return drop(tell.send(Err(no(error)))),
                    }
                }
                let _ = tell.send(Ok(()));
                // Whatever it carries ends with its runtime.
                let _ = ended.await;
            });
        });
        let thread = thread.map_err(no)?;
        told.recv().map_err(|_| "the thread of the peers' ways is gone".to_owned())??;
        Ok(Peers {
            addresses,
            cuts: Arc::new(cuts),
            next: AtomicU64::new(0),
            end: Some(end),
            thread: Some(thread),
        })
    }

    /// What the members are to be called by: `127.0.0.1:PORT` each.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Cuts a member off from the others.
    pub(crate) fn cut(&self, member: usize) -> Cut {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.cuts.send_modify(|cuts| {
            cuts.insert(id, member);
        });
        Cut { cuts: Arc::clone(&self.cuts), id }
    }

    /// Whether nobody is cut off.
    pub(crate) fn are_whole(&self) -> bool {
        self.cuts.borrow().is_empty()
    }

    /// Ends all cuts before their time.
    pub(crate) fn heal(&self) {
        self.cuts.send_modify(Cuts::clear);
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(
    listener: tokio::net::TcpListener,
    server: String,
    to: usize,
    pids: Pids,
    cuts: watch::Receiver<Cuts>,
) {
    loop {
        let Ok((peer, from)) = listener.accept().await else { return };
        let (server, pids, cuts) = (server.clone(), pids.clone(), cuts.clone());
        tokio::spawn(async move {
            // A connection of nobody's is not carried: it would cross what is cut.
            let Some(from) = owner(from, &pids).await else { return };
            let Ok(server) = TcpStream::connect(&server).await else { return };
            let _ = (peer.set_nodelay(true), server.set_nodelay(true));
            let ((from_peer, to_peer), (from_server, to_server)) = (peer.into_split(), server.into_split());
            let ends = [from, to];
            tokio::select! {
                () = pass(from_peer, to_server, ends, cuts.clone()) => {}
                () = pass(from_server, to_peer, ends, cuts) => {}
            }
        });
    }
}

/// Carries what comes from one side to the other. While one of the ends is cut off, nothing arrives
/// and connections stay open, as in a partition.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    ends: [usize; 2],
    mut cuts: watch::Receiver<Cuts>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        if cuts.wait_for(|cuts| !cuts.values().any(|member| ends.contains(member))).await.is_err() {
            return;
        }
        let Some(taken) = buffer.get(..read) else { return };
        if to.write_all(taken).await.is_err() {
            return;
        }
    }
}

/// The member that has a connection from this address.
async fn owner(address: SocketAddr, pids: &Pids) -> Option<usize> {
    for _ in 0..LOOKS {
        if let Some(inode) = inode(address) {
            let socket = format!("socket:[{inode}]");
            let owner = pids.iter().position(|pid| {
                let pid = pid.load(Ordering::Relaxed);
                pid != 0 && has_open(pid, Path::new(&socket))
            });
            if owner.is_some() {
                return owner;
            }
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    None
}

/// The inode of the socket with this local address.
fn inode(address: SocketAddr) -> Option<u64> {
    let SocketAddr::V4(address) = address else { return None };
    // The address as the kernel prints it: its bytes as one number of this machine.
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    fs::read_to_string("/proc/net/tcp").ok()?.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        (fields.next() == Some(local.as_str()))
            .then(|| fields.nth(7)?.parse().ok())
            .flatten()
            .filter(|inode| *inode != 0)
    })
}

/// Whether a process has this open.
fn has_open(pid: u32, what: &Path) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.filter_map(Result::ok).any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == what))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test]
    async fn a_connection_is_known_by_whose_socket_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_accepted, from) = listener.accept().unwrap();
        let pids =
            |pids: [u32; 2]| pids.into_iter().map(|pid| Arc::new(AtomicU32::new(pid))).collect::<Pids>();
        assert_eq!(owner(from, &pids([0, std::process::id()])).await, Some(1));
        assert_eq!(owner(from, &pids([1, 0])).await, None, "another process has it not");
        drop(connection);
    }
}
