//! What documents are checked by before they are written: JSON schemas.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use coord::ErrorKind;
use coord::prelude::*;
use jsonschema::Validator;
use serde_json::Value;

use super::super::Session;
use crate::error::Failure;
use crate::show::plain;

/// What the key of a schema has behind that of the document whose schema it is.
const SUFFIX: &str = ".schema.json";

/// As many of the things that are wrong with a document are told.
const MAX_TOLD: usize = 20;

/// By which schema a document is checked.
#[derive(Clone, Debug, Args)]
pub(super) struct SchemaArguments {
    /// Check by the JSON schema in this file, and not by the document KEY.schema.json, which is the
    /// schema of KEY where it is there. What is not as the schema says is not written.
    #[arg(long, value_name = "FILE", conflicts_with = "no_schema")]
    schema: Option<PathBuf>,
    /// Check by no schema.
    #[arg(long)]
    no_schema: bool,
}

/// What documents are checked by. Nothing that a schema refers to is fetched from anywhere.
pub(super) enum Schemas {
    /// They are not checked.
    None,
    /// All by that one.
    One(Schema),
    /// Each by the one beside it.
    Beside,
}

/// A schema, and where it was found.
pub(super) struct Schema {
    origin: String,
    validator: Validator,
}

/// Documents that are about to be written, by key: what lies there then.
pub(super) type Written = BTreeMap<String, Vec<u8>>;

impl SchemaArguments {
    /// Reads what documents are to be checked by.
    pub(super) fn read(&self) -> Result<Schemas, Failure> {
        let path = match &self.schema {
            _ if self.no_schema => return Ok(Schemas::None),
            None => return Ok(Schemas::Beside),
            Some(path) => path,
        };
        let name = path.display().to_string();
        let text = std::fs::read(path).map_err(|error| Failure::Io(name.clone(), error))?;
        Ok(Schemas::One(Schema::of(&text, &name).map_err(Failure::Usage)?))
    }
}

impl Schemas {
    /// The schema of a document. Of one that is about to be written itself, as it will be.
    pub(super) async fn of(
        &self,
        session: &Session<'_>,
        key: &str,
        written: &Written,
    ) -> Result<Option<Checker<'_>>, Failure> {
        match self {
            Schemas::None => Ok(None),
            _ if key.ends_with(SUFFIX) => Ok(Some(Checker::IsSchema)),
            Schemas::One(schema) => Ok(Some(Checker::By(schema))),
            Schemas::Beside => {
                let beside = format!("{key}{SUFFIX}");
                let text = match written.get(&beside) {
                    Some(text) => Some(text.clone()),
                    None => match session.ask(session.coord.config().get_raw(&beside)).await {
                        Ok(found) => found.map(|found| found.value.to_vec()),
                        // There is no such key, and so nothing lies under it; what is wrong with
                        // the document's own is said when it is written.
                        Err(Failure::Coord(error)) if error.kind() == ErrorKind::InvalidArgument => None,
                        Err(failure) => return Err(failure),
                    },
                };
                let schema = text.map(|text| Schema::of(&text, &beside)).transpose();
                Ok(schema.map_err(Failure::Usage)?.map(|schema| Checker::Beside(Box::new(schema))))
            }
        }
    }
}

/// What one document is checked by.
pub(super) enum Checker<'a> {
    /// It is a schema itself.
    IsSchema,
    /// By the one of all.
    By(&'a Schema),
    /// By the one beside it.
    Beside(Box<Schema>),
}

impl Checker<'_> {
    /// What is wrong with a document, line by line.
    pub(super) fn check(&self, key: &str, text: &[u8]) -> Result<(), String> {
        match self {
            Checker::IsSchema => Schema::of(text, key).map(|_| ()),
            Checker::By(schema) => schema.check(key, text),
            Checker::Beside(schema) => schema.check(key, text),
        }
    }
}

impl Schema {
    /// Reads a schema, or says what is wrong with it.
    fn of(text: &[u8], origin: &str) -> Result<Self, String> {
        let origin = plain(origin);
        let schema: Value = serde_json::from_slice(text)
            .map_err(|error| format!("{origin} is no JSON, and so no JSON schema: {error}"))?;
        let validator = jsonschema::options().offline().build(&schema).map_err(|error| {
            let told = told(error.instance_path().as_str(), &error.to_string());
            format!("{origin} is no JSON schema that can be used; none is fetched from elsewhere:\n{told}")
        })?;
        Ok(Schema { origin, validator })
    }

