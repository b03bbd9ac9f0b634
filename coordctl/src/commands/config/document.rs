//! Documents: JSON as a rule, and whatever else somebody has written.

use std::io::Read as _;
use std::path::Path;

use coord::Value;
use serde::{Deserialize, Serialize};
use similar::TextDiff;

use crate::error::Failure;
use crate::show::plain;

/// A document as programs are shown it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Document {
    /// What a document is as a rule.
    Json(serde_json::Value),
    /// No JSON, but text.
    Text(String),
    /// Neither: as hexadecimal digits.
    Bytes(String),
}

impl Document {
    pub(super) fn of(value: &[u8]) -> Self {
        if let Ok(json) = serde_json::from_slice(value) {
            return Document::Json(json);
        }
        match std::str::from_utf8(value) {
            Ok(text) => Document::Text(text.to_owned()),
            Err(_) => Document::Bytes(value.iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }

    /// The bytes of a document out of a file.
    pub(super) fn value(&self) -> Result<Value, Failure> {
        let bytes = match self {
            Document::Json(json) => json.to_string().into_bytes(),
            Document::Text(text) => text.clone().into_bytes(),
            Document::Bytes(digits) => {
                let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
                let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
                bytes.ok_or_else(|| Failure::Usage("`bytes` are no hexadecimal digits".to_owned()))?
            }
        };
        Ok(bytes.into())
    }

    /// As people read and edit it.
    pub(super) fn pretty(&self) -> String {
        match self {
            Document::Json(json) => serde_json::to_string_pretty(json).unwrap_or_default() + "\n",
            Document::Text(text) if text.ends_with('\n') => text.clone(),
            Document::Text(text) | Document::Bytes(text) => format!("{text}\n"),
        }
    }

    /// In one line of a table.
    pub(super) fn line(&self) -> String {
        const MAX: usize = 80;
        let text = match self {
            Document::Json(json) => json.to_string(),
            Document::Text(text) => text.clone(),
            Document::Bytes(digits) => format!("0x{digits}"),
        };
        let text = plain(&text);
        match text.char_indices().nth(MAX) {
            Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
            None => text,
        }
    }
}

/// What is different between two documents, line by line.
pub(super) fn difference(before: &str, after: &str, from: &str, to: &str) -> String {
    TextDiff::from_lines(before, after).unified_diff().context_radius(3).header(from, to).to_string()
}

/// The document that somebody wants to write: an argument, a file, or standard input where that is
/// `-`. JSON unless it is `raw`; what is wrong with it is said by line and column.
pub(super) fn given(value: Option<String>, file: Option<&Path>, raw: bool) -> Result<Value, Failure> {
    let (text, origin) = match (value, file) {
        (Some(value), _) if value != "-" => (value.into_bytes(), "the value".to_owned()),
        (None, Some(path)) if path != Path::new("-") => {
            let name = path.display().to_string();
            (std::fs::read(path).map_err(|error| Failure::Io(name.clone(), error))?, name)
        }
        (None, None) => return Err(Failure::Usage("give a value, or a file by --file".to_owned())),
        _ => {
            let mut text = Vec::new();
            let read = std::io::stdin().lock().read_to_end(&mut text);
            read.map_err(|error| Failure::Io("standard input".to_owned(), error))?;
            (text, "standard input".to_owned())
        }
    };
    if !raw {
        check(&text, &origin)?;
    }
    Ok(text.into())
}

/// Whether it is JSON.
pub(super) fn check(text: &[u8], origin: &str) -> Result<(), Failure> {
    let checked = serde_json::from_slice::<serde::de::IgnoredAny>(text);
    checked.map(|_| ()).map_err(|error| Failure::Usage(format!("{origin} is no JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_comes_back_as_it_was() {
        for value in [&b"{\"a\": 1}"[..], b"no JSON", b"\xff\x00"] {
            let document = Document::of(value);
            let text = serde_json::to_string(&document).unwrap();
            let read: Document = serde_json::from_str(&text).unwrap();
            assert_eq!(Document::of(&read.value().unwrap()), document, "{text}");
        }
        assert!(Document::Bytes("xyz".to_owned()).value().is_err());
        assert_eq!(Document::of("ä".repeat(200).as_bytes()).line().chars().count(), 81);
    }

    #[test]
    fn what_is_no_json_says_where() {
        let error = given(Some("{\"a\": }".to_owned()), None, false).unwrap_err();
        assert!(error.to_string().contains("line 1 column 7"), "{error}");
        assert!(given(Some("{\"a\": }".to_owned()), None, true).is_ok());
    }
}
