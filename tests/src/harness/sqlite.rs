//! The store over SQLite: each client opens the file for itself, as another process would.
#![allow(clippy::expect_used, reason = "a harness that cannot be made fails its case")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::Store;
use coord_api::{Provider, Revision};
use coord_backend_sqlite::{LOOK_EVERY, Sqlite};
use coord_core::backend::DatabaseStore;
use coord_core::layers::{Bounded, Namespace};
use coord_recipes::{ProviderOptions, StoreProvider};
use coord_testkit::{Client, Harness, Reopened, Time};
use tempfile::TempDir;

/// The store in a directory that is gone with this.
pub struct File {
    time: Time,
    open: Mutex<Open>,
}

/// The file, and the clients that have it open.
struct Open {
    directory: TempDir,
    clients: Vec<Bounded<DatabaseStore<Sqlite>>>,
}

impl Open {
    fn in_new_directory() -> Self {
        Open { directory: TempDir::new().expect("a temporary directory"), clients: Vec::new() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("store.sqlite")
    }
}

impl File {
    /// A fresh store. Its time is virtual, though its file is real.
    ///
    /// # Panics
    ///
    /// When the directory cannot be made.
    pub fn start() -> Self {
        File { time: Time::Virtual, open: Mutex::new(Open::in_new_directory()) }
    }

    /// A fresh store that lives by the clock on the wall.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn in_real_time() -> Self {
        File { time: Time::Real, ..File::start() }
    }

    async fn store(&self) -> Bounded<DatabaseStore<Sqlite>> {
        let path = self.open.lock().expect("nothing panics in here").path();
        let store = Sqlite::open(path).await.expect("the file opens");
        self.open.lock().expect("nothing panics in here").clients.push(store.clone());
        store
    }
}

#[async_trait]
impl Harness for File {
    async fn client(&self) -> Client {
        let store = self.store().await;
        let crashing = store.clone();
        Client::new(Arc::new(store.clone()), self.assemble(Arc::new(store)), move || async move {
            // It revokes nothing.
            crashing.close().await.expect("the file closes");
        })
    }

    fn assemble(&self, store: Arc<dyn Store>) -> Arc<dyn Provider> {
        StoreProvider::new(store, ProviderOptions::default())
    }

    fn namespaced(&self, store: Arc<dyn Store>, namespace: &str) -> Arc<dyn Provider> {
        self.assemble(Arc::new(Namespace::new(store, namespace).expect("a good namespace")))
    }

    async fn compact(&self, through: Revision) {
        self.store().await.inner().inner().compact(through).await.expect("the store is open");
    }

    async fn reopen(&self) -> Reopened {
        let old = std::mem::replace(
            &mut *self.open.lock().expect("nothing panics in here"),
            Open::in_new_directory(),
        );
        // Whoever closes the file last tidies it up, which nobody who is killed does.
        let last = Sqlite::open(old.path()).await.expect("the file opens");
        for client in &old.clients {
            client.close().await.expect("the file closes");
        }
        // What `kill -9` leaves is what the files hold at that moment: the store and its log.
        let new = self.open.lock().expect("nothing panics in here").path();
        for end in ["", "-wal"] {
            let file = |path: &Path| format!("{}{end}", path.display());
            fs::copy(file(&old.path()), file(&new)).expect("the files can be read");
        }
        last.close().await.expect("the file closes");
        Reopened::Done
    }

    fn time(&self) -> Time {
        self.time
    }

    fn lag(&self) -> Duration {
        LOOK_EVERY * 3
    }
}
