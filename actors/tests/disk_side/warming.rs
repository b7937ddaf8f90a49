//! A warmup on a simulated disk, with the table of vbuckets it fills.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Ground;
use super::rig::{handle, options};
use super::vbucket::LogVbucket;
use messages::{ChildName, DownCause, Generation};
use piggin_actors::backoff::Backoff;
use piggin_actors::executor::{Step, Worker};
use piggin_actors::store_handle::StoreHandle;
use piggin_actors::warmup::{Absent, VbucketTable, Warmable, Warmup, WarmupConfig, WarmupWorker};
use storage::disk::{Disk, SimulatedDisk};
use storage::{
    LogStore, StorageError, VbucketId, VbucketIdentity, VbucketPosition, VbucketStateRecord,
};

#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) made: Mutex<BTreeMap<VbucketId, (Arc<LogVbucket>, VbucketStateRecord)>>,
    pub(crate) down: Mutex<BTreeMap<VbucketId, DownCause>>,
}

impl Table {
    pub(crate) fn vbucket(&self, id: u16) -> Arc<LogVbucket> {
        let id = VbucketId::new(id).unwrap();
        Arc::clone(&self.made.lock()[&id].0)
    }

    pub(crate) fn state(&self, id: u16) -> VbucketStateRecord {
        self.made.lock()[&VbucketId::new(id).unwrap()].1.clone()
    }
}

impl VbucketTable for Table {
    fn make(
        &self,
        vbucket: VbucketId,
        state: VbucketStateRecord,
        position: VbucketPosition,
    ) -> Arc<dyn Warmable> {
        let mut made = self.made.lock();
        let core = LogVbucket::new(vbucket.get(), position.high_seqno);
        let (core, _) = made.entry(vbucket).or_insert((core, state));
        Arc::<LogVbucket>::clone(core)
    }

    fn identity(&self, vbucket: VbucketId) -> Option<Arc<VbucketIdentity>> {
        let made = self.made.lock();
        made.get(&vbucket)
            .map(|(_, state)| Arc::clone(&state.identity))
    }

    fn note_down(&self, vbucket: VbucketId, cause: DownCause) {
        self.down.lock().insert(vbucket, cause);
    }
}

pub(crate) struct Warming {
    pub(crate) ground: Ground,
    pub(crate) table: Arc<Table>,
    pub(crate) store: StoreHandle,
    pub(crate) warmup: Warmup,
    pub(crate) workers: Vec<WarmupWorker>,
}

impl Warming {
    pub(crate) fn open(seed: u64, disk: &SimulatedDisk) -> Result<Warming, StorageError> {
        let as_seen: Arc<dyn Disk> = Arc::new(disk.clone());
        let store = LogStore::open(Arc::clone(&as_seen), options(1000 + seed))?;
        let store = handle(&as_seen, store);
        let ground = Ground::new(seed);
        let table: Arc<Table> = Arc::default();
        let warmup = Warmup::new(WarmupConfig {
            name: ChildName::new("warmup"),
            store: store.clone(),
            disk: as_seen,
            environment: ground.environment(),
            backoff: Backoff::DISK,
            table: Arc::<Table>::clone(&table),
            absent: Absent::Create,
            step_bytes: 200,
        });
        let workers = (0..3)
            .map(|_| WarmupWorker::new(warmup.clone(), ChildName::new("warmup-0"), Generation(1)));
        Ok(Warming {
            ground,
            table,
            store,
            workers: workers.collect(),
            warmup,
        })
    }

    /// One step of some worker; a new life for it when it panics.
    pub(crate) fn step(&mut self) -> Step {
        let index = usize::try_from(self.ground.numbers.below(3)).unwrap();
        let worker = &mut self.workers[index];
        let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.step()));
        stepped.unwrap_or_else(|_| {
            self.workers[index] = WarmupWorker::new(
                self.warmup.clone(),
                ChildName::new("warmup-0"),
                Generation(2),
            );
            Step::Again
        })
    }

    /// Until everything was read or given up.
    pub(crate) fn run(&mut self) {
        for _ in 0..20_000 {
            if self.warmup.progress().is_done {
                return;
            }
            self.step();
            let _reopened = self.store.reopen();
            self.ground.clock.advance(Duration::from_millis(1));
        }
        panic!("never done: {:#?}", self.warmup);
    }

    pub(crate) fn steps(&mut self, count: u32) {
        for _ in 0..count {
            self.step();
        }
    }
}
