//! A buffered sequential writer on one file.
//!
//! Invariant: bytes reach the file in the order they were given, in writes of about a mebibyte; nothing is durable
//! before its owner flushed it and synced the file. After an error it is of no further use.

use std::sync::Arc;

use crate::compaction::CompactionRequest;
use crate::disk::DiskFile;
use crate::error::StorageError;

/// Bytes gathered before a write: large enough that the cost of a call disappears in that of its bytes.
const WRITE_BYTES: usize = 1 << 20;

/// Bytes after which what was written is synced: one big sync at the end would hold up the commits' own.
const SYNC_BYTES: u64 = CompactionRequest::SYNC_BYTES;

/// Writes one thing after the other, from an offset on.
#[derive(Debug)]
pub(crate) struct ExtentWriter {
    file: Arc<dyn DiskFile>,
    file_name: Arc<str>,
    buffer: Vec<u8>,
    written_to: u64,
    synced_to: u64,
    sync_bytes: u64,
}

impl ExtentWriter {
    /// A writer whose first byte goes to `start_offset`.
    pub(crate) fn new(
        file: Arc<dyn DiskFile>,
        file_name: Arc<str>,
        start_offset: u64,
    ) -> ExtentWriter {
        ExtentWriter {
            file,
            file_name,
            buffer: Vec::with_capacity(WRITE_BYTES),
            written_to: start_offset,
            synced_to: start_offset,
            sync_bytes: SYNC_BYTES,
        }
    }

    /// The same writer, which syncs whenever it has written so many bytes (in whole writes).
    pub(crate) fn syncing_every(self, sync_bytes: u64) -> ExtentWriter {
        ExtentWriter { sync_bytes, ..self }
    }

    /// Where the next byte goes.
    pub(crate) fn position(&self) -> u64 {
        self.written_to.saturating_add(self.buffer.len() as u64)
    }

    /// The file's name.
    pub(crate) fn file_name(&self) -> &str {
        &self.file_name
    }

    /// Goes on at the next multiple of `alignment`, with zeros between.
    pub(crate) fn align(&mut self, alignment: u64) -> Result<(), StorageError> {
        let position = self.position();
        let gap = position
            .next_multiple_of(alignment.max(1))
            .saturating_sub(position);
        self.write(&vec![0u8; usize::try_from(gap).unwrap_or(0)])
    }

    /// Takes bytes; they may stay in memory until the next [`ExtentWriter::flush`].
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        if self.buffer.len().saturating_add(bytes.len()) > WRITE_BYTES {
            self.flush()?;
        }
        if bytes.len() >= WRITE_BYTES {
            self.file.write_at(bytes, self.written_to)?;
            self.written_to = self.written_to.saturating_add(bytes.len() as u64);
            self.sync_now_and_then()?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Hands everything taken to the file. The last of it is durable only after a sync.
    pub(crate) fn flush(&mut self) -> Result<(), StorageError> {
        if !self.buffer.is_empty() {
            self.file.write_at(&self.buffer, self.written_to)?;
            self.written_to = self.position();
            self.buffer.clear();
            self.sync_now_and_then()?;
        }
        Ok(())
    }

    fn sync_now_and_then(&mut self) -> Result<(), StorageError> {
        if self.written_to.saturating_sub(self.synced_to) >= self.sync_bytes {
            self.file.sync()?;
            self.synced_to = self.written_to;
        }
        Ok(())
    }
}
