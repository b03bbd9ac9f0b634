//! What errors have in common here.

use coord_api::{Error, ErrorKind};
use coord_home::HomeError;

/// The operation in errors of a channel.
pub(crate) const OPERATION: &str = "grpc.channel";

/// Why a channel has nowhere to live.
pub(crate) fn no_home(error: HomeError) -> Error {
    match error {
        HomeError::Forked => Error::closed(OPERATION).with_source(error),
        HomeError::NoRuntime => {
            Error::new(ErrorKind::Internal, OPERATION, "called outside of a tokio runtime").with_source(error)
        }
        error => Error::new(ErrorKind::Unavailable, OPERATION, error.to_string()).with_source(error),
    }
}

/// The innermost cause, which is what people want to read.
pub(crate) fn root<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> &'a (dyn std::error::Error + 'static) {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error
}
