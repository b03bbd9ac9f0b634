//! How a gray release lies in the store: a header of one line, and the value as it is.

use coord_api::store::Entry;
use coord_api::{Error, ErrorKind, Note, Result, Value, key};
use coord_core::keys;
use serde::{Deserialize, Serialize};

use super::targets::{GrayIdentity, GrayTargets};
use crate::config::record;

/// What stands before the value.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) targets: GrayTargets,
    #[serde(default)]
    pub(super) author: String,
    #[serde(default)]
    pub(super) note: String,
    /// Milliseconds since 1970 by the writer's clock.
    #[serde(default)]
    pub(super) at: u64,
}

/// The record of a release.
pub(super) fn encode(
    operation: &'static str,
    targets: &GrayTargets,
    note: Note,
    value: &Value,
) -> Result<Value> {
    let Note { author, text, .. } = note;
    let header = Header { targets: targets.clone(), author, note: text, at: coord_core::time_of_day_ms() };
    record::encode(operation, &header, value)
}

/// What a record says.
pub(super) fn decode(operation: &'static str, entry: &Entry) -> Result<(Header, Value)> {
    let (header, value) = record::decode::<Header>(operation, entry)?;
    checked(operation, &header)?;
    Ok((header, value))
}

fn checked(operation: &'static str, header: &Header) -> Result<()> {
    if header.targets.percent > 100 {
        let message = "no release: more than 100 percent of the instances";
        return Err(Error::new(ErrorKind::Codec, operation, message));
    }
    Ok(())
}

/// The config key of a release, where a call takes it (R4).
fn config_key(entry: &Entry) -> Option<&str> {
    const OPERATION: &str = "config";
    let key = entry.key.strip_prefix(keys::GRAY.as_bytes())?;
    let key = std::str::from_utf8(key).ok()?;
    key::check(OPERATION, key).is_ok_and(|taken| taken == key).then_some(key)
}

/// Whether a release is for this instance. What is none, because it does not decode or no call
/// takes its key, is for nobody (R73).
pub(super) fn is_for(instance: &GrayIdentity, entry: &Entry) -> bool {
    const OPERATION: &str = "config.get";
    let Some(key) = config_key(entry) else { return false };
    let header = record::parts::<Header>(OPERATION, entry).map(|(header, _)| header);
    header.is_ok_and(|header| checked(OPERATION, &header).is_ok() && header.targets.include(key, instance))
}

/// The entry of the config centre that a release makes for those whom it is for.
pub(super) fn seen(entry: &Entry) -> Option<Entry> {
    let (_, value) = decode("config.get", entry).ok()?;
    Some(Entry { key: keys::config(config_key(entry)?), value, ..entry.clone() })
}

#[cfg(test)]
mod tests {
    use coord_api::Revision;

    use super::*;

    fn entry(key: &str, value: impl Into<Value>) -> Entry {
        let revision = Revision::new(7);
        Entry {
            key: key.to_owned().into(),
            value: value.into(),
            created: revision,
            modified: revision,
            lease: None,
        }
    }

    #[test]
    fn it_is_seen_under_the_key_of_the_base_byte_for_byte() {
        let targets = GrayTargets::default().with_id("a");
        for value in [&b""[..], b"\n", b"{}\n{}", b"\xff\x00"] {
            let value = Value::from(value.to_vec());
            let record = encode("t", &targets, Note::new("ann\n", "why"), &value).unwrap();
            let entry = entry("/config-gray/x/y", record);
            let (header, found) = decode("t", &entry).unwrap();
            assert_eq!(
                (header.targets, header.author.as_str(), found),
                (targets.clone(), "ann\n", value.clone())
            );
            let seen = seen(&entry).unwrap();
            assert_eq!((seen.key.as_ref(), seen.value), (&b"/config/x/y"[..], value));
            assert!(is_for(&GrayIdentity::new("a"), &entry) && !is_for(&GrayIdentity::new("b"), &entry));
        }
    }

    #[test]
    fn a_record_of_other_programs_may_leave_out_what_it_does_not_say() {
        let entry = entry("/config-gray/x", "{\"targets\":{\"labels\":[[\"zone\",\"north\"]]}}\n5");
        let (header, value) = decode("t", &entry).unwrap();
        assert_eq!((header.targets, value), (GrayTargets::default().with_label("zone", "north"), "5".into()));
    }

    #[test]
    fn what_is_none_is_for_nobody() {
        let everyone = "{\"targets\":{\"percent\":100}}\n1";
        let instance = GrayIdentity::new("a");
        assert!(is_for(&instance, &entry("/config-gray/x", everyone)));
        for (key, value) in [
            ("/config-gray/x//y", everyone),
            ("/config-gray/", everyone),
            ("/config/x", everyone),
            ("/config-gray/x", ""),
            ("/config-gray/x", "{\"targets\":{\"percent\":100}}"),
            ("/config-gray/x", "{\"targets\":{\"percent\":101}}\n1"),
            ("/config-gray/x", "{\"percent\":100}\n1"),
            ("/config-gray/x", "no JSON\n1"),
        ] {
            let entry = entry(key, value);
            assert!(!is_for(&instance, &entry) && decode("t", &entry).is_err() | (key != "/config-gray/x"));
        }
    }
}
