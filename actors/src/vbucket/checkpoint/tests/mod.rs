//! Tests of the checkpoint log: each table row by row, and random runs against what a naive reader would hold.

mod deduplication;
mod registration;
mod reading;
mod replica;
mod memory;
mod model;

use std::sync::Arc;

use storage::{
    Cas, CollectionId, DeleteSource, Document, DocumentKey, DurabilityLevel, Item, Operation,
    Predecessor, Seqno, VbucketIdentity, VbucketStateRecord, VbucketUuid,
};

use super::*;

const MUTATION: Operation = Operation::Mutation;
const DELETION: Operation = Operation::Deletion {
    deleted_at: 1,
    source: DeleteSource::Explicit,
};
const EVENT: Operation = Operation::SystemEventBegin;
const PREPARE: Operation = Operation::Prepare {
    level: DurabilityLevel::Majority,
    is_deletion: false,
};
const ABORT: Operation = Operation::Abort {
    prepare_seqno: Seqno(1),
    deleted_at: 1,
};
const COMMIT: Operation = Operation::CommitMutation {
    prepare_seqno: Seqno(1),
};
const COMMIT_DELETION: Operation = Operation::CommitDeletion {
    prepare_seqno: Seqno(1),
    deleted_at: 1,
};

/// Room enough that no checkpoint is ever full.
const ROOMY: CheckpointLimits = CheckpointLimits {
    bytes_max: usize::MAX,
    items_max: usize::MAX,
};
const STREAM: CursorKind = CursorKind::Stream { droppable: true };

fn item(seqno: u64, key: &str, operation: Operation) -> Arc<Item> {
    let key = DocumentKey::new(CollectionId::DEFAULT, key.as_bytes()).unwrap();
    let document = Document::new(key, "value", Cas(seqno));
    Arc::new(Item {
        operation,
        predecessor: Predecessor::Absent,
        ..Item::mutation(Seqno(seqno), document)
    })
}

fn log() -> CheckpointLog {
    CheckpointLog::new(Seqno::ZERO, ROOMY)
}

/// A log of one open checkpoint with items 1 to `count`, each of its own key.
fn log_of(count: u64) -> CheckpointLog {
    let mut log = log();
    append(&mut log, count);
    log
}

fn append(log: &mut CheckpointLog, count: u64) {
    for _ in 0..count {
        let seqno = log.last_seqno().0 + 1;
        put(log, &format!("key {seqno}"), MUTATION, None);
    }
}

/// Queues the next item, checking that it does what was said beforehand.
fn put(
    log: &mut CheckpointLog,
    key: &str,
    operation: Operation,
    replaces: impl Into<Replaces>,
) -> Disposition {
    let replaces = replaces.into();
    let said = log.disposition(&operation, replaces);
    let seqno = log.last_seqno().0 + 1;
    let done = log.queue(item(seqno, key, operation), replaces).unwrap();
    assert_eq!(done.disposition, said);
    done.disposition
}

fn seqnos(taken: &Taken) -> Vec<u64> {
    taken.items.iter().map(|item| item.seqno.0).collect()
}

fn take_all(log: &mut CheckpointLog, cursor: CursorId) -> Taken {
    log.take(cursor, TakeLimits::NONE).unwrap()
}

fn take_items(log: &mut CheckpointLog, cursor: CursorId, items_max: usize) -> Taken {
    let bytes_max = usize::MAX;
    let limits = TakeLimits {
        items_max,
        bytes_max,
    };
    log.take(cursor, limits).unwrap()
}

/// Flushes everything and says so.
fn flush(log: &mut CheckpointLog) {
    while log.has_unflushed() {
        drop(take_all(log, CursorId::FLUSH));
    }
    log.note_persisted(log.last_seqno());
}

fn register(log: &mut CheckpointLog, name: &str, held: u64) -> Registered {
    log.register(CursorName::new(name), Seqno(held), STREAM)
        .unwrap()
}

fn identity(uid: u64) -> Arc<VbucketIdentity> {
    let record = VbucketStateRecord::new(VbucketUuid(7));
    Arc::new(VbucketIdentity {
        manifest_uid: uid,
        ..VbucketIdentity::clone(&record.identity)
    })
}

/// Checks what must hold after every call.
fn check(log: &CheckpointLog) {
    let figures = log.figures();
    let recounts = log.chain.iter().map(content::Checkpoint::recount);
    let (bytes, items) = recounts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert_eq!((figures.bytes, figures.items), (bytes, items));
    let ids: Vec<_> = log.chain.iter().map(|one| one.id).collect();
    assert!(ids.windows(2).all(|two| two[0].next() == two[1]));
    for cursor in log.cursors.iter() {
        let naive = log.chain.count_from(cursor.at, content::Slot::is_item);
        assert_eq!(log.remaining(cursor.id), Ok(naive));
        assert!(cursor.held <= cursor.at || !cursor.is_flush());
        assert!(log.chain.get(cursor.needs().checkpoint).is_some());
    }
    let needs = log.cursors.iter().map(|one| one.needs().checkpoint);
    let lowest = needs.min().unwrap();
    assert!(
        log.chain.closed.is_empty() || log.chain.oldest().id == lowest,
        "a checkpoint is kept that nobody needs"
    );
}
