//! A real gRPC server on loopback, and calls to it. It serves the standard health service, and
//! takes the name of the checked service as an order.
#![allow(dead_code, reason = "no test needs all of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use coord_grpc::{CallOptions, Channel, ChannelOptions, Endpoint, Phase, Readiness, Resolver};
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::server::{Router, TcpIncoming};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// By when something that needs no waiting is done, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// How many messages are few.
const FEW: i32 = 50;

/// The metadata that says who answered.
pub(crate) const SERVED_BY: &str = "served-by";

/// The health service. Orders: `slow MILLISECONDS`, `hang`, `unavailable`, `internal`.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    name: String,
    calls: Arc<AtomicU64>,
    /// While it is set no call is answered, though HTTP/2 goes on.
    deaf: Arc<AtomicBool>,
}

impl Orders {
    pub(crate) fn new(name: &str) -> Self {
        Orders { name: name.to_owned(), calls: Arc::default(), deaf: Arc::default() }
    }

    fn answer(&self) -> Response<HealthCheckResponse> {
        let mut response = Response::new(HealthCheckResponse { status: 1 });
        response.metadata_mut().insert(SERVED_BY, self.name.parse().unwrap());
        response
    }
}

#[tonic::async_trait]
impl Health for Orders {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.deaf.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let order = request.into_inner().service;
        let refused = |code| {
            let mut status = Status::new(code, "as ordered");
            status.metadata_mut().insert(SERVED_BY, self.name.parse().unwrap());
            Err(status)
        };
        match order.split_once(' ').unwrap_or((&order, "")) {
            ("slow", millis) => sleep(Duration::from_millis(millis.parse().unwrap())).await,
            ("hang", _) => std::future::pending().await,
            ("unavailable", _) => return refused(Code::Unavailable),
            ("internal", _) => return refused(Code::Internal),
            _ => {}
        }
        Ok(self.answer())
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// One message every 10 ms, without end (`few`: then none any more); the status counts them.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let order = request.into_inner().service;
        if order == "hang" {
            std::future::pending::<()>().await;
        }
        let last = if order == "few" { FEW } else { i32::MAX };
        let stream = futures_util::stream::unfold(0, move |count| async move {
            sleep(Duration::from_millis(10)).await;
            if count == last {
                std::future::pending::<()>().await;
            }
            Some((Ok(HealthCheckResponse { status: count }), count + 1))
        });
        Ok(self.answer().map(|_| Box::pin(stream) as Self::WatchStream))
    }
}

/// A server in a runtime of its own, so that it can be killed with all its connections.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    orders: Orders,
    runtime: Option<Runtime>,
    goodbye: Arc<Notify>,
}

impl Server {
    /// A server on a free port.
    pub(crate) async fn start(name: &str) -> Self {
        Server::start_at(name, "127.0.0.1:0".parse().unwrap()).await
    }

    /// A server at an address, which may have been that of another before.
    pub(crate) async fn start_at(name: &str, address: SocketAddr) -> Self {
        Server::start_with(name, address, tonic::transport::Server::builder()).await
    }

    pub(crate) async fn start_with(
        name: &str,
        address: SocketAddr,
        mut builder: tonic::transport::Server,
    ) -> Self {
        let orders = Orders::new(name);
        let router = builder.add_service(HealthServer::new(orders.clone()));
        Server::serve(router, address, orders).await
    }

    /// A server with other services only.
    pub(crate) async fn start_beside(name: &str, address: SocketAddr, router: Router) -> Self {
        Server::serve(router, address, Orders::new(name)).await
    }

    /// A server with other services as well.
    pub(crate) async fn start_beside_health(name: &str, router: Router) -> Self {
        let orders = Orders::new(name);
        let router = router.add_service(HealthServer::new(orders.clone()));
        Server::serve(router, "127.0.0.1:0".parse().unwrap(), orders).await
    }

    async fn serve(router: Router, address: SocketAddr, orders: Orders) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let goodbye = Arc::new(Notify::new());
        let leaving = Arc::clone(&goodbye);
        let (tell, told) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            let listener = bind(address).await;
            tell.send(listener.local_addr().unwrap()).unwrap();
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            router
                .serve_with_incoming_shutdown(incoming, async move { leaving.notified().await })
                .await
                .unwrap();
        });
        Server { address: told.await.unwrap(), orders, runtime: Some(runtime), goodbye }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        self.address.to_string().parse().unwrap()
    }

    pub(crate) fn calls(&self) -> u64 {
        self.orders.calls.load(Ordering::SeqCst)
    }

    /// Stops answering, or goes on.
    pub(crate) fn be_deaf(&self, deaf: bool) {
        self.orders.deaf.store(deaf, Ordering::SeqCst);
    }

    /// Says goodbye, finishes its calls, and goes.
    pub(crate) fn leave(&self) {
        self.goodbye.notify_one();
    }

    /// Drops its sockets.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Listens at an address, as soon as the one who did before is gone.
