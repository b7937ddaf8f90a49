//! What a frame carries: batches, each atomic for its vbucket, and edits of what exists.
//!
//! Invariant: everything that changes a version is a record here (rule R1), in the order it took effect. An edit
//! carries changes of counts, never totals, so that replaying it after an older checkpoint gives the same figures.
//! Drawn in `docs/storage-format.md`, section "Frame payload".

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::collections::DroppedCollection;
use crate::counts::VbucketCounts;
use crate::document::Item;
use crate::kv_store::{Batch, ItemView};
use crate::leb128::{put_u64, take_u32, take_u64};
use crate::log_store::codec;
use crate::log_store::record;
use crate::log_store::segment::SegmentMeta;
use crate::seqno::Seqno;
use crate::vbucket::{
    Incarnation, RollbackEpoch, SnapshotKind, VbucketId, VbucketIdentity, Watermarks,
};

const BATCH: u8 = 1;
const EDIT: u8 = 2;
const HAS_IDENTITY: u8 = 1;
const IS_DISK_SNAPSHOT: u8 = 2;

/// A change of what exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Edit {
    /// A vbucket begins.
    Create {
        place: Place,
        identity: Arc<VbucketIdentity>,
        watermarks: Watermarks,
    },
    /// A vbucket ends.
    Delete { place: Place },
    /// The vbucket goes back to `to`; `place` names the epoch before, batches from now on are of the next.
    Rollback {
        place: Place,
        to: Seqno,
        identity: Arc<VbucketIdentity>,
        watermarks: Watermarks,
        /// The moment `to` was not known any more: nothing of the past is left.
        is_reset: bool,
        /// What is left of the segments, cut where one reaches beyond `to`.
        segments: Vec<SegmentMeta>,
        /// Batch ends at or below `to` that were known only to segments that are gone.
        boundaries: Vec<Watermarks>,
        counts: VbucketCounts,
    },
    /// Items up to `sealed` lie in `segment` now.
    Seal {
        place: Place,
        segment: SegmentMeta,
        sealed: Seqno,
        counts: VbucketCounts,
    },
    /// The segments with these ids are replaced by `output`, which lacks what nobody can ask for any more.
    Merge {
        place: Place,
        inputs: Vec<u64>,
        output: SegmentMeta,
        /// What went although it was the newest of its key.
        counts: VbucketCounts,
        /// Highest tombstone among it.
        purge_seqno: Seqno,
        /// Lives of collections of which nothing is left.
        erased: Vec<DroppedCollection>,
    },
    /// A segment's bytes lie elsewhere now.
    Relocate {
        place: Place,
        segment: u64,
        container: u64,
        offset: u64,
    },
}

/// The past of a vbucket an edit belongs to (rule R2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) vbucket: VbucketId,
    pub(crate) incarnation: Incarnation,
    pub(crate) epoch: RollbackEpoch,
}

impl Edit {
    pub(crate) fn place(&self) -> Place {
        match self {
            Edit::Create { place, .. }
            | Edit::Delete { place }
            | Edit::Rollback { place, .. }
            | Edit::Seal { place, .. }
            | Edit::Merge { place, .. }
            | Edit::Relocate { place, .. } => *place,
        }
    }
}

/// A batch as read back.
#[derive(Clone, Debug)]
pub(crate) struct LoggedBatch {
    pub(crate) place: Place,
    pub(crate) watermarks: Watermarks,
    pub(crate) identity: Option<Arc<VbucketIdentity>>,
    pub(crate) items: Vec<Arc<Item>>,
}

/// One record of a payload.
#[derive(Debug)]
pub(crate) enum Record {
    Batch(LoggedBatch),
    Edit(Box<Edit>),
}

