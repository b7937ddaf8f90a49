//! The bytes of one file: sparse pages, shared between images until one of them changes.
//!
//! Invariant: beyond `length` every page is a hole or zeros, so a file that grows again reads as zeros there. A
//! clone costs one reference count, whatever the size: that is what makes a crash as cheap as what it loses.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What is shared, copied and counted as space.
const PAGE_BYTES: usize = 4096;
const PAGE: u64 = PAGE_BYTES as u64;
/// A change after a clone copies the list of one chunk, not that of the file.
const CHUNK_PAGES: usize = 64;
const CHUNK: u64 = PAGE * CHUNK_PAGES as u64;

#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    length: u64,
    pages_allocated: u64,
    chunks: Arc<BTreeMap<u64, Arc<Chunk>>>,
}

#[derive(Clone, Debug)]
struct Chunk {
    pages: [Page; CHUNK_PAGES],
}

#[derive(Clone, Debug, Default)]
enum Page {
    #[default]
    Hole,
    /// Allocated, but all zero: a file zeroed ahead takes space on the disk, none in memory.
    Zeros,
    Bytes(Arc<[u8; PAGE_BYTES]>),
}

impl Image {
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut image = Self::default();
        image.write(bytes, 0);
        image
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn bytes_allocated(&self) -> u64 {
        self.pages_allocated * PAGE
    }

    /// Fills `buffer` from `offset` on; false, with nothing read, when the file is shorter.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> bool {
        if !within(offset, buffer.len() as u64, self.length) {
            return false;
        }
        let mut rest = buffer;
        for part in parts(offset, rest.len() as u64) {
            let (target, tail) = rest.split_at_mut(part.length());
            match self.page(part.page) {
                Page::Bytes(bytes) => {
                    if let Some(source) = bytes.get(part.from..part.to) {
                        target.copy_from_slice(source);
                    }
                }
                Page::Hole | Page::Zeros => target.fill(0),
            }
            rest = tail;
        }
        true
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; to_usize(self.length)];
        self.read(&mut bytes, 0);
        bytes
    }

    pub(super) fn write(&mut self, data: &[u8], offset: u64) {
        let mut rest = data;
        for part in parts(offset, data.len() as u64) {
            let (source, tail) = rest.split_at(part.length());
            self.change(part.page, |page| page.write(source, &part));
            rest = tail;
        }
        if !data.is_empty() {
            self.length = self.length.max(offset + data.len() as u64);
        }
    }

    pub(super) fn zero(&mut self, offset: u64, length: u64) {
        for part in parts(offset, length) {
            self.change(part.page, |page| page.zero(&part));
        }
        if length > 0 {
            self.length = self.length.max(offset + length);
        }
    }

    /// Whole pages become holes, the rest zeros; the length stays.
    pub(super) fn punch(&mut self, offset: u64, length: u64) {
        let end = offset.saturating_add(length).min(self.length);
        for part in parts(offset, end.saturating_sub(offset)) {
            if !self.page(part.page).is_hole() {
                self.change(part.page, |page| page.punch(&part));
            }
        }
    }

    pub(super) fn truncate(&mut self, length: u64) {
        if length < self.length {
            let first_beyond = length.div_ceil(CHUNK);
            // The chunk that holds the new end is cleared behind it, the ones after it go as they are.
            self.punch(length, first_beyond * CHUNK - length);
            if self.chunks.range(first_beyond..).next().is_some() {
                let beyond = Arc::make_mut(&mut self.chunks).split_off(&first_beyond);
                let pages: u64 = beyond.values().map(|chunk| chunk.pages_allocated()).sum();
                self.pages_allocated -= pages;
            }
        }
        self.length = length;
    }

    /// Flips one bit; false when the file is shorter.
    pub(super) fn flip(&mut self, offset: u64, bit: u8) -> bool {
        let mut byte = [0];
        if !self.read(&mut byte, offset) {
            return false;
        }
        self.write(
            &byte.map(|byte| byte ^ 1_u8.rotate_left(u32::from(bit))),
            offset,
        );
        true
    }

    /// How many bytes of a range fit when `room` more bytes may be allocated.
    pub(super) fn fitting(&self, offset: u64, length: u64, room: u64) -> u64 {
        let mut pages_left = room / PAGE;
        let mut fitting = 0;
        for part in parts(offset, length) {
            if self.page(part.page).is_hole() {
                if pages_left == 0 {
                    return fitting;
                }
                pages_left -= 1;
            }
            fitting += part.length() as u64;
        }
        fitting
    }

    fn page(&self, page: u64) -> &Page {
        let (chunk, index) = place(page);
        self.chunks
            .get(&chunk)
            .and_then(|chunk| chunk.pages.get(index))
            .unwrap_or(&Page::Hole)
    }

    fn change(&mut self, page: u64, change: impl FnOnce(&mut Page)) {
        let (chunk, index) = place(page);
        let chunk = Arc::make_mut(&mut self.chunks).entry(chunk).or_default();
        if let Some(page) = Arc::make_mut(chunk).pages.get_mut(index) {
            let was_hole = page.is_hole();
            change(page);
            match (was_hole, page.is_hole()) {
                (true, false) => self.pages_allocated += 1,
                (false, true) => self.pages_allocated -= 1,
                (true, true) | (false, false) => {}
            }
        }
    }
}

