//! The footer and the trailer behind it: what a segment is, and where its sections end.
//!
//! Invariant: sections follow each other without gaps from the segment's first byte to the footer, so lengths say
//! where they are; every section held as a whole has its crc here, and the footer's crc is in the trailer and in
//! the segment's meta.

use super::fields::{Decoded, Fields, saturating_usize};
use super::writer::SegmentIdent;
use super::{FORMAT_VERSION, SegmentMeta};
use crate::seqno::Seqno;
use crate::vbucket::{Incarnation, RollbackEpoch, VbucketId};

pub(super) const FOOTER_BYTES: usize = 162;
pub(super) const TRAILER_BYTES: usize = 32;
/// Footer and trailer together: the end of every segment.
pub(super) const END_BYTES: usize = FOOTER_BYTES + TRAILER_BYTES;

const MAGIC: [u8; 8] = *b"PIGGSEGM";

/// A run of bytes in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    /// From the segment's first byte on.
    pub(super) offset: u64,
    pub(super) length: u64,
    /// Of the whole section; zero for blocks and pages, whose crcs are in the block table and the index top.
    pub(super) crc: u32,
}

impl Section {
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    /// Whether `bytes` are what was written as this section.
    pub(super) fn holds(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == self.length && crc32c::crc32c(bytes) == self.crc
    }
}

/// All sections, in their order in the segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sections {
    pub(super) blocks: Section,
    pub(super) pages: Section,
    pub(super) kills: Section,
    pub(super) boundaries: Section,
    pub(super) filter: Section,
    pub(super) block_table: Section,
    pub(super) index_top: Section,
}

impl Sections {
    fn in_order(&self) -> [Section; 7] {
        [
            self.blocks,
            self.pages,
            self.kills,
            self.boundaries,
            self.filter,
            self.block_table,
            self.index_top,
        ]
    }

    /// Takes lengths and crcs, and lays the sections one behind the other up to `end`.
    fn take(fields: &mut Fields<'_>, end: u64) -> Decoded<Sections> {
        let mut at = 0u64;
        let mut next = || -> Decoded<Section> {
            let section = Section {
                offset: at,
                length: fields.u64()?,
                crc: fields.u32()?,
            };
            at = at
                .checked_add(section.length)
                .ok_or("a section is too long")?;
            Ok(section)
        };
        let sections = Sections {
            blocks: next()?,
            pages: next()?,
            kills: next()?,
            boundaries: next()?,
            filter: next()?,
            block_table: next()?,
            index_top: next()?,
        };
        if at != end {
            return Err("the sections do not fill the segment");
        }
        Ok(sections)
    }
}

/// What a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) ident: SegmentIdent,
    pub(super) first_seqno: Seqno,
    pub(super) last_seqno: Seqno,
    pub(super) exact_from: Seqno,
    pub(super) records: u64,
    pub(super) index_entries: u64,
    pub(super) data_bytes: u64,
    pub(super) kills: u64,
    pub(super) boundaries: u64,
    pub(super) sections: Sections,
}

impl Footer {
    /// Footer and trailer as bytes, and the footer's crc.
    pub(super) fn encode(&self) -> (Vec<u8>, u32) {
        let mut out = Vec::with_capacity(END_BYTES);
        out.extend_from_slice(&self.ident.vbucket.get().to_le_bytes());
        out.extend_from_slice(&self.ident.epoch.0.to_le_bytes());
        for field in [
            self.ident.incarnation.0,
            self.first_seqno.0,
            self.last_seqno.0,
            self.exact_from.0,
            self.records,
            self.index_entries,
            self.data_bytes,
            self.kills,
            self.boundaries,
        ] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for section in self.sections.in_order() {
            out.extend_from_slice(&section.length.to_le_bytes());
            out.extend_from_slice(&section.crc.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out);
        let trailer = trailer(self.sections.index_top.end(), out.len(), crc);
        out.extend_from_slice(&trailer);
        (out, crc)
    }

    /// The footer of a segment of `length` bytes, of which `end` are the last [`END_BYTES`]; and its crc.
    pub(super) fn decode(end: &[u8], length: u64) -> Decoded<(Footer, u32)> {
        let (footer, trailer) = end
            .split_at_checked(FOOTER_BYTES)
            .ok_or("the segment is cut off")?;
        let crc = take_trailer(trailer, length)?;
        if crc32c::crc32c(footer) != crc {
            return Err("the footer's checksum does not match");
        }
        let mut fields = Fields::new(footer);
        let vbucket = VbucketId::new(fields.u16()?).ok_or("the footer names no vbucket")?;
        let epoch = RollbackEpoch(fields.u32()?);
        let incarnation = Incarnation(fields.u64()?);
        let footer = Footer {
            ident: SegmentIdent {
                vbucket,
                incarnation,
                epoch,
            },
            first_seqno: Seqno(fields.u64()?),
            last_seqno: Seqno(fields.u64()?),
            exact_from: Seqno(fields.u64()?),
            records: fields.u64()?,
            index_entries: fields.u64()?,
            data_bytes: fields.u64()?,
            kills: fields.u64()?,
            boundaries: fields.u64()?,
            sections: Sections::take(&mut fields, length.saturating_sub(END_BYTES as u64))?,
        };
        fields.end()?;
        Ok((footer, crc))
    }

    /// Whether `meta` speaks of this footer, whose crc is given.
    pub(super) fn agrees_with(&self, meta: &SegmentMeta, crc: u32) -> bool {
        meta.footer_crc == crc
            && meta.first_seqno == self.first_seqno
            && meta.last_seqno == self.last_seqno
            && meta.exact_from == self.exact_from
            && meta.records == self.records
            && meta.data_bytes == self.data_bytes
            && meta.kills == self.kills
    }
}

fn trailer(footer_offset: u64, footer_length: usize, footer_crc: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(TRAILER_BYTES);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&footer_offset.to_le_bytes());
    out.extend_from_slice(
        &u32::try_from(footer_length)
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    out.extend_from_slice(&footer_crc.to_le_bytes());
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// The footer's crc, out of a trailer that is right in everything else.
fn take_trailer(bytes: &[u8], length: u64) -> Decoded<u32> {
    let mut fields = Fields::new(bytes);
    let checked = bytes
        .get(..TRAILER_BYTES - 4)
        .ok_or("the trailer is cut off")?;
    let magic = fields.bytes(MAGIC.len())?;
    let version = fields.u32()?;
    let footer_offset = fields.u64()?;
    let footer_length = fields.u32()?;
    let footer_crc = fields.u32()?;
    if magic != MAGIC {
        return Err("no segment ends here");
    }
    if fields.u32()? != crc32c::crc32c(checked) {
        return Err("the trailer's checksum does not match");
    }
    fields.end()?;
    if version != FORMAT_VERSION {
        return Err("the segment has another format version");
    }
    let is_in_place = footer_offset.checked_add(END_BYTES as u64) == Some(length);
    if !is_in_place || saturating_usize(u64::from(footer_length)) != FOOTER_BYTES {
        return Err("the trailer does not fit the segment");
    }
    Ok(footer_crc)
}
