//! A store on a simulated disk, operations on it, and the past that results.
//!
//! Invariant: an operation that is answered is noted as the answer says, one that is not may have happened; so the
//! past is right wherever the disk stops working.

use std::sync::Arc;

use piggin_storage::disk::SimulatedDisk;
use piggin_storage::{
    Advice, Batch, CommitDurability, Compacted, CompactionRequest, CompactionStage, CreateOptions,
    KvStore, LogStore, OpenOptions, Outcome, Retention, RollbackEpoch, RolledBack, Seqno,
    StorageError, VbucketId,
};

use super::operation::{self, Operation};
use super::past::{Past, Point, State};
use crate::model::compaction::comparable;
use crate::model::random::Random;
use crate::model::vbucket::ModelVbucket;
use crate::support::log_store::small_options;

pub(crate) const VBUCKETS: u16 = 4;
pub(crate) const LOG_SHARDS: u16 = 2;

/// An operation that failed: what of it is left to do, and why.
pub(crate) struct Failed {
    pub(crate) left: Box<Operation>,
    pub(crate) error: StorageError,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) disk: SimulatedDisk,
    /// `None` after a failed opening or closing.
    pub(crate) store: Option<LogStore>,
    pub(crate) options: OpenOptions,
    pub(crate) past: Past,
    /// A call failed, so what is only buffered may be lost even without a crash.
    pub(crate) has_failed: bool,
    /// The store was just dropped, and no power cut came after: everything acknowledged must be there.
    lost_nothing: bool,
    /// Pieces of background work done at once.
    pub(crate) maintains: u64,
    /// How often vbuckets were down after an opening because the disk failed.
    pub(crate) opened_down: u64,
}

impl World {
    /// An empty store.
    pub(crate) fn create(
        seed: u64,
        disk: &SimulatedDisk,
        is_stepped: bool,
    ) -> Result<World, StorageError> {
        let mut options = OpenOptions {
            is_stepped,
            ..small_options(1)
        };
        // Every third run drops superseded versions in the background.
        if seed.is_multiple_of(3) {
            options.history_floor = Seqno::MAX;
        }
        let mut world = World::unopened(seed, disk, options);
        if is_busy(seed) {
            // Log files are used again, and containers copied out, after a few operations.
            world.maintains = 6;
            world.options.log_file_bytes_max = world.options.log_file_bytes_min;
            world.options.container_bytes_min = 1;
        }
        let options = world.options;
        let shape = CreateOptions::of(VBUCKETS, LOG_SHARDS);
        // Every fourth keeps a history.
        let retention = (seed % 4 == 1).then_some(Retention::of_seconds(1));
        world.past.window_ms = retention.map(window_ms);
        let on = Arc::new(disk.clone());
        let store = LogStore::create_with_history(on, shape, retention, options)?;
        world.store = Some(store);
        Ok(world)
    }

    pub(crate) fn unopened(seed: u64, disk: &SimulatedDisk, options: OpenOptions) -> World {
        World {
            random: Random::new(seed),
            disk: disk.clone(),
            store: None,
            options,
            past: Past::new(VBUCKETS, LOG_SHARDS),
            has_failed: false,
            lost_nothing: false,
            maintains: 1,
            opened_down: 0,
        }
    }

    /// The world as it goes on from what a crash left on `disk`, not opened yet.
    pub(crate) fn after_crash(&self, disk: SimulatedDisk, seed: u64) -> World {
        World {
            random: Random::new(seed),
            disk,
            store: None,
            options: OpenOptions {
                entropy: self.options.entropy + 1000 + seed,
                is_stepped: false,
                ..self.options
            },
            past: self.past.clone(),
            has_failed: false,
            lost_nothing: false,
            maintains: 1,
            opened_down: 0,
        }
    }

    pub(crate) fn store(&self) -> &LogStore {
        self.store.as_ref().unwrap()
    }

    /// Does up to `steps` operations, until one fails.
    pub(crate) fn run(&mut self, steps: u64) -> Result<(), Failed> {
        for _ in 0..steps {
            let operation = operation::next(&mut self.random, &self.past);
            self.apply(operation)?;
        }
        Ok(())
    }

