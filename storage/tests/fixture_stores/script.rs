//! The steps that make a fixture's store: every operation, sealed, merged, in the log only, rolled back, deleted.

use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use piggin_storage::{
    Batch, Cas, CollectionId, CommitDurability, Datatype, DeleteSource, Document, DocumentKey,
    DurabilityLevel, Expiry, FailoverEntry, FailoverTable, Item, KvStore, LogStore, ManifestUid,
    MemoryToken, Namespace, Operation, Outcome, Predecessor, RevSeqno, ScopeId, Seqno,
    SnapshotKind, SystemEvent, Topology, VbucketId, VbucketIdentity, VbucketState,
    VbucketStateRecord, VbucketUuid, Watermarks,
};

use super::Failure;

pub(crate) const VBUCKETS: u16 = 4;

/// A change of one key.
#[derive(Clone, Copy)]
enum Change {
    Set,
    Delete,
    Expire,
    Prepare,
    /// Of the prepare so many seqnos before.
    Commit(u64),
    CommitDeletion(u64),
    Abort(u64),
    EventBegins,
    EventEnds,
}

pub(crate) struct Script<'a> {
    pub(crate) store: &'a dyn KvStore,
    /// The same store, when it has work that a store in memory has not.
    pub(crate) log: Option<&'a LogStore>,
}

