//! Snapshots as a replica's source announces them, checked before anything is changed.

use storage::{Seqno, SnapshotKind};

use super::error::SnapshotError;

/// What a snapshot marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaSnapshot {
    /// First seqno.
    pub start: Seqno,
    /// Last seqno; the source sends an item there.
    pub end: Seqno,
    /// Where the source took it from.
    pub kind: SnapshotKind,
    /// Whether it may hold several versions of a key (a history scan).
    pub history: bool,
    /// Highest seqno that readers without sync-writes may see.
    pub visible_end: Option<Seqno>,
    /// Highest completed prepare; a disk snapshot must have it.
    pub high_completed: Option<Seqno>,
    /// Highest prepare the source's durability monitor holds acknowledged.
    pub high_prepared: Option<Seqno>,
    /// Highest tombstone the source purged.
    pub purge_seqno: Option<Seqno>,
}

/// What became of an announced snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It has a checkpoint of its own.
    Began,
    /// The open checkpoint now ends where it does.
    Extended,
}

impl ReplicaSnapshot {
    /// A snapshot from the source's checkpoints.
    #[must_use]
    pub fn memory(start: Seqno, end: Seqno) -> ReplicaSnapshot {
        ReplicaSnapshot {
            start,
            end,
            kind: SnapshotKind::Memory,
            history: false,
            visible_end: None,
            high_completed: None,
            high_prepared: None,
            purge_seqno: None,
        }
    }

    /// A snapshot from the source's disk.
    #[must_use]
    pub fn disk(start: Seqno, end: Seqno, high_completed: Seqno) -> ReplicaSnapshot {
        ReplicaSnapshot {
            kind: SnapshotKind::Disk,
            high_completed: Some(high_completed),
            ..ReplicaSnapshot::memory(start, end)
        }
    }

    /// Checks it against the last item here.
    pub(super) fn check(&self, last: Seqno) -> Result<(), SnapshotError> {
        let (start, end) = (self.start, self.end);
        if start > end {
            return Err(SnapshotError::Inverted { start, end });
        }
        if end < last || (end == last && start < last) {
            return Err(SnapshotError::Stale { end, last });
        }
        if self.kind == SnapshotKind::Disk && self.high_completed.is_none() {
            return Err(SnapshotError::CompletedSeqnoMissing);
        }
        for watermark in [self.visible_end, self.high_completed, self.purge_seqno] {
            match watermark {
                Some(watermark) if watermark > end => {
                    return Err(SnapshotError::WatermarkAboveEnd { watermark, end });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Its high prepared seqno, ignored when it lies below the start.
    pub(super) fn high_prepared_inside(&self) -> Option<Seqno> {
        self.high_prepared
            .filter(|prepared| *prepared >= self.start)
    }
}
