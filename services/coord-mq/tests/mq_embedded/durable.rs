//! The embedded engine on stores that outlive the process: sled and etcd.
#![cfg_attr(
    not(any(feature = "sled", feature = "etcd")),
    allow(dead_code, unused_imports, reason = "nothing is there to be tested")
)]

use std::sync::atomic::AtomicBool;

use super::*;

#[cfg(feature = "sled")]
#[tokio::test]
async fn messages_on_disk_outlive_the_process() {
    let directory = tempfile::tempdir().unwrap();
    outlives(&format!("sled://{}", directory.path().join("store").display())).await;
}

#[cfg(feature = "etcd")]
#[tokio::test]
async fn messages_on_etcd_outlive_the_process() {
    let etcd = Etcd::start();
    outlives(&etcd.url).await;
    let (app, mq) = start(&etcd.url).await;
    let (other_app, other) = start(&etcd.url).await;
    share(&mq, &other).await;
    app.end().await;
    other_app.end().await;
}

/// A service on the store at `url`.
async fn start(url: &str) -> (App, Mq) {
    let linger = ShutdownOptions::default().with_linger(Duration::from_millis(10));
    let coord = coord::open(url).await.unwrap();
    let app = Boot::bare("orders").with_shutdown(linger).upgrade(&coord).await.unwrap();
    let mq = app.add(Mq::open(app.config("mq"), app.coord())).await.unwrap();
    (app, mq)
}

/// Two processes have each message once, in order, and each its share; what is to be tried again,
/// or given up, is.
#[cfg(feature = "etcd")]
async fn share(one: &Mq, other: &Mq) {
    let handled = Arc::new(Mutex::new(Vec::new()));
    let mut subscriptions = Vec::new();
    for (who, mq) in [(0, one), (1, other)] {
        let handled = Arc::clone(&handled);
        let handler = move |delivery: Delivery| {
            let number: u32 = String::from_utf8_lossy(delivery.payload()).parse().unwrap();
            let verdict = match number {
                30 => Verdict::Dead("never".to_owned()),
                31 if delivery.deliveries() < 3 => Verdict::Retry(Duration::from_millis(100)),
                _ => Verdict::Done,
            };
            handled.lock().push((who, delivery.key().unwrap().to_owned(), number));
            std::future::ready(verdict)
        };
        subscriptions.push(mq.subscribe("shared", "billing", handler).await.unwrap());
    }
    for n in 0..200 {
        let message = Message::new(n.to_string()).with_key(format!("k{}", n % 16));
        one.publish("shared", message).await.unwrap();
    }
    let (_dead, mut dead) = subscribe(one, "shared.dead", "people").await;
    assert_eq!(next(&mut dead).await.dead_letter().unwrap().why, "never");
    let all = async {
        while handled.lock().len() < 202 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, all).await.unwrap();
    for subscription in &subscriptions {
        subscription.stop().await;
    }
    let handled = handled.lock();
    assert_eq!(handled.len(), 202, "each once, but for the one that was tried again");
    let mut last = HashMap::new();
    for (_, key, number) in &*handled {
        assert!(last.insert(key, *number).is_none_or(|before| before <= *number), "{key}: {number}");
    }
    for who in [0, 1] {
        assert!(handled.iter().any(|(by, ..)| *by == who), "process {who} had none");
    }
}

/// A server of etcd, gone when the test is.
#[cfg(feature = "etcd")]
struct Etcd {
    url: String,
    _process: coord_servers::process::Process,
    _directory: tempfile::TempDir,
}

#[cfg(feature = "etcd")]
impl Etcd {
    fn start() -> Self {
        use coord_servers::{free_ports, process::Process, program::find};

        let directory = tempfile::tempdir().unwrap();
        let ports = free_ports(2).unwrap();
        let (client, peer) =
            (format!("http://127.0.0.1:{}", ports[0]), format!("http://127.0.0.1:{}", ports[1]));
        let program = find("COORD_TEST_ETCD_BIN", "etcd-3.5/etcd", "etcd", "scripts/etcd.sh");
        let mut command = vec![program.into_os_string(), "--data-dir".into(), directory.path().into()];
        for (option, value) in [
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &format!("default={peer}")),
        ] {
            command.extend([option.into(), value.into()]);
        }
        let (tell, told) = std::sync::mpsc::channel();
        let process = Process::start(command, directory.path(), move |line| {
            if line.contains("ready to serve client requests") {
                let _ = tell.send(());
            }
        })
        .unwrap();
        told.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("etcd is not ready: {}", process.log()));
        let url = format!("etcd://127.0.0.1:{}", ports[0]);
        Etcd { url, _process: process, _directory: directory }
    }
}

/// What waits, and which ids are remembered, is known to the next process.
async fn outlives(url: &str) {
    let (app, mq) = start(url).await;
    mq.make_group("orders", "billing").await.unwrap();
    for n in 0..50 {
        mq.publish("orders", Message::new("x").with_key("ann").with_id(format!("m-{n}"))).await.unwrap();
    }
    let stopped = Arc::new(AtomicBool::new(false));
    let (tell, mut seen) = mpsc::unbounded_channel();
    let stop = Arc::clone(&stopped);
    let subscription = mq
        .subscribe("orders", "billing", move |delivery: Delivery| {
            let _ = tell.send(delivery.id().to_owned());
            let verdict = match stop.load(Ordering::SeqCst) {
                true => Verdict::Retry(Duration::from_secs(60)),
                false => Verdict::Done,
            };
            std::future::ready(verdict)
        })
        .await
        .unwrap();
    let mut first = Vec::new();
    while first.len() < 20 {
        first.push(timeout(LIMIT, seen.recv()).await.unwrap().unwrap());
    }
    stopped.store(true, Ordering::SeqCst);
    subscription.stop().await;
    while let Ok(id) = seen.try_recv() {
        first.push(id);
    }
    app.end().await;
    drop((app, mq, subscription));
    let (app, mq) = start(url).await;
    assert_eq!(
        mq.publish("orders", Message::new("x").with_key("ann").with_id("m-49")).await.unwrap(),
        Publication::Known,
        "ids are remembered as well"
    );
    let (_subscription, mut seen) = subscribe(&mq, "orders", "billing").await;
    let mut all = first.clone();
    while all.last().is_none_or(|id| id != "m-49") {
        all.push(next(&mut seen).await.id().to_owned());
    }
    let mut once = all.clone();
    once.dedup();
    let wanted: Vec<_> = (0..50).map(|n| format!("m-{n}")).collect();
    assert_eq!(once, wanted, "in order, and only the one in hand twice");
    assert!(all.len() <= 51);
    app.end().await;
}
