//! Names of several addresses, and members that only the cluster names.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use coord_api::store::{Range, Store};
use coord_etcd::{Discovery, EtcdOptions, EtcdResolver, EtcdStore};
use coord_testkit::wait::eventually;
use tokio::net::TcpListener;

use crate::log::Log;
use crate::server::{Answer, CLUSTER, Fake};
use crate::{SOON, options};

/// A name that only the tests' own resolver is asked for.
const NAME: &str = "etcd.test";

async fn read(store: &EtcdStore) {
    store.range(Range::key("k")).await.unwrap();
}

fn silence(fake: &Fake) {
    fake.script(|script| script.ranges.extend(vec![Answer::Swallow; 1_000]));
}

/// What a name stands for, and fakes at all these addresses and one port.
struct Name {
    addresses: Arc<Mutex<Vec<IpAddr>>>,
    looked_up: Arc<AtomicUsize>,
    port: u16,
    fakes: Vec<Fake>,
}

impl Name {
    async fn new(count: u8) -> Self {
        'ports: loop {
            let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = first.local_addr().unwrap().port();
            let mut listeners = vec![first];
            for n in 2..=count {
                // Somebody else may have this one.
                let Ok(listener) = TcpListener::bind(("127.0.0.".to_owned() + &n.to_string(), port)).await
                else {
                    continue 'ports;
                };
                listeners.push(listener);
            }
            let mut fakes = Vec::new();
            for listener in listeners {
                fakes.push(Fake::start_on(listener, CLUSTER, 10).await);
            }
            return Name { addresses: Arc::default(), looked_up: Arc::default(), port, fakes };
        }
    }

    /// From now on it stands for these.
    fn stands_for(&self, fakes: &[usize]) {
        *self.addresses.lock().unwrap() =
            fakes.iter().map(|n| IpAddr::from([127, 0, 0, u8::try_from(n + 1).unwrap()])).collect();
    }

    fn options(&self) -> EtcdOptions {
        let (addresses, looked_up) = (Arc::clone(&self.addresses), Arc::clone(&self.looked_up));
        let resolver = EtcdResolver::from_fn(move |name| {
            looked_up.fetch_add(1, Ordering::SeqCst);
            let addresses = addresses.lock().unwrap().clone();
            async move {
                assert_eq!(name, NAME);
                if addresses.is_empty() {
                    Err(std::io::Error::other("nobody knows it"))
                } else {
                    Ok(addresses)
                }
            }
        });
        let mut options = options([]).with_resolver(resolver).with_discovery(Discovery::Off);
        options.endpoints = vec![format!("{NAME}:{}", self.port)];
        options
    }

    fn asked(&self) -> Vec<usize> {
        self.fakes.iter().map(|fake| fake.asked("range")).collect()
    }
}

#[tokio::test]
async fn each_address_of_a_name_is_a_member() {
    let name = Name::new(3).await;
    name.stands_for(&[0, 1, 2]);
    for lazily in [true, false] {
        let store = match lazily {
            true => EtcdStore::connect_lazy(&name.options()).unwrap(),
            false => EtcdStore::connect(&name.options()).await.unwrap(),
        };
        // Whichever two of them stand still, the third one answers within the same call.
        for silent in [[0, 1], [1, 2], [2, 0]] {
            silent.iter().for_each(|n| silence(&name.fakes[*n]));
            for _ in 0..5 {
                read(&store).await;
            }
            name.fakes.iter().for_each(|fake| fake.script(|script| script.ranges.clear()));
        }
    }
}

#[tokio::test]
async fn an_address_that_a_name_gets_later_is_a_member_then() {
    let name = Name::new(4).await;
    name.stands_for(&[0, 1]);
    let store = EtcdStore::connect(&name.options()).await.unwrap();
    name.stands_for(&[2, 3]);
    [0, 1].iter().for_each(|n| silence(&name.fakes[*n]));
    eventually(SOON, "one of the new ones is asked", async || store.range(Range::key("k")).await.ok()).await;
    let before = name.asked();
    for _ in 0..10 {
        read(&store).await;
    }
    let after = name.asked();
    assert_eq!(after[2] + after[3], before[2] + before[3] + 10, "{before:?} {after:?}");
    // And when nobody knows the name any more, what is known stays.
    name.stands_for(&[]);
    let before = name.looked_up.load(Ordering::SeqCst);
    silence(&name.fakes[2]);
    eventually(SOON, "the other one is asked", async || store.range(Range::key("k")).await.ok()).await;
    let again = async || (name.looked_up.load(Ordering::SeqCst) > before).then_some(());
    eventually(SOON, "the name is looked up in vain", again).await;
    for _ in 0..3 {
        eventually(SOON, "the other one is still asked", async || store.range(Range::key("k")).await.ok())
            .await;
    }
}

