//! What a consumer acknowledged: bytes, for flow control (how much more may be sent), and of a replica the prepares it
//! holds.
//!
//! Invariant: what was acknowledged is shared and only rises, so an acknowledgement is never lost in a mailbox; it never
//! passes what was sent. It is of one stream, and goes with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use messages::stream::StreamError;
use storage::Seqno;

/// Most that is sent at once, whatever may be under way: a slice of a shared thread's time.
const BATCH_BYTES_MAX: u64 = 256 << 10;

/// What a consumer has acknowledged. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged(Arc<Words>);

#[derive(Debug, Default)]
struct Words {
    bytes: AtomicU64,
    prepared: AtomicU64,
}

impl Acknowledged {
    /// It is done with so many bytes more.
    pub fn add(&self, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// It holds every prepare up to `seqno` as strongly as that asks.
    pub fn prepared_up_to(&self, seqno: Seqno) {
        self.0.prepared.fetch_max(seqno.0, Ordering::AcqRel);
    }

    /// Up to where it holds every prepare, as far as it said.
    #[must_use]
    pub fn prepared(&self) -> Seqno {
        Seqno(self.0.prepared.load(Ordering::Acquire))
    }

    fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Acquire)
    }
}

/// The window of one stream.
#[derive(Debug)]
pub(super) struct Window {
    size: Option<u64>,
    sent: u64,
    acknowledged: Acknowledged,
}

impl Window {
    pub(super) fn new(size: Option<u64>, acknowledged: Acknowledged) -> Window {
        Window {
            size: size.map(|size| size.max(1)),
            sent: 0,
            acknowledged,
        }
    }

    /// What its consumer says it is done with.
    pub(super) fn words(&self) -> Acknowledged {
        self.acknowledged.clone()
    }

    /// Bytes that may be sent now; one event may overshoot them.
    pub(super) fn room(&self) -> u64 {
        let Some(size) = self.size else {
            return BATCH_BYTES_MAX;
        };
        size.saturating_sub(self.outstanding()).min(BATCH_BYTES_MAX)
    }

    pub(super) fn note_sent(&mut self, bytes: u64) {
        self.sent = self.sent.saturating_add(bytes);
    }

    pub(super) fn acknowledge(&self, bytes: u64) -> Result<(), StreamError> {
        let outstanding = self.outstanding();
        if bytes > outstanding {
            return Err(StreamError::AcknowledgedTooMuch {
                acknowledged: bytes,
                outstanding,
            });
        }
        self.acknowledged.add(bytes);
        Ok(())
    }

    fn outstanding(&self) -> u64 {
        self.sent.saturating_sub(self.acknowledged.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outstanding_takes_room_until_it_is_acknowledged() {
        let mut window = Window::new(Some(100), Acknowledged::default());
        assert_eq!(window.room(), 100);
        window.note_sent(130);
        assert_eq!(window.room(), 0);
        assert_eq!(window.acknowledge(50), Ok(()));
        assert_eq!(window.room(), 20);
        let refused = StreamError::AcknowledgedTooMuch {
            acknowledged: 81,
            outstanding: 80,
        };
        assert_eq!(window.acknowledge(81), Err(refused));
        assert_eq!(window.acknowledge(80), Ok(()));
        assert_eq!(window.room(), 100);
    }

    #[test]
    fn without_a_size_only_the_slice_counts() {
        let mut window = Window::new(None, Acknowledged::default());
        window.note_sent(1 << 40);
        assert_eq!(window.room(), BATCH_BYTES_MAX);
    }
}
