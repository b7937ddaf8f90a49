//! Which items a compaction lets go: one judgement for every store (`purge rules` of the architecture page).
//!
//! Invariant: pure functions of the request and of what the vbucket was when the run began. Rules are asked in this
//! order: dropped collection, tombstone, prepare; each only of a key's newest version, but the first, which takes every
//! version. What goes says up to where the past is no longer known exactly; that is never above the history floor. What
//! a collection's high seqno is told by stays (MB-71917), so that it can be counted anew after a rollback.

use std::collections::{BTreeMap, BTreeSet};

use crate::collections::DroppedCollection;
use crate::compaction::CompactionRequest;
use crate::counts::VbucketCounts;
use crate::document::{CollectionId, Namespace, Operation};
#[cfg(feature = "planted")]
use crate::planted::{self, Bug};
use crate::seqno::Seqno;
use crate::vbucket::Watermarks;

/// The rules of one run.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    request: CompactionRequest,
    /// High seqno of what is compacted.
    high_seqno: Seqno,
    /// Prepares up to here are completed.
    completed_seqno: Seqno,
    highest: Highest,
    completions: Completions,
    /// Dropped collections of which everything stays, because not all of it was found.
    kept: Vec<DroppedCollection>,
}

/// Of each collection, the highest item at or below the history floor that is the newest of its key. Only what lies
/// below it may go: from the next such item on the collection's high seqno is told by that one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Highest(BTreeMap<CollectionId, Seqno>);

impl Highest {
    /// Where everything lies at or below the floor, it is the collection's high seqno, because nothing supersedes
    /// that item.
    pub(crate) fn of(counts: &VbucketCounts) -> Highest {
        let highs = counts.collections.iter();
        Highest(highs.map(|(id, counts)| (*id, counts.high_seqno)).collect())
    }

    /// Takes note of an item at or below the floor that is the newest of its key.
    pub(crate) fn note(&mut self, collection: CollectionId, seqno: Seqno) {
        let highest = self.0.entry(collection).or_default();
        *highest = seqno.max(*highest);
    }

    fn is_at_or_above(&self, collection: CollectionId, seqno: Seqno) -> bool {
        let highest = self.0.get(&collection).copied();
        seqno >= highest.unwrap_or_default()
    }
}

/// Collections of which an item went that may have told their high seqno: until the next of their items, a rollback
/// would count too low a one.
#[derive(Debug, Default)]
pub(crate) struct LostHighs(BTreeSet<CollectionId>);

impl LostHighs {
    /// A tombstone or prepare of the collection went.
    pub(crate) fn went(&mut self, collection: CollectionId) {
        self.0.insert(collection);
    }

    /// The next item of the collection by seqno, of those that were the newest of their keys, system events excepted:
    /// from where on the past is exact, if something went before it.
    pub(crate) fn next(&mut self, collection: CollectionId, seqno: Seqno) -> Option<Seqno> {
        let is_lost = !self.0.is_empty() && self.0.remove(&collection);
        #[cfg(feature = "planted")]
        let is_lost = is_lost && !planted::is(Bug::PurgeForgetsHighs);
        is_lost.then_some(seqno)
    }
}

/// Since when which prepares are known to be completed, by rising seqnos.
#[derive(Clone, Debug, Default)]
pub(crate) struct Completions(Vec<Completion>);

#[derive(Clone, Copy, Debug)]
struct Completion {
    /// Prepares up to here were completed ...
    completed_seqno: Seqno,
    /// ... when the vbucket had come to here.
    high_seqno: Seqno,
}

impl Completions {
    /// Takes note of the end of a batch; to be called in their order.
    pub(crate) fn note(&mut self, mark: &Watermarks) {
        let last = self.0.last().map_or(Seqno::ZERO, |one| one.completed_seqno);
        if mark.completed_seqno > last {
            self.0.push(Completion {
                completed_seqno: mark.completed_seqno,
                high_seqno: mark.high_seqno,
            });
        }
    }

    /// Forgets what was noted above `to`.
    pub(crate) fn roll_back(&mut self, to: Seqno) {
        self.0.retain(|one| one.high_seqno <= to);
    }

    /// Forgets what is known of prepares below `seqno` only: there are none any more.
    pub(crate) fn forget_below(&mut self, seqno: Seqno) {
        let first = self.0.partition_point(|one| one.completed_seqno < seqno);
        self.0.drain(..first);
    }

