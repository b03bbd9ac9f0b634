//! Users over a store (G19): what a token opens, who races, what is in doubt, and what is known of
//! it in front of the store.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{Op, Range, RangeReply, Span, Store, StoreWatch, Txn, TxnReply};
use coord_api::{Error, ErrorKind, Revision};
use coord_core::Home;
use coord_global::model::{Names, RelPath, SpaceName};
use coord_global::simulation::{Fate, Faulty};
use coord_global::users::{
    AUDIT, FoldedPath, GRACE, Grant, Identity, Known, Prefix, RECHECK, Refused, Role, Secret, Spaces,
    StoreUsers, TokenLabel, UserId, Users, UsersError,
};
use coord_memory::MemoryStore;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, advance, sleep, timeout};

const MINUTE: Duration = Duration::from_secs(60);

/// How a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Sound,
    /// It cannot be reached.
    Down,
    /// It does not answer.
    Silent,
    /// A transaction is answered when it is sound again.
    Slow,
}

/// A store that can be out of reach, and whose watches can break or be deaf.
#[derive(Debug)]
struct Link {
    store: MemoryStore,
    state: watch::Sender<State>,
    /// Watches that were opened before the last break end.
    breaks: watch::Sender<()>,
    deaf: watch::Sender<bool>,
    requests: AtomicUsize,
}

impl Link {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            store: MemoryStore::new_in(Home::callers()),
            state: watch::Sender::new(State::Sound),
            breaks: watch::Sender::new(()),
            deaf: watch::Sender::new(false),
            requests: AtomicUsize::new(0),
        })
    }

    fn set(&self, state: State) {
        self.state.send_replace(state);
        if matches!(state, State::Down | State::Silent) {
            self.breaks.send_replace(());
        }
    }

    fn requests(&self) -> usize {
        self.requests.swap(0, Ordering::SeqCst)
    }

    async fn reach(&self) -> coord_api::Result<()> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let state = *self.state.borrow();
        match state {
            State::Down => Err(Error::new(ErrorKind::Unavailable, "store", "it is out of reach")),
            State::Silent => std::future::pending().await,
            State::Sound | State::Slow => Ok(()),
        }
    }

    async fn answer<T>(&self, answer: T) -> T {
        let _ = self.state.subscribe().wait_for(|state| *state != State::Slow).await;
        answer
    }
}

#[async_trait]
impl Store for Link {
    async fn range(&self, range: Range) -> coord_api::Result<RangeReply> {
        self.reach().await?;
        self.store.range(range).await
    }

    async fn txn(&self, txn: Txn) -> coord_api::Result<TxnReply> {
        self.reach().await?;
        self.answer(self.store.txn(txn).await).await
    }

    async fn watch(&self, span: Span, after: Option<Revision>) -> coord_api::Result<StoreWatch> {
        self.reach().await?;
        let watch = self.store.watch(span, after).await?;
        let (mut breaks, deaf) = (self.breaks.subscribe(), self.deaf.subscribe());
        let broken = async move { drop(breaks.changed().await) };
        let armed = watch.armed();
        let events = watch.then(move |event| {
            let mut deaf = deaf.clone();
            async move {
                let _ = deaf.wait_for(|deaf| !deaf).await;
                event
            }
        });
        Ok(StoreWatch::new(armed, events.take_until(Box::pin(broken))))
    }

    coord_api::forward_store! {
        self => self.store;
        grant_lease, keep_alive, lease, revoke_lease, status, close
    }
}

fn user(id: &str) -> UserId {
    UserId::new(id).unwrap()
}

fn label(text: &str) -> TokenLabel {
    TokenLabel::new(text).unwrap()
}

fn main_space() -> SpaceName {
    SpaceName::new("main").unwrap()
}

fn path(text: &str) -> FoldedPath {
    FoldedPath::new(&RelPath::new(text).unwrap(), Names::Folded)
}

fn writer(of: &UserId, prefix: &str) -> Grant {
    let prefix = Prefix::new(prefix, Names::Folded).unwrap();
    Grant::new(of.clone(), Spaces::One(main_space()), prefix, Role::Writer).unwrap()
}

/// A clock, and what sets it.
fn clock() -> (coord_global::ledger::Clock, Arc<AtomicU64>) {
    let now = Arc::new(AtomicU64::new(1_000));
    let told = Arc::clone(&now);
    (Arc::new(move || told.load(Ordering::SeqCst)), now)
}

