//! A home outlives the runtimes of those who use it, tells one time, and runs nothing of the
//! user's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::io::Write;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant as StdInstant};

use coord_home::{Elapsed, Home, HomeError, aside};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Lets a future that needs no runtime be awaited without one.
fn wait<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::task::Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = Box::pin(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(done) => return done,
            std::task::Poll::Pending => std::thread::park_timeout(LONG),
        }
    }
}

/// Tells on which thread it was dropped, and that it was.
struct Told(std::sync::mpsc::Sender<Option<String>>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(std::thread::current().name().map(str::to_owned));
    }
}

fn told(told: &Receiver<Option<String>>) -> Option<String> {
    told.recv_timeout(LONG).expect("it was dropped")
}

#[test]
fn a_task_goes_on_when_the_runtime_that_spawned_it_ends() {
    for home in [Home::new("own"), Home::shared(), Home::for_callbacks(), Home::thread("always")] {
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let spawning = runtime();
        let task = {
            let _in_it = spawning.enter();
            home.spawn(gone).unwrap()
        };
        drop(spawning);
        // The runtime is gone by now.
        go.send(()).unwrap();
        assert!(runtime().block_on(task).unwrap().is_ok());
    }
}

#[test]
fn timers_need_neither_timers_nor_a_runtime_of_the_caller() {
    let home = Home::new("own");
    let elapsed = wait({
        let home = home.clone();
        async move { home.timeout(Duration::from_millis(1), std::future::pending::<()>()).await }
    });
    assert_eq!(elapsed, Err(Elapsed));
    let without_timers = Builder::new_current_thread().build().unwrap();
    without_timers.block_on(home.sleep(Duration::from_millis(1)));
    without_timers.block_on(home.sleep_until(home.now() + Duration::from_millis(1)));
}

#[test]
fn under_a_paused_clock_it_is_the_runtime_that_calls() {
    let paused = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let begun = StdInstant::now();
    for home in [Home::new("own"), Home::shared(), Home::for_callbacks()] {
        paused.block_on(async {
            let before = home.now();
            let task = home.spawn(async { std::thread::current().name().map(str::to_owned) }).unwrap();
            assert_eq!(task.await.unwrap().as_deref(), std::thread::current().name());
            home.sleep(Duration::from_secs(3_600)).await;
            assert_eq!(home.now() - before, Duration::from_secs(3_600));
        });
        assert!(matches!(home.ready(), Err(HomeError::NoRuntime)), "and outside of one there is none");
    }
    assert!(begun.elapsed() < LONG, "an hour of virtual time takes none");
}

#[test]
fn what_talks_to_the_world_lives_in_real_time_whoever_asks() {
    let paused = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    paused.block_on(async {
        let home = Home::thread("always");
        home.ready().unwrap();
        let (before, real) = (home.now(), StdInstant::now());
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert!(home.now() - before < LONG + real.elapsed());
        assert!(
            Instant::now() - before >= Duration::from_secs(3_000),
            "the caller's clock says something else"
        );
    });
}

#[test]
fn it_ends_with_its_last_owner_also_inside_of_itself_and_of_another_runtime() {
    // One of its own tasks is the last owner.
    let (tell, ended) = channel();
    let home = Home::new("of-its-task");
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let kept = home.clone();
    let until = Told(tell.clone());
    let forever = home.spawn(async move {
        let _until = until;
        std::future::pending::<()>().await;
    });
    drop(forever);
    let last = home.spawn(async move {
        let _ = gone.await;
        drop(kept);
    });
    drop((home, last));
    go.send(()).unwrap();
    assert_eq!(told(&ended).as_deref(), Some("of-its-task"), "what it ran is dropped by its own thread");
    // Dropped inside of another runtime, where dropping a runtime itself would panic.
    let until = Told(tell);
    runtime().block_on(async move {
        let home = Home::new("of-a-caller");
        let task = home.spawn(async move {
            let _until = until;
            std::future::pending::<()>().await;
        });
        drop(task);
        drop(home);
    });
    assert_eq!(told(&ended).as_deref(), Some("of-a-caller"));
}

#[test]
fn homes_that_share_a_thread_share_it_and_it_ends_with_the_last() {
    let name = |home: &Home| wait_for(home.spawn(async { std::thread::current().id() }).unwrap());
    let (one, two) = (Home::shared(), Home::shared());
    assert_eq!(name(&one), name(&two));
    assert_ne!(name(&one), name(&Home::new("own")));
    drop(one);
    let still = two.clone();
    drop(two);
    wait_for(still.spawn(async {}).unwrap());
}

