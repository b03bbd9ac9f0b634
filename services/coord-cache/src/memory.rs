//! The embedded engine: entries in this process, by moka.
//!
//! A cache of another capacity is another cache. What the old one holds is taken along, and for as
//! long as both may be used, what is written to the old one is written to the new one as well: an
//! entry that was deleted or replaced must not come back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::quality::RandomState;
use moka::Expiry;
use parking_lot::{Mutex, RwLock};

use crate::config::MAX_TTL;

/// What an entry counts for beside its key and its value, in bytes: about what moka keeps of it.
pub const ENTRY_BYTES: usize = 128;

/// How long entries are taken along from a cache of another capacity. What is left then is lost.
const TAKE_ALONG: Duration = Duration::from_secs(2);

/// How many entries are taken along before others get their turn.
const AT_ONCE: usize = 64;

/// How many keys may be written at the same time while entries are taken along.
const STRIPES: usize = 64;

/// The native cache of the embedded engine.
pub type NativeMemory = moka::sync::Cache<Box<str>, MemoryEntry, RandomState>;

/// An entry of the embedded engine.
#[derive(Clone, Debug)]
pub struct MemoryEntry {
    value: Bytes,
    expires: Instant,
}

impl MemoryEntry {
    /// An entry that lives for `ttl`.
    pub fn new(value: impl Into<Bytes>, ttl: Duration) -> Self {
        MemoryEntry { value: value.into(), expires: Instant::now() + ttl.min(MAX_TTL) }
    }

    /// Its value, encoded.
    pub fn value(&self) -> &Bytes {
        &self.value
    }

    /// When it is over.
    pub fn expires(&self) -> Instant {
        self.expires
    }

    fn left(&self, now: Instant) -> Option<Duration> {
        Some(self.expires.saturating_duration_since(now))
    }
}

/// Each entry says how long it lives.
struct ByEntry;

impl Expiry<Box<str>, MemoryEntry> for ByEntry {
    fn expire_after_create(&self, _: &Box<str>, entry: &MemoryEntry, now: Instant) -> Option<Duration> {
        entry.left(now)
    }

    fn expire_after_update(
        &self,
        _: &Box<str>,
        entry: &MemoryEntry,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        entry.left(now)
    }
}

fn weight(key: &str, entry: &MemoryEntry) -> u32 {
    u32::try_from(key.len() + entry.value.len() + ENTRY_BYTES).unwrap_or(u32::MAX)
}

#[derive(Debug)]
pub(crate) struct Memory {
    cache: NativeMemory,
    /// The cache that takes over from this one.
    successor: RwLock<Option<Arc<Successor>>>,
}

#[derive(Debug)]
struct Successor {
    cache: NativeMemory,
    /// Whoever writes a key in both caches holds its stripe.
    stripes: [Mutex<()>; STRIPES],
    hasher: RandomState,
}

impl Successor {
    fn stripe(&self, key: &str) -> Option<parking_lot::MutexGuard<'_, ()>> {
        use std::hash::BuildHasher;
        let index = usize::try_from(self.hasher.hash_one(key) % STRIPES as u64).unwrap_or(0);
        self.stripes.get(index).map(Mutex::lock)
    }
}

impl Memory {
    pub(crate) fn new(capacity: u64) -> Self {
        let cache = moka::sync::Cache::<Box<str>, MemoryEntry>::builder()
            .max_capacity(capacity)
            .weigher(|key, entry| weight(key, entry))
            .expire_after(ByEntry)
            .build_with_hasher(RandomState::default());
        Memory { cache, successor: RwLock::new(None) }
    }

    pub(crate) fn native(&self) -> &NativeMemory {
        &self.cache
    }

    #[inline]
    pub(crate) fn get(&self, key: &str) -> Option<Bytes> {
        self.cache.get(key).map(|entry| entry.value)
    }

    pub(crate) fn set(&self, key: &str, entry: MemoryEntry) {
        self.write(key, |cache| cache.insert(key.into(), entry.clone()));
    }

    pub(crate) fn del(&self, key: &str) -> bool {
        let mut was_there = false;
        self.write(key, |cache| was_there |= cache.remove(key).is_some());
        was_there
    }

    /// Writes to this cache, and to the one that takes over.
    fn write(&self, key: &str, mut write: impl FnMut(&NativeMemory)) {
        // Held until it is written: a successor that comes waits for those who do not know of it.
        let successor = self.successor.read();
        let _stripe = successor.as_ref().and_then(|successor| successor.stripe(key));
        write(&self.cache);
        if let Some(successor) = &*successor {
            write(&successor.cache);
        }
    }

    /// Has `new` take over: it gets the entries of this cache, as many as it can hold and as can be
    /// taken along in two seconds, and from now on what is written here. Says how many it got.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves this cache alone again.
    pub(crate) async fn hand_over(&self, new: &Memory) -> usize {
        let successor = Arc::new(Successor {
            cache: new.cache.clone(),
            stripes: std::array::from_fn(|_| Mutex::new(())),
            hasher: RandomState::default(),
        });
        *self.successor.write() = Some(Arc::clone(&successor));
        let unfinished = Unfinished(Some(self));
        let (begun, mut taken) = (Instant::now(), 0);
        for (index, (key, _)) in self.cache.iter().enumerate() {
            if index % AT_ONCE == AT_ONCE - 1 {
                if begun.elapsed() > TAKE_ALONG {
                    tracing::warn!(taken, "entries of a cache are left behind: there are too many");
                    break;
                }
                tokio::task::yield_now().await;
            }
            let _stripe = successor.stripe(&key);
            // What it is now, for it may have been written or deleted since it was found.
            if let Some(entry) = self.cache.get(key.as_ref()) {
                successor.cache.insert(Box::clone(&key), entry);
                taken += 1;
            }
        }
        unfinished.done();
        taken
    }
}

