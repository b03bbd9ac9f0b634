//! What the clones of a channel share, and the answers that are still being read.

use std::sync::Arc;
use std::time::Duration;

use tower::retry::budget::TpsBudget;

use crate::discovery::RegistryDiscovery;
use crate::pool::EndpointPool;

/// How long repetitions count against the budget.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);

/// What the clones of a channel share. With the last of them the channel closes.
pub(crate) struct ChannelShared {
    pub(crate) pool: Arc<EndpointPool>,
    /// Of repetitions, so that they do not multiply the load of servers that are in trouble.
    pub(crate) budget: TpsBudget,
    pub(crate) discovery: Option<RegistryDiscovery>,
}

impl ChannelShared {
    pub(crate) fn new(pool: Arc<EndpointPool>, discovery: Option<RegistryDiscovery>) -> Arc<Self> {
        let retry = pool.options.retry.unwrap_or_default();
        let budget = TpsBudget::new(BUDGET_WINDOW, retry.reserve_per_second, retry.budget);
        Arc::new(ChannelShared { pool, budget, discovery })
    }
}

impl Drop for ChannelShared {
    fn drop(&mut self) {
        self.pool.close();
    }
}
