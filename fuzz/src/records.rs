//! What others left in the store, under any key and in any form.

use std::collections::BTreeSet;

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use coord_api::prelude::*;
use coord_api::store::{Entry, Op, Range, Store, Txn};
use coord_api::{ErrorKind, Result, key};
use coord_memory::MemoryStore;
use coord_recipes::{Home, ProviderOptions, StoreProvider};

/// The ids that are asked for.
const IDS: u32 = 4;

/// A key, and what lies there.
#[derive(Arbitrary, Clone, Debug)]
struct Left {
    directory: Directory,
    name: Name,
    record: Record,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Directory {
    Config,
    Instances,
    Ids,
    Queue,
}

impl Directory {
    fn path(self) -> &'static str {
        match self {
            Directory::Config => "/config/",
            Directory::Instances => "/services/s/",
            Directory::Ids => "/im-infra/allocators/s/ids/",
            Directory::Queue => "/locks/l/",
        }
    }
}

#[derive(Arbitrary, Clone, Debug)]
enum Name {
    Plain(u8),
    Bytes(Vec<u8>),
}

impl Name {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Name::Plain(number) => (number % 8).to_string().into_bytes(),
            Name::Bytes(bytes) => bytes.clone(),
        }
    }
}

#[derive(Arbitrary, Clone, Debug)]
enum Record {
    Bytes(Vec<u8>),
    /// Nearly that of an instance.
    Instance {
        name: Option<String>,
        id: Option<String>,
        address: String,
        port: u16,
    },
}

impl Record {
    /// An instance has the name and id of its key, where none are given.
    fn bytes(&self, key: &[u8]) -> Vec<u8> {
        match self {
            Record::Bytes(bytes) => bytes.clone(),
            Record::Instance { name, id, address, port } => {
                let id = id.clone().unwrap_or_else(|| String::from_utf8_lossy(key).into_owned());
                let name = name.as_deref().unwrap_or("s");
                serde_json::json!({ "name": name, "id": id, "address": address, "port": port })
                    .to_string()
                    .into_bytes()
            }
        }
    }
}

/// Whatever others left: lists and discoveries show each record once, as good or as invalid, and
/// what they show as good is so by every rule; ids and locks that are given out are nobody else's.
///
/// # Panics
///
/// Where that does not hold.
pub fn check(data: &[u8]) {
    let Ok(left) = Vec::<Left>::arbitrary(&mut Unstructured::new(data)) else { return };
    crate::run(async {
        let store = MemoryStore::new_in(Home::callers());
        for left in left.iter().take(32) {
            let name = left.name.bytes();
            let key = [left.directory.path().as_bytes(), &name].concat();
            store
                .txn(Txn::new().then(Op::put(key, left.record.bytes(&name))))
                .await
                .expect("any key may be written");
        }
        let coord = StoreProvider::new(
            std::sync::Arc::new(store.client()),
            ProviderOptions::default().with_home(Home::callers()),
        );
        configuration(&store, &*coord).await;
        instances(&store, &*coord).await;
        ids(&store, &*coord).await;
        lock(&store, &*coord).await;
        coord.close().await.expect("the store is there");
    });
}

async fn there(store: &MemoryStore, directory: Directory) -> Vec<Entry> {
    store.range(Range::prefix(directory.path())).await.expect("the store is there").entries
}

async fn configuration(store: &MemoryStore, coord: &dyn Provider) {
    let entries = there(store, Directory::Config).await;
    let listed = coord.config().list_raw("").await.expect("the store is there");
    assert_eq!(listed.items.len() + listed.invalid.len(), entries.len(), "{listed:?}");
    assert!(listed.items.is_sorted_by(|one, next| one.key < next.key), "{listed:?}");
    for item in &listed.items {
        let read = coord
            .config()
            .get_raw(&item.key)
            .await
            .expect("what is listed, every call takes")
            .expect("it is there");
        assert_eq!((&read.value, read.version), (&item.value, item.version), "{}", item.key);
    }
    for invalid in &listed.invalid {
        let taken = std::str::from_utf8(&invalid.key).ok().and_then(|text| key::check("fuzz", text).ok());
        assert!(taken.is_none_or(|taken| taken.as_bytes() != invalid.key), "a call takes it: {invalid:?}");
        assert!(
            entries.iter().any(|entry| entry.value == invalid.value && entry.key.ends_with(&invalid.key)),
            "{invalid:?}"
        );
    }
    let typed = coord.config().list::<u32>("").await.expect("the store is there");
    assert_eq!(typed.items.len() + typed.invalid.len(), entries.len(), "{typed:?}");
}

async fn instances(store: &MemoryStore, coord: &dyn Provider) {
    let entries = there(store, Directory::Instances).await;
    let found = coord.registry().discover("s").await.expect("the store is there");
    assert_eq!(found.items.len() + found.invalid.len(), entries.len(), "{found:?}");
    assert!(found.items.is_sorted_by(|one, next| one.id < next.id), "{found:?}");
    for instance in &found.items {
        instance.validate("fuzz").expect("what is discovered could have been registered");
        assert_eq!(instance.name, "s", "{instance:?}");
        let key = Bytes::from([Directory::Instances.path(), &instance.id].concat());
        assert!(entries.iter().any(|entry| entry.key == key), "{instance:?}");
    }
    for invalid in &found.invalid {
        assert!(matches!(invalid.error.kind(), ErrorKind::Codec | ErrorKind::InvalidArgument), "{invalid:?}");
    }
}

async fn ids(store: &MemoryStore, coord: &dyn Provider) {
    let taken: BTreeSet<Bytes> =
        there(store, Directory::Ids).await.into_iter().map(|entry| entry.key).collect();
    let mut free =
        (1..=IDS).filter(|id| !taken.contains(format!("{}{id}", Directory::Ids.path()).as_bytes()));
    let acquired = coord.allocator().acquire_id("s", IDS).await;
    match (acquired, free.next()) {
        (Ok(id), Some(smallest)) => {
            assert_eq!(id.id(), smallest, "beside {taken:?}");
            id.release().await.expect("the store is there");
        }
        (Err(error), None) => assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}"),
        (acquired, smallest) => {
            panic!("{acquired:?} where {smallest:?} is the smallest free one, beside {taken:?}")
        }
    }
}

async fn lock(store: &MemoryStore, coord: &dyn Provider) {
    let before = there(store, Directory::Queue).await;
    // What is deeper, or the directory itself, is in no queue.
    let waits = before.iter().any(|entry| {
        let name = entry.key.strip_prefix(Directory::Queue.path().as_bytes()).unwrap_or_default();
        !name.is_empty() && !name.contains(&b'/')
    });
    let acquired: Result<_> = coord.lock().try_acquire("l", std::time::Duration::from_secs(10)).await;
    match acquired {
        Ok(guard) => {
            assert!(guard.is_held() && !waits, "beside {before:?}");
            guard.unlock().await.expect("the store is there");
        }
        Err(error) => assert!(error.kind() == ErrorKind::Conflict && waits, "{error} beside {before:?}"),
    }
    assert_eq!(there(store, Directory::Queue).await, before, "a try leaves nothing behind");
}
