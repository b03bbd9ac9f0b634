//! Where the application's code runs, and what it finds there.

use tokio::runtime::Handle;
use tracing::Dispatch;
use tracing::subscriber::NoSubscriber;

/// The surroundings of whoever started the manager: its callbacks spawn tasks on that runtime, and
/// what they record goes to that subscriber.
#[derive(Debug)]
pub(super) struct Application {
    runtime: Option<Handle>,
    subscriber: Option<Dispatch>,
}

impl Application {
    /// Those of whoever calls.
    pub(super) fn current() -> Self {
        Application {
            runtime: Handle::try_current().ok(),
            subscriber: tracing::dispatcher::get_default(|current| {
                (!current.is::<NoSubscriber>()).then(|| current.clone())
            }),
        }
    }

    pub(super) fn run<R>(&self, code: impl FnOnce() -> R) -> R {
        let _entered = self.runtime.as_ref().map(Handle::enter);
        match &self.subscriber {
            Some(subscriber) => tracing::dispatcher::with_default(subscriber, code),
            None => code(),
        }
    }
}
