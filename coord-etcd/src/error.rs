//! What a failure of etcd means: one table from code and message to our kinds.
//!
//! etcd's codes are ambiguous, so that the message decides with them. The tests on real servers
//! provoke the rows.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::{fmt, io};

use coord_api::Outcome::{self, NotApplied, Unknown};
use coord_api::store::Effect;
use coord_api::{Error, ErrorKind, Result, Revision};
use coord_home::HomeError;
use tonic::{Code, Status};

/// A failure, understood.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: ErrorKind,
    /// Whether a write may have been applied all the same.
    pub(crate) outcome: Outcome,
    pub(crate) message: Cow<'static, str>,
    /// With `Compacted`: the oldest revision that is left.
    pub(crate) oldest: Option<Revision>,
    /// Whether it speaks against the member that was asked, so that another one may do better.
    pub(crate) blames_member: bool,
    /// Whether a new token may help.
    pub(crate) stale_token: bool,
    /// Whether it is said as etcd says it, and not just any server.
    pub(crate) of_etcd: bool,
    /// Whether the connection had ended before the request was sent, so that it is to be sent over
    /// another one.
    pub(crate) over: bool,
    /// The cluster that the member belongs to, where it is another one.
    pub(crate) foreign: Option<u64>,
}

impl Fault {
    fn new(kind: ErrorKind, outcome: Outcome, message: impl Into<Cow<'static, str>>) -> Self {
        Fault {
            kind,
            outcome,
            message: message.into(),
            oldest: None,
            blames_member: false,
            stale_token: false,
            of_etcd: false,
            over: false,
            foreign: None,
        }
    }

    /// The member does not keep up its end, in a way that leaves open what became of a write.
    pub(crate) fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Fault { blames_member: true, ..Fault::new(ErrorKind::Unavailable, Unknown, message) }
    }

    /// The member did not answer in time.
    pub(crate) fn silent() -> Self {
        Fault {
            blames_member: true,
            ..Fault::new(ErrorKind::Timeout, Unknown, "etcd did not answer in time")
        }
    }

    /// The client was closed while the request was under way.
    pub(crate) fn closed() -> Self {
        Fault::new(ErrorKind::Closed, Unknown, "the provider is closed")
    }

    /// The lease is gone.
    pub(crate) fn lease_lost() -> Self {
        Fault::new(ErrorKind::LeaseLost, NotApplied, "the lease is gone")
    }

    /// History is gone.
    pub(crate) fn compacted(oldest: Option<Revision>) -> Self {
        Fault { oldest, ..Fault::new(ErrorKind::Compacted, NotApplied, "the history asked for is gone") }
    }

    /// The home is none: the runtime that was given for it has ended, there is none, or the process
    /// was forked.
    pub(crate) fn no_home(error: &HomeError) -> Self {
        match error {
            HomeError::Forked => Fault { outcome: NotApplied, ..Fault::closed() },
            HomeError::NoThread(_) | HomeError::Ended => {
                Fault::new(ErrorKind::Unavailable, NotApplied, error.to_string())
            }
            _ => Fault::new(ErrorKind::Internal, NotApplied, error.to_string()),
        }
    }

    /// An answer that no etcd gives.
    pub(crate) fn nonsense(message: &'static str) -> Self {
        Fault::new(ErrorKind::Internal, Unknown, message)
    }

    /// Whether the request may be sent to another member at once.
    pub(crate) fn may_try_another(&self, effect: Effect) -> bool {
        let passes = matches!(self.kind, ErrorKind::Unavailable | ErrorKind::Timeout);
        self.blames_member && passes && (effect != Effect::Write || self.outcome == NotApplied)
    }

    /// The error that the caller sees.
    pub(crate) fn into_error(self, operation: &'static str, effect: Effect) -> Error {
        let outcome = if effect == Effect::Read { NotApplied } else { self.outcome };
        let error = match self.kind {
            ErrorKind::Compacted => Error::compacted(operation, self.oldest),
            ErrorKind::Closed => Error::closed(operation),
            kind => Error::new(kind, operation, self.message),
        };
        error.with_outcome(outcome)
    }

    /// Why a server canceled a watch. 3.4 calls every fault of its user a lack of permission, an
    /// expired token too.
    pub(crate) fn canceled(reason: &str) -> Self {
        let row = TABLE.iter().find(|row| !row.text.is_empty() && reason.contains(row.text));
        match row {
            Some(row) => Fault {
                stale_token: row.stale_token || row.kind == ErrorKind::PermissionDenied,
                ..row.fault(reason)
            },
            None if reason.is_empty() => Fault::unavailable("etcd canceled the watch and does not say why"),
            None => Fault::unavailable(format!("etcd canceled the watch: {reason}")),
        }
    }
}

