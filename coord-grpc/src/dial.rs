//! Connects to an endpoint by whichever of its addresses gets there first (RFC 8305, "happy
//! eyeballs").

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use coord_api::{Error, ErrorKind, Result};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::connection::{EndpointConnection, Manner};
use crate::endpoint::Endpoint;
use crate::error::root;
use crate::files;
use crate::resolver::Lookup;

const OPERATION: &str = "grpc.connect";

/// The next address is tried beside the last one after this time (RFC 8305, section 5), or sooner
/// where there are many.
const STEP: Duration = Duration::from_millis(250);

/// But not sooner than this, as the same section asks.
const SHORTEST_STEP: Duration = Duration::from_millis(10);

/// How many addresses are tried at once. Of more than so many each has that many steps.
const AT_ONCE: u32 = 8;

/// How many addresses are tried in all; the next time it is the turn of others.
const MOST: usize = 100;

/// Connects within the connect timeout.
///
/// `last_failed` is tried last: it was no good. `round` counts the times before.
///
/// # Errors
///
/// `Timeout` after the connect timeout, else `Unavailable`; the cause says why.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    lookup: &Lookup,
    manner: Manner<'_>,
    last_failed: Option<SocketAddr>,
    round: usize,
) -> Result<EndpointConnection> {
    let limit = manner.options.connect_timeout;
    let deadline = Instant::now() + limit;
    let late = || Error::new(ErrorKind::Timeout, OPERATION, format!("no connection within {limit:?}"));
    let found = match endpoint.ip() {
        Some(ip) => vec![ip],
        None => match timeout(limit, lookup.look_up(endpoint.host())).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                let message = format!("the host name was not resolved: {}", root(&error));
                return Err(Error::new(ErrorKind::Unavailable, OPERATION, message).with_source(error));
            }
            Err(_) => {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    OPERATION,
                    format!("the host name was not resolved within {limit:?}"),
                ));
            }
        },
    };
    let addresses = in_order(found, endpoint.port(), last_failed, round);
    let count = addresses.len();
    let mut last = None;
    let racing =
        race(addresses, deadline, &mut last, |address| EndpointConnection::open(address, endpoint, manner));
    match timeout_at(deadline, racing).await {
        Ok(Some(connection)) => return Ok(connection),
        Ok(None) => {}
        Err(_) if last.is_none() => return Err(late()),
        Err(_) => {
            let others = last
                .map(|(address, error)| format!("; of its {count} addresses {address}: {}", error.message()));
            return Err(Error::new(
                ErrorKind::Timeout,
                OPERATION,
                format!("{}{}", late().message(), others.unwrap_or_default()),
            ));
        }
    }
    Err(match last {
        None => Error::new(
            ErrorKind::Unavailable,
            OPERATION,
            "the host name has no address at which a server can be reached",
        ),
        Some((_, error)) if count == 1 => error,
        Some((address, error)) => {
            let message = format!("none of its {count} addresses; {address}: {}", error.message());
            Error::new(error.kind(), OPERATION, message).with_source(error)
        }
    })
}

/// Tries one address after the other, each a step after the last one or as soon as all others have
/// failed, and takes the first that gets to the end. The others are dropped. Why the last one
/// failed goes into `last`.
///
/// # Cancel safety
///
/// Dropped, it drops all attempts.
async fn race<T, F: Future<Output = Result<T>>>(
    addresses: Vec<SocketAddr>,
    deadline: Instant,
    last: &mut Option<(SocketAddr, Error)>,
    attempt: impl Fn(SocketAddr) -> F,
) -> Option<T> {
    let step = step(addresses.len(), deadline.saturating_duration_since(Instant::now()));
    // With few addresses each may take all the time there is.
    let patience = (addresses.len() > AT_ONCE as usize).then(|| step * AT_ONCE);
    let attempt = |address| {
        let trying = attempt(address);
        async move {
            let tried = match patience {
                None => trying.await,
                Some(patience) => timeout(patience, trying).await.unwrap_or_else(|_| {
                    Err(Error::new(
                        ErrorKind::Timeout,
                        OPERATION,
                        format!("no connection within {patience:?}"),
                    ))
                }),
            };
            tried.map_err(|error| (address, error))
        }
    };
    let mut waiting = addresses.into_iter();
    let mut under_way = FuturesUnordered::new();
    loop {
        match waiting.next() {
            Some(address) => under_way.push(attempt(address)),
            None if under_way.is_empty() => return None,
            None => {}
        }
        tokio::select! {
            biased;
            Some(tried) = under_way.next() => match tried {
                Ok(won) => return Some(won),
                Err(failed) => {
                    // Whoever has no file left does not get one for the next address either.
                    let hopeless = files::is_out_of_files(&failed.1);
                    *last = Some(failed);
                    if hopeless {
                        return None;
                    }
                }
            },
            () = sleep(step), if waiting.len() > 0 => {}
            else => {}
        }
    }
}

/// How long after an address the next one is tried: every one gets its turn within the time there
/// is.
fn step(count: usize, time: Duration) -> Duration {
    let shares = u32::try_from(count).unwrap_or(u32::MAX).saturating_add(1);
    STEP.min(time / shares).max(SHORTEST_STEP)
}

