//! One error for everything: what went wrong, whether a write was applied, in which operation, and
//! why.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::types::Revision;

/// The result of every operation in coord.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and so what to do next. The same precondition gives the same kind on every
/// backend (R1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller passed something that no store would take: a bad key, a zero TTL, a value that is
    /// too large. Nothing was sent. Repair the call; repeating it cannot help.
    InvalidArgument,
    /// A precondition on the present state failed: another version, a held lock, a live foreign
    /// owner. Read again and decide; [`Error::current_version`] says what is there where that is
    /// known.
    Conflict,
    /// The deadline passed. For a write look at [`Error::outcome`] before repeating it.
    Timeout,
    /// The store cannot be reached or cannot answer now. It may pass: repeat later with back-off,
    /// and look at [`Error::outcome`] first.
    Unavailable,
    /// The provider (or store) was closed. Make a new one.
    Closed,
    /// The lease behind a handle is gone, and with it what the handle stood for. Stop the work that
    /// it guarded, then acquire again.
    LeaseLost,
    /// Nothing left to give: no free id, or the store is out of space. Free something, or wait for
    /// it.
    Exhausted,
    /// The store does not know who is calling. Repair the credentials.
    Unauthenticated,
    /// The store knows the caller and refuses. Ask for the right.
    PermissionDenied,
    /// The bytes are there but are not of the type that was asked for. The data is untouched.
    Codec,
    /// The history that was asked for is gone (stores only; contracts answer it with a resync).
    /// Read the present state anew; [`Error::oldest_revision`] says where history begins, where
    /// known.
    Compacted,
    /// A bug, here or in the store. Report it.
    Internal,
}

impl ErrorKind {
    /// The kind's name in snake case, for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorKind::InvalidArgument => "invalid_argument",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Closed => "closed",
            ErrorKind::LeaseLost => "lease_lost",
            ErrorKind::Exhausted => "exhausted",
            ErrorKind::Unauthenticated => "unauthenticated",
            ErrorKind::PermissionDenied => "permission_denied",
            ErrorKind::Codec => "codec",
            ErrorKind::Compacted => "compacted",
            ErrorKind::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorKind::InvalidArgument => "invalid argument",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Timeout => "timed out",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Closed => "closed",
            ErrorKind::LeaseLost => "lease lost",
            ErrorKind::Exhausted => "exhausted",
            ErrorKind::Unauthenticated => "unauthenticated",
            ErrorKind::PermissionDenied => "permission denied",
            ErrorKind::Codec => "value does not decode",
            ErrorKind::Compacted => "history compacted",
            ErrorKind::Internal => "internal error",
        })
    }
}

/// What a failed write did to the store (R2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It changed nothing, and never will.
    NotApplied,
    /// It may have been applied, or may yet be: a proposal that timed out can commit after a later
    /// read found nothing.
    Unknown,
}

/// The one error of coord. Cheap to clone, so that one failure can answer many callers.
///
/// `Display` gives the operation, the kind, a message, and what it was about, where known: the
/// [key](Self::key) and its [holder](Self::holder); the cause is in [`source`](StdError::source).
/// None of them ever holds a value or a secret.
#[derive(Clone)]
pub struct Error(Box<ErrorInner>);

#[derive(Clone)]
struct ErrorInner {
    kind: ErrorKind,
    outcome: Outcome,
    operation: &'static str,
    message: Cow<'static, str>,
    revision: Option<Revision>,
    key: Option<Box<str>>,
    holder: Option<Box<str>>,
    source: Option<Arc<dyn StdError + Send + Sync + 'static>>,
}

