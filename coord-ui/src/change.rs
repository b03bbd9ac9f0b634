//! What can be changed by who has the token.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequestParts, Query as Asked, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts as Head;
use coord_api::{FencingToken, Note, Version, WriteOptions};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::answer::Refusal;
use crate::document::{Change, Text};
use crate::parts::Parts;

/// Somebody who has the token.
pub(crate) struct Editor;

impl FromRequestParts<Arc<Parts>> for Editor {
    type Rejection = Refusal;

    async fn from_request_parts(head: &mut Head, parts: &Arc<Parts>) -> Result<Self, Refusal> {
        let Some(token) = parts.edit.as_ref() else {
            return Err(Refusal::Forbidden("Nothing can be changed here."));
        };
        let given = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        match given.and_then(|given| given.strip_prefix("Bearer ")) {
            Some(given) if token.is(given) => Ok(Editor),
            _ => Err(Refusal::Forbidden("This is not the token.")),
        }
    }
}

/// What is wrong with a request is said as all else is.
impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Refusal::Wrong(rejection.body_text())
    }
}

/// A version of a document.
#[derive(Debug, Deserialize)]
pub(crate) struct At {
    key: String,
    version: Version,
}

pub(crate) async fn version(
    State(parts): State<Arc<Parts>>,
    Asked(at): Asked<At>,
) -> Result<Json<Text>, Refusal> {
    Ok(Json(parts.documents.at(&at.key, at.version).await?))
}

/// Two versions of a document.
#[derive(Debug, Deserialize)]
pub(crate) struct Between {
    key: String,
    from: Version,
    to: Version,
}

pub(crate) async fn diff(
    State(parts): State<Arc<Parts>>,
    Asked(between): Asked<Between>,
) -> Result<Json<Vec<Change>>, Refusal> {
    Ok(Json(parts.documents.changes(&between.key, between.from, between.to).await?))
}

/// A document that somebody has typed.
#[derive(Deserialize)]
pub(crate) struct Set {
    key: String,
    text: String,
    expected: Version,
    #[serde(default)]
    note: String,
    author: String,
}

pub(crate) async fn set(
    State(parts): State<Arc<Parts>>,
    _: Editor,
    order: Result<Json<Set>, JsonRejection>,
) -> Result<Json<Value>, Refusal> {
    let Json(set) = order?;
    let value = parts.documents.typed(&set.key, &set.text).await?;
    let note = note(&set.author, &set.note)?;
    let options = WriteOptions::default().with_expected(set.expected).with_note(note);
    let version = parts.config.write_with(&set.key, value, options).await?;
    Ok(Json(json!({ "version": version })))
}

/// A version to go back to.
#[derive(Debug, Deserialize)]
pub(crate) struct Rollback {
    key: String,
    version: Version,
    expected: Version,
    #[serde(default)]
    note: String,
    author: String,
}

pub(crate) async fn rollback(
    State(parts): State<Arc<Parts>>,
    _: Editor,
    order: Result<Json<Rollback>, JsonRejection>,
) -> Result<Json<Value>, Refusal> {
    let Json(back) = order?;
    let text = match back.note.trim() {
        "" => format!("back to version {}", back.version),
        note => note.to_owned(),
    };
    let note = note(&back.author, &text)?;
    let version = parts.history.rollback(&back.key, back.version, back.expected, note).await?;
    Ok(Json(json!({ "version": version })))
}

fn note(author: &str, text: &str) -> Result<Note, Refusal> {
    match author.trim() {
        "" => Err(Refusal::Wrong("Say who you are: it stands in the history.".to_owned())),
        author => Ok(Note::new(author, text.trim())),
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Lock,
    Election,
    Semaphore,
}

/// Who has to go.
#[derive(Debug, Deserialize)]
pub(crate) struct End {
    kind: Kind,
    name: String,
    token: FencingToken,
}

pub(crate) async fn end(
    State(parts): State<Arc<Parts>>,
    _: Editor,
    order: Result<Json<End>, JsonRejection>,
) -> Result<Json<Value>, Refusal> {
    let Json(end) = order?;
    let inspect = parts.looks.inspect();
    let ended = match end.kind {
        Kind::Lock => inspect.break_lock(&end.name, end.token).await?,
        Kind::Election => inspect.end_leadership(&end.name, end.token).await?,
        Kind::Semaphore => inspect.end_permit(&end.name, end.token).await?,
    };
    tracing::info!(kind = ?end.kind, name = end.name, token = %end.token, ended, "ended by the page");
    Ok(Json(json!({ "ended": ended })))
}
