//! The connections of the clients, which can stand still, be reset, or be refused.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_core::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::transport::server::Connected;

/// How long to wait where there is no room for a further connection.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// What is done to the connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disturbance {
    /// Until when nothing is read nor written.
    pub(crate) paused: Option<Instant>,
    /// Whether new connections are reset.
    pub(crate) refusing: bool,
    /// Each change of it resets all connections.
    pub(crate) resets: u64,
}

/// All connections of a server.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    disturbance: Arc<watch::Sender<Disturbance>>,
    open: Arc<AtomicUsize>,
}

impl Links {
    pub(crate) fn new() -> Self {
        Links { disturbance: Arc::new(watch::channel(Disturbance::default()).0), open: Arc::default() }
    }

    /// How many there are.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn change(&self, edit: impl FnOnce(&mut Disturbance)) {
        self.disturbance.send_modify(edit);
    }

    pub(crate) fn disturbance(&self) -> watch::Receiver<Disturbance> {
        self.disturbance.subscribe()
    }

    /// The connections that clients make.
    pub(crate) fn accept(&self, listener: TcpListener) -> impl Stream<Item = io::Result<Link>> + use<> {
        futures_util::stream::unfold((listener, self.clone()), |(listener, links)| async move {
            let link = links.accept_one(&listener).await?;
            Some((Ok(link), (listener, links)))
        })
    }

    async fn accept_one(&self, listener: &TcpListener) -> Option<Link> {
        let mut disturbance = self.disturbance();
        loop {
            disturbance.wait_for(|now| now.paused.is_none()).await.ok()?;
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the fake etcd cannot take a connection");
                    tokio::time::sleep(FULL_PAUSE).await;
                    continue;
                }
            };
            let now = *disturbance.borrow_and_update();
            if now.refusing {
                reset(&stream);
                continue;
            }
            // A connection that is slow is better than none.
            let _ = stream.set_nodelay(true);
            self.open.fetch_add(1, Ordering::Relaxed);
            return Some(Link {
                stream,
                changes: WatchStream::new(disturbance),
                now,
                resets: now.resets,
                open: Arc::clone(&self.open),
            });
        }
    }
}

/// Has a connection end in a reset as soon as it is closed.
fn reset(stream: &TcpStream) {
    // One that is gone already needs none.
    let _ = stream.set_zero_linger();
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    changes: WatchStream<Disturbance>,
    now: Disturbance,
    /// How often all connections were reset before this one was made.
    resets: u64,
    open: Arc<AtomicUsize>,
}

impl Link {
    /// Whether anything may pass.
    fn poll_way(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Poll::Ready(change) = Pin::new(&mut self.changes).poll_next(cx) {
            let Some(change) = change else { return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())) };
            self.now = change;
        }
        if self.now.resets != self.resets {
            reset(&self.stream);
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.now.paused.is_some() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connected for Link {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_way(cx))?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_way(cx))?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_way(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_way(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_way(cx))?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
