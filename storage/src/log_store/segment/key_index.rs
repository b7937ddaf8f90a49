//! The key index: small pages of entries sorted by (index key, falling seqno), and their top, held in memory.
//!
//! Invariant: a search looks at one page, or at two when the version wanted is the first entry of the second. The
//! top holds every page's first key and seqno, and its crc. Keys of the top lie in one buffer, and the first bytes
//! in which they differ in a dense array, so that the search for a page touches few cache lines.

use std::cmp::Ordering;
use std::ops::Range;

use super::IndexKey;
use super::fields::{Decoded, Fields, saturating_u32, saturating_usize};
use super::record_location::RecordLocation;
use crate::leb128::{put_u32, put_u64};
use crate::seqno::Seqno;

/// Most bytes of a page, so that a point read can hold one on its stack.
pub(super) const PAGE_BYTES_MAX: usize = 1024;

const FLAG_TOMBSTONE: u8 = 1;
/// Fewest bytes a page takes in the top.
const TOP_ENTRY_BYTES_MIN: usize = 8;

/// One version of a key: where it is, and what the counts need to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry<'a> {
    /// The namespace's byte, then the encoded document key.
    pub(crate) key: &'a [u8],
    /// Its seqno.
    pub(crate) seqno: Seqno,
    /// Where its record is.
    pub(crate) location: RecordLocation,
    /// Whether the key's slot is empty from this version on.
    pub(crate) is_tombstone: bool,
    /// Bytes of key and value, as [`crate::Item::user_bytes`] counts them.
    pub(crate) user_bytes: u64,
}

/// What [`super::Segment::find`] found: an entry without its key, which the caller has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundEntry {
    /// Its seqno.
    pub(crate) seqno: Seqno,
    /// Where its record is.
    pub(crate) location: RecordLocation,
    /// Whether the key's slot is empty from this version on.
    pub(crate) is_tombstone: bool,
    /// Bytes of key and value.
    pub(crate) user_bytes: u64,
}

impl<'a> IndexEntry<'a> {
    pub(super) fn without_key(&self) -> FoundEntry {
        FoundEntry {
            seqno: self.seqno,
            location: self.location,
            is_tombstone: self.is_tombstone,
            user_bytes: self.user_bytes,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let key_length = u8::try_from(self.key.len()).unwrap_or(u8::MAX);
        out.push(key_length);
        out.push(if self.is_tombstone { FLAG_TOMBSTONE } else { 0 });
        out.extend_from_slice(self.key);
        put_u64(out, self.seqno.0);
        put_u32(out, self.location.block);
        put_u32(out, self.location.offset);
        put_u32(out, self.location.length);
        put_u64(out, self.user_bytes);
    }

    /// Takes an entry off the front.
    pub(super) fn take(fields: &mut Fields<'a>) -> Decoded<IndexEntry<'a>> {
        let (key, flags) = take_key(fields)?;
        if flags & !FLAG_TOMBSTONE != 0 {
            return Err("an index entry has unknown flags");
        }
        Ok(IndexEntry {
            key,
            seqno: Seqno(fields.varint_u64()?),
            location: RecordLocation {
                block: fields.varint_u32()?,
                offset: fields.varint_u32()?,
                length: fields.varint_u32()?,
            },
            is_tombstone: flags & FLAG_TOMBSTONE != 0,
            user_bytes: fields.varint_u64()?,
        })
    }
}

fn take_key<'a>(fields: &mut Fields<'a>) -> Decoded<(&'a [u8], u8)> {
    let length = usize::from(fields.u8()?);
    let flags = fields.u8()?;
    if length == 0 || length > IndexKey::LENGTH_MAX {
        return Err("an index key has an impossible length");
    }
    Ok((fields.bytes(length)?, flags))
}

/// The order of the index: rising key, and the newest version of a key first.
pub(super) fn order(a: (&[u8], Seqno), b: (&[u8], Seqno)) -> Ordering {
    a.0.cmp(b.0).then(b.1.cmp(&a.1))
}

/// A page being filled.
#[derive(Debug, Default)]
pub(super) struct PageBuilder {
    offsets: Vec<u16>,
    entries: Vec<u8>,
    first_key: Vec<u8>,
    first_seqno: Seqno,
    scratch: Vec<u8>,
}

impl PageBuilder {
    /// Takes an entry, or returns `false` when it needs a new page. An empty page takes any entry.
    pub(super) fn try_push(&mut self, entry: &IndexEntry<'_>) -> bool {
        self.scratch.clear();
        entry.encode(&mut self.scratch);
        let length = self
            .length()
            .saturating_add(self.scratch.len())
            .saturating_add(2);
        if length > PAGE_BYTES_MAX {
            return false;
        }
        if self.offsets.is_empty() {
            self.first_key.clear();
            self.first_key.extend_from_slice(entry.key);
            self.first_seqno = entry.seqno;
        }
        // A page is far below 64 KiB.
        self.offsets
            .push(u16::try_from(self.entries.len()).unwrap_or(u16::MAX));
        self.entries.extend_from_slice(&self.scratch);
        true
    }

