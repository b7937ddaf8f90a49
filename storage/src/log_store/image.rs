//! An image: what the manifest remembers of one vbucket, and how edits change it.
//!
//! Invariant: replaying the log's records after `covers` on an image gives what the live store had; recovery and
//! the checkpoint both speak in images, so there is one definition of what an edit means.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::collections::DroppedCollection;
use crate::counts::VbucketCounts;
use crate::document::Item;
use crate::log_store::log::frame::LogPosition;
use crate::log_store::log::payload::{Edit, LoggedBatch, Place};
use crate::log_store::segment::SegmentMeta;
use crate::log_store::version::RollbackMark;
use crate::seqno::Seqno;
use crate::vbucket::{RollbackEpoch, VbucketIdentity, VbucketStateRecord, Watermarks};

/// One vbucket as the manifest has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) place: Place,
    pub(crate) rollbacks: Vec<RollbackMark>,
    pub(crate) identity: Arc<VbucketIdentity>,
    pub(crate) watermarks: Watermarks,
    /// What the vbucket was before the first unsealed item: at least one, by rising high seqno.
    pub(crate) base: Vec<Watermarks>,
    pub(crate) segments: Vec<SegmentMeta>,
    pub(crate) sealed: Seqno,
    pub(crate) exact_from: Seqno,
    pub(crate) counts: VbucketCounts,
    /// Lives of collections that ended and are not erased, by rising end.
    pub(crate) dropped: Vec<DroppedCollection>,
    /// The last frame whose edits and states are in here.
    pub(crate) covers: u64,
    /// Items above `sealed` are only in the log, in this frame and later ones.
    pub(crate) needs_from: u64,
}

/// A batch of the log that is not sealed yet, and where in the log it lies.
#[derive(Clone, Debug)]
pub(crate) struct UnsealedBatch {
    pub(crate) position: LogPosition,
    pub(crate) items: Vec<Arc<Item>>,
    pub(crate) state: VbucketStateRecord,
}

/// An image, and the unsealed batches replayed on it.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    pub(crate) image: Image,
    pub(crate) batches: Vec<UnsealedBatch>,
}

impl Image {
    pub(crate) fn state(&self) -> VbucketStateRecord {
        VbucketStateRecord {
            identity: Arc::clone(&self.identity),
            watermarks: self.watermarks,
        }
    }
}

impl Replay {
    pub(crate) fn new(image: Image) -> Replay {
        Replay {
            image,
            batches: Vec::new(),
        }
    }

    /// The vbucket an edit creates.
    pub(crate) fn created(
        place: Place,
        identity: Arc<VbucketIdentity>,
        watermarks: Watermarks,
        sequence: u64,
    ) -> Replay {
        Replay::new(Image {
            place,
            rollbacks: Vec::new(),
            identity,
            watermarks,
            base: vec![watermarks],
            segments: Vec::new(),
            sealed: Seqno::ZERO,
            exact_from: watermarks.high_seqno,
            counts: VbucketCounts::default(),
            dropped: Vec::new(),
            covers: sequence,
            needs_from: sequence.saturating_add(1),
        })
    }

    /// Takes a batch in: its items as far as they are neither sealed nor undone, its state if it is news.
    pub(crate) fn batch(&mut self, batch: LoggedBatch, position: LogPosition) {
        if batch.place.incarnation != self.image.place.incarnation {
            return;
        }
        let later = self
            .image
            .rollbacks
            .iter()
            .filter(|mark| mark.epoch > batch.place.epoch);
        if later.clone().any(|mark| mark.is_reset) {
            return;
        }
        let mut watermarks = batch.watermarks;
        // The rollback that undid the most of what this epoch wrote.
        let undone = later.min_by_key(|mark| mark.to).copied();
        if let Some(mark) = undone.filter(|mark| mark.to < watermarks.high_seqno) {
            watermarks = mark.watermarks;
        }
        let limit = undone.map_or(Seqno::MAX, |mark| mark.to);
        let mut items = batch.items;
        items.retain(|item| item.seqno > self.image.sealed && item.seqno <= limit);
        if position.sequence > self.image.covers {
            let ended = items
                .iter()
                .filter_map(|item| DroppedCollection::ended_by(item));
            self.image.dropped.extend(ended);
            self.image.watermarks = watermarks;
            if let Some(identity) = batch.identity {
                self.image.identity = identity;
            }
        }
        // What was before the first unsealed item the image knows, and better: a rollback may have gone back to it since.
        let known = self.image.base.last().map(|mark| mark.high_seqno);
        let is_known = position.sequence < self.image.needs_from
            && Some(watermarks.high_seqno) <= known
            && items.is_empty();
        if !is_known && (!items.is_empty() || watermarks.high_seqno >= self.image.sealed) {
            let identity = Arc::clone(&self.image.identity);
            let state = VbucketStateRecord {
                identity,
                watermarks,
            };
            self.batches.push(UnsealedBatch {
                position,
                items,
                state,
            });
        }
    }

