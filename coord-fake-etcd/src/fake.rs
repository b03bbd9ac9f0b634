//! The server as a whole: a thread with a small runtime of its own.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread;

use tokio::sync::{oneshot, watch};

use crate::faults::Faults;
use crate::link::Links;
use crate::options::FakeEtcdOptions;
use crate::server::{Shared, serve};

/// A server that speaks etcd's gRPC API, in this process. It ends when this is dropped, and all
/// that it held with it.
///
/// It runs on a thread of its own, so that it goes on while the caller's runtime stands still, is
/// under a paused clock, or is not there at all.
#[derive(Debug)]
pub struct FakeEtcd {
    address: SocketAddr,
    faults: Faults,
    /// Dropped to end the server.
    stop: Option<oneshot::Sender<()>>,
    /// Ends with the server.
    ended: watch::Receiver<()>,
}

impl FakeEtcd {
    /// Starts a server, and returns as soon as it answers. That takes a few milliseconds, which
    /// the calling thread waits.
    ///
    /// # Errors
    ///
    /// Where it cannot listen (the port is somebody else's, or the address is not this machine's),
    /// or no thread can be had.
    pub fn start(options: FakeEtcdOptions) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(options.listen).map_err(|error| {
            let text = format!(
                "cannot listen on {}: {error}; use an address of this machine and a port that is free, or port 0",
                options.listen
            );
            io::Error::new(error.kind(), text)
        })?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let url = options.advertise.clone().unwrap_or_else(|| format!("http://{address}"));
        let shared = Arc::new(Shared::new(options, url));
        let links = Links::new();
        let faults = Faults { shared, links };

        let (stop, stopped) = oneshot::channel();
        let (alive, ended) = watch::channel(());
        let (tell, told) = mpsc::channel();
        let running = faults.clone();
        thread::Builder::new().name("fake-etcd".to_owned()).spawn(move || {
            // Dropped as the thread ends, however it does.
            let _alive = alive;
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(tell.send(Err(error))),
            };
            runtime.block_on(async {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => {
                        let _ = tell.send(Ok(()));
                        tokio::select! {
                            () = run(running, listener) => {}
                            // Also where the sender was dropped.
                            _ = stopped => {}
                        }
                    }
                    Err(error) => drop(tell.send(Err(error))),
                }
            });
        })?;
        told.recv().unwrap_or_else(|_| Err(io::Error::other("the fake etcd ended as it started")))?;
        Ok(FakeEtcd { address, faults, stop: Some(stop), ended })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as clients of etcd are told: `host:port`.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Where it listens, as coord is told: `etcd://host:port`.
    pub fn url(&self) -> String {
        format!("etcd://{}", self.address)
    }

    /// What can be done to it, for whoever does it.
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// Waits until it has ended, whyever: also where its thread ended by accident.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop, and to call again.
    pub async fn closed(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// Ends it, and waits until it is gone: its connections are closed, and its port is free.
    ///
    /// # Cancel safety
    ///
    /// When this is dropped the server ends nevertheless.
    pub async fn shutdown(mut self) {
        self.stop.take();
        self.closed().await;
    }
}

/// Serves until it is dropped.
async fn run(faults: Faults, listener: tokio::net::TcpListener) {
    let Faults { shared, links } = faults;
    let serving = async {
        if let Err(error) = serve(Arc::clone(&shared), links.accept(listener)).await {
            tracing::error!(%error, "the fake etcd cannot go on");
        }
    };
    tokio::select! {
        () = serving => {}
        () = shared.expire() => {}
        () = end_pauses(&links) => {}
    }
}

/// Ends pauses as their time is over.
async fn end_pauses(links: &Links) {
    let mut disturbance = links.disturbance();
    loop {
        let until = disturbance.borrow_and_update().paused;
        let over = async {
            match until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = over => links.change(|now| {
                // It may have been replaced meanwhile.
                if now.paused == until {
                    now.paused = None;
                }
            }),
            changed = disturbance.changed() => if changed.is_err() {
                return;
            },
        }
    }
}
