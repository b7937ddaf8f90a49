//! An open segment: point reads, and the raw material of cursors.
//!
//! Invariant: nothing is handed out that was not verified against the meta the segment was opened with, and no
//! length read from the disk is believed before it was checked against the segment's own. Any number of threads
//! may read at once; a point read allocates only its result, and where the disk may not be waited for, nothing large.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::SegmentMeta;
use super::block::{BlockEntry, BlockTable, Compression, HEADER_BYTES};
use super::fields::{Decoded, saturating_usize};
use super::filter::Filter;
use super::footer::{END_BYTES, Footer, Section};
use super::key_index::{FoundEntry, IndexEntry, IndexTop, PAGE_BYTES_MAX, Page, PageEntry};
use super::kill_list::{self, Kill};
use super::page_cache::PageCache;
use super::record_location::{self, RecordLocation};
use super::{boundaries, writer::SegmentIdent};
use crate::disk::{DiskErrorKind, DiskFile};
use crate::document::Item;
use crate::error::StorageError;
use crate::seqno::Seqno;
use crate::vbucket::Watermarks;

/// What an open reads first: all that is held in memory of a small segment, the end of it for a large one.
const FIRST_READ_BYTES: u64 = 64 << 10;

/// Most bytes that are read where the disk may not be waited for: copying, checking and unpacking them must cost hardly more
/// than handing the work to somebody else.
const AT_ONCE_BYTES_MAX: usize = 64 << 10;

/// Whether a point read may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It does.
    Waits,
    /// It fails with [`StorageError::WouldWait`] instead, also of what would take its time.
    AtOnce,
}

impl Patience {
    /// Whether a read may deal with so many bytes.
    pub(crate) fn allows(self, bytes: usize) -> Result<(), StorageError> {
        match self {
            Patience::AtOnce if bytes > AT_ONCE_BYTES_MAX => Err(StorageError::WouldWait),
            Patience::AtOnce | Patience::Waits => Ok(()),
        }
    }
}

/// A segment, open for reading.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) file_name: Arc<str>,
    pub(super) meta: SegmentMeta,
    pub(super) footer: Footer,
    pub(super) filter: Filter,
    pub(super) blocks: BlockTable,
    pub(super) index_top: IndexTop,
    pages: Option<Arc<PageCache>>,
}

impl Segment {
    /// Opens the segment `meta` speaks of, with one pread, or two for a large one.
    pub(crate) fn open(
        file: Arc<dyn DiskFile>,
        file_name: Arc<str>,
        meta: SegmentMeta,
    ) -> Result<Segment, StorageError> {
        let source = Source {
            file: &*file,
            file_name: &file_name,
            start: meta.offset,
        };
        if meta.offset.checked_add(meta.length).is_none() || meta.length < END_BYTES as u64 {
            return Err(source.corrupt(0, "the segment's length is impossible"));
        }
        let footer_offset = meta.length.saturating_sub(END_BYTES as u64);
        let tail_offset = meta.length.saturating_sub(FIRST_READ_BYTES);
        let tail = source.read(tail_offset, meta.length.saturating_sub(tail_offset))?;
        let end = tail
            .get(tail.len().saturating_sub(END_BYTES)..)
            .unwrap_or(&[]);
        let (footer, crc) =
            Footer::decode(end, meta.length).map_err(|what| source.corrupt(footer_offset, what))?;
        if !footer.agrees_with(&meta, crc) {
            return Err(source.corrupt(footer_offset, "the footer is not the one recorded"));
        }
        let loaded = Loaded::load(&source, &footer, tail_offset, tail)?;
        let (filter, blocks, index_top) = loaded.decode(&source, &footer)?;
        Ok(Segment {
            file,
            file_name,
            meta,
            footer,
            filter,
            blocks,
            index_top,
            pages: None,
        })
    }

    /// The same segment, with its index pages kept in `pages` once they were read.
    pub(crate) fn cached(self, pages: Arc<PageCache>) -> Segment {
        Segment {
            pages: Some(pages),
            ..self
        }
    }

