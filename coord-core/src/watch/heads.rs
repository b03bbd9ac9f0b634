//! How far the store is, for all watches that begin at once.

use std::sync::Arc;

use coord_api::store::{Range, Span};
use coord_api::{ErrorKind, Result, Revision};
use futures_util::future::BoxFuture;

use super::coalesce::Coalesced;
use crate::ground::Ground;

/// Reads of the store's revision, shared by those who ask at the same time.
#[derive(Debug, Default)]
pub(super) struct Heads {
    reads: Arc<Coalesced<Revision>>,
}

impl Heads {
    /// The store's revision. Of those who ask at once one reads, a key of its span.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(super) async fn read(&self, ground: &Arc<Ground>, span: &Span) -> Result<Revision> {
        let probe = Range::new(span.clone()).with_limit(1).with_keys_only();
        let read = || {
            let (ground, probe) = (Arc::clone(ground), probe.clone());
            Box::pin(async move { Ok(ground.store.range(probe).await?.revision) }) as BoxFuture<'static, _>
        };
        match self.reads.read(&ground.home, read).await {
            // The read may have been one of another caller's span, to which we have no right.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                Ok(ground.store.range(probe).await?.revision)
            }
            read => read,
        }
    }
}
