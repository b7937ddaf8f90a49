//! Reads a segment's records by rising seqno, several blocks with one pread.
//!
//! Invariant: a record is handed out only from a block whose checksum held, in rising seqno order, and a block that
//! holds fewer or more records than it says is corruption: a damaged scan never looks complete. Buffers are kept
//! from chunk to chunk, so a scan allocates nothing per record or block.

use std::ops::Range;
use std::sync::Arc;

use super::block::{BlockEntry, Compression, HEADER_BYTES};
use super::fields::{Decoded, saturating_u32, saturating_usize};
use super::reader::Segment;
use super::record_location::{self, RecordLocation};
use crate::error::StorageError;
use crate::kv_store::ItemView;
use crate::seqno::Seqno;

/// Most bytes read at once: beyond it a longer read gains nothing and leaves the cache before it is looked at.
const CHUNK_BYTES_MAX: u64 = 1 << 20;

/// A scan of one segment.
#[derive(Debug)]
pub(crate) struct SeqnoCursor {
    segment: Arc<Segment>,
    from: Seqno,
    last: Seqno,
    next_block: usize,
    buffers: Buffers,
}

impl SeqnoCursor {
    /// A scan of the visible records from `from` on.
    pub(crate) fn new(segment: Arc<Segment>, from: Seqno) -> SeqnoCursor {
        SeqnoCursor {
            from,
            last: segment.meta.visible_last(),
            next_block: segment.blocks.first_with(from),
            buffers: Buffers::default(),
            segment,
        }
    }

    /// The next records, out of blocks of about `bytes_max` bytes together (at least one block; at most about a
    /// mebibyte); `None` at the end. A chunk may turn out to hold no record. After an error the same call fails
    /// again; after one out of a chunk the scan is over, and its owner must not go on.
    pub(crate) fn next_chunk(
        &mut self,
        bytes_max: usize,
    ) -> Result<Option<Chunk<'_>>, StorageError> {
        let is_over = |block: &BlockEntry| block.first_seqno > self.last;
        if self.segment.blocks.get(self.next_block).is_none_or(is_over) {
            return Ok(None);
        }
        let blocks = load(&self.segment, &mut self.buffers, self.next_block, bytes_max)?;
        self.next_block = self.next_block.saturating_add(blocks);
        Ok(Some(Chunk::new(
            &self.segment,
            &self.buffers,
            self.from,
            self.last,
        )))
    }
}

/// Bytes of the blocks of one chunk.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    stored: Vec<u8>,
    /// Of compressed blocks, what they decompress to.
    raw: Vec<u8>,
    blocks: Vec<LoadedBlock>,
}

/// A verified block in the buffers.
#[derive(Debug)]
struct LoadedBlock {
    number: usize,
    compression: Compression,
    record_count: u32,
    first_seqno: Seqno,
    last_seqno: Seqno,
    offset: u64,
    /// Of its raw bytes, in the buffer its compression calls for.
    range: Range<usize>,
}

/// Reads and verifies blocks from number `first` on, and returns how many.
pub(super) fn load(
    segment: &Segment,
    buffers: &mut Buffers,
    first: usize,
    bytes_max: usize,
) -> Result<usize, StorageError> {
    let entries = segment.blocks.from(first);
    let (count, length) = extent(entries, bytes_max);
    let entries = entries.get(..count).unwrap_or(&[]);
    let start = entries.first().map_or(0, |block| block.offset);
    buffers.raw.clear();
    buffers.blocks.clear();
    // Shrinking and growing within the capacity would write zeros again and again.
    if buffers.stored.len() < length {
        buffers.stored.resize(length, 0);
    }
    let stored = buffers.stored.get_mut(..length).unwrap_or_default();
    segment.source().read_into(stored, start)?;
    for (number, entry) in (first..).zip(entries) {
        let within = saturating_usize(entry.offset.saturating_sub(start));
        buffers
            .add(number, entry, within)
            .map_err(|what| segment.source().corrupt(entry.offset, what))?;
    }
    Ok(count)
}

/// How many of the blocks to read at once, and how many bytes they take.
fn extent(entries: &[BlockEntry], bytes_max: usize) -> (usize, usize) {
    let most = CHUNK_BYTES_MAX.min(bytes_max as u64);
    let (mut count, mut stored, mut raw) = (0usize, 0u64, 0u64);
    for entry in entries {
        let next_raw = raw.saturating_add(u64::from(entry.raw_length));
        let next_stored = stored.saturating_add(entry.length());
        if count > 0 && next_raw.max(next_stored) > most {
            break;
        }
        (count, stored, raw) = (count.saturating_add(1), next_stored, next_raw);
    }
    (count, saturating_usize(stored))
}

