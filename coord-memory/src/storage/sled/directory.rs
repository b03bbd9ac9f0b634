//! The files of a directory, and who has it open.
//!
//! sled keeps `db` (its log, which it locks), `conf` (a few constants), `snap.N` (where in the log
//! each page lies, written at an opening) and `blobs/` (values over 128 KiB, of which our format
//! has none). We add `coord-memory`, by which a store of ours is told whose log lost everything. A
//! process that is killed, or whose disk is full, can leave two things that sled does not get over,
//! though they hold nothing that is needed: `snap.N.generating`, which it takes for a snapshot, and
//! a `conf` that is cut off. Both are set right before sled looks, and while nobody else can have
//! the directory open.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind as IoKind, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use coord_api::{Error, ErrorKind, Result};
use fs2::FileExt;
use parking_lot::Mutex;

use super::OPERATION;

/// Its presence says that the directory holds a store of ours, so that one whose log lost
/// everything is not taken for a new one.
const MARKER: &str = "coord-memory";

/// What sled writes to `conf`, with its checksum, for the settings that we use. sled takes no more
/// than that from a file: so a store of ours needs no other.
pub(super) const CONF: &[u8] =
    b"segment_size: 524288\nuse_compression: false\nversion: 0.34\n\x76\x19\x51\xC1";

/// How long a lock is waited for that may be about to be let go of: sled's threads outlive its
/// handle by a little.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// How often a lock that is taken is tried.
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// The engine keeps everything in memory; sled's own cache need only hold what is being written.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// The directories that this process has let go of a moment ago, so that sled's threads may still
/// have them.
static LET_GO: Mutex<Vec<(PathBuf, Instant)>> = Mutex::new(Vec::new());

/// For whom opening waits when somebody has the directory open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenPatience {
    /// For this very process, when it has let go of the directory a moment ago. It takes sled's
    /// threads some milliseconds to end.
    Own,
    /// Also for another process, which may be about to end.
    Anyone,
}

/// Opens sled's database in a directory, which is made where there is none, and says whether it
/// holds a store of ours.
///
/// # Errors
///
/// As [`SledStorage::open`](super::SledStorage::open).
pub(super) fn open_database(path: &Path, patience: OpenPatience) -> Result<(sled::Db, bool)> {
    fs::create_dir_all(path).map_err(|fault| not_opened(path, fault))?;
    let start = Instant::now();
    loop {
        match try_open(path) {
            Ok(Some(opened)) => return Ok(opened),
            Ok(None) => {}
            Err(error) => {
                let_go(path);
                return Err(error);
            }
        }
        let until = match patience {
            OpenPatience::Own => was_let_go(path).map(|since| since + LOCK_PATIENCE),
            OpenPatience::Anyone => Some(start + LOCK_PATIENCE),
        };
        if until.is_none_or(|until| Instant::now() >= until) {
            let message = format!("{} is already open, in another process or in this one", path.display());
            return Err(Error::new(ErrorKind::Unavailable, OPERATION, message));
        }
        thread::sleep(LOCK_RETRY);
    }
}

