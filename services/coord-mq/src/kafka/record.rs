//! Messages as records of Kafka, and back.
//!
//! The key of a message is that of its record; its id is the header `mq-id`; its other headers are
//! headers of the same names.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, OwnedHeaders};

use crate::message::Outgoing;

/// The header of a message's id.
const ID: &str = "mq-id";

/// The headers of a record.
pub(super) fn headers(message: &Outgoing) -> OwnedHeaders {
    let headers = OwnedHeaders::new_with_capacity(message.headers.len() + 1);
    let headers = headers.insert(Header { key: ID, value: Some(&message.id) });
    message
        .headers
        .iter()
        .fold(headers, |headers, (name, value)| headers.insert(Header { key: name, value: Some(value) }))
}

/// A record that was fetched.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) offset: i64,
    pub(super) id: String,
    pub(super) key: Option<String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) payload: Bytes,
}

impl Record {
    /// Reads what was fetched. What others publish may have no id: then it is its place. Text that
    /// is not UTF-8 is shown as well as it can be.
    pub(super) fn read(message: &BorrowedMessage<'_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (mut id, mut headers) = (None, Vec::new());
        let all = message.headers();
        for at in 0..all.map_or(0, |headers| headers.count()) {
            // The binding panics at a name that is not UTF-8, which Kafka does not allow: without
            // that header the message can still be handled.
            let header = AssertUnwindSafe(|| all.and_then(|headers| headers.try_get(at)));
            let Ok(Some(header)) = catch_unwind(header) else { continue };
            let value = header.value.map(text).unwrap_or_default();
            match header.key {
                ID => id = Some(value),
                name => headers.push((name.to_owned(), value)),
            }
        }
        Record {
            offset: message.offset(),
            id: id.unwrap_or_else(|| format!("#{}-{}", message.partition(), message.offset())),
            key: message.key().map(text),
            headers,
            payload: message.payload().map(Bytes::copy_from_slice).unwrap_or_default(),
        }
    }
}
