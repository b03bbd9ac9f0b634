//! One stream to a member, with many watches on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use etcd_client::proto::PbWatchResponse;
use etcd_client::{WatchClient, WatchRequestSender, WatchResponseStream};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until, timeout};

use super::Cluster;
use super::liveness::{Due, Liveness, PROBE_WITHIN};
use super::probe::{Finding, Question, probe};
use super::table::{Reply, Table, Wanted};
use super::watermark::Mark;
use crate::connection::LARGEST_ANSWER;
use crate::error::Fault;
use crate::members::{Asked, Members};

/// Watches on one stream at most. A server holds 128 responses for a stream before it falls back on reading history again: the changes of one revision must not come
/// to more.
const SEATS: usize = 100;

/// The way to a stream, for those who sit on it. The stream ends with the last of them.
#[derive(Debug)]
pub(super) struct Line {
    /// What the server is to be asked. Bounded by the seats, each of which asks for a watch and cancels it, and by a request for progress a second.
    orders: UnboundedSender<Order>,
    /// Seats that are taken. Once there are none, none is taken again.
    taken: AtomicUsize,
    retired: AtomicBool,
}

#[derive(Debug)]
enum Order {
    Watch(Wanted),
    Cancel(i64),
    Progress,
    /// Nobody is left.
    End,
}

/// A place on a stream: first without a watch, then with one, which is canceled when the place is given up.
#[derive(Debug)]
pub(super) struct Seat {
    line: Arc<Line>,
    id: Option<i64>,
}

impl Line {
    /// Makes a stream for a first watch, which is a task of the home and need not have begun when this returns. Others may sit down on it at once.
    pub(super) fn start(cluster: Cluster<'_>, client: WatchClient, first: impl FnOnce(Seat) -> Wanted) -> Result<Arc<Self>, Fault> {
        let (sender, orders) = unbounded_channel();
        let line = Arc::new(Line { orders: sender, taken: AtomicUsize::new(1), retired: AtomicBool::new(false) });
        let wanted = first(Seat { line: Arc::clone(&line), id: None });
        let marks = cluster.watermark.subscribe(cluster.members, wanted.key())?;
        let stream = Stream {
            line: Arc::clone(&line),
            members: Arc::clone(cluster.members),
            asked: cluster.asked.clone(),
            client: client.max_decoding_message_size(LARGEST_ANSWER),
            marks,
        };
        // Without a home, the watch that is wanted is dropped with the task, and who waits for it is told by that.
        cluster.members.home().spawn(stream.run(wanted, orders)).map_err(|error| Fault::homeless(&error))?;
        Ok(line)
    }

    /// Whether a seat may be free.
    pub(super) fn is_open(&self) -> bool {
        self.taken.load(Ordering::Acquire) > 0 && !self.retired.load(Ordering::Acquire) && !self.orders.is_closed()
    }

    /// A seat, where one is free.
    pub(super) fn take_seat(self: &Arc<Self>) -> Option<Seat> {
        let free = |taken: usize| (taken > 0 && taken < SEATS).then_some(taken + 1);
        let taken = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, free);
        taken.is_ok().then(|| Seat { line: Arc::clone(self), id: None })
    }

    /// Orders on a stream that has ended come to nothing; who waits for them is told by that.
    fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }
}

impl Seat {
    /// Asks for the watch that is to have this seat.
    pub(super) fn ask(self, wanted: impl FnOnce(Seat) -> Wanted) {
        let line = Arc::clone(&self.line);
        line.order(Order::Watch(wanted(self)));
    }

    /// The seat of the watch of this number.
    pub(super) fn of(mut self, id: i64) -> Self {
        self.id = Some(id);
        self
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.line.order(Order::Cancel(id));
        }
        if self.line.taken.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.line.order(Order::End);
        }
    }
}

/// What a stream is made of.
struct Stream {
    line: Arc<Line>,
    members: Arc<Members>,
    asked: Asked,
    client: WatchClient,
    marks: Receiver<Mark>,
}

impl Stream {
    /// The stream's task.
    async fn run(mut self, first: Wanted, mut orders: UnboundedReceiver<Order>) {
        let (key, options) = first.request();
        let mut table = Table::default();
        table.ask(first);
        let closing = self.members.closing().clone();
        let opening = timeout(self.members.attempt_timeout, self.client.watch(key, Some(options)));
        let fault = match closing.run_until_cancelled(opening).await {
            Some(Ok(Ok(stream))) => {
                let (requests, responses) = stream.split();
                let Stream { line, members, asked, marks, .. } = self;
                let liveness = Liveness::new(Instant::now(), asked.link.streams.answers.load(Ordering::Relaxed));
                let reader = Reader { line, members, asked, responses, liveness, marks, probe: None };
                run(reader, requests, &mut orders, &mut table).await
            }
            Some(Ok(Err(error))) => Some(Fault::from(error)),
            Some(Err(_)) => Some(Fault::silent()),
            None => Some(Fault::closed()),
        };
        let Some(fault) = fault else { return };
        table.end(&fault);
        refuse_the_rest(orders, &fault).await;
    }
}

