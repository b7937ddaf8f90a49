//! Documents, or their values alone, leave memory when it is short, and come back when they are read.
//!
//! Invariant: what leaves is on disk, and nobody but the map has it, so that its memory is free at once (rule R14); that it
//! left is noted before it is gone, by its stub where only the value left. What comes back takes nothing's place but that of
//! its own stub, and only while nothing newer of its key can have left since it was looked up (rule R21). Called by whoever looks after memory, and by who read the disk for a client.

use std::sync::Arc;

use bytes::Bytes;

use super::core::{Inner, VbucketCore};
use super::document_map::{MapWalk, Place};
use super::fault::ChangeStep;
use super::kept::{Held, Kept};
use super::lookup::LookedUp;
use super::memory::charged_bytes;
use super::status::{Sight, Status};
use crate::planted::{Bug, is_planted};
use storage::{Eviction, Item, RevSeqno, Seqno, VbucketState};

/// Documents that leave under one lock: some tens of microseconds.
const LEAVE_AT_ONCE: usize = 256;
/// The last part of the quota is left to writers: nothing comes back into it.
const LEFT_TO_WRITERS_DIVISOR: u64 = 16;

/// What hinders documents to leave: the vbucket is out of order or out of service, or its store is about to be closed and will
/// be read no more.
const HINDERED: u8 = Status::SUSPECT | Status::DOWN | Status::CLOSED;

/// How far the pager is in a vbucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvictionWalk(MapWalk);

/// What a step of it came to.
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Documents, or values, that left.
    pub documents: u64,
    /// Bytes that are free now.
    pub bytes: u64,
    /// Bytes that are not, because they are not on disk, or not sealed, or somebody holds them.
    pub hindered_bytes: u64,
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

/// What left, to be freed with no lock held.
enum Left {
    Document(Kept),
    Value(Bytes),
}

impl Left {
    fn bytes(&self) -> u64 {
        match self {
            Left::Document(kept) => kept.charged_bytes(),
            Left::Value(value) => value.len() as u64,
        }
    }
}

impl VbucketCore {
    /// Looks at some more documents of the map, and has those (or their values) leave that were not used since they were looked at last, are
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
        let mut hindered_bytes: u64 = 0;
        let has_more = self.map.walk(&mut walk.0, |held| {
            let item = match held {
                Held::Whole(item) => item,
                // Nothing is left that could leave.
                Held::Stub(_) => return,
            };
            if item.operation.is_tombstone() {
                return;
            }
            let is_free = item.seqno <= most && Arc::strong_count(item) == 1;
            if !is_free {
                hindered_bytes = hindered_bytes.saturating_add(charged_bytes(item));
            } else if !(item.token.take_use() && spares_used) {
                leaving.push(Leaving {
                    place: self.map.place(item.document.key.as_encoded()),
                    seqno: item.seqno,
                    revision: item.document.rev_seqno,
                });
            }
        });
        let mut evicted = Evicted {
            is_at_end: !has_more,
            hindered_bytes,
            ..Evicted::default()
        };
        for some in leaving.chunks(LEAVE_AT_ONCE) {
            // Freed behind the lock.
            let left = self.have_leave(some);
            let bytes = left.iter().map(Left::bytes).sum();
            evicted.bytes = evicted.bytes.saturating_add(bytes);
            evicted.documents = evicted.documents.saturating_add(left.len() as u64);
        }
        self.traffic.note_evicted(evicted.documents);
        evicted
    }

    fn have_leave(&self, some: &[Leaving]) -> Vec<Left> {
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
            let gone = match self.eviction {
                Eviction::Values => self.map.take_value(*place, *seqno).map(Left::Value),
                // Where nothing leaves nobody asks.
                Eviction::Documents | Eviction::None => {
                    self.note_forgotten(*seqno, *revision);
                    let gone = self.map.evict(*place, *seqno);
                    gone.map(|kept| {
                        self.discount_document(kept.held());
                        self.traffic.note_away(1);
                        Left::Document(kept)
                    })
                }
            };
            left.extend(gone);
        }
        left
    }

    /// What is up to here is on disk, and nothing that comes will take its place in the checkpoint log: there a disk snapshot
    /// has each key once.
    pub(super) fn may_leave_up_to(&self, inner: &Inner) -> Option<Seqno> {
        let is_hindered = match self.eviction {
            // A stub says what it is of, whatever else is not loaded yet.
            Eviction::Values => self.status().has(HINDERED),
            Eviction::Documents | Eviction::None => self.status().has(HINDERED | Status::WARMING),
        };
        if is_hindered || inner.rollback.is_some() {
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
        if self.admit_read() != Ok(Sight::Whole) || locked.rollback.is_some() {
            return false;
        }
        let place = self.map.place(item.document.key.as_encoded());
        let key = item.document.key.as_encoded();
        let is_newest = match self.map.get(place, key).as_ref().map(Kept::held) {
            Some(Held::Whole(_)) => false,
            Some(Held::Stub(stub)) => looked_up.epoch >= locked.least_epoch && stub.is_of(item),
            None => self.is_still_true(&locked, looked_up),
        };
        if !(is_newest || is_planted(Bug::RestoreWithoutLook)) {
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

    /// The same, and it answered on the spot.
    pub fn note_fetched_at_once(&self) {
        self.traffic.note_fetched_at_once();
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

    /// Puts a version of the store in memory, in the place of its stub or of nothing. Needs the lock to be held, and its stub to
    /// be of this version.
    pub(super) fn put_back(&self, item: &Arc<Item>) -> bool {
        let place = self.map.place(item.document.key.as_encoded());
        let key = item.document.key.as_encoded();
        match self.map.get(place, key).as_ref().map(Kept::held) {
            Some(Held::Whole(_)) => return false,
            // Counted already.
            Some(Held::Stub(_)) => drop(self.map.put(place, Arc::clone(item))),
            None => {
                // First: what is in the map is counted.
                self.count_document(Held::Whole(item), None);
                if !self.map.insert_if_absent(Kept::whole(Arc::clone(item))) {
                    self.discount_document(Held::Whole(item));
                    return false;
                }
            }
        }
        item.token.note_use();
        self.traffic.note_restored();
        true
    }
}
