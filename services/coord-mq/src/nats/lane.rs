//! The messages of one partition for one group.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Message, Request, Subject, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use coord::{Error, ErrorKind, Outcome, Result};
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{ID, KEY, Shared, api, names};
use crate::count;
use crate::delivery::Delivery;
use crate::engine::{Lane, Place, Settled};
use crate::message::Outgoing;
use crate::name::dead_of;

const LANE: &str = "mq.lane";
const ACK: &str = "mq.ack";

/// How much later than it should the server may say that there was nothing.
const LATE: Duration = Duration::from_secs(1);

/// How long to unsubscribe may take.
const HANG_UP_WITHIN: Duration = Duration::from_secs(1);

/// How soon a message comes again whose dead letter could not be stored.
const AFTER_FAILED_LETTER: Duration = Duration::from_secs(1);

const ACKNOWLEDGED: &[u8] = b"+ACK";
const IN_PROGRESS: &[u8] = b"+WPI";

pub(super) struct NatsLane {
    shared: Arc<Shared>,
    place: Place,
    stop: CancellationToken,
    connected: watch::Receiver<u64>,
    inbox: Option<Inbox>,
    /// Where the message that was taken is acknowledged.
    taken: Option<Subject>,
}

/// Where messages come that were asked for.
struct Inbox {
    subject: String,
    messages: Subscriber,
    /// Where they are asked for.
    ask: String,
    /// Until when the server answers what was asked, if it was.
    asked: Option<Instant>,
}

impl NatsLane {
    pub(super) fn new(shared: Arc<Shared>, place: Place, stop: CancellationToken) -> Self {
        let connected = shared.connection.connected.clone();
        NatsLane { shared, place, stop, connected, inbox: None, taken: None }
    }

