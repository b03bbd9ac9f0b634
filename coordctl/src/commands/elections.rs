//! Who leads, and who runs.

use clap::Args;

use super::Session;
use super::queue::{Queues, found};
use crate::error::Failure;

/// Who leads, and who runs.
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
                    let queue = session.ask(inspect.election(&name)).await?;
                    Queues::of(session, found("election", &name, queue)?).await
                };
                session
                    .show(look, |queues| {
                        queues.one(&[
                            "PLACE", "WHO", "SAYS", "TOKEN", "SESSION", "HOST", "PID", "IN QUEUE", "TTL LEFT",
                        ])
                    })
                    .await
            }
            None => {
                let look = async |session: &Session<'_>| {
                    Queues::of(session, session.ask(inspect.elections()).await?).await
                };
                session
                    .show(look, |queues| {
                        queues.all(
                            &[
                                "ELECTION", "LEADER", "SAYS", "TOKEN", "SESSION", "HOST", "PID", "IN QUEUE",
                                "TTL LEFT", "WAITERS",
                            ],
                            "nobody runs in an election",
                        )
                    })
                    .await
            }
        }
    }
}
