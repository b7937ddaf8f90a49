//! A compaction whose worker panics is settled, wherever that was: whoever waits is told, and the next worker goes on.
//! One that always panics is told to be left alone, once.
#![cfg(test)]

mod disk_side;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use messages::compactor::{Compact, CompactError, CompactOptions};
use messages::{ChildName, FailureKind, Generation};
use piggin_actors::backoff::Backoff;
use piggin_actors::compactor::{
    Compactable, CompactionPolicy, CompactionTable, CompactionWorker, Compactor, CompactorConfig,
    CompactorLimits, Expiring,
};
use piggin_actors::executor::Worker;
use storage::disk::{Disk, SimulatedDisk};
use storage::{ExpiredDocument, Seqno, VbucketId};

use disk_side::{Ground, rig};

/// A vbucket that notes what it is told.
#[derive(Debug, Default)]
struct Noting(Mutex<Vec<Seqno>>);

impl Compactable for Noting {
    fn expire(&self, _: &ExpiredDocument) -> Expiring {
        Expiring::Left
    }

    fn purged(&self, seqno: Seqno) {
        self.0.lock().push(seqno);
    }
}

/// A table that panics when it is asked by a worker.
#[derive(Debug, Default)]
struct Table {
    panics: AtomicBool,
    vbucket: Arc<Noting>,
}

impl CompactionTable for Table {
    fn vbuckets(&self) -> u16 {
        1
    }

    fn vbucket(&self, _: VbucketId) -> Result<Arc<dyn Compactable>, CompactError> {
        assert!(!self.panics.load(Ordering::SeqCst), "asked to panic");
        Ok(Arc::<Noting>::clone(&self.vbucket))
    }
}

#[test]
fn a_run_that_is_taken_and_not_yet_in_hand_is_settled() {
    let ground = Ground::new(7);
    let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
    let table = Arc::new(Table::default());
    let compactor = Compactor::new(CompactorConfig {
        workers: ChildName::new("compaction"),
        store: rig::handle(&disk, rig::create(&disk)),
        environment: ground.environment(),
        table: Arc::<Table>::clone(&table),
        limits: CompactorLimits {
            running_max: 1,
            waiters_max: 9,
            backoff: Backoff::DISK,
        },
        policy: CompactionPolicy::NEVER,
        purge_age: Duration::from_secs(9),
        bytes_per_second: 0,
        history_floor: Seqno(0),
    });
    let worker = |generation| {
        let name = ChildName::new("compaction-0");
        CompactionWorker::new(compactor.clone(), name, Generation(generation))
    };
    let request = Compact {
        vbucket: VbucketId::new(0).unwrap(),
        options: CompactOptions::default(),
    };
    for generation in 0..4 {
        let mut answer = compactor.compact(request);
        let mut panicking = worker(generation);
        table.panics.store(true, Ordering::SeqCst);
        let step = catch_unwind(AssertUnwindSafe(|| panicking.step()));
        assert!(step.is_err(), "{step:?}");
        drop(panicking);
        table.panics.store(false, Ordering::SeqCst);
        let told = answer.try_recv().expect("an answer");
        assert!(
            matches!(told, Err(CompactError::Crashed { .. })),
            "{told:?}"
        );
    }
    let told = ground.told.take();
    let [told] = &told[..] else {
        panic!("not told once: {told:?}");
    };
    assert_eq!(told.kind, FailureKind::Escalated);
    let mut answer = compactor.compact(request);
    let mut worker = worker(9);
    let compacted = (0..100).find_map(|_| {
        let _ = worker.step();
        answer.try_recv().ok()
    });
    compacted.expect("an answer").expect("a compaction");
    assert_eq!(table.vbucket.0.lock().len(), 1, "told how far it is purged");
}
