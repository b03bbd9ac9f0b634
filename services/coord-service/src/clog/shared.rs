//! What the logs and their layers share.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tracing::Dispatch;
use tracing::dispatcher::{WeakDispatch, with_default};

use super::config::{Filter, LogFormat};
use super::sink::{Pushed, Sink};

const LOST: &str = "coord_log_records_lost_total";

thread_local! {
    /// Whether this thread counts a lost record: a recorder of metrics that logs must not make it
    /// count for ever.
    static COUNTING: Cell<bool> = const { Cell::new(false) };
}

/// Why a record is lost.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lost {
    /// The output took nothing for too long.
    Full,
    /// The logs were closed.
    Closed,
}

pub(super) struct Shared {
    service: Arc<str>,
    state: ArcSwap<State>,
    lost: AtomicU64,
    /// The subscribers that the layer is in.
    dispatches: Mutex<Vec<WeakDispatch>>,
}

/// What changes with the configuration.
#[derive(Debug)]
pub(super) struct State {
    pub(super) filter: Filter,
    pub(super) format: LogFormat,
    pub(super) colours: bool,
    pub(super) sink: Arc<Sink>,
}

impl State {
    pub(super) fn new(filter: Filter, format: LogFormat, sink: Arc<Sink>) -> Self {
        let colours = sink.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
        State { filter, format, colours, sink }
    }
}

impl Shared {
    pub(super) fn new(service: Arc<str>, state: State) -> Self {
        Shared {
            service,
            state: ArcSwap::from_pointee(state),
            lost: AtomicU64::new(0),
            dispatches: Mutex::default(),
        }
    }

    pub(super) fn service(&self) -> &str {
        &self.service
    }

    pub(super) fn state(&self) -> Guard<Arc<State>> {
        self.state.load()
    }

    /// Sets what is from now on, and returns what was.
    pub(super) fn replace(&self, state: State) -> Arc<State> {
        self.state.swap(Arc::new(state))
    }

    /// The layer is in this subscriber from now on.
    pub(super) fn add_dispatch(&self, dispatch: &Dispatch) {
        let mut dispatches = self.dispatches.lock();
        dispatches.retain(|dispatch| dispatch.upgrade().is_some());
        dispatches.push(dispatch.downgrade());
    }

    /// Has each place in the code ask again whether it is of interest, which is kept elsewhere.
    ///
    /// Where there is one subscriber alone `tracing` takes that of the present thread for it. This
    /// may be a thread that has none, and then nothing would be of interest to anybody.
    pub(super) fn ask_again(&self) {
        let dispatch = self.dispatches.lock().iter().find_map(WeakDispatch::upgrade);
        if let Some(dispatch) = dispatch {
            with_default(&dispatch, tracing::callsite::rebuild_interest_cache);
        }
    }

    /// Hands a line over to the output of now.
    pub(super) fn deliver(&self, state: &State, line: &[u8]) {
        let mut pushed = state.sink.push(line);
        let mut closed = None;
        // Another output took its place, unless the logs were closed.
        while pushed == Pushed::Closed {
            let now = Arc::clone(&self.state().sink);
            if closed.as_ref().is_some_and(|closed| Arc::ptr_eq(closed, &now)) {
                return self.count_lost(1, Lost::Closed);
            }
            pushed = now.push(line);
            closed = Some(now);
        }
        if pushed == Pushed::Full {
            self.count_lost(1, Lost::Full);
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn count_lost(&self, records: u64, why: Lost) {
        if records == 0 {
            return;
        }
        self.lost.fetch_add(records, Ordering::Relaxed);
        if COUNTING.try_with(|counting| counting.replace(true)).unwrap_or(true) {
            return;
        }
        let reason = match why {
            Lost::Full => "full",
            Lost::Closed => "closed",
        };
        crate::metrics::add(LOST, records, &[("reason", reason)]);
        let _ = COUNTING.try_with(|counting| counting.set(false));
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("service", &self.service)
            .field("state", &self.state())
            .field("lost", &self.lost())
            .finish()
    }
}
