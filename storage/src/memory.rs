//! What items cost in memory: one token per item, charged when it is allocated and released with its last reference
//! (rule R14).
//!
//! Invariant: the bytes an account holds are those of its living tokens. A pool learns of them in steps, so that
//! vbuckets written on different threads do not fight over one cache line; it is behind by less than a step for
//! each account. Nothing here refuses or frees by itself: whoever writes asks first.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Bytes held by all accounts of a bucket, and the quota.
#[derive(Debug)]
pub struct MemoryPool {
    quota: AtomicU64,
    settled: AtomicI64,
}

impl MemoryPool {
    /// Bytes an account may be ahead of, or behind, what the pool knows: 128 of them make 2 MiB at most.
    const STEP_MAX: i64 = 16 * 1024;
    /// With a small quota the steps are smaller, so that it still means something.
    const STEPS_PER_QUOTA: i64 = 4096;
    /// Percent of the quota from which on memory is short: where the field has its high water mark.
    const HIGH_MARK_PERCENT: u64 = 85;

    /// An empty pool with this quota in bytes.
    #[must_use]
    pub const fn new(quota_bytes: u64) -> MemoryPool {
        MemoryPool {
            quota: AtomicU64::new(quota_bytes),
            settled: AtomicI64::new(0),
        }
    }

    /// The quota in bytes.
    #[must_use]
    pub fn quota_bytes(&self) -> u64 {
        self.quota.load(Ordering::Relaxed)
    }

    /// Changes the quota; what is held already stays.
    pub fn set_quota_bytes(&self, bytes: u64) {
        self.quota.store(bytes, Ordering::Relaxed);
    }

    /// Bytes held, as far as the accounts have told.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        u64::try_from(self.settled.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Whether memory is short: whoever can give some back should, before clients are refused.
    #[must_use]
    pub fn is_above_high_mark(&self) -> bool {
        let mark = u128::from(self.quota_bytes()) * u128::from(Self::HIGH_MARK_PERCENT);
        u128::from(self.held_bytes()) * 100 >= mark
    }

    fn step(&self) -> i64 {
        let quota = i64::try_from(self.quota_bytes()).unwrap_or(i64::MAX);
        (quota / Self::STEPS_PER_QUOTA).clamp(1, Self::STEP_MAX)
    }
}

/// The items of one vbucket in memory.
#[derive(Debug)]
pub struct MemoryAccount {
    pool: Arc<MemoryPool>,
    settled: AtomicI64,
    unsettled: AtomicI64,
}

impl MemoryAccount {
    /// An account of a pool that holds nothing yet.
    #[must_use]
    pub fn new(pool: Arc<MemoryPool>) -> MemoryAccount {
        MemoryAccount {
            pool,
            settled: AtomicI64::new(0),
            unsettled: AtomicI64::new(0),
        }
    }

    /// The pool it is part of.
    #[must_use]
    pub const fn pool(&self) -> &Arc<MemoryPool> {
        &self.pool
    }

    /// Bytes of this account's living tokens.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        let held = self.settled.load(Ordering::Relaxed) + self.unsettled.load(Ordering::Relaxed);
        u64::try_from(held).unwrap_or(0)
    }

    /// Charges `bytes`, whatever the quota says.
    #[must_use]
    pub fn charge(self: &Arc<Self>, bytes: u64) -> MemoryToken {
        self.change(signed(bytes));
        MemoryToken {
            account: Some(Arc::clone(self)),
            bytes,
        }
    }

    /// Charges `bytes` unless the bucket would then hold more than its quota and `allowance_bytes`.
    #[must_use]
    pub fn try_charge(self: &Arc<Self>, bytes: u64, allowance_bytes: u64) -> Option<MemoryToken> {
        let ahead = self.unsettled.load(Ordering::Relaxed);
        let held = self
            .pool
            .settled
            .load(Ordering::Relaxed)
            .saturating_add(ahead);
        let after = held.saturating_add(signed(bytes));
        let most = self.pool.quota_bytes().saturating_add(allowance_bytes);
        (after <= signed(most)).then(|| self.charge(bytes))
    }

    fn change(&self, by: i64) {
        let ahead = self.unsettled.fetch_add(by, Ordering::Relaxed) + by;
        if ahead.abs() >= self.pool.step() {
            self.settle();
        }
    }

    fn settle(&self) {
        let ahead = self.unsettled.swap(0, Ordering::Relaxed);
        self.settled.fetch_add(ahead, Ordering::Relaxed);
        self.pool.settled.fetch_add(ahead, Ordering::Relaxed);
    }
}

impl Drop for MemoryAccount {
    fn drop(&mut self) {
        self.settle();
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Bytes charged to an account, until this is dropped. The empty token costs nothing and belongs to nobody.
#[derive(Default)]
pub struct MemoryToken {
    account: Option<Arc<MemoryAccount>>,
    bytes: u64,
}

impl MemoryToken {
    /// Bytes charged.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A copy of an item is an item of its own, charged anew.
impl Clone for MemoryToken {
    fn clone(&self) -> MemoryToken {
        self.account
            .as_ref()
            .map_or_else(MemoryToken::default, |account| account.charge(self.bytes))
    }
}

impl Drop for MemoryToken {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.change(signed(self.bytes).saturating_neg());
        }
    }
}

/// Items are equal whoever pays for them.
impl PartialEq for MemoryToken {
    fn eq(&self, _other: &MemoryToken) -> bool {
        true
    }
}

impl Eq for MemoryToken {}

impl std::fmt::Debug for MemoryToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} B", self.bytes)
    }
}

#[cfg(test)]
mod tests;