    /// The same segment, of which what lies above `to` is invisible. It is read anew from the same bytes.
    pub(crate) fn cut_at(&self, to: Seqno) -> Result<Segment, StorageError> {
        let meta = SegmentMeta {
            cut: Some(to),
            ..self.meta.clone()
        };
        let (file, name) = (Arc::clone(&self.file), Arc::clone(&self.file_name));
        let cut = Segment::open(file, name, meta)?;
        Ok(Segment {
            pages: self.pages.clone(),
            ..cut
        })
    }

    /// Name of the file it lies in.
    pub(crate) fn file_name(&self) -> &str {
        &self.file_name
    }

    /// What the manifest remembers of it.
    pub(crate) fn meta(&self) -> &SegmentMeta {
        &self.meta
    }

    /// Whose items it holds.
    pub(crate) fn ident(&self) -> SegmentIdent {
        self.footer.ident
    }

    /// Whether a key of that [`super::hash`] may be in it; `false` is certain.
    pub(crate) fn may_hold(&self, key_hash: u64) -> bool {
        self.filter.may_hold(key_hash)
    }

    /// The newest version of a key whose seqno is at most `at_most` (and not above the cut).
    pub(crate) fn find(
        &self,
        index_key: &[u8],
        at_most: Seqno,
        patience: Patience,
    ) -> Result<Option<FoundEntry>, StorageError> {
        let at_most = at_most.min(self.meta.visible_last());
        let behind = self.index_top.pages_upto(index_key, at_most);
        let page = behind
            .checked_sub(1)
            .and_then(|page| self.index_top.get(page));
        if let Some(page) = page
            && let Some(found) = self.find_in_page(page, (index_key, at_most), patience)?
        {
            return Ok(found.if_same_key());
        }
        // Past the end of its page, the key can only go on where the next page begins.
        match self.index_top.get(behind) {
            Some(page) if self.index_top.key(behind) == index_key => {
                let found = self.find_in_page(page, (index_key, at_most), patience)?;
                Ok(found.and_then(Neighbour::if_same_key))
            }
            _ => Ok(None),
        }
    }

    /// The first entry of the page at or behind the one wanted.
    fn find_in_page(
        &self,
        page: &PageEntry,
        (index_key, at_most): (&[u8], Seqno),
        patience: Patience,
    ) -> Result<Option<Neighbour>, StorageError> {
        let offset = self
            .footer
            .sections
            .pages
            .offset
            .saturating_add(page.offset);
        let corrupt = |what| self.source().corrupt(offset, what);
        let find = |bytes: &[u8]| {
            let page = Page::parse(bytes).map_err(corrupt)?;
            let entry = page.first_from(index_key, at_most).map_err(corrupt)?;
            Ok(entry.map(|entry| Neighbour::new(&entry, index_key)))
        };
        let cache = self.pages.as_ref();
        if let Some(bytes) = cache.and_then(|cache| cache.get(self.meta.id, offset)) {
            return find(&bytes);
        }
        let mut buffer = [0; PAGE_BYTES_MAX];
        let bytes = buffer
            .get_mut(..usize::from(page.length))
            .ok_or_else(|| corrupt("an index page is too large"))?;
        self.source().read_patiently(bytes, offset, patience)?;
        page.check(bytes).map_err(corrupt)?;
        if let Some(cache) = cache {
            cache.insert(self.meta.id, offset, bytes);
        }
        find(bytes)
    }

    /// The item at `location`, where the index says one of this seqno is.
    pub(crate) fn read_record(
        &self,
        location: RecordLocation,
        seqno: Seqno,
        patience: Patience,
    ) -> Result<Item, StorageError> {
        let block = usize::try_from(location.block)
            .ok()
            .and_then(|block| self.blocks.get(block));
        let Some(block) = block.filter(|block| holds(block, location)) else {
            return Err(self
                .source()
                .corrupt(0, "an index entry points outside the blocks"));
        };
        let costs = match block.compression {
            Compression::None => location.length,
            // All of it is unpacked.
            Compression::Lz4 => block.raw_length,
        };
        patience.allows(saturating_usize(u64::from(costs)))?;
        let corrupt = |what| {
            let within = HEADER_BYTES as u64 + u64::from(location.offset);
            self.source()
                .corrupt(block.offset.saturating_add(within), what)
        };
        let record = match block.compression {
            Compression::None => self.read_plain(block, location, patience)?,
            Compression::Lz4 => self.read_compressed(block, location, patience)?,
        };
        let item = into_item(record).map_err(corrupt)?;
        if item.seqno != seqno {
            return Err(corrupt("a record is of another seqno than its index entry"));
        }
        Ok(item)
    }

