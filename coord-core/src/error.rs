//! What errors mean to those who try again, and how the lack of a home is told.

use coord_api::{Error, ErrorKind};
use coord_home::HomeError;

/// Whether trying again can help: everything but what the caller or an administrator must repair
/// (R20).
pub(crate) fn is_permanent(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidArgument
            | ErrorKind::Closed
            | ErrorKind::Unauthenticated
            | ErrorKind::PermissionDenied
            | ErrorKind::Codec
    )
}

/// Why there is no place for background work, as an error: `Internal` outside of a runtime where
/// one is needed, `Unavailable` where no thread is to be had, `Closed` in the child of a fork.
/// Nothing was sent.
pub fn homeless(operation: &'static str, error: HomeError) -> Error {
    match error {
        HomeError::Forked => Error::closed(operation).with_source(error),
        HomeError::NoThread(_) => Error::new(
            ErrorKind::Unavailable,
            operation,
            "no thread for the background work could be started",
        )
        .with_source(error),
        HomeError::Ended => {
            Error::new(ErrorKind::Unavailable, operation, "the runtime for the background work has ended")
                .with_source(error)
        }
        error => {
            Error::new(ErrorKind::Internal, operation, "called outside of a tokio runtime").with_source(error)
        }
    }
}
