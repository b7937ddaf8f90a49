//! What a vbucket says a change replaces in the store (rule R8) is right, whatever was deduplicated, taken and not
//! committed, committed and not noted, or taken anew: a store that believes it holds exactly what was committed. And
//! whoever was told that a seqno is on disk finds it there, itself or its successor.
#![cfg(test)]

mod support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use messages::vbucket::{Acknowledge, ExpiryRequest, Touch};
use piggin_actors::vbucket::checkpoint::CheckpointLimits;
use piggin_actors::vbucket::{FlushTake, Persisted};
use storage::disk::SimulatedDisk;
use storage::{
    CommitDurability, CreateOptions, Item, KvStore, LogStore, MemoryStore, OpenOptions, Outcome,
    Seqno, SeqnoRange, VbucketStateRecord, VbucketUuid,
};
use support::{Bench, Setup, batch, delete, id, key, position, set};

#[derive(Clone, Copy, Debug)]
enum Step {
    Set(u8),
    SetExpiring(u8),
    Delete(u8),
    Touch(u8),
    Wait,
    Tick,
    /// Takes a batch of so many items, if none is under way.
    Take(usize),
    /// What becomes of the batch under way.
    End(Fate),
    Seal,
    /// The process starts anew with what the store holds.
    Restart,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Committed,
    CommittedButNotTold,
    Failed,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // A few keys that are always in the open checkpoint, and many that seldom are.
    let name = prop_oneof![0u8..4, 4u8..60];
    let fate = prop_oneof![
        4 => Just(Fate::Committed),
        1 => Just(Fate::CommittedButNotTold),
        1 => Just(Fate::Failed),
    ];
    let step = prop_oneof![
        10 => name.clone().prop_map(Step::Set),
        1 => name.clone().prop_map(Step::SetExpiring),
        5 => name.clone().prop_map(Step::Delete),
        2 => name.prop_map(Step::Touch),
        2 => Just(Step::Wait),
        1 => Just(Step::Tick),
        4 => (1usize..6).prop_map(Step::Take),
        4 => fate.prop_map(Step::End),
        1 => Just(Step::Seal),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..250)
}

struct World {
    bench: Bench,
    store: Box<dyn KvStore>,
    checkpoints: CheckpointLimits,
    under_way: Option<FlushTake>,
    /// Every version committed, by key: the store must hold the newest.
    committed: BTreeMap<Vec<u8>, Arc<Item>>,
    /// Every version ever written, by key.
    written: BTreeMap<Vec<u8>, Vec<Seqno>>,
    waiting: Vec<(Seqno, Persisted)>,
    /// Where the process began.
    began: Seqno,
}

impl World {
    fn new(store: Box<dyn KvStore>, items_max: usize) -> World {
        let checkpoints = CheckpointLimits {
            items_max,
            ..CheckpointLimits::default()
        };
        let record = VbucketStateRecord::new(VbucketUuid(7));
        store.create_vbucket(id(), &record).unwrap();
        let bench = Setup {
            position: position(&*store),
            checkpoints,
            record,
            ..Setup::default()
        };
        World {
            bench: bench.warm(),
            store,
            checkpoints,
            under_way: None,
            committed: BTreeMap::new(),
            written: BTreeMap::new(),
            waiting: Vec::new(),
            began: Seqno::ZERO,
        }
    }

    fn run(&mut self, step: Step) {
        let name = |number: u8| format!("k{number}");
        match step {
            Step::Set(number) => {
                let set = set(&name(number), "value");
                self.bench.core.set(set).unwrap();
                self.wrote(&name(number));
            }
            Step::SetExpiring(number) => {
                let mut set = set(&name(number), "value");
                set.options.expiry = ExpiryRequest(3);
                self.bench.core.set(set).unwrap();
                self.wrote(&name(number));
            }
            Step::Delete(number) => {
                drop(self.bench.core.delete(delete(&name(number))));
                self.wrote(&name(number));
            }
            Step::Touch(number) => {
                drop(self.bench.core.touch(Touch {
                    key: key(&name(number)),
                    expiry: ExpiryRequest(100),
                    acknowledge: Acknowledge::InMemory,
                }));
                self.wrote(&name(number));
            }
            Step::Wait => {
                let seqno = self.bench.core.high_seqno();
                let wait = self.bench.core.wait_persisted(seqno).unwrap();
                self.waiting.push((seqno, wait));
            }
            Step::Tick => self.bench.clock.advance(Duration::from_secs(1)),
            Step::Take(items) => {
                if self.under_way.is_none() {
                    self.under_way = self.bench.core.take_for_flush(items, usize::MAX);
                }
            }
            Step::End(fate) => self.end(fate),
            Step::Seal => assert!(matches!(
                self.store.seal(id(), position(&*self.store).high_seqno),
                Outcome::Complete(())
            )),
            Step::Restart => self.restart(),
        }
    }

    /// A write that was refused may have buried an expired document.
    fn wrote(&mut self, name: &str) {
        let high = self.bench.core.high_seqno();
        let versions = self.written.entry(key(name).as_encoded().to_vec());
        let versions = versions.or_default();
        if versions.last().is_none_or(|last| *last < high) {
            let meta = self.bench.core.get_meta(&key(name));
            if meta.is_ok_and(|meta| meta.seqno == high) {
                versions.push(high);
            }
        }
    }

