//! Where the regions stand in the store.

use bytes::Bytes;

use crate::model::{RegionId, SpaceName};

/// All records of regions.
pub(super) const REGIONS: &str = "/global/region/";

/// All heartbeats.
pub(super) const STATUSES: &str = "/global/status/";

/// The record of a region.
pub(super) fn region(id: &RegionId) -> Bytes {
    format!("{REGIONS}{id}").into()
}

/// The last heartbeat of a region.
pub(super) fn status(id: &RegionId) -> Bytes {
    format!("{STATUSES}{id}").into()
}

/// All acks of a space.
pub(super) fn acks(space: &SpaceName) -> String {
    format!("/global/s/{space}/ack/")
}

/// How far a region has come in a space.
pub(super) fn ack(space: &SpaceName, id: &RegionId) -> Bytes {
    format!("{}{id}", acks(space)).into()
}

/// The region that a key below `prefix` is of.
pub(super) fn region_in(prefix: &str, key: &[u8]) -> Option<RegionId> {
    std::str::from_utf8(key).ok()?.strip_prefix(prefix)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_whose_it_is() {
        let (id, space) = (RegionId::new("a-1").unwrap(), SpaceName::new("main").unwrap());
        assert_eq!(region_in(REGIONS, &region(&id)), Some(id.clone()));
        assert_eq!(region_in(STATUSES, &status(&id)), Some(id.clone()));
        assert_eq!(region_in(&acks(&space), &ack(&space, &id)), Some(id.clone()));
        assert_eq!(region_in(REGIONS, &status(&id)), None);
        assert_eq!(region_in(REGIONS, b"/global/region/A"), None);
        assert_eq!(ack(&space, &id), "/global/s/main/ack/a-1");
    }
}
