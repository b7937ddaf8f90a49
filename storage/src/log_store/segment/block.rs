//! Blocks: the unit a scan reads and verifies, and the table that finds them.
//!
//! Invariant: blocks lie in seqno order without gaps from the segment's first byte on. The table holds the crc of
//! every block's header, the header that of the block's bytes, so that a block of another time is never accepted.
//! A header also verifies on its own, so that blocks can be found where the table is lost.

use super::fields::{Decoded, Fields, saturating_u32, saturating_usize};
use crate::document::Document;
use crate::seqno::Seqno;

pub(super) const HEADER_BYTES: usize = 40;
/// Bytes of a block in the table.
const ENTRY_BYTES: usize = 25;
/// Most raw bytes the writer is asked to gather in one block.
pub(super) const TARGET_BYTES_MAX: usize = 4 << 20;
/// Most raw bytes of a block: one of the largest record alone, or a full one at the largest target.
pub(super) const RAW_BYTES_MAX: usize = Document::VALUE_LENGTH_MAX + TARGET_BYTES_MAX;

/// How the bytes of blocks are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Compression {
    /// As they are: a point read reads just its record.
    #[default]
    None,
    /// In the LZ4 block format, where that makes a block smaller: a point read reads its whole block.
    Lz4,
}

impl Compression {
    const fn to_byte(self) -> u8 {
        match self {
            Compression::None => 0,
            Compression::Lz4 => 1,
        }
    }

    fn from_byte(byte: u8) -> Decoded<Compression> {
        match byte {
            0 => Ok(Compression::None),
            1 => Ok(Compression::Lz4),
            _ => Err("an unknown compression"),
        }
    }
}

/// What stands in front of a block's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHeader {
    pub(super) compression: Compression,
    pub(super) raw_length: u32,
    pub(super) stored_length: u32,
    pub(super) record_count: u32,
    pub(super) stored_crc: u32,
    pub(super) first_seqno: Seqno,
    pub(super) last_seqno: Seqno,
}

impl BlockHeader {
    /// The header as bytes, and its checksum, with which they begin.
    pub(super) fn encode(&self) -> (Vec<u8>, u32) {
        let mut fields = Vec::with_capacity(HEADER_BYTES);
        fields.extend_from_slice(&[self.compression.to_byte(), 0, 0, 0]);
        for length in [
            self.raw_length,
            self.stored_length,
            self.record_count,
            self.stored_crc,
        ] {
            fields.extend_from_slice(&length.to_le_bytes());
        }
        fields.extend_from_slice(&self.first_seqno.0.to_le_bytes());
        fields.extend_from_slice(&self.last_seqno.0.to_le_bytes());
        let crc = crc32c::crc32c(&fields);
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&fields);
        (bytes, crc)
    }

    /// The header in exactly these bytes, and its checksum.
    pub(super) fn decode(bytes: &[u8]) -> Decoded<(BlockHeader, u32)> {
        let mut fields = Fields::new(bytes);
        let crc = fields.u32()?;
        if crc32c::crc32c(fields.rest()) != crc {
            return Err("a block header's checksum does not match");
        }
        let compression = Compression::from_byte(fields.u8()?)?;
        if fields.bytes(3)? != [0, 0, 0] {
            return Err("a block header's reserved bytes are not zero");
        }
        let header = BlockHeader {
            compression,
            raw_length: fields.u32()?,
            stored_length: fields.u32()?,
            record_count: fields.u32()?,
            stored_crc: fields.u32()?,
            first_seqno: Seqno(fields.u64()?),
            last_seqno: Seqno(fields.u64()?),
        };
        fields.end()?;
        Ok((header, crc))
    }
}

/// One block, as the table knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockEntry {
    /// Where its header begins, from the segment's first byte on. Not stored: blocks have no gaps.
    pub(super) offset: u64,
    pub(super) first_seqno: Seqno,
    pub(super) raw_length: u32,
    pub(super) stored_length: u32,
    pub(super) record_count: u32,
    pub(super) header_crc: u32,
    pub(super) compression: Compression,
}

impl BlockEntry {
    /// Its length with its header.
    pub(super) fn length(&self) -> u64 {
        u64::from(self.stored_length) + HEADER_BYTES as u64
    }

    /// Where the block behind it begins.
    fn end(&self) -> u64 {
        self.offset.saturating_add(self.length())
    }

