//! One vbucket of the store in memory.
//!
//! Invariant: between two calls, state record, counts and history agree at the high seqno; what the state record
//! was at every batch boundary from `exact_from` on is known, so that a rollback to there can be exact (rule R11).

use std::sync::Arc;

use parking_lot::RwLock;

use super::history::{History, past_at};
use super::snapshot::MemorySnapshot;
use crate::admission::{Standing, merged_watermarks};
use crate::collections::DroppedCollection;
use crate::compaction::Completions;
use crate::counts::VbucketCounts;
use crate::error::StorageError;
use crate::kv_store::{Batch, RolledBack, VbucketPosition};
use crate::rollback_state::state_at_zero;
use crate::seqno::Seqno;
use crate::vbucket::{Incarnation, RollbackEpoch, VbucketId, VbucketStateRecord, Watermarks};

/// What the store holds of one vbucket.
#[derive(Debug)]
pub(super) struct Vbucket {
    incarnation: Incarnation,
    epoch: RollbackEpoch,
    pub(super) state: VbucketStateRecord,
    pub(super) counts: Arc<VbucketCounts>,
    pub(super) history: Arc<RwLock<History>>,
    /// Lives of collections that ended and are not erased, by rising end.
    pub(super) dropped: Arc<[DroppedCollection]>,
    /// Since when which prepares are completed.
    pub(super) completions: Completions,
    /// What each batch stored, by rising high seqno; the last is that of `state`.
    boundaries: Arc<Vec<Watermarks>>,
    /// Lowest seqno a rollback can restore: at or above every killer of a version that was dropped.
    exact_from: Seqno,
}

impl Vbucket {
    /// A vbucket without items. What was below the high seqno it begins with is not known here.
    pub(super) fn new(incarnation: Incarnation, state: VbucketStateRecord) -> Vbucket {
        Vbucket {
            incarnation,
            epoch: RollbackEpoch::default(),
            counts: Arc::default(),
            history: Arc::default(),
            dropped: Arc::default(),
            completions: completions_at(&state.watermarks),
            boundaries: Arc::new(vec![state.watermarks]),
            exact_from: state.watermarks.high_seqno,
            state,
        }
    }

    /// Where it stands.
    pub(super) fn position(&self) -> VbucketPosition {
        VbucketPosition {
            incarnation: self.incarnation,
            epoch: self.epoch,
            high_seqno: self.state.watermarks.high_seqno,
        }
    }

    /// Where it stands, as far as a batch is judged by it.
    pub(super) fn standing(&self) -> Standing {
        Standing {
            position: self.position(),
            purge_seqno: self.state.watermarks.purge_seqno,
        }
    }

    /// Stores an admitted batch.
    pub(super) fn apply(&mut self, batch: &Batch) {
        let counts = Arc::make_mut(&mut self.counts);
        let mut history = self.history.write();
        for item in &batch.items {
            history.append(Arc::clone(item), counts);
        }
        drop(history);
        let ended = batch.items.iter();
        let ended = ended.filter_map(|item| DroppedCollection::ended_by(item));
        let ended: Vec<DroppedCollection> = ended.collect();
        if !ended.is_empty() {
            self.dropped = self.dropped.iter().copied().chain(ended).collect();
        }
        if let Some(identity) = &batch.identity {
            self.state.identity = Arc::clone(identity);
        }
        self.state.watermarks = merged_watermarks(&self.state.watermarks, &batch.watermarks);
        self.note_boundary();
    }

    /// A view of this moment.
    pub(super) fn snapshot(&self, vbucket: VbucketId) -> MemorySnapshot {
        MemorySnapshot {
            vbucket,
            incarnation: self.incarnation,
            epoch: self.epoch,
            state: self.state.clone(),
            counts: Arc::clone(&self.counts),
            dropped: Arc::clone(&self.dropped),
            history: Arc::clone(&self.history),
            boundaries: Arc::clone(&self.boundaries),
            exact_from: self.exact_from,
        }
    }

    /// Goes back to `to`, or to nothing where that moment is no longer known.
    pub(super) fn rollback(
        &mut self,
        vbucket: VbucketId,
        to: Seqno,
    ) -> Result<RolledBack, StorageError> {
        let high_seqno = self.state.watermarks.high_seqno;
        if to > high_seqno {
            return Err(StorageError::RollbackAbove {
                vbucket,
                to,
                high_seqno,
            });
        }
        self.epoch = RollbackEpoch(self.epoch.0.saturating_add(1));
        let epoch = self.epoch;
        if to >= self.exact_from && self.restore(to) {
            Ok(RolledBack::To { seqno: to, epoch })
        } else {
            self.reset();
            Ok(RolledBack::ToZero { epoch })
        }
    }

    /// Drops every version superseded at or below `floor`.
    pub(super) fn seal(&mut self, floor: Seqno) {
        let sealed = self.history.read().without_superseded(floor);
        let Some((history, highest_killer)) = sealed else {
            return;
        };
        self.history = Arc::new(RwLock::new(history));
        self.is_exact_from(highest_killer);
    }

    /// Below `seqno` the past is not known any more.
    pub(super) fn is_exact_from(&mut self, seqno: Seqno) {
        self.exact_from = self.exact_from.max(seqno);
        let exact_from = self.exact_from;
        let known = self
            .boundaries
            .partition_point(|boundary| boundary.high_seqno <= exact_from);
        Arc::make_mut(&mut self.boundaries).drain(..known.saturating_sub(1));
    }

    /// Bytes of all versions held.
    pub(super) fn bytes_held(&self) -> u64 {
        self.history.read().bytes()
    }

    /// `false`, and nothing changed, where no batch end is known at or below.
    fn restore(&mut self, to: Seqno) -> bool {
        let past = past_at(&self.history.read(), &self.boundaries, &self.state, to);
        let Some((state, (history, counts))) = past else {
            return false;
        };
        // Snapshots go on reading the history they were taken from.
        self.history = Arc::new(RwLock::new(history));
        self.counts = Arc::new(counts);
        self.state = state;
        Arc::make_mut(&mut self.boundaries).retain(|boundary| boundary.high_seqno <= to);
        self.completions.roll_back(to);
        let left = self.dropped.iter().filter(|one| one.end <= to);
        self.dropped = left.copied().collect();
        self.note_boundary();
        true
    }

    fn reset(&mut self) {
        self.state = state_at_zero(&self.state);
        self.history = Arc::default();
        self.counts = Arc::default();
        self.dropped = Arc::default();
        self.completions = Completions::default();
        self.boundaries = Arc::new(vec![self.state.watermarks]);
        self.exact_from = Seqno::ZERO;
    }

    /// A state-only batch takes the place of the boundary it did not move.
    fn note_boundary(&mut self) {
        let watermarks = self.state.watermarks;
        self.completions.note(&watermarks);
        let boundaries = Arc::make_mut(&mut self.boundaries);
        boundaries.pop_if(|last| last.high_seqno == watermarks.high_seqno);
        boundaries.push(watermarks);
    }
}

fn completions_at(watermarks: &Watermarks) -> Completions {
    let mut completions = Completions::default();
    completions.note(watermarks);
    completions
}
