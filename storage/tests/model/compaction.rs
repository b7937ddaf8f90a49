//! What a compaction takes away from the model of a vbucket, and what it must tell.
//!
//! Invariant: written from the rules' text, version by version; it shares no code with any store.

use std::collections::BTreeSet;

use piggin_storage::{
    CollectionId, Compacted, CompactionRequest, DroppedCollection, ErasedPrepare, Item, Namespace,
    Operation, Seqno,
};

use super::random::Random;
use super::vbucket::{ModelVbucket, slot};

/// A request of any kind for a vbucket that has come to `high`.
pub(crate) fn request(random: &mut Random, high: Seqno) -> CompactionRequest {
    let floor = if random.percent(50) {
        Seqno::MAX
    } else {
        Seqno(random.within(0, high.0 + 1))
    };
    CompactionRequest {
        newest_only: random.percent(20),
        drop_deletes: random.percent(40),
        purge_before_s: random.pick(&[0, 1 << 31, u32::MAX]),
        purge_up_to: random
            .percent(20)
            .then(|| Seqno(random.within(0, high.0 + 1))),
        expired_at_s: random.pick(&[0, 2]),
        history_floor: floor,
        now_ms: 0,
        sync_bytes: random.pick(&[0, CompactionRequest::SYNC_BYTES]),
    }
}

impl ModelVbucket {
    /// The dropped collections that a compaction erases.
    pub(crate) fn erasable(&self, request: &CompactionRequest) -> Vec<DroppedCollection> {
        let floor = self.at_the_time_of(request).floor(request.history_floor);
        let may = |one: &&DroppedCollection| !request.newest_only && one.end <= floor;
        self.dropped.iter().filter(may).copied().collect()
    }

    fn at_the_time_of(&self, request: &CompactionRequest) -> ModelVbucket {
        let mut then = self.clone();
        then.now_ms = then.now_ms.max(request.now_ms);
        then
    }

    /// A time at which it may be compacted.
    pub(crate) fn later(&self, random: &mut Random) -> u64 {
        self.now_ms + random.below(200)
    }

    /// Takes away what the rules say, and what is left of `erased`; what must be told.
    pub(crate) fn compact(
        &mut self,
        request: &CompactionRequest,
        erased: &[DroppedCollection],
    ) -> Compacted {
        *self = self.at_the_time_of(request);
        let request = &CompactionRequest {
            history_floor: self.floor(request.history_floor),
            ..request.clone()
        };
        let mut told = Compacted {
            erased: erased.to_vec(),
            purge_seqno: self.state.watermarks.purge_seqno,
            ..Compacted::default()
        };
        if request.newest_only {
            self.seal(request.history_floor);
            return told;
        }
        // Of what may go and was not found, everything stays.
        let mut kept = self.erasable(request);
        kept.retain(|one| !erased.contains(one));
        let newest: Vec<Item> = self.expected().items;
        let newest: BTreeSet<Seqno> = newest.iter().map(|item| item.seqno).collect();
        let mut gone: Vec<Item> = Vec::new();
        let mut exact_from = erased.iter().map(|one| one.end).max().unwrap_or_default();
        for version in &self.versions {
            let item = &version.item;
            let is_newest = newest.contains(&item.seqno);
            if is_of(erased, item) {
                if is_newest {
                    told.collection_items_purged += 1;
                    told.prepares_erased.extend(self.waiting(item));
                }
            } else if !is_newest || is_of(&kept, item) {
                continue;
            } else if self.is_purged_tombstone(request, item, &newest) {
                told.tombstones_purged += 1;
                exact_from = exact_from.max(item.seqno);
                exact_from = exact_from.max(self.next_of(item, &newest).unwrap_or_default());
                let purge_seqno = &mut self.state.watermarks.purge_seqno;
                *purge_seqno = item.seqno.max(*purge_seqno);
            } else if let Some(since) = self.is_purged_prepare(request, item, &newest) {
                told.prepares_purged += 1;
                exact_from = exact_from.max(since);
                exact_from = exact_from.max(self.next_of(item, &newest).unwrap_or_default());
            } else {
                continue;
            }
            gone.push(item.clone());
        }
        told.purge_seqno = self.state.watermarks.purge_seqno;
        self.seal(request.history_floor);
        // What an item that goes had superseded goes with it.
        let goes = |item: &Item| {
            let same = |one: &&Item| slot(one) == slot(item) && one.seqno >= item.seqno;
            gone.iter().any(|one| same(&one))
        };
        self.take_away(goes);
        self.purged_from = self.purged_from.max(exact_from);
        self.dropped.retain(|one| !erased.contains(one));
        told
    }

