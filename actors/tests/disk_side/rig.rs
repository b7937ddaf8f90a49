//! A flusher, writers and maintenance on a store on a simulated disk, all on one thread, stepped in any order.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::Ground;
use super::vbucket::LogVbucket;
use messages::{ChildName, Generation};
use piggin_actors::backoff::Backoff;
use piggin_actors::executor::{WakeWorker, Worker};
use piggin_actors::flusher::{
    DirtyQueue, FlushLimits, Flushable, FlushedVbucket, Flusher, FlusherConfig, FlusherEdge,
};
use piggin_actors::maintenance::{AmpleMemory, MaintenanceConfig, MaintenanceWorker};
use piggin_actors::store_handle::StoreHandle;
use piggin_actors::writer::{GroupLimits, WriterConfig, WriterLink, WriterQueue, WriterWorker};
use storage::disk::{Disk, SimulatedDisk};
use storage::{
    CreateOptions, KvStore, LogStore, OpenOptions, Seqno, SeqnoRange, VbucketId,
    VbucketStateRecord, VbucketUuid,
};

pub(crate) const SHAPE: CreateOptions = CreateOptions::of(4, 2);

#[derive(Debug, Default)]
pub(crate) struct Dirty(Mutex<Vec<VbucketId>>);

impl Dirty {
    pub(crate) fn mark(&self, vbucket: VbucketId) {
        self.0.lock().push(vbucket);
    }
}

impl DirtyQueue for Dirty {
    fn clear_wake(&self) {}

    fn set_flusher_busy(&self, _: bool) {}

    fn take(&self) -> Option<VbucketId> {
        self.0.lock().pop()
    }
}

pub(crate) fn options(entropy: u64) -> OpenOptions {
    OpenOptions {
        log_file_bytes_min: 64 << 10,
        log_file_bytes_max: 64 << 10,
        unsealed_bytes: 4 << 10,
        is_stepped: true,
        ..OpenOptions::new(entropy)
    }
}

/// A new store with active, empty vbuckets.
pub(crate) fn create(disk: &Arc<dyn Disk>) -> LogStore {
    let store = LogStore::create(Arc::clone(disk), SHAPE, options(1)).unwrap();
    for id in 0..SHAPE.vbuckets {
        let state = VbucketStateRecord::new(VbucketUuid(100 + u64::from(id)));
        store
            .create_vbucket(VbucketId::new(id).unwrap(), &state)
            .unwrap();
    }
    store
}

pub(crate) fn handle(disk: &Arc<dyn Disk>, store: LogStore) -> StoreHandle {
    let disk = Arc::clone(disk);
    let entropy = AtomicU64::new(1);
    let open = move || {
        let entropy = entropy.fetch_add(1, Ordering::SeqCst) + 1;
        LogStore::open(Arc::clone(&disk), options(entropy))
    };
    StoreHandle::new(store, Box::new(open))
}

/// Flusher, writers and maintenance of one store, with whatever vbuckets.
pub(crate) struct Plant {
    pub(crate) ground: Ground,
    pub(crate) disk: SimulatedDisk,
    pub(crate) store: StoreHandle,
    pub(crate) flusher: Flusher,
    pub(crate) writers: Vec<WriterWorker>,
    pub(crate) maintenance: MaintenanceWorker,
    pub(crate) panics: u64,
    queues: Vec<WriterQueue>,
    flusher_config: FlusherConfig,
    maintenance_config: MaintenanceConfig,
    generation: u64,
}

impl Plant {
    pub(crate) fn new(
        ground: Ground,
        disk: &SimulatedDisk,
        store: StoreHandle,
        vbuckets: Vec<FlushedVbucket>,
        dirty: Arc<dyn DirtyQueue>,
    ) -> Plant {
        let queues: Vec<WriterQueue> = (0..SHAPE.log_shards)
            .map(|_| WriterQueue::new(2, 1))
            .collect();
        let nobody = WakeWorker::new(|| {});
        let flusher_config = FlusherConfig {
            name: ChildName::new("flusher-0"),
            environment: ground.environment(),
            limits: FlushLimits {
                items_max: 4,
                bytes_max: 4096,
                batches_per_slice: 2,
            },
            vbuckets,
            writers: queues
                .iter()
                .map(|queue| WriterLink::new(queue, nobody.clone()))
                .collect(),
            edge: FlusherEdge::new(),
            dirty,
            store: store.clone(),
        };
        let maintenance_config = MaintenanceConfig {
            name: ChildName::new("maintenance"),
            store: store.clone(),
            environment: ground.environment(),
            backoff: Backoff::DISK,
            after_seal: None,
            memory: AmpleMemory::shared(),
            expiry: None,
        };
        let generation = Generation(1);
        let mut plant = Plant {
            flusher: Flusher::new(flusher_config.clone(), generation),
            writers: Vec::new(),
            maintenance: MaintenanceWorker::new(maintenance_config.clone(), generation),
            ground,
            disk: disk.clone(),
            store,
            queues,
            flusher_config,
            maintenance_config,
            generation: 1,
            panics: 0,
        };
        let shards = 0..SHAPE.log_shards;
        plant.writers = shards.map(|shard| plant.writer(shard)).collect();
        plant
    }

