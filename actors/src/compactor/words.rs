//! What compactions did for good that others have to hear of: their vbuckets of erased prepares and of how far they are
//! purged, whoever tracks prepares of the former.
//!
//! Invariant: one entry for each past of a vbucket (rule R2), kept until it was handed over; a receiver whose mailbox is
//! full delays it and loses nothing (rule R18). What a publish that did not come back may have done is in doubt, for each
//! opening of the store apart: only one that was opened later says what became of it. No vbucket is kept by what it did
//! not hear. After a start of the process nothing needs to be told: everybody reads it from disk then.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use actix::Recipient;
use actix::prelude::SendError;

use super::vbucket::Compactable;
use messages::compactor::PreparesErased;
use storage::{
    ErasedPrepare, Incarnation, KvStore, LogStore, RollbackEpoch, Seqno, StorageError, VbucketId,
};

use crate::store_handle::StoreGeneration;

/// Which past of which vbucket.
pub type PastOf = (VbucketId, Incarnation, RollbackEpoch);

/// Which past, and the opening of the store in which a publish of it did not come back.
pub(super) type DoubtOf = (PastOf, StoreGeneration);

/// What is to be told, to whom.
#[derive(Default)]
pub struct Words {
    receiver: Option<Recipient<PreparesErased>>,
    /// Erased on disk, and the receiver was not told yet.
    untold: BTreeMap<PastOf, Vec<ErasedPrepare>>,
    /// On disk, and the vbucket was not told yet.
    unheard: BTreeMap<PastOf, Unheard>,
    /// At stake in a publish that did not come back.
    in_doubt: BTreeMap<DoubtOf, Doubt>,
}

/// What a vbucket has to hear.
struct Unheard {
    vbucket: Weak<dyn Compactable>,
    prepares: BTreeMap<Seqno, ErasedPrepare>,
    purged: Option<Seqno>,
}

/// What a publish may have done: erased these, and purged its vbucket up to where a later store says.
#[derive(Clone, Debug)]
pub(super) struct Doubt {
    vbucket: Weak<dyn Compactable>,
    prepares: BTreeMap<Seqno, ErasedPrepare>,
}

/// What a store says of a doubt: nothing where the vbucket is gone.
#[derive(Debug, Default)]
pub(super) struct Found {
    gone: Vec<ErasedPrepare>,
    purged: Option<Seqno>,
}

/// A step of a publish that began, and what was in doubt before it.
#[derive(Debug)]
#[must_use = "a step that came back left nothing in doubt"]
pub(super) struct AtStake {
    of: DoubtOf,
    before: Option<Doubt>,
}

impl Doubt {
    /// Asks a store that was opened later. Of prepares of another past it says nothing: whoever tracks them reads them
    /// anew.
    pub(super) fn ask(&self, of: PastOf, store: &LogStore) -> Result<Found, StorageError> {
        let (vbucket, incarnation, epoch) = of;
        let snapshot = match store.snapshot(vbucket) {
            Err(StorageError::UnknownVbucket(_)) => return Ok(Found::default()),
            snapshot => snapshot?,
        };
        if snapshot.incarnation() != incarnation {
            return Ok(Found::default());
        }
        let mut gone = Vec::new();
        for prepare in self.prepares.values() {
            if snapshot.epoch() == epoch && prepare.is_gone_from(snapshot.as_ref())? {
                gone.push(prepare.clone());
            }
        }
        let purged = store.state(vbucket)?.watermarks.purge_seqno;
        Ok(Found {
            gone,
            purged: Some(purged),
        })
    }
}

impl Words {
    /// From now on this one is told.
    pub fn tell_to(&mut self, receiver: Recipient<PreparesErased>) {
        self.receiver = Some(receiver);
    }

    /// A step of a publish that erases these begins; if it does not come back nothing is known of it.
    pub(super) fn begins(
        &mut self,
        of: DoubtOf,
        prepares: &[ErasedPrepare],
        vbucket: &Arc<dyn Compactable>,
    ) -> AtStake {
        let before = self.in_doubt.get(&of).cloned();
        let known = before.iter().flat_map(|doubt| doubt.prepares.values());
        let prepares = known.chain(prepares);
        let doubt = Doubt {
            vbucket: Arc::downgrade(vbucket),
            prepares: prepares.map(|one| (one.seqno, one.clone())).collect(),
        };
        self.in_doubt.insert(of, doubt);
        AtStake { of, before }
    }

