//! Who wrote what lies in the store, for people who look into it.
//!
//! Nothing goes by these records but what a person is shown: an entry is whose lease it hangs on.

use coord_api::Value;
use serde::{Deserialize, Serialize};

/// Names that are kept and shown at most, in bytes: what others wrote may be of any length.
const MAX_NAME: usize = 256;

/// Who wrote an entry, and when: the value of a place in a queue, of an instance id, and so on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Owner {
    /// The name of the client.
    pub name: String,
    /// When it wrote the entry, by its clock: milliseconds since 1970. `None` where it does not
    /// say, as programs of other languages may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
}

impl Owner {
    /// Somebody of this name, now.
    pub fn now(name: impl Into<String>) -> Self {
        Owner { name: name.into(), since_ms: Some(time_of_day_ms()) }
    }

    /// The owner as an entry's value.
    pub fn value(&self) -> Value {
        json(self)
    }

    /// Who wrote this value; `None` where it does not say. What is no record of ours is the name
    /// itself.
    pub fn of(value: &[u8]) -> Option<Self> {
        let record = value.starts_with(b"{").then(|| serde_json::from_slice::<Owner>(value).ok()).flatten();
        let mut owner = match record {
            Some(owner) => owner,
            None => {
                let name = value.get(..MAX_NAME).unwrap_or(value);
                Owner { name: String::from_utf8_lossy(name).into_owned(), since_ms: None }
            }
        };
        shorten(&mut owner.name, MAX_NAME);
        (!owner.name.is_empty()).then_some(owner)
    }
}

/// Who has a session: the value of its key, written with it and never changed, for its revision
/// fences what the session writes (R2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionOwner {
    /// The name of the client.
    pub name: String,
    /// The machine's name; empty where it is not known.
    #[serde(default)]
    pub host: String,
    /// The process's id; zero where it is not known.
    #[serde(default)]
    pub pid: u32,
    /// When the client was made, by its clock: milliseconds since 1970; zero where it is not known.
    #[serde(default)]
    pub started_ms: u64,
    /// The version of coord; empty where it is not known.
    #[serde(default)]
    pub version: String,
}

impl SessionOwner {
    /// This process, with a client of this name that is made now.
    pub fn here(name: impl Into<String>) -> Self {
        SessionOwner {
            name: name.into(),
            host: gethostname::gethostname().to_string_lossy().into_owned(),
            pid: std::process::id(),
            started_ms: time_of_day_ms(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// The owner as the value of a session's key.
    pub fn value(&self) -> Value {
        json(self)
    }

    /// Who has the session of whose key this is the value. What is no record of ours is the name
    /// itself.
    pub fn of(value: &[u8]) -> Self {
        serde_json::from_slice(value).unwrap_or_else(|_| SessionOwner {
            name: Owner::of(value).map_or_else(String::new, |owner| owner.name),
            host: String::new(),
            pid: 0,
            started_ms: 0,
            version: String::new(),
        })
    }
}

/// What time of day it is by this machine's clock, in milliseconds since 1970: for people who read
/// it, and nothing that anything goes by.
#[allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a stamp for people in a record; nothing goes by it"
)]
pub fn time_of_day_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn json(record: &impl Serialize) -> Value {
    // Texts and numbers always are JSON.
    serde_json::to_vec(record).unwrap_or_default().into()
}

/// Cuts a text to so many bytes, between two characters.
pub(crate) fn shorten(text: &mut String, most: usize) {
    let end = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_read_as_it_was_written_and_others_are_read_as_a_name() {
        let owner = Owner::now("node \"1\"");
        assert!(owner.since_ms.is_some_and(|since| since > 1_600_000_000_000));
        assert_eq!(Owner::of(&owner.value()), Some(owner));
        for (value, name) in [("go-service", "go-service"), ("{", "{"), ("{\"a\": 1}", "{\"a\": 1}")] {
            assert_eq!(Owner::of(value.as_bytes()), Some(Owner { name: name.to_owned(), since_ms: None }));
        }
        assert_eq!(Owner::of(b""), None);
        assert!(Owner::of("ä".repeat(1_000).as_bytes()).unwrap().name.len() <= MAX_NAME);
        let long = Owner { name: "ä".repeat(1_000), since_ms: None };
        assert_eq!(Owner::of(&long.value()).unwrap().name.len(), MAX_NAME);
    }

    #[test]
    fn a_session_says_where_it_lives() {
        let here = SessionOwner::here("node-1");
        assert_eq!(SessionOwner::of(&here.value()), here);
        assert_eq!((here.pid, here.host.is_empty()), (std::process::id(), false));
        let plain = SessionOwner::of(b"node-1");
        assert_eq!((plain.name.as_str(), plain.pid), ("node-1", 0));
    }
}
