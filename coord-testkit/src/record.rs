//! Clients whose requests are noted down with their answers, so that a failure can tell what was
//! asked last, and what was answered.

use std::fmt::{self, Debug, Display};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{
    Lease, LeaseInfo, Range, RangeReply, Span, Store, StoreEvent, StoreStatus, StoreWatch, Txn, TxnReply,
};
use coord_api::{
    ConfigCenter, ConfigEntry, ConfigEvent, DistributedLock, IdOptions, InstanceId, InstanceIdAllocator,
    LeaseId, LockGuard, LockOptions, Provider, RegisterOptions, Registration, Result, Revision, ServiceEvent,
    ServiceInstance, ServiceRegistry, Snapshot, Value, Version, Versioned, Watch, WatchStart, WriteOptions,
};
use futures_util::{Stream, StreamExt};

use crate::progress::Progress;
use crate::words::Words;

/// Notes down what one client asks.
#[derive(Clone)]
struct Recorder {
    progress: Progress,
    client: u64,
}

impl Recorder {
    /// Notes a request, then its answer in the words that `tell` has for it.
    fn noted<T>(
        &self,
        asked: impl Display,
        request: impl Future<Output = Result<T>>,
        tell: impl Fn(&T, &mut fmt::Formatter<'_>) -> fmt::Result,
    ) -> impl Future<Output = Result<T>> {
        let number = self.progress.asked(format_args!("client {}: {asked}", self.client));
        async move {
            let answer = request.await;
            let told = |f: &mut fmt::Formatter<'_>| match &answer {
                Ok(answer) => tell(answer, f),
                Err(error) => write!(f, "{error:?}"),
            };
            self.progress.answered(number, Told(told));
            answer
        }
    }

    /// Notes what a stream tells.
    fn told(&self, what: &str, item: impl Display) {
        let number = self.progress.asked(format_args!("client {}: {what}", self.client));
        self.progress.answered(number, item);
    }
}

/// Something that tells itself.
struct Told<F>(F);

impl<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result> Display for Told<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.0)(f)
    }
}

fn words<T>(answer: &T, f: &mut fmt::Formatter<'_>) -> fmt::Result
where
    for<'a> Words<'a, T>: Display,
{
    Words(answer).fmt(f)
}

fn debug<T: Debug>(answer: &T, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    answer.fmt(f)
}

/// A store whose requests are noted down.
pub(crate) struct RecordedStore {
    inner: Arc<dyn Store>,
    recorder: Recorder,
}

impl RecordedStore {
    pub(crate) fn new(inner: Arc<dyn Store>, progress: Progress, client: u64) -> Self {
        RecordedStore { inner, recorder: Recorder { progress, client } }
    }
}

impl Debug for RecordedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for RecordedStore {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        let asked = Words(&range).to_string();
        self.recorder.noted(asked, self.inner.range(range), words).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        let asked = Words(&txn).to_string();
        self.recorder.noted(asked, self.inner.txn(txn), words).await
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        let asked = match after {
            Some(after) => format!("watch {} after revision {after}", Words(&span)),
            None => format!("watch {} from now on", Words(&span)),
        };
        let armed = |watch: &StoreWatch, f: &mut fmt::Formatter<'_>| write!(f, "armed at {}", watch.armed());
        let watch = self.recorder.noted(asked, self.inner.watch(span.clone(), after), armed).await?;
        let (armed, recorder) = (watch.armed(), self.recorder.clone());
        let what = format!("the watch of {}", Words(&span));
        Ok(StoreWatch::new(
            armed,
            watch.inspect(move |item| {
                recorder.told(
                    &what,
                    Told(|f: &mut fmt::Formatter<'_>| match item {
                        Ok(StoreEvent::Batch(batch)) => Words(batch).fmt(f),
                        Ok(StoreEvent::Progress(revision)) => write!(f, "progress to {revision}"),
                        Err(error) => write!(f, "{error:?}"),
                    }),
                );
            }),
        ))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        self.recorder.noted(format!("grant a lease of {ttl:?}"), self.inner.grant_lease(ttl), debug).await
    }

    async fn keep_alive(&self, id: LeaseId) -> Result<Duration> {
        self.recorder.noted(format!("keep lease {id} alive"), self.inner.keep_alive(id), debug).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        self.recorder.noted(format!("look lease {id} up"), self.inner.lease(id), debug).await
    }

    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        self.recorder.noted(format!("revoke lease {id}"), self.inner.revoke_lease(id), debug).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.recorder.noted("status", self.inner.status(), debug).await
    }

    async fn close(&self) -> Result<()> {
        self.recorder.noted("close the store", self.inner.close(), debug).await
    }
}

/// The contracts of a provider, their calls noted down.
struct Contracts {
    inner: Arc<dyn Provider>,
    recorder: Recorder,
}

impl Debug for Contracts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// A watch that notes down what it tells.
struct RecordedWatch<E> {
    inner: Watch<E>,
    recorder: Recorder,
    what: String,
}

impl<E: Debug> Stream for RecordedWatch<E> {
    type Item = Result<E>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = ready!(Pin::new(&mut self.inner).poll_next(cx));
        self.recorder.told(&self.what, format_args!("{item:?}"));
        Poll::Ready(item)
    }
}

