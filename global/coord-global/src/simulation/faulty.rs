//! A store whose transactions get lost, answered or not, or arrive late.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use coord_api::store::{Range, RangeReply, Store, Txn, TxnReply};
use coord_api::{Error, ErrorKind, Outcome, Result};
use parking_lot::Mutex;

/// What becomes of a transaction that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is done, and answered.
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
pub struct Faulty {
    store: Arc<dyn Store>,
    fate: Mutex<Box<dyn FnMut() -> Fate + Send>>,
    late: Mutex<Vec<Txn>>,
    requests: AtomicUsize,
}

impl Faulty {
    /// A store around `store`; each transaction that writes asks `fate`.
    pub fn new(store: Arc<dyn Store>, fate: impl FnMut() -> Fate + Send + 'static) -> Arc<Self> {
        Arc::new(Self {
            store,
            fate: Mutex::new(Box::new(fate)),
            late: Mutex::default(),
            requests: AtomicUsize::new(0),
        })
    }

    /// A store around `store` that counts.
    pub fn sound(store: Arc<dyn Store>) -> Arc<Self> {
        Self::new(store, || Fate::Arrives)
    }

    /// From now on each transaction that writes asks `fate`.
    pub fn set(&self, fate: impl FnMut() -> Fate + Send + 'static) {
        *self.fate.lock() = Box::new(fate);
    }

    /// How many requests there were since the last time.
    pub fn requests(&self) -> usize {
        self.requests.swap(0, Ordering::SeqCst)
    }

    /// How many transactions are late.
    pub fn late(&self) -> usize {
        self.late.lock().len()
    }

    /// The late transaction of that number arrives. Whether it wrote.
    ///
    /// # Errors
    ///
    /// As the store's.
    pub async fn arrives(&self, number: usize) -> Result<bool> {
        let txn = {
            let mut late = self.late.lock();
            if number >= late.len() {
                return Ok(false);
            }
            late.remove(number)
        };
        Ok(self.store.txn(txn).await?.succeeded)
    }

    /// All that is late arrives; how many of those wrote.
    ///
    /// # Errors
    ///
    /// As the store's.
    pub async fn arrive(&self) -> Result<usize> {
        let mut wrote = 0;
        while self.late() > 0 {
            wrote += usize::from(self.arrives(0).await?);
        }
        Ok(wrote)
    }

    /// Nothing that is late ever arrives.
    pub fn forget_late(&self) {
        self.late.lock().clear();
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
        let fate = (self.fate.lock())();
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
                self.late.lock().push(txn);
                Err(unanswered())
            }
        }
    }

    coord_api::forward_store! {
        self => self.store;
        watch, grant_lease, keep_alive, lease, revoke_lease, status, close
    }
}
