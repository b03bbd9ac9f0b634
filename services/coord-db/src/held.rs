//! A connection in use, and how it goes back to its pool.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use coord_service::live::Current;
use sqlx::Connection;
use sqlx::pool::PoolConnection;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::client::Client;
use crate::engine::Engine;

/// How long a connection may take to answer to what was left unfinished on it, before it is closed.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What is known of a connection when it goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Each statement was answered.
    Sound,
    /// A statement may have been dropped unanswered. The connection is asked before anybody else
    /// gets it.
    Doubtful,
    /// It may be in the middle of what begins or ends a transaction, or does not answer: it is
    /// closed, and the server rolls back.
    Broken,
}

/// A connection of the pool that serves, for one call. The pool is not retired before it is back.
pub(crate) struct Held<DB: Engine> {
    /// Taken when it goes back.
    connection: Option<PoolConnection<DB>>,
    pub(crate) shape: Shape,
    /// It may be dropped where there is no runtime.
    runtime: Handle,
    pub(crate) client: Current<Client<DB>>,
}

impl<DB: Engine> Held<DB> {
    pub(crate) fn new(connection: PoolConnection<DB>, client: Current<Client<DB>>) -> Self {
        client.meter.pool(&client.pool);
        Held { connection: Some(connection), shape: Shape::Sound, runtime: Handle::current(), client }
    }
}

impl<DB: Engine> Deref for Held<DB> {
    type Target = DB::Connection;

    #[expect(clippy::expect_used, reason = "it is taken by `drop` alone")]
    fn deref(&self) -> &DB::Connection {
        self.connection.as_ref().expect("it is here until it is dropped")
    }
}

impl<DB: Engine> DerefMut for Held<DB> {
    #[expect(clippy::expect_used, reason = "it is taken by `drop` alone")]
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.connection.as_mut().expect("it is here until it is dropped")
    }
}

impl<DB: Engine> Drop for Held<DB> {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let _entered = self.runtime.enter();
        match self.shape {
            Shape::Sound => {}
            Shape::Broken => connection.close_on_drop(),
            Shape::Doubtful => {
                // A server that stands still would keep the connection, and its place in the pool.
                self.runtime.spawn(async move {
                    if !matches!(timeout(ANSWER_WITHIN, connection.ping()).await, Ok(Ok(()))) {
                        connection.close_on_drop();
                    }
                });
            }
        }
    }
}

impl<DB: Engine> fmt::Debug for Held<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("shape", &self.shape).field("client", &self.client).finish()
    }
}
