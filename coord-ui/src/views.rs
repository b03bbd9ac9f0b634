//! The pages: what there is, what of it was asked for, and the rows that are shown.

use std::collections::BTreeMap;

use bytes::Bytes;
use coord_api::store::Span;
use coord_api::{LeaseId, Result};
use coord_core::{LossRecord, SessionOwner, keys};
use coord_recipes::inspect::{ConfigKeyView, IdView, InstanceView, QueueView, StandingView};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::looks::Newer;
use crate::parts::Parts;
use crate::query::{Filter, Query, View};
use crate::secrets::Secrets;

/// Holders and waiters, and keys of a session, that are shown of many.
const SOME: usize = 20;

/// What is shown of a page.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Shown {
    view: View,
    name: Option<String>,
    filter: String,
    /// How many there are.
    total: usize,
    /// How many of them were asked for.
    matching: usize,
    rows: Vec<Value>,
    /// Seconds that are left to sessions, and the most that was seen of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    remaining: BTreeMap<LeaseId, u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    ttl: BTreeMap<LeaseId, u64>,
}

impl Shown {
    fn set_left(&mut self, left: &BTreeMap<LeaseId, (u64, u64)>) {
        self.remaining = left.iter().map(|(session, (left, _))| (*session, *left)).collect();
        self.ttl = left.iter().map(|(session, (_, most))| (*session, *most)).collect();
    }

    /// Whether something of it runs out, so that it is news also where it is as it was.
    pub(crate) fn runs_out(&self) -> bool {
        !self.remaining.is_empty()
    }
}

/// How new what is shown has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Since {
    pub(crate) read: Newer,
    /// Sessions were asked no earlier.
    pub(crate) sessions: Instant,
}

impl Query {
    /// Where what is shown lies in the store: when something changes there, it is read anew.
    pub(crate) fn span(&self) -> Option<Span> {
        let named = |directory: fn(&str) -> Bytes| self.name.as_deref().map(directory);
        Some(match self.view {
            View::None => return None,
            View::Locks => Span::prefix(keys::LOCKS),
            View::Elections => Span::prefix(keys::ELECTIONS),
            View::Semaphores => Span::prefix(keys::SEMAPHORES),
            View::Services => Span::prefix(keys::SERVICES),
            View::Instances => Span::prefix(named(keys::service)?),
            View::Ids => Span::prefix(keys::ALLOCATORS),
            View::Sessions => Span::prefix(keys::SESSIONS),
            View::Config => Span::prefix(keys::CONFIG),
            View::Document => Span::key(named(keys::config)?),
            View::Events => Span::prefix(keys::LOSSES),
        })
    }
}

/// Reads what was asked for; `None` where that is nothing but the health.
pub(crate) async fn look(parts: &Parts, query: &Query, since: Since) -> Result<Option<Shown>> {
    let looks = &parts.looks;
    let read = since.read;
    let filter = query.filter();
    let shown = match query.view {
        View::None => return Ok(None),
        View::Locks => queues(parts, query, since, &looks.locks(read).await?).await?,
        View::Elections => queues(parts, query, since, &looks.elections(read).await?).await?,
        View::Semaphores => queues(parts, query, since, &looks.semaphores(read).await?).await?,
        View::Services => {
            let services = looks.services(read).await?;
            page(query, &services, |service| filter.is_in([service.name.as_str()]), |service| json!(service))
        }
        View::Instances => {
            let Some(service) = &query.name else { return Ok(Some(Shown::none(query))) };
            let instances = looks.inspect().instances(service).await?;
            page(
                query,
                &instances,
                |instance| is_instance(&parts.secrets, &filter, instance),
                |instance| {
                    let mut row = json!(instance);
                    row.get_mut("metadata").map(|metadata| parts.secrets.hide(metadata));
                    row
                },
            )
        }
        View::Ids => match &query.name {
            None => {
                let counts = looks.id_counts(read).await?;
                let counts: Vec<(&String, &usize)> = counts.iter().collect();
                let row =
                    |(service, taken): &(&String, &usize)| json!({ "service": service, "taken": taken });
                page(query, &counts, |(service, _)| filter.is_in([service.as_str()]), row)
            }
            Some(service) => {
                let ids = looks.inspect().ids(service).await?;
                page(query, &ids, |id| is_id(&filter, id), |id| json!(id))
            }
        },
        View::Sessions => sessions(parts, query, since).await?,
        View::Config => {
            let documents = looks.config(read).await?;
            let wanted = |document: &ConfigKeyView| filter.is_in([document.key.as_str()]);
            page(query, &documents, wanted, |document| json!(document))
        }
        View::Document => {
            let Some(key) = &query.name else { return Ok(Some(Shown::none(query))) };
            let document = parts.documents.look(key).await?;
            page(query, &[document], |_| true, |document| json!(document))
        }
        View::Events => {
            let losses = looks.losses(read).await?;
            let newest: Vec<&LossRecord> = losses.iter().rev().collect();
            page(query, &newest, |loss| is_loss(&filter, loss), |loss| json!(loss))
        }
    };
    Ok(Some(shown))
}

