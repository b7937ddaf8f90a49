//! Small stores for the targets that need one: built alike every time, and read back as a whole.
//!
//! Invariant: nothing here is random; the same calls leave the same bytes on the disk.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::cas::Cas;
use crate::collections::{ManifestUid, ScopeId, SystemEvent};
use crate::document::{
    CollectionId, Datatype, DeleteSource, Document, DocumentKey, Expiry, Item, Namespace,
    Operation, Predecessor, RevSeqno,
};
use crate::durability::DurabilityLevel;
use crate::error::StorageError;
use crate::failover_table::FailoverTable;
use crate::kv_store::{Batch, CommitDurability, ItemView, KeyRange, KvStore, Scan, Snapshot};
use crate::log_store::options::{BlockCompression, OpenOptions};
use crate::memory::MemoryToken;
use crate::outcome::Outcome;
use crate::seqno::{Seqno, SeqnoRange};
use crate::vbucket::{
    Incarnation, RollbackEpoch, Topology, VbucketId, VbucketIdentity, VbucketState,
    VbucketStateRecord, VbucketUuid, Watermarks,
};

/// Sizes at which a few items exercise every structure.
pub(crate) fn options(entropy: u64) -> OpenOptions {
    OpenOptions {
        log_file_bytes_min: 64 << 10,
        log_file_bytes_max: 128 << 10,
        frame_bytes_max: 2 << 10,
        unsealed_bytes: 1 << 10,
        segments_max: 2,
        published_at_once: 1,
        container_bytes_min: 8 << 10,
        block_bytes: 4 << 10,
        compression: BlockCompression::Lz4,
        history_floor: Seqno::ZERO,
        ..OpenOptions::new(entropy)
    }
}

pub(crate) fn new_state() -> VbucketStateRecord {
    VbucketStateRecord {
        identity: Arc::new(VbucketIdentity {
            state: VbucketState::Active,
            failover_table: FailoverTable::new(VbucketUuid(0xa11ce)),
            topology: Topology::default(),
            manifest_uid: 0,
        }),
        watermarks: Watermarks::default(),
    }
}

/// An item of one of 16 keys; `choice` decides key, operation and value.
pub(super) fn item(seqno: Seqno, choice: u8) -> Result<Arc<Item>, StorageError> {
    let name = [b'k', b'a'.saturating_add(choice & 0x0f)];
    let operation = match choice >> 4 {
        0 | 1 => Operation::Deletion {
            deleted_at: 1_700_000_000,
            source: DeleteSource::Expiration,
        },
        2 => Operation::Prepare {
            level: DurabilityLevel::Majority,
            is_deletion: false,
        },
        3 => Operation::Abort {
            prepare_seqno: seqno,
            deleted_at: 1_700_000_000,
        },
        4 => Operation::SystemEventBegin,
        5 => Operation::SystemEventEnd,
        _ => Operation::Mutation,
    };
    let event = event(seqno, operation, choice);
    let key = match &event {
        Some(event) => event.key()?,
        None => DocumentKey::new(CollectionId(u32::from(choice & 1)), &name)?,
    };
    let length = if operation.is_tombstone() {
        0
    } else {
        usize::from(choice)
    };
    Ok(Arc::new(Item {
        seqno,
        operation,
        predecessor: Predecessor::Unknown,
        document: Document {
            key,
            value: event.map_or_else(|| vec![choice; length].into(), |event| event.value()),
            datatype: Datatype::RAW,
            flags: u32::from(choice),
            expiry: Expiry(0),
            cas: Cas(seqno.0 << 16),
            rev_seqno: RevSeqno(1),
        },
        token: MemoryToken::default(),
    }))
}

/// One of the collections of [`item`] begins or ends.
fn event(seqno: Seqno, operation: Operation, choice: u8) -> Option<SystemEvent> {
    let (uid, scope) = (ManifestUid(seqno.0), ScopeId::DEFAULT);
    let collection = CollectionId(u32::from(choice & 1));
    match operation {
        Operation::SystemEventBegin => Some(SystemEvent::CollectionBegin {
            uid,
            scope,
            collection,
            name: "name".into(),
            max_ttl_s: 0,
        }),
        Operation::SystemEventEnd => Some(SystemEvent::CollectionEnd {
            uid,
            scope,
            collection,
            start: Seqno(seqno.0 / 2),
        }),
        Operation::Mutation
        | Operation::Deletion { .. }
        | Operation::Prepare { .. }
        | Operation::Abort { .. }
        | Operation::CommitMutation { .. }
        | Operation::CommitDeletion { .. } => None,
    }
}

