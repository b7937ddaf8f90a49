//! A replica takes what its stream sends, with the source's seqnos, and nothing from a stream that was superseded
//! (rule R17); what it stores names the last whole snapshot (MB-35003), and so does its promotion.
#![cfg(test)]

mod support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use messages::OperationError;
use piggin_actors::vbucket::checkpoint::{CheckpointLimits, ReplicaSnapshot};
use piggin_actors::vbucket::{FlushTake, StreamEpoch, VbucketCore};
use storage::{
    Cas, CommitDurability, Document, FailoverEntry, FailoverTable, Item, KvStore, MemoryStore,
    Operation, Outcome, Predecessor, RevSeqno, Seqno, SeqnoRange, SnapshotKind, VbucketState,
    VbucketUuid,
};
use support::{
    Bench, Setup, batch, become_state, delete, flush_all, id, in_state, key, position, set,
};

fn item(seqno: u64, name: &str) -> Arc<Item> {
    let mut document = Document::new(key(name), "replicated", Cas(seqno << 20));
    document.rev_seqno = RevSeqno(77);
    Arc::new(Item::mutation(Seqno(seqno), document))
}

fn memory(start: u64, end: u64) -> ReplicaSnapshot {
    ReplicaSnapshot::memory(Seqno(start), Seqno(end))
}

#[test]
fn an_item_keeps_what_its_source_gave_it() {
    let Bench { core, .. } = in_state(VbucketState::Replica);
    let epoch = core.begin_stream().unwrap();
    core.apply_marker(epoch, &memory(0, 9), true).unwrap();
    let given = item(5, "a");
    core.apply_item(epoch, Arc::clone(&given)).unwrap();
    assert_eq!(core.high_seqno(), Seqno(5));
    become_state(&core, VbucketState::Active);
    let meta = core.get_meta(&key("a")).unwrap();
    assert_eq!((meta.seqno, meta.cas), (Seqno(5), given.document.cas));
    assert_eq!(meta.rev_seqno, RevSeqno(77));
    assert!(core.set(set("b", "1")).unwrap().cas > given.document.cas);
    assert_eq!(given.token.bytes(), 0, "the source's item is its own");
}

#[test]
fn what_a_superseded_stream_sends_is_refused() {
    let Bench { core, .. } = in_state(VbucketState::Replica);
    let first = core.begin_stream().unwrap();
    core.apply_marker(first, &memory(0, 9), true).unwrap();
    let second = core.begin_stream().unwrap();
    assert_eq!(
        core.apply_item(first, item(1, "a")),
        Err(OperationError::StaleStream)
    );
    core.apply_marker(second, &memory(0, 9), true).unwrap();
    become_state(&core, VbucketState::Pending);
    core.apply_item(second, item(1, "a")).unwrap();
    become_state(&core, VbucketState::Active);
    assert_eq!(
        core.apply_item(second, item(2, "a")),
        Err(OperationError::StaleStream)
    );
    become_state(&core, VbucketState::Replica);
    assert_eq!(
        core.apply_item(second, item(2, "a")),
        Err(OperationError::StaleStream)
    );
    let third = core.begin_stream().unwrap();
    core.apply_marker(third, &memory(2, 9), true).unwrap();
    core.reset(&core.state_record());
    assert_eq!(
        core.apply_item(third, item(2, "a")),
        Err(OperationError::StaleStream)
    );
}

#[test]
fn a_stream_writes_to_no_vbucket_that_is_not_a_replica() {
    for state in [VbucketState::Active, VbucketState::Dead] {
        let Bench { core, .. } = in_state(state);
        let vbucket = id();
        let refused = Err(OperationError::NotMyVbucket { vbucket, state });
        assert_eq!(core.begin_stream(), refused);
    }
}

