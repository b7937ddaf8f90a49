//! The snapshot a stream is in: its marker, kept back until there is something to say, and its end, told exactly once.
//!
//! Pure. Invariant: every marker that was sent is followed by an event at its end, and no other lies between; markers
//! start above the end of the one before. One exception: a history is told in two parts, under two markers of one range.

use messages::stream::{SnapshotFlags, SnapshotMarker};
use storage::{Seqno, SnapshotKind, Watermarks};

use crate::vbucket::checkpoint::SnapshotPiece;

/// A snapshot as its source tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) marker: SnapshotMarker,
    /// Whether the marker went out.
    pub(super) is_sent: bool,
    /// The last event sent lies here.
    pub(super) sent_up_to: Seqno,
    /// It was read from disk in part, and its rest is to come from memory.
    pub(super) is_in_part: bool,
    /// There was something of the stream's collections that is not to be seen.
    pub(super) has_invisible: bool,
    /// Passed over since the last event.
    pub(super) skipped: u64,
}

impl Told {
    pub(super) fn new(marker: SnapshotMarker) -> Told {
        Told {
            marker,
            is_sent: false,
            sent_up_to: Seqno::ZERO,
            is_in_part: false,
            has_invisible: false,
            skipped: 0,
        }
    }

    /// From here on every version is told, which the marker must say. Where it was sent for what there was before, it is
    /// sent once more (field: a history follows its own prologue), with the next event.
    pub(super) fn turn_to_history(&mut self) {
        let flags = self.marker.flags;
        if flags.has(SnapshotFlags::HISTORY) {
            return;
        }
        self.is_sent = false;
        self.marker.flags = flags.with(SnapshotFlags::HISTORY);
        if flags.has(SnapshotFlags::DISK) {
            let repeats = SnapshotFlags::MAY_CONTAIN_DUPLICATES;
            self.marker.flags = self.marker.flags.with(repeats);
        }
    }
}

/// The marker of a backfill that reads `first` and everything above, of a store that stands at these watermarks. What a
/// replica got in part of its source's disk is whole only at that snapshot's end, as the store itself names it: the rest
/// comes from memory (`is_followed`), under the same marker.
pub(super) fn of_disk(first: Seqno, watermarks: &Watermarks, is_followed: bool) -> SnapshotMarker {
    let (high, source) = (watermarks.high_seqno, watermarks.snapshot);
    let is_in_part = watermarks.snapshot_kind == SnapshotKind::Disk && source.end > high;
    SnapshotMarker {
        start: first,
        end: if is_in_part && is_followed {
            source.end
        } else {
            high
        },
        flags: SnapshotFlags::DISK.with(SnapshotFlags::CHECKPOINT),
        max_visible_seqno: Some(watermarks.max_visible_seqno),
        high_completed_seqno: Some(watermarks.completed_seqno),
        // What a disk snapshot holds of it was acknowledged, or will be once all of it is there.
        high_prepared_seqno: Some(
            watermarks
                .high_prepared_seqno
                .max(watermarks.prepared_seqno),
        ),
        purge_seqno: Some(watermarks.purge_seqno),
    }
}

impl Told {
    /// Whether a piece of the log is the rest of it.
    pub(super) fn goes_on_with(&self, piece: &SnapshotPiece) -> bool {
        self.is_in_part && piece.kind.is_disk() && piece.end == self.marker.end
    }
}

/// The marker of a piece of the checkpoint log.
pub(super) fn of_piece(piece: &SnapshotPiece) -> SnapshotMarker {
    let source = if piece.kind.is_disk() {
        SnapshotFlags::DISK
    } else {
        SnapshotFlags::MEMORY
    };
    let mut flags = source;
    if piece.history {
        flags = flags.with(SnapshotFlags::MAY_CONTAIN_DUPLICATES);
    }
    SnapshotMarker {
        start: piece.start,
        end: piece.end,
        flags,
        max_visible_seqno: piece.visible_end,
        high_completed_seqno: piece.high_completed,
        high_prepared_seqno: Some(piece.high_prepared),
        purge_seqno: piece.purge_seqno,
    }
}