/// The rows that were asked for.
fn page<T>(query: &Query, all: &[T], wanted: impl Fn(&T) -> bool, row: impl Fn(&T) -> Value) -> Shown {
    let matching: Vec<&T> = all.iter().filter(|item| wanted(item)).collect();
    Shown {
        total: all.len(),
        matching: matching.len(),
        rows: matching.into_iter().take(query.limit()).map(row).collect(),
        ..Shown::none(query)
    }
}

impl Shown {
    fn none(query: &Query) -> Self {
        Shown {
            view: query.view,
            name: query.name.clone(),
            filter: query.filter.clone(),
            total: 0,
            matching: 0,
            rows: Vec::new(),
            remaining: BTreeMap::new(),
            ttl: BTreeMap::new(),
        }
    }
}

async fn queues(parts: &Parts, query: &Query, since: Since, all: &[QueueView]) -> Result<Shown> {
    let filter = query.filter();
    let wanted = |queue: &QueueView| is_queue(&filter, queue);
    let mut shown = page(query, all, wanted, |queue| queue_row(&parts.secrets, queue));
    let in_sight: Vec<&QueueView> = all.iter().filter(|queue| wanted(queue)).take(query.limit()).collect();
    // Of many, those who hold come first.
    let holders = in_sight.iter().flat_map(|queue| queue.holders.iter().take(SOME));
    let waiters = in_sight.iter().flat_map(|queue| queue.waiters.iter().take(SOME));
    let sessions = holders.chain(waiters).filter_map(|standing| standing.session).collect();
    let left = parts.looks.left(sessions, since.sessions).await?;
    shown.set_left(&left);
    Ok(shown)
}

fn queue_row(secrets: &Secrets, queue: &QueueView) -> Value {
    let some = |standing: &[StandingView]| {
        let mut some = json!(standing.get(..SOME).unwrap_or(standing));
        // What candidates say is of their own making.
        for candidate in some.as_array_mut().into_iter().flatten() {
            candidate.get_mut("election").map(|says| secrets.hide(says));
        }
        some
    };
    let mut row = json!({
        "name": queue.name,
        "held": queue.holders.len(),
        "waiting": queue.waiters.len(),
        "holders": some(&queue.holders),
        "waiters": some(&queue.waiters),
    });
    if let (Some(permits), Value::Object(row)) = (queue.permits, &mut row) {
        row.insert("permits".to_owned(), json!(permits));
    }
    row
}

async fn sessions(parts: &Parts, query: &Query, since: Since) -> Result<Shown> {
    let all = parts.looks.sessions(since.read).await?;
    let filter = query.filter();
    let mut shown = page(
        query,
        &all,
        |view| {
            let keys = view.keys.iter().map(String::as_str);
            filter.is_in(keys) || is_whose(&filter, Some(view.session), view.process.as_ref())
        },
        |view| {
            json!({
                "session": view.session,
                "process": view.process,
                "keys": view.keys.len(),
                "some_keys": view.keys.get(..SOME).unwrap_or(&view.keys),
            })
        },
    );
    let asked = shown.rows.iter().filter_map(|row| row.get("session")?.as_str()?.parse::<LeaseId>().ok());
    let left = parts.looks.left(asked.collect(), since.sessions).await?;
    for row in &mut shown.rows {
        let session = row.get("session").and_then(Value::as_str).and_then(|session| session.parse().ok());
        let seconds = session.and_then(|session: LeaseId| left.get(&session)).map(|(left, _)| *left);
        if let Value::Object(row) = row {
            row.insert("remaining_s".to_owned(), json!(seconds));
        }
    }
    shown.set_left(&left);
    Ok(shown)
}

fn is_queue(filter: &Filter, queue: &QueueView) -> bool {
    let standing = || queue.holders.iter().chain(&queue.waiters);
    filter.is_in([queue.name.as_str()])
        || filter.is_in(standing().filter_map(|standing| standing.owner.as_deref()))
        || standing().any(|standing| is_whose(filter, standing.session, standing.process.as_ref()))
}

/// What is not shown is not looked through either: whoever asks for it bit by bit would learn it.
fn is_instance(secrets: &Secrets, filter: &Filter, view: &InstanceView) -> bool {
    let instance = &view.instance;
    let mut metadata = json!(instance.metadata);
    secrets.hide(&mut metadata);
    let shown = metadata.as_object().into_iter().flatten();
    filter.is_in([instance.id.as_str(), instance.address.as_str()])
        || filter.is_in(shown.flat_map(|(name, value)| [name.as_str(), value.as_str().unwrap_or_default()]))
        || is_whose(filter, view.session, view.process.as_ref())
}

fn is_id(filter: &Filter, view: &IdView) -> bool {
    filter.is_in([view.id.to_string().as_str()])
        || filter.is_in(view.owner.as_deref())
        || is_whose(filter, view.session, view.process.as_ref())
}

fn is_loss(filter: &Filter, loss: &LossRecord) -> bool {
    let texts = [&loss.provider, &loss.contract, &loss.key, &loss.reason].map(String::as_str);
    filter.is_in(texts) || is_whose(filter, Some(loss.session), None)
}

fn is_whose(filter: &Filter, session: Option<LeaseId>, process: Option<&SessionOwner>) -> bool {
    let texts = process.map(|process| [process.name.as_str(), process.host.as_str()]);
    session.is_some_and(|session| filter.is_in([session.to_string().as_str()]))
        || texts.is_some_and(|texts| filter.is_in(texts))
}
