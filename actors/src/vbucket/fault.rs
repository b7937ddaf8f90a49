//! Faults a test asks for: a panic at one of the steps of a change under the vbucket's lock (rule R16).
//!
//! Invariant: without the `testing` feature there is nothing to ask with, and passing a point costs nothing.

/// The steps between which a panic may strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ChangeStep {
    /// The lock is held, nothing is done yet.
    Locked = 1,
    /// The change is noted.
    Noted,
    /// It is in the checkpoint log: it happened.
    Appended,
    /// It is in the map.
    Mapped,
    /// The note is cleared; it is not answered yet.
    Cleared,
    /// The durability monitor was told of it; nobody is answered yet.
    Tracked,
    /// The vbucket is something else, and nothing that follows from it was done.
    Identified,
    /// The flusher took what is to be written; nobody has it yet.
    Taken,
    /// The repair of what a panic left holds the lock, and did nothing yet.
    Repairing,
}

impl ChangeStep {
    /// Those of a change of a document, in their order.
    pub const ALL: [ChangeStep; 5] = [
        ChangeStep::Locked,
        ChangeStep::Noted,
        ChangeStep::Appended,
        ChangeStep::Mapped,
        ChangeStep::Cleared,
    ];

    /// Those of a prepare, a commit and an abort, in their order.
    pub const OF_DURABLE: [ChangeStep; 6] = [
        ChangeStep::Locked,
        ChangeStep::Noted,
        ChangeStep::Appended,
        ChangeStep::Mapped,
        ChangeStep::Cleared,
        ChangeStep::Tracked,
    ];
}

#[cfg(not(any(test, feature = "testing")))]
#[derive(Debug, Default)]
pub(super) struct Faults {}

#[cfg(not(any(test, feature = "testing")))]
impl Faults {
    #[inline]
    #[expect(
        clippy::unused_self,
        reason = "with the feature there is something to look at"
    )]
    pub(super) const fn reached(&self, _point: ChangeStep) {}
}

#[cfg(any(test, feature = "testing"))]
pub(super) use armed::Faults;

#[cfg(any(test, feature = "testing"))]
mod armed {
    use std::sync::atomic::{AtomicU16, Ordering};

    use super::ChangeStep;
    use crate::vbucket::core::VbucketCore;

    /// Which point panics next, in the low byte (zero is none), and how often, in the high one.
    #[derive(Debug, Default)]
    pub(in crate::vbucket) struct Faults(AtomicU16);

    impl Faults {
        pub(in crate::vbucket) fn reached(&self, point: ChangeStep) {
            let once_less = |armed: u16| {
                let [wanted, times] = armed.to_le_bytes();
                let left = times.saturating_sub(1);
                let is_mine = wanted == point as u8;
                let next = if left == 0 { [0, 0] } else { [wanted, left] };
                is_mine.then_some(u16::from_le_bytes(next))
            };
            let (done, seen) = (Ordering::Relaxed, Ordering::Relaxed);
            let is_mine = self.0.fetch_update(done, seen, once_less).is_ok();
            assert!(!is_mine, "injected: {point:?}");
        }
    }

    impl VbucketCore {
        /// The next change that reaches `point` panics there, once.
        pub fn panic_at(&self, point: ChangeStep) {
            self.panic_times(point, 1);
        }

        /// The next `times` that `point` is reached panic there.
        pub fn panic_times(&self, point: ChangeStep, times: u8) {
            self.faults.arm([point as u8, times]);
        }

        /// Takes back panics that did not strike; whether there were any.
        pub fn disarm(&self) -> bool {
            self.faults.arm([0, 0]) != 0
        }
    }

    impl Faults {
        fn arm(&self, armed: [u8; 2]) -> u16 {
            self.0.swap(u16::from_le_bytes(armed), Ordering::Relaxed)
        }
    }
}
