//! Keeps one instance registered: one mailbox, one entry in the store (R34, R37, R38).
//!
//! All that happens to an entry happens in its keeper, one thing after the other, so that a heal
//! under way and an unregister can never cross.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::handle::Leased;
use coord_api::registry::LeasedRegistration;
use coord_api::{
    Error, ErrorKind, Fence, FencingToken, HandleState, Loss, Lost, Outcome, RegisterOptions, Result,
    Revision, ServiceInstance, Takeover, Value,
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::entry::{EntryEvent, RegisteredEntry, Remains, Wanted};
use super::follower::Interest;
use super::{UNREGISTER, record};
use coord_core::session::{LeasedEntry, LossCell};
use coord_core::{Client, SingleFlight};

/// An order to a keeper. Bounded: one for each call under way, and one for each handle that was
/// dropped.
enum Command {
    /// Register this content, for a new handle.
    Register { content: Value, ttl: Duration, takeover: Takeover, answer: oneshot::Sender<Result<Handle>> },
    /// Replace the content, for the handle whose end this is.
    Update { owner: Arc<LossCell>, content: Value, answer: oneshot::Sender<Result<()>> },
    /// Remove the entry, if this is still its owner.
    Unregister { owner: Arc<LossCell>, answer: Option<oneshot::Sender<Unregistered>> },
}

/// How an unregister ended, and what may be left where it failed.
type Unregistered = std::result::Result<(), (Error, Remains)>;

/// An order that is being carried out.
enum PendingCommand {
    Register { previous: Option<Wanted>, answer: oneshot::Sender<Result<Handle>> },
    Update { answer: oneshot::Sender<Result<()>> },
}

impl PendingCommand {
    /// Resolves when nobody waits for a registration any more. An update is carried out all the
    /// same.
    async fn abandoned(pending: &mut Option<PendingCommand>) {
        match pending {
            Some(PendingCommand::Register { answer, .. }) => answer.closed().await,
            _ => std::future::pending().await,
        }
    }
}

/// How to reach a keeper, and what can be seen of it.
#[derive(Clone)]
pub(super) struct Mailbox {
    orders: mpsc::UnboundedSender<Command>,
    status: Arc<Mutex<Status>>,
}

/// What handles read.
#[derive(Default)]
struct Status {
    entry: Option<Arc<LeasedEntry>>,
    /// The last create revision; it stays readable while the registration heals.
    created: Revision,
    /// The end of the present owner's handle.
    owner: Option<Arc<LossCell>>,
}

impl Mailbox {
    pub(super) fn is_open(&self) -> bool {
        !self.orders.is_closed()
    }

    /// Ends the registration, because the provider was closed.
    pub(super) fn close(&self) {
        if let Some(owner) = &self.status.lock().owner {
            owner.set(Loss::Closed);
        }
    }

    /// Gives an order and waits for its answer; `None` when the keeper takes no more orders.
    ///
    /// That the keeper has ended is looked for besides: an order that is sent in the very moment in
    /// which the mailbox is dropped stays in the channel, unread, for as long as anyone may send.
    async fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, mut answered) = oneshot::channel();
        self.orders.send(order(answer)).ok()?;
        tokio::select! {
            biased;
            answer = &mut answered => answer.ok(),
            // A keeper answers before it ends.
            () = self.orders.closed() => answered.try_recv().ok(),
        }
    }

    /// Registers, for a new handle; `None` when the keeper takes no more orders.
    pub(super) async fn register(
        &self,
        content: Value,
        ttl: Duration,
        options: RegisterOptions,
    ) -> Option<Result<Handle>> {
        self.order(|answer| Command::Register { content, ttl, takeover: options.takeover, answer }).await
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").field("open", &self.is_open()).finish_non_exhaustive()
    }
}

/// What keeps an entry.
pub(super) struct Keeper {
    client: Client,
    mailbox: mpsc::UnboundedReceiver<Command>,
    /// For the handles that it makes; weak, so that the mailbox closes with the last handle.
    orders: mpsc::WeakUnboundedSender<Command>,
    status: Arc<Mutex<Status>>,
    owner: Option<Arc<LossCell>>,
    entry: RegisteredEntry,
    pending: Option<PendingCommand>,
}

/// Whether a keeper goes on.
type Next = ControlFlow<()>;

const GO_ON: Next = ControlFlow::Continue(());
const END: Next = ControlFlow::Break(());

