//! Where lines are written to.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use super::config::LogOutput;

/// An output that is open. Writing to it may block.
pub(super) enum Output {
    /// Standard output or error, without std's buffer and lock: a pipe that nobody reads must not
    /// stop those who print.
    Stream(File),
    File(LogFile),
    Writer(Box<dyn Write + Send>),
}

impl Output {
    /// Opens an output. Blocks for as long as opening a file takes.
    ///
    /// # Errors
    ///
    /// It cannot be opened.
    pub(super) fn open(output: &LogOutput) -> io::Result<Self> {
        match output {
            LogOutput::Stdout => stream(&io::stdout()),
            LogOutput::Stderr => stream(&io::stderr()),
            LogOutput::File(path) => LogFile::open(path).map(Output::File),
        }
    }

    /// Whether people look at it.
    pub(super) fn is_terminal(&self) -> bool {
        match self {
            Output::Stream(file) => file.is_terminal(),
            Output::File(_) | Output::Writer(_) => false,
        }
    }

    /// Makes sure that what is written next arrives where it should: a file that was moved or
    /// deleted is opened anew. Returns whether it was.
    ///
    /// # Errors
    ///
    /// The file cannot be opened. One that was moved and not deleted can be written to
    /// nevertheless, as [`can_write`](Self::can_write) tells.
    pub(super) fn follow(&mut self, reopen: bool) -> io::Result<bool> {
        match self {
            Output::File(file) => file.follow(reopen),
            Output::Stream(_) | Output::Writer(_) => Ok(false),
        }
    }

    /// Whether what is written now can be found by somebody.
    pub(super) fn can_write(&self) -> bool {
        match self {
            Output::File(file) => !file.is_deleted(),
            Output::Stream(_) | Output::Writer(_) => true,
        }
    }
}

#[cfg(unix)]
fn stream(stream: &impl std::os::fd::AsFd) -> io::Result<Output> {
    Ok(Output::Stream(File::from(stream.as_fd().try_clone_to_owned()?)))
}

#[cfg(windows)]
fn stream(stream: &impl std::os::windows::io::AsHandle) -> io::Result<Output> {
    Ok(Output::Stream(File::from(stream.as_handle().try_clone_to_owned()?)))
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Stream(file) => file.write(bytes),
            Output::File(file) => file.file.write(bytes),
            Output::Writer(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Stream(_) | Output::File(_) => Ok(()),
            Output::Writer(writer) => writer.flush(),
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Output::Stream(_) => "Stream",
            Output::File(_) => "File",
            Output::Writer(_) => "Writer",
        })
    }
}

/// A file that is appended to, and followed where it is moved.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        // Relative to where the program was when it was told.
        Ok(LogFile { path: std::path::absolute(path)?, file })
    }

    fn follow(&mut self, reopen: bool) -> io::Result<bool> {
        if !reopen && self.is_in_place() {
            return Ok(false);
        }
        self.file = open(&self.path)?;
        Ok(true)
    }

    /// Whether the file is the one that the path names. Where that cannot be told, it is.
    #[cfg(unix)]
    fn is_in_place(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) == (named.dev(), named.ino()),
            (_, Err(error)) => error.kind() != io::ErrorKind::NotFound,
            (Err(_), _) => true,
        }
    }

    #[cfg(not(unix))]
    fn is_in_place(&self) -> bool {
        true
    }

    #[cfg(unix)]
    fn is_deleted(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        self.file.metadata().is_ok_and(|ours| ours.nlink() == 0)
    }

    #[cfg(not(unix))]
    fn is_deleted(&self) -> bool {
        false
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Opening a pipe would wait for its reader.
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a pipe; use stdout or stderr"));
        }
    }
    OpenOptions::new().append(true).create(true).open(path)
}
