//! A part of a store as a store of its own (R5).

use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use coord_api::store::{
    Batch, Change, Compare, Entry, LeaseInfo, Op, OpReply, Range, RangeReply, Span, Store, StoreEvent,
    StoreStatus, StoreWatch, Txn, TxnReply,
};
use coord_api::{Error, LeaseId, Result, Revision, key};
use futures_util::Stream;

/// The directories that the recipes make, and what is built upon them. A namespace with one of
/// these names in it would lie inside the data of another one.
const LAYOUT: &[&str] = &[
    "barriers",
    "config",
    "config-gray",
    "config-history",
    "config-use",
    "counter-tokens",
    "counters",
    "elections",
    "events",
    "global",
    "im-infra",
    "locks",
    "mq",
    "once",
    "ordered-queues",
    "periodic",
    "queues",
    "semaphores",
    "services",
    "sessions",
    "uid",
];

/// The smallest key that there is room for.
const FIRST: &[u8] = b"/";

/// The smallest byte string after every key that there is room for.
const END: &[u8] = b"0";

/// A store of which every key lies under `/<namespace>`, and which sees nothing else (R5).
///
/// - The key `/config/app` of the namespace `team/a` is `/team/a/config/app` in the store below.
///   Keys come back as they were given.
/// - A namespace is a directory: `team` sees nothing of `teams`. As long as nothing but the recipes
///   of this crate uses them, nested namespaces (`team` and `team/a`) share nothing either.
/// - Every key begins with `/`, as those of the recipes do. Writing or naming another one is
///   `InvalidArgument`. A prefix or an interval may reach further; it is cut to the namespace.
/// - Sizes are checked as given (R6). The store below checks the bytes of a transaction once more,
///   with the namespace in its keys.
/// - Its identity is that of the store below with the namespace, so that what was fenced in one is
///   not taken in another (R55).
/// - Revisions and leases are those of the store below, so a write elsewhere leaves a gap (legal,
///   S1). A lease shows only those of its keys that lie in the namespace;
///   revoking it deletes all of them.
/// - [`close`](Store::close) closes the store below: give each namespace its own client.
#[derive(Clone, Debug)]
pub struct Namespace<S> {
    store: S,
    root: Root,
}

