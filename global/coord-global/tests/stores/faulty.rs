//! A store whose transactions get lost, answered or not, or arrive late.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use coord_api::store::{Range, RangeReply, Store, Txn, TxnReply};
use coord_api::{Error, ErrorKind, Outcome, Result};

/// What becomes of a transaction that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Arrives,
    /// It is done, and the answer is lost.
    AnswerLost,
    /// It is not done, and nobody says so.
    Lost,
    /// It is done when [`Faulty::arrive`] says so.
    Late,
    /// There is no room.
    Full,
}

/// A store around another one.
pub(crate) struct Faulty {
    store: Arc<dyn Store>,
    fate: Mutex<Box<dyn FnMut() -> Fate + Send>>,
    late: Mutex<Vec<Txn>>,
    requests: AtomicUsize,
}

impl Faulty {
    pub(crate) fn new(store: Arc<dyn Store>, fate: impl FnMut() -> Fate + Send + 'static) -> Arc<Self> {
        Arc::new(Self {
            store,
            fate: Mutex::new(Box::new(fate)),
            late: Mutex::default(),
            requests: AtomicUsize::new(0),
        })
    }

    pub(crate) fn sound(store: Arc<dyn Store>) -> Arc<Self> {
        Self::new(store, || Fate::Arrives)
    }

    pub(crate) fn set(&self, fate: impl FnMut() -> Fate + Send + 'static) {
        *self.fate.lock().unwrap() = Box::new(fate);
    }

    /// How many requests there were since the last time.
    pub(crate) fn requests(&self) -> usize {
        self.requests.swap(0, Ordering::SeqCst)
    }

    /// All that is late arrives; how many of those wrote.
    pub(crate) async fn arrive(&self) -> usize {
        let late: Vec<Txn> = std::mem::take(&mut *self.late.lock().unwrap());
        let mut wrote = 0;
        for txn in late {
            wrote += usize::from(self.store.txn(txn).await.unwrap().succeeded);
        }
        wrote
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

fn unanswered() -> Error {
    Error::new(ErrorKind::Timeout, "store.txn", "no answer").with_outcome(Outcome::Unknown)
}

#[async_trait]
impl Store for Faulty {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.store.range(range).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        if txn.is_read_only() {
            return self.store.txn(txn).await;
        }
        let fate = (self.fate.lock().unwrap())();
        // A caller may go away before it is sent, and before it is answered.
        tokio::task::yield_now().await;
        match fate {
            Fate::Arrives => {
                let reply = self.store.txn(txn).await;
                tokio::task::yield_now().await;
                reply
            }
            Fate::AnswerLost => {
                self.store.txn(txn).await?;
                tokio::task::yield_now().await;
                Err(unanswered())
            }
            Fate::Lost => Err(unanswered()),
            Fate::Full => Err(Error::new(ErrorKind::Exhausted, "store.txn", "the disk is full")),
            Fate::Late => {
                self.late.lock().unwrap().push(txn);
                Err(unanswered())
            }
        }
    }

    coord_api::forward_store! {
        self => self.store;
        watch, grant_lease, keep_alive, lease, revoke_lease, status, close
    }
}
