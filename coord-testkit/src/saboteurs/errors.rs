//! What says too much, or not what it should, in an error (R1).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::handle::Leased;
use coord_api::prelude::*;
use coord_api::store::{Range, RangeReply, Store, Txn, TxnReply};
use coord_api::{
    Error, ErrorKind, Fence, FencingToken, HandleState, IdOptions, InstanceId, LockGuard, LockOptions, Lost,
    RegisterOptions, Registration, Result, ServiceInstance, Snapshot, Value, Version,
};

use super::handle::{Kept, hooks, registration, registration_over};
use super::provider::{BrokenProvider, Good};
use super::store::BrokenStore;
use super::{Sabotage, Saboteur};
use crate::handle::Handle;
use crate::layout;

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new(
        "conflict-shows-what-is-there",
        "a conflict shows the value that is there",
        &["r1"],
        || Sabotage::provider(|| ShowsCurrent),
    ),
    Saboteur::new("refusal-shows-the-queue", "a try that fails names the keys of others", &["r1"], || {
        Sabotage::provider(|| ShowsQueue)
    }),
    Saboteur::new(
        "conflict-shows-the-record",
        "an exclusive registration that fails shows the record of the other",
        &["r1"],
        || Sabotage::provider(|| ShowsRecord),
    ),
    Saboteur::new(
        "update-shows-its-content",
        "an update that fails shows what it was to write",
        &["r1"],
        || Sabotage::provider(|| ShowsUpdate),
    ),
    Saboteur::new(
        "registration-shows-itself",
        "a registration shows its content, metadata included, to whoever prints it",
        &["r1"],
        || Sabotage::provider(|| ShowsItself),
    ),
    Saboteur::new("exhausted-shows-holders", "an error names who else has ids", &["r1"], || {
        Sabotage::provider(|| ShowsHolders)
    }),
    Saboteur::new("invalid-shows-its-bytes", "what does not decode is quoted by its error", &["r1"], || {
        Sabotage::provider(|| QuotesInvalid)
    }),
    Saboteur::new("failure-shows-its-request", "a failed request is shown in its error", &["r1"], || {
        Sabotage::client(|| ShowsRequest)
    }),
    Saboteur::new("cause-shows-its-request", "the cause of an error shows the request", &["r1"], || {
        Sabotage::client(|| CauseShowsRequest)
    }),
    Saboteur::new("error-names-nothing", "an error does not say what it was about", &["r1"], || {
        Sabotage::provider(|| {
            Renames(|error, _| {
                let mut plain = Error::new(error.kind(), error.operation(), error.message().to_owned())
                    .with_outcome(error.outcome());
                if let Some(version) = error.current_version() {
                    plain = Error::version_conflict(error.operation(), version);
                }
                plain
            })
        })
    }),
    Saboteur::new("error-names-the-stores-key", "an error names the key in the store", &["r1"], || {
        Sabotage::provider(|| {
            Renames(|error, key| {
                Error::new(error.kind(), error.operation(), error.message().to_owned())
                    .with_outcome(error.outcome())
                    .about(&layout::config(key))
            })
        })
    }),
    Saboteur::new("holder-is-oneself", "an error names who asks as who holds it", &["r34"], || {
        Sabotage::provider(|| HolderIsOneself)
    }),
];

fn shown(error: &Error, what: &str) -> Error {
    Error::new(error.kind(), error.operation(), format!("{}: {what}", error.message()))
        .with_outcome(error.outcome())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

struct ShowsCurrent;

#[async_trait]
impl BrokenProvider for ShowsCurrent {
    async fn compare_and_set(
        &self,
        good: &Good,
        key: &str,
        value: Value,
        expected: Version,
    ) -> Result<Version> {
        match good.provider.config().compare_and_set_raw(key, value, expected).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let found = good.provider.config().get_raw(key).await?;
                Err(error.with_source(Said(found.map_or_else(String::new, |found| text(&found.value)))))
            }
            answer => answer,
        }
    }
}

/// A cause that says something.
#[derive(Debug)]
struct Said(String);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Said {}

async fn keys_under(good: &Good, prefix: &str) -> String {
    let entries = good.store.range(Range::prefix(prefix.to_owned())).await.map(|found| found.entries);
    entries.into_iter().flatten().map(|entry| text(&entry.key)).collect::<Vec<_>>().join(", ")
}

struct ShowsQueue;

#[async_trait]
impl BrokenProvider for ShowsQueue {
    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        match good.provider.lock().acquire_with(key, options).await {
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Timeout) => {
                Err(shown(&error, &keys_under(good, layout::LOCKS).await))
            }
            answer => answer,
        }
    }
}

struct ShowsRecord;

#[async_trait]
impl BrokenProvider for ShowsRecord {
    async fn register(
        &self,
        good: &Good,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        let key = layout::service(&instance.name, &instance.id);
        match good.provider.registry().register_with(instance, options).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let there = good.store.range(Range::key(key)).await?.entries;
                Err(shown(&error, &there.first().map_or_else(String::new, |entry| text(&entry.value))))
            }
            answer => answer,
        }
    }
}

