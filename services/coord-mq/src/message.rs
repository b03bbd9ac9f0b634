//! What is published.

use std::fmt;

use bytes::Bytes;
use coord::{Error, Result};
use coord_service::trace;
use serde::Serialize;

use crate::PUBLISH;

/// The longest id of a message, in bytes.
pub const MAX_ID_BYTES: usize = 128;
/// The longest key of a message, in bytes.
pub const MAX_KEY_BYTES: usize = 256;
/// How many headers a message has at most, those of its trace included.
pub const MAX_HEADERS: usize = 32;
/// How long the headers of a message are at most, names and values together, in bytes.
pub const MAX_HEADER_BYTES: usize = 8_192;

/// What the names of the headers begin with that are written by this crate.
pub(crate) const OWN_HEADERS: &str = "mq-";

/// A message to be published.
///
/// Nothing is checked before it is [published](crate::Mq::publish).
///
/// ```
/// use coord_mq::Message;
///
/// let message = Message::new("hello").with_key("room-7").with_id("m-1").with_header("lang", "en");
/// assert_eq!(message.payload().as_ref(), b"hello");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    payload: Bytes,
    key: Option<String>,
    id: Option<String>,
    headers: Vec<(String, String)>,
}

impl Message {
    /// A message of these bytes.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Message { payload: payload.into(), key: None, id: None, headers: Vec::new() }
    }

    /// A message of the JSON of a value.
    ///
    /// # Errors
    ///
    /// `Codec` for a value that has no JSON.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let payload = serde_json::to_vec(value)
            .map_err(|error| Error::json("mq.message", std::any::type_name::<T>(), &error))?;
        Ok(Message::new(payload))
    }

    /// Sets what it is about: messages with one key are handled in the order in which they were
    /// published. At most 256 bytes, without control characters, and without blanks at its ends.
    /// Without a key it has no order.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets its id, in at most 128 visible ASCII characters. While the id is remembered
    /// (`dedup_ms`), it is stored once, however often it is published to the topic. Without one it
    /// gets one that nobody else has.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets a header. The name is of A-Z, a-z, 0-9, `-`, `_` and `.`, and does not begin with `mq-`
    /// or `nats-`, which are taken; the value has no control characters, and no blanks at its ends.
    /// At most 32 headers and 8,192 bytes of them, those of the trace included.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
        self.headers.push((name, value));
        self
    }

    /// What is in it.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Its key.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Its id, where it was given one.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Its headers.
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// As it is sent: checked, with an id, and with the context of the present trace, unless it has
    /// one of its own (K4).
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, which says what is wrong.
    pub(crate) fn outgoing(self, max_bytes: usize) -> Result<Outgoing> {
        let Message { payload, key, id, mut headers } = self;
        if payload.len() > max_bytes {
            let bytes = payload.len();
            return refuse(format!("a message of {bytes} bytes; max_message_bytes is {max_bytes}"));
        }
        if key.as_ref().is_some_and(|key| key.len() > MAX_KEY_BYTES || !is_value(key)) {
            return refuse("a key has at most 256 bytes, no control characters, and no blanks at its ends");
        }
        if id.as_ref().is_some_and(|id| !is_id(id)) {
            return refuse("an id has 1 to 128 visible ASCII characters");
        }
        for (name, value) in &headers {
            check_header(name, value)?;
        }
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(trace::TRACEPARENT)) {
            for (name, value) in trace::current().pairs() {
                headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
                headers.push((name.to_owned(), value));
            }
        }
        let bytes = headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if headers.len() > MAX_HEADERS || bytes > MAX_HEADER_BYTES {
            let count = headers.len();
            return refuse(format!(
                "{count} headers of {bytes} bytes; there may be {MAX_HEADERS}, of {MAX_HEADER_BYTES} bytes"
            ));
        }
        Ok(Outgoing { id: id.unwrap_or_else(new_id), key, headers, payload })
    }
}