    pub(crate) fn writer(&self, log_shard: u16) -> WriterWorker {
        let config = WriterConfig {
            name: ChildName::new(format!("writer-{log_shard}")),
            log_shard,
            store: self.store.clone(),
            environment: self.ground.environment(),
            limits: GroupLimits::default(),
            backoff: Backoff::DISK,
            maintenance: None,
            memory: AmpleMemory::shared(),
        };
        let generation = Generation(self.generation);
        WriterWorker::new(config, &self.queues[usize::from(log_shard)], generation)
    }

    pub(crate) fn restart_flusher(&mut self) {
        self.generation += 1;
        let generation = Generation(self.generation);
        self.flusher = Flusher::new(self.flusher_config.clone(), generation);
    }

    pub(crate) fn restart_writer(&mut self, log_shard: u16) {
        self.generation += 1;
        self.writers[usize::from(log_shard)] = self.writer(log_shard);
    }

    pub(crate) fn restart_maintenance(&mut self) {
        self.generation += 1;
        let generation = Generation(self.generation);
        self.maintenance = MaintenanceWorker::new(self.maintenance_config.clone(), generation);
    }

    /// A worker's step, and a new life for it when it panics.
    fn live(&mut self, step: impl FnOnce(&mut Plant), restart: impl FnOnce(&mut Plant)) {
        let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| step(self)));
        if stepped.is_err() {
            self.panics += 1;
            restart(self);
        }
    }

    pub(crate) fn step_writer(&mut self, log_shard: u16) {
        let index = usize::from(log_shard);
        self.live(
            |plant| {
                plant.writers[index].step();
            },
            |plant| plant.restart_writer(log_shard),
        );
    }

    pub(crate) fn step_maintenance(&mut self) {
        self.live(
            |plant| {
                plant.maintenance.step();
            },
            Plant::restart_maintenance,
        );
    }

    /// Somebody does something; `write` is what clients do.
    pub(crate) fn random_step_of(&mut self) -> bool {
        match self.ground.numbers.below(12) {
            0 | 1 => return true,
            2..=4 => {
                let _left = self.flusher.look();
            }
            5..=8 => {
                let shard = self.ground.numbers.below(u64::from(SHAPE.log_shards));
                self.step_writer(u16::try_from(shard).unwrap());
            }
            9 | 10 => self.step_maintenance(),
            _ => {
                let by = self.ground.numbers.below(60);
                self.ground.clock.advance(Duration::from_millis(by));
            }
        }
        false
    }

    /// Everybody works on until all is on disk.
    pub(crate) fn settle_all(&mut self, vbuckets: &[Arc<dyn Flushable>], what: &str) {
        for _ in 0..3000 {
            let _left = self.flusher.look();
            for log_shard in 0..SHAPE.log_shards {
                self.step_writer(log_shard);
            }
            self.step_maintenance();
            self.ground.clock.advance(Duration::from_millis(20));
            let behind = |vbucket: &Arc<dyn Flushable>| {
                vbucket.persisted_seqno() < vbucket.high_seqno() || vbucket.has_unflushed()
            };
            if !vbuckets.iter().any(behind) && self.flusher.look().at.is_none() {
                return;
            }
        }
        panic!(
            "{what}: not everything reached the disk: {:#?}",
            self.flusher
        );
    }
}

/// A plant of vbuckets that are only their logs.
pub(crate) struct Rig {
    pub(crate) plant: Plant,
    pub(crate) vbuckets: Vec<Arc<LogVbucket>>,
    dirty: Arc<Dirty>,
    writes: u64,
}

impl Deref for Rig {
    type Target = Plant;

    fn deref(&self) -> &Plant {
        &self.plant
    }
}

impl DerefMut for Rig {
    fn deref_mut(&mut self) -> &mut Plant {
        &mut self.plant
    }
}

