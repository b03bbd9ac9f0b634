//! What is promised, on brokers that do their work.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use coord::{Begun, ErrorKind, OnceOptions, Outcome};
use coord_mq::{Message, Publication};
use coord_service::trace::{self, TraceContext};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::FutureRecord;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use tokio::time::sleep;

use super::*;

#[tokio::test]
async fn each_group_gets_each_message_since_it_was_made_in_order() {
    let brokers = Brokers::with(&[("groups.each", 8)]);
    let service = Service::on(&brokers, "").await;
    let mq = &service.mq;
    let topic = "groups.each";
    mq.publish(topic, Message::new("before").with_id("m-0").with_key("ann")).await.unwrap();
    let (_one, mut one) = subscribe(mq, topic, "one").await;
    for n in 1..=20 {
        let message = Message::new("x").with_id(format!("m-{n}")).with_key("ann");
        assert_eq!(mq.publish(topic, message).await.unwrap(), Publication::Stored);
    }
    mq.make_group(topic, "two").await.unwrap();
    mq.make_group(topic, "two").await.unwrap();
    mq.publish(topic, Message::new("x").with_id("m-21").with_key("ann")).await.unwrap();
    let all: Vec<_> = (1..=21).map(|n| format!("m-{n}")).collect();
    assert_eq!(ids(&mut one, 21).await, all);
    let (_two, mut two) = subscribe(mq, topic, "two").await;
    assert_eq!(ids(&mut two, 1).await, ["m-21"]);
    service.until("all is well", |state| *state == State::Ready).await;
    assert!(service.app.end().await.is_clean());
    assert!(one.try_recv().is_err() && two.try_recv().is_err(), "each once");
    for group in ["one", "two"] {
        let (offset, text) = &brokers.places(topic, group, 8)[partition("ann")];
        assert_eq!((*offset, text.as_str()), (22, "mq-begun=0"), "{group} has left, and had nothing in hand");
    }
}

/// Which partition of 8 a key belongs to.
fn partition(key: &str) -> usize {
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    usize::try_from(hash % 8).unwrap()
}

#[tokio::test]
async fn a_message_comes_as_it_was_sent_and_in_its_trace() {
    let brokers = Brokers::with(&[("trace", 8)]);
    let service = Service::on(&brokers, "").await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = move |delivery: Delivery| {
        let _ = tell.send((delivery, trace::current()));
        std::future::ready(Verdict::Done)
    };
    let _subscription = service.mq.subscribe("trace", "billing", handler).await.unwrap();
    let context = TraceContext::new();
    let message = Message::new(vec![0, 255, 7]).with_key("ключ").with_header("lang", "日本");
    trace::scope(context.clone(), service.mq.publish("trace", message)).await.unwrap();
    let (delivery, there) = timeout(LIMIT, told.recv()).await.unwrap().unwrap();
    assert_eq!((delivery.topic(), delivery.group(), delivery.key()), ("trace", "billing", Some("ключ")));
    assert_eq!((delivery.payload().as_ref(), delivery.header("Lang")), (&[0, 255, 7][..], Some("日本")));
    assert_eq!((delivery.deliveries(), delivery.headers().len()), (1, 2), "{:?}", delivery.headers());
    assert_eq!(there.trace_id(), context.trace_id());
    // What others publish, with headers that are no trace context, and without a payload.
    let headers = OwnedHeaders::new().insert(Header { key: "traceparent", value: Some("00-nonsense") });
    let headers = headers.insert(Header { key: "bytes", value: Some(&[b'a', 255][..]) });
    let headers = headers.insert(Header::<&str> { key: "none", value: None });
    let record = FutureRecord::<[u8], [u8]>::to("main.trace").partition(3).headers(headers);
    let native = service.mq.kafka().unwrap().send_result(record.key(&[b'k', 255])).unwrap();
    native.await.unwrap().unwrap();
    let (delivery, there) = timeout(LIMIT, told.recv()).await.unwrap().unwrap();
    assert_eq!((delivery.payload().len(), delivery.partition()), (0, 3));
    assert_eq!((delivery.id(), delivery.key()), ("#3-0", Some("k\u{fffd}")));
    assert_eq!((delivery.header("bytes"), delivery.header("none")), (Some("a\u{fffd}"), Some("")));
    assert_ne!(there.trace_id(), context.trace_id());
}

#[tokio::test]
async fn a_topic_that_others_have_made_has_the_partitions_that_it_has() {
    let brokers = Brokers::with(&[("made.there", 3)]);
    let service = Service::on(&brokers, r#""partitions": 16"#).await;
    let (_subscription, mut seen) = subscribe(&service.mq, "made.there", "billing").await;
    for n in 0..20 {
        service.mq.publish("made.there", Message::new("x").with_id(format!("m-{n}"))).await.unwrap();
    }
    let mut all = ids(&mut seen, 20).await;
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 20);
    assert!(brokers.stored("made.there", 3).iter().all(|partition| !partition.is_empty()));
}

