//! Loads of which only one is under way for each key in this process.
//!
//! The load runs in the call that began it, so that it may borrow, and keeps its task-local trace.
//! A call that is dropped ends its load, and one of those who wait begins another. One that is kept
//! and not polled any more holds the others up until their own time is over.
//!
//! Where a key is set or deleted while it is loaded, what is loaded may be older: it is told to
//! those who waited, and not kept.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coord::Result;
use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// What became of a load, for those who wait for it.
pub(crate) type Loaded = Result<Bytes>;

type Landing = watch::Receiver<Option<Loaded>>;

#[derive(Debug)]
struct Flight {
    landing: Landing,
    /// Which of the loads of its key it is.
    number: u64,
}

/// In how many parts loads that have ended are counted, by their key.
const STRIPES: usize = 64;

/// The loads that are under way.
#[derive(Debug)]
pub(crate) struct Flights {
    under_way: Mutex<UnderWay>,
    /// How many are under way, so that whoever writes need not lock where there are none.
    count: AtomicUsize,
    /// How many loads have ended, well or not.
    ended: [AtomicU64; STRIPES],
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct UnderWay {
    flights: HashMap<Box<str>, Flight>,
    begun: u64,
}

/// How a call takes part in a load.
pub(crate) enum Part {
    /// It loads.
    Leads(Lead),
    /// It waited for this.
    Waited(Loaded),
    /// It waited for as long as it may.
    Late,
}

/// The right to load a key. Others wait until it has landed or is dropped.
pub(crate) struct Lead {
    flights: Arc<Flights>,
    key: Box<str>,
    number: u64,
    landing: watch::Sender<Option<Loaded>>,
    /// Whether a load of the key may have ended since the caller has looked into the cache, so that
    /// the value may be there now.
    pub(crate) look_again: bool,
}

impl Default for Flights {
    fn default() -> Self {
        Flights {
            under_way: Mutex::default(),
            count: AtomicUsize::new(0),
            ended: std::array::from_fn(|_| AtomicU64::new(0)),
            hasher: RandomState::default(),
        }
    }
}

impl Flights {
    /// How many loads of keys like this one have ended, to be taken before one looks into the
    /// cache.
    pub(crate) fn ended(&self, key: &str) -> u64 {
        self.stripe(key).map_or(0, |ended| ended.load(Ordering::Acquire))
    }

    fn stripe(&self, key: &str) -> Option<&AtomicU64> {
        let index = usize::try_from(self.hasher.hash_one(key) % STRIPES as u64).unwrap_or(0);
        self.ended.get(index)
    }

    /// Leads a load of this key, or waits for the one that is under way, for this time at most.
    /// `seen` is what [`ended`](Self::ended) was before the caller has looked into the cache.
    pub(crate) async fn join(self: &Arc<Self>, key: &str, seen: u64, within: Duration) -> Part {
        let deadline = Instant::now() + within;
        loop {
            let mut landing = match self.begin_or_find(key, seen) {
                Ok(lead) => return Part::Leads(lead),
                Err(landing) => landing,
            };
            match timeout_at(deadline, landing.wait_for(Option::is_some)).await {
                Ok(Ok(loaded)) => {
                    if let Some(loaded) = &*loaded {
                        return Part::Waited(loaded.clone());
                    }
                }
                // The call that led is gone, and has loaded nothing.
                Ok(Err(_)) => {}
                Err(_) => return Part::Late,
            }
        }
    }

    fn begin_or_find(self: &Arc<Self>, key: &str, seen: u64) -> std::result::Result<Lead, Landing> {
        let mut under_way = self.under_way.lock();
        let number = under_way.begun + 1;
        let landing = match under_way.flights.entry(key.into()) {
            Entry::Occupied(flight) => return Err(flight.get().landing.clone()),
            Entry::Vacant(place) => {
                let landing = watch::Sender::new(None);
                place.insert(Flight { landing: landing.subscribe(), number });
                landing
            }
        };
        under_way.begun = number;
        self.count.store(under_way.flights.len(), Ordering::SeqCst);
        let look_again = self.ended(key) != seen;
        Ok(Lead { flights: Arc::clone(self), key: key.into(), number, landing, look_again })
    }

