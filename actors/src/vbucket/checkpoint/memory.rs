//! What the log holds, and how it gives memory back.
//!
//! Invariant: bytes and items are exact after every call. What is given up is detached here and dropped by whoever
//! called [`CheckpointLog::take_garbage`], outside the vbucket's lock.

use std::collections::VecDeque;

use storage::Seqno;

use super::chain::{Chain, Place};
use super::content::{Checkpoint, Slot};
use super::cursor::{Cursor, CursorId, CursorName, Told};
use super::log::CheckpointLog;

/// What a log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Bytes of all checkpoints, with the items they hold (which the document map may share).
    pub bytes: usize,
    /// Items.
    pub items: usize,
    /// Checkpoints, the open one included.
    pub checkpoints: usize,
    /// Cursors, the flush cursor included.
    pub cursors: usize,
}

/// What expelling gave back.
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expelled {
    /// Items.
    pub items: usize,
    /// Bytes.
    pub bytes: usize,
    /// Whether more could be expelled at once.
    pub more: bool,
}

/// Entries nobody needs any more. Dropping it may free many documents: do so outside the vbucket's lock.
#[must_use]
#[derive(Debug, Default)]
pub struct Garbage {
    runs: Vec<VecDeque<Slot>>,
}

impl Garbage {
    /// Whether there is nothing to drop.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    fn add(&mut self, run: VecDeque<Slot>) {
        if !run.is_empty() {
            self.runs.push(run);
        }
    }
}

impl CheckpointLog {
    /// What the log holds. Cheap.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let sum = |of: fn(&Checkpoint) -> usize| self.chain.iter().map(of).sum();
        Figures {
            bytes: sum(|checkpoint| checkpoint.bytes),
            items: sum(|checkpoint| checkpoint.items),
            checkpoints: self.chain.closed.len().saturating_add(1),
            cursors: self.cursors.readers.len().saturating_add(1),
        }
    }

    /// Bytes of checkpoints that the flusher is done with and other readers keep.
    #[must_use]
    pub fn kept_for_readers(&self) -> usize {
        let flushed = self.cursors.flush.held.checkpoint;
        let closed = self.chain.closed.iter();
        let kept = closed.take_while(|one| one.id < flushed);
        kept.fold(0, |sum, one| sum.saturating_add(one.bytes))
    }

    /// What was detached since the last call. Left alone, it is dropped when more is detached.
    pub fn take_garbage(&mut self) -> Garbage {
        std::mem::take(&mut self.garbage)
    }

    /// Takes up to `entries_max` entries that every cursor passed (the flush cursor: that are persisted) out of the
    /// oldest checkpoint.
    pub fn expel(&mut self, entries_max: usize) -> Expelled {
        let oldest = self.chain.oldest();
        let needed = self.lowest_needed();
        let limit = if needed.checkpoint == oldest.id {
            needed.position
        } else {
            oldest.end()
        };
        let before = self.figures();
        let oldest = self.chain.oldest_mut();
        let run = oldest.expel(limit, entries_max);
        let more = oldest.first() < limit;
        self.keep_garbage(vec![run]);
        let after = self.figures();
        Expelled {
            items: before.items.saturating_sub(after.items),
            bytes: before.bytes.saturating_sub(after.bytes),
            more,
        }
    }

    /// Drops the cursors whose clients allowed it and that keep checkpoints the flusher is done with. Their readers
    /// learn it from [`CursorError::Gone`](super::CursorError::Gone), or from whoever called this.
    pub fn drop_cursors(&mut self) -> Vec<(CursorId, CursorName)> {
        let flushed = self.cursors.flush.held.checkpoint;
        let drops = |one: &Cursor| one.is_droppable() && one.at.checkpoint < flushed;
        let mut dropped = Vec::new();
        for cursor in &self.cursors.readers {
            if drops(cursor) {
                dropped.push((cursor.id, cursor.name.clone()));
            }
        }
        self.cursors.readers.retain(|cursor| !drops(cursor));
        self.free_unneeded();
        dropped
    }

    /// After a rollback to `seqno`: one fresh checkpoint behind it, with all cursors at its beginning.
    pub fn clear(&mut self, seqno: Seqno) {
        let id = self.chain.open.id.next();
        let open = Checkpoint::new(id, seqno.next(), Seqno::ZERO);
        let at = Chain::beginning(&open);
        let cleared = std::mem::replace(&mut self.chain.open, open);
        let closed = std::mem::take(&mut self.chain.closed);
        let runs = closed.into_iter().chain(std::iter::once(cleared));
        self.keep_garbage(runs.map(Checkpoint::into_slots).collect());
        self.last = seqno;
        self.complete = None;
        for cursor in self.cursors.iter_mut() {
            cursor.at = at;
            cursor.held = at;
            cursor.begun = false;
            cursor.seen = seqno;
            cursor.told = Told::default();
            cursor.items_done = self.items_queued;
            cursor.identities_done = self.identities_queued;
        }
    }

    /// Detaches closed checkpoints that no cursor needs.
    pub(super) fn free_unneeded(&mut self) {
        if self.chain.closed.is_empty() {
            return;
        }
        self.settle_cursors();
        let needed = self.lowest_needed().checkpoint;
        let mut runs = Vec::new();
        while self.chain.oldest().id < needed
            && let Some(oldest) = self.chain.closed.pop_front()
        {
            runs.push(oldest.into_slots());
        }
        if !runs.is_empty() {
            self.keep_garbage(runs);
        }
    }

    /// Moves cursors from the ends of closed checkpoints to what they will read next, so that they keep nothing they
    /// do not need.
    fn settle_cursors(&mut self) {
        let Self { chain, cursors, .. } = self;
        for cursor in cursors.iter_mut() {
            let is_flush = cursor.is_flush();
            let wants = |slot: &Slot| slot.is_item() || (is_flush && slot.is_identity());
            let at = chain.skip_unwanted(cursor.at, wants);
            if at.checkpoint != cursor.at.checkpoint {
                cursor.begun = false;
            }
            cursor.at = at;
            cursor.held = chain.skip_unwanted(cursor.held, wants);
        }
    }

    fn lowest_needed(&self) -> Place {
        let readers = self.cursors.readers.iter().map(Cursor::needs);
        readers.fold(self.cursors.flush.needs(), Place::min)
    }

    /// Keeps detached entries for the caller; of earlier ones it had its chance.
    fn keep_garbage(&mut self, runs: Vec<VecDeque<Slot>>) {
        self.garbage = Garbage::default();
        for run in runs {
            self.garbage.add(run);
        }
    }
}
