//! Sessions, and what hangs on each.

use std::collections::BTreeMap;
use std::time::Duration;

use coord_api::store::{Entry, Span};
use coord_api::{LeaseId, Outcome, Result};
use coord_core::{SessionOwner, keys};
use serde::Serialize;

use super::Inspect;

/// A session of a client: one lease, and what hangs on it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SessionView {
    /// Its lease.
    pub session: LeaseId,
    /// Who has it; `None` where it is not one of coord's.
    pub process: Option<SessionOwner>,
    /// How long it lives unless it is renewed, as coarse as whole seconds rounded down. Asked for
    /// where one session is looked at.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "seconds")]
    pub remaining: Option<Duration>,
    /// The keys that go with it, in byte order, its own apart.
    pub keys: Vec<String>,
}

#[allow(clippy::ref_option, reason = "as serde calls it")]
fn seconds<S: serde::Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs()).serialize(serializer)
}

impl Inspect {
    /// The sessions, by their leases, with what hangs on each. All keys of the store are read for
    /// it, without their values.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `Timeout`, `Closed`, `Unauthenticated`, `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn sessions(&self) -> Result<Vec<SessionView>> {
        const OPERATION: &str = "inspect.sessions";
        let mut sessions: BTreeMap<LeaseId, SessionView> = BTreeMap::new();
        for (session, owner) in self.owners(OPERATION).await?.0 {
            let view = SessionView { session, process: Some(owner), remaining: None, keys: Vec::new() };
            sessions.insert(session, view);
        }
        for entry in self.keys(OPERATION).await? {
            let Some(view) = entry.lease.and_then(|lease| sessions.get_mut(&lease)) else { continue };
            if keys::session_in(&entry.key).is_none() {
                view.keys.push(text(&entry.key));
            }
        }
        Ok(sessions.into_values().collect())
    }

    async fn keys(&self, operation: &'static str) -> Result<Vec<Entry>> {
        let all = coord_api::store::Range::new(Span::prefix("/")).with_keys_only();
        let listing = async { Ok(self.client.list_range(all).await?.entries) };
        self.client.run(operation, Outcome::NotApplied, listing).await
    }

    /// One session; `None` where it is over.
    ///
    /// # Errors
    ///
    /// As [`sessions`](Self::sessions).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn session(&self, session: LeaseId) -> Result<Option<SessionView>> {
        const OPERATION: &str = "inspect.session";
        let own = keys::session(session);
        let looking = async {
            let Some(lease) = self.client.store().lease(session).await? else { return Ok(None) };
            let process = self.client.read(own.clone()).await?.map(|entry| SessionOwner::of(&entry.value));
            let others = lease.keys.iter().filter(|key| **key != own);
            let keys = others.map(|key| text(key)).collect();
            Ok(Some(SessionView { session, process, remaining: Some(lease.remaining), keys }))
        };
        self.client.run(OPERATION, Outcome::NotApplied, looking).await
    }
}

/// A key for people.
fn text(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(key) if !key.chars().any(char::is_control) => key.to_owned(),
        _ => key.escape_ascii().to_string(),
    }
}
