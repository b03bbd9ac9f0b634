//! The embedded engine, on a store in memory with virtual time, and on sled (K4 to K7, K10).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::indexing_slicing, reason = "a test fails by panicking")]

mod durable;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coord::memory::MemoryProvider;
use coord::prelude::*;
use coord::{Coord, ErrorKind, Outcome};
use coord_mq::{Delivery, Message, Mq, Publication, Subscription, Verdict};
use coord_service::health::State;
use coord_service::metrics::{Metrics, MetricsOptions, facade};
use coord_service::shutdown::ShutdownOptions;
use coord_service::trace::{self, TraceContext};
use coord_service::{App, Boot};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

const LIMIT: Duration = Duration::from_secs(600);

/// A service on a store in memory; several can share one.
struct Service {
    app: App,
    mq: Mq,
    memory: Arc<MemoryProvider>,
}

impl Service {
    async fn start() -> Self {
        Service::with("{}").await
    }

    async fn with(config: &str) -> Self {
        Service::on(MemoryProvider::new(), Some(config)).await
    }

    async fn on(memory: Arc<MemoryProvider>, config: Option<&str>) -> Self {
        let coord = Coord::new(memory.core().clone(), Arc::<MemoryProvider>::clone(&memory));
        if let Some(config) = config {
            coord.config().set_raw("dev/orders/mq", config.to_owned().into()).await.unwrap();
        }
        let linger = ShutdownOptions::default().with_linger(Duration::from_millis(10));
        let app = Boot::bare("orders").with_shutdown(linger).upgrade(&coord).await.unwrap();
        let mq = app.add(Mq::open(app.config("mq"), app.coord())).await.unwrap();
        app.started();
        Service { app, mq, memory }
    }

    /// Another process on the same store.
    async fn beside(&self) -> Service {
        Service::on(self.memory.client(), None).await
    }
}

/// What was handled: topic, id, deliveries.
type Seen = mpsc::UnboundedReceiver<Delivery>;

/// Handles everything, and tells.
async fn subscribe(mq: &Mq, topic: &str, group: &str) -> (Subscription, Seen) {
    let (tell, seen) = mpsc::unbounded_channel();
    let subscription = mq
        .subscribe(topic, group, move |delivery: Delivery| {
            let _ = tell.send(delivery);
            std::future::ready(Verdict::Done)
        })
        .await
        .unwrap();
    (subscription, seen)
}

async fn next(seen: &mut Seen) -> Delivery {
    timeout(LIMIT, seen.recv()).await.expect("a message").unwrap()
}

async fn ids(seen: &mut Seen, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        ids.push(next(seen).await.id().to_owned());
    }
    ids
}

