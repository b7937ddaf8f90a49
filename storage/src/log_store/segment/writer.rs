//! Writes a segment: records by rising seqno, then index entries by rising key, then the rest.
//!
//! Invariant: what `finish` returns a meta for is complete and in order; a call out of order is refused and nothing
//! is named by a meta. The writer holds one block, one index page, the kills as bytes, and the filter (or, where it is not
//! told how many keys there are, the hash of each) in memory. It neither flushes nor syncs: many segments share one
//! writer and one sync.

use super::block::{BlockHeader, BlockTable, Compression, TARGET_BYTES_MAX};
use super::boundaries;
use super::extent_writer::ExtentWriter;
use super::fields::{saturating_u32, saturating_usize};
use super::filter::{Filter, hash};
use super::footer::{Footer, Section, Sections};
use super::key_index::{IndexEntry, PageBuilder, order};
use super::kill_list::{Kill, KillList};
use super::record_location::{self, RecordLocation};
use super::{IndexKey, SegmentMeta};
use crate::document::Document;
use crate::error::{Refusal, StorageError};
use crate::kv_store::ItemView;
use crate::log_store::record;
use crate::seqno::Seqno;
use crate::vbucket::{Incarnation, RollbackEpoch, VbucketId, Watermarks};

/// How to write a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentOptions {
    /// Bytes to gather in a block before compression.
    pub(crate) block_bytes: usize,
    /// How blocks are stored.
    pub(crate) compression: Compression,
}

impl Default for SegmentOptions {
    fn default() -> SegmentOptions {
        SegmentOptions {
            block_bytes: 64 << 10,
            compression: Compression::None,
        }
    }
}

/// Whose items a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentIdent {
    /// The vbucket.
    pub(crate) vbucket: VbucketId,
    /// Its incarnation.
    pub(crate) incarnation: Incarnation,
    /// Its rollback epoch when the segment was written.
    pub(crate) epoch: RollbackEpoch,
}

/// What the writer is told last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentTail<'a> {
    /// Number of the segment.
    pub(crate) id: u64,
    /// The container it lies in.
    pub(crate) container: u64,
    /// Lowest seqno a rollback to which is exact.
    pub(crate) exact_from: Seqno,
    /// What its items replaced, by rising (victim, killer), behind those that were pushed.
    pub(crate) kills: &'a [Kill],
    /// How far the vbucket had come with each batch, by rising high seqno.
    pub(crate) boundaries: &'a [Watermarks],
    /// First seqno it answers for, where that is below its first record; else [`Seqno::MAX`].
    pub(crate) first_seqno_ceiling: Seqno,
    /// Last seqno it answers for, where that is above its last record; else [`Seqno::ZERO`].
    pub(crate) last_seqno_floor: Seqno,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Blocks,
    Index,
}

/// A segment being written.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    out: ExtentWriter,
    options: SegmentOptions,
    ident: SegmentIdent,
    start: u64,
    phase: Phase,
    block: BlockBuilder,
    blocks: BlockTable,
    body: Vec<u8>,
    first_seqno: Option<Seqno>,
    last_seqno: Option<Seqno>,
    records: u64,
    data_bytes: u64,
    page: PageBuilder,
    page_bytes: Vec<u8>,
    index_top: Vec<u8>,
    index_entries: u64,
    last_key: Vec<u8>,
    last_key_seqno: Seqno,
    keys: Keys,
    kills: KillList,
}

/// The distinct keys, as the filter will know them.
#[derive(Debug)]
enum Keys {
    /// Their number is not known: their hashes.
    Hashes(Vec<u64>),
    Filter(Filter),
}