impl Contracts {
    async fn watch<E: Debug + Send + 'static>(
        &self,
        what: String,
        start: impl Debug,
        opened: impl Future<Output = Result<Watch<E>>>,
    ) -> Result<Watch<E>> {
        let asked = format!("{what}, from {start:?}");
        let inner = self.recorder.noted(asked, opened, |_, f| f.write_str("a watch")).await?;
        let recorder = self.recorder.clone();
        Ok(Watch::new(inner.status(), RecordedWatch { inner, recorder, what }))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ConfigCenter for Contracts {
    async fn get_raw(&self, key: &str) -> Result<Option<Versioned>> {
        let call = self.inner.config().get_raw(key);
        let tell = |found: &Option<Versioned>, f: &mut fmt::Formatter<'_>| match found {
            Some(found) => write!(f, "{} at version {}", Words(&found.value), found.version),
            None => f.write_str("nothing"),
        };
        self.recorder.noted(format!("config.get({key:?})"), call, tell).await
    }

    async fn write_with(&self, key: &str, value: Value, options: WriteOptions) -> Result<Version> {
        let asked = match options.expected {
            Some(expected) => format!("config.compare_and_set({key:?}, {}, {expected:?})", Words(&value)),
            None => format!("config.set({key:?}, {})", Words(&value)),
        };
        let call = self.inner.config().write_with(key, value, options);
        self.recorder.noted(asked, call, debug).await
    }

    async fn delete(&self, key: &str) -> Result<bool> {
        self.recorder.noted(format!("config.delete({key:?})"), self.inner.config().delete(key), debug).await
    }

    async fn compare_and_delete(&self, key: &str, expected: Version) -> Result<bool> {
        let asked = format!("config.compare_and_delete({key:?}, {expected:?})");
        self.recorder.noted(asked, self.inner.config().compare_and_delete(key, expected), debug).await
    }

    async fn list_raw(&self, prefix: &str) -> Result<Snapshot<ConfigEntry>> {
        let call = self.inner.config().list_raw(prefix);
        self.recorder.noted(format!("config.list({prefix:?})"), call, debug).await
    }

    async fn watch_raw(&self, key: &str, start: WatchStart) -> Result<Watch<ConfigEvent>> {
        self.watch(format!("config.watch({key:?})"), start, self.inner.config().watch_raw(key, start)).await
    }

    async fn watch_prefix_raw(&self, prefix: &str, start: WatchStart) -> Result<Watch<ConfigEvent>> {
        let opened = self.inner.config().watch_prefix_raw(prefix, start);
        self.watch(format!("config.watch_prefix({prefix:?})"), start, opened).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl DistributedLock for Contracts {
    async fn acquire_with(&self, key: &str, options: LockOptions) -> Result<LockGuard> {
        let call = self.inner.lock().acquire_with(key, options);
        self.recorder.noted(format!("lock.acquire({key:?}, {options:?})"), call, debug).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ServiceRegistry for Contracts {
    async fn register_with(
        &self,
        instance: ServiceInstance,
        options: RegisterOptions,
    ) -> Result<Registration> {
        let asked = format!("registry.register({instance:?}, {options:?})");
        self.recorder.noted(asked, self.inner.registry().register_with(instance, options), debug).await
    }

    async fn register_all(
        &self,
        instances: Vec<ServiceInstance>,
        options: RegisterOptions,
    ) -> Result<Vec<Registration>> {
        let asked = format!("registry.register_all({} instances, {options:?})", instances.len());
        self.recorder.noted(asked, self.inner.registry().register_all(instances, options), debug).await
    }

    async fn discover(&self, service: &str) -> Result<Snapshot<ServiceInstance>> {
        let call = self.inner.registry().discover(service);
        self.recorder.noted(format!("registry.discover({service:?})"), call, debug).await
    }

    async fn watch(&self, service: &str) -> Result<Watch<ServiceEvent>> {
        let opened = self.inner.registry().watch(service);
        self.watch(format!("registry.watch({service:?})"), WatchStart::Snapshot, opened).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl InstanceIdAllocator for Contracts {
    async fn acquire_id_with(&self, service: &str, options: IdOptions) -> Result<InstanceId> {
        let asked = format!("allocator.acquire_id({service:?}, {options:?})");
        self.recorder.noted(asked, self.inner.allocator().acquire_id_with(service, options), debug).await
    }
}

/// A provider whose calls are noted down.
#[derive(Debug)]
pub(crate) struct RecordedProvider {
    all: Arc<Contracts>,
    config: Arc<dyn ConfigCenter>,
    lock: Arc<dyn DistributedLock>,
    registry: Arc<dyn ServiceRegistry>,
    allocator: Arc<dyn InstanceIdAllocator>,
}

impl RecordedProvider {
    pub(crate) fn new(inner: Arc<dyn Provider>, progress: Progress, client: u64) -> Self {
        let all = Arc::new(Contracts { inner, recorder: Recorder { progress, client } });
        RecordedProvider {
            config: Arc::<Contracts>::clone(&all),
            lock: Arc::<Contracts>::clone(&all),
            registry: Arc::<Contracts>::clone(&all),
            allocator: Arc::<Contracts>::clone(&all),
            all,
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Provider for RecordedProvider {
    fn config(&self) -> &Arc<dyn ConfigCenter> {
        &self.config
    }

    fn lock(&self) -> &Arc<dyn DistributedLock> {
        &self.lock
    }

    fn registry(&self) -> &Arc<dyn ServiceRegistry> {
        &self.registry
    }

    fn allocator(&self) -> &Arc<dyn InstanceIdAllocator> {
        &self.allocator
    }

    async fn close(&self) -> Result<()> {
        self.all.recorder.noted("provider.close()", self.all.inner.close(), debug).await
    }
}
