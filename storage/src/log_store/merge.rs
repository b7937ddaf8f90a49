//! The merge: all segments of one vbucket become one, without their dead versions.
//!
//! Invariant: the commit path is touched once, for the publish, which neither copies nor waits: what was sealed
//! meanwhile stays on top, and kills recorded meanwhile are carried over to the output (rule R7). If the vbucket was
//! rolled back or deleted meanwhile, nothing is published (rule R2).

use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::error::StorageError;
use crate::log_store::log::payload::{Edit, Place};
use crate::log_store::output::Output;
use crate::log_store::segment::{
    IndexEntry, KeyCursor, Kill, RecordLocation, Segment, SegmentIdent, SegmentMeta, SegmentTail,
    SegmentWriter, SeqnoCursor,
};
use crate::log_store::shard::{Shard, Slot};
use crate::log_store::version::{SegmentView, Version, last_at_each_seqno};
use crate::outcome::{AbortReason, Job, Outcome};
use crate::seqno::Seqno;
use crate::vbucket::{VbucketId, Watermarks};

/// Bytes read per step.
const STEP_BYTES: usize = 1 << 20;
/// Index entries written per step.
const STEP_ENTRIES: usize = 8192;

/// Merges one vbucket's segments.
#[derive(Debug)]
pub(crate) struct MergeJob {
    shard: Arc<Shard>,
    vbucket: VbucketId,
    history_floor: Seqno,
    output: Output,
    state: Merging,
}

#[derive(Debug)]
enum Merging {
    Begin,
    Copy(Box<Copying>),
    Index(Box<Copying>, Vec<KeyCursor>),
    Finish(Box<Copying>),
    Sync(Merged),
    SyncDirectory(Merged),
    Publish(Merged, Arc<Segment>),
    Done,
}

/// The merge while records are copied.
#[derive(Debug)]
struct Copying {
    inputs: Inputs,
    /// Of all inputs, by victim.
    kills: Vec<Kill>,
    writer: SegmentWriter,
    /// Which input is being read.
    input: usize,
    cursor: Option<SeqnoCursor>,
    /// Where each record went, by seqno.
    locations: Vec<(Seqno, RecordLocation)>,
    dropped: Dropped,
}

/// What is merged: a vbucket's segments as they were at the beginning.
#[derive(Debug)]
struct Inputs {
    place: Place,
    views: Vec<SegmentView>,
}

/// Dead versions left out.
#[derive(Debug, Default)]
struct Dropped {
    seqnos: RoaringTreemap,
    bytes: u64,
    /// Highest killer among theirs.
    exact_from: Seqno,
}

/// A merge with its output written.
#[derive(Debug)]
struct Merged {
    inputs: Inputs,
    meta: SegmentMeta,
    dropped: Dropped,
}

impl MergeJob {
    pub(crate) fn new(shard: Arc<Shard>, vbucket: VbucketId, history_floor: Seqno) -> MergeJob {
        let output = Output::new(Arc::clone(&shard));
        MergeJob {
            shard,
            vbucket,
            history_floor,
            output,
            state: Merging::Begin,
        }
    }

    fn advance(&mut self) -> Result<Outcome<()>, StorageError> {
        self.state = match std::mem::replace(&mut self.state, Merging::Done) {
            Merging::Begin => match self.begin()? {
                Ok(copying) => Merging::Copy(copying),
                Err(outcome) => return Ok(outcome),
            },
            Merging::Copy(mut copying) => {
                if let Err(reason) = self.shard.version_of(copying.inputs.place) {
                    return Ok(Outcome::Aborted(reason));
                }
                if copying.copy_chunk(self.history_floor)? {
                    Merging::Copy(copying)
                } else {
                    let cursors = copying.begin_index()?;
                    Merging::Index(copying, cursors)
                }
            }
            Merging::Index(mut copying, mut cursors) => {
                if copying.index_entries(&mut cursors)? {
                    Merging::Index(copying, cursors)
                } else {
                    Merging::Finish(copying)
                }
            }
            Merging::Finish(copying) => Merging::Sync(self.finish(*copying)?),
            Merging::Sync(merged) => {
                self.output.sync()?;
                Merging::SyncDirectory(merged)
            }
            Merging::SyncDirectory(merged) => self.open(merged)?,
            Merging::Publish(merged, segment) => return self.publish(merged, segment),
            Merging::Done => return Ok(Outcome::Complete(())),
        };
        Ok(Outcome::Yielded)
    }