impl Keeper {
    /// A keeper of `key`, and how to reach it. It takes orders once it [runs](Self::run).
    pub(super) fn new(client: Client, key: Bytes, name: String, interest: Interest) -> (Self, Mailbox) {
        let (orders, mailbox) = mpsc::unbounded_channel();
        let status = Arc::new(Mutex::new(Status::default()));
        let keeper = Keeper {
            entry: RegisteredEntry::new(client.clone(), key, name, interest),
            client,
            mailbox,
            orders: orders.downgrade(),
            status: Arc::clone(&status),
            owner: None,
            pending: None,
        };
        (keeper, Mailbox { orders, status })
    }

    /// Keeps the entry until its registration ends.
    pub(super) async fn run(mut self) {
        let client = self.client.clone();
        loop {
            let next = tokio::select! {
                biased;
                () = client.closing() => self.end(Loss::Closed),
                () = PendingCommand::abandoned(&mut self.pending) => self.on_abandoned().await,
                order = self.mailbox.recv(), if self.pending.is_none() => match order {
                    Some(order) => self.obey(order).await,
                    None => self.end(Loss::Released),
                },
                news = self.entry.next() => self.on_news(news).await,
            };
            if next.is_break() {
                return;
            }
            self.show();
        }
    }

    /// Shows the handles how the entry is.
    fn show(&self) {
        let mut status = self.status.lock();
        status.entry = self.entry.entry().cloned();
        if let Some(created) = status.entry.as_ref().and_then(|entry| entry.number()) {
            status.created = created;
        }
    }

    async fn obey(&mut self, order: Command) -> Next {
        match order {
            Command::Register { content, ttl, takeover, answer } => {
                let previous = self.entry.wanted().cloned();
                self.pending = Some(PendingCommand::Register { previous, answer });
                self.entry.want(Wanted { content, ttl }, Some(takeover));
                GO_ON
            }
            Command::Update { owner, content, answer } => {
                let Some(wanted) = self.entry.wanted().cloned().filter(|_| self.is_owner(&owner)) else {
                    let _ = answer.send(Err(ended("registry.update")));
                    return GO_ON;
                };
                self.pending = Some(PendingCommand::Update { answer });
                self.entry.want(Wanted { content, ..wanted }, None);
                GO_ON
            }
            Command::Unregister { owner, answer } => {
                if !self.is_owner(&owner) {
                    // A later handle of this provider owns the entry now.
                    answer.map(|answer| answer.send(Ok(())));
                    return GO_ON;
                }
                let remains = self.entry.give_up();
                let removed = remains.remove().await.map_err(|error| (error, remains));
                answer.map(|answer| answer.send(removed));
                self.end(Loss::Released)
            }
        }
    }

    async fn on_news(&mut self, news: EntryEvent) -> Next {
        match news {
            EntryEvent::Held => {
                self.show();
                match self.pending.take() {
                    Some(PendingCommand::Register { answer, .. }) => self.hand_over(answer),
                    Some(PendingCommand::Update { answer }) => {
                        let _ = answer.send(Ok(()));
                    }
                    None => {}
                }
                GO_ON
            }
            EntryEvent::Lost => GO_ON,
            EntryEvent::Foreign(reached_at) => {
                match self.pending.take() {
                    Some(PendingCommand::Register { answer, .. }) => {
                        let conflict = Error::new(
                            ErrorKind::Conflict,
                            "registry.register",
                            "a live foreign owner holds the id",
                        );
                        let _ = answer.send(Err(match reached_at {
                            Some(reached_at) => conflict.held_by(&reached_at),
                            None => conflict,
                        }));
                    }
                    Some(PendingCommand::Update { answer }) => {
                        let _ = answer.send(Err(ended("registry.update")));
                    }
                    None => {}
                }
                self.entry.superseded();
                self.end(Loss::Superseded)
            }
            EntryEvent::Failed(error) => self.on_failure(error).await,
        }
    }

    async fn on_failure(&mut self, error: Error) -> Next {
        self.entry.retry_later();
        // A lease that died under the write is no answer: the next attempt makes a new one.
        if error.kind() == ErrorKind::LeaseLost {
            return GO_ON;
        }
        let (kind, healing) = (error.kind(), self.pending.is_none());
        coord_home::event!(DEBUG, kind = %kind, healing, "registration could not be written");
        match self.pending.take() {
            Some(PendingCommand::Register { previous, answer }) => {
                let next = self.back_to(previous).await;
                let _ = answer.send(Err(error));
                self.end_if(next)
            }
            Some(PendingCommand::Update { answer }) => {
                // The content stays wanted, and is written as soon as the store answers.
                let _ = answer.send(Err(error.with_outcome(Outcome::Unknown)));
                GO_ON
            }
            None => GO_ON,
        }
    }