#[tokio::test]
async fn what_is_published_twice_is_there_twice_and_done_once_by_its_id() {
    let brokers = Brokers::with(&[("twice", 8)]);
    let service = Service::on(&brokers, "").await;
    let (deliveries, effects) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = (Arc::clone(&deliveries), Arc::clone(&effects));
    let once = service.app.coord().once();
    let handler = move |delivery: Delivery| {
        let ((deliveries, effects), once) = (counted.clone(), once.clone());
        async move {
            let key = format!("billing/{}", delivery.id());
            let begun = once.begin(&key, OnceOptions::default()).await;
            let done = match begun {
                Ok(Begun::Done(_)) => Ok(()),
                Ok(Begun::Mine(execution)) => {
                    effects.fetch_add(1, Ordering::SeqCst);
                    execution.complete("done").await.map(drop)
                }
                Err(error) => Err(error),
            };
            deliveries.fetch_add(1, Ordering::SeqCst);
            match done {
                Ok(_) => Verdict::Done,
                Err(_) => Verdict::Retry(Duration::from_millis(100)),
            }
        }
    };
    let _subscription = service.mq.subscribe("twice", "billing", handler).await.unwrap();
    for _ in 0..2 {
        let message = Message::new("x").with_id("m-1").with_key("ann");
        assert_eq!(service.mq.publish("twice", message).await.unwrap(), Publication::Stored);
    }
    until("both", || deliveries.load(Ordering::SeqCst) == 2).await;
    assert_eq!(effects.load(Ordering::SeqCst), 1);
    assert_eq!(brokers.stored("twice", 8).concat(), ["m-1", "m-1"]);
}

#[tokio::test]
async fn a_message_is_delivered_once_however_long_it_is_handled() {
    let brokers = Brokers::with(&[("long", 8)]);
    let service = Service::on(&brokers, r#""concurrency": 1"#).await;
    let (deliveries, now, most) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let counts = Arc::new((deliveries, now, most));
    let counted = Arc::clone(&counts);
    let handler = move |delivery: Delivery| {
        let counted = Arc::clone(&counted);
        async move {
            let (deliveries, now, most) = &*counted;
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // Longer than the brokers wait for a sign of life.
            let is_long = delivery.id() == "long";
            sleep(Duration::from_millis(if is_long { 9_000 } else { 20 })).await;
            now.fetch_sub(1, Ordering::SeqCst);
            assert_eq!(delivery.deliveries(), 1);
            deliveries.fetch_add(1, Ordering::SeqCst);
            Verdict::Done
        }
    };
    let subscription = service.mq.subscribe("long", "billing", handler).await.unwrap();
    service.mq.publish("long", Message::new("x").with_id("long")).await.unwrap();
    for n in 0..20 {
        service.mq.publish("long", Message::new("x").with_id(format!("m-{n}"))).await.unwrap();
    }
    until("all of them", || counts.0.load(Ordering::SeqCst) >= 21).await;
    subscription.stop().await;
    assert_eq!((counts.0.load(Ordering::SeqCst), counts.2.load(Ordering::SeqCst)), (21, 1));
    let places = brokers.places("long", "billing", 8);
    assert_eq!(places.iter().map(|(offset, _)| offset).sum::<i64>(), 21, "{places:?}");
    assert!(places.iter().all(|(_, text)| text == "mq-begun=0"), "{places:?}");
}

#[tokio::test]
async fn two_processes_of_a_group_share_the_work_and_keep_the_order() {
    let brokers = Brokers::with(&[("shared", 8)]);
    let (one, other) = (Service::on(&brokers, "").await, Service::on(&brokers, "").await);
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
async fn what_is_in_hand_is_finished_at_the_end_and_the_rest_comes_to_others() {
    let brokers = Brokers::with(&[("end", 8)]);
    let service = Service::on(&brokers, "").await;
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
    timeout(LIMIT, begun.recv()).await.unwrap().unwrap();
    let ended = Instant::now();
    assert!(service.app.end().await.is_clean());
    assert!(ended.elapsed() < Duration::from_secs(20), "{:?}", ended.elapsed());
    let done = done.load(Ordering::SeqCst);
    assert!(done >= 1);
    assert_eq!(brokers.places("end", "billing", 8)[partition("ann")].0, i64::try_from(done).unwrap());
    let other = Service::on(&brokers, "").await;
    let (_subscription, mut seen) = subscribe(&other.mq, "end", "billing").await;
    let rest: Vec<_> = (done..10).map(|n| format!("m-{n}")).collect();
    assert_eq!(ids(&mut seen, rest.len()).await, rest);
}

#[tokio::test]
async fn what_the_brokers_do_not_take_is_refused() {
    let brokers = Brokers::with(&[("space", 8)]);
    let service = Service::on(&brokers, r#""max_message_bytes": 100000"#).await;
    let refused = async |message| service.mq.publish("space", message).await.unwrap_err();
    assert_eq!(refused(Message::new(vec![0; 100_001])).await.kind(), ErrorKind::InvalidArgument);
    let own = refused(Message::new("x").with_header("mq-id", "m")).await;
    assert_eq!(own.kind(), ErrorKind::InvalidArgument);
    brokers.refuse(RDKafkaApiKey::Produce, RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, 1);
    let error = refused(Message::new(vec![0; 100_000])).await;
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::InvalidArgument, Outcome::NotApplied), "{error}");
    assert!(error.message().contains("message.max.bytes"), "{error}");
    brokers.refuse(RDKafkaApiKey::Produce, RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, 1);
    let error = refused(Message::new("x")).await;
    assert_eq!(
        (error.kind(), error.outcome()),
        (ErrorKind::PermissionDenied, Outcome::NotApplied),
        "{error}"
    );
    // librdkafka takes a while to see that it is allowed again.
    let allowed = async {
        while service.mq.publish("space", Message::new("x").with_id("m-1")).await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(LIMIT, allowed).await.expect("it is allowed again");
    assert_eq!(brokers.stored("space", 8).concat(), ["m-1"]);
    // The mock cannot do it.
    let error = service.mq.remove_group("space", "nobody").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}