impl Script<'_> {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        self.all_but_the_last()?;
        let last = [("last", Change::Set), ("of all", Change::Set)];
        self.write(0, &last)
    }

    pub(crate) fn all_but_the_last(&self) -> Result<(), Failure> {
        for number in 0..VBUCKETS {
            self.store.create_vbucket(vbucket(number)?, &new_state())?;
        }
        self.every_operation()?;
        self.versions(1, 1..=30)?;
        self.seal(0)?;
        self.seal(1)?;
        self.write(0, &[("apple", Change::Set), ("banana", Change::Delete)])?;
        self.versions(1, 11..=40)?;
        self.seal(0)?;
        self.seal(1)?;
        self.checkpoint()?;
        self.become_replica()?;
        self.roll_back_and_go_on()?;
        self.store.delete_vbucket(vbucket(3)?)?;
        self.store.create_vbucket(vbucket(3)?, &new_state())?;
        self.versions(3, 1..=5)?;
        self.versions(1, 41..=44)?;
        self.merge(0)?;
        self.versions(3, 3..=8)
    }

    fn every_operation(&self) -> Result<(), Failure> {
        self.write(0, &[("fruit", Change::EventBegins)])?;
        self.write(
            0,
            &[
                ("apple", Change::Set),
                ("banana", Change::Set),
                ("cherry", Change::Set),
                ("date", Change::Set),
            ],
        )?;
        self.write(
            0,
            &[
                ("cherry", Change::Delete),
                ("date", Change::Expire),
                ("elder", Change::Prepare),
                ("fig", Change::Prepare),
            ],
        )?;
        self.write(
            0,
            &[("elder", Change::Commit(2)), ("fig", Change::Abort(2))],
        )?;
        self.write(
            0,
            &[
                ("apple", Change::Prepare),
                ("apple", Change::CommitDeletion(1)),
                ("grape", Change::Prepare),
                ("vegetables", Change::EventBegins),
                ("vegetables", Change::EventEnds),
            ],
        )
    }

    /// One batch a key, several versions of the keys in overlapping ranges.
    fn versions(&self, number: u16, keys: RangeInclusive<u32>) -> Result<(), Failure> {
        for key in keys {
            self.write(number, &[(&format!("key-{key:03}"), Change::Set)])?;
        }
        Ok(())
    }

    fn become_replica(&self) -> Result<(), Failure> {
        let mut batch = self.batch(2, &[("topology", Change::Set)])?;
        batch.watermarks.snapshot_kind = SnapshotKind::Disk;
        let branches = [(0xb0b, 3), (0xa11ce, 0)].map(|(uuid, seqno)| FailoverEntry {
            uuid: VbucketUuid(uuid),
            seqno: Seqno(seqno),
        });
        batch.identity = Some(Arc::new(VbucketIdentity {
            state: VbucketState::Replica,
            failover_table: FailoverTable::sanitized(branches).ok_or("no branch")?,
            topology: Topology {
                chains: vec![vec![Some("node-a".into()), Some("node-b".into()), None]],
            },
            manifest_uid: 5,
        }));
        self.commit(&batch)
    }

    fn roll_back_and_go_on(&self) -> Result<(), Failure> {
        self.versions(2, 1..=6)?;
        self.seal(2)?;
        self.versions(2, 4..=9)?;
        match self.store.rollback(vbucket(2)?, Seqno(10)) {
            Outcome::Complete(_) => {}
            other @ (Outcome::Yielded | Outcome::Aborted(_) | Outcome::Failed(_)) => {
                return Err(format!("rollback: {other:?}").into());
            }
        }
        self.versions(2, 8..=9)
    }

    fn seal(&self, number: u16) -> Result<(), Failure> {
        complete(&self.store.seal(vbucket(number)?, Seqno::ZERO))
    }

    fn merge(&self, number: u16) -> Result<(), Failure> {
        match self.log {
            Some(log) => complete(&log.merge(vbucket(number)?, Seqno::ZERO)),
            None => Ok(()),
        }
    }

    fn checkpoint(&self) -> Result<(), Failure> {
        Ok(self.log.map_or(Ok(()), LogStore::checkpoint)?)
    }

    fn write(&self, number: u16, changes: &[(&str, Change)]) -> Result<(), Failure> {
        self.commit(&self.batch(number, changes)?)
    }

    fn commit(&self, batch: &Batch) -> Result<(), Failure> {
        let group = std::slice::from_ref(batch);
        let verdicts = self.store.commit(group, CommitDurability::Synced);
        verdicts.into_iter().collect::<Result<(), _>>()?;
        Ok(())
    }

    fn batch(&self, number: u16, changes: &[(&str, Change)]) -> Result<Batch, Failure> {
        let snapshot = self.store.snapshot(vbucket(number)?)?;
        let mut watermarks = snapshot.state().watermarks;
        watermarks.snapshot.start = watermarks.high_seqno;
        let mut items: Vec<Arc<Item>> = Vec::new();
        for (name, change) in changes {
            let seqno = watermarks.high_seqno.next();
            let operation = operation(*change, seqno);
            let event = event(*change, name, number, seqno);
            let key = match &event {
                Some(event) => event.key()?,
                None => DocumentKey::new(collection(number), name.as_bytes())?,
            };
            let in_batch = items
                .iter()
                .rfind(|item| item.document.key == key && item.namespace() == operation.namespace())
                .map(|item| item.seqno);
            let before = match in_batch {
                Some(seqno) => Some(seqno),
                None => snapshot
                    .get(operation.namespace(), &key)?
                    .map(|item| item.seqno),
            };
            let mut item = item(seqno, operation, key, name, before);
            if let Some(event) = event {
                item.document.value = event.value();
            }
            items.push(Arc::new(item));
            advance(&mut watermarks, seqno, operation);
        }
        watermarks.commit_time_ms = 1_700_000_000_000 + watermarks.high_seqno.0 * 10;
        Ok(Batch {
            vbucket: snapshot.vbucket(),
            incarnation: snapshot.incarnation(),
            epoch: snapshot.epoch(),
            items,
            watermarks,
            identity: None,
        })
    }
}

fn vbucket(number: u16) -> Result<VbucketId, Failure> {
    Ok(VbucketId::try_from(number)?)
}

/// Ids whose prefix takes one, two and five bytes.
fn collection(number: u16) -> CollectionId {
    CollectionId(
        [0, 8, 300, u32::MAX]
            .get(usize::from(number))
            .map_or(0, |id| *id),
    )
}

