//! What a client lost, written down in the store for whoever asks later (R84).
//!
//! A store's history has neither times nor reasons, and compaction ends it. So a client that lost
//! something says so as soon as the store answers again: one key holds all that is to be said, on a
//! lease that nobody renews (R60).

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use coord_api::store::{Op, Txn};
use coord_api::{Error, ErrorKind, Result};
use coord_home::Home;
use parking_lot::Mutex;

use crate::backoff::backoff;
use crate::ground::Ground;
use crate::keys;
use crate::owner::shorten;
use crate::retention::Retentions;
use crate::telemetry::{LossRecord, LossSink};

/// How long what was lost is kept.
pub const LOSSES_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What waits to be written at most; the oldest goes.
const MAX_WAITING: usize = 100;

/// How long one attempt to write may take.
const ATTEMPT: Duration = Duration::from_secs(30);

/// The most bytes of a name or an error that are written down.
const MAX_TEXT: usize = 512;

const OPERATION: &str = "losses.write";

/// Writes down what one client loses.
pub(crate) struct LossLog {
    ground: Arc<Ground>,
    retentions: Arc<Retentions>,
    on: AtomicBool,
    /// What no other client has: several may have one name.
    nonce: u64,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    records: VecDeque<LossRecord>,
    /// Whether the task runs that writes them.
    written: bool,
    /// How many were written before.
    number: u64,
}

impl LossLog {
    pub(crate) fn new(ground: Arc<Ground>, retentions: Arc<Retentions>) -> Arc<Self> {
        let (on, nonce) = (AtomicBool::new(true), RandomState::new().hash_one(()));
        Arc::new(LossLog { ground, retentions, on, nonce, waiting: Mutex::default() })
    }

    /// Whether anything is written down from now on.
    pub(crate) fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// What is to be written, and under which number; `None` where nothing is, and then the task
    /// that writes is over.
    fn next(&self) -> Option<(u64, VecDeque<LossRecord>)> {
        let mut waiting = self.waiting.lock();
        waiting.written = !waiting.records.is_empty();
        waiting.written.then(|| (waiting.number, waiting.records.clone()))
    }

    /// These are written, or given up. Others may have come meanwhile, and some of these may have
    /// had to go.
    fn written(&self, records: &VecDeque<LossRecord>) {
        let mut waiting = self.waiting.lock();
        waiting.number += 1;
        waiting.records.retain(|record| !records.contains(record));
    }

    /// Writes them under a number; what was written under it before, and may not have been, is
    /// replaced.
    async fn write(&self, number: u64, records: &VecDeque<LossRecord>) -> Result<()> {
        let lease = self.retentions.lease(OPERATION, LOSSES_KEPT).await?;
        let key = keys::losses(&self.ground.name, self.nonce, number);
        let value = serde_json::to_vec(records).unwrap_or_default();
        let written = self.ground.store.txn(Txn::new().then(Op::put_leased(key, value, lease))).await;
        if written.as_ref().is_err_and(|error| error.kind() == ErrorKind::LeaseLost) {
            self.retentions.gone(lease);
        }
        written.map(|_| ())
    }
}

impl LossSink for LossLog {
    fn record(self: Arc<Self>, records: Vec<LossRecord>) {
        if !self.on.load(Ordering::Relaxed) || self.ground.is_closed() {
            return;
        }
        {
            let mut waiting = self.waiting.lock();
            waiting.records.extend(records.into_iter().map(shortened));
            let excess = waiting.records.len().saturating_sub(MAX_WAITING);
            waiting.records.drain(..excess);
            if std::mem::replace(&mut waiting.written, true) {
                return;
            }
        }
        let (home, closing) = (self.ground.home.clone(), self.ground.closing.clone());
        let task = Writing { log: Arc::downgrade(&self), done: false };
        let writing = async move {
            tokio::select! {
                biased;
                () = closing.cancelled() => {}
                () = task.run(home) => {}
            }
        };
        // Without a home nothing is renewed either, and nothing is held that could be lost.
        let _ = self.ground.home.spawn(writing);
    }
}

/// The task that writes. It ends when all is written, and with the client; however it ends, the
/// next loss starts another one.
struct Writing {
    log: Weak<LossLog>,
    /// Whether it has said itself that it ends.
    done: bool,
}

impl Writing {
    async fn run(mut self, home: Home) {
        let mut backoff = backoff();
        // Between two attempts it keeps nothing of a client that is gone.
        while let Some(log) = self.log.upgrade() {
            let Some((number, records)) = log.next() else {
                self.done = true;
                return;
            };
            let written = match home.timeout(ATTEMPT, log.write(number, &records)).await {
                Ok(written) => written,
                Err(_) => Err(Error::new(ErrorKind::Timeout, OPERATION, "the store does not answer")),
            };
            match written {
                Err(error) if error.is_transient() || error.kind() == ErrorKind::LeaseLost => {
                    drop(log);
                    home.sleep(backoff.pause()).await;
                    continue;
                }
                // It may not, or the store takes nothing of the kind: what was logged has to do.
                Err(error) => {
                    let provider = log.ground.name.clone();
                    coord_home::event!(DEBUG, provider, error = %error, "what was lost was not written down");
                }
                Ok(()) => {}
            }
            log.written(&records);
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Some(log) = self.log.upgrade().filter(|_| !self.done) {
            log.waiting.lock().written = false;
        }
    }
}

fn shortened(mut record: LossRecord) -> LossRecord {
    shorten(&mut record.key, MAX_TEXT);
    record.last_error.iter_mut().for_each(|error| shorten(error, MAX_TEXT));
    record
}