    fn read_plain(
        &self,
        block: &BlockEntry,
        location: RecordLocation,
        patience: Patience,
    ) -> Result<Vec<u8>, StorageError> {
        let within = HEADER_BYTES as u64 + u64::from(location.offset);
        let mut bytes = vec![0; saturating_usize(u64::from(location.length))];
        let offset = block.offset.saturating_add(within);
        self.source().read_patiently(&mut bytes, offset, patience)?;
        Ok(bytes)
    }

    fn read_compressed(
        &self,
        block: &BlockEntry,
        location: RecordLocation,
        patience: Patience,
    ) -> Result<Vec<u8>, StorageError> {
        let mut bytes = vec![0; saturating_usize(block.length())];
        self.source()
            .read_patiently(&mut bytes, block.offset, patience)?;
        let mut raw = Vec::new();
        block
            .verified(&bytes)
            .and_then(|(stored, _)| block.decompress(stored, &mut raw))
            .map_err(|what| self.source().corrupt(block.offset, what))?;
        let start = saturating_usize(u64::from(location.offset));
        let end = start.saturating_add(saturating_usize(u64::from(location.length)));
        Ok(raw.get(start..end).unwrap_or(&[]).to_vec())
    }

    /// Which older versions its visible items replaced, by rising victim. Read from the disk.
    pub(crate) fn kills(&self) -> Result<Vec<Kill>, StorageError> {
        let section = self.footer.sections.kills;
        let decode = |bytes: &[u8]| kill_list::decode(bytes, self.footer.kills);
        let mut kills = self.source().read_section(&section, decode)?;
        if let Some(cut) = self.meta.cut {
            kills.retain(|kill| kill.killer <= cut);
        }
        Ok(kills)
    }

    /// How many batches it knows the end of, those above the cut included.
    pub(crate) fn boundary_count(&self) -> u64 {
        self.footer.boundaries
    }

    /// How far the vbucket had come with each visible batch, by rising high seqno. Read from the disk.
    pub(crate) fn boundaries(&self) -> Result<Vec<Watermarks>, StorageError> {
        let section = self.footer.sections.boundaries;
        let decode = |bytes: &[u8]| boundaries::decode(bytes, self.footer.boundaries);
        let mut boundaries = self.source().read_section(&section, decode)?;
        if let Some(cut) = self.meta.cut {
            boundaries.retain(|boundary| boundary.high_seqno <= cut);
        }
        Ok(boundaries)
    }

    /// Its bytes.
    pub(super) fn source(&self) -> Source<'_> {
        Source {
            file: &*self.file,
            file_name: &self.file_name,
            start: self.meta.offset,
        }
    }
}

/// The entry a search ended at: it is the version wanted if it has the key.
struct Neighbour {
    entry: FoundEntry,
    has_key: bool,
}

impl Neighbour {
    fn new(entry: &IndexEntry<'_>, index_key: &[u8]) -> Neighbour {
        Neighbour {
            entry: entry.without_key(),
            has_key: entry.key == index_key,
        }
    }

    fn if_same_key(self) -> Option<FoundEntry> {
        self.has_key.then_some(self.entry)
    }
}

/// Whether the block is long enough for `location`.
fn holds(block: &BlockEntry, location: RecordLocation) -> bool {
    location
        .offset
        .checked_add(location.length)
        .is_some_and(|end| end <= block.raw_length)
}

/// The item of one record, its value a slice of the record's own buffer.
fn into_item(record: Vec<u8>) -> Decoded<Item> {
    let view = record_location::decode_one(&record)?;
    let value_length = view.value.len();
    let mut item = view
        .to_item(Bytes::new())
        .map_err(|_| "a record's key is impossible")?;
    if value_length > 0 {
        let mut value = Bytes::from(record);
        // The value is the last thing in a record.
        value.advance(value.len().saturating_sub(value_length));
        item.document.value = value;
    }
    Ok(item)
}

