//! One HTTP/2 connection to one endpoint.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use coord_api::{Error, ErrorKind, Result};
use coord_home::Home;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::body::Body;

use crate::endpoint::Endpoint;
use crate::error::root;
use crate::files::{FileGuard, OpenFiles};
use crate::options::ChannelOptions;
use crate::wire::{Wire, WireState};

const OPERATION: &str = "grpc.connect";
const USER_AGENT: &str = concat!("coord-grpc/", env!("CARGO_PKG_VERSION"));

/// How long HTTP/2 may take to read what the server said last, once the socket has dropped.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Whether a connection may take calls like any other.
mod trust {
    /// Yes.
    pub(super) const FULL: u8 = 0;
    /// It follows one that went silent: one call may try it.
    pub(super) const ON_TRIAL: u8 = 1;
    /// That call is under way.
    pub(super) const TRIED: u8 = 2;
}

/// How an endpoint is connected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner<'a> {
    pub(crate) options: &'a ChannelOptions,
    pub(crate) home: &'a Home,
    pub(crate) files: &'a OpenFiles,
    /// Whether the connection has to prove itself by a call.
    pub(crate) on_trial: bool,
    /// How long it may be silent before it is asked for a sign of life.
    pub(crate) ping_after: Duration,
}

/// A connection over which the server has spoken.
///
/// It lives as long as someone holds it: the pool, while the endpoint is in use, and every call
/// that is under way. With the last of them the socket closes; that is how an endpoint that was
/// removed is drained.
pub(crate) struct EndpointConnection {
    /// Where it lives. It is driven there for as long as a call of it is under way, also when the
    /// channel is gone.
    home: Home,
    address: SocketAddr,
    /// Gone once HTTP/2 has ended. Whoever sends at that very moment may leave requests in hyper's
    /// queue that nobody takes out any more, not even to say so, until the last sender is dropped:
    /// while one thread has a place in the queue and has not filled it, what others put behind it
    /// is not seen.
    sender: Arc<RwLock<Option<SendRequest<Body>>>>,
    line: WireState,
    /// HTTP/2 on this connection has ended, for whatever reason.
    ended: CancellationToken,
    /// The server has said goodbye because it was asked for too much, such as signs of life.
    overdone: Arc<AtomicBool>,
    /// Calls go unanswered here.
    pub(crate) suspect: CancellationToken,
    tasks: Tasks,
    scheme: Scheme,
    authority: Authority,
    trust: AtomicU8,
    born: Instant,
    /// When the first call after the last answer was sent, in microseconds since birth, plus one;
    /// zero when there was none.
    unanswered_since: AtomicU64,
    answered: AtomicU64,
}

impl EndpointConnection {
    /// Connects to one address of an endpoint: TCP, TLS, HTTP/2, and the server's first frame.
    /// Takes as long as it takes.
    ///
    /// # Errors
    ///
    /// `Unavailable`; the cause says why.
    pub(crate) async fn open(address: SocketAddr, endpoint: &Endpoint, manner: Manner<'_>) -> Result<Self> {
        let file = manner.files.take();
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(|error| unavailable("not connected", error))?;
        manner
            .files
            .leave_room(&socket)
            .map_err(|error| unavailable("not connected, to leave files for others", error))?;
        let tcp = socket.connect(address).await.map_err(|error| unavailable("not connected", error))?;
        tcp.set_nodelay(true).map_err(|error| unavailable("not connected", error))?;
        watch_over(&tcp);
        #[cfg(feature = "tls")]
        if let Some(tls) = manner.options.tls() {
            let stream =
                tls.connect(endpoint.host(), tcp).await.map_err(|error| unavailable("no TLS", error))?;
            return EndpointConnection::over((stream, file), Scheme::HTTPS, address, endpoint, manner).await;
        }
        EndpointConnection::over((tcp, file), Scheme::HTTP, address, endpoint, manner).await
    }

