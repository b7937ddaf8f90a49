//! Verifies a whole segment against its meta, down to every byte, and its parts against each other.
//!
//! Invariant: every byte of a segment is covered: by a checksum that is checked here, or by being one. The index
//! and the records must agree both ways, which is compared block by block as an order-free sum of fingerprints:
//! the checksums rule out damage, so a difference is a fault of whoever wrote the segment.

use std::sync::Arc;

use super::IndexKey;
use super::fields::{Decoded, Fields, saturating_usize};
use super::filter::hash;
use super::key_index::{IndexEntry, Page, PageEntry, order};
use super::reader::Segment;
use super::record_location;
use super::seqno_cursor::{Buffers, Chunk, RawRecord, load};
use crate::error::StorageError;
use crate::leb128::put_u64;
use crate::seqno::Seqno;

type VisitFault<'v> = &'v mut dyn FnMut(StorageError);

impl Segment {
    /// Walks everything, records and kills above the cut included, and reports every fault. Returns the number of records
    /// that are sound.
    pub(crate) fn verify(&self, visit_fault: &mut dyn FnMut(StorageError)) -> u64 {
        let mut check = Check {
            segment: self,
            records: 0,
            data_bytes: 0,
            index_entries: 0,
            of_records: vec![Fingerprint::default(); self.blocks.len()],
            of_index: vec![Fingerprint::default(); self.blocks.len()],
            scratch: Vec::new(),
            faults: 0,
            visit_fault,
        };
        check.memory();
        check.blocks();
        check.pages();
        check.lists();
        if check.faults == 0 {
            check.agreement();
        }
        check.records
    }
}

struct Check<'s, 'v> {
    segment: &'s Segment,
    records: u64,
    data_bytes: u64,
    index_entries: u64,
    of_records: Vec<Fingerprint>,
    of_index: Vec<Fingerprint>,
    scratch: Vec<u8>,
    faults: u64,
    visit_fault: VisitFault<'v>,
}

impl Check<'_, '_> {
    fn fault(&mut self, error: StorageError) {
        self.faults = self.faults.saturating_add(1);
        (self.visit_fault)(error);
    }

    /// What was read at open must still be on the disk.
    fn memory(&mut self) {
        let (file, name) = (
            Arc::clone(&self.segment.file),
            Arc::clone(&self.segment.file_name),
        );
        if let Err(error) = Segment::open(file, name, self.segment.meta.clone()) {
            self.fault(error);
        }
    }

    fn blocks(&mut self) {
        let mut buffers = Buffers::default();
        let mut previous = None;
        for number in 0..self.segment.blocks.len() {
            // One block at a time, so that a bad one does not hide its neighbours.
            if let Err(error) = load(self.segment, &mut buffers, number, 0) {
                self.fault(error);
                continue;
            }
            let mut chunk = Chunk::new(self.segment, &buffers, Seqno::ZERO, Seqno::MAX);
            while let Some(record) = chunk.next() {
                let checked = record.and_then(|record| self.record(&record, &mut previous));
                if let Err(error) = checked {
                    self.fault(error);
                }
            }
        }
    }

    fn record(
        &mut self,
        record: &RawRecord<'_>,
        previous: &mut Option<Seqno>,
    ) -> Result<(), StorageError> {
        let number = saturating_usize(u64::from(record.location.block));
        let offset = self
            .segment
            .blocks
            .get(number)
            .map_or(0, |block| block.offset);
        let seqno = record.item.seqno;
        let footer = &self.segment.footer;
        let corrupt = |what| self.segment.source().corrupt(offset, what);
        record_location::decode_one(record.raw).map_err(corrupt)?;
        if previous.is_some_and(|previous| seqno <= previous) {
            return Err(corrupt("records are out of order"));
        }
        *previous = Some(seqno);
        if seqno < footer.first_seqno || seqno > footer.last_seqno {
            return Err(corrupt("a record lies outside the segment's seqnos"));
        }
        self.records = self.records.saturating_add(1);
        self.data_bytes = self
            .data_bytes
            .saturating_add(u64::from(record.location.length));
        let item = &record.item;
        let user_bytes = (item.key.len() as u64).saturating_add(item.value.len() as u64);
        let key = IndexKey::new(item.namespace(), item.key);
        let entry = IndexEntry {
            key: key.as_bytes(),
            seqno,
            location: record.location,
            is_tombstone: item.operation.is_tombstone(),
            user_bytes,
        };
        if let Some(fingerprint) = self.of_records.get_mut(number) {
            fingerprint.add(&entry, &mut self.scratch);
        }
        Ok(())
    }

