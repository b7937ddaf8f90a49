//! Random items, batches and states, and batches that a store must refuse.
//!
//! Invariant: what is generated is what a correct caller could send: hints are true of the model, a completion
//! names an earlier seqno, and a bad batch is bad in one way only, so that its refusal is certain.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use piggin_storage::{
    Batch, Cas, CollectionId, Datatype, DeleteSource, Document, DocumentKey, DurabilityLevel,
    Expiry, FailoverTable, Incarnation, Item, KeyRange, ManifestUid, MemoryToken, Namespace,
    Operation, Predecessor, Refusal, RevSeqno, RollbackEpoch, ScopeId, Seqno, SeqnoRange,
    SnapshotKind, SnapshotRange, SystemEvent, Topology, VbucketIdentity, VbucketState,
    VbucketStateRecord, VbucketUuid, Watermarks,
};

use super::random::Random;
use super::vbucket::{ModelVbucket, Slot, slot};

/// One byte more than a value may have; shared, because filling it each time would be most of the run.
static TOO_LARGE: LazyLock<Bytes> =
    LazyLock::new(|| Bytes::from(vec![0; Document::VALUE_LENGTH_MAX + 1]));

/// Few enough keys that most writes replace something; with prefixes of each other and of other collections'.
pub(crate) const KEYS: [&[u8]; 8] = [
    b"a", b"aa", b"a\0", b"b", b"\xff", b"\x01", b"key-7", b"key-8",
];
pub(crate) const COLLECTIONS: [u32; 4] = [0, 8, 0x12c, u32::MAX];

pub(crate) fn key(random: &mut Random) -> DocumentKey {
    let collection = CollectionId(random.pick(&COLLECTIONS));
    let name: &[u8] = random.pick::<&[u8]>(&KEYS);
    DocumentKey::new(collection, name).unwrap()
}

/// A key that may be used in a namespace.
pub(crate) fn key_in(random: &mut Random, namespace: Namespace) -> DocumentKey {
    match namespace {
        Namespace::Committed | Namespace::Prepared => key(random),
        Namespace::SystemEvent => event(random, Operation::SystemEventEnd, &BTreeMap::new())
            .key()
            .unwrap(),
    }
}

/// An event of that operation. A life of a collection begins where the last one, of which there are `ends`, ended.
fn event(
    random: &mut Random,
    operation: Operation,
    ends: &BTreeMap<CollectionId, Seqno>,
) -> SystemEvent {
    let uid = ManifestUid(random.next());
    let scope = ScopeId(random.pick(&[0, 8]));
    let collection = CollectionId(random.pick(&COLLECTIONS));
    let is_collection = random.percent(80);
    let name = "a name".to_owned();
    match (operation == Operation::SystemEventBegin, is_collection) {
        (true, true) => SystemEvent::CollectionBegin {
            uid,
            scope,
            collection,
            name,
            max_ttl_s: 0,
        },
        (false, true) => SystemEvent::CollectionEnd {
            uid,
            scope,
            collection,
            start: ends.get(&collection).copied().unwrap_or_default(),
        },
        (true, false) => SystemEvent::ScopeBegin { uid, scope, name },
        (false, false) => SystemEvent::ScopeEnd { uid, scope },
    }
}

pub(crate) fn namespace(random: &mut Random) -> Namespace {
    random.pick(&Namespace::ALL)
}

pub(crate) fn budget(random: &mut Random) -> usize {
    random.pick(&[0, 1, 10, 100, 1000, usize::MAX])
}

/// A range of seqnos around those up to `high`; sometimes empty, sometimes the wrong way round.
pub(crate) fn seqno_range(random: &mut Random, high: Seqno) -> SeqnoRange {
    let mut bound = |open: Seqno| match random.below(4) {
        0 => open,
        _ => Seqno(random.within(0, high.0 + 2)),
    };
    SeqnoRange {
        first: bound(Seqno::ZERO),
        last: bound(Seqno::MAX),
    }
}

pub(crate) fn key_range(random: &mut Random) -> KeyRange {
    let mut range = KeyRange::all(namespace(random));
    if random.percent(70) {
        range.first = key_in(random, range.namespace).as_encoded().to_vec();
    }
    if random.percent(70) {
        range.end = Some(key_in(random, range.namespace).as_encoded().to_vec());
    }
    range
}

pub(crate) fn new_state(random: &mut Random) -> VbucketStateRecord {
    let high_seqno = if random.percent(85) {
        Seqno::ZERO
    } else {
        Seqno(random.within(1, 50))
    };
    VbucketStateRecord {
        identity: Arc::new(identity(random, high_seqno)),
        watermarks: Watermarks {
            high_seqno,
            commit_time_ms: random.below(1000),
            ..Watermarks::default()
        },
    }
}

