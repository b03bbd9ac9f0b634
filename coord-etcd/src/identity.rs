//! Which cluster this is. Its members say so in each answer.

use std::sync::atomic::{AtomicU64, Ordering};

use coord_api::Outcome;
use etcd_client::proto::PbResponseHeader;
use etcd_client::{
    GetResponse, LeaseGrantResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse, MemberListResponse,
    PutResponse, StatusResponse, TxnResponse,
};

use crate::error::Fault;

/// The cluster of a client. It is what the first answers say, or what the options do, and then
/// stays: another cluster has other locks, and other revisions.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    /// Zero while it is not known; no cluster has that.
    cluster: AtomicU64,
    /// The newest revision that an answer came from.
    revision: AtomicU64,
}

impl Identity {
    pub(crate) fn new(expected: Option<u64>) -> Self {
        Identity { cluster: AtomicU64::new(expected.unwrap_or_default()), revision: AtomicU64::new(0) }
    }

    /// The cluster, once it is known.
    pub(crate) fn known(&self) -> Option<u64> {
        Some(self.cluster.load(Ordering::Acquire)).filter(|cluster| *cluster != 0)
    }

    /// The newest revision that an answer came from: the store has at least that one.
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// It is this cluster, unless it was known to be another one before. Returns the one that it
    /// is.
    pub(crate) fn fix(&self, cluster: u64) -> u64 {
        match self.cluster.compare_exchange(0, cluster, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => cluster,
            Err(known) => known,
        }
    }

    /// Takes an answer of the cluster, and refuses one of another.
    ///
    /// # Errors
    ///
    /// That it is of another cluster, or of no etcd at all.
    pub(crate) fn check(&self, header: Option<&PbResponseHeader>) -> Result<(), Fault> {
        let Some(header) = header.filter(|header| header.cluster_id != 0) else {
            return Err(Fault {
                blames_member: true,
                ..Fault::nonsense("etcd answered without saying which cluster it is of")
            });
        };
        match self.fix(header.cluster_id) {
            ours if ours == header.cluster_id => {
                // Of members etcd says no revision.
                let revision = u64::try_from(header.revision).unwrap_or_default();
                self.revision.fetch_max(revision, Ordering::AcqRel);
                Ok(())
            }
            ours => Err(Fault::foreign(ours, header.cluster_id)),
        }
    }
}

/// What a member answered.
pub(crate) trait EtcdAnswer {
    /// Where the answer comes from.
    fn pb_header(&self) -> Option<&PbResponseHeader>;
}

macro_rules! answers {
    ($($answer:ty),+ $(,)?) => {
        $(impl EtcdAnswer for $answer {
            fn pb_header(&self) -> Option<&PbResponseHeader> {
                self.0.header.as_ref()
            }
        })+
    };
}

answers!(
    GetResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    LeaseTimeToLiveResponse,
    MemberListResponse,
    PutResponse,
    StatusResponse,
    TxnResponse,
);

impl Fault {
    /// The member belongs to another cluster: nothing that it says is about ours, and nothing was
    /// done to ours.
    fn foreign(ours: u64, theirs: u64) -> Self {
        let message = format!(
            "it belongs to the cluster {theirs:x}, and not to {ours:x} as those that answered before"
        );
        Fault { foreign: Some(theirs), outcome: Outcome::NotApplied, ..Fault::unavailable(message) }
    }
}

#[cfg(test)]
mod tests {
    use coord_api::ErrorKind;

    use super::*;

    fn header(cluster_id: u64) -> Option<PbResponseHeader> {
        Some(PbResponseHeader { cluster_id, ..PbResponseHeader::default() })
    }

    #[test]
    fn the_first_answer_settles_it_and_the_others_must_agree() {
        let identity = Identity::new(None);
        assert_eq!(identity.known(), None);
        identity.check(header(0xa).as_ref()).unwrap();
        assert_eq!(identity.known(), Some(0xa));
        identity.check(header(0xa).as_ref()).unwrap();
        let fault = identity.check(header(0xb).as_ref()).unwrap_err();
        assert!(
            fault.blames_member && fault.message.contains("cluster b") && fault.message.contains("not to a"),
            "{fault:?}"
        );
        assert_eq!((fault.kind, fault.outcome), (ErrorKind::Unavailable, Outcome::NotApplied));
        assert_eq!(identity.known(), Some(0xa));
    }

    #[test]
    fn it_knows_the_newest_revision_of_its_own_cluster() {
        let identity = Identity::new(Some(0xa));
        for (cluster_id, revision, newest) in
            [(0xa, 7, 7), (0xa, 5, 7), (0xb, 9, 7), (0xa, 0, 7), (0xa, 8, 8)]
        {
            let header = PbResponseHeader { cluster_id, revision, ..PbResponseHeader::default() };
            let _ = identity.check(Some(&header));
            assert_eq!(identity.revision(), newest);
        }
    }

    #[test]
    fn what_the_options_expect_decides() {
        let identity = Identity::new(Some(0xa));
        assert!(identity.check(header(0xb).as_ref()).is_err());
        identity.check(header(0xa).as_ref()).unwrap();
    }

    #[test]
    fn an_answer_without_a_cluster_is_of_no_etcd() {
        let identity = Identity::new(None);
        for nothing in [None, header(0)] {
            assert!(identity.check(nothing.as_ref()).unwrap_err().blames_member);
        }
        assert_eq!(identity.known(), None);
    }
}
