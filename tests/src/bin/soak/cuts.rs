//! Connections that are cut again and again under watches, reads and a held lock, while somebody
//! else writes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coord_api::prelude::*;
use coord_api::{Revision, Value, WatchStart};
use coord_etcd::{EtcdOptions, EtcdProvider};
use coord_servers::etcd::{Binary, Cluster, Proxy, Series};
use coord_testkit::view::ConfigView;
use coord_tests::harness::etcd::faults::Ways;
use coord_tests::progress::bar;

use crate::runtime;

/// Clients whose connections are cut, each with a watch.
const VICTIMS: usize = 4;

/// How often each of them is.
const EVERY: Duration = Duration::from_millis(60);

/// By when a watch must have told what was written before.
const SOON: Duration = Duration::from_secs(30);

/// Says how much was broken.
pub(crate) fn run(count: u64) -> u64 {
    runtime().block_on(cut(count))
}

async fn cut(count: u64) -> u64 {
    let (bar, begun) = (bar(count), Instant::now());
    let cluster = Cluster::three(&Binary::find(Series::V3_5));
    let writer = EtcdProvider::connect(EtcdOptions::new(cluster.endpoints())).await.unwrap();
    let start = writer.config().set_raw("start", Value::from("")).await.unwrap();
    let last = tokio::sync::watch::channel(None).0;
    let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (mut ways, mut followers, mut readers, mut guards) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for victim in 0..VICTIMS {
        let way = Ways::to(&cluster.endpoints()).await;
        let provider = EtcdProvider::connect(EtcdOptions::new(way.endpoints())).await.unwrap();
        guards
            .push(provider.lock().acquire(&format!("held/{victim}"), Duration::from_secs(15)).await.unwrap());
        followers.push(tokio::spawn(follow(Arc::clone(&provider), start, last.subscribe())));
        readers.push(tokio::spawn(read(provider, Arc::clone(&stop), Arc::clone(&reads))));
        ways.push(way);
    }
    let writing = tokio::spawn(write(writer, Arc::clone(&stop)));
    let total = |ways: &[Ways]| ways.iter().flat_map(|way| &way.0).map(Proxy::cut).sum::<u64>();
    let mut turn = tokio::time::interval(EVERY / VICTIMS as u32);
    for victim in (0..VICTIMS).cycle() {
        let cut = total(&ways);
        bar.set_position(cut.min(count));
        if cut >= count {
            break;
        }
        turn.tick().await;
        ways[victim].0.iter().for_each(Proxy::reset);
    }
    stop.store(true, Ordering::Relaxed);
    let written = writing.await.unwrap();
    last.send_replace(written.last().copied());
    let mut broken = 0;
    let mut complain = |what: String| {
        println!("BROKEN {what}");
        broken += 1;
    };
    let mut resyncs = 0;
    for (victim, follower) in followers.into_iter().enumerate() {
        match tokio::time::timeout(SOON, follower).await {
            // What is told out of order, twice or torn, panics in there.
            Ok(Ok(view)) => {
                resyncs += view.resyncs();
                let told: BTreeSet<_> = view.told().iter().map(|(_, version, _)| *version).collect();
                let missing = written.iter().filter(|version| !told.contains(version)).count();
                if missing > 0 && view.resyncs() == 0 {
                    complain(format!("watch {victim} left out {missing} of {} changes", written.len()));
                }
            }
            Ok(Err(error)) => complain(format!("watch {victim}: {error}")),
            Err(_) => complain(format!("watch {victim} has not come to the end {SOON:?} after the last cut")),
        }
    }
    for (victim, guard) in guards.iter().enumerate() {
        if !guard.is_held() {
            complain(format!("lock {victim} was lost: {:?}", guard.state()));
        }
    }
    for reader in readers {
        if let Err(error) = reader.await {
            complain(format!("a read failed: {error}"));
        }
    }
    bar.finish_and_clear();
    println!(
        "{} cuts, {VICTIMS} watches, {} changes told to each, {} reads, {resyncs} resyncs, {} locks held throughout",
        total(&ways),
        written.len(),
        reads.load(Ordering::Relaxed),
        guards.len()
    );
    println!("violations {broken}; {:.0} s", begun.elapsed().as_secs_f64());
    broken
}

/// Writes until it is stopped; what was acknowledged.
async fn write(provider: Arc<EtcdProvider>, stop: Arc<AtomicBool>) -> Vec<Revision> {
    let mut written = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let key = format!("w/{}", written.len() % 10);
        written.push(provider.config().set_raw(&key, Value::from(written.len().to_string())).await.unwrap());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    written
}

/// Reads over connections that are cut: what may be repeated succeeds.
async fn read(provider: Arc<EtcdProvider>, stop: Arc<AtomicBool>, reads: Arc<AtomicU64>) {
    while !stop.load(Ordering::Relaxed) {
        provider.config().get_raw("start").await.unwrap();
        reads.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn follow(
    provider: Arc<EtcdProvider>,
    start: Revision,
    mut last: tokio::sync::watch::Receiver<Option<Revision>>,
) -> ConfigView {
    let mut watch = provider.config().watch_prefix_raw("w", WatchStart::After(start)).await.unwrap();
    let mut view = ConfigView::after(start);
    loop {
        if last.borrow_and_update().is_some_and(|last| view.seen() >= last) {
            return view;
        }
        tokio::select! {
            event = watch.next() => view.take(event.expect("the watch goes on").expect("the watch goes on")),
            Ok(()) = last.changed() => {}
        }
    }
}