impl SegmentWriter {
    /// A writer whose segment begins where `out` stands.
    pub(crate) fn new(
        out: ExtentWriter,
        options: SegmentOptions,
        ident: SegmentIdent,
    ) -> SegmentWriter {
        let start = out.position();
        SegmentWriter {
            out,
            options: SegmentOptions {
                block_bytes: options.block_bytes.min(TARGET_BYTES_MAX),
                ..options
            },
            ident,
            start,
            phase: Phase::Blocks,
            block: BlockBuilder::default(),
            blocks: BlockTable::default(),
            body: Vec::new(),
            first_seqno: None,
            last_seqno: None,
            records: 0,
            data_bytes: 0,
            page: PageBuilder::default(),
            page_bytes: Vec::new(),
            index_top: Vec::new(),
            index_entries: 0,
            last_key: Vec::new(),
            last_key_seqno: Seqno::ZERO,
            keys: Keys::Hashes(Vec::new()),
            kills: KillList::default(),
        }
    }

    /// Adds an item; seqnos must rise.
    pub(crate) fn push(&mut self, item: &ItemView<'_>) -> Result<RecordLocation, StorageError> {
        let length = item.value.len();
        if length > Document::VALUE_LENGTH_MAX {
            return Err(self.refuse(Refusal::ValueTooLarge {
                seqno: item.seqno,
                length,
            }));
        }
        self.body.clear();
        record::encode(&mut self.body, item);
        self.make_room(item.seqno, self.body.len())?;
        let offset = self.block.length();
        let length = record_location::frame(&mut self.block.raw, &self.body);
        Ok(self.pushed(item.seqno, offset, length))
    }

    /// Adds an item that is a record already, as [`super::RawRecord::raw`] gives it: nothing is encoded anew.
    pub(crate) fn push_raw_record(
        &mut self,
        seqno: Seqno,
        record: &[u8],
    ) -> Result<RecordLocation, StorageError> {
        debug_assert!(
            record_location::decode_one(record).is_ok_and(|item| item.seqno == seqno),
            "only what a segment gave may be copied"
        );
        self.make_room(seqno, record.len())?;
        let offset = self.block.length();
        self.block.raw.extend_from_slice(record);
        Ok(self.pushed(seqno, offset, saturating_u32(record.len())))
    }

    /// Checks the order, and ends the block when `length` more bytes would be too many for it.
    fn make_room(&mut self, seqno: Seqno, length: usize) -> Result<(), StorageError> {
        if self.phase != Phase::Blocks {
            return Err(self.misuse("an item behind the index"));
        }
        if self.last_seqno.is_some_and(|last| seqno <= last) {
            return Err(self.refuse(Refusal::SeqnoOrder { at: seqno }));
        }
        if self.block.raw.len().saturating_add(length) > self.options.block_bytes {
            self.end_block()?;
        }
        Ok(())
    }

    fn pushed(&mut self, seqno: Seqno, offset: u32, length: u32) -> RecordLocation {
        self.block.note(seqno);
        self.first_seqno.get_or_insert(seqno);
        self.last_seqno = Some(seqno);
        self.records = self.records.saturating_add(1);
        self.data_bytes = self.data_bytes.saturating_add(u64::from(length));
        RecordLocation {
            block: saturating_u32(self.blocks.len()),
            offset,
            length,
        }
    }

    fn end_block(&mut self) -> Result<(), StorageError> {
        if self.block.record_count == 0 {
            return Ok(());
        }
        let (header, stored) = self.block.finish(self.options.compression);
        let (header_bytes, header_crc) = header.encode();
        self.out.write(&header_bytes)?;
        self.out.write(stored)?;
        self.blocks.push(&header, header_crc);
        self.block.clear();
        Ok(())
    }

    /// Adds a kill, by rising (victim, killer).
    pub(crate) fn push_kill(&mut self, kill: &Kill) -> Result<(), StorageError> {
        self.kills.push(kill).ok_or_else(|| self.misuse(KILL_ORDER))
    }

    /// As [`SegmentWriter::begin_index`], where it is known how many distinct keys there are: nothing is kept for each.
    pub(crate) fn begin_index_of(&mut self, keys: u64) -> Result<(), StorageError> {
        self.begin_index()?;
        self.keys = Keys::Filter(Filter::with_room(saturating_usize(keys)));
        Ok(())
    }