#[test]
fn what_does_not_fit_the_history_is_refused_and_changes_nothing() {
    let Bench { core, .. } = in_state(VbucketState::Replica);
    let epoch = core.begin_stream().unwrap();
    let is_refused = |epoch, item| {
        let refused = core.apply_item(epoch, item);
        matches!(refused, Err(OperationError::BadReplication(_)))
    };
    assert!(is_refused(epoch, item(1, "a")), "before any snapshot");
    core.apply_marker(epoch, &memory(0, 5), true).unwrap();
    core.apply_item(epoch, item(3, "a")).unwrap();
    assert!(is_refused(epoch, item(3, "b")), "a seqno twice");
    assert!(is_refused(epoch, item(2, "b")), "a lower one");
    assert!(is_refused(epoch, item(6, "b")), "beyond the snapshot");
    let mut commit = Item::clone(&item(4, "b"));
    commit.operation = Operation::CommitMutation {
        prepare_seqno: Seqno(2),
    };
    assert!(is_refused(epoch, Arc::new(commit)), "never prepared");
    let inverted = core.apply_marker(epoch, &memory(9, 6), true);
    assert!(matches!(inverted, Err(OperationError::BadReplication(_))));
    assert_eq!((core.high_seqno(), core.figures().documents), (Seqno(3), 1));
    core.apply_item(epoch, item(5, "b")).unwrap();
}

#[test]
fn a_replica_is_never_refused_for_memory() {
    let setup = Setup {
        quota_bytes: 100,
        ..Setup::default()
    };
    let Bench {
        core,
        memory: account,
        ..
    } = setup.warming();
    become_state(&core, VbucketState::Replica);
    let epoch = core.begin_stream().unwrap();
    core.apply_marker(epoch, &memory(0, 50), true).unwrap();
    for seqno in 1..=50 {
        core.apply_item(epoch, item(seqno, &format!("k{seqno}")))
            .unwrap();
    }
    assert!(account.held_bytes() > 5000);
    assert!(
        !core.warm_insert(item(7, "k7")),
        "loading overwrites nothing"
    );
    assert!(core.warm_insert(item(8, "more")));
}

#[test]
fn a_replica_that_is_still_loading_knows_of_no_key_that_it_is_absent() {
    let Bench { core, .. } = Setup::default().warming();
    become_state(&core, VbucketState::Replica);
    let epoch = core.begin_stream().unwrap();
    core.apply_marker(epoch, &memory(0, 9), true).unwrap();
    core.apply_item(epoch, item(1, "a")).unwrap();
    core.warm_done();
    core.apply_item(epoch, item(2, "b")).unwrap();
    let taken = core.take_for_flush(9, usize::MAX).unwrap();
    let hints: Vec<_> = taken.items.iter().map(|item| item.predecessor).collect();
    assert_eq!(hints, [Predecessor::Unknown, Predecessor::Absent]);
}

/// MB-50874: nothing of the new branch lies below where its snapshot begins.
#[test]
fn promotion_in_the_middle_of_a_snapshot_branches_at_the_last_whole_one() {
    let Bench { core, .. } = in_state(VbucketState::Replica);
    let epoch = core.begin_stream().unwrap();
    let table = FailoverTable::new(VbucketUuid(0xb0b));
    core.apply_failover_table(epoch, table).unwrap();
    core.apply_marker(epoch, &memory(0, 2), true).unwrap();
    core.apply_item(epoch, item(1, "a")).unwrap();
    core.apply_item(epoch, item(2, "b")).unwrap();
    core.apply_marker(epoch, &memory(3, 9), true).unwrap();
    core.apply_item(epoch, item(4, "c")).unwrap();
    become_state(&core, VbucketState::Active);
    let record = core.state_record();
    let entries = record.identity.failover_table.entries();
    let first = FailoverEntry {
        uuid: VbucketUuid(0xb0b),
        seqno: Seqno::ZERO,
    };
    assert_eq!((entries[0].seqno, entries[1]), (Seqno(2), first));
    assert_eq!(core.set(set("d", "1")).unwrap().token.seqno, Seqno(5));
    let take = core.take_for_flush(3, usize::MAX).unwrap();
    let snapshot = take.watermarks.snapshot;
    // What it ended at the source never comes; it is whole with what is here.
    assert_eq!((snapshot.start, snapshot.end), (Seqno(2), Seqno(5)));
}

