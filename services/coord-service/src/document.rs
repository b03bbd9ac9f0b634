//! The document that a part of a service is configured with: where it is wrong, and in which field.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde_json::value::RawValue;

/// A document that was read. One that is no `T` is read all the same, so that who checks it can say
/// what is wrong.
pub(crate) struct Document<T>(Result<Arc<T>, DocumentFault>);

impl<T> Document<T> {
    /// Whether it is a `T` that `check` takes.
    pub(crate) fn check<E>(
        &self,
        check: impl FnOnce(&T) -> Result<(), E>,
    ) -> Result<(), Box<dyn StdError + Send + Sync>>
    where
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        match &self.0 {
            Ok(value) => check(value).map_err(Into::into),
            Err(fault) => Err(fault.clone().into()),
        }
    }

    /// What it says, where it is a `T`.
    pub(crate) fn value(&self) -> Option<Arc<T>> {
        self.0.as_ref().ok().map(Arc::clone)
    }
}

impl<T: Default> Default for Document<T> {
    fn default() -> Self {
        Document(Ok(Arc::default()))
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Document<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Document(read(text.get()).map(Arc::new)))
    }
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, DocumentFault> {
    let mut reader = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut reader).map_err(|fault| {
        let (path, fault) = (fault.path().to_string(), fault.inner());
        DocumentFault { line: fault.line(), column: fault.column(), path, what: what(fault) }
    })
}

/// What is wrong, in our own words: the parser's message quotes the value, which may be a secret.
fn what(fault: &serde_json::Error) -> String {
    let message = fault.to_string();
    // The name of a field that there is, which the path does not end in.
    let name = message.split('`').nth(1).unwrap_or_default();
    match () {
        () if message.starts_with("unknown field") => "there is no such field".to_owned(),
        () if message.starts_with("missing field") => format!("the field `{name}` is missing"),
        () if message.starts_with("duplicate field") => format!("the field `{name}` is there twice"),
        () => "it is not of the type that it must be, or none of the values that it can have".to_owned(),
    }
}

/// Where a document is wrong. White space before the document is not counted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DocumentFault {
    line: usize,
    column: usize,
    path: String,
    what: String,
}

impl fmt::Display for DocumentFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DocumentFault { line, column, path, what } = self;
        write!(f, "line {line}, column {column}, at `{path}`: {what}")
    }
}

impl StdError for DocumentFault {}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize, PartialEq, Eq)]
    #[serde(default, deny_unknown_fields)]
    struct Outer {
        inner: Inner,
        ports: Vec<u16>,
    }

    #[derive(Debug, Default, Deserialize, PartialEq, Eq)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        password: String,
        size: u32,
    }

    fn fault(text: &str) -> String {
        let document: Document<Outer> = serde_json::from_str(text).unwrap();
        assert!(document.value().is_none());
        document.check(|_| Ok::<_, String>(())).unwrap_err().to_string()
    }

    #[test]
    fn the_field_is_named_with_its_line_and_nothing_is_quoted() {
        for (text, line, path, what) in [
            ("{\n\"inner\": {\"size\": \"hunter2\"}}", "line 2, ", "`inner.size`", "not of the type"),
            ("{\n\n\"inner\": {\"seize\": 2}}", "line 3, ", "`inner.seize`", "no such field"),
            ("{\"ports\": [1,\n 70000]}", "line 2, ", "`ports[1]`", "not of the type"),
            ("{\"ports\": [], \"ports\": []}", "line 1, ", "`ports` is there twice", "twice"),
            ("7", "line 1, ", "", "not of the type"),
        ] {
            let fault = fault(text);
            assert!(fault.contains(line) && fault.contains(path) && fault.contains(what), "{text}: {fault}");
            assert!(!fault.contains("hunter2") && !fault.contains("70000"), "{fault}");
        }
    }

    #[test]
    fn what_is_right_is_checked() {
        let document: Document<Outer> = serde_json::from_str("{\"inner\": {\"size\": 2}}").unwrap();
        assert_eq!(document.value().unwrap().inner.size, 2);
        let refused = document.check(|outer| Err(format!("inner.size: {} is too much", outer.inner.size)));
        assert_eq!(refused.unwrap_err().to_string(), "inner.size: 2 is too much");
        assert_eq!(*Document::<Outer>::default().value().unwrap(), Outer::default());
        assert!(serde_json::from_str::<Document<Outer>>("{").is_err(), "no JSON at all");
    }
}