/// Appends a batch; `watermarks` are the ones to store (already merged with what was stored before), `identity`
/// the encoded identity, if the batch has one.
pub(crate) fn put_batch(
    out: &mut Vec<u8>,
    batch: &Batch,
    watermarks: &Watermarks,
    identity: Option<&[u8]>,
) {
    let mut flags = if identity.is_some() { HAS_IDENTITY } else { 0 };
    if watermarks.snapshot_kind == SnapshotKind::Disk {
        flags |= IS_DISK_SNAPSHOT;
    }
    out.extend_from_slice(&[BATCH, flags]);
    put_u64(out, u64::from(batch.vbucket.get()));
    put_u64(out, batch.incarnation.0);
    put_u64(out, u64::from(batch.epoch.0));
    for number in watermarks.numbers() {
        put_u64(out, number);
    }
    if let Some(identity) = identity {
        put_u64(out, identity.len() as u64);
        out.extend_from_slice(identity);
    }
    put_u64(out, batch.items.len() as u64);
    for item in &batch.items {
        record::encode(out, &ItemView::of(item));
    }
}

/// Appends an edit, already encoded by [`codec::encode`].
pub(crate) fn put_edit(out: &mut Vec<u8>, edit: &[u8]) {
    out.push(EDIT);
    put_u64(out, edit.len() as u64);
    out.extend_from_slice(edit);
}

/// Reads all records of a payload, whose checksum was verified. Values share the payload's memory.
pub(crate) fn read(payload: &Bytes) -> Result<Vec<Record>, String> {
    let mut records = Vec::new();
    let mut rest: &[u8] = payload;
    while let Some((&kind, body)) = rest.split_first() {
        let (record, left) = match kind {
            BATCH => take_batch(payload, body).ok_or("a batch in it cannot be read")?,
            EDIT => take_edit(body)?,
            other => return Err(format!("record kind {other} is unknown")),
        };
        records.push(record);
        rest = left;
    }
    Ok(records)
}

fn take_edit(body: &[u8]) -> Result<(Record, &[u8]), String> {
    let short = || String::from("an edit in it is cut off");
    let (length, rest) = take_u32(body).ok_or_else(short)?;
    let (edit, rest) = rest.split_at_checked(length as usize).ok_or_else(short)?;
    let edit = codec::decode(edit).map_err(|error| error.to_string())?;
    Ok((Record::Edit(Box::new(edit)), rest))
}

fn take_batch<'a>(payload: &Bytes, body: &'a [u8]) -> Option<(Record, &'a [u8])> {
    let (&flags, rest) = body.split_first()?;
    let (vbucket, rest) = take_u32(rest)?;
    let (incarnation, rest) = take_u64(rest)?;
    let (epoch, rest) = take_u32(rest)?;
    let place = Place {
        vbucket: VbucketId::new(u16::try_from(vbucket).ok()?)?,
        incarnation: Incarnation(incarnation),
        epoch: RollbackEpoch(epoch),
    };
    let (watermarks, rest) = take_watermarks(flags, rest)?;
    let (identity, rest) = if flags & HAS_IDENTITY == 0 {
        (None, rest)
    } else {
        let (length, rest) = take_u32(rest)?;
        let (identity, rest) = rest.split_at_checked(length as usize)?;
        (Some(Arc::new(codec::decode(identity).ok()?)), rest)
    };
    let (items, rest) = take_items(payload, rest)?;
    Some((
        Record::Batch(LoggedBatch {
            place,
            watermarks,
            identity,
            items,
        }),
        rest,
    ))
}

fn take_watermarks(flags: u8, mut rest: &[u8]) -> Option<(Watermarks, &[u8])> {
    let mut numbers = [0u64; 9];
    for number in &mut numbers {
        (*number, rest) = take_u64(rest)?;
    }
    let kind = if flags & IS_DISK_SNAPSHOT == 0 {
        SnapshotKind::Memory
    } else {
        SnapshotKind::Disk
    };
    Some((Watermarks::of_numbers(numbers, kind), rest))
}

fn take_items<'a>(payload: &Bytes, rest: &'a [u8]) -> Option<(Vec<Arc<Item>>, &'a [u8])> {
    let (count, mut rest) = take_u32(rest)?;
    // Every item takes more than ten bytes, so a count beyond the payload is caught before it allocates.
    let mut items = Vec::with_capacity((count as usize).min(rest.len() / 10));
    for _ in 0..count {
        let (view, left) = record::decode(rest).ok()?;
        let value = payload.slice_ref(view.value);
        items.push(Arc::new(view.to_item(value).ok()?));
        rest = left;
    }
    Some((items, rest))
}

#[cfg(test)]
mod tests;
