//! A store over SQLite, which the guide on implementing a backend walks through: what a store owes
//! is here, or in a helper of coord's.
//!
//! The store is a file. Each process that opens it is a client; there is no server. So nobody tells
//! a process what another one wrote, or that a lease has run out: it looks, ten times a second, and
//! has a [`LeaseClock`] of its own. Of several that find a lease over, the first one ends it.
//!
//! SQLite blocks. All of its work is done on threads for that, where the connection's lock is taken
//! too: a call that is left alone after a poll holds nothing. What was acknowledged survives `kill
//! -9` of every process, not the loss of power (`synchronous = NORMAL`).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Change, Effect, Entry, Order, Range, RangeReply, StoreStatus};
use coord_api::{Error, ErrorKind, LeaseId, Result, Revision, Value};
use coord_core::backend::{
    Database, DatabaseStore, DatabaseTxn, LeaseClock, LeaseRecord, Page, PageRequest, TxnState, blocking,
    end_lease,
};
use coord_core::layers::Bounded;
use coord_core::{Home, homeless};
use rusqlite::{Connection, ErrorCode, Params, Row, Transaction, TransactionBehavior, params};
use tokio::sync::watch;
use tokio::time::Instant;

/// How often a client looks around: an expiry is noticed two looks late at most.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a call takes at most, and how much of that a write waits for those of other processes.
const LIMIT: Duration = Duration::from_secs(5);
const WAIT_FOR_OTHERS: Duration = Duration::from_secs(2);
/// So many revisions of history are kept at least, and twice as many at most.
const HISTORY: u64 = 20_000;

/// An entry is what its key holds from revision `modified` until before revision `ended`, which is
/// NULL while that is yet to come. A deletion is an entry without a value that ends where it
/// begins. So every state there was, and all that changed, is a plain query.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS store (id TEXT, revision INTEGER NOT NULL, compacted INTEGER NOT NULL);
    INSERT INTO store SELECT hex(randomblob(16)), 0, 0 WHERE NOT EXISTS (SELECT * FROM store);
    CREATE TABLE IF NOT EXISTS entry (
        key BLOB NOT NULL, value BLOB, created INTEGER NOT NULL, modified INTEGER NOT NULL,
        place INTEGER NOT NULL, lease INTEGER, ended INTEGER
    );
    CREATE UNIQUE INDEX IF NOT EXISTS entry_by_change ON entry (modified, place);
    CREATE INDEX IF NOT EXISTS entry_by_end ON entry (ended, key);
    CREATE INDEX IF NOT EXISTS entry_by_key ON entry (key, modified);
    CREATE INDEX IF NOT EXISTS entry_by_lease ON entry (lease, ended, key);
    CREATE TABLE IF NOT EXISTS lease (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl INTEGER, renewal INTEGER);
";

/// The one table of SQLite's errors (R1), in which there is no key and no value.
fn failed(error: rusqlite::Error) -> Error {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => ErrorKind::Exhausted,
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => ErrorKind::PermissionDenied,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) | None => {
            ErrorKind::Internal
        }
        Some(_) => ErrorKind::Unavailable,
    };
    Error::new(kind, "store", "SQLite refused, or failed").with_source(error)
}

/// One client of a store in a file.
#[derive(Clone, Debug)]
pub struct Sqlite(Arc<Client>);

#[derive(Debug)]
struct Client {
    home: Home,
    /// `None` once it is closed.
    connection: Mutex<Option<(Connection, Seen)>>,
    /// The store's revision as far as the client knows, or why it cannot know.
    present: watch::Sender<Result<Revision>>,
}

/// What the last look found.
#[derive(Debug, Default)]
struct Seen {
    leases: LeaseClock,
    /// SQLite's number for what others wrote; `None` from a write of one's own on.
    version: Option<u64>,
}

