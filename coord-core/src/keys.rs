//! Where everything lives in a store. Compatible with the Go services that use these paths.

use bytes::Bytes;
use coord_api::store::Span;
use coord_api::{LeaseId, Revision};

use crate::owner::Owner;

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

/// The directory of what was published under a config key.
pub fn config_history(key: &str) -> Bytes {
    join(&["/config-history/", &escaped(key), "/"])
}

/// A record of what was published, by the version that it replaced and a number of its own.
pub fn config_record(key: &str, replaced: Revision, number: u64) -> Bytes {
    join(&["/config-history/", &escaped(key), &format!("/{:016x}-{number:016x}", replaced.get())])
}

/// The directory of gray releases.
pub const GRAY: &str = "/config-gray/";

/// The gray release of a config key. It lies under its key as the config entry does, so that the
/// releases of a directory are a directory as well.
pub fn config_gray(key: &str) -> Bytes {
    join(&[GRAY, key])
}

/// The directory of the gray releases of a config prefix; the empty prefix is all of them.
pub fn config_gray_directory(prefix: &str) -> Bytes {
    if prefix.is_empty() { Bytes::from_static(GRAY.as_bytes()) } else { join(&[GRAY, prefix, "/"]) }
}

/// A session's own key: created with its lease, gone with it.
pub fn session(lease: LeaseId) -> Bytes {
    format!("{SESSIONS}{lease}").into()
}

/// Where clients write down what they lost.
pub const LOSSES: &str = "/events/";

/// What a client of this name writes down at once of what it lost.
pub fn losses(provider: &str, nonce: u64, number: u64) -> Bytes {
    let provider = if provider.is_empty() { "-" } else { provider };
    join(&[LOSSES, &escaped(provider), "/", &format!("{nonce:x}-{number:x}")])
}

/// Where processes say which versions of the configuration they have in use.
pub const IN_USE: &str = "/config-use/";

/// Where one process says so.
pub fn in_use(lease: LeaseId, nonce: u64) -> Bytes {
    join(&[IN_USE, &entry_name(lease, nonce)])
}

/// Where the sessions' own keys lie.
pub const SESSIONS: &str = "/sessions/";

/// Where the queues of locks lie.
pub const LOCKS: &str = "/locks/";

/// Where the queues of elections lie.
pub const ELECTIONS: &str = "/elections/";

/// Where semaphores lie.
pub const SEMAPHORES: &str = "/semaphores/";

/// Where the instances of services lie.
pub const SERVICES: &str = "/services/";

/// Where the instance ids of services lie.
pub const ALLOCATORS: &str = "/im-infra/allocators/";

/// The session of whose key this is.
pub fn session_in(key: &[u8]) -> Option<LeaseId> {
    std::str::from_utf8(segment(SESSIONS.as_bytes(), key)?).ok()?.parse().ok()
}

/// The name in a key below one of the directories in which names are one segment, such as
/// [`LOCKS`].
pub fn name_in(root: &str, key: &[u8]) -> Option<String> {
    let rest = std::str::from_utf8(key.strip_prefix(root.as_bytes())?).ok()?;
    let (name, _) = rest.split_once('/')?;
    (!name.is_empty()).then(|| unescaped(name))
}

/// The service in the key of an instance, and the instance's id.
pub fn instance_in(key: &[u8]) -> Option<(&str, &str)> {
    let rest = std::str::from_utf8(key.strip_prefix(SERVICES.as_bytes())?).ok()?;
    rest.rsplit_once('/').filter(|(service, id)| !service.is_empty() && !id.is_empty())
}

/// The service in the key of an instance id, and the id.
pub fn id_in(key: &[u8]) -> Option<(&str, u32)> {
    let rest = std::str::from_utf8(key.strip_prefix(ALLOCATORS.as_bytes())?).ok()?;
    let (service, id) = rest.rsplit_once("/ids/")?;
    let number: u32 = id.parse().ok()?;
    (number.to_string() == id).then_some((service, number))
}