    /// High seqno at the end of the first batch after which the prepare at `seqno` was known to be completed.
    fn since(&self, seqno: Seqno) -> Option<Seqno> {
        let first = self.0.partition_point(|one| one.completed_seqno < seqno);
        self.0.get(first).map(|one| one.high_seqno)
    }
}

impl Rules {
    /// `watermarks` and `highest` are those of what is compacted.
    pub(crate) fn new(
        request: CompactionRequest,
        watermarks: &Watermarks,
        highest: Highest,
        completions: Completions,
    ) -> Rules {
        Rules {
            request,
            high_seqno: watermarks.high_seqno,
            completed_seqno: watermarks.completed_seqno,
            highest,
            completions,
            kept: Vec::new(),
        }
    }

    /// Whether something of what is compacted lies above the history floor.
    pub(crate) fn has_history(&self) -> bool {
        self.request.history_floor < self.high_seqno
    }

    /// Takes other ones.
    pub(crate) fn set_highest(&mut self, highest: Highest) {
        self.highest = highest;
    }

    pub(crate) fn history_floor(&self) -> Seqno {
        self.request.history_floor
    }

    /// Whether a life of a dropped collection may be erased; then the past is exact from its end on.
    pub(crate) fn erases(&self, dropped: &DroppedCollection) -> bool {
        dropped.end <= self.request.history_floor && dropped.end <= self.high_seqno
    }

    /// Everything of this life of a dropped collection stays for the next run (MB-49742).
    pub(crate) fn keep(&mut self, dropped: DroppedCollection) {
        self.kept.push(dropped);
    }

    fn is_kept(&self, collection: CollectionId, seqno: Seqno) -> bool {
        self.kept.iter().any(|one| one.holds(collection, seqno))
    }

    /// Whether a tombstone that is its key's newest version goes; then the past is exact from its seqno on, and, unless
    /// it is a system event, from its collection's next item on ([`LostHighs`]).
    pub(crate) fn purges_tombstone(
        &self,
        operation: Operation,
        collection: CollectionId,
        seqno: Seqno,
    ) -> bool {
        let Some(deleted_at) = deleted_at(operation) else {
            return false;
        };
        let is_system_event = operation.namespace() == Namespace::SystemEvent;
        (self.request.drop_deletes || self.is_old(deleted_at, seqno))
            && seqno != self.high_seqno
            && (is_system_event || !self.highest.is_at_or_above(collection, seqno))
            && !self.is_kept(collection, seqno)
            && seqno <= self.request.history_floor
    }

    /// Deletion times of zero are those nobody set, and say nothing of an age (MB-30015).
    fn is_old(&self, deleted_at: u32, seqno: Seqno) -> bool {
        deleted_at != 0
            && deleted_at < self.request.purge_before_s
            && self.request.purge_up_to.is_none_or(|up_to| seqno <= up_to)
    }

    /// Whether the end of a collection or scope that is its key's newest version goes.
    pub(crate) fn purges_event_end(&self, collection: CollectionId, seqno: Seqno) -> bool {
        self.purges_tombstone(Operation::SystemEventEnd, collection, seqno)
    }

    /// Whether the prepare at `seqno` still waits for its end.
    pub(crate) fn is_outstanding(&self, seqno: Seqno) -> bool {
        seqno > self.completed_seqno
    }

    /// For a prepare that is its key's newest version and goes because it is completed: from where on the past is
    /// exact then, as far as prepares go; see [`LostHighs`] too.
    pub(crate) fn purges_prepare(&self, collection: CollectionId, seqno: Seqno) -> Option<Seqno> {
        let stays = self.is_outstanding(seqno) || self.highest.is_at_or_above(collection, seqno);
        if stays || self.is_kept(collection, seqno) {
            return None;
        }
        let since = self.completions.since(seqno)?;
        (since <= self.request.history_floor).then_some(since)
    }

    /// Whether a live document with this expiry is to be told.
    pub(crate) fn is_expired(&self, expiry: u32) -> bool {
        expiry != 0 && expiry < self.request.expired_at_s
    }
}

/// When the item was deleted, if it is a tombstone; zero where it does not say.
fn deleted_at(operation: Operation) -> Option<u32> {
    match operation {
        Operation::Deletion { deleted_at, .. }
        | Operation::CommitDeletion { deleted_at, .. }
        | Operation::Abort { deleted_at, .. } => Some(deleted_at),
        Operation::SystemEventEnd => Some(0),
        Operation::Mutation
        | Operation::CommitMutation { .. }
        | Operation::Prepare { .. }
        | Operation::SystemEventBegin => None,
    }
}
