//! What a line of JSON costs whoever logs, beside tracing-subscriber's, in one run.
//!
//! Both record the same event in the same spans. `direct` is tracing-subscriber as it comes: it
//! writes on the thread that logs. `handed over` is to it what ours always does: lines go through a
//! bounded queue to a thread that writes. All of it ends in a writer that takes everything.

#![allow(missing_docs, clippy::expect_used, reason = "a benchmark, whose functions are made by macros")]

use std::io::{self, Write};
use std::sync::mpsc::{SyncSender, sync_channel};

use coord_service::clog::{Clog, LogConfig};
use coord_service::trace::{self, TraceContext};
use criterion::{Criterion, criterion_group, criterion_main};
use tracing::{Dispatch, dispatcher, info, info_span};
use tracing_subscriber::layer::SubscriberExt;

/// What is measured: a record as a service makes it.
fn record(n: u64) {
    info!(message_id = n, room = "lobby", took_ms = 1.25, "message sent");
}

/// Runs in two spans, as inside of a request, or in none.
fn within(dispatch: &Dispatch, spans: bool, run: impl FnOnce()) {
    dispatcher::with_default(dispatch, || {
        if spans {
            let request = info_span!("request", method = "POST", path = "/send").entered();
            let send = info_span!("send", user = 7_u64).entered();
            trace::in_scope(TraceContext::new(), run);
            drop((send, request));
        } else {
            run();
        }
    });
}

/// Hands each line over to a thread, and leaves out what it has no room for.
#[derive(Clone)]
struct HandedOver(SyncSender<Vec<u8>>);

impl Write for HandedOver {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.try_send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn theirs(writer: impl Write + Clone + Send + Sync + 'static) -> Dispatch {
    let layer = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_file(true)
        .with_line_number(true)
        .with_writer(move || writer.clone());
    Dispatch::new(tracing_subscriber::registry().with(tracing::level_filters::LevelFilter::INFO).with(layer))
}

#[derive(Clone)]
struct Nowhere;

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        std::hint::black_box(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lines(criterion: &mut Criterion) {
    let config = LogConfig::default().with_format("json");
    let logs = Clog::builder("bench")
        .config(config)
        .writer(Nowhere)
        .queue_bytes(64 * 1024 * 1024)
        .start()
        .expect("a thread");
    let (lines, written) = sync_channel::<Vec<u8>>(16 * 1024);
    let thread = std::thread::spawn(move || written.iter().for_each(|line| drop(std::hint::black_box(line))));
    let peers = [
        ("ours", Dispatch::new(tracing_subscriber::registry().with(logs.layer()))),
        ("tracing-subscriber, direct", theirs(Nowhere)),
        ("tracing-subscriber, handed over", theirs(HandedOver(lines))),
    ];
    for spans in [false, true] {
        let name = if spans { "a line of JSON in two spans" } else { "a line of JSON" };
        let mut group = criterion.benchmark_group(name);
        for (peer, dispatch) in &peers {
            group.bench_function(*peer, |bencher| {
                within(dispatch, spans, || {
                    let mut n = 0;
                    bencher.iter(|| {
                        n += 1;
                        record(n);
                    });
                });
            });
        }
        group.finish();
    }
    // Ours must not be fast by leaving lines out.
    assert_eq!(logs.status().lost, 0, "lines were lost");
    drop(peers);
    thread.join().expect("the thread that takes lines");
}

criterion_group!(benches, lines);
criterion_main!(benches);