/// One row: failures with this code and this text in their message.
struct Row {
    code: Code,
    /// Any message where empty.
    text: &'static str,
    kind: ErrorKind,
    outcome: Outcome,
    blames_member: bool,
    stale_token: bool,
}

impl Row {
    fn fault(&self, message: &str) -> Fault {
        Fault {
            blames_member: self.blames_member,
            stale_token: self.stale_token,
            of_etcd: !self.text.is_empty() || message.contains("etcdserver"),
            ..Fault::new(self.kind, self.outcome, message.to_owned())
        }
    }
}

const fn row(code: Code, text: &'static str, kind: ErrorKind, outcome: Outcome) -> Row {
    Row { code, text, kind, outcome, blames_member: false, stale_token: false }
}

const fn blaming(row: Row) -> Row {
    Row { blames_member: true, ..row }
}

const fn stale(row: Row) -> Row {
    Row { stale_token: true, ..row }
}

use Code as C;
use ErrorKind as K;

/// The first row that fits decides.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    // Who asks.
    row(C::InvalidArgument, "authentication failed", K::Unauthenticated, NotApplied),
    row(C::InvalidArgument, "user name is empty", K::Unauthenticated, NotApplied),
    stale(row(C::InvalidArgument, "revision of auth store is old", K::Unavailable, NotApplied)),
    stale(row(C::Unauthenticated, "invalid auth token", K::Unauthenticated, NotApplied)),
    stale(row(C::Unauthenticated, "", K::Unauthenticated, NotApplied)),
    row(C::FailedPrecondition, "authentication is not enabled", K::Unauthenticated, NotApplied),
    // A user, or a role, that was removed.
    row(C::FailedPrecondition, "user name not found", K::Unauthenticated, NotApplied),
    row(C::FailedPrecondition, "role name not found", K::PermissionDenied, NotApplied),
    row(C::FailedPrecondition, "role is not granted", K::PermissionDenied, NotApplied),
    row(C::PermissionDenied, "permission denied", K::PermissionDenied, NotApplied),
    row(C::PermissionDenied, "", K::PermissionDenied, NotApplied),
    // What is asked.
    row(C::NotFound, "requested lease not found", K::LeaseLost, NotApplied),
    row(C::OutOfRange, "required revision has been compacted", K::Compacted, NotApplied),
    row(C::OutOfRange, "required revision is a future revision", K::Compacted, NotApplied),
    row(C::OutOfRange, "too large lease TTL", K::InvalidArgument, NotApplied),
    row(C::OutOfRange, "decoded message length too large", K::Internal, Unknown),
    row(C::ResourceExhausted, "received message larger than max", K::InvalidArgument, NotApplied),
    row(C::ResourceExhausted, "trying to send message larger than max", K::Internal, Unknown),
    row(C::InvalidArgument, "", K::InvalidArgument, NotApplied),
    // Whether the store can take it. The write that fills it is applied, and answered so as well:
    // what became of a write, kv.rs finds out.
    row(C::ResourceExhausted, "database space exceeded", K::Exhausted, Unknown),
    row(C::ResourceExhausted, "too many requests", K::Unavailable, NotApplied),
    row(C::ResourceExhausted, "", K::Unavailable, Unknown),
    // Whether the member can: refused before it was proposed,
    blaming(row(C::Unavailable, "etcdserver: no leader", K::Unavailable, NotApplied)),
    blaming(row(C::Unknown, "raft proposal dropped", K::Unavailable, NotApplied)),
    blaming(row(C::Unavailable, "etcdserver: not capable", K::Unavailable, NotApplied)),
    blaming(row(C::Unavailable, "rpc not supported for learner", K::Unavailable, NotApplied)),
    // or after it may have been.
    blaming(row(C::Unavailable, "request timed out", K::Timeout, Unknown)),
    blaming(row(C::DeadlineExceeded, "", K::Timeout, Unknown)),
    blaming(row(C::Unavailable, "", K::Unavailable, Unknown)),
    // A connection that was closed while it was idle cancels the request that finds out.
    blaming(row(C::Cancelled, "", K::Unavailable, Unknown)),
    blaming(row(C::Aborted, "", K::Unavailable, Unknown)),
    blaming(row(C::Unknown, "context canceled", K::Unavailable, Unknown)),
    blaming(row(C::Unknown, "stopped", K::Unavailable, Unknown)),
    // Or it is no etcd: it knows no such request,
    blaming(row(C::Unimplemented, "", K::Unavailable, NotApplied)),
    // or answers in another language.
    blaming(row(C::Internal, "protocol error", K::Unavailable, Unknown)),
    blaming(row(C::Internal, "failed to decode", K::Unavailable, Unknown)),
    blaming(row(C::Internal, "Missing response message", K::Unavailable, Unknown)),
];

