//! Log files: their header, and how one is prepared ahead of its use, off the commit path.
//!
//! Invariant: a file has its log name only after it is zeroed (or recycled), its header is written and both are
//! durable; under its preparing name it is a leftover that may be removed at any time. So a log file whose header
//! cannot be read is corruption, never an interrupted step.

use std::sync::Arc;

use crate::disk::{Disk, DiskError, DiskErrorKind, DiskFile, OpenMode};
use crate::error::StorageError;
use crate::log_store::log::frame::FileIdentity;
use crate::log_store::names::{Kind, Name};

/// Where the first frame of a file begins: the header has a disk block of its own.
pub(crate) const FRAMES_BEGIN: u64 = 4096;

const MAGIC: [u8; 8] = *b"PIGGLOG1";
const HEADER_LENGTH: usize = 56;
const ZERO_STEP_BYTES: u64 = 4 << 20;

/// A log file ready to be written.
#[derive(Debug)]
pub(crate) struct LogFile {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) name: String,
    pub(crate) identity: FileIdentity,
    /// Bytes of the file, header included.
    pub(crate) capacity: u64,
}

/// What a log file's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogFileHeader {
    pub(crate) store_id: u64,
    pub(crate) shard: u16,
    pub(crate) identity: FileIdentity,
    pub(crate) capacity: u64,
}

impl LogFileHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LENGTH);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.store_id.to_le_bytes());
        bytes.extend_from_slice(&self.identity.number.to_le_bytes());
        bytes.extend_from_slice(&self.identity.nonce.to_le_bytes());
        bytes.extend_from_slice(&self.capacity.to_le_bytes());
        bytes.extend_from_slice(&u64::from(self.shard).to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&u64::from(crc).to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<LogFileHeader> {
        let (body, rest) = bytes.split_at_checked(HEADER_LENGTH - 8)?;
        let (crc, _) = rest.split_first_chunk::<8>()?;
        if u64::from_le_bytes(*crc) != u64::from(crc32c::crc32c(body)) {
            return None;
        }
        let (words, _) = body.as_chunks::<8>();
        let [magic, store_id, number, nonce, capacity, shard] = words else {
            return None;
        };
        let header = LogFileHeader {
            store_id: u64::from_le_bytes(*store_id),
            shard: u16::try_from(u64::from_le_bytes(*shard)).ok()?,
            identity: FileIdentity {
                number: u64::from_le_bytes(*number),
                nonce: u64::from_le_bytes(*nonce),
            },
            capacity: u64::from_le_bytes(*capacity),
        };
        (*magic == MAGIC).then_some(header)
    }

    /// Reads the header of an open log file.
    pub(crate) fn read(file: &dyn DiskFile, name: &str) -> Result<LogFileHeader, StorageError> {
        let mut bytes = [0u8; HEADER_LENGTH];
        match file.read_at(&mut bytes, 0) {
            // Too short for a header: no bytes that one could be made of.
            Err(error) if error.kind == DiskErrorKind::EndOfFile => {}
            read => read?,
        }
        LogFileHeader::decode(&bytes)
            .ok_or_else(|| StorageError::corruption(name, 0, "the log file's header is damaged"))
    }
}

/// Prepares one log file in steps, each with at most one sync.
#[derive(Debug)]
pub(crate) struct PrepareLogFile {
    disk: Arc<dyn Disk>,
    header: LogFileHeader,
    /// A file no longer needed, to be used again instead of a new one.
    recycled: Option<String>,
    /// Not zeroed ahead: made at once, at a higher cost of each later sync.
    is_sparse: bool,
    state: Preparing,
}

#[derive(Debug)]
enum Preparing {
    Begin,
    Zeroing { file: Arc<dyn DiskFile>, done: u64 },
    WriteHeader { file: Arc<dyn DiskFile> },
    Name { file: Arc<dyn DiskFile> },
    SyncName { file: Arc<dyn DiskFile> },
}