    /// Ends the items; index entries follow.
    pub(crate) fn begin_index(&mut self) -> Result<(), StorageError> {
        if self.phase != Phase::Blocks {
            return Err(self.misuse("a second index"));
        }
        self.end_block()?;
        self.block = BlockBuilder::default();
        self.phase = Phase::Index;
        Ok(())
    }

    /// Adds the index entry of an item; entries rise by key, and fall by seqno within a key.
    pub(crate) fn push_index(&mut self, entry: IndexEntry<'_>) -> Result<(), StorageError> {
        if self.phase != Phase::Index {
            return Err(self.misuse("an index entry before the index"));
        }
        if entry.key.is_empty() || entry.key.len() > IndexKey::LENGTH_MAX {
            return Err(self.misuse("an index key of an impossible length"));
        }
        let last = (self.last_key.as_slice(), self.last_key_seqno);
        if self.index_entries > 0 && order(last, (entry.key, entry.seqno)).is_ge() {
            return Err(self.misuse("index entries out of order"));
        }
        if !self.page.try_push(&entry) {
            self.end_page()?;
            self.page.try_push(&entry);
        }
        if self.last_key != entry.key {
            match &mut self.keys {
                Keys::Hashes(hashes) => hashes.push(hash(entry.key)),
                Keys::Filter(filter) => filter.insert(hash(entry.key)),
            }
            self.last_key.clear();
            self.last_key.extend_from_slice(entry.key);
        }
        self.last_key_seqno = entry.seqno;
        self.index_entries = self.index_entries.saturating_add(1);
        Ok(())
    }

    fn end_page(&mut self) -> Result<(), StorageError> {
        if !self.page.is_empty() {
            self.page.finish(&mut self.page_bytes, &mut self.index_top);
            self.out.write(&self.page_bytes)?;
        }
        Ok(())
    }

    /// Writes what is left. The segment is in the file after [`ExtentWriter::flush`], and durable after a sync.
    /// The writer comes back, for the next segment.
    pub(crate) fn finish(
        mut self,
        tail: SegmentTail<'_>,
    ) -> Result<(SegmentMeta, ExtentWriter), StorageError> {
        if self.phase != Phase::Index || self.index_entries != self.records {
            return Err(self.misuse("an index that is not complete"));
        }
        self.end_page()?;
        for kill in tail.kills {
            self.push_kill(kill)?;
        }
        let kills = std::mem::take(&mut self.kills);
        let boundaries =
            boundaries::encode(tail.boundaries).ok_or_else(|| self.misuse(BOUNDARY_ORDER))?;
        let sections = self.write_sections(&kills.bytes, &boundaries)?;
        let last_seqno = self
            .last_seqno
            .unwrap_or_default()
            .max(tail.last_seqno_floor);
        let first_seqno = self
            .first_seqno
            .unwrap_or(last_seqno)
            .min(tail.first_seqno_ceiling);
        let footer = Footer {
            ident: self.ident,
            first_seqno,
            last_seqno,
            exact_from: tail.exact_from,
            records: self.records,
            index_entries: self.index_entries,
            data_bytes: self.data_bytes,
            kills: kills.count,
            boundaries: tail.boundaries.len() as u64,
            sections,
        };
        let (end, footer_crc) = footer.encode();
        self.out.write(&end)?;
        let meta = SegmentMeta {
            id: tail.id,
            container: tail.container,
            offset: self.start,
            length: self.written(),
            first_seqno,
            last_seqno,
            exact_from: tail.exact_from,
            records: self.records,
            data_bytes: self.data_bytes,
            kills: footer.kills,
            footer_crc,
            cut: None,
        };
        Ok((meta, self.out))
    }