fn over(store: &Arc<impl Store>) -> StoreUsers {
    let store: Arc<dyn Store> = Arc::<_>::clone(store) as _;
    StoreUsers::with_clock(store, clock().0)
}

fn memory() -> Arc<Faulty> {
    Faulty::sound(Arc::new(MemoryStore::new()))
}

#[track_caller]
fn refused(answer: Result<Identity, UsersError>) -> Refused {
    match answer.unwrap_err() {
        UsersError::Unauthenticated { why } => why,
        other => panic!("{other}"),
    }
}

#[track_caller]
fn unavailable(answer: Result<Identity, UsersError>) {
    let error = answer.unwrap_err();
    assert!(matches!(error, UsersError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn users_come_and_go() {
    let users = over(&memory());
    let ada = user("ada");
    assert!(matches!(users.user(&ada).await, Err(UsersError::NotFound { .. })));
    assert!(matches!(users.set_disabled(&ada, true).await, Err(UsersError::NotFound { .. })));
    assert!(matches!(users.grant(&writer(&ada, "")).await, Err(UsersError::NotFound { .. })));
    let issued = users.issue_token(&ada, &label("x"), None).await;
    assert!(matches!(issued, Err(UsersError::NotFound { .. })));
    let made = users.create_user(&ada, "Ada").await.unwrap();
    assert_eq!(users.create_user(&ada, "Ada").await.unwrap(), made);
    assert!(matches!(users.create_user(&ada, "Eve").await, Err(UsersError::AlreadyExists { .. })));
    assert!(matches!(users.create_user(&user("eve"), "").await, Err(UsersError::InvalidArgument(_))));
    for id in ["bob", "cleo", "ada-1"] {
        users.create_user(&user(id), id).await.unwrap();
    }
    let mut paged = Vec::new();
    let mut after = None;
    loop {
        let page = users.users(after.as_ref(), 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        paged.extend(page.into_iter().map(|user| user.id.to_string()));
    }
    assert_eq!(paged, ["ada", "ada-1", "bob", "cleo"]);
    assert!(users.set_disabled(&ada, true).await.unwrap().disabled);
    assert!(users.user(&ada).await.unwrap().disabled);
    assert!(!users.set_disabled(&ada, false).await.unwrap().disabled);
    users.grant(&writer(&ada, "docs")).await.unwrap();
    users.grant(&writer(&ada, "docs")).await.unwrap();
    users.grant(&writer(&user("ada-1"), "other")).await.unwrap();
    assert_eq!(users.grants(&ada).await.unwrap(), [writer(&ada, "docs")]);
    assert!(users.revoke_grant(&writer(&ada, "docs")).await.unwrap());
    assert!(!users.revoke_grant(&writer(&ada, "docs")).await.unwrap());
    assert_eq!(users.grants(&ada).await.unwrap(), []);
    users.delete_user(&ada).await.unwrap();
    users.delete_user(&ada).await.unwrap();
    assert!(matches!(users.user(&ada).await, Err(UsersError::NotFound { .. })));
    assert_eq!(users.grants(&user("ada-1")).await.unwrap().len(), 1);
}

/// Whatever the reason, a caller is told one and the same.
#[tokio::test]
async fn no_token_no_access() {
    let (clock, now) = clock();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let users = StoreUsers::with_clock(store, clock);
    let ada = user("ada");
    users.create_user(&ada, "Ada").await.unwrap();
    users.grant(&writer(&ada, "docs")).await.unwrap();
    let (secret, id) = users.issue_token(&ada, &label("laptop"), Some(2_000)).await.unwrap();
    let (other, other_id) = users.issue_token(&ada, &label("phone"), None).await.unwrap();
    assert_eq!(users.tokens(&ada).await.unwrap().len(), 2);
    let too_late = users.issue_token(&ada, &label("late"), Some(1_000)).await;
    assert!(matches!(too_late, Err(UsersError::InvalidArgument(_))));

    let caller = users.authenticate(&secret).await.unwrap();
    assert_eq!((caller.user(), caller.token(), caller.label().as_str()), (&ada, &id, "laptop"));
    assert!(caller.may_write(&main_space(), &path("docs/x")));
    assert!(!caller.may_read(&main_space(), &path("docs2/x")));
    assert_eq!(users.identity(&id).await.unwrap(), caller);

    let mut texts = BTreeSet::new();
    let mut told = |answer: Result<Identity, UsersError>| {
        texts.insert(answer.as_ref().unwrap_err().to_string());
        refused(answer)
    };
    assert_eq!(told(users.authenticate(&Secret::random().unwrap()).await), Refused::Unknown);
    users.set_disabled(&ada, true).await.unwrap();
    assert_eq!(told(users.authenticate(&secret).await), Refused::Disabled);
    users.set_disabled(&ada, false).await.unwrap();
    users.authenticate(&secret).await.unwrap();
    now.store(2_000, Ordering::SeqCst);
    assert_eq!(told(users.authenticate(&secret).await), Refused::Expired);
    users.authenticate(&other).await.unwrap();
    assert!(users.revoke_token(&other_id).await.unwrap());
    assert!(!users.revoke_token(&other_id).await.unwrap());
    assert_eq!(told(users.authenticate(&other).await), Refused::Unknown);
    texts.insert(Secret::new("hunter2").unwrap_err().to_string());
    assert_eq!(texts.len(), 1, "{texts:?}");
}

/// Does it again until it is done.
macro_rules! again {
    ($call:expr) => {
        loop {
            match $call.await {
                Ok(done) => break done,
                Err(UsersError::Store(error)) => assert_eq!(error.kind(), ErrorKind::Timeout),
                Err(other) => panic!("{other}"),
            }
        }
    };
}

/// Every second answer is lost, or every second request, or both: what is done again is Ok.
#[tokio::test]
async fn what_is_in_doubt_is_done_again() {
    let fates = [
        &[Fate::AnswerLost, Fate::Arrives][..],
        &[Fate::Lost, Fate::Arrives],
        &[Fate::Lost, Fate::AnswerLost, Fate::Arrives],
        &[Fate::AnswerLost, Fate::Lost, Fate::Arrives],
        &[Fate::AnswerLost, Fate::AnswerLost, Fate::AnswerLost, Fate::Arrives],
    ];
    for fates in fates {
        let store = memory();
        let users = over(&store);
        let mut fate = fates.iter().copied().cycle();
        store.set(move || fate.next().unwrap());
        let ada = user("ada");
        let (admin, _) = again!(users.first_admin(&user("root")));
        again!(users.create_user(&ada, "Ada"));
        again!(users.grant(&writer(&ada, "docs")));
        again!(users.grant(&writer(&ada, "more")));
        again!(users.revoke_grant(&writer(&ada, "more")));
        let (secret, id) = again!(users.issue_token(&ada, &label("laptop"), None));
        let (gone, gone_id) = again!(users.issue_token(&ada, &label("gone"), None));
        again!(users.revoke_token(&gone_id));
        again!(users.set_disabled(&ada, true));
        again!(users.set_disabled(&ada, false));
        assert_eq!(users.grants(&ada).await.unwrap(), [writer(&ada, "docs")], "{fates:?}");
        let tokens = users.tokens(&ada).await.unwrap();
        assert_eq!(tokens.iter().map(|token| token.id).collect::<Vec<_>>(), [id], "{fates:?}");
        assert!(users.authenticate(&admin).await.unwrap().is_admin());
        users.authenticate(&secret).await.unwrap();
        assert_eq!(refused(users.authenticate(&gone).await), Refused::Unknown);
        again!(users.delete_user(&ada));
        assert_eq!(refused(users.authenticate(&secret).await), Refused::Unknown);
        assert_eq!(users.grants(&ada).await.unwrap(), []);
    }
}

/// What arrives late does not undo what was done since.
#[tokio::test]
async fn what_is_late_does_not_come_after_what_was_taken_back() {
    let store = memory();
    let users = over(&store);
    let ada = user("ada");
    users.create_user(&ada, "Ada").await.unwrap();
    let (secret, _) = users.issue_token(&ada, &label("laptop"), None).await.unwrap();
    let late = || store.set(|| Fate::Late);
    let sound = || store.set(|| Fate::Arrives);

    late();
    users.grant(&writer(&ada, "docs")).await.unwrap_err();
    sound();
    assert!(!users.revoke_grant(&writer(&ada, "docs")).await.unwrap());
    assert_eq!(store.arrive().await.unwrap(), 0);
    assert_eq!(users.grants(&ada).await.unwrap(), []);

    late();
    users.revoke_grant(&writer(&ada, "docs")).await.unwrap_err();
    sound();
    users.grant(&writer(&ada, "docs")).await.unwrap();
    assert_eq!(store.arrive().await.unwrap(), 0);
    assert_eq!(users.grants(&ada).await.unwrap(), [writer(&ada, "docs")]);
    users.revoke_grant(&writer(&ada, "docs")).await.unwrap();

    users.set_disabled(&ada, true).await.unwrap();
    late();
    users.set_disabled(&ada, false).await.unwrap_err();
    sound();
    users.set_disabled(&ada, true).await.unwrap();
    assert_eq!(store.arrive().await.unwrap(), 0);
    assert_eq!(refused(users.authenticate(&secret).await), Refused::Disabled);

    late();
    users.grant(&writer(&ada, "docs")).await.unwrap_err();
    users.issue_token(&ada, &label("late"), None).await.unwrap_err();
    sound();
    users.delete_user(&ada).await.unwrap();
    users.create_user(&ada, "Another Ada").await.unwrap();
    assert_eq!(store.arrive().await.unwrap(), 0);
    assert_eq!(users.grants(&ada).await.unwrap(), []);
    assert_eq!(users.tokens(&ada).await.unwrap(), []);
}

/// A deletion that is cut short at any of its writes: the user has nothing any more, and who is
/// made under that id later has nothing of it.
#[tokio::test]
async fn a_deletion_that_is_cut_short_leaves_nothing_that_opens() {
    for (after, fate) in (0..6).flat_map(|after| [(after, Fate::Lost), (after, Fate::AnswerLost)]) {
        let store = memory();
        let users = over(&store);
        let ada = user("ada");
        users.create_user(&ada, "Ada").await.unwrap();
        let mut secrets = Vec::new();
        // More than are deleted at once.
        for n in 0..150 {
            secrets.push(users.issue_token(&ada, &label("n"), None).await.unwrap().0);
            users.grant(&writer(&ada, &n.to_string())).await.unwrap();
        }
        let mut writes = 0;
        store.set(move || {
            writes += 1;
            if writes > after { fate } else { Fate::Arrives }
        });
        let cut = users.delete_user(&ada).await;
        store.set(|| Fate::Arrives);
        assert_eq!(cut.is_ok(), after == 5, "{after}");
        let nothing_written = after == 0 && fate == Fate::Lost;
        for secret in &secrets {
            assert_eq!(users.authenticate(secret).await.is_ok(), nothing_written, "{after}");
        }
        if nothing_written {
            continue;
        }
        if users.user(&ada).await.is_ok() {
            assert!(users.user(&ada).await.unwrap().disabled);
            assert!(users.issue_token(&ada, &label("x"), None).await.is_err());
            assert!(users.grant(&writer(&ada, "x")).await.is_err());
        }
        // Its name is another one: it is another user.
        assert!(!users.create_user(&ada, "Another Ada").await.unwrap().disabled);
        assert_eq!(users.tokens(&ada).await.unwrap(), []);
        assert_eq!(users.grants(&ada).await.unwrap(), []);
        for secret in &secrets {
            assert_eq!(refused(users.authenticate(secret).await), Refused::Unknown);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_first_admins_one_wins() {
    for round in 0..50 {
        let store = memory();
        let mut tasks = Vec::new();
        for id in ["ada", if round % 2 == 0 { "ada" } else { "eve" }] {
            let users = over(&store);
            tasks.push(tokio::spawn(async move { users.first_admin(&user(id)).await }));
        }
        let users = over(&store);
        let mut won = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                Ok((secret, _)) => won.push(secret),
                Err(UsersError::AlreadyExists { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(won.len(), 1, "round {round}");
        let admin = users.authenticate(&won[0]).await.unwrap();
        assert!(admin.is_admin());
        let mut admins = 0;
        for user in users.users(None, 10).await.unwrap() {
            admins += users.grants(&user.id).await.unwrap().len();
        }
        assert_eq!(admins, 1, "round {round}");
        // Only where there is none.
        let another = users.first_admin(&user("later")).await;
        assert!(matches!(another, Err(UsersError::AlreadyExists { .. })));
        assert!(users.revoke_grant(&Grant::admin(admin.user().clone())).await.unwrap());
        users.first_admin(&user("later")).await.unwrap();
    }
}

/// Others change the same user all the time: nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn grants_that_race_are_all_there() {
    let store = memory();
    let ada = user("ada");
    over(&store).create_user(&ada, "Ada").await.unwrap();
    let mut tasks = Vec::new();
    for task in 0..3 {
        let (users, ada) = (over(&store), ada.clone());
        tasks.push(tokio::spawn(async move {
            for n in 0..20 {
                let grant = writer(&ada, &format!("{task}-{n}"));
                while let Err(error) = users.grant(&grant).await {
                    assert!(matches!(error, UsersError::Contended { .. }), "{error}");
                }
                users.issue_token(&ada, &label("n"), None).await.map(drop).or_else(contended).unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(over(&store).grants(&ada).await.unwrap().len(), 60);
}

fn contended(error: UsersError) -> Result<(), UsersError> {
    if matches!(error, UsersError::Contended { .. }) { Ok(()) } else { Err(error) }
}

/// An instance: what it knows, of users in a store over a link of its own.
struct Instance {
    link: Arc<Link>,
    /// Another instance, whose link is sound.
    others: StoreUsers,
    known: Known,
    ada: UserId,
    secret: Secret,
    id: coord_global::users::TokenId,
    clock: Arc<AtomicU64>,
}

impl Instance {
    async fn new() -> Self {
        let link = Link::new();
        let others = over(&Arc::new(link.store.clone()));
        let ada = user("ada");
        others.create_user(&ada, "Ada").await.unwrap();
        others.grant(&writer(&ada, "docs")).await.unwrap();
        let (secret, id) = others.issue_token(&ada, &label("laptop"), None).await.unwrap();
        let store: Arc<dyn Store> = Arc::<Link>::clone(&link);
        let (told, clock) = clock();
        let users = StoreUsers::with_clock(store, Arc::clone(&told));
        let known = Known::with_clock(Arc::new(users), told);
        // Until its watch is armed.
        sleep(Duration::from_millis(10)).await;
        Self { link, others, known, ada, secret, id, clock }
    }

    async fn ask(&self) -> Result<Identity, UsersError> {
        self.known.authenticate(&self.secret).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_not_asked_for_again() {
    let it = Instance::new().await;
    let first = it.ask().await.unwrap();
    it.link.requests();
    for _ in 0..100 {
        assert_eq!(it.ask().await.unwrap(), first);
    }
    assert_eq!(it.link.requests(), 0);
    sleep(RECHECK).await;
    assert_eq!(it.ask().await.unwrap(), first);
    assert_eq!(it.link.requests(), 2);
    // Nobody becomes known by not being known.
    for _ in 0..2 {
        assert_eq!(refused(it.known.authenticate(&Secret::random().unwrap()).await), Refused::Unknown);
    }
    assert_eq!(it.link.requests(), 2);
}

/// Whatever takes a right away is known within moments, by calls that go on for long too.
#[tokio::test(start_paused = true)]
async fn a_revocation_is_known_within_moments() {
    for what in ["token", "user", "deleted", "grant", "grant by hand", "granted"] {
        let it = Instance::new().await;
        let before = it.ask().await.unwrap();
        let long = tokio::spawn(it.known.revoked(&before));
        let since = Instant::now();
        sleep(Duration::from_secs(5)).await;
        assert!(!long.is_finished(), "{what}");
        match what {
            "token" => assert!(it.others.revoke_token(&it.id).await.unwrap()),
            "user" => drop(it.others.set_disabled(&it.ada, true).await.unwrap()),
            "deleted" => it.others.delete_user(&it.ada).await.unwrap(),
            "grant" => assert!(it.others.revoke_grant(&writer(&it.ada, "docs")).await.unwrap()),
            "grant by hand" => {
                let key = "/global/grant/ada/main/docs//writer";
                let reply = it.link.store.txn(Txn::new().then(Op::delete(key))).await.unwrap();
                assert!(reply.try_existed(0).unwrap());
            }
            _ => it.others.grant(&writer(&it.ada, "more")).await.unwrap(),
        }
        long.await.unwrap();
        assert!(since.elapsed() < Duration::from_secs(6), "{what}");
        match it.known.identity(&it.id).await {
            Ok(after) => {
                assert!(what.starts_with("grant"));
                assert_ne!(after, before);
                assert_eq!(after.may_write(&main_space(), &path("docs/x")), what == "granted");
                // What is waited for is what it was, not what it is.
                it.known.revoked(&before).now_or_never().unwrap();
                assert!(it.known.revoked(&after).now_or_never().is_none());
            }
            Err(error) => assert!(matches!(error, UsersError::Unauthenticated { .. }), "{what}: {error}"),
        }
    }
}

/// A watch that tells nothing, and does not end: 30 s at most, for long calls too.
#[tokio::test(start_paused = true)]
async fn a_revocation_that_nobody_tells_is_known_after_30_seconds() {
    for start in [0, 7, 19] {
        let it = Instance::new().await;
        it.link.deaf.send_replace(true);
        sleep(Duration::from_secs(start)).await;
        let before = it.ask().await.unwrap();
        let asked = Instant::now();
        it.others.revoke_token(&it.id).await.unwrap();
        sleep(RECHECK - Duration::from_millis(1)).await;
        // Nobody waits, and so nobody looked: this is what the promise is about.
        it.ask().await.unwrap();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(refused(it.ask().await), Refused::Unknown);
        assert!(asked.elapsed() <= RECHECK);
        it.known.revoked(&before).now_or_never().unwrap();

        let (secret, id) = it.others.issue_token(&it.ada, &label("other"), None).await.unwrap();
        let before = it.known.authenticate(&secret).await.unwrap();
        let long = tokio::spawn(it.known.revoked(&before));
        sleep(Duration::from_secs(100)).await;
        assert!(!long.is_finished());
        let since = Instant::now();
        it.others.revoke_token(&id).await.unwrap();
        long.await.unwrap();
        assert!(since.elapsed() <= RECHECK, "{:?}", since.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn out_of_reach_known_tokens_go_on_for_5_minutes() {
    for state in [State::Down, State::Silent] {
        let it = Instance::new().await;
        let before = it.ask().await.unwrap();
        let since = Instant::now();
        let long = tokio::spawn(it.known.revoked(&before));
        let other = it.others.issue_token(&it.ada, &label("other"), None).await.unwrap().0;
        it.link.set(state);
        // Who is not known is not let in, and not told that there is no such token.
        unavailable(it.known.authenticate(&other).await);
        unavailable(it.known.authenticate(&Secret::random().unwrap()).await);
        // The reader of a long call has been looked at again; take the later of the two.
        while since.elapsed() < GRACE - Duration::from_secs(10) {
            assert_eq!(it.ask().await.unwrap(), before, "{state:?}");
            assert!(!long.is_finished());
            advance(Duration::from_secs(1)).await;
        }
        timeout(Duration::from_secs(11), long).await.unwrap().unwrap();
        assert_eq!(since.elapsed().as_secs(), GRACE.as_secs(), "{state:?}");
        unavailable(it.ask().await);
        unavailable(it.known.identity(&it.id).await);
        it.link.set(State::Sound);
        assert_eq!(it.ask().await.unwrap(), before);
    }
}

/// Of those who are known one asks a store that does not answer, and nobody else waits for it.
#[tokio::test(start_paused = true)]
async fn a_silent_store_holds_up_one_call_at_a_time() {
    let it = Instance::new().await;
    it.ask().await.unwrap();
    it.link.set(State::Silent);
    sleep(MINUTE).await;
    it.ask().await.unwrap();
    let since = Instant::now();
    sleep(Duration::from_secs(2)).await;
    let calls = futures_util::future::join_all((0..100).map(|_| async {
        it.ask().await.unwrap();
        since.elapsed().as_secs()
    }));
    let late = calls.await.into_iter().filter(|at| *at > 2).count();
    assert_eq!(late, 1);
}

/// What was taken back while nobody could be told is known when the store is back.
#[tokio::test(start_paused = true)]
async fn what_was_revoked_while_out_of_reach_is_known_when_it_is_back() {
    let it = Instance::new().await;
    let before = it.ask().await.unwrap();
    let long = tokio::spawn(it.known.revoked(&before));
    it.link.set(State::Down);
    sleep(MINUTE).await;
    it.others.revoke_token(&it.id).await.unwrap();
    it.ask().await.unwrap();
    assert!(!long.is_finished());
    it.link.set(State::Sound);
    let since = Instant::now();
    long.await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(3));
    assert_eq!(refused(it.ask().await), Refused::Unknown);
}

/// A watch that breaks while the store is there is opened again, and what it missed is looked for.
#[tokio::test(start_paused = true)]
async fn what_a_broken_watch_missed_is_looked_for() {
    let it = Instance::new().await;
    let before = it.ask().await.unwrap();
    let long = tokio::spawn(it.known.revoked(&before));
    sleep(Duration::from_secs(1)).await;
    it.link.breaks.send_replace(());
    tokio::task::yield_now().await;
    it.others.revoke_token(&it.id).await.unwrap();
    let since = Instant::now();
    long.await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(3));
    assert_eq!(refused(it.ask().await), Refused::Unknown);
}

/// An answer that was on its way when something changed is not remembered.
#[tokio::test(start_paused = true)]
async fn an_answer_from_before_a_change_is_not_remembered() {
    let it = Instance::new().await;
    it.link.set(State::Slow);
    let asking = async { it.ask().await.unwrap() };
    let meanwhile = async {
        sleep(Duration::from_secs(1)).await;
        it.others.revoke_token(&it.id).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        it.link.set(State::Sound);
    };
    let (before, ()) = tokio::join!(asking, meanwhile);
    // It was so when it was asked for.
    assert_eq!(before.user(), &it.ada);
    it.known.revoked(&before).now_or_never().unwrap();
    assert_eq!(refused(it.ask().await), Refused::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_known_token_ends_at_its_time() {
    let it = Instance::new().await;
    let (secret, _) = it.others.issue_token(&it.ada, &label("short"), Some(3_000)).await.unwrap();
    // That it was made is a change too.
    sleep(Duration::from_millis(10)).await;
    let before = it.known.authenticate(&secret).await.unwrap();
    let long = tokio::spawn(it.known.revoked(&before));
    sleep(Duration::from_millis(1_500)).await;
    it.clock.store(2_500, Ordering::SeqCst);
    it.known.authenticate(&secret).await.unwrap();
    assert!(!long.is_finished());
    it.clock.store(3_000, Ordering::SeqCst);
    // Out of reach or not.
    it.link.set(State::Down);
    unavailable(it.known.authenticate(&secret).await);
    it.link.set(State::Sound);
    assert_eq!(refused(it.known.authenticate(&secret).await), Refused::Expired);
    timeout(Duration::from_secs(10), long).await.unwrap().unwrap();
}

/// The task is gone with the runtime that it was in: the users are asked each time, and nobody is
/// let in without.
#[tokio::test]
async fn without_its_task_nothing_is_known() {
    let elsewhere =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let link = Link::new();
    let users = over(&link);
    let (secret, id) = users.first_admin(&user("ada")).await.unwrap();
    let known = {
        let _entered = elsewhere.enter();
        Known::new(Arc::new(users.clone()))
    };
    let before = known.authenticate(&secret).await.unwrap();
    let long = tokio::spawn(known.revoked(&before));
    elsewhere.shutdown_background();
    timeout(Duration::from_secs(10), long).await.unwrap().unwrap();
    link.requests();
    for _ in 0..3 {
        assert!(known.authenticate(&secret).await.unwrap().is_admin());
    }
    assert_eq!(link.requests(), 6);
    // It comes now and then, so that who waits for it looks.
    tokio::time::pause();
    let since = Instant::now();
    known.revoked(&before).await;
    assert!(since.elapsed() >= Duration::from_secs(5));
    link.set(State::Down);
    unavailable(known.authenticate(&secret).await);
    link.set(State::Sound);
    users.revoke_token(&id).await.unwrap();
    assert_eq!(refused(known.authenticate(&secret).await), Refused::Unknown);
}

/// The task ends with its owner, and those who wait with it.
#[tokio::test(start_paused = true)]
async fn the_task_ends_with_its_owner() {
    let it = Instance::new().await;
    let before = it.ask().await.unwrap();
    let long = tokio::spawn(it.known.revoked(&before));
    tokio::task::yield_now().await;
    drop(it.known);
    timeout(Duration::from_secs(1), long).await.unwrap().unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(it.link.breaks.receiver_count(), 0);
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// No text, no JSON, no log and no store has a token; the audit has every decision.
#[tokio::test(start_paused = true)]
async fn nothing_shows_a_token() {
    let log = Log::default();
    let sink = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || sink.clone())
        .finish();
    // With one subscriber alone, what a thread without it logs first is off for all.
    let _second = tracing::Dispatch::new(tracing_subscriber::fmt().with_writer(io::sink).finish());
    let _guard = tracing::subscriber::set_default(subscriber);

    let it = Instance::new().await;
    let (admin, admin_id) = it.others.first_admin(&user("root")).await.unwrap();
    let stranger = Secret::random().unwrap();
    let mut shown = String::new();
    let identity = it.ask().await.unwrap();
    it.ask().await.unwrap();
    shown += &format!("{identity:?} {:?} {:#?} {:?}", it.known, it.others, it.secret);
    shown += &format!("{:?}", it.known.authenticate(&admin).await.unwrap());
    let mut errors = vec![
        it.known.authenticate(&stranger).await.unwrap_err(),
        it.others.authenticate(&stranger).await.unwrap_err(),
        Secret::new(&format!("{}0", it.secret.expose())).unwrap_err(),
        Secret::new(&it.secret.expose().to_uppercase()).unwrap_err(),
        TokenLabel::new(it.secret.expose()).unwrap_err(),
        it.others.create_user(&it.ada, "Eve").await.unwrap_err(),
    ];
    it.link.set(State::Down);
    errors.push(it.known.authenticate(&stranger).await.unwrap_err());
    it.link.set(State::Sound);
    for error in &errors {
        shown += &format!("{error} {error:?} {error:#?}");
    }
    let tokens = it.others.tokens(&it.ada).await.unwrap();
    let grants = it.others.grants(&it.ada).await.unwrap();
    let of_users = it.others.users(None, 10).await.unwrap();
    shown += &format!("{tokens:?} {grants:?} {of_users:?}");
    shown += &serde_json::to_string(&(&tokens, &grants, &of_users)).unwrap();
    for entry in it.link.store.range(Range::prefix("/")).await.unwrap().entries {
        shown += &String::from_utf8_lossy(&entry.key);
        shown += &String::from_utf8_lossy(&entry.value);
    }
    it.others.revoke_grant(&writer(&it.ada, "docs")).await.unwrap();
    it.others.set_disabled(&it.ada, true).await.unwrap();
    it.others.authenticate(&it.secret).await.unwrap_err();
    it.others.revoke_token(&it.id).await.unwrap();
    it.others.delete_user(&it.ada).await.unwrap();
    let logged = String::from_utf8(log.0.lock().clone()).unwrap();

    for secret in [&it.secret, &admin, &stranger] {
        let text = secret.expose();
        for shown in [&shown, &logged] {
            let shown = shown.to_lowercase();
            assert!(!shown.contains(text), "{shown}");
            // Nor a good part of it.
            assert!(!shown.contains(&text[..16]) && !shown.contains(&text[48..]), "{shown}");
        }
        assert!(!logged.contains(&secret.id().to_string()), "{logged}");
    }
    let audit: Vec<&str> = logged.lines().filter(|line| line.contains(AUDIT)).collect();
    let has = |parts: &[&str]| audit.iter().any(|line| parts.iter().all(|part| line.contains(part)));
    for parts in [
        &["user_created", "user=ada"][..],
        &["INFO", "\"granted\"", "user=ada", "prefix=\"docs\"", "role=writer"],
        &["\"granted\"", "user=root", "role=admin"],
        &["token_issued", "user=ada", "label=laptop", &it.id.short()],
        &["token_issued", "user=root", &admin_id.short()],
        &["INFO", "authenticated", "user=ada", "label=laptop", &it.id.short()],
        &["DEBUG", "authenticated", "from_memory=true", &it.id.short()],
        &["WARN", "refused", "unknown", &stranger.id().short()],
        &["WARN", "refused", "malformed"],
        &["WARN", "refused", "out_of_reach", &stranger.id().short()],
        &["WARN", "refused", "disabled", "user=\"ada\"", "label=\"laptop\""],
        &["grant_revoked", "user=ada"],
        &["user_disabled", "user=ada"],
        &["token_revoked", "user=\"ada\"", "label=\"laptop\"", &it.id.short()],
        &["user_deleted", "user=ada"],
    ] {
        assert!(has(parts), "{parts:?} in {logged}");
    }
}
