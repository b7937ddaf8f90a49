//! How large the caches of peers are: as they are by default here, or as a row says while it runs.
//!
//! Invariant: set between rounds only, by the one thread that measures; read when a peer is opened.

use std::sync::atomic::{AtomicU64, Ordering};

static BYTES: AtomicU64 = AtomicU64::new(0);

/// From now on they are so large.
pub(crate) fn set_bytes(bytes: u64) {
    BYTES.store(bytes, Ordering::Relaxed);
}

/// From now on they are as large as usual.
pub(crate) fn set_usual() {
    set_bytes(0);
}

/// How large one is that usually is so large.
#[cfg(any(feature = "fjall", feature = "redb", feature = "rocksdb"))]
pub(super) fn bytes(usual: u64) -> u64 {
    match BYTES.load(Ordering::Relaxed) {
        0 => usual,
        bytes => bytes,
    }
}
