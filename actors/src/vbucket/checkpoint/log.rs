//! The log itself: queueing, and the opening and closing of checkpoints.
//!
//! Invariant: an active vbucket's items have dense seqnos, and its snapshot ends at the newest; a replica's lie in
//! the snapshot its source announced. Only items move the last seqno.

use std::sync::Arc;

use storage::{Item, Seqno, SnapshotKind, VbucketIdentity};

use super::chain::{Chain, CheckpointId, Place};
use super::content::{Checkpoint, CheckpointKind, Found, Rest};
use super::cursor::{Cursor, CursorId, CursorKind, CursorName, Cursors, Told};
use super::disposition::{Disposition, Plan, Replaces};
use super::error::{QueueError, SnapshotError};
use super::memory::Garbage;
use super::snapshot::{Applied, ReplicaSnapshot};

/// When an active vbucket's checkpoint is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointLimits {
    /// Bytes it may hold.
    pub bytes_max: usize,
    /// Items queued into it, those replaced since included: their places stay, and walks must be bounded.
    pub items_max: usize,
}

impl Default for CheckpointLimits {
    /// About a frame of the store's log, and few enough entries that a walk over one checkpoint goes unnoticed. An entry
    /// stays until its checkpoint is closed, so more would cost memory for every document and save little.
    fn default() -> CheckpointLimits {
        CheckpointLimits {
            bytes_max: 1 << 20,
            items_max: 10_000,
        }
    }
}

impl CheckpointLimits {
    /// The part of a bucket's quota that all its open checkpoints may hold. A tombstone stays in memory until its
    /// checkpoint is closed, so this bounds what deleted documents go on costing.
    const QUOTA_DIVISOR: u64 = 4;
    /// With less a checkpoint would hold next to nothing.
    const BYTES_MIN: usize = 4 << 10;

    /// The limits of each of `vbuckets` of a bucket with this memory quota.
    #[must_use]
    pub fn within(quota_bytes: u64, vbuckets: u16) -> CheckpointLimits {
        let usual = CheckpointLimits::default();
        let share = quota_bytes / Self::QUOTA_DIVISOR / u64::from(vbuckets.max(1));
        let share = usize::try_from(share).unwrap_or(usize::MAX);
        CheckpointLimits {
            bytes_max: share.clamp(Self::BYTES_MIN, usual.bytes_max),
            ..usual
        }
    }
}

/// What queueing did.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// What became of the older version.
    pub disposition: Disposition,
    /// The checkpoint the item lies in.
    pub checkpoint: CheckpointId,
    /// Whether the snapshot is whole now: always on an active vbucket, on a replica at the snapshot's end.
    pub completes_snapshot: bool,
}

/// The checkpoint log of one vbucket; see the [module](super).
#[derive(Debug)]
pub struct CheckpointLog {
    pub(super) chain: Chain,
    pub(super) cursors: Cursors,
    pub(super) limits: CheckpointLimits,
    pub(super) last: Seqno,
    /// End of the last snapshot that came whole.
    pub(super) complete: Option<Seqno>,
    /// Items ever queued; with a cursor's `items_done` the figure of what it has yet to read.
    pub(super) items_queued: u64,
    pub(super) identities_queued: u64,
    pub(super) cursors_made: u64,
    /// The flusher takes checkpoints whole; see [`CheckpointLog::set_whole_flushes`].
    pub(super) whole_flushes: bool,
    /// Every version of every key stays, whatever its collection; see [`CheckpointLog::keep_history`].
    pub(super) keeps_history: bool,
    pub(super) garbage: Garbage,
}

/// What never came, and nothing is known of it.
const LOST: Rest = Rest::Lost { over: Seqno::ZERO };

impl CheckpointLog {
    /// A log behind item `last`, which the store holds, with one empty checkpoint and the flush cursor.
    #[must_use]
    pub fn new(last: Seqno, limits: CheckpointLimits) -> CheckpointLog {
        let open = Checkpoint::new(CheckpointId(1), last.next(), Seqno::ZERO);
        let at = Chain::beginning(&open);
        let flush = Cursor {
            id: CursorId::FLUSH,
            name: CursorName::new("flush"),
            kind: CursorKind::Flush,
            at,
            held: at,
            begun: false,
            seen: last,
            told: Told::default(),
            items_done: 0,
            identities_done: 0,
        };
        CheckpointLog {
            chain: Chain {
                closed: std::collections::VecDeque::new(),
                open,
            },
            cursors: Cursors {
                flush,
                readers: Vec::new(),
            },
            limits,
            last,
            complete: None,
            items_queued: 0,
            identities_queued: 0,
            cursors_made: 0,
            whole_flushes: false,
            keeps_history: false,
            garbage: Garbage::default(),
        }
    }

    /// Seqno of the last item queued.
    #[must_use]
    pub fn last_seqno(&self) -> Seqno {
        self.last
    }

    /// Lowest seqno the open checkpoint may hold. The document map must know every version at or above it.
    #[must_use]
    pub fn open_start(&self) -> Seqno {
        self.chain.open.start
    }

