//! Reading what can be read of a segment, whatever of it is damaged: block after block, found by their headers.
//!
//! Invariant: a record is handed out only from a block whose checksums held, in rising seqno order; seqnos between two such
//! blocks, of which something was there and cannot be read, are told as lost. Called for a vbucket that is set aside.

use super::SegmentMeta;
use super::block::{BlockEntry, BlockHeader, Compression, HEADER_BYTES};
use super::fields::saturating_usize;
use super::record_location;
use crate::disk::{DiskError, DiskErrorKind, DiskFile};
use crate::kv_store::ItemView;
use crate::seqno::{Seqno, SeqnoRange};

/// Bytes in which the next header is looked for at once.
const WINDOW_BYTES: u64 = 64 << 10;

/// What is found of a segment, in the order of seqnos.
pub(crate) enum Salvage<'a> {
    /// A record.
    Item(ItemView<'a>),
    /// Something was there and cannot be read.
    Lost(SeqnoRange),
}

/// Hands over what can be read of the segment at `meta`. What the disk does not give may be whole: that is an error.
pub(crate) fn salvage(
    file: &dyn DiskFile,
    meta: &SegmentMeta,
    visit: &mut dyn FnMut(Salvage<'_>),
) -> Result<(), DiskError> {
    let mut walk = Walk {
        file,
        meta,
        last: meta.last_seqno.min(meta.visible_last()),
        at: 0,
        next: meta.first_seqno,
        is_broken: false,
        records: 0,
    };
    while walk.at < meta.length && walk.next <= meta.last_seqno {
        match walk.block()? {
            Found::Whole(header, raw) => walk.take(&header, &raw, visit),
            Found::Damaged(end) => {
                walk.is_broken = true;
                walk.at = end;
            }
            Found::Nothing => {
                walk.is_broken = true;
                walk.at = walk.next_header()?;
            }
        }
    }
    // A segment may answer for more than its last record.
    if walk.records < meta.records {
        walk.lose(walk.last, visit);
    }
    Ok(())
}

struct Walk<'a> {
    file: &'a dyn DiskFile,
    meta: &'a SegmentMeta,
    /// The highest seqno that may be seen.
    last: Seqno,
    /// From the segment's first byte on.
    at: u64,
    /// Everything below was handed over or is lost.
    next: Seqno,
    /// Something could not be read since the last block.
    is_broken: bool,
    /// Records of the blocks that were whole.
    records: u64,
}

/// What is found where a block may begin.
enum Found {
    /// A block, and its raw bytes.
    Whole(BlockHeader, Vec<u8>),
    /// A header with other bytes behind it than it says; it would end there.
    Damaged(u64),
    Nothing,
}

impl Walk<'_> {
    /// Nothing where the file ends before.
    fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, DiskError> {
        let length = length.min(self.meta.length.saturating_sub(offset));
        let mut bytes = vec![0; saturating_usize(length)];
        let at = self.meta.offset.saturating_add(offset);
        match self.file.read_at(&mut bytes, at) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind == DiskErrorKind::EndOfFile => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Up to here something is lost, if anything is.
    fn lose(&self, last: Seqno, visit: &mut dyn FnMut(Salvage<'_>)) {
        let first = self.next;
        if self.is_broken && first <= last {
            visit(Salvage::Lost(SeqnoRange { first, last }));
        }
    }

    fn block(&self) -> Result<Found, DiskError> {
        let bytes = self.read(self.at, HEADER_BYTES as u64)?;
        let Some((header, crc)) = self.header(&bytes) else {
            return Ok(Found::Nothing);
        };
        let entry = BlockEntry {
            offset: self.at,
            first_seqno: header.first_seqno,
            raw_length: header.raw_length,
            stored_length: header.stored_length,
            record_count: header.record_count,
            header_crc: crc,
            compression: header.compression,
        };
        let end = self.at.saturating_add(entry.length());
        let bytes = self.read(self.at, entry.length())?;
        let stored = entry.verified(&bytes).ok();
        let raw = stored.and_then(|(stored, _)| raw_bytes(&entry, stored));
        Ok(match raw {
            Some(raw) => Found::Whole(header, raw),
            None => Found::Damaged(end),
        })
    }

    /// A header of this segment, behind what was read of it.
    fn header(&self, bytes: &[u8]) -> Option<(BlockHeader, u32)> {
        // Few places pass this, so few are summed up.
        if bytes.get(5..8)? != [0, 0, 0] {
            return None;
        }
        let (header, crc) = BlockHeader::decode(bytes.get(..HEADER_BYTES)?).ok()?;
        let is_here = header.first_seqno >= self.next && header.last_seqno <= self.meta.last_seqno;
        let is_possible = header.raw_length >= header.stored_length
            && header.first_seqno <= header.last_seqno
            && u64::from(header.stored_length) <= self.meta.length;
        (is_here && is_possible).then_some((header, crc))
    }

    /// Where the next header lies behind this place; the segment's end if there is none.
    fn next_header(&self) -> Result<u64, DiskError> {
        let mut from = self.at.saturating_add(1);
        while from < self.meta.length {
            let overlapping = WINDOW_BYTES.saturating_add(HEADER_BYTES as u64);
            let window = self.read(from, overlapping)?;
            let places = window.windows(HEADER_BYTES);
            for (place, bytes) in (0u64..).zip(places) {
                if self.header(bytes).is_some() {
                    return Ok(from.saturating_add(place));
                }
            }
            from = from.saturating_add(WINDOW_BYTES);
        }
        Ok(self.meta.length)
    }

    fn take(&mut self, header: &BlockHeader, raw: &[u8], visit: &mut dyn FnMut(Salvage<'_>)) {
        let before = Seqno(header.first_seqno.0.saturating_sub(1));
        self.lose(self.last.min(before), visit);
        self.records = self.records.saturating_add(u64::from(header.record_count));
        let mut rest = raw;
        while let Ok((framed, behind)) = record_location::take(rest) {
            rest = behind;
            if let Ok(item) = framed.item()
                && item.seqno <= self.meta.visible_last()
            {
                visit(Salvage::Item(item));
            }
        }
        self.is_broken = false;
        self.next = header.last_seqno.next();
        self.at = self
            .at
            .saturating_add(u64::from(header.stored_length))
            .saturating_add(HEADER_BYTES as u64);
    }
}

fn raw_bytes(entry: &BlockEntry, stored: &[u8]) -> Option<Vec<u8>> {
    match entry.compression {
        Compression::None => Some(stored.to_vec()),
        Compression::Lz4 => {
            let mut raw = Vec::new();
            // A length of nobody's would be memory for nothing.
            let is_possible = entry.raw_length as usize <= super::block::RAW_BYTES_MAX;
            let raw_of = is_possible.then(|| entry.decompress(stored, &mut raw))?;
            raw_of.ok().map(|()| raw)
        }
    }
}
