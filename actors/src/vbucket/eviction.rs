//! Documents leave memory when it is short, and come back when they are read.
//!
//! Invariant: what leaves is on disk, and nobody but the map has it, so that its memory is free at once (rule R14); that it
//! left is noted before it is gone. What comes back takes nothing's place, and only while nothing newer of its key can have
//! left since it was looked up (rule R21). Called by whoever looks after memory, and by who read the disk for a client.

use std::sync::Arc;

use super::core::{Inner, VbucketCore};
use super::document_map::{MapWalk, Place};
use super::fault::ChangeStep;
use super::lookup::LookedUp;
use super::memory::charged_bytes;
use super::status::{Sight, Status};
use crate::planted::{Bug, is_planted};
use storage::{Item, RevSeqno, Seqno, VbucketState};

/// Documents that leave under one lock: some tens of microseconds.
const LEAVE_AT_ONCE: usize = 256;
/// The last part of the quota is left to writers: nothing comes back into it.
const LEFT_TO_WRITERS_DIVISOR: u64 = 16;

/// What hinders documents to leave: they are being loaded, the vbucket is out of order or out of service, or its store is
/// about to be closed and will be read no more.
const HINDERED: u8 = Status::WARMING | Status::SUSPECT | Status::DOWN | Status::CLOSED;

/// How far the pager is in a vbucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvictionWalk(MapWalk);

/// What a step of it came to.
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Documents that left.
    pub documents: u64,
    /// Bytes that are free now.
    pub bytes: u64,
    /// Everything was looked at.
    pub is_at_end: bool,
}

/// A document that is to leave.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    place: Place,
    seqno: Seqno,
    revision: RevSeqno,
}

impl VbucketCore {
    /// Looks at some more documents of the map, and has those leave that were not used since they were looked at last, are
    /// on disk, and nobody holds.
    pub fn evict(&self, walk: &mut EvictionWalk) -> Evicted {
        let (most, spares_used) = {
            let locked = self.lock();
            // Nobody reads a replica.
            let spares_used = locked.identity.state == VbucketState::Active;
            (self.may_leave_up_to(&locked), spares_used)
        };
        let Some(most) = most else {
            return Evicted {
                is_at_end: true,
                ..Evicted::default()
            };
        };
        let mut leaving = Vec::with_capacity(LEAVE_AT_ONCE);
        let has_more = self.map.walk(&mut walk.0, |item| {
            let is_free = item.seqno <= most
                && Arc::strong_count(item) == 1
                && !item.operation.is_tombstone();
            if is_free && !(item.token.take_use() && spares_used) {
                leaving.push(Leaving {
                    place: self.map.place(item.document.key.as_encoded()),
                    seqno: item.seqno,
                    revision: item.document.rev_seqno,
                });
            }
        });
        let mut evicted = Evicted {
            is_at_end: !has_more,
            ..Evicted::default()
        };
        for some in leaving.chunks(LEAVE_AT_ONCE) {
            // Freed behind the lock.
            let left = self.have_leave(some);
            let bytes = left.iter().map(|item| charged_bytes(item)).sum();
            evicted.bytes = evicted.bytes.saturating_add(bytes);
            evicted.documents = evicted.documents.saturating_add(left.len() as u64);
        }
        self.traffic.note_evicted(evicted.documents);
        evicted
    }

    fn have_leave(&self, some: &[Leaving]) -> Vec<Arc<Item>> {
        let locked = self.lock();
        self.reached(ChangeStep::Locked);
        let Some(most) = self.may_leave_up_to(&locked) else {
            return Vec::new();
        };
        let mut left = Vec::with_capacity(some.len());
        // Whoever writes whatever was there must find that it is locked.
        let kept = self.locks.seqnos(|| self.monotonic());
        for Leaving {
            place,
            seqno,
            revision,
        } in some
        {
            if *seqno > most || kept.contains(seqno) {
                continue;
            }
            self.note_forgotten(*seqno, *revision);
            if let Some(item) = self.map.evict(*place, *seqno) {
                self.discount_document(&item);
                left.push(item);
            }
        }
        left
    }

    /// What is up to here is on disk, and nothing that comes will take its place in the checkpoint log: there a disk snapshot
    /// has each key once.
    pub(super) fn may_leave_up_to(&self, inner: &Inner) -> Option<Seqno> {
        if self.status().has(HINDERED) || inner.rollback.is_some() {
            return None;
        }
        let (_, _, _, kind) = inner.log.open_snapshot();
        let persisted = self.persisted_seqno();
        if kind.is_disk() {
            return Some(persisted);
        }
        let last_closed = Seqno(inner.log.open_start().0.saturating_sub(1));
        Some(persisted.min(last_closed))
    }

    /// Puts what was looked up for a read back in memory, where it can and may be; whether it did.
    pub fn restore(&self, looked_up: &LookedUp) -> bool {
        let live = looked_up.newest.as_ref().filter(|item| self.is_live(item));
        let Some(item) = live.filter(|_| self.has_room_for_reads()) else {
            return false;
        };
        let locked = self.lock();
        self.reached(ChangeStep::Locked);
        if self.admit_read() != Ok(Sight::Whole)
            || locked.rollback.is_some()
            || !(self.is_still_true(&locked, looked_up) || is_planted(Bug::RestoreWithoutLook))
        {
            return false;
        }
        let opened = self.admit_key(&item.document.key);
        if opened.is_ok_and(|opened| item.seqno >= opened.start) {
            return self.put_back(item);
        }
        false
    }

    /// Whether some of the bucket's memory should be given back.
    #[must_use]
    pub fn is_memory_short(&self) -> bool {
        self.memory.pool().is_above_high_mark()
    }

    /// Somebody asks the store for a document that is not in memory.
    pub fn note_fetched(&self) {
        self.traffic.note_fetched();
    }

    /// A number drawn at random.
    #[must_use]
    pub fn random(&self) -> u64 {
        self.environment.random.next_u64()
    }

    /// Whether there is room for what was read, and for writes beside it. It is paid for already.
    fn has_room_for_reads(&self) -> bool {
        let quota = self.memory.pool().quota_bytes();
        self.memory
            .has_room(0, quota.saturating_sub(quota / LEFT_TO_WRITERS_DIVISOR))
    }

    /// Puts a version of the store in memory, unless there is one of its key. Needs the lock to be held.
    pub(super) fn put_back(&self, item: &Arc<Item>) -> bool {
        // First: what is in the map is counted.
        self.count_document(item, None);
        let is_put = self.map.insert_if_absent(Arc::clone(item));
        if is_put {
            item.token.note_use();
            self.traffic.note_restored();
        } else {
            self.discount_document(item);
        }
        is_put
    }
}
