//! A list that one writer appends to while any number of readers read what was there when they looked.
//!
//! Invariant: a slot is written once and never moves, so readers need no lock and never wait for the writer. How
//! much of the list counts is published by whoever owns it; the list itself only answers "is there an element".

use std::sync::OnceLock;

/// First chunk's length as a power of two; each next chunk is twice as long.
const FIRST_CHUNK_BITS: u32 = 4;
const CHUNKS: usize = 28;

type Chunk<T> = Box<[OnceLock<T>]>;

/// An append-only list of up to 2^32 elements.
#[derive(Debug)]
pub(crate) struct AppendLog<T> {
    chunks: [OnceLock<Chunk<T>>; CHUNKS],
}

impl<T> Default for AppendLog<T> {
    fn default() -> Self {
        AppendLog {
            chunks: std::array::from_fn(|_| OnceLock::new()),
        }
    }
}

impl<T> AppendLog<T> {
    /// Writes element `index`; the writer counts. A slot already written stays as it is.
    pub(crate) fn set(&self, index: usize, value: T) {
        let (chunk, slot) = place(index);
        let make = || {
            (0..1usize << chunk_bits(chunk))
                .map(|_| OnceLock::new())
                .collect()
        };
        if let Some(slot) = self
            .chunks
            .get(chunk)
            .and_then(|cell| cell.get_or_init(make).get(slot))
        {
            let already_written = slot.set(value).is_err();
            debug_assert!(!already_written, "the one writer writes every slot once");
        }
    }

    /// Element `index`, if it was written.
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        let (chunk, slot) = place(index);
        self.chunks.get(chunk)?.get()?.get(slot)?.get()
    }

    /// The elements of a range.
    pub(crate) fn range(&self, range: std::ops::Range<usize>) -> impl Iterator<Item = &T> {
        range.map_while(|index| self.get(index))
    }
}

fn chunk_bits(chunk: usize) -> u32 {
    FIRST_CHUNK_BITS.saturating_add(u32::try_from(chunk).unwrap_or(0))
}

/// Chunk and slot of an element: chunk `c` begins at element `2^(c+B) - 2^B`.
fn place(index: usize) -> (usize, usize) {
    let shifted = index.saturating_add(1 << FIRST_CHUNK_BITS);
    let bits = shifted.ilog2();
    let chunk = bits.saturating_sub(FIRST_CHUNK_BITS) as usize;
    (chunk, shifted ^ (1 << bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_has_its_own_slot() {
        let log = AppendLog::default();
        for index in 0..5_000 {
            assert_eq!(log.get(index), None::<&usize>);
            log.set(index, index * 3);
        }
        for index in 0..5_000 {
            assert_eq!(log.get(index), Some(&(index * 3)));
        }
        assert_eq!(log.range(4_998..6_000).count(), 2);
    }
}