    fn pages(&mut self) {
        let mut last = (Vec::new(), Seqno::MAX);
        for number in 0..self.segment.index_top.len() {
            let Some(page) = self.segment.index_top.get(number) else {
                return;
            };
            let offset = self
                .segment
                .footer
                .sections
                .pages
                .offset
                .saturating_add(page.offset);
            let checked = self
                .segment
                .source()
                .read(offset, u64::from(page.length))
                .and_then(|bytes| {
                    self.page(number, page, &bytes, &mut last)
                        .map_err(|what| self.segment.source().corrupt(offset, what))
                });
            if let Err(error) = checked {
                self.fault(error);
            }
        }
    }

    fn page(
        &mut self,
        number: usize,
        page: &PageEntry,
        bytes: &[u8],
        last: &mut (Vec<u8>, Seqno),
    ) -> Decoded<()> {
        let page_seqno = page.first_seqno;
        let page = page.verified(bytes)?;
        let first = page.entry(0)?;
        if first.key != self.segment.index_top.key(number) || first.seqno != page_seqno {
            return Err("an index page begins with another entry than the index top says");
        }
        let mut at = 0;
        for place in 0..page.len() {
            let entry = entry_at(&page, place, &mut at)?;
            if order((&last.0, last.1), (entry.key, entry.seqno)).is_ge() {
                return Err("index entries are out of order");
            }
            last.0.clear();
            last.0.extend_from_slice(entry.key);
            last.1 = entry.seqno;
            self.entry(&entry)?;
        }
        if at != page.entries().len() {
            return Err("bytes left over in an index page");
        }
        Ok(())
    }

    fn entry(&mut self, entry: &IndexEntry<'_>) -> Decoded<()> {
        self.index_entries = self.index_entries.saturating_add(1);
        if !self.segment.may_hold(hash(entry.key)) {
            return Err("the filter denies a key of the index");
        }
        let number = saturating_usize(u64::from(entry.location.block));
        let fingerprint = self
            .of_index
            .get_mut(number)
            .ok_or("an index entry points outside the blocks")?;
        fingerprint.add(entry, &mut self.scratch);
        Ok(())
    }

    fn lists(&mut self) {
        let kills = self.segment.kills().err();
        let boundaries = self.segment.boundaries().err();
        for error in kills.into_iter().chain(boundaries) {
            self.fault(error);
        }
    }

    /// With no other fault found: do the parts say the same?
    fn agreement(&mut self) {
        let footer = &self.segment.footer;
        let end = footer.sections.index_top.end();
        let is_counted = self.records == footer.records
            && self.data_bytes == footer.data_bytes
            && self.index_entries == footer.index_entries;
        if !is_counted {
            let error = self
                .segment
                .source()
                .corrupt(end, "the footer's counts are not exact");
            self.fault(error);
        }
        for number in 0..self.segment.blocks.len() {
            if self.of_records.get(number) != self.of_index.get(number) {
                let offset = self
                    .segment
                    .blocks
                    .get(number)
                    .map_or(0, |block| block.offset);
                let what = "the records of a block and their index entries disagree";
                self.fault(self.segment.source().corrupt(offset, what));
            }
        }
    }
}

/// The entry at `place`, which must begin at `at`; moves `at` behind it.
fn entry_at<'a>(page: &Page<'a>, place: usize, at: &mut usize) -> Decoded<IndexEntry<'a>> {
    if page.offset(place) != Some(*at) {
        return Err("an index entry lies elsewhere than its page says");
    }
    let bytes = page.entries().get(*at..).unwrap_or(&[]);
    let mut fields = Fields::new(bytes);
    let entry = IndexEntry::take(&mut fields)?;
    *at = page.entries().len().saturating_sub(fields.rest().len());
    Ok(entry)
}

/// A sum over the entries of one block that does not depend on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fingerprint {
    count: u64,
    sum: u64,
}

impl Fingerprint {
    fn add(&mut self, entry: &IndexEntry<'_>, scratch: &mut Vec<u8>) {
        scratch.clear();
        for number in [
            entry.seqno.0,
            u64::from(entry.location.offset),
            u64::from(entry.location.length),
            u64::from(entry.is_tombstone),
            entry.user_bytes,
        ] {
            put_u64(scratch, number);
        }
        scratch.extend_from_slice(entry.key);
        self.count = self.count.saturating_add(1);
        self.sum = self.sum.wrapping_add(hash(scratch));
    }
}
