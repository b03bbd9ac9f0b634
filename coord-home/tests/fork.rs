//! The child of a fork holds nothing of its parent's, and the parent notices nothing. Here, because
//! only this crate may say `unsafe`, and only the C library forks.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use coord_api::prelude::*;
use coord_api::{ErrorKind, Loss, ServiceInstance, WatchStart};
use coord_memory::MemoryProvider;
use futures_executor::block_on;

const TTL: Duration = Duration::from_secs(30);

/// Runs `look` in a child, and says whether it came to its end with `true`. A child that hangs is
/// ended by its alarm.
#[allow(unsafe_code, reason = "only the C library can fork")]
fn in_child(look: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child has this one thread. It uses what it inherited, as a program that forks by
    // mistake would: what it must not do is wait for a thread that is not there, and that is what
    // is looked at. It ends by `_exit`, or by its alarm.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: sets a timer of this process.
        unsafe { libc::alarm(20) };
        let right = std::panic::catch_unwind(std::panic::AssertUnwindSafe(look)).unwrap_or(false);
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(if right { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for that child, and writes to a variable of this function.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

#[test]
fn the_child_holds_nothing_and_its_calls_are_closed_and_the_parent_goes_on() {
    let coord = MemoryProvider::new();
    let other = coord.client();
    let (guard, id, registration) = block_on(async {
        let guard = coord.lock().acquire("k", TTL).await.unwrap();
        let id = coord.allocator().acquire_id("svc", 9).await.unwrap();
        (
            guard,
            id,
            coord.registry().register(ServiceInstance::new("svc", "1", "10.0.0.1", 80)).await.unwrap(),
        )
    });
    let is_over = || !guard.is_held() && !id.is_held() && !registration.state().is_held();
    assert!(in_child(is_over), "the child thought that it held something");
    assert!(in_child(|| block_on(async {
        [guard.lost().await, id.lost().await, registration.lost().await] == [Loss::Closed; 3]
    })));
    let kinds = || {
        block_on(async {
            [
                coord.config().set("k", &1).await.map(drop).unwrap_err().kind(),
                coord.config().watch_raw("k", WatchStart::Now).await.map(drop).unwrap_err().kind(),
                coord.lock().try_acquire("l", TTL).await.map(drop).unwrap_err().kind(),
                coord.registry().discover("svc").await.map(drop).unwrap_err().kind(),
                coord.allocator().acquire_id("svc", 9).await.map(drop).unwrap_err().kind(),
                guard.unlock().await.unwrap_err().kind(),
            ]
        })
    };
    assert!(in_child(|| kinds() == [ErrorKind::Closed; 6]));
    assert!(in_child(|| block_on(coord.close()).is_ok()), "closing gives nothing back");

    assert!(!is_over() && guard.is_held() && id.is_held());
    block_on(async {
        assert_eq!(other.lock().try_acquire("k", TTL).await.unwrap_err().kind(), ErrorKind::Conflict);
        guard.unlock().await.unwrap();
        registration.unregister().await.unwrap();
    });
}

#[test]
fn what_the_child_drops_is_not_given_back() {
    let coord = MemoryProvider::new();
    let other = coord.client();
    let mut guard = Some(block_on(coord.lock().acquire("k", TTL)).unwrap());
    let dropped = in_child(|| {
        drop(guard.take());
        drop(coord);
        true
    });
    assert!(dropped, "the child waits for a thread of its parent");
    assert!(guard.as_ref().is_some_and(coord_api::LockGuard::is_held));
    assert_eq!(block_on(other.lock().try_acquire("k", TTL)).unwrap_err().kind(), ErrorKind::Conflict);
}
