//! The file of the records: what was written since the last fold, one record after the other.
//!
//! It begins with the number of its first record. A record that is cut off at the end of the file
//! was never acknowledged: the process ended while it was being written. All else that does not fit
//! is damage, also a beginning beyond what the tree knows: then the tree has lost its last fold.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};

const NAME: &str = "records";
/// The next file of records, before it takes the place of the last one.
const NEXT: &str = "records.next";

const MAGIC: &[u8] = b"coord-memory records 1\n";
/// The magic words, the number of the first record, and their checksum.
const HEAD: usize = MAGIC.len() + 8 + 4;
/// Before each record: its number, its length, its checksum, and the checksum of these three.
const FRAME: usize = 8 + 4 + 4 + 4;

/// The file, open for appending.
#[derive(Debug)]
pub(super) struct Records {
    file: File,
    directory: PathBuf,
    buffer: Vec<u8>,
}

/// What a file held when it was opened.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) records: Vec<(u64, Vec<u8>)>,
    /// The number of the first one, whether there is one or not.
    pub(super) first: u64,
}

/// Why a file cannot be opened.
#[derive(Debug)]
pub(super) enum RecordsError {
    Io(io::Error),
    Damaged(&'static str),
}

impl From<io::Error> for RecordsError {
    fn from(fault: io::Error) -> Self {
        RecordsError::Io(fault)
    }
}

impl Records {
    /// Begins a new file, for the records from number `first` on, in the place of whatever file
    /// there is.
    pub(super) fn create(directory: &Path, first: u64) -> io::Result<Self> {
        let mut head = MAGIC.to_vec();
        head.put_u64(first);
        head.put_u32(crc32fast::hash(&head));
        let next = directory.join(NEXT);
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&next)?;
        file.write_all(&head)?;
        fs::rename(&next, directory.join(NAME))?;
        Ok(Records { file, directory: directory.to_owned(), buffer: Vec::new() })
    }

    /// Opens the file that is there, and reads it. `None` when there is none.
    pub(super) fn open(directory: &Path) -> Result<Option<(Self, Found)>, RecordsError> {
        let path = directory.join(NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(fault) => return Err(fault.into()),
        };
        let (found, whole) = decode(&bytes).map_err(RecordsError::Damaged)?;
        let mut file = OpenOptions::new().write(true).open(&path)?;
        if whole < bytes.len() {
            file.set_len(whole as u64)?;
        }
        file.seek(SeekFrom::Start(whole as u64))?;
        Ok(Some((Records { file, directory: directory.to_owned(), buffer: Vec::new() }, found)))
    }

    /// Writes a record at the end. When it returns, the record survives the end of the process.
    /// After an error it is not known what the file holds.
    pub(super) fn append(&mut self, number: u64, record: &[u8]) -> io::Result<()> {
        let length = u32::try_from(record.len())
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "more than 4 GiB at once"))?;
        self.buffer.clear();
        self.buffer.put_u64(number);
        self.buffer.put_u32(length);
        self.buffer.put_u32(crc32fast::hash(record));
        self.buffer.put_u32(crc32fast::hash(&self.buffer));
        self.buffer.extend_from_slice(record);
        self.file.write_all(&self.buffer)
    }

    /// Begins anew with number `first`: everything before has been folded.
    pub(super) fn restart(&mut self, first: u64) -> io::Result<()> {
        *self = Records::create(&self.directory, first)?;
        Ok(())
    }
}

/// What the bytes of a file hold, and how many of them belong to whole records.
fn decode(bytes: &[u8]) -> Result<(Found, usize), &'static str> {
    const HEAD_DAMAGED: &str = "the head of its records does not decode";
    let (head, mut rest) = bytes.split_at_checked(HEAD).ok_or(HEAD_DAMAGED)?;
    let (sealed, mut checksum) = head.split_at_checked(HEAD - 4).ok_or(HEAD_DAMAGED)?;
    let mut first = sealed.strip_prefix(MAGIC).ok_or(HEAD_DAMAGED)?;
    if checksum.try_get_u32() != Ok(crc32fast::hash(sealed)) {
        return Err(HEAD_DAMAGED);
    }
    let first = first.try_get_u64().map_err(|_| HEAD_DAMAGED)?;
    let mut found = Found { records: Vec::new(), first };
    let mut expected = first;
    while let Some((frame, after)) = rest.split_at_checked(FRAME) {
        let Some(record) = decode_frame(frame, after, expected)? else { break };
        rest = after.get(record.len()..).unwrap_or_default();
        found.records.push((expected, record.to_vec()));
        expected = expected.saturating_add(1);
    }
    Ok((found, bytes.len() - rest.len()))
}

