//! The output of a compaction while it is written: records by seqno, then their index.
//!
//! Invariant: what stays is copied as it is; what is superseded at or below the history floor, was found to go, or is a
//! tombstone whose time has come is not. A dead version that stays keeps its kill.

use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::compaction::{ExpiredDocument, LostHighs, Rules};
use crate::counts::Weight;
use crate::document::{DocumentKey, Namespace, split};
use crate::error::StorageError;
use crate::kv_store::ItemView;
use crate::log_store::segment::{
    IndexEntry, KeyCursor, RecordLocation, SegmentTail, SegmentWriter, SeqnoCursor,
};
use crate::log_store::version::SegmentView;
use crate::seqno::Seqno;

use super::Run;
use super::found::{Found, Gone};
use super::publish::Merged;

/// Bytes read per step.
const STEP_BYTES: usize = 1 << 20;
/// Index entries written per step.
const STEP_ENTRIES: usize = 8192;

/// A compaction that writes.
#[derive(Debug)]
pub(super) struct Copying {
    run: Run,
    writer: SegmentWriter,
    /// Which segment is being read.
    input: usize,
    cursor: Option<SeqnoCursor>,
    /// Where each record went, by seqno.
    locations: Vec<(Seqno, RecordLocation)>,
    /// Dead versions that stay, as history, and their bytes.
    dead: RoaringTreemap,
    dead_bytes: u64,
    lost_highs: LostHighs,
    bytes_read: u64,
}

/// What becomes of a record.
enum Verdict {
    Stays,
    StaysDead,
    Goes,
}

impl Copying {
    pub(super) fn new(run: Run, writer: SegmentWriter) -> Copying {
        Copying {
            run,
            writer,
            input: 0,
            cursor: None,
            locations: Vec::new(),
            dead: RoaringTreemap::new(),
            dead_bytes: 0,
            lost_highs: LostHighs::default(),
            bytes_read: 0,
        }
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    pub(super) fn bytes_written(&self) -> u64 {
        self.writer.written()
    }

    /// Copies what stays of the next piece of the segments; `false` at their end.
    pub(super) fn copy_chunk(
        &mut self,
        history_floor: Seqno,
        expired: &mut Vec<ExpiredDocument>,
    ) -> Result<bool, StorageError> {
        let run = &mut self.run;
        let Some(view) = run.views.get(self.input) else {
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
            self.bytes_read = self.bytes_read.saturating_add(record.raw.len() as u64);
            if seqno > view.high() {
                continue;
            }
            let verdict = if view.dead.contains(seqno.0) {
                let at = run.kills.binary_search_by_key(&seqno, |kill| kill.victim);
                let killer = at.ok().and_then(|at| run.kills.get(at)).map(|k| k.killer);
                judge_dead(&mut run.found, seqno, killer, history_floor)
            } else {
                let lost_highs = &mut self.lost_highs;
                judge_live(&mut run.found, run.rules.as_ref(), lost_highs, &record.item, expired)
            };
            match verdict {
                Verdict::Goes => continue,
                Verdict::Stays => {}
                Verdict::StaysDead => {
                    self.dead.insert(seqno.0);
                    self.dead_bytes = self.dead_bytes.saturating_add(record.raw.len() as u64);
                }
            }
            let location = self.writer.push_raw_record(seqno, record.raw)?;
            self.locations.push((seqno, location));
        }
        Ok(true)
    }

    pub(super) fn begin_index(&mut self) -> Result<Vec<KeyCursor>, StorageError> {
        self.cursor = None;
        self.writer.begin_index()?;
        let views = self.run.views.iter();
        views
            .map(|view| KeyCursor::new(Arc::clone(&view.segment), &[]))
            .collect()
    }

    /// Writes the next entries of the index, merged from those of the segments; `false` at their end.
    pub(super) fn index_entries(
        &mut self,
        cursors: &mut [KeyCursor],
    ) -> Result<bool, StorageError> {
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

    /// Writes what is left of the segment, whose number is `id`.
    pub(super) fn finish(self, id: u64, container: u64) -> Result<Merged, StorageError> {
        let Copying {
            mut run,
            writer,
            locations,
            dead,
            dead_bytes,
            ..
        } = self;
        // A kill whose victim is gone has done its work.
        run.kills.retain(|kill| {
            locations
                .binary_search_by_key(&kill.victim, |(seqno, _)| *seqno)
                .is_ok()
        });
        run.found.sort();
        let (first, last) = (run.views.first(), run.views.last());
        let (meta, mut extent) = writer.finish(SegmentTail {
            id,
            container,
            exact_from: run.found.exact_from,
            kills: &run.kills,
            boundaries: &run.boundaries,
            first_seqno_ceiling: first.map_or(Seqno::ZERO, |v| v.segment.meta().first_seqno),
            last_seqno_floor: last.map_or(Seqno::ZERO, SegmentView::high),
        })?;
        extent.flush()?;
        let lengths = locations.into_iter().map(|(seqno, at)| (seqno, at.length));
        Ok(Merged::new(
            run,
            meta,
            lengths.collect(),
            (dead, dead_bytes),
        ))
    }
}

/// A version that was superseded when the run began.
fn judge_dead(
    found: &mut Found,
    seqno: Seqno,
    killer: Option<Seqno>,
    history_floor: Seqno,
) -> Verdict {
    if found.seqnos.contains(seqno.0) {
        return Verdict::Goes;
    }
    if let Some(killer) = killer.filter(|killer| *killer <= history_floor) {
        found.is_exact_from(killer);
        return Verdict::Goes;
    }
    Verdict::StaysDead
}

/// A version that was the newest of its key in the segments.
fn judge_live(
    found: &mut Found,
    rules: Option<&Rules>,
    lost_highs: &mut LostHighs,
    item: &ItemView<'_>,
    expired: &mut Vec<ExpiredDocument>,
) -> Verdict {
    let (Some(rules), Ok((collection, _))) = (rules, split(item.key)) else {
        return Verdict::Stays;
    };
    // System events had a pass of their own, and no collection's high seqno is told by them.
    let is_event = item.namespace() == Namespace::SystemEvent;
    if !is_event && let Some(next) = lost_highs.next(collection, item.seqno) {
        found.is_exact_from(next);
    }
    if found.seqnos.contains(item.seqno.0) {
        if !is_event && !found.is_erased(collection, item.seqno) {
            lost_highs.went(collection);
        }
        return Verdict::Goes;
    }
    if is_event {
        return Verdict::Stays;
    }
    if item.operation.is_tombstone() {
        if !rules.purges_tombstone(item.operation, collection, item.seqno) {
            return Verdict::Stays;
        }
        found.purge_tombstone(Gone {
            seqno: item.seqno,
            collection,
            weight: Weight::of_view(item),
        });
        lost_highs.went(collection);
        return Verdict::Goes;
    }
    if item.namespace() == Namespace::Committed && rules.is_expired(item.expiry.0) {
        let key = DocumentKey::from_encoded(item.key).ok();
        expired.extend(key.map(|key| ExpiredDocument {
            key,
            cas: item.cas,
            seqno: item.seqno,
        }));
    }
    Verdict::Stays
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
