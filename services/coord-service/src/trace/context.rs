//! The context of a trace, as W3C Trace Context has it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::error::TraceparentError;
use super::ids::{SpanId, TraceId, is_hex};
use super::state::TraceState;

/// What belongs together across processes: the trace, and the step of it that runs here.
///
/// Cloning it is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
    pub(super) sampled: bool,
    pub(super) state: TraceState,
    pub(super) request_id: Option<Arc<str>>,
}

impl TraceContext {
    /// A new trace, which begins here. It is sampled: what this process logs of it is a record of
    /// it.
    pub fn new() -> Self {
        TraceContext {
            trace_id: TraceId::random(),
            span_id: SpanId::random(),
            sampled: true,
            state: TraceState::default(),
            request_id: None,
        }
    }

    /// Reads `traceparent` as W3C Trace Context says (recommendation of 2021), and nothing else:
    ///
    /// - version `00` is version, trace id, parent id and flags, 55 characters, all of its digits
    ///   lowercase; ids of zeros alone are refused;
    /// - of a higher version these four are read, and what follows them after a `-` is ignored;
    ///   version `ff` is refused;
    /// - of the flags only `sampled` is kept: W3C wants all others to be sent on as zero.
    ///
    /// What is read is the context of whoever sent it: what runs here is a [`child`](Self::child)
    /// of it, as [`from_headers`](Self::from_headers) makes it.
    ///
    /// # Errors
    ///
    /// [`TraceparentError`].
    pub fn parse(traceparent: &str) -> Result<Self, TraceparentError> {
        let mut parts = traceparent.split('-');
        let mut part = || parts.next().ok_or(TraceparentError::Form);
        let version = part()?;
        if !is_hex(version, 2) || version == "ff" {
            return Err(TraceparentError::Version);
        }
        let (trace_id, span_id, flags) = (part()?.parse()?, part()?.parse()?, part()?);
        if !is_hex(flags, 2) {
            return Err(TraceparentError::Flags);
        }
        if version == "00" && parts.next().is_some() {
            return Err(TraceparentError::Form);
        }
        let flags = u8::from_str_radix(flags, 16).map_err(|_| TraceparentError::Flags)?;
        Ok(TraceContext {
            trace_id,
            span_id,
            sampled: flags & 1 == 1,
            state: TraceState::default(),
            request_id: None,
        })
    }

    /// The next step of the same trace: all is as here but the span id, which is new.
    #[must_use]
    pub fn child(&self) -> Self {
        TraceContext { span_id: SpanId::random(), ..self.clone() }
    }

    /// Says whether those who come after are to record the trace.
    #[must_use]
    pub fn with_sampled(mut self, sampled: bool) -> Self {
        self.sampled = sampled;
        self
    }

    /// Sets what the vendors of tracing systems send along.
    #[must_use]
    pub fn with_state(mut self, state: TraceState) -> Self {
        self.state = state;
        self
    }

    /// Sets the id that the caller's side gave the request. One that is empty, longer than 128
    /// bytes or not made of visible ASCII is left out.
    #[must_use]
    pub fn with_request_id(mut self, id: &str) -> Self {
        self.request_id = is_request_id(id.as_bytes()).then(|| id.into());
        self
    }

    /// The id of the trace.
    pub fn trace_id(&self) -> TraceId {
        self.trace_id
    }

    /// The id of the step that runs here, which those who come after get as their parent.
    pub fn span_id(&self) -> SpanId {
        self.span_id
    }

    /// Whether the trace is recorded.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// What the vendors of tracing systems send along.
    pub fn state(&self) -> &TraceState {
        &self.state
    }

    /// The id that the caller's side gave the request.
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }

    /// As [`request_id`](Self::request_id), to be kept.
    pub(crate) fn shared_request_id(&self) -> Option<Arc<str>> {
        self.request_id.clone()
    }

    /// The `traceparent` to send: version `00`.
    pub fn traceparent(&self) -> String {
        self.to_string()
    }
}

