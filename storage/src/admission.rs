//! Whether a batch may be stored, and what is stored of its watermarks: one judgement for every store.
//!
//! Invariant: a batch is judged whole before any of it is written, against the position it will be applied to; so
//! two stores that hold the same refuse the same batches for the same reason. Called by every `commit`.

use crate::document::Document;
use crate::error::{Refusal, StorageError};
use crate::kv_store::{Batch, VbucketPosition};
use crate::log_store::OVERHEAD_MAX;
use crate::seqno::Seqno;
use crate::vbucket::{VbucketId, VbucketIdentity, Watermarks};

/// Judges every batch of a group, in order. `position` says where a vbucket stands, or why it takes no batches.
pub(crate) fn admit_group(
    group: &[Batch],
    position: impl Fn(VbucketId) -> Result<VbucketPosition, StorageError>,
) -> Vec<Result<(), StorageError>> {
    let mut seen = std::collections::BTreeSet::new();
    let mut judge = |batch: &Batch| {
        let current = position(batch.vbucket)?;
        let verdict = if seen.insert(batch.vbucket) {
            admit(batch, &current)
        } else {
            // Also after a refused first batch: the second was made to follow it.
            Err(Refusal::DuplicateVbucket)
        };
        verdict.map_err(|refusal| StorageError::Refused {
            vbucket: batch.vbucket,
            refusal,
        })
    };
    group.iter().map(&mut judge).collect()
}

/// Judges one batch against where its vbucket stands.
pub(crate) fn admit(batch: &Batch, current: &VbucketPosition) -> Result<(), Refusal> {
    if batch.incarnation != current.incarnation {
        return Err(Refusal::StaleIncarnation {
            given: batch.incarnation,
            current: current.incarnation,
        });
    }
    if batch.epoch != current.epoch {
        return Err(Refusal::StaleEpoch {
            given: batch.epoch,
            current: current.epoch,
        });
    }
    if let Some(identity) = &batch.identity {
        check_identity(identity)?;
    }
    let high = high_seqno_after(batch, current.high_seqno)?;
    if batch.watermarks.high_seqno != high {
        return Err(Refusal::HighSeqno {
            high: batch.watermarks.high_seqno,
            items: high,
        });
    }
    Ok(())
}

/// A state that could not be written whole is refused before anything is.
pub(crate) fn check_identity(identity: &VbucketIdentity) -> Result<(), Refusal> {
    let bytes = identity.topology_bytes();
    if bytes > VbucketIdentity::TOPOLOGY_BYTES_MAX {
        return Err(Refusal::TopologyTooLarge { bytes });
    }
    Ok(())
}

/// Checks the items one by one; the high seqno of a vbucket that holds them.
fn high_seqno_after(batch: &Batch, persisted: Seqno) -> Result<Seqno, Refusal> {
    let mut high = persisted;
    let mut bytes = 0u64;
    for (place, item) in batch.items.iter().enumerate() {
        if item.seqno <= high {
            return Err(match place {
                0 => Refusal::SeqnoNotAbovePersisted {
                    given: item.seqno,
                    persisted,
                },
                _ => Refusal::SeqnoOrder { at: item.seqno },
            });
        }
        if item.seqno == Seqno::MAX {
            // Nothing could ever follow it.
            return Err(Refusal::SeqnoOrder { at: item.seqno });
        }
        let length = item.document.value.len();
        if length > Document::VALUE_LENGTH_MAX {
            return Err(Refusal::ValueTooLarge {
                seqno: item.seqno,
                length,
            });
        }
        high = item.seqno;
        bytes = bytes
            .saturating_add(item.user_bytes())
            .saturating_add(OVERHEAD_MAX as u64);
    }
    if bytes > Batch::BYTES_MAX {
        return Err(Refusal::BatchTooLarge { bytes });
    }
    Ok(high)
}

/// The watermarks to store for a batch that gives `given` after `previous`: the purge seqno only rises (MB-48384),
/// and so does the commit time, whatever the clock did.
pub(crate) fn merged_watermarks(previous: &Watermarks, given: &Watermarks) -> Watermarks {
    Watermarks {
        purge_seqno: previous.purge_seqno.max(given.purge_seqno),
        commit_time_ms: previous.commit_time_ms.max(given.commit_time_ms),
        ..*given
    }
}
