//! Up to where a store's own history lets a compaction take something away.
//!
//! Invariant: what was ended inside the window stays, unless the history of the vbucket is too long in bytes; then the
//! oldest goes first, at the next compaction of all segments. Called once, when a run has read what it works on; whoever
//! asked for it can only ask for less to go.

use crate::error::StorageError;
use crate::log_store::version::{SegmentView, Version};
use crate::retention::{BytesByKiller, Share};
use crate::seqno::Seqno;

use super::kills::Kills;
use super::marks::BatchEnds;
use super::run::Run;

/// Ends of batches that a merge keeps of a vbucket with a history: by them a time is found. With more, a time is found as
/// the end of a batch a little before.
pub(super) const BATCH_ENDS_MAX: usize = 1 << 18;

/// Up to where something may go.
pub(super) fn floor(
    run: &Run,
    version: &Version,
    history: &Share,
    now_ms: u64,
) -> Result<Seqno, StorageError> {
    let newest = version.state().map(|state| state.watermarks);
    // A clock that ran ahead once leaves commit times ahead of it: they are asked only where nobody says what time it is.
    let now_ms = match (now_ms, newest) {
        (0, Some(newest)) => newest.commit_time_ms,
        (now_ms, _) => now_ms,
    };
    let floor = by_time(run, version, history, now_ms)?;
    // The newest segments alone do not tell how long all of the history is.
    let is_all = run.older_below == Seqno::ZERO;
    match history.bytes.filter(|_| is_all) {
        Some(bytes_max) => Ok(floor.max(by_bytes(run, floor, bytes_max)?)),
        None => Ok(floor),
    }
}

fn by_time(
    run: &Run,
    version: &Version,
    history: &Share,
    now_ms: u64,
) -> Result<Seqno, StorageError> {
    let Some(cutoff) = history.cutoff_ms(now_ms) else {
        return Ok(Seqno::ZERO);
    };
    let mut floor = Seqno::ZERO;
    let mut ends = BatchEnds::of(&run.views)?;
    while let Some(mark) = ends.next_below(Seqno::MAX)? {
        if mark.commit_time_ms > cutoff {
            break;
        }
        floor = mark.high_seqno;
    }
    // After a rollback the last of what is sealed may be told by nothing else.
    let unsealed = history.floor_of(version.before_unsealed(), now_ms);
    Ok(floor.max(unsealed))
}

fn by_bytes(run: &Run, floor: Seqno, bytes_max: u64) -> Result<Seqno, StorageError> {
    let high = run.views.last().map_or(Seqno::ZERO, SegmentView::high);
    let mut bytes = BytesByKiller::between(floor.next(), high);
    let mut kills = Kills::of(&run.views)?;
    while let Some(kill) = kills.next_up_to(Seqno::MAX)? {
        bytes.note(kill.killer, kill.victim_bytes);
    }
    Ok(bytes.floor(bytes_max))
}
