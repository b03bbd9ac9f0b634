//! Typed values as JSON, such that what was written can be read back (R15).
//!
//! serde_json writes what it cannot read: an infinite number becomes `null`, and so does the `None`
//! in a `Some`; what is nested deeper than 127 levels, or has a key twice, can be read by nobody.
//! All of that is an error here, before anything is sent.

use std::any::type_name;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt::{self, Display, Write};

use serde::Serialize;
use serde::de::{
    Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor,
};
use serde::ser::{
    SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use crate::error::{Error, ErrorKind, Result};
use crate::key::MAX_VALUE_BYTES;
use crate::types::Value;

/// The byte order mark that some editors put before the text. RFC 8259 lets a reader skip it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How many levels serde_json reads at most.
const MAX_DEPTH: usize = 127;

/// The JSON of a value.
///
/// # Errors
///
/// `Codec` for what JSON cannot give back, with the place in the value: numbers that are infinite
/// or no numbers, a `None` or `()` inside a `Some`, keys of maps that are no strings, keys that are
/// there twice, more than 127 levels. No error shows what stands there.
pub fn encode<T: Serialize + ?Sized>(operation: &'static str, value: &T) -> Result<Value> {
    let place = JsonPath::default();
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut text);
    let written = value.serialize(Checking { inner: &mut serializer, place: &place, in_some: false });
    if written.is_err() {
        let fault = place.fault.get().unwrap_or("it refuses to be written");
        let message =
            format!("JSON cannot give the value back: {fault} ({}, at `{place}`)", type_name::<T>());
        return Err(Error::new(ErrorKind::Codec, operation, message));
    }
    // What is larger is refused for its size.
    if text.len() <= MAX_VALUE_BYTES {
        let mut reader = serde_json::Deserializer::from_slice(&text);
        if let Err(fault) = Readable.deserialize(&mut reader) {
            let fault = match fault.classify() {
                serde_json::error::Category::Data => "a key is there twice",
                _ => "it is nested too deep, or writes what is no JSON",
            };
            let message = format!("JSON cannot give the value back: {fault} ({})", type_name::<T>());
            return Err(Error::new(ErrorKind::Codec, operation, message));
        }
    }
    Ok(text.into())
}

/// The value of JSON. A byte order mark before it is skipped.
///
/// # Errors
///
/// `Codec` for what is no JSON, or not a `T`, with line and column. No error shows what stands
/// there.
pub fn decode<T: DeserializeOwned>(operation: &'static str, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text))
        .map_err(|fault| Error::json(operation, type_name::<T>(), &fault))
}

/// Where the serializer is, and what was wrong there.
#[derive(Default)]
struct JsonPath {
    /// One step for each level of the text.
    path: RefCell<Vec<PathStep>>,
    fault: Cell<Option<&'static str>>,
}

#[derive(Clone, Copy)]
enum PathStep {
    Field(&'static str),
    /// The index in a list, or of an entry of a map: the key of an entry may be a secret, and is
    /// not shown.
    Index(usize),
}

impl JsonPath {
    /// Serializes a part that lies one or more steps further inside. If that fails the path stays
    /// as it is, for the error.
    fn inside<R, E>(
        &self,
        steps: &[PathStep],
        serialize: impl FnOnce() -> std::result::Result<R, E>,
    ) -> std::result::Result<R, E> {
        self.path.borrow_mut().extend_from_slice(steps);
        let done = serialize()?;
        let mut path = self.path.borrow_mut();
        let depth = path.len().saturating_sub(steps.len());
        path.truncate(depth);
        Ok(done)
    }

    /// Opens `levels` more of the text.
    fn open<E: serde::ser::Error>(&self, levels: usize) -> std::result::Result<(), E> {
        if self.path.borrow().len() + levels > MAX_DEPTH {
            return Err(self.refuse("it is nested more than 127 levels deep"));
        }
        Ok(())
    }

