//! When memory is short: what the store still holds of versions that were replaced or deleted is free only once the
//! store sealed them (rule R14; sealing is the first thing pressure does).
//!
//! Invariant: a pure decision. A seal is asked for only while it frees something worth its syncs, and only where what
//! is unsealed is worth a share of the quota: neither a bucket full of documents that are all needed, nor one whose
//! memory a slow stream keeps, is sealed over and over into tiny segments.

use std::fmt::Debug;
use std::sync::Arc;

/// A seal must free so much of the quota: few seals on the way from the high mark to the quota.
const FREED_DIVISOR: u64 = 64;
/// And there must be so much of the quota to seal, shared by the log shards: whatever else keeps memory, a seal that
/// takes up next to nothing does not free it. In key and value bytes, of which small documents keep several times as
/// much in memory.
const UNSEALED_DIVISOR: u64 = 128;
/// However many log shards share that, so much for each.
const UNSEALED_IN_ONE_DIVISOR: u64 = 1024;

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
pub(super) fn seals_from(memory: &dyn MemoryUse, log_shards: u16) -> Option<u64> {
    let quota = memory.quota_bytes();
    let frees = memory.is_short() && memory.spare_bytes() >= quota / FREED_DIVISOR;
    let share = (quota / UNSEALED_DIVISOR) / u64::from(log_shards.max(1));
    frees.then_some(share.max(quota / UNSEALED_IN_ONE_DIVISOR))
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
        let of = |is_short, spare| seals_from(&Use { is_short, spare }, 64);
        assert_eq!(of(true, 1024), Some(64));
        assert_eq!(of(true, 1023), None);
        assert_eq!(of(false, 60_000), None);
        assert_eq!(seals_from(&AmpleMemory, 1), None);
    }

    #[test]
    fn what_is_sealed_is_worth_a_share_of_the_quota() {
        let kept = Use {
            is_short: true,
            spare: 60_000,
        };
        assert_eq!(seals_from(&kept, 0), Some(512));
        assert_eq!(seals_from(&kept, 1), Some(512));
        assert_eq!(seals_from(&kept, 4), Some(128));
        assert_eq!(seals_from(&kept, 1000), Some(64));
    }
}