    /// It came back: in doubt is what was before. One vbucket has one run at a time, so nobody added to it.
    pub(super) fn came_back(&mut self, AtStake { of, before }: AtStake) {
        self.in_doubt.remove(&of);
        self.in_doubt.extend(before.map(|doubt| (of, doubt)));
    }

    /// What was in doubt before the store of this generation was opened. Nobody adds to that any more.
    pub(super) fn doubts_before(&self, now: StoreGeneration) -> Vec<(DoubtOf, Doubt)> {
        let doubts = self.in_doubt.iter();
        let due = doubts.filter(|((_, since), _)| *since < now);
        due.map(|(of, doubt)| (*of, doubt.clone())).collect()
    }

    /// A store that was opened later said this.
    pub(super) fn is_settled(&mut self, of: DoubtOf, found: &Found) {
        // Another worker may have asked as well.
        if let Some(doubt) = self.in_doubt.remove(&of) {
            self.done(of.0, &found.gone, found.purged, doubt.vbucket);
        }
    }

    /// These are erased, and the vbucket is purged so far, and that is on disk.
    pub(super) fn done(
        &mut self,
        of: PastOf,
        prepares: &[ErasedPrepare],
        purged: Option<Seqno>,
        vbucket: Weak<dyn Compactable>,
    ) {
        let (first, last) = (StoreGeneration(0), StoreGeneration(u64::MAX));
        for (_, doubt) in self.in_doubt.range_mut((of, first)..=(of, last)) {
            for told in prepares {
                doubt.prepares.remove(&told.seqno);
            }
        }
        if self.receiver.is_some() && !prepares.is_empty() {
            let untold = self.untold.entry(of).or_default();
            untold.extend_from_slice(prepares);
        }
        let unheard = self.unheard.entry(of).or_insert_with(|| Unheard {
            vbucket: Weak::clone(&vbucket),
            prepares: BTreeMap::new(),
            purged: None,
        });
        unheard.vbucket = vbucket;
        unheard.purged = unheard.purged.max(purged);
        let prepares = prepares.iter().map(|one| (one.seqno, one.clone()));
        unheard.prepares.extend(prepares);
    }

    /// What a vbucket has to forget, and up to where it is purged; it stays known until it was told.
    #[must_use]
    pub fn next_unheard(
        &mut self,
    ) -> Option<(Arc<dyn Compactable>, PreparesErased, Option<Seqno>)> {
        while let Some(first) = self.unheard.first_entry() {
            let of = *first.key();
            let unheard = first.get();
            let Some(vbucket) = unheard.vbucket.upgrade() else {
                first.remove();
                continue;
            };
            let prepares = unheard.prepares.values().cloned().collect();
            return Some((vbucket, message(of, prepares), unheard.purged));
        }
        None
    }

    /// A vbucket was told this. There may be more by now.
    pub fn heard(&mut self, erased: &PreparesErased, purged: Option<Seqno>) {
        let of = (erased.vbucket, erased.incarnation, erased.epoch);
        let Some(unheard) = self.unheard.get_mut(&of) else {
            return;
        };
        for told in &erased.prepares {
            unheard.prepares.remove(&told.seqno);
        }
        unheard.purged = unheard.purged.filter(|more| Some(*more) > purged);
        if unheard.prepares.is_empty() && unheard.purged.is_none() {
            self.unheard.remove(&of);
        }
    }

    /// Hands over what there is room for; whether nothing is left.
    pub fn tell(&mut self) -> bool {
        let Some(receiver) = &self.receiver else {
            return true;
        };
        while let Some((of, prepares)) = self.untold.pop_first() {
            match receiver.try_send(message(of, prepares)) {
                // One whose address is closed has nothing to forget any more.
                Ok(()) | Err(SendError::Closed(_)) => {}
                Err(SendError::Full(message)) => {
                    self.untold.insert(of, message.prepares);
                    return false;
                }
            }
        }
        true
    }
}

fn message((vbucket, incarnation, epoch): PastOf, prepares: Vec<ErasedPrepare>) -> PreparesErased {
    PreparesErased {
        vbucket,
        incarnation,
        epoch,
        prepares,
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Words")
            .field("untold", &self.untold.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