    fn length(&self) -> usize {
        self.entries
            .len()
            .saturating_add(self.offsets.len().saturating_mul(2))
            .saturating_add(2)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Ends the page: its bytes replace those in `page`, its place in the index is added to `top`.
    pub(super) fn finish(&mut self, page: &mut Vec<u8>, top: &mut Vec<u8>) {
        page.clear();
        page.extend_from_slice(
            &u16::try_from(self.offsets.len())
                .unwrap_or(u16::MAX)
                .to_le_bytes(),
        );
        for offset in &self.offsets {
            page.extend_from_slice(&offset.to_le_bytes());
        }
        page.extend_from_slice(&self.entries);
        top.push(u8::try_from(self.first_key.len()).unwrap_or(u8::MAX));
        top.extend_from_slice(&self.first_key);
        put_u64(top, self.first_seqno.0);
        top.extend_from_slice(&u16::try_from(page.len()).unwrap_or(u16::MAX).to_le_bytes());
        top.extend_from_slice(&crc32c::crc32c(page).to_le_bytes());
        self.offsets.clear();
        self.entries.clear();
    }
}

/// A page as read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<'a> {
    offsets: &'a [[u8; 2]],
    entries: &'a [u8],
}

impl<'a> Page<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Decoded<Page<'a>> {
        let mut fields = Fields::new(bytes);
        let count = usize::from(fields.u16()?);
        let offsets = fields.bytes(count.saturating_mul(2))?.as_chunks().0;
        Ok(Page {
            offsets,
            entries: fields.rest(),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// The bytes of all its entries, one after the other.
    pub(super) fn entries(&self) -> &'a [u8] {
        self.entries
    }

    /// Where entry `number` begins among the entries.
    pub(super) fn offset(&self, number: usize) -> Option<usize> {
        self.offsets
            .get(number)
            .map(|offset| usize::from(u16::from_le_bytes(*offset)))
    }

    fn fields(&self, number: usize) -> Decoded<Fields<'a>> {
        let offset = self.offset(number).ok_or("an index entry is missing")?;
        let bytes = self
            .entries
            .get(offset..)
            .ok_or("an index entry lies outside its page")?;
        Ok(Fields::new(bytes))
    }

    pub(super) fn entry(&self, number: usize) -> Decoded<IndexEntry<'a>> {
        IndexEntry::take(&mut self.fields(number)?)
    }

    /// The first entry at or behind (`key`, `seqno`) in the index's order.
    pub(super) fn first_from(&self, key: &[u8], seqno: Seqno) -> Decoded<Option<IndexEntry<'a>>> {
        let mut range = 0..self.len();
        while !range.is_empty() {
            let middle = range.start.midpoint(range.end);
            let mut fields = self.fields(middle)?;
            let (middle_key, _) = take_key(&mut fields)?;
            let mut order = middle_key.cmp(key);
            if order.is_eq() {
                order = seqno.0.cmp(&fields.varint_u64()?);
            }
            match order {
                Ordering::Less => range.start = middle.saturating_add(1),
                Ordering::Equal => return self.entry(middle).map(Some),
                Ordering::Greater => range.end = middle,
            }
        }
        if range.start == self.len() {
            return Ok(None);
        }
        self.entry(range.start).map(Some)
    }
}

/// Where a page lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageEntry {
    /// From the first page on. Not stored: pages have no gaps.
    pub(super) offset: u64,
    pub(super) first_seqno: Seqno,
    key_end: u32,
    pub(super) crc: u32,
    pub(super) length: u16,
}

impl PageEntry {
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.length))
    }

    /// The page in `bytes`, once it is found to be the one written.
    pub(super) fn verified<'a>(&self, bytes: &'a [u8]) -> Decoded<Page<'a>> {
        self.check(bytes)?;
        Page::parse(bytes)
    }

    /// Whether `bytes` are the page written.
    pub(super) fn check(&self, bytes: &[u8]) -> Decoded<()> {
        if crc32c::crc32c(bytes) == self.crc {
            Ok(())
        } else {
            Err("an index page's checksum does not match")
        }
    }
}

/// The top of the index, in memory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct IndexTop {
    pages: Vec<PageEntry>,
    /// First keys of all pages, one after the other.
    keys: Vec<u8>,
    /// Of every first key the eight bytes behind those all of them share, as a number of the same order.
    heads: Vec<u64>,
    shared: usize,
}

