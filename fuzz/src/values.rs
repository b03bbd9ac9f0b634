//! Typed values as JSON (R15).

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Unstructured};
use coord_api::{ErrorKind, json};
use serde::{Deserialize, Serialize};

const OPERATION: &str = "fuzz";

/// Something of everything that a program may keep.
#[derive(Arbitrary, Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Kept {
    Nothing,
    Number(f64),
    Single(f32),
    Large(u64, i64),
    Huge(u128),
    Text(String),
    Letter(char),
    Maybe(Option<Option<i8>>),
    Several(Vec<Kept>),
    ByName(BTreeMap<String, Kept>),
    ByNumber(BTreeMap<i32, bool>),
    Parts { one: Box<Kept>, other: (u8, Option<String>) },
}

/// A document that is taken comes back equal when it is written and read again, and so does a
/// value; what does not is `Codec`, on the way in or out. No error shows what stands in a document.
///
/// # Panics
///
/// Where that does not hold.
pub fn check(data: &[u8]) {
    if let Ok(document) = json::decode::<serde_json::Value>(OPERATION, data).inspect_err(is_codec) {
        let written = json::encode(OPERATION, &document).expect("what was read can be written");
        assert_eq!(
            json::decode::<serde_json::Value>(OPERATION, &written).expect("what was written can be read"),
            document
        );
    }
    // The same bytes as another type: it is read or refused, and the refusal does not repeat them.
    if let Ok(kept) = json::decode::<Kept>(OPERATION, data).inspect_err(is_codec) {
        comes_back(&kept);
    }
    if let Ok(kept) = Kept::arbitrary(&mut Unstructured::new(data)) {
        comes_back(&kept);
    }
    shows_nothing(data);
}

fn comes_back(kept: &Kept) {
    match json::encode(OPERATION, kept) {
        Ok(written) => {
            assert!(can_come_back(kept), "{kept:?} was written");
            let read: Kept = json::decode(OPERATION, &written)
                .unwrap_or_else(|error| panic!("{kept:?} was written and cannot be read: {error}"));
            assert_eq!(&read, kept);
        }
        Err(error) => {
            is_codec(&error);
            assert!(!can_come_back(kept) || 2 * depth(kept) > 120, "{kept:?} was refused: {error}");
        }
    }
}

/// Whether R15 names nothing in it that JSON cannot give back.
fn can_come_back(kept: &Kept) -> bool {
    match kept {
        Kept::Number(number) => number.is_finite(),
        Kept::Single(number) => number.is_finite(),
        Kept::Maybe(maybe) => *maybe != Some(None),
        Kept::Several(several) => several.iter().all(can_come_back),
        Kept::ByName(by_name) => by_name.values().all(can_come_back),
        Kept::Parts { one, .. } => can_come_back(one),
        // A number as a key is written as a string, and read as a number again.
        Kept::Nothing
        | Kept::Large(..)
        | Kept::Huge(_)
        | Kept::Text(_)
        | Kept::Letter(_)
        | Kept::ByNumber(_) => true,
    }
}

/// How deep it is nested; each level is at most two of the text.
fn depth(kept: &Kept) -> usize {
    1 + match kept {
        Kept::Several(several) => several.iter().map(depth).max().unwrap_or(0),
        Kept::ByName(by_name) => by_name.values().map(depth).max().unwrap_or(0),
        Kept::Parts { one, .. } => depth(one),
        _ => 0,
    }
}

/// A secret that stands where something else is expected, wherever that is, is in no error.
fn shows_nothing(data: &[u8]) {
    const SECRET: &str = "hunter2-hunter2";
    let secret = format!("{SECRET}{}", String::from_utf8_lossy(data.get(..16).unwrap_or(data)));
    for document in [
        serde_json::json!(secret),
        serde_json::json!({ &secret: 1 }),
        serde_json::json!({ "Number": secret }),
        serde_json::json!({ "Parts": { "one": "Nothing", "other": [secret, null] } }),
    ] {
        let error = json::decode::<Kept>(OPERATION, document.to_string().as_bytes())
            .expect_err("a number is no text");
        is_codec(&error);
        assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
    }
}

fn is_codec(error: &coord_api::Error) {
    assert_eq!(error.kind(), ErrorKind::Codec, "{error}");
}
