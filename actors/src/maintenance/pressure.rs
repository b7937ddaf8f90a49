//! When memory is short, in the order of rule R14: what the store still holds of versions that were replaced or deleted is
//! free only once the store **sealed** them; then the checkpoint logs **expel** what nobody needs any more; then the
//! streams that keep the most of them lose their **cursors**, and read from disk; and documents that are sealed are
//! **evicted** (`pager`). When hardly anything is, what is not sealed is.
//!
//! Invariant: pure decisions. Each is taken only while it frees something worth it, and only where it is worth a share of
//! the quota: a bucket full of documents that are all needed is neither sealed over and over into tiny segments, nor do
//! its streams lose their places.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use super::pager::Paged;
use storage::LogStore;

/// A seal must free so much of the quota: few seals on the way from the high mark to the quota.
const FREED_DIVISOR: u64 = 64;
/// And there must be so much of the quota to seal, shared by the log shards: whatever else keeps memory, a seal that
/// takes up next to nothing does not free it. In key and value bytes, of which small documents keep several times as
/// much in memory.
const UNSEALED_DIVISOR: u64 = 128;
/// However many log shards share that, so much for each.
const UNSEALED_IN_ONE_DIVISOR: u64 = 1024;

/// While memory is short and something is kept that may be free later (what is being flushed, what a stream reads now), it
/// is looked for so often.
pub(super) const AGAIN: Duration = Duration::from_millis(100);

/// So often at most the store counts what is not in memory: it looks at all that is not sealed.
pub(super) const COUNT_EVERY: Duration = Duration::from_secs(10);

/// How long documents are left in peace of which hardly any could leave so often in a row: looking at all of them takes time,
/// too.
pub(super) fn paging_wait(fruitless: u32) -> Duration {
    AGAIN.saturating_mul(1 << fruitless.min(6))
}

/// A bucket's memory, seen from the disk's side.
pub trait MemoryUse: Debug + Send + Sync + 'static {
    /// Whether it should be given back before clients are refused. Asked after every commit.
    fn is_short(&self) -> bool;
    /// Bytes from which on it is short.
    fn short_from_bytes(&self) -> u64;
    /// Bytes held of what is no key's newest version: not sealed yet, or kept by a checkpoint log.
    fn spare_bytes(&self) -> u64;
    /// Has the checkpoint logs give back what nobody needs, those that hold at least so much.
    fn expel(&self, from_bytes: u64);
    /// Has streams give back what only they keep, where that is at least so much, the most first, while memory is short;
    /// how many lost their places.
    fn drop_cursors(&self, from_bytes: u64) -> usize;
    /// How many vbuckets share it.
    fn vbuckets(&self) -> u16;
    /// Whether clients are about to be refused.
    fn is_urgent(&self) -> bool;
    /// Has some documents leave, if memory is short.
    fn evict(&self) -> Paged;
    /// Whether more would leave if more were sealed.
    fn waits_for_seals(&self) -> bool;
    /// Has the store count what is not in memory; whether that is all there is, with nothing on its way to the disk.
    fn count_stored(&self, store: &LogStore) -> bool;
}

/// Memory that is never short: of a store whose items nobody counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct AmpleMemory;

impl AmpleMemory {
    /// For a configuration.
    #[must_use]
    pub fn shared() -> Arc<dyn MemoryUse> {
        Arc::new(AmpleMemory)
    }
}

impl MemoryUse for AmpleMemory {
    fn is_short(&self) -> bool {
        false
    }

    fn short_from_bytes(&self) -> u64 {
        u64::MAX
    }

    fn spare_bytes(&self) -> u64 {
        0
    }

    fn expel(&self, _: u64) {}

    fn drop_cursors(&self, _: u64) -> usize {
        0
    }

    fn vbuckets(&self) -> u16 {
        0
    }

    fn is_urgent(&self) -> bool {
        false
    }

    fn evict(&self) -> Paged {
        Paged::Enough
    }

    fn waits_for_seals(&self) -> bool {
        false
    }

    fn count_stored(&self, _: &LogStore) -> bool {
        true
    }
}

/// Whether memory is short, and enough of it could be free.
fn could_be_freed(memory: &dyn MemoryUse) -> bool {
    let is_enough = || memory.spare_bytes() >= memory.short_from_bytes() / FREED_DIVISOR;
    memory.is_short() && (memory.waits_for_seals() || is_enough())
}

/// Whether log shards are to be sealed for lack of memory: those with at least so many unsealed bytes.
pub(super) fn seals_from(memory: &dyn MemoryUse, log_shards: u16) -> Option<u64> {
    let marked = memory.short_from_bytes();
    let share = (marked / UNSEALED_DIVISOR) / u64::from(log_shards.max(1));
    could_be_freed(memory).then_some(share.max(marked / UNSEALED_IN_ONE_DIVISOR))
}

