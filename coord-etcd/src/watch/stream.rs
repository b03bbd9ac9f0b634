//! One stream to a member, with many watches on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use etcd_client::proto::PbWatchResponse;
use etcd_client::{WatchClient, WatchRequestSender, WatchResponseStream};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until, timeout};

use super::liveness::{Due, Liveness, PROBE_WITHIN};
use super::request::{Command, StreamHandle, TellOpened, WatchRequest, WatchTarget};
use super::table::{Reply, Table};
use super::watermark::Mark;
use crate::connection::LARGEST_ANSWER;
use crate::error::Fault;
use crate::members::{Asked, Members};
use crate::probe::{Finding, Question, what_happened};

/// Where a stream goes, and what it goes by.
pub(super) struct Route {
    pub(super) members: Arc<Members>,
    /// The member that it goes to.
    pub(super) asked: Asked,
    pub(super) client: WatchClient,
    pub(super) marks: Receiver<Mark>,
    /// Whether the other end has answered a request for progress, on this stream or on another one
    /// of the same link.
    pub(super) answers: Arc<AtomicBool>,
}

/// Makes a stream for a first watch, which is a task of the home and need not have begun when this
/// returns. Others may take a slot on it at once.
pub(super) fn start(route: Route, target: WatchTarget, tell: TellOpened) -> Result<Arc<StreamHandle>, Fault> {
    let (handle, slot, commands) = StreamHandle::new();
    let first = WatchRequest::new(target, slot, tell);
    let home = route.members.home().clone();
    // Without a home, the watch that is wanted is dropped with the task, and who waits for it is
    // told by that.
    home.spawn(run(route, Arc::clone(&handle), first, commands)).map_err(|error| Fault::no_home(&error))?;
    Ok(handle)
}

/// The stream's task.
async fn run(
    route: Route,
    handle: Arc<StreamHandle>,
    first: WatchRequest,
    mut commands: UnboundedReceiver<Command>,
) {
    let Route { members, asked, client, marks, answers } = route;
    let (key, options) = first.to_send();
    let mut table = Table::default();
    table.ask(first);
    let mut client = client.max_decoding_message_size(LARGEST_ANSWER);
    let opening = async { Ok(client.watch(key, Some(options)).await?) };
    let deadline = members.home().now() + members.attempt_timeout;
    let fault = match members.until(deadline, opening).await {
        Ok(stream) => {
            let (requests, responses) = stream.split();
            let liveness = Liveness::new(Instant::now(), answers.load(Ordering::Relaxed));
            let reader =
                StreamReader { handle, members, asked, responses, liveness, marks, answers, probe: None };
            carry(reader, requests, &mut commands, &mut table).await
        }
        Err(fault) => Some(fault),
    };
    let Some(fault) = fault else { return };
    table.end(&fault);
    refuse_the_rest(commands, &fault).await;
}

/// Tells those who take a slot as the stream ends. A command that is just being sent is waited for,
/// or it would stay in the channel, and whoever sent it would hear nothing.
async fn refuse_the_rest(mut commands: UnboundedReceiver<Command>, fault: &Fault) {
    commands.close();
    while let Some(command) = commands.recv().await {
        if let Command::Watch(request) = command {
            request.refuse(fault.clone());
        }
    }
}

/// Reads and writes until either comes to an end. Says why; `None` where nobody is left who could
/// care.
async fn carry(
    reader: StreamReader,
    requests: WatchRequestSender,
    commands: &mut UnboundedReceiver<Command>,
    table: &mut Table,
) -> Option<Fault> {
    let table = Mutex::new(table);
    tokio::select! {
        fault = reader.read(&table) => Some(fault),
        () = write(requests, commands, &table) => None,
    }
}

