//! One HTTP/2 connection to one endpoint.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coord_api::{Error, ErrorKind, Result};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use crate::endpoint::Endpoint;
use crate::options::ChannelOptions;
use crate::wire::{Line, Wire};

const OPERATION: &str = "grpc.connect";
const USER_AGENT: &str = concat!("coord-grpc/", env!("CARGO_PKG_VERSION"));

/// Whether a connection may take calls like any other.
mod trust {
    /// Yes.
    pub(super) const FULL: u8 = 0;
    /// It follows one that went silent: one call may try it.
    pub(super) const ON_TRIAL: u8 = 1;
    /// That call is under way.
    pub(super) const TRIED: u8 = 2;
}

/// A connection over which the server has spoken.
///
/// It lives as long as someone holds it: the pool, while the endpoint is in use, and every call that is under way. With the last of them the socket closes; that
/// is how an endpoint that was removed is drained.
pub(crate) struct Connection {
    /// Gone once HTTP/2 has ended. Whoever sends at that very moment may leave requests in hyper's queue that nobody takes out any more, not even to say so, until the
    /// last sender is dropped: while one thread has a place in the queue and has not filled it, what others put behind it is not seen.
    sender: Arc<RwLock<Option<SendRequest<Body>>>>,
    line: Line,
    /// HTTP/2 on this connection has ended, for whatever reason.
    ended: CancellationToken,
    /// Calls go unanswered here.
    pub(crate) suspect: CancellationToken,
    tasks: Tasks,
    scheme: Scheme,
    authority: Authority,
    trust: AtomicU8,
    born: Instant,
    /// When the first call after the last answer was sent, in microseconds since birth, plus one; zero when there was none.
    unanswered_since: AtomicU64,
    answered: AtomicU64,
}

impl Connection {
    /// Connects: name, TCP, TLS, HTTP/2, and the server's first frame.
    ///
    /// # Errors
    ///
    /// `Timeout` after the connect timeout, else `Unavailable`; the cause says why.
    pub(crate) async fn open(endpoint: &Endpoint, options: &ChannelOptions, on_trial: bool) -> Result<Self> {
        let opening = async {
            let tcp = TcpStream::connect((endpoint.host(), endpoint.port())).await.map_err(|error| unavailable("not connected", error))?;
            tcp.set_nodelay(true).map_err(|error| unavailable("not connected", error))?;
            #[cfg(feature = "tls")]
            if let Some(tls) = options.tls() {
                let stream = tls.connect(endpoint.host(), tcp).await.map_err(|error| unavailable("no TLS", error))?;
                return Connection::over(stream, Scheme::HTTPS, endpoint, options, on_trial).await;
            }
            Connection::over(tcp, Scheme::HTTP, endpoint, options, on_trial).await
        };
        match timeout(options.connect_timeout, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Error::new(ErrorKind::Timeout, OPERATION, format!("no connection within {:?}", options.connect_timeout))),
        }
    }

    async fn over<S>(stream: S, scheme: Scheme, endpoint: &Endpoint, options: &ChannelOptions, on_trial: bool) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let authority = endpoint
            .to_string()
            .parse::<Authority>()
            .map_err(|_| Error::invalid_argument(OPERATION, "an endpoint that cannot be the authority of a request"))?;
        let line = Line::default();
        let tasks = Tasks::default();
        let (sender, driver) = http2::Builder::new(tasks.clone())
            .timer(TokioTimer::new())
            .keep_alive_interval(options.keep_alive.interval)
            .keep_alive_timeout(options.keep_alive.timeout)
            .keep_alive_while_idle(options.keep_alive.while_idle)
            .handshake(TokioIo::new(Wire::new(stream, line.clone())))
            .await
            .map_err(|error| unavailable("no HTTP/2", error))?;
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let sender = Arc::new(RwLock::new(Some(sender)));
        let own_sender = Arc::downgrade(&sender);
        // Ends with the last sender, which this connection owns, or with the socket.
        tokio::spawn(async move {
            let _guard = guard;
            if let Err(error) = driver.await {
                tracing::debug!(%error, "connection failed");
            }
            if let Some(sender) = own_sender.upgrade() {
                drop(sender.write().take());
            }
        });
        let connection = Connection {
            sender,
            line,
            ended,
            suspect: CancellationToken::new(),
            tasks,
            scheme,
            authority,
            trust: AtomicU8::new(if on_trial { trust::ON_TRIAL } else { trust::FULL }),
            born: Instant::now(),
            unanswered_since: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        };
        tokio::select! {
            biased;
            () = connection.line.up.cancelled() => Ok(connection),
            () = connection.ended.cancelled() => Err(connection.why()),
        }
    }

    /// Waits until it is over.
    pub(crate) async fn over_and_why(&self) -> Error {
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

    /// Whether the next call may go here. On a connection that is on trial, it then is the one that tries it.
    pub(crate) fn admits(&self) -> bool {
        match self.trust.load(Ordering::Relaxed) {
            trust::FULL => true,
            trust::ON_TRIAL => self.trust.compare_exchange(trust::ON_TRIAL, trust::TRIED, Ordering::Relaxed, Ordering::Relaxed).is_ok(),
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
        u64::try_from(self.born.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn asked(&self) {
        if self.unanswered_since.load(Ordering::Relaxed) == 0 {
            let _ = self.unanswered_since.compare_exchange(0, self.now(), Ordering::Relaxed, Ordering::Relaxed);
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
        let _ = self.trust.compare_exchange(trust::TRIED, trust::ON_TRIAL, Ordering::Relaxed, Ordering::Relaxed);
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
        request.headers_mut().entry(header::USER_AGENT).or_insert(const { HeaderValue::from_static(USER_AGENT) });
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Nobody calls here any more. Asking HTTP/2 to say goodbye could take for ever where the peer does not read.
        self.tasks.abort();
    }
}

/// The endpoint's address.
impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.authority.fmt(f)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("authority", &self.authority).field("open", &self.is_open()).finish_non_exhaustive()
    }
}

fn unavailable(what: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unavailable, OPERATION, format!("{what}: {}", root(&error))).with_source(error)
}

/// The innermost cause, which is what people want to read.
pub(crate) fn root(error: &dyn std::error::Error) -> &dyn std::error::Error {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// Runs what hyper wants to run. The first is the connection itself, and is remembered so that it can be ended; the others end with it.
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
