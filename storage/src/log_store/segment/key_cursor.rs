//! Reads a segment's index entries in their order, several pages with one pread.
//!
//! Invariant: an entry is handed out only from a page whose checksum held, and in rising order. Reads grow from a
//! few pages to many as the scan goes on, so that a short range costs little and a long one few calls.

use std::sync::Arc;

use super::fields::{Decoded, Fields, saturating_usize};
use super::key_index::{FoundEntry, IndexEntry, PageEntry};
use super::reader::Segment;
use crate::error::StorageError;
use crate::seqno::Seqno;

const READ_BYTES_FIRST: u64 = 4 << 10;
const READ_BYTES_MAX: u64 = 256 << 10;

/// A position in the index of one segment.
#[derive(Debug)]
pub(crate) struct KeyCursor {
    segment: Arc<Segment>,
    last: Seqno,
    pages: PageReader,
    current: Option<FoundEntry>,
    current_key: Vec<u8>,
}

impl KeyCursor {
    /// A cursor at the first visible entry whose key is not below `from_index_key`; an empty key is the beginning.
    pub(crate) fn new(
        segment: Arc<Segment>,
        from_index_key: &[u8],
    ) -> Result<KeyCursor, StorageError> {
        let page = segment
            .index_top
            .pages_upto(from_index_key, Seqno::MAX)
            .saturating_sub(1);
        let mut cursor = KeyCursor {
            last: segment.meta.visible_last(),
            pages: PageReader::new(page),
            segment,
            current: None,
            current_key: Vec::new(),
        };
        cursor.advance_to(from_index_key)?;
        Ok(cursor)
    }

    /// The entry it stands at; `None` at the end.
    pub(crate) fn peek(&self) -> Option<IndexEntry<'_>> {
        self.current.map(|entry| IndexEntry {
            key: &self.current_key,
            seqno: entry.seqno,
            location: entry.location,
            is_tombstone: entry.is_tombstone,
            user_bytes: entry.user_bytes,
        })
    }

    /// Moves to the next visible entry. After an error it stands at the end, and the same call fails again.
    pub(crate) fn advance(&mut self) -> Result<(), StorageError> {
        self.advance_to(&[])
    }

    fn advance_to(&mut self, from_index_key: &[u8]) -> Result<(), StorageError> {
        self.current = None;
        while let Some(entry) = self.pages.next(&self.segment)? {
            if entry.seqno <= self.last && entry.key >= from_index_key {
                self.current_key.clear();
                self.current_key.extend_from_slice(entry.key);
                self.current = Some(entry.without_key());
                break;
            }
        }
        Ok(())
    }
}

/// Walks entries from a page on, whatever their seqno.
#[derive(Debug)]
struct PageReader {
    buffer: Vec<u8>,
    /// Next page of the segment to read.
    next_page: usize,
    /// Pages in the buffer not yet entered.
    ahead: Vec<PageEntry>,
    /// What of the buffer holds pages not yet entered, from here on.
    ahead_at: usize,
    /// Entries of the page entered: the rest of their bytes, as places in the buffer.
    at: usize,
    end: usize,
    left: usize,
    read_bytes: u64,
}

impl PageReader {
    fn new(page: usize) -> PageReader {
        PageReader {
            buffer: Vec::new(),
            next_page: page,
            ahead: Vec::new(),
            ahead_at: 0,
            at: 0,
            end: 0,
            left: 0,
            read_bytes: READ_BYTES_FIRST,
        }
    }

    fn next(&mut self, segment: &Segment) -> Result<Option<IndexEntry<'_>>, StorageError> {
        while self.left == 0 {
            if self.ahead.is_empty() && !self.read(segment)? {
                return Ok(None);
            }
            self.enter_page(segment)?;
        }
        let entries = self.buffer.get(self.at..self.end).unwrap_or(&[]);
        let mut fields = Fields::new(entries);
        let entry = IndexEntry::take(&mut fields);
        let taken = entries.len().saturating_sub(fields.rest().len());
        let offset = segment.footer.sections.pages.offset;
        let entry = entry.map_err(|what| segment.source().corrupt(offset, what))?;
        self.at = self.at.saturating_add(taken);
        self.left = self.left.saturating_sub(1);
        Ok(Some(entry))
    }

    /// Reads pages; `false` at the end of the index.
    fn read(&mut self, segment: &Segment) -> Result<bool, StorageError> {
        let pages = segment.index_top.from(self.next_page);
        let Some(first) = pages.first() else {
            return Ok(false);
        };
        let most = first.offset.saturating_add(self.read_bytes);
        let count = pages.partition_point(|page| page.end() <= most).max(1);
        let pages = pages.get(..count).unwrap_or(&[]);
        let length = pages
            .last()
            .map_or(0, PageEntry::end)
            .saturating_sub(first.offset);
        self.buffer.resize(saturating_usize(length), 0);
        let offset = segment
            .footer
            .sections
            .pages
            .offset
            .saturating_add(first.offset);
        segment.source().read_into(&mut self.buffer, offset)?;
        self.ahead.extend(pages.iter().rev());
        self.ahead_at = 0;
        self.next_page = self.next_page.saturating_add(count);
        self.read_bytes = READ_BYTES_MAX.min(self.read_bytes.saturating_mul(2));
        Ok(true)
    }

    fn enter_page(&mut self, segment: &Segment) -> Result<(), StorageError> {
        let Some(&page) = self.ahead.last() else {
            return Ok(());
        };
        let end = self.ahead_at.saturating_add(usize::from(page.length));
        let bytes = self.buffer.get(self.ahead_at..end).unwrap_or(&[]);
        let (count, entries_length) = Self::measure(&page, bytes).map_err(|what| {
            let pages = segment.footer.sections.pages.offset;
            segment
                .source()
                .corrupt(pages.saturating_add(page.offset), what)
        })?;
        self.ahead.pop();
        self.at = end.saturating_sub(entries_length);
        self.end = end;
        self.left = count;
        self.ahead_at = end;
        Ok(())
    }

    /// Number of entries of a page, and the bytes they take at its end.
    fn measure(page: &PageEntry, bytes: &[u8]) -> Decoded<(usize, usize)> {
        let page = page.verified(bytes)?;
        Ok((page.len(), page.entries().len()))
    }
}
