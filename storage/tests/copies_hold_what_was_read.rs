//! A copy of a vbucket holds what could be read of it, on a branch of history of its own; it is told complete only when it is,
//! whatever the disks do.
#![cfg(test)]

use std::sync::Arc;

use piggin_storage::disk::{DiskErrorKind, Fault, SimulatedDisk};
use piggin_storage::{
    Copied, CopyError, CopyJob, CopyOf, FailoverEntry, Item, Job, KvStore, MemoryStore, Namespace,
    Outcome, ReadBackJob, Seqno, SeqnoRange, SnapshotKind, SnapshotRange, SystemEvent, Topology,
    VbucketState, VbucketUuid, Watermarks,
};

use crate::support::log_store::{create_on, image, open_on, small_options};
use crate::support::{
    Writer, abort_of, commit_of, deletion, factories, mutation, new_state, prepare, read_all,
    vbucket,
};

mod support;

const UUID: VbucketUuid = VbucketUuid(0xc0b1);

fn copied(writer: &Writer, to: &Arc<dyn KvStore>) -> Outcome<Copied, CopyError> {
    CopyJob::new(
        &*writer.snapshot(),
        CopyOf::Everything,
        Arc::clone(to),
        UUID,
    )
    .run()
}

fn items(store: &dyn KvStore) -> Vec<Item> {
    let snapshot = store.snapshot(vbucket(0)).unwrap();
    read_all(snapshot.scan_by_seqno(SeqnoRange::ALL)).0
}

/// One of everything.
fn fill(writer: &mut Writer) {
    let value = "v".repeat(3000);
    writer.write(
        (1..400)
            .map(|n| mutation(n, &format!("k{n}"), &value))
            .collect(),
    );
    writer.seal(Seqno::MAX);
    writer.write(vec![
        mutation(400, "k1", "newer"),
        deletion(401, "k2"),
        prepare(402, "p1", "one"),
        prepare(403, "p2", "two"),
    ]);
    writer.write(vec![
        commit_of(402, 404, "p1", "one"),
        abort_of(403, 405, "p2"),
        prepare(406, "p3", "three"),
    ]);
}

#[test]
fn everything_is_there_and_goes_on_as_a_branch_of_its_own() {
    for factory in factories() {
        let mut writer = Writer::create(&factory.create(4), 0);
        fill(&mut writer);
        let target = factory.create(4);
        let Outcome::Complete(copied) = copied(&writer, &target) else {
            panic!("no copy");
        };
        assert_eq!(items(&*target), items(&*writer.store));
        assert_eq!(copied.items, items(&*target).len() as u64);
        assert_eq!(copied.high_seqno, Seqno(406));
        let (from, to) = (writer.snapshot().state(), target.state(vbucket(0)).unwrap());
        assert_eq!(to.watermarks, from.watermarks);
        let branches = to.identity.failover_table.entries();
        let branch = FailoverEntry {
            uuid: UUID,
            seqno: Seqno(406),
        };
        assert_eq!(branches[0], branch);
        assert_eq!(&branches[1..], from.identity.failover_table.entries());
        // And it is a vbucket like any other.
        let mut next = Writer {
            store: Arc::clone(&target),
            watermarks: to.watermarks,
            ..Writer::create(&factory.create(4), 0)
        };
        next.incarnation = target.snapshot(vbucket(0)).unwrap().incarnation();
        next.write(vec![mutation(407, "k1", "of the copy")]);
    }
}

#[test]
fn a_rollback_into_the_copy_finds_no_moment_that_never_was() {
    let disk = SimulatedDisk::new();
    let (_, source) = create_on(&SimulatedDisk::new(), small_options(1));
    let mut writer = Writer::create(&source, 0);
    fill(&mut writer);
    let (_, target) = create_on(&disk, small_options(2));
    assert!(matches!(copied(&writer, &target), Outcome::Complete(_)));
    // In the middle of what was copied the first keys are missing: their newest version lies above.
    let Outcome::Complete(_) = target.rollback(vbucket(0), Seqno(399)) else {
        panic!("no rollback");
    };
    let snapshot = target.state(vbucket(0)).unwrap().watermarks.snapshot;
    let high = target.snapshot(vbucket(0)).unwrap().high_seqno();
    assert!(
        high == Seqno::ZERO || snapshot.end > high,
        "{high} is told to be whole: {snapshot:?}"
    );
}

