//! Calls of librdkafka that block.

use coord::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

/// Makes a call that blocks on a thread of its own. It is seldom needed, and the end of a runtime
/// need not wait for it.
///
/// # Errors
///
/// Those of the call; `Exhausted` where there is no thread to be had.
///
/// # Cancel safety
///
/// Dropped, the call goes on, and what it answers is dropped.
pub(super) async fn on_thread<T: Send + 'static>(
    operation: &'static str,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (tell, told) = oneshot::channel();
    let thread = std::thread::Builder::new().name("mq-kafka-call".to_owned());
    let started = thread.spawn(move || {
        let _ = tell.send(call());
    });
    if let Err(error) = started {
        return Err(Error::new(ErrorKind::Exhausted, operation, "no thread").with_source(error));
    }
    match told.await {
        Ok(answer) => answer,
        Err(_) => Err(Error::new(ErrorKind::Internal, operation, "a call of librdkafka panicked")),
    }
}

/// Holds what blocks when it is dropped, and has it dropped on a thread of its own.
#[derive(Debug)]
pub(super) struct DropOnThread<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> DropOnThread<T> {
    pub(super) fn new(it: T) -> Self {
        DropOnThread(Some(it))
    }
}

impl<T: Send + 'static> std::ops::Deref for DropOnThread<T> {
    type Target = T;

    #[expect(clippy::expect_used, reason = "it is taken out when this is dropped, and not before")]
    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is there until this is dropped")
    }
}

impl<T: Send + 'static> Drop for DropOnThread<T> {
    fn drop(&mut self) {
        let it = self.0.take();
        // Where there is no thread to be had, it is dropped here.
        let _ = std::thread::Builder::new().name("mq-kafka-end".to_owned()).spawn(move || drop(it));
    }
}
