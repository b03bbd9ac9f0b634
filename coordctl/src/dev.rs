//! An etcd for a laptop, which fails when it is told to.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use coord::fake_etcd::{FakeEtcd, FakeEtcdOptions, Faults};
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};
use tokio::time::{Instant, sleep_until};

use crate::error::Failure;
use crate::stop::stopped;
use crate::terminal::Terminal;

/// An etcd for a laptop, without anything to install: several processes, of any language, work on
/// it as on a cluster. It forgets everything when it ends.
#[derive(Debug, Args)]
#[command(
    after_help = "While it runs it reads orders, a line each: compact; pause 10s; resume; drop-connections; \
                        refuse on, refuse off; full on, full off; expire LEASE; status; quit."
)]
pub(crate) struct Arguments {
    /// Where it listens; port 0 takes any that is free.
    #[arg(long, default_value = "127.0.0.1:2379")]
    listen: SocketAddr,
    /// Forget history so often: watches that are behind are told to read anew.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "EVERY")]
    compact: Option<Duration>,
    /// Reset all connections so often.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "EVERY")]
    drop_connections: Option<Duration>,
    /// Stand still so often, for as long as --pause-for says.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "EVERY")]
    pause: Option<Duration>,
    /// For how long it stands still.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s", value_name = "TIME")]
    pause_for: Duration,
}

/// What is done to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Compact,
    Pause(Duration),
    Resume,
    DropConnections,
    Refuse(bool),
    Full(bool),
    Expire(i64),
    Status,
    Quit,
}

impl Order {
    fn read(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let order = (words.next().unwrap_or_default(), words.next(), words.next());
        let time = |text| humantime::parse_duration(text).map_err(|error| format!("{text}: {error}"));
        Ok(match order {
            ("compact", None, None) => Order::Compact,
            ("pause", Some(length), None) => Order::Pause(time(length)?),
            ("resume", None, None) => Order::Resume,
            ("drop-connections", None, None) => Order::DropConnections,
            ("refuse", Some("on"), None) => Order::Refuse(true),
            ("refuse", Some("off"), None) => Order::Refuse(false),
            ("full", Some("on"), None) => Order::Full(true),
            ("full", Some("off"), None) => Order::Full(false),
            ("expire", Some(lease), None) => {
                let number = i64::from_str_radix(lease, 16);
                Order::Expire(number.map_err(|error| format!("{lease}: {error}"))?)
            }
            ("status", None, None) => Order::Status,
            ("quit", None, None) => Order::Quit,
            _ => {
                let known = "compact, pause TIME, resume, drop-connections, refuse on|off, full on|off, expire LEASE, \
                     status, quit";
                return Err(format!("{}: no such order; there are {known}", crate::show::plain(line)));
            }
        })
    }

    /// Does it, and says what was done.
    fn give(self, faults: &Faults) -> String {
        let is = |on: bool, what: &str| format!("{what}{}", if on { "" } else { " no more" });
        match self {
            Order::Compact => format!("history before revision {} is gone", faults.compact()),
            Order::Pause(length) => {
                faults.pause(length);
                format!("it stands still for {}", humantime::format_duration(length))
            }
            Order::Resume => {
                faults.resume();
                "it goes on".to_owned()
            }
            Order::DropConnections => format!("{} connections were reset", faults.drop_connections()),
            Order::Refuse(on) => {
                faults.refuse_connections(on);
                is(on, "new connections are reset")
            }
            Order::Full(on) => {
                faults.set_no_space(on);
                is(on, "it is out of space")
            }
            Order::Expire(lease) => match faults.expire_lease(lease) {
                true => format!("the lease {lease:x} is over"),
                false => format!("there is no lease {lease:x}"),
            },
            Order::Status => {
                let (revision, connections) = (faults.revision(), faults.connections());
                format!("revision {revision}, {connections} connections, {} leases", faults.leases().len())
            }
            Order::Quit => "it ends".to_owned(),
        }
    }
}

/// Something that is done again and again.
struct Again {
    every: Option<Duration>,
    next: Instant,
}

impl Again {
    fn every(every: Option<Duration>) -> Self {
        // Never is not too short.
        let every = every.map(|every| every.max(Duration::from_millis(10)));
        Again { every, next: Instant::now() + every.unwrap_or_default() }
    }

    async fn due(&mut self) {
        let Some(every) = self.every else { return std::future::pending().await };
        sleep_until(self.next).await;
        self.next = Instant::now() + every;
    }
}

impl Arguments {
    pub(crate) async fn run(self, terminal: &mut Terminal) -> Result<(), Failure> {
        let server = FakeEtcd::start(FakeEtcdOptions::default().with_listen(self.listen))
            .map_err(|error| Failure::Io("an etcd of this process".to_owned(), error))?;
        terminal.print(&format!("{}\n", server.url()));
        let faults = server.faults();
        let mut lines = BufReader::new(stdin()).lines();
        let mut is_read = true;
        let mut compact = Again::every(self.compact);
        let mut drop_connections = Again::every(self.drop_connections);
        let mut pause = Again::every(self.pause);
        loop {
            let order = tokio::select! {
                () = stopped() => Order::Quit,
                () = compact.due() => Order::Compact,
                () = drop_connections.due() => Order::DropConnections,
                () = pause.due() => Order::Pause(self.pause_for),
                line = lines.next_line(), if is_read => match line {
                    Ok(Some(line)) if line.trim().is_empty() => continue,
                    Ok(Some(line)) => match Order::read(&line) {
                        Ok(order) => order,
                        Err(wrong) => {
                            terminal.complain(&format!("{wrong}\n"));
                            continue;
                        }
                    },
                    // Nobody gives orders; it goes on all the same.
                    Ok(None) | Err(_) => {
                        is_read = false;
                        continue;
                    }
                },
            };
            terminal.complain(&format!("{}\n", order.give(&faults)));
            if order == Order::Quit {
                server.shutdown().await;
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_and_others_are_explained() {
        for (line, order) in [
            ("compact", Order::Compact),
            (" pause  10s ", Order::Pause(Duration::from_secs(10))),
            ("refuse on", Order::Refuse(true)),
            ("full off", Order::Full(false)),
            ("expire 1f", Order::Expire(0x1f)),
            ("quit", Order::Quit),
        ] {
            assert_eq!(Order::read(line), Ok(order), "{line}");
        }
        for wrong in ["", "pause", "pause soon", "compact now", "refuse", "expire x", "refuse on off"] {
            assert!(Order::read(wrong).is_err(), "{wrong:?}");
        }
    }
}
