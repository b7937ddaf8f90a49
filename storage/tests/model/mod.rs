//! Random operations on a store and on a model of it, which must agree after every one.
//!
//! Invariant: a run is decided by its seed alone. [`run`] takes any store; what it may not assume of all of them
//! (how much of its history a store keeps) the model accepts both ways, everything else must match exactly.

pub(crate) mod random;
pub(crate) mod vbucket;
pub(crate) mod generate;
pub(crate) mod check;
pub(crate) mod compaction;
pub(crate) mod past;

use std::collections::BTreeMap;
use std::sync::Arc;

use piggin_storage::{
    Batch, CommitDurability, CompactionFailure, CompactionRequest, CompactionStage, Incarnation,
    KvStore, Outcome, Refusal, RollbackEpoch, RolledBack, Seqno, Snapshot, StorageError, VbucketId,
    VbucketStatus,
};

use self::random::Random;
use self::vbucket::{Expected, ModelVbucket};
use crate::support::{self, StoreFactory, without_hint};

const VBUCKETS: u16 = 4;
const KEPT_SNAPSHOTS_MAX: usize = 6;

/// Does `steps` random operations on a store of `factory` and on the model.
pub(crate) fn run(seed: u64, steps: u64, factory: &dyn StoreFactory) {
    let mut position = Position { seed, step: 0 };
    let mut world = World {
        random: Random::new(seed),
        store: factory.create(VBUCKETS),
        vbuckets: BTreeMap::new(),
        newest_incarnation: Incarnation(0),
        window_ms: factory.window_ms(),
        kept: Vec::new(),
    };
    for step in 1..=steps {
        position.step = step;
        world.step(factory);
    }
    world.check_all();
}

/// Says where a run was when it failed.
struct Position {
    seed: u64,
    step: u64,
}

impl Drop for Position {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "the store differs from the model: seed {}, step {}",
                self.seed, self.step
            );
        }
    }
}

struct World {
    random: Random,
    store: Arc<dyn KvStore>,
    vbuckets: BTreeMap<VbucketId, ModelVbucket>,
    newest_incarnation: Incarnation,
    window_ms: Option<u64>,
    kept: Vec<(Box<dyn Snapshot>, Expected)>,
}

impl World {
    fn step(&mut self, factory: &dyn StoreFactory) {
        match self.random.below(100) {
            0..6 => self.create(),
            6 => self.delete(),
            7..50 => self.commit(),
            50..55 => self.get_many(),
            55..62 => self.keep_snapshot(),
            62..70 => self.read_kept(),
            70..80 => self.read_new(),
            80..85 => self.seal(),
            85..88 => self.compact(),
            88..95 => self.rollback(),
            95..98 => self.check_shortcuts(),
            _ => self.reopen(factory),
        }
        self.check_positions();
    }

    /// Also one that the store cannot have.
    fn any_vbucket(&mut self) -> VbucketId {
        support::vbucket(u16::try_from(self.random.below(u64::from(VBUCKETS) + 1)).unwrap())
    }

    fn create(&mut self) {
        let vbucket = self.any_vbucket();
        let state = generate::new_state(&mut self.random);
        let created = self.store.create_vbucket(vbucket, &state);
        if vbucket.get() >= VBUCKETS {
            assert_eq!(created, Err(StorageError::UnknownVbucket(vbucket)));
        } else if self.vbuckets.contains_key(&vbucket) {
            assert_eq!(created, Err(StorageError::VbucketExists(vbucket)));
        } else {
            let incarnation = created.unwrap();
            assert!(incarnation > self.newest_incarnation);
            self.newest_incarnation = incarnation;
            let model = ModelVbucket::new(vbucket, incarnation, state).keeping(self.window_ms);
            self.vbuckets.insert(vbucket, model);
        }
    }

    fn delete(&mut self) {
        let vbucket = self.any_vbucket();
        let expected = match self.vbuckets.remove(&vbucket) {
            Some(_) => Ok(()),
            None => Err(StorageError::UnknownVbucket(vbucket)),
        };
        assert_eq!(self.store.delete_vbucket(vbucket), expected);
    }

    fn commit(&mut self) {
        let mut group = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..self.random.within(1, 4) {
            let vbucket = self.any_vbucket();
            let is_repeated = group.iter().any(|batch: &Batch| batch.vbucket == vbucket);
            let (batch, verdict) = self.batch_for(vbucket, is_repeated);
            group.push(batch);
            expected.push(verdict);
        }
        let durability = if self.random.percent(70) {
            CommitDurability::Synced
        } else {
            CommitDurability::Buffered
        };
        let verdicts = self.store.commit(&group, durability);
        assert_eq!(verdicts, expected);
        for (batch, verdict) in group.iter().zip(&expected) {
            if verdict.is_ok() {
                let model = self.vbuckets.get_mut(&batch.vbucket).unwrap();
                model.commit(batch);
            }
        }
        for batch in &group {
            self.check_vbucket(batch.vbucket);
        }
    }

