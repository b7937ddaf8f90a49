//! Real vbuckets over a real store: warmed up, written to at the direct door, flushed, and checked against what they
//! were given.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Ground;
use super::rig::{Plant, SHAPE, handle};
use super::table::Table;
use super::vbucket::key;
use messages::vbucket::{Acknowledge, Delete, Set, WriteOptions};
use messages::{ChildName, Generation, OperationError};
use piggin_actors::backoff::Backoff;
use piggin_actors::executor::Worker;
use piggin_actors::flusher::{Flushable, FlushedVbucket};
use piggin_actors::vbucket::checkpoint::CheckpointLimits;
use piggin_actors::vbucket::{DirtyVbuckets, VbucketCore};
use piggin_actors::warmup::{Absent, Warmup, WarmupConfig, WarmupWorker};
use storage::disk::{Disk, SimulatedDisk};
use storage::{LogStore, Seqno};

/// Each change of a vbucket: where, which key, what value (none for a deletion).
#[derive(Clone, Debug, Default)]
pub(crate) struct History(Vec<(Seqno, u64, Option<u64>)>);

/// How far a vbucket had come when the power went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    /// Everything up to there was said to be on disk.
    pub(crate) settled: Seqno,
}

pub(crate) struct Cores {
    pub(crate) plant: Plant,
    pub(crate) all: Vec<Arc<VbucketCore>>,
    pub(crate) histories: Vec<History>,
    pub(crate) refused: u64,
    values: u64,
}

impl Cores {
    /// Opens the store, warms the vbuckets up, and goes on with what they were given before.
    pub(crate) fn open(
        seed: u64,
        disk: &SimulatedDisk,
        store: LogStore,
        histories: Vec<History>,
    ) -> Cores {
        let as_seen: Arc<dyn Disk> = Arc::new(disk.clone());
        let store = handle(&as_seen, store);
        let ground = Ground::new(seed);
        let dirty = Arc::new(DirtyVbuckets::new(SHAPE.vbuckets));
        let checkpoints = CheckpointLimits {
            items_max: 12,
            ..CheckpointLimits::default()
        };
        let table = Table::new(ground.environment(), &dirty, checkpoints);
        let warmup = Warmup::new(WarmupConfig {
            name: ChildName::new("warmup"),
            store: store.clone(),
            disk: as_seen,
            environment: ground.environment(),
            backoff: Backoff::DISK,
            table: Arc::<Table>::clone(&table),
            absent: Absent::Create,
            step_bytes: 1 << 10,
        });
        let mut worker =
            WarmupWorker::new(warmup.clone(), ChildName::new("warmup-0"), Generation(1));
        while !warmup.progress().is_done {
            worker.step();
        }
        drop(worker);
        let cores = table.cores();
        let flushed = cores.iter().map(|core| FlushedVbucket {
            id: core.id(),
            vbucket: Arc::<VbucketCore>::clone(core),
            log_shard: core.id().get() % SHAPE.log_shards,
        });
        let plant = Plant::new(ground, disk, store, flushed.collect(), dirty);
        Cores {
            plant,
            all: cores,
            histories,
            refused: 0,
            values: seed * 1_000_000,
        }
    }

    pub(crate) fn no_histories() -> Vec<History> {
        vec![History::default(); usize::from(SHAPE.vbuckets)]
    }

