//! Where a call writes to and reads from: the process's terminal, or a test.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anstream::AutoStream;

use crate::error::Failure;

/// Where a call writes to and reads from.
#[derive(Debug)]
pub struct Terminal {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// That of the process; colours only where somebody looks at it.
    Process,
    /// Kept in memory, with the answers that are given to questions.
    Memory { out: String, complaints: String, answers: Vec<String> },
}

impl Terminal {
    /// That of the process.
    pub fn of_process() -> Self {
        Terminal { kind: Kind::Process }
    }

    /// One in memory, where these answers are given to what is asked.
    pub fn in_memory(answers: impl IntoIterator<Item = String>) -> Self {
        let mut answers: Vec<String> = answers.into_iter().collect();
        answers.reverse();
        Terminal { kind: Kind::Memory { out: String::new(), complaints: String::new(), answers } }
    }

    /// What was written to a terminal in memory: to standard output, and to standard error.
    pub fn written(&self) -> (&str, &str) {
        match &self.kind {
            Kind::Process => ("", ""),
            Kind::Memory { out, complaints, .. } => (out, complaints),
        }
    }

    /// Writes to standard output. Who does not read it any more is no failure.
    pub(crate) fn print(&mut self, text: &str) {
        match &mut self.kind {
            Kind::Process => {
                let mut out = AutoStream::auto(io::stdout());
                let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            }
            Kind::Memory { out, .. } => out.push_str(&anstream::adapter::strip_str(text).to_string()),
        }
    }

    /// Writes to standard error.
    pub(crate) fn complain(&mut self, text: &str) {
        match &mut self.kind {
            Kind::Process => {
                let _ = AutoStream::auto(io::stderr()).write_all(text.as_bytes());
            }
            Kind::Memory { complaints, .. } => {
                complaints.push_str(&anstream::adapter::strip_str(text).to_string());
            }
        }
    }

    /// Whether somebody sits there who sees what is written anew.
    pub(crate) fn is_interactive(&self) -> bool {
        matches!(self.kind, Kind::Process) && io::stdout().is_terminal()
    }

    /// Asks, and waits for a line; `None` where there is nobody to ask.
    pub(crate) fn ask(&mut self, question: &str) -> Result<Option<String>, Failure> {
        match &mut self.kind {
            Kind::Process => {
                if !io::stdin().is_terminal() {
                    return Ok(None);
                }
                self.complain(question);
                let mut line = String::new();
                let read = io::stdin().lock().read_line(&mut line);
                read.map_err(|error| Failure::Io("the answer".to_owned(), error))?;
                Ok(Some(line.trim().to_owned()))
            }
            Kind::Memory { complaints, answers, .. } => {
                complaints.push_str(question);
                let answer = answers.pop();
                if let Some(answer) = &answer {
                    complaints.push_str(answer);
                    complaints.push('\n');
                }
                Ok(answer)
            }
        }
    }
}
