//! The publish of a compaction: one edit replaces the inputs, carries what the counts lose, and strikes off the drop
//! list what was erased.
//!
//! Invariant: what happened meanwhile stays: newer segments and layers lie on top untouched, kills of what stays are
//! carried over (rule R7), kills of what goes are not subtracted again, drops since stay listed. What grows with the
//! vbucket is made ready, and freed, without the writer's lock, but where seals came in between [`TRIES_MAX`] times: then
//! what they killed is worked out under it. What is told is durable by then; what a step that failed may have published
//! shows only in a store that is opened anew.

use std::ops::Range;
use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::compaction::{Compacted, CompactionFailure, ErasedPrepare};
use crate::counts::VbucketCounts;
use crate::error::StorageError;
use crate::log_store::log::frame::LogPosition;
use crate::log_store::log::payload::Edit;
use crate::log_store::segment::{Segment, SegmentMeta};
use crate::log_store::shard::{Slot, WriterGuard};
use crate::log_store::version::{SegmentView, Version};
use crate::outcome::{AbortReason, Outcome};
use crate::seqno::Seqno;
use crate::vbucket::VbucketStateRecord;

use super::places::Places;
use super::{Compacting, CompactionJob, Run};

/// How often a publish is made ready anew because something was sealed meanwhile, before the rest is done under the
/// lock: a seal takes longer than making ready, so once is the rule.
const TRIES_MAX: u32 = 8;

/// A compaction whose output is written.
#[derive(Debug)]
pub(super) struct Merged {
    run: Run,
    pub(super) meta: SegmentMeta,
    /// The records of the output.
    places: Places,
    /// Dead versions in the output since before the run, and their bytes.
    dead: RoaringTreemap,
    dead_bytes: u64,
    tries: u32,
}

/// The publish, made ready for the segments as they are.
struct Ready {
    /// In place of the inputs.
    view: SegmentView,
    /// What the counts lose besides what they lost meanwhile.
    counts: VbucketCounts,
    /// The inputs it was made ready for, and where they are among the segments.
    inputs: Vec<SegmentView>,
    range: Range<usize>,
}

impl Merged {
    pub(super) fn new(
        run: Run,
        meta: SegmentMeta,
        places: Places,
        (dead, dead_bytes): (RoaringTreemap, u64),
    ) -> Merged {
        Merged {
            run,
            meta,
            places,
            dead,
            dead_bytes,
            tries: 0,
        }
    }

    /// Makes the publish ready; `None` when the inputs are no longer all there.
    fn ready(
        &self,
        version: &Version,
        segment: &Arc<Segment>,
    ) -> Result<Option<Ready>, StorageError> {
        let Some(range) = self.run.inputs_in(version) else {
            return Ok(None);
        };
        let inputs = version.segments.get(range.clone()).unwrap_or_default();
        let mut dead = self.dead.clone();
        let mut dead_bytes = self.dead_bytes;
        let mut gone = RoaringTreemap::new();
        for (now, then) in inputs.iter().zip(&self.run.views) {
            if Arc::ptr_eq(&now.dead, &then.dead) {
                continue;
            }
            for seqno in &*now.dead - &*then.dead {
                if let Some(location) = self.places.find(Seqno(seqno)) {
                    dead.insert(seqno);
                    dead_bytes = dead_bytes.saturating_add(u64::from(location.length));
                } else if self.run.found.live.contains(seqno) {
                    gone.insert(seqno);
                }
            }
        }
        let mut counts = self.run.found.counts.clone();
        // Whatever killed these has taken them off the counts.
        counts.apply(&self.run.counts_of(&gone)?);
        Ok(Some(Ready {
            view: SegmentView {
                segment: Arc::clone(segment),
                dead: Arc::new(dead),
                dead_bytes,
            },
            counts,
            inputs: inputs.to_vec(),
            range,
        }))
    }

    fn edit(&self, ready: &Ready) -> Edit {
        let inputs = self.run.views.iter();
        Edit::Merge {
            place: self.run.place,
            inputs: inputs.map(|view| view.segment.meta().id).collect(),
            output: self.meta.clone(),
            counts: ready.counts.clone(),
            purge_seqno: self.run.found.purge_seqno,
            erased: self.run.found.erased.clone(),
        }
    }

    /// The version with the output in place of the inputs.
    fn applied_to(&self, version: &Version, ready: &Ready) -> Version {
        let found = &self.run.found;
        let mut next = Version::clone(version);
        let inputs = next
            .segments
            .splice(ready.range.clone(), [ready.view.clone()]);
        drop(inputs);
        if !found.live.is_empty() {
            next.purges = next.purges.saturating_add(1);
        }
        if !found.live.is_empty() || !found.erased.is_empty() {
            let counts = Arc::make_mut(&mut next.counts);
            counts.apply(&ready.counts);
            counts.forget(&found.erased);
        }
        if !found.erased.is_empty() {
            let left = next
                .dropped
                .iter()
                .filter(|one| !found.erased.contains(one));
            next.dropped = left.copied().collect();
        }
        next
    }

    fn told(&self, purge_seqno: Seqno) -> Compacted {
        let found = &self.run.found;
        let lengths = self.run.views.iter().map(|view| view.segment.meta().length);
        Compacted {
            bytes_before: lengths.sum(),
            bytes_after: self.meta.length,
            tombstones_purged: found.tombstones,
            prepares_purged: found.prepares,
            collection_items_purged: found.collection_items,
            purge_seqno,
            erased: found.erased.clone(),
            prepares_erased: found.prepares_erased.clone(),
        }
    }
}