    fn check(&self, key: &str, text: &[u8]) -> Result<(), String> {
        let (key, origin) = (plain(key), &self.origin);
        let document: Value = serde_json::from_slice(text)
            .map_err(|error| format!("{key} is no JSON, and so not as {origin} says: {error}"))?;
        // Of what is wrong the place is told and what it should be, not what was written there.
        let mut wrong: Vec<String> = self
            .validator
            .iter_errors(&document)
            .take(MAX_TOLD + 1)
            .map(|error| told(error.instance_path().as_str(), &error.masked().to_string()))
            .collect();
        if wrong.is_empty() {
            return Ok(());
        }
        if wrong.len() > MAX_TOLD {
            wrong.truncate(MAX_TOLD);
            wrong.push("  and more".to_owned());
        }
        Err(format!("{key} is not as {origin} says:\n{}", wrong.join("\n")))
    }
}

/// A line for each thing that is wrong: where, as a JSON pointer, and what.
fn told(pointer: &str, message: &str) -> String {
    let place = if pointer.is_empty() { "(the whole)" } else { pointer };
    format!("  {}: {}", plain(place), plain(message))
}

/// That nothing was written, for what is wrong.
pub(super) fn refused(wrong: &str) -> Failure {
    Failure::Usage(format!("nothing was written: {wrong}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(text: &str) -> Result<Schema, String> {
        Schema::of(text.as_bytes(), "s")
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_without_its_value() {
        let limits =
            r#"{"type": "object", "required": ["rate"], "properties": {"rate": {"type": "integer"}}}"#;
        let limits = schema(limits).unwrap();
        assert_eq!(limits.check("k", br#"{"rate": 1}"#), Ok(()));
        let wrong = limits.check("k", br#"{"rate": "hidden"}"#).unwrap_err();
        assert!(wrong.starts_with("k is not as s says:\n  /rate: ") && wrong.contains("integer"), "{wrong}");
        assert!(!wrong.contains("hidden"), "{wrong}");
        let wrong = limits.check("k", b"{}").unwrap_err();
        assert!(wrong.contains("(the whole)") && wrong.contains("\"rate\""), "{wrong}");
        assert!(limits.check("k", b"text").unwrap_err().contains("no JSON"));
        let many = schema(r#"{"items": {"type": "null"}}"#).unwrap();
        let wrong = many.check("k", serde_json::to_string(&vec![0; 100]).unwrap().as_bytes()).unwrap_err();
        assert_eq!(wrong.lines().count(), 1 + MAX_TOLD + 1, "{wrong}");
    }

    #[test]
    fn a_schema_that_is_none_is_told_as_such() {
        for wrong in ["", "1", r#"{"type": "whatever"}"#, r#"{"minimum": "1"}"#, r#"{"pattern": "("}"#] {
            let told = schema(wrong).err().unwrap_or_else(|| panic!("{wrong} is a schema"));
            assert!(told.starts_with("s is no "), "{wrong}: {told}");
        }
        assert!(schema("true").is_ok() && schema(r##"{"$ref": "#/$defs/a", "$defs": {"a": {}}}"##).is_ok());
        // What refers to itself without end is refused or checked, and never spins.
        let _ = schema(r##"{"$ref": "#"}"##).map(|schema| schema.check("k", b"{}"));
    }

    #[test]
    fn nothing_is_fetched_that_a_schema_refers_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("other.json");
        std::fs::write(&file, "{}").unwrap();
        let there = format!("http://{}/other.json", listener.local_addr().unwrap());
        for elsewhere in [there, format!("file://{}", file.display())] {
            for word in ["$ref", "$schema"] {
                let told = schema(&format!(r#"{{"{word}": "{elsewhere}"}}"#)).err();
                let told = told.unwrap_or_else(|| panic!("{word}: {elsewhere} was fetched"));
                assert!(told.contains(&elsewhere) && told.contains("fetched"), "{told}");
            }
        }
        assert!(listener.accept().is_err(), "somebody was asked");
    }
}
