//! One item as bytes: the record that log frames and segment blocks are made of.
//!
//! Invariant: `decode(encode(item)) == item`, a record knows its own end, and decoding takes any bytes without a
//! panic or an allocation. Checksums are the business of whoever holds the record. Drawn in
//! `docs/storage-format.md`, section "Item record".

use crate::cas::Cas;
use crate::document::{
    Datatype, DeleteSource, Document, Expiry, Operation, Predecessor, RevSeqno, split,
};
use crate::durability::DurabilityLevel;
use crate::kv_store::ItemView;
use crate::leb128::{put_u64, take_u32, take_u64};
use crate::seqno::Seqno;

const MUTATION: u8 = 0;
const DELETION: u8 = 1;
const EXPIRATION: u8 = 2;
const PREPARE_MUTATION: u8 = 3;
const PREPARE_DELETION: u8 = 4;
const ABORT: u8 = 5;
const COMMIT_MUTATION: u8 = 6;
const COMMIT_DELETION: u8 = 7;
const SYSTEM_EVENT_BEGIN: u8 = 8;
const SYSTEM_EVENT_END: u8 = 9;

const KIND_MASK: u8 = 0x0f;
const PREDECESSOR_ABSENT: u8 = 0x10;
const PREDECESSOR_AT: u8 = 0x20;

/// Longest record beyond key and value: kind, datatype, seven numbers at their longest, level, CAS, lengths.
pub(crate) const OVERHEAD_MAX: usize = 96;

/// Appends the record of `item`.
pub(crate) fn encode(out: &mut Vec<u8>, item: &ItemView<'_>) {
    let kind = match item.operation {
        Operation::Mutation => MUTATION,
        Operation::Deletion {
            source: DeleteSource::Explicit,
            ..
        } => DELETION,
        Operation::Deletion {
            source: DeleteSource::Expiration,
            ..
        } => EXPIRATION,
        Operation::Prepare {
            is_deletion: false, ..
        } => PREPARE_MUTATION,
        Operation::Prepare {
            is_deletion: true, ..
        } => PREPARE_DELETION,
        Operation::Abort { .. } => ABORT,
        Operation::CommitMutation { .. } => COMMIT_MUTATION,
        Operation::CommitDeletion { .. } => COMMIT_DELETION,
        Operation::SystemEventBegin => SYSTEM_EVENT_BEGIN,
        Operation::SystemEventEnd => SYSTEM_EVENT_END,
    };
    let predecessor = match item.predecessor {
        Predecessor::Unknown => 0,
        Predecessor::Absent => PREDECESSOR_ABSENT,
        Predecessor::At(_) => PREDECESSOR_AT,
    };
    out.reserve(
        OVERHEAD_MAX
            .saturating_add(item.key.len())
            .saturating_add(item.value.len()),
    );
    out.extend_from_slice(&[kind | predecessor, item.datatype.0]);
    out.extend_from_slice(&item.cas.0.to_le_bytes());
    put_u64(out, item.seqno.0);
    put_u64(out, item.rev_seqno.0);
    put_u64(out, u64::from(item.flags));
    put_u64(out, u64::from(item.expiry.0));
    match item.operation {
        Operation::Mutation | Operation::SystemEventBegin | Operation::SystemEventEnd => {}
        Operation::Deletion { deleted_at, .. } => put_u64(out, u64::from(deleted_at)),
        Operation::Prepare { level, .. } => out.push(level as u8),
        Operation::CommitMutation { prepare_seqno } => put_u64(out, prepare_seqno.0),
        Operation::Abort {
            prepare_seqno,
            deleted_at,
        }
        | Operation::CommitDeletion {
            prepare_seqno,
            deleted_at,
        } => {
            put_u64(out, prepare_seqno.0);
            put_u64(out, u64::from(deleted_at));
        }
    }
    if let Predecessor::At(seqno) = item.predecessor {
        put_u64(out, seqno.0);
    }
    put_u64(out, item.key.len() as u64);
    put_u64(out, item.value.len() as u64);
    out.extend_from_slice(item.key);
    out.extend_from_slice(item.value);
}

