//! Bytes of changes that wait for the store, or behind others that do: nothing else bounds what their values take.
//!
//! Invariant: for the bucket as a whole no more of them wait than the bound, or one, however large it is. Taken by `knowing`
//! for whatever it makes wait, given back when that is done or its future dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use messages::{Busy, OperationError};

/// Three of the largest documents, or sixteen KiB for each of as many as may wait in one order.
const BYTES_MAX: u64 = 64 << 20;

/// Those of a bucket.
#[derive(Debug, Default)]
pub(super) struct WaitingBytes(AtomicU64);

/// The share of one change.
#[derive(Debug)]
pub(super) struct Waits {
    of: Arc<WaitingBytes>,
    bytes: u64,
}

impl WaitingBytes {
    /// Makes a change of so many bytes wait; refused when too much waits already.
    pub(super) fn take(self: &Arc<WaitingBytes>, bytes: u64) -> Result<Waits, OperationError> {
        let more = |waiting: u64| {
            let all = waiting.saturating_add(bytes);
            (waiting == 0 || bytes == 0 || all <= BYTES_MAX).then_some(all)
        };
        let (set, fetch) = (Ordering::AcqRel, Ordering::Acquire);
        match self.0.fetch_update(set, fetch, more) {
            Ok(_) => Ok(Waits {
                of: Arc::clone(self),
                bytes,
            }),
            Err(_) => Err(OperationError::TemporaryFailure(Busy::Queue)),
        }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.of.0.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: OperationError = OperationError::TemporaryFailure(Busy::Queue);

    #[test]
    fn so_much_waits_and_no_more() {
        let all = Arc::new(WaitingBytes::default());
        let half = BYTES_MAX / 2;
        let first = all.take(half).unwrap();
        let second = all.take(half).unwrap();
        assert_eq!(all.take(1).unwrap_err(), REFUSED);
        // What brings no value waits all the same.
        drop(all.take(0).unwrap());
        drop(first);
        assert_eq!(all.take(half + 1).unwrap_err(), REFUSED);
        drop((all.take(half).unwrap(), second));
        assert_eq!(all.0.load(Ordering::Acquire), 0);
        // One that is larger than all that may wait does so alone.
        let largest = all.take(BYTES_MAX * 2).unwrap();
        assert_eq!(all.take(1).unwrap_err(), REFUSED);
        drop(largest);
        drop(all.take(1).unwrap());
    }
}
