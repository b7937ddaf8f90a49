//! A slice of a thread's time, which all streams of the thread share in a look, as what may be done in it.
//!
//! Invariant: whoever has used it up does no more, so that a message waits for one slice and no longer, however many
//! streams there are and whatever they have to say; the piece under way is bounded by itself.

/// Items looked at in a slice, those a stream is not for included.
const ITEMS_MAX: usize = 4096;
/// Bytes sent in a slice.
const BYTES_MAX: u64 = 1 << 20;

/// What is left of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    items: usize,
    bytes: u64,
}

impl Default for Slice {
    fn default() -> Slice {
        Slice {
            items: ITEMS_MAX,
            bytes: BYTES_MAX,
        }
    }
}

impl Slice {
    pub(super) fn spend_items(&mut self, items: usize) {
        self.items = self.items.saturating_sub(items);
    }

    pub(super) fn spend_bytes(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub(super) const fn is_used_up(&self) -> bool {
        self.items == 0 || self.bytes == 0
    }
}
