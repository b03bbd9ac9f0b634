//! What the model costs: to fold the log, to read and to seal an event, to keep the view of all
//! paths; and what an append costs beside the transaction that it sends, on the store in memory.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use coord_api::store::{Compare, Op, Range, Store, Txn};
use coord_global::ledger::{Given, Ledger, Writer};
use coord_global::model::append::{Draft, Hello};
use coord_global::model::{
    Actor, BlobRef, Body, Dot, EditId, Entry, Event, Fields, Hash, Hlc, Names, NodeId, PathView, RegionId,
    RelPath, Sealed, Session, SpaceName, State, Version, VersionVector,
};
use coord_memory::MemoryStore;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn space() -> SpaceName {
    SpaceName::new("main").unwrap()
}

fn actor() -> Actor {
    Actor::region(RegionId::new("amsterdam").unwrap(), 1)
}

fn version(n: u64, time: u64) -> Version {
    let content = BlobRef { hash: Hash::of_content(&time.to_be_bytes()), size: 1_000 };
    Version {
        path: RelPath::new(format!("directory-{}/subdirectory-{}/file-{n}.txt", n % 40, n % 7)).unwrap(),
        content: Some(content),
        modified_ms: time,
        meta: BTreeMap::new(),
        was: None,
        base: None,
        changed: Fields::CONTENT,
        time: Hlc::at(time),
        primary: RegionId::new("amsterdam").unwrap(),
    }
}

/// Edits of `files` files in turn, each on top of the one before, in entries of 100.
fn log(files: u64, edits: u64) -> Vec<Entry> {
    let mut prev = Hash::ZERO;
    let mut chain = Hash::ZERO;
    let mut entries: Vec<Entry> = Vec::new();
    for seq in 1..=edits {
        let n = seq % files;
        let seen = if seq > files {
            [Dot::new(actor(), seq - files)].into_iter().collect()
        } else {
            VersionVector::new()
        };
        let event = Event {
            format: 1,
            dot: Dot::new(actor(), seq),
            edit: EditId::from(u128::from(seq).to_be_bytes()),
            node: NodeId::created(&space(), &n.to_string(), &Hash::ZERO, 0),
            context: seen,
            body: Body::Write(version(n, seq)),
            prev,
        };
        let event = Sealed::new(event).unwrap();
        prev = event.hash();
        if entries.last().is_none_or(|entry| entry.events.len() == 100) {
            entries.push(Entry { received_ms: seq, first: seq, chain, events: Vec::new() });
        }
        chain = coord_global::model::log::chained(chain, &event);
        entries.last_mut().unwrap().events.push(event);
    }
    entries
}

fn model(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("model");
    const EDITS: u64 = 20_000;
    group.throughput(Throughput::Elements(EDITS));
    for files in [1_000, 10_000] {
        let entries = log(files, EDITS);
        group.bench_function(format!("fold, {files} files"), |bencher| {
            bencher.iter(|| {
                let mut state = State::new(Names::Folded, 1);
                for entry in &entries {
                    black_box(state.fold(entry, usize::MAX).unwrap());
                }
                state
            });
        });
    }
    let entries = log(1_000, 1_000);
    group.throughput(Throughput::Elements(1_000));
    let bytes: Vec<Vec<u8>> =
        entries.iter().flat_map(|entry| &entry.events).map(|event| event.bytes().to_vec()).collect();
    group.bench_function("read an event", |bencher| {
        bencher.iter(|| bytes.iter().for_each(|bytes| drop(black_box(Sealed::read(bytes.clone()).unwrap()))));
    });
    let mut state = State::new(Names::Folded, 1);
    entries.iter().for_each(|entry| drop(state.fold(entry, usize::MAX).unwrap()));
    group.bench_function("a file into the view", |bencher| {
        bencher.iter(|| {
            let mut view = PathView::new(Names::Folded);
            state.nodes.iter().for_each(|(id, node)| view.set(*id, Some(node)));
            view
        });
    });
    group.finish();
}

fn append(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut group = criterion.benchmark_group("append an update");
    group.sample_size(30);

    let ledger =
        runtime.block_on(Ledger::open(Arc::new(MemoryStore::new()), space(), Names::Folded)).unwrap();
    let id = NodeId::created(&space(), "f", &Hash::ZERO, 0);
    let mut context = VersionVector::new();
    let mut n = 0_u64;
    runtime.block_on(ledger.put_content(&Hash::of_content(&0_u64.to_be_bytes()), "x")).unwrap();
    group.bench_function("ours", |bencher| {
        bencher.iter(|| {
            n += 1;
            let version = Version { content: version(1, 0).content, ..version(1, n) };
            let draft = Draft {
                edit: EditId::from(u128::from(n).to_be_bytes()),
                node: id,
                context: context.clone(),
                body: Body::Write(version),
            };
            runtime.block_on(ledger.write(Writer::Api, vec![draft], Given::default())).unwrap();
            context = [Dot::new(Actor::api(1), n)].into_iter().collect();
        });
    });

    // The same keys and sizes by hand: compare the head; write head, entry, actor and file; else
    // read the head.
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let mut revision =
        runtime.block_on(store.txn(Txn::new().then(Op::put("/head", vec![b'x'; 300])))).unwrap().revision;
    let mut n = 0_u64;
    group.bench_function("the transaction by hand", |bencher| {
        bencher.iter(|| {
            n += 1;
            let txn = Txn::new()
                .when(Compare::Modified("/head".into(), revision))
                .when(Compare::Absent("/content".into()))
                .then(Op::put("/head", vec![b'x'; 300]))
                .then(Op::put(format!("/log/{n:020}"), vec![b'x'; 420]))
                .then(Op::put("/actor", vec![b'x'; 100]))
                .then(Op::put("/node", vec![b'x'; 280]))
                .otherwise(Op::Range(Range::key("/head")));
            revision = runtime.block_on(store.txn(txn)).unwrap().revision;
        });
    });
    group.finish();
}

/// Hello is what each run of an agent says once.
fn hello(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ledger =
        runtime.block_on(Ledger::open(Arc::new(MemoryStore::new()), space(), Names::Folded)).unwrap();
    let region = RegionId::new("amsterdam").unwrap();
    let said = Hello {
        actor: None,
        session: Session::from([1; 16]),
        before: None,
        epoch: 0,
        cursor: 0,
        chain: Hash::ZERO,
        renew: false,
        astray: false,
    };
    criterion.bench_function("hello", |bencher| {
        bencher.iter(|| runtime.block_on(ledger.hello(&region, &said, |_| false, 1)).unwrap());
    });
}

criterion_group!(benches, model, append, hello);
criterion_main!(benches);