    fn refuse<E: serde::ser::Error>(&self, fault: &'static str) -> E {
        self.fault.set(Some(fault));
        E::custom(fault)
    }
}

impl Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.borrow();
        // The beginning of the path is enough to find the place; all of a deep one would fill
        // pages.
        for step in path.iter().take(16) {
            match step {
                PathStep::Field(name) => write!(f, ".{name}")?,
                PathStep::Index(index) => write!(f, "[{index}]")?,
            }
        }
        match path.len() {
            0 => f.write_char('.'),
            1..=16 => Ok(()),
            _ => f.write_str("…"),
        }
    }
}

/// A part of a value. Serializing it checks it.
struct CheckedValue<'a, T: ?Sized> {
    value: &'a T,
    place: &'a JsonPath,
    in_some: bool,
}

impl<T: Serialize + ?Sized> Serialize for CheckedValue<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.value.serialize(Checking { inner: serializer, place: self.place, in_some: self.in_some })
    }
}

/// A serializer that passes everything on to another one, and refuses what could not be read back.
struct Checking<'a, S> {
    inner: S,
    place: &'a JsonPath,
    /// Whether the value is the content of a `Some`: JSON does not show that there was one.
    in_some: bool,
}

impl<'a, S: Serializer> Checking<'a, S> {
    fn checked<'v, T: ?Sized>(&self, value: &'v T) -> CheckedValue<'v, T>
    where
        'a: 'v,
    {
        CheckedValue { value, place: self.place, in_some: false }
    }

    fn null(&self) -> std::result::Result<(), S::Error> {
        match self.in_some {
            true => Err(self.place.refuse("a `None` or `()` inside a `Some` would come back as `None`")),
            false => Ok(()),
        }
    }

    fn finite(&self, finite: bool) -> std::result::Result<(), S::Error> {
        match finite {
            true => Ok(()),
            false => Err(self.place.refuse("a number that is infinite, or none at all (NaN)")),
        }
    }
}

macro_rules! pass_on {
    ($($method:ident: $type:ty,)*) => {
        $(fn $method(self, value: $type) -> std::result::Result<S::Ok, S::Error> {
            self.inner.$method(value)
        })*
    };
}

