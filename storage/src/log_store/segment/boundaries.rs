//! The boundaries: how far the vbucket had come with each batch committed into a segment.
//!
//! Invariant: high seqnos never fall, and every field comes back exactly. A rollback or a view of the past takes
//! the state of the vbucket from here; nothing else reads it.

use std::sync::Arc;

use super::fields::{Decoded, Fields, saturating_usize};
use super::reader::Segment;
use super::section_cursor::SectionCursor;
use crate::error::StorageError;
use crate::leb128::put_u64;
use crate::seqno::Seqno;
use crate::vbucket::{SnapshotKind, Watermarks};

/// Fewest bytes an entry takes: one per field.
const ENTRY_BYTES_MIN: usize = 10;

const KIND_MEMORY: u8 = 0;
const KIND_DISK: u8 = 1;

/// The list as bytes; `None` when it is out of order.
pub(super) fn encode(boundaries: &[Watermarks]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(boundaries.len().saturating_mul(ENTRY_BYTES_MIN * 2));
    let mut before = Watermarks::default();
    for boundary in boundaries {
        put_u64(
            &mut out,
            boundary.high_seqno.0.checked_sub(before.high_seqno.0)?,
        );
        for (now, then) in signed_fields(boundary)
            .into_iter()
            .zip(signed_fields(&before))
        {
            put_u64(&mut out, zigzag(now.wrapping_sub(then)));
        }
        out.push(match boundary.snapshot_kind {
            SnapshotKind::Memory => KIND_MEMORY,
            SnapshotKind::Disk => KIND_DISK,
        });
        before = *boundary;
    }
    Some(out)
}

/// The fields that may fall as well as rise, in their order on disk.
fn signed_fields(watermarks: &Watermarks) -> [u64; 8] {
    [
        watermarks.max_visible_seqno.0,
        watermarks.prepared_seqno.0,
        watermarks.completed_seqno.0,
        watermarks.high_prepared_seqno.0,
        watermarks.purge_seqno.0,
        watermarks.snapshot.start.0,
        watermarks.snapshot.end.0,
        watermarks.commit_time_ms,
    ]
}

/// A position among the boundaries of a segment.
#[derive(Debug)]
pub(crate) struct MarkCursor {
    section: SectionCursor,
    left: u64,
    before: Watermarks,
    at_most: Seqno,
}

impl MarkCursor {
    /// At the first boundary, of those up to `at_most` (and the cut).
    pub(crate) fn new(segment: Arc<Segment>, at_most: Seqno) -> Result<MarkCursor, StorageError> {
        let at_most = at_most.min(segment.meta.visible_last());
        let footer = &segment.footer;
        let (section, left) = (footer.sections.boundaries, footer.boundaries);
        Ok(MarkCursor {
            section: SectionCursor::open(segment, section)?,
            left,
            before: Watermarks::default(),
            at_most,
        })
    }

    /// The next boundary; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Watermarks>, StorageError> {
        if self.left == 0 {
            return Ok(None);
        }
        let before = self.before;
        self.before = self.section.take(|fields| take(fields, &before))?;
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            self.section.end()?;
        }
        if self.before.high_seqno > self.at_most {
            // High seqnos never fall.
            self.left = 0;
            return Ok(None);
        }
        Ok(Some(self.before))
    }
}

/// The list of `count` entries that fills `bytes`.
pub(super) fn decode(bytes: &[u8], count: u64) -> Decoded<Vec<Watermarks>> {
    let count = saturating_usize(count);
    if count > bytes.len() / ENTRY_BYTES_MIN {
        return Err("the boundaries are too short for their count");
    }
    let mut fields = Fields::new(bytes);
    let mut boundaries = Vec::with_capacity(count);
    let mut before = Watermarks::default();
    for _ in 0..count {
        before = take(&mut fields, &before)?;
        boundaries.push(before);
    }
    fields.end()?;
    Ok(boundaries)
}

fn take(fields: &mut Fields<'_>, before: &Watermarks) -> Decoded<Watermarks> {
    let rise = fields.varint_u64()?;
    let high = before
        .high_seqno
        .0
        .checked_add(rise)
        .ok_or("a high seqno is too large")?;
    let mut values = signed_fields(before);
    for value in &mut values {
        *value = value.wrapping_add(unzigzag(fields.varint_u64()?));
    }
    let snapshot_kind = match fields.u8()? {
        KIND_MEMORY => SnapshotKind::Memory,
        KIND_DISK => SnapshotKind::Disk,
        _ => return Err("an unknown kind of snapshot"),
    };
    let [
        visible,
        prepared,
        completed,
        high_prepared,
        purge,
        start,
        end,
        time,
    ] = values;
    let numbers = [
        high,
        visible,
        prepared,
        completed,
        high_prepared,
        purge,
        start,
        end,
        time,
    ];
    Ok(Watermarks::of_numbers(numbers, snapshot_kind))
}

/// Small differences of either sign as small numbers.
fn zigzag(difference: u64) -> u64 {
    let signed = difference.cast_signed();
    ((signed << 1) ^ (signed >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ (value & 1).wrapping_neg()
}
