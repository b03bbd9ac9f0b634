//! The way between a client and a server, which can be cut, swallow everything, or be reset.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It arrives.
    Open,
    /// It is taken and never arrives, in neither direction; connections stay open.
    Swallows,
}

/// A proxy before one server, on a port of its own. It ends with the runtime of its test.
#[derive(Clone)]
pub(crate) struct Proxy {
    endpoint: String,
    way: Arc<watch::Sender<Way>>,
    /// Each change resets all connections.
    resets: Arc<watch::Sender<u64>>,
}

impl Proxy {
    pub(crate) async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let proxy = Proxy { endpoint, way: Arc::new(watch::channel(Way::Open).0), resets: Arc::new(watch::channel(0).0) };
        let (server, accepting) = (server.to_owned(), proxy.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, proxy) = (server.clone(), accepting.clone());
                tokio::spawn(async move { proxy.serve(client, &server).await });
            }
        });
        proxy
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// Ends all connections at once.
    pub(crate) fn reset(&self) {
        self.resets.send_modify(|resets| *resets += 1);
    }

    async fn serve(&self, client: TcpStream, server: &str) {
        let mut resets = self.resets.subscribe();
        // What is closed with data unread, or with no time to linger, is reset.
        let _ = client.set_zero_linger();
        let Ok(server) = TcpStream::connect(server).await else { return };
        let _ = server.set_zero_linger();
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::select! {
            () = self.pass(from_client, to_server) => {}
            () = self.pass(from_server, to_client) => {}
            _ = resets.changed() => {}
        }
    }

    async fn pass(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match from.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) if *self.way.borrow() == Way::Swallows => {}
                Ok(read) => {
                    if to.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
