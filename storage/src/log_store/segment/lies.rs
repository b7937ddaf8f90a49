//! Segments that lie under sound checksums, for the fuzz target: no medium makes them, and no decoder may trust
//! that nobody does.
//!
//! Invariant: what [`reseal`] changes are checksums only, and what the meta says of the footer.

use super::block::{BlockHeader, BlockTable};
use super::fields::{Fields, saturating_usize};
use super::filter::Filter;
use super::footer::{END_BYTES, FOOTER_BYTES, Footer};
use super::key_index::{IndexTop, Page};
use super::{SegmentMeta, boundaries, kill_list, record_location};

/// Hands bytes to the decoder of every part.
pub(crate) fn decode_parts(bytes: &[u8]) {
    let count = bytes.first().map_or(0, |count| u64::from(*count));
    let length = bytes.len() as u64;
    drop(kill_list::decode(bytes, count));
    drop(kill_list::decode(bytes, u64::MAX));
    drop(boundaries::decode(bytes, count));
    drop(boundaries::decode(bytes, u64::MAX));
    drop(Filter::decode(bytes));
    drop(BlockTable::decode(bytes, length, count));
    drop(IndexTop::decode(bytes, length));
    if BlockHeader::decode(bytes).is_ok() {
        assert!(bytes.len() >= super::block::HEADER_BYTES);
    }
    if let Ok((footer, _)) = Footer::decode(bytes, length) {
        assert_eq!(footer.sections.index_top.end(), length - END_BYTES as u64);
    }
    if let Ok(page) = Page::parse(bytes) {
        for number in 0..page.len() {
            if let Ok(entry) = page.entry(number) {
                assert!(bytes.len() > entry.key.len());
            }
        }
    }
    if let Ok(view) = record_location::decode_one(bytes) {
        assert!(bytes.len() > view.key.len());
    }
}

/// Makes the checksums of the footer's sections, the footer and the trailer fit, and `meta` fit the footer.
pub(crate) fn reseal(extent: &mut [u8], meta: &mut SegmentMeta) {
    let Some(end) = extent.len().checked_sub(END_BYTES) else {
        return;
    };
    let (sections, footer_and_trailer) = extent.split_at_mut(end);
    let Some((footer, trailer)) = footer_and_trailer.split_at_mut_checked(FOOTER_BYTES) else {
        return;
    };
    reseal_sections(sections, footer);
    let crc = crc32c::crc32c(footer);
    put(trailer, 24, crc);
    let trailer_crc = crc32c::crc32c(trailer.get(..28).unwrap_or_default());
    put(trailer, 28, trailer_crc);
    meta.footer_crc = crc;
    if let Ok((footer, _)) = Footer::decode(footer_and_trailer, meta.length) {
        meta.first_seqno = footer.first_seqno;
        meta.last_seqno = footer.last_seqno;
        meta.exact_from = footer.exact_from;
        meta.records = footer.records;
        meta.data_bytes = footer.data_bytes;
        meta.kills = footer.kills;
    }
}

/// Blocks and index pages have no checksum in the footer.
fn reseal_sections(sections: &[u8], footer: &mut [u8]) {
    let mut offset = 0usize;
    for number in 0..7usize {
        let at = 78 + 12 * number;
        let length = footer.get(at..).map(|rest| Fields::new(rest).u64());
        let Some(Ok(length)) = length else {
            return;
        };
        let next = offset.saturating_add(saturating_usize(length));
        let Some(section) = sections.get(offset..next) else {
            return;
        };
        if number >= 2 {
            put(footer, at + 8, crc32c::crc32c(section));
        }
        offset = next;
    }
}

fn put(bytes: &mut [u8], at: usize, crc: u32) {
    if let Some(place) = bytes.get_mut(at..at.saturating_add(4)) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}