impl Sqlite {
    /// Opens the store in a file, and makes it where there is none.
    ///
    /// # Errors
    ///
    /// `Unavailable` or `PermissionDenied` when it does not open, `Internal` when it is no store.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Bounded<DatabaseStore<Sqlite>>> {
        const OPERATION: &str = "store.open";
        let (path, home) = (path.into(), Home::new("sqlite"));
        let connecting = move || connect(path).map_err(|error| failed(error).in_operation(OPERATION));
        let connection = blocking(&home, OPERATION, Effect::Read, connecting).await?;
        let connection = Mutex::new(Some((connection, Seen::default())));
        let present = watch::Sender::new(Ok(Revision::ZERO));
        let client = Arc::new(Client { home: home.clone(), connection, present });
        home.spawn(look_around(home.clone(), Arc::downgrade(&client)))
            .map_err(|error| homeless(OPERATION, error))?;
        Ok(Bounded::new(DatabaseStore::new(Sqlite(client)), LIMIT).with_home(home))
    }

    /// Forgets the history up to revision `through`, or up to the present one where that is less.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Closed`, …
    pub async fn compact(&self, through: Revision) -> Result<()> {
        self.transact("store.compact", Effect::Write, move |txn| txn.compact(through)).await
    }

    /// Looks what others did, and ends the leases that are over.
    async fn look(&self) -> Result<()> {
        for (id, renewal) in self.transact("store.look", Effect::Read, |txn| txn.leases_over()).await? {
            self.transact("store.expire", Effect::Write, move |txn| end_lease(txn, id, Some(renewal)))
                .await?;
        }
        Ok(())
    }
}

/// The task of a client. It ends with the client, or once that is closed, at its next look.
async fn look_around(home: Home, watched: Weak<Client>) {
    while let Some(client) = watched.upgrade().map(Sqlite) {
        match client.look().await {
            Err(error) if error.kind() == ErrorKind::Closed => return,
            // A watch must not be deaf without knowing it.
            Err(error) => client.0.present.send_modify(|known| *known = Err(error)),
            Ok(()) => {}
        }
        drop(client);
        home.sleep(LOOK_EVERY).await;
    }
}

fn connect(path: PathBuf) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(WAIT_FOR_OTHERS)?;
    // Of those who make a file at once, SQLite lets none wait for the others here.
    let mut attempts = 0;
    while let Err(error) = connection.pragma_update(None, "journal_mode", "WAL") {
        if error.sqlite_error_code() != Some(ErrorCode::DatabaseBusy) || attempts == 200 {
            return Err(error);
        }
        attempts += 1;
        std::thread::sleep(WAIT_FOR_OTHERS / 200);
    }
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let txn = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    txn.execute_batch(SCHEMA)?;
    txn.commit()?;
    Ok(connection)
}

/// An open transaction.
#[derive(Debug)]
pub struct FileTxn<'a> {
    txn: Transaction<'a>,
    seen: &'a mut Seen,
    /// The store's present revision, and the one up to which history is gone.
    present: Revision,
    compacted: Revision,
    /// How many changes were made, all of them at the present revision.
    made: usize,
}

impl<'a> FileTxn<'a> {
    fn begin(connection: &'a mut Connection, seen: &'a mut Seen, effect: Effect) -> Result<Self> {
        let writes = effect != Effect::Read;
        let behavior = if writes { TransactionBehavior::Immediate } else { TransactionBehavior::Deferred };
        let txn = connection.transaction_with_behavior(behavior).map_err(failed)?;
        if writes {
            seen.version = None;
        }
        let mut txn = FileTxn { txn, seen, present: Revision::ZERO, compacted: Revision::ZERO, made: 0 };
        let bounds = txn.rows("SELECT revision, compacted FROM store", [], |row| {
            Ok((Revision::new(row.get(0)?), Revision::new(row.get(1)?)))
        });
        (txn.present, txn.compacted) = bounds?.pop().unwrap_or_default();
        Ok(txn)
    }

    fn rows<T>(
        &self,
        sql: &str,
        asked: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let mut statement = self.txn.prepare_cached(sql).map_err(failed)?;
        statement.query_map(asked, read).and_then(Iterator::collect).map_err(failed)
    }

    fn execute(&self, sql: &str, written: impl Params) -> Result<()> {
        let done = self.txn.prepare_cached(sql).and_then(|mut statement| statement.execute(written));
        done.map(drop).map_err(failed)
    }

    /// Says which revision is present then.
    fn commit(mut self, effect: Effect) -> Result<Revision> {
        if self.made > 0 && self.present.get() - self.compacted.get() > 2 * HISTORY {
            self.compact(Revision::new(self.present.get() - HISTORY))?;
        }
        self.txn.commit().map_err(|error| failed(error).with_outcome(effect.in_doubt()))?;
        Ok(self.present)
    }

