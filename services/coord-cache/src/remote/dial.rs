//! How a connection to Redis is made.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use coord::{Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, RedisError};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::error::failed;
use crate::address::connection_info;
use crate::config::RedisConfig;

const CONNECT: &str = "cache.connect";

/// How many commands wait at most to be written to a connection. Who has one more waits.
const WAITING_COMMANDS: usize = 256;

/// What runs a connection, until that ends.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Connects to one Redis, as one user. Shows no password.
#[derive(Clone)]
pub(super) struct Dialer {
    info: ConnectionInfo,
}

impl Dialer {
    pub(super) fn new(config: &RedisConfig) -> Result<Self> {
        let info = connection_info(&config.url, config.username.as_deref(), config.password.as_ref())
            .map_err(|fault| Error::invalid_argument(CONNECT, fault))?;
        Ok(Dialer { info })
    }

    /// Connects, says who we are, and sees that the server answers, all within this time.
    pub(super) async fn dial(&self, within: Duration) -> Result<(MultiplexedConnection, Driver)> {
        match timeout(within, self.connect()).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => Err(failed(CONNECT, &error).about(&self.to_string())),
            Err(_) => {
                let message = format!("Redis was not connected to within {within:?}");
                Err(Error::new(ErrorKind::Timeout, CONNECT, message).about(&self.to_string()))
            }
        }
    }

    async fn connect(&self) -> std::result::Result<(MultiplexedConnection, Driver), RedisError> {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                // A small command must not wait for the answer to the one before.
                stream.set_nodelay(true)?;
                self.greet(stream).await
            }
            #[cfg(unix)]
            ConnectionAddr::Unix(path) => self.greet(tokio::net::UnixStream::connect(path).await?).await,
            _ => Err(RedisError::from((redis::ErrorKind::InvalidClientConfig, "no such address"))),
        }
    }

    async fn greet<S>(&self, stream: S) -> std::result::Result<(MultiplexedConnection, Driver), RedisError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        // Each call has a deadline of its own.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(WAITING_COMMANDS);
        let (mut connection, driver) =
            MultiplexedConnection::new_with_config(self.info.redis_settings(), stream, config).await?;
        let mut driver: Driver = Box::pin(driver);
        // Without a password, or while it loads its data, a server is only heard of when asked.
        tokio::select! {
            answer = ping(&mut connection) => answer?,
            () = &mut driver => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        }
        Ok((connection, driver))
    }
}

/// Asks the server whether it answers. A user who may not ask is answered as well.
pub(super) async fn ping(connection: &mut MultiplexedConnection) -> std::result::Result<(), RedisError> {
    match redis::cmd("PING").query_async::<redis::Value>(connection).await {
        Err(error) if error.code() == Some("NOPERM") => Ok(()),
        answer => answer.map(drop),
    }
}

impl fmt::Display for Dialer {
    /// Where it connects to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.info.addr(), self.info.redis_settings().db())
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dialer").field(&self.to_string()).finish()
    }
}
