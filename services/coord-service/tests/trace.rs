//! A trace on its way through servers and clients.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::routing::get;
use coord_service::clog::{Clog, LogConfig};
use coord_service::trace::{self, PropagateLayer, TraceContext, TraceLayer};
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use tower::{Layer, Service};
use tracing_subscriber::layer::SubscriberExt;

/// Whether anybody wants a span is decided for the whole process when it is first met. Where that
/// is while another test sets up its subscriber, that one may not be asked.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A client that keeps the headers of what it is asked to send.
#[derive(Clone, Default)]
struct Sent(Arc<Mutex<Vec<HeaderMap>>>);

impl Service<Request<()>> for Sent {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        self.0.lock().push(request.headers().clone());
        ready(Ok(()))
    }
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn ask(app: &Router, headers: &[(&'static str, &'static str)]) -> Response<Body> {
    let mut request = Request::builder().uri("/send?token=hunter2");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    app.clone().call(request.body(Body::empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_request_runs_in_the_trace_that_its_headers_name() {
    let _alone = ALONE.lock().await;
    let sent = Sent::default();
    let client = PropagateLayer::new().layer(sent.clone());
    let handler = {
        let client = client.clone();
        move || {
            let mut client = client.clone();
            async move {
                let sending = async move { client.call(Request::new(())).await };
                trace::spawn(sending).await.unwrap().unwrap();
                let body = stream::iter([(), ()]).map_ids();
                Body::from_stream(body)
            }
        }
    };
    let app = Router::new().route("/send", get(handler)).layer(TraceLayer::new());

    let answer = ask(&app, &[("traceparent", PARENT), ("tracestate", "a=1"), ("x-request-id", "r-7")]).await;
    let step = TraceContext::parse(answer.headers()["traceparent"].to_str().unwrap()).unwrap();
    assert_eq!(step.trace_id().to_string(), TRACE);
    assert!(!PARENT.contains(&step.span_id().to_string()), "a step of its own");
    assert_eq!(answer.headers()["x-request-id"], "r-7");
    assert!(!answer.headers().contains_key("tracestate"));
    // The body is made in the same trace.
    let body = to_bytes(answer.into_body(), 1_000).await.unwrap();
    assert_eq!(body, format!("{TRACE}{TRACE}"));
    // And so is what was asked of others.
    let handed_on = sent.0.lock().pop().unwrap();
    assert_eq!(handed_on["traceparent"], step.traceparent());
    assert_eq!(handed_on["tracestate"], "a=1");
    assert_eq!(handed_on["x-request-id"], "r-7");

    // Outside of any trace nothing is handed on.
    let mut client = client;
    client.call(Request::new(())).await.unwrap();
    assert!(sent.0.lock().pop().unwrap().is_empty());
}

#[tokio::test]
async fn headers_that_are_no_trace_context_begin_a_new_trace_and_fail_nothing() {
    let _alone = ALONE.lock().await;
    let app = Router::new().route("/send", get(|| async { "ok" })).layer(TraceLayer::new());
    let mut seen = Vec::new();
    for headers in [
        &[][..],
        &[("traceparent", "rubbish")],
        &[("traceparent", PARENT), ("traceparent", PARENT)],
        &[("traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-01")],
        &[("tracestate", "===")],
    ] {
        let answer = ask(&app, headers).await;
        assert_eq!(answer.status(), 200);
        let step = TraceContext::parse(answer.headers()["traceparent"].to_str().unwrap()).unwrap();
        assert_ne!(step.trace_id().to_string(), TRACE);
        seen.push(step.trace_id());
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 5);
}

#[tokio::test]
async fn what_a_request_logs_has_its_ids_and_its_span() {
    let _alone = ALONE.lock().await;
    let memory = Memory::default();
    let config = LogConfig::default().with_format("json");
    let logs = Clog::builder("im-logic").config(config).writer(memory.clone()).start().unwrap();
    let _here = tracing::subscriber::set_default(tracing_subscriber::registry().with(logs.layer()));
    let handler = || async {
        tracing::info!("answering");
        "ok"
    };
    let app = Router::new().route("/send", get(handler)).layer(TraceLayer::new());
    ask(&app, &[("traceparent", PARENT), ("x-trace-id", "t-1")]).await;
    logs.flush(std::time::Duration::from_secs(10)).unwrap();
    let text = String::from_utf8(memory.0.lock().clone()).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(line["message"], "answering");
    assert_eq!(line["trace_id"], TRACE);
    assert_eq!(line["request_id"], "t-1");
    assert_eq!(
        (&line["span"], &line["method"], &line["path"]),
        (&"request".into(), &"GET".into(), &"/send".into())
    );
    assert!(!text.contains("hunter2"), "{text}");
}

/// The id of the trace in which each element is made.
trait MapIds: Sized {
    fn map_ids(self) -> impl futures_util::Stream<Item = Result<String, Infallible>> + Send + 'static;
}

impl<S: futures_util::Stream + Send + 'static> MapIds for S {
    fn map_ids(self) -> impl futures_util::Stream<Item = Result<String, Infallible>> + Send + 'static {
        futures_util::StreamExt::map(self, |_| Ok(trace::current().trace_id().to_string()))
    }
}
