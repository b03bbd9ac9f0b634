//! Who counts what members have not read.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_mq::{Delivery, Handler, Verdict};
use coord_service::metrics;

use crate::may_die;
use crate::messages::{Messages, Row};

/// How long after a failure it is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Counts each message once, for every member of its room that did not write it.
pub struct Unread(pub Arc<dyn Messages>);

#[async_trait]
impl Handler for Unread {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        let row: Row = match delivery.json() {
            Ok(row) => row,
            // It will be no better the next time.
            Err(error) => return Verdict::Dead(error.to_string()),
        };
        match self.0.count(row.id, &row.room, &row.sender).await {
            Ok(first) => {
                metrics::inc("im_counted_total", &[("first", if first { "yes" } else { "no" })]);
                tracing::debug!(id = row.id, room = row.room, first, "counted");
                may_die("counted");
                Verdict::Done
            }
            Err(error) => {
                tracing::warn!(id = row.id, %error, "not counted yet");
                Verdict::Retry(AGAIN)
            }
        }
    }
}

impl std::fmt::Debug for Unread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unread").finish_non_exhaustive()
    }
}
