//! Where the records of a compaction's output went, by seqno: what its index and its publish ask for.
//!
//! Invariant: four bytes a record, and forty more for each block: two differences to the first record of a run. A run
//! ends with its block, or where a difference does not fit.

use crate::log_store::segment::RecordLocation;
use crate::seqno::Seqno;

/// Places by rising seqno.
#[derive(Debug, Default)]
pub(super) struct Places {
    runs: Vec<Run>,
    records: Vec<Record>,
}

/// Records of one block, one after the other.
#[derive(Debug)]
struct Run {
    first_seqno: Seqno,
    block: u32,
    /// Where in the block it begins, and ends.
    offset: u32,
    end: u32,
    /// Number of its first record.
    begin: usize,
}

/// Differences to the first record of its run.
#[derive(Clone, Copy, Debug)]
struct Record {
    seqno: u16,
    offset: u16,
}

impl Run {
    /// The record as one of this run, if it fits.
    fn record(&self, seqno: Seqno, location: RecordLocation) -> Option<Record> {
        let seqno = seqno.0.checked_sub(self.first_seqno.0)?;
        let offset = location.offset.checked_sub(self.offset)?;
        let fits = Record {
            seqno: u16::try_from(seqno).ok()?,
            offset: u16::try_from(offset).ok()?,
        };
        (location.block == self.block).then_some(fits)
    }
}

impl Places {
    /// Takes note of a record; seqnos rise, and records of a block follow each other without gaps.
    pub(super) fn push(&mut self, seqno: Seqno, location: RecordLocation) {
        let end = location.offset.saturating_add(location.length);
        let last = self.runs.last_mut();
        if let Some((run, record)) =
            last.and_then(|run| run.record(seqno, location).map(|record| (run, record)))
        {
            run.end = end;
            self.records.push(record);
            return;
        }
        self.runs.push(Run {
            first_seqno: seqno,
            block: location.block,
            offset: location.offset,
            end,
            begin: self.records.len(),
        });
        self.records.push(Record {
            seqno: 0,
            offset: 0,
        });
    }

    /// Where the record went, if it is there.
    pub(super) fn find(&self, seqno: Seqno) -> Option<RecordLocation> {
        let behind = self.runs.partition_point(|run| run.first_seqno <= seqno);
        let run = self.runs.get(behind.checked_sub(1)?)?;
        let end = self
            .runs
            .get(behind)
            .map_or(self.records.len(), |next| next.begin);
        let records = self.records.get(run.begin..end)?;
        let within = seqno.0.checked_sub(run.first_seqno.0)?;
        let within = u16::try_from(within).ok()?;
        let at = records
            .binary_search_by_key(&within, |record| record.seqno)
            .ok()?;
        let place = |at: usize| {
            let record = records.get(at)?;
            Some(run.offset.saturating_add(u32::from(record.offset)))
        };
        let offset = place(at)?;
        let end = place(at.saturating_add(1)).unwrap_or(run.end);
        Some(RecordLocation {
            block: run.block,
            offset,
            length: end.saturating_sub(offset),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Records with these gaps between their seqnos and these lengths, in blocks of about 100,000 bytes.
    fn placed(records: &[(u64, u32)]) -> Vec<(Seqno, RecordLocation)> {
        let (mut seqno, mut block, mut offset) = (0, 0, 0);
        let mut placed = Vec::new();
        for (gap, length) in records {
            seqno += gap;
            if offset > 100_000 {
                (block, offset) = (block + 1, 0);
            }
            let location = RecordLocation {
                block,
                offset,
                length: *length,
            };
            placed.push((Seqno(seqno), location));
            offset += length;
        }
        placed
    }

    proptest! {
        #[test]
        fn every_record_is_found_where_it_went_and_no_other(
            records in prop::collection::vec(
                (prop_oneof![9 => 1u64..5, 1 => 60_000u64..70_000], prop_oneof![9 => 1u32..3000, 1 => Just(70_000)]),
                0..300,
            )
        ) {
            let placed = placed(&records);
            let mut places = Places::default();
            for (seqno, location) in &placed {
                places.push(*seqno, *location);
            }
            for (seqno, location) in &placed {
                prop_assert_eq!(places.find(*seqno), Some(*location));
                let next = seqno.next();
                let is_there = placed.iter().any(|(seqno, _)| *seqno == next);
                prop_assert_eq!(places.find(next).is_some(), is_there);
            }
        }
    }
}
