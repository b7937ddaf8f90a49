//! The chain of checkpoints and places in it.
//!
//! Invariant: ids rise by one without gaps, and the last checkpoint is the one that is open.

use std::collections::VecDeque;

use storage::Seqno;

use super::content::{Checkpoint, Slot};

/// Number of a checkpoint in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointId(pub u64);

impl CheckpointId {
    pub(super) fn next(self) -> CheckpointId {
        CheckpointId(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A slot of the log, whether it is there yet or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) checkpoint: CheckpointId,
    pub(super) position: usize,
}

#[derive(Debug)]
pub(super) struct Chain {
    pub(super) closed: VecDeque<Checkpoint>,
    pub(super) open: Checkpoint,
}

impl Chain {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Checkpoint> {
        self.closed.iter().chain(std::iter::once(&self.open))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Checkpoint> {
        self.closed
            .iter_mut()
            .chain(std::iter::once(&mut self.open))
    }

    pub(super) fn oldest(&self) -> &Checkpoint {
        self.closed.front().unwrap_or(&self.open)
    }

    pub(super) fn oldest_mut(&mut self) -> &mut Checkpoint {
        self.closed.front_mut().unwrap_or(&mut self.open)
    }

    pub(super) fn get(&self, id: CheckpointId) -> Option<&Checkpoint> {
        if id == self.open.id {
            return Some(&self.open);
        }
        let index = id.0.checked_sub(self.oldest().id.0)?;
        self.closed.get(usize::try_from(index).ok()?)
    }

    /// The beginning of what is left of a checkpoint.
    pub(super) fn beginning(checkpoint: &Checkpoint) -> Place {
        Place {
            checkpoint: checkpoint.id,
            position: checkpoint.first(),
        }
    }

    /// The first slot above `seqno`.
    pub(super) fn place_above(&self, seqno: Seqno) -> Place {
        let above = |checkpoint: &Checkpoint| Place {
            checkpoint: checkpoint.id,
            position: checkpoint.position_above(seqno),
        };
        let holds = |checkpoint: &&Checkpoint| checkpoint.position_above(seqno) < checkpoint.end();
        let holder = self.closed.iter().find(holds).unwrap_or(&self.open);
        above(holder)
    }

    /// Passes over what a reader does not want: holes and other readers' entries, ends of checkpoints.
    pub(super) fn skip_unwanted(&self, from: Place, wants: impl Fn(&Slot) -> bool) -> Place {
        let mut place = from;
        while let Some(checkpoint) = self.get(place.checkpoint) {
            let mut slots = checkpoint.slots_from(place.position);
            match slots.position(&wants) {
                Some(unwanted) => {
                    place.position = place.position.saturating_add(unwanted);
                    return place;
                }
                None if checkpoint.id == self.open.id => return place,
                None => {
                    place = Place {
                        checkpoint: place.checkpoint.next(),
                        position: 0,
                    }
                }
            }
        }
        place
    }

    /// How many slots from `place` on are wanted.
    pub(super) fn count_from(&self, place: Place, wanted: impl Fn(&Slot) -> bool) -> u64 {
        let rest = self.iter().skip_while(|one| one.id < place.checkpoint);
        rest.map(|checkpoint| {
            let is_first = checkpoint.id == place.checkpoint;
            let from = if is_first { place.position } else { 0 };
            let slots = checkpoint.slots_from(from);
            slots.filter(|slot| wanted(slot)).count() as u64
        })
        .sum()
    }
}
