//! coord-mq against the raw client of NATS, at equal settings, in one run: messages of 256 bytes to
//! one server with files on this machine. Prints ratios: publish is to be at least 0.95, consume at
//! least 0.9.
//!
//! - Publish: one after the other, each answered before the next; and 64 at a time.
//! - Consume: one partition, so that both have one message out at a time, each acknowledged and
//!   confirmed before the next.
#![allow(missing_docs, reason = "a program")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a program for people"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{self, Context, stream};
use coord::Coord;
use coord::memory::MemoryProvider;
use coord::prelude::*;
use coord_mq::{Delivery, Message, Mq, Verdict};
use coord_servers::nats::NatsServer;
use coord_service::Boot;
use coord_service::trace::{self, TraceContext};
use futures_util::StreamExt;

const ROUNDS: usize = 5;
const MESSAGES: usize = 4_000;
const AT_A_TIME: usize = 64;
const PAYLOAD: &[u8] = &[7; 256];

/// Messages a second.
async fn rate(count: usize, work: impl Future<Output = ()>) -> f64 {
    let begun = Instant::now();
    work.await;
    count as f64 / begun.elapsed().as_secs_f64()
}

async fn ours(url: &str) -> Mq {
    let memory = MemoryProvider::new();
    let coord = Coord::new(memory.core().clone(), memory);
    let document = format!(r#"{{"engine": "nats", "partitions": 1, "nats": {{"url": "{url}"}}}}"#);
    coord.config().set_raw("dev/bench/mq", document.into()).await.unwrap();
    let app = Boot::bare("bench").upgrade(&coord).await.unwrap();
    let mq = app.add(Mq::open(app.config("mq"), app.coord())).await.unwrap();
    // It lives as long as the program.
    Box::leak(Box::new(app));
    mq
}

async fn raw(url: &str) -> Context {
    let jetstream = jetstream::new(async_nats::connect(url).await.unwrap());
    let config = stream::Config {
        name: "raw".to_owned(),
        subjects: vec!["raw.0".to_owned()],
        discard: stream::DiscardPolicy::New,
        max_age: Duration::from_secs(168 * 3_600),
        duplicate_window: Duration::from_secs(120),
        ..stream::Config::default()
    };
    jetstream.create_stream(config).await.unwrap();
    jetstream
}

async fn publish_raw(jetstream: &Context, id: String) {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", id);
    headers.insert("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    jetstream.publish_with_headers("raw.0", headers, PAYLOAD.into()).await.unwrap().await.unwrap();
}

async fn publish_ours(mq: &Mq, id: String) {
    mq.publish("ours", Message::new(PAYLOAD).with_id(id)).await.unwrap();
}

async fn consume_raw(jetstream: &Context, round: usize) -> f64 {
    let config = pull::Config {
        durable_name: Some(format!("raw-{round}")),
        deliver_policy: DeliverPolicy::New,
        ack_policy: AckPolicy::Explicit,
        max_ack_pending: 1,
        filter_subject: "raw.0".to_owned(),
        ..pull::Config::default()
    };
    let consumer = jetstream.create_consumer_on_stream(config, "raw").await.unwrap();
    for n in 0..MESSAGES {
        publish_raw(jetstream, format!("consume-{round}-{n}")).await;
    }
    rate(MESSAGES, async {
        // The client's own way to be given one after the other.
        let mut messages = consumer.stream().max_messages_per_batch(1).messages().await.unwrap();
        for _ in 0..MESSAGES {
            messages.next().await.unwrap().unwrap().double_ack().await.unwrap();
        }
    })
    .await
}

async fn consume_ours(mq: &Mq, round: usize) -> f64 {
    let group = format!("ours-{round}");
    mq.make_group("ours", &group).await.unwrap();
    for n in 0..MESSAGES {
        publish_ours(mq, format!("consume-{round}-{n}")).await;
    }
    let (handled, (tell, mut told)) = (Arc::new(AtomicUsize::new(0)), tokio::sync::mpsc::unbounded_channel());
    let handler = move |_: Delivery| {
        if handled.fetch_add(1, Ordering::SeqCst) + 1 == MESSAGES {
            let _ = tell.send(());
        }
        std::future::ready(Verdict::Done)
    };
    let begun = Instant::now();
    let subscription = mq.subscribe("ours", &group, handler).await.unwrap();
    told.recv().await.unwrap();
    subscription.stop().await;
    MESSAGES as f64 / begun.elapsed().as_secs_f64()
}

fn show(what: &str, goal: f64, ours: &mut [f64], raw: &mut [f64]) {
    ours.sort_by(f64::total_cmp);
    raw.sort_by(f64::total_cmp);
    let (ours, raw) = (ours[ours.len() / 2], raw[raw.len() / 2]);
    println!("{what}: {:.2} of the raw client (goal: {goal}); {ours:.0}/s, raw {raw:.0}/s", ours / raw);
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // As a service does, in the trace of a request.
    trace::scope(TraceContext::new(), measure()).await;
}

async fn measure() {
    // `cargo bench` says so; else it is only seen that it still runs.
    let is_tried = !std::env::args().any(|argument| argument == "--bench");
    let rounds = if is_tried { 1 } else { ROUNDS };
    let server = NatsServer::start();
    let (mq, jetstream) = (ours(&server.url()).await, raw(&server.url()).await);
    let mut rates: [(Vec<f64>, Vec<f64>); 3] = Default::default();
    for round in 0..rounds {
        rates[0].0.push(
            rate(MESSAGES, async {
                for n in 0..MESSAGES {
                    publish_ours(&mq, format!("one-{round}-{n}")).await;
                }
            })
            .await,
        );
        rates[0].1.push(
            rate(MESSAGES, async {
                for n in 0..MESSAGES {
                    publish_raw(&jetstream, format!("one-{round}-{n}")).await;
                }
            })
            .await,
        );
        let all = || futures_util::stream::iter(0..MESSAGES * 4);
        rates[1].0.push(
            rate(
                MESSAGES * 4,
                all().for_each_concurrent(AT_A_TIME, |n| publish_ours(&mq, format!("many-{round}-{n}"))),
            )
            .await,
        );
        rates[1].1.push(
            rate(
                MESSAGES * 4,
                all()
                    .for_each_concurrent(AT_A_TIME, |n| publish_raw(&jetstream, format!("many-{round}-{n}"))),
            )
            .await,
        );
        rates[2].0.push(consume_ours(&mq, round).await);
        rates[2].1.push(consume_raw(&jetstream, round).await);
    }
    let [one, many, consume] = &mut rates;
    show("publish, one at a time", 0.95, &mut one.0, &mut one.1);
    show("publish, 64 at a time", 0.95, &mut many.0, &mut many.1);
    show("consume, one at a time", 0.9, &mut consume.0, &mut consume.1);
}