/// MB-48398: a disk snapshot that goes on where one of before was cut is not the first.
#[test]
fn mb_35723_a_first_snapshot_keeps_streams_away_until_it_is_whole_or_given_up() {
    let is_initial = |core: &VbucketCore| core.stream_view().unwrap().0.is_receiving_initial;
    for is_promoted in [false, true] {
        let Bench { core, .. } = in_state(VbucketState::Replica);
        let epoch = core.begin_stream().unwrap();
        let disk = ReplicaSnapshot::disk(Seqno(0), Seqno(9), Seqno(0));
        core.apply_marker(epoch, &disk, true).unwrap();
        core.apply_item(epoch, item(4, "a")).unwrap();
        assert!(is_initial(&core));
        if is_promoted {
            become_state(&core, VbucketState::Active);
        } else {
            core.apply_item(epoch, item(9, "b")).unwrap();
        }
        assert!(!is_initial(&core), "promoted: {is_promoted}");
        if !is_promoted {
            let epoch = core.begin_stream().unwrap();
            let disk = ReplicaSnapshot::disk(Seqno(10), Seqno(20), Seqno(0));
            core.apply_marker(epoch, &disk, true).unwrap();
            assert!(!is_initial(&core), "there is something already");
        }
    }
}

#[test]
fn a_disk_snapshot_is_stored_as_one() {
    let Bench { core, .. } = in_state(VbucketState::Replica);
    let epoch = core.begin_stream().unwrap();
    let disk = ReplicaSnapshot::disk(Seqno(0), Seqno(9), Seqno(0));
    core.apply_marker(epoch, &disk, true).unwrap();
    core.apply_item(epoch, item(4, "a")).unwrap();
    let take = core.take_for_flush(3, usize::MAX).unwrap();
    assert_eq!(take.watermarks.snapshot_kind, SnapshotKind::Disk);
    let snapshot = take.watermarks.snapshot;
    assert_eq!((snapshot.start, snapshot.end), (Seqno(0), Seqno(9)));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Set(u8),
    Delete(u8),
    /// The source sends all it has as one snapshot, of which so many items arrive before the connection breaks.
    Send(usize),
    Flush(usize, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u8..12).prop_map(Step::Set),
        3 => (0u8..12).prop_map(Step::Delete),
        3 => (0usize..12).prop_map(Step::Send),
        3 => (1usize..6, prop::bool::weighted(0.8)).prop_map(|(items, ends)| Step::Flush(items, ends)),
    ];
    prop::collection::vec(step, 0..150)
}

/// A source, a replica, and the replica's store.
struct Pair {
    source: Bench,
    replica: Bench,
    store: MemoryStore,
    epoch: StreamEpoch,
    /// What the replica has yet to get of the snapshot under way.
    unsent: Vec<Arc<Item>>,
    /// The newest version of every key the source ever sent.
    sent: BTreeMap<Bytes, Cas>,
    /// What the replica had at the ends of whole snapshots.
    whole: BTreeMap<Seqno, BTreeMap<Bytes, Cas>>,
}

impl Pair {
    fn new(items_max: usize) -> Pair {
        let limits = CheckpointLimits {
            items_max,
            ..CheckpointLimits::default()
        };
        let with_limits = || Setup {
            checkpoints: limits,
            ..Setup::default()
        };
        let replica = with_limits().warm();
        become_state(&replica.core, VbucketState::Replica);
        let store = MemoryStore::new(8);
        store
            .create_vbucket(id(), &replica.core.state_record())
            .unwrap();
        Pair {
            source: with_limits().warm(),
            epoch: replica.core.begin_stream().unwrap(),
            replica,
            store,
            unsent: Vec::new(),
            sent: BTreeMap::new(),
            whole: BTreeMap::from([(Seqno::ZERO, BTreeMap::new())]),
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Set(name) => {
                let set = set(&format!("k{name}"), "value");
                self.source.core.set(set).unwrap();
            }
            Step::Delete(name) => drop(self.source.core.delete(delete(&format!("k{name}")))),
            Step::Send(arrive) => self.send(arrive),
            Step::Flush(items, ends) => self.flush(items, ends),
        }
    }

