//! What the clients of a test log.

use std::io;
use std::sync::{Arc, Mutex};

use coord_recipes::Home;
use coord_testkit::wait::eventually;
use tracing::Level;
use tracing::subscriber::DefaultGuard;

use crate::SOON;

/// What is logged while this is the thread's subscriber, and on homes that are started then.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Listens from now on, for as long as the guard lives.
    pub(crate) fn listen(level: Level) -> (Self, DefaultGuard) {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_max_level(level).with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    /// How often something was logged.
    pub(crate) fn count(&self, what: &str) -> usize {
        self.text().matches(what).count()
    }

    /// Waits until what was logged before is written: homes hand it to one thread, which writes it
    /// in order.
    pub(crate) async fn written(&self) {
        let (before, home) = (self.count("a mark"), Home::thread("mark"));
        home.spawn(async { coord_home::event!(WARN, "a mark") }).unwrap();
        eventually(SOON, "the mark is written", async || (self.count("a mark") > before).then_some(())).await;
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