impl From<etcd_client::Error> for Fault {
    fn from(error: etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => judge(&status),
            etcd_client::Error::TransportError(error) => transport(&error),
            etcd_client::Error::IoError(error) => {
                Fault::unavailable(format!("the connection to etcd failed: {error}"))
            }
            // The stream closed while it was used.
            etcd_client::Error::WatchError(_) | etcd_client::Error::LeaseKeepAliveError(_) => {
                Fault::unavailable("the stream to etcd broke")
            }
            _ => Fault::nonsense("etcd-client failed in a way that is not foreseen"),
        }
    }
}

/// What tonic says of an answer over HTTP that is none over gRPC.
const NO_GRPC: &str = "grpc-status header missing, mapped from HTTP status code ";

fn judge(status: &Status) -> Fault {
    // What never came from a server has a cause on this side, and the code says little.
    if let Some(cause) = status.source() {
        return transport(cause);
    }
    if let Some(code) = status.message().strip_prefix(NO_GRPC) {
        // What refuses a request does not pass it on; what fails may have.
        let refused = code.starts_with('4') && !matches!(code, "408" | "429");
        let outcome = if refused { NotApplied } else { Unknown };
        return Fault {
            outcome,
            ..Fault::unavailable(format!("a server of another kind answered, with HTTP status {code}"))
        };
    }
    match TABLE.iter().find(|row| row.code == status.code() && status.message().contains(row.text)) {
        Some(row) => row.fault(status.message()),
        None => {
            Fault::new(ErrorKind::Internal, Unknown, format!("{:?}: {}", status.code(), status.message()))
        }
    }
}

/// A failure of the connection. A request whose connection was never made was not sent.
fn transport(error: &(dyn StdError + 'static)) -> Fault {
    let mut innermost = error;
    let mut unsent = error.downcast_ref::<NotConnected>();
    while let Some(cause) = innermost.source() {
        innermost = cause;
        unsent = unsent.or(innermost.downcast_ref::<NotConnected>());
    }
    let fault = |what: &str| Fault::unavailable(format!("{what}: {innermost}"));
    match unsent {
        Some(NotConnected::Over) => {
            Fault { outcome: NotApplied, blames_member: false, over: true, ..fault("no connection to etcd") }
        }
        Some(NotConnected::Failed(_)) => Fault { outcome: NotApplied, ..fault("no connection to etcd") },
        None => fault("the connection to etcd failed"),
    }
}

/// Why a request was not sent.
#[derive(Debug)]
pub(crate) enum NotConnected {
    /// No connection could be made.
    Failed(io::Error),
    /// There was a connection, which has ended.
    Over,
}

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotConnected::Failed(error) => error.fmt(f),
            NotConnected::Over => f.write_str("the connection has ended"),
        }
    }
}

impl std::error::Error for NotConnected {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // What an `io::Error` says is what its own cause says.
            NotConnected::Failed(error) => error.source(),
            NotConnected::Over => None,
        }
    }
}

/// What bad options are refused by.
pub(crate) const OPTIONS: &str = "etcd.options";

