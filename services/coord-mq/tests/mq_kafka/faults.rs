//! What becomes of messages under load when brokers, requests, members and processes fail.

use std::process::{Command, Stdio};

use coord_mq::Message;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Code};
use tokio::time::sleep;

use super::load::{DEADLINE, Load, PARTITIONS, TOPIC, with, work};
use super::*;

fn brokers() -> Brokers {
    Brokers::with(&[(TOPIC, PARTITIONS)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_go_down_and_come_back_lose_nothing() {
    let brokers = brokers();
    let load = Load::start(&with(&brokers, "")).await;
    load.flows(100).await;
    // One after the other.
    for broker in 1..=3 {
        brokers.mock.broker_down(broker).unwrap();
        sleep(Duration::from_millis(500)).await;
        brokers.mock.broker_up(broker).unwrap();
        load.flows(100).await;
    }
    // All of them, and for longer than a call may take.
    for pause in [DEADLINE / 4, DEADLINE + Duration::from_millis(500)] {
        brokers.all_down();
        sleep(pause).await;
        brokers.all_up();
        load.flows(100).await;
    }
    // Slow ones.
    brokers.mock.broker_round_trip_time(-1, Duration::from_millis(200)).unwrap();
    load.flows(20).await;
    brokers.mock.broker_round_trip_time(-1, Duration::ZERO).unwrap();
    load.flows(100).await;
    load.end(&brokers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_fail_lose_nothing_and_double_nothing() {
    let brokers = brokers();
    let load = Load::start(&with(&brokers, "")).await;
    load.flows(100).await;
    for (kind, error) in [
        (Api::Produce, Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS),
        (Api::Produce, Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION),
        (Api::Produce, Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT),
        // The connection is cut.
        (Api::Produce, Code::RD_KAFKA_RESP_ERR__TRANSPORT),
        (Api::Fetch, Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION),
        (Api::Fetch, Code::RD_KAFKA_RESP_ERR__TRANSPORT),
        (Api::OffsetCommit, Code::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS),
        (Api::OffsetCommit, Code::RD_KAFKA_RESP_ERR_NOT_COORDINATOR),
        (Api::OffsetCommit, Code::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS),
        (Api::OffsetCommit, Code::RD_KAFKA_RESP_ERR__TRANSPORT),
        (Api::FindCoordinator, Code::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE),
        (Api::Metadata, Code::RD_KAFKA_RESP_ERR__TRANSPORT),
    ] {
        brokers.refuse(kind, error, 5);
        load.flows(200).await;
    }
    let counted = load.end(&brokers).await;
    assert_eq!(counted.failed, 0, "librdkafka tries again, within the deadline, and is known again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_thrown_out_comes_back_and_loses_nothing() {
    let brokers = brokers();
    let load = Load::start(&with(&brokers, "")).await;
    load.flows(100).await;
    for (kind, error) in [
        (Api::Heartbeat, Code::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID),
        (Api::OffsetCommit, Code::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION),
    ] {
        brokers.refuse(kind, error, 1);
        load.flows(1_000).await;
    }
    load.end(&brokers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_come_and_go_under_load_lose_nothing_and_disturb_no_order() {
    let brokers = brokers();
    let load = Load::start(&with(&brokers, "")).await;
    load.flows(100).await;
    for _ in 0..2 {
        let other = Service::with(&with(&brokers, "")).await;
        let before = load.effects.lock().by_others();
        let effects = Arc::clone(&load.effects);
        let subscription = work(&other.mq, &effects).await;
        until("the other one has its share", || effects.lock().by_others() >= before + 50).await;
        subscription.stop().await;
        assert!(other.app.end().await.is_clean());
        load.flows(100).await;
    }
    let counted = load.end(&brokers).await;
    assert_eq!(counted.failed, 0);
    assert_eq!(counted.again, 0, "what was in hand was finished and stored before it was given up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_replaced_under_load_fails_no_call() {
    let brokers = brokers();
    let load = Load::start(&with(&brokers, "")).await;
    load.flows(100).await;
    for generation in 2..=4 {
        let client = format!(r#""client_id": "generation-{generation}""#);
        load.service.configure(&with(&brokers, &client)).await;
        let swapped = load.service.mq.wait_for(|status| status.generation == generation);
        assert_eq!(timeout(LIMIT, swapped).await.unwrap().generation, generation);
        load.flows(100).await;
    }
    let counted = load.end(&brokers).await;
    assert_eq!((counted.failed, counted.again), (0, 0), "0 calls failed, 0 delivered twice");
}

/// Names the brokers that [`child`] is to use.
const CHILD_BROKERS: &str = "COORD_MQ_TEST_CHILD_BROKERS";
/// Names the file in which it notes what it has done.
const CHILD_NOTES: &str = "COORD_MQ_TEST_CHILD_NOTES";

/// Not a test: the process that is killed between what it does and its being stored.
#[tokio::test]
#[ignore = "a process that another test runs"]
async fn child() {
    let (Ok(brokers), Ok(notes)) = (std::env::var(CHILD_BROKERS), std::env::var(CHILD_NOTES)) else { return };
    let service = Service::with(&document(&brokers, "", "")).await;
    let handler = move |delivery: Delivery| {
        if delivery.id() == "deadly" {
            std::fs::write(&notes, format!("{} {}", delivery.id(), delivery.deliveries())).unwrap();
            std::process::abort();
        }
        std::future::ready(Verdict::Done)
    };
    let _subscription = service.mq.subscribe("killed", "billing", handler).await.unwrap();
    sleep(LIMIT).await;
}

#[tokio::test]
async fn what_was_handled_and_not_stored_by_a_killed_process_comes_again_and_is_counted() {
    let brokers = Brokers::with(&[("killed", 8)]);
    let service = Service::on(&brokers, "").await;
    service.mq.make_group("killed", "billing").await.unwrap();
    for id in ["m-0", "m-1", "deadly", "m-2"] {
        let message = Message::new("x").with_key("ann").with_id(id);
        service.mq.publish("killed", message).await.unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    for n in 1..=3 {
        let notes = directory.path().join(format!("notes-{n}"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "faults::child", "--ignored"])
            .env(CHILD_BROKERS, brokers.list())
            .env(CHILD_NOTES, &notes)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ended = tokio::task::spawn_blocking(move || child.wait());
        assert!(!timeout(LIMIT, ended).await.unwrap().unwrap().unwrap().success());
        // The first one may have died before it was stored that it had begun the deadly one, and
        // not one of those before; from then on each is stored.
        let told = std::fs::read_to_string(&notes).unwrap();
        let known = [format!("deadly {n}"), format!("deadly {}", n - 1)];
        assert!(known.contains(&told) && told != "deadly 0", "{n}: {told}");
    }
    let (_subscription, mut seen) = subscribe(&service.mq, "killed", "billing").await;
    let first = loop {
        let delivery = next(&mut seen).await;
        // What was done, and not stored: of the first one at most.
        if !delivery.id().starts_with("m-") {
            break delivery;
        }
    };
    assert_eq!(first.id(), "deadly");
    assert!((3..=4).contains(&first.deliveries()), "{}", first.deliveries());
    assert_eq!(ids(&mut seen, 1).await, ["m-2"]);
}

#[tokio::test]
async fn brokers_that_are_away_are_told_of_within_the_deadline() {
    let brokers = brokers();
    let service = Service::with(&with(&brokers, "")).await;
    service.mq.publish(TOPIC, Message::new("x")).await.unwrap();
    brokers.all_down();
    let begun = std::time::Instant::now();
    let error = service.mq.publish(TOPIC, Message::new("x")).await.unwrap_err();
    assert!(begun.elapsed() < DEADLINE + Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(error.kind(), coord::ErrorKind::Timeout, "{error}");
    service.until("it is told", |state| !state.is_serving() || *state != State::Ready).await;
    brokers.all_up();
    service.until("it is back", |state| *state == State::Ready).await;
    service.mq.publish(TOPIC, Message::new("x")).await.unwrap();
}
