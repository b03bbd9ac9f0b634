//! The channel: R40. It belongs to coord-grpc, follows any registry, and calls real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a case fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coord_api::{Provider, RegisterOptions, Registration, ServiceInstance};
use coord_grpc::{CallOptions, Channel, ChannelOptions, Readiness};
use coord_testkit::wait::{eventually, within};
use coord_testkit::{Case, Fixture};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server as Tonic;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::HealthServer;

mod r40;

/// Hands the list of these cases to a macro, as [`coord_testkit::list_cases!`] says.
#[macro_export]
macro_rules! channel_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r40 {
                it_calls_the_instances_of_the_service,
                a_change_reaches_the_channel_within_a_second,
                an_outage_keeps_the_last_set_and_shows_its_age,
                a_closed_provider_leaves_the_last_set,
                a_failed_first_read_is_retried,
                only_a_set_read_as_empty_empties_it,
                a_resync_keeps_what_is_still_there,
                unchanged_endpoints_keep_their_connections,
                without_an_endpoint_calls_fail_at_once,
                without_an_endpoint_calls_wait_until_their_deadline_if_asked_to,
                a_crashed_instance_leaves_the_channel,
                bad_addresses_are_skipped_and_harm_no_other,
                two_instances_of_one_address_are_one_endpoint,
                two_providers_in_one_process_do_not_interfere,
                a_dropped_channel_leaves_no_task,
                a_channel_outlives_the_runtime_that_made_it,
                a_runtime_that_stands_still_holds_up_no_other,
                dropped_anywhere_a_channel_leaves_no_connection,
                a_bad_service_name_is_an_invalid_argument,
            }
        }
    };
}

/// The cases of R40.
pub const CASES: &[Case] = channel_cases!([coord_testkit::list_cases]);

/// The service.
const SERVICE: &str = "user-service";

/// Calls and connections go over real sockets, which know nothing of the kit's clock: while it
/// stands still, a timeout would come before the answer.
fn real_time(cx: &Fixture) {
    if cx.virtual_time() {
        tokio::time::resume();
    }
}

/// A gRPC server on loopback.
struct Server {
    address: SocketAddr,
    calls: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let calls = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&calls);
        let service = tonic_health::server::HealthService::from_health_reporter(
            tonic_health::server::HealthReporter::new(),
        );
        let service = HealthServer::with_interceptor(service, move |request: Request<()>| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Status>(request)
        });
        let serving = Tonic::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        let task = AbortOnDropHandle::new(tokio::spawn(async move { serving.await.unwrap() }));
        Server { address, calls, _task: task }
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    fn instance(&self, id: &str) -> ServiceInstance {
        ServiceInstance::new(SERVICE, id, self.address.ip().to_string(), self.address.port())
    }
}

/// Stands before a server, and counts its connections.
struct Counter {
    address: SocketAddr,
    open: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

impl Counter {
    async fn before(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, behind) = (listener.local_addr().unwrap(), server.address);
        let open = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&open);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut ours, _) = listener.accept().await.unwrap();
                let counted = Arc::clone(&counted);
                counted.fetch_add(1, Ordering::SeqCst);
                connections.spawn(async move {
                    let mut theirs = TcpStream::connect(behind).await.unwrap();
                    let _ = copy_bidirectional(&mut ours, &mut theirs).await;
                    counted.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Counter { address, open, _task: AbortOnDropHandle::new(task) }
    }

    fn open(&self) -> u64 {
        self.open.load(Ordering::SeqCst)
    }

    fn instance(&self, id: &str) -> ServiceInstance {
        ServiceInstance::new(SERVICE, id, self.address.ip().to_string(), self.address.port())
    }
}

/// Runs on a thread and in a runtime of its own, which end with it.
async fn elsewhere<T: Send + 'static>(run: impl AsyncFnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let done = runtime.block_on(run());
        drop(runtime);
        let _ = tell.send(done);
    });
    told.await.unwrap()
}

/// Registers a server's instance.
async fn register(cx: &Fixture, provider: &Arc<dyn Provider>, instance: ServiceInstance) -> Registration {
    provider.registry().register_with(instance, RegisterOptions::default().with_ttl(cx.ttl())).await.unwrap()
}

fn options() -> ChannelOptions {
    ChannelOptions::default()
        .with_backoff(Duration::from_millis(20), Duration::from_millis(200))
        .with_jitter_seed(40)
}

async fn call(
    cx: &Fixture,
    channel: &Channel,
    options: CallOptions,
    deadline: Duration,
) -> Result<(), Status> {
    let mut request = Request::new(HealthCheckRequest::default());
    request.set_timeout(deadline);
    request.extensions_mut().insert(options);
    let mut client = HealthClient::new(channel.clone());
    within(cx.soon() * 3, "a call ends", client.check(request)).await.map(drop)
}

/// A call with nothing special.
async fn ask(cx: &Fixture, channel: &Channel) -> Result<(), Status> {
    call(cx, channel, CallOptions::default(), cx.soon()).await
}

/// Makes ten calls; how many came to each server.
async fn spread<const N: usize>(cx: &Fixture, channel: &Channel, servers: [&Server; N]) -> [u64; N] {
    let before = servers.map(Server::calls);
    for _ in 0..10 {
        ask(cx, channel).await.unwrap();
    }
    let mut spread = servers.map(Server::calls);
    spread.iter_mut().zip(before).for_each(|(after, before)| *after -= before);
    spread
}

/// Waits until so many endpoints are ready, and no others are there.
async fn ready(cx: &Fixture, channel: &Channel, count: usize) {
    let what = format!("{count} endpoints are ready");
    let all = async || {
        let state = channel.state();
        (state.age.is_some() && (state.ready(), state.endpoints.len()) == (count, count)).then_some(())
    };
    eventually(cx.soon(), &what, all).await;
}

fn waiting() -> CallOptions {
    CallOptions::default().with_readiness(Readiness::Wait)
}
