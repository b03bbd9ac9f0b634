//! Messages that flow while something fails, counted at the far end: what the brokers have stored,
//! and what was done.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use coord_mq::Message;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;

pub(crate) const TOPIC: &str = "load";
pub(crate) const PARTITIONS: i32 = 8;
const PUBLISHERS: usize = 4;

/// How long to publish may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(2);
/// What a machine that is busy adds to that.
const LATE: Duration = Duration::from_millis(1_500);

/// What was done for each message, once: its place in the order of its key.
#[derive(Default)]
pub(crate) struct Effects {
    done: HashSet<String>,
    deliveries: usize,
    /// The last number of each key.
    last: HashMap<String, usize>,
    disorder: usize,
    /// How many deliveries were made by others than the service of the load.
    by_others: usize,
}

impl Effects {
    pub(crate) fn by_others(&self) -> usize {
        self.by_others
    }

    /// Does what a message asks for, unless it was done.
    fn handle(&mut self, delivery: &Delivery, is_other: bool) {
        self.deliveries += 1;
        self.by_others += usize::from(is_other);
        let number: usize = String::from_utf8_lossy(delivery.payload()).parse().unwrap();
        if self.done.insert(delivery.id().to_owned()) {
            let key = delivery.key().unwrap().to_owned();
            let before = self.last.insert(key, number);
            self.disorder += usize::from(before.is_some_and(|before| before >= number));
        }
    }
}

/// Messages that flow.
pub(crate) struct Load {
    pub(crate) service: Service,
    pub(crate) effects: Shared<Effects>,
    stop: Arc<AtomicBool>,
    /// How many calls took longer than they may.
    late: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    publishers: Vec<JoinHandle<usize>>,
    subscription: Subscription,
}

/// What was counted at the end of a load.
pub(crate) struct Counted {
    /// Calls that were repeated.
    pub(crate) failed: usize,
    /// Deliveries of what was done already.
    pub(crate) again: usize,
}

/// Subscribes and does what messages ask for, as another process of the group does.
pub(crate) async fn work(mq: &Mq, effects: &Shared<Effects>) -> Subscription {
    work_as(mq, effects, true).await
}

async fn work_as(mq: &Mq, effects: &Shared<Effects>, is_other: bool) -> Subscription {
    let effects = Arc::clone(effects);
    let handler = move |delivery: Delivery| {
        effects.lock().handle(&delivery, is_other);
        std::future::ready(Verdict::Done)
    };
    let subscription = mq.subscribe(TOPIC, "billing", handler).await.unwrap();
    assert!(subscription.status().ready);
    subscription
}

impl Load {
    pub(crate) async fn start(document: &str) -> Self {
        let service = Service::with(document).await;
        let effects = Shared::<Effects>::default();
        let subscription = work_as(&service.mq, &effects, false).await;
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
                    // The mock hands out one of these at a time.
                    sleep(Duration::from_millis(5)).await;
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
    pub(crate) async fn flows(&self, more: usize) {
        let before = self.done();
        until("messages flow", || self.done() >= before + more).await;
    }

    /// Ends the load, and counts.
    pub(crate) async fn end(self, brokers: &Brokers) -> Counted {
        self.stop.store(true, Ordering::SeqCst);
        let mut published = 0;
        for publisher in self.publishers {
            published += timeout(LIMIT, publisher).await.unwrap().unwrap();
        }
        let effects = &self.effects;
        until("all are handled", || effects.lock().done.len() >= published).await;
        self.subscription.stop().await;
        assert!(self.service.app.end().await.is_clean());
        let stored = brokers.stored(TOPIC, PARTITIONS);
        let places = brokers.places(TOPIC, "billing", PARTITIONS);
        let ends: Vec<_> = stored.iter().map(|partition| i64::try_from(partition.len()).unwrap()).collect();
        let reached: Vec<_> = places.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(reached, ends, "all was handled, and stored to be");
        let stored = stored.concat();
        let different: HashSet<_> = stored.iter().collect();
        assert_eq!(different.len(), published, "0 lost of what was stored");
        let effects = effects.lock();
        assert_eq!(effects.done.len(), published, "0 lost, 0 doubled in effect");
        assert_eq!(effects.disorder, 0, "in order for each key");
        assert_eq!(self.late.load(Ordering::SeqCst), 0, "no call beyond its deadline");
        let failed = self.failed.load(Ordering::SeqCst);
        let twice = stored.len() - published;
        assert!(twice <= failed, "stored twice is at most what was published twice: {twice}, {failed}");
        let again = effects.deliveries - published;
        println!(
            "{published} published, {failed} calls repeated, {twice} stored twice, {again} deliveries repeated"
        );
        Counted { failed, again }
    }
}

/// A document for a load: `kafka` are more fields of the section, `more` of the document.
pub(crate) fn with(brokers: &Brokers, kafka: &str) -> String {
    let deadline = DEADLINE.as_millis();
    document(&brokers.list(), kafka, &format!(r#""publish_timeout_ms": {deadline}"#))
}
