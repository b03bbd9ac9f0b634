//! What becomes of messages under load when the server, its password or a process fails. Counted at
//! the far end: what the server has stored, and what was done.

use std::collections::{HashMap, HashSet};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use async_nats::jetstream;
use coord_mq::Message;
use coord_servers::nats::{NatsServer, NatsUser};
use coord_servers::process::Signal;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;

const TOPIC: &str = "load";
const PUBLISHERS: usize = 4;

/// How long to publish may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// What a machine that is busy adds to that.
const LATE: Duration = Duration::from_millis(700);

/// What was done for each message, once: its place in the order of its key.
#[derive(Default)]
struct Effects {
    done: HashSet<String>,
    deliveries: usize,
    /// The last number of each key.
    last: HashMap<String, usize>,
    disorder: usize,
}

/// Messages that flow while the server fails.
struct Load {
    service: Service,
    effects: Shared<Effects>,
    stop: Arc<AtomicBool>,
    /// How many calls took longer than they may.
    late: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    publishers: Vec<JoinHandle<usize>>,
    subscription: Subscription,
}

impl Load {
    async fn start(document: &str) -> Self {
        let service = Service::with(document).await;
        let effects = Shared::<Effects>::default();
        let done = Arc::clone(&effects);
        let handler = move |delivery: Delivery| {
            let mut effects = done.lock();
            effects.deliveries += 1;
            let number: usize = String::from_utf8_lossy(delivery.payload()).parse().unwrap();
            if effects.done.insert(delivery.id().to_owned()) {
                let key = delivery.key().unwrap().to_owned();
                let before = effects.last.insert(key, number);
                effects.disorder += usize::from(before.is_some_and(|before| before >= number));
            }
            drop(effects);
            std::future::ready(Verdict::Done)
        };
        let subscription = service.mq.subscribe(TOPIC, "billing", handler).await.unwrap();
        assert!(subscription.status().ready);
        let stop = Arc::new(AtomicBool::new(false));
        let (late, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let publishers = (0..PUBLISHERS).map(|publisher| {
            let (mq, stop) = (service.mq.clone(), Arc::clone(&stop));
            let (late, failed) = (Arc::clone(&late), Arc::clone(&failed));
            tokio::spawn(async move {
                let mut number = 0;
                while !stop.load(Ordering::SeqCst) {
                    let message = Message::new(number.to_string());
                    let message =
                        message.with_key(format!("p{publisher}")).with_id(format!("{publisher}-{number}"));
                    // Under one id until it is stored.
                    loop {
                        let begun = Instant::now();
                        let stored = mq.publish(TOPIC, message.clone()).await;
                        late.fetch_add(usize::from(begun.elapsed() > DEADLINE + LATE), Ordering::SeqCst);
                        match stored {
                            Ok(_) => break,
                            Err(_) => {
                                failed.fetch_add(1, Ordering::SeqCst);
                                sleep(Duration::from_millis(20)).await;
                            }
                        }
                    }
                    number += 1;
                    sleep(Duration::from_millis(1)).await;
                }
                number
            })
        });
        let publishers = publishers.collect();
        Load { service, effects, stop, late, failed, publishers, subscription }
    }

    fn done(&self) -> usize {
        self.effects.lock().done.len()
    }

    /// Waits until so many more were handled: messages flow again.
    async fn flows(&self, more: usize) {
        let before = self.done();
        until("messages flow", || self.done() >= before + more).await;
    }

    /// Ends the load, and counts.
    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        let mut published = 0;
        for publisher in self.publishers {
            published += timeout(LIMIT, publisher).await.unwrap().unwrap();
        }
        let effects = &self.effects;
        until("all are handled", || effects.lock().done.len() >= published).await;
        self.subscription.stop().await;
        let jetstream = jetstream::new(self.service.mq.nats().unwrap().clone());
        let stored = jetstream.get_stream("mq=main=load").await.unwrap().cached_info().state.messages;
        {
            let effects = effects.lock();
            assert_eq!(effects.done.len(), published, "0 lost");
            assert_eq!(usize::try_from(stored).unwrap(), published, "0 doubled");
            assert_eq!(effects.disorder, 0, "in order for each key");
            assert_eq!(self.late.load(Ordering::SeqCst), 0, "no call beyond its deadline");
            let (failed, again) = (self.failed.load(Ordering::SeqCst), effects.deliveries - published);
            println!("{published} published, {failed} calls repeated, {again} deliveries repeated");
        }
        assert!(self.service.app.end().await.is_clean());
    }
}