/// Ends a hand-over that was not finished.
struct Unfinished<'a>(Option<&'a Memory>);

impl Unfinished<'_> {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(memory) = self.0 {
            *memory.successor.write() = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    fn value(memory: &Memory, key: &str) -> Option<Vec<u8>> {
        memory.get(key).map(|value| value.to_vec())
    }

    #[test]
    fn an_entry_lives_for_its_time_to_the_millisecond() {
        let memory = Memory::new(1 << 20);
        let set_at = Instant::now();
        memory.set("short", MemoryEntry::new("a", Duration::from_millis(30)));
        memory.set("long", MemoryEntry::new("b", LONG));
        while memory.get("short").is_some() {
            std::thread::yield_now();
        }
        assert!(set_at.elapsed() >= Duration::from_millis(30));
        assert_eq!(value(&memory, "long"), Some(b"b".to_vec()));
        // A new time replaces the old one, in both directions.
        memory.set("long", MemoryEntry::new("c", Duration::ZERO));
        assert_eq!(value(&memory, "long"), None);
        memory.set("long", MemoryEntry::new("d", LONG));
        assert_eq!(value(&memory, "long"), Some(b"d".to_vec()));
        assert!(memory.del("long") && !memory.del("long"));
    }

    #[test]
    fn no_more_is_kept_than_the_capacity() {
        let memory = Memory::new(10_000);
        for n in 0..1_000 {
            memory.set(&format!("key-{n}"), MemoryEntry::new(vec![0; 100], LONG));
        }
        memory.native().run_pending_tasks();
        assert!(memory.native().weighted_size() <= 10_000, "{}", memory.native().weighted_size());
        assert!(memory.native().entry_count() > 0);
    }

    #[tokio::test]
    async fn entries_are_taken_along_with_the_time_that_is_left() {
        let (old, new) = (Memory::new(1 << 20), Memory::new(1 << 22));
        for n in 0..1_000 {
            old.set(&n.to_string(), MemoryEntry::new(n.to_string(), LONG));
        }
        let expires = old.native().get("7").unwrap().expires();
        assert_eq!(old.hand_over(&new).await, 1_000);
        assert_eq!(value(&new, "7"), Some(b"7".to_vec()));
        assert_eq!(new.native().get("7").unwrap().expires(), expires);
        // Who still has the old one writes to both.
        old.set("7", MemoryEntry::new("x", LONG));
        assert!(old.del("8"));
        assert_eq!((value(&new, "7"), value(&new, "8")), (Some(b"x".to_vec()), None));
        // A smaller one holds what it can.
        let small = Memory::new(10_000);
        new.hand_over(&small).await;
        small.native().run_pending_tasks();
        assert!(small.native().weighted_size() <= 10_000);
        assert!(small.native().entry_count() > 0);
    }

    #[tokio::test]
    async fn a_hand_over_that_is_dropped_leaves_nothing() {
        let (old, new) = (Memory::new(1 << 20), Memory::new(1 << 20));
        for n in 0..1_000 {
            old.set(&n.to_string(), MemoryEntry::new("v", LONG));
        }
        {
            let mut call = Box::pin(old.hand_over(&new));
            assert!(futures_poll(call.as_mut()).is_none(), "it has let others have their turn");
        }
        old.set("later", MemoryEntry::new("v", LONG));
        assert_eq!(value(&new, "later"), None);
    }

    fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }

    /// Each writer has keys of its own, and knows what each of them must be: what it wrote last. A
    /// value that comes back from before is what a hand-over must never make.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_that_was_deleted_or_replaced_comes_back() {
        for _ in 0..20 {
            let (old, new) = (Arc::new(Memory::new(1 << 24)), Arc::new(Memory::new(1 << 24)));
            let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
            let writers: Vec<_> = (0..2)
                .map(|writer| {
                    let (old, stop, writes) = (Arc::clone(&old), Arc::clone(&stop), Arc::clone(&writes));
                    std::thread::spawn(move || {
                        let mut last = vec![None; 200];
                        for round in 0_u64.. {
                            for (n, last) in last.iter_mut().enumerate() {
                                let key = format!("{writer}-{n}");
                                if (round + n as u64) % 3 == 0 {
                                    old.del(&key);
                                    *last = None;
                                } else {
                                    let bytes = round.to_le_bytes().to_vec();
                                    old.set(&key, MemoryEntry::new(bytes.clone(), LONG));
                                    *last = Some(bytes);
                                }
                                writes.fetch_add(1, Ordering::Relaxed);
                            }
                            if stop.load(Ordering::Relaxed) {
                                return last;
                            }
                        }
                        last
                    })
                })
                .collect();
            while writes.load(Ordering::Relaxed) < 1_000 {
                tokio::task::yield_now().await;
            }
            old.hand_over(&new).await;
            stop.store(true, Ordering::Relaxed);
            for (writer, thread) in writers.into_iter().enumerate() {
                for (n, wanted) in thread.join().unwrap().into_iter().enumerate() {
                    assert_eq!(value(&new, &format!("{writer}-{n}")), wanted, "{writer}-{n}");
                }
            }
        }
    }
}
