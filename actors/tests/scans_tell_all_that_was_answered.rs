//! A scan of a vbucket tells a state that was, with all that it must see, or says why it does not: whatever is prepared, cut
//! in two by a flush, late, or slow. The vbucket, its store and its reader are stepped by hand.
#![cfg(test)]

mod support;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use messages::scan::{ScanConsistency, ScanError, ScanRange, ScanRequest, Scanned};
use messages::vbucket::MutationToken;
use messages::{Busy, ChildName, Generation, OperationError};
use piggin_actors::backfill::{BackfillConfig, BackfillLimits, Backfills, RangeScan};
use piggin_actors::environment::Environment;
use piggin_actors::executor::{Executor, StartError, WakeWorker, Worker, WorkerSpec};
use piggin_actors::guardian::{ExitCause, Guardian, Verdict};
use piggin_actors::store_handle::StoreHandle;
use storage::disk::SimulatedDisk;
use storage::{
    CollectionId, CommitDurability, CreateOptions, KvStore, LogStore, OpenOptions, Outcome, Seqno,
    VbucketState, VbucketStateRecord, VbucketUuid,
};
use support::durable::{lead, leader, prepare};
use support::{Bench, active, batch, become_state, flush_all, id, position, set};

const IDLE: Duration = Duration::from_secs(720);

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
        let (disk, shape) = (Arc::new(SimulatedDisk::new()), CreateOptions::of(4, 1));
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
        self.scan(&ScanRequest {
            consistency,
            ..ScanRequest::of(CollectionId::DEFAULT, ScanRange::all())
        })
    }

    fn scan(&self, request: &ScanRequest) -> Result<RangeScan, ScanError> {
        self.readers.scan(&self.bench.core, request)
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

fn names(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
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
    assert_eq!(
        world.keys(&mut own.unwrap()),
        Some(Ok(names(&["k", "other"])))
    );
    become_state(core, VbucketState::Replica);
    become_state(core, VbucketState::Active);
    world.flush();
    for consistency in [ScanConsistency::Answered, ScanConsistency::OnDisk] {
        assert_eq!(world.open(consistency).err(), Some(hidden()));
    }
    assert_eq!(world.keys(&mut before), Some(Err(hidden())));
    let range = ScanRange::from("l");
    let beside = world.scan(&ScanRequest::of(CollectionId::DEFAULT, range));
    assert_eq!(
        world.keys(&mut beside.unwrap()),
        Some(Ok(names(&["other"])))
    );
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

/// Of what it holds a batch that is cut may lack what was written before, and what took its place.
#[test]
fn what_a_cut_batch_left_out_is_waited_for() {
    let world = World::of(active());
    let token = world.bench.core.set(set("k", "v")).unwrap().token;
    world.write(&["a", "b", "k"]);
    world.flush_two();
    let on_disk = |seqno| ScanConsistency::AtLeast(MutationToken { seqno, ..token });
    let mut waits = world.open(on_disk(token.seqno)).unwrap();
    assert!(world.next(&mut waits).is_none(), "k is in no version there");
    world.flush();
    assert_eq!(world.keys(&mut waits), Some(Ok(names(&["a", "b", "k"]))));
}

#[test]
fn a_state_that_never_was_is_not_read() {
    let world = World::of(active());
    world.write(&["k", "a", "b", "k"]);
    world.flush_two();
    let mut late = world.open(ScanConsistency::OnDisk).unwrap();
    let mut waits = world.open(ScanConsistency::OnDisk).unwrap();
    assert!(world.next(&mut waits).is_none(), "b is there, and k is not");
    world.flush();
    world.bench.clock.advance(Duration::from_secs(1));
    assert_eq!(world.keys(&mut waits), Some(Ok(names(&["a", "b", "k"]))));
    assert_eq!(world.keys(&mut late), Some(Ok(names(&["a", "b", "k"]))));
    // Nor is it waited for without end.
    world.write(&["k", "a", "b", "k"]);
    world.flush_two();
    let mut late = world.open(ScanConsistency::OnDisk).unwrap();
    assert!(world.next(&mut late).is_none());
    world.bench.clock.advance(ScanRequest::PATIENCE);
    let told = world.next(&mut late);
    let is_late = matches!(told, Some(Err(ScanError::NotOnDisk { .. })));
    assert!(is_late, "{told:?}");
}

#[test]
fn what_is_on_disk_in_time_may_be_looked_at_late() {
    let world = World::of(active());
    world.write(&["a"]);
    let mut scan = world.open(ScanConsistency::Answered).unwrap();
    let mut late = world.open(ScanConsistency::Answered).unwrap();
    world.turn();
    world.bench.clock.advance(ScanRequest::PATIENCE / 2);
    world.flush();
    world.bench.clock.advance(ScanRequest::PATIENCE);
    world.turn();
    assert_eq!(world.keys(&mut scan), Some(Ok(names(&["a"]))));
    world.bench.clock.advance(IDLE);
    world.turn();
    assert_eq!(world.keys(&mut late), Some(Err(ScanError::Idle)));
}

#[test]
fn what_was_read_ahead_is_there_until_it_is_idle() {
    let world = World::of(active());
    world.write(&["a", "b", "c"]);
    world.flush();
    let mut scan = world.open(ScanConsistency::Answered).unwrap();
    assert!(world.next(&mut scan).is_some());
    assert!(!scan.is_over(), "two of them are read and not taken");
    let mut kept = world.open(ScanConsistency::Answered).unwrap();
    assert!(world.next(&mut kept).is_some());
    world.bench.clock.advance(IDLE / 2);
    assert!(kept.keep() > IDLE / 2);
    world.bench.clock.advance(IDLE / 2);
    world.turn();
    assert!(scan.is_over());
    assert_eq!(world.keys(&mut scan), Some(Err(ScanError::Idle)));
    assert_eq!(world.keys(&mut kept), Some(Ok(names(&["b", "c"]))));
    assert!(kept.is_over());
}

#[test]
fn pages_are_bounded_by_bytes() {
    let world = World::of(active());
    let names: Vec<_> = (0..6).map(|number| format!("k{number}")).collect();
    for name in &names {
        let value = "v".repeat(100 << 10);
        world.bench.core.set(set(name, &value)).unwrap();
    }
    world.flush();
    // More than may be asked for.
    let mut scan = world.scan(&ScanRequest {
        page_bytes: usize::MAX,
        ..ScanRequest::of(CollectionId::DEFAULT, ScanRange::all())
    });
    let scan = scan.as_mut().unwrap();
    let mut told = Vec::new();
    loop {
        let page = {
            let mut page = pin!(scan.next_page(1000));
            let mut context = Context::from_waker(Waker::noop());
            loop {
                match page.as_mut().poll(&mut context) {
                    Poll::Ready(page) => break page.unwrap(),
                    Poll::Pending => world.turn(),
                }
            }
        };
        told.push(page.documents.len());
        if page.is_complete {
            break;
        }
    }
    assert_eq!(told, [3, 3, 0]);
}

/// Between the opening and the first page the vbucket was taken back below what was answered.
#[test]
fn what_was_lost_since_it_was_opened_is_not_passed_over() {
    let world = World::of(active());
    let core = &world.bench.core;
    for name in ["a", "b"] {
        world.write(&[name]);
        world.flush();
    }
    let mut scan = world.open(ScanConsistency::Answered).unwrap();
    become_state(core, VbucketState::Replica);
    world.flush();
    core.begin_rollback().unwrap();
    assert!(core.withdraw());
    let lease = world.store.lease().unwrap();
    let rolled_back = lease.store().rollback(id(), Seqno(1));
    assert!(
        matches!(rolled_back, Outcome::Complete(_)),
        "{rolled_back:?}"
    );
    core.note_epoch(position(lease.store()).epoch);
    core.reset(&lease.store().snapshot(id()).unwrap().state());
    core.warm_done();
    become_state(core, VbucketState::Active);
    let vbucket = id();
    let lost = ScanError::OtherHistory { vbucket };
    assert_eq!(world.keys(&mut scan), Some(Err(lost)));
    world.flush();
    let mut anew = world.open(ScanConsistency::Answered).unwrap();
    assert_eq!(world.keys(&mut anew), Some(Ok(names(&["a"]))));
}