    /// The caller that registered went away.
    async fn on_abandoned(&mut self) -> Next {
        match self.pending.take() {
            Some(PendingCommand::Register { previous, .. }) => {
                let next = self.back_to(previous).await;
                self.end_if(next)
            }
            pending => {
                self.pending = pending;
                GO_ON
            }
        }
    }

    /// Undoes a registration that came to nothing: what was registered before stays, else nothing
    /// may be left, and the keeper is to end.
    async fn back_to(&mut self, previous: Option<Wanted>) -> Next {
        if let Some(previous) = previous {
            self.entry.want(previous, None);
            self.entry.retry_later();
            return GO_ON;
        }
        // A failure leaves a pending release behind.
        let _ = self.entry.give_up().remove().await;
        END
    }

    /// Ends, once it was answered, where that is what comes next.
    fn end_if(&mut self, next: Next) -> Next {
        match next {
            GO_ON => GO_ON,
            END => self.end(Loss::Released),
        }
    }

    /// Gives the registration to its new handle; the old one ends as superseded (R34).
    fn hand_over(&mut self, answer: oneshot::Sender<Result<Handle>>) {
        let owner = Arc::new(LossCell::default());
        self.status.lock().owner = Some(Arc::clone(&owner));
        if let Some(previous) = self.owner.replace(Arc::clone(&owner)) {
            previous.set(Loss::Superseded);
        }
        if let Some(orders) = self.orders.upgrade() {
            // A caller that went away drops the handle, and that unregisters.
            let _ = answer
                .send(Ok(Handle { mailbox: Mailbox { orders, status: Arc::clone(&self.status) }, owner }));
        }
    }

    fn is_owner(&self, owner: &Arc<LossCell>) -> bool {
        self.owner.as_ref().is_some_and(|present| Arc::ptr_eq(present, owner))
    }

    /// No order is taken any more, and the handle is over.
    fn end(&mut self, loss: Loss) -> Next {
        self.mailbox.close();
        self.status.lock().entry = None;
        if let Some(owner) = self.owner.take() {
            owner.set(loss);
        }
        END
    }
}

impl Drop for Keeper {
    /// Also when it ends by accident, with the runtime that it runs on or by a panic of the store:
    /// then nothing keeps the entry any more. Its entry is dropped with it, and so released by the
    /// session.
    fn drop(&mut self) {
        if self.owner.is_some() && !self.client.is_closed() {
            self.entry.deserted();
        }
        let _ = self.end(Loss::Expired);
    }
}

fn ended(operation: &'static str) -> Error {
    Error::lease_lost(operation, "the registration is over")
}

/// The owner's end of a registration.
pub(super) struct Handle {
    mailbox: Mailbox,
    owner: Arc<LossCell>,
}

impl Handle {
    /// The handle for this instance.
    pub(super) fn of(self, client: &Client, instance: ServiceInstance) -> RegisteredInstance {
        RegisteredInstance {
            client: client.clone(),
            name: instance.name,
            id: instance.id,
            handle: self,
            removal: Arc::default(),
            removing: SingleFlight::default(),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.owner.set(Loss::Released) {
            let _ = self
                .mailbox
                .orders
                .send(Command::Unregister { owner: Arc::clone(&self.owner), answer: None });
        }
    }
}

/// What is behind a [`Registration`](coord_api::Registration).
pub(super) struct RegisteredInstance {
    client: Client,
    name: String,
    id: String,
    handle: Handle,
    /// How far its removal has come.
    removal: Arc<Mutex<Removal>>,
    removing: SingleFlight<()>,
}

impl RegisteredInstance {
    /// `service/id`.
    fn path(&self) -> String {
        format!("{}/{}", self.name, self.id)
    }
}

#[async_trait]
impl Leased for RegisteredInstance {
    fn fencing_token(&self) -> FencingToken {
        self.handle.mailbox.status.lock().created.into()
    }

    fn fence(&self) -> Fence {
        let Some(entry) = self.handle.mailbox.status.lock().entry.clone() else {
            return self.client.broken_fence();
        };
        let owner = Arc::clone(&self.handle.owner);
        // A later handle of this provider may have the entry, which stays as it is.
        entry.fence().held_while(move || owner.get().is_none())
    }

    fn state(&self) -> HandleState {
        if let Some(loss) = self.handle.owner.get() {
            return HandleState::Ended(loss);
        }
        let entry = self.handle.mailbox.status.lock().entry.clone();
        match entry.is_some_and(|entry| entry.state().is_held()) {
            true => HandleState::Held,
            false => HandleState::Lost,
        }
    }

    fn ttl(&self) -> Duration {
        let entry = self.handle.mailbox.status.lock().entry.clone();
        match (self.state(), entry) {
            (HandleState::Held, Some(entry)) => entry.ttl(),
            _ => Duration::ZERO,
        }
    }