async fn bind(address: SocketAddr) -> TcpListener {
    let deadline = Instant::now() + SOON;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
        sleep(Duration::from_millis(2)).await;
    }
}

/// Options with times that fit a test.
pub(crate) fn options() -> ChannelOptions {
    ChannelOptions::default()
        .with_backoff(Duration::from_millis(10), Duration::from_millis(100))
        .with_jitter_seed(7)
}

/// A channel to servers, all of them ready.
pub(crate) async fn channel_to(servers: &[&Server], options: ChannelOptions) -> Channel {
    let channel = Channel::fixed(servers.iter().map(|server| server.endpoint()), options).unwrap();
    all_ready(&channel).await;
    channel
}

pub(crate) async fn all_ready(channel: &Channel) {
    let all = || {
        let state = channel.state();
        !state.endpoints.is_empty() && state.ready() == state.endpoints.len()
    };
    eventually("all endpoints are ready", all).await;
}

pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// The phase of an endpoint.
pub(crate) fn phase(channel: &Channel, endpoint: &Endpoint) -> Option<Phase> {
    channel.state().endpoints.into_iter().find(|state| state.endpoint == *endpoint).map(|state| state.phase)
}

/// A request with an order, for as long as the test may take.
pub(crate) fn order(order: &str, options: CallOptions) -> Request<HealthCheckRequest> {
    let mut request = Request::new(HealthCheckRequest { service: order.to_owned() });
    request.extensions_mut().insert(options);
    request
}

/// Makes a call; who answered.
pub(crate) async fn call(channel: &Channel, text: &str, options: CallOptions) -> Result<String, Status> {
    let mut client = HealthClient::new(channel.clone());
    let calling = client.check(order(text, options));
    let response = timeout(SOON, calling).await.expect("a call ends")?;
    Ok(response.metadata().get(SERVED_BY).unwrap().to_str().unwrap().to_owned())
}

pub(crate) fn health(channel: &Channel) -> HealthClient<Channel> {
    HealthClient::new(channel.clone())
}

/// As [`call`], with nothing special.
pub(crate) async fn ask(channel: &Channel) -> Result<String, Status> {
    call(channel, "", CallOptions::default()).await
}

/// Makes calls, one after the other; how many each server answered.
pub(crate) async fn tally(channel: &Channel, calls: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..calls {
        *tally.entry(ask(channel).await.expect("a call succeeds")).or_default() += 1;
    }
    tally
}

pub(crate) fn waiting() -> CallOptions {
    CallOptions::default().with_readiness(Readiness::Wait)
}

/// What many callers saw.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    pub(crate) answered: usize,
    /// For each caller, its failures and when they came.
    pub(crate) failed: Vec<Vec<(Instant, Status)>>,
}

impl Crowd {
    pub(crate) fn failures(&self) -> usize {
        self.failed.iter().map(Vec::len).sum()
    }
}

/// A caller's answers, counted, and its failures.
type Caller = (usize, Vec<(Instant, Status)>);

/// Calls from many callers at once, until told to stop, or `calls` in all.
pub(crate) struct Load {
    callers: Vec<tokio::task::JoinHandle<Caller>>,
    left: Arc<AtomicU64>,
    made: Arc<AtomicU64>,
}

impl Load {
    pub(crate) fn start(
        channel: &Channel,
        callers: usize,
        calls: u64,
        text: &'static str,
        options: CallOptions,
    ) -> Self {
        let (left, made) = (Arc::new(AtomicU64::new(calls)), Arc::new(AtomicU64::new(0)));
        let caller = |_| {
            let (mut client, left, made) =
                (HealthClient::new(channel.clone()), Arc::clone(&left), Arc::clone(&made));
            tokio::spawn(async move {
                let (mut answered, mut failed) = (0, Vec::new());
                let take = || {
                    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
                };
                while take() {
                    match client.check(order(text, options)).await {
                        Ok(_) => answered += 1,
                        Err(status) => failed.push((Instant::now(), status)),
                    }
                    made.fetch_add(1, Ordering::SeqCst);
                    tokio::task::consume_budget().await;
                }
                (answered, failed)
            })
        };
        Load { callers: (0..callers).map(caller).collect(), left, made }
    }