/// The queue of a lock. `/` and `%` are escaped, so that the queue of `a` never holds the queue of
/// `a/b` (R26).
pub fn lock_queue(key: &str) -> Bytes {
    join(&[LOCKS, &escaped(key), "/"])
}

/// The name that is this segment.
fn unescaped(segment: &str) -> String {
    segment.replace("%2F", "/").replace("%25", "%")
}

/// A name as one segment.
fn escaped(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}

/// Where the shared entries of a lock's queue lie, below the queue.
const SHARED: &[u8] = b"~r/";

/// What the value of a lock's entry begins with once it was downgraded. It is no UTF-8, so that no
/// name begins with it.
const DOWNGRADED: u8 = 0xff;

/// A place in a lock's queue. One lease serves many acquires, so a nonce tells them apart. Shared
/// entries lie in a directory of their own, where one look at the others passes them over.
pub fn lock_entry(queue: &Bytes, shared: bool, lease: LeaseId, nonce: u64) -> Bytes {
    let directory = if shared { SHARED } else { b"" };
    [queue.as_ref(), directory, entry_name(lease, nonce).as_bytes()].concat().into()
}

/// The entries of a lock's queue that are not in the directory of the shared ones.
pub fn exclusive_lock_entries(queue: &Bytes) -> Span {
    Span::Interval(queue.clone(), Bytes::from([queue.as_ref(), b"~"].concat()))
}

/// Whether a key is an entry of a lock's queue, and then whether it lies among the shared ones.
pub fn lock_place(queue: &[u8], key: &[u8]) -> Option<bool> {
    let rest = key.strip_prefix(queue)?;
    match rest.strip_prefix(SHARED) {
        Some(name) => (!name.is_empty() && !name.contains(&b'/')).then_some(true),
        None => segment(queue, key).map(|_| false),
    }
}

/// Whether the key of a lock's entry lies among the shared ones.
pub fn is_shared_lock_entry(key: &[u8]) -> bool {
    key.rsplitn(3, |byte| *byte == b'/').nth(1) == Some(b"~r")
}

/// The value of a lock's entry that was downgraded.
pub fn downgraded(owner: &Owner) -> Bytes {
    [&[DOWNGRADED], owner.value().as_ref()].concat().into()
}

/// Whether this is the value of an entry that was downgraded.
pub fn is_downgraded(value: &[u8]) -> bool {
    value.first() == Some(&DOWNGRADED)
}

/// The name of an entry on a lease, which no other entry has.
fn entry_name(lease: LeaseId, nonce: u64) -> String {
    format!("{lease}-{nonce:x}")
}

/// The queue of an election, with the values of the candidates.
pub fn election(name: &str) -> Bytes {
    join(&[ELECTIONS, &escaped(name), "/"])
}

/// The directory of a semaphore.
pub fn semaphore(name: &str) -> Bytes {
    join(&[SEMAPHORES, &escaped(name), "/"])
}

/// How many permits a semaphore has.
pub fn semaphore_limit(directory: &Bytes) -> Bytes {
    [directory.as_ref(), b"limit"].concat().into()
}

/// The queue of a semaphore.
pub fn semaphore_queue(directory: &Bytes) -> Bytes {
    [directory.as_ref(), b"q/"].concat().into()
}

/// A place in a semaphore's queue, with its weight.
pub fn semaphore_entry(directory: &Bytes, lease: LeaseId, nonce: u64, weight: u32) -> Bytes {
    [directory.as_ref(), b"q/", format!("{}-{weight}", entry_name(lease, nonce)).as_bytes()].concat().into()
}

/// The weight of a place in a semaphore's queue.
pub fn semaphore_weight(directory: &[u8], key: &[u8]) -> Option<u32> {
    number_in_entry(key.strip_prefix(directory)?.strip_prefix(b"q/")?)
}