/// The bytes of a segment, by offsets from its first one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    file: &'a dyn DiskFile,
    file_name: &'a str,
    start: u64,
}

impl Source<'_> {
    pub(super) fn read_into(&self, buffer: &mut [u8], offset: u64) -> Result<(), StorageError> {
        self.read_patiently(buffer, offset, Patience::Waits)
    }

    /// Bytes whose length the caller has checked.
    fn read_patiently(
        &self,
        buffer: &mut [u8],
        offset: u64,
        patience: Patience,
    ) -> Result<(), StorageError> {
        let at = self.start.saturating_add(offset);
        let read = match patience {
            Patience::Waits => self.file.read_at(buffer, at),
            Patience::AtOnce => self.file.read_at_once(buffer, at),
        };
        read.map_err(|error| {
            if error.kind == DiskErrorKind::EndOfFile {
                self.corrupt(offset, "the file ends inside the segment")
            } else if error.kind == DiskErrorKind::WouldWait {
                StorageError::WouldWait
            } else {
                StorageError::Disk(error)
            }
        })
    }

    /// Bytes whose length the caller has checked.
    pub(super) fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, StorageError> {
        let mut bytes = vec![0; saturating_usize(length)];
        self.read_into(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// A whole section, verified and decoded.
    pub(super) fn read_section<T>(
        &self,
        section: &Section,
        decode: impl FnOnce(&[u8]) -> Decoded<T>,
    ) -> Result<T, StorageError> {
        self.decode_section(section, &self.read(section.offset, section.length)?, decode)
    }

    /// A whole section, verified and decoded from bytes at hand.
    fn decode_section<T>(
        &self,
        section: &Section,
        bytes: &[u8],
        decode: impl FnOnce(&[u8]) -> Decoded<T>,
    ) -> Result<T, StorageError> {
        if !section.holds(bytes) {
            return Err(self.corrupt(section.offset, "a section's checksum does not match"));
        }
        decode(bytes).map_err(|what| self.corrupt(section.offset, what))
    }

    /// Corruption at an offset of the segment, reported as one of the file.
    pub(super) fn corrupt(&self, offset: u64, what: &str) -> StorageError {
        StorageError::corruption(self.file_name, self.start.saturating_add(offset), what)
    }
}

/// The end of a segment, from the filter or an earlier byte on.
struct Loaded {
    offset: u64,
    bytes: Vec<u8>,
}

impl Loaded {
    /// Takes the tail read first, and reads what is missing in front of it.
    fn load(
        source: &Source<'_>,
        footer: &Footer,
        tail_offset: u64,
        tail: Vec<u8>,
    ) -> Result<Loaded, StorageError> {
        let offset = footer.sections.filter.offset;
        if offset >= tail_offset {
            return Ok(Loaded {
                offset: tail_offset,
                bytes: tail,
            });
        }
        let mut bytes = source.read(offset, tail_offset.saturating_sub(offset))?;
        bytes.extend_from_slice(&tail);
        Ok(Loaded { offset, bytes })
    }

    fn section(&self, section: &Section) -> &[u8] {
        let start = saturating_usize(section.offset.saturating_sub(self.offset));
        let end = start.saturating_add(saturating_usize(section.length));
        self.bytes.get(start..end).unwrap_or(&[])
    }

    fn decode(
        &self,
        source: &Source<'_>,
        footer: &Footer,
    ) -> Result<(Filter, BlockTable, IndexTop), StorageError> {
        let sections = &footer.sections;
        let filter = source.decode_section(
            &sections.filter,
            self.section(&sections.filter),
            Filter::decode,
        )?;
        let blocks = source.decode_section(
            &sections.block_table,
            self.section(&sections.block_table),
            |bytes| BlockTable::decode(bytes, sections.blocks.length, footer.records),
        )?;
        let index_top = source.decode_section(
            &sections.index_top,
            self.section(&sections.index_top),
            |bytes| IndexTop::decode(bytes, sections.pages.length),
        )?;
        Ok((filter, blocks, index_top))
    }
}
