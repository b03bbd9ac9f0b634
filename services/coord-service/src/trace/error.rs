//! Headers that are none.

/// A `traceparent` that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TraceparentError {
    /// It is not made of version, trace id, parent id and flags, with `-` between.
    #[error("it is not of the form version-traceid-parentid-flags")]
    Form,
    /// The version is not two lowercase hexadecimal digits, or is `ff`.
    #[error("the version is none")]
    Version,
    /// The trace id is not 32 lowercase hexadecimal digits, or is all zero.
    #[error("the trace id is none")]
    TraceId,
    /// The parent id is not 16 lowercase hexadecimal digits, or is all zero.
    #[error("the parent id is none")]
    ParentId,
    /// The flags are not two lowercase hexadecimal digits.
    #[error("the flags are none")]
    Flags,
}

/// A `tracestate` that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TraceStateError {
    /// A member is no `key=value` of the characters that W3C allows.
    #[error("a member is not of the form key=value")]
    Member,
    /// A key is there twice.
    #[error("a key is there twice")]
    Duplicate,
    /// There are more than 32 members.
    #[error("there are more than 32 members")]
    TooMany,
}
