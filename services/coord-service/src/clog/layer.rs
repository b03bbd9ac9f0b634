//! The layer: what happens where somebody logs.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::subscriber::Interest;
use tracing::{Dispatch, Event, Metadata, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::record::{Form, Record, TraceIds};
use super::shared::Shared;
use super::value::SpanFields;
use crate::trace;

thread_local! {
    /// Memory for records. A record that is made while another one is, by a `Debug` that logs,
    /// finds none here and has memory of its own.
    static RECORD: Cell<Option<Box<Record>>> = const { Cell::new(None) };
}

/// The logs as a layer, for subscribers that have others as well. See [`Clog::layer`].
///
/// Its level is that of the whole subscriber, as with a filter of `tracing-subscriber` that is a
/// layer: what is not logged is not seen by the other layers.
///
/// [`Clog::layer`]: super::Clog::layer
#[derive(Clone)]
pub struct ClogLayer(Arc<Shared>);

impl ClogLayer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        ClogLayer(shared)
    }
}

impl fmt::Debug for ClogLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClogLayer").finish_non_exhaustive()
    }
}

/// What a span belongs to, where it does.
struct SpanIds(TraceIds);

impl<S> Layer<S> for ClogLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_register_dispatch(&self, subscriber: &Dispatch) {
        self.0.add_dispatch(subscriber);
    }

    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match self.0.state().filter.enables(metadata) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.0.state().filter.enables(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0.state().filter.most())
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else {
            return;
        };
        let mut fields = SpanFields::default();
        attributes.record(&mut fields);
        let ids = trace::with_current(TraceIds::of);
        let mut extensions = span.extensions_mut();
        extensions.replace(fields);
        if let Some(ids) = ids {
            extensions.replace(SpanIds(ids));
        }
    }

    fn on_record(&self, id: &Id, values: &tracing::span::Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else {
            return;
        };
        // What the values log while they are shown may need the span.
        let mut new = SpanFields::default();
        values.record(&mut new);
        if let Some(fields) = span.extensions_mut().get_mut::<SpanFields>() {
            fields.merge(new);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let bridged = event.normalized_metadata();
        let metadata = bridged.as_ref().unwrap_or_else(|| event.metadata());
        let state = self.0.state();
        let format = state.format;
        let mut record =
            RECORD.try_with(Cell::take).ok().flatten().unwrap_or_else(|| Box::new(Record::new()));
        // The task says what it works for; a span that was taken elsewhere remembers it.
        let ids = trace::with_current(TraceIds::of).or_else(|| {
            let mut spans = context.event_scope(event)?;
            spans.find_map(|span| span.extensions().get::<SpanIds>().map(|ids| ids.0.clone()))
        });
        event.record(&mut record.begin(format, ids.is_some()));
        let mut innermost = None;
        for span in context.event_scope(event).into_iter().flatten() {
            innermost.get_or_insert(span.name());
            if let Some(fields) = span.extensions().get::<SpanFields>() {
                record.add_span(fields, format, ids.is_some());
            }
        }
        let form = Form { format, colours: state.colours, service: self.0.service() };
        let line = record.finish(form, metadata, ids.as_ref(), innermost);
        self.0.deliver(&state, line);
        record.shrink();
        let _ = RECORD.try_with(|kept| kept.set(Some(record)));
    }
}
