//! Whether two documents say the same (R23).

use std::fmt;

use coord_api::{Value, json};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Whether two documents are JSON with the same value: white space, the order of an object's keys
/// and the spelling of numbers and strings mean nothing. Where it cannot be known, because a number
/// is too large to be read exactly, they are not.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    let read = |document: &Value| json::decode::<Json>("config_manager.update", document).ok();
    one == other || read(one).is_some_and(|one| read(other).is_some_and(|other| one.equals(&other)))
}

/// A JSON value. Unlike that of serde_json it keeps keys that are there twice.
enum Json {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    /// By key; equal ones as they stand there.
    Object(Vec<(String, Json)>),
}

impl Json {
    fn equals(&self, other: &Json) -> bool {
        match (self, other) {
            (Json::Null, Json::Null) => true,
            (Json::Bool(one), Json::Bool(other)) => one == other,
            (Json::Integer(one), Json::Integer(other)) => one == other,
            (Json::Float(one), Json::Float(other)) => one == other && is_exact(*one),
            (Json::Integer(integer), Json::Float(float)) | (Json::Float(float), Json::Integer(integer)) => {
                is_integer(*float, *integer)
            }
            (Json::Text(one), Json::Text(other)) => one == other,
            (Json::List(one), Json::List(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.equals(other))
            }
            (Json::Object(one), Json::Object(other)) => {
                one.len() == other.len()
                    && one.iter().zip(other).all(|(one, other)| one.0 == other.0 && one.1.equals(&other.1))
            }
            _ => false,
        }
    }
}

/// Integers beyond those of 64 bits are read as floats, two of them as the same one.
fn is_exact(float: f64) -> bool {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    float.abs() < LIMIT
}

#[allow(clippy::cast_possible_truncation, reason = "what is exact fits")]
fn is_integer(float: f64, integer: i128) -> bool {
    is_exact(float) && float.fract() == 0.0 && float as i128 == integer
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reading)
    }
}

struct Reading;

impl<'de> Visitor<'de> for Reading {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json, A::Error> {
        let mut parts = Vec::new();
        while let Some(part) = list.next_element()? {
            parts.push(part);
        }
        Ok(Json::List(parts))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Json, A::Error> {
        let mut entries: Vec<(String, Json)> = Vec::new();
        while let Some(entry) = object.next_entry()? {
            entries.push(entry);
        }
        entries.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(Json::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn are_same(one: &str, other: &str) -> bool {
        let (one, other) = (Value::from(one.to_owned()), Value::from(other.to_owned()));
        assert_eq!(same(&one, &other), same(&other, &one));
        same(&one, &other)
    }

    #[test]
    fn another_spelling_of_a_value_is_the_same() {
        for (one, other) in [
            ("8", "8\n"),
            ("8", "\u{feff} 8\r\n"),
            ("{\"a\":1,\"b\":[1,2]}", "{\r\n\t\"b\": [ 1, 2 ],\r\n\t\"a\": 1\r\n}\r\n"),
            ("1.0", "1.00"),
            ("1.5", "15e-1"),
            ("100", "1e2"),
            ("1", "1.0"),
            ("-0", "0"),
            ("9007199254740993", "9007199254740993 "),
            ("\"é/\"", "\"\\u00e9\\/\""),
            ("{\"a\\u0062\":null}", "{ \"ab\" : null }"),
            ("[true,false,null,\"\",{},[]]", "[ true , false , null , \"\" , { } , [ ] ]"),
        ] {
            assert!(are_same(one, other), "{one} {other}");
        }
    }

    #[test]
    fn another_value_is_not_the_same() {
        for (one, other) in [
            ("8", "9"),
            ("8", "\"8\""),
            ("1", "true"),
            ("0", "null"),
            ("[]", "{}"),
            ("[1,2]", "[2,1]"),
            ("[1]", "[1,1]"),
            ("\"a\"", "\"a \""),
            ("\"a\"", "\"A\""),
            ("{\"a\":1}", "{\"a\":1,\"b\":null}"),
            ("{\"a\":1,\"a\":2}", "{\"a\":2,\"a\":1}"),
            ("{\"a\":1,\"a\":2}", "{\"a\":2}"),
            ("0.1", "0.10000000000000002"),
            ("9007199254740993", "9007199254740992.0"),
            ("18446744073709551615", "18446744073709551616"),
            ("340282366920938463463374607431768211455", "340282366920938463463374607431768211454"),
            ("-9223372036854775809", "-9223372036854775810"),
            ("1", "1 2"),
            ("8", ""),
        ] {
            assert!(!are_same(one, other), "{one} {other}");
        }
    }

    #[test]
    fn what_is_no_json_is_the_same_as_its_own_bytes_alone() {
        assert!(are_same("{", "{"));
        assert!(!are_same("{", "{ "));
    }
}
