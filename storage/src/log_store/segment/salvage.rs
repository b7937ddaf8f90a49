//! Reading what can be read of a segment, whatever of it is damaged: block after block, found by their headers.
//!
//! Invariant: a record is handed out only from a block whose checksums held, in rising seqno order; seqnos between two such
//! blocks, of which something was there and cannot be read, are told as lost. Called for a vbucket that is set aside.

use super::SegmentMeta;
use super::block::{BlockEntry, BlockHeader, Compression, HEADER_BYTES};
use super::fields::saturating_usize;
use super::record_location;
use crate::disk::DiskFile;
use crate::kv_store::ItemView;
use crate::seqno::{Seqno, SeqnoRange};

/// Bytes in which the next header is looked for at once.
const WINDOW_BYTES: u64 = 64 << 10;

/// Hands over every record that can be read of the segment at `meta`; the seqnos of which something is lost.
pub(crate) fn salvage(
    file: &dyn DiskFile,
    meta: &SegmentMeta,
    visit: &mut dyn FnMut(ItemView<'_>),
) -> Vec<SeqnoRange> {
    let mut walk = Walk {
        file,
        meta,
        at: 0,
        next: meta.first_seqno,
        is_broken: false,
        lost: Vec::new(),
    };
    while walk.at < meta.length && walk.next <= meta.last_seqno {
        match walk.block() {
            Found::Whole(header, raw) => walk.take(&header, &raw, visit),
            Found::Damaged(end) => {
                walk.is_broken = true;
                walk.at = end;
            }
            Found::Nothing => {
                walk.is_broken = true;
                walk.at = walk.next_header();
            }
        }
    }
    // A segment may answer for more than its last record; only behind damage is that a loss.
    if walk.is_broken && walk.next <= meta.last_seqno {
        walk.lost.push(SeqnoRange {
            first: walk.next,
            last: meta.last_seqno,
        });
    }
    walk.lost
}

struct Walk<'a> {
    file: &'a dyn DiskFile,
    meta: &'a SegmentMeta,
    /// From the segment's first byte on.
    at: u64,
    /// Everything below was handed over or is lost.
    next: Seqno,
    /// Something could not be read since the last block.
    is_broken: bool,
    lost: Vec<SeqnoRange>,
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
    fn read(&self, offset: u64, length: u64) -> Option<Vec<u8>> {
        let length = length.min(self.meta.length.checked_sub(offset)?);
        let mut bytes = vec![0; saturating_usize(length)];
        let at = self.meta.offset.saturating_add(offset);
        self.file.read_at(&mut bytes, at).ok()?;
        Some(bytes)
    }

    fn block(&self) -> Found {
        let header = self.read(self.at, HEADER_BYTES as u64);
        let header = header.and_then(|bytes| self.header(&bytes));
        let Some((header, crc)) = header else {
            return Found::Nothing;
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
        let bytes = self.read(self.at, entry.length()).unwrap_or_default();
        match entry.verified(&bytes) {
            Ok((stored, _)) => match raw_bytes(&entry, stored) {
                Some(raw) => Found::Whole(header, raw),
                None => Found::Damaged(end),
            },
            Err(_) => Found::Damaged(end),
        }
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
    fn next_header(&self) -> u64 {
        let mut from = self.at.saturating_add(1);
        while from < self.meta.length {
            let overlapping = WINDOW_BYTES.saturating_add(HEADER_BYTES as u64);
            let window = self.read(from, overlapping).unwrap_or_default();
            let places = window.windows(HEADER_BYTES);
            for (place, bytes) in (0u64..).zip(places) {
                if self.header(bytes).is_some() {
                    return from.saturating_add(place);
                }
            }
            from = from.saturating_add(WINDOW_BYTES);
        }
        self.meta.length
    }

    fn take(&mut self, header: &BlockHeader, raw: &[u8], visit: &mut dyn FnMut(ItemView<'_>)) {
        if self.is_broken && self.next < header.first_seqno {
            self.lost.push(SeqnoRange {
                first: self.next,
                last: Seqno(header.first_seqno.0.saturating_sub(1)),
            });
        }
        let mut rest = raw;
        while let Ok((framed, behind)) = record_location::take(rest) {
            rest = behind;
            if let Ok(item) = framed.item()
                && item.seqno <= self.meta.visible_last()
            {
                visit(item);
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