/// The addresses in the order in which they are tried: as the resolver prefers them, IPv6 and IPv4
/// in turn, so that a family which leads nowhere costs one step (RFC 8305, section 4); the one that
/// was no good at last. Addresses of nobody, such as the 0.0.0.0 of a filter, are left out.
fn in_order(found: Vec<IpAddr>, port: u16, last_failed: Option<SocketAddr>, round: usize) -> Vec<SocketAddr> {
    let mut known = HashSet::new();
    let usable = found.into_iter().filter(|ip| coord_api::address::is_of_somebody(*ip) && known.insert(*ip));
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for ip in usable {
        match first.first() {
            Some(leader) if IpAddr::is_ipv4(leader) != ip.is_ipv4() => second.push(ip),
            _ => first.push(ip),
        }
    }
    let mut ordered = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        let pair = (first.next(), second.next());
        ordered.extend([pair.0, pair.1].into_iter().flatten().map(|ip| SocketAddr::new(ip, port)));
        if pair == (None, None) {
            break;
        }
    }
    if ordered.len() > MOST {
        let skip = round.wrapping_mul(MOST) % ordered.len();
        ordered.rotate_left(skip);
        ordered.truncate(MOST);
    }
    if let Some(last_failed) = last_failed {
        // Stable: the others keep their order.
        ordered.sort_by_key(|address| *address == last_failed);
    }
    ordered
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn v4(n: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, n).into()
    }

    fn v6(n: u16) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n).into()
    }

    fn at(ip: IpAddr) -> SocketAddr {
        SocketAddr::new(ip, 80)
    }

    #[test]
    fn families_take_turns_and_what_was_no_good_comes_last() {
        let found = vec![v6(1), v6(2), v6(1), v4(1), v4(2), v4(3), IpAddr::from([0, 0, 0, 0])];
        let all = [v6(1), v4(1), v6(2), v4(2), v4(3)].map(at);
        assert_eq!(in_order(found.clone(), 80, None, 0), all);
        assert_eq!(
            in_order(found.clone(), 80, Some(at(v6(1))), 3),
            [v4(1), v6(2), v4(2), v4(3), v6(1)].map(at)
        );
        assert_eq!(in_order(found, 80, Some(at(v4(9))), 0), all);
        assert!(in_order(Vec::new(), 80, None, 0).is_empty());
    }

    #[test]
    fn of_very_many_all_have_their_turn() {
        let many: Vec<IpAddr> = (0..250).map(v4).collect();
        let mut tried = HashSet::new();
        for round in 0..3 {
            let some = in_order(many.clone(), 80, None, round);
            assert_eq!(some.len(), MOST);
            tried.extend(some);
        }
        assert_eq!(tried.len(), 250);
    }

    #[test]
    fn each_is_tried_within_a_share_of_the_time() {
        let five = Duration::from_secs(5);
        assert_eq!((step(1, five), step(2, five), step(19, five)), (STEP, STEP, STEP));
        assert_eq!(step(49, five), Duration::from_millis(100));
        assert_eq!(step(2, Duration::from_millis(300)), Duration::from_millis(100));
        assert_eq!(step(100_000, five), SHORTEST_STEP);
    }

    /// What becomes of an attempt, and after what time.
    type Fate = (u64, std::result::Result<(), &'static str>);

    /// Races addresses with these fates; who won after how many milliseconds, and how many were
    /// tried.
    async fn raced(fates: &[Fate], limit: u64) -> (Option<u8>, u64, usize) {
        let begin = Instant::now();
        let addresses = (0..fates.len()).map(|n| at(v4(n as u8))).collect();
        let (tried, mut last) = (std::cell::Cell::new(0), None);
        let deadline = begin + Duration::from_millis(limit);
        let racing = race(addresses, deadline, &mut last, |address| {
            tried.set(tried.get() + 1);
            let SocketAddr::V4(v4) = address else { panic!("{address}") };
            let n = v4.ip().octets()[3];
            let (after, fate) = fates[usize::from(n)];
            async move {
                sleep(Duration::from_millis(after)).await;
                fate.map(|()| n).map_err(|what| Error::new(ErrorKind::Unavailable, OPERATION, what))
            }
        });
        let won = timeout_at(deadline, racing).await.ok().flatten();
        (won, begin.elapsed().as_millis() as u64, tried.get())
    }

    const SILENT: Fate = (u64::MAX >> 20, Ok(()));

    #[tokio::test(start_paused = true)]
    async fn the_next_one_is_tried_after_a_step_or_a_failure() {
        assert_eq!(raced(&[(20, Ok(())), SILENT], 5_000).await, (Some(0), 20, 1));
        assert_eq!(raced(&[SILENT, (20, Ok(()))], 5_000).await, (Some(1), 270, 2));
        assert_eq!(raced(&[SILENT, SILENT, (20, Ok(()))], 5_000).await, (Some(2), 520, 3));
        assert_eq!(raced(&[(5, Err("refused")), (20, Ok(()))], 5_000).await, (Some(1), 25, 2));
        assert_eq!(raced(&[SILENT, (5, Err("reset")), (20, Ok(()))], 5_000).await, (Some(2), 275, 3));
        assert_eq!(
            raced(&[(400, Ok(())), (900, Ok(()))], 5_000).await,
            (Some(0), 400, 2),
            "a slow one may win all the same"
        );
        assert_eq!(raced(&[(5, Err("refused")), (5, Err("refused"))], 5_000).await, (None, 10, 2));
        assert_eq!(raced(&[SILENT, SILENT], 5_000).await, (None, 5_000, 2));
        assert_eq!(raced(&[SILENT, (20, Ok(()))], 300).await, (Some(1), 120, 2), "a share of a short time");
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_that_are_silent_few_are_tried_at_once_and_the_last_one_is_found() {
        let mut fates = vec![SILENT; 60];
        fates.push((20, Ok(())));
        let (won, after, tried) = raced(&fates, 5_000).await;
        assert!(won == Some(60) && after < 5_000 && tried == 61, "{won:?} {after} {tried}");
    }
}
