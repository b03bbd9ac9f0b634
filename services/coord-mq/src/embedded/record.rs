//! What is written under the keys of a topic.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use coord::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::message::Outgoing;

/// What stands under an id that is remembered.
pub(super) const REMEMBERED: &str = "";

/// What is known of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TopicRecord {
    /// How many partitions it has.
    pub(super) partitions: u16,
    /// The queue of each group. A group that is made again after it was removed has another one.
    pub(super) groups: BTreeMap<String, String>,
}

impl TopicRecord {
    pub(super) fn encode(&self) -> Bytes {
        // Numbers and names: there is nothing in it that has no JSON.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// # Errors
    ///
    /// `Codec` where others have written it.
    pub(super) fn decode(operation: &'static str, bytes: &[u8]) -> Result<Self> {
        let record: Self = serde_json::from_slice(bytes)
            .map_err(|error| Error::json(operation, "the record of a topic", &error))?;
        if record.partitions == 0 {
            return Err(Error::new(ErrorKind::Codec, operation, "a topic of no partitions"));
        }
        Ok(record)
    }
}

/// What precedes the payload of a message.
#[derive(Serialize, Deserialize)]
struct Head {
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, String)>,
}

/// The length of the head, its JSON, and the payload as it is.
pub(super) fn encode(message: &Outgoing) -> Bytes {
    let head = Head { id: message.id.clone(), key: message.key.clone(), headers: message.headers.clone() };
    let head = serde_json::to_vec(&head).unwrap_or_default();
    let mut value = BytesMut::with_capacity(4 + head.len() + message.payload.len());
    // Ids, keys and headers are bounded.
    value.put_u32(u32::try_from(head.len()).unwrap_or_default());
    value.put_slice(&head);
    value.put_slice(&message.payload);
    value.freeze()
}

/// # Errors
///
/// `Codec` where others have written it.
pub(super) fn decode(operation: &'static str, value: &Bytes) -> Result<Outgoing> {
    let broken = || Error::new(ErrorKind::Codec, operation, "what waits there is no message");
    let (length, rest) = value.split_first_chunk::<4>().ok_or_else(broken)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| broken())?;
    let head = rest.get(..length).ok_or_else(broken)?;
    let head: Head = serde_json::from_slice(head)
        .map_err(|error| Error::json(operation, "the head of a message", &error))?;
    let Head { id, key, headers } = head;
    Ok(Outgoing { id, key, headers, payload: value.slice(4 + length..) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        for payload in ["", "x", "\0\u{1}{"] {
            for key in [None, Some("room-7".to_owned())] {
                let headers = vec![("a".to_owned(), "\"ü\"".to_owned())];
                let sent = Outgoing { id: "m/1".to_owned(), key, headers, payload: payload.into() };
                let read = decode("t", &encode(&sent)).unwrap();
                assert_eq!((&read.id, &read.key, &read.headers), (&sent.id, &sent.key, &sent.headers));
                assert_eq!(read.payload, sent.payload);
            }
        }
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for value in ["", "abc", "\0\0\0\u{7f}{}", "\0\0\0\u{2}{}"] {
            assert_eq!(decode("t", &Bytes::from(value)).err().map(|e| e.kind()), Some(ErrorKind::Codec));
        }
        assert!(TopicRecord::decode("t", b"{\"partitions\": 0, \"groups\": {}}").is_err());
        let record = TopicRecord { partitions: 4, groups: [("a".to_owned(), "a-1".to_owned())].into() };
        assert_eq!(TopicRecord::decode("t", &record.encode()).unwrap(), record);
    }
}
