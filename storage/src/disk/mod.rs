//! The disk: every byte the store reads or writes goes through these two traits.
//!
//! Invariant: what the traits promise is what a careful program may expect of a disk, no more: a write is durable
//! only after `sync` of its file, a created, renamed or removed name only after `sync_directory`; a failed `sync`
//! leaves the file with unknown content. [`FileSystemDisk`] is the real one, [`SimulatedDisk`] its twin with faults.

pub mod file_system;
pub mod simulated;

use std::sync::Arc;

pub use file_system::FileSystemDisk;
pub use simulated::{Call, Fault, SimulatedDisk, SyncFailure};

/// A directory of files. Names are plain file names: no separators, no directories below.
pub trait Disk: std::fmt::Debug + Send + Sync + 'static {
    /// Opens a file for reading and writing.
    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn DiskFile>, DiskError>;
    /// Gives a file another name, replacing a file of that name. Durable after [`Disk::sync_directory`].
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;
    /// Removes a file; whoever has it open may go on reading. Durable after [`Disk::sync_directory`].
    fn remove(&self, name: &str) -> Result<(), DiskError>;
    /// The names of all files, sorted.
    fn list(&self) -> Result<Vec<String>, DiskError>;
    /// Makes created, renamed and removed names durable.
    fn sync_directory(&self) -> Result<(), DiskError>;
    /// Takes the directory for this process (advisory) by a lock on the file `name`, created if missing; free
    /// again when the guard is dropped.
    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, DiskError>;
}

/// An open file. Positional, so that any number of threads may use it at once.
pub trait DiskFile: std::fmt::Debug + Send + Sync + 'static {
    /// Reads exactly `buffer.len()` bytes at `offset`; [`DiskErrorKind::EndOfFile`] when the file is shorter.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError>;
    /// The same without waiting for the disk's answer: [`DiskErrorKind::WouldWait`] where the bytes are not in memory, or
    /// where that cannot be known; what is in `buffer` then is of no meaning.
    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError>;
    /// Writes all of `data` at `offset`, growing the file as needed. After an error any part may be written.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError>;
    /// Makes everything written durable, and the length needed to read it back.
    fn sync(&self) -> Result<(), DiskError>;
    /// The file's length in bytes.
    fn length(&self) -> Result<u64, DiskError>;
    /// Cuts or extends (with zeros) to `length`.
    fn truncate(&self, length: u64) -> Result<(), DiskError>;
    /// Writes zeros, so that later writes there need no new disk blocks.
    fn zero(&self, offset: u64, length: u64) -> Result<(), DiskError>;
    /// Gives the space of a range back to the disk; it reads as zeros (or, where the file system has no such
    /// call, as before). The length stays.
    fn punch(&self, offset: u64, length: u64) -> Result<(), DiskError>;
    /// Writes `data` at the end and returns where it begins. For one writer at a time.
    fn append(&self, data: &[u8]) -> Result<u64, DiskError> {
        let end = self.length()?;
        self.write_at(data, end)?;
        Ok(end)
    }
}

/// Held while a directory belongs to this process.
pub trait DiskLock: std::fmt::Debug + Send + Sync {}

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// It must exist.
    Existing,
    /// It must exist, and will only be read.
    ReadOnly,
    /// It must not exist; it is created empty.
    CreateNew,
}

/// What a call on the disk is, to name it in errors and faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the call of that name")]
pub enum Verb {
    Open,
    Read,
    Write,
    Sync,
    Length,
    Truncate,
    Zero,
    Punch,
    Rename,
    Remove,
    List,
    SyncDirectory,
    Lock,
}

/// A call on the disk that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{verb:?} of {file}: {kind}")]
pub struct DiskError {
    /// The call.
    pub verb: Verb,
    /// The file's name, or the directory's.
    pub file: String,
    /// What went wrong.
    pub kind: DiskErrorKind,
}

/// What went wrong with a call on the disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiskErrorKind {
    /// There is no such file (or it was removed underneath).
    #[error("not found")]
    NotFound,
    /// It exists already.
    #[error("exists already")]
    Exists,
    /// The path of the store is no directory.
    #[error("not a directory; give one")]
    NotADirectory,
    /// No space, or a quota is used up.
    #[error("no space left on the disk")]
    Full,
    /// The disk or file can only be read.
    #[error("read-only; make it writable, or give another")]
    ReadOnly,
    /// The system forbids it.
    #[error("permission denied; allow it to this user, or give another")]
    PermissionDenied,
    /// Another process (or another store of this one) holds the lock.
    #[error("locked by another process, or another handle of this one; close that first")]
    Locked,
    /// The file ends before the bytes wanted.
    #[error("the file ends before the bytes wanted")]
    EndOfFile,
    /// The bytes are not in memory, and it was not to be waited for them.
    #[error("the disk would have to be waited for; read where that is allowed")]
    WouldWait,
    /// The simulated machine lost power; nothing works until the disk is opened anew.
    #[error("the power is off")]
    PowerCut,
    /// Anything else, in the system's words.
    #[error("{0}")]
    Other(String),
}

/// What is no plain file name would reach another directory, or not a file at all.
fn refuse_unless_plain(verb: Verb, name: &str) -> Result<(), DiskError> {
    let plain = !name.is_empty()
        && name.len() <= FILE_NAME_BYTES_MAX
        && !matches!(name, "." | "..")
        && !name.contains(['/', '\0']);
    if plain {
        return Ok(());
    }
    let kind = DiskErrorKind::Other("not a plain file name".to_owned());
    Err(DiskError {
        verb,
        file: name.to_owned(),
        kind,
    })
}

/// The longest name the file systems of Linux and macOS take.
const FILE_NAME_BYTES_MAX: usize = 255;