fn identity(random: &mut Random, high: Seqno) -> VbucketIdentity {
    let mut failover_table = FailoverTable::new(VbucketUuid(random.within(1, u64::MAX - 1)));
    for _ in 0..random.below(4) {
        let seqno = Seqno(random.within(0, high.0));
        failover_table.create_entry(VbucketUuid(random.within(1, 1 << 40)), seqno);
    }
    let states = [
        VbucketState::Active,
        VbucketState::Replica,
        VbucketState::Pending,
        VbucketState::Dead,
    ];
    let chain = vec![Some("first".to_owned()), None, Some("third".to_owned())];
    VbucketIdentity {
        state: random.pick(&states),
        failover_table,
        topology: Topology {
            chains: vec![chain; random.index(3)],
        },
        manifest_uid: random.next(),
    }
}

/// A batch of up to `items_max` items that the store must take.
pub(crate) fn batch(random: &mut Random, model: &ModelVbucket, items_max: u64) -> Batch {
    let before = model.state.watermarks;
    let mut items: Vec<Arc<Item>> = Vec::new();
    let mut newest: BTreeMap<Slot, (Seqno, Operation)> = BTreeMap::new();
    let mut high = before.high_seqno;
    let mut ends = model.ends.clone();
    for _ in 0..random.within(0, items_max) {
        let gap = if random.percent(15) {
            random.below(9)
        } else {
            0
        };
        high = Seqno(high.0 + 1 + gap);
        let known = |wanted: &Slot| {
            let stored = model.newest(wanted);
            let stored = stored.map(|item| (item.seqno, item.operation));
            newest.get(wanted).copied().or(stored)
        };
        let item = item(random, high, known, &ends);
        if let Ok(SystemEvent::CollectionEnd { collection, .. }) = SystemEvent::of(&item) {
            ends.insert(collection, high);
        }
        newest.insert(slot(&item), (high, item.operation));
        items.push(Arc::new(item));
    }
    let watermarks = watermarks(random, &before, &items);
    let identity = random
        .percent(15)
        .then(|| Arc::new(identity(random, watermarks.high_seqno)));
    Batch {
        vbucket: model.vbucket,
        incarnation: model.incarnation,
        epoch: model.epoch,
        items,
        watermarks,
        identity,
    }
}

fn item(
    random: &mut Random,
    seqno: Seqno,
    known: impl Fn(&Slot) -> Option<(Seqno, Operation)>,
    ends: &BTreeMap<CollectionId, Seqno>,
) -> Item {
    let key = key(random);
    let pending = match known(&(Namespace::Prepared, key.as_encoded().to_vec())) {
        Some((prepare_seqno, Operation::Prepare { .. })) => prepare_seqno,
        _ => Seqno(random.below(seqno.0)),
    };
    let operation = operation(random, pending);
    let event =
        (operation.namespace() == Namespace::SystemEvent).then(|| event(random, operation, ends));
    let key = event.as_ref().map_or(key, |event| event.key().unwrap());
    let wanted = (operation.namespace(), key.as_encoded().to_vec());
    let predecessor = match known(&wanted) {
        _ if random.percent(35) => Predecessor::Unknown,
        Some((at, _)) => Predecessor::At(at),
        None => Predecessor::Absent,
    };
    let document = document(random, key, operation.is_tombstone());
    Item {
        seqno,
        operation,
        predecessor,
        document: Document {
            value: event.map_or(document.value, |event| event.value()),
            ..document
        },
        token: MemoryToken::default(),
    }
}

fn operation(random: &mut Random, prepare_seqno: Seqno) -> Operation {
    let deleted_at = if random.percent(10) {
        0
    } else {
        u32::try_from(random.below(1 << 32)).unwrap()
    };
    let source = random.pick(&[DeleteSource::Explicit, DeleteSource::Expiration]);
    let levels = [
        DurabilityLevel::Majority,
        DurabilityLevel::MajorityAndPersistOnActive,
        DurabilityLevel::PersistToMajority,
    ];
    match random.below(16) {
        0..5 => Operation::Mutation,
        5..8 => Operation::Deletion { deleted_at, source },
        8..11 => Operation::Prepare {
            level: random.pick(&levels),
            is_deletion: random.percent(30),
        },
        11 => Operation::Abort {
            prepare_seqno,
            deleted_at,
        },
        12 => Operation::CommitMutation { prepare_seqno },
        13 => Operation::CommitDeletion {
            prepare_seqno,
            deleted_at,
        },
        14 => Operation::SystemEventBegin,
        _ => Operation::SystemEventEnd,
    }
}