/// The user's code runs there: so it is no home in the sense of [`Home::is_here`], and what is
/// recorded there is not put aside.
#[test]
fn callbacks_have_a_thread_apart() {
    let where_it_runs =
        |home: &Home| wait_for(home.spawn(async { (std::thread::current().id(), Home::is_here()) }).unwrap());
    let (one, two) = (Home::for_callbacks(), Home::for_callbacks());
    assert_eq!(where_it_runs(&one), where_it_runs(&two));
    assert_ne!(where_it_runs(&one).0, where_it_runs(&Home::shared()).0);
    assert!(!where_it_runs(&one).1 && where_it_runs(&Home::shared()).1);
    let inline = one.spawn(async {
        let (tell, told) = channel();
        aside(move || tell.send(std::thread::current().id()).unwrap());
        told.recv().unwrap() == std::thread::current().id()
    });
    assert!(wait_for(inline.unwrap()));
}

fn wait_for<T: Send + 'static>(task: tokio::task::JoinHandle<T>) -> T {
    wait(task).unwrap()
}

#[test]
fn a_panic_of_one_task_ends_that_task_alone() {
    let home = Home::new("panics");
    let one = home.spawn(async { panic!("on purpose") }).unwrap();
    assert!(wait(one).is_err());
    assert_eq!(wait_for(home.spawn(async { 1 }).unwrap()), 1);
}

/// A pipe that nobody reads: who writes to it waits.
#[derive(Clone)]
struct FullPipe(Arc<(Mutex<Vec<u8>>, Mutex<()>)>);

impl Write for FullPipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _unblocked = self.0.1.lock();
        self.0.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_log_sink_that_blocks_holds_up_nothing() {
    let pipe = FullPipe(Arc::default());
    let writer = pipe.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let home = Home::new("logs");
    // The home's events belong to the subscriber of whoever started it.
    tracing::subscriber::with_default(subscriber, || home.ready().unwrap());
    let blocked = pipe.0.1.lock();
    let busy = home.spawn(async {
        for number in 0..10_000 {
            coord_home::event!(WARN, number, "one of many");
            tracing::error!("what a library below records");
        }
    });
    wait_for(busy.unwrap());
    assert!(pipe.0.0.lock().unwrap().is_empty(), "nothing was written yet, and nobody waited for it");
    drop(blocked);
    let begun = StdInstant::now();
    loop {
        wait_for(home.spawn(async { coord_home::event!(WARN, "a last one") }).unwrap());
        let written = String::from_utf8(pipe.0.0.lock().unwrap().clone()).unwrap();
        assert!(!written.contains("a library below"), "{written}");
        if written.contains("number=0") && written.contains("left_out=") {
            return;
        }
        assert!(begun.elapsed() < LONG, "{written}");
        std::thread::yield_now();
    }
}

#[test]
fn on_any_other_thread_what_is_the_users_runs_at_once() {
    let (tell, told) = channel();
    let here = std::thread::current().id();
    aside(move || tell.send(std::thread::current().id()).unwrap());
    assert_eq!(told.try_recv().unwrap(), here);
    let home = Home::new("own");
    // Another test of this process fills the queue that all homes share: then a call is left out.
    let begun = StdInstant::now();
    let aside = loop {
        let (tell, told) = channel();
        let call = async move { aside(move || tell.send(std::thread::current().id()).unwrap()) };
        wait_for(home.spawn(call).unwrap());
        match told.recv_timeout(LONG) {
            Ok(aside) => break aside,
            Err(error) => assert!(begun.elapsed() < LONG, "{error}"),
        }
    };
    assert!(aside != here && aside != wait_for(home.spawn(async { std::thread::current().id() }).unwrap()));
}

#[cfg(unix)]
#[test]
#[allow(unsafe_code, reason = "only the C library can fork")]
fn the_child_of_a_fork_has_no_home() {
    let home = Home::new("parents");
    home.ready().unwrap();
    // SAFETY: the child looks at atomics, starts no thread, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let right = home.is_left_behind()
            && matches!(home.ready(), Err(HomeError::Forked))
            && home.spawn(async {}).is_err();
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(if right { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for that child, and writes to a variable of this function.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        "the child thought that it had a home"
    );
    assert!(!home.is_left_behind());
    wait_for(home.spawn(async {}).unwrap());
}

#[test]
fn whoever_waits_for_a_timer_of_a_given_runtime_is_let_go_when_that_ends() {
    let given = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (home, mine) = (Home::runtime(given.handle().clone()), runtime());
    mine.block_on(home.sleep(Duration::from_millis(1)));
    let waiting = std::thread::spawn({
        let home = home.clone();
        move || runtime().block_on(home.timeout(LONG * 60, std::future::pending::<()>()))
    });
    drop(given);
    assert_eq!(
        waiting.join().unwrap(),
        Err(Elapsed),
        "no panic, and nobody waits for a clock that stands still for ever"
    );
    mine.block_on(home.sleep(LONG * 60));
    assert!(matches!(home.ready(), Err(HomeError::Ended)));
    assert!(home.spawn(async {}).is_err());
}
