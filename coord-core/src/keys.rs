//! Where everything lives in a store. Compatible with the Go services that use these paths.

use bytes::Bytes;
use coord_api::LeaseId;

/// The directory of the config centre.
pub const CONFIG: &str = "/config/";

/// Joins parts into a key with one allocation of the exact size.
fn join(parts: &[&str]) -> Bytes {
    let mut key = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        key.extend_from_slice(part.as_bytes());
    }
    key.into()
}

/// The key of a config entry.
pub fn config(key: &str) -> Bytes {
    join(&[CONFIG, key])
}

/// The directory of a config prefix; the empty prefix is all of the config centre.
pub fn config_directory(prefix: &str) -> Bytes {
    if prefix.is_empty() { Bytes::from_static(CONFIG.as_bytes()) } else { join(&[CONFIG, prefix, "/"]) }
}

/// A session's own key: created with its lease, gone with it.
pub fn session(lease: LeaseId) -> Bytes {
    format!("/sessions/{lease}").into()
}

/// The queue of a lock. `/` and `%` are escaped, so that the queue of `a` never holds the queue of
/// `a/b` (R26).
pub fn lock_queue(key: &str) -> Bytes {
    join(&["/locks/", &key.replace('%', "%25").replace('/', "%2F"), "/"])
}

/// A place in a lock's queue. One lease serves many acquires, so a nonce tells them apart.
pub fn lock_entry(queue: &Bytes, lease: LeaseId, nonce: u64) -> Bytes {
    [queue.as_ref(), format!("{lease}-{nonce:x}").as_bytes()].concat().into()
}

/// Owners' names that are kept and shown at most, in bytes: what others wrote may be of any length.
const OWNER: usize = 256;

/// Who wrote an entry, for people; `None` where it does not say.
pub fn owner(value: &[u8]) -> Option<String> {
    let name = String::from_utf8_lossy(value.get(..OWNER).unwrap_or(value));
    (!name.is_empty()).then(|| name.into_owned())
}

/// The directory of a service's instances.
pub fn service(name: &str) -> Bytes {
    join(&["/services/", name, "/"])
}

/// The key of an instance.
pub fn instance(name: &str, id: &str) -> Bytes {
    join(&["/services/", name, "/", id])
}

/// The directory of a service's instance ids.
pub fn ids(service: &str) -> Bytes {
    join(&["/im-infra/allocators/", service, "/ids/"])
}

/// The key of an instance id.
pub fn id(directory: &Bytes, id: u32) -> Bytes {
    [directory.as_ref(), id.to_string().as_bytes()].concat().into()
}

/// What follows `directory` in `key`, when that is exactly one segment.
pub fn segment<'a>(directory: &[u8], key: &'a [u8]) -> Option<&'a [u8]> {
    key.strip_prefix(directory).filter(|rest| !rest.is_empty() && !rest.contains(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_of_nested_names_do_not_nest() {
        assert_eq!(lock_queue("a").as_ref(), b"/locks/a/");
        assert_eq!(lock_queue("a/b%").as_ref(), b"/locks/a%2Fb%25/");
        assert_ne!(lock_queue("a/b"), lock_queue("a%2Fb"));
    }

    #[test]
    fn a_segment_is_one_and_not_empty() {
        assert_eq!(segment(b"/locks/a/", b"/locks/a/1f-0"), Some(b"1f-0".as_slice()));
        assert_eq!(segment(b"/locks/a/", b"/locks/a/x/1f"), None);
        assert_eq!(segment(b"/locks/a/", b"/locks/a/"), None);
        assert_eq!(segment(b"/locks/a/", b"/locks/b/1"), None);
    }
}
