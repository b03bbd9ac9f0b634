//! The documents of the configuration, without what they say, and who uses which version.

use std::collections::BTreeMap;

use coord_api::store::{Entry, Range, Span};
use coord_api::{LeaseId, Outcome, Result, Version};
use coord_core::{SessionOwner, keys};
use serde::Serialize;

use super::Inspect;
use crate::in_use::{InUse, Told};

/// A document of the configuration, without what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ConfigKeyView {
    /// Its key.
    pub key: String,
    /// Its version.
    pub version: Version,
}

/// What a process has in use of the configuration, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InUseView {
    /// The name of the client.
    pub owner: String,
    /// The session that says so.
    pub session: Option<LeaseId>,
    /// Who has the session; `None` where that is over.
    pub process: Option<SessionOwner>,
    /// The versions that it has in use, by key.
    pub versions: BTreeMap<String, InUse>,
}

impl Inspect {
    /// The documents of the configuration, by key, without their values: these may be large, and
    /// secret. What lies there under a key that is no text is left out.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Timeout`, `Closed`, `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn config_keys(&self) -> Result<Vec<ConfigKeyView>> {
        let range = Range::new(Span::prefix(keys::CONFIG)).with_keys_only();
        let listing = async { Ok(self.client.list_range(range).await?.entries) };
        let entries = self.client.run("inspect.config_keys", Outcome::NotApplied, listing).await?;
        let view = |entry: &Entry| {
            let key = std::str::from_utf8(&entry.key).ok()?.strip_prefix(keys::CONFIG)?;
            Some(ConfigKeyView { key: key.to_owned(), version: entry.modified })
        };
        Ok(entries.iter().filter_map(view).collect())
    }

    /// Which versions of the configuration processes have in use, as far as they say so (R86).
    ///
    /// # Errors
    ///
    /// As [`config_keys`](Self::config_keys).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn versions_in_use(&self) -> Result<Vec<InUseView>> {
        let (entries, owners) = self.owned("inspect.versions_in_use", Span::prefix(keys::IN_USE)).await?;
        let view = |entry: &Entry| {
            // What is no such record was left by somebody else.
            let told: Told = serde_json::from_slice(&entry.value).ok()?;
            Some(InUseView {
                owner: told.name,
                session: entry.lease,
                process: owners.of(entry.lease),
                versions: told.versions,
            })
        };
        Ok(entries.iter().filter_map(view).collect())
    }
}
