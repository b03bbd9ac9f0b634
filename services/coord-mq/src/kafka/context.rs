//! What librdkafka's clients say of themselves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use coord::Error;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::error;

/// Listens to a client of librdkafka: writes down what it logs, and remembers whether the brokers
/// refuse us. What [`Mq::kafka`](crate::Mq::kafka) hands out is a
/// `rdkafka::producer::FutureProducer` with this context.
#[derive(Clone, Debug, Default)]
pub struct KafkaContext {
    refused: Arc<Mutex<Option<Code>>>,
}

impl KafkaContext {
    /// Why the brokers refuse us, where they did when they were asked last. A request fails then
    /// as if there were none.
    pub(super) fn refusal(&self, operation: &'static str) -> Option<Error> {
        let code = (*self.refused.lock())?;
        Some(error::failed(operation, KafkaError::Global(code)))
    }

    /// The brokers have answered.
    pub(super) fn let_in(&self) {
        *self.refused.lock() = None;
    }
}

impl ClientContext for KafkaContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        // This runs on a thread that others wait for; a log that panics must not end it.
        let _ = catch_unwind(AssertUnwindSafe(|| match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(facility, line, "librdkafka"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(facility, line, "librdkafka"),
            RDKafkaLogLevel::Debug => tracing::debug!(facility, line, "librdkafka"),
        }));
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if let Some(code @ (Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL)) = code {
            *self.refused.lock() = Some(code);
        }
        let _ = catch_unwind(AssertUnwindSafe(|| tracing::debug!(?code, reason, "librdkafka")));
    }
}

/// Of a client that is no member of a group: nothing is assigned to it.
impl ConsumerContext for KafkaContext {}