/// The record behind a frame; `None` when it is cut off.
fn decode_frame<'a>(
    mut frame: &[u8],
    after: &'a [u8],
    expected: u64,
) -> Result<Option<&'a [u8]>, &'static str> {
    const FRAME_DAMAGED: &str = "a record does not decode";
    let sealed = frame.get(..FRAME - 4).map(crc32fast::hash);
    let number = frame.try_get_u64().map_err(|_| FRAME_DAMAGED)?;
    let length = frame.try_get_u32().map_err(|_| FRAME_DAMAGED)?;
    let checksum = frame.try_get_u32().map_err(|_| FRAME_DAMAGED)?;
    if frame.try_get_u32().ok() != sealed {
        return Err(FRAME_DAMAGED);
    }
    if number != expected {
        return Err("a record is missing");
    }
    let Some(record) = usize::try_from(length).ok().and_then(|length| after.get(..length)) else {
        return Ok(None);
    };
    if crc32fast::hash(record) != checksum {
        return Err(FRAME_DAMAGED);
    }
    Ok(Some(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(directory: &Path) -> Vec<u8> {
        fs::read(directory.join(NAME)).unwrap()
    }

    fn numbers(directory: &Path) -> Vec<(u64, Vec<u8>)> {
        Records::open(directory).unwrap().unwrap().1.records
    }

    fn three() -> (tempfile::TempDir, Vec<(u64, Vec<u8>)>) {
        let dir = tempfile::tempdir().unwrap();
        let mut records = Records::create(dir.path(), 7).unwrap();
        let written: Vec<_> = [&b"first"[..], b"", &[b'v'; 10_000]]
            .into_iter()
            .zip(7..)
            .map(|(bytes, number)| (number, bytes.to_vec()))
            .collect();
        written.iter().for_each(|(number, record)| records.append(*number, record).unwrap());
        (dir, written)
    }

    #[test]
    fn what_is_cut_off_anywhere_is_the_records_before() {
        let (dir, written) = three();
        let whole = file(dir.path());
        let ends: Vec<_> = (0..=3)
            .map(|n| HEAD + written[..n].iter().map(|(_, record)| FRAME + record.len()).sum::<usize>())
            .collect();
        for length in (0..200).chain((200..whole.len()).step_by(97)).chain([whole.len() - 1]) {
            fs::write(dir.path().join(NAME), &whole[..length]).unwrap();
            if length < HEAD {
                assert!(matches!(Records::open(dir.path()), Err(RecordsError::Damaged(_))), "{length}");
                continue;
            }
            let left = ends.iter().filter(|end| **end <= length).count() - 1;
            let (mut records, found) = Records::open(dir.path()).unwrap().unwrap();
            assert_eq!((found.first, found.records.as_slice()), (7, &written[..left]), "{length}");
            // And what is written then follows on them.
            records.append(7 + left as u64, b"next").unwrap();
            assert_eq!(numbers(dir.path()).len(), left + 1);
        }
    }

    #[test]
    fn a_byte_that_is_changed_anywhere_is_damage() {
        let (dir, _) = three();
        let whole = file(dir.path());
        for place in (0..200).chain((200..whole.len()).step_by(97)) {
            let mut bytes = whole.clone();
            bytes[place] ^= 0x10;
            fs::write(dir.path().join(NAME), bytes).unwrap();
            assert!(matches!(Records::open(dir.path()), Err(RecordsError::Damaged(_))), "{place}");
        }
    }

    #[test]
    fn it_begins_anew() {
        let (dir, _) = three();
        let (mut records, _) = Records::open(dir.path()).unwrap().unwrap();
        records.restart(10).unwrap();
        let (_, found) = Records::open(dir.path()).unwrap().unwrap();
        assert_eq!((found.first, found.records.len()), (10, 0));
        records.append(10, b"1").unwrap();
        assert_eq!(numbers(dir.path()), [(10, b"1".to_vec())]);
        assert!(!dir.path().join(NEXT).exists());
    }
}
