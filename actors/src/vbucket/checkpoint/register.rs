//! Registering, resetting and removing cursors.
//!
//! Invariant: a cursor registered anew keeps what the old one needed until the new one stands; only then is freed
//! what no cursor needs.

use storage::Seqno;

use super::chain::{Chain, Place};
use super::content::Slot;
use super::cursor::{Cursor, CursorId, CursorKind, CursorName, Told};
use super::error::CursorError;
use super::log::CheckpointLog;

/// A cursor that was registered.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The cursor.
    pub cursor: CursorId,
    /// Whether items between what the reader holds and `next` are not in memory and must come from disk.
    pub backfill_needed: bool,
    /// The cursor reads everything from here on; a backfill ends just below.
    pub next: Seqno,
}

/// Where a reader belongs that holds everything up to some seqno.
struct Located {
    place: Place,
    begun: bool,
    backfill_needed: bool,
    next: Seqno,
}

impl CheckpointLog {
    /// Registers a cursor for a reader that holds everything up to `held`. A cursor of that name is replaced.
    ///
    /// | checkpoint | the cursor stands | backfill | next |
    /// |---|---|---|---|
    /// | the only one, all items expelled | at its beginning | unless `held` is the last seqno | after the last |
    /// | all items expelled | further on | | |
    /// | `held` below its low | at its beginning | unless low is the seqno after `held` | its low |
    /// | `held` at or above its high, closed | further on | | |
    /// | `held` is the last seqno | at the end | no | after the last |
    /// | any other | at the first item above `held` | no | that item's seqno |
    ///
    /// Low is the seqno a checkpoint began with, or once items were expelled the first item left: what deduplication
    /// took out asks for no backfill.
    pub fn register(
        &mut self,
        name: CursorName,
        held: Seqno,
        kind: CursorKind,
    ) -> Result<Registered, CursorError> {
        if kind == CursorKind::Flush || name == self.cursors.flush.name {
            return Err(CursorError::FlushCursor);
        }
        let Located {
            place,
            begun,
            backfill_needed,
            next,
        } = self.locate(held)?;
        self.cursors_made = self.cursors_made.saturating_add(1);
        let seen = Seqno(next.0.saturating_sub(1));
        let cursor = Cursor {
            id: CursorId(self.cursors_made),
            name,
            kind,
            at: place,
            held: place,
            begun,
            seen,
            told: Told::default(),
            items_done: self.items_before(place),
            identities_done: 0,
        };
        let id = cursor.id;
        self.cursors.readers.retain(|one| one.name != cursor.name);
        self.cursors.readers.push(cursor);
        self.free_unneeded();
        Ok(Registered {
            cursor: id,
            backfill_needed,
            next,
        })
    }

    /// Removes a cursor; whether it was there. The flush cursor stays.
    pub fn remove_cursor(&mut self, cursor: CursorId) -> bool {
        let before = self.cursors.readers.len();
        self.cursors.readers.retain(|one| one.id != cursor);
        let was_there = self.cursors.readers.len() < before;
        if was_there {
            self.free_unneeded();
        }
        was_there
    }

    /// Tells that the store holds everything the flusher took up to `seqno`. Until then the flush cursor may be reset.
    pub fn note_persisted(&mut self, seqno: Seqno) {
        let place = self.chain.place_above(seqno);
        let flush = &mut self.cursors.flush;
        flush.held = flush.held.max(place.min(flush.at));
        self.free_unneeded();
    }

    /// Takes the flush cursor back (or forth) to what the store holds (rule R19): the next item it takes is the first
    /// one above `persisted`.
    pub fn reset_flush_cursor(&mut self, persisted: Seqno) -> Result<(), CursorError> {
        if persisted > self.last {
            return Err(CursorError::Ahead {
                seqno: persisted,
                last: self.last,
            });
        }
        let first_held = self.first_held();
        if persisted.next() < first_held {
            return Err(CursorError::NoLongerHeld {
                seqno: persisted,
                first_held,
            });
        }
        let place = self.chain.place_above(persisted);
        for checkpoint in self.chain.iter_mut() {
            if checkpoint.id >= place.checkpoint {
                checkpoint.note_holes_above(persisted);
            }
        }
        let items_done = self.items_before(place);
        let identities = self.chain.count_from(place, Slot::is_identity);
        let flush = &mut self.cursors.flush;
        flush.at = place;
        flush.held = place;
        flush.begun = place.position > 0;
        flush.seen = persisted;
        flush.items_done = items_done;
        flush.identities_done = self.identities_queued.saturating_sub(identities);
        self.free_unneeded();
        Ok(())
    }

    /// From this seqno on every newest version is in memory.
    #[must_use]
    pub fn first_held(&self) -> Seqno {
        let oldest = self.chain.oldest();
        oldest.highest_expelled.map_or(oldest.start, Seqno::next)
    }

    fn items_before(&self, place: Place) -> u64 {
        let behind = self.chain.count_from(place, Slot::is_item);
        self.items_queued.saturating_sub(behind)
    }

    fn locate(&self, held: Seqno) -> Result<Located, CursorError> {
        if held > self.last {
            return Err(CursorError::Ahead {
                seqno: held,
                last: self.last,
            });
        }
        for checkpoint in self.chain.iter() {
            let is_open = checkpoint.id == self.chain.open.id;
            let Some(low) = checkpoint.low() else {
                continue;
            };
            if held < low {
                return Ok(Located {
                    place: Chain::beginning(checkpoint),
                    begun: false,
                    backfill_needed: low != held.next(),
                    next: low,
                });
            }
            if held >= checkpoint.high() && !is_open {
                continue;
            }
            let position = checkpoint.position_above(held);
            let next = checkpoint.first_item_from(position);
            return Ok(Located {
                place: Place {
                    checkpoint: checkpoint.id,
                    position,
                },
                begun: true,
                backfill_needed: false,
                next: next.unwrap_or(self.last.next()),
            });
        }
        // All that ever was in the one checkpoint left was expelled.
        Ok(Located {
            place: Chain::beginning(&self.chain.open),
            begun: false,
            backfill_needed: held != self.last,
            next: self.last.next(),
        })
    }
}
