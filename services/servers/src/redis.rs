//! A Redis.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::{Process, Signal};
use crate::{free_ports, program};

/// How long it may take to start.
const START_WITHIN: Duration = Duration::from_secs(30);

/// How long it may take to answer a command.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// How often it is started anew where its port was taken meanwhile.
const STARTS: usize = 5;

/// A Redis on a free port of 127.0.0.1, which keeps nothing on disk. Dies when dropped.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    data: TempDir,
    address: SocketAddr,
    options: Vec<String>,
    /// For our own commands.
    password: Option<String>,
}

impl Redis {
    /// Starts one, and waits until it answers.
    ///
    /// # Panics
    ///
    /// When there is none to start, or it does not answer.
    pub fn start() -> Self {
        Redis::start_with(&[])
    }

    /// As [`start`](Self::start), with more options: `--maxmemory 1mb`.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn start_with(options: &[&str]) -> Self {
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        let data = TempDir::with_prefix("coord-redis-").expect("a temporary directory");
        for _ in 0..STARTS {
            let port = free_ports(1).expect("a free port").remove(0);
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            if let Ok(process) = run(&data, address, &options) {
                return Redis { process, data, address, options, password: None };
            }
        }
        panic!("redis-server found its port taken {STARTS} times");
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `redis://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Kills it, as `kill -9` does. What it had is lost.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, on the same port, and waits until it answers. It has no entries, no scripts
    /// and no password.
    ///
    /// # Panics
    ///
    /// When somebody else has its port by now, or it does not answer.
    pub fn restart(&mut self) {
        self.process.kill();
        self.password = None;
        self.process = run(&self.data, self.address, &self.options).expect("its port is its own");
    }

    /// Has it stand still, with all its connections open.
    pub fn pause(&self) {
        self.process.signal(Signal::Stop);
    }

    /// Has it go on.
    pub fn resume(&self) {
        self.process.signal(Signal::Continue);
    }

    /// Adds a password to those that the default user has; without any, it needs none.
    ///
    /// # Panics
    ///
    /// When it is refused.
    pub fn add_password(&mut self, password: &str) {
        assert_eq!(self.command(&["ACL", "SETUSER", "default", &format!(">{password}")]), "+OK");
        self.password = Some(password.to_owned());
    }

    /// Takes a password from the default user. Those who are connected stay so.
    ///
    /// # Panics
    ///
    /// When it has no such password.
    pub fn remove_password(&mut self, password: &str) {
        assert_eq!(self.command(&["ACL", "SETUSER", "default", &format!("<{password}")]), "+OK");
    }

    /// What it answers to a command, on a connection of its own: the first line as it comes, and of
    /// a string what it is.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    pub fn command(&self, words: &[&str]) -> String {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(ANSWER_WITHIN)).expect("a socket has a timeout");
        if let Some(password) = &self.password {
            assert_eq!(ask(&mut stream, &["AUTH", password]).expect("it answers"), "+OK");
        }
        ask(&mut stream, words).expect("it answers")
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// Runs one on this address. Fails where somebody else has its port.
fn run(data: &TempDir, address: SocketAddr, options: &[String]) -> Result<Process, String> {
    let program = program::find("REDIS_SERVER", "redis/redis-server", "redis-server", "scripts/redis.sh");
    let mut command = vec![program.into_os_string()];
    let port = address.port().to_string();
    for word in ["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no", "--dir"] {
        command.push(word.into());
    }
    command.push(data.path().into());
    command.extend(options.iter().map(Into::into));
    let (tell, told) = channel();
    let process = Process::start(command, data.path(), move |line| {
        let _ = tell.send(line.to_owned());
    })?;
    wait_until_it_listens(&told, &process)?;
    Ok(process)
}

/// It says so itself: whoever else answers at this port is not it.
fn wait_until_it_listens(told: &Receiver<String>, process: &Process) -> Result<(), String> {
    let deadline = Instant::now() + START_WITHIN;
    while let Ok(line) = told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if line.contains("Ready to accept connections") {
            return Ok(());
        }
        if line.contains("Address already in use") {
            return Err(line);
        }
    }
    panic!("redis-server does not start:\n{}", process.log());
}

fn ask(stream: &mut TcpStream, words: &[&str]) -> std::io::Result<String> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request += &format!("${}\r\n{word}\r\n", word.len());
    }
    stream.write_all(request.as_bytes())?;
    let line = read_line(stream)?;
    match line.strip_prefix('$').and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => {
            let mut value = vec![0; length + 2];
            stream.read_exact(&mut value)?;
            value.truncate(length);
            Ok(String::from_utf8_lossy(&value).into_owned())
        }
        None => Ok(line),
    }
}

fn read_line(stream: &mut TcpStream) -> std::io::Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    line.truncate(line.len() - 2);
    Ok(String::from_utf8_lossy(&line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_forgets_when_it_is_killed_and_is_there_again() {
        let mut redis = Redis::start();
        assert_eq!(redis.command(&["SET", "k", "v w"]), "+OK");
        assert_eq!(redis.command(&["GET", "k"]), "v w");
        redis.kill();
        assert!(TcpStream::connect(redis.address()).is_err());
        redis.restart();
        assert_eq!(redis.command(&["GET", "k"]), "$-1");
        redis.add_password("old");
        redis.add_password("new");
        redis.remove_password("old");
        assert_eq!(redis.command(&["PING"]), "+PONG");
        redis.password = Some("old".to_owned());
        let mut stream = TcpStream::connect(redis.address()).unwrap();
        assert!(ask(&mut stream, &["AUTH", "old"]).unwrap().contains("WRONGPASS"));
        assert!(ask(&mut stream, &["GET", "k"]).unwrap().contains("NOAUTH"));
    }
}
