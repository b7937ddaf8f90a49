//! A list that one writer appends to while any number of readers read what was there when they looked.
//!
//! Invariant: a slot is written once and never moves, so readers need no lock and never wait for the writer. Appending
//! never costs more than making one chunk, however long the list is: a commit does it under the writer's lock. How much of
//! the list counts is published by whoever owns it; the list itself only answers "is there an element".

use std::sync::OnceLock;

/// First chunk's length as a power of two; each next chunk is twice as long, up to the last length.
const FIRST_CHUNK_BITS: u32 = 4;
const LAST_CHUNK_BITS: u32 = 10;
/// Chunks a list has room for without a row; each row has room for twice as many as all before it.
const CHUNKS: usize = 16;
const ROWS: usize = 20;

type Chunk<T> = Box<[OnceLock<T>]>;
type Row<T> = Box<[OnceLock<Chunk<T>>]>;

/// An append-only list of up to 2^32 elements.
#[derive(Debug)]
pub(crate) struct AppendLog<T> {
    chunks: [OnceLock<Chunk<T>>; CHUNKS],
    rows: [OnceLock<Row<T>>; ROWS],
}

impl<T> Default for AppendLog<T> {
    fn default() -> Self {
        AppendLog {
            chunks: std::array::from_fn(|_| OnceLock::new()),
            rows: std::array::from_fn(|_| OnceLock::new()),
        }
    }
}

impl<T> AppendLog<T> {
    /// Writes element `index`; the writer counts. A slot already written stays as it is.
    pub(crate) fn set(&self, index: usize, value: T) {
        let place = Place::of(index);
        let cell = match place.row {
            None => self.chunks.get(place.column),
            Some(row) => self.rows.get(row).and_then(|cell| {
                let row = cell.get_or_init(|| empty(CHUNKS << row));
                row.get(place.column)
            }),
        };
        let chunk = cell.map(|cell| cell.get_or_init(|| empty(place.chunk_length)));
        if let Some(slot) = chunk.and_then(|chunk| chunk.get(place.slot)) {
            let already_written = slot.set(value).is_err();
            debug_assert!(!already_written, "the one writer writes every slot once");
        }
    }

    /// Element `index`, if it was written.
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        let place = Place::of(index);
        let chunk = match place.row {
            None => self.chunks.get(place.column),
            Some(row) => self.rows.get(row)?.get()?.get(place.column),
        };
        chunk?.get()?.get(place.slot)?.get()
    }

    /// The elements of a range.
    pub(crate) fn range(&self, range: std::ops::Range<usize>) -> impl Iterator<Item = &T> {
        range.map_while(|index| self.get(index))
    }
}

fn empty<T>(length: usize) -> Box<[OnceLock<T>]> {
    (0..length).map(|_| OnceLock::new()).collect()
}

/// Where an element lies.
struct Place {
    /// In which row its chunk is; in none of them at first.
    row: Option<usize>,
    column: usize,
    chunk_length: usize,
    slot: usize,
}

impl Place {
    fn of(index: usize) -> Place {
        let shifted = index.saturating_add(1 << FIRST_CHUNK_BITS);
        let bits = shifted.ilog2().min(LAST_CHUNK_BITS);
        let growing = bits.saturating_sub(FIRST_CHUNK_BITS) as usize;
        let rest = shifted.saturating_sub(1 << bits);
        // Chunks of the last length follow each other; before, this is the whole rest.
        let chunk = growing.saturating_add(rest >> bits);
        let (row, column) = if chunk < CHUNKS {
            (None, chunk)
        } else {
            let row = (chunk / CHUNKS).ilog2();
            (Some(row as usize), chunk.saturating_sub(CHUNKS << row))
        };
        Place {
            row,
            column,
            chunk_length: 1 << bits,
            slot: rest & ((1usize << bits).saturating_sub(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_has_its_own_slot() {
        let log = AppendLog::default();
        for index in 0..100_000 {
            assert_eq!(log.get(index), None::<&usize>);
            log.set(index, index * 3);
        }
        for index in 0..100_000 {
            assert_eq!(log.get(index), Some(&(index * 3)));
        }
        assert_eq!(log.range(99_998..200_000).count(), 2);
    }

    /// A commit waits while a chunk is made: once a list of 65,000 batches made one of 65,000 more, which took
    /// milliseconds.
    #[test]
    fn no_chunk_or_row_grows_with_the_list_beyond_measure() {
        let mut last = None;
        for index in (0..20_000_000)
            .step_by(7)
            .chain(u32::MAX as usize - 9..u32::MAX as usize)
        {
            let place = Place::of(index);
            assert!(place.chunk_length <= 1024 && place.slot < place.chunk_length);
            let row = place.row.map_or(0, |row| CHUNKS << row);
            assert!(place.column < row.max(CHUNKS));
            assert!(place.row.is_none_or(|row| row < ROWS), "{index}");
            // In order, so that no two share one.
            let order = (place.row.map_or(0, |row| row + 1), place.column, place.slot);
            assert!(
                last.replace(order).is_none_or(|last| last < order),
                "{index}"
            );
        }
    }
}