/// Refuses options, before any I/O.
pub(crate) fn refuse<T>(message: &'static str) -> Result<T> {
    Err(Error::invalid_argument(OPTIONS, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(code: Code, message: &str) -> Fault {
        Fault::from(etcd_client::Error::GRpcStatus(Status::new(code, message)))
    }

    #[test]
    fn one_code_means_several_things() {
        let cases = [
            (C::ResourceExhausted, "etcdserver: mvcc: database space exceeded", K::Exhausted, Unknown),
            (C::ResourceExhausted, "etcdserver: too many requests", K::Unavailable, NotApplied),
            (
                C::ResourceExhausted,
                "grpc: received message larger than max (2097200 vs. 2097152)",
                K::InvalidArgument,
                NotApplied,
            ),
            (
                C::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                K::Compacted,
                NotApplied,
            ),
            (C::OutOfRange, "etcdserver: too large lease TTL", K::InvalidArgument, NotApplied),
            (C::Unavailable, "etcdserver: no leader", K::Unavailable, NotApplied),
            (
                C::Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
                K::Timeout,
                Unknown,
            ),
            (C::Unavailable, "etcdserver: leader changed", K::Unavailable, Unknown),
            (
                C::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                K::Unauthenticated,
                NotApplied,
            ),
            (
                C::InvalidArgument,
                "etcdserver: duplicate key given in txn request",
                K::InvalidArgument,
                NotApplied,
            ),
            (C::Unknown, "raft proposal dropped", K::Unavailable, NotApplied),
            (C::DataLoss, "etcdserver: corrupt cluster", K::Internal, Unknown),
            (C::FailedPrecondition, "etcdserver: user name not found", K::Unauthenticated, NotApplied),
            (C::FailedPrecondition, "etcdserver: role name not found", K::PermissionDenied, NotApplied),
        ];
        for (code, message, kind, outcome) in cases {
            let fault = fault(code, message);
            assert_eq!((fault.kind, fault.outcome), (kind, outcome), "{code:?} {message}");
        }
    }

    #[test]
    fn a_server_that_is_no_etcd_is_left_alone() {
        let cases = [
            (C::Unimplemented, "", NotApplied),
            (C::Unimplemented, "grpc-status header missing, mapped from HTTP status code 404", NotApplied),
            (C::Unauthenticated, "grpc-status header missing, mapped from HTTP status code 401", NotApplied),
            (C::PermissionDenied, "grpc-status header missing, mapped from HTTP status code 403", NotApplied),
            (C::Unavailable, "grpc-status header missing, mapped from HTTP status code 429", Unknown),
            (C::Unavailable, "grpc-status header missing, mapped from HTTP status code 502", Unknown),
            (
                C::Internal,
                "protocol error: received message with invalid compression flag: 60 (valid flags are 0 and 1)",
                Unknown,
            ),
        ];
        for (code, message, outcome) in cases {
            let fault = fault(code, message);
            assert_eq!(
                (fault.kind, fault.outcome, fault.blames_member),
                (K::Unavailable, outcome, true),
                "{code:?} {message}"
            );
        }
    }

    #[test]
    fn a_failed_read_applied_nothing() {
        let error =
            fault(C::Unavailable, "etcdserver: request timed out").into_error("store.range", Effect::Read);
        assert_eq!((error.kind(), error.outcome()), (K::Timeout, NotApplied));
    }

    #[test]
    fn a_write_moves_on_only_when_it_was_not_applied() {
        let no_leader = fault(C::Unavailable, "etcdserver: no leader");
        assert!(no_leader.may_try_another(Effect::Write) && no_leader.may_try_another(Effect::Read));
        assert!(!Fault::silent().may_try_another(Effect::Write));
        assert!(Fault::silent().may_try_another(Effect::Idempotent));
        assert!(!fault(C::PermissionDenied, "etcdserver: permission denied").may_try_another(Effect::Read));
    }

    #[test]
    fn a_watch_is_canceled_for_many_reasons() {
        for (reason, kind, stale) in [
            ("", K::Unavailable, false),
            ("etcdserver: invalid auth token", K::Unauthenticated, true),
            ("etcdserver: permission denied", K::PermissionDenied, true),
            (
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
                K::PermissionDenied,
                true,
            ),
            ("etcdserver: revision of auth store is old", K::Unavailable, true),
            ("etcdserver: no leader", K::Unavailable, false),
            ("something new", K::Unavailable, false),
        ] {
            let fault = Fault::canceled(reason);
            assert_eq!((fault.kind, fault.stale_token), (kind, stale), "{reason}");
        }
    }
}
