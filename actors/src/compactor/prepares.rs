//! Which prepares compactions erased: what their vbuckets have yet to forget, and what was not told yet to whoever asked
//! to be told.
//!
//! Invariant: at most one entry for each past of a vbucket (rule R2), kept until it was handed over; a receiver whose
//! mailbox is full delays it and loses nothing (rule R18). What a publish may have erased that did not come back is in
//! doubt until the store was opened anew, and then told if it is gone. After a start of the process nothing needs to be
//! told: whoever tracks prepares reads them from disk then.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

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

/// What is to be told, to whom.
#[derive(Default)]
pub struct ErasedPrepares {
    receiver: Option<Recipient<PreparesErased>>,
    /// On disk, not told yet.
    untold: BTreeMap<PastOf, Vec<ErasedPrepare>>,
    /// Erased by a publish that did not come back, if it took effect.
    in_doubt: BTreeMap<PastOf, Doubt>,
    /// On disk, and not yet forgotten in memory.
    unforgotten: BTreeMap<PastOf, (Arc<dyn Compactable>, Vec<ErasedPrepare>)>,
}

/// What a publish may have erased: a store of a later generation says.
#[derive(Clone)]
pub(super) struct Doubt {
    since: StoreGeneration,
    vbucket: Arc<dyn Compactable>,
    prepares: BTreeMap<Seqno, ErasedPrepare>,
}

impl Doubt {
    /// Those that a store does not have any more. Nothing where it has another past: whoever tracks its prepares reads
    /// them anew.
    pub(super) fn gone_from(
        &self,
        of: PastOf,
        store: &LogStore,
    ) -> Result<Vec<ErasedPrepare>, StorageError> {
        let (vbucket, incarnation, epoch) = of;
        let snapshot = match store.snapshot(vbucket) {
            Err(StorageError::UnknownVbucket(_)) => return Ok(Vec::new()),
            snapshot => snapshot?,
        };
        if (snapshot.incarnation(), snapshot.epoch()) != (incarnation, epoch) {
            return Ok(Vec::new());
        }
        let mut gone = Vec::new();
        for prepare in self.prepares.values() {
            if prepare.is_gone_from(snapshot.as_ref())? {
                gone.push(prepare.clone());
            }
        }
        Ok(gone)
    }
}

impl ErasedPrepares {
    /// From now on this one is told.
    pub fn tell_to(&mut self, receiver: Recipient<PreparesErased>) {
        self.receiver = Some(receiver);
    }

    /// A publish that erases these begins; nothing is known of it before it comes back.
    pub fn begins(
        &mut self,
        of: PastOf,
        now: StoreGeneration,
        prepares: &[ErasedPrepare],
        vbucket: &Arc<dyn Compactable>,
    ) {
        if prepares.is_empty() {
            return;
        }
        let doubt = self.in_doubt.entry(of).or_insert_with(|| Doubt {
            since: now,
            vbucket: Arc::clone(vbucket),
            prepares: BTreeMap::new(),
        });
        doubt.since = now;
        let more = prepares.iter().map(|one| (one.seqno, one.clone()));
        doubt.prepares.extend(more);
    }

    /// What was in doubt before the store of this generation was opened.
    pub(super) fn doubts_before(&self, now: StoreGeneration) -> Vec<(PastOf, Doubt)> {
        let due = self.in_doubt.iter().filter(|(_, doubt)| doubt.since < now);
        due.map(|(of, doubt)| (*of, doubt.clone())).collect()
    }

    /// A store that was opened since says that these are gone, and the others there.
    pub(super) fn is_settled(&mut self, of: PastOf, gone: &[ErasedPrepare]) {
        if let Some(doubt) = self.in_doubt.remove(&of) {
            self.erased(of, gone, &doubt.vbucket);
        }
    }

    /// These are erased, and that is on disk.
    pub fn erased(
        &mut self,
        of: PastOf,
        prepares: &[ErasedPrepare],
        vbucket: &Arc<dyn Compactable>,
    ) {
        if let Some(doubt) = self.in_doubt.get_mut(&of) {
            for told in prepares {
                doubt.prepares.remove(&told.seqno);
            }
            if doubt.prepares.is_empty() {
                self.in_doubt.remove(&of);
            }
        }
        if prepares.is_empty() {
            return;
        }
        if self.receiver.is_some() {
            let untold = self.untold.entry(of).or_default();
            untold.extend_from_slice(prepares);
        }
        let known = self.unforgotten.entry(of);
        let (_, unforgotten) = known.or_insert_with(|| (Arc::clone(vbucket), Vec::new()));
        unforgotten.extend_from_slice(prepares);
    }

    /// What a vbucket has to forget; it stays known until it has.
    #[must_use]
    pub fn next_to_forget(&self) -> Option<(Arc<dyn Compactable>, PreparesErased)> {
        let (of, (vbucket, prepares)) = self.unforgotten.first_key_value()?;
        Some((Arc::clone(vbucket), message(*of, prepares.clone())))
    }

    /// A vbucket has forgotten these.
    pub fn forgotten(&mut self, erased: &PreparesErased) {
        let of = (erased.vbucket, erased.incarnation, erased.epoch);
        if let Some((_, prepares)) = self.unforgotten.get_mut(&of) {
            // There may be more by now.
            prepares.retain(|one| !erased.prepares.contains(one));
            if prepares.is_empty() {
                self.unforgotten.remove(&of);
            }
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

impl fmt::Debug for ErasedPrepares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErasedPrepares")
            .field("untold", &self.untold.len())
            .finish_non_exhaustive()
    }
}
