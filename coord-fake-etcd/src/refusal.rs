//! What etcd refuses, in its own words: clients of every language tell failures apart by them.

use tonic::{Code, Status};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    Compacted,
    FutureRevision,
    NoSpace,
    LeaseNotFound,
    LeaseExists,
    LeaseTtlTooLarge,
    RequestTooLarge,
    RootUserNotFound,
    UserNotFound,
    RoleNotFound,
    AuthNotEnabled,
}

impl Refusal {
    /// etcd's own words.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Refusal::EmptyKey => "etcdserver: key is not provided",
            Refusal::KeyNotFound => "etcdserver: key not found",
            Refusal::ValueProvided => "etcdserver: value is provided",
            Refusal::LeaseProvided => "etcdserver: lease is provided",
            Refusal::TooManyOps => "etcdserver: too many operations in txn request",
            Refusal::DuplicateKey => "etcdserver: duplicate key given in txn request",
            Refusal::Compacted => "etcdserver: mvcc: required revision has been compacted",
            Refusal::FutureRevision => "etcdserver: mvcc: required revision is a future revision",
            Refusal::NoSpace => "etcdserver: mvcc: database space exceeded",
            Refusal::LeaseNotFound => "etcdserver: requested lease not found",
            Refusal::LeaseExists => "etcdserver: lease already exists",
            Refusal::LeaseTtlTooLarge => "etcdserver: too large lease TTL",
            Refusal::RequestTooLarge => "etcdserver: request is too large",
            Refusal::RootUserNotFound => "etcdserver: root user does not exist",
            Refusal::UserNotFound => "etcdserver: user name not found",
            Refusal::RoleNotFound => "etcdserver: role name not found",
            Refusal::AuthNotEnabled => "etcdserver: authentication is not enabled",
        }
    }

    fn code(self) -> Code {
        match self {
            Refusal::EmptyKey
            | Refusal::KeyNotFound
            | Refusal::ValueProvided
            | Refusal::LeaseProvided
            | Refusal::TooManyOps
            | Refusal::DuplicateKey
            | Refusal::RequestTooLarge => Code::InvalidArgument,
            Refusal::Compacted | Refusal::FutureRevision | Refusal::LeaseTtlTooLarge => Code::OutOfRange,
            Refusal::NoSpace => Code::ResourceExhausted,
            Refusal::LeaseNotFound => Code::NotFound,
            Refusal::LeaseExists
            | Refusal::RootUserNotFound
            | Refusal::UserNotFound
            | Refusal::RoleNotFound
            | Refusal::AuthNotEnabled => Code::FailedPrecondition,
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Status::new(refusal.code(), refusal.text())
    }
}
