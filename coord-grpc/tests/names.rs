//! Endpoints whose host names have several addresses, some of which lead nowhere.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::*;
use coord_api::ErrorKind;
use coord_grpc::{Channel, ChannelOptions, Endpoint, Phase, Resolver};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

/// What stands at an address in place of a server.
struct Peer {
    /// How many connections are open.
    open: Arc<AtomicU64>,
    /// How many there were.
    accepted: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

enum Manners {
    Silent,
    Resets,
    SpeaksHttp1,
    /// Sends settings as a server does, and hangs up.
    Leaves,
}

async fn peer(at: SocketAddr, manners: Manners) -> Peer {
    let listener = TcpListener::bind(at).await.unwrap();
    let (open, accepted) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let (counting, counted) = (Arc::clone(&open), Arc::clone(&accepted));
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        let manners = Arc::new(manners);
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let (here, manners) = (Counted::new(&counting), Arc::clone(&manners));
            connections.spawn(async move {
                let _here = here;
                match *manners {
                    Manners::Resets => {
                        // What was not read makes it a reset.
                        let _ = stream.readable().await;
                        return;
                    }
                    Manners::SpeaksHttp1 => drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await),
                    Manners::Leaves => {
                        let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
                        return;
                    }
                    Manners::Silent => {}
                }
                let mut bytes = [0; 1024];
                while matches!(stream.read(&mut bytes).await, Ok(1..)) {}
            });
        }
    });
    Peer { open, accepted, _task: AbortOnDropHandle::new(task) }
}

/// A listener whose queue is full: whoever connects gets no answer, as from a host that is gone.
async fn hole(at: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(at).unwrap();
    let listener = socket.listen(0).unwrap();
    let mut queue = Vec::new();
    while let Ok(one) = timeout(Duration::from_millis(300), TcpStream::connect(at)).await {
        queue.push(one.unwrap());
    }
    (listener, queue)
}

/// A server at 127.0.0.3, and the same port at other addresses.
async fn server() -> (Server, impl Fn(u8) -> SocketAddr) {
    let server = Server::start_at("good", "127.0.0.3:0".parse().unwrap()).await;
    let port = server.address.port();
    (server, move |n| SocketAddr::from(([127, 0, 0, n], port)))
}

fn channel(names: &Arc<Names>, port: u16, options: ChannelOptions) -> Channel {
    let names: Arc<dyn Resolver> = Arc::clone(names) as _;
    Channel::fixed([Endpoint::new("many", port).unwrap()], options.with_resolver(names)).unwrap()
}

/// How long it takes until the server behind these addresses answers a call.
async fn first_call(addresses: &[SocketAddr]) -> (Channel, Duration) {
    let names = Names::of("many", addresses);
    let channel = channel(&names, addresses[0].port(), options());
    let begun = Instant::now();
    assert_eq!(ask(&channel).await.unwrap(), "good");
    let state = channel.state();
    assert_eq!((state.endpoints[0].connections, state.ready()), (1, 1));
    (channel, begun.elapsed())
}

