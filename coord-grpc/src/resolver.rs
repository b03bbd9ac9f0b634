//! From host names to addresses.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;

use async_trait::async_trait;
use coord_home::Process;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, WeakShared};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::files;

/// How many names are looked up at the same time: by the system for the whole process, by another
/// resolver for each channel.
const AT_ONCE: usize = 16;

/// Finds the addresses of a host name, for channels that do not ask the system
/// ([`ChannelOptions::with_resolver`](crate::ChannelOptions::with_resolver)).
#[async_trait]
pub trait Resolver: fmt::Debug + Send + Sync + 'static {
    /// All addresses of a host, those to be preferred first. Called for each attempt to connect to
    /// a name, at most 16 times at once for each channel and once for each name, and given up
    /// (dropped) after the connect timeout. It is polled where the channel lives, and must not
    /// block.
    ///
    /// # Errors
    ///
    /// Whatever kept it from finding out. The endpoint is tried again later.
    ///
    /// # Cancel safety
    ///
    /// It must be cancel safe.
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// How the names of a channel are looked up.
#[derive(Debug)]
pub(crate) enum Lookup {
    System,
    GivenResolver(GivenResolver),
}

/// A resolver that was given to one channel.
#[derive(Debug)]
pub(crate) struct GivenResolver {
    resolver: Arc<dyn Resolver>,
    turns: Arc<Semaphore>,
    /// What is being looked up, for as long as somebody waits for it.
    under_way: Mutex<HashMap<String, WeakShared<BoxFuture<'static, LookedUp>>>>,
}

impl Lookup {
    pub(crate) fn by(resolver: Option<Arc<dyn Resolver>>) -> Self {
        match resolver {
            None => Lookup::System,
            Some(resolver) => Lookup::GivenResolver(GivenResolver {
                resolver,
                turns: Arc::new(Semaphore::new(AT_ONCE)),
                under_way: Mutex::default(),
            }),
        }
    }

    /// The addresses of a name. Cancel safe.
    pub(crate) async fn look_up(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let found = match self {
            Lookup::System => ask_system(host).await,
            Lookup::GivenResolver(given) => given.ask(host).await,
        };
        let found = found.map_err(|(kind, code, text)| match code {
            // The code is worth more than the text: from it one sees that there was no file to be
            // had.
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(kind, text),
        });
        // Resolvers call it a temporary failure when they could not open a file, which nobody else
        // here can either then.
        found.map_err(|error| match UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) {
            Err(shortage) if files::is_shortage(&shortage) => shortage,
            _ => error,
        })
    }
}

/// Errors of I/O cannot be cloned.
type LookedUp = Result<Vec<IpAddr>, (io::ErrorKind, Option<i32>, String)>;

/// The look-ups that the system was asked for. It blocks a thread for each, for half a minute where
/// a server of names is silent, and cannot be told to stop; so the threads are few and nobody
/// else's, and who asks for a name that is being looked up waits for the same answer.
#[derive(Debug, Default)]
struct Lookups {
    /// Those that wait or are under way.
    names: HashMap<String, Arc<watch::Sender<Option<LookedUp>>>>,
    waiting: VecDeque<String>,
    threads: usize,
}

static LOOKUPS: Mutex<Option<(Process, Lookups)>> = Mutex::new(None);

/// Runs `act` on the look-ups of this process; a child's are not its parent's.
fn with_lookups<T>(act: impl FnOnce(&mut Lookups) -> T) -> T {
    let mut current = LOOKUPS.lock();
    let current = match &mut *current {
        Some((process, lookups)) if process.is_current() => lookups,
        other => &mut other.insert((Process::current(), Lookups::default())).1,
    };
    act(current)
}

async fn ask_system(host: &str) -> LookedUp {
    let mut answer = with_lookups(|lookups| lookups.ask(host, serve)).map_err(|error| told(&error))?;
    let answered = answer.wait_for(Option::is_some).await.map(|answer| (*answer).clone());
    answered
        .ok()
        .flatten()
        .unwrap_or_else(|| Err((io::ErrorKind::Other, None, "the look-up was given up".to_owned())))
}

