//! A blocked Bloom filter over the distinct index keys: all bits of a key lie in one cache line.
//!
//! Invariant: it never denies a key that was put in. At ten bits a key it says "maybe" to about one absent key in
//! a hundred, for one cache miss.

use xxhash_rust::xxh3::xxh3_64;

use super::fields::Decoded;

const BITS_PER_KEY: usize = 10;
const LINE_BYTES: usize = 64;
const LINE_BITS: usize = LINE_BYTES * 8;
/// Bits set per key: the best number at ten bits a key when they share a line.
const PROBES: u32 = 6;
/// Spreads the hash anew, so that the bits inside a line do not follow from the choice of the line.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash the filter asks for.
pub(crate) fn hash(index_key: &[u8]) -> u64 {
    xxh3_64(index_key)
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[repr(align(64))]
struct Line([u64; 8]);

impl Line {
    /// The bits a key sets, as (word, mask).
    fn probes(key_hash: u64) -> impl Iterator<Item = (usize, u64)> {
        let mixed = key_hash.wrapping_mul(MIX).rotate_right(32);
        (0..PROBES).map(move |probe| {
            let place = mixed >> (probe * 9);
            (word_of(place), 1 << (place & 63))
        })
    }

    fn holds(&self, key_hash: u64) -> bool {
        Line::probes(key_hash)
            .all(|(word, mask)| self.0.get(word).is_some_and(|bits| bits & mask != 0))
    }

    fn insert(&mut self, key_hash: u64) {
        for (word, mask) in Line::probes(key_hash) {
            if let Some(bits) = self.0.get_mut(word) {
                *bits |= mask;
            }
        }
    }
}

/// Which of the eight words a nine-bit place lies in.
fn word_of(place: u64) -> usize {
    usize::from((place >> 6).to_le_bytes()[0] & 7)
}

/// The filter, in memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter {
    lines: Vec<Line>,
}

impl Filter {
    /// An empty filter with room for so many keys.
    pub(super) fn with_room(keys: usize) -> Filter {
        let bits = keys.saturating_mul(BITS_PER_KEY);
        Filter {
            lines: vec![Line::default(); bits.div_ceil(LINE_BITS).max(1)],
        }
    }

    /// Puts in a key of that hash.
    pub(super) fn insert(&mut self, key_hash: u64) {
        let place = self.line_of(key_hash);
        if let Some(line) = self.lines.get_mut(place) {
            line.insert(key_hash);
        }
    }

    /// A filter of the keys with these hashes.
    pub(super) fn build(key_hashes: &[u64]) -> Filter {
        let mut filter = Filter::with_room(key_hashes.len());
        for &key_hash in key_hashes {
            filter.insert(key_hash);
        }
        filter
    }

    /// Whether a key of that hash may be in the segment; `false` is certain.
    pub(super) fn may_hold(&self, key_hash: u64) -> bool {
        self.lines
            .get(self.line_of(key_hash))
            .is_none_or(|line| line.holds(key_hash))
    }

    fn line_of(&self, key_hash: u64) -> usize {
        let scaled = u128::from(key_hash) * self.lines.len() as u128;
        // Below the number of lines, because the hash is below 2^64.
        usize::try_from(scaled >> 64).unwrap_or(0)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        self.lines
            .iter()
            .flat_map(|line| line.0)
            .flat_map(u64::to_le_bytes)
            .collect()
    }

    pub(super) fn decode(bytes: &[u8]) -> Decoded<Filter> {
        let (lines, rest) = bytes.as_chunks::<LINE_BYTES>();
        if lines.is_empty() || !rest.is_empty() {
            return Err("the filter is no whole number of lines");
        }
        let lines = lines.iter().map(|line| {
            let mut words = [0; 8];
            for (word, bytes) in words.iter_mut().zip(line.as_chunks::<8>().0) {
                *word = u64::from_le_bytes(*bytes);
            }
            Line(words)
        });
        Ok(Filter {
            lines: lines.collect(),
        })
    }
}