fn with(nats: &str) -> String {
    let deadline = DEADLINE.as_millis();
    document(nats, &format!(r#""ack_wait_ms": 2000, "publish_timeout_ms": {deadline}"#))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_stands_still_or_is_started_anew_loses_and_doubles_nothing() {
    let mut server = NatsServer::start();
    let load = Load::start(&with(&format!(r#""url": "{}""#, server.url()))).await;
    for _ in 0..3 {
        load.flows(100).await;
        server.kill();
        sleep(Duration::from_millis(300)).await;
        server.restart();
    }
    load.flows(100).await;
    // For longer than a call may take.
    server.kill();
    sleep(DEADLINE + Duration::from_millis(500)).await;
    server.restart();
    load.flows(100).await;
    for pause in [DEADLINE / 2, DEADLINE * 2] {
        server.signal(Signal::Stop);
        sleep(pause).await;
        server.signal(Signal::Continue);
        load.flows(100).await;
    }
    server.signal(Signal::Terminate);
    sleep(Duration::from_millis(300)).await;
    server.restart();
    load.flows(100).await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_is_changed_by_configuration_loses_and_doubles_nothing() {
    let user = |password: &str| Some(NatsUser::new("ann", password));
    let mut server = NatsServer::start_with(user("first"), None);
    let url = server.url();
    let with = |password: &str| with(&format!(r#""url": "{url}", "user": "ann", "password": "{password}""#));
    let load = Load::start(&with("first")).await;
    load.flows(100).await;
    for (n, password) in ["second", "third"].into_iter().enumerate() {
        server.change_user(user(password));
        sleep(Duration::from_millis(200)).await;
        load.service.configure(&with(password)).await;
        let generation = n as u64 + 2;
        let swapped = load.service.mq.wait_for(|status| status.generation == generation);
        timeout(LIMIT, swapped).await.unwrap();
        load.flows(100).await;
    }
    // A swap where nothing is wrong: another ack wait is another client.
    load.service.configure(&with("third").replace("2000", "2500")).await;
    timeout(LIMIT, load.service.mq.wait_for(|status| status.generation == 4)).await.unwrap();
    load.flows(100).await;
    load.end().await;
}

/// Names the server that [`child`] is to use.
const CHILD_URL: &str = "COORD_MQ_TEST_CHILD_URL";
/// Names the file in which it notes what it has done.
const CHILD_NOTES: &str = "COORD_MQ_TEST_CHILD_NOTES";

/// Not a test: the process that is killed between what it does and its acknowledgement.
#[tokio::test]
#[ignore = "a process that another test runs"]
async fn child() {
    let (Ok(url), Ok(notes)) = (std::env::var(CHILD_URL), std::env::var(CHILD_NOTES)) else { return };
    let service = Service::with(&with(&format!(r#""url": "{url}""#))).await;
    let handler = move |delivery: Delivery| {
        std::fs::write(&notes, format!("{} {}", delivery.id(), delivery.deliveries())).unwrap();
        std::process::abort();
        #[expect(unreachable_code, reason = "the type of the handler")]
        std::future::ready(Verdict::Done)
    };
    let _subscription = service.mq.subscribe("killed", "billing", handler).await.unwrap();
    sleep(LIMIT).await;
}

#[tokio::test]
async fn what_was_handled_and_not_acknowledged_by_a_killed_process_comes_again() {
    let server = NatsServer::start();
    let service = Service::with(&with(&format!(r#""url": "{}""#, server.url()))).await;
    service.mq.make_group("killed", "billing").await.unwrap();
    for n in 0..3 {
        let message = Message::new("x").with_key("ann").with_id(format!("m-{n}"));
        service.mq.publish("killed", message).await.unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    for n in 1..=2 {
        let notes = directory.path().join(format!("notes-{n}"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "faults::child", "--ignored"])
            .env(CHILD_URL, server.url())
            .env(CHILD_NOTES, &notes)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ended = tokio::task::spawn_blocking(move || child.wait());
        assert!(!timeout(LIMIT, ended).await.unwrap().unwrap().unwrap().success());
        assert_eq!(std::fs::read_to_string(&notes).unwrap(), format!("m-0 {n}"), "handled, and killed");
    }
    let (_subscription, mut seen) = subscribe(&service.mq, "killed", "billing").await;
    let first = next(&mut seen).await;
    assert_eq!((first.id(), first.deliveries()), ("m-0", 3));
    assert_eq!(ids(&mut seen, 2).await, ["m-1", "m-2"]);
}

#[tokio::test]
async fn a_dead_letter_is_stored_before_its_message_is_acknowledged() {
    let user = |deny| NatsUser { deny, ..NatsUser::new("ann", "sesame") };
    // It can store everything, and acknowledge nothing: as if it were killed in between.
    let mut server = NatsServer::start_with(Some(user(Some("$JS.ACK.>".to_owned()))), None);
    let with = with(&format!(r#""url": "{}", "user": "ann", "password": "sesame""#, server.url()));
    let service = Service::with(&with).await;
    let handled = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&handled);
    let handler = move |_: Delivery| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Verdict::Dead("never".to_owned()))
    };
    let _subscription = service.mq.subscribe("letters", "billing", handler).await.unwrap();
    service.mq.publish("letters", Message::new("x").with_id("m-0")).await.unwrap();
    let (_dead, mut dead) = subscribe(&service.mq, "letters.dead", "people").await;
    let letter = next(&mut dead).await;
    assert_eq!(letter.dead_letter().unwrap().id, "m-0");
    until("it comes again", || handled.load(Ordering::SeqCst) >= 2).await;
    server.change_user(Some(user(None)));
    let jetstream = jetstream::new(service.mq.nats().unwrap().clone());
    let acknowledged = async {
        // While the server reads its users anew, it has no JetStream for a moment.
        let stream = loop {
            match jetstream.get_stream("mq=main=letters").await {
                Ok(stream) => break stream,
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        };
        loop {
            let mut left = 0;
            for partition in 0..8 {
                let info = stream.consumer_info(format!("billing-{partition}")).await;
                left +=
                    info.map_or(1, |info| info.num_ack_pending + usize::try_from(info.num_pending).unwrap());
            }
            if left == 0 {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(LIMIT, acknowledged).await.unwrap();
    let dead = jetstream.get_stream("mq=main=letters=dead").await.unwrap();
    assert_eq!(dead.cached_info().state.messages, 1, "stored each time, and there once");
}
