//! What an instance answers.
//!
//! | request | answer |
//! |---|---|
//! | `POST /rooms/{room}/messages`, `Idempotency-Key`, `{"sender", "text"}` | 201, or 200 where it was sent before: `{"id", "first"}` |
//! | `GET /rooms/{room}/messages` | the 50 newest, the newest first |
//! | `GET /rooms/{room}` | `{"messages", "unread": {member: count}}` |
//! | `PUT /rooms/{room}/members/{member}` | 204 |
//!
//! Each answer has a `traceparent`: its trace is in the logs of all that the request caused, the
//! consumer's included.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use coord_service::metrics;
use coord_service::trace::TraceLayer;
use serde_json::json;

use crate::messages::{Room, Row};
use crate::service::{Draft, MAX_TEXT_BYTES, Refusal, Sent, Service};

/// The header by which a client says that it sends something again.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The routes of an instance.
pub fn routes(service: Arc<Service>) -> Router {
    Router::new()
        .route("/rooms/{room}", get(room))
        .route("/rooms/{room}/messages", get(recent).post(send))
        .route("/rooms/{room}/members/{member}", put(join))
        // JSON makes six bytes of one at most.
        .layer(DefaultBodyLimit::max(8 * MAX_TEXT_BYTES))
        .layer(TraceLayer::new())
        .with_state(service)
}

async fn send(
    State(service): State<Arc<Service>>,
    Path(room): Path<String>,
    headers: HeaderMap,
    draft: Result<Json<Draft>, JsonRejection>,
) -> Result<(StatusCode, Json<Sent>), Refusal> {
    let Json(draft) = draft.map_err(|rejection| Refusal::Bad(rejection.body_text()))?;
    let key = match headers.get(IDEMPOTENCY_KEY).map(HeaderValue::to_str) {
        None => None,
        Some(Ok(key)) => Some(key),
        Some(Err(_)) => return Err(Refusal::Bad("Idempotency-Key: it is no text".to_owned())),
    };
    // To its end, whatever the client does: it may be gone before all is said.
    let (service, key) = (Arc::clone(&service), key.map(str::to_owned));
    let sending =
        coord_service::trace::spawn(async move { service.send(&room, key.as_deref(), draft).await });
    let sent = sending.await.unwrap_or_else(|_| Err(Refusal::Fault("a send ended by accident".to_owned())));
    let result = match &sent {
        Ok(sent) if sent.first => "sent",
        Ok(_) => "repeated",
        Err(Refusal::TooMany(_)) => "limited",
        Err(Refusal::Bad(_) | Refusal::OtherKey) => "refused",
        Err(Refusal::Away(_)) => "away",
        Err(Refusal::Fault(_)) => "fault",
    };
    metrics::inc("im_sends_total", &[("result", result)]);
    let sent = sent?;
    let status = if sent.first { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(sent)))
}

async fn recent(
    State(service): State<Arc<Service>>,
    Path(room): Path<String>,
) -> Result<Json<Vec<Row>>, Refusal> {
    service.recent(&room).await.map(Json)
}

async fn room(State(service): State<Arc<Service>>, Path(room): Path<String>) -> Result<Json<Room>, Refusal> {
    service.room(&room).await.map(Json)
}

async fn join(
    State(service): State<Arc<Service>>,
    Path((room, member)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    service.join(&room, &member).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match &self {
            Refusal::Bad(_) => StatusCode::BAD_REQUEST,
            Refusal::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Refusal::OtherKey => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Away(_) => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Fault(why) => {
                tracing::error!(why, "a request failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        let mut response = (status, Json(json!({ "error": self.to_string() }))).into_response();
        if let Refusal::TooMany(Some(wait)) = self {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
