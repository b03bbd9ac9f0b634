//! One record as one line, in either form.

use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::{Level, Metadata};

use super::config::LogFormat;
use super::escape::{Escape, Escaping, escape, escape_bounded};
use super::redact::is_secret;
use super::stamp::{Stamps, now};
use super::value::{self, Causes, SpanFields, Value};
use crate::trace::{SpanId, TraceContext, TraceId};

/// How long a line may become, in bytes, before fields are left out. A line is at most one value
/// longer.
const MAX_LINE: usize = 256 * 1024;

/// How large the memory of a thread for lines may stay.
const KEPT: usize = 64 * 1024;

/// What a record belongs to.
#[derive(Clone, Debug)]
pub(super) struct TraceIds {
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
    pub(super) request_id: Option<Arc<str>>,
}

impl TraceIds {
    pub(super) fn of(context: &TraceContext) -> Self {
        TraceIds {
            trace_id: context.trace_id(),
            span_id: context.span_id(),
            request_id: context.shared_request_id(),
        }
    }
}

/// What every record of a process has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form<'a> {
    pub(super) format: LogFormat,
    pub(super) colours: bool,
    pub(super) service: &'a str,
}

/// Memory for records, which a thread uses again and again.
#[derive(Debug)]
pub(super) struct Record {
    stamps: Stamps,
    message: Vec<u8>,
    fields: Vec<u8>,
    /// The fields that are there, with their places in `fields`.
    names: Vec<(&'static str, Range<usize>)>,
    /// Whether fields were left out.
    cut: bool,
    line: Vec<u8>,
}

impl Record {
    pub(super) const fn new() -> Self {
        Record {
            stamps: Stamps::new(),
            message: Vec::new(),
            fields: Vec::new(),
            names: Vec::new(),
            cut: false,
            line: Vec::new(),
        }
    }

    /// Begins a record: visit the event's fields with what this gives.
    pub(super) fn begin(&mut self, format: LogFormat, has_ids: bool) -> EventFields<'_> {
        self.message.clear();
        self.fields.clear();
        self.names.clear();
        self.line.clear();
        self.cut = false;
        EventFields { record: self, format, has_ids }
    }

    /// Adds the fields of a span, of which those nearer to the event come first: a name that is
    /// there already counts.
    pub(super) fn add_span(&mut self, span: &SpanFields, format: LogFormat, has_ids: bool) {
        for (name, value) in &span.0 {
            if self.names.iter().any(|(other, _)| other == name) {
                continue;
            }
            if self.fields.len() > MAX_LINE {
                self.cut = true;
                return;
            }
            let from = self.fields.len();
            write_name(name, format, has_ids, &mut self.fields);
            value.write(format, &mut self.fields);
            self.names.push((name, from..self.fields.len()));
        }
    }

    /// The line, with its end.
    pub(super) fn finish(
        &mut self,
        form: Form<'_>,
        metadata: &Metadata<'_>,
        ids: Option<&TraceIds>,
        span: Option<&str>,
    ) -> &[u8] {
        match form.format {
            LogFormat::Json => self.finish_json(form, metadata, ids, span),
            LogFormat::Text => self.finish_text(form, metadata, ids, span),
        }
        &self.line
    }

    fn finish_json(
        &mut self,
        form: Form<'_>,
        metadata: &Metadata<'_>,
        ids: Option<&TraceIds>,
        span: Option<&str>,
    ) {
        let line = &mut self.line;
        line.extend_from_slice(b"{\"time\":\"");
        self.stamps.write(now(), line);
        line.extend_from_slice(b"\",\"level\":\"");
        line.extend_from_slice(metadata.level().as_str().as_bytes());
        line.extend_from_slice(b"\",\"message\":\"");
        line.extend_from_slice(&self.message);
        line.extend_from_slice(b"\",\"service\":\"");
        escape(form.service, Escape::Quotes, line);
        if let Some(ids) = ids {
            line.extend_from_slice(b"\",\"trace_id\":\"");
            line.extend_from_slice(&ids.trace_id.to_hex());
            line.extend_from_slice(b"\",\"span_id\":\"");
            line.extend_from_slice(&ids.span_id.to_hex());
            if let Some(id) = &ids.request_id {
                line.extend_from_slice(b"\",\"request_id\":\"");
                escape(id, Escape::Quotes, line);
            }
        }
        line.extend_from_slice(b"\",\"caller\":\"");
        write_caller(metadata, Escape::Quotes, line);
        line.extend_from_slice(b"\",\"target\":\"");
        escape_bounded(metadata.target(), Escape::Quotes, line);
        if let Some(span) = span {
            line.extend_from_slice(b"\",\"span\":\"");
            escape_bounded(span, Escape::Quotes, line);
        }
        line.push(b'"');
        for (_, place) in &self.names {
            line.push(b',');
            line.extend_from_slice(self.fields.get(place.clone()).unwrap_or_default());
        }
        if self.cut {
            line.extend_from_slice(b",\"truncated\":true");
        }
        line.extend_from_slice(b"}\n");
    }