    fn begin(&mut self) -> Result<Result<Box<Copying>, Outcome<()>>, StorageError> {
        let Some(busy) = self.shard.merging.try_begin() else {
            return Ok(Err(Outcome::Aborted(AbortReason::Superseded)));
        };
        let version = self.shard.version(self.vbucket)?;
        if version.segments.is_empty() {
            return Ok(Err(Outcome::Complete(())));
        }
        self.output.begin(busy);
        let mut kills = Vec::new();
        for view in &version.segments {
            kills.extend(view.visible_kills()?);
        }
        kills.sort_unstable_by_key(|kill| kill.victim);
        let Place {
            vbucket,
            incarnation,
            epoch,
        } = version.place;
        let extent = self.output.create()?;
        let ident = SegmentIdent {
            vbucket,
            incarnation,
            epoch,
        };
        let writer = SegmentWriter::new(extent, self.shard.options.segment_options(), ident);
        let exact_from = version
            .segments
            .iter()
            .map(|view| view.segment.meta().exact_from)
            .max();
        Ok(Ok(Box::new(Copying {
            inputs: Inputs {
                place: version.place,
                views: version.segments.clone(),
            },
            kills,
            writer,
            input: 0,
            cursor: None,
            locations: Vec::new(),
            dropped: Dropped {
                exact_from: exact_from.unwrap_or_default(),
                ..Dropped::default()
            },
        })))
    }

    fn finish(&self, copying: Copying) -> Result<Merged, StorageError> {
        let Copying {
            inputs,
            mut kills,
            writer,
            locations,
            dropped,
            ..
        } = copying;
        let mut marks: Vec<Watermarks> = Vec::new();
        for view in &inputs.views {
            let visible = view.segment.boundaries()?;
            marks.extend(
                visible
                    .into_iter()
                    .filter(|mark| mark.high_seqno <= view.high()),
            );
        }
        let boundaries = last_at_each_seqno(marks);
        // A kill whose victim is gone has done its work.
        kills.retain(|kill| {
            locations
                .binary_search_by_key(&kill.victim, |(seqno, _)| *seqno)
                .is_ok()
        });
        let first = inputs
            .views
            .first()
            .map(|view| view.segment.meta().first_seqno);
        let last = inputs.views.last().map(SegmentView::high);
        let (meta, mut extent) = writer.finish(SegmentTail {
            id: self.shard.new_segment_id(),
            container: self.output.number(),
            exact_from: dropped.exact_from,
            kills: &kills,
            boundaries: &boundaries,
            first_seqno_ceiling: first.unwrap_or_default(),
            last_seqno_floor: last.unwrap_or_default(),
        })?;
        extent.flush()?;
        Ok(Merged {
            inputs,
            meta,
            dropped,
        })
    }

    fn open(&mut self, merged: Merged) -> Result<Merging, StorageError> {
        self.output.adopt(vec![merged.meta.clone()])?;
        let segment = self.shard.containers.open_segment(&merged.meta)?;
        Ok(Merging::Publish(merged, segment))
    }

    fn publish(
        &mut self,
        merged: Merged,
        segment: Arc<Segment>,
    ) -> Result<Outcome<()>, StorageError> {
        // The bulk of the new dead set is made before the lock is taken.
        let carried = merged.inputs.dead_but(&merged.dropped);
        let Some(mut writer) = self.shard.writer() else {
            self.state = Merging::Publish(merged, segment);
            return Ok(Outcome::Yielded);
        };
        self.output.hand_over();
        let version = match self.shard.version_of(merged.inputs.place) {
            Ok(version) => version,
            Err(reason) => {
                self.shard.retire([&merged.meta], 0);
                return Ok(Outcome::Aborted(reason));
            }
        };
        let next = writer.log.last_sequence().saturating_add(1);
        let Some(published) = merged.applied_to(&version, segment, carried) else {
            self.shard.retire([&merged.meta], 0);
            return Ok(Outcome::Aborted(AbortReason::Superseded));
        };
        let sequence = writer.write_edits(&[merged.edit()]).inspect_err(|_| {
            // The frame may be in an abandoned file: the output goes when that file can no longer count.
            self.shard.retire([&merged.meta], next);
        })?;
        self.shard
            .publish(self.vbucket, Slot::Up(Arc::new(published)));
        drop(writer);
        // Where they lie now: a container may have been copied out meanwhile.
        let inputs = version.segments.iter().take(merged.inputs.views.len());
        self.shard
            .retire(inputs.map(|view| view.segment.meta()), sequence);
        Ok(Outcome::Complete(()))
    }
}

