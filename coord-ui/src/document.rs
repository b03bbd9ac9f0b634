//! A document of the configuration: as it is, as it was, and what was changed.

use std::sync::Arc;

use coord_api::{ConfigCenter, Result, Version};
use coord_core::SessionOwner;
use coord_recipes::inspect::Inspect;
use coord_recipes::{Difference, History, KeyHistory, Published};
use serde::Serialize;
use serde_json::Value;

use crate::answer::Refusal;
use crate::secrets::{HIDDEN, Secrets, hide_all};

/// Reads documents, and hides what is secret in them.
#[derive(Debug)]
pub(crate) struct Documents {
    config: Arc<dyn ConfigCenter>,
    history: History,
    inspect: Inspect,
    secrets: Secrets,
}

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Json,
    Text,
    Binary,
    Absent,
}

/// What of a value is shown.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Text {
    kind: Kind,
    text: String,
    /// How many values are not shown.
    hidden: usize,
}

/// A document, and what it was.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DocumentView {
    key: String,
    version: Version,
    bytes: usize,
    #[serde(flatten)]
    text: Text,
    /// The newest first.
    history: Vec<Record>,
    /// Whether it was written or deleted without a record since.
    changed_since: bool,
    /// Who has which version in use, as far as they say so.
    uses: Vec<Use>,
}

#[derive(Clone, Debug, Serialize)]
struct Use {
    owner: String,
    process: Option<SessionOwner>,
    version: Version,
    since_ms: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Record {
    version: Version,
    replaced: Version,
    author: String,
    note: String,
    at_ms: u64,
    after_gap: bool,
    current: bool,
}

/// A place in which two versions differ.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Change {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Value>,
    /// Whether values are not shown.
    hidden: bool,
}

impl Documents {
    pub(crate) fn new(
        config: Arc<dyn ConfigCenter>,
        history: History,
        inspect: Inspect,
        secrets: Secrets,
    ) -> Self {
        Documents { config, history, inspect, secrets }
    }

    pub(crate) async fn look(&self, key: &str) -> Result<DocumentView> {
        let uses = self.inspect.versions_in_use().await?;
        let of_it = uses.into_iter().filter_map(|process| {
            let in_use = process.versions.get(key)?;
            let (version, since_ms) = (in_use.version, in_use.since_ms);
            Some(Use { owner: process.owner, process: process.process, version, since_ms })
        });
        let history = self.history.of(key).await?;
        let found = self.config.get_raw(key).await?;
        let absent = Text { kind: Kind::Absent, text: String::new(), hidden: 0 };
        let current = found.as_ref().map_or(Version::ZERO, |found| found.version);
        Ok(DocumentView {
            key: key.to_owned(),
            version: current,
            bytes: found.as_ref().map_or(0, |found| found.value.len()),
            text: found.map_or(absent, |found| self.text(key, &found.value)),
            changed_since: history.ends_with_gap(),
            uses: of_it.collect(),
            history: history.published.iter().rev().map(|published| Record::of(published, current)).collect(),
        })
    }

    /// As it was.
    pub(crate) async fn at(&self, key: &str, version: Version) -> Result<Text, Refusal> {
        let history = self.history.of(key).await?;
        Ok(self.text(key, &self.value(&history, key, version).await?))
    }

    /// What was changed from one version to another.
    pub(crate) async fn changes(
        &self,
        key: &str,
        from: Version,
        to: Version,
    ) -> Result<Vec<Change>, Refusal> {
        let history = self.history.of(key).await?;
        let (from, to) = (self.value(&history, key, from).await?, self.value(&history, key, to).await?);
        let json = |value: &coord_api::Value| serde_json::from_slice::<Value>(value);
        let (Ok(from), Ok(to)) = (json(&from), json(&to)) else {
            return Err(Refusal::Wrong("Only JSON can be compared.".to_owned()));
        };
        let differences = Difference::between(&from, &to).into_iter();
        Ok(differences.map(|difference| self.change(key, difference)).collect())
    }

