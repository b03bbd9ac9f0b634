use std::collections::BTreeMap;
use std::sync::Arc;

use coord_api::store::{Change, Compare, Op, StoreEvent};
use coord_api::{ErrorKind, Value};
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::*;

const TTL: Duration = Duration::from_secs(10);

/// A table of values and leases. Each transaction works on a copy, which takes the table's place
/// where it is committed.
#[derive(Clone, Debug, Default)]
struct Table {
    keys: BTreeMap<Bytes, (Value, Option<LeaseId>)>,
    changes: Vec<(Revision, Change)>,
    revision: Revision,
    written: bool,
    leases: BTreeMap<LeaseId, LeaseRecord>,
    last_lease: u64,
    clock: LeaseClock,
}

impl TxnState for Table {
    type Error = Error;

    fn revision(&mut self) -> Result<Revision> {
        Ok(self.revision)
    }

    fn read(&mut self, range: &Range) -> Result<RangeReply> {
        let at = range.revision(self.revision, Revision::ZERO)?;
        let entries = self.keys.iter().map(|(key, (value, lease))| coord_api::store::Entry {
            key: key.clone(),
            value: value.clone(),
            created: Revision::new(1),
            modified: Revision::new(1),
            lease: *lease,
        });
        Ok(RangeReply::of(range, at, entries.filter(|entry| range.finds(entry)).collect()))
    }

    fn lives(&mut self, lease: LeaseId) -> Result<bool> {
        Ok(self.leases.contains_key(&lease))
    }

    fn write(&mut self, key: Bytes, value: Option<Value>, lease: Option<LeaseId>) -> Result<bool> {
        if !std::mem::replace(&mut self.written, true) {
            self.revision = self.revision.next();
        }
        self.changes.push((self.revision, Change::Delete { key: key.clone() }));
        Ok(match value {
            Some(value) => self.keys.insert(key, (value, lease)).is_some(),
            None => self.keys.remove(&key).is_some(),
        })
    }
}

impl DatabaseTxn for Table {
    fn page(&mut self, request: &PageRequest) -> Result<Page> {
        let mut changes = self.changes.clone();
        changes.retain(|(revision, _)| *revision > request.after && *revision <= request.through);
        changes.truncate(request.limit);
        Ok(Page { compacted: Revision::ZERO, present: self.revision, changes })
    }

    fn create_lease(&mut self, ttl: Duration) -> Result<LeaseId> {
        self.last_lease += 1;
        self.leases.insert(LeaseId::new(self.last_lease), LeaseRecord { ttl, renewal: 0 });
        Ok(LeaseId::new(self.last_lease))
    }

    fn lease(&mut self, id: LeaseId) -> Result<Option<LeaseRecord>> {
        Ok(self.leases.get(&id).copied())
    }

    fn renew_lease(&mut self, id: LeaseId) -> Result<()> {
        self.leases.get_mut(&id).expect("only a lease that lives is renewed").renewal += 1;
        Ok(())
    }

    fn remove_lease(&mut self, id: LeaseId) -> Result<()> {
        self.leases.remove(&id).expect("only a lease that lives is removed");
        Ok(())
    }

    fn keys_of(&mut self, id: LeaseId) -> Result<Vec<Bytes>> {
        let on = self.keys.iter().filter(|(_, (_, lease))| *lease == Some(id));
        Ok(on.map(|(key, _)| key.clone()).collect())
    }

    fn clock(&mut self) -> &mut LeaseClock {
        &mut self.clock
    }

    fn status(&mut self) -> Result<StoreStatus> {
        Ok(StoreStatus { store_id: "a table".to_owned(), version: "1".to_owned() })
    }
}

/// A database that keeps what it was asked for.
#[derive(Clone, Debug, Default)]
struct Tables {
    table: Arc<Mutex<Table>>,
    present: Arc<watch::Sender<Revision>>,
    asked: Arc<Mutex<Vec<(&'static str, Effect)>>>,
}

impl Database for Tables {
    type Txn<'a> = Table;

    async fn transact<T: Send + 'static>(
        &self,
        operation: &'static str,
        effect: Effect,
        work: impl FnOnce(&mut Table) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.asked.lock().push((operation, effect));
        let mut table = self.table.lock();
        let mut txn = Table { written: false, ..table.clone() };
        let answer = work(&mut txn)?;
        self.present.send_replace(txn.revision);
        *table = txn;
        Ok(answer)
    }

    async fn changed(&self, seen: Revision) -> Result<()> {
        let _ = self.present.subscribe().wait_for(|present| *present > seen).await;
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.asked.lock().push(("store.close", Effect::Idempotent));
        Ok(())
    }
}

