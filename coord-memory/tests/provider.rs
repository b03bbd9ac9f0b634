//! The contracts over the embedded store: what this crate adds to them, which is clients, crashes
//! and virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ErrorKind, WatchStart};
use coord_memory::MemoryProvider;

const TTL: Duration = Duration::from_secs(30);

async fn a_crashed_holder_loses_its_lock_to_the_next(one: Arc<MemoryProvider>) {
    let two = one.client();
    let guard = one.lock().acquire("job", TTL).await.unwrap();
    let start = tokio::time::Instant::now();
    one.abandon();
    assert_eq!(one.config().get_raw("a").await.unwrap_err().kind(), ErrorKind::Closed);
    let next = two.lock().acquire("job", TTL).await.unwrap();
    assert!(start.elapsed() >= TTL / 2, "not before the lease ran out");
    assert!(next.fencing_token() > guard.fencing_token());
    assert!(!guard.is_held());
    next.unlock().await.unwrap();
}

async fn closing_frees_at_once_and_leaves_the_others_alone(one: Arc<MemoryProvider>) {
    let two = one.client();
    let id = one.allocator().acquire_id("svc", 9).await.unwrap();
    let mut watch = two.config().watch_raw("a", WatchStart::Now).await.unwrap();
    one.close().await.unwrap();
    one.close().await.unwrap();
    let again = two.allocator().acquire_id("svc", 9).await.unwrap();
    assert_eq!(again.id(), id.id());
    two.config().set_raw("a", "1".into()).await.unwrap();
    assert!(watch.next().await.unwrap().is_ok());
    let head = two.config().set_raw("a", "2".into()).await.unwrap();
    two.compact(head).await.unwrap();
}

macro_rules! on_every_storage {
    ($($case:ident)*) => {
        mod volatile {
            $(
                #[tokio::test(start_paused = true)]
                async fn $case() {
                    super::$case(super::MemoryProvider::new()).await;
                }
            )*
        }

        #[cfg(feature = "sled")]
        mod sled {
            $(
                #[tokio::test(start_paused = true)]
                async fn $case() {
                    let dir = tempfile::tempdir().unwrap();
                    super::$case(super::MemoryProvider::open(dir.path().join("store")).unwrap()).await;
                }
            )*
        }
    };
}

on_every_storage! {
    a_crashed_holder_loses_its_lock_to_the_next
    closing_frees_at_once_and_leaves_the_others_alone
}

#[cfg(feature = "sled")]
#[tokio::test]
async fn a_closed_provider_lets_go_of_its_directory_though_its_handles_live_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let one = MemoryProvider::open(&path).unwrap();
    let version = one.config().set_raw("a", "1".into()).await.unwrap();
    let guard = one.lock().acquire("job", TTL).await.unwrap();
    one.close().await.unwrap();
    let two = MemoryProvider::open(&path).unwrap();
    let found = two.config().get_raw("a").await.unwrap().unwrap();
    assert_eq!((found.value, found.version), ("1".into(), version));
    let next = two.lock().acquire("job", TTL).await.unwrap();
    assert!(next.fencing_token() > guard.fencing_token());
}