/// A place in the queue of an election. One lease serves many, so a nonce tells them apart.
pub fn election_entry(queue: &Bytes, lease: LeaseId, nonce: u64) -> Bytes {
    [queue.as_ref(), entry_name(lease, nonce).as_bytes()].concat().into()
}

/// The record of what is done once.
pub fn once(name: &str) -> Bytes {
    join(&["/once/", &escaped(name)])
}

/// The directory of a periodic job.
pub fn periodic(name: &str) -> Bytes {
    join(&["/periodic/", &escaped(name), "/"])
}

/// Where those who would do a periodic job run for leader.
pub fn periodic_queue(directory: &Bytes) -> Bytes {
    [directory.as_ref(), b"q/"].concat().into()
}

/// What stands while a period of a periodic job lasts.
pub fn periodic_marker(directory: &Bytes) -> Bytes {
    [directory.as_ref(), b"marker"].concat().into()
}

/// The directory of a barrier.
pub fn barrier(name: &str) -> Bytes {
    join(&["/barriers/", &escaped(name), "/"])
}

/// The place up to which a barrier has released its parties.
pub fn barrier_release(directory: &Bytes) -> Bytes {
    [directory.as_ref(), b"release"].concat().into()
}

/// Where the parties of a barrier have their places.
pub fn barrier_parties(directory: &Bytes) -> Bytes {
    [directory.as_ref(), b"p/"].concat().into()
}

/// A place at a barrier, with the number of parties that it waits for.
pub fn barrier_entry(directory: &Bytes, lease: LeaseId, nonce: u64, parties: u32) -> Bytes {
    let name = format!("{}-{parties}", entry_name(lease, nonce));
    [directory.as_ref(), b"p/", name.as_bytes()].concat().into()
}

/// The number of parties that a place at a barrier waits for.
pub fn barrier_number(directory: &[u8], key: &[u8]) -> Option<u32> {
    number_in_entry(key.strip_prefix(directory)?.strip_prefix(b"p/")?)
}

/// The number at the end of an entry's name, which is one segment; it is not zero.
fn number_in_entry(name: &[u8]) -> Option<u32> {
    if name.contains(&b'/') {
        return None;
    }
    let (_, number) = std::str::from_utf8(name).ok()?.rsplit_once('-')?;
    number.parse().ok().filter(|number| *number > 0)
}

/// A counter.
pub fn counter(name: &str) -> Bytes {
    join(&["/counters/", &escaped(name)])
}

/// What was added to a counter under a token.
pub fn counter_token(name: &str, token: &str) -> Bytes {
    join(&["/counter-tokens/", &escaped(name), "/", &escaped(token)])
}

/// What lies below a queue of work.
///
/// Who claims follows the line, `q/`, alone: so nobody is sent what is in the items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueuePart {
    /// An item, by its id: how often it was delivered.
    Item,
    /// The claim of an item, by the item's id.
    Claim,
    /// A claimer that waits.
    Waiter,
    /// What is in an item, by its id.
    Value,
    /// That an item was pushed, by its id; on the session of who pushed it.
    Receipt,
    /// An item that was put aside, by its id: how often it was delivered.
    Dead,
}

impl QueuePart {
    fn directory(self) -> &'static str {
        match self {
            QueuePart::Item => "q/i/",
            QueuePart::Claim => "q/c/",
            QueuePart::Waiter => "q/w/",
            QueuePart::Value => "v/",
            QueuePart::Receipt => "p/",
            QueuePart::Dead => "d/",
        }
    }
}

/// The directory of a queue of work. Those of which one item is had at a time lie elsewhere than
/// the others, so that nobody takes one for the other.
pub fn queue(name: &str, ordered: bool) -> Bytes {
    join(&[if ordered { "/ordered-queues/" } else { "/queues/" }, &escaped(name), "/"])
}

/// The items of a queue, their claims, and who waits for one.
pub fn queue_line(queue: &Bytes) -> Bytes {
    [queue.as_ref(), b"q/"].concat().into()
}