    /// A batch, good or bad, and what the store must say to it.
    fn batch_for(
        &mut self,
        vbucket: VbucketId,
        is_repeated: bool,
    ) -> (Batch, Result<(), StorageError>) {
        let random = &mut self.random;
        let Some(model) = self.vbuckets.get(&vbucket) else {
            let state = generate::new_state(random);
            let stranger = ModelVbucket::new(vbucket, Incarnation(1), state);
            let batch = generate::batch(random, &stranger, 3);
            return (batch, Err(StorageError::UnknownVbucket(vbucket)));
        };
        let items_max = random.pick(&[1, 4, 4, 12]);
        let mut batch = generate::batch(random, model, items_max);
        let refusal = if is_repeated {
            Some(Refusal::DuplicateVbucket)
        } else if random.percent(15) {
            generate::spoil(random, &mut batch, model)
        } else {
            None
        };
        let refused = |refusal| Err(StorageError::Refused { vbucket, refusal });
        (batch, refusal.map_or(Ok(()), refused))
    }

    fn get_many(&mut self) {
        let vbucket = self.any_vbucket();
        let namespace = generate::namespace(&mut self.random);
        let keys = [(); 5].map(|()| generate::key(&mut self.random));
        let found = self.store.get_many(vbucket, namespace, &keys);
        let Some(model) = self.vbuckets.get(&vbucket) else {
            return assert_eq!(found, Err(StorageError::UnknownVbucket(vbucket)));
        };
        let expected = model.expected();
        let found = found.unwrap();
        assert_eq!(found.len(), keys.len());
        for (key, found) in keys.iter().zip(found) {
            let wanted = (namespace, key.as_encoded().to_vec());
            let found = found.unwrap().map(without_hint);
            assert_eq!(found, expected.get(&wanted));
            let again = self.store.get(vbucket, namespace, key).unwrap();
            assert_eq!(again.map(without_hint), expected.get(&wanted));
        }
    }

    /// A snapshot of a random vbucket, and what it must answer, if there is such a vbucket.
    fn snapshot(&mut self) -> Option<(Box<dyn Snapshot>, Expected)> {
        let vbucket = self.any_vbucket();
        let snapshot = self.store.snapshot(vbucket);
        let Some(model) = self.vbuckets.get(&vbucket) else {
            assert_eq!(snapshot.err(), Some(StorageError::UnknownVbucket(vbucket)));
            return None;
        };
        Some((snapshot.unwrap(), model.expected()))
    }

    fn keep_snapshot(&mut self) {
        if self.kept.len() >= KEPT_SNAPSHOTS_MAX {
            let oldest = self.random.index(self.kept.len());
            let (snapshot, expected) = self.kept.swap_remove(oldest);
            check::whole(&mut self.random, snapshot.as_ref(), &expected);
        }
        let snapshot = self.snapshot();
        self.kept.extend(snapshot);
    }

    fn read_kept(&mut self) {
        if !self.kept.is_empty() {
            let (snapshot, expected) = &self.kept[self.random.index(self.kept.len())];
            check::whole(&mut self.random, snapshot.as_ref(), expected);
        }
    }

    fn read_new(&mut self) {
        if let Some((snapshot, expected)) = self.snapshot() {
            check::seqno_scan(&mut self.random, snapshot.as_ref(), &expected);
            check::key_scan(&mut self.random, snapshot.as_ref(), &expected);
            check::gets(&mut self.random, snapshot.as_ref(), &expected);
        }
    }

    fn seal(&mut self) {
        let vbucket = self.any_vbucket();
        let Some(model) = self.vbuckets.get_mut(&vbucket) else {
            let sealed = self.store.seal(vbucket, Seqno::ZERO);
            let unknown = StorageError::UnknownVbucket(vbucket);
            return assert_eq!(sealed, Outcome::Failed(unknown));
        };
        let floor = Seqno(self.random.within(0, model.high_seqno().0 + 1));
        let sealed = loop {
            let outcome = self.store.seal(vbucket, floor);
            if outcome != Outcome::Yielded {
                break outcome;
            }
        };
        assert_eq!(sealed, Outcome::Complete(()));
        model.seal(floor);
        self.check_vbucket(vbucket);
    }

    fn compact(&mut self) {
        let vbucket = self.any_vbucket();
        let Some(model) = self.vbuckets.get_mut(&vbucket) else {
            let ended = self.store.compact(vbucket, &CompactionRequest::default());
            let unknown = StorageError::UnknownVbucket(vbucket);
            let failure = CompactionFailure::at(CompactionStage::Start, unknown);
            return assert_eq!(ended, Outcome::Failed(failure));
        };
        let mut request = compaction::request(&mut self.random, model.high_seqno());
        request.now_ms = model.later(&mut self.random);
        let ended = self.store.compact(vbucket, &request);
        let erased = model.erasable(&request);
        let told = model.compact(&request, &erased);
        assert_eq!(
            ended.map(compaction::comparable),
            Outcome::Complete(compaction::comparable(told)),
            "{request:?}"
        );
        self.check_vbucket(vbucket);
    }

