//! Instances as the store holds them: JSON under `/services/<name>/<id>`.

use bytes::Bytes;
use coord_api::store::Entry;
use coord_api::{Error, ErrorKind, Invalid, Result, Revision, ServiceInstance, Snapshot, Value, address};

use coord_core::keys;

/// The record of an instance.
pub(super) fn encode(operation: &'static str, instance: &ServiceInstance) -> Result<Value> {
    let record =
        serde_json::to_vec(instance).map_err(|fault| Error::json(operation, "ServiceInstance", &fault))?;
    coord_api::key::check_value(operation, &record)?;
    Ok(record.into())
}

/// The instance of a record. Its name and id must be those of its key, or a caller would reach one
/// instance under the name of another.
pub(crate) fn decode(directory: &Bytes, entry: &Entry) -> std::result::Result<ServiceInstance, Invalid> {
    let id = keys::segment(directory, &entry.key);
    let decoded = serde_json::from_slice::<ServiceInstance>(&entry.value)
        .map_err(|fault| Error::json("registry", "ServiceInstance", &fault))
        .and_then(|instance| {
            let service =
                directory.strip_prefix(b"/services/".as_slice()).and_then(|rest| rest.strip_suffix(b"/"));
            if Some(instance.id.as_bytes()) != id || Some(instance.name.as_bytes()) != service {
                return Err(Error::new(
                    ErrorKind::Codec,
                    "registry",
                    "the record's name and id are not those of its key",
                ));
            }
            // It can be read, but nobody can be reached there; who wrote it did not ask us (R34).
            if !instance.address.is_empty() {
                address::check("registry", &instance.address)?;
            }
            instance
                .validate("registry")
                .map_err(|fault| Error::new(ErrorKind::Codec, "registry", fault.message().to_owned()))?;
            Ok(instance)
        });
    decoded.map_err(|error| Invalid {
        key: relative(directory, &entry.key),
        value: entry.value.clone(),
        version: entry.modified,
        error,
    })
}

/// Where the instance of a record is reached, as whoever owns it wrote: what can be said of a
/// foreign owner.
pub(super) fn reached_at(entry: &Entry) -> Option<String> {
    let instance = serde_json::from_slice::<ServiceInstance>(&entry.value).ok()?;
    let ServiceInstance { address, port, .. } = instance;
    Some(if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") })
}

/// A key without its directory.
pub(super) fn relative(directory: &Bytes, key: &Bytes) -> Bytes {
    if key.starts_with(directory) { key.slice(directory.len()..) } else { key.clone() }
}

/// The set of instances at one revision, sorted by id (R35).
pub(super) fn snapshot(
    directory: &Bytes,
    revision: Revision,
    entries: &[Entry],
) -> Snapshot<ServiceInstance> {
    let mut snapshot = Snapshot::new(revision, Vec::with_capacity(entries.len()));
    for entry in entries {
        match decode(directory, entry) {
            Ok(instance) => snapshot.items.push(instance),
            Err(invalid) => snapshot.invalid.push(invalid),
        }
    }
    snapshot
}
