//! The end of a handle, told once to everyone who asks.

use std::sync::{Arc, OnceLock};

use coord_api::{Loss, Lost};
use coord_home::Process;
use tokio::sync::Notify;

use crate::telemetry::Subject;

/// Set once, when a handle is over for good.
#[derive(Debug)]
pub struct LossCell {
    loss: OnceLock<Loss>,
    told: Notify,
    process: Process,
    /// What the handle stands for, where that is of interest.
    subject: Option<Subject>,
}

impl Default for LossCell {
    fn default() -> Self {
        LossCell { loss: OnceLock::new(), told: Notify::new(), process: Process::current(), subject: None }
    }
}

impl LossCell {
    /// The end of a handle that stands for this.
    pub fn of(subject: Subject) -> Self {
        LossCell { subject: Some(subject), ..LossCell::default() }
    }

    /// What the handle stands for.
    pub fn subject(&self) -> Option<&Subject> {
        self.subject.as_ref()
    }

    /// The end, if it has come. The child of a fork holds nothing of its parent's: to it everything
    /// is closed.
    pub fn get(&self) -> Option<Loss> {
        if !self.process.is_current() {
            return Some(Loss::Closed);
        }
        self.loss.get().copied()
    }

    /// Ends the handle; only the first reason counts. Says whether this was the first.
    pub fn set(&self, loss: Loss) -> bool {
        if !self.process.is_current() {
            return false;
        }
        let first = self.loss.set(loss).is_ok();
        if first {
            self.told.notify_waiters();
            if let Some(subject) = &self.subject {
                subject.ended();
            }
        }
        first
    }

    /// Resolves when the end has come.
    pub async fn wait(&self) -> Loss {
        let told = self.told.notified();
        tokio::pin!(told);
        // Registered before the look, so that an end between the two is not missed.
        told.as_mut().enable();
        loop {
            if let Some(loss) = self.get() {
                return loss;
            }
            told.as_mut().await;
            told.set(self.told.notified());
            told.as_mut().enable();
        }
    }

    /// A future of the end that borrows nothing.
    pub fn lost(self: &Arc<Self>) -> Lost {
        let cell = Arc::clone(self);
        Lost::new(async move { cell.wait().await })
    }
}
