//! 64 concurrent durable sets, through the provider, against 64 threads that group their puts into
//! one raw flush of sled by hand; the same keys, values and disk in the same run. Time is per set.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coord_api::Provider;
use coord_api::prelude::*;
use coord_memory::MemoryProvider;
use criterion::{Criterion, criterion_group, criterion_main};
use parking_lot::{Condvar, Mutex};

const WRITERS: u64 = 64;
const KEYS: u64 = 10_000;
const VALUE: usize = 256;

fn key(writer: u64, n: u64) -> String {
    format!("dev/service-{writer:03}/component-{:05}", (n * WRITERS + writer) % KEYS)
}

/// A value that was not there before: sled writes nothing for one that is.
fn value() -> Vec<u8> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let mut value = vec![b'v'; VALUE];
    value[..8].copy_from_slice(&WRITTEN.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    value
}

/// sled with a group commit made by hand: whoever finds no flush running flushes for all who have
/// put by then.
struct ByHand {
    database: sled::Db,
    state: Mutex<Flushes>,
    changed: Condvar,
}

#[derive(Default)]
struct Flushes {
    put: u64,
    flushed: u64,
    running: bool,
}

impl ByHand {
    fn put(&self, key: &str, value: Vec<u8>) {
        self.database.insert(key, value).unwrap();
        let mut state = self.state.lock();
        state.put += 1;
        let own = state.put;
        while state.flushed < own {
            if state.running {
                self.changed.wait(&mut state);
                continue;
            }
            state.running = true;
            let upto = state.put;
            drop(state);
            self.database.flush().unwrap();
            state = self.state.lock();
            state.flushed = upto;
            state.running = false;
            self.changed.notify_all();
        }
    }
}

fn durable_sets(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let by_hand = ByHand {
        database: sled::Config::new().path(dir.path().join("raw")).flush_every_ms(None).open().unwrap(),
        state: Mutex::default(),
        changed: Condvar::new(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let provider: Arc<dyn Provider> = MemoryProvider::open(dir.path().join("ours")).unwrap();

    let mut group = c.benchmark_group("64 durable sets");
    group.sample_size(20);
    group.bench_function("raw", |b| {
        b.iter_custom(|rounds| {
            let start = Instant::now();
            std::thread::scope(|scope| {
                for writer in 0..WRITERS {
                    let by_hand = &by_hand;
                    scope.spawn(move || (0..rounds).for_each(|n| by_hand.put(&key(writer, n), value())));
                }
            });
            per_set(start)
        });
    });
    group.bench_function("provider", |b| {
        b.iter_custom(|rounds| {
            runtime.block_on(async {
                let start = Instant::now();
                let writers: Vec<_> = (0..WRITERS)
                    .map(|writer| {
                        let provider = Arc::clone(&provider);
                        tokio::spawn(async move {
                            for n in 0..rounds {
                                provider.config().set_raw(&key(writer, n), value().into()).await.unwrap();
                            }
                        })
                    })
                    .collect();
                for writer in writers {
                    writer.await.unwrap();
                }
                per_set(start)
            })
        });
    });
    group.finish();
}

fn per_set(start: Instant) -> Duration {
    start.elapsed() / u32::try_from(WRITERS).unwrap()
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(5)).warm_up_time(Duration::from_secs(2)).without_plots();
    targets = durable_sets
}
criterion_main!(benches);