/// Sends what the stream is told to, until nobody is left. By itself, so that a server that takes
/// nothing for a while does not keep anyone from reading what it sends.
async fn write(
    mut requests: WatchRequestSender,
    commands: &mut UnboundedReceiver<Command>,
    table: &Mutex<&mut Table>,
) {
    while let Some(command) = commands.recv().await {
        let sent = match command {
            Command::Watch(request) => {
                let (key, options) = request.to_send();
                table.lock().ask(request);
                requests.watch(key, Some(options)).await
            }
            Command::Cancel(id) => {
                table.lock().forget(id);
                requests.cancel(id).await
            }
            Command::Progress => requests.request_progress().await,
            Command::End => return,
        };
        // The stream has ended, and the reader knows why.
        if sent.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Moves what a server sends to whom it is for, at once: who does not read must not hold up what
/// shares the connection.
struct StreamReader {
    handle: Arc<StreamHandle>,
    members: Arc<Members>,
    asked: Asked,
    responses: WatchResponseStream,
    liveness: Liveness,
    marks: Receiver<Mark>,
    answers: Arc<AtomicBool>,
    /// Reads what happened in the ranges that are watched.
    probe: Option<BoxFuture<'static, Result<Vec<Finding>, Fault>>>,
}

impl StreamReader {
    async fn read(mut self, table: &Mutex<&mut Table>) -> Fault {
        let closing = self.members.closing().clone();
        loop {
            let (due, what) = self.liveness.due();
            tokio::select! {
                response = self.responses.message() => {
                    let response = match response {
                        Ok(Some(response)) => response.0,
                        Ok(None) => return Fault::unavailable("etcd ended the stream of the watch"),
                        Err(error) => return error.into(),
                    };
                    if let Err(fault) = self.recognise(&response) {
                        self.members.report_failure(&self.asked, &fault);
                        return fault;
                    }
                    let replies = table.lock().take(response, &mut self.liveness, Instant::now());
                    if self.liveness.answers() {
                        self.answers.store(true, Ordering::Relaxed);
                    }
                    match replies {
                        Ok(replies) => replies.into_iter().for_each(|reply| self.reply(reply)),
                        Err(fault) => return fault,
                    }
                }
                () = closing.cancelled() => return Fault::closed(),
                Ok(()) = self.marks.changed() => {
                    let mark = *self.marks.borrow_and_update();
                    if self.liveness.mark(mark.revision, mark.read_at) {
                        self.handle.send(Command::Progress);
                    }
                }
                probed = probed(&mut self.probe) => {
                    self.probe = None;
                    match probed {
                        Ok(findings) => {
                            let now = Instant::now();
                            let undelivered_since = table.lock().note_findings(&findings, now);
                            let as_of = findings.iter().map(|finding| finding.as_of).min();
                            self.liveness.probed(as_of.unwrap_or_default(), undelivered_since, now);
                        }
                        // Who does not answer this either tells nothing.
                        Err(fault) => {
                            self.members.report_failure(&self.asked, &fault);
                            return Fault::unavailable(format!("the watch has gone deaf, and so has its member: {}", fault.message));
                        }
                    }
                }
                () = sleep_until(due) => match what {
                    Due::Probe => {
                        self.liveness.probing();
                        self.probe = Some(self.ask(table.lock().questions()));
                    }
                    Due::Deaf => {
                        let fault = Fault::unavailable("the watch has gone deaf");
                        self.members.report_failure(&self.asked, &fault);
                        return fault;
                    }
                },
            }
        }
    }

    /// Asks the other end by reading what happened, on the same connection.
    fn ask(&self, questions: Vec<Question>) -> BoxFuture<'static, Result<Vec<Finding>, Fault>> {
        let link = Arc::clone(&self.asked.link);
        let probe = async move {
            timeout(PROBE_WITHIN, what_happened(&link.watches, questions))
                .await
                .unwrap_or_else(|_| Err(Fault::silent()))
        };
        probe.boxed()
    }

    /// Refuses what another cluster says. Proxies do not say which one they speak for.
    fn recognise(&self, response: &PbWatchResponse) -> Result<(), Fault> {
        match &response.header {
            Some(header) if header.cluster_id != 0 => self.asked.link.watches.recognise(Some(header)),
            _ => Ok(()),
        }
    }

    fn reply(&self, reply: Reply) {
        match reply {
            Reply::Watch(request) => self.handle.send(Command::Watch(request)),
            Reply::Cancel(id) => self.handle.send(Command::Cancel(id)),
            Reply::Retire(request, fault) => {
                self.handle.retire();
                request.refuse(fault);
            }
        }
    }
}

/// The answer to what was asked, if anything was.
async fn probed(
    probe: &mut Option<BoxFuture<'static, Result<Vec<Finding>, Fault>>>,
) -> Result<Vec<Finding>, Fault> {
    match probe {
        Some(probe) => probe.await,
        None => std::future::pending().await,
    }
}
