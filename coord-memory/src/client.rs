//! One client of a store: whether it may still ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use coord_api::{Error, ErrorKind, Outcome, Result};

use crate::shared::{SeenCommit, SharedStore};

/// A client, held by its handle and by its streams.
#[derive(Debug)]
pub(crate) struct StoreClient {
    pub(crate) shared: Arc<SharedStore>,
    pub(crate) id: u64,
    closed: AtomicBool,
    /// Counts how often the client was cut off and connected again: odd while it is cut off.
    connection: AtomicU64,
}

impl StoreClient {
    /// A client of a store. Of a durable one whose last client ended, it is closed from the start.
    pub(crate) fn new(shared: Arc<SharedStore>) -> Self {
        let id = shared.enter();
        StoreClient {
            id: id.unwrap_or(u64::MAX),
            closed: AtomicBool::new(id.is_none()),
            connection: AtomicU64::new(0),
            shared,
        }
    }

    /// Cuts the client off from its store, unless it is cut off already.
    pub(crate) fn disconnect(&self) {
        let even = |number: u64| (number % 2 == 0).then_some(number.wrapping_add(1));
        let cut = self.connection.fetch_update(Ordering::SeqCst, Ordering::SeqCst, even);
        if cut.is_ok() && !self.is_closed() {
            self.shared.disturb(self.id);
        }
    }

    /// Connects the client again, if it is cut off.
    pub(crate) fn reconnect(&self) {
        let odd = |number: u64| (number % 2 == 1).then_some(number.wrapping_add(1));
        let _ = self.connection.fetch_update(Ordering::SeqCst, Ordering::SeqCst, odd);
    }

    /// Whether operations can be begun.
    pub(crate) fn check(&self, operation: &'static str) -> Result<()> {
        if self.is_closed() {
            return Err(closed(operation));
        }
        if self.is_cut_off() {
            return Err(unavailable(operation));
        }
        match self.shared.failure() {
            Some(failure) => Err(failure.clone().in_operation(operation)),
            None => Ok(()),
        }
    }

    /// The number of the connection, for a stream: it ends with its connection.
    pub(crate) fn connection(&self) -> u64 {
        self.connection.load(Ordering::SeqCst)
    }

    /// Whether a stream of connection number `connection` can go on.
    pub(crate) fn check_stream(&self, operation: &'static str, connection: u64) -> Result<()> {
        self.check(operation)?;
        if self.connection() == connection { Ok(()) } else { Err(unavailable(operation)) }
    }

    pub(crate) fn is_cut_off(&self) -> bool {
        self.connection() % 2 == 1
    }

    fn is_gone(&self) -> bool {
        self.is_closed() || self.is_cut_off()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(crate) fn close(&self) {
        if !self.closed.swap(true, Ordering::SeqCst) {
            self.shared.leave(self.id);
        }
    }

    /// Waits until an answer may be given.
    pub(crate) async fn seen(&self, operation: &'static str, seen: SeenCommit) -> Result<()> {
        self.shared.durable(seen, || self.is_gone()).await.map_err(|error| {
            let outcome = if seen.wrote { Outcome::Unknown } else { Outcome::NotApplied };
            self.failed(operation, error).with_outcome(outcome)
        })
    }

    /// Waits until a write may be begun.
    pub(crate) async fn room(&self, operation: &'static str) -> Result<()> {
        self.shared.room(|| self.is_gone()).await.map_err(|error| self.failed(operation, error))
    }

    fn failed(&self, operation: &'static str, error: Error) -> Error {
        match (self.is_closed(), self.is_cut_off()) {
            (true, _) => closed(operation),
            (_, true) => unavailable(operation),
            _ => error.in_operation(operation),
        }
    }
}

fn closed(operation: &'static str) -> Error {
    Error::new(ErrorKind::Closed, operation, "the store's client is closed")
}

/// The client is cut off.
pub(crate) fn unavailable(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, operation, "the store's client is cut off from it")
}
