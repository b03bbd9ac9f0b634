//! The bounded queue between a watch on its connection and who reads it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use coord_api::store::StoreEvent;
use coord_api::{Error, Result};
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::error::Fault;

/// Events that wait for a reader at most.
const EVENTS: usize = 1_024;

/// Bytes of keys and values that wait for a reader at most, one event not counted.
const BYTES: usize = 16 << 20;

/// What the two ends share.
#[derive(Debug, Default)]
struct QueueState {
    bytes: AtomicUsize,
    /// Why there is nothing more to come.
    end: Mutex<Option<Error>>,
}

pub(super) fn new() -> (Feeder, Events) {
    let (sender, receiver) = mpsc::channel(EVENTS);
    let shared = Arc::new(QueueState::default());
    (Feeder { sender, shared: Arc::clone(&shared) }, Events { receiver, shared })
}

/// The end that the connection feeds.
#[derive(Debug)]
pub(super) struct Feeder {
    sender: mpsc::Sender<StoreEvent>,
    shared: Arc<QueueState>,
}

impl Feeder {
    /// Adds an event.
    ///
    /// # Errors
    ///
    /// When there is no room. The watch ends then, and who reads on watches again from what was
    /// read last.
    pub(super) fn push(&self, event: StoreEvent) -> Result<(), Fault> {
        let size = size(&event);
        let waiting = self.shared.bytes.fetch_add(size, Ordering::Relaxed);
        if waiting > 0 && waiting.saturating_add(size) > BYTES {
            return Err(full());
        }
        match self.sender.try_send(event) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(full()),
            // Nobody reads any more: the watch is being canceled.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Ends the queue: what waits is read first, and then this.
    pub(super) fn end(self, error: Error) {
        *self.shared.end.lock() = Some(error);
    }
}

fn full() -> Fault {
    Fault { blames_member: false, ..Fault::unavailable("the watcher does not keep up") }
}

/// The end that is read.
#[derive(Debug)]
pub(super) struct Events {
    receiver: mpsc::Receiver<StoreEvent>,
    shared: Arc<QueueState>,
}

impl Stream for Events {
    type Item = Result<StoreEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match ready!(self.receiver.poll_recv(cx)) {
            Some(event) => {
                self.shared.bytes.fetch_sub(size(&event), Ordering::Relaxed);
                Poll::Ready(Some(Ok(event)))
            }
            None => Poll::Ready(self.shared.end.lock().take().map(Err)),
        }
    }
}

fn size(event: &StoreEvent) -> usize {
    match event {
        StoreEvent::Batch(batch) => batch.bytes(),
        StoreEvent::Progress(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use coord_api::store::{Batch, Change};
    use coord_api::{ErrorKind, Revision};
    use futures_util::StreamExt;

    use super::*;

    fn batch(revision: u64, bytes: usize) -> StoreEvent {
        let changes = vec![Change::Delete { key: vec![b'k'; bytes].into() }];
        StoreEvent::Batch(Batch { revision: Revision::new(revision), changes })
    }

    async fn read(events: &mut Events) -> u64 {
        match events.next().await {
            Some(Ok(StoreEvent::Batch(batch))) => batch.revision.get(),
            other => panic!("wanted a batch, got {other:?}"),
        }
    }

    #[tokio::test]
    async fn it_is_bounded_in_events_and_in_bytes() {
        let (feeder, mut events) = new();
        for revision in 1..=EVENTS {
            feeder.push(batch(revision as u64, 1)).unwrap();
        }
        assert_eq!(feeder.push(batch(0, 1)).unwrap_err().kind, ErrorKind::Unavailable);
        assert_eq!(read(&mut events).await, 1);

        let (feeder, mut events) = new();
        feeder.push(batch(1, BYTES + 1)).unwrap();
        assert!(feeder.push(batch(2, 1)).is_err(), "one may be larger than all");
        assert_eq!(read(&mut events).await, 1);
    }

    #[tokio::test]
    async fn what_waits_is_read_before_the_end() {
        let (feeder, mut events) = new();
        feeder.push(batch(1, 1)).unwrap();
        feeder.end(Error::closed("t"));
        assert_eq!(read(&mut events).await, 1);
        assert_eq!(events.next().await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
        assert!(events.next().await.is_none());
    }
}