/// Behind sealing: has the checkpoint logs give back what they can, as far as it is needed. Whether more may be free later.
pub(super) fn relieve_logs(memory: &dyn MemoryUse) -> bool {
    if !could_be_freed(memory) {
        return false;
    }
    let share = (memory.short_from_bytes() / FREED_DIVISOR) / u64::from(memory.vbuckets().max(1));
    memory.expel(share);
    if could_be_freed(memory) {
        let dropped = memory.drop_cursors(share);
        if dropped > 0 {
            tracing::info!(dropped, "memory is short: slow streams read from disk");
        }
    }
    could_be_freed(memory)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use parking_lot::Mutex;

    use super::*;

    /// What is spare, and how much of it expelling and dropping cursors would free.
    #[derive(Debug, Default)]
    struct Use {
        is_short: bool,
        spare: AtomicU64,
        expellable: u64,
        droppable: u64,
        waits_for_seals: bool,
        asked: Mutex<Vec<(&'static str, u64)>>,
    }

    impl Use {
        fn of(is_short: bool, spare: u64) -> Use {
            Use {
                is_short,
                spare: AtomicU64::new(spare),
                ..Use::default()
            }
        }

        fn free(&self, what: &'static str, from: u64, bytes: u64) {
            self.asked.lock().push((what, from));
            self.spare.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    impl MemoryUse for Use {
        fn is_short(&self) -> bool {
            self.is_short
        }

        fn short_from_bytes(&self) -> u64 {
            64 * 1024
        }

        fn spare_bytes(&self) -> u64 {
            self.spare.load(Ordering::Relaxed)
        }

        fn expel(&self, from_bytes: u64) {
            self.free("expel", from_bytes, self.expellable);
        }

        fn drop_cursors(&self, from_bytes: u64) -> usize {
            self.free("drop cursors", from_bytes, self.droppable);
            1
        }

        fn vbuckets(&self) -> u16 {
            4
        }

        fn is_urgent(&self) -> bool {
            false
        }

        fn evict(&self) -> Paged {
            Paged::Enough
        }

        fn waits_for_seals(&self) -> bool {
            self.waits_for_seals
        }

        fn count_stored(&self, _: &LogStore) -> bool {
            true
        }
    }

    #[test]
    fn logs_give_back_in_order_and_only_what_is_needed() {
        let rows: [(u64, u64, u64, &[_], bool); 5] = [
            (1023, 0, 0, &[], false),
            (2000, 1500, 0, &[("expel", 256)], false),
            (
                2000,
                500,
                800,
                &[("expel", 256), ("drop cursors", 256)],
                false,
            ),
            // What is kept otherwise may be free later.
            (2000, 0, 0, &[("expel", 256), ("drop cursors", 256)], true),
            (
                5000,
                500,
                500,
                &[("expel", 256), ("drop cursors", 256)],
                true,
            ),
        ];
        for (spare, expellable, droppable, asked, is_later) in rows {
            let memory = Use {
                expellable,
                droppable,
                ..Use::of(true, spare)
            };
            assert_eq!(relieve_logs(&memory), is_later, "{memory:?}");
            assert_eq!(*memory.asked.lock(), asked);
        }
        let ample = Use::of(false, 60_000);
        assert!(!relieve_logs(&ample));
        assert_eq!(*ample.asked.lock(), []);
    }

    #[test]
    fn only_what_is_short_and_frees_enough_is_sealed() {
        let of = |is_short, spare| seals_from(&Use::of(is_short, spare), 64);
        assert_eq!(of(true, 1024), Some(64));
        assert_eq!(of(true, 1023), None);
        assert_eq!(of(false, 60_000), None);
        assert_eq!(seals_from(&AmpleMemory, 1), None);
    }

    #[test]
    fn what_cannot_leave_is_looked_at_less_and_less_often() {
        assert_eq!(paging_wait(0), AGAIN);
        assert_eq!(paging_wait(3), 8 * AGAIN);
        assert_eq!(paging_wait(100), 64 * AGAIN);
    }

    #[test]
    fn what_must_be_sealed_to_leave_is_sealed_whatever_else_that_frees() {
        let memory = Use {
            waits_for_seals: true,
            ..Use::of(true, 0)
        };
        assert_eq!(seals_from(&memory, 64), Some(64));
        let ample = Use {
            waits_for_seals: true,
            ..Use::of(false, 0)
        };
        assert_eq!(seals_from(&ample, 64), None);
    }

    #[test]
    fn what_is_sealed_is_worth_a_share_of_the_quota() {
        let kept = Use::of(true, 60_000);
        assert_eq!(seals_from(&kept, 0), Some(512));
        assert_eq!(seals_from(&kept, 1), Some(512));
        assert_eq!(seals_from(&kept, 4), Some(128));
        assert_eq!(seals_from(&kept, 1000), Some(64));
    }
}
