//! The values of fields, kept until it is known in which form they are written.

use std::error::Error;
use std::fmt;
use std::io::Write;

use tracing::field::{Field, Visit};

use super::config::LogFormat;
use super::escape::{Bounded, Escape, Escaping, escape_bounded};
use super::redact::{REDACTED, is_secret};

/// How many causes of an error are written.
const MAX_CAUSES: usize = 16;

/// A value of a span's field.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    /// A string.
    Text(Box<str>),
    /// What `Debug` or `Display` made of it.
    Formatted(Box<str>),
    Secret,
}

/// The fields of a span, the later value of a name in place of the one before.
#[derive(Debug, Default)]
pub(super) struct SpanFields(pub(super) Vec<(&'static str, Value)>);

impl SpanFields {
    fn set(&mut self, field: &Field, value: impl FnOnce() -> Value) {
        let name = field.name();
        let value = if is_secret(name) { Value::Secret } else { value() };
        self.put(name, value);
    }

    /// Takes over later values.
    pub(super) fn merge(&mut self, later: SpanFields) {
        for (name, value) in later.0 {
            self.put(name, value);
        }
    }

    fn put(&mut self, name: &'static str, value: Value) {
        match self.0.iter_mut().find(|(other, _)| *other == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }
}

impl Visit for SpanFields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, || Value::Bool(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, || Value::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, || Value::Unsigned(value));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.set(field, || Value::from(value));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.set(field, || Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, || Value::Float(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, || Value::Text(Bounded::format(format_args!("{value}"))));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.set(field, || Value::Formatted(Bounded::format(format_args!("{}", Causes(value)))));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, || Value::Formatted(Bounded::format(format_args!("{value:?}"))));
    }
}

/// A number of 128 bits is one of 64 where it fits, and text elsewhere: many readers of JSON would
/// round it.
impl From<i128> for Value {
    fn from(value: i128) -> Self {
        i64::try_from(value).map_or_else(|_| Value::Text(value.to_string().into()), Value::Signed)
    }
}

impl From<u128> for Value {
    fn from(value: u128) -> Self {
        u64::try_from(value).map_or_else(|_| Value::Text(value.to_string().into()), Value::Unsigned)
    }
}

/// An error with its causes, each after a colon.
pub(super) struct Causes<'a>(pub(super) &'a (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        for _ in 0..MAX_CAUSES {
            let Some(error) = cause else { break };
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Value {
    pub(super) fn write(&self, form: LogFormat, out: &mut Vec<u8>) {
        match self {
            Value::Bool(value) => bool(*value, out),
            Value::Signed(value) => signed(*value, out),
            Value::Unsigned(value) => unsigned(*value, out),
            Value::Float(value) => float(*value, form, out),
            Value::Text(value) => text(value, out),
            Value::Formatted(value) => formatted(format_args!("{value}"), form, out),
            Value::Secret => secret(form, out),
        }
    }
}

pub(super) fn bool(value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

pub(super) fn signed(value: i64, out: &mut Vec<u8>) {
    // Into memory, it does not fail.
    let _ = serde_json::to_writer(out, &value);
}

pub(super) fn unsigned(value: u64, out: &mut Vec<u8>) {
    let _ = serde_json::to_writer(out, &value);
}

/// JSON has no number that is infinite or none: those are strings, `"NaN"`, `"inf"`, `"-inf"`.
pub(super) fn float(value: f64, form: LogFormat, out: &mut Vec<u8>) {
    if value.is_finite() {
        let _ = serde_json::to_writer(out, &value);
    } else {
        match form {
            LogFormat::Json => drop(write!(out, "\"{value}\"")),
            LogFormat::Text => drop(write!(out, "{value}")),
        }
    }
}

/// A string, quoted in both forms.
pub(super) fn text(value: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    escape_bounded(value, Escape::Quotes, out);
    out.push(b'"');
}

/// What `Debug` or `Display` make: a string in JSON, and as it is in text.
pub(super) fn formatted(value: fmt::Arguments<'_>, form: LogFormat, out: &mut Vec<u8>) {
    match form {
        LogFormat::Json => {
            out.push(b'"');
            Escaping::write(Escape::Quotes, out, value);
            out.push(b'"');
        }
        LogFormat::Text => Escaping::write(Escape::Controls, out, value),
    }
}

pub(super) fn secret(form: LogFormat, out: &mut Vec<u8>) {
    match form {
        LogFormat::Json => text(REDACTED, out),
        LogFormat::Text => out.extend_from_slice(REDACTED.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &Value, form: LogFormat) -> String {
        let mut out = Vec::new();
        value.write(form, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_value_is_json_and_readable() {
        for (value, json, text) in [
            (Value::Bool(true), "true", "true"),
            (Value::Signed(i64::MIN), "-9223372036854775808", "-9223372036854775808"),
            (Value::Unsigned(u64::MAX), "18446744073709551615", "18446744073709551615"),
            (Value::Float(1.0), "1.0", "1.0"),
            (Value::Float(f64::NAN), "\"NaN\"", "NaN"),
            (Value::Float(f64::NEG_INFINITY), "\"-inf\"", "-inf"),
            (Value::from(i128::from(i64::MIN)), "-9223372036854775808", "-9223372036854775808"),
            (
                Value::from(u128::MAX),
                "\"340282366920938463463374607431768211455\"",
                "\"340282366920938463463374607431768211455\"",
            ),
            (Value::Text("a \"b\"\n".into()), r#""a \"b\"\n""#, r#""a \"b\"\n""#),
            (Value::Formatted("Some(\"b\")\n".into()), r#""Some(\"b\")\n""#, r#"Some("b")\n"#),
            (Value::Secret, "\"[redacted]\"", "[redacted]"),
        ] {
            assert_eq!(written(&value, LogFormat::Json), json);
            assert!(serde_json::from_str::<serde_json::Value>(json).is_ok());
            assert_eq!(written(&value, LogFormat::Text), text);
        }
    }

    #[test]
    fn an_error_is_written_with_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("inner"));
        assert_eq!(Causes(&error).to_string(), "outer: inner");
    }
}
