//! Which seqnos of a vbucket's history are ends of whole snapshots: what a store is told of the items it gets, and where
//! a new branch of history begins.
//!
//! Invariant: `start` of a range is the end of the last snapshot that came whole (MB-35003), also when a snapshot was
//! given up in its middle and another begun. An active vbucket's own changes are whole wherever nothing is missing that
//! a newer version took the place of. What is kept is bounded, however long nothing gets to the disk: snapshots in between
//! are then taken for one, whose range is wider than that of each.

use std::collections::VecDeque;

use storage::{Seqno, SnapshotKind, SnapshotRange, Watermarks};

/// Most ends and beginnings of snapshots that are told apart.
const KEPT_MAX: usize = 1024;

/// From where on what comes is of which kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// This vbucket's own changes.
    Own,
    /// A snapshot of the source that ends here.
    Source(Seqno, SnapshotKind),
}

/// What is known of the part of history that is not on disk yet.
#[derive(Debug)]
pub(super) struct Snapshots {
    /// What came above which seqno, rising; several at one seqno: the last counts.
    origins: VecDeque<(Seqno, Origin)>,
    /// Ends of snapshots that came whole, rising.
    whole: VecDeque<Seqno>,
}

impl Snapshots {
    /// Goes on behind what the store holds.
    pub(super) fn stored(watermarks: &Watermarks, is_active: bool) -> Snapshots {
        let SnapshotRange { start, end } = watermarks.snapshot;
        let high = watermarks.high_seqno;
        let whole = if end <= high { high } else { start };
        let mut snapshots = Snapshots {
            origins: VecDeque::new(),
            whole: VecDeque::from([whole]),
        };
        let kind = watermarks.snapshot_kind;
        if end > high {
            let source = Origin::Source(end, kind);
            snapshots.origins.push_back((whole, source));
        } else if kind == SnapshotKind::Disk {
            // Its newest item came in a snapshot, which is told of it for ever.
            let before = Seqno(high.0.saturating_sub(1));
            snapshots
                .origins
                .push_back((before, Origin::Source(high, kind)));
        }
        if is_active {
            snapshots.begin_own(high);
        }
        snapshots
    }

    /// From here on the changes are this vbucket's own.
    pub(super) fn begin_own(&mut self, high: Seqno) {
        match self.origins.back_mut() {
            Some((_, Origin::Own)) => return,
            // Nothing more of it comes: whoever reads what is stored waits for no end that never is.
            Some((_, Origin::Source(end, _))) => *end = high.min(*end),
            None => {}
        }
        self.add(high, Origin::Own);
    }

    /// This vbucket writes nothing more itself; what it wrote so far is whole.
    pub(super) fn end_own(&mut self, high: Seqno) {
        self.note_whole(self.newest_whole(high));
    }

    /// From here on they are of a snapshot that ends at `end`.
    pub(super) fn begin_source(&mut self, high: Seqno, end: Seqno, kind: SnapshotKind) {
        let origin = Origin::Source(end, kind);
        match self.origins.back_mut() {
            // Nothing came since the one before.
            Some((above, before)) if *above == high => *before = origin,
            Some(_) | None => self.add(high, origin),
        }
    }

    fn add(&mut self, high: Seqno, origin: Origin) {
        self.origins.push_back((high, origin));
        if self.origins.len() > KEPT_MAX {
            self.thin_origins();
        }
    }

    /// An item of the source came; it may complete its snapshot.
    pub(super) fn note_received(&mut self, seqno: Seqno) {
        if let Some((_, Origin::Source(end, _))) = self.origins.back()
            && *end == seqno
        {
            self.note_whole(seqno);
        }
    }

    /// The source's snapshot came whole, though its end is no item: what is here up to `high` is all of it.
    pub(super) fn end_source(&mut self, high: Seqno) {
        if let Some((above, Origin::Source(end, _))) = self.origins.back_mut()
            && *above < high
        {
            *end = high;
        }
        self.note_whole(high);
    }

    /// End of the last whole snapshot in memory: where a new branch begins at promotion.
    pub(super) fn newest_whole(&self, high: Seqno) -> Seqno {
        match self.origins.back() {
            Some((above, Origin::Own)) if *above < high => high,
            _ => self.whole.back().copied().unwrap_or_default(),
        }
    }

    /// The snapshot the newest items in memory belong to.
    pub(super) fn newest(&self, high: Seqno) -> SnapshotRange {
        self.range_at(high, high, high).0
    }

