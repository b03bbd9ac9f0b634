//! How far the store is, as every healthy watch must come to know: a linearizable read a second
//! while there are watches, for all of them together.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_api::Revision;
use coord_api::store::Effect;
use parking_lot::Mutex;
use tokio::sync::watch::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::error::Fault;
use crate::members::Asked;
use crate::probe::present;

/// How often the store is asked.
const EVERY: Duration = Duration::from_secs(1);

/// How long one member may take to answer. Short, because a watch on a silent member waits for
/// another one's word.
const ANSWER_WITHIN: Duration = Duration::from_millis(700);

/// How far the store is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) revision: Revision,
    pub(super) read_at: Instant,
}

/// Asks how far the store is, for as long as anyone wants to know.
#[derive(Debug)]
pub(crate) struct Watermark {
    cluster: Arc<Cluster>,
    running: Arc<Mutex<Option<RunningWatermark>>>,
}

#[derive(Debug)]
struct RunningWatermark {
    marks: Arc<Sender<Mark>>,
    /// A key that may be read: one that is watched.
    key: Bytes,
    task: JoinHandle<()>,
}

impl Watermark {
    /// Asks nothing yet.
    pub(super) fn new(cluster: Arc<Cluster>) -> Self {
        Watermark { cluster, running: Arc::default() }
    }

    /// The marks, for a watch that begins at `key`. The store is asked until the last receiver is
    /// dropped.
    ///
    /// # Errors
    ///
    /// There is no home for the task.
    pub(super) fn subscribe(&self, key: &Bytes) -> Result<Receiver<Mark>, Fault> {
        let mut running = self.running.lock();
        // One that ended was taken away by the end of its runtime.
        if let Some(running) = running.as_mut().filter(|running| !running.task.is_finished()) {
            running.key = key.clone();
            return Ok(running.marks.subscribe());
        }
        let home = self.cluster.home();
        let (marks, receiver) = channel(Mark { revision: Revision::ZERO, read_at: home.now() });
        let marks = Arc::new(marks);
        let task = home.spawn(ask(Arc::clone(&self.running), Arc::clone(&marks), Arc::clone(&self.cluster)));
        let task = task.map_err(|error| Fault::no_home(&error))?;
        *running = Some(RunningWatermark { marks, key: key.clone(), task });
        Ok(receiver)
    }
}

async fn ask(running: Arc<Mutex<Option<RunningWatermark>>>, marks: Arc<Sender<Mark>>, cluster: Arc<Cluster>) {
    let closing = cluster.closing().clone();
    loop {
        tokio::select! {
            () = sleep(EVERY) => {}
            () = closing.cancelled() => return,
            () = marks.closed() => {
                let mut running = running.lock();
                // Whoever subscribes does so under the lock.
                if marks.is_closed() {
                    *running = None;
                    return;
                }
            }
        }
        let Some(key) = running.lock().as_ref().map(|running| running.key.clone()) else { return };
        let read_at = Instant::now();
        match read(&cluster, key).await {
            Ok(revision) => {
                marks.send_replace(Mark { revision, read_at });
            }
            Err(error) => coord_home::event!(DEBUG, %error, "nobody says how far the store is"),
        }
    }
}

async fn read(cluster: &Cluster, key: Bytes) -> coord_api::Result<Revision> {
    let read = |asked: Asked| {
        let key = key.clone();
        async move { present(&asked.link.main, key).await }
    };
    cluster.call_within("store.watch", Effect::Read, ANSWER_WITHIN, read).await
}
