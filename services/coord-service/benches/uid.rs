//! What an id costs beside the two clock reads that it cannot do without, and how many of the ids
//! of one worker can be had.
//!
//! One worker has 4,096 ids a millisecond, and a single id takes less than that: so ids are taken
//! in spurts that fit into the second that may be borrowed, with pauses that are not counted.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use coord::prelude::*;
use coord_memory::MemoryProvider;
use coord_service::uid::{IDS_PER_MS, Uid, UidBuilder};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Ids that are taken without a pause.
const SPURT: u64 = 200_000;

fn open() -> (std::sync::Arc<MemoryProvider>, Uid) {
    let provider = MemoryProvider::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let opening = UidBuilder::new(provider.core(), provider.allocator(), "bench").open();
    let uid = runtime.block_on(opening).unwrap();
    (provider, uid)
}

/// Runs `call` in spurts, and counts the time of those alone.
fn in_spurts(calls: u64, mut call: impl FnMut()) -> Duration {
    let (mut left, mut total) = (calls, Duration::ZERO);
    while left > 0 {
        let spurt = left.min(SPURT);
        let began = Instant::now();
        for _ in 0..spurt {
            call();
        }
        total += began.elapsed();
        left -= spurt;
        std::thread::sleep(Duration::from_millis(spurt / u64::from(IDS_PER_MS) + 1));
    }
    total
}

#[allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "what an id is compared with")]
fn one_id(criterion: &mut Criterion) {
    let (_provider, uid) = open();
    let mut group = criterion.benchmark_group("uid");
    group.bench_function("two clock reads", |bencher| {
        bencher.iter_custom(|calls| {
            in_spurts(calls, || {
                black_box(std::time::SystemTime::now());
                black_box(Instant::now());
            })
        });
    });
    group.bench_function("next", |bencher| {
        bencher.iter_custom(|calls| {
            in_spurts(calls, || {
                black_box(uid.next().unwrap());
            })
        });
    });
    group.finish();
}

/// Batches as fast as there are ids: what was borrowed is used up before.
fn batches(criterion: &mut Criterion) {
    let (_provider, uid) = open();
    let mut group = criterion.benchmark_group("uid");
    group.throughput(Throughput::Elements(u64::from(IDS_PER_MS)));
    group.bench_function("batch of 4096, one worker", |bencher| {
        bencher.iter_custom(|batches| {
            while uid.next_batch(IDS_PER_MS).is_ok() {}
            let began = Instant::now();
            for _ in 0..batches {
                let batch = loop {
                    if let Ok(batch) = uid.next_batch(IDS_PER_MS) {
                        break batch;
                    }
                };
                batch.for_each(|id| {
                    black_box(id);
                });
            }
            began.elapsed()
        });
    });
    group.finish();
}

criterion_group!(benches, one_id, batches);
criterion_main!(benches);
