//! What items cost in memory: one token per item, charged when it is allocated and released with its last reference
//! (rule R14).
//!
//! Invariant: the bytes an account holds are those of its living tokens. A pool learns of them in steps, so that
//! vbuckets written on different threads do not fight over one cache line; it is behind by less than a step for
//! each account. Nothing here refuses or frees by itself: whoever writes asks first.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Bytes held by all accounts of a bucket, and the quota.
#[derive(Debug)]
pub struct MemoryPool {
    quota: AtomicU64,
    settled: AtomicI64,
    marks: MemoryMarks,
    /// The most that was refused and would not have been, had more been free; zero if nothing is asked for.
    wanted: AtomicU64,
    when_wanted: OnceLock<WhenWanted>,
}

/// Who gives memory back, to be told that more is asked for.
struct WhenWanted(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for WhenWanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WhenWanted")
    }
}

/// When memory is short, and when it is no longer: parts of the quota in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryMarks {
    /// From here on it should be given back.
    pub high_percent: u8,
    /// Down to here documents are evicted.
    pub low_percent: u8,
}

impl MemoryMarks {
    /// Memory is always short: whatever can leave it does. For tests.
    pub const ALL_LEAVES: MemoryMarks = MemoryMarks {
        high_percent: 0,
        low_percent: 0,
    };
}

impl Default for MemoryMarks {
    /// The field's water marks.
    fn default() -> MemoryMarks {
        MemoryMarks::USUAL
    }
}

impl MemoryMarks {
    const USUAL: MemoryMarks = MemoryMarks {
        high_percent: 85,
        low_percent: 75,
    };
}

impl MemoryPool {
    /// Bytes an account may be ahead of, or behind, what the pool knows: 128 of them make 2 MiB at most.
    const STEP_MAX: i64 = 16 * 1024;
    /// With a small quota the steps are smaller, so that it still means something.
    const STEPS_PER_QUOTA: i64 = 4096;
    /// Percent of the quota from which on clients are about to be refused.
    const URGENT_PERCENT: u8 = 95;

    /// An empty pool with this quota in bytes.
    #[must_use]
    pub const fn new(quota_bytes: u64) -> MemoryPool {
        MemoryPool {
            quota: AtomicU64::new(quota_bytes),
            settled: AtomicI64::new(0),
            marks: MemoryMarks::USUAL,
            wanted: AtomicU64::new(0),
            when_wanted: OnceLock::new(),
        }
    }

    /// Has `wake` called when more is asked for than is free below the marks. The first one counts.
    pub fn when_wanted(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.when_wanted.get_or_init(|| WhenWanted(Box::new(wake)));
    }

    /// A client was refused so many bytes: they are to be free when it comes again, if they ever can be. A large document may
    /// find no room though memory is not short.
    pub fn note_refused(&self, bytes: u64) {
        if bytes > self.quota_bytes() || self.wanted.fetch_max(bytes, Ordering::Relaxed) >= bytes {
            return;
        }
        if let Some(WhenWanted(wake)) = self.when_wanted.get() {
            wake();
        }
    }

    /// What was refused is not asked for any more.
    pub fn forget_refused(&self) {
        self.wanted.store(0, Ordering::Relaxed);
    }

    /// Bytes to be given back for what was refused; once there are none that is forgotten.
    #[must_use]
    pub fn lacks_bytes(&self) -> u64 {
        let wanted = self.wanted.load(Ordering::Relaxed);
        let lacks = self
            .held_bytes()
            .saturating_add(wanted)
            .saturating_sub(self.quota_bytes());
        if wanted > 0 && lacks == 0 {
            self.wanted.store(0, Ordering::Relaxed);
        }
        if wanted > 0 { lacks } else { 0 }
    }

    /// The same with other marks.
    #[must_use]
    pub const fn marked(mut self, marks: MemoryMarks) -> MemoryPool {
        self.marks = marks;
        self
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
        self.held_bytes() >= self.high_mark_bytes()
    }

    /// Bytes from which on memory is short.
    #[must_use]
    pub fn high_mark_bytes(&self) -> u64 {
        self.percent(self.marks.high_percent)
    }

    /// Bytes held above the mark down to which documents are evicted.
    #[must_use]
    pub fn above_low_mark(&self) -> u64 {
        let mark = self.percent(self.marks.low_percent);
        self.held_bytes().saturating_sub(mark)
    }

