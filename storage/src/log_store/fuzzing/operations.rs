//! The target `store_ops`: arbitrary operations on a log store and on one in memory, while one call of the disk
//! fails.
//!
//! Invariant: what the log store answers is what the one in memory holds. Operations that failed are not done
//! there; once the store was opened again, the outcome of what failed before is open, and that vbucket is only read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::stores::{self, Answers};
use crate::compaction::CompactionRequest;
use crate::disk::{Disk, DiskErrorKind, Fault, SimulatedDisk, SyncFailure};
use crate::error::StorageError;
use crate::kv_store::{CommitDurability, KvStore, RolledBack};
use crate::log_store::options::CreateOptions;
use crate::log_store::store::LogStore;
use crate::memory_store::MemoryStore;
use crate::outcome::Outcome;
use crate::seqno::Seqno;
use crate::vbucket::{Incarnation, RollbackEpoch, VbucketId};

const VBUCKETS: u16 = 4;
const OPERATIONS_MAX: usize = 200;
/// Operations are told apart by four bits; from here on they commit.
const COMMITS_FROM: u8 = 8;

/// Two bytes: which call fails (zero: none) and how; then operations of two bytes each.
pub fn store_ops(bytes: &[u8]) {
    let Some(([call, how], operations)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let mut run = match Run::new() {
        Ok(run) => run,
        Err(error) => {
            assert_eq!(error, StorageError::NoStore, "a store on a sound disk");
            return;
        }
    };
    if *call > 0 {
        run.disk
            .inject(fault(*how).nth(u64::from(*call).saturating_mul(2)));
    }
    for [what, argument] in operations.as_chunks::<2>().0.iter().take(OPERATIONS_MAX) {
        run.operation([*what, *argument]);
        // Commits are many and alike; what they did is seen at the next other operation.
        if what >> 4 < COMMITS_FROM {
            run.compare();
        }
    }
    run.disk.clear_faults();
    run.reopen(true);
    run.compare();
    run.reopen(false);
    run.compare();
}

fn fault(how: u8) -> Fault {
    match how % 5 {
        0 => Fault::failed_call(DiskErrorKind::Other("failed".into())),
        1 => Fault::failed_call(DiskErrorKind::Full),
        2 => Fault::failed_sync(SyncFailure::DropsPages),
        3 => Fault::failed_sync(SyncFailure::KeepsPages),
        _ => Fault::short_write(usize::from(how), DiskErrorKind::Full),
    }
}

struct Run {
    disk: SimulatedDisk,
    log: Option<LogStore>,
    memory: MemoryStore,
    /// Vbuckets of which an operation failed since the store was opened.
    failed: BTreeSet<VbucketId>,
    /// Vbuckets that were compacted.
    compacted: BTreeSet<VbucketId>,
    /// Vbuckets that are only read.
    unsure: BTreeSet<VbucketId>,
    openings: u64,
}

impl Run {
    fn new() -> Result<Run, StorageError> {
        let disk = SimulatedDisk::new();
        let shape = CreateOptions::of(VBUCKETS, 2);
        let log = LogStore::create(Arc::new(disk.clone()), shape, stores::options(1))?;
        Ok(Run {
            disk,
            log: Some(log),
            memory: MemoryStore::new(VBUCKETS),
            failed: BTreeSet::new(),
            compacted: BTreeSet::new(),
            unsure: BTreeSet::new(),
            openings: 1,
        })
    }

    fn operation(&mut self, [what, argument]: [u8; 2]) {
        let Some(vbucket) = VbucketId::new(u16::from(what) % VBUCKETS) else {
            return;
        };
        let Some(log) = self.log.clone() else {
            return self.reopen(false);
        };
        match what >> 4 {
            0 => self.delete(&log, vbucket),
            1 => self.roll_back(&log, vbucket, argument),
            2 => drop(log.seal(vbucket, Seqno::ZERO)),
            3 => self.compact(&log, vbucket, argument),
            4 => drop(log.merge(vbucket, Seqno::ZERO)),
            5 => drop(log.checkpoint()),
            6 => drop(log.maintain()),
            7 => {
                drop(log);
                self.reopen(argument % 2 == 0);
            }
            COMMITS_FROM => {
                self.commit(&log, vbucket, argument, CommitDurability::Buffered);
                drop(log.sync());
            }
            _ => self.commit(&log, vbucket, argument, CommitDurability::Synced),
        }
    }

    fn delete(&mut self, log: &LogStore, vbucket: VbucketId) {
        if self.unsure.contains(&vbucket) {
            return;
        }
        let deleted = log.delete_vbucket(vbucket);
        match (deleted, self.memory.snapshot(vbucket)) {
            (Ok(()), known) => {
                assert!(known.is_ok(), "{vbucket} did not exist");
                assert_eq!(self.memory.delete_vbucket(vbucket), Ok(()));
            }
            (Err(_), Err(_)) => {}
            (Err(error), Ok(_)) => self.note_failure(vbucket, &error),
        }
    }

    fn roll_back(&mut self, log: &LogStore, vbucket: VbucketId, argument: u8) {
        if self.unsure.contains(&vbucket) {
            return;
        }
        let Ok(before) = self.memory.snapshot(vbucket) else {
            return;
        };
        let back = u64::from(argument % 16);
        let to = Seqno(before.high_seqno().0.saturating_sub(back));
        match log.rollback(vbucket, to) {
            Outcome::Complete(done) => {
                let known = match self.memory.rollback(vbucket, to) {
                    Outcome::Complete(known) => Some(known),
                    Outcome::Yielded | Outcome::Aborted(_) | Outcome::Failed(_) => None,
                };
                let is_exact = |done| matches!(done, RolledBack::To { .. });
                if Some(is_exact(done)) != known.map(is_exact) {
                    // How much of its past a store keeps is its own affair, once a compaction took some away.
                    assert!(self.compacted.contains(&vbucket), "{vbucket} to {to}");
                    self.unsure.insert(vbucket);
                }
            }
            Outcome::Failed(error) => self.note_failure(vbucket, &error),
            Outcome::Yielded | Outcome::Aborted(_) => {}
        }
    }

    fn compact(&mut self, log: &LogStore, vbucket: VbucketId, argument: u8) {
        if self.unsure.contains(&vbucket) || self.memory.snapshot(vbucket).is_err() {
            return;
        }
        let request = CompactionRequest {
            drop_deletes: argument.is_multiple_of(2),
            history_floor: Seqno(u64::from(argument)),
            ..CompactionRequest::default()
        };
        self.compacted.insert(vbucket);
        match log.compact(vbucket, &request) {
            Outcome::Complete(told) => {
                let known = self.memory.compact(vbucket, &request);
                let known = known.map(|known| (known.erased, known.tombstones_purged));
                let told = (told.erased, told.tombstones_purged);
                assert_eq!(known, Outcome::Complete(told), "{vbucket}");
            }
            Outcome::Failed(failure) => {
                self.note_failure(vbucket, &failure.cause);
                if failure.published.is_some() {
                    self.unsure.insert(vbucket);
                }
            }
            Outcome::Yielded | Outcome::Aborted(_) => {}
        }
    }

    fn commit(
        &mut self,
        log: &LogStore,
        vbucket: VbucketId,
        argument: u8,
        durability: CommitDurability,
    ) {
        if self.unsure.contains(&vbucket) {
            return;
        }
        let Ok(known) = self.memory.snapshot(vbucket) else {
            return self.create(log, vbucket);
        };
        let choices = [
            argument,
            argument.wrapping_mul(7),
            argument.wrapping_mul(13),
        ];
        let choices = choices.get(..usize::from(argument % 4)).unwrap_or_default();
        let before = known.state().watermarks;
        let Ok(place) = log.snapshot(vbucket).map(|s| (s.incarnation(), s.epoch())) else {
            return;
        };
        let batch = |place: (Incarnation, RollbackEpoch)| {
            stores::batch(vbucket, place, before, choices).map(|batch| vec![batch])
        };
        let group = batch(place).unwrap_or_default();
        let verdict: Result<(), _> = log.commit(&group, durability).into_iter().collect();
        if let Err(error) = verdict {
            return self.note_failure(vbucket, &error);
        }
        let group = batch((known.incarnation(), known.epoch())).unwrap_or_default();
        let known: Result<(), _> = self.memory.commit(&group, durability).into_iter().collect();
        assert_eq!(known, Ok(()));
    }

    fn create(&mut self, log: &LogStore, vbucket: VbucketId) {
        match log.create_vbucket(vbucket, &stores::new_state()) {
            Ok(_) => {
                let known = self.memory.create_vbucket(vbucket, &stores::new_state());
                assert!(known.is_ok());
            }
            Err(error) => self.note_failure(vbucket, &error),
        }
    }

    fn note_failure(&mut self, vbucket: VbucketId, error: &StorageError) {
        assert!(
            matches!(error, StorageError::Disk(_) | StorageError::Closed),
            "{vbucket}: {error}"
        );
        self.failed.insert(vbucket);
    }

    /// Opens the store again; a failure must come from the fault, and then it opens the next time.
    fn reopen(&mut self, closes: bool) {
        if let Some(log) = self.log.take().filter(|_| closes) {
            drop(log.close());
        }
        self.unsure.append(&mut self.failed);
        self.openings = self.openings.saturating_add(1);
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        match LogStore::open(disk, stores::options(self.openings)) {
            Ok(log) => self.log = Some(log),
            Err(error) => assert!(matches!(error, StorageError::Disk(_)), "{error}"),
        }
    }

    fn compare(&self) {
        let Some(log) = &self.log else {
            return;
        };
        let known = all(&self.memory);
        let found = all(log);
        for vbucket in (0..VBUCKETS).filter_map(VbucketId::new) {
            if self.unsure.contains(&vbucket) {
                continue;
            }
            let found = match found.get(&vbucket) {
                Some(Err(StorageError::Disk(_))) => continue,
                found => found,
            };
            assert_eq!(found, known.get(&vbucket), "{vbucket}");
        }
    }
}

fn all(store: &dyn KvStore) -> BTreeMap<VbucketId, Result<Answers, StorageError>> {
    let vbuckets = store.vbuckets().into_iter().map(|status| status.vbucket);
    vbuckets
        .map(|vbucket| (vbucket, stores::answers(store, vbucket)))
        .collect()
}
