//! A scan of a vbucket tells a state that was, with all that it must see, or says why it does not: whatever is prepared, cut
//! in two by a flush, late, or slow. The vbucket, its store and its reader are stepped by hand.
#![cfg(test)]

mod support;

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use messages::scan::{ScanConsistency, ScanError, ScanRange, ScanRequest, Scanned};
use messages::{Busy, ChildName, Generation, OperationError};
use piggin_actors::backfill::{BackfillConfig, BackfillLimits, Backfills, RangeScan};
use piggin_actors::environment::Environment;
use piggin_actors::executor::{Executor, StartError, WakeWorker, Worker, WorkerSpec};
use piggin_actors::guardian::{ExitCause, Guardian, Verdict};
use piggin_actors::store_handle::StoreHandle;
use storage::disk::SimulatedDisk;
use storage::{
    CollectionId, CommitDurability, CreateOptions, KvStore, LogStore, OpenOptions, Seqno,
    VbucketState, VbucketStateRecord, VbucketUuid,
};
use support::durable::{lead, leader, prepare};
use support::{Bench, batch, become_state, flush_all, id, position, set};

/// Keeps the reader, for the test to step.
#[derive(Default)]
struct ByHand(Mutex<Vec<Box<dyn Worker>>>);

impl std::fmt::Debug for ByHand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ByHand")
    }
}

impl Executor for ByHand {
    fn start(&self, mut spec: WorkerSpec) -> Result<WakeWorker, StartError> {
        self.0.lock().push((spec.make)(Generation(1)));
        Ok(WakeWorker::new(|| {}))
    }
}

#[derive(Debug)]
struct Unasked;

impl Guardian for Unasked {
    fn child_down(&self, child: &ChildName, _: Generation, cause: ExitCause) -> Verdict {
        panic!("{child}: {cause:?}");
    }

    fn child_up(&self, _: &ChildName, _: Generation) {}
}

struct World {
    bench: Bench,
    store: StoreHandle,
    readers: Backfills,
    workers: Arc<ByHand>,
}

impl World {
    fn of(bench: Bench) -> World {
        let (disk, shape) = (
            Arc::new(SimulatedDisk::new()),
            CreateOptions {
                vbuckets: 4,
                log_shards: 1,
            },
        );
        let store = LogStore::create(disk, shape, OpenOptions::new(1)).unwrap();
        let record = VbucketStateRecord::new(VbucketUuid(0xa11ce));
        store.create_vbucket(id(), &record).unwrap();
        let store = StoreHandle::new(store, Box::new(|| panic!("it stays open")));
        let workers = Arc::<ByHand>::default();
        let readers = Backfills::new(BackfillConfig {
            name: ChildName::new("reader"),
            store: store.clone(),
            environment: Environment {
                executor: Arc::<ByHand>::clone(&workers),
                ..bench.environment.clone()
            },
            limits: BackfillLimits::default(),
        });
        let guardian: Arc<dyn Guardian> = Arc::new(Unasked);
        readers.start(1, &guardian).unwrap();
        World {
            bench,
            store,
            readers,
            workers,
        }
    }

    fn write(&self, names: &[&str]) {
        for name in names {
            self.bench.core.set(set(name, "v")).unwrap();
        }
    }

    fn flush(&self) {
        let lease = self.store.lease().unwrap();
        flush_all(&self.bench.core, lease.store(), 1000);
    }

    /// A batch of two items.
    fn flush_two(&self) {
        let lease = self.store.lease().unwrap();
        let take = self.bench.core.take_for_flush(2, usize::MAX).unwrap();
        let high = take.watermarks.high_seqno;
        let group = [batch(take, &position(lease.store()))];
        assert_eq!(
            lease.store().commit(&group, CommitDurability::Synced),
            [Ok(())]
        );
        self.bench.core.note_persisted(high);
    }

    fn open(&self, consistency: ScanConsistency) -> Result<RangeScan, ScanError> {
        self.scan(ScanRequest {
            consistency,
            ..ScanRequest::of(CollectionId::DEFAULT, ScanRange::all())
        })
    }

    fn scan(&self, request: ScanRequest) -> Result<RangeScan, ScanError> {
        self.readers.scan(&self.bench.core, &request)
    }

    fn turn(&self) {
        for _ in 0..8 {
            for worker in self.workers.0.lock().iter_mut() {
                let _ = worker.step();
            }
        }
    }

    /// What it answers as soon as the reader did what it can; `None` while it waits.
    fn next(&self, scan: &mut RangeScan) -> Option<Result<Option<Scanned>, ScanError>> {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..8 {
            if let Poll::Ready(answer) = scan.poll_next(&mut context) {
                return Some(answer);
            }
            self.turn();
        }
        None
    }

    /// The keys up to its end; `None` if it waits.
    fn keys(&self, scan: &mut RangeScan) -> Option<Result<Vec<String>, ScanError>> {
        let mut keys = Vec::new();
        loop {
            match self.next(scan)? {
                Ok(Some(scanned)) => {
                    keys.push(String::from_utf8(scanned.key.key().to_vec()).unwrap());
                }
                Ok(None) => return Some(Ok(keys)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn all(keys: &[&str]) -> Option<Result<Vec<String>, ScanError>> {
    Some(Ok(keys.iter().map(|key| (*key).to_owned()).collect()))
}

fn hidden() -> ScanError {
    OperationError::SyncWriteReCommitInProgress.into()
}

#[test]
fn what_may_be_committed_elsewhere_is_in_no_scan() {
    let world = World::of(leader(&["a", "b"]));
    let core = &world.bench.core;
    world.write(&["k", "other"]);
    world.flush();
    let mut before = world.open(ScanConsistency::OnDisk).unwrap();
    drop(prepare(core, "k", "after"));
    let own = world.open(ScanConsistency::OnDisk);
    assert_eq!(world.keys(&mut own.unwrap()), all(&["k", "other"]));
    become_state(core, VbucketState::Replica);
    become_state(core, VbucketState::Active);
    world.flush();
    for consistency in [ScanConsistency::Answered, ScanConsistency::OnDisk] {
        assert_eq!(world.open(consistency).err(), Some(hidden()));
    }
    assert_eq!(world.keys(&mut before), Some(Err(hidden())));
    let range = ScanRange::from("l");
    let beside = world.scan(ScanRequest::of(CollectionId::DEFAULT, range));
    assert_eq!(world.keys(&mut beside.unwrap()), all(&["other"]));
    lead(core, &["a"]);
    world.bench.decide();
    world.flush();
    let mut after = world.open(ScanConsistency::Answered).unwrap();
    let told = world.next(&mut after).unwrap().unwrap().unwrap();
    assert_eq!(told.value.as_deref(), Some(&b"after"[..]));
}

#[test]
fn a_vbucket_whose_prepares_are_not_loaded_is_not_scanned() {
    let mut record = VbucketStateRecord::new(VbucketUuid(0xa11ce));
    record.watermarks.prepared_seqno = Seqno(1);
    record.watermarks.high_seqno = Seqno(1);
    let mut setup = support::Setup {
        record,
        ..support::Setup::default()
    };
    setup.position.high_seqno = Seqno(1);
    let world = World::of(setup.warming());
    let warming = OperationError::TemporaryFailure(Busy::WarmingUp);
    let refused = || world.open(ScanConsistency::OnDisk).err();
    assert_eq!(refused(), Some(warming.into()));
    world.bench.core.warm_prepares(Vec::new());
    assert_eq!(refused(), None);
}
