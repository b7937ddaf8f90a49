//! Compaction, as an embedder asks for it.
//!
//! Invariant: every call is done on the caller's thread and is answered whatever becomes of the compactor's children. A
//! future that is dropped takes back the wait, not the compaction.

use actix::Recipient;

use messages::compactor::{
    Compact, CompactError, CompactOptions, CompactionStatus, PreparesErased,
};
use storage::{Compacted, VbucketId};

use crate::bucket::{Bucket, CompactorAddr};

/// What a compaction of all vbuckets came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactionReport {
    /// Every vbucket but the dead ones, in order.
    pub vbuckets: Vec<(VbucketId, Result<Compacted, CompactError>)>,
}

impl CompactionReport {
    /// Those that were not completed, and why.
    pub fn failed(&self) -> impl Iterator<Item = (VbucketId, &CompactError)> {
        let errors = self.vbuckets.iter();
        errors.filter_map(|(vbucket, result)| Some((*vbucket, result.as_ref().err()?)))
    }

    /// What was published of all vbuckets together, that of partly failed ones included. Lists are left out, and the
    /// purge seqno, which is each vbucket's own.
    #[must_use]
    pub fn total(&self) -> Compacted {
        let mut total = Compacted::default();
        let bump = |figure: &mut u64, by: u64| *figure = figure.saturating_add(by);
        for (_, result) in &self.vbuckets {
            let published = match result {
                Ok(compacted) => Some(compacted),
                Err(CompactError::Failed { published, .. }) => published.as_deref(),
                Err(_) => None,
            };
            let Some(published) = published else { continue };
            bump(&mut total.bytes_before, published.bytes_before);
            bump(&mut total.bytes_after, published.bytes_after);
            bump(&mut total.tombstones_purged, published.tombstones_purged);
            bump(&mut total.prepares_purged, published.prepares_purged);
            let items = published.collection_items_purged;
            bump(&mut total.collection_items_purged, items);
        }
        total
    }
}

impl Bucket {
    /// Rewrites the segments of a vbucket beside its flusher, without what nobody can ask for any more, and answers when
    /// that is published and on disk. Everything written before the call is looked at.
    pub async fn compact(
        &self,
        vbucket: VbucketId,
        options: CompactOptions,
    ) -> Result<Compacted, CompactError> {
        let answer = self
            .running()
            .compactor
            .compact(Compact { vbucket, options });
        answer.await.unwrap_or(Err(CompactError::Closed))
    }

    /// As [`Bucket::compact`], of every vbucket that is not dead, as many at once as the limit says.
    pub async fn compact_all(&self, options: CompactOptions) -> CompactionReport {
        let all = (0..self.vbucket_count()).filter_map(VbucketId::new);
        let ask = |vbucket| {
            let request = Compact { vbucket, options };
            (vbucket, self.running().compactor.compact(request))
        };
        let asked: Vec<_> = all.map(ask).collect();
        let mut vbuckets = Vec::with_capacity(asked.len());
        for (vbucket, answer) in asked {
            let result = answer.await.unwrap_or(Err(CompactError::Closed));
            if !matches!(result, Err(CompactError::VbucketDead(_))) {
                vbuckets.push((vbucket, result));
            }
        }
        CompactionReport { vbuckets }
    }

    /// The compactions that wait or run, in the order of the vbuckets.
    #[must_use]
    pub fn compactions(&self) -> Vec<CompactionStatus> {
        self.running().compactor.statuses()
    }

    /// Lets at most so many compactions run at once: at least one, at most one a thread. The limit in force.
    #[must_use = "it may be another limit than the one asked for"]
    pub fn set_compaction_limit(&self, running_max: usize) -> usize {
        self.running().compactor.set_limit(running_max)
    }

    /// Gives up the compaction of a vbucket, or of all: what waits at once, what runs at its next step. Whoever asked for
    /// one is told that it was aborted. How many compactions that were.
    #[must_use = "it says whether there was anything to give up"]
    pub fn cancel_compactions(&self, only: Option<VbucketId>) -> usize {
        self.running().compactor.cancel(only)
    }

    /// From now on this one is told which prepares compactions erased with their dropped collections, after that is on
    /// disk; where that is not known before the store was opened anew, after that. Takes the place of whoever was told
    /// before.
    pub fn tell_erased_prepares(&self, receiver: Recipient<PreparesErased>) {
        self.running().compactor.tell_erased_prepares(receiver);
    }

    /// The address of the compactor's actor. It takes the messages of [`messages::compactor`].
    #[must_use]
    pub fn compactor(&self) -> CompactorAddr {
        self.running().compactor_address.clone()
    }
}