    /// The stored bytes of this block out of `bytes`, header included, once all of it is found to be what was
    /// written; and the last seqno in it.
    pub(super) fn verified<'a>(&self, bytes: &'a [u8]) -> Decoded<(&'a [u8], Seqno)> {
        let (header, stored) = bytes
            .split_at_checked(HEADER_BYTES)
            .ok_or("a block is cut off")?;
        let (header, crc) = BlockHeader::decode(header)?;
        if crc != self.header_crc {
            return Err("a block header is not the one written here");
        }
        if saturating_u32(stored.len()) != header.stored_length {
            return Err("a block is cut off");
        }
        if crc32c::crc32c(stored) != header.stored_crc {
            return Err("a block's checksum does not match");
        }
        Ok((stored, header.last_seqno))
    }

    /// Appends the raw bytes of this block, whose stored bytes are given.
    pub(super) fn decompress(&self, stored: &[u8], raw: &mut Vec<u8>) -> Decoded<()> {
        let length = saturating_usize(u64::from(self.raw_length));
        let start = raw.len();
        raw.resize(start.saturating_add(length), 0);
        let into = raw.get_mut(start..).unwrap_or_default();
        match lz4_flex::block::decompress_into(stored, into) {
            Ok(written) if written == length => Ok(()),
            _ => Err("a block cannot be decompressed"),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.first_seqno.0.to_le_bytes());
        for length in [
            self.raw_length,
            self.stored_length,
            self.record_count,
            self.header_crc,
        ] {
            out.extend_from_slice(&length.to_le_bytes());
        }
        out.push(self.compression.to_byte());
    }

    fn take(fields: &mut Fields<'_>, offset: u64) -> Decoded<BlockEntry> {
        let entry = BlockEntry {
            offset,
            first_seqno: Seqno(fields.u64()?),
            raw_length: fields.u32()?,
            stored_length: fields.u32()?,
            record_count: fields.u32()?,
            header_crc: fields.u32()?,
            compression: Compression::from_byte(fields.u8()?)?,
        };
        let stored_fits = match entry.compression {
            Compression::None => entry.stored_length == entry.raw_length,
            Compression::Lz4 => entry.stored_length < entry.raw_length,
        };
        if !stored_fits || entry.record_count == 0 {
            return Err("a block's lengths contradict each other");
        }
        if saturating_usize(u64::from(entry.raw_length)) > RAW_BYTES_MAX {
            return Err("a block is too large");
        }
        Ok(entry)
    }
}

/// All blocks of a segment, in memory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct BlockTable {
    blocks: Vec<BlockEntry>,
}

impl BlockTable {
    /// Adds the block behind the last one.
    pub(super) fn push(&mut self, header: &BlockHeader, header_crc: u32) {
        self.blocks.push(BlockEntry {
            offset: self.section_length(),
            first_seqno: header.first_seqno,
            raw_length: header.raw_length,
            stored_length: header.stored_length,
            record_count: header.record_count,
            header_crc,
            compression: header.compression,
        });
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn get(&self, number: usize) -> Option<&BlockEntry> {
        self.blocks.get(number)
    }

    /// The blocks from `number` on.
    pub(super) fn from(&self, number: usize) -> &[BlockEntry] {
        self.blocks.get(number..).unwrap_or(&[])
    }

    /// Number of the first block that may hold `seqno` or a later one.
    pub(super) fn first_with(&self, seqno: Seqno) -> usize {
        self.blocks
            .partition_point(|block| block.first_seqno <= seqno)
            .saturating_sub(1)
    }

    /// Bytes of all blocks together.
    pub(super) fn section_length(&self) -> u64 {
        self.blocks.last().map_or(0, BlockEntry::end)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.blocks.len().saturating_mul(ENTRY_BYTES));
        for block in &self.blocks {
            block.encode(&mut out);
        }
        out
    }

    /// The table of blocks that together take `section_length` bytes and hold `records` records.
    pub(super) fn decode(bytes: &[u8], section_length: u64, records: u64) -> Decoded<BlockTable> {
        let mut fields = Fields::new(bytes);
        let mut table = BlockTable {
            blocks: Vec::with_capacity(bytes.len() / ENTRY_BYTES),
        };
        let mut counted = 0u64;
        while !fields.rest().is_empty() {
            let entry = BlockEntry::take(&mut fields, table.section_length())?;
            if table
                .blocks
                .last()
                .is_some_and(|last| last.first_seqno >= entry.first_seqno)
            {
                return Err("blocks are out of order");
            }
            counted = counted.saturating_add(u64::from(entry.record_count));
            table.blocks.push(entry);
        }
        if table.section_length() != section_length || counted != records {
            return Err("the block table contradicts the footer");
        }
        Ok(table)
    }
}