/// Nothing comes for a long time.
async fn nothing(seen: &mut Seen) {
    assert!(timeout(Duration::from_secs(300), seen.recv()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn each_group_gets_each_message_since_it_was_made() {
    let service = Service::start().await;
    let mq = &service.mq;
    mq.publish("orders", Message::new("before").with_id("m-0")).await.unwrap();
    let (_one, mut one) = subscribe(mq, "orders", "one").await;
    for n in 1..=20 {
        let message = Message::new(format!("{n}")).with_id(format!("m-{n}")).with_key("ann");
        assert_eq!(mq.publish("orders", message).await.unwrap(), Publication::Stored);
    }
    mq.make_group("orders", "two").await.unwrap();
    mq.publish("orders", Message::new("21").with_id("m-21").with_key("ann")).await.unwrap();
    let all: Vec<_> = (1..=21).map(|n| format!("m-{n}")).collect();
    assert_eq!(ids(&mut one, 21).await, all, "in order, for they have one key");
    let (_two, mut two) = subscribe(mq, "orders", "two").await;
    assert_eq!(ids(&mut two, 1).await, ["m-21"]);
    nothing(&mut one).await;
    nothing(&mut two).await;
    assert_eq!(service.app.health().summary(), State::Ready);
    assert!(service.app.end().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_message_comes_as_it_was_sent_and_in_its_trace() {
    let service = Service::start().await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let _subscription = service
        .mq
        .subscribe("orders", "billing", move |delivery: Delivery| {
            let _ = tell.send((delivery, trace::current()));
            std::future::ready(Verdict::Done)
        })
        .await
        .unwrap();
    let context = TraceContext::new();
    let message = Message::new(vec![0, 255, 7]).with_key("ann").with_header("lang", "日本");
    trace::scope(context.clone(), service.mq.publish("orders", message)).await.unwrap();
    let (delivery, there) = told.recv().await.unwrap();
    assert_eq!((delivery.topic(), delivery.group(), delivery.key()), ("orders", "billing", Some("ann")));
    assert_eq!((delivery.payload().as_ref(), delivery.header("Lang")), (&[0, 255, 7][..], Some("日本")));
    assert_eq!(delivery.deliveries(), 1);
    assert_eq!(there.trace_id(), context.trace_id());
    assert_ne!(there.span_id(), context.span_id(), "a step of its own");
    // What is no trace context begins another trace, and is a header like others.
    let message = Message::new("x").with_header("traceparent", "00-nonsense");
    trace::scope(context.clone(), service.mq.publish("orders", message)).await.unwrap();
    let (delivery, there) = told.recv().await.unwrap();
    assert_ne!(there.trace_id(), context.trace_id());
    assert_eq!(delivery.header("traceparent"), Some("00-nonsense"));
}

#[tokio::test(start_paused = true)]
async fn what_is_published_twice_is_there_once_while_it_is_remembered() {
    let service = Service::with(r#"{"dedup_ms": 60000}"#).await;
    let (_subscription, mut seen) = subscribe(&service.mq, "orders", "billing").await;
    let publish = || service.mq.publish("orders", Message::new("x").with_id("m/1"));
    assert_eq!(publish().await.unwrap(), Publication::Stored);
    assert_eq!(publish().await.unwrap(), Publication::Known);
    assert_eq!(ids(&mut seen, 1).await, ["m/1"]);
    sleep(Duration::from_secs(50)).await;
    assert_eq!(publish().await.unwrap(), Publication::Known);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(publish().await.unwrap(), Publication::Stored, "it was forgotten");
    assert_eq!(ids(&mut seen, 1).await, ["m/1"]);
    nothing(&mut seen).await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_holds_its_own_partition_and_no_other() {
    let service = Service::start().await;
    let (tell, mut seen) = mpsc::unbounded_channel();
    let begun = Instant::now();
    let _subscription = service
        .mq
        .subscribe("orders", "billing", move |delivery: Delivery| {
            let _ = tell.send((delivery.id().to_owned(), delivery.deliveries(), begun.elapsed().as_secs()));
            let again = delivery.id() == "a-1" && delivery.deliveries() < 3;
            std::future::ready(if again { Verdict::Retry(Duration::from_secs(10)) } else { Verdict::Done })
        })
        .await
        .unwrap();
    for n in 1..=2 {
        for key in ["a", "b"] {
            let message = Message::new("x").with_key(key).with_id(format!("{key}-{n}"));
            service.mq.publish("orders", message).await.unwrap();
        }
    }
    let mut told = HashMap::<_, Vec<_>>::new();
    for _ in 0..6 {
        let (id, deliveries, after) = timeout(LIMIT, seen.recv()).await.unwrap().unwrap();
        told.entry(id[..1].to_owned()).or_default().push((id, deliveries, after));
    }
    let of = |id: &str, deliveries, after| (id.to_owned(), deliveries, after);
    assert_eq!(told["a"], [of("a-1", 1, 0), of("a-1", 2, 10), of("a-1", 3, 20), of("a-2", 1, 20)]);
    assert_eq!(told["b"], [of("b-1", 1, 0), of("b-2", 1, 0)]);
}

#[tokio::test(start_paused = true)]
async fn who_is_tried_too_often_or_can_never_be_handled_is_a_dead_letter() {
    let service = Service::start().await;
    let handled = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&handled);
    let _subscription = service
        .mq
        .subscribe("orders", "billing", move |delivery: Delivery| {
            noted.lock().push((delivery.id().to_owned(), delivery.deliveries()));
            let verdict = match delivery.id() {
                "again" => Verdict::Retry(Duration::from_millis(100)),
                "never" => Verdict::Dead("no such\naccount".to_owned()),
                "panic" => panic!("a handler with a bug"),
                _ => Verdict::Done,
            };
            std::future::ready(verdict)
        })
        .await
        .unwrap();
    for id in ["again", "never", "panic", "good"] {
        let message = Message::new(id).with_id(id).with_key("ann").with_header("lang", "en");
        service.mq.publish("orders", message).await.unwrap();
    }
    // Nobody has subscribed to them before: they wait.
    while handled.lock().last().is_none_or(|(id, _)| id != "good") {
        sleep(Duration::from_millis(100)).await;
    }
    let (_dead, mut dead) = subscribe(&service.mq, "orders.dead", "people").await;
    let mut told = Vec::new();
    for _ in 0..3 {
        let letter = next(&mut dead).await;
        let what = letter.dead_letter().unwrap();
        assert_eq!((what.topic, what.group, letter.key()), ("orders", "billing", Some("ann")));
        assert_eq!(letter.header("lang"), Some("en"));
        told.push((what.id.to_owned(), what.deliveries, what.why.to_owned(), letter.to_message()));
    }
    told.sort_by(|one, other| one.0.cmp(&other.0));
    let brief: Vec<_> = told.iter().map(|(id, deliveries, why, _)| (&**id, *deliveries, &**why)).collect();
    assert_eq!(
        brief,
        [
            ("again", 6, "to be tried again after 6 deliveries"),
            ("never", 1, "no such account"),
            ("panic", 6, "to be tried again after 6 deliveries"),
        ]
    );
    let counts = |id: &str| handled.lock().iter().filter(|(known, _)| known == id).count();
    assert_eq!([counts("again"), counts("never"), counts("panic"), counts("good")], [6, 1, 6, 1]);
    // One can be brought back.
    let again = told[1].3.clone().with_id("good-2");
    service.mq.publish("orders", again).await.unwrap();
    while counts("good-2") != 1 {
        sleep(Duration::from_millis(100)).await;
    }
    nothing(&mut dead).await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_before_it_says_done_leaves_its_message_to_another() {
    let service = Service::start().await;
    let other = service.beside().await;
    let (tell, mut stuck) = mpsc::unbounded_channel();
    let _stuck = other
        .mq
        .subscribe("orders", "billing", move |delivery: Delivery| {
            let _ = tell.send(delivery);
            std::future::pending::<Verdict>()
        })
        .await
        .unwrap();
    service.mq.publish("orders", Message::new("x").with_id("m-1").with_key("ann")).await.unwrap();
    service.mq.publish("orders", Message::new("y").with_id("m-2").with_key("ann")).await.unwrap();
    assert_eq!(stuck.recv().await.unwrap().deliveries(), 1);
    let (_subscription, mut seen) = subscribe(&service.mq, "orders", "billing").await;
    sleep(Duration::from_secs(100)).await;
    assert!(seen.try_recv().is_err(), "the session of the other one lives");
    other.memory.disconnect();
    let first = next(&mut seen).await;
    assert_eq!((first.id(), first.deliveries()), ("m-1", 2));
    let second = next(&mut seen).await;
    assert_eq!((second.id(), second.deliveries()), ("m-2", 1));
    nothing(&mut seen).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_kills_its_process_each_time_is_given_up() {
    let service = Service::with(r#"{"retries": 1}"#).await;
    let (_dead, mut dead) = subscribe(&service.mq, "orders.dead", "people").await;
    service.mq.make_group("orders", "billing").await.unwrap();
    service.mq.publish("orders", Message::new("x").with_id("m-1").with_key("ann")).await.unwrap();
    for n in 1..=4 {
        let other = service.beside().await;
        let (tell, mut stuck) = mpsc::unbounded_channel();
        let _stuck = other
            .mq
            .subscribe("orders", "billing", move |delivery: Delivery| {
                let _ = tell.send(delivery);
                std::future::pending::<Verdict>()
            })
            .await
            .unwrap();
        assert_eq!(next(&mut stuck).await.deliveries(), n);
        other.memory.disconnect();
    }
    let (_subscription, mut seen) = subscribe(&service.mq, "orders", "billing").await;
    let letter = next(&mut dead).await;
    assert_eq!(letter.dead_letter().unwrap().why, "delivered 4 times, and never settled");
    nothing(&mut seen).await;
}

#[tokio::test(start_paused = true)]
async fn no_more_is_fetched_than_is_handled_and_the_number_follows_the_configuration() {
    let service = Service::with(r#"{"concurrency": 2}"#).await;
    let (now, most, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let counts = Arc::new((now, most, done));
    let counted = Arc::clone(&counts);
    let _subscription = service
        .mq
        .subscribe("orders", "billing", move |_: Delivery| {
            let counted = Arc::clone(&counted);
            async move {
                let (now, most, done) = &*counted;
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(Duration::from_secs(1)).await;
                now.fetch_sub(1, Ordering::SeqCst);
                done.fetch_add(1, Ordering::SeqCst);
                Verdict::Done
            }
        })
        .await
        .unwrap();
    let (_, most, done) = &*counts;
    let batch = async |wanted: usize| {
        for _ in 0..64 {
            service.mq.publish("orders", Message::new("x")).await.unwrap();
        }
        while done.load(Ordering::SeqCst) < wanted {
            sleep(Duration::from_millis(100)).await;
        }
        most.swap(0, Ordering::SeqCst)
    };
    assert_eq!(batch(64).await, 2);
    let config = service.app.coord().config();
    let set = async |config_is: &'static str| {
        config.set_raw("dev/orders/mq", config_is.into()).await.unwrap();
        sleep(Duration::from_secs(1)).await;
    };
    set(r#"{"concurrency": 5}"#).await;
    assert_eq!(batch(128).await, 5);
    set(r#"{"concurrency": 1}"#).await;
    assert_eq!(batch(192).await, 1);
    // What needs a restart changes nothing, and says so; nor does a document that is wrong.
    set(r#"{"space": "other", "concurrency": 3}"#).await;
    assert_eq!(service.mq.status().waits_for_restart, Some("space"));
    assert_eq!(batch(256).await, 1);
    set("{\n\"concurrency\": 0}").await;
    let told = |state: &State| matches!(state, State::Degraded(why) if why.contains("concurrency"));
    timeout(LIMIT, service.app.health().wait_for(told)).await.unwrap();
    set("{\n\"concurrent\": 2}").await;
    let told = |state: &State| matches!(state, State::Degraded(why) if why.contains("line 2"));
    timeout(LIMIT, service.app.health().wait_for(told)).await.unwrap();
    assert_eq!(batch(320).await, 1);
}

#[tokio::test(start_paused = true)]
async fn two_processes_of_a_group_share_the_work_and_keep_the_order() {
    let service = Service::start().await;
    let other = service.beside().await;
    let handled = Arc::new(Mutex::new(Vec::new()));
    let mut subscriptions = Vec::new();
    for (who, mq) in [(0, &service.mq), (1, &other.mq)] {
        let handled = Arc::clone(&handled);
        let handler = move |delivery: Delivery| {
            let handled = Arc::clone(&handled);
            async move {
                sleep(Duration::from_millis(20)).await;
                let number: u32 = String::from_utf8_lossy(delivery.payload()).parse().unwrap();
                handled.lock().push((who, delivery.key().unwrap().to_owned(), number));
                Verdict::Done
            }
        };
        subscriptions.push(mq.subscribe("orders", "billing", handler).await.unwrap());
    }
    for n in 0..600 {
        let message = Message::new(n.to_string()).with_key(format!("k{}", n % 16));
        service.mq.publish("orders", message).await.unwrap();
    }
    while handled.lock().len() < 600 {
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_secs(60)).await;
    let handled = handled.lock();
    assert_eq!(handled.len(), 600, "each once");
    let mut last = HashMap::new();
    for (_, key, number) in &*handled {
        assert!(last.insert(key, *number).is_none_or(|before| before < *number), "{key}: {number}");
    }
    for who in [0, 1] {
        let share = handled.iter().filter(|(by, ..)| *by == who).count();
        assert!(share > 60, "process {who} had {share}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_in_hand_is_finished_at_the_end_and_the_rest_waits() {
    let service = Service::start().await;
    let other = service.beside().await;
    let done = Arc::new(AtomicUsize::new(0));
    let (counted, (tell, mut begun)) = (Arc::clone(&done), mpsc::unbounded_channel());
    let subscription = service
        .mq
        .subscribe("orders", "billing", move |_: Delivery| {
            let _ = tell.send(());
            let counted = Arc::clone(&counted);
            async move {
                sleep(Duration::from_secs(3)).await;
                counted.fetch_add(1, Ordering::SeqCst);
                Verdict::Done
            }
        })
        .await
        .unwrap();
    for n in 0..10 {
        let message = Message::new("x").with_key("ann").with_id(format!("m-{n}"));
        service.mq.publish("orders", message).await.unwrap();
    }
    begun.recv().await.unwrap();
    begun.recv().await.unwrap();
    assert!(service.app.end().await.is_clean());
    assert_eq!(done.load(Ordering::SeqCst), 2);
    assert!(subscription.status().over);
    let closed = service.mq.publish("orders", Message::new("x")).await.unwrap_err();
    assert_eq!((closed.kind(), closed.outcome()), (ErrorKind::Closed, Outcome::NotApplied));
    assert!(service.mq.subscribe("orders", "billing", async |_: Delivery| Verdict::Done).await.is_err());
    let (_subscription, mut seen) = subscribe(&other.mq, "orders", "billing").await;
    let all: Vec<_> = (2..10).map(|n| format!("m-{n}")).collect();
    assert_eq!(ids(&mut seen, 8).await, all);
    nothing(&mut seen).await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_stopped_or_dropped_takes_no_more() {
    let service = Service::start().await;
    let (one, mut seen) = subscribe(&service.mq, "orders", "billing").await;
    service.mq.publish("orders", Message::new("1")).await.unwrap();
    next(&mut seen).await;
    one.stop().await;
    service.mq.publish("orders", Message::new("2")).await.unwrap();
    nothing(&mut seen).await;
    assert_eq!(service.app.health().summary(), State::Degraded("mq orders/billing: closed".to_owned()));
    drop(one);
    assert_eq!(service.app.health().summary(), State::Ready);
    let (two, mut seen) = subscribe(&service.mq, "orders", "billing").await;
    assert_eq!(next(&mut seen).await.payload().as_ref(), b"2");
    drop(two);
    service.mq.publish("orders", Message::new("3")).await.unwrap();
    let (_three, mut seen) = subscribe(&service.mq, "orders", "billing").await;
    assert_eq!(next(&mut seen).await.payload().as_ref(), b"3");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_fails_calls_in_time_and_loses_nothing() {
    let service = Service::with(r#"{"publish_timeout_ms": 2000}"#).await;
    let other = service.beside().await;
    let (_subscription, mut seen) = subscribe(&service.mq, "orders", "billing").await;
    other.mq.publish("orders", Message::new("x").with_id("m-1")).await.unwrap();
    next(&mut seen).await;
    service.memory.disconnect();
    let begun = Instant::now();
    let error = service.mq.publish("orders", Message::new("x").with_id("m-2")).await.unwrap_err();
    assert!(begun.elapsed() <= Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(error.is_transient(), "{error}");
    // For longer than the TTL of the session.
    for n in 3..13 {
        other.mq.publish("orders", Message::new("x").with_id(format!("m-{n}"))).await.unwrap();
        sleep(Duration::from_secs(10)).await;
    }
    assert!(seen.try_recv().is_err());
    service.memory.reconnect();
    service.mq.publish("orders", Message::new("x").with_id("m-2")).await.unwrap();
    let mut all = ids(&mut seen, 11).await;
    all.sort();
    let mut wanted: Vec<_> = (2..13).map(|n| format!("m-{n}")).collect();
    wanted.sort();
    assert_eq!(all, wanted);
    nothing(&mut seen).await;
    timeout(LIMIT, service.app.health().wait_for(|state| *state == State::Ready)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn bad_calls_are_refused_before_anything_is_sent() {
    let service = Service::with(r#"{"max_message_bytes": 100}"#).await;
    service.memory.disconnect();
    let kind = async |topic: &str, message| service.mq.publish(topic, message).await.unwrap_err().kind();
    assert_eq!(kind("a b", Message::new("x")).await, ErrorKind::InvalidArgument);
    assert_eq!(kind("a", Message::new(vec![0; 101])).await, ErrorKind::InvalidArgument);
    assert_eq!(kind("a", Message::new("x").with_header("a", "\r\n")).await, ErrorKind::InvalidArgument);
    let handler = async |_: Delivery| Verdict::Done;
    let error = service.mq.subscribe("a", "b c", handler).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn too_much_that_waits_is_refused_until_it_is_less() {
    let service = Service::with(r#"{"max_backlog": 20}"#).await;
    service.mq.make_group("orders", "billing").await.unwrap();
    let mut stored = 0;
    let error = loop {
        match service.mq.publish("orders", Message::new("x")).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!((20..=22).contains(&stored), "{stored}");
    let (_subscription, mut seen) = subscribe(&service.mq, "orders", "billing").await;
    for _ in 0..stored {
        next(&mut seen).await;
    }
    service.mq.publish("orders", Message::new("x")).await.unwrap();
    // A group that is removed takes what waits for it along, and holds nobody up.
    drop(_subscription);
    service.mq.make_group("orders", "idle").await.unwrap();
    while service.mq.publish("orders", Message::new("x")).await.is_ok() {}
    assert!(service.mq.remove_group("orders", "idle").await.unwrap());
    assert!(service.mq.remove_group("orders", "billing").await.unwrap());
    assert!(!service.mq.remove_group("orders", "idle").await.unwrap());
    service.mq.publish("orders", Message::new("x")).await.unwrap();
    let store = service.app.coord().core();
    let left = store.list(coord::store::Span::prefix("/mq/main/orders/q/")).await.unwrap();
    assert!(left.entries.is_empty(), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_what_was_handled() {
    let service = Service::start().await;
    let (subscription, mut seen) = subscribe(&service.mq, "orders", "billing").await;
    for n in 0..100 {
        let message = Message::new("x").with_key(format!("k{n}"));
        service.mq.publish("orders", message).await.unwrap();
    }
    ids(&mut seen, 100).await;
    subscription.stop().await;
    sleep(Duration::from_secs(200)).await;
    let store = service.app.coord().core();
    let left = store.list(coord::store::Span::prefix("/mq/")).await.unwrap();
    let left: Vec<_> = left.entries.iter().map(|entry| String::from_utf8_lossy(&entry.key)).collect();
    let is_small = |key: &&str| key.contains("/w/b/") || key.contains("/d/") || key.ends_with("/topic");
    assert!(left.iter().all(|key| is_small(&&**key)), "{left:?}");
    assert_eq!(left.len(), 17, "a bell and a count for each partition");
}

#[tokio::test(start_paused = true)]
async fn what_happens_is_counted() {
    let recorder = Metrics::new(MetricsOptions::default()).unwrap();
    // All of it runs on this thread.
    let _here = facade::set_default_local_recorder(&recorder);
    let service = Service::with(r#"{"retries": 1}"#).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = move |delivery: Delivery| {
        let _ = tell.send(());
        let verdict = match delivery.id() {
            "again" => Verdict::Retry(Duration::from_secs(1)),
            _ => Verdict::Done,
        };
        std::future::ready(verdict)
    };
    let subscription = service.mq.subscribe("orders", "billing", handler).await.unwrap();
    for id in ["good", "good", "again"] {
        service.mq.publish("orders", Message::new("x").with_id(id)).await.unwrap();
    }
    service.memory.disconnect();
    service.mq.publish("orders", Message::new("x")).await.unwrap_err();
    service.memory.reconnect();
    for _ in 0..3 {
        timeout(LIMIT, told.recv()).await.unwrap().unwrap();
    }
    subscription.stop().await;
    let page = recorder.render();
    for line in [
        r#"mq_published_total{topic="orders",result="stored"} 2"#,
        r#"mq_published_total{topic="orders",result="known"} 1"#,
        r#"mq_published_total{topic="orders",result="failed"} 1"#,
        r#"mq_handled_total{topic="orders",group="billing",verdict="done"} 1"#,
        r#"mq_handled_total{topic="orders",group="billing",verdict="retry"} 1"#,
        r#"mq_handled_total{topic="orders",group="billing",verdict="dead"} 1"#,
        r#"mq_redelivered_total{topic="orders",group="billing"} 1"#,
        r#"mq_handle_duration_seconds_count{topic="orders",group="billing"} 3"#,
        r#"mq_publish_duration_seconds_count{topic="orders"} 4"#,
    ] {
        assert!(page.contains(line), "{line}: {page}");
    }
}