    /// Asks for one message, if none was asked for.
    async fn ask(&mut self, wait: Duration) -> Result<()> {
        if self.connected.has_changed().unwrap_or(false) {
            self.hang_up().await;
        }
        let client = &self.shared.connection.client;
        if self.inbox.is_none() {
            self.connected.mark_unchanged();
            // It may be another server than before.
            self.shared.consumer(&self.place).await?;
            let subject = client.new_inbox();
            let messages = client.subscribe(subject.clone()).await.map_err(unavailable)?;
            let stream = names::stream(&self.shared.from.space, &self.place.topic);
            let consumer = names::consumer(&self.place.group, self.place.partition);
            let ask = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
            self.inbox = Some(Inbox { subject, messages, ask, asked: None });
        }
        let Some(inbox) = self.inbox.as_mut().filter(|inbox| inbox.asked.is_none()) else { return Ok(()) };
        let request = format!(r#"{{"batch":1,"expires":{}}}"#, wait.as_nanos());
        let sent = client.publish_with_reply(inbox.ask.clone(), inbox.subject.clone(), request.into());
        sent.await.map_err(unavailable)?;
        inbox.asked = Some(Instant::now() + wait + LATE);
        Ok(())
    }

    /// Asks for no more, and gives back what came all the same.
    async fn hang_up(&mut self) {
        let Some(mut inbox) = self.inbox.take() else { return };
        let client = &self.shared.connection.client;
        let drained = async {
            if inbox.messages.drain().await.is_err() {
                return;
            }
            while let Some(message) = inbox.messages.next().await {
                let reply = message.reply.filter(|_| message.status.is_none());
                if let Some(reply) = reply {
                    let _ = client.publish(reply, again(Duration::ZERO)).await;
                }
            }
        };
        let _ = timeout(HANG_UP_WITHIN, drained).await;
    }

    /// A message, or what the server says instead. `None` where there is nothing.
    fn read(&mut self, message: Message) -> Result<Option<Delivery>> {
        if let Some(status) = message.status.filter(|status| status.as_u16() != 200) {
            let said = message.description.as_deref().unwrap_or_default();
            return match status.as_u16() {
                // A sign of life.
                100 => Ok(None),
                // Nothing came in time; or the request was dropped, and is sent again.
                404 | 408 => {
                    self.answered();
                    Ok(None)
                }
                409 if !said.to_ascii_lowercase().contains("deleted") => {
                    self.answered();
                    Ok(None)
                }
                _ => {
                    self.answered();
                    self.inbox = None;
                    Err(Error::new(ErrorKind::Unavailable, LANE, format!("JetStream says: {status} {said}")))
                }
            };
        }
        self.answered();
        let Some(reply) = message.reply else { return Ok(None) };
        let Some(told) = names::read_reply(&reply) else { return Ok(None) };
        let Place { topic, group, partition } = self.place.clone();
        count::lag(&topic, &group, partition, told.pending);
        let (id, key, headers) = read_headers(message.headers.as_ref(), told.sequence);
        self.taken = Some(reply);
        let (payload, deliveries) = (message.payload, told.deliveries);
        Ok(Some(Delivery { topic, group, partition, id, key, headers, payload, deliveries }))
    }

    fn answered(&mut self) {
        if let Some(inbox) = &mut self.inbox {
            inbox.asked = None;
        }
    }

    /// Says something of the message that was taken, and waits until the server has it.
    ///
    /// # Errors
    ///
    /// It may not know.
    async fn confirm(&self, reply: &Subject, what: Bytes) -> Result<()> {
        let deadline = Instant::now() + self.shared.config.load().publish_timeout();
        let mut connected = self.connected.clone();
        loop {
            connected.mark_unchanged();
            let request = Request::new().payload(what.clone()).timeout(None);
            let answer = self.shared.connection.client.send_request(reply.clone(), request);
            tokio::select! {
                answer = timeout_at(deadline, answer) => match answer {
                    Ok(Ok(_)) => return Ok(()),
                    // Nobody listens there: the server has begun anew, or is about to.
                    Ok(Err(error)) => {
                        let failed = api::request_failed(ACK, error).with_outcome(Outcome::Unknown);
                        if timeout_at(deadline, sleep(LATE / 10)).await.is_err() || !failed.is_transient() {
                            return Err(failed);
                        }
                    }
                    Err(_) => {
                        return Err(Error::new(ErrorKind::Timeout, ACK, "no answer in time")
                            .with_outcome(Outcome::Unknown));
                    }
                },
                // The answer went to the connection that is gone.
                Ok(()) = connected.changed() => {}
            }
        }
    }

    /// Stores a dead letter. Meanwhile the server is told that its message is at work.
    async fn store(&mut self, letter: &Outgoing) -> Result<()> {
        let topic = dead_of(&self.place.topic);
        let config = self.shared.config.load_full();
        let shared = Arc::clone(&self.shared);
        let mut stored =
            std::pin::pin!(shared.publish(&topic, letter, Instant::now() + config.publish_timeout()));
        loop {
            tokio::select! {
                stored = &mut stored => return stored.map(drop),
                () = sleep(config.ack_wait() / 3) => self.progress().await?,
            }
        }
    }
}

#[async_trait]
impl Lane for NatsLane {
    async fn ready(&mut self) -> Result<()> {
        // The server says so when it is asked for one.
        Ok(())
    }

    async fn next(&mut self, wait: Duration) -> Result<Option<Delivery>> {
        loop {
            // While there is no connection, to ask can take as long as that.
            let stop = self.stop.clone();
            match stop.run_until_cancelled(self.ask(wait)).await {
                None => return Ok(None),
                Some(asked) => asked?,
            }
            let Some(inbox) = &mut self.inbox else { return Ok(None) };
            let until = inbox.asked.unwrap_or_else(Instant::now);
            let message = tokio::select! {
                biased;
                message = inbox.messages.next() => message,
                () = self.stop.cancelled() => return Ok(None),
                Ok(()) = self.connected.changed() => {
                    // What was asked of a server that was started anew is forgotten.
                    self.hang_up().await;
                    continue;
                }
                () = sleep_until(until) => {
                    inbox.asked = None;
                    return Ok(None);
                }
            };
            let Some(message) = message else {
                self.inbox = None;
                return Err(Error::new(ErrorKind::Closed, LANE, "the connection to NATS is closed"));
            };
            let delivery = self.read(message)?;
            let waits = self.inbox.as_ref().is_some_and(|inbox| inbox.asked.is_some());
            if delivery.is_some() || !waits {
                return Ok(delivery);
            }
        }
    }

