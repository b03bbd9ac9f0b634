//! The files of the page, which lie in the binary.

use axum::extract::{OriginalUri, Path};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

macro_rules! assets {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../assets/", $name)))),*]
    };
}

const PAGE: &str = include_str!("../assets/index.html");

/// Name and text of what the page loads.
const ASSETS: &[(&str, &str)] = &assets![
    "actions.js",
    "api.js",
    "ask.js",
    "clock.js",
    "diff.js",
    "document.js",
    "dom.js",
    "editor.js",
    "format.js",
    "health.js",
    "lists.js",
    "route.js",
    "seats.js",
    "stream.js",
    "table.js",
    "ui.css",
    "ui.js",
];

/// The page itself. All that it asks for is relative to its files, so that it can be mounted
/// anywhere.
pub(crate) async fn page(OriginalUri(uri): OriginalUri) -> Response {
    // Without a `/` at its end a browser looks for them one directory further up.
    let text = match uri.path().rsplit('/').next() {
        Some(last) if !last.is_empty() => {
            PAGE.replace("=\"assets/", &format!("=\"{}/assets/", attribute(last)))
        }
        _ => PAGE.to_owned(),
    };
    ([(CONTENT_TYPE, "text/html; charset=utf-8"), (CACHE_CONTROL, "no-cache")], text).into_response()
}

pub(crate) async fn asset(Path(name): Path<String>) -> Response {
    let Some((name, text)) = ASSETS.iter().find(|(known, _)| *known == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let kind = match name.rsplit('.').next() {
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/javascript; charset=utf-8",
    };
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], *text).into_response()
}

/// A text within a quoted attribute.
fn attribute(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' | '"' | '<' | '>' | '\'' => escaped.push_str(&format!("&#{};", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// One that is not in the list would be missed by the browser alone.
    #[test]
    fn each_file_of_the_page_is_in_the_binary() {
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/assets")).unwrap();
        let files: BTreeSet<String> =
            files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        let known = ASSETS.iter().map(|(name, _)| *name).chain(["index.html"]).map(str::to_owned);
        assert_eq!(files, known.collect());
    }
}