    /// What was published as a version, or stands there as that now without a record.
    async fn value(
        &self,
        history: &KeyHistory,
        key: &str,
        version: Version,
    ) -> Result<coord_api::Value, Refusal> {
        if let Some(published) = history.version(version) {
            return Ok(published.value.clone());
        }
        let present = self.config.get_raw(key).await?.filter(|present| present.version == version);
        let absent = || Refusal::Absent(format!("No version {version} of {key} is kept."));
        present.map(|present| present.value).ok_or_else(absent)
    }

    fn change(&self, key: &str, difference: Difference) -> Change {
        let Difference { path, mut before, mut after, .. } = difference;
        let fields = path.split('/').map(|segment| segment.replace("~1", "/").replace("~0", "~"));
        let secret =
            self.secrets.is_secret_key(key) || fields.into_iter().any(|field| self.secrets.is_secret(&field));
        let hide = |value: &mut Value| if secret { hide_all(value) } else { self.secrets.hide(value) };
        let hidden = before.as_mut().map_or(0, hide) + after.as_mut().map_or(0, hide);
        Change { path, before, after, hidden: hidden > 0 }
    }

    /// What is shown of a value.
    fn text(&self, key: &str, value: &[u8]) -> Text {
        if self.secrets.is_secret_key(key) {
            return Text { kind: Kind::Text, text: HIDDEN.to_owned(), hidden: 1 };
        }
        if let Ok(mut json) = serde_json::from_slice::<Value>(value) {
            let hidden = self.secrets.hide(&mut json);
            return Text {
                kind: Kind::Json,
                text: serde_json::to_string_pretty(&json).unwrap_or_default(),
                hidden,
            };
        }
        match std::str::from_utf8(value) {
            Ok(text) => {
                let mut text = text.to_owned();
                let hidden = self.secrets.hide_in_text(&mut text);
                Text { kind: Kind::Text, text, hidden }
            }
            Err(_) => Text {
                kind: Kind::Binary,
                text: format!("{} bytes that are no text", value.len()),
                hidden: 0,
            },
        }
    }

    /// The value that somebody wants to write who was shown the present one: what is hidden stays
    /// as it is. JSON, unless what stands there is none either.
    pub(crate) async fn typed(&self, key: &str, text: &str) -> Result<coord_api::Value, Refusal> {
        let present = self.config.get_raw(key).await?.map(|present| present.value);
        let is_json = |value: &coord_api::Value| serde_json::from_slice::<Value>(value).ok();
        let old = present.as_ref().and_then(is_json);
        let parsed = serde_json::from_str::<Value>(text);
        if !text.contains(HIDDEN) {
            return match parsed {
                Err(error) if present.is_none() || old.is_some() => {
                    Err(Refusal::Wrong(format!("This is no JSON: {error}")))
                }
                // Byte for byte: numbers and the order of fields as somebody has typed them.
                _ => Ok(text.as_bytes().to_vec().into()),
            };
        }
        let mut new = parsed.map_err(|error| Refusal::Wrong(format!("This is no JSON: {error}")))?;
        // What is secret as a whole is shown as no JSON, and typed as a whole.
        let old = old.filter(|_| !self.secrets.is_secret_key(key));
        self.secrets.restore(&mut new, old.as_ref()).map_err(|path| {
            let message = "What is hidden here is not at that place any more; type its value";
            Refusal::Wrong(format!("{message}: \"{path}\"."))
        })?;
        Ok(new.to_string().into_bytes().into())
    }
}

impl Record {
    fn of(published: &Published, current: Version) -> Self {
        Record {
            version: published.version,
            replaced: published.replaced,
            author: published.author.clone(),
            note: published.note.clone(),
            at_ms: published.at,
            after_gap: published.after_gap,
            current: published.version == current,
        }
    }
}