    fn compact(&mut self, through: Revision) -> Result<()> {
        self.compacted = self.compacted.max(through.min(self.present));
        self.execute("UPDATE store SET compacted = ?1", [self.compacted.get()])?;
        self.execute("DELETE FROM entry WHERE ended <= ?1", [self.compacted.get()])
    }

    /// The leases that are over, each with its last renewal.
    fn leases_over(&mut self) -> Result<Vec<(LeaseId, u64)>> {
        let version = self.txn.pragma_query_value(None, "data_version", |row| row.get(0)).map_err(failed)?;
        if self.seen.version != Some(version) {
            let leases = self.rows("SELECT id, ttl, renewal FROM lease", [], |row| {
                Ok((LeaseId::new(row.get(0)?), Duration::from_secs(row.get(1)?), row.get(2)?))
            })?;
            self.seen.leases.see_all(leases, Instant::now());
            self.seen.version = Some(version);
        }
        Ok(self.seen.leases.over(Instant::now()))
    }
}

/// An entry from the columns key, value, created, modified and lease.
fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: row.get::<_, Vec<u8>>(0)?.into(),
        value: Value::from(row.get::<_, Option<Vec<u8>>>(1)?.unwrap_or_default()),
        created: Revision::new(row.get(2)?),
        modified: Revision::new(row.get(3)?),
        lease: row.get::<_, Option<u64>>(4)?.map(LeaseId::new),
    })
}

/// What keeps a key before the end of its span, which is the second parameter.
fn before(end: Option<&Bytes>) -> &'static str {
    if end.is_some() { "key < ?2" } else { "TRUE" }
}

impl TxnState for FileTxn<'_> {
    type Error = Error;

    fn revision(&mut self) -> Result<Revision> {
        Ok(self.present)
    }

    fn read(&mut self, range: &Range) -> Result<RangeReply> {
        let at = range.revision(self.present, self.compacted)?;
        let (start, end) = (range.start(), range.span.end());
        let before = before(end.as_ref());
        let value = if range.keys_only { "NULL" } else { "value" };
        let past = "modified <= ?3 AND ifnull(ended > ?3, TRUE)";
        let there = if at == self.present { "ended IS NULL" } else { past };
        let order = match range.order {
            Order::Key => "key",
            Order::OldestFirst => "created",
            Order::NewestFirst => "created DESC",
        };
        let sql = format!(
            "SELECT key, {value}, created, modified, lease FROM entry
             WHERE key >= ?1 AND {before} AND {there} AND created <= ?4 ORDER BY {order} LIMIT ?5"
        );
        let max_created = range.max_created.unwrap_or(Revision::MAX).get();
        let asked = params![&start[..], end.as_deref(), at.get(), max_created, range.needed()];
        Ok(RangeReply::of(range, at, self.rows(&sql, asked, entry)?))
    }

    fn lives(&mut self, id: LeaseId) -> Result<bool> {
        Ok(self.lease(id)?.is_some())
    }

    fn write(&mut self, key: Bytes, value: Option<Value>, lease: Option<LeaseId>) -> Result<bool> {
        let revision = if self.made == 0 { self.present.next() } else { self.present };
        let sql = "UPDATE entry SET ended = ?1 WHERE key = ?2 AND ended IS NULL RETURNING created";
        let created = self.rows(sql, params![revision.get(), &key[..]], |row| row.get(0))?.pop();
        if created.is_none() && value.is_none() {
            return Ok(false);
        }
        if self.made == 0 {
            self.execute("UPDATE store SET revision = ?1", [revision.get()])?;
            self.present = revision;
        }
        let (value, ended) = (value.as_deref(), value.is_none().then_some(revision.get()));
        let (begun, lease) = (created.unwrap_or(revision.get()), lease.map(LeaseId::get));
        let entry = params![&key[..], value, begun, revision.get(), self.made, lease, ended];
        self.execute("INSERT INTO entry VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)", entry)?;
        self.made += 1;
        Ok(created.is_some())
    }
}