    /// Waits for so many more calls.
    pub(crate) async fn more(&self, calls: u64) {
        let goal = self.made.load(Ordering::SeqCst) + calls;
        eventually("calls go on", || self.made.load(Ordering::SeqCst) >= goal).await;
    }

    pub(crate) async fn stop(self) -> Crowd {
        self.left.store(0, Ordering::SeqCst);
        self.finish().await
    }

    /// Waits until all calls are made.
    pub(crate) async fn finish(self) -> Crowd {
        let mut crowd = Crowd::default();
        for caller in self.callers {
            let (answered, failed) = timeout(SOON * 3, caller).await.expect("a caller ends").unwrap();
            crowd.answered += answered;
            crowd.failed.push(failed);
        }
        crowd
    }
}

/// An address where nobody listens, and nobody else can either as long as this is held.
pub(crate) struct Nobody {
    pub(crate) endpoint: Endpoint,
    _bound: TcpSocket,
}

pub(crate) fn nobody() -> Nobody {
    let bound = TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    Nobody { endpoint: bound.local_addr().unwrap().to_string().parse().unwrap(), _bound: bound }
}

/// A network between a channel and a server that can turn into a black hole: connections stay open,
/// and nothing arrives.
pub(crate) struct Network {
    pub(crate) endpoint: Endpoint,
    /// Connections with a number below this one are dead.
    swallow_below: tokio::sync::watch::Sender<u64>,
    connections: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

/// One of what is counted, for as long as it is held.
pub(crate) struct Counted(Arc<AtomicU64>);

impl Counted {
    pub(crate) fn new(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Counted(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Network {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        let (swallow_below, swallowing) = tokio::sync::watch::channel(0);
        let connections = Arc::new(AtomicU64::new(0));
        let (counted, present) = (Arc::clone(&connections), Arc::<AtomicU64>::default());
        let counting = Arc::clone(&present);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((mut ours, _)) = listener.accept().await {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                let mut swallowing = swallowing.clone();
                let counted = Counted::new(&counting);
                open.spawn(async move {
                    let _counted = counted;
                    let mut theirs = TcpStream::connect(server).await.unwrap();
                    let swallowed = async { swallowing.wait_for(|below| number < *below).await.is_ok() };
                    let dead = tokio::select! {
                        biased;
                        dead = swallowed => dead,
                        _ = tokio::io::copy_bidirectional(&mut ours, &mut theirs) => false,
                    };
                    if dead {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Network { endpoint, swallow_below, connections, open: present, task }
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Ordering::SeqCst)
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// Swallows what is sent over the present connections; new ones work.
    pub(crate) fn swallow_present(&self) {
        self.swallow_below.send_replace(self.connections.load(Ordering::SeqCst));
    }

    /// Swallows everything.
    pub(crate) fn swallow_all(&self) {
        self.swallow_below.send_replace(u64::MAX);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Finds the addresses of these names, and is silent about all others.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: Mutex<HashMap<String, Vec<IpAddr>>>,
    others: Option<IpAddr>,
    pub(crate) asked: AtomicU64,
    pub(crate) asking: Arc<AtomicU64>,
    /// How many looked something up at once, at most.
    pub(crate) most: AtomicU64,
}

impl Names {
    pub(crate) fn of(name: &str, addresses: &[SocketAddr]) -> Arc<Self> {
        let names = Arc::new(Names::default());
        names.set(name, addresses.iter().map(SocketAddr::ip).collect());
        names
    }

    /// Leads all names to one place.
    pub(crate) fn all_at(address: SocketAddr) -> Arc<Self> {
        Arc::new(Names { others: Some(address.ip()), ..Names::default() })
    }

    pub(crate) fn set(&self, name: &str, addresses: Vec<IpAddr>) {
        self.known.lock().insert(name.to_owned(), addresses);
    }
}

#[async_trait::async_trait]
impl Resolver for Names {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let _asking = Counted::new(&self.asking);
        self.most.fetch_max(self.asking.load(Ordering::SeqCst), Ordering::SeqCst);
        let found = self.known.lock().get(host).cloned();
        match found {
            Some(found) if found.is_empty() => Err(io::Error::other("no such name")),
            Some(found) => Ok(found),
            None => match self.others {
                Some(ip) => Ok(vec![ip]),
                None => std::future::pending().await,
            },
        }
    }
}