#[tokio::test]
async fn each_request_is_one_transaction_that_says_what_it_does() {
    let store = DatabaseStore::new(Tables::default());
    let create = Txn::new().when(Compare::Absent("a".into())).then(Op::put("a", "1"));
    assert!(store.txn(create.clone()).await.unwrap().succeeded);
    assert!(!store.txn(create).await.unwrap().succeeded);
    store.txn(Txn::new().then(Op::Range(Range::prefix("")))).await.unwrap();
    let found = store.range(Range::prefix("")).await.unwrap();
    assert_eq!((found.entries.len(), found.revision), (1, Revision::new(1)));
    let lease = store.grant_lease(TTL).await.unwrap();
    assert_eq!((store.keep_alive(lease.id).await.unwrap(), lease.ttl), (TTL, TTL));
    assert_eq!(store.lease(lease.id).await.unwrap().unwrap().keys, Vec::<Bytes>::new());
    store.revoke_lease(lease.id).await.unwrap();
    assert_eq!(store.status().await.unwrap().store_id, "a table");
    store.close().await.unwrap();
    let asked = store.inner().asked.lock().clone();
    assert_eq!(
        asked,
        [
            ("store.txn", Effect::Write),
            ("store.txn", Effect::Write),
            ("store.txn", Effect::Read),
            ("store.range", Effect::Read),
            ("store.grant_lease", Effect::Write),
            ("store.keep_alive", Effect::Idempotent),
            ("store.lease", Effect::Read),
            ("store.revoke_lease", Effect::Idempotent),
            ("store.status", Effect::Read),
            ("store.close", Effect::Idempotent),
        ]
    );
}

#[tokio::test]
async fn a_watch_reads_history_and_waits_for_more() {
    let store = DatabaseStore::new(Tables::default());
    let mut watch = store.watch(Span::prefix(""), Some(Revision::ZERO)).await.unwrap();
    assert!(watch.next().now_or_never().is_none());
    store.txn(Txn::new().then(Op::put("a", "1")).then(Op::put("b", "1"))).await.unwrap();
    match watch.next().await {
        Some(Ok(StoreEvent::Batch(batch))) => {
            assert_eq!((batch.revision.get(), batch.changes.len()), (1, 2));
        }
        other => panic!("wanted a batch, got {other:?}"),
    }
    assert!(watch.next().now_or_never().is_none());
}

#[tokio::test]
async fn a_lease_ends_with_its_keys_in_one_revision_and_is_lost_from_then_on() {
    let store = DatabaseStore::new(Tables::default());
    let id = store.grant_lease(TTL).await.unwrap().id;
    let puts = Txn::new().then(Op::put_leased("a", "1", id)).then(Op::put_leased("b", "1", id));
    store.txn(puts.clone().then(Op::put("c", "1"))).await.unwrap();
    store.revoke_lease(id).await.unwrap();
    let left = store.range(Range::prefix("")).await.unwrap();
    assert_eq!((left.revision.get(), left.entries.len()), (2, 1));
    assert_eq!(store.lease(id).await.unwrap(), None);
    assert_eq!(store.keep_alive(id).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    assert_eq!(store.txn(puts).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    store.revoke_lease(id).await.unwrap();
    assert_eq!(store.range(Range::prefix("")).await.unwrap(), left, "what is gone ends nothing");
}

#[tokio::test]
async fn a_lease_that_was_renewed_since_is_not_over() {
    let store = DatabaseStore::new(Tables::default());
    let id = store.grant_lease(TTL).await.unwrap().id;
    store.txn(Txn::new().then(Op::put_leased("a", "1", id))).await.unwrap();
    store.keep_alive(id).await.unwrap();
    let mut txn = store.inner().table.lock().clone();
    end_lease(&mut txn, id, Some(0)).unwrap();
    assert_eq!((txn.lease(id).unwrap(), txn.keys.len()), (Some(LeaseRecord { ttl: TTL, renewal: 1 }), 1));
    end_lease(&mut txn, id, Some(1)).unwrap();
    assert_eq!((txn.lease(id).unwrap(), txn.keys.len()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn how_long_a_lease_lives_is_counted_from_when_its_renewal_was_seen() {
    let store = DatabaseStore::new(Tables::default());
    let id = store.grant_lease(TTL).await.unwrap().id;
    let remaining = async || store.lease(id).await.unwrap().unwrap().remaining;
    assert_eq!(remaining().await, TTL);
    tokio::time::advance(TTL / 2).await;
    assert_eq!(remaining().await, TTL / 2);
    store.keep_alive(id).await.unwrap();
    assert_eq!(remaining().await, TTL);
    tokio::time::advance(TTL * 2).await;
    assert_eq!(remaining().await, Duration::ZERO, "it lives until somebody ends it");
}