impl Ready {
    fn is_for(&self, version: &Version) -> bool {
        let now = version.segments.get(self.range.clone());
        now.is_some_and(|now| {
            let mut both = now.iter().zip(&self.inputs);
            both.all(|(now, then)| now.is_same(then))
        })
    }
}

impl CompactionJob {
    /// The prepares that the next step erases if it publishes. A step that does not say so (its sync failed, or it
    /// panicked) may have published all the same: in the store nothing shows of it, but one that is opened anew may find
    /// it durable. Whoever tracks prepares through that asks the new store ([`ErasedPrepare::is_gone_from`]).
    #[must_use]
    pub fn prepares_at_stake(&self) -> &[ErasedPrepare] {
        match &self.state {
            Compacting::Publish(merged, _) => &merged.run.found.prepares_erased,
            Compacting::Begin
            | Compacting::Seal(_)
            | Compacting::Read
            | Compacting::Highest(..)
            | Compacting::Collection(..)
            | Compacting::Prepare(..)
            | Compacting::SystemEvent(..)
            | Compacting::Copy(_)
            | Compacting::Index(..)
            | Compacting::Finish(_)
            | Compacting::Sync(_)
            | Compacting::SyncDirectory(_)
            | Compacting::Done => &[],
        }
    }

    pub(super) fn publish(
        &mut self,
        mut merged: Box<Merged>,
        segment: Arc<Segment>,
    ) -> Result<Outcome<Compacted, CompactionFailure>, StorageError> {
        let place = merged.run.place;
        let version = match self.shard.version_of(place) {
            Ok(version) => version,
            Err(reason) => return Ok(Outcome::Aborted(reason)),
        };
        let Some(ready) = merged.ready(&version, &segment)? else {
            return Ok(Outcome::Aborted(AbortReason::Superseded));
        };
        let Some(writer) = self.lock_writer() else {
            self.state = Compacting::Publish(merged, segment);
            return Ok(Outcome::Yielded);
        };
        let version = match self.shard.version_of(place) {
            Ok(version) => version,
            Err(reason) => return Ok(Outcome::Aborted(reason)),
        };
        let ready = if ready.is_for(&version) {
            ready
        } else if merged.tries < TRIES_MAX {
            drop(writer);
            merged.tries = merged.tries.saturating_add(1);
            self.state = Compacting::Publish(merged, segment);
            return Ok(Outcome::Yielded);
        } else {
            match merged.ready(&version, &segment)? {
                Some(ready) => ready,
                None => return Ok(Outcome::Aborted(AbortReason::Superseded)),
            }
        };
        let told = self.publish_ready(writer, &version, &merged, &ready)?;
        Ok(match self.failed.take() {
            None => Outcome::Complete(told),
            Some((stage, cause)) => Outcome::Failed(CompactionFailure {
                stage,
                cause,
                published: Some(Box::new(told)),
            }),
        })
    }

    fn lock_writer(&mut self) -> Option<WriterGuard> {
        #[cfg(feature = "planted")]
        if let Some(held) = self.held.take() {
            return Some(held);
        }
        self.shard.writer()
    }

    /// Writes the edit and makes it visible.
    fn publish_ready(
        &mut self,
        mut writer: WriterGuard,
        version: &Arc<Version>,
        merged: &Merged,
        ready: &Ready,
    ) -> Result<Compacted, StorageError> {
        let state = version.state().ok_or(StorageError::Closed)?;
        self.output.hand_over([&merged.meta]);
        let next = writer.log.last_sequence().saturating_add(1);
        let edits = [merged.edit(ready)];
        let written = if merged.run.found.is_told() {
            writer.write_edits_synced(&edits)
        } else {
            writer.write_edits(&edits)
        };
        let sequence = written.inspect_err(|_| {
            // The frame may be in an abandoned file: the output goes when that file can no longer count.
            self.shard.retire([&merged.meta], next);
        })?;
        self.shard.note_synced(&writer);
        let published = merged.applied_to(version, ready);
        #[cfg(feature = "planted")]
        let published = match self.then.take() {
            Some(then) => super::replaced::with_output_of(&then, published),
            None => published,
        };
        let purge_seqno = self.raise_purge_seqno(&published, state, merged.run.found.purge_seqno);
        let slot = Slot::Up(Arc::new(published));
        self.shard.publish(self.vbucket, slot);
        drop(writer);
        // Where they lie now: a container may have been copied out meanwhile.
        let inputs = version.segments.get(ready.range.clone());
        let inputs = inputs.unwrap_or_default().iter();
        self.shard
            .retire(inputs.map(|view| view.segment.meta()), sequence);
        Ok(merged.told(purge_seqno))
    }

    /// Before the tombstones are gone for whoever looks, the state says so. The caller holds the writer.
    fn raise_purge_seqno(
        &self,
        version: &Version,
        mut state: VbucketStateRecord,
        to: Seqno,
    ) -> Seqno {
        if to > state.watermarks.purge_seqno
            && let Some(layer) = version.active()
        {
            state.watermarks.purge_seqno = to;
            let bytes = layer.append(&[], state, LogPosition::default());
            self.shard.note_unsealed(bytes);
            return to;
        }
        state.watermarks.purge_seqno
    }
}
