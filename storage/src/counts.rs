//! Counts and sizes of what a vbucket holds, per collection.
//!
//! Invariant: they count the newest version of every key, nothing else, and are exact at every seqno: a scan of
//! the same snapshot finds the same figures.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::collections::DroppedCollection;
use crate::document::{CollectionId, Item, Namespace};
use crate::kv_store::ItemView;
use crate::seqno::Seqno;

/// Figures of one collection in one vbucket. Bytes are those of keys (with prefix) and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionCounts {
    /// Live documents.
    pub documents: i64,
    /// Their bytes.
    pub document_bytes: i64,
    /// Tombstones of documents.
    pub tombstones: i64,
    /// Prepares (aborts are not counted here).
    pub prepares: i64,
    /// Their bytes (MB-48923: never negative).
    pub prepare_bytes: i64,
    /// Aborts.
    pub aborts: i64,
    /// System events, of either kind.
    pub system_events: i64,
    /// Highest seqno of any item.
    pub high_seqno: Seqno,
}

/// What one version adds to the counts of its collection while it is the newest of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weight {
    pub(crate) namespace: Namespace,
    pub(crate) is_tombstone: bool,
    pub(crate) user_bytes: u64,
}

impl Weight {
    pub(crate) fn of(item: &Item) -> Weight {
        Weight {
            namespace: item.namespace(),
            is_tombstone: item.operation.is_tombstone(),
            user_bytes: item.user_bytes(),
        }
    }

    pub(crate) fn of_view(item: &ItemView<'_>) -> Weight {
        Weight {
            namespace: item.namespace(),
            is_tombstone: item.operation.is_tombstone(),
            user_bytes: (item.key.len() as u64).saturating_add(item.value.len() as u64),
        }
    }
}

impl CollectionCounts {
    fn add(&mut self, weight: Weight, sign: i64) {
        let bytes = i64::try_from(weight.user_bytes)
            .unwrap_or(i64::MAX)
            .saturating_mul(sign);
        let bump = |figure: &mut i64, by: i64| *figure = figure.saturating_add(by);
        match (weight.namespace, weight.is_tombstone) {
            (Namespace::Committed, false) => {
                bump(&mut self.documents, sign);
                bump(&mut self.document_bytes, bytes);
            }
            (Namespace::Committed, true) => bump(&mut self.tombstones, sign),
            (Namespace::Prepared, false) => {
                bump(&mut self.prepares, sign);
                bump(&mut self.prepare_bytes, bytes);
            }
            (Namespace::Prepared, true) => bump(&mut self.aborts, sign),
            (Namespace::SystemEvent, _) => bump(&mut self.system_events, sign),
        }
    }
}

/// Figures of a vbucket: totals, or (in log records) changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VbucketCounts {
    /// Per collection; a collection with nothing in it may be missing.
    pub collections: BTreeMap<CollectionId, CollectionCounts>,
}

impl VbucketCounts {
    /// The sum over all collections; its `high_seqno` is the highest of theirs.
    #[must_use]
    pub fn total(&self) -> CollectionCounts {
        let mut total = CollectionCounts::default();
        for counts in self.collections.values() {
            accumulate(&mut total, counts, 1);
        }
        total
    }

    /// A version became the newest of its key.
    pub(crate) fn gained(&mut self, collection: CollectionId, weight: Weight, seqno: Seqno) {
        let counts = self.collections.entry(collection).or_default();
        counts.add(weight, 1);
        counts.high_seqno = counts.high_seqno.max(seqno);
    }

    /// An item of the collection was written, whether or not it is still the newest of its key.
    pub(crate) fn saw(&mut self, collection: CollectionId, seqno: Seqno) {
        let counts = self.collections.entry(collection).or_default();
        counts.high_seqno = counts.high_seqno.max(seqno);
    }

    /// A version is no longer the newest of its key.
    pub(crate) fn lost(&mut self, collection: CollectionId, weight: Weight) {
        self.collections
            .entry(collection)
            .or_default()
            .add(weight, -1);
    }

    /// Adds changes (high seqnos are max-merged).
    pub(crate) fn apply(&mut self, delta: &VbucketCounts) {
        for (collection, change) in &delta.collections {
            accumulate(self.collections.entry(*collection).or_default(), change, 1);
        }
    }

    /// Adds changes whose high seqnos replace the ones before: after a rollback they are lower.
    pub(crate) fn apply_exact(&mut self, delta: &VbucketCounts) {
        self.apply(delta);
        for (collection, change) in &delta.collections {
            self.collections.entry(*collection).or_default().high_seqno = change.high_seqno;
        }
    }

    /// Forgets erased collections of which nothing is left: ids are not used again, so they would gather for ever.
    pub(crate) fn forget(&mut self, erased: &[DroppedCollection]) {
        for one in erased {
            let is_empty = self.collections.get(&one.collection).is_some_and(|counts| {
                let nothing = CollectionCounts {
                    high_seqno: counts.high_seqno,
                    ..CollectionCounts::default()
                };
                *counts == nothing
            });
            if is_empty {
                self.collections.remove(&one.collection);
            }
        }
    }

    /// The change from `before` to `self`. Collections that vanished are zeroed; high seqnos are those of `self`.
    pub(crate) fn since(&self, before: &VbucketCounts) -> VbucketCounts {
        let mut delta = self.clone();
        for (collection, counts) in &before.collections {
            let entry = delta.collections.entry(*collection).or_default();
            let high_seqno = entry.high_seqno;
            accumulate(entry, counts, -1);
            entry.high_seqno = high_seqno;
        }
        delta
    }
}

fn accumulate(into: &mut CollectionCounts, change: &CollectionCounts, sign: i64) {
    let bump = |figure: &mut i64, by: i64| {
        *figure = figure.saturating_add(by.saturating_mul(sign));
    };
    bump(&mut into.documents, change.documents);
    bump(&mut into.document_bytes, change.document_bytes);
    bump(&mut into.tombstones, change.tombstones);
    bump(&mut into.prepares, change.prepares);
    bump(&mut into.prepare_bytes, change.prepare_bytes);
    bump(&mut into.aborts, change.aborts);
    bump(&mut into.system_events, change.system_events);
    into.high_seqno = into.high_seqno.max(change.high_seqno);
}