impl PrepareLogFile {
    /// Prepares the file that `header` describes; `recycled` is an old file of the same capacity, which nothing
    /// needs any more.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        header: LogFileHeader,
        recycled: Option<String>,
    ) -> PrepareLogFile {
        PrepareLogFile {
            disk,
            header,
            recycled,
            is_sparse: false,
            state: Preparing::Begin,
        }
    }

    /// A file to be used at once, because none was prepared in time.
    pub(crate) fn sparse(disk: Arc<dyn Disk>, header: LogFileHeader) -> PrepareLogFile {
        PrepareLogFile {
            is_sparse: true,
            ..PrepareLogFile::new(disk, header, None)
        }
    }

    fn name(&self, kind: Kind) -> String {
        Name::new(kind, self.header.shard, self.header.identity.number).to_string()
    }

    /// The next step: the file when it is ready.
    pub(crate) fn step(&mut self) -> Result<Option<LogFile>, DiskError> {
        let state = std::mem::replace(&mut self.state, Preparing::Begin);
        self.state = match state {
            Preparing::Begin => self.begin()?,
            Preparing::Zeroing { file, done } => {
                let length = self
                    .header
                    .capacity
                    .saturating_sub(done)
                    .min(ZERO_STEP_BYTES);
                file.zero(done, length)?;
                // Bit by bit: one big sync would hold up the commits' own.
                file.sync()?;
                let done = done.saturating_add(length);
                if done < self.header.capacity {
                    Preparing::Zeroing { file, done }
                } else {
                    Preparing::WriteHeader { file }
                }
            }
            Preparing::WriteHeader { file } => {
                file.write_at(&self.header.encode(), 0)?;
                file.sync()?;
                Preparing::Name { file }
            }
            Preparing::Name { file } => {
                self.disk
                    .rename(&self.name(Kind::LogPreparing), &self.name(Kind::Log))?;
                Preparing::SyncName { file }
            }
            Preparing::SyncName { file } => {
                self.disk.sync_directory()?;
                let name = self.name(Kind::Log);
                let LogFileHeader {
                    identity, capacity, ..
                } = self.header;
                return Ok(Some(LogFile {
                    file,
                    name,
                    identity,
                    capacity,
                }));
            }
        };
        Ok(None)
    }

    fn begin(&mut self) -> Result<Preparing, DiskError> {
        let preparing = self.name(Kind::LogPreparing);
        let Some(recycled) = &self.recycled else {
            let file = self.disk.open(&preparing, OpenMode::CreateNew)?;
            if self.is_sparse {
                file.truncate(self.header.capacity)?;
                return Ok(Preparing::WriteHeader { file });
            }
            return Ok(Preparing::Zeroing { file, done: 0 });
        };
        self.disk.rename(recycled, &preparing)?;
        self.recycled = None;
        // Without this a power cut could leave the old name on a file with the new header.
        self.disk.sync_directory()?;
        let file = self.disk.open(&preparing, OpenMode::Existing)?;
        Ok(Preparing::WriteHeader { file })
    }

    /// Whether the file to be used again has its old name still.
    pub(crate) fn keeps_recycled(&self) -> bool {
        self.recycled.is_some()
    }

    /// The names the file may have while it is prepared.
    pub(crate) fn names(&self) -> [String; 2] {
        [self.name(Kind::LogPreparing), self.name(Kind::Log)]
    }

    /// Removes what an unfinished preparation left; what cannot be removed is removed at the next open.
    pub(crate) fn clean_up(self) {
        let is_unfinished = !matches!(self.state, Preparing::Begin) || self.recycled.is_none();
        if !is_unfinished {
            return;
        }
        // It has either name, if it exists at all.
        for name in self.names() {
            if let Err(error) = self.disk.remove(&name) {
                tracing::debug!(file = %name, %error, "no leftover removed");
            }
        }
    }

    /// All steps at once.
    pub(crate) fn run(mut self) -> Result<LogFile, DiskError> {
        loop {
            match self.step() {
                Ok(None) => {}
                Ok(Some(file)) => return Ok(file),
                Err(error) => {
                    self.clean_up();
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
