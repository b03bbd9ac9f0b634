//! What the routes of one page share.

use std::sync::Arc;

use coord_api::ConfigCenter;
use coord_core::Client;
use coord_recipes::History;
use coord_recipes::inspect::Inspect;
use tokio::sync::Semaphore;

use crate::document::Documents;
use crate::health::Doctor;
use crate::looks::Looks;
use crate::options::{EditToken, UiOptions};
use crate::secrets::Secrets;

/// What the routes of one page share.
pub(crate) struct Parts {
    pub(crate) client: Client,
    pub(crate) config: Arc<dyn ConfigCenter>,
    pub(crate) history: History,
    pub(crate) looks: Looks,
    pub(crate) documents: Documents,
    pub(crate) doctor: Doctor,
    pub(crate) secrets: Secrets,
    pub(crate) edit: Option<EditToken>,
    /// One for each who may look.
    pub(crate) seats: Arc<Semaphore>,
    pub(crate) viewers: usize,
    /// The names under which the page may be asked for; `None` for any.
    pub(crate) hosts: Option<Vec<String>>,
}

impl Parts {
    pub(crate) fn new(client: &Client, config: Arc<dyn ConfigCenter>, options: UiOptions) -> Self {
        let history = History::new(client);
        let secrets = Secrets::new(&options.secret_fields);
        let viewers = options.viewers.min(Semaphore::MAX_PERMITS);
        let inspect = Inspect::new(client);
        Parts {
            client: client.clone(),
            config: Arc::clone(&config),
            history: history.clone(),
            looks: Looks::new(inspect.clone()),
            documents: Documents::new(config, history, inspect, secrets.clone()),
            doctor: Doctor::new(client.clone(), options.edit().is_some()),
            secrets,
            edit: options.edit().cloned(),
            seats: Arc::new(Semaphore::new(viewers)),
            viewers,
            hosts: options.hosts,
        }
    }
}
