//! Who has permits of which semaphore, and who waits.

use clap::Args;

use super::Session;
use super::queue::{Queues, found};
use crate::error::Failure;

/// Who has permits of which semaphore, and who waits.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The name of one: everybody in its queue is shown, in order.
    name: Option<String>,
}

impl Arguments {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let inspect = session.coord.inspect();
        match self.name {
            Some(name) => {
                let look = async |session: &Session<'_>| {
                    let queue = session.ask(inspect.semaphore(&name)).await?;
                    Queues::of(session, found("semaphore", &name, queue)?).await
                };
                session
                    .show(look, |queues| {
                        queues.one(&[
                            "PLACE", "WHO", "PERMITS", "TOKEN", "SESSION", "HOST", "PID", "IN QUEUE",
                            "TTL LEFT",
                        ])
                    })
                    .await
            }
            None => {
                let look = async |session: &Session<'_>| {
                    Queues::of(session, session.ask(inspect.semaphores()).await?).await
                };
                session
                    .show(look, |queues| {
                        queues.all(
                            &[
                                "SEMAPHORE",
                                "HOLDER",
                                "PERMITS",
                                "TOKEN",
                                "SESSION",
                                "HOST",
                                "PID",
                                "IN QUEUE",
                                "TTL LEFT",
                                "WAITERS",
                            ],
                            "no semaphore was ever used",
                        )
                    })
                    .await
            }
        }
    }
}
