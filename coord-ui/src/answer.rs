//! Answers to a browser.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use coord_api::{Error, ErrorKind, Version};
use serde::Serialize;

/// Why something was not done.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The store says so.
    Store(Error),
    /// What is asked for is not there.
    Absent(String),
    /// What is asked is wrong.
    Wrong(String),
    /// Whoever asks may not.
    Forbidden(&'static str),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Store(error)
    }
}

#[derive(Serialize)]
struct Told {
    error: Reason,
}

#[derive(Serialize)]
struct Reason {
    kind: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<Version>,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut current = None;
        let (status, kind, message) = match self {
            Refusal::Store(error) => {
                current = error.current_version();
                (status(error.kind()), error.kind().as_str(), error.to_string())
            }
            Refusal::Absent(what) => (StatusCode::NOT_FOUND, "not_found", what),
            Refusal::Wrong(what) => (StatusCode::BAD_REQUEST, "invalid_argument", what),
            Refusal::Forbidden(why) => (StatusCode::FORBIDDEN, "permission_denied", why.to_owned()),
        };
        (status, Json(Told { error: Reason { kind, message, current } })).into_response()
    }
}

fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidArgument | ErrorKind::Codec => StatusCode::BAD_REQUEST,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}
