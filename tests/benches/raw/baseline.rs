//! What one would write with the raw client.

use coord_servers::etcd::Cluster;
use etcd_client::{
    Client, Compare, CompareOp, EventType, GetOptions, LeaseKeepAliveStream, LeaseKeeper, PutOptions,
    SortOrder, SortTarget, Txn, TxnOp, WatchOptions,
};

/// The usual recipe: a lease for each lock, a key under it, and a watch on the key before it, from
/// the revision of the read that found it.
pub(crate) async fn lock_and_unlock(client: Client, prefix: &str) {
    let (mut kv, mut leases) = (client.kv_client(), client.lease_client());
    let lease = leases.grant(30, None).await.unwrap().id();
    let key = format!("{prefix}{lease:x}");
    let put = TxnOp::put(key.clone(), "", Some(PutOptions::new().with_lease(lease)));
    let absent = Compare::create_revision(key.clone(), CompareOp::Equal, 0);
    let own = kv.txn(Txn::new().when([absent]).and_then([put])).await.unwrap().header().unwrap().revision();
    loop {
        let before = GetOptions::new()
            .with_prefix()
            .with_sort(SortTarget::Create, SortOrder::Descend)
            .with_max_create_revision(own - 1)
            .with_limit(1);
        let found = kv.get(prefix, Some(before)).await.unwrap();
        let Some(predecessor) = found.kvs().first() else { break };
        let from = WatchOptions::new().with_start_revision(found.header().unwrap().revision());
        let mut watch = client.watch_client().watch(predecessor.key(), Some(from)).await.unwrap();
        'deleted: while let Some(response) = watch.message().await.unwrap() {
            for event in response.events() {
                if event.event_type() == EventType::Delete {
                    break 'deleted;
                }
            }
        }
    }
    kv.delete(key, None).await.unwrap();
    leases.revoke(lease).await.unwrap();
}

/// An entry under a lease of its own, and the stream that keeps it alive.
pub(crate) async fn register(client: &Client, key: &str) -> (LeaseKeeper, LeaseKeepAliveStream) {
    let mut leases = client.lease_client();
    let lease = leases.grant(30, None).await.unwrap().id();
    client
        .kv_client()
        .put(key, "{\"address\":\"10.0.0.1\"}", Some(PutOptions::new().with_lease(lease)))
        .await
        .unwrap();
    leases.keep_alive(lease).await.unwrap()
}

/// Reads what is taken, tries to create the smallest id that is not, and begins anew if somebody
/// else was first.
pub(crate) async fn take_id(client: Client, prefix: &str, lease: i64) -> usize {
    let mut kv = client.kv_client();
    loop {
        let taken = kv.get(prefix, Some(GetOptions::new().with_prefix().with_keys_only())).await.unwrap();
        let taken: Vec<usize> =
            taken.kvs().iter().map(|kv| kv.key_str().unwrap()[prefix.len()..].parse().unwrap()).collect();
        let free = (1..).find(|id| !taken.contains(id)).unwrap();
        let key = format!("{prefix}{free}");
        let absent = Compare::create_revision(key.clone(), CompareOp::Equal, 0);
        let put = TxnOp::put(key, "", Some(PutOptions::new().with_lease(lease)));
        if kv.txn(Txn::new().when([absent]).and_then([put])).await.unwrap().succeeded() {
            return free;
        }
    }
}

/// The index of the leader.
pub(crate) async fn leader(cluster: &Cluster) -> usize {
    loop {
        for (index, endpoint) in cluster.endpoints().into_iter().enumerate() {
            let mut client = Client::connect([endpoint], None).await.unwrap();
            if let Ok(status) = client.status().await {
                if status.header().unwrap().member_id() == status.leader() {
                    return index;
                }
            }
        }
    }
}