    /// The next item of its collection that is the newest of its key: until there nothing else tells the collection's
    /// high seqno. System events have none to tell.
    fn next_of(&self, item: &Item, newest: &BTreeSet<Seqno>) -> Option<Seqno> {
        let collection = item.document.key.collection();
        if collection == CollectionId::SYSTEM {
            return None;
        }
        let later = self.versions.iter().map(|version| &version.item);
        let mut later = later.filter(|one| one.seqno > item.seqno && newest.contains(&one.seqno));
        let next = later.find(|one| one.document.key.collection() == collection);
        next.map(|one| one.seqno)
    }

    /// A prepare that is not known to be completed.
    fn waiting(&self, item: &Item) -> Option<ErasedPrepare> {
        let is_prepare = matches!(item.operation, Operation::Prepare { .. });
        (is_prepare && item.seqno > self.state.watermarks.completed_seqno).then(|| ErasedPrepare {
            key: item.document.key.clone(),
            seqno: item.seqno,
        })
    }

    fn is_purged_tombstone(
        &self,
        request: &CompactionRequest,
        item: &Item,
        newest: &BTreeSet<Seqno>,
    ) -> bool {
        let deleted_at = match item.operation {
            Operation::Deletion { deleted_at, .. }
            | Operation::CommitDeletion { deleted_at, .. }
            | Operation::Abort { deleted_at, .. } => deleted_at,
            Operation::SystemEventEnd => 0,
            Operation::Mutation
            | Operation::CommitMutation { .. }
            | Operation::Prepare { .. }
            | Operation::SystemEventBegin => return false,
        };
        let is_low_enough = request.purge_up_to.is_none_or(|up_to| item.seqno <= up_to);
        let is_old = deleted_at != 0 && deleted_at < request.purge_before_s && is_low_enough;
        let is_event = item.namespace() == Namespace::SystemEvent;
        let next = self.next_of(item, newest);
        (request.drop_deletes || is_old)
            && item.seqno != self.high_seqno()
            && (is_event || next.is_some_and(|next| next <= request.history_floor))
            && item.seqno <= request.history_floor
    }

    /// Of a prepare that goes because it is completed: since when it was known to be.
    fn is_purged_prepare(
        &self,
        request: &CompactionRequest,
        item: &Item,
        newest: &BTreeSet<Seqno>,
    ) -> Option<Seqno> {
        let is_prepare = matches!(item.operation, Operation::Prepare { .. });
        let is_completed = item.seqno <= self.state.watermarks.completed_seqno;
        let next = self.next_of(item, newest);
        let is_told_by_another = next.is_some_and(|next| next <= request.history_floor);
        if !is_prepare || !is_completed || !is_told_by_another {
            return None;
        }
        let mut ends = self.boundaries.iter();
        let first = ends.find(|end| end.completed_seqno >= item.seqno)?;
        (first.high_seqno <= request.history_floor).then_some(first.high_seqno)
    }
}

fn is_of(erased: &[DroppedCollection], item: &Item) -> bool {
    let collection = item.document.key.collection();
    item.namespace() != Namespace::SystemEvent
        && erased.iter().any(|one| {
            one.collection == collection && one.start <= item.seqno && item.seqno < one.end
        })
}

/// What is told, in an order to compare by and without what only the disk decides.
pub(crate) fn comparable(told: Compacted) -> Compacted {
    let mut told = Compacted {
        bytes_before: 0,
        bytes_after: 0,
        ..told
    };
    told.erased.sort();
    told.prepares_erased.sort_by_key(|prepare| prepare.seqno);
    told
}
