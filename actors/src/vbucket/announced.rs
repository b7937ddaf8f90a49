//! The snapshot that comes from the active vbucket, as durable writes see it: where it ends, and who is to be told.
//!
//! Invariant: a monitor is told of every end of a disk snapshot, of each that held a prepare, and of the first on a stream
//! (MB-51805), once it is here whole; the store is told what a disk snapshot completed with the first batch that holds all
//! of it, and not before (MB-35631).

use std::collections::VecDeque;

use crate::durability::{Acknowledger, SnapshotEnd, SnapshotEndError};
use crate::vbucket::checkpoint::ReplicaSnapshot;
use storage::{Seqno, SnapshotKind, Watermarks};

/// What is known of the source's snapshots.
#[derive(Debug, Default)]
pub(super) struct Announced {
    /// The end of the one under way.
    under_way: Option<SnapshotEnd>,
    /// The monitor is to be told of the next end.
    is_end_owed: bool,
    /// A disk snapshot may replace a prepare up to here that is not over: its end was left out (MB-37205).
    window: Seqno,
    /// What is here ends inside a disk snapshot.
    is_in_disk: bool,
    /// End of the last that came whole.
    whole: Option<SnapshotEnd>,
    /// Ends of disk snapshots the store was not told of.
    untold: VecDeque<SnapshotEnd>,
    /// What was acknowledged on the stream of now.
    acknowledged: Acknowledger,
}

impl Announced {
    /// Goes on behind what the store holds.
    pub(super) fn stored(watermarks: &Watermarks) -> Announced {
        let (snapshot, high) = (watermarks.snapshot, watermarks.high_seqno);
        let whole = if snapshot.end <= high {
            high
        } else {
            snapshot.start
        };
        Announced {
            is_in_disk: snapshot.end > high && watermarks.snapshot_kind == SnapshotKind::Disk,
            whole: Some(SnapshotEnd::memory(whole)),
            is_end_owed: true,
            ..Announced::default()
        }
    }

    /// Another stream feeds this vbucket.
    pub(super) fn begin_stream(&mut self) {
        self.under_way = None;
        self.is_end_owed = true;
        self.acknowledged = Acknowledger::default();
    }

    /// The marker of a snapshot, looked at before anything is done about it.
    pub(super) fn end_of(snapshot: &ReplicaSnapshot) -> Result<SnapshotEnd, SnapshotEndError> {
        match snapshot.kind {
            SnapshotKind::Memory => Ok(SnapshotEnd::memory(snapshot.end)),
            SnapshotKind::Disk => SnapshotEnd::disk(
                (snapshot.start, snapshot.end),
                snapshot.high_prepared,
                snapshot.high_completed.unwrap_or_default(),
            ),
        }
    }

    /// A snapshot begins; `last_tracked` is the newest prepare there is.
    pub(super) fn begin(&mut self, end: SnapshotEnd, last_tracked: Seqno) {
        if end.kind == SnapshotKind::Disk {
            self.window = last_tracked;
            self.is_in_disk = true;
        }
        self.under_way = Some(end);
    }

    /// Whether what comes now is of a disk snapshot.
    pub(super) fn is_disk(&self) -> bool {
        self.under_way
            .is_some_and(|end| end.kind == SnapshotKind::Disk)
    }

    /// Whether a prepare at `seqno` that is not over may be replaced by the snapshot under way.
    pub(super) fn may_replace(&self, seqno: Seqno) -> bool {
        self.is_disk() && seqno <= self.window
    }

    /// The snapshot under way holds a prepare.
    pub(super) fn note_prepare(&mut self) {
        self.is_end_owed = true;
    }

    /// An item came; the end the monitor is to be told of, if that made one whole.
    pub(super) fn received(&mut self, seqno: Seqno) -> Option<SnapshotEnd> {
        self.under_way.filter(|end| end.seqno == seqno)?;
        self.end_at(seqno)
    }

    /// The snapshot under way came whole, and this is its last item; the same.
    pub(super) fn end_at(&mut self, seqno: Seqno) -> Option<SnapshotEnd> {
        let end = self.under_way.take()?.ending_at(seqno);
        let is_disk = end.kind == SnapshotKind::Disk;
        if is_disk {
            self.untold.push_back(end);
            self.is_in_disk = false;
        }
        self.whole = Some(self.as_it_counts(end));
        let is_told = is_disk || self.is_end_owed;
        self.is_end_owed &= !is_told;
        is_told.then_some(end)
    }

    /// This vbucket's own changes end here, and are whole.
    pub(super) fn end_own(&mut self, high: Seqno) {
        self.whole = Some(self.as_it_counts(SnapshotEnd::memory(high)));
    }

    /// Whether a disk snapshot came whole that the store was not told of.
    pub(super) fn is_behind_disk(&self) -> bool {
        !self.untold.is_empty()
    }

    /// Behind a disk snapshot that is not on disk a later end counts for no more.
    fn as_it_counts(&self, end: SnapshotEnd) -> SnapshotEnd {
        if self.is_behind_disk() {
            end.as_disk()
        } else {
            end
        }
    }

    /// Nothing more of the source comes: what ended in half a disk snapshot is over for good, and the store is told so.
    /// Otherwise it would find that open again once what ended it is gone.
    pub(super) fn end_source(&mut self, end: SnapshotEnd) {
        self.under_way = None;
        if std::mem::take(&mut self.is_in_disk) {
            self.untold.push_back(end);
        }
    }

    /// End of the last snapshot that came whole.
    pub(super) fn whole(&self) -> Option<SnapshotEnd> {
        self.whole
    }

    /// What a store is told of that holds everything up to `watermarks.high_seqno`.
    pub(super) fn tell_store(&self, watermarks: &mut Watermarks) {
        let high = watermarks.high_seqno;
        for end in self.untold.iter().filter(|end| end.seqno <= high) {
            let completed = &mut watermarks.completed_seqno;
            *completed = end.high_completed().max(*completed);
            let prepared = &mut watermarks.high_prepared_seqno;
            *prepared = end.high_prepared().max(*prepared);
        }
    }

    /// The store was told so much.
    pub(super) fn note_stored(&mut self, watermarks: &Watermarks) {
        let is_told = |end: &SnapshotEnd| {
            end.seqno <= watermarks.high_seqno
                && end.high_completed() <= watermarks.completed_seqno
                && end.high_prepared() <= watermarks.high_prepared_seqno
        };
        while self.untold.front().is_some_and(is_told) {
            self.untold.pop_front();
        }
    }

    /// What is to be acknowledged on the stream of now, if anything.
    pub(super) fn acknowledge(&mut self, high_prepared: Seqno) -> Option<Seqno> {
        self.acknowledged.due(high_prepared)
    }

    /// What was acknowledged on the stream of now.
    pub(super) fn said(&self) -> Seqno {
        self.acknowledged.said()
    }

    /// Whether there is something to acknowledge.
    pub(super) fn has_word(&self, high_prepared: Seqno) -> bool {
        self.acknowledged.is_due(high_prepared)
    }
}