#[test]
fn lives_of_collections_that_ended_stay_behind() {
    for factory in factories() {
        let mut writer = Writer::create(&factory.create(4), 0);
        let collection = piggin_storage::CollectionId(9);
        let of = |seqno: u64, event: &SystemEvent| {
            let mut item = Item::clone(&mutation(seqno, "of", ""));
            item.operation = event.operation();
            item.document.key = event.key().unwrap();
            item.document.value = event.value();
            Arc::new(item)
        };
        let within = |seqno: u64, name: &str| {
            let mut item = Item::clone(&mutation(seqno, "of", "value"));
            item.document.key =
                piggin_storage::DocumentKey::new(collection, name.as_bytes()).unwrap();
            Arc::new(item)
        };
        let begin = |uid| SystemEvent::CollectionBegin {
            uid: piggin_storage::ManifestUid(uid),
            scope: piggin_storage::ScopeId(0),
            collection,
            name: "c".to_owned(),
            max_ttl_s: 0,
        };
        let end = SystemEvent::CollectionEnd {
            uid: piggin_storage::ManifestUid(2),
            scope: piggin_storage::ScopeId(0),
            collection,
            start: Seqno(1),
        };
        writer.write(vec![of(1, &begin(1)), within(2, "a"), within(3, "b")]);
        writer.write(vec![of(4, &end)]);
        writer.write(vec![of(5, &begin(3)), within(6, "a")]);
        let target = factory.create(4);
        assert!(matches!(copied(&writer, &target), Outcome::Complete(_)));
        let seqnos: Vec<u64> = items(&*target).iter().map(|item| item.seqno.0).collect();
        assert_eq!(seqnos, [5, 6]);
    }
}

#[test]
fn whoever_may_lack_a_purged_tombstone_cannot_go_on() {
    let store: Arc<dyn KvStore> = Arc::new(MemoryStore::new(4));
    let mut writer = Writer::create(&store, 0);
    writer.write(vec![mutation(1, "a", "one")]);
    writer.write(vec![mutation(2, "b", "one")]);
    // As of a vbucket whose newest item was purged.
    let mut state = new_state();
    state.watermarks = writer.stored_watermarks();
    state.watermarks.high_seqno = Seqno(9);
    state.watermarks.purge_seqno = Seqno(9);
    let source: Arc<dyn KvStore> = Arc::new(MemoryStore::new(4));
    source.create_vbucket(vbucket(0), &state).unwrap();
    let target: Arc<dyn KvStore> = Arc::new(MemoryStore::new(4));
    let snapshot = source.snapshot(vbucket(0)).unwrap();
    let ended = CopyJob::new(&*snapshot, CopyOf::Everything, Arc::clone(&target), UUID).run();
    assert!(matches!(ended, Outcome::Complete(_)), "{ended:?}");
    let copy = target.state(vbucket(0)).unwrap();
    let branches = copy.identity.failover_table.entries();
    assert_eq!(branches.len(), 1, "{branches:?}");
    assert_eq!(branches[0].uuid, UUID);
}

/// Whatever call fails: no copy is told complete that is not there after a power cut.
#[test]
fn every_failing_call_of_the_copy_s_disk() {
    let (_, source) = create_on(&SimulatedDisk::new(), small_options(1));
    let mut writer = Writer::create(&source, 0);
    fill(&mut writer);
    let whole = items(&*source);
    let (mut failed, mut complete) = (0, 0);
    for n in 1.. {
        let disk = SimulatedDisk::new();
        let (store, target) = create_on(&disk, small_options(2));
        let before = disk.calls();
        // One failed write is made good in another file; this disk stays full.
        let full = Fault::failed_call(DiskErrorKind::Full);
        disk.inject(full.nth(n).lasting());
        let ended = copied(&writer, &target);
        let struck = disk.calls() - before >= n;
        if !struck {
            disk.clear_faults();
        }
        match ended {
            Outcome::Complete(_) if target.sync().is_err() => failed += 1,
            Outcome::Complete(_) => {
                complete += 1;
                drop((store, target));
                let after = disk.crash_losing_everything_unsynced();
                assert_eq!(items(&open_on(&after, 3)), whole, "call {n}");
            }
            Outcome::Failed(CopyError::Target { .. }) => failed += 1,
            ended @ (Outcome::Failed(_) | Outcome::Aborted(_) | Outcome::Yielded) => {
                panic!("call {n}: {ended:?}")
            }
        }
        if !struck {
            break;
        }
    }
    assert!(failed > 10 && complete > 0, "{failed}, {complete}");
}

