//! Retries and dead letters.

use std::sync::atomic::{AtomicUsize, Ordering};

use coord_mq::Message;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Code};

use super::*;

#[tokio::test]
async fn a_retry_holds_its_own_partition_and_who_is_tried_too_often_is_a_dead_letter() {
    let brokers = Brokers::with(&[("retries", 8), ("retries.dead", 1)]);
    let service = Service::on(&brokers, r#""retries": 2"#).await;
    let handled = Shared::<Vec<_>>::default();
    let noted = Arc::clone(&handled);
    let handler = move |delivery: Delivery| {
        noted.lock().push((delivery.id().to_owned(), delivery.deliveries()));
        let verdict = match delivery.id() {
            "again" => Verdict::Retry(Duration::from_millis(500)),
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
async fn how_often_a_message_was_tried_is_known_to_whoever_has_it_next() {
    let brokers = Brokers::with(&[("tries", 8)]);
    let service = Service::on(&brokers, "").await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = move |delivery: Delivery| {
        let _ = tell.send(delivery.deliveries());
        let later = if delivery.deliveries() == 1 { 0 } else { 600_000 };
        std::future::ready(Verdict::Retry(Duration::from_millis(later)))
    };
    let subscription = service.mq.subscribe("tries", "billing", handler).await.unwrap();
    service.mq.publish("tries", Message::new("x").with_id("m-0")).await.unwrap();
    for deliveries in 1..=2 {
        assert_eq!(timeout(LIMIT, told.recv()).await.unwrap(), Some(deliveries));
    }
    subscription.stop().await;
    let (_subscription, mut seen) = subscribe(&service.mq, "tries", "billing").await;
    assert_eq!(next(&mut seen).await.deliveries(), 3, "sooner, where the process ends meanwhile");
}

#[tokio::test]
async fn a_dead_letter_is_stored_before_its_message_is_acknowledged() {
    let brokers = Brokers::with(&[("letters", 8), ("letters.dead", 1)]);
    let service = Service::on(&brokers, r#""publish_timeout_ms": 1000"#).await;
    let handled = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&handled);
    let mock = &brokers;
    let handler = move |_: Delivery| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Verdict::Dead("never".to_owned()))
    };
    let subscription = service.mq.subscribe("letters", "billing", handler).await.unwrap();
    // The letter is not stored: then neither is it that the message is done.
    mock.mock.topic_error("main.letters.dead", Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED).unwrap();
    service.mq.publish("letters", Message::new("x").with_id("m-0").with_key("ann")).await.unwrap();
    until("it comes again", || handled.load(Ordering::SeqCst) >= 2).await;
    let reached: i64 = brokers.places("letters", "billing", 8).iter().map(|(offset, _)| offset).sum();
    assert_eq!(reached, 0);
    mock.mock.topic_error("main.letters.dead", Code::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    until("the letter is stored", || brokers.stored("letters.dead", 1)[0] == ["m-0~billing"]).await;
    until("and then the message is acknowledged", || {
        brokers.places("letters", "billing", 8).iter().map(|(offset, _)| offset).sum::<i64>() == 1
    })
    .await;
    subscription.stop().await;
    assert_eq!(brokers.stored("letters.dead", 1)[0].len(), 1);
}

#[tokio::test]
async fn what_cannot_be_stored_to_be_done_is_stored_later() {
    let brokers = Brokers::with(&[("later", 8)]);
    let service = Service::on(&brokers, "").await;
    let (subscription, mut seen) = subscribe(&service.mq, "later", "billing").await;
    service.mq.publish("later", Message::new("x").with_id("m-0").with_key("ann")).await.unwrap();
    assert_eq!(ids(&mut seen, 1).await, ["m-0"]);
    brokers.refuse(Api::OffsetCommit, Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED, 20);
    service.mq.publish("later", Message::new("x").with_id("m-1").with_key("ann")).await.unwrap();
    let told = subscription.wait_for(|status| status.fault.is_some());
    let told = timeout(LIMIT, told).await.unwrap().fault.unwrap();
    assert!(told.contains("does not allow"), "{told}");
    assert_eq!(ids(&mut seen, 1).await, ["m-1"]);
    until("it is stored", || {
        brokers.places("later", "billing", 8).iter().map(|(offset, _)| offset).sum::<i64>() == 2
    })
    .await;
    timeout(LIMIT, subscription.wait_for(|status| status.fault.is_none())).await.unwrap();
    assert!(seen.try_recv().is_err(), "each once");
}