#[tokio::test]
async fn a_name_of_one_address_is_looked_up_for_each_connection() {
    let name = Name::new(2).await;
    name.stands_for(&[0]);
    let store = EtcdStore::connect(&name.options()).await.unwrap();
    read(&store).await;
    name.stands_for(&[1]);
    silence(&name.fakes[0]);
    eventually(SOON, "it is connected to where it is now", async || store.range(Range::key("k")).await.ok())
        .await;
    assert!(name.fakes[1].asked("range") > 0);
}

#[tokio::test]
async fn a_name_that_nobody_knows_yet_is_looked_up_again() {
    let name = Name::new(2).await;
    let store = EtcdStore::connect_lazy(&name.options()).unwrap();
    let error = store.range(Range::key("k")).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("nobody knows it"), "{error}");
    name.stands_for(&[0, 1]);
    eventually(SOON, "it is known now", async || store.range(Range::key("k")).await.ok()).await;
}

fn advertise(fakes: &[&Fake], members: &[&Fake]) {
    let urls: Vec<_> = members.iter().map(|fake| format!("http://{}", fake.endpoint())).collect();
    fakes.iter().for_each(|fake| fake.script(|script| script.members.clone_from(&urls)));
}

/// Whether `fake` is asked once `others` are silent.
async fn is_asked_in_place_of(store: &EtcdStore, fake: &Fake, others: &[&Fake]) -> bool {
    others.iter().for_each(|fake| silence(fake));
    for _ in 0..3 {
        if store.range(Range::key("k")).await.is_ok() {
            return fake.asked("range") > 0;
        }
    }
    false
}

/// Waits until it was learnt so many times that the members are others.
async fn learnt(log: &Log, times: usize) {
    let changed = async || (log.count("the members of the cluster have changed") >= times).then_some(());
    eventually(SOON * 2, "it is learnt who the members are", changed).await;
}

#[tokio::test]
async fn a_cluster_whose_members_were_all_replaced_by_and_by_is_still_reached() {
    let (log, _listening) = Log::listen(tracing::Level::INFO);
    let fakes = [Fake::start(10).await, Fake::start(10).await, Fake::start(10).await, Fake::start(10).await];
    let [a, b, c, d] = &fakes;
    let all: Vec<_> = fakes.iter().collect();
    advertise(&all, &[a, b]);
    let store = EtcdStore::connect(&options([a])).await.unwrap();
    learnt(&log, 1).await;
    assert!(is_asked_in_place_of(&store, b, &[a]).await);
    advertise(&all, &[b, c]);
    learnt(&log, 2).await;
    assert!(is_asked_in_place_of(&store, c, &[a, b]).await);
    advertise(&all, &[c, d]);
    learnt(&log, 3).await;
    assert!(is_asked_in_place_of(&store, d, &[a, b, c]).await);
}

#[tokio::test]
async fn what_the_cluster_says_of_its_members_is_believed_only_where_it_agrees() {
    let (configured, other) = (Fake::start(10).await, Fake::start(10).await);
    let unspecified = "http://0.0.0.0:2379".to_owned();
    let url = |fake: &Fake| format!("http://{}", fake.endpoint());
    // Behind a proxy the member is reached elsewhere than it says; or it says that the other one
    // encrypts.
    for members in
        [vec![url(&other)], vec![url(&configured), format!("https://{}", other.endpoint()), unspecified]]
    {
        for fake in [&configured, &other] {
            fake.script(|script| {
                script.members.clone_from(&members);
                script.ranges.clear();
                script.asked.clear();
            });
        }
        let store = EtcdStore::connect(&options([&configured])).await.unwrap();
        eventually(SOON, "it is asked", async || (configured.asked("members") > 0).then_some(())).await;
        // Its answer is there long before three calls have got none.
        assert!(!is_asked_in_place_of(&store, &other, &[&configured]).await, "{members:?}");
        assert_eq!(other.asked("range"), 0);
    }
    // Or where it is wanted.
    for (discovery, expected) in [(Discovery::Off, false), (Discovery::Always, true)] {
        configured.script(|script| {
            script.members = vec![url(&other)];
            script.ranges.clear();
        });
        let (log, _listening) = Log::listen(tracing::Level::INFO);
        let store = EtcdStore::connect(&options([&configured]).with_discovery(discovery)).await.unwrap();
        if expected {
            learnt(&log, 1).await;
        }
        assert_eq!(is_asked_in_place_of(&store, &other, &[&configured]).await, expected, "{discovery:?}");
    }
}

#[tokio::test]
async fn a_learnt_member_of_another_cluster_is_not_believed() {
    let (log, _listening) = Log::listen(tracing::Level::INFO);
    let (configured, foreign) = (Fake::start(10).await, Fake::start_in(0xbad, 10).await);
    advertise(&[&configured], &[&configured, &foreign]);
    let store = EtcdStore::connect(&options([&configured])).await.unwrap();
    learnt(&log, 1).await;
    assert!(!is_asked_in_place_of(&store, &foreign, &[&configured]).await);
}