/// A batch of one item per choice, on top of `before`.
pub(super) fn batch(
    vbucket: VbucketId,
    (incarnation, epoch): (Incarnation, RollbackEpoch),
    before: Watermarks,
    choices: &[u8],
) -> Result<Batch, StorageError> {
    let mut watermarks = before;
    let mut items = Vec::new();
    for choice in choices {
        let seqno = watermarks.high_seqno.next();
        items.push(item(seqno, *choice)?);
        watermarks.high_seqno = seqno;
        watermarks.snapshot.end = seqno;
        watermarks.max_visible_seqno = seqno;
    }
    Ok(Batch {
        vbucket,
        incarnation,
        epoch,
        items,
        watermarks,
        identity: None,
    })
}

/// Commits one batch on top of what the store holds.
pub(crate) fn write(
    store: &dyn KvStore,
    vbucket: VbucketId,
    choices: &[u8],
) -> Result<(), StorageError> {
    let snapshot = store.snapshot(vbucket)?;
    let place = (snapshot.incarnation(), snapshot.epoch());
    let batch = batch(vbucket, place, snapshot.state().watermarks, choices)?;
    let verdicts = store.commit(std::slice::from_ref(&batch), CommitDurability::Synced);
    verdicts.into_iter().collect()
}

/// Everything a vbucket answers, or the error of the first question it could not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answers {
    pub(super) epoch: RollbackEpoch,
    pub(super) state: VbucketStateRecord,
    pub(super) items: Vec<Item>,
    pub(super) by_key: Vec<Item>,
}

pub(super) fn answers(store: &dyn KvStore, vbucket: VbucketId) -> Result<Answers, StorageError> {
    let snapshot: Box<dyn Snapshot> = store.snapshot(vbucket)?;
    let items = read(snapshot.scan_by_seqno(SeqnoRange::ALL))?;
    let mut by_key = Vec::new();
    for namespace in Namespace::ALL {
        by_key.extend(read(snapshot.scan_by_key(KeyRange::all(namespace)))?);
    }
    for item in &items {
        let found = snapshot.get(item.namespace(), &item.document.key)?;
        assert_eq!(found.map(without_hint).as_ref(), Some(item));
    }
    let counts = snapshot.counts()?.total();
    let figures = [
        counts.documents,
        counts.tombstones,
        counts.prepares,
        counts.aborts,
        counts.system_events,
    ];
    assert_eq!(figures.iter().sum::<i64>(), count(&items));
    Ok(Answers {
        epoch: snapshot.epoch(),
        state: snapshot.state(),
        items,
        by_key,
    })
}

fn count(items: &[Item]) -> i64 {
    i64::try_from(items.len()).unwrap_or(i64::MAX)
}

fn read(mut scan: Box<dyn Scan>) -> Result<Vec<Item>, StorageError> {
    let mut items = Vec::new();
    loop {
        let mut visit = |view: ItemView<'_>| {
            let item = view.to_item(Bytes::copy_from_slice(view.value));
            items.extend(item.ok().map(without_hint));
            ControlFlow::Continue(())
        };
        match scan.step(1 << 10, &mut visit) {
            Outcome::Yielded => {}
            Outcome::Complete(end) => {
                assert_eq!(end.items, items.len() as u64);
                return Ok(items);
            }
            Outcome::Failed(cause) => return Err(cause),
            Outcome::Aborted(_) => return Err(StorageError::Closed),
        }
    }
}

/// The store may learn more of an item's predecessor than its writer knew.
fn without_hint(item: Item) -> Item {
    Item {
        predecessor: Predecessor::Unknown,
        ..item
    }
}

/// Reads everything, whatever it says.
pub(super) fn touch(store: &dyn KvStore, vbucket: VbucketId) {
    let Ok(snapshot) = store.snapshot(vbucket) else {
        return;
    };
    drop(snapshot.counts());
    let found = steps(snapshot.scan_by_seqno(SeqnoRange::ALL));
    for item in found {
        drop(snapshot.get(item.namespace(), &item.document.key));
    }
    for namespace in Namespace::ALL {
        steps(snapshot.scan_by_key(KeyRange::all(namespace)));
    }
}

fn steps(mut scan: Box<dyn Scan>) -> Vec<Item> {
    let mut items = Vec::new();
    for _ in 0..10_000 {
        let mut visit = |view: ItemView<'_>| {
            items.extend(view.to_item(Bytes::copy_from_slice(view.value)));
            ControlFlow::Continue(())
        };
        if scan.step(1 << 10, &mut visit) != Outcome::Yielded {
            return items;
        }
    }
    items
}