impl Default for Chunk {
    fn default() -> Self {
        Self {
            pages: std::array::from_fn(|_| Page::Hole),
        }
    }
}

impl Chunk {
    fn pages_allocated(&self) -> u64 {
        self.pages
            .iter()
            .map(|page| u64::from(!page.is_hole()))
            .sum()
    }
}

impl Page {
    fn is_hole(&self) -> bool {
        matches!(self, Page::Hole)
    }

    fn write(&mut self, source: &[u8], part: &Part) {
        let Ok(whole) = <&[u8; PAGE_BYTES]>::try_from(source) else {
            if let Some(target) = self.bytes_mut().get_mut(part.from..part.to) {
                target.copy_from_slice(source);
            }
            return;
        };
        // A page written whole is not copied first, though another image may share it.
        if let Page::Bytes(bytes) = self
            && let Some(bytes) = Arc::get_mut(bytes)
        {
            *bytes = *whole;
        } else {
            *self = Page::Bytes(Arc::new(*whole));
        }
    }

    fn zero(&mut self, part: &Part) {
        match self {
            Page::Bytes(_) if part.length() < PAGE_BYTES => {
                if let Some(target) = self.bytes_mut().get_mut(part.from..part.to) {
                    target.fill(0);
                }
            }
            Page::Bytes(_) | Page::Hole | Page::Zeros => *self = Page::Zeros,
        }
    }

    fn punch(&mut self, part: &Part) {
        if part.length() == PAGE_BYTES {
            *self = Page::Hole;
        } else {
            self.zero(part);
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        if !matches!(self, Page::Bytes(_)) {
            *self = Page::Bytes(Arc::new([0; PAGE_BYTES]));
        }
        match self {
            Page::Bytes(bytes) => Arc::make_mut(bytes).as_mut_slice(),
            Page::Hole | Page::Zeros => &mut [],
        }
    }
}

/// The part of a range that lies in one page.
struct Part {
    page: u64,
    from: usize,
    to: usize,
}

impl Part {
    fn length(&self) -> usize {
        self.to - self.from
    }
}

fn parts(offset: u64, length: u64) -> impl Iterator<Item = Part> {
    pieces(offset, length, PAGE).map(|(at, length)| {
        let from = to_usize(at % PAGE);
        Part {
            page: at / PAGE,
            from,
            to: from + to_usize(length),
        }
    })
}

/// A range cut at the multiples of `unit`, as offsets and lengths.
pub(super) fn pieces(offset: u64, length: u64, unit: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = offset.saturating_add(length);
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let piece = (unit - at % unit).min(end - at);
        let begin = at;
        at += piece;
        Some((begin, piece))
    })
}

/// Whether a range ends within `limit`.
pub(super) fn within(offset: u64, length: u64, limit: u64) -> bool {
    offset.checked_add(length).is_some_and(|end| end <= limit)
}

/// For numbers bounded by the length of something in memory.
pub(super) fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn place(page: u64) -> (u64, usize) {
    (
        page / CHUNK_PAGES as u64,
        to_usize(page % CHUNK_PAGES as u64),
    )
}
