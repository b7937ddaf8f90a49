//! When memory is short: what the store still holds of versions that were replaced or deleted is free only once the
//! store sealed them (rule R14; sealing is the first thing pressure does).
//!
//! Invariant: a pure decision. A seal is asked for only while it frees something worth its syncs, so that a bucket full
//! of documents that are all needed is not sealed over and over.

use std::fmt::Debug;
use std::sync::Arc;

/// A seal must free so much of the quota: few seals on the way from the high mark to the quota.
const FREED_DIVISOR: u64 = 64;
/// And there must be so much of the quota to seal, in key and value bytes: whatever else keeps memory, a seal that
/// takes up next to nothing does not free it.
const UNSEALED_DIVISOR: u64 = 1024;

/// A bucket's memory, seen from the disk's side.
pub trait MemoryUse: Debug + Send + Sync + 'static {
    /// Whether it should be given back before clients are refused. Asked after every commit.
    fn is_short(&self) -> bool;
    /// The quota.
    fn quota_bytes(&self) -> u64;
    /// Bytes held of what is no key's newest version: not sealed yet, or kept by a checkpoint log.
    fn spare_bytes(&self) -> u64;
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

    fn quota_bytes(&self) -> u64 {
        u64::MAX
    }

    fn spare_bytes(&self) -> u64 {
        0
    }
}

/// Whether log shards are to be sealed for lack of memory: those with at least so many unsealed bytes.
pub(super) fn seals_from(memory: &dyn MemoryUse) -> Option<u64> {
    let quota = memory.quota_bytes();
    let frees = memory.is_short() && memory.spare_bytes() >= quota / FREED_DIVISOR;
    frees.then_some(quota / UNSEALED_DIVISOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Use {
        is_short: bool,
        spare: u64,
    }

    impl MemoryUse for Use {
        fn is_short(&self) -> bool {
            self.is_short
        }

        fn quota_bytes(&self) -> u64 {
            64 * 1024
        }

        fn spare_bytes(&self) -> u64 {
            self.spare
        }
    }

    #[test]
    fn only_what_is_short_and_frees_enough_is_sealed() {
        let of = |is_short, spare| seals_from(&Use { is_short, spare });
        assert_eq!(of(true, 1024), Some(64));
        assert_eq!(of(true, 1023), None);
        assert_eq!(of(false, 60_000), None);
        assert_eq!(seals_from(&AmpleMemory), None);
    }
}
