//! What is promised, on a server that does its work.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use async_nats::jetstream;
use coord::{ErrorKind, Outcome};
use coord_mq::{Message, Publication};
use coord_servers::nats::{NatsServer, NatsUser};
use coord_service::trace::{self, TraceContext};
use tokio::time::sleep;

use super::*;

/// One server for all tests that do it no harm; each has topics of its own.
fn url() -> String {
    static SERVER: OnceLock<NatsServer> = OnceLock::new();
    SERVER.get_or_init(NatsServer::start).url()
}

#[tokio::test]
async fn each_group_gets_each_message_since_it_was_made_in_order() {
    let service = Service::on(&url(), "").await;
    let mq = &service.mq;
    let topic = "groups.each";
    mq.publish(topic, Message::new("before").with_id("m-0")).await.unwrap();
    let (_one, mut one) = subscribe(mq, topic, "one").await;
    for n in 1..=20 {
        let message = Message::new("x").with_id(format!("m-{n}")).with_key("ann");
        assert_eq!(mq.publish(topic, message.clone()).await.unwrap(), Publication::Stored);
        assert_eq!(mq.publish(topic, message).await.unwrap(), Publication::Known);
    }
    mq.make_group(topic, "two").await.unwrap();
    mq.publish(topic, Message::new("x").with_id("m-21").with_key("ann")).await.unwrap();
    let all: Vec<_> = (1..=21).map(|n| format!("m-{n}")).collect();
    assert_eq!(ids(&mut one, 21).await, all);
    let (second, mut two) = subscribe(mq, topic, "two").await;
    assert_eq!(ids(&mut two, 1).await, ["m-21"]);
    assert_eq!(service.app.health().summary(), State::Ready);
    // One that went on would make the group anew.
    second.stop().await;
    assert!(mq.remove_group(topic, "two").await.unwrap());
    assert!(!mq.remove_group(topic, "two").await.unwrap());
    assert!(service.app.end().await.is_clean());
    assert!(one.try_recv().is_err() && two.try_recv().is_err(), "each once");
}

#[tokio::test]
async fn a_message_comes_as_it_was_sent_and_in_its_trace() {
    let service = Service::on(&url(), "").await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = move |delivery: Delivery| {
        let _ = tell.send((delivery, trace::current()));
        std::future::ready(Verdict::Done)
    };
    let _subscription = service.mq.subscribe("trace", "billing", handler).await.unwrap();
    let context = TraceContext::new();
    let message = Message::new(vec![0, 255, 7]).with_key("ключ").with_header("lang", "日本");
    trace::scope(context.clone(), service.mq.publish("trace", message)).await.unwrap();
    let (delivery, there) = told.recv().await.unwrap();
    assert_eq!((delivery.topic(), delivery.group(), delivery.key()), ("trace", "billing", Some("ключ")));
    assert_eq!((delivery.payload().as_ref(), delivery.header("Lang")), (&[0, 255, 7][..], Some("日本")));
    assert_eq!((delivery.deliveries(), delivery.headers().len()), (1, 2), "{:?}", delivery.headers());
    assert_eq!(there.trace_id(), context.trace_id());
    // What others publish, with headers that are no trace context.
    let client = service.mq.nats().unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("traceparent", "00-nonsense");
    client.publish_with_headers("mq.main.trace.3", headers, "native".into()).await.unwrap();
    let (delivery, there) = told.recv().await.unwrap();
    assert_eq!(
        (delivery.payload().as_ref(), delivery.partition(), delivery.key()),
        (&b"native"[..], 3, None)
    );
    assert!(delivery.id().starts_with('#'), "{}", delivery.id());
    assert_ne!(there.trace_id(), context.trace_id());
}

