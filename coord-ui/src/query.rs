//! What a viewer wants to see.

use serde::Deserialize;

/// Rows that are shown unless more are asked for, and at most.
const ROWS: usize = 100;
const MAX_ROWS: usize = 2_000;

/// One of the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum View {
    /// Nothing but the health.
    None,
    Locks,
    Elections,
    Semaphores,
    Services,
    /// The instances of a service.
    Instances,
    Ids,
    Sessions,
    Config,
    /// A document of the configuration.
    Document,
    Events,
}

/// What of it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Query {
    pub(crate) view: View,
    /// Of which service or document.
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// Only what has this in it.
    #[serde(default)]
    pub(crate) filter: String,
    #[serde(default)]
    limit: Option<usize>,
}

impl Query {
    pub(crate) fn limit(&self) -> usize {
        self.limit.unwrap_or(ROWS).clamp(1, MAX_ROWS)
    }

    /// What is looked for, whatever its case.
    pub(crate) fn filter(&self) -> Filter {
        Filter(self.filter.trim().to_lowercase())
    }
}

/// A text that is looked for, whatever its case.
#[derive(Debug)]
pub(crate) struct Filter(String);

impl Filter {
    /// Whether one of these texts has it.
    pub(crate) fn is_in<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> bool {
        self.0.is_empty() || texts.into_iter().any(|text| text.to_lowercase().contains(&self.0))
    }
}