/// Whether the ids of messages may be this one.
fn is_id(id: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// An id that no other message has.
fn new_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// Whether it comes through as it is, whatever carries it.
fn is_value(value: &str) -> bool {
    value.trim() == value && !value.chars().any(char::is_control)
}

fn check_header(name: &str, value: &str) -> Result<()> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(is_token) {
        return refuse("the name of a header is of A-Z, a-z, 0-9, -, _ and .");
    }
    let begins = |with: &str| {
        name.as_bytes().get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
    };
    if begins(OWN_HEADERS) || begins("nats-") {
        return refuse(format!("the header {name}: names that begin with mq- or nats- are taken"));
    }
    if !is_value(value) {
        return refuse(format!("the header {name}: no control characters, and no blanks at its ends"));
    }
    Ok(())
}

fn refuse<T>(why: impl Into<std::borrow::Cow<'static, str>>) -> Result<T> {
    Err(Error::invalid_argument(PUBLISH, why))
}

impl fmt::Debug for Message {
    /// Without what is in it, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("key", &self.key)
            .field("bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// A message as it is sent: what it holds was checked.
#[derive(Clone)]
pub(crate) struct Outgoing {
    pub(crate) id: String,
    pub(crate) key: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) payload: Bytes,
}

impl Outgoing {
    /// What its partition goes by: its key, or anything.
    pub(crate) fn routing(&self) -> &str {
        self.key.as_deref().unwrap_or(&self.id)
    }

    /// How large it is.
    pub(crate) fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        self.payload.len() + headers + self.id.len() + self.key.as_ref().map_or(0, String::len)
    }
}

#[cfg(test)]
mod tests {
    use coord_service::trace::TraceContext;

    use super::*;

    fn refused(message: Message) -> String {
        message.outgoing(100).err().map_or_else(String::new, |error| error.message().to_owned())
    }

    #[test]
    fn what_no_broker_would_carry_is_refused() {
        assert!(refused(Message::new(vec![0; 101])).contains("101 bytes; max_message_bytes is 100"));
        let m = || Message::new("x");
        for key in [" a", "a\n", &"k".repeat(257)] {
            assert!(refused(m().with_key(key)).contains("a key has"), "{key:?}");
        }
        for id in ["", "a b", "ä", &"i".repeat(129)] {
            assert!(refused(m().with_id(id)).contains("an id has"), "{id:?}");
        }
        for name in ["", "a b", "a:b", "ä"] {
            assert!(refused(m().with_header(name, "v")).contains("the name of a header"), "{name:?}");
        }
        assert!(refused(m().with_header("Mq-Key", "v")).contains("are taken"));
        assert!(refused(m().with_header("Nats-Msg-Id", "v")).contains("are taken"));
        for value in ["a\r\nB: c", " a", "a\0"] {
            assert!(refused(m().with_header("a", value)).contains("no control"), "{value:?}");
        }
        assert!(refused(m().with_header("a", "v".repeat(8_192))).contains("headers of"));
        let many = (0..32).fold(m(), |message, n| message.with_header(format!("h{n}"), "v"));
        assert!(refused(many).contains("33 headers"), "that of the trace counts");
        m().with_key("ключ").with_id("a/b:c").with_header("Lang", "日本").outgoing(100).unwrap();
    }

    #[test]
    fn it_takes_the_present_trace_along_unless_it_has_one() {
        let context = TraceContext::new();
        let sent = trace::in_scope(context.clone(), || {
            Message::new("x").with_header("tracestate", "stale").outgoing(9).unwrap()
        });
        assert!(sent.headers.contains(&("traceparent".to_owned(), context.traceparent())));
        let own = TraceContext::new().traceparent();
        let sent = trace::in_scope(context, || {
            Message::new("x").with_header("Traceparent", own.clone()).outgoing(9).unwrap()
        });
        assert_eq!(sent.headers, [("Traceparent".to_owned(), own)]);
    }

    #[test]
    fn ids_are_its_own_where_none_was_given() {
        let id = || Message::new("x").outgoing(9).unwrap().id;
        assert_ne!(id(), id());
        assert_eq!(Message::new("x").with_id("a").outgoing(9).unwrap().id, "a");
        let message = Message::new("secret").with_header("a", "1").with_header("A", "2");
        assert_eq!(message.headers(), [("A".to_owned(), "2".to_owned())]);
        assert!(!format!("{message:?}").contains("secret"));
    }
}