impl Error {
    /// An error of `kind` in `operation`, with outcome [`NotApplied`](Outcome::NotApplied).
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Error(Box::new(ErrorInner {
            kind,
            outcome: Outcome::NotApplied,
            operation,
            message: message.into(),
            revision: None,
            key: None,
            holder: None,
            source: None,
        }))
    }

    /// [`ErrorKind::InvalidArgument`].
    pub fn invalid_argument(operation: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Error::new(ErrorKind::InvalidArgument, operation, message)
    }

    /// [`ErrorKind::Closed`].
    pub fn closed(operation: &'static str) -> Self {
        Error::new(ErrorKind::Closed, operation, "the provider is closed")
    }

    /// [`ErrorKind::LeaseLost`].
    pub fn lease_lost(operation: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Error::new(ErrorKind::LeaseLost, operation, message)
    }

    /// [`ErrorKind::Conflict`] that carries the version found, [`Revision::ZERO`] for an absent key
    /// (R12).
    pub fn version_conflict(operation: &'static str, current: Revision) -> Self {
        let mut error =
            Error::new(ErrorKind::Conflict, operation, "the current version is not the expected one");
        error.0.revision = Some(current);
        error
    }

    /// [`ErrorKind::Compacted`], with the oldest revision that is left, where known (S4).
    pub fn compacted(operation: &'static str, oldest: Option<Revision>) -> Self {
        let mut error = Error::new(ErrorKind::Compacted, operation, "the history asked for is gone");
        error.0.revision = oldest;
        error
    }

    /// [`ErrorKind::Codec`] for JSON that does not decode into `type_name`.
    ///
    /// It takes over where the fault is and leaves out what stands there: a parser's message quotes
    /// the data, which may be a secret.
    pub fn json(operation: &'static str, type_name: &str, fault: &serde_json::Error) -> Self {
        let what = match fault.classify() {
            serde_json::error::Category::Syntax => "is not JSON",
            serde_json::error::Category::Eof => "is JSON that ends too early",
            serde_json::error::Category::Data => "is JSON of another shape",
            serde_json::error::Category::Io => "could not be written",
        };
        let message = format!(
            "the value {what} (wanted {type_name}; line {}, column {})",
            fault.line(),
            fault.column()
        );
        Error::new(ErrorKind::Codec, operation, message)
    }

    /// Adds the cause. It must not hold secrets.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// Sets the outcome.
    #[must_use]
    pub fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.0.outcome = outcome;
        self
    }

    /// Names another operation: a contract reports a store's failure as its own.
    #[must_use]
    pub fn in_operation(mut self, operation: &'static str) -> Self {
        self.0.operation = operation;
        self
    }

    /// Says what the operation was about, as its caller named it: a key, a lock, a service. What an
    /// error says already stays.
    #[must_use]
    pub fn about(mut self, key: &str) -> Self {
        self.0.key.get_or_insert_with(|| key.into());
        self
    }

    /// Says who has what was asked for: the name of the provider that holds it, or where the
    /// instance is reached that does.
    #[must_use]
    pub fn held_by(mut self, holder: &str) -> Self {
        self.0.holder = Some(holder.into());
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What a failed write did. Always [`NotApplied`](Outcome::NotApplied) for reads.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// The operation that failed, for example `config.set`.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// What exactly was wrong, for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// With [`ErrorKind::Conflict`] of a compare-and-set: the version found, [`Revision::ZERO`] for
    /// an absent key (R12).
    pub fn current_version(&self) -> Option<Revision> {
        self.0.revision.filter(|_| self.0.kind == ErrorKind::Conflict)
    }

    /// With [`ErrorKind::Compacted`]: the oldest revision that is left, where known (S4).
    pub fn oldest_revision(&self) -> Option<Revision> {
        self.0.revision.filter(|_| self.0.kind == ErrorKind::Compacted)
    }

    /// What the operation was about, as its caller named it: a key, a lock, a service, `service/id`
    /// of an instance. `None` where it was about no single one.
    pub fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    /// Who has what was asked for, where that is known: the name of the provider that holds it
    /// (R27), or where the instance is reached that has the id (R34).
    pub fn holder(&self) -> Option<&str> {
        self.0.holder.as_deref()
    }

    /// Whether the fault may pass by itself: [`Unavailable`](ErrorKind::Unavailable) or
    /// [`Timeout`](ErrorKind::Timeout).
    ///
    /// A read may then simply be repeated; a write only where its outcome is
    /// [`NotApplied`](Outcome::NotApplied) (R2).
    pub fn is_transient(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Unavailable | ErrorKind::Timeout)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.operation, self.0.kind)?;
        if !self.0.message.is_empty() {
            write!(f, ": {}", self.0.message)?;
        }
        match (&self.0.key, &self.0.holder) {
            (Some(key), Some(holder)) => write!(f, " ({key:?}, held by {holder:?})")?,
            (Some(key), None) => write!(f, " ({key:?})")?,
            (None, Some(holder)) => write!(f, " (held by {holder:?})")?,
            (None, None) => {}
        }
        if self.0.outcome == Outcome::Unknown {
            f.write_str(" (the write may have been applied)")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.0.kind)
            .field("outcome", &self.0.outcome)
            .field("operation", &self.0.operation)
            .field("message", &self.0.message);
        if let Some(revision) = self.0.revision {
            out.field("revision", &revision);
        }
        if let Some(key) = &self.0.key {
            out.field("key", key);
        }
        if let Some(holder) = &self.0.holder {
            out.field("holder", holder);
        }
        if let Some(source) = &self.0.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