#[tokio::test]
async fn a_retry_holds_its_own_partition_and_who_is_tried_too_often_is_a_dead_letter() {
    let service = Service::on(&url(), r#""retries": 2"#).await;
    let handled = Shared::<Vec<_>>::default();
    let noted = Arc::clone(&handled);
    let handler = move |delivery: Delivery| {
        noted.lock().push((delivery.id().to_owned(), delivery.deliveries()));
        let verdict = match delivery.id() {
            "again" => Verdict::Retry(Duration::from_millis(200)),
            "never" => Verdict::Dead("no such\naccount".to_owned()),
            "panic" if delivery.deliveries() == 1 => panic!("a handler with a bug"),
            _ => Verdict::Done,
        };
        std::future::ready(verdict)
    };
    let _subscription = service.mq.subscribe("retries", "billing", handler).await.unwrap();
    for id in ["again", "never", "panic", "good"] {
        service.mq.publish("retries", Message::new(id).with_id(id).with_key("ann")).await.unwrap();
    }
    // Its key has another partition.
    service.mq.publish("retries", Message::new("x").with_id("other").with_key("bob")).await.unwrap();
    until("the last one", || handled.lock().iter().any(|(id, _)| id == "good")).await;
    let of = |id: &str, deliveries| (id.to_owned(), deliveries);
    let mut handled = handled.lock().clone();
    let other = handled.iter().position(|(id, _)| id == "other").unwrap();
    assert!(other < 3, "{handled:?}");
    handled.remove(other);
    let wanted = [
        of("again", 1),
        of("again", 2),
        of("again", 3),
        of("never", 1),
        of("panic", 1),
        of("panic", 2),
        of("good", 1),
    ];
    assert_eq!(handled, wanted);
    let (_dead, mut dead) = subscribe(&service.mq, "retries.dead", "people").await;
    for (id, deliveries, why) in
        [("again", 3, "to be tried again after 3 deliveries"), ("never", 1, "no such account")]
    {
        let letter = next(&mut dead).await;
        let what = letter.dead_letter().unwrap();
        assert_eq!((what.id, what.deliveries, what.why), (id, deliveries, why));
        assert_eq!((what.topic, what.group, letter.key()), ("retries", "billing", Some("ann")));
    }
}

#[tokio::test]
async fn a_message_is_delivered_once_however_long_it_is_handled() {
    let service = Service::on(&url(), r#""concurrency": 1, "ack_wait_ms": 1000"#).await;
    let (deliveries, now, most) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let counts = Arc::new((deliveries, now, most));
    let counted = Arc::clone(&counts);
    let handler = move |delivery: Delivery| {
        let counted = Arc::clone(&counted);
        async move {
            let (deliveries, now, most) = &*counted;
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let is_long = delivery.id() == "long";
            sleep(Duration::from_millis(if is_long { 3_000 } else { 200 })).await;
            now.fetch_sub(1, Ordering::SeqCst);
            deliveries.fetch_add(1, Ordering::SeqCst);
            Verdict::Done
        }
    };
    let subscription = service.mq.subscribe("long", "billing", handler).await.unwrap();
    for n in 0..20 {
        service.mq.publish("long", Message::new("x").with_id(format!("m-{n}"))).await.unwrap();
    }
    service.mq.publish("long", Message::new("x").with_id("long")).await.unwrap();
    until("all of them", || counts.0.load(Ordering::SeqCst) >= 21).await;
    subscription.stop().await;
    assert_eq!((counts.0.load(Ordering::SeqCst), counts.2.load(Ordering::SeqCst)), (21, 1));
    let stream = jetstream::new(service.mq.nats().unwrap().clone()).get_stream("mq=main=long").await.unwrap();
    for partition in 0..8 {
        let info = stream.consumer_info(format!("billing-{partition}")).await.unwrap();
        assert_eq!((info.num_pending, info.num_ack_pending, info.num_redelivered), (0, 0, 0));
        assert_eq!(info.delivered.consumer_sequence, info.ack_floor.consumer_sequence);
    }
}

#[tokio::test]
async fn two_processes_of_a_group_share_the_work_and_keep_the_order() {
    let (one, other) = (Service::on(&url(), "").await, Service::on(&url(), "").await);
    let handled = Shared::<Vec<_>>::default();
    let mut subscriptions = Vec::new();
    for (who, mq) in [(0, &one.mq), (1, &other.mq)] {
        let handled = Arc::clone(&handled);
        let handler = move |delivery: Delivery| {
            let handled = Arc::clone(&handled);
            async move {
                sleep(Duration::from_millis(2)).await;
                let number: u32 = String::from_utf8_lossy(delivery.payload()).parse().unwrap();
                handled.lock().push((who, delivery.key().unwrap().to_owned(), number));
                Verdict::Done
            }
        };
        subscriptions.push(mq.subscribe("shared", "billing", handler).await.unwrap());
    }
    for n in 0..300 {
        let message = Message::new(n.to_string()).with_key(format!("k{}", n % 16));
        one.mq.publish("shared", message).await.unwrap();
    }
    until("all of them", || handled.lock().len() >= 300).await;
    for subscription in &subscriptions {
        subscription.stop().await;
    }
    let handled = handled.lock();
    assert_eq!(handled.len(), 300, "each once");
    let mut last = std::collections::HashMap::new();
    for (_, key, number) in &*handled {
        assert!(last.insert(key, *number).is_none_or(|before| before < *number), "{key}: {number}");
    }
    for who in [0, 1] {
        let share = handled.iter().filter(|(by, ..)| *by == who).count();
        assert!(share > 30, "process {who} had {share}");
    }
}

#[tokio::test]
async fn what_is_in_hand_is_finished_at_the_end_and_the_rest_comes_to_others_at_once() {
    let (service, other) = (Service::on(&url(), "").await, Service::on(&url(), "").await);
    let done = Arc::new(AtomicUsize::new(0));
    let (counted, (tell, mut begun)) = (Arc::clone(&done), mpsc::unbounded_channel());
    let handler = move |_: Delivery| {
        let _ = tell.send(());
        let counted = Arc::clone(&counted);
        async move {
            sleep(Duration::from_millis(300)).await;
            counted.fetch_add(1, Ordering::SeqCst);
            Verdict::Done
        }
    };
    let _subscription = service.mq.subscribe("end", "billing", handler).await.unwrap();
    for n in 0..10 {
        let message = Message::new("x").with_key("ann").with_id(format!("m-{n}"));
        service.mq.publish("end", message).await.unwrap();
    }
    begun.recv().await.unwrap();
    let ended = Instant::now();
    assert!(service.app.end().await.is_clean());
    let done = done.load(Ordering::SeqCst);
    let (_subscription, mut seen) = subscribe(&other.mq, "end", "billing").await;
    let rest: Vec<_> = (done..10).map(|n| format!("m-{n}")).collect();
    assert_eq!(ids(&mut seen, rest.len()).await, rest);
    assert!(ended.elapsed() < Duration::from_secs(20), "before the server would have waited for it");
}

#[tokio::test]
async fn what_the_server_does_not_take_is_refused() {
    let server = NatsServer::start_with(None, Some(300_000));
    let service = Service::on(&server.url(), r#""max_message_bytes": 100000"#).await;
    let refused = async |message| service.mq.publish("space", message).await.unwrap_err();
    assert_eq!(refused(Message::new(vec![0; 100_001])).await.kind(), ErrorKind::InvalidArgument);
    assert_eq!(
        refused(Message::new("x").with_header("Nats-Rollup", "all")).await.kind(),
        ErrorKind::InvalidArgument
    );
    let (_subscription, mut seen) = subscribe(&service.mq, "space", "billing").await;
    let mut stored = 0;
    let error = loop {
        match service.mq.publish("space", Message::new(vec![0; 50_000])).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Exhausted, Outcome::NotApplied), "{error}");
    assert!((3..=6).contains(&stored), "{stored}");
    ids(&mut seen, stored).await;
}

#[tokio::test]
async fn a_service_starts_without_its_server_and_a_wrong_password_is_not_shown() {
    let mut server = NatsServer::start_with(Some(NatsUser::new("ann", "open-sesame")), None);
    server.kill();
    let url = server.url();
    let with =
        |password: &str| document(&format!(r#""url": "{url}", "user": "ann", "password": "{password}""#), "");
    let service = Service::with(&with("wrong-sesame")).await;
    let error = service.mq.publish("start", Message::new("x")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::NotApplied));
    let subscribing = service.mq.subscribe("start", "billing", async |_: Delivery| Verdict::Done);
    let subscription = subscribing.await.unwrap();
    assert!(!subscription.status().ready);
    server.restart();
    let state =
        service.until("the refusal", |state| state.to_string().contains("does not know the user")).await;
    assert!(!state.is_serving());
    let error = service.mq.publish("start", Message::new("x")).await.unwrap_err();
    let (status, parts) = (service.mq.status(), service.app.health().parts());
    let told = format!("{state} {error} {error:?} {status:?} {parts:?} {:?}", service.mq);
    assert!(!told.contains("wrong-sesame") && !told.contains("open-sesame"), "{told}");
    service.configure(&with("open-sesame")).await;
    service.until("the right password", |state| *state == State::Ready).await;
    assert!(subscription.ready().await.ready);
    service.mq.publish("start", Message::new("x")).await.unwrap();
}