impl Copying {
    /// Copies what lives of the next piece of the inputs; `false` at their end.
    fn copy_chunk(&mut self, history_floor: Seqno) -> Result<bool, StorageError> {
        let Some(view) = self.inputs.views.get(self.input) else {
            return Ok(false);
        };
        let cursor = self
            .cursor
            .get_or_insert_with(|| SeqnoCursor::new(Arc::clone(&view.segment), Seqno::ZERO));
        let Some(mut chunk) = cursor.next_chunk(STEP_BYTES)? else {
            self.cursor = None;
            self.input = self.input.saturating_add(1);
            return Ok(true);
        };
        while let Some(record) = chunk.next() {
            let record = record?;
            let seqno = record.item.seqno;
            if seqno > view.high() {
                continue;
            }
            if view.dead.contains(seqno.0) {
                let at = self.kills.binary_search_by_key(&seqno, |kill| kill.victim);
                let kill = at.ok().and_then(|at| self.kills.get(at));
                if let Some(kill) = kill.filter(|kill| kill.killer <= history_floor) {
                    self.dropped.add(kill);
                    continue;
                }
            }
            let location = self.writer.push_raw_record(seqno, record.raw)?;
            self.locations.push((seqno, location));
        }
        Ok(true)
    }

    fn begin_index(&mut self) -> Result<Vec<KeyCursor>, StorageError> {
        self.cursor = None;
        self.writer.begin_index()?;
        let views = self.inputs.views.iter();
        views
            .map(|view| KeyCursor::new(Arc::clone(&view.segment), &[]))
            .collect()
    }

    /// Writes the next entries of the index, merged from those of the inputs; `false` at their end.
    fn index_entries(&mut self, cursors: &mut [KeyCursor]) -> Result<bool, StorageError> {
        for _ in 0..STEP_ENTRIES {
            let Some(lowest) = lowest(cursors) else {
                return Ok(false);
            };
            let Some(cursor) = cursors.get_mut(lowest) else {
                return Ok(false);
            };
            if let Some(entry) = cursor.peek() {
                let at = self
                    .locations
                    .binary_search_by_key(&entry.seqno, |(seqno, _)| *seqno);
                if let Some((_, location)) = at.ok().and_then(|at| self.locations.get(at)) {
                    self.writer.push_index(IndexEntry {
                        location: *location,
                        ..entry
                    })?;
                }
            }
            cursor.advance()?;
        }
        Ok(true)
    }
}

/// The cursor with the lowest key; of equal keys, the one with the newest version.
fn lowest(cursors: &[KeyCursor]) -> Option<usize> {
    let entries = cursors.iter().enumerate();
    let entries = entries.filter_map(|(number, cursor)| Some((number, cursor.peek()?)));
    let order = |entry: &IndexEntry<'_>| std::cmp::Reverse(entry.seqno);
    let lowest =
        entries.min_by(|(_, a), (_, b)| a.key.cmp(b.key).then_with(|| order(a).cmp(&order(b))));
    lowest.map(|(number, _)| number)
}

impl Dropped {
    fn add(&mut self, kill: &Kill) {
        self.seqnos.insert(kill.victim.0);
        self.bytes = self.bytes.saturating_add(u64::from(kill.victim_bytes));
        self.exact_from = self.exact_from.max(kill.killer);
    }
}

impl Inputs {
    /// What was dead at the beginning and was not left out.
    fn dead_but(&self, dropped: &Dropped) -> RoaringTreemap {
        let mut dead = RoaringTreemap::new();
        for view in &self.views {
            dead |= &*view.dead;
        }
        dead -= &dropped.seqnos;
        dead
    }
}

impl Merged {
    fn edit(&self) -> Edit {
        let inputs = self
            .inputs
            .views
            .iter()
            .map(|view| view.segment.meta().id)
            .collect();
        Edit::Merge {
            place: self.inputs.place,
            inputs,
            output: self.meta.clone(),
        }
    }

    /// The version with the output in place of the inputs; `None` when the inputs are no longer all there.
    fn applied_to(
        &self,
        version: &Version,
        segment: Arc<Segment>,
        mut dead: RoaringTreemap,
    ) -> Option<Version> {
        let count = self.inputs.views.len();
        let (current, newer) = version.segments.split_at_checked(count)?;
        let mut dead_bytes = 0u64;
        for (now, then) in current.iter().zip(&self.inputs.views) {
            if now.segment.meta().id != then.segment.meta().id {
                return None;
            }
            dead_bytes = dead_bytes.saturating_add(now.dead_bytes);
            if !Arc::ptr_eq(&now.dead, &then.dead) {
                dead |= &*now.dead - &*then.dead;
            }
        }
        dead_bytes = dead_bytes.saturating_sub(self.dropped.bytes);
        let mut next = Version::clone(version);
        next.segments = vec![SegmentView {
            segment,
            dead: Arc::new(dead),
            dead_bytes,
        }];
        next.segments.extend_from_slice(newer);
        Some(next)
    }
}

impl Job for MergeJob {
    type Output = ();
    type Failure = StorageError;

    fn step(&mut self) -> Outcome<()> {
        let result = self.advance();
        self.output.after_step(result)
    }
}