    /// Has the load of a key that is under way not kept, nor told to those who come from now on. To
    /// be called before the key is written.
    pub(crate) fn forget(&self, key: &str) {
        if self.count.load(Ordering::SeqCst) > 0 {
            let mut under_way = self.under_way.lock();
            under_way.flights.remove(key);
            self.count.store(under_way.flights.len(), Ordering::SeqCst);
        }
    }
}

impl Lead {
    /// Whether nobody has written the key since this load began.
    pub(crate) fn is_current(&self) -> bool {
        let under_way = self.flights.under_way.lock();
        under_way.flights.get(&self.key).is_some_and(|flight| flight.number == self.number)
    }

    /// Tells those who wait, and ends the load.
    pub(crate) fn land(self, loaded: Loaded) {
        self.landing.send_replace(Some(loaded));
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        // Counted before another one may lead, which then knows of this one.
        let mut under_way = self.flights.under_way.lock();
        if let Some(ended) = self.flights.stripe(&self.key) {
            ended.fetch_add(1, Ordering::Release);
        }
        if under_way.flights.get(&self.key).is_some_and(|flight| flight.number == self.number) {
            under_way.flights.remove(&self.key);
            self.flights.count.store(under_way.flights.len(), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use coord::{Error, ErrorKind};

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    async fn lead(flights: &Arc<Flights>, key: &str) -> Lead {
        match flights.join(key, flights.ended(key), LONG).await {
            Part::Leads(lead) => lead,
            _ => panic!("somebody else leads"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_leads_and_the_others_get_what_it_loads() {
        let flights = Arc::new(Flights::default());
        let first = lead(&flights, "k").await;
        lead(&flights, "other").await.land(Ok(Bytes::new()));
        let waiters: Vec<_> = (0..5)
            .map(|_| {
                let flights = Arc::clone(&flights);
                tokio::spawn(async move { flights.join("k", 0, LONG).await })
            })
            .collect();
        tokio::task::yield_now().await;
        first.land(Ok(Bytes::from_static(b"v")));
        for waiter in waiters {
            assert!(matches!(waiter.await.unwrap(), Part::Waited(Ok(value)) if value == "v"));
        }
        // Nothing is kept, and who looked before it ended looks again.
        assert!(flights.under_way.lock().flights.is_empty());
        let Part::Leads(lead) = flights.join("k", 0, LONG).await else { panic!("nobody leads") };
        assert!(lead.look_again);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_to_those_who_waited_and_is_not_kept() {
        let flights = Arc::new(Flights::default());
        let first = lead(&flights, "k").await;
        let waiter = tokio::spawn({
            let flights = Arc::clone(&flights);
            async move { flights.join("k", 0, LONG).await }
        });
        tokio::task::yield_now().await;
        first.land(Err(Error::new(ErrorKind::Internal, "t", "no row")));
        assert!(matches!(waiter.await.unwrap(), Part::Waited(Err(error)) if error.message() == "no row"));
        assert!(!lead(&flights, "k").await.look_again);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_takes_over_from_one_that_is_gone() {
        let flights = Arc::new(Flights::default());
        let first = lead(&flights, "k").await;
        let waiter = tokio::spawn({
            let flights = Arc::clone(&flights);
            async move { flights.join("k", 0, LONG).await }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(matches!(waiter.await.unwrap(), Part::Leads(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_writes_has_the_next_one_load_anew() {
        let flights = Arc::new(Flights::default());
        let first = lead(&flights, "k").await;
        flights.forget("other");
        assert!(first.is_current());
        flights.forget("k");
        assert!(!first.is_current());
        let second = lead(&flights, "k").await;
        drop(first);
        assert!(second.is_current(), "the end of the first is nothing to the second");
        second.land(Ok(Bytes::new()));
        assert_eq!(flights.count.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_does_not_wait_for_ever() {
        let flights = Arc::new(Flights::default());
        let _first = lead(&flights, "k").await;
        let begun = Instant::now();
        assert!(matches!(flights.join("k", 0, Duration::from_secs(3)).await, Part::Late));
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
    }
}