    fn finish_text(
        &mut self,
        form: Form<'_>,
        metadata: &Metadata<'_>,
        ids: Option<&TraceIds>,
        span: Option<&str>,
    ) {
        let line = &mut self.line;
        let paint = |code: &[u8], line: &mut Vec<u8>| {
            if form.colours {
                line.extend_from_slice(code);
            }
        };
        paint(DIM, line);
        self.stamps.write(now(), line);
        paint(PLAIN, line);
        line.push(b' ');
        let level = metadata.level().as_str();
        line.extend(std::iter::repeat_n(b' ', 5_usize.saturating_sub(level.len())));
        paint(colour(*metadata.level()), line);
        line.extend_from_slice(level.as_bytes());
        paint(PLAIN, line);
        line.push(b' ');
        escape(form.service, Escape::Controls, line);
        line.push(b' ');
        paint(DIM, line);
        escape_bounded(metadata.target(), Escape::Controls, line);
        line.push(b':');
        paint(PLAIN, line);
        line.push(b' ');
        line.extend_from_slice(&self.message);
        for (_, place) in &self.names {
            line.push(b' ');
            line.extend_from_slice(self.fields.get(place.clone()).unwrap_or_default());
        }
        if self.cut {
            line.extend_from_slice(b" truncated=true");
        }
        paint(DIM, line);
        if let Some(span) = span {
            line.extend_from_slice(b" span=");
            escape_bounded(span, Escape::Controls, line);
        }
        if let Some(ids) = ids {
            line.extend_from_slice(b" trace_id=");
            line.extend_from_slice(&ids.trace_id.to_hex());
            line.extend_from_slice(b" span_id=");
            line.extend_from_slice(&ids.span_id.to_hex());
            if let Some(id) = &ids.request_id {
                line.extend_from_slice(b" request_id=");
                escape(id, Escape::Controls, line);
            }
        }
        line.push(b' ');
        write_caller(metadata, Escape::Controls, line);
        paint(PLAIN, line);
        line.push(b'\n');
    }

    /// Gives back the memory of a record that was unusually large.
    pub(super) fn shrink(&mut self) {
        for buffer in [&mut self.message, &mut self.fields, &mut self.line] {
            if buffer.capacity() > KEPT {
                *buffer = Vec::new();
            }
        }
    }
}

const DIM: &[u8] = b"\x1b[2m";
const PLAIN: &[u8] = b"\x1b[0m";

fn colour(level: Level) -> &'static [u8] {
    match level {
        Level::ERROR => b"\x1b[31m",
        Level::WARN => b"\x1b[33m",
        Level::INFO => b"\x1b[32m",
        Level::DEBUG => b"\x1b[34m",
        _ => b"\x1b[35m",
    }
}

fn write_caller(metadata: &Metadata<'_>, what: Escape, line: &mut Vec<u8>) {
    escape_bounded(metadata.file().unwrap_or("unknown"), what, line);
    line.push(b':');
    value::unsigned(u64::from(metadata.line().unwrap_or_default()), line);
}

/// The names that stand on top of each line of JSON. A field of such a name is `field.<name>`.
fn is_reserved(name: &str, has_ids: bool) -> bool {
    match name {
        "time" | "level" | "message" | "service" | "caller" | "target" | "span" | "truncated" => true,
        // Where there is no trace, a program that does without them may have its own.
        "trace_id" | "span_id" | "request_id" => has_ids,
        _ => false,
    }
}

fn write_name(name: &str, format: LogFormat, has_ids: bool, out: &mut Vec<u8>) {
    // `r#type` is how Rust has a field named `type`.
    let name = name.strip_prefix("r#").unwrap_or(name);
    let reserved = is_reserved(name, has_ids);
    match format {
        LogFormat::Json => {
            out.extend_from_slice(if reserved { b"\"field." } else { b"\"" });
            escape(name, Escape::Quotes, out);
            out.extend_from_slice(b"\":");
        }
        LogFormat::Text => {
            out.extend_from_slice(if reserved { b"field." } else { b"" });
            escape(name, Escape::Controls, out);
            out.push(b'=');
        }
    }
}

