//! What was lost, when and why.

use std::time::Duration;

use clap::Args;
use coord::LossRecord;

use super::Session;
use crate::error::Failure;
use crate::show::{Table, or_dash};
use crate::time;

/// What was lost, when and why, as those wrote it down who lost it: kept for 7 days.
#[derive(Debug, Args)]
#[command(
    after_help = "A process that died has written nothing: its session is simply gone. Grants are not kept either; \
                        `coordctl locks --watch` shows them as they come."
)]
pub(crate) struct Arguments {
    /// Only what was lost since then, such as `10m` or `1h`.
    #[arg(long, value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Only what was lost under this name.
    name: Option<String>,
}

impl Arguments {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let inspect = session.coord.inspect();
        let look = async |session: &Session<'_>| {
            let from = self.since.map_or(Duration::ZERO, |since| time::now().saturating_sub(since));
            let mut losses = session.ask(inspect.losses()).await?;
            losses.retain(|loss| Duration::from_millis(loss.at_ms) >= from);
            losses.retain(|loss| self.name.as_ref().is_none_or(|name| loss.key == *name));
            Ok(losses)
        };
        session.show(look, |losses| vec![table(losses)]).await
    }
}

fn table(losses: &[LossRecord]) -> Table {
    const COLUMNS: &[&str] =
        &["WHEN", "WHO", "WHAT", "NAME", "TOKEN", "REASON", "RENEWED BEFORE", "LAST ERROR"];
    let mut table = Table::new(COLUMNS, "nothing was lost, as far as anybody wrote down");
    for loss in losses {
        let renewed = time::short(Duration::from_millis(loss.renewed_ago_ms));
        table.row([
            time::at(loss.at_ms),
            loss.provider.clone(),
            loss.contract.clone(),
            loss.key.clone(),
            or_dash(loss.token),
            loss.reason.clone(),
            renewed,
            or_dash(loss.last_error.as_deref()),
        ]);
    }
    table
}