    /// What a store is told that holds everything up to `high`. Up to `settled` nothing is missing; what is missing
    /// above it has newer versions up to `newest`, the high seqno in memory.
    pub(super) fn range_at(
        &self,
        high: Seqno,
        settled: Seqno,
        newest: Seqno,
    ) -> (SnapshotRange, SnapshotKind) {
        // Whole, and nothing of it missing.
        let is_safe = |whole: &&Seqno| **whole <= settled.min(high);
        let start = self.whole.iter().rev().find(is_safe);
        let start = start.copied().unwrap_or_default();
        let came = self.origins.iter().rev().find(|(above, _)| *above < high);
        let (start, end, kind) = match came {
            _ if start == high => (high, high, SnapshotKind::Memory),
            Some((above, Origin::Own)) if settled > *above => (settled, high, SnapshotKind::Memory),
            Some((_, Origin::Own)) | None => (start, high, SnapshotKind::Memory),
            Some((_, Origin::Source(end, kind))) => (start, *end, *kind),
        };
        // A range that ends at the high seqno says that nothing is missing; and what is missing may have its newer version
        // behind the snapshot of the newest item, where two snapshots lie in one checkpoint.
        let end = if start < high && (end <= high || settled < high) {
            end.max(newest)
        } else {
            end
        };
        // What a source left out below the end of its snapshot is missing for ever: the store tells no past there.
        let kind = if end <= high && self.has_received(high) {
            SnapshotKind::Disk
        } else {
            kind
        };
        (SnapshotRange { start, end }, kind)
    }

    /// Whether something below `high` that may not be on disk yet came from a source.
    fn has_received(&self, high: Seqno) -> bool {
        let mut below = self.origins.iter().filter(|(above, _)| *above < high);
        below.any(|(_, origin)| matches!(origin, Origin::Source(..)))
    }

    /// Forgets what is only needed for seqnos at or below `persisted`.
    pub(super) fn forget(&mut self, persisted: Seqno) {
        while self.whole.get(1).is_some_and(|next| *next <= persisted) {
            self.whole.pop_front();
        }
        while self
            .origins
            .get(1)
            .is_some_and(|(above, _)| *above < persisted)
        {
            self.origins.pop_front();
        }
    }

    fn note_whole(&mut self, seqno: Seqno) {
        if self.whole.back().is_none_or(|newest| *newest < seqno) {
            self.whole.push_back(seqno);
        }
        if self.whole.len() > KEPT_MAX {
            self.thin_whole();
        }
    }

    /// Forgets every second of those between the oldest and the newest.
    fn thin_whole(&mut self) {
        let newest = self.whole.back().copied();
        let mut number = 0usize;
        self.whole.retain(|seqno| {
            number = number.saturating_add(1);
            number % 2 == 1 || Some(*seqno) == newest
        });
    }

    /// Of every two that follow each other one is made; the newest stays itself.
    fn thin_origins(&mut self) {
        let newest = self.origins.pop_back();
        let mut thinned = VecDeque::with_capacity(self.origins.len());
        while let Some((above, first)) = self.origins.pop_front() {
            let second = self.origins.pop_front();
            // Where what comes behind them begins.
            let behind = self.origins.front().or(newest.as_ref());
            let one = match (second, behind) {
                (Some((_, second)), Some((until, _))) => first.and(second, *until),
                (Some(_) | None, _) => first,
            };
            thinned.push_back((above, one));
        }
        thinned.extend(newest);
        self.origins = thinned;
    }
}

impl Origin {
    /// This and what came behind it up to `until` as one, of which no more is said than of each: what is not all of one kind
    /// counts as of a disk.
    fn and(self, second: Origin, until: Seqno) -> Origin {
        let (first, second) = (self.as_snapshot(until), second.as_snapshot(until));
        let kind = if first.1 == second.1 {
            first.1
        } else {
            SnapshotKind::Disk
        };
        Origin::Source(first.0.max(second.0), kind)
    }

    /// Own changes are taken for a snapshot of a disk that ends where they do.
    fn as_snapshot(self, until: Seqno) -> (Seqno, SnapshotKind) {
        match self {
            Origin::Own => (until, SnapshotKind::Disk),
            Origin::Source(end, kind) => (end, kind),
        }
    }
}

#[cfg(test)]
mod tests;