    /// Opens what is there and finds its place in the past.
    pub(crate) fn open(&mut self) -> Result<(), StorageError> {
        self.options.entropy += 1;
        let mut store = LogStore::open(Arc::new(self.disk.clone()), self.options)?;
        if is_down_by_disk(&store) {
            self.opened_down += 1;
            // Going on without what is down must not harm it.
            match store.checkpoint() {
                // A shard as a whole is down, and stays as it is.
                Ok(()) | Err(StorageError::ShardDown { .. }) => {}
                Err(error) => panic!("a checkpoint beside what is down: {error}"),
            }
            for _ in 0..8 {
                let _worked = finished(store.maintain()).unwrap();
            }
            drop(store);
            self.options.entropy += 1;
            store = LogStore::open(Arc::new(self.disk.clone()), self.options)?;
        }
        // A creation that failed may have left a store, with a history or without.
        self.past.window_ms = store.retention().map(window_ms);
        if self.lost_nothing {
            self.past.all_is_durable();
        }
        self.past.settle(&store);
        if self.disk.faults_waiting() == 0 {
            self.past.check_current(&mut self.random, &store);
        }
        self.store = Some(store);
        self.has_failed = false;
        self.lost_nothing = false;
        Ok(())
    }

    /// Closes in order.
    pub(crate) fn close(&mut self) -> Result<(), StorageError> {
        if let Some(store) = self.store.take() {
            store.close()?;
            self.past.all_is_durable();
        }
        Ok(())
    }

    pub(crate) fn check(&mut self) {
        let store = self.store.as_ref().unwrap();
        self.past.check_current(&mut self.random, store);
    }

    pub(crate) fn apply(&mut self, operation: Operation) -> Result<(), Failed> {
        self.past.tell(&operation.summary());
        if let Operation::Commit(group, durability) = operation {
            return self.commit(&group, durability);
        }
        self.apply_one(&operation).map_err(|error| {
            self.has_failed = true;
            // A sync of an opening that failed may have lost what was only buffered.
            self.lost_nothing = false;
            let left = match operation {
                Operation::Reopen { .. } => Operation::Reopen { closes: false },
                same @ (Operation::Create(..)
                | Operation::Delete(_)
                | Operation::Commit(..)
                | Operation::Sync
                | Operation::Seal(..)
                | Operation::Merge(..)
                | Operation::Compact(..)
                | Operation::Rollback(..)
                | Operation::Checkpoint
                | Operation::Maintain
                | Operation::Read(_)) => same,
            };
            let left = Box::new(left);
            Failed { left, error }
        })
    }

    fn apply_one(&mut self, operation: &Operation) -> Result<(), StorageError> {
        match operation {
            Operation::Create(vbucket, state) => {
                let at = (self.past.attempt(), 0);
                let created = self.past.created(state);
                self.past.may_become(*vbucket, at, created);
                let incarnation = self.store().create_vbucket(*vbucket, state)?;
                let model = ModelVbucket::new(*vbucket, incarnation, state.clone())
                    .keeping(self.past.window_ms);
                self.past.became(*vbucket, at, State::Is(Arc::new(model)));
                self.shard_is_durable(*vbucket);
            }
            Operation::Delete(vbucket) => {
                let at = (self.past.attempt(), 0);
                self.past.may_become(*vbucket, at, State::Absent);
                self.store().delete_vbucket(*vbucket)?;
                self.past.became_as_planned(*vbucket, at);
                self.shard_is_durable(*vbucket);
            }
            Operation::Commit(..) => {}
            Operation::Sync => {
                self.store().sync()?;
                self.past.all_is_durable();
            }
            Operation::Seal(vbucket, floor) => {
                self.past.may_forget(*vbucket, *floor);
                finished(self.store().seal(*vbucket, *floor))?;
            }
            Operation::Merge(vbucket, floor) => {
                self.past.may_forget(*vbucket, *floor);
                finished(self.store().merge(*vbucket, *floor))?;
            }
            Operation::Compact(vbucket, request) => self.compact(*vbucket, request)?,
            Operation::Rollback(vbucket, to) => self.rollback(*vbucket, *to)?,
            Operation::Checkpoint => {
                self.store().checkpoint()?;
                self.past.all_is_durable();
            }
            Operation::Maintain => {
                for _ in 0..self.maintains {
                    let _worked = finished(self.store().maintain())?;
                }
            }
            Operation::Read(vbucket) => self.read(*vbucket)?,
            Operation::Reopen { closes } => self.reopen(*closes)?,
        }
        Ok(())
    }

