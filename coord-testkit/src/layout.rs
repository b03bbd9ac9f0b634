//! Where the contracts keep what they keep. The layout is shared with other programs, so that it is
//! part of the contract.

use coord_api::{LeaseId, Value};

/// Everything under these prefixes belongs to the contracts.
pub const PREFIXES: [&str; 5] = [CONFIG, LOCKS, SESSIONS, SERVICES, IDS];

/// The config centre's keys.
pub const CONFIG: &str = "/config/";
/// The queues of the locks.
pub const LOCKS: &str = "/locks/";
/// The sessions.
pub const SESSIONS: &str = "/sessions/";
/// The registered services.
pub const SERVICES: &str = "/services/";
/// The instance ids.
pub const IDS: &str = "/im-infra/allocators/";

/// A config key.
pub fn config(key: &str) -> String {
    format!("{CONFIG}{}", key.strip_prefix('/').unwrap_or(key))
}

/// The queue of a lock: the prefix of its entries, `<lease hex>-<nonce>` each.
pub fn lock_queue(key: &str) -> String {
    let key = key.strip_prefix('/').unwrap_or(key);
    format!("{LOCKS}{}/", key.replace('%', "%25").replace('/', "%2F"))
}

/// A session's key.
pub fn session(lease: LeaseId) -> String {
    format!("{SESSIONS}{lease}")
}

/// A registered instance.
pub fn service(name: &str, id: &str) -> String {
    format!("{SERVICES}{name}/{id}")
}

/// An instance id.
pub fn id(service: &str, id: u32) -> String {
    format!("{IDS}{service}/ids/{id}")
}

/// A registered instance as another program writes it.
pub fn service_record(name: &str, id: &str, address: &str, port: u16) -> Value {
    Value::from(format!(
        r#"{{"id":"{id}","name":"{name}","address":"{address}","port":{port},"metadata":{{}}}}"#
    ))
}
