//! The replay: the records of the log, one after the other, on what the manifest had.
//!
//! Invariant: damage takes effect at its place in the sequence, on every vbucket that may have had records there, and on
//! those that may have been created there; later records of the others still count.

use crate::error::StorageError;
use crate::log_store::image::Replay;
use crate::log_store::log::frame::Touched;
use crate::log_store::log::payload::{self, Edit, Record};
use crate::log_store::log::reader::{FoundFrame, LogDamage};
use crate::log_store::manifest::RawEntry;
use crate::log_store::recovery::{Recovery, State};
use crate::log_store::segment::SegmentMeta;
use crate::log_store::shard::Down;
use crate::vbucket::{Incarnation, VbucketId};

impl Recovery {
    /// Applies the log, with damage taking effect at its place in the sequence.
    pub(super) fn replay(&mut self, frames: Vec<FoundFrame>, damage: &[LogDamage]) {
        let mut damage = damage.iter().peekable();
        for frame in frames {
            while let Some(damage) = damage.next_if(|d| d.sequence < frame.position.sequence) {
                self.take_down(damage);
            }
            self.frame(&frame);
        }
        for damage in damage {
            self.take_down(damage);
        }
    }

    /// Takes down what may have had records in the damaged part.
    fn take_down(&mut self, damage: &LogDamage) {
        self.damage.push(damage.clone());
        for (vbucket, state) in &mut self.states {
            let (replay, entry) = match state {
                State::Up { replay, entry } => (replay, entry),
                State::Down(down) => {
                    // All that the manifest knew of it was that this damage concerned it.
                    if down.is_unknown() && damage.touched.contains(*vbucket) {
                        down.cause = damage.error.clone();
                    }
                    continue;
                }
            };
            let needs_it = damage.until >= replay.image.needs_from;
            if needs_it && damage.touched.contains(*vbucket) {
                let cause = damage.error.clone();
                *state = State::Down(Down {
                    cause,
                    entry: entry.clone(),
                });
            }
        }
        if damage.until > self.record.covers {
            self.take_down_absent(damage);
            // A creation has a frame of its own, so no more numbers than these were given and lost.
            let lost = damage.until.saturating_sub(damage.sequence);
            let next = self.next_incarnation.saturating_add(lost);
            self.next_incarnation = next.saturating_add(1);
        }
    }

    /// What is not known may have been created in the damaged part: it must not look as if it had never been.
    fn take_down_absent(&mut self, damage: &LogDamage) {
        let touched = self
            .vbuckets()
            .filter(|vbucket| damage.touched.contains(*vbucket));
        for vbucket in touched {
            self.states.entry(vbucket).or_insert_with(|| {
                let cause = damage.error.clone();
                State::Down(Down { cause, entry: None })
            });
        }
    }

    /// A record of a vbucket that does not exist, though all before it was replayed: its creation was in a part of
    /// the log that is damaged.
    fn note_unknown(&mut self, vbucket: VbucketId, frame: &FoundFrame) {
        if frame.position.sequence <= self.record.covers || self.states.contains_key(&vbucket) {
            return;
        }
        let touches = |damage: &&LogDamage| damage.touched.contains(vbucket);
        let cause = match self.damage.iter().rfind(touches) {
            Some(damage) => damage.error.clone(),
            None => StorageError::corruption(
                &*frame.file_name,
                frame.offset,
                format!("a record is of vbucket {vbucket}, which was never created"),
            ),
        };
        let entry = None;
        self.states
            .insert(vbucket, State::Down(Down { cause, entry }));
    }

    fn frame(&mut self, frame: &FoundFrame) {
        let records = match payload::read(&frame.payload) {
            Ok(records) => records,
            Err(what) => {
                // The checksum held, so no medium did this; whoever has records here stays down.
                let error =
                    StorageError::corruption(&*frame.file_name, frame.offset, what.as_str());
                let touched = Touched::ALL;
                let sequence = frame.position.sequence;
                return self.take_down(&LogDamage {
                    sequence,
                    until: sequence,
                    touched,
                    error,
                });
            }
        };
        for record in records {
            match record {
                Record::Batch(batch) => {
                    self.note_incarnation(batch.place.incarnation);
                    self.note_unknown(batch.place.vbucket, frame);
                    if let Some(State::Up { replay, .. }) =
                        self.states.get_mut(&batch.place.vbucket)
                    {
                        replay.batch(batch, frame.position);
                    }
                }
                Record::Edit(edit) => self.edit(*edit, frame),
            }
        }
    }

    fn edit(&mut self, edit: Edit, frame: &FoundFrame) {
        let sequence = frame.position.sequence;
        self.note_numbers(&edit);
        let vbucket = edit.place().vbucket;
        // A manifest written while its creation could not be read covers nothing of it.
        let is_unknown = match self.states.get(&vbucket) {
            Some(State::Down(down)) => down.is_unknown(),
            Some(State::Up { .. }) | None => false,
        };
        let is_news = sequence > self.record.covers || is_unknown;
        match edit {
            Edit::Create {
                place,
                identity,
                watermarks,
            } if is_news => {
                let replay = Replay::created(place, identity, watermarks, sequence);
                let entry = RawEntry::of(&replay.image).ok();
                let state = State::Up {
                    replay: Box::new(replay),
                    entry,
                };
                self.states.insert(vbucket, state);
            }
            Edit::Delete { .. } if is_news => {
                self.states.remove(&vbucket);
            }
            edit @ (Edit::Create { .. }
            | Edit::Delete { .. }
            | Edit::Rollback { .. }
            | Edit::Seal { .. }
            | Edit::Merge { .. }
            | Edit::Relocate { .. }) => {
                self.note_unknown(vbucket, frame);
                let Some(State::Up { replay, entry }) = self.states.get_mut(&vbucket) else {
                    return;
                };
                if let Err(what) = replay.edit(edit, sequence) {
                    let cause = StorageError::corruption(&*frame.file_name, frame.offset, what);
                    let entry = entry.clone();
                    self.states
                        .insert(vbucket, State::Down(Down { cause, entry }));
                }
            }
        }
    }

    /// Numbers given since the manifest are never given again.
    fn note_numbers(&mut self, edit: &Edit) {
        self.note_incarnation(edit.place().incarnation);
        let metas: &[SegmentMeta] = match edit {
            Edit::Seal { segment, .. } => std::slice::from_ref(segment),
            Edit::Merge { output, .. } => std::slice::from_ref(output),
            Edit::Rollback { segments, .. } => segments,
            Edit::Create { .. } | Edit::Delete { .. } | Edit::Relocate { .. } => &[],
        };
        for meta in metas {
            self.next_segment = self.next_segment.max(meta.id.saturating_add(1));
            self.next_container = self.next_container.max(meta.container.saturating_add(1));
        }
        if let Edit::Relocate { container, .. } = edit {
            self.next_container = self.next_container.max(container.saturating_add(1));
        }
    }

    /// The frame that gave it may be lost while others of that life are not.
    fn note_incarnation(&mut self, incarnation: Incarnation) {
        let next = incarnation.0.saturating_add(1);
        self.next_incarnation = self.next_incarnation.max(next);
    }
}
