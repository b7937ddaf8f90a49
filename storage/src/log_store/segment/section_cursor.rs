//! Reads a section entry by entry, with a piece of it in memory at a time.
//!
//! Invariant: nothing is handed out before the whole section was read once and its checksum held, as for one that is
//! read at once. For compactions, whose memory must not grow with the kills and batch ends of a vbucket.

use std::sync::Arc;

use super::fields::{Decoded, Fields, saturating_usize};
use super::footer::Section;
use super::reader::Segment;
use crate::error::StorageError;

const PIECE_BYTES: u64 = 64 << 10;
/// More than any entry takes.
const ENTRY_BYTES_MAX: usize = 128;

/// A position in a section.
#[derive(Debug)]
pub(super) struct SectionCursor {
    segment: Arc<Segment>,
    section: Section,
    /// What of the section was read, as far as it is wanted next.
    read_to: u64,
    buffer: Vec<u8>,
    /// What of the buffer was taken.
    at: usize,
}

impl SectionCursor {
    /// Reads the section through, and stands at its beginning.
    pub(super) fn open(
        segment: Arc<Segment>,
        section: Section,
    ) -> Result<SectionCursor, StorageError> {
        let mut cursor = SectionCursor {
            segment,
            section,
            read_to: 0,
            buffer: Vec::new(),
            at: 0,
        };
        let mut crc = 0;
        while cursor.read_to < section.length {
            cursor.buffer.clear();
            cursor.read_piece()?;
            crc = crc32c::crc32c_append(crc, &cursor.buffer);
        }
        if crc != section.crc {
            return Err(cursor.corrupt("a section's checksum does not match"));
        }
        if section.length > PIECE_BYTES {
            cursor.buffer.clear();
            cursor.read_to = 0;
        }
        Ok(cursor)
    }

    /// Adds the next piece to the buffer.
    fn read_piece(&mut self) -> Result<(), StorageError> {
        let left = self.section.length.saturating_sub(self.read_to);
        let length = left.min(PIECE_BYTES);
        let begin = self.buffer.len();
        let end = begin.saturating_add(saturating_usize(length));
        self.buffer.resize(end, 0);
        let piece = self.buffer.get_mut(begin..).unwrap_or_default();
        let offset = self.section.offset.saturating_add(self.read_to);
        self.segment.source().read_into(piece, offset)?;
        self.read_to = self.read_to.saturating_add(length);
        Ok(())
    }

    /// Takes the next entry.
    pub(super) fn take<T>(
        &mut self,
        take: impl FnOnce(&mut Fields<'_>) -> Decoded<T>,
    ) -> Result<T, StorageError> {
        let left = self.buffer.len().saturating_sub(self.at);
        if left < ENTRY_BYTES_MAX && self.read_to < self.section.length {
            self.buffer.drain(..self.at);
            self.at = 0;
            self.read_piece()?;
        }
        let rest = self.buffer.get(self.at..).unwrap_or(&[]);
        let mut fields = Fields::new(rest);
        let taken = take(&mut fields);
        let length = rest.len().saturating_sub(fields.rest().len());
        let taken = taken.map_err(|what| self.corrupt(what))?;
        self.at = self.at.saturating_add(length);
        Ok(taken)
    }

    /// Errs unless everything was taken.
    pub(super) fn end(&self) -> Result<(), StorageError> {
        if self.at == self.buffer.len() && self.read_to == self.section.length {
            return Ok(());
        }
        Err(self.corrupt("bytes left over"))
    }

    pub(super) fn corrupt(&self, what: &'static str) -> StorageError {
        self.segment.source().corrupt(self.section.offset, what)
    }
}
