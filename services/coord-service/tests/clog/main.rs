//! What is promised of logs (K3), at their far end.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod form;
mod outputs;
mod switching;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use coord_service::clog::{Clog, LogConfig};
use parking_lot::Mutex;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use tracing::subscriber::with_default;
use tracing_subscriber::layer::SubscriberExt;

pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A file in memory.
#[derive(Clone, Default)]
pub(crate) struct Memory(pub(crate) Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Memory {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}

/// An object of JSON that has no key twice.
#[derive(Debug)]
pub(crate) struct Line(pub(crate) BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Line;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line, A::Error> {
                let mut line = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    assert!(line.insert(key.clone(), value).is_none(), "{key} is there twice");
                }
                Ok(Line(line))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

impl Line {
    pub(crate) fn read(text: &str) -> Line {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

impl std::ops::Index<&str> for Line {
    type Output = Value;
    fn index(&self, key: &str) -> &Value {
        self.0.get(key).unwrap_or(&Value::Null)
    }
}

pub(crate) fn json() -> LogConfig {
    LogConfig::default().with_format("json")
}

pub(crate) fn plain_text() -> LogConfig {
    LogConfig::default().with_format("text")
}

/// What is written of what is recorded.
pub(crate) fn written(config: LogConfig, record: impl FnOnce(&Clog)) -> String {
    let memory = Memory::default();
    let logs = Clog::builder("im-logic").config(config).writer(memory.clone()).start().unwrap();
    with_default(tracing_subscriber::registry().with(logs.layer()), || record(&logs));
    logs.close(LONG).unwrap();
    assert_eq!(logs.status().lost, 0);
    memory.text()
}

pub(crate) fn lines(config: LogConfig, record: impl FnOnce(&Clog)) -> Vec<Line> {
    written(config, record).lines().map(Line::read).collect()
}
