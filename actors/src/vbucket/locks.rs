//! Documents that somebody has locked: for a while only who names the lock's CAS changes them.
//!
//! Invariant: a lock is of one version, so any change of the document ends it, however the change came and wherever a panic
//! struck; it ends by the monotonic clock, and none outlives the vbucket's role. Nothing of it is on disk or told to replicas.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::core::VbucketCore;
use super::fault::ChangeStep;
use super::lookup::LookedUp;
use super::operations::found;
use super::rule::Rule;
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicUsize, Ordering};
use messages::vbucket::{Found, GetAndLock, Unlock};
use messages::{Busy, OperationError};
use storage::{Cas, DocumentKey, Seqno};

/// Most locks of one vbucket.
const LOCKS_MAX: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Lock {
    /// The version that is locked.
    seqno: Seqno,
    /// What its holder names.
    cas: Cas,
    /// When it ends.
    until: Duration,
}

/// The locks of a vbucket: changed under its lock only, looked at by readers without it.
#[derive(Debug, Default)]
pub(super) struct Locks {
    table: RwLock<BTreeMap<DocumentKey, Lock>>,
    count: AtomicUsize,
}

impl Locks {
    /// The CAS of the lock on this version, if there is one. Costs one look at a number where nothing is locked.
    #[inline]
    pub(super) fn of(
        &self,
        key: &DocumentKey,
        seqno: Seqno,
        now: impl FnOnce() -> Duration,
    ) -> Option<Cas> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let lock = self.table.read().get(key).copied()?;
        (lock.seqno == seqno && now() < lock.until).then_some(lock.cas)
    }

    /// The versions that are locked.
    pub(super) fn seqnos(&self, now: impl FnOnce() -> Duration) -> BTreeSet<Seqno> {
        if self.count.load(Ordering::Acquire) == 0 {
            return BTreeSet::new();
        }
        let now = now();
        let table = self.table.read();
        let in_force = table.values().filter(|lock| now < lock.until);
        in_force.map(|lock| lock.seqno).collect()
    }

    /// Locks a version; refused when too many are.
    fn put(&self, key: &DocumentKey, lock: Lock, now: Duration) -> Result<(), OperationError> {
        let mut table = self.table.write();
        if table.len() >= LOCKS_MAX {
            // Those nobody took back, nor wrote to.
            table.retain(|_, lock| now < lock.until);
        }
        let is_full = table.len() >= LOCKS_MAX && !table.contains_key(key);
        if !is_full {
            table.insert(key.clone(), lock);
        }
        self.count.store(table.len(), Ordering::Release);
        if is_full {
            return Err(OperationError::TemporaryFailure(Busy::Locks));
        }
        Ok(())
    }

    /// The document is free.
    #[inline]
    pub(super) fn end(&self, key: &DocumentKey) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut table = self.table.write();
        table.remove(key);
        self.count.store(table.len(), Ordering::Release);
    }

    /// All are.
    pub(super) fn clear(&self) {
        let mut table = self.table.write();
        table.clear();
        self.count.store(0, Ordering::Release);
    }
}

impl VbucketCore {
    /// Reads a document and locks it: the answer's CAS is the lock's.
    pub fn get_and_lock(&self, request: &GetAndLock) -> Result<Found, OperationError> {
        self.get_and_lock_knowing(request, None)
    }

    /// The same, with what the store holds.
    pub fn get_and_lock_knowing(
        &self,
        request: &GetAndLock,
        looked_up: Option<&LookedUp>,
    ) -> Result<Found, OperationError> {
        self.admit_write()?;
        self.admit_key_in_force(&request.key)?;
        let seconds = request.seconds()?;
        let now = self.now();
        let key = &request.key;
        let place = self.map.place(key.as_encoded());
        let mut locked = self.lock();
        self.reached(ChangeStep::Locked);
        self.admit_write()?;
        let opened = self.admit_key(key)?;
        let rule = Rule::Present(None);
        let there = self.newest(&locked, (place, key), rule.asks(), looked_up)?;
        let shown = opened.shown(there.as_ref());
        let live = self.judge(&mut locked, place, (key, opened), shown, rule, now)?;
        let live = live.ok_or(OperationError::KeyNotFound)?;
        let live = VbucketCore::whole(&locked, live, looked_up)?;
        let (cas, from) = (self.cas.next(now.nanoseconds), self.monotonic());
        let lock = Lock {
            seqno: live.seqno,
            cas,
            until: from.saturating_add(Duration::from_secs(seconds.into())),
        };
        self.locks.put(key, lock, from)?;
        // While it is locked it stays in memory: whoever writes whatever was there looks for locks there alone.
        if self.map.read(place, key.as_encoded(), |_| ()).is_none() {
            self.put_back(live);
        }
        let mut found = found(live);
        found.meta.cas = cas;
        Ok(found)
    }

    /// Takes a lock back.
    pub fn unlock(&self, request: &Unlock) -> Result<(), OperationError> {
        self.unlock_knowing(request, None)
    }

    /// The same, with what the store holds.
    pub fn unlock_knowing(
        &self,
        request: &Unlock,
        looked_up: Option<&LookedUp>,
    ) -> Result<(), OperationError> {
        self.admit_write()?;
        self.admit_key_in_force(&request.key)?;
        let (key, now) = (&request.key, self.now());
        let place = self.map.place(key.as_encoded());
        let mut locked = self.lock();
        self.reached(ChangeStep::Locked);
        self.admit_write()?;
        let opened = self.admit_key(key)?;
        let rule = Rule::Locked(request.cas);
        let there = self.newest(&locked, (place, key), rule.asks(), looked_up)?;
        let shown = opened.shown(there.as_ref());
        self.judge(&mut locked, place, (key, opened), shown, rule, now)?;
        self.locks.end(key);
        Ok(())
    }

    pub(super) fn lock_on(&self, key: &DocumentKey, seqno: Seqno) -> Option<Cas> {
        self.locks.of(key, seqno, || self.monotonic())
    }

    /// Hides the version of a document that somebody has locked.
    pub(super) fn masked(&self, key: &DocumentKey, cas: &mut Cas, seqno: Seqno) {
        if self.lock_on(key, seqno).is_some() {
            *cas = Cas::LOCKED;
        }
    }

    pub(super) fn monotonic(&self) -> Duration {
        self.environment.clock.monotonic()
    }
}