    async fn over<S>(
        (stream, file): (S, FileGuard),
        scheme: Scheme,
        address: SocketAddr,
        endpoint: &Endpoint,
        manner: Manner<'_>,
    ) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let authority = endpoint.to_string().parse::<Authority>().map_err(|_| {
            Error::invalid_argument(OPERATION, "an endpoint that cannot be the authority of a request")
        })?;
        let line = WireState::default();
        let tasks = Tasks::default();
        let keep_alive = manner.options.keep_alive;
        let (sender, driver) = http2::Builder::new(tasks.clone())
            .timer(TokioTimer::new())
            .keep_alive_interval(manner.ping_after)
            .keep_alive_timeout(keep_alive.timeout)
            .keep_alive_while_idle(keep_alive.while_idle)
            .handshake(TokioIo::new(Wire::new(stream, line.clone(), file)))
            .await
            .map_err(|error| unavailable("no HTTP/2", error))?;
        let ended = CancellationToken::new();
        let sender = Arc::new(RwLock::new(Some(sender)));
        let overdone = Arc::new(AtomicBool::new(false));
        let end = ConnectionEnd { sender: Arc::downgrade(&sender), _ended: ended.clone().drop_guard() };
        let complaint = Arc::clone(&overdone);
        // Ends with the last sender, which this connection owns, or with the socket.
        tokio::spawn(async move {
            let _end = end;
            if let Err(error) = driver.await {
                complaint.store(was_too_much(&error), Ordering::Release);
                coord_home::event!(DEBUG, %error, "connection failed");
            }
        });
        let connection = EndpointConnection {
            home: manner.home.clone(),
            address,
            sender,
            line,
            ended,
            overdone,
            suspect: CancellationToken::new(),
            tasks,
            scheme,
            authority,
            trust: AtomicU8::new(if manner.on_trial { trust::ON_TRIAL } else { trust::FULL }),
            born: manner.home.now(),
            unanswered_since: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        };
        tokio::select! {
            biased;
            () = connection.line.up.cancelled() => Ok(connection),
            () = connection.ended.cancelled() => Err(connection.why()),
        }
    }

    /// Which of the endpoint's addresses it leads to.
    pub(crate) fn leads_to(&self) -> SocketAddr {
        self.address
    }

    /// Whether the server ended it because it was asked for too much. Known once HTTP/2 has ended,
    /// which follows the end of the socket.
    pub(crate) async fn was_overdone(&self) -> bool {
        let _ = tokio::time::timeout(LAST_WORDS, self.ended.cancelled()).await;
        self.overdone.load(Ordering::Acquire)
    }

    /// Waits until it is over.
    pub(crate) async fn until_ended(&self) -> Error {
        tokio::select! {
            () = self.line.down.cancelled() => {}
            () = self.ended.cancelled() => {}
        }
        self.why()
    }

    fn why(&self) -> Error {
        match self.line.why() {
            Some(error) => unavailable("connection lost", error),
            None => Error::new(
                ErrorKind::Unavailable,
                OPERATION,
                "connection ended: said goodbye, a ping went unanswered, or a broken protocol",
            ),
        }
    }

    /// Whether a request can still be sent.
    pub(crate) fn is_open(&self) -> bool {
        !self.line.is_down() && self.sender.read().as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Whether the next call may go here. On a connection that is on trial, it then is the one that
    /// tries it.
    pub(crate) fn admits(&self) -> bool {
        match self.trust.load(Ordering::Relaxed) {
            trust::FULL => true,
            trust::ON_TRIAL => self
                .trust
                .compare_exchange(trust::ON_TRIAL, trust::TRIED, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok(),
            _ => false,
        }
    }

    /// How many calls were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// How long calls have gone unanswered.
    pub(crate) fn silence(&self) -> Duration {
        match self.unanswered_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_micros(self.now().saturating_sub(since)),
        }
    }

    fn now(&self) -> u64 {
        let age = self.home.now().saturating_duration_since(self.born);
        u64::try_from(age.as_micros()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn asked(&self) {
        if self.unanswered_since.load(Ordering::Relaxed) == 0 {
            let _ =
                self.unanswered_since.compare_exchange(0, self.now(), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Notes that the server answered a call.
    pub(crate) fn note_answer(&self) {
        self.unanswered_since.store(0, Ordering::Relaxed);
        self.answered.fetch_add(1, Ordering::Relaxed);
        if self.trust.load(Ordering::Relaxed) != trust::FULL {
            self.trust.store(trust::FULL, Ordering::Relaxed);
        }
    }

    /// Notes that a call ended without an answer, and without proving anything: another may try.
    pub(crate) fn note_nothing(&self) {
        let _ =
            self.trust.compare_exchange(trust::TRIED, trust::ON_TRIAL, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// What sends one request, unless HTTP/2 has ended. Not to be kept.
    pub(crate) fn sender(&self) -> Option<SendRequest<Body>> {
        self.sender.read().clone()
    }

    /// Sends a request. What never left comes back with the error.
    pub(crate) fn send(
        &self,
        mut sender: SendRequest<Body>,
        mut request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Body>>>> + Send + use<> {
        self.address(&mut request);
        self.asked();
        sender.try_send_request(request)
    }

    fn address(&self, request: &mut Request<Body>) {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
        // All three parts are there, which is all that can be wrong with them.
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        request
            .headers_mut()
            .entry(header::USER_AGENT)
            .or_insert(const { HeaderValue::from_static(USER_AGENT) });
    }
}

impl Drop for EndpointConnection {
    fn drop(&mut self) {
        // Nobody calls here any more. Asking HTTP/2 to say goodbye could take for ever where the
        // peer does not read.
        self.tasks.abort();
    }
}

/// The endpoint's address.
impl fmt::Display for EndpointConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.authority.fmt(f)
    }
}

impl fmt::Debug for EndpointConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("authority", &self.authority)
            .field("open", &self.is_open())
            .finish_non_exhaustive()
    }
}

fn unavailable(what: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unavailable, OPERATION, format!("{what}: {}", root(&error))).with_source(error)
}

/// Has the kernel look whether a connection leads anywhere: after so long without a word, …
const PROBE_AFTER: Duration = Duration::from_secs(30);

/// … then so often, …
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// … until nothing was heard of the other side for so long, or what was sent was not confirmed for
/// so long.
const GIVE_UP: Duration = Duration::from_secs(60);

/// Asks the kernel to find a host that is gone. Servers do not see its probes, so that they cannot
/// be too many for them; but a process that is paused is not found so.
fn watch_over(tcp: &TcpStream) {
    let socket = socket2::SockRef::from(tcp);
    // Where the system cannot do it, HTTP/2 finds out later.
    let _ = socket.set_tcp_keepalive(
        &socket2::TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_INTERVAL),
    );
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket.set_tcp_user_timeout(Some(GIVE_UP));
}

/// Whether the server has said goodbye because of too much of something: with `too_many_pings` gRPC
/// servers end connections that ask for signs of life too often.
fn was_too_much(error: &hyper::Error) -> bool {
    let h2 = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    h2.is_some_and(|h2| {
        h2.is_remote() && h2.is_go_away() && h2.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
    })
}

/// What follows the end of HTTP/2 on a connection, however it comes: also when the runtime that it
/// lived in has ended.
struct ConnectionEnd {
    sender: Weak<RwLock<Option<SendRequest<Body>>>>,
    _ended: DropGuard,
}

impl Drop for ConnectionEnd {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.upgrade() {
            drop(sender.write().take());
        }
    }
}

/// Runs what hyper wants to run. The first is the connection itself, and is remembered so that it
/// can be ended; the others end with it.
#[derive(Clone, Debug, Default)]
struct Tasks(Arc<OnceLock<AbortHandle>>);

impl Tasks {
    fn abort(&self) {
        if let Some(connection) = self.0.get() {
            connection.abort();
        }
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let task = tokio::spawn(future);
        if self.0.get().is_none() {
            let _ = self.0.set(task.abort_handle());
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_watches_over_a_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        watch_over(&tcp);
        let socket = socket2::SockRef::from(&tcp);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), PROBE_AFTER);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), PROBE_INTERVAL);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(GIVE_UP));
    }
}