    async fn progress(&mut self) -> Result<()> {
        let Some(reply) = self.taken.clone() else { return Ok(()) };
        let sent = self.shared.connection.client.publish(reply, Bytes::from_static(IN_PROGRESS));
        // It waits while nothing can be sent.
        match timeout(LATE, sent).await {
            Ok(sent) => sent.map_err(unavailable),
            Err(_) => Err(Error::new(ErrorKind::Timeout, LANE, "nothing can be sent to NATS")),
        }
    }

    async fn settle(&mut self, how: Settled<'_>) -> Result<()> {
        let Some(reply) = self.taken.clone() else {
            return Err(Error::new(ErrorKind::Internal, ACK, "no message was taken"));
        };
        let said = match how {
            Settled::Done => self.confirm(&reply, Bytes::from_static(ACKNOWLEDGED)).await,
            Settled::Again(after) => self.confirm(&reply, again(after)).await,
            Settled::Dead(letter) => match self.store(letter).await {
                Ok(()) => self.confirm(&reply, Bytes::from_static(ACKNOWLEDGED)).await,
                Err(error) => {
                    let sent = self.shared.connection.client.publish(reply, again(AFTER_FAILED_LETTER));
                    let _ = timeout(LATE, sent).await;
                    Err(error)
                }
            },
        };
        self.taken = None;
        said
    }

    async fn close(&mut self) {
        if let Some(reply) = self.taken.take() {
            let sent = self.shared.connection.client.publish(reply, again(Duration::ZERO));
            let _ = timeout(LATE, sent).await;
        }
        self.hang_up().await;
    }
}

/// It is to be delivered again after this time.
fn again(after: Duration) -> Bytes {
    match after.is_zero() {
        true => Bytes::from_static(b"-NAK"),
        false => format!(r#"-NAK {{"delay":{}}}"#, after.as_nanos().min(u64::MAX.into())).into(),
    }
}

/// The id, the key and the other headers. What others publish has no id: then it is its number.
fn read_headers(
    headers: Option<&HeaderMap>,
    sequence: u64,
) -> (String, Option<String>, Vec<(String, String)>) {
    let (mut id, mut key, mut others) = (None, None, Vec::new());
    for (name, values) in headers.into_iter().flat_map(HeaderMap::iter) {
        let name: &str = name.as_ref();
        for value in values {
            let value = value.as_str().to_owned();
            match name {
                _ if name.eq_ignore_ascii_case(ID) => id = Some(value),
                _ if name.eq_ignore_ascii_case(KEY) => key = Some(value),
                _ if name.to_ascii_lowercase().starts_with("nats-") => {}
                _ => others.push((name.to_owned(), value)),
            }
        }
    }
    (id.unwrap_or_else(|| format!("#{sequence}")), key, others)
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unavailable, LANE, "the connection to NATS is closed").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_said_in_nanoseconds() {
        assert_eq!(again(Duration::ZERO), "-NAK");
        assert_eq!(again(Duration::from_millis(1_500)), r#"-NAK {"delay":1500000000}"#);
    }

    #[test]
    fn headers_of_the_server_are_not_the_messages() {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", "m-1");
        headers.insert("mq-key", "ann");
        headers.insert("Nats-Expected-Stream", "x");
        headers.insert("lang", "en");
        let (id, key, others) = read_headers(Some(&headers), 7);
        assert_eq!((id.as_str(), key.as_deref()), ("m-1", Some("ann")));
        assert_eq!(others, [("lang".to_owned(), "en".to_owned())]);
        assert_eq!(read_headers(None, 7).0, "#7");
    }
}
