//! What etcd's own Go client brings as recipes, spoken as raw requests.

use std::sync::atomic::{AtomicU64, Ordering};

use etcd_client::{
    Client, Compare, CompareOp, EventType, GetOptions, KvClient, PutOptions, SortOrder, SortTarget, Txn,
    TxnOp, WatchOptions, WatchStream,
};

/// How many requests were made, watches apart.
static REQUESTS: AtomicU64 = AtomicU64::new(0);

fn counted(client: &mut KvClient) -> &mut KvClient {
    REQUESTS.fetch_add(1, Ordering::Relaxed);
    client
}

/// The requests since this was asked last.
pub(crate) fn requests() -> u64 {
    REQUESTS.swap(0, Ordering::Relaxed)
}

/// The session of a Go client: a lease that is kept alive for as long as the bench runs.
pub(crate) async fn session(client: &Client) -> i64 {
    let mut leases = client.lease_client();
    let lease = leases.grant(600, None).await.unwrap().id();
    let (mut keeper, mut kept) = leases.keep_alive(lease).await.unwrap();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(std::time::Duration::from_secs(60)).await;
            if keeper.keep_alive().await.is_err() || kept.message().await.is_err() {
                return;
            }
        }
    });
    lease
}

/// A key that no other one has, on this lease; its create revision.
pub(crate) async fn enter(client: &Client, key: &str, lease: i64) -> i64 {
    let absent = Compare::create_revision(key, CompareOp::Equal, 0);
    let put = TxnOp::put(key, "", Some(PutOptions::new().with_lease(lease)));
    let mut kv = client.kv_client();
    let reply = counted(&mut kv).txn(Txn::new().when([absent]).and_then([put])).await.unwrap();
    reply.header().unwrap().revision()
}

pub(crate) async fn leave(client: &Client, key: &str) {
    let mut kv = client.kv_client();
    counted(&mut kv).delete(key, None).await.unwrap();
}

/// Waits until no key under the prefix was created before `own`: one after the other, each by a
/// watch of its own.
pub(crate) async fn wait_for_those_before(client: &Client, prefix: &str, own: i64) {
    let mut kv = client.kv_client();
    loop {
        let before = GetOptions::new()
            .with_prefix()
            .with_sort(SortTarget::Create, SortOrder::Descend)
            .with_max_create_revision(own - 1)
            .with_limit(1);
        let found = counted(&mut kv).get(prefix, Some(before)).await.unwrap();
        let Some(predecessor) = found.kvs().first() else { return };
        let from = WatchOptions::new().with_start_revision(found.header().unwrap().revision());
        let mut watch = client.watch_client().watch(predecessor.key(), Some(from)).await.unwrap();
        'deleted: while let Some(response) = watch.message().await.unwrap() {
            for event in response.events() {
                if event.event_type() == EventType::Delete {
                    break 'deleted;
                }
            }
        }
        end(watch);
    }
}

/// Ends a watch as a Go client does, which says so and hears the rest. To drop it resets a stream,
/// and servers hang up on clients that do so all the time.
fn end(watch: WatchStream) {
    let (asks, mut answers) = watch.split();
    drop(asks);
    tokio::spawn(async move { while let Ok(Some(_)) = answers.message().await {} });
}

/// Reads a key, and writes it where it is not there.
pub(crate) async fn read_or_write(client: &Client, key: &str) {
    let mut kv = client.kv_client();
    if counted(&mut kv).get(key, None).await.unwrap().kvs().is_empty() {
        counted(&mut kv).put(key, "v", None).await.unwrap();
    }
}

/// A number that is changed by compare-and-set: `change` says what becomes of it, or that it must
/// change first. Who has to wait watches it.
pub(crate) async fn change(client: &Client, key: &str, change: impl Fn(i64) -> Option<i64>) -> i64 {
    let mut kv = client.kv_client();
    loop {
        let found = counted(&mut kv).get(key, None).await.unwrap();
        let (now, modified) = found
            .kvs()
            .first()
            .map_or((0, 0), |kv| (kv.value_str().unwrap().parse().unwrap(), kv.mod_revision()));
        let Some(new) = change(now) else {
            let from = WatchOptions::new().with_start_revision(found.header().unwrap().revision() + 1);
            let mut watch = client.watch_client().watch(key, Some(from)).await.unwrap();
            while watch.message().await.unwrap().unwrap().events().is_empty() {}
            end(watch);
            continue;
        };
        let as_seen = Compare::mod_revision(key, CompareOp::Equal, modified);
        let put = TxnOp::put(key, new.to_string(), None);
        if counted(&mut kv).txn(Txn::new().when([as_seen]).and_then([put])).await.unwrap().succeeded() {
            return new;
        }
    }
}

/// Takes the oldest item of a queue, or waits for one.
pub(crate) async fn dequeue(client: &Client, prefix: &str) {
    let mut kv = client.kv_client();
    loop {
        let first =
            GetOptions::new().with_prefix().with_sort(SortTarget::Mod, SortOrder::Ascend).with_limit(1);
        let found = counted(&mut kv).get(prefix, Some(first)).await.unwrap();
        if let Some(item) = found.kvs().first() {
            if take(&mut kv, item.key(), item.mod_revision()).await {
                return;
            }
            continue;
        }
        let from = WatchOptions::new().with_prefix().with_start_revision(found.header().unwrap().revision());
        let mut watch = client.watch_client().watch(prefix, Some(from)).await.unwrap();
        let put = 'put: loop {
            let message = watch.message().await.unwrap().unwrap();
            for event in message.events() {
                if event.event_type() == EventType::Put {
                    let kv = event.kv().unwrap();
                    break 'put (kv.key().to_vec(), kv.mod_revision());
                }
            }
        };
        end(watch);
        if take(&mut kv, &put.0, put.1).await {
            return;
        }
    }
}

async fn take(kv: &mut KvClient, key: &[u8], modified: i64) -> bool {
    let as_seen = Compare::mod_revision(key, CompareOp::Equal, modified);
    let delete = TxnOp::delete(key, None);
    counted(kv).txn(Txn::new().when([as_seen]).and_then([delete])).await.unwrap().succeeded()
}