    fn write(&mut self) {
        let index = self.plant.ground.numbers.below(u64::from(SHAPE.vbuckets));
        let index = usize::try_from(index).unwrap();
        let number = self.plant.ground.numbers.below(9);
        let core = &self.all[index];
        let written = if self.plant.ground.numbers.chance(25) {
            let request = Delete {
                key: key(number),
                cas: None,
                acknowledge: Acknowledge::InMemory,
            };
            core.delete(request).map(|mutated| (mutated, None))
        } else {
            self.values += 1;
            let value = self.values;
            let request = Set {
                key: key(number),
                value: Bytes::copy_from_slice(&value.to_le_bytes()),
                options: WriteOptions::default(),
            };
            core.set(request).map(|mutated| (mutated, Some(value)))
        };
        match written {
            Ok((mutated, value)) => {
                self.histories[index]
                    .0
                    .push((mutated.token.seqno, number, value));
            }
            Err(OperationError::KeyNotFound) => {}
            Err(OperationError::TemporaryFailure(_)) => self.refused += 1,
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) fn random_step(&mut self) {
        if self.plant.random_step_of() {
            self.write();
        }
    }

    pub(crate) fn settle(&mut self, what: &str) {
        let vbuckets: Vec<Arc<dyn Flushable>> = self
            .all
            .iter()
            .map(|core| Arc::<VbucketCore>::clone(core) as Arc<dyn Flushable>)
            .collect();
        self.plant.settle_all(&vbuckets, what);
        self.plant.ground.clock.advance(Duration::from_millis(1));
    }

    pub(crate) fn said(&self) -> Vec<Said> {
        let settled = |core: &Arc<VbucketCore>| Said {
            settled: core.settled_seqno(),
        };
        self.all.iter().map(settled).collect()
    }

    /// What memory holds is the newest of what it was given.
    pub(crate) fn check_memory(&self, what: &str) {
        for (core, history) in self.all.iter().zip(&self.histories) {
            let mut newest: BTreeMap<u64, Option<u64>> = BTreeMap::new();
            for (_, number, value) in &history.0 {
                newest.insert(*number, *value);
            }
            for (number, value) in newest {
                let found = core.get(&key(number));
                let found = match found {
                    Ok(found) => Some(number_of(&found.value)),
                    Err(OperationError::KeyNotFound) => None,
                    Err(error) => panic!("{what}: {error}"),
                };
                assert_eq!(found, value, "{what}: key {number} of {}", core.id());
            }
        }
    }

    /// After a crash: each key is as new as was said to be on disk, and nothing is there that was not given. Histories
    /// are cut to what is left of them.
    pub(crate) fn check_after_crash(&mut self, said: &[Said], what: &str) {
        for ((core, history), said) in self.all.iter().zip(&mut self.histories).zip(said) {
            let high = core.high_seqno();
            assert!(said.settled <= high, "{what}: {} is at {high}", core.id());
            let mut left = Vec::new();
            for number in 0..9 {
                let of_key = history.0.iter().filter(|(_, of, _)| *of == number);
                let newest_said = of_key.clone().rfind(|(seqno, _, _)| *seqno <= said.settled);
                let found = match core.get(&key(number)) {
                    Ok(found) => Some((found.meta.seqno, Some(number_of(&found.value)))),
                    Err(OperationError::KeyNotFound) => None,
                    Err(error) => panic!("{what}: {error}"),
                };
                let at_least = newest_said.map_or(Seqno::ZERO, |(seqno, _, _)| *seqno);
                if let Some((seqno, value)) = found {
                    assert!(seqno >= at_least && seqno <= high, "{what}: went back");
                    let given = of_key.clone().any(|given| *given == (seqno, number, value));
                    assert!(given, "{what}: never given");
                    left.push((seqno, number, value));
                    continue;
                }
                // Deleted, by what was said or by something later that is on disk; or never there.
                let deleted = of_key.clone().rfind(|(seqno, _, value)| {
                    value.is_none() && *seqno >= at_least && *seqno <= high
                });
                let is_new = newest_said.is_none_or(|(_, _, value)| value.is_none());
                assert!(
                    deleted.is_some() || is_new,
                    "{what}: key {number} of {} is gone",
                    core.id()
                );
            }
            left.sort_unstable_by_key(|(seqno, _, _)| *seqno);
            history.0 = left;
        }
    }
}

fn number_of(value: &Bytes) -> u64 {
    u64::from_le_bytes(value.as_ref().try_into().unwrap())
}
