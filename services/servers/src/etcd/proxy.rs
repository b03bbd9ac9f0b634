//! The way between a client and a server, which can stand still, be closed, or be reset.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// It arrives.
    Open,
    /// It is taken and does not arrive, in neither direction, and connections stay open: a
    /// partition. What was taken arrives when the way is open again.
    Stands,
    /// Connections are reset, and so are new ones.
    Closed,
}

/// A proxy before one server, on a port of its own. It ends with its last clone, or with the
/// runtime that it was started on.
#[derive(Clone, Debug)]
pub struct Proxy {
    endpoint: String,
    ways: Ways,
    _accepting: Arc<Ends>,
}

#[derive(Clone, Debug)]
struct Ways {
    way: Arc<watch::Sender<Way>>,
    /// Each change resets all connections.
    resets: Arc<watch::Sender<u64>>,
    /// Connections that were cut.
    cut: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Ends(AbortHandle);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Proxy {
    /// Starts a proxy before `server`, `host:port`.
    ///
    /// # Errors
    ///
    /// When there is no port to listen on.
    pub async fn start(server: &str) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = listener.local_addr()?.to_string();
        let ways = Ways {
            way: Arc::new(watch::channel(Way::Open).0),
            resets: Arc::new(watch::channel(0).0),
            cut: Arc::default(),
        };
        let (server, accepting) = (server.to_owned(), ways.clone());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, ways) = (server.clone(), accepting.clone());
                tokio::spawn(async move { ways.serve(client, &server).await });
            }
        });
        Ok(Proxy { endpoint, ways, _accepting: Arc::new(Ends(task.abort_handle())) })
    }

    /// Where it listens: `127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Sets what becomes of what is sent from now on.
    pub fn set(&self, way: Way) {
        self.ways.way.send_replace(way);
        if way == Way::Closed {
            self.reset();
        }
    }

    /// Resets all connections.
    pub fn reset(&self) {
        self.ways.resets.send_modify(|resets| *resets += 1);
    }

    /// How many connections were reset while they were open.
    pub fn cut(&self) -> u64 {
        self.ways.cut.load(Ordering::Relaxed)
    }
}

impl Ways {
    async fn serve(&self, client: TcpStream, server: &str) {
        let mut resets = self.resets.subscribe();
        // What is closed with no time to linger is reset.
        let _ = client.set_zero_linger();
        if *self.way.borrow() == Way::Closed {
            return;
        }
        let Ok(server) = TcpStream::connect(server).await else { return };
        let _ = server.set_zero_linger();
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::select! {
            () = self.pass(from_client, to_server) => {}
            () = self.pass(from_server, to_client) => {}
            _ = resets.changed() => drop(self.cut.fetch_add(1, Ordering::Relaxed)),
        }
    }

    async fn pass(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut way = self.way.subscribe();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = match from.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => read,
            };
            if way.wait_for(|way| *way == Way::Open).await.is_err() {
                return;
            }
            let Some(taken) = buffer.get(..read) else { return };
            if to.write_all(taken).await.is_err() {
                return;
            }
        }
    }
}
