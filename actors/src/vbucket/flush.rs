//! The flusher's side: what is to be written next, what is on disk, and going back to what the store holds.
//!
//! Invariant: the cursor and all that is known of the disk lie here, not in the flusher (rule R19), which may be replaced
//! at any moment. A caller that waits is answered once nothing is missing up to its seqno: a batch cut in the middle of
//! a checkpoint may lack a version whose newer one comes with the next batch.

use std::collections::VecDeque;
use std::sync::Arc;

use super::checkpoint::{CursorId, TakeLimits};
use super::core::{Inner, VbucketCore};
use super::fault::ChangeStep;
use super::status::Status;
use messages::DownCause;
use storage::{
    Item, Operation, Seqno, SnapshotRange, VbucketIdentity, VbucketPosition, Watermarks,
};

/// What one vbucket has for the disk.
#[derive(Clone, Debug)]
pub struct FlushTake {
    /// Items behind the flush cursor, by rising seqno.
    pub items: Vec<Arc<Item>>,
    /// How far the vbucket has come with them.
    pub watermarks: Watermarks,
    /// What the vbucket is, when that changed.
    pub identity: Option<Arc<VbucketIdentity>>,
    /// The limits cut it: there is more behind the cursor.
    pub has_more: bool,
}

/// What the store holds, and what is on its way there.
#[derive(Debug)]
pub(super) struct Flushed {
    /// What it is known to hold.
    persisted: Stored,
    /// What each batch under way makes of it, in order. A flusher has one, as a rule.
    under_way: VecDeque<Stored>,
    /// Highest tombstone a replica's source had purged when it sent what came from its disk.
    source_purged: Seqno,
}

/// What a store holds after a batch.
#[derive(Clone, Debug)]
struct Stored {
    watermarks: Watermarks,
    /// Up to here every write is safe: itself, or the newer one that took its place.
    settled: Seqno,
    /// What the vbucket is there; `None` where that is not known.
    identity: Option<Arc<VbucketIdentity>>,
    /// The batch had no items: where the store stands does not tell whether it is there.
    is_without_items: bool,
}

impl Flushed {
    pub(super) fn stored(
        watermarks: Watermarks,
        identity: Option<Arc<VbucketIdentity>>,
    ) -> Flushed {
        Flushed {
            persisted: Stored {
                watermarks,
                settled: watermarks.high_seqno,
                identity,
                is_without_items: false,
            },
            under_way: VecDeque::new(),
            source_purged: Seqno::ZERO,
        }
    }

    /// How far it is known to have come.
    pub(super) fn persisted(&self) -> &Watermarks {
        &self.persisted.watermarks
    }

    /// Up to here every write is safe on disk.
    pub(super) fn settled(&self) -> Seqno {
        self.persisted.settled
    }

    /// Whether the disk is known to have the vbucket as this, and everything that came before it was.
    pub(super) fn has(&self, identity: &Arc<VbucketIdentity>) -> bool {
        let stored = self.persisted.identity.as_ref();
        stored.is_some_and(|stored| Arc::ptr_eq(stored, identity))
    }

    /// Whether nothing is on its way to the disk.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// A snapshot of the source's disk lacks the tombstones up to here, and so will what is stored of it.
    pub(super) fn note_source_purged(&mut self, seqno: Seqno) {
        self.source_purged = self.source_purged.max(seqno);
    }

    /// Highest tombstone that a vbucket with everything up to `high` may lack.
    pub(super) fn purged_up_to(&self, high: Seqno) -> Seqno {
        let purge_seqno = self.persisted().purge_seqno;
        purge_seqno.max(self.source_purged.min(high))
    }

    /// What a source is told of tombstones that are lacking: in the middle of a snapshot of its disk all that this was read
    /// without, for what is here of it came after they were purged.
    pub(super) fn purged_for_source(&self, high: Seqno, snapshot: SnapshotRange) -> Seqno {
        if snapshot.end > high {
            self.persisted().purge_seqno.max(self.source_purged)
        } else {
            self.purged_up_to(high)
        }
    }

    /// What it holds once everything under way is there.
    fn taken(&self) -> &Stored {
        self.under_way.back().unwrap_or(&self.persisted)
    }

    /// The store purged tombstones up to `seqno`, and what is written after that must not say less.
    fn note_purged(&mut self, seqno: Seqno) {
        // What the store purged it held: a word that was overtaken by a rollback says no more than that.
        let seqno = seqno.min(self.taken().watermarks.high_seqno);
        for stored in std::iter::once(&mut self.persisted).chain(&mut self.under_way) {
            let purge_seqno = &mut stored.watermarks.purge_seqno;
            *purge_seqno = seqno.max(*purge_seqno);
        }
    }

    /// The store stands at `seqno`, and nothing is on its way there. A batch with items is there if those are; of one without,
    /// which may be what says that the vbucket is dead, only the answer to itself would tell.
    fn note_position(&mut self, seqno: Seqno) {
        let is_unsure = self.under_way.iter().any(|batch| batch.is_without_items);
        self.note(seqno);
        self.under_way.clear();
        self.persisted.watermarks.high_seqno = seqno;
        if is_unsure {
            self.persisted.identity = None;
        }
    }