    /// Applies an edit of this vbucket other than its creation or deletion.
    pub(crate) fn edit(&mut self, edit: Edit, sequence: u64) -> Result<(), String> {
        let place = edit.place();
        if sequence <= self.image.covers || place.incarnation != self.image.place.incarnation {
            return Ok(());
        }
        if place.epoch != self.image.place.epoch {
            return Err(format!(
                "an edit of {:?} follows {:?}",
                place.epoch, self.image.place.epoch
            ));
        }
        match edit {
            Edit::Create { .. } | Edit::Delete { .. } => Ok(()),
            Edit::Rollback {
                to,
                identity,
                watermarks,
                is_reset,
                segments,
                boundaries,
                counts,
                ..
            } => {
                self.image.identity = identity;
                self.image.watermarks = watermarks;
                self.image.segments = segments;
                self.image.counts.apply_exact(&counts);
                let epoch = RollbackEpoch(place.epoch.0.saturating_add(1));
                let mark = RollbackMark {
                    epoch,
                    to,
                    watermarks,
                    is_reset,
                    sequence,
                };
                self.roll_back(mark, boundaries);
                Ok(())
            }
            Edit::Seal {
                segment,
                sealed,
                counts,
                ..
            } => {
                self.image.segments.push(segment);
                self.image.counts.apply(&counts);
                self.seal_up_to(sealed);
                Ok(())
            }
            Edit::Merge {
                inputs,
                output,
                counts,
                purge_seqno,
                erased,
                ..
            } => {
                self.image.counts.apply(&counts);
                self.image.counts.forget(&erased);
                self.image.dropped.retain(|one| !erased.contains(one));
                let watermarks = &mut self.image.watermarks;
                watermarks.purge_seqno = watermarks.purge_seqno.max(purge_seqno);
                self.merge(&inputs, output)
            }
            Edit::Relocate {
                segment,
                container,
                offset,
                ..
            } => {
                let found = self
                    .image
                    .segments
                    .iter_mut()
                    .find(|meta| meta.id == segment);
                let meta =
                    found.ok_or_else(|| format!("segment {segment} is not there to move"))?;
                meta.container = container;
                meta.offset = offset;
                Ok(())
            }
        }
    }

    fn roll_back(&mut self, mark: RollbackMark, boundaries: Vec<Watermarks>) {
        let RollbackMark {
            epoch,
            to,
            watermarks,
            is_reset,
            ..
        } = mark;
        let image = &mut self.image;
        image.place.epoch = epoch;
        image.sealed = image.sealed.min(to);
        image.exact_from = image.exact_from.min(to);
        image.dropped.retain(|one| one.end <= to);
        image.rollbacks.push(mark);
        let before = std::mem::take(&mut image.base);
        if is_reset {
            self.batches.clear();
        } else {
            let known = boundaries.into_iter().chain(before);
            image.base = known.filter(|mark| mark.high_seqno <= to).collect();
        }
        if image.base.is_empty() {
            image.base.push(watermarks);
        }
        self.batches.retain_mut(|batch| {
            let is_cut = batch.state.watermarks.high_seqno > to;
            if is_cut {
                batch.items.retain(|item| item.seqno <= to);
                batch.state.watermarks = watermarks;
            }
            !is_cut || !batch.items.is_empty()
        });
        // The moment gone back to is a boundary like the end of a batch.
        let (position, items, state) = (LogPosition::default(), Vec::new(), self.image.state());
        self.batches.push(UnsealedBatch {
            position,
            items,
            state,
        });
    }

    fn seal_up_to(&mut self, sealed: Seqno) {
        self.image.sealed = sealed;
        for batch in &mut self.batches {
            batch.items.retain(|item| item.seqno > sealed);
        }
        let mut bases = self.batches.iter().map(|batch| batch.state.watermarks);
        if let Some(base) = bases.rfind(|base| base.high_seqno <= sealed) {
            self.image.base = vec![base];
        }
        self.batches
            .retain(|batch| !batch.items.is_empty() || batch.state.watermarks.high_seqno > sealed);
    }

    fn merge(&mut self, inputs: &[u64], output: SegmentMeta) -> Result<(), String> {
        let segments = &mut self.image.segments;
        let first = segments
            .iter()
            .position(|meta| inputs.first() == Some(&meta.id));
        let first = first.ok_or("the inputs of a merge are not there")?;
        let end = first.saturating_add(inputs.len());
        let range = segments
            .get(first..end)
            .ok_or("the inputs of a merge are not there")?;
        if !range.iter().map(|meta| meta.id).eq(inputs.iter().copied()) {
            return Err("the inputs of a merge are not next to each other".into());
        }
        segments.splice(first..end, [output]);
        Ok(())
    }
}