    /// Everything between the index pages, which were written, and the footer.
    fn write_sections(
        &mut self,
        kills: &[u8],
        boundaries: &[u8],
    ) -> Result<Sections, StorageError> {
        let blocks = Section {
            offset: 0,
            length: self.blocks.section_length(),
            crc: 0,
        };
        let pages = Section {
            offset: blocks.end(),
            length: self.written().saturating_sub(blocks.end()),
            crc: 0,
        };
        let filter = match std::mem::replace(&mut self.keys, Keys::Hashes(Vec::new())) {
            Keys::Hashes(hashes) => Filter::build(&hashes),
            Keys::Filter(filter) => filter,
        };
        let filter = filter.encode();
        let block_table = self.blocks.encode();
        let index_top = std::mem::take(&mut self.index_top);
        Ok(Sections {
            blocks,
            pages,
            kills: self.write_section(kills)?,
            boundaries: self.write_section(boundaries)?,
            filter: self.write_section(&filter)?,
            block_table: self.write_section(&block_table)?,
            index_top: self.write_section(&index_top)?,
        })
    }

    fn write_section(&mut self, bytes: &[u8]) -> Result<Section, StorageError> {
        let offset = self.written();
        self.out.write(bytes)?;
        Ok(Section {
            offset,
            length: bytes.len() as u64,
            crc: crc32c::crc32c(bytes),
        })
    }

    /// Bytes of it so far.
    pub(crate) fn written(&self) -> u64 {
        self.out.position().saturating_sub(self.start)
    }

    fn refuse(&self, refusal: Refusal) -> StorageError {
        StorageError::Refused {
            vbucket: self.ident.vbucket,
            refusal,
        }
    }

    /// The caller gave what no segment may hold; where it came from a segment, that one is damaged.
    fn misuse(&self, what: &str) -> StorageError {
        StorageError::corruption(
            self.out.file_name(),
            self.out.position(),
            format!("a segment was given {what}, and is not written"),
        )
    }
}

const KILL_ORDER: &str = "kills out of order";
const BOUNDARY_ORDER: &str = "boundaries out of order";

/// A block being filled.
#[derive(Debug, Default)]
struct BlockBuilder {
    raw: Vec<u8>,
    compressed: Vec<u8>,
    record_count: u32,
    first_seqno: Seqno,
    last_seqno: Seqno,
}

impl BlockBuilder {
    fn length(&self) -> u32 {
        saturating_u32(self.raw.len())
    }

    fn note(&mut self, seqno: Seqno) {
        if self.record_count == 0 {
            self.first_seqno = seqno;
        }
        self.last_seqno = seqno;
        self.record_count = self.record_count.saturating_add(1);
    }

    fn clear(&mut self) {
        self.raw.clear();
        self.record_count = 0;
    }

    /// The header, and the bytes to store behind it.
    fn finish(&mut self, compression: Compression) -> (BlockHeader, &[u8]) {
        let compressed = match compression {
            Compression::None => None,
            Compression::Lz4 => self.compress(),
        };
        let (compression, stored) = match compressed {
            Some(length) => (
                Compression::Lz4,
                self.compressed.get(..length).unwrap_or(&[]),
            ),
            None => (Compression::None, self.raw.as_slice()),
        };
        let header = BlockHeader {
            compression,
            raw_length: saturating_u32(self.raw.len()),
            stored_length: saturating_u32(stored.len()),
            record_count: self.record_count,
            stored_crc: crc32c::crc32c(stored),
            first_seqno: self.first_seqno,
            last_seqno: self.last_seqno,
        };
        (header, stored)
    }

    /// Compresses the block; `None` when that does not make it smaller.
    fn compress(&mut self) -> Option<usize> {
        let most = lz4_flex::block::get_maximum_output_size(self.raw.len());
        if self.compressed.len() < most {
            self.compressed.resize(most, 0);
        }
        let length = lz4_flex::block::compress_into(&self.raw, &mut self.compressed).ok()?;
        (length < self.raw.len()).then_some(length)
    }
}
