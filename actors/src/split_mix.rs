//! Numbers from a seed (splitmix64): short, lock-free, and the same on every machine.
//!
//! Invariant: the n-th number depends on the seed and n alone; every state has one successor, so no seed is bad.

use std::sync::atomic::{AtomicU64, Ordering};

const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;

/// A source of numbers that any number of threads may draw from.
#[derive(Debug)]
pub(crate) struct SplitMix {
    state: AtomicU64,
}

impl SplitMix {
    pub(crate) fn new(seed: u64) -> SplitMix {
        SplitMix {
            state: AtomicU64::new(seed),
        }
    }

    pub(crate) fn next(&self) -> u64 {
        let before = self.state.fetch_add(STRIDE, Ordering::Relaxed);
        mix(before.wrapping_add(STRIDE))
    }
}

/// Spreads every bit of `number` over all of the result.
pub(crate) fn mix(number: u64) -> u64 {
    let mut mixed = number;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