fn new_state() -> VbucketStateRecord {
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

/// The scope `name` begins, or the vbucket's collection ends.
fn event(change: Change, name: &str, number: u16, seqno: Seqno) -> Option<SystemEvent> {
    let uid = ManifestUid(seqno.0);
    match change {
        Change::EventBegins => Some(SystemEvent::ScopeBegin {
            uid,
            scope: ScopeId(8),
            name: name.into(),
        }),
        Change::EventEnds => Some(SystemEvent::CollectionEnd {
            uid,
            scope: ScopeId(8),
            collection: CollectionId(collection(number).0.wrapping_add(100)),
            start: Seqno(1),
        }),
        Change::Set
        | Change::Delete
        | Change::Expire
        | Change::Prepare
        | Change::Commit(_)
        | Change::CommitDeletion(_)
        | Change::Abort(_) => None,
    }
}

fn operation(change: Change, seqno: Seqno) -> Operation {
    let deleted_at = 1_700_000_000;
    let back = |by: u64| Seqno(seqno.0 - by);
    match change {
        Change::Set => Operation::Mutation,
        Change::Delete => Operation::Deletion {
            deleted_at,
            source: DeleteSource::Explicit,
        },
        Change::Expire => Operation::Deletion {
            deleted_at,
            source: DeleteSource::Expiration,
        },
        Change::Prepare => Operation::Prepare {
            level: DurabilityLevel::PersistToMajority,
            is_deletion: false,
        },
        Change::Commit(by) => Operation::CommitMutation {
            prepare_seqno: back(by),
        },
        Change::CommitDeletion(by) => Operation::CommitDeletion {
            prepare_seqno: back(by),
            deleted_at,
        },
        Change::Abort(by) => Operation::Abort {
            prepare_seqno: back(by),
            deleted_at,
        },
        Change::EventBegins => Operation::SystemEventBegin,
        Change::EventEnds => Operation::SystemEventEnd,
    }
}

fn item(
    seqno: Seqno,
    operation: Operation,
    key: DocumentKey,
    name: &str,
    before: Option<Seqno>,
) -> Item {
    let value = if operation.is_tombstone() {
        Bytes::new()
    } else {
        format!("{{\"name\":\"{name}\",\"seqno\":{seqno}}}").into()
    };
    // Hints are there or not: a store must do with either.
    let predecessor = match before {
        _ if seqno.0.is_multiple_of(3) => Predecessor::Unknown,
        Some(before) => Predecessor::At(before),
        None => Predecessor::Absent,
    };
    Item {
        seqno,
        operation,
        predecessor,
        document: Document {
            key,
            value,
            datatype: Datatype::JSON,
            flags: 0x0200_0006,
            expiry: Expiry(if seqno.0.is_multiple_of(4) {
                2_000_000_000
            } else {
                0
            }),
            cas: Cas(0x1700_0000_0000_0000 + (seqno.0 << 16)),
            rev_seqno: RevSeqno(before.map_or(1, |before| before.0 + 1)),
        },
        token: MemoryToken::default(),
    }
}

fn advance(watermarks: &mut Watermarks, seqno: Seqno, operation: Operation) {
    watermarks.high_seqno = seqno;
    watermarks.snapshot.end = seqno;
    if operation.namespace() != Namespace::Prepared {
        watermarks.max_visible_seqno = seqno;
    }
    match operation {
        Operation::Prepare { .. } => watermarks.prepared_seqno = seqno,
        Operation::Abort { prepare_seqno, .. }
        | Operation::CommitMutation { prepare_seqno }
        | Operation::CommitDeletion { prepare_seqno, .. } => {
            watermarks.completed_seqno = prepare_seqno;
            watermarks.high_prepared_seqno = prepare_seqno;
        }
        Operation::Mutation
        | Operation::Deletion { .. }
        | Operation::SystemEventBegin
        | Operation::SystemEventEnd => {}
    }
}

fn complete(outcome: &Outcome<()>) -> Result<(), Failure> {
    match outcome {
        Outcome::Complete(()) => Ok(()),
        other @ (Outcome::Yielded | Outcome::Aborted(_) | Outcome::Failed(_)) => {
            Err(format!("{other:?}").into())
        }
    }
}