    /// The open checkpoint and the snapshot it belongs to: first seqno, last seqno, kind.
    #[must_use]
    pub fn open_snapshot(&self) -> (CheckpointId, Seqno, Seqno, CheckpointKind) {
        let open = &self.chain.open;
        (open.id, open.snapshot_start, open.snapshot_end, open.kind)
    }

    /// End of the last snapshot that came whole since the log began or was cleared: where a new branch of history
    /// begins at promotion. None: only what the store says is known to be whole.
    #[must_use]
    pub fn complete_seqno(&self) -> Option<Seqno> {
        self.complete
    }

    /// Changes the limits, from the next item on.
    pub fn set_limits(&mut self, limits: CheckpointLimits) {
        self.limits = limits;
    }

    /// While set, the flusher takes all of a checkpoint whatever its limits say, and nothing of the next: what is stored
    /// then holds everything up to its last seqno. For a backfill that waits for such a store.
    pub fn set_whole_flushes(&mut self, is_whole: bool) {
        self.whole_flushes = is_whole;
    }

    /// From now on no version takes the place of an older one: of a bucket that keeps a history each is to reach the disk.
    pub fn keep_history(&mut self) {
        self.keeps_history = true;
    }

    /// Whether no version takes the place of an older one.
    #[must_use]
    pub fn keeps_history(&self) -> bool {
        self.keeps_history
    }

    /// Raises the high prepared seqno that pieces of the open checkpoint name.
    pub fn raise_high_prepared(&mut self, seqno: Seqno) {
        let open = &mut self.chain.open;
        open.high_prepared = open.high_prepared.max(seqno);
    }

    /// Queues an active vbucket's item, which must have the seqno after the last. After a replica's snapshot, and
    /// when the open checkpoint is full, it begins a new one.
    #[inline]
    pub fn queue(
        &mut self,
        item: Arc<Item>,
        replaces: impl Into<Replaces>,
    ) -> Result<Queued, QueueError> {
        let replaces = replaces.into();
        if item.seqno != self.last.next() {
            return Err(QueueError::OutOfOrder {
                seqno: item.seqno,
                last: self.last,
            });
        }
        let plan = self.plan(&item.operation, replaces);
        Ok(self.carry_out(plan, item, replaces))
    }

    /// Queues a replica's item, which must lie above the last and inside the announced snapshot. The caller has
    /// checked the state and the stream's epoch (rule R17).
    pub fn queue_replica(
        &mut self,
        item: Arc<Item>,
        replaces: impl Into<Replaces>,
    ) -> Result<Queued, QueueError> {
        let replaces = replaces.into();
        let seqno = item.seqno;
        let open = &self.chain.open;
        if !open.of_source {
            return Err(QueueError::NoSnapshot { seqno });
        }
        if seqno <= self.last {
            let last = self.last;
            return Err(QueueError::OutOfOrder { seqno, last });
        }
        let (start, end) = (open.snapshot_start, open.snapshot_end);
        if seqno < start || seqno > end {
            return Err(QueueError::OutsideSnapshot { seqno, start, end });
        }
        let plan = self.plan_in_open(&item.operation, replaces);
        if plan.disposition == Disposition::NewCheckpoint {
            let replaces = replaces.older.unwrap_or_default();
            return Err(QueueError::DuplicateInSnapshot { seqno, replaces });
        }
        Ok(self.carry_out(plan, item, replaces))
    }

    /// Queues a change of the vbucket's identity for the flusher.
    pub fn queue_identity(&mut self, identity: Arc<VbucketIdentity>) {
        self.chain.open.push_identity(self.last.next(), identity);
        self.identities_queued = self.identities_queued.saturating_add(1);
    }

    /// Whether what comes next would go on with a snapshot that a replica's source announced.
    #[must_use]
    pub fn is_open_of_source(&self) -> bool {
        self.chain.open.of_source
    }

    /// Begins a new checkpoint of this vbucket's own changes, unless the open one is that and has no item: at
    /// promotion, before memory is recovered.
    pub fn open_checkpoint(&mut self) -> CheckpointId {
        self.open_own(Seqno::ZERO)
    }

    /// The same where every prepare up to `over` is known to be over: readers are told so of a snapshot that is cut by it.
    pub fn open_own(&mut self, over: Seqno) -> CheckpointId {
        if self.chain.open.of_source || self.chain.open.queued > 0 {
            self.open_anew(Rest::Lost { over });
            self.free_unneeded();
        }
        self.chain.open.id
    }

    /// Begins the checkpoint of a snapshot that a replica's source announced.
    pub fn begin_snapshot(&mut self, snapshot: &ReplicaSnapshot) -> Result<(), SnapshotError> {
        snapshot.check(self.last)?;
        let is_initial = self.last == Seqno::ZERO;
        self.open_anew(LOST);
        let open = &mut self.chain.open;
        open.of_source = true;
        open.kind = match snapshot.kind {
            SnapshotKind::Memory => CheckpointKind::Memory,
            SnapshotKind::Disk if is_initial => CheckpointKind::InitialDisk,
            SnapshotKind::Disk => CheckpointKind::Disk,
        };
        open.history = snapshot.history;
        open.snapshot_start = snapshot.start;
        open.snapshot_end = snapshot.end;
        open.visible_end = snapshot.visible_end;
        open.high_completed = snapshot.high_completed;
        open.snapshot_high_prepared = snapshot.high_prepared_inside();
        open.purge_seqno = snapshot.purge_seqno;
        self.free_unneeded();
        Ok(())
    }

