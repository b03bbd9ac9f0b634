//! Signs of life: none without need, and fewer for a server that complains.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::*;
use coord_grpc::{CallOptions, Channel, Endpoint, KeepAlive, Phase};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

/// A server with the policy of gRPC's own servers, whose five minutes are shorter here: it answers
/// each call with one message of a stream that then goes on without a word, and leaves when it is
/// asked for a sign of life too often, three times. Hand-made, since the HTTP/2 of servers in Rust
/// answers pings and does not count them.
struct Strict {
    endpoint: Endpoint,
    pings: Arc<AtomicU64>,
    goodbyes: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

impl Strict {
    /// Allows one ping in so long; `reason` is what it says when it leaves.
    async fn start(allowed: Duration, reason: &'static [u8], code: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        let (pings, goodbyes) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let counts = (Arc::clone(&pings), Arc::clone(&goodbyes));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (pings, goodbyes) = counts.clone();
                connections.spawn(async move {
                    let _ = Strict::serve(stream, allowed, (code, reason), &pings, &goodbyes).await;
                });
            }
        });
        Strict { endpoint, pings, goodbyes, _task: AbortOnDropHandle::new(task) }
    }

    async fn serve(
        mut stream: TcpStream,
        allowed: Duration,
        (code, reason): (u32, &[u8]),
        pings: &AtomicU64,
        goodbyes: &AtomicU64,
    ) -> std::io::Result<()> {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await?;
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        let (mut last_ping, mut strikes, mut last_stream) = (None::<Instant>, 0, 0);
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            stream.read_exact(&mut payload).await?;
            let (kind, flags, of) =
                (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
            match kind {
                SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await?,
                HEADERS => {
                    last_stream = of;
                    // `:status: 200` and `content-type: application/grpc`, and a message that says
                    // 1.
                    let answer = [&[0x88, 0x5f, 16][..], b"application/grpc"].concat();
                    stream.write_all(&frame(HEADERS, END_HEADERS, of, &answer)).await?;
                    stream.write_all(&frame(DATA, 0, of, &[0, 0, 0, 0, 2, 8, 1])).await?;
                }
                PING if flags & ACK == 0 => {
                    pings.fetch_add(1, Ordering::SeqCst);
                    if last_ping.is_some_and(|last| last.elapsed() < allowed) {
                        strikes += 1;
                    }
                    last_ping = Some(Instant::now());
                    if strikes > 2 {
                        goodbyes.fetch_add(1, Ordering::SeqCst);
                        let goodbye = [&last_stream.to_be_bytes(), &code.to_be_bytes(), reason].concat();
                        stream.write_all(&frame(GOAWAY, 0, 0, &goodbye)).await?;
                        return Ok(());
                    }
                    stream.write_all(&frame(PING, ACK, 0, &payload)).await?;
                }
                _ => {}
            }
        }
    }
}

const TOO_MANY: (&[u8], u32) = (b"too_many_pings", 11);

fn pinging(after: Duration) -> coord_grpc::ChannelOptions {
    options().with_keep_alive(KeepAlive::default().with_interval(after))
}

#[test]
fn by_default_a_server_that_allows_a_ping_in_five_minutes_has_no_reason_to_complain() {
    let default = KeepAlive::default();
    // The way of a ping may be shorter than that of the last one.
    assert!(default.interval > Duration::from_secs(5 * 60 + 15) && !default.while_idle, "{default:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_complains_is_asked_less_often_until_it_is_content() {
    let allowed = Duration::from_millis(600);
    let server = Strict::start(allowed, TOO_MANY.0, TOO_MANY.1).await;
    // Too often by far: it takes 200, 400 and 800 ms to get there.
    let first = Duration::from_millis(200);
    let channel = Channel::fixed([server.endpoint.clone()], pinging(first)).unwrap();
    let ping_after = || channel.state().endpoints[0].ping_after;
    assert_eq!(ping_after(), first);
    for times in [2, 4] {
        let mut stream =
            health(&channel).watch(order("", CallOptions::default())).await.unwrap().into_inner();
        assert_eq!(stream.message().await.unwrap().unwrap().status, 1);
        let end = timeout(SOON, stream.message()).await.unwrap().unwrap_err();
        assert_eq!(end.code(), Code::Unavailable, "{end}");
        eventually("it comes less often", || ping_after() == first * times).await;
        all_ready(&channel).await;
    }
    let mut stream = health(&channel).watch(order("", CallOptions::default())).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let before = server.pings.load(Ordering::SeqCst);
    assert!(timeout(allowed * 6, stream.message()).await.is_err(), "the stream goes on");
    assert!(server.pings.load(Ordering::SeqCst) > before, "and is asked for");
    assert_eq!((server.goodbyes.load(Ordering::SeqCst), ping_after()), (2, first * 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_goodbyes_change_nothing() {
    let server = Strict::start(Duration::from_secs(60), b"maintenance", 0).await;
    let first = Duration::from_millis(50);
    let channel = Channel::fixed([server.endpoint.clone()], pinging(first)).unwrap();
    let mut stream = health(&channel).watch(order("", CallOptions::default())).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    timeout(SOON, stream.message()).await.unwrap().unwrap_err();
    eventually("it is back", || channel.state().endpoints[0].connections == 2).await;
    assert_eq!((server.goodbyes.load(Ordering::SeqCst), channel.state().endpoints[0].ping_after), (1, first));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_call_nothing_is_asked() {
    let server = Strict::start(Duration::from_secs(60), TOO_MANY.0, TOO_MANY.1).await;
    let channel = Channel::fixed([server.endpoint.clone()], pinging(Duration::from_millis(20))).unwrap();
    all_ready(&channel).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(server.pings.load(Ordering::SeqCst), 0);
    assert_eq!(phase(&channel, &server.endpoint), Some(Phase::Ready));
}
