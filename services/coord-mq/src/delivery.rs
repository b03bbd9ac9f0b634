//! What a handler is given, and what it says.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord::{Error, Result};
use serde::de::DeserializeOwned;

use crate::Message;
use crate::message::{MAX_ID_BYTES, OWN_HEADERS, Outgoing};
use crate::name::is_dead;

/// The longest reason of a dead letter, in bytes.
const MAX_WHY: usize = 512;

const DEAD_TOPIC: &str = "mq-dead-topic";
const DEAD_GROUP: &str = "mq-dead-group";
const DEAD_PARTITION: &str = "mq-dead-partition";
const DEAD_ID: &str = "mq-dead-id";
const DEAD_DELIVERIES: &str = "mq-dead-deliveries";
const DEAD_WHY: &str = "mq-dead-why";

/// A message that was delivered, for one handler to handle.
#[derive(Clone)]
pub struct Delivery {
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) partition: u16,
    pub(crate) id: String,
    pub(crate) key: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) payload: Bytes,
    pub(crate) deliveries: u32,
}

impl Delivery {
    /// The topic that it was published to.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The group that it is delivered to.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Its partition: messages of one partition are handled one after the other.
    pub fn partition(&self) -> u16 {
        self.partition
    }

    /// Its id: what was published with one id is one message, however often it is delivered.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it is about.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// What is in it.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// What is in it, read as JSON.
    ///
    /// # Errors
    ///
    /// `Codec` where it is no JSON of this type; the error does not show what it is.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.payload)
            .map_err(|error| Error::json("mq.delivery", std::any::type_name::<T>(), &error).about(&self.id))
    }

    /// Its headers, in no particular order. One that is no trace context is a header like others.
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// The first header of a name, of either case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// How often it was delivered to the group, this time counted. More than once: an earlier
    /// handler asked for it again, panicked, or went away before its verdict was stored.
    pub fn deliveries(&self) -> u32 {
        self.deliveries
    }

    /// What it was, where this is a dead letter.
    pub fn dead_letter(&self) -> Option<DeadLetter<'_>> {
        let number = |name| self.header(name).and_then(|value| value.parse().ok());
        Some(DeadLetter {
            topic: self.header(DEAD_TOPIC)?,
            group: self.header(DEAD_GROUP)?,
            id: self.header(DEAD_ID)?,
            partition: number(DEAD_PARTITION)?,
            deliveries: self.header(DEAD_DELIVERIES)?.parse().ok()?,
            why: self.header(DEAD_WHY).unwrap_or_default(),
        })
    }

    /// A message of its payload, its key and its headers, to be published to another topic, or, of
    /// a dead letter, to the one from which it came. It has no id: that of the delivery may still
    /// be remembered.
    pub fn to_message(&self) -> Message {
        let own = |name: &str| {
            name.len() >= OWN_HEADERS.len()
                && name.bytes().zip(OWN_HEADERS.bytes()).all(|(one, other)| one.eq_ignore_ascii_case(&other))
        };
        let mut message = Message::new(self.payload.clone());
        for (name, value) in self.headers.iter().filter(|(name, _)| !own(name)) {
            message = message.with_header(name, value);
        }
        match &self.key {
            Some(key) => message.with_key(key),
            None => message,
        }
    }

    /// The dead letter of this message.
    pub(crate) fn dead(&self, why: &str) -> Outgoing {
        // Two groups may both give it up: theirs are two letters. The id of a letter that was
        // stored already is the same.
        let mut id = format!("{}~{}", self.id, self.group);
        if is_dead(&self.topic) {
            id.push('~');
        }
        if id.len() > MAX_ID_BYTES + 80 {
            id.truncate(MAX_ID_BYTES + 80);
        }
        let mut headers: Vec<_> =
            self.headers.iter().filter(|(name, _)| !name.starts_with("mq-dead-")).cloned().collect();
        let mut add = |name: &str, value: String| headers.push((name.to_owned(), value));
        add(DEAD_TOPIC, self.topic.clone());
        add(DEAD_GROUP, self.group.clone());
        add(DEAD_PARTITION, self.partition.to_string());
        add(DEAD_ID, self.id.clone());
        add(DEAD_DELIVERIES, self.deliveries.to_string());
        add(DEAD_WHY, reason(why));
        Outgoing { id, key: self.key.clone(), headers, payload: self.payload.clone() }
    }
}