/// The directory of a part of a queue.
pub fn queue_parts(queue: &Bytes, part: QueuePart) -> Bytes {
    [queue.as_ref(), part.directory().as_bytes()].concat().into()
}

/// The key of a part of a queue.
pub fn queue_part(queue: &Bytes, part: QueuePart, id: &str) -> Bytes {
    [queue.as_ref(), part.directory().as_bytes(), id.as_bytes()].concat().into()
}

/// A name in a queue that no other one has: of an item, or of a claimer that waits.
pub fn queue_name(lease: LeaseId, nonce: u64) -> String {
    entry_name(lease, nonce)
}

/// The name of a part of a queue, where the key is one of such a part.
pub fn name_in_queue<'a>(queue: &[u8], part: QueuePart, key: &'a [u8]) -> Option<&'a str> {
    let name = key.strip_prefix(queue)?.strip_prefix(part.directory().as_bytes())?;
    std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && !name.contains('/'))
}

/// Who wrote an entry; `None` where it does not say.
pub fn owner(value: &[u8]) -> Option<Owner> {
    Owner::of(value.strip_prefix(&[DOWNGRADED]).unwrap_or(value))
}

/// The directory of a service's instances.
pub fn service(name: &str) -> Bytes {
    join(&[SERVICES, name, "/"])
}

/// The key of an instance.
pub fn instance(name: &str, id: &str) -> Bytes {
    join(&[SERVICES, name, "/", id])
}

/// The directory of a service's instance ids.
pub fn ids(service: &str) -> Bytes {
    join(&[ALLOCATORS, service, "/ids/"])
}

/// The key of an instance id.
pub fn id(directory: &Bytes, id: u32) -> Bytes {
    [directory.as_ref(), id.to_string().as_bytes()].concat().into()
}