/// What a directory is known by, however its path is written.
pub(super) fn identity(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Notes that this process lets go of a directory.
pub(super) fn let_go(path: &Path) {
    let path = identity(path);
    let mut directories = LET_GO.lock();
    directories.retain(|(known, since)| *known != path && since.elapsed() < LOCK_PATIENCE);
    directories.push((path, Instant::now()));
}

fn was_let_go(path: &Path) -> Option<Instant> {
    let path = identity(path);
    LET_GO.lock().iter().find(|(known, _)| *known == path).map(|(_, since)| *since)
}

/// Marks the directory as one that holds a store of ours.
pub(super) fn mark(path: &Path) -> Result<()> {
    fs::write(path.join(MARKER), "This directory holds a store of coord-memory.\n")
        .map_err(|fault| io_error(OPERATION, format!("{} cannot be written", path.display()), fault))
}

/// One attempt. `None` when somebody has it open.
fn try_open(path: &Path) -> Result<Option<(sled::Db, bool)>> {
    let ours = path.join(MARKER).try_exists().map_err(|fault| not_opened(path, fault))?;
    // It is sled's own lock, so that nobody who opens the directory writes what is set right here,
    // whichever version they are. sled wants it for itself then: whoever comes between finds the
    // directory as it should be.
    let Some(lock) = lock(path).map_err(|fault| not_opened(path, fault))? else { return Ok(None) };
    set_right(path, ours).map_err(|fault| not_opened(path, fault))?;
    // Not by closing the file alone: a process that is being forked off right now has it open too,
    // for a moment.
    FileExt::unlock(&lock).map_err(|fault| not_opened(path, fault))?;
    drop(lock);
    // We flush ourselves, before anything is acknowledged.
    let config = sled::Config::new().path(path).flush_every_ms(None).cache_capacity(CACHE_BYTES);
    match config.open() {
        Ok(db) => Ok(Some((db, ours))),
        Err(fault) if is_locked(&fault) => Ok(None),
        Err(fault) => Err(unreadable(path, fault)),
    }
}

fn lock(path: &Path) -> io::Result<Option<File>> {
    let log = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(path.join("db"))?;
    match log.try_lock_exclusive() {
        Ok(()) => Ok(Some(log)),
        Err(fault) if fault.raw_os_error() == fs2::lock_contended_error().raw_os_error() => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Removes snapshots that were not finished, and sees to it that `conf` is whole.
fn set_right(path: &Path, ours: bool) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(directory = %path.display(), file = %name, "removed what an interrupted opening left");
            fs::remove_file(path.join(name.as_ref()))?;
        }
    }
    let conf = path.join("conf");
    let found = match fs::read(&conf) {
        Ok(found) => found,
        Err(fault) if fault.kind() == IoKind::NotFound => Vec::new(),
        Err(fault) => return Err(fault),
    };
    // A database of somebody else may have other settings: then it is for sled to refuse it.
    if found != CONF && (ours || CONF.starts_with(&found)) {
        // In place: what an older version of us may be writing there right now is the same.
        let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(&conf)?;
        file.write_all(CONF)?;
        file.set_len(CONF.len() as u64)?;
    }
    Ok(())
}

/// What the directory holds is of no use to us.
pub(crate) fn damaged(path: &Path, what: &str) -> Error {
    let message = format!(
        "{}: {what}; move the directory away to start empty, or put a backup in its place",
        path.display()
    );
    Error::new(ErrorKind::Internal, OPERATION, message)
}

pub(super) fn unreadable(path: &Path, fault: sled::Error) -> Error {
    match fault {
        // The directory itself was just found.
        sled::Error::Io(fault)
            if matches!(fault.kind(), IoKind::NotFound | IoKind::UnexpectedEof | IoKind::InvalidData) =>
        {
            damaged(path, "a file is missing or cut off").with_source(fault)
        }
        sled::Error::Io(fault) => not_opened(path, fault),
        fault => damaged(path, "its files are damaged").with_source(fault),
    }
}

pub(super) fn storage_error(operation: &'static str, message: &'static str, fault: sled::Error) -> Error {
    match fault {
        sled::Error::Io(fault) => io_error(operation, message.to_owned(), fault),
        fault => Error::new(ErrorKind::Unavailable, operation, message).with_source(fault),
    }
}

fn not_opened(path: &Path, fault: io::Error) -> Error {
    io_error(OPERATION, format!("{} cannot be opened", path.display()), fault)
}

fn io_error(operation: &'static str, message: String, fault: io::Error) -> Error {
    let kind = match fault.kind() {
        IoKind::StorageFull | IoKind::FileTooLarge | IoKind::QuotaExceeded => ErrorKind::Exhausted,
        IoKind::PermissionDenied | IoKind::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, operation, message).with_source(fault)
}

/// sled reports a lock that is taken as an error of no kind, so its text must do.
fn is_locked(fault: &sled::Error) -> bool {
    matches!(fault, sled::Error::Io(fault) if fault.kind() == IoKind::Other && fault.to_string().starts_with("could not acquire lock"))
}