#[test]
fn a_source_that_cannot_be_read_is_no_shorter_copy() {
    let disk = SimulatedDisk::new();
    let (store, source) = create_on(&disk, small_options(1));
    let mut writer = Writer::create(&source, 0);
    fill(&mut writer);
    let whole = image(&store, 0);
    let mut failed = 0;
    for n in 1.. {
        let (_, target) = create_on(&SimulatedDisk::new(), small_options(2));
        disk.fail_call(n, DiskErrorKind::Other("input/output error".into()));
        let ended = copied(&writer, &target);
        let struck = disk.faults_waiting() == 0;
        disk.clear_faults();
        match ended {
            Outcome::Complete(_) => assert_eq!(items(&*target), whole.by_seqno, "call {n}"),
            Outcome::Failed(CopyError::Source { .. }) => failed += 1,
            ended @ (Outcome::Failed(_) | Outcome::Aborted(_) | Outcome::Yielded) => {
                panic!("call {n}: {ended:?}")
            }
        }
        if !struck {
            break;
        }
    }
    assert!(failed > 0);
}

/// What somebody else wrote into it, or what a disk gives back otherwise, is no copy.
#[test]
fn a_copy_that_reads_differently_is_seen() {
    for factory in factories() {
        let mut writer = Writer::create(&factory.create(4), 0);
        fill(&mut writer);
        let target = factory.create(4);
        let Outcome::Complete(written) = copied(&writer, &target) else {
            panic!("no copy");
        };
        let read = || ReadBackJob::new(&*target.snapshot(vbucket(0)).unwrap()).run();
        assert_eq!(read(), Outcome::Complete(written));
        let snapshot = target.snapshot(vbucket(0)).unwrap();
        let mut meddler = Writer {
            store: Arc::clone(&target),
            vbucket: vbucket(0),
            incarnation: snapshot.incarnation(),
            epoch: snapshot.epoch(),
            watermarks: snapshot.state().watermarks,
        };
        meddler.write(vec![mutation(407, "k3", "another")]);
        assert_ne!(read(), Outcome::Complete(written));
    }
}

/// A replica in the middle of what its source sends is no more whole as a copy.
#[test]
fn a_snapshot_that_was_cut_stays_cut() {
    for factory in factories() {
        let mut writer = Writer::create(&factory.create(4), 0);
        writer.watermarks.snapshot_kind = SnapshotKind::Disk;
        let batch = writer.batch(vec![mutation(3, "a", "one"), mutation(5, "b", "one")]);
        let cut = SnapshotRange {
            start: Seqno(0),
            end: Seqno(9),
        };
        let watermarks = Watermarks {
            snapshot: cut,
            ..batch.watermarks
        };
        let batch = writer.batch_with(batch.items, watermarks);
        writer.try_commit(&batch).unwrap();
        let target = factory.create(4);
        assert!(matches!(copied(&writer, &target), Outcome::Complete(_)));
        let stored = target.state(vbucket(0)).unwrap().watermarks;
        assert_eq!(stored.snapshot, cut);
        assert_eq!(stored.snapshot_kind, SnapshotKind::Disk);
    }
}

#[test]
fn documents_alone_are_an_active_vbucket_without_prepares() {
    for factory in factories() {
        let mut writer = Writer::create(&factory.create(4), 0);
        fill(&mut writer);
        let target = factory.create(4);
        let of = CopyOf::Documents { manifest_uid: 5 };
        let ended = CopyJob::new(&*writer.snapshot(), of, Arc::clone(&target), UUID).run();
        let Outcome::Complete(copied) = ended else {
            panic!("{ended:?}");
        };
        let is_prepare = |item: &Item| item.namespace() == Namespace::Prepared;
        let (there, here) = (items(&*writer.store), items(&*target));
        assert!(there.iter().any(is_prepare));
        let kept: Vec<Item> = there.into_iter().filter(|item| !is_prepare(item)).collect();
        assert_eq!(here, kept);
        let documents = kept.iter().filter(|item| !item.operation.is_tombstone());
        assert_eq!(copied.documents, documents.count() as u64);
        let state = target.state(vbucket(0)).unwrap();
        assert_eq!(state.identity.state, VbucketState::Active);
        assert_eq!(state.identity.topology, Topology::default());
        assert_eq!(state.identity.manifest_uid, 5);
        // Nothing of what goes on in its source goes on here.
        let high = state.watermarks.high_seqno;
        assert_eq!(state.watermarks.prepared_seqno, Seqno::ZERO);
        assert_eq!(state.identity.failover_table.entries()[0].seqno, high);
        let snapshot = target.snapshot(vbucket(0)).unwrap();
        let read = ReadBackJob::new(&*snapshot).run();
        assert!(matches!(read, Outcome::Complete(read) if read == copied));
    }
}
