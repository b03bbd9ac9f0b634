//! Values are never shown: not in logs, not in `Debug`, not in errors.
//!
//! A test binary of its own, because every thread of it listens: `tracing` may take a place in the
//! code for silent for good that a thread without a listener reaches first.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::store::{Op, Range, Span, Store, Txn};
use coord_api::{LeaseId, Provider, Revision};
use coord_memory::MemoryStore;
use coord_recipes::config_manager::{ConfigManager, FaultStage};
use coord_recipes::layers::{Namespace, Observe, Retry, RetryPolicy};
use coord_recipes::{ProviderOptions, StoreProvider};
use serde::Deserialize;
use tokio::time::Instant;

const KEY: &str = "test/gateway/password";
const SECRET: &str = "hunter2";

/// Everything that was logged, in one text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Collects what this thread logs from now on, until the guard is dropped.
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    /// What was logged so far.
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_spans_of_requests_name_keys_and_never_a_value() {
    let log = Log::default();
    let _listening = log.listen();
    let store = Retry::new(Observe::new(MemoryStore::new(), "memory"), RetryPolicy::default()).unwrap();
    let store = Namespace::new(store, "ns").unwrap();
    store.txn(Txn::new().then(Op::put("/app", SECRET))).await.unwrap();
    let found = store.range(Range::prefix("/a")).await.unwrap();
    assert_eq!(found.entries[0].value.as_bytes(), SECRET.as_bytes());
    store.txn(Txn::new().then(Op::put_leased("/app", SECRET, LeaseId::new(99)))).await.unwrap_err();
    let mut watch = store.watch(Span::key("/app"), Some(Revision::new(1))).await.unwrap();
    let lease = store.grant_lease(Duration::from_secs(30)).await.unwrap();
    store.keep_alive(lease.id).await.unwrap();
    store.revoke_lease(lease.id).await.unwrap();
    store.close().await.unwrap();
    while let Some(Ok(_)) = watch.next().await {}

    let text = log.text();
    for expected in [
        "store_request",
        "operation=\"txn\"",
        "backend=\"memory\"",
        "/ns/a",
        "span=\"prefix\"",
        "kind=\"lease_lost\"",
        "outcome=\"not_applied\"",
        "a watch ended",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    assert!(!text.contains(SECRET), "{text}");
    assert!(!format!("{store:?} {found:?}").contains(SECRET));
}

#[tokio::test(start_paused = true)]
async fn a_config_manager_shows_what_went_wrong_and_never_a_value() {
    #[derive(Debug, Default, Deserialize)]
    struct Password {
        text: String,
    }
    let log = Log::default();
    let _listening = log.listen();
    let provider = StoreProvider::new(Arc::new(MemoryStore::new()), ProviderOptions::default());
    let config = provider.config();
    let manager = ConfigManager::<Password>::builder(Arc::clone(config), "gateway", "password")
        .env("test")
        .validate(|password: &Password| if password.text.is_empty() { Err("empty") } else { Ok(()) })
        .on_update(
            |_: &Arc<Password>, new: &Arc<Password>| {
                if new.text.len() > 10 { panic!("long") } else { Ok::<_, String>(()) }
            },
        )
        .build()
        .unwrap();
    manager.start().await;
    let mut shown = String::new();
    for (document, wanted) in [
        (format!("{{\"text\":\"{SECRET}\"}}"), None),
        (format!("\"{SECRET}\""), Some(FaultStage::Decode)),
        (format!("{{\"text\":[\"{SECRET}\"]}}"), Some(FaultStage::Decode)),
        (format!("{{\"text\":\"\",\"more\":\"{SECRET}\"}}"), Some(FaultStage::Validate)),
        (format!("{{\"text\":\"{SECRET}{SECRET}\"}}"), Some(FaultStage::Callback)),
    ] {
        let version = config.set_raw(KEY, document.into()).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let judged = || {
            let status = manager.status();
            status.last_error.as_ref().map_or(status.version(), |fault| fault.version) == Some(version)
        };
        while !judged() {
            assert!(Instant::now() < deadline, "never judged");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let status = manager.status();
        assert_eq!(status.last_error.as_ref().map(|fault| fault.stage), wanted);
        shown += &format!("{manager:?} {status:?} {:?} {:?}", manager.reader(), manager.current());
        shown += &status.last_error.map_or_else(String::new, |fault| fault.to_string());
    }
    assert_eq!(manager.current().text, SECRET);
    assert!(!shown.contains(SECRET), "{shown}");
    let text = log.text();
    assert!(text.contains("stage=validate") && text.contains("stage=callback"), "{text}");
    assert!(!text.contains(SECRET), "{text}");
}

#[tokio::test]
async fn a_configuration_that_is_refused_is_logged_with_the_reason() {
    let log = Log::default();
    let _listening = log.listen();
    let provider = StoreProvider::new(Arc::new(MemoryStore::new()), ProviderOptions::default());
    let manager = ConfigManager::<u32>::builder(Arc::clone(provider.config()), "gateway", "password")
        .env("test")
        .validate(|value: &u32| if *value == 0 { Err("no request would pass") } else { Ok(()) })
        .build()
        .unwrap();
    manager.start().await;
    for (document, reason) in [("0", "no request would pass"), ("{}", "line 1, column")] {
        let version = provider.config().set_raw(KEY, document.into()).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while manager.status().last_error.is_none_or(|fault| fault.version != Some(version)) {
            assert!(Instant::now() < deadline, "never refused: {document}");
            tokio::task::yield_now().await;
        }
        let text = log.text();
        let line = text.lines().rfind(|line| line.contains("configuration refused")).expect("it was logged");
        assert!(line.contains("WARN") && line.contains(KEY) && line.contains(reason), "{line}");
    }
}