impl<'a, S: Serializer> Serializer for Checking<'a, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Compound<'a, S::SerializeSeq>;
    type SerializeTuple = Compound<'a, S::SerializeTuple>;
    type SerializeTupleStruct = Compound<'a, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Compound<'a, S::SerializeTupleVariant>;
    type SerializeMap = Compound<'a, S::SerializeMap>;
    type SerializeStruct = Compound<'a, S::SerializeStruct>;
    type SerializeStructVariant = Compound<'a, S::SerializeStructVariant>;

    pass_on! {
        serialize_bool: bool,
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_i128: i128,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
        serialize_u128: u128,
        serialize_char: char,
        serialize_str: &str,
        serialize_bytes: &[u8],
    }

    fn serialize_f32(self, value: f32) -> std::result::Result<S::Ok, S::Error> {
        self.finite(value.is_finite())?;
        self.inner.serialize_f32(value)
    }

    fn serialize_f64(self, value: f64) -> std::result::Result<S::Ok, S::Error> {
        self.finite(value.is_finite())?;
        self.inner.serialize_f64(value)
    }

    fn serialize_none(self) -> std::result::Result<S::Ok, S::Error> {
        self.null()?;
        self.inner.serialize_none()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> std::result::Result<S::Ok, S::Error> {
        self.inner.serialize_some(&CheckedValue { value, place: self.place, in_some: true })
    }

    fn serialize_unit(self) -> std::result::Result<S::Ok, S::Error> {
        self.null()?;
        self.inner.serialize_unit()
    }

    fn serialize_unit_struct(self, name: &'static str) -> std::result::Result<S::Ok, S::Error> {
        self.null()?;
        self.inner.serialize_unit_struct(name)
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> std::result::Result<S::Ok, S::Error> {
        self.inner.serialize_unit_variant(name, index, variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> std::result::Result<S::Ok, S::Error> {
        // A newtype does not show in JSON either.
        self.inner
            .serialize_newtype_struct(name, &CheckedValue { value, place: self.place, in_some: self.in_some })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> std::result::Result<S::Ok, S::Error> {
        self.place.open::<S::Error>(1)?;
        let value = self.checked(value);
        self.place.inside(&[PathStep::Field(variant)], || {
            self.inner.serialize_newtype_variant(name, index, variant, &value)
        })
    }

    fn serialize_seq(self, len: Option<usize>) -> std::result::Result<Self::SerializeSeq, S::Error> {
        self.place.open::<S::Error>(1)?;
        Ok(Compound::new(self.inner.serialize_seq(len)?, self.place, None))
    }

    fn serialize_tuple(self, len: usize) -> std::result::Result<Self::SerializeTuple, S::Error> {
        self.place.open::<S::Error>(1)?;
        Ok(Compound::new(self.inner.serialize_tuple(len)?, self.place, None))
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> std::result::Result<Self::SerializeTupleStruct, S::Error> {
        self.place.open::<S::Error>(1)?;
        Ok(Compound::new(self.inner.serialize_tuple_struct(name, len)?, self.place, None))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> std::result::Result<Self::SerializeTupleVariant, S::Error> {
        self.place.open::<S::Error>(2)?;
        Ok(Compound::new(
            self.inner.serialize_tuple_variant(name, index, variant, len)?,
            self.place,
            Some(variant),
        ))
    }

    fn serialize_map(self, len: Option<usize>) -> std::result::Result<Self::SerializeMap, S::Error> {
        self.place.open::<S::Error>(1)?;
        Ok(Compound::new(self.inner.serialize_map(len)?, self.place, None))
    }

    fn serialize_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> std::result::Result<Self::SerializeStruct, S::Error> {
        self.place.open::<S::Error>(1)?;
        Ok(Compound::new(self.inner.serialize_struct(name, len)?, self.place, None))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> std::result::Result<Self::SerializeStructVariant, S::Error> {
        self.place.open::<S::Error>(2)?;
        Ok(Compound::new(
            self.inner.serialize_struct_variant(name, index, variant, len)?,
            self.place,
            Some(variant),
        ))
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> std::result::Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// A list, a map or a structure that is being written.
struct Compound<'a, C> {
    inner: C,
    place: &'a JsonPath,
    /// The variant that it belongs to, which is a level of its own.
    variant: Option<&'static str>,
    /// Parts so far.
    count: usize,
}

impl<'a, C> Compound<'a, C> {
    fn new(inner: C, place: &'a JsonPath, variant: Option<&'static str>) -> Self {
        Compound { inner, place, variant, count: 0 }
    }

    fn part<T: ?Sized, E>(
        &mut self,
        step: Option<&'static str>,
        value: &T,
        write: impl FnOnce(&mut C, &CheckedValue<'_, T>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let step = step.map_or(PathStep::Index(self.count), PathStep::Field);
        self.count += 1;
        let (inner, place) = (&mut self.inner, self.place);
        let checked = CheckedValue { value, place, in_some: false };
        match self.variant {
            Some(variant) => place.inside(&[PathStep::Field(variant), step], || write(inner, &checked)),
            None => place.inside(&[step], || write(inner, &checked)),
        }
    }
}

macro_rules! list {
    ($($trait:ident: $method:ident,)*) => {
        $(impl<C: $trait> $trait for Compound<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> std::result::Result<(), C::Error> {
                self.part(None, value, |inner, value| inner.$method(value))
            }

            fn end(self) -> std::result::Result<C::Ok, C::Error> {
                self.inner.end()
            }
        })*
    };
}

list! {
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field,
}

macro_rules! structure {
    ($($trait:ident,)*) => {
        $(impl<C: $trait> $trait for Compound<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> std::result::Result<(), C::Error> {
                self.part(Some(name), value, |inner, value| inner.serialize_field(name, value))
            }

            fn skip_field(&mut self, name: &'static str) -> std::result::Result<(), C::Error> {
                self.inner.skip_field(name)
            }

            fn end(self) -> std::result::Result<C::Ok, C::Error> {
                self.inner.end()
            }
        })*
    };
}

structure! {
    SerializeStruct,
    SerializeStructVariant,
}

impl<C: SerializeMap> SerializeMap for Compound<'_, C> {
    type Ok = C::Ok;
    type Error = C::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> std::result::Result<(), C::Error> {
        let fault = "a key of a map that is no string, and nothing that is written as one";
        self.inner.serialize_key(key).map_err(|_| self.place.refuse(fault))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> std::result::Result<(), C::Error> {
        self.part(None, value, |inner, value| inner.serialize_value(value))
    }

    fn end(self) -> std::result::Result<C::Ok, C::Error> {
        self.inner.end()
    }
}

/// Reads any JSON, and keeps nothing of it. A key that is there twice is an error: some types would
/// refuse it, and others keep one of the two.
#[derive(Clone, Copy)]
struct Readable;

impl<'de> DeserializeSeed<'de> for Readable {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut keys = Vec::new();
        while let Some(Key(key)) = map.next_key()? {
            keys.push(key);
            map.next_value_seed(self)?;
        }
        keys.sort_unstable();
        match keys.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
            true => Err(serde::de::Error::custom("a key is there twice")),
            false => Ok(()),
        }
    }
}

/// A key, borrowed from the text where no escape is in it.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Borrowing;
        impl<'de> Visitor<'de> for Borrowing {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, key: &'de str) -> std::result::Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E>(self, key: &str) -> std::result::Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrowing)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Debug;

    use serde::ser::Error as _;
    use serde::{Deserialize, Serialize};

    use super::*;

    fn refused<T: Serialize + ?Sized>(value: &T) -> String {
        let error = encode("test", value).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Codec);
        error.to_string()
    }

    fn comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T) {
        let text = encode("test", &value).unwrap();
        assert_eq!(text.as_bytes(), serde_json::to_vec(&value).unwrap(), "written as serde_json writes it");
        assert_eq!(decode::<T>("test", &text).unwrap(), value);
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Unit;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct New(Option<u8>);

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Pair(u8, String);

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum Form {
        Unit,
        New(f64),
        Tuple(u8, f32),
        Struct { rate: Option<f64> },
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum Nest {
        End,
        In(Box<Nest>),
        Field { next: Box<Nest> },
    }

    fn nested(depth: usize) -> Nest {
        (0..depth).fold(Nest::End, |inner, _| Nest::In(Box::new(inner)))
    }

    #[derive(Serialize)]
    struct Limits {
        tenants: BTreeMap<String, Vec<Form>>,
    }

    #[test]
    fn what_serde_json_reads_back_is_written_as_it_writes_it() {
        comes_back((true, 'x', "text".to_owned(), 1_u8, -1_i64));
        comes_back((i128::MIN, i128::MAX, u128::MAX, u64::MAX, i64::MIN));
        comes_back(vec![f32::MIN, f32::MAX, f32::MIN_POSITIVE, 0.1, 1e-45, 16_777_217.0, -0.0]);
        comes_back(vec![f64::MIN, f64::MAX, f64::MIN_POSITIVE, 0.1, 5e-324, -0.0]);
        comes_back((
            Some(Some(1)),
            None::<Option<u8>>,
            Some(Vec::<u8>::new()),
            Some(New(Some(1))),
            New(None),
            Some(Form::Unit),
        ));
        comes_back((Unit, (), Pair(1, "é".to_owned())));
        comes_back(vec![Form::Unit, Form::New(1.5), Form::Tuple(1, 2.5), Form::Struct { rate: None }]);
        comes_back(BTreeMap::from([(1_u64, 'a'), (2, 'b')]));
        comes_back(BTreeMap::from([(true, 1), (false, 0)]));
        comes_back(BTreeMap::from([('a', 1)]));
        comes_back(serde_json::json!({"b": [1, null, {"a": "x"}], "a": 1.5, "": {}}));
        comes_back(nested(127));
    }

    #[test]
    fn numbers_that_json_has_not_are_refused() {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            refused(&number);
            refused(&Some(number));
            refused(&vec![1.0, number]);
            refused(&Form::New(number));
            refused(&Form::Struct { rate: Some(number) });
            refused(&BTreeMap::from([("a", number)]));
        }
        refused(&f32::NAN);
        refused(&Form::Tuple(1, f32::INFINITY));
    }

    #[test]
    fn nothing_inside_of_something_is_refused() {
        refused(&Some(None::<u8>));
        refused(&Some(()));
        refused(&Some(Unit));
        refused(&Some(New(None)));
        refused(&Some(Some(None::<u8>)));
        refused(&vec![None, Some(())]);
        refused(&Some(serde_json::Value::Null));
    }

    #[test]
    fn keys_that_are_no_strings_or_there_twice_are_refused() {
        refused(&BTreeMap::from([((1, 2), 3)]));
        refused(&BTreeMap::from([(vec![1], 3)]));
        refused(&BTreeMap::from([(None::<u8>, 3)]));
        refused(&BTreeMap::from([((), 3)]));

        #[derive(Serialize)]
        struct Twice {
            name: u8,
            #[serde(flatten)]
            rest: BTreeMap<&'static str, u8>,
        }
        assert!(refused(&Twice { name: 1, rest: BTreeMap::from([("name", 2)]) }).contains("twice"));
        assert!(encode("test", &Twice { name: 1, rest: BTreeMap::from([("other", 2)]) }).is_ok());
    }

    #[test]
    fn what_is_too_deep_to_be_read_is_refused() {
        assert!(encode("test", &nested(127)).is_ok());
        for depth in [128, 129, 1_000] {
            assert!(refused(&nested(depth)).contains("127 levels"));
        }
        let field = |depth| (0..depth).fold(Nest::End, |inner, _| Nest::Field { next: Box::new(inner) });
        assert!(encode("test", &field(63)).is_ok());
        refused(&field(64));
        let list = |depth| (0..depth).fold(serde_json::json!(1), |inner, _| serde_json::json!([inner]));
        comes_back(list(127));
        refused(&list(128));
        let map = |depth| (0..depth).fold(serde_json::json!(1), |inner, _| serde_json::json!({"a": inner}));
        comes_back(map(127));
        refused(&map(128));
    }

    #[test]
    fn an_error_says_where_and_shows_nothing() {
        let limits = Limits {
            tenants: BTreeMap::from([(
                "hunter2".to_owned(),
                vec![Form::Unit, Form::Struct { rate: Some(f64::NAN) }],
            )]),
        };
        let error = refused(&limits);
        assert!(error.contains("at `.tenants[0][1].Struct.rate`"), "{error}");
        assert!(error.contains("NaN") && error.contains("Limits") && !error.contains("hunter2"), "{error}");
        assert!(refused(&f64::NAN).contains("at `.`"));
        assert!(refused(&nested(1_000)).len() < 300);

        struct Refuses;
        impl Serialize for Refuses {
            fn serialize<S: Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
                Err(S::Error::custom("hunter2"))
            }
        }
        assert!(!refused(&vec![Refuses]).contains("hunter2"));
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        assert_eq!(decode::<u32>("test", b"\xef\xbb\xbf 8\r\n").unwrap(), 8);
        for bad in [&b"\xef\xbb\xbf"[..], b"\xef\xbb\xbf\xef\xbb\xbf8", b"8\xef\xbb\xbf", b"\xff\xfe8\0"] {
            assert!(decode::<u32>("test", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_of_reading_names_line_and_column() {
        let error =
            decode::<BTreeMap<String, u32>>("test", b"{\n  \"a\": 1,\n  \"b\": \"hunter2\"\n}").unwrap_err();
        assert!(
            error.to_string().contains("line 3, column") && !error.to_string().contains("hunter2"),
            "{error}"
        );
    }
}
