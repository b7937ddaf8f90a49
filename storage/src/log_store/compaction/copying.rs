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
    IndexEntry, KeyCursor, Kill, RawRecord, SegmentTail, SegmentWriter, SeqnoCursor,
};
use crate::log_store::version::SegmentView;
use crate::seqno::Seqno;

use super::Run;
use super::found::{Found, Gone};
use super::kills::Kills;
use super::marks::Marks;
use super::places::Places;
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
    kills: Kills,
    marks: Marks,
    places: Places,
    /// Dead versions that stay, as history, and their bytes.
    dead: RoaringTreemap,
    dead_bytes: u64,
    /// Records that stay as the newest of their keys.
    keys: u64,
    lost_highs: LostHighs,
    bytes_read: u64,
}

/// What becomes of a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Stays,
    StaysDead,
    Goes,
}

impl Copying {
    /// `batch_ends_max`: as [`crate::log_store::options::OpenOptions::batch_ends_max`].
    pub(super) fn new(
        run: Run,
        writer: SegmentWriter,
        batch_ends_max: usize,
    ) -> Result<Copying, StorageError> {
        Ok(Copying {
            kills: Kills::of(&run.views)?,
            marks: Marks::of(&run.views, batch_ends_max)?,
            run,
            writer,
            input: 0,
            cursor: None,
            places: Places::default(),
            dead: RoaringTreemap::new(),
            dead_bytes: 0,
            keys: 0,
            lost_highs: LostHighs::default(),
            bytes_read: 0,
        })
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
        let Some(view) = self.run.views.get(self.input).cloned() else {
            return Ok(false);
        };
        let mut cursor = match self.cursor.take() {
            Some(cursor) => cursor,
            None => SeqnoCursor::new(Arc::clone(&view.segment), Seqno::ZERO),
        };
        let Some(mut chunk) = cursor.next_chunk(STEP_BYTES)? else {
            self.input = self.input.saturating_add(1);
            return Ok(true);
        };
        while let Some(record) = chunk.next() {
            let record = record?;
            self.bytes_read = self.bytes_read.saturating_add(record.raw.len() as u64);
            if record.item.seqno <= view.high() {
                let is_dead = view.dead.contains(record.item.seqno.0);
                self.copy(&record, is_dead, history_floor, expired)?;
            }
        }
        self.cursor = Some(cursor);
        Ok(true)
    }

    fn copy(
        &mut self,
        record: &RawRecord<'_>,
        is_dead: bool,
        history_floor: Seqno,
        expired: &mut Vec<ExpiredDocument>,
    ) -> Result<(), StorageError> {
        let (seqno, operation) = (record.item.seqno, record.item.operation);
        let exact_from = self.run.found.exact_from;
        self.marks.pass(seqno, operation, exact_from)?;
        let verdict = if is_dead {
            self.judge_dead(seqno, history_floor)?
        } else {
            let (run, lost_highs) = (&mut self.run, &mut self.lost_highs);
            let rules = run.rules.as_ref();
            judge_live(&mut run.found, rules, lost_highs, &record.item, expired)
        };
        match verdict {
            Verdict::Goes => return Ok(()),
            Verdict::Stays => {
                self.keys = self.keys.saturating_add(1);
                self.marks.stays(seqno, operation);
            }
            Verdict::StaysDead => {
                self.dead.insert(seqno.0);
                self.dead_bytes = self.dead_bytes.saturating_add(record.raw.len() as u64);
            }
        }
        let location = self.writer.push_raw_record(seqno, record.raw)?;
        self.places.push(seqno, location);
        Ok(())
    }

    /// A version that was superseded when the run began.
    fn judge_dead(&mut self, seqno: Seqno, history_floor: Seqno) -> Result<Verdict, StorageError> {
        let mut kills = self.kills_up_to(seqno)?;
        kills.retain(|kill| kill.victim == seqno);
        let found = &mut self.run.found;
        if found.seqnos.contains(seqno.0) {
            return Ok(Verdict::Goes);
        }
        let killer = kills.first().map(|kill| kill.killer);
        if let Some(killer) = killer.filter(|killer| *killer <= history_floor) {
            found.is_exact_from(killer);
            return Ok(Verdict::Goes);
        }
        for kill in &kills {
            self.writer.push_kill(kill)?;
        }
        Ok(Verdict::StaysDead)
    }

    /// Takes the kills of versions up to `seqno` off the lists. Those of versions in segments that the run leaves alone
    /// go on; any other whose victim was passed over has done its work.
    fn kills_up_to(&mut self, seqno: Seqno) -> Result<Vec<Kill>, StorageError> {
        let mut of_inputs = Vec::new();
        while let Some(kill) = self.kills.next_up_to(seqno)? {
            if kill.victim < self.run.older_below {
                self.writer.push_kill(&kill)?;
            } else if kill.victim == seqno {
                of_inputs.push(kill);
            }
        }
        Ok(of_inputs)
    }

    pub(super) fn begin_index(&mut self) -> Result<Vec<KeyCursor>, StorageError> {
        self.cursor = None;
        self.kills_up_to(Seqno::MAX)?;
        self.writer.begin_index_of(self.keys)?;
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
            if let Some(entry) = cursor.peek()
                && let Some(location) = self.places.find(entry.seqno)
            {
                self.writer.push_index(IndexEntry { location, ..entry })?;
            }
            cursor.advance()?;
        }
        Ok(true)
    }

    /// Writes what is left of the segment, whose number is `id`.
    pub(super) fn finish(self, id: u64, container: u64) -> Result<Merged, StorageError> {
        let Copying {
            run, writer, marks, ..
        } = self;
        let exact_from = run.found.exact_from;
        let (first, last) = (run.views.first(), run.views.last());
        let (meta, mut extent) = writer.finish(SegmentTail {
            id,
            container,
            exact_from,
            kills: &[],
            boundaries: &marks.finish(exact_from)?,
            first_seqno_ceiling: first.map_or(Seqno::ZERO, |v| v.segment.meta().first_seqno),
            last_seqno_floor: last.map_or(Seqno::ZERO, SegmentView::high),
        })?;
        extent.flush()?;
        let dead = (self.dead, self.dead_bytes);
        Ok(Merged::new(run, meta, self.places, dead))
    }
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
