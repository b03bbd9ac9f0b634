//! How a connection is made. It is made, and lives, in the client's home, whoever asks first.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use coord_recipes::Home;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use crate::error::NotConnected;
use crate::resolver::EtcdResolver;
use crate::target::Target;
use crate::tls::Encryption;

/// What connections of one client have in common.
#[derive(Clone, Debug)]
pub(crate) struct Dialing {
    pub(crate) home: Home,
    pub(crate) resolver: EtcdResolver,
    pub(crate) encryption: Option<Arc<Encryption>>,
    pub(crate) connect_timeout: Duration,
    pub(crate) keepalive_interval: Duration,
    pub(crate) keepalive_timeout: Duration,
}

impl Dialing {
    /// A channel of a single connection, which is made when it is first needed. No I/O.
    pub(crate) fn channel(&self, target: &Target) -> Result<Channel, http::Error> {
        let endpoint = Endpoint::from(target.uri()?)
            .executor(Executor(self.home.clone()))
            .http2_keep_alive_interval(self.keepalive_interval)
            .keep_alive_timeout(self.keepalive_timeout)
            // etcd takes pings without anything under way for an attack.
            .keep_alive_while_idle(false);
        let dialer = Dialer { dialing: self.clone(), target: target.clone(), connected: Arc::default() };
        Ok(Channel::new(dialer, endpoint))
    }

    /// The addresses behind a target, each with its port.
    pub(crate) async fn addresses(&self, target: &Target) -> io::Result<Vec<SocketAddr>> {
        let addresses = match target.known_address() {
            Some(address) => vec![address],
            None => self.resolver.resolve(&target.host).await?,
        };
        Ok(addresses.into_iter().map(|address| SocketAddr::new(address, target.port)).collect())
    }

    /// Makes a connection, within the time for that. To be called in the home.
    pub(crate) async fn connect(&self, target: &Target) -> io::Result<Stream> {
        let deadline = Instant::now() + self.connect_timeout;
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it was not made in time");
        let addresses = timeout_at(deadline, self.addresses(target)).await.map_err(late)??;
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for (tried, address) in addresses.iter().enumerate() {
            // What is left is shared by those that are left.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            match timeout_at(Instant::now() + share, self.connect_at(target, *address))
                .await
                .map_err(late)
                .and_then(|made| made)
            {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn connect_at(&self, target: &Target, address: SocketAddr) -> io::Result<Stream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let Some(encryption) = self.encryption.as_ref().filter(|_| target.encrypted) else {
            return Ok(Either::Left(stream));
        };
        let name = encryption.server_name(&target.host).map_err(io::Error::other)?;
        let config = encryption.config(&self.home).await;
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the server does not speak HTTP/2"));
        }
        Ok(Either::Right(Box::new(stream)))
    }
}

pub(crate) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Makes the connection of one channel, once. Who answers at the next one may be somebody else: so
/// another connection is another link, of whose other end nothing is known yet.
struct Dialer {
    dialing: Dialing,
    target: Target,
    /// Whether the connection was made.
    connected: Arc<AtomicBool>,
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<Stream>;
    type Error = NotConnected;
    type Future = BoxFuture<'static, Result<TokioIo<Stream>, NotConnected>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NotConnected>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (dialing, target, connected) =
            (self.dialing.clone(), self.target.clone(), Arc::clone(&self.connected));
        async move {
            if connected.load(Ordering::Acquire) {
                return Err(NotConnected::Over);
            }
            let stream = dialing.connect(&target).await.map_err(NotConnected::Failed)?;
            connected.store(true, Ordering::Release);
            Ok(TokioIo::new(stream))
        }
        .boxed()
    }
}

/// Runs what drives a channel in the home.
#[derive(Clone)]
struct Executor(Home);

impl hyper::rt::Executor<Pin<Box<dyn Future<Output = ()> + Send>>> for Executor {
    fn execute(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        // Without a home the task is dropped, and whoever needs the channel is told that it is
        // closed.
        drop(self.0.spawn(task));
    }
}