/// Tells those who sit down as the stream ends. An order that is just being sent is waited for, or it would stay in the channel, and whoever gave it would hear
/// nothing.
async fn refuse_the_rest(mut orders: UnboundedReceiver<Order>, fault: &Fault) {
    orders.close();
    while let Some(order) = orders.recv().await {
        if let Order::Watch(wanted) = order {
            wanted.refuse(fault.clone());
        }
    }
}

/// Why the stream is over; `None` where nobody is left who could care.
async fn run(reader: Reader, requests: WatchRequestSender, orders: &mut UnboundedReceiver<Order>, table: &mut Table) -> Option<Fault> {
    let table = Mutex::new(table);
    tokio::select! {
        fault = reader.read(&table) => Some(fault),
        () = write(requests, orders, &table) => None,
    }
}

/// Sends what is ordered until nobody is left. By itself, so that a server that takes nothing for a while does not keep anyone from reading what it sends.
async fn write(mut requests: WatchRequestSender, orders: &mut UnboundedReceiver<Order>, table: &Mutex<&mut Table>) {
    while let Some(order) = orders.recv().await {
        let sent = match order {
            Order::Watch(wanted) => {
                let (key, options) = wanted.request();
                table.lock().ask(wanted);
                requests.watch(key, Some(options)).await
            }
            Order::Cancel(id) => {
                table.lock().forget(id);
                requests.cancel(id).await
            }
            Order::Progress => requests.request_progress().await,
            Order::End => return,
        };
        // The stream has ended, and the reader knows why.
        if sent.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Moves what a server sends to whom it is for, at once: who does not read must not hold up what shares the connection.
struct Reader {
    line: Arc<Line>,
    members: Arc<Members>,
    asked: Asked,
    responses: WatchResponseStream,
    liveness: Liveness,
    marks: Receiver<Mark>,
    /// Reads what happened in the ranges that are watched.
    probe: Option<BoxFuture<'static, Result<Vec<Finding>, Fault>>>,
}

impl Reader {
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
                        self.members.accuse(&self.asked, &fault);
                        return fault;
                    }
                    let replies = table.lock().take(response, &mut self.liveness, Instant::now());
                    if self.liveness.answers() {
                        self.asked.link.streams.answers.store(true, Ordering::Relaxed);
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
                        self.line.order(Order::Progress);
                    }
                }
                probed = probed(&mut self.probe) => {
                    self.probe = None;
                    match probed {
                        Ok(findings) => {
                            let now = Instant::now();
                            let owing = table.lock().settle(&findings, now);
                            let as_of = findings.iter().map(|finding| finding.as_of).min();
                            self.liveness.probed(as_of.unwrap_or_default(), owing, now);
                        }
                        // Who does not answer this either tells nothing.
                        Err(fault) => {
                            self.members.accuse(&self.asked, &fault);
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
                        self.members.accuse(&self.asked, &fault);
                        return fault;
                    }
                },
            }
        }
    }

    /// Asks the other end by reading what happened, on the same connection.
    fn ask(&self, questions: Vec<Question>) -> BoxFuture<'static, Result<Vec<Finding>, Fault>> {
        let link = Arc::clone(&self.asked.link);
        let probe = async move { timeout(PROBE_WITHIN, probe(&link.watches, questions)).await.unwrap_or_else(|_| Err(Fault::silent())) };
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
            Reply::Watch(wanted) => self.line.order(Order::Watch(wanted)),
            Reply::Cancel(id) => self.line.order(Order::Cancel(id)),
            Reply::Retire(wanted, fault) => {
                self.line.retired.store(true, Ordering::Release);
                wanted.refuse(fault);
            }
        }
    }
}

/// The answer to what was asked, if anything was.
async fn probed(probe: &mut Option<BoxFuture<'static, Result<Vec<Finding>, Fault>>>) -> Result<Vec<Finding>, Fault> {
    match probe {
        Some(probe) => probe.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use coord_api::ErrorKind;
    use tokio::sync::oneshot;

    use super::super::Target;
    use super::*;

    #[tokio::test]
    async fn who_sits_down_on_a_stream_as_it_ends_is_told_why() {
        let (sender, orders) = unbounded_channel();
        let line = Arc::new(Line { orders: sender, taken: AtomicUsize::new(1), retired: AtomicBool::new(false) });
        let (tell, opened) = oneshot::channel();
        let target = Target { span: ("k".into(), None), after: None };
        line.take_seat().unwrap().ask(|seat| Wanted::new(target, seat, tell));
        refuse_the_rest(orders, &Fault::lease_lost()).await;
        assert_eq!(opened.await.unwrap().unwrap_err().kind, ErrorKind::LeaseLost);
        assert!(!line.is_open());
    }
}
