//! Who holds which lock, and who waits.

use clap::Args;

use super::Session;
use super::queue::{Queues, found};
use crate::error::Failure;

/// Who holds which lock, and who waits.
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
                    let queue = session.ask(inspect.lock(&name)).await?;
                    Queues::of(session, found("lock", &name, queue)?).await
                };
                session
                    .show(look, |queues| {
                        queues.one(&[
                            "PLACE", "WHO", "MODE", "TOKEN", "SESSION", "HOST", "PID", "IN QUEUE", "TTL LEFT",
                        ])
                    })
                    .await
            }
            None => {
                let look = async |session: &Session<'_>| {
                    Queues::of(session, session.ask(inspect.locks()).await?).await
                };
                session
                    .show(look, |queues| {
                        queues.all(
                            &[
                                "LOCK", "HOLDER", "MODE", "TOKEN", "SESSION", "HOST", "PID", "IN QUEUE",
                                "TTL LEFT", "WAITERS",
                            ],
                            "nobody holds or wants a lock",
                        )
                    })
                    .await
            }
        }
    }
}
