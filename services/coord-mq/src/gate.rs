//! How many messages are handled at a time.

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

/// Lets in as many as the newest size says. Who waits is served in order, but for the moments at
/// which the size changes.
#[derive(Debug)]
pub(crate) struct Gate {
    permits: Semaphore,
    /// How many permits there are, given ones included.
    size: Mutex<usize>,
    wanted: watch::Receiver<usize>,
}

impl Gate {
    pub(crate) fn new(wanted: watch::Receiver<usize>) -> Self {
        let size = *wanted.borrow();
        Gate { permits: Semaphore::new(size), size: Mutex::new(size), wanted }
    }

    /// How many are let in at a time.
    pub(crate) fn size(&self) -> usize {
        *self.wanted.borrow()
    }

    /// Waits to be let in.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(crate) async fn enter(&self) -> Permit<'_> {
        let mut wanted = self.wanted.clone();
        loop {
            wanted.mark_unchanged();
            self.adapt();
            tokio::select! {
                permit = self.permits.acquire() => match permit {
                    Ok(permit) => return Permit { gate: self, permit: Some(permit) },
                    // It is never closed.
                    Err(_) => std::future::pending().await,
                },
                Ok(()) = wanted.changed() => {}
            }
        }
    }

    /// Brings the number of permits to what is wanted, as far as they are not in use.
    fn adapt(&self) {
        let mut size = self.size.lock();
        let wanted = *self.wanted.borrow();
        if wanted > *size {
            self.permits.add_permits(wanted - *size);
            *size = wanted;
        } else if wanted < *size {
            *size -= self.permits.forget_permits(*size - wanted);
        }
    }
}

/// One that was let in.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    gate: &'a Gate,
    permit: Option<SemaphorePermit<'a>>,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        let mut size = self.gate.size.lock();
        if *size > *self.gate.wanted.borrow() {
            *size -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn is_full(gate: &Gate) -> bool {
        timeout(Duration::from_millis(1), gate.enter()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn it_lets_in_as_many_as_it_is_told() {
        let (tell, told) = watch::channel(2);
        let gate = Gate::new(told);
        let (one, two) = (gate.enter().await, gate.enter().await);
        assert!(is_full(&gate).await);
        tell.send_replace(1);
        drop(one);
        assert!(is_full(&gate).await, "it had to shrink");
        drop(two);
        let one = gate.enter().await;
        assert!(is_full(&gate).await);
        // One that waits already is let in when there is more room.
        tokio::join!(async { gate.enter().await }, async { tell.send_replace(2) },);
        drop(one);
        let _both = (gate.enter().await, gate.enter().await);
        assert!(is_full(&gate).await);
    }
}
