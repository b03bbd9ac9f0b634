//! A trace context in and out of headers, whatever they belong to.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::context::{TraceContext, is_request_id};
use super::state::TraceState;

/// The header of the ids and flags.
pub const TRACEPARENT: &str = "traceparent";
/// The header of what vendors send along.
pub const TRACESTATE: &str = "tracestate";
/// The header of the id that the caller's side gave the request.
pub const REQUEST_ID: &str = "x-request-id";

/// Where an id of the request is looked for; the first one counts.
const REQUEST_IDS: [&str; 3] = [REQUEST_ID, "x-correlation-id", "x-trace-id"];

/// How much of `tracestate` is looked at, which is more than a valid one can have.
const MAX_STATE: usize = 32 * 1024;

impl TraceContext {
    /// The context for what a request asks for: the next step of the trace that its headers name,
    /// or a new trace where they name none. It never fails: headers that are no trace context, or
    /// two `traceparent`, begin a new trace, and a wrong `tracestate` is dropped.
    ///
    /// `x-request-id`, `x-correlation-id` or `x-trace-id`, in this order, is the
    /// [`request_id`](Self::request_id).
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let mut found = Found::default();
        for (name, value) in headers {
            found.take(name.as_str(), value.as_bytes());
        }
        found.context()
    }

    /// As [`from_headers`](Self::from_headers), from pairs of any kind: headers of a message, where
    /// names may be of either case, and values may have blanks around them.
    pub fn from_pairs<K: AsRef<str>, V: AsRef<[u8]>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut found = Found::default();
        for (name, value) in pairs {
            found.take(name.as_ref(), value.as_ref());
        }
        found.context()
    }

    /// Writes the context into the headers of a request to somebody else, in place of what is there
    /// of another one.
    pub fn inject(&self, headers: &mut HeaderMap) {
        for name in [TRACEPARENT, TRACESTATE] {
            headers.remove(name);
        }
        for (name, value) in self.pairs() {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }

    /// Writes the context into the headers of an answer: `traceparent` of the step that ran here,
    /// and `x-request-id`. What vendors send along stays on the way of requests.
    pub(super) fn answer(&self, headers: &mut HeaderMap) {
        for (name, value) in self.pairs().filter(|(name, _)| *name != TRACESTATE) {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }

    /// The headers to send, with names in lowercase: `traceparent`, and `tracestate` and
    /// `x-request-id` where there are such.
    pub fn pairs(&self) -> impl Iterator<Item = (&'static str, String)> + use<> {
        let state = (!self.state.is_empty()).then(|| (TRACESTATE, self.state.as_str().to_owned()));
        let request_id = self.request_id.as_deref().map(|id| (REQUEST_ID, id.to_owned()));
        [Some((TRACEPARENT, self.traceparent())), state, request_id].into_iter().flatten()
    }
}

/// What was found so far.
#[derive(Default)]
struct Found {
    parents: usize,
    parent: Option<TraceContext>,
    state: Vec<u8>,
    request_id: Option<(usize, Arc<str>)>,
}

impl Found {
    fn take(&mut self, name: &str, value: &[u8]) {
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case(TRACEPARENT) {
            self.parents += 1;
            self.parent = std::str::from_utf8(value).ok().and_then(|value| TraceContext::parse(value).ok());
        } else if name.eq_ignore_ascii_case(TRACESTATE) {
            if self.state.len() <= MAX_STATE {
                let room = (MAX_STATE + 1).saturating_sub(self.state.len());
                self.state.push(b',');
                self.state.extend(value.iter().take(room));
            }
        } else if let Some(rank) = REQUEST_IDS.iter().position(|id| name.eq_ignore_ascii_case(id)) {
            let better = self.request_id.as_ref().is_none_or(|(found, _)| rank < *found);
            if better && is_request_id(value) {
                self.request_id = std::str::from_utf8(value).ok().map(|id| (rank, id.into()));
            }
        }
    }

    fn context(self) -> TraceContext {
        let request_id = self.request_id.map(|(_, id)| id);
        match self.parent.filter(|_| self.parents == 1) {
            None => TraceContext { request_id, ..TraceContext::new() },
            Some(parent) => {
                let state = std::str::from_utf8(&self.state).ok().filter(|list| list.len() <= MAX_STATE);
                let state = state.and_then(|list| TraceState::parse(list).ok()).unwrap_or_default();
                TraceContext { state, request_id, ..parent.child() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn trace(pairs: &[(&str, &str)]) -> Option<String> {
        let context = TraceContext::from_pairs(pairs.iter().copied());
        let trace = context.trace_id().to_string();
        PARENT.contains(&trace).then(|| context.state().as_str().to_owned())
    }

    #[test]
    fn the_trace_goes_on_in_a_step_of_its_own() {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_static(PARENT));
        headers.append("tracestate", HeaderValue::from_static("a=1, b=2"));
        headers.append("tracestate", HeaderValue::from_static("c=3"));
        headers.insert("x-request-id", HeaderValue::from_static("r-7"));
        let here = TraceContext::from_headers(&headers);
        assert!(PARENT.contains(&here.trace_id().to_string()));
        assert!(!PARENT.contains(&here.span_id().to_string()));
        assert_eq!(here.state().as_str(), "a=1,b=2,c=3");
        assert_eq!(here.request_id(), Some("r-7"));
        let mut next = HeaderMap::new();
        next.insert("tracestate", HeaderValue::from_static("stale=1"));
        next.insert("traceparent", HeaderValue::from_static("stale"));
        here.inject(&mut next);
        assert_eq!(next["traceparent"], here.traceparent());
        assert_eq!(next["tracestate"], "a=1,b=2,c=3");
        assert_eq!(next["x-request-id"], "r-7");
    }

    #[test]
    fn headers_that_are_no_context_begin_a_new_trace() {
        assert_eq!(trace(&[]), None);
        assert_eq!(trace(&[("traceparent", "")]), None);
        assert_eq!(trace(&[("traceparent", PARENT), ("Traceparent", PARENT)]), None);
        assert_eq!(trace(&[("tracestate", "a=1")]), None);
        assert_eq!(
            trace(&[("traceparent", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]),
            None
        );
        let begun = TraceContext::from_pairs([("traceparent", &b"\xff\xfe\x00"[..]), ("tracestate", b"a=1")]);
        assert!(begun.state().is_empty());
    }

    #[test]
    fn a_wrong_tracestate_is_dropped_alone() {
        assert_eq!(trace(&[("traceparent", PARENT), ("tracestate", "a=1,A")]), Some(String::new()));
        assert_eq!(
            trace(&[("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "a=2")]),
            Some(String::new())
        );
        let huge = "a".repeat(40_000);
        assert_eq!(trace(&[("traceparent", PARENT), ("tracestate", &huge)]), Some(String::new()));
        assert_eq!(
            trace(&[("traceparent", PARENT), ("tracestate", &huge), ("tracestate", "a=1")]),
            Some(String::new())
        );
    }

    #[test]
    fn names_of_either_case_and_blanks_around_values_are_taken() {
        let pairs = [("TraceParent", format!(" \t{PARENT} ")), ("TRACESTATE", " a=1 ".to_owned())];
        assert!(PARENT.contains(&TraceContext::from_pairs(pairs.clone()).trace_id().to_string()));
        assert_eq!(TraceContext::from_pairs(pairs).state().as_str(), "a=1");
    }

    #[test]
    fn the_first_of_the_other_ids_is_the_request_id() {
        let id = |pairs: &[(&str, &str)]| {
            TraceContext::from_pairs(pairs.iter().copied()).request_id().map(ToOwned::to_owned)
        };
        assert_eq!(
            id(&[("x-trace-id", "t"), ("X-Request-Id", "r"), ("x-correlation-id", "c")]),
            Some("r".into())
        );
        assert_eq!(id(&[("x-trace-id", "t"), ("x-correlation-id", "c")]), Some("c".into()));
        assert_eq!(id(&[("x-request-id", "a\nb"), ("x-trace-id", "t")]), Some("t".into()));
        assert_eq!(id(&[("x-request-id", "")]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_header_makes_it_fail(name in "(traceparent|tracestate|x-request-id|\\PC*)", value: Vec<u8>) {
            let context = TraceContext::from_pairs([(name.as_str(), value.as_slice()), ("traceparent", PARENT.as_bytes())]);
            prop_assert_eq!(TraceContext::parse(&context.traceparent()).unwrap().trace_id(), context.trace_id());
        }

        #[test]
        fn what_is_sent_arrives(
            state in proptest::collection::vec("[a-z][a-z0-9_]{0,9}", 0..8),
            id in proptest::option::of("[!-~]{1,128}"),
            sampled: bool,
        ) {
            let mut state = state;
            state.sort();
            state.dedup();
            let list = state.iter().map(|key| format!("{key}=v")).collect::<Vec<_>>().join(",");
            let mut sent = TraceContext::new().with_sampled(sampled).with_state(TraceState::parse(&list).unwrap());
            if let Some(id) = &id {
                sent = sent.with_request_id(id);
            }
            let mut headers = HeaderMap::new();
            sent.inject(&mut headers);
            for arrived in [TraceContext::from_headers(&headers), TraceContext::from_pairs(sent.pairs())] {
                prop_assert_ne!(arrived.span_id(), sent.span_id());
                prop_assert_eq!(TraceContext { span_id: sent.span_id, ..arrived }, sent.clone());
            }
        }
    }
}