/// The horizon of a worker's unique ids: a time that none of them has reached.
pub fn uid_horizon(service: &str, worker: u32) -> Bytes {
    join(&["/uid/", service, "/", &worker.to_string()])
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
    fn names_are_found_again_in_keys() {
        for name in ["a", "a/b", "a%2Fb", "a%b/%25"] {
            let entry = lock_entry(&lock_queue(name), true, LeaseId::new(1), 2);
            assert_eq!(name_in(LOCKS, &entry).as_deref(), Some(name));
        }
        assert_eq!(name_in(LOCKS, b"/locks/a"), None);
        assert_eq!(session_in(&session(LeaseId::new(0x1f))), Some(LeaseId::new(0x1f)));
        assert_eq!((session_in(b"/sessions/x"), session_in(b"/sessions/1/2")), (None, None));
        assert_eq!(instance_in(&instance("a", "i-1")), Some(("a", "i-1")));
        assert_eq!(id_in(&id(&ids("a"), 7)), Some(("a", 7)));
        assert_eq!(
            (id_in(b"/im-infra/allocators/a/ids/07"), id_in(b"/im-infra/allocators/a/7")),
            (None, None)
        );
    }

    #[test]
    fn gray_releases_lie_as_their_config_keys_do() {
        assert_eq!(
            (config("a/b").as_ref(), config_gray("a/b").as_ref()),
            (&b"/config/a/b"[..], &b"/config-gray/a/b"[..])
        );
        assert_eq!(config_gray_directory("a").as_ref(), b"/config-gray/a/");
        assert_eq!(config_gray_directory("").as_ref(), GRAY.as_bytes());
    }

    #[test]
    fn shared_entries_are_told_apart() {
        let (queue, lease) = (lock_queue("a"), LeaseId::new(0x1f));
        let (exclusive, shared) = (lock_entry(&queue, false, lease, 10), lock_entry(&queue, true, lease, 10));
        assert_eq!((exclusive.as_ref(), shared.as_ref()), (&b"/locks/a/1f-a"[..], &b"/locks/a/~r/1f-a"[..]));
        assert_eq!((lock_place(&queue, &exclusive), lock_place(&queue, &shared)), (Some(false), Some(true)));
        let others = exclusive_lock_entries(&queue);
        assert!(others.contains(&exclusive) && !others.contains(&shared));
        for foreign in ["/locks/a/", "/locks/a/~r/", "/locks/a/b/1f-a", "/locks/a/~r/b/1f-a", "/locks/b/1f"] {
            assert_eq!(lock_place(&queue, foreign.as_bytes()), None, "{foreign}");
        }
        let me = Owner::now("me");
        assert!(is_downgraded(&downgraded(&me)) && !is_downgraded("\u{ff}me".as_bytes()));
        assert_eq!(owner(&downgraded(&me)), Some(me));
    }

    #[test]
    fn a_weight_stands_in_the_key() {
        let directory = semaphore("a/b");
        let key = semaphore_entry(&directory, LeaseId::new(0x1f), 10, 3);
        assert_eq!(key.as_ref(), b"/semaphores/a%2Fb/q/1f-a-3");
        assert_eq!(semaphore_weight(&directory, &key), Some(3));
        let foreign =
            ["limit", "q/", "q/1f", "q/1f-a-", "q/1f-a-0", "q/1f-a-x", "q/1f-a-99999999999", "q/b/1f-a-3"];
        for foreign in foreign {
            let key = [directory.as_ref(), foreign.as_bytes()].concat();
            assert_eq!(semaphore_weight(&directory, &key), None, "{foreign}");
        }
    }

    #[test]
    fn a_number_of_parties_stands_in_the_key() {
        let directory = barrier("a/b");
        let key = barrier_entry(&directory, LeaseId::new(0x1f), 10, 3);
        assert_eq!(key.as_ref(), b"/barriers/a%2Fb/p/1f-a-3");
        assert_eq!(barrier_number(&directory, &key), Some(3));
        assert_eq!(barrier_number(&directory, &barrier_release(&directory)), None);
    }

    #[test]
    fn tokens_of_nested_counters_do_not_nest() {
        assert_eq!(counter("a/b").as_ref(), b"/counters/a%2Fb");
        assert_eq!(counter_token("a", "b/c").as_ref(), b"/counter-tokens/a/b%2Fc");
        assert_ne!(counter_token("a/b", "c"), counter_token("a", "b/c"));
    }

    #[test]
    fn parts_of_a_queue_are_told_apart() {
        let (plain, ordered) = (queue("a/b", false), queue("a/b", true));
        assert_eq!(
            (plain.as_ref(), ordered.as_ref()),
            (&b"/queues/a%2Fb/"[..], &b"/ordered-queues/a%2Fb/"[..])
        );
        let key = queue_part(&plain, QueuePart::Claim, &queue_name(LeaseId::new(0x1f), 10));
        assert_eq!(key.as_ref(), b"/queues/a%2Fb/q/c/1f-a");
        assert!(key.starts_with(&queue_line(&plain)));
        assert_eq!(name_in_queue(&plain, QueuePart::Claim, &key), Some("1f-a"));
        assert_eq!(name_in_queue(&plain, QueuePart::Item, &key), None);
        assert_eq!(name_in_queue(&ordered, QueuePart::Claim, &key), None);
        for foreign in ["q/c/", "q/c/a/b", "q/c/\u{0}\u{ff}/"] {
            let key = [plain.as_ref(), foreign.as_bytes()].concat();
            assert_eq!(name_in_queue(&plain, QueuePart::Claim, &key), None, "{foreign:?}");
        }
    }

    #[test]
    fn a_segment_is_one_and_not_empty() {
        assert_eq!(segment(b"/locks/a/", b"/locks/a/1f-0"), Some(b"1f-0".as_slice()));
        assert_eq!(segment(b"/locks/a/", b"/locks/a/x/1f"), None);
        assert_eq!(segment(b"/locks/a/", b"/locks/a/"), None);
        assert_eq!(segment(b"/locks/a/", b"/locks/b/1"), None);
    }
}