impl DatabaseTxn for FileTxn<'_> {
    fn page(&mut self, request: &PageRequest) -> Result<Page> {
        let (start, end) = (request.span.start(), request.span.end());
        let before = before(end.as_ref());
        let sql = format!(
            "SELECT key, value, created, modified, lease, value IS NULL FROM entry
             WHERE key >= ?1 AND {before} AND modified > ?3 AND modified <= ?4
             ORDER BY modified, place LIMIT ?5"
        );
        let (after, through) = (request.after.get(), request.through.get());
        let asked = params![start, end.as_deref(), after, through, request.limit];
        let changes = self.rows(&sql, asked, |row| {
            let (entry, deleted) = (entry(row)?, row.get(5)?);
            let revision = entry.modified;
            Ok((revision, if deleted { Change::Delete { key: entry.key } } else { Change::Put(entry) }))
        });
        Ok(Page { compacted: self.compacted, present: self.present, changes: changes? })
    }

    fn create_lease(&mut self, ttl: Duration) -> Result<LeaseId> {
        self.execute("INSERT INTO lease (ttl, renewal) VALUES (?1, 0)", [ttl.as_secs()])?;
        Ok(LeaseId::new(self.txn.last_insert_rowid().unsigned_abs()))
    }

    fn lease(&mut self, id: LeaseId) -> Result<Option<LeaseRecord>> {
        let found = self.rows("SELECT ttl, renewal FROM lease WHERE id = ?1", [id.get()], |row| {
            Ok(LeaseRecord { ttl: Duration::from_secs(row.get(0)?), renewal: row.get(1)? })
        });
        Ok(found?.pop())
    }

    fn renew_lease(&mut self, id: LeaseId) -> Result<()> {
        self.execute("UPDATE lease SET renewal = renewal + 1 WHERE id = ?1", [id.get()])
    }

    fn remove_lease(&mut self, id: LeaseId) -> Result<()> {
        self.execute("DELETE FROM lease WHERE id = ?1", [id.get()])
    }

    fn keys_of(&mut self, id: LeaseId) -> Result<Vec<Bytes>> {
        let sql = "SELECT key FROM entry WHERE lease = ?1 AND ended IS NULL ORDER BY key";
        self.rows(sql, [id.get()], |row| row.get::<_, Vec<u8>>(0).map(Bytes::from))
    }

    fn clock(&mut self) -> &mut LeaseClock {
        &mut self.seen.leases
    }

    fn status(&mut self) -> Result<StoreStatus> {
        let store_id = self.rows("SELECT id FROM store", [], |row| row.get(0))?.pop().unwrap_or_default();
        Ok(StoreStatus { store_id, version: format!("SQLite {}", rusqlite::version()) })
    }
}

impl Database for Sqlite {
    type Txn<'a> = FileTxn<'a>;

    async fn transact<T: Send + 'static>(
        &self,
        operation: &'static str,
        effect: Effect,
        work: impl FnOnce(&mut FileTxn<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let client = Arc::clone(&self.0);
        let transact = move || {
            let mut connection = client.connection.lock().unwrap_or_else(PoisonError::into_inner);
            let Some((connection, seen)) = &mut *connection else { return Err(Error::closed(operation)) };
            // What fails before it commits is rolled back: it was not applied.
            let mut txn = FileTxn::begin(connection, seen, effect)?;
            let answer = work(&mut txn)?;
            let present = txn.commit(effect)?;
            if !matches!(&*client.present.borrow(), Ok(known) if *known == present) {
                client.present.send_modify(|known| *known = Ok(present));
            }
            Ok(answer)
        };
        let done = blocking(&self.0.home, operation, effect, transact).await;
        done.map_err(|error| error.in_operation(operation))
    }

    async fn changed(&self, seen: Revision) -> Result<()> {
        let mut present = self.0.present.subscribe();
        let news = present.wait_for(|present| present.as_ref().map_or(true, |present| *present > seen)).await;
        news.map_err(|_| Error::closed("store.watch"))?.clone().map(drop)
    }

    async fn close(&self) -> Result<()> {
        let client = Arc::clone(&self.0);
        let close = move || {
            drop(client.connection.lock().unwrap_or_else(PoisonError::into_inner).take());
            Ok(())
        };
        blocking(&self.0.home, "store.close", Effect::Idempotent, close).await
    }
}
