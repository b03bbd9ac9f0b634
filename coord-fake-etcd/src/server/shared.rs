//! What all services of a server share: the engine behind one lock, who it is, and what it allows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Notify, watch};
use tonic::{Code, Status};

use crate::engine::Engine;
use crate::failure::Failures;
use crate::options::FakeEtcdOptions;
use crate::proto::etcdserverpb::ResponseHeader;
use crate::refusal::Refusal;

/// How much larger than a request a message may be.
const MESSAGE_OVERHEAD: usize = 512 << 10;

/// What etcd adds to a request before it compares its size with the limit, about: two ids.
const REQUEST_OVERHEAD: usize = 18;

/// The largest message that is read at all. What is larger than etcd takes is refused in etcd's
/// words, and this in tonic's.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

/// A cluster that was formed once, and never had an election since.
const RAFT_TERM: u64 = 2;

/// A server without its connections.
#[derive(Debug)]
pub(crate) struct Shared {
    engine: Mutex<Engine>,
    /// Told of each new revision.
    revisions: watch::Sender<()>,
    /// Told when another lease is the next to end.
    deadlines: Notify,
    epoch: Instant,
    cluster_id: u64,
    pub(crate) member_id: u64,
    /// The URL that clients are told.
    pub(crate) url: String,
    pub(crate) options: FakeEtcdOptions,
    no_space: AtomicBool,
    /// How many requests there were that etcd would have written down.
    proposals: AtomicU64,
    pub(crate) failures: Failures,
}

impl Shared {
    pub(crate) fn new(options: FakeEtcdOptions, url: String) -> Self {
        let ttl = options.min_lease_ttl;
        let min_ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        Shared {
            engine: Mutex::new(Engine::new(min_ttl.saturating_add(i64::from(ttl.subsec_nanos() > 0)))),
            revisions: watch::channel(()).0,
            deadlines: Notify::new(),
            epoch: Instant::now(),
            cluster_id: fastrand::u64(1..),
            member_id: fastrand::u64(1..),
            url,
            options,
            no_space: AtomicBool::new(false),
            proposals: AtomicU64::new(0),
            failures: Failures::default(),
        }
    }

    /// Asks the engine, or changes it. Leases whose time is over end before. Whoever watches is
    /// told afterwards.
    pub(crate) fn with<T>(&self, run: impl FnOnce(&mut Engine, Duration) -> T) -> T {
        let now = self.epoch.elapsed();
        let mut engine = self.engine.lock();
        let before = (engine.revision(), engine.next_deadline());
        engine.expire(now);
        let result = run(&mut engine, now);
        let after = (engine.revision(), engine.next_deadline());
        drop(engine);
        if after.0 != before.0 {
            self.revisions.send_replace(());
        }
        if after.1 != before.1 {
            self.deadlines.notify_one();
        }
        result
    }

    /// As [`with`](Self::with), for what etcd writes down before it does it.
    pub(crate) fn propose<T>(&self, run: impl FnOnce(&mut Engine, Duration) -> T) -> T {
        self.proposals.fetch_add(1, Ordering::Relaxed);
        self.with(run)
    }

    /// Sees each new revision.
    pub(crate) fn revisions(&self) -> watch::Receiver<()> {
        self.revisions.subscribe()
    }

    /// Ends leases as their time is over. Never returns.
    pub(crate) async fn expire(&self) {
        loop {
            let changed = self.deadlines.notified();
            match self.with(|engine, now| Some(engine.next_deadline()?.saturating_sub(now))) {
                Some(left) => tokio::select! {
                    () = tokio::time::sleep(left) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    /// Fills a header, or makes one that says the store's revision.
    pub(crate) fn header(&self, header: Option<ResponseHeader>) -> Option<ResponseHeader> {
        let revision =
            header.map_or_else(|| self.with(|engine, _| engine.revision()), |header| header.revision);
        Some(ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision,
            raft_term: RAFT_TERM,
        })
    }

    /// The index of the last entry of the log that etcd would have.
    pub(crate) fn raft_index(&self) -> u64 {
        // What a cluster of one writes as it starts.
        4 + self.proposals.load(Ordering::Relaxed)
    }

    pub(crate) fn raft_term(&self) -> u64 {
        RAFT_TERM
    }

    /// Refuses a message that etcd's transport would not take.
    pub(crate) fn check_message(&self, message: &impl Message) -> Result<(), Status> {
        let (size, limit) = (message.encoded_len(), self.message_limit());
        if size > limit {
            let text = format!("grpc: received message larger than max ({size} vs. {limit})");
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        Ok(())
    }

    /// Refuses a request that is too large to be written down.
    pub(crate) fn check_request(&self, message: &impl Message) -> Result<(), Refusal> {
        if message.encoded_len().saturating_add(REQUEST_OVERHEAD) > self.options.max_request_bytes {
            return Err(Refusal::RequestTooLarge);
        }
        Ok(())
    }

    /// The size of the largest message, in bytes; from it on, responses to watches are split.
    pub(crate) fn message_limit(&self) -> usize {
        self.options.max_request_bytes.saturating_add(MESSAGE_OVERHEAD)
    }

    /// Refuses what takes space where there is none, and raises the alarm.
    pub(crate) fn check_space(&self, message: &impl Message) -> Result<(), Refusal> {
        let size = self.with(|engine, _| engine.size());
        if size.saturating_add(message.encoded_len()) > self.options.quota_bytes {
            self.set_no_space(true);
        }
        if self.has_no_space() { Err(Refusal::NoSpace) } else { Ok(()) }
    }

    pub(crate) fn has_no_space(&self) -> bool {
        self.no_space.load(Ordering::Relaxed)
    }

    pub(crate) fn set_no_space(&self, on: bool) {
        self.no_space.store(on, Ordering::Relaxed);
    }
}
