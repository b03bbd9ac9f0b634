//! Panics: recorded as anything else, and written before the program ends.

use std::any::Any;
use std::panic;
use std::sync::Arc;
use std::time::Instant;

use super::LAST_WORDS;
use super::shared::Shared;
use super::sink::is_writer;

/// Puts a hook before the one that is there.
pub(super) fn hook(shared: &Arc<Shared>) {
    let shared = Arc::downgrade(shared);
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if let Some(shared) = shared.upgrade().filter(|_| !is_writer()) {
            let location = info.location().map(ToString::to_string);
            let thread = std::thread::current();
            let thread = thread.name().unwrap_or("unnamed");
            tracing::error!(target: "panic", location, thread, "panicked: {}", message(info.payload()));
            shared.state().sink.flush(Instant::now() + LAST_WORDS);
        }
        before(info);
    }));
}

fn message(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(message), _) => message,
        (None, Some(message)) => message,
        (None, None) => "with something that is no text",
    }
}
