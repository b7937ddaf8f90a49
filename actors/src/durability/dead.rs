//! The dead monitor: what was known when the vbucket stopped serving, for whatever it becomes next.
//!
//! Invariant: it changes by nothing that happens on the disk or elsewhere, but forgets what is erased. What was flushed
//! meanwhile counts when the vbucket is a replica again (MB-51606).

use storage::{CollectionId, DocumentKey, Seqno};

use super::active::Inherited;
use super::passive::SnapshotEnd;
use super::prepare::take_out;

/// The machine.
#[derive(Clone, Debug)]
pub struct DeadMonitor {
    pub(super) inherited: Inherited,
    /// Up to here the vbucket was consistent.
    pub(super) whole: Option<SnapshotEnd>,
}

impl DeadMonitor {
    pub(super) fn new(inherited: Inherited, whole: Option<SnapshotEnd>) -> DeadMonitor {
        DeadMonitor { inherited, whole }
    }

    /// The prepare is erased from the disk, with its collection; whether it was there.
    pub fn erase(&mut self, key: &DocumentKey, seqno: Seqno) -> bool {
        take_out(&mut self.inherited.tracked, key, seqno).is_some()
    }

    /// A collection ended at `end`: nobody completes its prepares.
    pub fn note_collection_dropped(&mut self, collection: CollectionId, end: Seqno) {
        for one in &mut self.inherited.tracked {
            one.note_dropped(collection, end);
        }
    }

    /// As it was.
    #[must_use]
    pub fn high_prepared(&self) -> Seqno {
        self.inherited.high_prepared
    }

    /// As it was.
    #[must_use]
    pub fn high_completed(&self) -> Seqno {
        self.inherited.high_completed
    }
}

/// For tests and the predicates they check.
impl DeadMonitor {
    /// What was tracked and is not over.
    pub fn incomplete(&self) -> impl Iterator<Item = &super::Prepare> {
        let tracked = self.inherited.tracked.iter();
        tracked
            .filter(|one| !one.is_completed)
            .map(|one| &one.prepare)
    }
}