impl<S: Store> Namespace<S> {
    /// The part of `store` under `namespace`: one or more segments, such as `team/a`.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for what is no key (R4), and for a segment that the recipes use
    /// themselves: `barriers`, `config`, `config-gray`, `config-history`, `config-use`,
    /// `counter-tokens`, `counters`, `elections`, `events`, `global`, `im-infra`, `locks`, `mq`,
    /// `once`, `ordered-queues`, `periodic`, `queues`, `semaphores`, `services`, `sessions`, `uid`.
    pub fn new(store: S, namespace: &str) -> Result<Self> {
        const OPERATION: &str = "namespace.new";
        let namespace = key::check(OPERATION, namespace)?;
        if namespace.split('/').any(|segment| LAYOUT.contains(&segment)) {
            return Err(Error::invalid_argument(
                OPERATION,
                "a namespace with a directory of the recipes in it",
            ));
        }
        Ok(Namespace { store, root: Root(format!("/{namespace}").into()) })
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for Namespace<S> {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        range.validate()?;
        let range = self.root.range("store.range", range)?;
        let mut found = self.store.range(range).await?;
        self.root.relative_range(&mut found);
        Ok(found)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        txn.validate()?;
        let txn = self.root.txn(txn)?;
        let mut reply = self.store.txn(txn).await?;
        for answer in &mut reply.replies {
            if let OpReply::Range(found) = answer {
                self.root.relative_range(found);
            }
        }
        Ok(reply)
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> Result<StoreWatch> {
        const OPERATION: &str = "store.watch";
        span.validate(OPERATION)?;
        let span = self.root.span(OPERATION, span)?;
        let inner = self.store.watch(span, after).await?;
        Ok(StoreWatch::new(inner.armed(), RelativeWatch { inner, root: self.root.clone() }))
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseInfo>> {
        let mut info = self.store.lease(id).await?;
        if let Some(info) = &mut info {
            info.keys.retain_mut(|key| self.root.relative(key));
        }
        Ok(info)
    }

    async fn status(&self) -> Result<StoreStatus> {
        let mut status = self.store.status().await?;
        status.store_id.push_str(&String::from_utf8_lossy(&self.root.0));
        Ok(status)
    }

    coord_api::forward_store! { self => self.store; grant_lease, keep_alive, revoke_lease, close }
}

/// The directory of a namespace, without a trailing `/`.
#[derive(Clone, Debug)]
struct Root(Bytes);

impl Root {
    /// The bytes below the root, which begin with `/` or are [`END`].
    fn join(&self, relative: &[u8]) -> Bytes {
        [self.0.as_ref(), relative].concat().into()
    }

    /// The key in the store below.
    fn key(&self, operation: &'static str, key: &[u8]) -> Result<Bytes> {
        if key.len() > FIRST.len() && key.starts_with(FIRST) {
            return Ok(self.join(key));
        }
        Err(Error::invalid_argument(operation, "in a namespace a key begins with `/`"))
    }

    /// Makes a key of the store below what the user knows it as, if it lies in the namespace.
    fn relative(&self, key: &mut Bytes) -> bool {
        let relative = key.strip_prefix(self.0.as_ref());
        let inside =
            relative.is_some_and(|relative| relative.len() > FIRST.len() && relative.starts_with(FIRST));
        if inside {
            key.advance(self.0.len());
        }
        inside
    }

    /// A span that holds no key of the namespace: that of its directory's own name, which is never
    /// written.
    fn nothing(&self) -> Span {
        Span::Key(self.join(FIRST))
    }

    /// The span in the store below, cut to the namespace.
    fn span(&self, operation: &'static str, span: Span) -> Result<Span> {
        Ok(match span {
            Span::Key(key) => Span::Key(self.key(operation, &key)?),
            Span::Prefix(prefix) if prefix.is_empty() => Span::Prefix(self.join(FIRST)),
            Span::Prefix(prefix) if prefix.starts_with(FIRST) => Span::Prefix(self.join(&prefix)),
            Span::Prefix(_) => self.nothing(),
            Span::Interval(from, to) => {
                let (from, to) = (from.as_ref().max(FIRST), to.as_ref().min(END));
                if from < to { Span::Interval(self.join(from), self.join(to)) } else { self.nothing() }
            }
        })
    }

    fn range(&self, operation: &'static str, mut range: Range) -> Result<Range> {
        range.span = self.span(operation, range.span)?;
        if let Some(after) = range.after_key.take() {
            if after.as_ref() >= END {
                range.span = self.nothing();
            } else if after.as_ref() >= FIRST {
                range.after_key = Some(self.join(&after));
            }
        }
        Ok(range)
    }

    fn txn(&self, txn: Txn) -> Result<Txn> {
        Ok(Txn {
            compares: txn.compares.into_iter().map(|compare| self.compare(compare)).collect::<Result<_>>()?,
            then: txn.then.into_iter().map(|op| self.op(op)).collect::<Result<_>>()?,
            otherwise: txn.otherwise.into_iter().map(|op| self.op(op)).collect::<Result<_>>()?,
        })
    }

    fn compare(&self, compare: Compare) -> Result<Compare> {
        const OPERATION: &str = "store.txn";
        Ok(match compare {
            Compare::Absent(key) => Compare::Absent(self.key(OPERATION, &key)?),
            Compare::Present(key) => Compare::Present(self.key(OPERATION, &key)?),
            Compare::Modified(key, revision) => Compare::Modified(self.key(OPERATION, &key)?, revision),
            Compare::Created(key, revision) => Compare::Created(self.key(OPERATION, &key)?, revision),
            Compare::Lease(key, lease) => Compare::Lease(self.key(OPERATION, &key)?, lease),
            Compare::RangeAbsent(span) => Compare::RangeAbsent(self.span(OPERATION, span)?),
        })
    }

    fn op(&self, op: Op) -> Result<Op> {
        const OPERATION: &str = "store.txn";
        Ok(match op {
            Op::Put { key, value, lease } => Op::Put { key: self.key(OPERATION, &key)?, value, lease },
            Op::Delete { key } => Op::Delete { key: self.key(OPERATION, &key)? },
            Op::Range(range) => Op::Range(self.range(OPERATION, range)?),
        })
    }

    fn relative_range(&self, found: &mut RangeReply) {
        found.entries.retain_mut(|entry| self.relative(&mut entry.key));
    }

    fn relative_event(&self, event: StoreEvent) -> StoreEvent {
        let StoreEvent::Batch(Batch { revision, mut changes }) = event else { return event };
        changes.retain_mut(|change| match change {
            Change::Put(Entry { key, .. }) | Change::Delete { key } => self.relative(key),
        });
        if changes.is_empty() {
            StoreEvent::Progress(revision)
        } else {
            StoreEvent::Batch(Batch { revision, changes })
        }
    }
}

/// A watch with relative keys.
struct RelativeWatch {
    inner: StoreWatch,
    root: Root,
}

impl Stream for RelativeWatch {
    type Item = Result<StoreEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = Pin::new(&mut self.inner).poll_next(cx);
        item.map(|item| item.map(|event| event.map(|event| self.root.relative_event(event))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Root {
        Root(Bytes::from_static(b"/ns"))
    }

    fn mapped(span: Span) -> Span {
        root().span("t", span).unwrap()
    }

    #[test]
    fn every_span_stays_inside_the_directory() {
        assert_eq!(mapped(Span::prefix("")), Span::prefix("/ns/"));
        assert_eq!(mapped(Span::prefix("/")), Span::prefix("/ns/"));
        assert_eq!(mapped(Span::prefix("/a")), Span::prefix("/ns/a"));
        assert_eq!(mapped(Span::prefix("x")), Span::key("/ns/"));
        let interval = |from: &'static str, to: &'static str| mapped(Span::Interval(from.into(), to.into()));
        assert_eq!(interval("", "~"), Span::Interval("/ns/".into(), "/ns0".into()));
        assert_eq!(interval("/a", "/b"), Span::Interval("/ns/a".into(), "/ns/b".into()));
        assert_eq!(interval("a", "b"), Span::key("/ns/"));
        assert!(root().span("t", Span::key("x")).is_err(), "it would be /nsx");
        assert!(root().span("t", Span::key("/")).is_err(), "the key of the directory's own name");
    }

    #[test]
    fn a_continuation_stays_inside_the_directory() {
        let continued =
            |after: &'static str| root().range("t", Range::prefix("").with_after_key(after)).unwrap();
        assert_eq!(continued("/a").after_key.as_deref(), Some(b"/ns/a".as_slice()));
        assert_eq!(continued("").after_key, None);
        assert_eq!(continued("a").span, Span::key("/ns/"), "every key lies before it");
    }

    #[test]
    fn what_lies_outside_is_not_shown() {
        let relative = |key: &'static str| {
            let mut key = Bytes::from(key);
            root().relative(&mut key).then_some(key)
        };
        assert_eq!(relative("/ns/a").as_deref(), Some(b"/a".as_slice()));
        for outside in ["/nsx", "/nsx/a", "/n", "/ns", "/ns/", ""] {
            assert_eq!(relative(outside), None, "{outside}");
        }
    }
}