    fn shard_is_durable(&mut self, vbucket: VbucketId) {
        self.past.is_durable(vbucket.get() % LOG_SHARDS);
    }

    /// Notes what the batches of a group may do, from now on, as attempt `attempt`.
    pub(crate) fn may_commit(&mut self, attempt: u64, group: &[Batch]) {
        for (index, batch) in group.iter().enumerate() {
            let mut model = ModelVbucket::clone(self.past.current(batch.vbucket).unwrap());
            model.commit(batch);
            model.seal(self.options.history_floor);
            let at = (attempt, u16::try_from(index).unwrap());
            let state = State::Is(Arc::new(model));
            self.past.may_become(batch.vbucket, at, state);
        }
    }

    /// Notes what became of a group; the batches that failed, and why the first of them.
    pub(crate) fn committed(
        &mut self,
        attempt: u64,
        group: &[Batch],
        durability: CommitDurability,
        results: Vec<Result<(), StorageError>>,
    ) -> (Vec<Batch>, Option<StorageError>) {
        assert_eq!(results.len(), group.len());
        let mut left = Vec::new();
        let mut first = None;
        for (index, (batch, result)) in group.iter().zip(results).enumerate() {
            match result {
                Ok(()) => {
                    let at = (attempt, u16::try_from(index).unwrap());
                    self.past.became_as_planned(batch.vbucket, at);
                }
                Err(error) => {
                    left.push(batch.clone());
                    first.get_or_insert(error);
                }
            }
        }
        let failed = |batch: &Batch| left.iter().any(|failed| failed.vbucket == batch.vbucket);
        let succeeded = group.iter().filter(|batch| !failed(batch));
        let shards: Vec<u16> = succeeded
            .map(|batch| batch.vbucket.get() % LOG_SHARDS)
            .collect();
        if durability == CommitDurability::Synced {
            for shard in shards {
                self.past.is_durable(shard);
            }
        }
        (left, first)
    }

    fn commit(&mut self, group: &[Batch], durability: CommitDurability) -> Result<(), Failed> {
        let attempt = self.past.attempt();
        self.may_commit(attempt, group);
        let results = self.store().commit(group, durability);
        let (left, error) = self.committed(attempt, group, durability, results);
        match error {
            None => Ok(()),
            Some(error) => {
                self.has_failed = true;
                let left = Box::new(Operation::Commit(left, durability));
                Err(Failed { left, error })
            }
        }
    }

    /// Notes what a compaction may do, from now on.
    pub(crate) fn may_compact(&mut self, vbucket: VbucketId, request: &CompactionRequest) -> Point {
        let at = (self.past.attempt(), 0);
        self.past.may_forget(vbucket, request.history_floor);
        let mut after = ModelVbucket::clone(self.past.current(vbucket).unwrap());
        let erased = after.erasable(request);
        after.compact(request, &erased);
        let state = State::Is(Arc::new(after));
        self.past.may_become(vbucket, at, state);
        at
    }

    /// Notes a compaction that was published, and checks what it told.
    pub(crate) fn compacted(
        &mut self,
        at: Point,
        vbucket: VbucketId,
        request: &CompactionRequest,
        told: Compacted,
    ) {
        let mut after = ModelVbucket::clone(self.past.current(vbucket).unwrap());
        let expected = after.compact(request, &told.erased);
        assert_eq!(comparable(told), comparable(expected.clone()));
        let is_nothing = expected
            == Compacted {
                purge_seqno: expected.purge_seqno,
                ..Compacted::default()
            };
        self.past.became(vbucket, at, State::Is(Arc::new(after)));
        if !is_nothing {
            self.shard_is_durable(vbucket);
        }
    }