    /// Everything up to `seqno` is there, as the answer to a batch says.
    fn note(&mut self, seqno: Seqno) {
        while let Some(first) = self.under_way.front()
            && first.watermarks.high_seqno <= seqno
        {
            self.persisted = first.clone();
            self.under_way.pop_front();
        }
    }
}

impl VbucketCore {
    /// From now on every version reaches the disk. To be called before anything is written.
    pub fn keep_history(&self) {
        self.lock().log.keep_history();
    }

    /// Takes what lies behind the flush cursor, up to the limits (one item always), and moves the cursor. `None` when
    /// there is nothing to write, or nothing may be written now.
    #[must_use]
    pub fn take_for_flush(&self, items_max: usize, bytes_max: usize) -> Option<FlushTake> {
        let limits = TakeLimits {
            items_max,
            bytes_max,
        };
        let mut locked = self.lock();
        if self.may_not_flush() || locked.rollback.is_some() || !locked.log.has_unflushed() {
            return None;
        }
        // The log always has this cursor.
        let taken = locked.log.take(CursorId::FLUSH, limits).ok()?;
        if taken.items.is_empty() && taken.identity.is_none() {
            return None;
        }
        let is_disk = taken
            .pieces
            .last()
            .is_some_and(|piece| piece.kind.is_disk());
        let mut stored = self.stored_after(&locked, &taken.items, taken.settled, is_disk);
        if let Some(identity) = &taken.identity {
            stored.identity = Some(Arc::clone(identity));
        }
        stored.is_without_items = taken.items.is_empty();
        let watermarks = stored.watermarks;
        locked.flushed.under_way.push_back(stored);
        self.reached(ChangeStep::Taken);
        Some(FlushTake {
            items: taken.items,
            watermarks,
            identity: taken.identity,
            has_more: taken.more,
        })
    }

    /// A batch up to `seqno` is on disk, as its writer says: answers who waits for it, lets the log free it. Never goes back.
    pub fn note_persisted(&self, seqno: Seqno) {
        let answered = {
            let mut locked = self.lock();
            if locked.is_withdrawn() {
                return;
            }
            let seqno = seqno.min(locked.flushed.taken().watermarks.high_seqno);
            if seqno > self.persisted_seqno() {
                self.set_persisted(seqno);
                locked.log.note_persisted(seqno);
            }
            locked.flushed.note(seqno);
            locked.snapshots.forget(seqno);
            self.drop_tombstones(&mut locked);
            let settled = locked.flushed.persisted.settled;
            locked.tell_persisted(settled);
            self.waiters.settle_up_to(settled)
        };
        answered.tell();
        self.changed.notify_waiters();
        // A backfill may wait for it.
        self.mark_streams();
    }

    /// The store purged tombstones up to `seqno`: who asks for a stream is told at once what it can no longer have.
    /// Never goes back.
    pub fn note_purged(&self, seqno: Seqno) {
        self.lock().flushed.note_purged(seqno);
    }

    /// The store holds exactly what is up to `persisted`, and nothing is on its way there: the flush cursor goes back
    /// to it, so that everything above, and the state record if it may not be on disk, is taken anew (rule R19). If
    /// that is no longer in memory the vbucket goes out of service.
    pub fn resync(&self, persisted: Seqno) {
        self.resync_if(persisted, |_| true);
    }

    /// The same for where the store says the vbucket stands; `false`, with nothing done, if it went back since.
    #[must_use]
    pub fn resync_at(&self, position: &VbucketPosition) -> bool {
        let mut is_of_now = false;
        self.resync_if(position.high_seqno, |inner| {
            is_of_now = position.epoch >= inner.least_epoch;
            is_of_now
        });
        is_of_now
    }

    fn resync_if(&self, persisted: Seqno, may: impl FnOnce(&Inner) -> bool) {
        let reset = {
            let mut locked = self.lock();
            if !may(&locked) || locked.is_withdrawn() {
                return;
            }
            let reset = locked.log.reset_flush_cursor(persisted);
            if reset.is_ok() {
                locked.flushed.note_position(persisted);
                self.set_persisted(persisted);
                locked.snapshots.forget(persisted);
                self.drop_tombstones(&mut locked);
                locked.note_change();
            }
            let settled = locked.flushed.persisted.settled.min(persisted);
            if reset.is_ok() {
                // What was under way may have arrived, and nobody else would say so.
                locked.tell_persisted(settled);
            }
            reset.map(|()| self.waiters.settle_up_to(settled))
        };
        match reset {
            Ok(answered) => {
                answered.tell();
                self.changed.notify_waiters();
                self.mark_streams();
            }
            Err(error) => {
                tracing::error!(vbucket = %self.id, %error, "memory and store fell apart");
                self.take_down(DownCause::Escalated(error.to_string()));
            }
        }
    }

