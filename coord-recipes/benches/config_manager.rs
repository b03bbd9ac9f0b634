//! `current()` of the config manager against the load of an `ArcSwap`: at most 1.2 times as long.
//! And `get()` of a directory against a map behind an `ArcSwap`: at most 1.5 times as long.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;

use arc_swap::ArcSwap;
use coord_api::prelude::*;
use coord_memory::MemoryStore;
use coord_recipes::config_manager::{ConfigDirectory, ConfigManager};
use coord_recipes::{ProviderOptions, StoreProvider};
use criterion::{Criterion, criterion_group, criterion_main};

fn current(criterion: &mut Criterion) {
    let raw = ArcSwap::new(Arc::new(7_u64));
    let provider = StoreProvider::new(Arc::new(MemoryStore::new()), ProviderOptions::default());
    let manager = ConfigManager::builder(Arc::clone(provider.config()), "bench", "number")
        .env("bench")
        .default_value(7_u64)
        .build()
        .unwrap();
    let reader = manager.reader();

    let mut group = criterion.benchmark_group("config_manager");
    group.bench_function("arc_swap_load", |bencher| bencher.iter(|| **black_box(&raw).load()));
    group.bench_function("manager_current", |bencher| bencher.iter(|| *black_box(&manager).current()));
    group.bench_function("reader_current", |bencher| bencher.iter(|| *black_box(&reader).current()));
    group.finish();
}

fn get(criterion: &mut Criterion) {
    const DOCUMENTS: u64 = 1_000;
    let name = |n: u64| format!("document-{n:04}");
    let raw: HashMap<String, Arc<u64>> = (0..DOCUMENTS).map(|n| (name(n), Arc::new(n))).collect();
    let raw = ArcSwap::new(Arc::new(raw));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let provider = StoreProvider::new(Arc::new(MemoryStore::new()), ProviderOptions::default());
    let config = Arc::clone(provider.config());
    let directory = ConfigDirectory::<u64>::builder(config, "bench", "numbers").env("bench").build().unwrap();
    runtime.block_on(async {
        for n in 0..DOCUMENTS {
            provider.config().set(&format!("bench/bench/numbers/{}", name(n)), &n).await.unwrap();
        }
        assert_eq!(directory.start().await.documents, 1_000);
    });
    let asked = name(500);

    let mut group = criterion.benchmark_group("config_directory");
    group.bench_function("map_behind_arc_swap", |bencher| {
        bencher.iter(|| black_box(&raw).load().get(black_box(&asked)).map(|number| **number));
    });
    group.bench_function("directory_get", |bencher| {
        bencher.iter(|| black_box(&directory).get(black_box(&asked)).map(|number| *number));
    });
    group.finish();
}

criterion_group!(benches, current, get);
criterion_main!(benches);
