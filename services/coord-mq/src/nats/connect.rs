//! A connection to NATS, and what it says of itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event};
use coord::{Error, ErrorKind, Result};
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::NatsConfig;

const CONNECT: &str = "mq.connect";

/// How long one server may take to answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// How often a silent server is asked whether it is there; after two questions without an answer
/// another connection is made.
const PING_EVERY: Duration = Duration::from_secs(5);

/// The longest pause before it is connected again.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long what is under way may take at the end.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);

/// How many commands wait to be sent, and how many messages of one subscription wait to be taken.
const COMMANDS: usize = 1_024;
const MESSAGES: usize = 64;

/// A connection, which is made anew by itself.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: Client,
    /// How often it was connected so far: what was asked of the server before may be forgotten.
    pub(super) connected: watch::Receiver<u64>,
    ended: Arc<AtomicBool>,
}

impl Connection {
    /// # Errors
    ///
    /// `Unavailable` where no server answers, `Unauthenticated` where one does not know us.
    pub(super) async fn open(config: &NatsConfig) -> Result<Self> {
        let (connections, connected) = watch::channel(0);
        let ended = Arc::new(AtomicBool::new(false));
        let is_ended = Arc::clone(&ended);
        let options = ConnectOptions::new()
            .name("coord-mq")
            .connection_timeout(CONNECT_WITHIN)
            .ping_interval(PING_EVERY)
            .client_capacity(COMMANDS)
            .subscription_capacity(MESSAGES)
            .max_reconnects(None)
            .reconnect_delay_callback(move |attempts| pause(attempts, is_ended.load(Ordering::Relaxed)))
            .event_callback(move |event| {
                match event {
                    Event::Connected => connections.send_modify(|count| *count += 1),
                    Event::Disconnected => tracing::warn!("the connection to NATS is lost"),
                    Event::ServerError(error) => tracing::warn!(%error, "NATS said no"),
                    event => tracing::debug!(%event, "NATS"),
                }
                std::future::ready(())
            });
        let secret = |of: &secrecy::SecretString| of.expose_secret().to_owned();
        let options = match (config.user.is_empty(), config.token.expose_secret().is_empty()) {
            (false, _) => options.user_and_password(config.user.clone(), secret(&config.password)),
            (true, false) => options.token(secret(&config.token)),
            (true, true) => options,
        };
        let options = match config.ca_file.as_str() {
            "" => options,
            path => options.add_root_certificates(path.into()),
        };
        let servers: Vec<&str> = config.servers().collect();
        let connect = options.connect(servers);
        // Its errors name the server at most.
        let client = match timeout(CONNECT_WITHIN * 2, connect).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => {
                let (kind, why) = match error.kind() {
                    ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => (
                        ErrorKind::Unauthenticated,
                        "NATS does not know the user; see nats.user and nats.password",
                    ),
                    ConnectErrorKind::ServerParse => {
                        (ErrorKind::InvalidArgument, "nats.url is no list of servers")
                    }
                    ConnectErrorKind::Tls => {
                        (ErrorKind::Unavailable, "no connection by TLS; see nats.ca_file")
                    }
                    _ => (ErrorKind::Unavailable, "NATS does not answer"),
                };
                return Err(Error::new(kind, CONNECT, why).with_source(error).about(&config.url));
            }
            Err(_) => {
                return Err(
                    Error::new(ErrorKind::Timeout, CONNECT, "NATS does not answer").about(&config.url)
                );
            }
        };
        let mut first = connected.clone();
        // It is told beside; those who come later are to hear of later ones alone.
        let _ = timeout(CONNECT_WITHIN, first.wait_for(|count| *count > 0)).await;
        Ok(Connection { client, connected, ended })
    }

    /// Ends it. What is called later fails.
    pub(super) async fn close(&self) {
        // While it tries to connect it listens to nobody, and goes on for ever: it is left asleep.
        self.ended.store(true, Ordering::Relaxed);
        // What cannot be sent any more is nobody's: each call has its own deadline.
        let _ = timeout(DRAIN_WITHIN, self.client.drain()).await;
    }
}

/// How long to wait before it is connected for the n-th time.
fn pause(attempts: usize, is_ended: bool) -> Duration {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3_600);
    if is_ended {
        return YEAR;
    }
    match u32::try_from(attempts) {
        Ok(0 | 1) => Duration::ZERO,
        Ok(attempts @ 2..=7) => Duration::from_millis(25) * 2_u32.pow(attempts - 2),
        _ => LONGEST_PAUSE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_again_at_once_and_then_less_often() {
        let pauses: Vec<_> = (0..9).map(|attempts| pause(attempts, false).as_millis()).collect();
        assert_eq!(pauses, [0, 0, 25, 50, 100, 200, 400, 800, 2_000]);
        assert!(pause(1, true) > Duration::from_secs(1_000_000));
    }
}
