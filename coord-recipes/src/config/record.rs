//! Records that hold a value and a header: of what was published, and how many of those are kept
//! (R71), and of what is released to some (R73).

use coord_api::config::{MAX_NOTE_BYTES, MAX_PUBLISHED_BYTES};
use coord_api::store::{Entry, RangeReply};
use coord_api::{Error, ErrorKind, Note, Result, Value, Version};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Records that are kept at least, where there were as many.
pub(crate) const KEPT: usize = 20;

/// With how many of them the oldest are taken away.
pub(crate) const TRIMMED_AT: usize = 30;

/// What stands before the value: one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The version that was replaced; zero where there was none.
    pub(crate) replaced: Version,
    pub(crate) author: String,
    pub(crate) note: String,
    /// Milliseconds since 1970 by the writer's clock.
    pub(crate) at: u64,
}

/// Checks what can be published.
pub(crate) fn check(operation: &'static str, value: &Value, note: &Note) -> Result<()> {
    let wrong = |message: &'static str| Err(Error::invalid_argument(operation, message));
    if note.author.len().saturating_add(note.text.len()) > MAX_NOTE_BYTES {
        return wrong("an author and a note of more than 4 KiB");
    }
    if value.len() > MAX_PUBLISHED_BYTES {
        return wrong("a value over 600 KiB; it would not fit beside its record");
    }
    Ok(())
}

/// The record of a value: one line of JSON, and the value as it is.
pub(crate) fn encode<H: Serialize>(operation: &'static str, header: &H, value: &Value) -> Result<Value> {
    let mut record = serde_json::to_vec(header).map_err(|fault| Error::json(operation, "Header", &fault))?;
    record.push(b'\n');
    record.extend_from_slice(value);
    Ok(record.into())
}

/// What a record says, and the value in it.
pub(crate) fn decode<H: DeserializeOwned>(operation: &'static str, entry: &Entry) -> Result<(H, Value)> {
    let (header, value) = parts(operation, entry)?;
    Ok((header, Value::from(value.to_vec())))
}

/// What a record says, and the bytes of the value in it.
pub(crate) fn parts<'a, H: DeserializeOwned>(
    operation: &'static str,
    entry: &'a Entry,
) -> Result<(H, &'a [u8])> {
    let broken = || Error::new(ErrorKind::Codec, operation, "no record: it has no header");
    let end = entry.value.iter().position(|byte| *byte == b'\n').ok_or_else(broken)?;
    let (header, value) = entry.value.split_at_checked(end).ok_or_else(broken)?;
    let header = serde_json::from_slice(header).map_err(|fault| Error::json(operation, "Header", &fault))?;
    Ok((header, value.get(1..).unwrap_or_default()))
}

/// Which of the records that were found, the oldest first, are to go.
pub(crate) fn superfluous(found: &RangeReply) -> &[Entry] {
    let count = found.entries.len();
    if count < TRIMMED_AT { &[] } else { found.entries.get(..count - KEPT).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { replaced: Version::new(7), author: "a\nb".to_owned(), note: "\u{0}".to_owned(), at: 5 }
    }

    fn entry(value: Value) -> Entry {
        let revision = Version::new(9);
        Entry { key: "/k".into(), value, created: revision, modified: revision, lease: None }
    }

    #[test]
    fn a_value_comes_back_byte_for_byte() {
        for value in [&b""[..], b"\n", b"{}\n", b"\xff\x00"] {
            let record = encode("t", &header(), &Value::from(value.to_vec())).unwrap();
            let (read, found) = decode::<Header>("t", &entry(record)).unwrap();
            assert_eq!((read.replaced, read.author.as_str(), &*found), (Version::new(7), "a\nb", value));
        }
    }

    #[test]
    fn what_is_no_record_is_codec() {
        for garbage in [&b""[..], b"\n", b"{}\nv", b"no JSON\nv", b"{\"replaced\":1}"] {
            let error = decode::<Header>("t", &entry(Value::from(garbage.to_vec()))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Codec, "{garbage:?}");
        }
    }

    #[test]
    fn twenty_stay_when_there_are_thirty() {
        let found = |count| RangeReply {
            entries: vec![entry(Value::new()); count],
            more: false,
            revision: Version::new(9),
        };
        assert_eq!([0, 29, 30, 35].map(|count| superfluous(&found(count)).len()), [0, 0, 10, 15]);
    }
}