impl Rig {
    pub(crate) fn new(seed: u64) -> Rig {
        let disk = SimulatedDisk::new();
        let as_seen: Arc<dyn Disk> = Arc::new(disk.clone());
        let store = create(&as_seen);
        Rig::on(seed, &disk, &as_seen, store)
    }

    /// Work that begins where the store stands; `as_seen` is the disk as the store sees it.
    pub(crate) fn on(
        seed: u64,
        disk: &SimulatedDisk,
        as_seen: &Arc<dyn Disk>,
        store: LogStore,
    ) -> Rig {
        let ids = (0..SHAPE.vbuckets).map(|id| VbucketId::new(id).unwrap());
        let vbuckets: Vec<Arc<LogVbucket>> = ids
            .map(|id| LogVbucket::new(id.get(), store.state(id).unwrap().watermarks.high_seqno))
            .collect();
        let store = handle(as_seen, store);
        let dirty: Arc<Dirty> = Arc::default();
        let flushed = vbuckets.iter().map(|vbucket| FlushedVbucket {
            id: vbucket.id,
            vbucket: Arc::<LogVbucket>::clone(vbucket),
            log_shard: vbucket.id.get() % SHAPE.log_shards,
        });
        let flushed = flushed.collect();
        let queue = Arc::<Dirty>::clone(&dirty);
        Rig {
            plant: Plant::new(Ground::new(seed), disk, store, flushed, queue),
            vbuckets,
            dirty,
            writes: 0,
        }
    }

    pub(crate) fn write(&mut self, vbucket: usize) -> Seqno {
        self.writes += 1;
        let value = self.writes.to_le_bytes().repeat(8);
        let vbucket = &self.vbuckets[vbucket];
        let seqno = vbucket.write(self.writes % 7, &value);
        self.dirty.mark(vbucket.id);
        seqno
    }

    pub(crate) fn mark(&self, vbucket: usize) {
        self.dirty.mark(self.vbuckets[vbucket].id);
    }

    /// Somebody does something.
    pub(crate) fn random_step(&mut self) {
        if self.plant.random_step_of() {
            let vbucket = self.ground.numbers.below(u64::from(SHAPE.vbuckets));
            self.write(usize::try_from(vbucket).unwrap());
        }
    }

    /// Everybody works on until all is on disk.
    pub(crate) fn settle(&mut self, what: &str) {
        let vbuckets: Vec<Arc<dyn Flushable>> = self
            .vbuckets
            .iter()
            .map(|vbucket| Arc::<LogVbucket>::clone(vbucket) as Arc<dyn Flushable>)
            .collect();
        self.plant.settle_all(&vbuckets, what);
    }

    /// What the store holds is what the vbuckets were given, up to somewhere behind what was said to be on disk.
    pub(crate) fn check_store(&self, store: &LogStore, is_complete: bool, what: &str) {
        for vbucket in &self.vbuckets {
            let snapshot = store.snapshot(vbucket.id).unwrap();
            let high = snapshot.high_seqno();
            let (said, given) = (vbucket.persisted_seqno(), vbucket.high_seqno());
            assert!(
                said <= high,
                "{what}: {} said {said}, the store has {high}",
                vbucket.id
            );
            assert!(high <= given, "{what}");
            if is_complete {
                assert_eq!(high, given, "{what}");
            }
            let mut expected = BTreeMap::new();
            for item in vbucket.items() {
                if item.seqno <= high {
                    let key = item.document.key.as_encoded().to_vec();
                    expected.insert(key, (item.seqno, item.document.value.clone()));
                }
            }
            let mut found = BTreeMap::new();
            let mut scan = snapshot.scan_by_seqno(SeqnoRange::ALL);
            let mut visit = |item: storage::ItemView<'_>| {
                let value = bytes::Bytes::copy_from_slice(item.value);
                found.insert(item.key.to_vec(), (item.seqno, value));
                std::ops::ControlFlow::Continue(())
            };
            loop {
                match scan.step(1 << 20, &mut visit) {
                    storage::Outcome::Yielded => {}
                    storage::Outcome::Complete(_) => break,
                    ended @ (storage::Outcome::Aborted(_) | storage::Outcome::Failed(_)) => {
                        panic!("{what}: {ended:?}")
                    }
                }
            }
            assert_eq!(found, expected, "{what}: vbucket {}", vbucket.id);
            let counts = snapshot.counts().unwrap();
            let documents: i64 = counts.collections.values().map(|one| one.documents).sum();
            assert_eq!(
                documents,
                i64::try_from(expected.len()).unwrap(),
                "{what}: counts of vbucket {}",
                vbucket.id
            );
        }
    }
}
