//! How a call can fail, and the exit codes.

use std::io;

use coord::ErrorKind;

/// The exit codes, for scripts.
pub mod exit {
    /// It was done, or there was nothing to do.
    pub const OK: u8 = 0;
    /// It failed for a reason that none of the others names.
    pub const FAILED: u8 = 1;
    /// The arguments are wrong, or a name or a document is.
    pub const USAGE: u8 = 2;
    /// There is no such thing.
    pub const NOT_FOUND: u8 = 3;
    /// The store does not answer.
    pub const UNREACHABLE: u8 = 4;
    /// It has changed meanwhile: look again.
    pub const CONFLICT: u8 = 5;
    /// The store does not know who asks, or refuses.
    pub const FORBIDDEN: u8 = 6;
    /// `doctor` has found something.
    pub const UNWELL: u8 = 7;
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The store or the library says so.
    #[error("{}", chain(.0))]
    Coord(#[from] coord::Error),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// It is not done as it was asked for.
    #[error("{0}")]
    Usage(String),
    /// Somebody else was faster.
    #[error("{0}")]
    Conflict(String),
    /// It was asked twice, and the answer was no.
    #[error("nothing was changed")]
    Declined,
    /// Somebody ended it with Ctrl-C.
    #[error("it was ended before its time")]
    CutShort,
    /// It may have left something in the store, for it could not look or not delete it.
    #[error("what may lie below /{0}/ in the store could not be deleted: {1}")]
    Left(String, #[source] Box<Failure>),
    /// Something is not well.
    #[error("{0}")]
    Unwell(String),
    /// A file, or the terminal.
    #[error("{0}: {1}")]
    Io(String, io::Error),
}

/// An error with all that it was caused by.
fn chain(error: &coord::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

impl Failure {
    /// What the program ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Coord(error) => match error.kind() {
                ErrorKind::InvalidArgument | ErrorKind::Codec => exit::USAGE,
                ErrorKind::Conflict => exit::CONFLICT,
                ErrorKind::Unavailable | ErrorKind::Timeout => exit::UNREACHABLE,
                ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => exit::FORBIDDEN,
                _ => exit::FAILED,
            },
            Failure::NotFound(_) => exit::NOT_FOUND,
            Failure::Usage(_) => exit::USAGE,
            Failure::Conflict(_) => exit::CONFLICT,
            Failure::Unwell(_) => exit::UNWELL,
            Failure::Left(_, failure) => failure.exit_code(),
            Failure::CutShort | Failure::Declined | Failure::Io(..) => exit::FAILED,
        }
    }
}