    /// Whether clients are about to be refused.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.held_bytes() >= self.percent(Self::URGENT_PERCENT)
    }

    /// So many percent of the quota, rounded up.
    fn percent(&self, percent: u8) -> u64 {
        let bytes = (u128::from(self.quota_bytes()) * u128::from(percent)).div_ceil(100);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    fn step(&self) -> i64 {
        let marked = i64::try_from(self.high_mark_bytes()).unwrap_or(i64::MAX);
        (marked / Self::STEPS_PER_QUOTA).clamp(1, Self::STEP_MAX)
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

    /// A client was refused so many bytes; see [`MemoryPool::note_refused`].
    pub fn note_refused(&self, bytes: u64) {
        // As it was judged: with what the pool is not told yet.
        self.settle();
        self.pool.note_refused(bytes);
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
        // An item is far smaller: the token says so in four bytes.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.change(i64::from(bytes));
        MemoryToken {
            account: Some(Arc::clone(self)),
            bytes,
            uses: AtomicU8::new(MemoryToken::USES_FIRST),
            is_without_value: false,
        }
    }

    /// Charges `bytes` unless the bucket would then hold more than its quota and `allowance_bytes`.
    #[must_use]
    pub fn try_charge(self: &Arc<Self>, bytes: u64, allowance_bytes: u64) -> Option<MemoryToken> {
        let most = self.pool.quota_bytes().saturating_add(allowance_bytes);
        self.has_room(bytes, most).then(|| self.charge(bytes))
    }

    /// Whether the bucket would hold no more than `most_bytes` with so many more.
    #[must_use]
    pub fn has_room(&self, bytes: u64, most_bytes: u64) -> bool {
        let ahead = self.unsettled.load(Ordering::Relaxed);
        let held = self
            .pool
            .settled
            .load(Ordering::Relaxed)
            .saturating_add(ahead);
        held.saturating_add(signed(bytes)) <= signed(most_bytes)
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

/// Bytes charged to an account, until this is dropped. The empty token costs nothing and belongs to nobody. It also knows how
/// often its item was used lately, and whether it pays for the item's value, in bytes that would be padding.
#[derive(Default)]
pub struct MemoryToken {
    account: Option<Arc<MemoryAccount>>,
    bytes: u32,
    uses: AtomicU8,
    /// The value is on disk alone: this pays for the rest.
    is_without_value: bool,
}

impl MemoryToken {
    /// What is new is not the first to go.
    const USES_FIRST: u8 = 1;
    /// More are not told apart.
    const USES_MAX: u8 = 3;

    /// Bytes charged.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        u64::from(self.bytes)
    }

    /// Its item's value left memory, or never came there: from now on this pays for the rest, so many bytes.
    pub fn leave_out_value(&mut self, bytes: u64) {
        let less = self
            .bytes
            .saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.bytes = self.bytes.saturating_sub(less);
        self.is_without_value = true;
        if let Some(account) = &self.account {
            account.change(i64::from(less).saturating_neg());
        }
    }

    /// Whether its item has its value in memory.
    #[must_use]
    pub const fn has_value(&self) -> bool {
        !self.is_without_value
    }

    /// Its item was used. What is used all the time is not written to.
    #[inline]
    pub fn note_use(&self) {
        let uses = self.uses.load(Ordering::Relaxed);
        if uses < Self::USES_MAX {
            // One that comes between may be lost.
            self.uses.store(uses.saturating_add(1), Ordering::Relaxed);
        }
    }

    /// Takes one use off: whether there was one.
    pub fn take_use(&self) -> bool {
        let uses = self.uses.load(Ordering::Relaxed);
        let is_used = uses > 0;
        if is_used {
            self.uses.store(uses.saturating_sub(1), Ordering::Relaxed);
        }
        is_used
    }

    /// Its item takes the place of another, and is used as often.
    pub fn take_over_uses(&self, of: &MemoryToken) {
        let uses = of.uses.load(Ordering::Relaxed);
        if uses > Self::USES_FIRST {
            self.uses.store(uses, Ordering::Relaxed);
        }
    }
}

/// A copy of an item is an item of its own, charged anew.
impl Clone for MemoryToken {
    fn clone(&self) -> MemoryToken {
        let charged = self.account.as_ref();
        let mut token =
            charged.map_or_else(MemoryToken::default, |account| account.charge(self.bytes()));
        token.is_without_value = self.is_without_value;
        token
    }
}

impl Drop for MemoryToken {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.change(i64::from(self.bytes).saturating_neg());
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

impl fmt::Debug for MemoryToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.bytes)
    }
}

#[cfg(test)]
mod tests;