struct ShowsUpdate;

#[async_trait]
impl BrokenProvider for ShowsUpdate {
    async fn register(
        &self,
        good: &Good,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        let inner = good.provider.registry().register_with(instance, options).await?;
        let says = hooks().update(|good, instance| async move {
            let wanted = format!("{:?}", instance.metadata);
            good.update(instance).await.map_err(|error| shown(&error, &wanted))
        });
        Ok(registration(inner, says))
    }
}

/// A registration that shows what was registered.
#[derive(Debug)]
struct Tattles {
    good: Kept,
    #[expect(dead_code, reason = "it is there to be shown")]
    content: ServiceInstance,
}

#[async_trait]
impl Leased for Tattles {
    fn fencing_token(&self) -> FencingToken {
        self.good.fencing_token()
    }

    fn fence(&self) -> Fence {
        self.good.fence()
    }

    fn state(&self) -> HandleState {
        self.good.state()
    }

    fn ttl(&self) -> Duration {
        self.good.ttl()
    }

    fn lost(&self) -> Lost {
        self.good.lost()
    }

    async fn release(&self) -> Result<()> {
        self.good.release().await
    }
}

#[async_trait]
impl Handle for Tattles {
    async fn update(&self, instance: ServiceInstance) -> Result<()> {
        self.good.update(instance).await
    }
}

struct ShowsItself;

#[async_trait]
impl BrokenProvider for ShowsItself {
    async fn register(
        &self,
        good: &Good,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        let (service, id, content) = (instance.name.clone(), instance.id.clone(), instance.clone());
        let good: Kept = Arc::new(good.provider.registry().register_with(instance, options).await?);
        Ok(registration_over(&service, &id, Arc::new(Tattles { good, content }), hooks()))
    }
}

struct ShowsHolders;

#[async_trait]
impl BrokenProvider for ShowsHolders {
    async fn acquire_id(&self, good: &Good, service: &str, options: IdOptions) -> Result<InstanceId> {
        match good.provider.allocator().acquire_id_with(service, options).await {
            Err(error) if matches!(error.kind(), ErrorKind::Exhausted | ErrorKind::Timeout) => {
                Err(shown(&error, &keys_under(good, layout::IDS).await))
            }
            answer => answer,
        }
    }
}

struct QuotesInvalid;

#[async_trait]
impl BrokenProvider for QuotesInvalid {
    async fn discover(&self, good: &Good, service: &str) -> Result<Snapshot<ServiceInstance>> {
        let mut found = good.provider.registry().discover(service).await?;
        for record in &mut found.invalid {
            record.error = shown(&record.error, &text(&record.value));
        }
        Ok(found)
    }
}

/// Shows the whole request in what it says of a failure.
struct ShowsRequest;

fn in_full(txn: &Txn) -> String {
    let put = |op: &coord_api::store::Op| match op {
        coord_api::store::Op::Put { value, .. } => text(value),
        op => format!("{op:?}"),
    };
    txn.then.iter().chain(&txn.otherwise).map(put).collect::<Vec<_>>().join(", ")
}

#[async_trait]
impl BrokenStore for ShowsRequest {
    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        let request = in_full(&txn);
        good.txn(txn).await.map_err(|error| shown(&error, &request))
    }
}

struct CauseShowsRequest;

#[async_trait]
impl BrokenStore for CauseShowsRequest {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        let request = format!("{range:?}");
        good.range(range).await.map_err(|error| error.with_source(Said(request)))
    }

    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        let request = in_full(&txn);
        good.txn(txn).await.map_err(|error| error.with_source(Said(request)))
    }
}

/// Says of errors about a key something else.
struct Renames(fn(Error, &str) -> Error);

#[async_trait]
impl BrokenProvider for Renames {
    async fn get(&self, good: &Good, key: &str) -> Result<Option<coord_api::Versioned>> {
        good.provider.config().get_raw(key).await.map_err(|error| (self.0)(error, key))
    }

    async fn set(&self, good: &Good, key: &str, value: Value) -> Result<Version> {
        good.provider.config().set_raw(key, value).await.map_err(|error| (self.0)(error, key))
    }

    async fn acquire(&self, good: &Good, key: &str, options: LockOptions) -> Result<LockGuard> {
        good.provider.lock().acquire_with(key, options).await.map_err(|error| (self.0)(error, key))
    }

    async fn discover(&self, good: &Good, service: &str) -> Result<Snapshot<ServiceInstance>> {
        good.provider.registry().discover(service).await.map_err(|error| (self.0)(error, service))
    }
}

struct HolderIsOneself;

#[async_trait]
impl BrokenProvider for HolderIsOneself {
    async fn register(
        &self,
        good: &Good,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        let own = format!("{}:{}", instance.address, instance.port);
        good.provider
            .registry()
            .register_with(instance, options)
            .await
            .map_err(|error| if error.holder().is_some() { error.held_by(&own) } else { error })
    }
}
