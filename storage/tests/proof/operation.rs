//! One operation of a run, as data: it can be tried again after a failure.

use piggin_storage::{
    Batch, CommitDurability, CompactionRequest, Seqno, VbucketId, VbucketStateRecord,
};

use super::past::Past;
use crate::model::compaction;
use crate::model::generate;
use crate::model::random::Random;

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Create(VbucketId, VbucketStateRecord),
    Delete(VbucketId),
    Commit(Vec<Batch>, CommitDurability),
    Sync,
    Seal(VbucketId, Seqno),
    Merge(VbucketId, Seqno),
    Compact(VbucketId, CompactionRequest),
    Rollback(VbucketId, Seqno),
    Checkpoint,
    Maintain,
    /// Everything by every way of reading.
    Read(VbucketId),
    /// In order, or just dropped.
    Reopen {
        closes: bool,
    },
}

/// What a run may do next.
pub(crate) fn next(random: &mut Random, past: &Past) -> Operation {
    let present = past.present();
    let absent: Vec<VbucketId> = past
        .vbuckets()
        .into_iter()
        .filter(|vbucket| !present.contains(vbucket))
        .collect();
    if present.len() < 3 || (!absent.is_empty() && random.percent(4)) {
        let vbucket = random.pick(&absent);
        return Operation::Create(vbucket, generate::new_state(random));
    }
    let vbucket = random.pick(&present);
    let high = past.current(vbucket).unwrap().high_seqno();
    let floor = Seqno(random.within(0, high.0 + 1));
    match random.below(100) {
        0..48 => commit(random, past),
        48..50 => Operation::Delete(vbucket),
        50..54 => Operation::Sync,
        54..63 => Operation::Seal(vbucket, floor),
        63..66 => Operation::Merge(vbucket, floor),
        66..69 => {
            let mut request = compaction::request(random, high);
            request.now_ms = past.current(vbucket).unwrap().later(random);
            Operation::Compact(vbucket, request)
        }
        69..75 => {
            let lowest = if random.percent(75) {
                high.0.saturating_sub(10)
            } else {
                0
            };
            Operation::Rollback(vbucket, Seqno(random.within(lowest, high.0)))
        }
        75..80 => Operation::Checkpoint,
        80..92 => Operation::Maintain,
        92..96 => Operation::Read(vbucket),
        96..98 => Operation::Reopen { closes: true },
        _ => Operation::Reopen { closes: false },
    }
}

/// Batches of some vbuckets.
pub(crate) fn commit(random: &mut Random, past: &Past) -> Operation {
    let mut group: Vec<Batch> = Vec::new();
    for vbucket in past.present() {
        if random.percent(45) {
            let items_max = random.pick(&[0, 1, 4, 4, 12]);
            let model = past.current(vbucket).unwrap();
            group.push(generate::batch(random, model, items_max));
        }
    }
    let durability = if random.percent(55) {
        CommitDurability::Synced
    } else {
        CommitDurability::Buffered
    };
    Operation::Commit(group, durability)
}

impl Operation {
    /// A few words, without the items.
    pub(crate) fn summary(&self) -> String {
        match self {
            Operation::Create(vbucket, _) => format!("create {vbucket}"),
            Operation::Commit(group, durability) => {
                let batches = group.iter().map(|batch| {
                    let seqnos: Vec<u64> = batch.items.iter().map(|item| item.seqno.0).collect();
                    format!("{}: {seqnos:?}", batch.vbucket)
                });
                let batches: Vec<String> = batches.collect();
                format!("commit {durability:?} {}", batches.join(", "))
            }
            Operation::Delete(_)
            | Operation::Sync
            | Operation::Seal(..)
            | Operation::Merge(..)
            | Operation::Compact(..)
            | Operation::Rollback(..)
            | Operation::Checkpoint
            | Operation::Maintain
            | Operation::Read(_)
            | Operation::Reopen { .. } => format!("{self:?}"),
        }
    }
}
