//! Documents whose time is up, found on disk by a compaction and deleted here.
//!
//! Invariant: the vbucket has the last word: only an active one deletes, only the very version that was found, and only
//! while there is memory for the tombstone. What is refused here is found again by the next compaction.

use super::core::VbucketCore;
use super::fault::ChangeStep;
use super::lookup::{Asks, LookedUp};
use super::memory;
use super::moment::is_expired;
use crate::compactor::Expiring;
use storage::{Cas, DocumentKey};

impl VbucketCore {
    /// The version `cas` of this document was found to be expired.
    pub fn expire_found(
        &self,
        key: &DocumentKey,
        cas: Cas,
        looked_up: Option<&LookedUp>,
    ) -> Expiring {
        // Not for a vbucket that is warming: what is not in memory may be newer on disk.
        if self.admit_write().is_err() {
            return Expiring::PutOff;
        }
        let now = self.now();
        let Ok(token) = memory::reserve_deletion(&self.memory, memory::cost_bytes(key, 0)) else {
            return Expiring::PutOff;
        };
        let place = self.map.place(key.as_encoded());
        let mut locked = self.lock();
        self.reached(ChangeStep::Locked);
        if self.admit_write().is_err() {
            return Expiring::PutOff;
        }
        let Ok(opened) = self.admit_key(key) else {
            // Its collection ended; all of it goes.
            return Expiring::Left;
        };
        if self.prepares.open_of(key, opened.start).is_some() {
            // Its durable write ends first (MB-43238).
            return Expiring::PutOff;
        }
        let Ok(found) = self.newest(&locked, (place, key), Asks::Document, looked_up) else {
            return Expiring::NotInMemory;
        };
        let found = opened.shown(found.as_ref()).filter(|kept| {
            let meta = kept.meta();
            meta.cas == cas && !meta.is_deleted && is_expired(meta.expiry, now.seconds)
        });
        let Some(found) = found else {
            return Expiring::Left;
        };
        match self.expire(&mut locked, place, found, token, now) {
            Ok(()) => Expiring::Deleted,
            Err(_) => Expiring::PutOff,
        }
    }
}