    fn compact(
        &mut self,
        vbucket: VbucketId,
        request: &CompactionRequest,
    ) -> Result<(), StorageError> {
        let at = self.may_compact(vbucket, request);
        match self.store().compact(vbucket, request) {
            Outcome::Complete(told) => {
                let mut model = ModelVbucket::clone(self.past.current(vbucket).unwrap());
                let erased = model.erasable(request);
                let expected = model.compact(request, &erased);
                assert_eq!(told.erased, expected.erased);
                self.compacted(at, vbucket, request, told);
                Ok(())
            }
            Outcome::Failed(failure) => {
                if let Some(told) = failure.published {
                    assert!(matches!(failure.stage, CompactionStage::Collection(_)));
                    self.compacted(at, vbucket, request, *told);
                }
                Err(failure.cause)
            }
            ended @ (Outcome::Yielded | Outcome::Aborted(_)) => panic!("a compaction: {ended:?}"),
        }
    }

    fn rollback(&mut self, vbucket: VbucketId, to: Seqno) -> Result<(), StorageError> {
        let at = (self.past.attempt(), 0);
        let before = Arc::clone(self.past.current(vbucket).unwrap());
        let state = State::RolledBack {
            before: Arc::clone(&before),
            to,
        };
        self.past.may_become(vbucket, at, state);
        let rolled_back = finished(self.store().rollback(vbucket, to))?;
        self.rolled_back(at, &before, to, rolled_back);
        Ok(())
    }

    /// Notes a rollback that is complete.
    pub(crate) fn rolled_back(
        &mut self,
        at: Point,
        before: &ModelVbucket,
        to: Seqno,
        rolled_back: RolledBack,
    ) {
        let vbucket = before.vbucket;
        let mut after = before.clone();
        let next = RollbackEpoch(before.epoch.0 + 1);
        match rolled_back {
            RolledBack::To { seqno, epoch } => {
                assert_eq!((seqno, epoch), (to, next));
                assert!(!after.must_forget(to), "nobody knows what was at {to}");
                let actual = self.store().state(vbucket).unwrap().watermarks;
                after.rollback(to, epoch, &actual);
            }
            RolledBack::ToZero { epoch } => {
                assert_eq!(epoch, next);
                assert!(after.may_forget(to), "what was at {to} should be known");
                after.reset(epoch);
            }
        }
        self.past.became(vbucket, at, State::Is(Arc::new(after)));
        self.shard_is_durable(vbucket);
    }

    fn read(&mut self, vbucket: VbucketId) -> Result<(), StorageError> {
        let expected = self.past.current(vbucket).unwrap().expected();
        super::look::attempt(self.store(), &expected)
    }

    fn reopen(&mut self, closes: bool) -> Result<(), StorageError> {
        if closes {
            self.close()?;
        } else if self.store.take().is_some() {
            self.lost_nothing = !self.has_failed;
        }
        self.open()
    }
}

fn window_ms(kept: Retention) -> u64 {
    u64::from(kept.window_s) * 1000
}

/// Whether the seed is of a run with much background work.
fn is_busy(seed: u64) -> bool {
    seed >= 1000
}

/// Whether the disk failed while the store was opened, so that vbuckets are out of service for now.
fn is_down_by_disk(store: &LogStore) -> bool {
    let mut is_down = false;
    for status in store.vbuckets() {
        if let Err(StorageError::VbucketDown { cause, .. }) = &status.position {
            assert!(matches!(**cause, StorageError::Disk(_)), "{cause}");
            let error = status.position.unwrap_err();
            assert_eq!(error.advice(), Advice::Reopen, "{error}");
            assert_eq!(store.snapshot(status.vbucket).err(), Some(error));
            is_down = true;
        }
    }
    is_down
}

/// The result of a job run to its end; nothing here cancels one.
pub(crate) fn finished<T: std::fmt::Debug>(outcome: Outcome<T>) -> Result<T, StorageError> {
    match outcome {
        Outcome::Complete(value) => Ok(value),
        Outcome::Failed(error) => Err(error),
        other @ (Outcome::Yielded | Outcome::Aborted(_)) => panic!("a job ended as {other:?}"),
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.past.story());
        }
    }
}
