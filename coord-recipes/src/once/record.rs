//! What stands under the key of something that is done once. Pure: bytes in, bytes out.

use bytes::{BufMut, Bytes, BytesMut};
use coord_api::Value;

/// Which kind of record it is: its first byte.
const RUNNING: u8 = b'R';
const DONE: u8 = b'D';
const FAILED: u8 = b'F';

/// What is known of something that is done once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// What was asked for, as its users tell it apart; empty where they do not.
    pub(super) fingerprint: Bytes,
    pub(super) state: State,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Someone is doing it: `run` tells the runs apart, and `owner` is for people.
    Running { run: String, owner: String },
    /// It is done, with this result.
    Done(Value),
    /// It failed for good.
    Failed(String),
}

impl Record {
    /// As it is written: the kind, the length of the fingerprint in two bytes, the fingerprint, and
    /// the rest.
    pub(super) fn encode(&self) -> Value {
        let (kind, rest): (u8, Bytes) = match &self.state {
            State::Running { run, owner } => (RUNNING, format!("{run}\n{owner}").into()),
            State::Done(value) => (DONE, value.clone().into_bytes()),
            State::Failed(reason) => (FAILED, reason.clone().into()),
        };
        let mut record = BytesMut::with_capacity(3 + self.fingerprint.len() + rest.len());
        record.put_u8(kind);
        record.put_u16(u16::try_from(self.fingerprint.len()).unwrap_or(u16::MAX));
        record.put_slice(&self.fingerprint);
        record.put_slice(&rest);
        record.freeze().into()
    }

    /// What was written; `None` where it is none of these.
    pub(super) fn decode(value: &Value) -> Option<Self> {
        let value = value.clone().into_bytes();
        let (&[kind, high, low], _) = value.split_first_chunk::<3>()?;
        let end = 3 + usize::from(u16::from_be_bytes([high, low]));
        if value.len() < end {
            return None;
        }
        let (fingerprint, rest) = (value.slice(3..end), value.slice(end..));
        let text = || std::str::from_utf8(&rest).ok();
        let state = match kind {
            RUNNING => {
                let (run, owner) = text()?.split_once('\n')?;
                State::Running { run: run.to_owned(), owner: owner.to_owned() }
            }
            DONE => State::Done(rest.into()),
            FAILED => State::Failed(text()?.to_owned()),
            _ => return None,
        };
        Some(Record { fingerprint, state })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state() -> impl Strategy<Value = State> {
        prop_oneof![
            ("[0-9a-f]{1,8}-[0-9a-f]{1,4}", ".*").prop_map(|(run, owner)| State::Running { run, owner }),
            prop::collection::vec(any::<u8>(), 0..64).prop_map(|value| State::Done(value.into())),
            ".*".prop_map(State::Failed),
        ]
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            fingerprint in prop::collection::vec(any::<u8>(), 0..300),
            state in state(),
        ) {
            let record = Record { fingerprint: fingerprint.into(), state };
            prop_assert_eq!(Record::decode(&record.encode()), Some(record));
        }

        #[test]
        fn what_others_wrote_is_none_of_these_or_is_read_as_it_is(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let value = Value::from(bytes);
            if let Some(record) = Record::decode(&value) {
                prop_assert_eq!(record.encode(), value);
            }
        }
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        for bytes in [&b""[..], b"D", b"D\0", b"D\0\x02x", b"R\0\0no end", b"X\0\0", b"F\0\0\xff"] {
            assert_eq!(Record::decode(&bytes.to_vec().into()), None, "{bytes:?}");
        }
    }
}
