//! A client that knows its servers by the name of their service alone, while they come, go, die and
//! hang.
//!
//! ```console
//! $ cargo run --example grpc_discovery      # about ten seconds
//! ```
//!
//! Three real gRPC servers on loopback register themselves on the memory backend; eight callers
//! share one channel. Every call may be repeated, so none of them fails, whatever becomes of a
//! server. To do without `protoc` the service is gRPC's standard health check; yours comes from
//! `tonic-prost-build`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that shows what happens")]

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coord::grpc::{CallOptions, Channel, ChannelOptions, RegistryChannelExt, RetryOptions};
use coord::memory::MemoryProvider;
use coord::prelude::*;
use coord::{Registration, ServiceInstance};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

type Result<T, E = Box<dyn StdError + Send + Sync>> = std::result::Result<T, E>;

const SERVICE: &str = "user-service";
const CALLERS: usize = 8;

/// How long each scene lasts.
const SCENE: Duration = Duration::from_millis(1_300);

/// The longest that a run may take; it needs about ten seconds.
const TIME_LIMIT: Duration = Duration::from_secs(25);

#[tokio::main]
async fn main() -> ExitCode {
    match timeout(TIME_LIMIT, run()).await {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
        Err(_) => {
            eprintln!("error: not done within {TIME_LIMIT:?}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    // Servers and client are as good as separate processes: each has its own client of the store.
    let coord = MemoryProvider::new();
    let mut one = Server::start("users-1", coord.client()).await?;
    let two = Server::start("users-2", coord.client()).await?;

    let options = ChannelOptions::default()
        .with_attempt_timeout(Duration::from_millis(500))
        .with_connect_timeout(Duration::from_millis(500))
        .with_retry(RetryOptions::default());
    let channel = coord.registry().channel_with(SERVICE, options)?;
    let calls = Calls::start(&channel);

    println!("{:<34}{:>9}{:>9}{:>9}{:>9}", "", "users-1", "users-2", "users-3", "failed");
    calls.show("two servers").await;

    let three = Server::start("users-3", coord.client()).await?;
    calls.show("users-3 comes").await;

    two.leave().await?;
    calls.show("users-2 says goodbye").await;

    one.kill();
    calls.show("users-1 is killed hard").await;

    one = Server::start("users-1", coord.client()).await?;
    calls.show("users-1 is started again").await;

    three.hang(true);
    calls.show("users-3 hangs").await;

    three.hang(false);
    calls.show("users-3 is well again").await;

    let (total, failed) = calls.stop();
    println!("\n{total} calls, {failed} failed");
    for endpoint in channel.state().endpoints {
        println!("{} is {:?} after {} connections", endpoint.endpoint, endpoint.phase, endpoint.connections);
    }
    drop(channel);
    one.leave().await?;
    three.leave().await?;
    if total == 0 || failed > 0 {
        return Err(format!("{failed} of {total} calls failed, and none should").into());
    }
    Ok(())
}

/// A server in a runtime of its own, so that it can be killed with all that it holds.
struct Server {
    runtime: Runtime,
    goodbye: oneshot::Sender<()>,
    gone: oneshot::Receiver<()>,
    registration: Registration,
    hangs: Arc<AtomicBool>,
    coord: Arc<MemoryProvider>,
}

impl Server {
    async fn start(name: &'static str, coord: Arc<MemoryProvider>) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?.into_std()?;
        let address = listener.local_addr()?;
        let hangs = Arc::new(AtomicBool::new(false));
        let service = HealthServer::new(Named { name, hangs: Arc::clone(&hangs) });
        let ((goodbye, leaving), (left, gone)) = (oneshot::channel(), oneshot::channel());
        runtime.spawn(async move {
            let incoming = TcpIncoming::from(TcpListener::from_std(listener)?).with_nodelay(Some(true));
            let leaving = async move { drop(leaving.await) };
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(incoming, leaving)
                .await?;
            let _ = left.send(());
            Ok::<_, Box<dyn StdError + Send + Sync>>(())
        });
        let instance = ServiceInstance::new(SERVICE, name, address.ip().to_string(), address.port());
        let registration = coord.registry().register(instance).await?;
        Ok(Server { runtime, goodbye, gone, registration, hangs, coord })
    }

    /// As a deployment would end it: first out of the registry, then its calls to the end, then it
    /// stops.
    async fn leave(self) -> Result<()> {
        self.registration.unregister().await?;
        let _ = self.goodbye.send(());
        self.gone.await?;
        self.runtime.shutdown_background();
        Ok(())
    }

    /// As `kill -9` would end it: the sockets drop, the registration stays until its lease ends.
    fn kill(self) {
        self.coord.abandon();
        self.runtime.shutdown_background();
    }

    fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
    }
}

/// The service: says who answers.
struct Named {
    name: &'static str,
    hangs: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl Health for Named {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        while self.hangs.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(50)).await;
        }
        let mut response = Response::new(HealthCheckResponse { status: 1 });
        response.metadata_mut().insert("served-by", tonic::metadata::MetadataValue::from_static(self.name));
        Ok(response)
    }

    type WatchStream = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }
}

/// What became of calls: how many each server answered, and how many failed.
#[derive(Debug, Default)]
struct Tally {
    served: BTreeMap<String, usize>,
    failed: usize,
}

/// Callers who call all the time.
struct Calls {
    tally: Arc<Mutex<Tally>>,
    total: Mutex<(usize, usize)>,
    callers: Vec<AbortOnDropHandle<()>>,
}

impl Calls {
    fn start(channel: &Channel) -> Self {
        let tally = Arc::<Mutex<Tally>>::default();
        let caller =
            |_| AbortOnDropHandle::new(tokio::spawn(call_all_the_time(channel.clone(), Arc::clone(&tally))));
        Calls { callers: (0..CALLERS).map(caller).collect(), total: Mutex::default(), tally }
    }

    /// Lets a scene pass, and prints what became of its calls.
    async fn show(&self, scene: &str) {
        sleep(SCENE).await;
        let tally = std::mem::take(&mut *self.tally.lock());
        let of = |name: &str| tally.served.get(name).copied().unwrap_or_default();
        println!(
            "{scene:<34}{:>9}{:>9}{:>9}{:>9}",
            of("users-1"),
            of("users-2"),
            of("users-3"),
            tally.failed
        );
        let answered: usize = tally.served.values().sum();
        let mut total = self.total.lock();
        *total = (total.0 + answered + tally.failed, total.1 + tally.failed);
    }

    /// Ends the calls; how many there were, and how many failed.
    fn stop(self) -> (usize, usize) {
        drop(self.callers);
        self.total.into_inner()
    }
}

async fn call_all_the_time(channel: Channel, tally: Arc<Mutex<Tally>>) {
    let mut client = HealthClient::new(channel);
    loop {
        let mut request = Request::new(HealthCheckRequest::default());
        // A check made twice does no more than made once.
        request.extensions_mut().insert(CallOptions::default().with_idempotent());
        match client.check(request).await {
            Ok(response) => {
                let name = response
                    .metadata()
                    .get("served-by")
                    .and_then(|name| name.to_str().ok())
                    .unwrap_or("nobody")
                    .to_owned();
                *tally.lock().served.entry(name).or_default() += 1;
            }
            Err(_) => tally.lock().failed += 1,
        }
        sleep(Duration::from_millis(2)).await;
    }
}