fn document(random: &mut Random, key: DocumentKey, is_tombstone: bool) -> Document {
    let length = match random.below(20) {
        _ if is_tombstone && random.percent(80) => 0,
        0 => random.below(20_000),
        1 => 0,
        _ => random.below(100),
    };
    let fill = u8::try_from(random.below(256)).unwrap();
    let length = usize::try_from(length).unwrap();
    Document {
        key,
        value: Bytes::from(vec![fill; length]),
        datatype: random.pick(&[Datatype::RAW, Datatype::JSON, Datatype::XATTR]),
        flags: u32::try_from(random.next() >> 32).unwrap(),
        expiry: Expiry(u32::try_from(random.below(3)).unwrap()),
        cas: Cas(random.next()),
        rev_seqno: RevSeqno(random.next() >> random.below(64)),
    }
}

fn watermarks(random: &mut Random, before: &Watermarks, items: &[Arc<Item>]) -> Watermarks {
    let mut after = *before;
    for item in items {
        after.high_seqno = item.seqno;
        if item.namespace() != Namespace::Prepared {
            after.max_visible_seqno = item.seqno;
        }
        if matches!(item.operation, Operation::Prepare { .. }) {
            after.prepared_seqno = item.seqno;
        }
    }
    let completed = before.completed_seqno.min(after.prepared_seqno);
    after.completed_seqno = Seqno(random.within(completed.0, after.prepared_seqno.0));
    after.high_prepared_seqno = Seqno(random.within(0, after.prepared_seqno.0));
    if random.percent(20) {
        // Also lower ones, which the store must not take over.
        after.purge_seqno = Seqno(random.within(0, after.high_seqno.0));
    }
    after.commit_time_ms = (before.commit_time_ms + random.below(50)).saturating_sub(10);
    after.snapshot = SnapshotRange {
        start: Seqno(random.within(0, after.high_seqno.0)),
        end: Seqno(after.high_seqno.0 + random.below(3)),
    };
    after.snapshot_kind = random.pick(&[SnapshotKind::Memory, SnapshotKind::Disk]);
    after
}

/// Spoils a good batch in one way, if there is a way for this one; the refusal it must meet.
pub(crate) fn spoil(
    random: &mut Random,
    batch: &mut Batch,
    model: &ModelVbucket,
) -> Option<Refusal> {
    let current = model.position();
    match random.below(6) {
        0 => {
            let wrong = [batch.incarnation.0 + 1, batch.incarnation.0.wrapping_sub(1)];
            batch.incarnation = Incarnation(random.pick(&wrong));
            Some(Refusal::StaleIncarnation {
                given: batch.incarnation,
                current: current.incarnation,
            })
        }
        1 => {
            let wrong = [batch.epoch.0 + 1, batch.epoch.0.wrapping_sub(1)];
            batch.epoch = RollbackEpoch(random.pick(&wrong));
            Some(Refusal::StaleEpoch {
                given: batch.epoch,
                current: current.epoch,
            })
        }
        2 => {
            let low = Seqno(random.within(0, current.high_seqno.0));
            edit(batch.items.first_mut()?, |item| item.seqno = low);
            Some(Refusal::SeqnoNotAbovePersisted {
                given: low,
                persisted: current.high_seqno,
            })
        }
        3 => spoil_order(random, batch),
        4 => {
            let items = batch.watermarks.high_seqno;
            let wrong = [items.0 + 1, items.0.wrapping_sub(1)];
            let high = Seqno(random.pick(&wrong));
            batch.watermarks.high_seqno = high;
            Some(Refusal::HighSeqno { high, items })
        }
        _ => {
            let place = batch.items.len().checked_sub(1)?;
            let item = &mut batch.items[random.index(place + 1)];
            edit(item, |item| item.document.value = TOO_LARGE.clone());
            Some(Refusal::ValueTooLarge {
                seqno: item.seqno,
                length: TOO_LARGE.len(),
            })
        }
    }
}

fn spoil_order(random: &mut Random, batch: &mut Batch) -> Option<Refusal> {
    let later = batch.items.len().checked_sub(2)?;
    let place = 1 + random.index(later + 1);
    let at = Seqno(random.within(0, batch.items[place - 1].seqno.0));
    edit(&mut batch.items[place], |item| item.seqno = at);
    Some(Refusal::SeqnoOrder { at })
}

fn edit(item: &mut Arc<Item>, change: impl FnOnce(&mut Item)) {
    change(Arc::make_mut(item));
}
