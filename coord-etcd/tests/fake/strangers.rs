//! Endpoints that are no etcd: a client that has another one works as if they were not there (R3).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coord_api::ErrorKind;
use coord_api::prelude::*;
use coord_etcd::{EtcdOptions, EtcdProvider, EtcdStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tonic::transport::Server;

use crate::options;
use crate::server::Fake;

/// What listens and does this with each connection.
async fn listener<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Says this as soon as something is said, and no more.
async fn says(text: &'static [u8]) -> String {
    listener(move |mut stream| async move {
        let mut heard = [0; 1_024];
        let _ = stream.read(&mut heard).await;
        let _ = stream.write_all(text).await;
        let _ = stream.read(&mut heard).await;
    })
    .await
}

async fn strangers() -> Vec<(&'static str, String)> {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let grpc = other.local_addr().unwrap().to_string();
    let (_, health) = tonic_health::server::health_reporter();
    tokio::spawn(Server::builder().add_service(health).serve_with_incoming(TcpListenerStream::new(other)));
    let mut strangers = vec![
        ("nobody listens", gone),
        ("another gRPC server", grpc),
        ("a web server", says(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await),
        (
            "a web server with a page",
            says(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>")
                .await,
        ),
        ("a server that wants TLS", says(b"\x15\x03\x01\x00\x02\x02\x46").await),
        ("garbage", says(&[0xff; 64]).await),
        ("who hangs up", listener(|stream| async move { drop(stream) }).await),
        (
            "who says nothing",
            listener(|stream| async move {
                tokio::time::sleep(Duration::from_secs(600)).await;
                drop(stream);
            })
            .await,
        ),
    ];
    for status in [
        Status::unauthenticated("who are you?"),
        Status::permission_denied("not here"),
        Status::internal("oops"),
        Status::invalid_argument("what?"),
        Status::unknown("hm"),
        Status::not_found("no such thing"),
        Status::failed_precondition("not yet"),
    ] {
        let fake = Fake::start(10).await;
        fake.script(|script| script.refuses = Some(status));
        strangers.push(("a server that refuses everything", fake.endpoint().to_owned()));
    }
    // As a proxy to something else answers.
    let headless = Fake::start_in(0, 10).await;
    strangers.push(("a server that does not say of which cluster it is", headless.endpoint().to_owned()));
    strangers
}

#[tokio::test(flavor = "multi_thread")]
async fn one_endpoint_that_is_etcd_suffices_whatever_the_others_are() {
    for (what, stranger) in strangers().await {
        let fake = Fake::start(10).await;
        for order in 0..2 {
            let mut options = options([&fake]);
            options.endpoints.insert(order, stranger.clone());
            for n in 0..2 {
                let connected =
                    EtcdStore::connect(&options).await.unwrap_or_else(|error| panic!("{what}: {error}"));
                drop(connected);
                let lazy = EtcdProvider::connect_lazy(options.clone()).unwrap();
                lazy.config().set("k", &n).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_endpoint_is_etcd_none_is_connected_to_and_the_reason_is_told() {
    for (what, stranger) in strangers().await {
        let options = EtcdOptions::new([stranger]).with_connect_timeout(Duration::from_millis(500));
        let error = EtcdStore::connect(&options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error}");
    }
}

/// A server that says what is wrong with it, and then nothing any more: what is told is what it
/// said, and not that it was silent when time ran out.
#[tokio::test]
async fn what_was_heard_is_told_and_not_the_silence_after_it() {
    let said = Arc::new(AtomicBool::new(false));
    let server = listener(move |mut stream| {
        let said = Arc::clone(&said);
        async move {
            let mut heard = [0; 1_024];
            let _ = stream.read(&mut heard).await;
            if !said.swap(true, Ordering::SeqCst) {
                let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
            }
            tokio::time::sleep(Duration::from_secs(600)).await;
            drop(stream);
        }
    })
    .await;
    let error = EtcdStore::connect(&EtcdOptions::new([server]).with_connect_timeout(Duration::from_secs(1)))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!error.to_string().contains("did not answer in time"), "{error}");
}
