//! Documents whose time is up, found on disk by a compaction or in memory by a sweep, and deleted here.
//!
//! Invariant: the vbucket has the last word: only an active one deletes, only the very version that was found, and only
//! while there is memory for the tombstone. What is refused here is found again by the next one of either.

use super::core::VbucketCore;
use super::document_map::MapWalk;
use super::fault::ChangeStep;
use super::lookup::{Asks, LookedUp};
use super::memory;
use super::moment::is_expired;
use crate::compactor::Expiring;
use storage::{Cas, DocumentKey};

/// How far a sweep is in a vbucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpiryWalk(MapWalk);

/// What a step of it came to.
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Documents that were deleted.
    pub deleted: u64,
    /// Everything was looked at.
    pub is_at_end: bool,
}

impl VbucketCore {
    /// Looks at some more documents in memory, and deletes those whose time is up, each under a lock of its own.
    pub fn sweep_expired(&self, walk: &mut ExpiryWalk) -> Swept {
        if self.admit_write().is_err() {
            return Swept {
                deleted: 0,
                is_at_end: true,
            };
        }
        let now = self.now().seconds;
        let mut found = Vec::new();
        let has_more = self.map.walk(&mut walk.0, |held| {
            let meta = held.meta();
            if is_expired(meta.expiry, now) && !meta.is_deleted {
                found.push((held.key().clone(), meta.cas));
            }
        });
        let mut swept = Swept {
            deleted: 0,
            is_at_end: !has_more,
        };
        for (key, cas) in found {
            match self.expire_found(&key, cas, None) {
                Expiring::Deleted => {
                    self.traffic.note_expired();
                    swept.deleted = swept.deleted.saturating_add(1);
                }
                // Another took its place, or it left memory meanwhile; or the next one finds it.
                Expiring::Left | Expiring::PutOff | Expiring::NotInMemory => {}
            }
        }
        swept
    }

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
