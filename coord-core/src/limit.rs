//! How long a call waits, where the caller says so.

use std::future::Future;
use std::time::Duration;

use coord_api::{Error, ErrorKind, Result, Wait};
use coord_home::Home;
use tokio::time::Instant;

/// How long the store's first answer is waited for at least: the caller's time bounds the queueing,
/// and what is free is had however short that is.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// Until when a call waits.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// For the store's answers; `None` for ever.
    answers: Option<Instant>,
    /// In the queue; `None` for ever.
    queueing: Option<Instant>,
}

impl Limit {
    /// The limit of a call that begins now.
    pub fn of(home: &Home, wait: Wait) -> Self {
        let now = home.now();
        match wait {
            Wait::For(limit) => {
                Limit { answers: now.checked_add(limit.max(FIRST_ANSWER)), queueing: now.checked_add(limit) }
            }
            _ => Limit { answers: None, queueing: None },
        }
    }

    /// Bounds what asks the store.
    ///
    /// # Errors
    ///
    /// `Timeout`, and those of `call`.
    pub async fn answer<T>(
        self,
        home: &Home,
        operation: &'static str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        bound(
            home,
            self.answers,
            operation,
            "the store did not answer within the time that the caller gave",
            call,
        )
        .await
    }

    /// Bounds what waits for its turn. What it had begun is undone by being dropped (R29).
    ///
    /// # Errors
    ///
    /// `Timeout`, and those of `wait`.
    pub async fn queue<T>(
        self,
        home: &Home,
        operation: &'static str,
        wait: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        bound(home, self.queueing, operation, "it was not free within the time that the caller gave", wait)
            .await
    }
}

async fn bound<T>(
    home: &Home,
    deadline: Option<Instant>,
    operation: &'static str,
    message: &'static str,
    future: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Some(deadline) = deadline else { return future.await };
    match home.timeout_at(deadline, future).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::new(ErrorKind::Timeout, operation, message)),
    }
}