    fn send(&mut self, arrive: usize) {
        if self.unsent.is_empty() {
            let taken = self.source.core.take_for_flush(usize::MAX, usize::MAX);
            let Some(FlushTake { items, .. }) = taken else {
                return;
            };
            for item in &items {
                let key = Bytes::copy_from_slice(item.document.key.as_encoded());
                self.sent.insert(key, item.document.cas);
            }
            self.unsent = items;
        }
        // The stream comes back, and the source announces what is left.
        self.epoch = self.replica.core.begin_stream().unwrap();
        let (first, last) = (self.unsent.first().unwrap(), self.unsent.last().unwrap());
        let (first, last) = (first.seqno, last.seqno);
        let snapshot = ReplicaSnapshot::memory(first, last);
        let anew = first.0.is_multiple_of(2);
        self.replica
            .core
            .apply_marker(self.epoch, &snapshot, anew)
            .unwrap();
        let arrive = arrive.min(self.unsent.len());
        for item in self.unsent.drain(..arrive) {
            self.replica.core.apply_item(self.epoch, item).unwrap();
        }
        if self.unsent.is_empty() {
            self.whole.insert(last, self.sent.clone());
        }
    }

    fn flush(&mut self, items: usize, ends: bool) {
        let core = &self.replica.core;
        let Some(take) = core.take_for_flush(items, usize::MAX) else {
            return;
        };
        let watermarks = take.watermarks;
        let high = watermarks.high_seqno;
        let snapshot = watermarks.snapshot;
        assert!(snapshot.start <= high && snapshot.end >= high);
        assert!(self.whole.contains_key(&snapshot.start));
        assert_eq!(snapshot.end == high, snapshot.start == high);
        if ends {
            let group = [batch(take, &position(&self.store))];
            for committed in self.store.commit(&group, CommitDurability::Synced) {
                committed.unwrap();
            }
            core.note_persisted(high);
            if snapshot.end == high {
                let stored = Self::contents(&self.store).into_values();
                let expected = &self.whole[&high];
                assert_eq!(
                    stored.collect::<BTreeMap<_, _>>(),
                    *expected,
                    "said to be whole"
                );
            }
        } else {
            core.resync(position(&self.store).high_seqno);
        }
    }

    fn contents(store: &dyn KvStore) -> BTreeMap<Seqno, (Bytes, Cas)> {
        let snapshot = store.snapshot(id()).unwrap();
        let mut found = BTreeMap::new();
        let mut scan = snapshot.scan_by_seqno(SeqnoRange::ALL);
        let mut visit = |view: storage::ItemView<'_>| {
            found.insert(view.seqno, (Bytes::copy_from_slice(view.key), view.cas));
            ControlFlow::Continue(())
        };
        while matches!(scan.step(1 << 20, &mut visit), Outcome::Yielded) {}
        found
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever broke off and came back, replica and source end up the same, in memory and in their stores.
    #[test]
    fn the_replica_becomes_its_source(steps in steps(), items_max in 1usize..20) {
        let mut pair = Pair::new(items_max);
        for step in steps {
            pair.run(step);
        }
        while !pair.unsent.is_empty() || pair.source.core.has_unflushed() {
            pair.send(usize::MAX);
        }
        let (source, replica) = (&pair.source.core, &pair.replica.core);
        prop_assert_eq!(source.high_seqno(), replica.high_seqno());
        flush_all(replica, &pair.store, 5);
        let other = MemoryStore::new(8);
        other.create_vbucket(id(), &source.state_record()).unwrap();
        let counts = pair.store.counts(id()).unwrap().total();
        prop_assert_eq!(counts.documents, i64::try_from(source.figures().documents).unwrap());
        let stored = Pair::contents(&pair.store);
        for number in 0..12u8 {
            let key = key(&format!("k{number}"));
            let found = source.get(&key).ok();
            let held = stored.values().find(|(name, _)| name == key.as_encoded());
            if let Some(found) = &found {
                prop_assert_eq!(held.map(|(_, cas)| *cas), Some(found.meta.cas));
            }
        }
        become_state(replica, VbucketState::Active);
        for number in 0..12u8 {
            let key = key(&format!("k{number}"));
            prop_assert_eq!(source.get(&key).ok(), replica.get(&key).ok());
        }
    }
}