    fn rollback(&mut self) {
        let vbucket = self.any_vbucket();
        let Some(model) = self.vbuckets.get_mut(&vbucket) else {
            let outcome = self.store.rollback(vbucket, Seqno::ZERO);
            let unknown = StorageError::UnknownVbucket(vbucket);
            return assert_eq!(outcome, Outcome::Failed(unknown));
        };
        let high_seqno = model.high_seqno();
        // Mostly a short way, so that histories grow long; or about where what was purged ends the past.
        let purged_from = model.purged_from.0;
        let (lowest, most) = match self.random.below(100) {
            0..15 if purged_from > 0 => (purged_from.saturating_sub(3), purged_from + 1),
            0..80 => (high_seqno.0.saturating_sub(10), high_seqno.0 + 1),
            _ => (0, high_seqno.0 + 1),
        };
        let most = most.min(high_seqno.0 + 1);
        let to = Seqno(self.random.within(lowest.min(most), most));
        let outcome = self.store.rollback(vbucket, to);
        if to > high_seqno {
            let cause = StorageError::RollbackAbove {
                vbucket,
                to,
                high_seqno,
            };
            assert_eq!(outcome, Outcome::Failed(cause));
        } else {
            let actual = self.store.state(vbucket).unwrap();
            follow_rollback(model, to, &outcome, &actual.watermarks);
        }
        self.check_vbucket(vbucket);
    }

    /// The calls of the store itself that have a default by way of a snapshot.
    fn check_shortcuts(&mut self) {
        let vbucket = self.any_vbucket();
        let state = self.store.state(vbucket);
        let counts = self.store.counts(vbucket);
        let statistics = self.store.file_statistics(vbucket);
        let Some(model) = self.vbuckets.get(&vbucket) else {
            let unknown = StorageError::UnknownVbucket(vbucket);
            assert_eq!(state, Err(unknown.clone()));
            assert_eq!(counts, Err(unknown.clone()));
            return assert_eq!(statistics, Err(unknown));
        };
        let expected = model.expected();
        assert_eq!(state, Ok(expected.state));
        assert_eq!(counts.unwrap().total(), expected.counts.total());
        let statistics = statistics.unwrap();
        assert!(statistics.live_bytes <= statistics.total_bytes);
        self.store.sync().unwrap();
    }

    fn reopen(&mut self, factory: &dyn StoreFactory) {
        for (snapshot, expected) in std::mem::take(&mut self.kept) {
            check::whole(&mut self.random, snapshot.as_ref(), &expected);
        }
        self.store.sync().unwrap();
        let nothing: Arc<dyn KvStore> = Arc::new(piggin_storage::MemoryStore::new(0));
        let closed = std::mem::replace(&mut self.store, nothing);
        self.store = factory.reopen(closed);
        self.check_all();
    }

    fn check_all(&mut self) {
        let vbuckets: Vec<VbucketId> = self.vbuckets.keys().copied().collect();
        for vbucket in vbuckets {
            let snapshot = self.store.snapshot(vbucket).unwrap();
            let expected = self.vbuckets[&vbucket].expected();
            check::whole(&mut self.random, snapshot.as_ref(), &expected);
        }
        for (snapshot, expected) in &self.kept {
            check::whole(&mut self.random, snapshot.as_ref(), expected);
        }
    }

    /// What the vbucket just touched is now.
    fn check_vbucket(&mut self, vbucket: VbucketId) {
        let Some(model) = self.vbuckets.get(&vbucket) else {
            return;
        };
        let snapshot = self.store.snapshot(vbucket).unwrap();
        let random = &mut self.random;
        if random.percent(40) {
            check::whole(random, snapshot.as_ref(), &model.expected());
        } else {
            check::part(random, snapshot.as_ref(), &model.expected());
        }
        if random.percent(40) {
            past::check(random, snapshot.as_ref(), model);
        }
    }

    fn check_positions(&self) {
        let expected = self.vbuckets.values().map(|model| VbucketStatus {
            vbucket: model.vbucket,
            position: Ok(model.position()),
        });
        let expected: Vec<VbucketStatus> = expected.collect();
        assert_eq!(self.store.vbuckets(), expected);
    }
}

/// Takes the model where the store says it went, if it may go there.
fn follow_rollback(
    model: &mut ModelVbucket,
    to: Seqno,
    outcome: &Outcome<RolledBack>,
    actual: &piggin_storage::Watermarks,
) {
    let expected_epoch = RollbackEpoch(model.epoch.0 + 1);
    let Outcome::Complete(rolled_back) = outcome else {
        panic!("a rollback to {to} ended as {outcome:?}");
    };
    match *rolled_back {
        RolledBack::To { seqno, epoch } => {
            assert_eq!((seqno, epoch), (to, expected_epoch));
            assert!(!model.must_forget(to), "nobody knows what was at {to}");
            model.rollback(to, epoch, actual);
        }
        RolledBack::ToZero { epoch } => {
            assert_eq!(epoch, expected_epoch);
            assert!(model.may_forget(to), "what was at {to} should be known");
            model.reset(epoch);
        }
    }
}