    fn end(&mut self, fate: Fate) {
        let Some(take) = self.under_way.take() else {
            return;
        };
        let high = take.watermarks.high_seqno;
        let whole = take.watermarks.snapshot.start;
        if !matches!(fate, Fate::Failed) {
            self.commit(take);
        }
        match fate {
            Fate::Committed => self.bench.core.note_persisted(high),
            Fate::CommittedButNotTold | Fate::Failed => {
                let persisted = position(&*self.store).high_seqno;
                self.bench.core.resync(persisted);
            }
        }
        self.answered();
        if matches!(fate, Fate::Committed) {
            let late = self.waiting.iter().find(|(seqno, _)| *seqno <= whole);
            assert!(late.is_none(), "everything up to {whole} is safe");
        }
    }

    fn commit(&mut self, take: FlushTake) {
        for item in &take.items {
            let key = item.document.key.as_encoded().to_vec();
            self.committed.insert(key, Arc::clone(item));
        }
        let watermarks = take.watermarks;
        let group = [batch(take, &position(&*self.store))];
        for committed in self.store.commit(&group, CommitDurability::Synced) {
            committed.unwrap();
        }
        self.check_store();
        if watermarks.snapshot.end == watermarks.high_seqno {
            self.check_nothing_is_missing_up_to(watermarks.high_seqno);
        }
        self.check_nothing_is_missing_up_to(watermarks.snapshot.start);
    }

    /// Every write up to `seqno` is in the store, or a later one of the same key.
    fn check_nothing_is_missing_up_to(&self, seqno: Seqno) {
        for (key, versions) in &self.written {
            let older = versions.iter().rev().find(|version| **version <= seqno);
            let Some(promised) = older else { continue };
            let held = self.committed.get(key).map(|item| item.seqno);
            assert!(held >= Some(*promised), "{promised} is not on disk");
        }
    }

    fn check_store(&self) {
        let snapshot = self.store.snapshot(id()).unwrap();
        let mut found = Vec::new();
        let mut scan = snapshot.scan_by_seqno(SeqnoRange::ALL);
        let mut visit = |view: storage::ItemView<'_>| {
            found.push((view.seqno, Bytes::copy_from_slice(view.key), view.cas));
            ControlFlow::Continue(())
        };
        while matches!(scan.step(1 << 20, &mut visit), Outcome::Yielded) {}
        let mut expected: Vec<_> = self
            .committed
            .iter()
            .map(|(key, item)| (item.seqno, Bytes::from(key.clone()), item.document.cas))
            .collect();
        expected.sort();
        assert_eq!(found, expected);
        let counts = snapshot.counts().unwrap().total();
        let tombstones = self.committed.values();
        let tombstones = tombstones
            .filter(|item| item.operation.is_tombstone())
            .count();
        let documents = self.committed.len() - tombstones;
        assert_eq!(counts.documents, i64::try_from(documents).unwrap());
        assert_eq!(counts.tombstones, i64::try_from(tombstones).unwrap());
    }

    /// Whoever is answered finds every write up to its seqno in the store, or a later one of the same key.
    fn answered(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        for (seqno, mut wait) in std::mem::take(&mut self.waiting) {
            match std::pin::Pin::new(&mut wait).poll(&mut context) {
                Poll::Pending => self.waiting.push((seqno, wait)),
                Poll::Ready(answer) => {
                    answer.unwrap();
                    self.check_nothing_is_missing_up_to(seqno);
                }
            }
        }
    }

    fn drain(&mut self) {
        self.end(Fate::Committed);
        while let Some(take) = self.bench.core.take_for_flush(usize::MAX, usize::MAX) {
            self.under_way = Some(take);
            self.end(Fate::Committed);
        }
        self.answered();
        assert!(self.waiting.is_empty(), "everything is on disk");
        let core = &self.bench.core;
        assert_eq!(core.persisted_seqno(), core.high_seqno());
        assert_eq!(position(&*self.store).high_seqno, core.high_seqno());
        if core.high_seqno() == self.began {
            // The part of a checkpoint, perhaps, whose rest was lost: it stays said.
            return;
        }
        let watermarks = self.store.state(id()).unwrap().watermarks;
        assert_eq!(watermarks.snapshot.start, core.high_seqno());
        assert_eq!(watermarks.snapshot.end, core.high_seqno());
    }

    fn restart(&mut self) {
        self.end(Fate::Failed);
        self.waiting.clear();
        self.written.clear();
        for (key, item) in &self.committed {
            self.written.insert(key.clone(), vec![item.seqno]);
        }
        let bench = Setup {
            position: position(&*self.store),
            record: self.store.state(id()).unwrap(),
            checkpoints: self.checkpoints,
            ..Setup::default()
        };
        self.began = bench.position.high_seqno;
        self.bench = bench.warming();
        for item in self.committed.values() {
            // As read: without the hint, and paid for by nobody.
            let item = Item {
                token: storage::MemoryToken::default(),
                ..Item::clone(item)
            };
            self.bench.core.warm_insert(Arc::new(item));
        }
        self.bench.core.warm_done();
    }
}

fn log_store() -> Box<dyn KvStore> {
    let shape = CreateOptions::of(8, 1);
    let options = OpenOptions::new(1);
    let disk = Arc::new(SimulatedDisk::new());
    Box::new(LogStore::create(disk, shape, options).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn in_memory(steps in steps(), items_max in 1usize..30) {
        let mut world = World::new(Box::new(MemoryStore::new(8)), items_max);
        for step in steps {
            world.run(step);
        }
        world.drain();
    }

    #[test]
    fn on_the_log(steps in steps(), items_max in 1usize..30) {
        let mut world = World::new(log_store(), items_max);
        for step in steps {
            world.run(step);
        }
        world.drain();
    }
}