impl IndexTop {
    /// The top of pages that together take `section_length` bytes.
    pub(super) fn decode(bytes: &[u8], section_length: u64) -> Decoded<IndexTop> {
        if u32::try_from(bytes.len()).is_err() {
            return Err("the index top is too large");
        }
        let mut top = IndexTop::default();
        top.pages.reserve(bytes.len() / TOP_ENTRY_BYTES_MIN / 2);
        let mut fields = Fields::new(bytes);
        while !fields.rest().is_empty() {
            top.take_page(&mut fields)?;
        }
        if top.section_length() != section_length {
            return Err("the index top contradicts the footer");
        }
        top.pages.shrink_to_fit();
        top.keys.shrink_to_fit();
        top.fill_heads();
        Ok(top)
    }

    fn take_page(&mut self, fields: &mut Fields<'_>) -> Decoded<()> {
        let key_length = usize::from(fields.u8()?);
        if key_length == 0 || key_length > IndexKey::LENGTH_MAX {
            return Err("an index key has an impossible length");
        }
        let key = fields.bytes(key_length)?;
        let first_seqno = Seqno(fields.varint_u64()?);
        let last = self.pages.len().saturating_sub(1);
        if let Some(page) = self.pages.last()
            && order((self.key(last), page.first_seqno), (key, first_seqno)).is_ge()
        {
            return Err("index pages are out of order");
        }
        let offset = self.section_length();
        self.keys.extend_from_slice(key);
        let entry = PageEntry {
            offset,
            first_seqno,
            key_end: saturating_u32(self.keys.len()),
            length: fields.u16()?,
            crc: fields.u32()?,
        };
        if usize::from(entry.length) > PAGE_BYTES_MAX {
            return Err("an index page is too large");
        }
        self.pages.push(entry);
        Ok(())
    }

    fn fill_heads(&mut self) {
        let last = self.key(self.pages.len().saturating_sub(1));
        self.shared = self
            .key(0)
            .iter()
            .zip(last)
            .take_while(|(a, b)| a == b)
            .count();
        self.heads = (0..self.pages.len())
            .map(|page| head(self.key(page), self.shared))
            .collect();
    }

    pub(super) fn len(&self) -> usize {
        self.pages.len()
    }

    pub(super) fn get(&self, page: usize) -> Option<&PageEntry> {
        self.pages.get(page)
    }

    /// The pages from `page` on.
    pub(super) fn from(&self, page: usize) -> &[PageEntry] {
        self.pages.get(page..).unwrap_or(&[])
    }

    /// First key of a page; empty when there is no such page.
    pub(super) fn key(&self, page: usize) -> &[u8] {
        self.key_range(page)
            .and_then(|range| self.keys.get(range))
            .unwrap_or(&[])
    }

    fn key_range(&self, page: usize) -> Option<Range<usize>> {
        let end = self.pages.get(page)?.key_end;
        let before = page
            .checked_sub(1)
            .and_then(|before| self.pages.get(before));
        let start = before.map_or(0, |before| before.key_end);
        Some(saturating_usize(u64::from(start))..saturating_usize(u64::from(end)))
    }

    /// Bytes of all pages together.
    pub(super) fn section_length(&self) -> u64 {
        self.pages.last().map_or(0, PageEntry::end)
    }

    /// How many pages begin at or before (`key`, `seqno`) in the index's order.
    pub(super) fn pages_upto(&self, key: &[u8], seqno: Seqno) -> usize {
        let (prefix, _) = key.split_at(self.shared.min(key.len()));
        let shared = self.key(0).get(..self.shared).unwrap_or(&[]);
        match prefix.cmp(shared) {
            Ordering::Less => return 0,
            Ordering::Greater => return self.pages.len(),
            Ordering::Equal => {}
        }
        let wanted = head(key, self.shared);
        let mut low = self.heads.partition_point(|head| *head < wanted);
        // Equal heads are rare where keys are random and many where they share prefixes; among them whole keys decide.
        let mut high = match self.heads.get(low) {
            Some(head) if *head == wanted => self.heads.partition_point(|head| *head <= wanted),
            _ => low,
        };
        while low < high {
            let middle = low.midpoint(high);
            let first_seqno = self
                .pages
                .get(middle)
                .map_or(Seqno::ZERO, |page| page.first_seqno);
            if order((self.key(middle), first_seqno), (key, seqno)).is_le() {
                low = middle.saturating_add(1);
            } else {
                high = middle;
            }
        }
        low
    }
}

/// The eight bytes of `key` behind `skip`, zero where it is shorter: orders like the key, but for ties.
fn head(key: &[u8], skip: usize) -> u64 {
    let rest = key.get(skip..).unwrap_or(&[]);
    if let Some(eight) = rest.first_chunk() {
        return u64::from_be_bytes(*eight);
    }
    let mut eight = [0; 8];
    for (to, from) in eight.iter_mut().zip(rest) {
        *to = *from;
    }
    u64::from_be_bytes(eight)
}