/// Far below the connect timeout of 5 s, which is what waiting for the first address would take.
const SHARE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_does_not_answer_costs_a_share_of_the_time() {
    let (_server, at) = server().await;
    let _hole = hole(at(2)).await;
    let (_, took) = first_call(&[at(2), at(3)]).await;
    assert!((Duration::from_millis(200)..SHARE).contains(&took), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_accepts_and_says_nothing_costs_a_share_and_is_let_go() {
    let (_server, at) = server().await;
    let (silent, also_silent) = (peer(at(2), Manners::Silent).await, peer(at(4), Manners::Silent).await);
    let (_channel, took) = first_call(&[at(2), at(4), at(3)]).await;
    assert!((Duration::from_millis(400)..SHARE).contains(&took), "{took:?}");
    assert_eq!((silent.accepted.load(Ordering::SeqCst), also_silent.accepted.load(Ordering::SeqCst)), (1, 1));
    let open = || silent.open.load(Ordering::SeqCst) + also_silent.open.load(Ordering::SeqCst);
    eventually("the connections to the others are closed", || open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_that_fail_are_passed_over_at_once() {
    let (_server, at) = server().await;
    let _resets = peer(at(4), Manners::Resets).await;
    let _http1 = peer(at(5), Manners::SpeaksHttp1).await;
    // Nobody listens at 127.0.0.2.
    for bad in [2, 4, 5] {
        let (_, took) = first_call(&[at(bad), at(3)]).await;
        assert!(took < SHARE, "{bad}: {took:?}");
    }
    let (_, took) = first_call(&[at(2), at(4), at(5), at(3)]).await;
    assert!(took < SHARE, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_says_hello_and_leaves_is_tried_last_the_next_time() {
    let (_server, at) = server().await;
    let leaves = peer(at(2), Manners::Leaves).await;
    let names = Names::of("many", &[at(2), at(3)]);
    let channel = channel(&names, at(3).port(), options());
    let good =
        || channel.state().endpoints[0].since > Duration::from_millis(500) && channel.state().ready() == 1;
    eventually("the good one is found", good).await;
    assert_eq!(ask(&channel).await.unwrap(), "good");
    assert!(leaves.accepted.load(Ordering::SeqCst) <= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_address_in_use_dies_the_other_is_used() {
    let (mut first, at) = server().await;
    let _second = Server::start_at("second", at(2)).await;
    let names = Names::of("many", &[at(3), at(2)]);
    let channel = channel(&names, at(3).port(), options());
    assert_eq!(ask(&channel).await.unwrap(), "good");
    first.kill();
    eventually("it is connected anew", || channel.state().endpoints[0].connections == 2).await;
    assert_eq!(ask(&channel).await.unwrap(), "second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_address_in_use_answers_no_calls_the_other_is_used() {
    let (deaf, at) = server().await;
    let _second = Server::start_at("second", at(2)).await;
    let names = Names::of("many", &[at(3), at(2)]);
    let channel = channel(&names, at(3).port(), options().with_attempt_timeout(Duration::from_millis(200)));
    assert_eq!(ask(&channel).await.unwrap(), "good");
    deaf.be_deaf(true);
    ask(&channel).await.unwrap_err();
    eventually("it is connected anew", || channel.state().endpoints[0].connections == 2).await;
    assert_eq!(ask(&channel).await.unwrap(), "second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_good_address_the_reason_is_told() {
    let (_server, at) = server().await;
    let failure = async |names: Arc<Names>| {
        let channel =
            channel(&names, at(3).port(), options().with_connect_timeout(Duration::from_millis(400)));
        eventually("it fails", || channel.state().endpoints[0].phase == Phase::Ejected).await;
        channel.state().endpoints[0].failure.clone().unwrap()
    };
    let refused = failure(Names::of("many", &[at(2), at(4)])).await;
    assert!(
        refused.kind() == ErrorKind::Unavailable && refused.message().contains("2 addresses"),
        "{refused}"
    );
    assert!(refused.message().contains("refused"), "{refused}");
    let _silent = peer(at(2), Manners::Silent).await;
    let timed_out = failure(Names::of("many", &[at(2), at(4)])).await;
    assert!(timed_out.kind() == ErrorKind::Timeout && timed_out.message().contains("refused"), "{timed_out}");
    let unknown = failure(Names::of("many", &[])).await;
    assert!(
        unknown.kind() == ErrorKind::Unavailable && unknown.message().contains("no such name"),
        "{unknown}"
    );
    let silent = failure(Names::of("another", &[at(3)])).await;
    assert!(silent.kind() == ErrorKind::Timeout && silent.message().contains("not resolved"), "{silent}");
    // What filters answer for names that they hide leads to whoever asks.
    let hidden = failure(Names::of("many", &["0.0.0.0:1".parse().unwrap(), "[::]:1".parse().unwrap()])).await;
    assert!(hidden.kind() == ErrorKind::Unavailable && hidden.message().contains("no address"), "{hidden}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_looked_up_for_each_attempt_and_few_at_once() {
    let (_server, at) = server().await;
    let names = Names::of("many", &[at(2)]);
    let one = channel(&names, at(3).port(), options());
    eventually("it is tried", || names.asked.load(Ordering::SeqCst) > 2).await;
    names.set("many", vec![at(3).ip()]);
    assert_eq!(call(&one, "", waiting()).await.unwrap(), "good");

    let resolver: Arc<dyn Resolver> = Arc::clone(&names) as _;
    let silent = (0..100).map(|n| Endpoint::new(&format!("silent-{n}"), 80).unwrap());
    let many = Channel::fixed(
        silent,
        options().with_resolver(resolver).with_connect_timeout(Duration::from_millis(300)),
    )
    .unwrap();
    eventually("all are given up", || {
        many.state().endpoints.iter().all(|state| state.phase == Phase::Ejected)
    })
    .await;
    assert_eq!(names.most.load(Ordering::SeqCst), 16);
    drop(many);
    eventually("nobody asks any more", || names.asking.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_of_one_name_share_its_look_up() {
    let names = Names::of("another", &[]);
    let resolver: Arc<dyn Resolver> = Arc::clone(&names) as _;
    let ports = (1..=20).map(|port| Endpoint::new("silent", port).unwrap());
    let options = options().with_resolver(resolver).with_connect_timeout(Duration::from_millis(300));
    let channel = Channel::fixed(ports, options).unwrap();
    eventually("all are given up", || {
        channel.state().endpoints.iter().all(|state| state.phase == Phase::Ejected)
    })
    .await;
    assert_eq!(names.most.load(Ordering::SeqCst), 1);
}
