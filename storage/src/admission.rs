//! Whether a batch may be stored, and what is stored of its watermarks: one judgement for every store.
//!
//! Invariant: a batch is judged whole before any of it is written, against the position it will be applied to; so
//! two stores that hold the same refuse the same batches for the same reason. Called by every `commit`.

use crate::collections::SystemEvent;
use crate::document::{Document, Item, Namespace};
use crate::error::{Refusal, StorageError};
use crate::kv_store::{Batch, VbucketPosition};
use crate::log_store::OVERHEAD_MAX;
use crate::seqno::Seqno;
use crate::vbucket::{VbucketId, VbucketIdentity, Watermarks};

/// Where a vbucket stands, as far as a batch is judged by it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) position: VbucketPosition,
    pub(crate) purge_seqno: Seqno,
}

/// Judges every batch of a group, in order. `standing` says where a vbucket stands, or why it takes no batches.
pub(crate) fn admit_group(
    group: &[Batch],
    standing: impl Fn(VbucketId) -> Result<Standing, StorageError>,
) -> Vec<Result<(), StorageError>> {
    let mut seen = std::collections::BTreeSet::new();
    let mut judge = |batch: &Batch| {
        let current = standing(batch.vbucket)?;
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
pub(crate) fn admit(batch: &Batch, standing: &Standing) -> Result<(), Refusal> {
    let current = &standing.position;
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
    // After a rollback the one stored may be above; that one is no news.
    let purge = batch.watermarks.purge_seqno;
    if purge > high && purge > standing.purge_seqno {
        return Err(Refusal::PurgeSeqno { purge, high });
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
        if item.namespace() == Namespace::SystemEvent {
            check_system_event(item)?;
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

/// What cannot be read could neither be put on the drop list nor be told to anybody.
fn check_system_event(item: &Item) -> Result<(), Refusal> {
    let refused = Refusal::SystemEvent { at: item.seqno };
    match SystemEvent::of(item) {
        Ok(SystemEvent::CollectionEnd { start, .. }) if start >= item.seqno => Err(refused),
        Ok(_) => Ok(()),
        Err(_) => Err(refused),
    }
}

/// The watermarks to store for a batch that gives `given` after `previous`: the purge seqno only rises (MB-48384),
/// and so does the commit time, whatever the clock did. That is the time of the newest item: a batch without items was
/// seen by no reader, and the time by which a moment is found must not change with it.
pub(crate) fn merged_watermarks(previous: &Watermarks, given: &Watermarks) -> Watermarks {
    Watermarks {
        purge_seqno: previous.purge_seqno.max(given.purge_seqno),
        commit_time_ms: if given.high_seqno > previous.high_seqno {
            previous.commit_time_ms.max(given.commit_time_ms)
        } else {
            previous.commit_time_ms
        },
        ..*given
    }
}
