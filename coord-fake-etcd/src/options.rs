//! How a fake is to be.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// How a [`FakeEtcd`](crate::FakeEtcd) is to be. What is not said is as etcd 3.5 has it when it is
/// started without flags.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FakeEtcdOptions {
    /// Where it listens. Port 0 is any free one. Default: `127.0.0.1:0`.
    ///
    /// It neither encrypts nor asks who calls: leave it on the loopback interface.
    pub listen: SocketAddr,
    /// The URL at which clients are told to reach it, `http://host:port`, where that is another one
    /// than it listens at. Default: none.
    pub advertise: Option<String>,
    /// What it calls itself in the list of members. Default: `fake`.
    pub name: String,
    /// The shortest TTL of a lease; whoever asks for less is granted this. In whole seconds, a
    /// fraction counts as one. Default: 2 s, which is three halves of etcd's election timeout.
    pub min_lease_ttl: Duration,
    /// The largest request that changes anything, in bytes. Default: 1.5 MiB.
    pub max_request_bytes: usize,
    /// How many operations one transaction may have. Default: 128.
    pub max_txn_ops: usize,
    /// How many bytes keys, values and history may take, about. At this size puts, transactions
    /// with puts, and grants of leases are refused, and the alarm `NOSPACE` stands until it is
    /// disarmed. Default: 2 GiB.
    ///
    /// History is kept until somebody compacts it.
    pub quota_bytes: usize,
    /// How often a watch that asked for it is told that nothing happened. Default: 10 minutes.
    pub progress_interval: Duration,
}

impl Default for FakeEtcdOptions {
    fn default() -> Self {
        FakeEtcdOptions {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            advertise: None,
            name: "fake".to_owned(),
            min_lease_ttl: Duration::from_secs(2),
            max_request_bytes: 1_536 << 10,
            max_txn_ops: 128,
            quota_bytes: 2 << 30,
            progress_interval: Duration::from_secs(600),
        }
    }
}

impl FakeEtcdOptions {
    /// Sets where it listens.
    #[must_use]
    pub fn with_listen(mut self, listen: impl Into<SocketAddr>) -> Self {
        self.listen = listen.into();
        self
    }

    /// Sets at which URL clients are told to reach it.
    #[must_use]
    pub fn with_advertise(mut self, url: impl Into<String>) -> Self {
        self.advertise = Some(url.into());
        self
    }

    /// Sets what it calls itself.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the shortest TTL of a lease.
    #[must_use]
    pub fn with_min_lease_ttl(mut self, ttl: Duration) -> Self {
        self.min_lease_ttl = ttl;
        self
    }

    /// Sets the size of the largest request, in bytes.
    #[must_use]
    pub fn with_max_request_bytes(mut self, bytes: usize) -> Self {
        self.max_request_bytes = bytes;
        self
    }

    /// Sets how many operations a transaction may have.
    #[must_use]
    pub fn with_max_txn_ops(mut self, ops: usize) -> Self {
        self.max_txn_ops = ops;
        self
    }

    /// Sets how many bytes everything may take.
    #[must_use]
    pub fn with_quota_bytes(mut self, bytes: usize) -> Self {
        self.quota_bytes = bytes;
        self
    }

    /// Sets how often watches are told that nothing happened.
    #[must_use]
    pub fn with_progress_interval(mut self, interval: Duration) -> Self {
        self.progress_interval = interval;
        self
    }
}