/// What of an error can be told several times.
fn told(error: &io::Error) -> (io::ErrorKind, Option<i32>, String) {
    (error.kind(), error.raw_os_error(), error.to_string())
}

impl GivenResolver {
    async fn ask(&self, host: &str) -> LookedUp {
        let asked = {
            let mut under_way = self.under_way.lock();
            match under_way.get(host).and_then(WeakShared::upgrade) {
                Some(asked) => asked,
                None => {
                    let (resolver, turns, name) =
                        (Arc::clone(&self.resolver), Arc::clone(&self.turns), host.to_owned());
                    let asking = async move {
                        let _turn = turns.acquire().await;
                        resolver.resolve(&name).await.map_err(|error| told(&error))
                    };
                    let asking = asking.boxed().shared();
                    under_way.retain(|_, other| other.upgrade().is_some());
                    if let Some(weak) = asking.downgrade() {
                        under_way.insert(host.to_owned(), weak);
                    }
                    asking
                }
            }
        };
        asked.await
    }
}

impl Lookups {
    /// Where the answer will come. `serve` is what a new thread does.
    fn ask(&mut self, host: &str, serve: fn()) -> io::Result<watch::Receiver<Option<LookedUp>>> {
        if let Some(asked) = self.names.get(host) {
            return Ok(asked.subscribe());
        }
        if self.threads < AT_ONCE {
            match std::thread::Builder::new().name("coord-grpc-dns".to_owned()).spawn(serve) {
                Ok(_) => self.threads += 1,
                Err(error) if self.threads == 0 => return Err(error),
                Err(_) => {}
            }
        }
        let (tell, told) = watch::channel(None);
        self.names.insert(host.to_owned(), Arc::new(tell));
        self.waiting.push_back(host.to_owned());
        Ok(told)
    }

    /// The next name that somebody still waits for. Without one the thread that asks is to end.
    fn next(&mut self) -> Option<(String, Arc<watch::Sender<Option<LookedUp>>>)> {
        while let Some(host) = self.waiting.pop_front() {
            let Some(tell) = self.names.get(&host) else { continue };
            if tell.receiver_count() > 0 {
                let tell = Arc::clone(tell);
                return Some((host, tell));
            }
            self.names.remove(&host);
        }
        self.threads = self.threads.saturating_sub(1);
        None
    }
}

/// Looks up names until none waits.
fn serve() {
    while let Some((host, tell)) = with_lookups(Lookups::next) {
        let found = (host.as_str(), 0).to_socket_addrs();
        let answer = match found {
            Ok(found) => Ok(found.map(|address| address.ip()).collect()),
            Err(error) => Err(told(&error)),
        };
        with_lookups(|lookups| lookups.names.remove(&host));
        tell.send_replace(Some(answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_knows_this_host() {
        let found = ask_system("localhost").await.unwrap();
        assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
    }

    /// Threads of tests that look nothing up.
    fn idle() {}

    #[test]
    fn one_name_is_asked_for_once_and_few_threads_ask() {
        let mut lookups = Lookups::default();
        let same: Vec<_> = (0..5).map(|_| lookups.ask("a", idle).unwrap()).collect();
        assert_eq!((lookups.waiting.len(), lookups.threads), (1, 1));
        let others: Vec<_> = (0..100).map(|n| lookups.ask(&format!("b{n}"), idle).unwrap()).collect();
        assert_eq!((lookups.waiting.len(), lookups.threads), (101, AT_ONCE));

        let (host, tell) = lookups.next().unwrap();
        assert_eq!(host, "a");
        let late = lookups.ask("a", idle).unwrap();
        tell.send_replace(Some(Ok(Vec::new())));
        assert!(same.iter().chain([&late]).all(|told| told.borrow().is_some()), "all are told");

        drop(others);
        assert!(lookups.next().is_none(), "nobody waits for the others any more");
        assert_eq!((lookups.names.len(), lookups.threads), (1, AT_ONCE - 1));
    }
}
