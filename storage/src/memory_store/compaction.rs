//! Compaction in memory: a new history without what goes.
//!
//! Invariant: the rules are those of every store ([`Rules`]); snapshots go on reading the history they were taken from.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::RwLock;

use super::history::Version;
use super::vbucket::Vbucket;
use crate::collections::DroppedCollection;
use crate::compaction::{Compacted, CompactionRequest, ErasedPrepare, Highest, LostHighs, Rules};
use crate::document::{Namespace, Operation};
use crate::seqno::Seqno;

/// What goes, and what is told of it.
#[derive(Debug, Default)]
struct Gone {
    seqnos: BTreeSet<Seqno>,
    lost_highs: LostHighs,
    exact_from: Seqno,
    purge_seqno: Seqno,
    told: Compacted,
}

impl Vbucket {
    /// Takes away what the request and the rules say.
    pub(super) fn compact(&mut self, request: &CompactionRequest) -> Compacted {
        if request.newest_only {
            self.seal(request.history_floor);
            return Compacted {
                purge_seqno: self.state.watermarks.purge_seqno,
                ..Compacted::default()
            };
        }
        let completions = self.completions.clone();
        let watermarks = self.state.watermarks;
        let highest = self.highest(request.history_floor);
        let rules = Rules::new(request.clone(), &watermarks, highest, completions);
        let bytes_before = self.bytes_held();
        let gone = self.judge(&rules);
        let goes = |version: &Version| gone.seqnos.contains(&version.item.seqno);
        let (history, counts) = self.history.read().without(goes);
        self.history = Arc::new(RwLock::new(history));
        self.counts = Arc::new(counts);
        let left = self.dropped.iter();
        let left = left.filter(|one| !gone.told.erased.contains(one));
        self.dropped = left.copied().collect();
        self.state.watermarks.purge_seqno = watermarks.purge_seqno.max(gone.purge_seqno);
        self.is_exact_from(gone.exact_from);
        let first = self.history.read().first_prepare();
        self.completions.forget_below(first.unwrap_or(Seqno::MAX));
        Compacted {
            bytes_before,
            bytes_after: self.bytes_held(),
            purge_seqno: self.state.watermarks.purge_seqno,
            ..gone.told
        }
    }

    fn highest(&self, floor: Seqno) -> Highest {
        let mut highest = Highest::default();
        for version in self.history.read().versions() {
            let item = &version.item;
            if version.superseded_by.is_none() && item.seqno <= floor {
                highest.note(item.document.key.collection(), item.seqno);
            }
        }
        highest
    }

    fn judge(&self, rules: &Rules) -> Gone {
        let erased: Vec<DroppedCollection> = self
            .dropped
            .iter()
            .filter(|one| rules.erases(one))
            .copied()
            .collect();
        let mut gone = Gone::default();
        for one in &erased {
            gone.is_exact_from(one.end);
        }
        for version in self.history.read().versions() {
            gone.judge(version, rules, &erased);
        }
        gone.told.erased = erased;
        gone
    }
}

impl Gone {
    fn is_exact_from(&mut self, seqno: Seqno) {
        self.exact_from = self.exact_from.max(seqno);
    }

    fn judge(&mut self, version: &Version, rules: &Rules, erased: &[DroppedCollection]) {
        let item = &version.item;
        let (seqno, collection) = (item.seqno, item.document.key.collection());
        let is_newest = version.superseded_by.is_none();
        let is_prepare = matches!(item.operation, Operation::Prepare { .. });
        let is_event = item.namespace() == Namespace::SystemEvent;
        if is_newest
            && !is_event
            && let Some(next) = self.lost_highs.next(collection, seqno)
        {
            self.is_exact_from(next);
        }
        if !is_event && erased.iter().any(|one| one.holds(collection, seqno)) {
            self.seqnos.insert(seqno);
            if is_newest {
                self.told.collection_items_purged =
                    self.told.collection_items_purged.saturating_add(1);
            }
            if is_newest && is_prepare && rules.is_outstanding(seqno) {
                let key = item.document.key.clone();
                self.told.prepares_erased.push(ErasedPrepare { key, seqno });
            }
            return;
        }
        if let Some(killer) = version.superseded_by {
            if killer <= rules.history_floor() {
                self.seqnos.insert(seqno);
                self.is_exact_from(killer);
            }
            return;
        }
        if rules.purges_tombstone(item.operation, collection, seqno) {
            self.seqnos.insert(seqno);
            self.is_exact_from(seqno);
            if !is_event {
                self.lost_highs.went(collection);
            }
            self.purge_seqno = self.purge_seqno.max(seqno);
            self.told.tombstones_purged = self.told.tombstones_purged.saturating_add(1);
        } else if is_prepare && let Some(since) = rules.purges_prepare(collection, seqno) {
            self.seqnos.insert(seqno);
            self.is_exact_from(since);
            self.lost_highs.went(collection);
            self.told.prepares_purged = self.told.prepares_purged.saturating_add(1);
        }
    }
}