/// Takes the fields of an event.
pub(super) struct EventFields<'a> {
    record: &'a mut Record,
    format: LogFormat,
    has_ids: bool,
}

impl EventFields<'_> {
    fn set(&mut self, field: &Field, write: impl FnOnce(LogFormat, &mut Vec<u8>)) {
        let name = field.name();
        // What the bridge from `log` records is the record's metadata.
        if name.starts_with("log.") {
            return;
        }
        let record = &mut *self.record;
        if record.fields.len() > MAX_LINE {
            record.cut = true;
            return;
        }
        let from = record.fields.len();
        write_name(name, self.format, self.has_ids, &mut record.fields);
        if is_secret(name) {
            value::secret(self.format, &mut record.fields);
        } else {
            write(self.format, &mut record.fields);
        }
        let place = from..record.fields.len();
        match record.names.iter_mut().find(|(other, _)| *other == name) {
            Some((_, old)) => *old = place,
            None => record.names.push((name, place)),
        }
    }

    /// The message, which is text, whatever it was made of.
    fn message(&mut self, message: fmt::Arguments<'_>) {
        self.record.message.clear();
        let what = match self.format {
            LogFormat::Json => Escape::Quotes,
            LogFormat::Text => Escape::Controls,
        };
        Escaping::write(what, &mut self.record.message, message);
    }
}

impl Visit for EventFields<'_> {
    fn record_bool(&mut self, field: &Field, value: bool) {
        match field.name() {
            "message" => self.message(format_args!("{value}")),
            _ => self.set(field, |_, out| value::bool(value, out)),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        match field.name() {
            "message" => self.message(format_args!("{value}")),
            _ => self.set(field, |_, out| value::signed(value, out)),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "message" => self.message(format_args!("{value}")),
            _ => self.set(field, |_, out| value::unsigned(value, out)),
        }
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        match field.name() {
            "message" => self.message(format_args!("{value}")),
            _ => self.set(field, |form, out| Value::from(value).write(form, out)),
        }
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        match field.name() {
            "message" => self.message(format_args!("{value}")),
            _ => self.set(field, |form, out| Value::from(value).write(form, out)),
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        match field.name() {
            "message" => self.message(format_args!("{value}")),
            _ => self.set(field, |form, out| value::float(value, form, out)),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message(format_args!("{value}")),
            _ => self.set(field, |_, out| value::text(value, out)),
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        match field.name() {
            "message" => self.message(format_args!("{}", Causes(value))),
            _ => self.set(field, |form, out| value::formatted(format_args!("{}", Causes(value)), form, out)),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message(format_args!("{value:?}")),
            _ => self.set(field, |form, out| value::formatted(format_args!("{value:?}"), form, out)),
        }
    }
}

/// A line of our own, which has no event: that records were lost.
pub(super) fn notice(form: Form<'_>, message: fmt::Arguments<'_>, lost: u64, out: &mut Vec<u8>) {
    let mut stamps = Stamps::new();
    match form.format {
        LogFormat::Json => {
            out.extend_from_slice(b"{\"time\":\"");
            stamps.write(now(), out);
            out.extend_from_slice(b"\",\"level\":\"WARN\",\"message\":\"");
            Escaping::write(Escape::Quotes, out, message);
            out.extend_from_slice(b"\",\"service\":\"");
            escape(form.service, Escape::Quotes, out);
            out.extend_from_slice(b"\",\"caller\":\"");
            escape(file!(), Escape::Quotes, out);
            out.push(b':');
            value::unsigned(u64::from(line!()), out);
            out.extend_from_slice(b"\",\"target\":\"");
            escape(module_path!(), Escape::Quotes, out);
            out.extend_from_slice(b"\",\"lost\":");
            value::unsigned(lost, out);
            out.extend_from_slice(b"}\n");
        }
        LogFormat::Text => {
            stamps.write(now(), out);
            out.extend_from_slice(b"  WARN ");
            escape(form.service, Escape::Controls, out);
            out.push(b' ');
            escape(module_path!(), Escape::Controls, out);
            out.extend_from_slice(b": ");
            Escaping::write(Escape::Controls, out, message);
            out.extend_from_slice(b" lost=");
            value::unsigned(lost, out);
            out.push(b'\n');
        }
    }
}