/// Takes a record off the front: the item and the bytes behind it.
pub(crate) fn decode(bytes: &[u8]) -> Result<(ItemView<'_>, &[u8]), RecordError> {
    take(bytes).ok_or(RecordError)
}

fn take(bytes: &[u8]) -> Option<(ItemView<'_>, &[u8])> {
    let (&[head, datatype, c0, c1, c2, c3, c4, c5, c6, c7], rest) = bytes.split_first_chunk()?;
    let cas = Cas(u64::from_le_bytes([c0, c1, c2, c3, c4, c5, c6, c7]));
    let (seqno, rest) = take_u64(rest)?;
    let (rev_seqno, rest) = take_u64(rest)?;
    let (flags, rest) = take_u32(rest)?;
    let (expiry, rest) = take_u32(rest)?;
    let (operation, rest) = take_operation(head & KIND_MASK, rest)?;
    let (predecessor, rest) = match head & !KIND_MASK {
        0 => (Predecessor::Unknown, rest),
        PREDECESSOR_ABSENT => (Predecessor::Absent, rest),
        PREDECESSOR_AT => {
            let (seqno, rest) = take_u64(rest)?;
            (Predecessor::At(Seqno(seqno)), rest)
        }
        _ => return None,
    };
    let (key_length, rest) = take_u32(rest)?;
    let (value_length, rest) = take_u32(rest)?;
    let value_length = usize::try_from(value_length).ok()?;
    if value_length > Document::VALUE_LENGTH_MAX {
        return None;
    }
    let (key, rest) = rest.split_at_checked(usize::try_from(key_length).ok()?)?;
    let (value, rest) = rest.split_at_checked(value_length)?;
    split(key).ok()?;
    let item = ItemView {
        seqno: Seqno(seqno),
        operation,
        predecessor,
        key,
        value,
        datatype: Datatype(datatype),
        flags,
        expiry: Expiry(expiry),
        cas,
        rev_seqno: RevSeqno(rev_seqno),
    };
    Some((item, rest))
}

fn take_operation(kind: u8, rest: &[u8]) -> Option<(Operation, &[u8])> {
    match kind {
        MUTATION => Some((Operation::Mutation, rest)),
        DELETION | EXPIRATION => {
            let (deleted_at, rest) = take_u32(rest)?;
            let source = match kind {
                DELETION => DeleteSource::Explicit,
                _ => DeleteSource::Expiration,
            };
            Some((Operation::Deletion { deleted_at, source }, rest))
        }
        PREPARE_MUTATION | PREPARE_DELETION => {
            let (&level, rest) = rest.split_first()?;
            let level = DurabilityLevel::from_byte(level)?;
            Some((
                Operation::Prepare {
                    level,
                    is_deletion: kind == PREPARE_DELETION,
                },
                rest,
            ))
        }
        ABORT => {
            let (prepare_seqno, rest) = take_u64(rest)?;
            let (deleted_at, rest) = take_u32(rest)?;
            Some((
                Operation::Abort {
                    prepare_seqno: Seqno(prepare_seqno),
                    deleted_at,
                },
                rest,
            ))
        }
        COMMIT_MUTATION => {
            let (prepare_seqno, rest) = take_u64(rest)?;
            Some((
                Operation::CommitMutation {
                    prepare_seqno: Seqno(prepare_seqno),
                },
                rest,
            ))
        }
        COMMIT_DELETION => {
            let (prepare_seqno, rest) = take_u64(rest)?;
            let (deleted_at, rest) = take_u32(rest)?;
            let prepare_seqno = Seqno(prepare_seqno);
            Some((
                Operation::CommitDeletion {
                    prepare_seqno,
                    deleted_at,
                },
                rest,
            ))
        }
        SYSTEM_EVENT_BEGIN => Some((Operation::SystemEventBegin, rest)),
        SYSTEM_EVENT_END => Some((Operation::SystemEventEnd, rest)),
        _ => None,
    }
}

/// Bytes that are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("these bytes are no item record")]
pub(crate) struct RecordError;

#[cfg(test)]
mod tests;
