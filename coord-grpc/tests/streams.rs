//! Streams, both ways, and clients that want a boxed channel.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use common::*;
use coord_grpc::{CallOptions, Channel};
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, timeout};
use tonic::body::Body;
use tonic::codegen::http::{self, uri::PathAndQuery};
use tonic::server::{NamedService, StreamingService};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_prost::ProstCodec;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

/// Answers each message of a stream as it comes. Hand-made, because the health service has no
/// method of this kind.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl StreamingService<HealthCheckRequest> for Echo {
    type Response = HealthCheckResponse;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<HealthCheckRequest>>) -> Self::Future {
        let answers = request.into_inner().map(|message| {
            message.map(|message| HealthCheckResponse { status: message.service.len() as i32 })
        });
        ready(Ok(Response::new(Box::pin(answers))))
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::default());
            Ok(grpc.streaming(Echo, request).await)
        })
    }
}

async fn echo_server() -> Server {
    Server::start_beside(
        "echo",
        "127.0.0.1:0".parse().unwrap(),
        tonic::transport::Server::builder().add_service(Echo),
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_beyond_the_attempt_timeout() {
    let server = Server::start("a").await;
    let channel = channel_to(&[&server], options().with_attempt_timeout(Duration::from_millis(100))).await;
    let mut stream = health(&channel).watch(order("", CallOptions::default())).await.unwrap().into_inner();
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(400) {
        stream.message().await.unwrap().unwrap();
    }
    let head = health(&channel).watch(order("hang", CallOptions::default())).await.unwrap_err();
    assert_eq!(head.code(), Code::DeadlineExceeded, "the head of the answer has a deadline");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_server_dies_ends_with_unavailable() {
    let mut server = Server::start("a").await;
    let channel = channel_to(&[&server], options()).await;
    let mut stream = health(&channel).watch(order("", CallOptions::default())).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    server.kill();
    let end = timeout(SOON, async {
        loop {
            match stream.message().await {
                Ok(message) => drop(message.expect("no end without an error")),
                Err(status) => break status,
            }
        }
    });
    assert_eq!(end.await.unwrap().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_stream() {
    let server = echo_server().await;
    let channel = channel_to(&[&server], options().with_attempt_timeout(Duration::from_millis(500))).await;
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    let told = futures_util::stream::unfold(told, |mut told| async move { Some((told.recv().await?, told)) });
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/test.Echo/Echo");
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let mut answers = client.streaming(Request::new(told), path, codec).await.unwrap().into_inner();
    for length in 0..50 {
        tell.send(HealthCheckRequest { service: "x".repeat(length) }).unwrap();
        let answer = timeout(SOON, answers.message()).await.unwrap().unwrap().unwrap();
        assert_eq!(answer.status, length as i32);
        if length % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }
    drop(tell);
    assert!(timeout(SOON, answers.message()).await.unwrap().unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_blocks_its_thread_holds_up_no_other_call() {
    let server =
        Server::start_beside_health("both", tonic::transport::Server::builder().add_service(Echo)).await;
    let channel = channel_to(&[&server], options()).await;
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (tell, blocking) = tokio::sync::oneshot::channel();
    let (mut looks, mut tell) = (0, Some(tell));
    let messages = futures_util::stream::poll_fn(move |cx| {
        looks += 1;
        match looks {
            1 => return Poll::Ready(Some(HealthCheckRequest { service: "x".repeat(7) })),
            2..=5 => {
                // The caller looks a few times, to see whether the request is whole; from then on
                // others do.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            _ => {}
        }
        if let Some(tell) = tell.take() {
            let _ = tell.send(());
        }
        let _ = released.recv();
        Poll::Ready(None)
    });
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let calling = tokio::spawn(async move {
        let mut answers = client
            .streaming(Request::new(messages), PathAndQuery::from_static("/test.Echo/Echo"), codec)
            .await?
            .into_inner();
        let mut lengths = Vec::new();
        while let Some(answer) = answers.message().await? {
            lengths.push(answer.status);
        }
        Ok::<_, Status>(lengths)
    });
    timeout(SOON, blocking).await.unwrap().unwrap();
    for _ in 0..100 {
        timeout(SOON, ask(&channel)).await.expect("others go on").unwrap();
    }
    drop(release);
    assert_eq!(timeout(SOON, calling).await.unwrap().unwrap().unwrap(), [7]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_nobody_reads_do_not_hold_up_calls() {
    let server = Server::start("a").await;
    let channel = channel_to(&[&server], options()).await;
    let mut unread = Vec::new();
    // HTTP/2 itself ends a connection with some 10,000 small messages that nobody reads.
    for _ in 0..100 {
        unread.push(health(&channel).watch(order("few", CallOptions::default())).await.unwrap());
    }
    assert_eq!(tally(&channel, 100).await.len(), 1);
}

/// What etcd-client takes as a custom channel, spelled out.
type Custom = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, tower::BoxError>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_can_be_boxed_for_clients_that_want_a_custom_channel() {
    let server = Server::start("a").await;
    let channel: Channel = channel_to(&[&server], options()).await;
    let custom: Custom = BoxCloneSyncService::new(channel.map_err(tower::BoxError::from));
    let mut client = tonic_health::pb::health_client::HealthClient::new(custom);
    let response = client.check(order("", CallOptions::default())).await.unwrap();
    assert_eq!(response.metadata().get(SERVED_BY).unwrap(), "a");
    let refused = client.check(order("internal", CallOptions::default())).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Internal, "as ordered"));
}