    fn lost(&self) -> Lost {
        self.handle.owner.lost()
    }

    async fn release(&self) -> Result<()> {
        let remove = self.removing.run(self.client.home(), UNREGISTER, || {
            remove(
                self.handle.mailbox.clone(),
                Arc::clone(&self.handle.owner),
                Arc::clone(&self.removal),
                self.client.is_closed(),
            )
        });
        self.client.run_on(UNREGISTER, &self.path(), Outcome::Unknown, remove).await
    }
}

/// How far the removal of a registration has come.
#[derive(Debug, Default)]
enum Removal {
    /// The keeper has not been asked.
    #[default]
    NotAsked,
    /// It failed, and the keeper is over: what may be left.
    Failed(Arc<Remains>),
    Done,
}

/// Has the keeper remove its entry. What that one could not remove is asked of the store again, by
/// each call.
async fn remove(
    mailbox: Mailbox,
    owner: Arc<LossCell>,
    removal: Arc<Mutex<Removal>>,
    closed: bool,
) -> Result<()> {
    let failed = match &*removal.lock() {
        Removal::Done => return Ok(()),
        Removal::Failed(remains) => Some(Arc::clone(remains)),
        Removal::NotAsked => None,
    };
    if let Some(remains) = failed {
        remains.remove().await?;
        *removal.lock() = Removal::Done;
        return Ok(());
    }
    let answer =
        mailbox.order(|answer| Command::Unregister { owner: Arc::clone(&owner), answer: Some(answer) }).await;
    let result = match (answer, owner.get()) {
        (Some(Ok(())), _) => Ok(()),
        (Some(Err((error, remains))), _) => {
            *removal.lock() = Removal::Failed(Arc::new(remains));
            return Err(error);
        }
        (None, _) if closed => Err(Error::closed(UNREGISTER)),
        // The keeper ended by accident.
        (None, Some(Loss::Expired)) => {
            let error = Error::new(
                ErrorKind::Unavailable,
                UNREGISTER,
                "what kept it registered is gone; its session removes the entry, or it expires",
            );
            Err(error.with_outcome(Outcome::Unknown))
        }
        // Superseded: nothing of this handle is left.
        (None, _) => Ok(()),
    };
    if result.is_ok() {
        *removal.lock() = Removal::Done;
    }
    result
}

#[async_trait]
impl LeasedRegistration for RegisteredInstance {
    async fn update(&self, instance: ServiceInstance) -> Result<()> {
        const OPERATION: &str = "registry.update";
        instance.validate(OPERATION)?;
        if instance.name != self.name || instance.id != self.id {
            return Err(Error::invalid_argument(OPERATION, "another name or id than the registration's")
                .about(&self.path()));
        }
        let content = record::encode(OPERATION, &instance).map_err(|error| error.about(&self.path()))?;
        let owner = Arc::clone(&self.handle.owner);
        let answered = async {
            let answer = self.handle.mailbox.order(|answer| Command::Update { owner, content, answer }).await;
            answer.unwrap_or_else(|| Err(ended(OPERATION)))
        };
        self.client.run_on(OPERATION, &self.path(), Outcome::Unknown, answered).await
    }
}

impl fmt::Debug for RegisteredInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisteredInstance")
            .field("name", &self.name)
            .field("id", &self.id)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_order_that_a_keeper_leaves_unread_as_it_ends_is_given_up() {
        let (orders, mut unread) = mpsc::unbounded_channel();
        let mailbox = Mailbox { orders, status: Arc::default() };
        let update = mailbox.order(|answer| Command::Update {
            owner: Arc::default(),
            content: Value::from("v"),
            answer,
        });
        let (answer, ()) = tokio::join!(timeout(Duration::from_secs(1), update), async { unread.close() });
        assert_eq!(
            answer.expect("it is waited for").map(|answer| answer.map_err(|error| error.kind())),
            None
        );
        assert_eq!(unread.len(), 1, "the order is there, and so is the way to answer it");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_answered_before_the_end_counts() {
        let (orders, mut read) = mpsc::unbounded_channel();
        let mailbox = Mailbox { orders, status: Arc::default() };
        let update = mailbox.order(|answer| Command::Update {
            owner: Arc::default(),
            content: Value::from("v"),
            answer,
        });
        let keeper = async {
            let Some(Command::Update { answer, .. }) = read.recv().await else {
                panic!("an update was ordered")
            };
            answer.send(Ok(())).unwrap();
            read.close();
        };
        let (answer, ()) = tokio::join!(update, keeper);
        assert!(matches!(answer, Some(Ok(()))));
    }
}