/// A reason that a header can hold.
fn reason(why: &str) -> String {
    let mut reason = String::new();
    for word in why.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty()) {
        if !reason.is_empty() {
            reason.push(' ');
        }
        reason.push_str(word);
    }
    let end = (0..=reason.len().min(MAX_WHY)).rev().find(|end| reason.is_char_boundary(*end));
    reason.truncate(end.unwrap_or_default());
    reason.truncate(reason.trim_end().len());
    reason
}

impl fmt::Debug for Delivery {
    /// Without what is in it, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("topic", &self.topic)
            .field("group", &self.group)
            .field("partition", &self.partition)
            .field("id", &self.id)
            .field("deliveries", &self.deliveries)
            .field("bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// What a dead letter was: [`Delivery::dead_letter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter<'a> {
    /// The topic that the message was published to.
    pub topic: &'a str,
    /// The group that gave it up.
    pub group: &'a str,
    /// Its id.
    pub id: &'a str,
    /// Its partition.
    pub partition: u16,
    /// How often it was delivered.
    pub deliveries: u32,
    /// Why it was given up.
    pub why: &'a str,
}

/// What a handler says of a message (K5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is handled, and acknowledged.
    Done,
    /// It is to be delivered again after this time, and nothing else of its partition before that;
    /// sooner where the process ends meanwhile. Once it was delivered again as often as the
    /// configuration says (`retries`), it is [`Dead`](Self::Dead).
    Retry(Duration),
    /// It can never be handled, for this reason, which must hold no secrets. It is stored in the
    /// topic's `.dead` before it is acknowledged.
    Dead(String),
}

/// Handles the messages of a subscription, one at a time of each partition.
///
/// A panic counts as a [`Retry`](Verdict::Retry). It runs in the trace that the message belongs to
/// (K4): [`coord_service::trace::current`]. Whatever it does it may do twice (K5): do it by the
/// [id](Delivery::id), or through `coord.once()`.
///
/// A closure that returns a future is one.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Handles a message.
    async fn handle(&self, delivery: Delivery) -> Verdict;
}

#[async_trait]
impl<F, Fut> Handler for F
where
    F: Fn(Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Verdict> + Send,
{
    async fn handle(&self, delivery: Delivery) -> Verdict {
        self(delivery).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery() -> Delivery {
        Delivery {
            topic: "orders".to_owned(),
            group: "billing".to_owned(),
            partition: 3,
            id: "m-1".to_owned(),
            key: Some("ann".to_owned()),
            headers: vec![("lang".to_owned(), "en".to_owned())],
            payload: Bytes::from_static(b"{\"n\": 1}"),
            deliveries: 6,
        }
    }

    #[test]
    fn a_dead_letter_says_what_it_was() {
        let delivery = delivery();
        let letter = delivery.dead("no such account\n\u{7}: x ");
        let told = Delivery { headers: letter.headers.clone(), id: letter.id.clone(), ..delivery.clone() };
        let dead = told.dead_letter().unwrap();
        assert_eq!((dead.topic, dead.group, dead.id), ("orders", "billing", "m-1"));
        assert_eq!((dead.partition, dead.deliveries, dead.why), (3, 6, "no such account : x"));
        assert_eq!(letter.key.as_deref(), Some("ann"));
        assert_eq!(told.header("LANG"), Some("en"));
        let again = told.to_message();
        assert_eq!((again.key(), again.id()), (Some("ann"), None));
        assert_eq!(again.headers(), [("lang".to_owned(), "en".to_owned())]);
        assert_eq!(delivery.dead_letter(), None);
        // One that is given up again tells of the last time.
        let twice = Delivery { topic: "orders.dead".to_owned(), ..told }.dead("again");
        assert_eq!(twice.headers.iter().filter(|(name, _)| name == DEAD_TOPIC).count(), 1);
    }

    #[test]
    fn reasons_are_cut_where_a_header_ends() {
        let long = reason(&"ä".repeat(400));
        assert_eq!(long, "ä".repeat(256));
        assert_eq!(reason("\r\n"), "");
    }

    #[test]
    fn json_is_read_and_never_shown() {
        #[derive(Debug, serde::Deserialize)]
        struct Order {
            n: u32,
        }
        assert_eq!(delivery().json::<Order>().unwrap().n, 1);
        let wrong = Delivery { payload: Bytes::from_static(b"secret"), ..delivery() };
        let error = wrong.json::<Order>().unwrap_err();
        assert!(!format!("{error} {error:?} {wrong:?}").contains("secret"));
    }
}