    /// Takes a snapshot that was announced as going on in the same checkpoint: one from memory behind another from
    /// memory extends it, any other gets its own checkpoint. While a stream reads here nothing is extended: the source
    /// promises each key once per snapshot, and a stream told of two as one could get a key twice.
    pub fn extend_snapshot(
        &mut self,
        snapshot: &ReplicaSnapshot,
    ) -> Result<Applied, SnapshotError> {
        snapshot.check(self.last)?;
        let is_read = self.cursors.readers.iter().any(Cursor::is_stream);
        let open = &mut self.chain.open;
        let goes_on = open.of_source
            && open.kind == CheckpointKind::Memory
            && snapshot.kind == SnapshotKind::Memory
            && open.history == snapshot.history;
        // With a history, a key that the source promises once in each of two may come twice.
        if is_read || !goes_on || self.keeps_history {
            self.begin_snapshot(snapshot)?;
            return Ok(Applied::Began);
        }
        open.is_extended = true;
        open.snapshot_end = open.snapshot_end.max(snapshot.end);
        open.visible_end = open.visible_end.max(snapshot.visible_end);
        open.purge_seqno = open.purge_seqno.max(snapshot.purge_seqno);
        Ok(Applied::Extended)
    }

    /// The source's snapshot came whole, though its end is no item: it ends with the newest, and nothing more of the
    /// source is taken before the next is begun. Who was told of a later end reads no further in it.
    pub fn end_snapshot(&mut self) {
        if self.chain.open.of_source {
            self.open_anew(Rest::Empty);
            self.complete = Some(self.last);
            self.free_unneeded();
        }
    }

    /// The newest item, if its seqno is `seqno`: whether a change that was under way happened.
    #[must_use]
    pub fn newest_item(&self, seqno: Seqno) -> Option<&Arc<Item>> {
        match self.chain.open.find(seqno) {
            Found::Item { item, .. } if seqno == self.last => Some(item),
            Found::Item { .. } | Found::Expelled { .. } | Found::Nothing => None,
        }
    }

    pub(super) fn is_full(&self, open: &Checkpoint) -> bool {
        let limits = &self.limits;
        (open.bytes >= limits.bytes_max || open.queued >= limits.items_max) && open.queued > 0
    }

    fn carry_out(&mut self, plan: Plan, item: Arc<Item>, replaces: Replaces) -> Queued {
        match plan.disposition {
            Disposition::Append => {}
            Disposition::NewCheckpoint => {
                self.open_anew(LOST);
                self.free_unneeded();
            }
            Disposition::Replaces { .. } => self.remove(plan.position),
        }
        let keeps_history = replaces.keeps_history || self.keeps_history;
        self.append(item, keeps_history, plan.disposition)
    }

    fn append(&mut self, item: Arc<Item>, keeps_history: bool, disposition: Disposition) -> Queued {
        let seqno = item.seqno;
        let open = &mut self.chain.open;
        open.push_item(item, keeps_history);
        self.items_queued = self.items_queued.saturating_add(1);
        self.last = seqno;
        if !open.of_source {
            open.snapshot_end = seqno;
        }
        let completes_snapshot = seqno == open.snapshot_end;
        if completes_snapshot {
            self.complete = Some(seqno);
            if open.kind.is_disk() {
                open.high_prepared = open.snapshot_high_prepared.unwrap_or(seqno);
            }
        }
        Queued {
            disposition,
            checkpoint: open.id,
            completes_snapshot,
        }
    }

    /// Takes the item at `position` out of the open checkpoint; who had not read it has one less to read.
    fn remove(&mut self, position: usize) {
        let place = Place {
            checkpoint: self.chain.open.id,
            position,
        };
        let is_persisted = place < self.cursors.flush.held;
        self.chain.open.remove(position, is_persisted);
        for cursor in self.cursors.iter_mut() {
            if cursor.at <= place {
                cursor.items_done = cursor.items_done.saturating_add(1);
            }
        }
    }

    /// Closes the open checkpoint and opens one of this vbucket's own. A snapshot whose end is no item here ends with the
    /// newest; `rest` is what lay behind that.
    fn open_anew(&mut self, rest: Rest) {
        let open = &mut self.chain.open;
        if open.snapshot_end > self.last {
            let end = self.last;
            open.end_at(end, rest);
            for reader in &mut self.cursors.readers {
                if reader.told.end > end {
                    reader.told.was_cut |= reader.is_inside_told();
                    reader.told.end = end;
                }
            }
        }
        let anew = Checkpoint::new(open.id.next(), self.last.next(), open.high_prepared);
        let closed = std::mem::replace(open, anew);
        self.chain.closed.push_back(closed);
    }
}