impl Buffers {
    /// Verifies the block whose bytes lie at `within` the stored ones.
    fn add(&mut self, number: usize, entry: &BlockEntry, within: usize) -> Decoded<()> {
        let end = within.saturating_add(saturating_usize(entry.length()));
        let bytes = self.stored.get(within..end).unwrap_or(&[]);
        let (stored, last_seqno) = entry.verified(bytes)?;
        let range = match entry.compression {
            Compression::None => within.saturating_add(HEADER_BYTES)..end,
            Compression::Lz4 => {
                let start = self.raw.len();
                entry.decompress(stored, &mut self.raw)?;
                start..self.raw.len()
            }
        };
        self.blocks.push(LoadedBlock {
            number,
            compression: entry.compression,
            record_count: entry.record_count,
            first_seqno: entry.first_seqno,
            last_seqno,
            offset: entry.offset,
            range,
        });
        Ok(())
    }

    fn raw_bytes(&self, block: &LoadedBlock) -> &[u8] {
        let buffer = match block.compression {
            Compression::None => &self.stored,
            Compression::Lz4 => &self.raw,
        };
        buffer.get(block.range.clone()).unwrap_or(&[])
    }
}

/// A record as a scan finds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawRecord<'a> {
    /// The item in it.
    pub(crate) item: ItemView<'a>,
    /// The record as it stands, for [`super::SegmentWriter::push_raw_record`].
    pub(crate) raw: &'a [u8],
    /// Where it is.
    pub(crate) location: RecordLocation,
}

/// The records of some verified blocks, one after the other.
#[derive(Debug)]
pub(crate) struct Chunk<'a> {
    segment: &'a Segment,
    buffers: &'a Buffers,
    ahead: std::slice::Iter<'a, LoadedBlock>,
    block: Option<&'a LoadedBlock>,
    block_length: usize,
    rest: &'a [u8],
    left: u32,
    previous: Option<Seqno>,
    from: Seqno,
    last: Seqno,
}

impl<'a> Chunk<'a> {
    pub(super) fn new(
        segment: &'a Segment,
        buffers: &'a Buffers,
        from: Seqno,
        last: Seqno,
    ) -> Chunk<'a> {
        Chunk {
            segment,
            buffers,
            ahead: buffers.blocks.iter(),
            block: None,
            block_length: 0,
            rest: &[],
            left: 0,
            previous: None,
            from,
            last,
        }
    }

    /// The next record; `None` at the end, and after an error.
    pub(crate) fn next(&mut self) -> Option<Result<RawRecord<'a>, StorageError>> {
        loop {
            if self.left == 0 && !self.enter_next_block() {
                return None;
            }
            match self.take() {
                Ok(record) if record.item.seqno < self.from => {}
                Ok(record) if record.item.seqno > self.last => {
                    self.stop();
                    return None;
                }
                Ok(record) => return Some(Ok(record)),
                Err(what) => {
                    let offset = self.block.map_or(0, |block| block.offset);
                    self.stop();
                    return Some(Err(self.segment.source().corrupt(offset, what)));
                }
            }
        }
    }

    fn enter_next_block(&mut self) -> bool {
        self.block = self.ahead.next();
        let Some(block) = self.block else {
            return false;
        };
        self.rest = self.buffers.raw_bytes(block);
        self.block_length = self.rest.len();
        self.left = block.record_count;
        true
    }

    fn stop(&mut self) {
        self.left = 0;
        self.ahead = [].iter();
    }

    #[inline]
    fn take(&mut self) -> Decoded<RawRecord<'a>> {
        let offset = self.block_length.saturating_sub(self.rest.len());
        let (framed, rest) = record_location::take(self.rest)?;
        let item = framed.item()?;
        let is_first = self
            .block
            .is_some_and(|block| self.left == block.record_count);
        self.rest = rest;
        self.left = self.left.saturating_sub(1);
        self.check_order(item.seqno, is_first)?;
        let number = self.block.map_or(0, |block| block.number);
        let location = RecordLocation {
            block: saturating_u32(number),
            offset: saturating_u32(offset),
            length: saturating_u32(framed.whole.len()),
        };
        Ok(RawRecord {
            item,
            raw: framed.whole,
            location,
        })
    }

    #[inline]
    fn check_order(&mut self, seqno: Seqno, is_first: bool) -> Decoded<()> {
        if self.previous.is_some_and(|previous| seqno <= previous) {
            return Err("records are out of order");
        }
        self.previous = Some(seqno);
        if is_first && self.block.is_some_and(|block| block.first_seqno != seqno) {
            return Err("a block begins with another record than it says");
        }
        if self.left == 0 {
            if !self.rest.is_empty() {
                return Err("a block holds more records than it says");
            }
            if self.block.is_some_and(|block| block.last_seqno != seqno) {
                return Err("a block ends with another record than it says");
            }
        }
        Ok(())
    }
}
