//! What a compaction found to go: which versions, what they counted, and since when the past is not known exactly.
//!
//! Invariant: what a version counted is noted once, and only if it was the newest of its key when the run began; the
//! publish takes back what was killed meanwhile, so that nothing is subtracted twice.

use roaring::RoaringTreemap;

use crate::collections::DroppedCollection;
use crate::compaction::ErasedPrepare;
use crate::counts::{VbucketCounts, Weight};
use crate::document::CollectionId;
use crate::seqno::Seqno;

/// What goes.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Every version that goes and could still be read, in the present or as history.
    pub(super) seqnos: RoaringTreemap,
    /// Those that were the newest of their keys.
    pub(super) live: RoaringTreemap,
    /// What the counts lose.
    pub(super) counts: VbucketCounts,
    /// The past is exact from here on.
    pub(super) exact_from: Seqno,
    /// Highest tombstone that goes because of what it is.
    pub(super) purge_seqno: Seqno,
    pub(super) tombstones: u64,
    pub(super) prepares: u64,
    pub(super) collection_items: u64,
    pub(super) prepares_erased: Vec<ErasedPrepare>,
    /// Lives of collections of which everything was found.
    pub(super) erased: Vec<DroppedCollection>,
}

/// A version that goes, and what it counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone {
    pub(super) seqno: Seqno,
    pub(super) collection: CollectionId,
    pub(super) weight: Weight,
}

impl Found {
    /// A version of a dropped collection.
    pub(super) fn erase(&mut self, gone: Gone, is_live: bool) {
        self.seqnos.insert(gone.seqno.0);
        if is_live {
            self.collection_items = self.collection_items.saturating_add(1);
            self.loses(gone);
        }
    }

    /// A tombstone that was the newest of its key.
    pub(super) fn purge_tombstone(&mut self, gone: Gone) {
        self.tombstones = self.tombstones.saturating_add(1);
        self.purge_seqno = self.purge_seqno.max(gone.seqno);
        self.purge(gone, gone.seqno);
    }

    /// A completed prepare that was the newest of its key.
    pub(super) fn purge_prepare(&mut self, gone: Gone, exact_from: Seqno) {
        self.prepares = self.prepares.saturating_add(1);
        self.purge(gone, exact_from);
    }

    fn purge(&mut self, gone: Gone, exact_from: Seqno) {
        self.seqnos.insert(gone.seqno.0);
        self.loses(gone);
        self.is_exact_from(exact_from);
    }

    fn loses(&mut self, gone: Gone) {
        self.live.insert(gone.seqno.0);
        self.counts.lost(gone.collection, gone.weight);
    }

    pub(super) fn is_exact_from(&mut self, seqno: Seqno) {
        self.exact_from = self.exact_from.max(seqno);
    }

    /// Takes in what a pass found.
    pub(super) fn absorb(&mut self, other: Found) {
        self.seqnos |= other.seqnos;
        self.live |= other.live;
        self.counts.apply(&other.counts);
        self.is_exact_from(other.exact_from);
        self.purge_seqno = self.purge_seqno.max(other.purge_seqno);
        self.tombstones = self.tombstones.saturating_add(other.tombstones);
        self.prepares = self.prepares.saturating_add(other.prepares);
        self.collection_items = self.collection_items.saturating_add(other.collection_items);
        self.prepares_erased.extend(other.prepares_erased);
        self.erased.extend(other.erased);
    }

    /// Takes in what the pass over a dropped collection found, all of it.
    pub(super) fn absorb_collection(&mut self, other: Found, dropped: DroppedCollection) {
        self.absorb(other);
        self.is_exact_from(dropped.end);
        self.erased.push(dropped);
    }

    /// Whether it is of a life of a collection that is erased.
    pub(super) fn is_erased(&self, collection: CollectionId, seqno: Seqno) -> bool {
        self.erased.iter().any(|one| one.holds(collection, seqno))
    }

    /// Whether anything is to be told that must be durable by then.
    pub(super) fn is_told(&self) -> bool {
        !self.live.is_empty() || !self.seqnos.is_empty() || !self.erased.is_empty()
    }
}