/// Whether an id of a request is passed on and logged.
pub(super) fn is_request_id(id: &[u8]) -> bool {
    (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

impl Default for TraceContext {
    fn default() -> Self {
        TraceContext::new()
    }
}

impl FromStr for TraceContext {
    type Err = TraceparentError;

    fn from_str(traceparent: &str) -> Result<Self, Self::Err> {
        TraceContext::parse(traceparent)
    }
}

/// The `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn traceparent(version: &str, flags: &str) -> String {
        format!("{version}-{TRACE}-{SPAN}-{flags}")
    }

    #[test]
    fn the_example_of_the_recommendation_is_read() {
        let context = TraceContext::parse(&traceparent("00", "01")).unwrap();
        assert_eq!(context.trace_id().to_string(), TRACE);
        assert_eq!(context.span_id().to_string(), SPAN);
        assert!(context.is_sampled());
        assert_eq!(context.traceparent(), traceparent("00", "01"));
    }

    #[test]
    fn only_the_sampled_flag_is_sent_on() {
        for (flags, sampled) in [("00", false), ("01", true), ("ff", true), ("fe", false), ("09", true)] {
            let context = TraceContext::parse(&traceparent("00", flags)).unwrap();
            assert_eq!(context.is_sampled(), sampled, "{flags}");
            assert_eq!(context.traceparent(), traceparent("00", if sampled { "01" } else { "00" }));
        }
    }

    #[test]
    fn a_higher_version_may_have_more_and_is_sent_on_as_ours() {
        for more in ["", "-", "-what-the-future-will-be-like", "-\u{e9}"] {
            let context = TraceContext::parse(&(traceparent("cc", "01") + more)).unwrap();
            assert_eq!(context.traceparent(), traceparent("00", "01"), "{more}");
        }
        assert!(TraceContext::parse(&(traceparent("cc", "01") + ".what")).is_err());
        assert!(TraceContext::parse(&(traceparent("00", "01") + "-what")).is_err());
        assert!(TraceContext::parse(&(traceparent("00", "01") + "-")).is_err());
        assert_eq!(TraceContext::parse(&traceparent("ff", "01")), Err(TraceparentError::Version));
    }

    #[test]
    fn what_is_none_is_refused() {
        let upper = traceparent("00", "01").to_uppercase();
        let zeros = |trace: &str, span: &str| format!("00-{trace}-{span}-01");
        for (bad, why) in [
            (String::new(), TraceparentError::Version),
            ("00".into(), TraceparentError::Form),
            (format!("00-{TRACE}"), TraceparentError::Form),
            (format!("00-{TRACE}-{SPAN}"), TraceparentError::Form),
            (format!("00-{TRACE}-{SPAN}-"), TraceparentError::Flags),
            (format!("00-{TRACE}-{SPAN}-1"), TraceparentError::Flags),
            (format!("00-{TRACE}-{SPAN}-0x"), TraceparentError::Flags),
            (format!("00-{TRACE}-{SPAN}-001"), TraceparentError::Flags),
            (format!("0-{TRACE}-{SPAN}-01"), TraceparentError::Version),
            (format!("0x-{TRACE}-{SPAN}-01"), TraceparentError::Version),
            (format!(" 00-{TRACE}-{SPAN}-01"), TraceparentError::Version),
            (upper, TraceparentError::TraceId),
            (zeros(&"0".repeat(32), SPAN), TraceparentError::TraceId),
            (zeros(TRACE, &"0".repeat(16)), TraceparentError::ParentId),
            (zeros(&TRACE[1..], SPAN), TraceparentError::TraceId),
            (zeros(TRACE, &SPAN[1..]), TraceparentError::ParentId),
            (zeros(TRACE, &format!("+{}", &SPAN[1..])), TraceparentError::ParentId),
            (format!("00_{TRACE}_{SPAN}_01"), TraceparentError::Version),
        ] {
            assert_eq!(TraceContext::parse(&bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn a_child_is_another_step_of_the_same_trace() {
        let parent = TraceContext::parse(&traceparent("00", "00"))
            .unwrap()
            .with_state(TraceState::parse("a=1").unwrap())
            .with_request_id("r-1");
        let child = parent.child();
        assert_ne!(child.span_id(), parent.span_id());
        assert_eq!(TraceContext { span_id: parent.span_id, ..child }, parent);
        assert_eq!(parent.clone().with_request_id("two words").request_id(), None);
        assert_eq!(parent.clone().with_request_id(&"x".repeat(129)).request_id(), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_again(trace: [u8; 16], span: [u8; 8], sampled: bool) {
            prop_assume!(trace != [0; 16] && span != [0; 8]);
            let context = TraceContext {
                trace_id: TraceId::from_bytes(trace).unwrap(),
                span_id: SpanId::from_bytes(span).unwrap(),
                ..TraceContext::new().with_sampled(sampled)
            };
            prop_assert_eq!(context.traceparent().len(), 55);
            prop_assert_eq!(TraceContext::parse(&context.traceparent()), Ok(context));
        }

        #[test]
        fn whatever_is_read_is_written_and_read_again(text in "\\PC{0,80}") {
            if let Ok(context) = TraceContext::parse(&text) {
                prop_assert_eq!(TraceContext::parse(&context.traceparent()), Ok(context));
            }
        }

        #[test]
        fn one_wrong_character_is_noticed(at in 0usize..55, wrong in "[^0-9a-f-]") {
            let mut text: Vec<char> = traceparent("00", "01").chars().collect();
            text[at] = wrong.chars().next().unwrap();
            prop_assert!(TraceContext::parse(&text.into_iter().collect::<String>()).is_err());
        }
    }
}