    /// Up to here every change is on disk: itself, or a newer one of its key. It may go back while a newer version of
    /// what was stored already is on its way: what was said of a change stays true all the same.
    #[must_use]
    pub fn settled_seqno(&self) -> Seqno {
        self.lock().flushed.persisted.settled
    }

    /// Up to here whoever waited was told that it is on disk: unlike [`VbucketCore::settled_seqno`] it only rises, until the
    /// vbucket is taken back.
    #[must_use]
    pub fn told_on_disk(&self) -> Seqno {
        self.waiters.settled().min(self.persisted_seqno())
    }

    /// Whether there is anything to take.
    #[must_use]
    pub fn has_unflushed(&self) -> bool {
        let locked = self.lock();
        !self.may_not_flush() && locked.rollback.is_none() && locked.log.has_unflushed()
    }

    fn may_not_flush(&self) -> bool {
        self.status().has(Status::SUSPECT | Status::DOWN)
    }

    fn stored_after(
        &self,
        inner: &Inner,
        items: &[Arc<Item>],
        settled: Seqno,
        is_disk: bool,
    ) -> Stored {
        let before = inner.flushed.taken().watermarks;
        let high_seqno = items.last().map_or(before.high_seqno, |item| item.seqno);
        let (snapshot, snapshot_kind) =
            inner
                .snapshots
                .range_at(high_seqno, settled, inner.log.last_seqno());
        let since_epoch = self.environment.clock.since_epoch();
        let mut watermarks = Watermarks {
            high_seqno,
            snapshot,
            snapshot_kind,
            purge_seqno: before
                .purge_seqno
                .max(inner.flushed.source_purged.min(high_seqno)),
            commit_time_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
            ..before
        };
        for item in items {
            raise(&mut watermarks, item, is_disk);
        }
        inner.durable.announced.tell_store(&mut watermarks);
        // No further than whole snapshots go, and never less than before (MB-51806).
        let whole = if snapshot.end <= high_seqno {
            high_seqno
        } else {
            snapshot.start
        };
        let prepared = inner.durable.high_prepared().min(whole);
        watermarks.high_prepared_seqno = prepared.max(watermarks.high_prepared_seqno);
        Stored {
            watermarks,
            settled,
            identity: inner.flushed.taken().identity.clone(),
            is_without_items: false,
        }
    }

    /// Drops the tombstones nobody needs: they may leave memory as documents may.
    pub(super) fn drop_tombstones(&self, inner: &mut Inner) {
        self.prepares.forget_below(inner.log.open_start());
        if self.status().has(Status::WARMING) {
            return;
        }
        let Some(unneeded) = self.may_leave_up_to(inner) else {
            return;
        };
        while let Some(tombstone) = inner.tombstones.take_up_to(unneeded) {
            let key = tombstone.document.key.as_encoded();
            self.note_forgotten(tombstone.seqno, tombstone.document.rev_seqno);
            drop(self.map.drop_tombstone(key, tombstone.seqno));
        }
    }
}

/// What ended in a disk snapshot is known at its end: in between it may be any of what ended (MB-35631).
fn raise(watermarks: &mut Watermarks, item: &Item, is_disk: bool) {
    let raise = |mark: &mut Seqno, seqno: Seqno| *mark = (*mark).max(seqno);
    let completed = |prepare_seqno| if is_disk { Seqno::ZERO } else { prepare_seqno };
    match item.operation {
        Operation::Prepare { .. } => raise(&mut watermarks.prepared_seqno, item.seqno),
        Operation::Abort { prepare_seqno, .. } => {
            raise(&mut watermarks.completed_seqno, completed(prepare_seqno));
        }
        Operation::CommitMutation { prepare_seqno }
        | Operation::CommitDeletion { prepare_seqno, .. } => {
            raise(&mut watermarks.completed_seqno, completed(prepare_seqno));
            raise(&mut watermarks.max_visible_seqno, item.seqno);
        }
        Operation::Mutation
        | Operation::Deletion { .. }
        | Operation::SystemEventBegin
        | Operation::SystemEventEnd => raise(&mut watermarks.max_visible_seqno, item.seqno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_purged_is_known_at_once_and_never_less() {
        let mut flushed = Flushed::stored(Watermarks::at(Seqno(9), 0), None);
        let watermarks = Watermarks::at(Seqno(12), 0);
        let settled = Seqno(12);
        flushed.under_way.push_back(Stored {
            watermarks,
            settled,
            identity: None,
            is_without_items: false,
        });
        flushed.note_purged(Seqno(7));
        flushed.note_purged(Seqno(5));
        assert_eq!(flushed.persisted().purge_seqno, Seqno(7));
        // A batch that was taken before takes nothing back.
        flushed.note(Seqno(12));
        assert_eq!(flushed.persisted().purge_seqno, Seqno(7));
        // What this history does not hold, it did not purge.
        flushed.note_purged(Seqno(40));
        assert_eq!(flushed.persisted().purge_seqno, Seqno(12));
    }
}
