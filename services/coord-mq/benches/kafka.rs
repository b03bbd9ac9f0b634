//! coord-mq against the raw client of Kafka, at equal settings, on librdkafka's mock cluster in
//! this process: messages of 256 bytes. Publish is to take at most 1.05 of the raw client's time,
//! and to publish and consume at most 1.1.
//!
//! - Publish: one after the other, each answered before the next; and 64 at a time.
//! - Consume: from the first that is published, by the raw client for both, to the last that is
//!   handled, of one partition; what is done is stored each 100 ms.
#![allow(missing_docs, reason = "a program")]
#![allow(clippy::unwrap_used, reason = "a program for people")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coord::Coord;
use coord::memory::MemoryProvider;
use coord::prelude::*;
use coord_mq::{Delivery, Message, Mq, Verdict};
use coord_service::Boot;
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::StreamExt;
use rdkafka::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

const AT_A_TIME: usize = 64;
const PAYLOAD: &[u8] = &[7; 256];

async fn ours(brokers: &str) -> Mq {
    let memory = MemoryProvider::new();
    let coord = Coord::new(memory.core().clone(), memory);
    let document = format!(r#"{{"engine": "kafka", "kafka": {{"brokers": "{brokers}"}}}}"#);
    coord.config().set_raw("dev/bench/mq", document.into()).await.unwrap();
    let app = Boot::bare("bench").upgrade(&coord).await.unwrap();
    let mq = app.add(Mq::open(app.config("mq"), app.coord())).await.unwrap();
    mq.wait_for(|status| status.generation > 0).await;
    // It lives as long as the program.
    Box::leak(Box::new(app));
    mq
}

fn raw(brokers: &str) -> FutureProducer {
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", brokers).set("enable.idempotence", "true").set("linger.ms", "0");
    settings.set("socket.nagle.disable", "true").create().unwrap()
}

async fn publish_ours(mq: &Mq, n: u64) {
    mq.publish("publish", Message::new(PAYLOAD).with_id(n.to_string())).await.unwrap();
}

async fn publish_raw(producer: &FutureProducer, topic: &str, n: u64) {
    let id = n.to_string();
    let headers = OwnedHeaders::new().insert(Header { key: "mq-id", value: Some(&id) });
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = headers.insert(Header { key: "traceparent", value: Some(trace) });
    let record = FutureRecord::<str, [u8]>::to(topic).partition(0).payload(PAYLOAD).headers(headers);
    producer.send_result(record).unwrap().await.unwrap().unwrap();
}

/// Counts what is handled.
#[derive(Default)]
struct Handled {
    count: AtomicU64,
    more: Notify,
}

impl Handled {
    fn one(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.more.notify_one();
    }

    async fn reach(&self, wanted: u64) {
        while self.count.load(Ordering::SeqCst) < wanted {
            self.more.notified().await;
        }
    }
}

async fn handle_ours(mq: &Mq, handled: &Arc<Handled>) {
    let handled = Arc::clone(handled);
    let handler = move |_: Delivery| {
        handled.one();
        std::future::ready(Verdict::Done)
    };
    Box::leak(Box::new(mq.subscribe("ours", "bench", handler).await.unwrap()));
}

fn handle_raw(brokers: &str, handled: &Arc<Handled>) {
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", brokers).set("group.id", "raw").set("auto.offset.reset", "earliest");
    settings.set("enable.auto.offset.store", "false").set("auto.commit.interval.ms", "100");
    let consumer: StreamConsumer = settings.create().unwrap();
    consumer.subscribe(&["raw"]).unwrap();
    let handled = Arc::clone(handled);
    tokio::spawn(async move {
        loop {
            let message = consumer.recv().await.unwrap();
            handled.one();
            consumer.store_offset_from_message(&message).unwrap();
        }
    });
}

/// Publishes so many at a time, and waits until all are handled.
async fn flow(producer: &FutureProducer, topic: &str, handled: &Handled, messages: u64) -> Duration {
    let before = handled.count.load(Ordering::SeqCst);
    let begun = Instant::now();
    let all = futures_util::stream::iter(0..messages);
    all.for_each_concurrent(AT_A_TIME, |n| publish_raw(producer, topic, n)).await;
    handled.reach(before + messages).await;
    begun.elapsed()
}

fn measure(criterion: &mut Criterion, runtime: &Runtime, brokers: &str) {
    let (mq, producer) = (runtime.block_on(ours(brokers)), raw(brokers));
    let mut group = criterion.benchmark_group("publish, one at a time");
    group.bench_function("ours", |bencher| bencher.iter(|| runtime.block_on(publish_ours(&mq, 1))));
    group.bench_function("raw", |bencher| {
        bencher.iter(|| runtime.block_on(publish_raw(&producer, "publish-raw", 1)));
    });
    group.finish();
    let all = || futures_util::stream::iter(0..AT_A_TIME as u64);
    let mut group = criterion.benchmark_group("publish, 64 at a time");
    group.bench_function("ours", |bencher| {
        bencher.iter(|| {
            runtime.block_on(all().for_each_concurrent(AT_A_TIME, |n| publish_ours(&mq, n)));
        });
    });
    group.bench_function("raw", |bencher| {
        bencher.iter(|| {
            let publish = |n| publish_raw(&producer, "publish-raw", n);
            runtime.block_on(all().for_each_concurrent(AT_A_TIME, publish));
        });
    });
    group.finish();
    let (by_ours, by_raw) = (Arc::new(Handled::default()), Arc::new(Handled::default()));
    runtime.block_on(async {
        handle_ours(&mq, &by_ours).await;
        handle_raw(brokers, &by_raw);
        // Both have joined their groups.
        flow(&producer, "main.ours", &by_ours, 1).await;
        flow(&producer, "raw", &by_raw, 1).await;
    });
    let mut group = criterion.benchmark_group("publish and consume");
    group.bench_function("ours", |bencher| {
        bencher.iter_custom(|messages| runtime.block_on(flow(&producer, "main.ours", &by_ours, messages)));
    });
    group.bench_function("raw", |bencher| {
        bencher.iter_custom(|messages| runtime.block_on(flow(&producer, "raw", &by_raw, messages)));
    });
    group.finish();
}

fn kafka(criterion: &mut Criterion) {
    let mock = MockCluster::new(1).unwrap();
    for topic in ["main.publish", "publish-raw", "main.ours", "raw"] {
        mock.create_topic(topic, 1, 1).unwrap();
    }
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    measure(criterion, &runtime, &mock.bootstrap_servers());
    runtime.shutdown_background();
}

criterion_group!(benches, kafka);
criterion_main!(benches);
