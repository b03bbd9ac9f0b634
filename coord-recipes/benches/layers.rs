//! What a layer adds to reading one key of the embedded store while nobody listens and nothing
//! fails.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;

use coord_api::store::{Op, Range, Store, Txn};
use coord_memory::MemoryStore;
use coord_recipes::layers::{Namespace, Observe, Retry, RetryPolicy};
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;

const KEYS: usize = 10_000;

fn reads(criterion: &mut Criterion, name: &str, store: impl Store) {
    let key = |number: usize| format!("/app/{number:05}");
    for number in 0..KEYS {
        store.txn(Txn::new().then(Op::put(key(number), "value"))).now_or_never().unwrap().unwrap();
    }
    let keys: Vec<bytes::Bytes> = (0..KEYS).map(|number| key(number).into()).collect();
    let mut next = keys.iter().cycle();
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            let range = Range::key(next.next().unwrap().clone());
            black_box(store.range(range).now_or_never().unwrap().unwrap());
        });
    });
}

fn layers(criterion: &mut Criterion) {
    reads(criterion, "range/store", MemoryStore::new());
    reads(criterion, "range/observe", Observe::new(MemoryStore::new(), "memory"));
    reads(criterion, "range/retry", Retry::new(MemoryStore::new(), RetryPolicy::default()).unwrap());
    reads(criterion, "range/namespace", Namespace::new(MemoryStore::new(), "team").unwrap());
}

criterion_group!(benches, layers);
criterion_main!(benches);
