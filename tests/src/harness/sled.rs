//! The durable store.
#![allow(clippy::expect_used, reason = "a harness that cannot be made fails its case")]

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use coord_api::store::Store;
use coord_api::{Provider, Revision};
use coord_memory::MemoryProvider;
use coord_recipes::layers::Namespace;
use coord_recipes::{ProviderOptions, StoreProvider};
use coord_testkit::{Client, Harness, Reopened, Time};
use tempfile::TempDir;

/// The open store, its clients, and the directory that its files are in.
struct Open {
    first: Arc<MemoryProvider>,
    clients: Vec<Arc<MemoryProvider>>,
    directory: TempDir,
}

impl Open {
    fn at(directory: TempDir) -> Self {
        let first = MemoryProvider::open(directory.path()).expect("the directory opens");
        Open { first, clients: Vec::new(), directory }
    }
}

/// The durable store, in a directory that is gone with this.
pub struct Durable(Mutex<Open>);

impl Durable {
    /// A fresh store.
    ///
    /// # Panics
    ///
    /// When the directory cannot be made.
    pub fn start() -> Self {
        Durable(Mutex::new(Open::at(TempDir::new().expect("a temporary directory"))))
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().expect("nothing panics in here")
    }
}

#[async_trait::async_trait]
impl Harness for Durable {
    async fn client(&self) -> Client {
        let mut open = self.open();
        let client = open.first.client();
        open.clients.push(Arc::clone(&client));
        let crashing = Arc::clone(&client);
        Client::new(Arc::new(client.store().clone()), client, move || async move { crashing.abandon() })
    }

    fn assemble(&self, store: Arc<dyn Store>) -> Arc<dyn Provider> {
        StoreProvider::new(store, ProviderOptions::default())
    }

    fn namespaced(&self, store: Arc<dyn Store>, namespace: &str) -> Arc<dyn Provider> {
        self.assemble(Arc::new(Namespace::new(store, namespace).expect("a good namespace")))
    }

    async fn compact(&self, through: Revision) {
        let store = Arc::clone(&self.open().first);
        store.compact(through).await.expect("the store is open");
    }

    async fn reopen(&self) -> Reopened {
        let mut open = self.open();
        // What `kill -9` leaves is what the files hold at that moment: a copy of them, taken while
        // the store is open.
        let copy = TempDir::new().expect("a temporary directory");
        copy_directory(open.directory.path(), copy.path()).expect("the files can be read");
        open.clients.iter().chain([&open.first]).for_each(|client| client.abandon());
        *open = Open::at(copy);
        Reopened::Done
    }

    async fn another(&self) -> Option<Arc<dyn Harness>> {
        Some(Arc::new(Durable::start()))
    }

    fn time(&self) -> Time {
        Time::Virtual
    }

    fn lag(&self) -> Duration {
        Duration::from_millis(1)
    }
}

fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
