//! What an item costs in memory, and who may be refused for it (rules R14, R15).
//!
//! Invariant: a client's write is refused before anything of it is applied; what replicates, what is loaded and what
//! the engine itself must write (an expired document's tombstone) is charged, never refused.

use std::sync::Arc;

use messages::{Busy, OperationError};
use storage::{DocumentKey, Item, MemoryAccount, MemoryToken};

/// An item in memory beside its value and a long key: itself with a short key, the counts of its references, and its slot
/// in the map at the map's usual load.
pub(super) const ITEM_OVERHEAD_BYTES: u64 = size_of::<Item>() as u64 + 16 + 12;

/// A deletion may go this far above the quota, as its part of it: it is how a client makes room.
const DELETION_ALLOWANCE_DIVISOR: u64 = 16;

/// Bytes an item of this key and value is charged with.
pub(super) fn cost_bytes(key: &DocumentKey, value_length: usize) -> u64 {
    let user = (key.allocated_bytes() as u64).saturating_add(value_length as u64);
    user.saturating_add(ITEM_OVERHEAD_BYTES)
}

/// Bytes an item is charged with.
pub(super) fn charged_bytes(item: &Item) -> u64 {
    cost_bytes(&item.document.key, item.document.value.len())
}

/// Pays for a client's write of a document.
pub(super) fn reserve(
    account: &Arc<MemoryAccount>,
    bytes: u64,
) -> Result<MemoryToken, OperationError> {
    let charged = account.try_charge(bytes, 0);
    charged.ok_or_else(|| refused(account, bytes))
}

/// Pays for a client's deletion.
pub(super) fn reserve_deletion(
    account: &Arc<MemoryAccount>,
    bytes: u64,
) -> Result<MemoryToken, OperationError> {
    let allowance = account.pool().quota_bytes() / DELETION_ALLOWANCE_DIVISOR;
    let charged = account.try_charge(bytes, allowance);
    charged.ok_or_else(|| refused(account, bytes))
}

fn refused(account: &MemoryAccount, bytes: u64) -> OperationError {
    account.note_refused(bytes);
    OperationError::TemporaryFailure(Busy::Memory)
}
