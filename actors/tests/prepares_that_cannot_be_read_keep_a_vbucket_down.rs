//! Prepares are read with the warmup, before any document; a vbucket of which they cannot all be read is out of service, and
//! that is told as a failure of this phase (MB-41257). Never does one look as if less were under way than there is.
#![cfg(test)]

mod disk_side;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;

use disk_side::Ground;
use disk_side::cores::Cores;
use disk_side::rig::{SHAPE, create, handle, options};
use disk_side::table::Table;
use disk_side::vbucket::key;
use messages::failure::{ScanPurpose, WarmupPhase};
use messages::vbucket::{Set, SetVbucketState, Write, WriteOptions};
use messages::{ChildName, Durability, FailureCause, FailureKind, Generation, OperationError};
use piggin_actors::backoff::Backoff;
use piggin_actors::executor::Worker;
use piggin_actors::hooks::{FaultPoint, Hook, Hooks};
use piggin_actors::vbucket::checkpoint::CheckpointLimits;
use piggin_actors::vbucket::{DirtyVbuckets, VbucketCore};
use piggin_actors::warmup::{Absent, Warmup, WarmupConfig, WarmupWorker};
use storage::disk::{Disk, SimulatedDisk};
use storage::{DurabilityLevel, LogStore, Topology, VbucketId, VbucketState};

fn write(number: u64) -> Set {
    Set {
        key: key(number),
        value: Bytes::from_static(b"durable"),
        options: WriteOptions::default(),
    }
}

/// A disk with documents and prepares in the first vbucket, after a power cut.
fn written() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let as_seen: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut cores = Cores::open(1, &disk, create(&as_seen), Cores::no_histories());
    let core = Arc::clone(&cores.all[0]);
    let chain = ["a", "b"].map(|name| Some(name.to_owned())).to_vec();
    core.set_state(SetVbucketState {
        state: VbucketState::Active,
        topology: Some(Topology {
            chains: vec![chain],
        }),
        is_takeover: false,
    })
    .unwrap();
    for number in 0..9 {
        core.set(write(number)).unwrap();
    }
    let majority = Durability::of(DurabilityLevel::Majority);
    for number in 5..20 {
        let _wait = core
            .write_durably(Write::Set(write(number)), majority)
            .unwrap();
    }
    cores.settle("written");
    disk.crash_losing_everything_unsynced()
}

/// Fails a scan of a warmup, of this number from now.
#[derive(Debug)]
struct FailScan(AtomicU32);

impl Hook for FailScan {
    fn fault(&self, point: FaultPoint) -> Option<FailureCause> {
        let purpose = ScanPurpose::Warmup;
        if point != (FaultPoint::Scan { purpose }) {
            return None;
        }
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
        (left == 1).then(|| FailureCause::Injected("for a test".to_owned()))
    }
}

/// The first vbucket after a warmup in small steps, of which one fails, and what was told.
fn warm(disk: &SimulatedDisk, failing: u32) -> (Arc<VbucketCore>, Ground) {
    let as_seen: Arc<dyn Disk> = Arc::new(disk.clone());
    let store = LogStore::open(Arc::clone(&as_seen), options(7)).unwrap();
    let store = handle(&as_seen, store);
    let ground = Ground::new(2);
    let mut environment = ground.environment();
    environment.hooks = Hooks::new(Arc::new(FailScan(AtomicU32::new(failing))));
    let dirty = Arc::new(DirtyVbuckets::new(SHAPE.vbuckets));
    let table = Table::new(environment.clone(), &dirty, CheckpointLimits::default());
    let warmup = Warmup::new(WarmupConfig {
        name: ChildName::new("warmup"),
        store: store.clone(),
        disk: as_seen,
        environment,
        backoff: Backoff::DISK,
        table: Arc::<Table>::clone(&table),
        absent: Absent::Create,
        step_bytes: 100,
    });
    let mut worker = WarmupWorker::new(warmup.clone(), ChildName::new("warmup-0"), Generation(1));
    while !warmup.progress().is_done {
        worker.step();
    }
    (Arc::clone(&table.cores()[0]), ground)
}

#[test]
fn all_of_them_or_none() {
    let disk = written();
    let (core, ground) = warm(&disk, 0);
    assert_eq!(ground.told.count(), 0);
    assert_eq!(core.durability_figures().maybe_visible, 15);
    assert_eq!(
        core.get(&key(12)),
        Err(OperationError::SyncWriteReCommitInProgress)
    );
    assert!(core.get(&key(0)).is_ok());
    let mut phases = Vec::new();
    for failing in 1..200 {
        let (core, ground) = warm(&disk, failing);
        let told = ground.told.take();
        let Some(report) = told.first() else { break };
        let FailureKind::Warmup { phase } = report.kind else {
            panic!("{report:?}");
        };
        if report.vbucket != VbucketId::new(0) {
            break;
        }
        phases.push(phase);
        let refused = core.get(&key(0)).unwrap_err();
        assert!(matches!(refused, OperationError::VbucketDown { .. }));
        let has_all = core.durability_figures().prepares == 15;
        assert_eq!(has_all, phase == WarmupPhase::Documents);
    }
    assert!(
        phases
            .iter()
            .filter(|phase| **phase == WarmupPhase::Prepares)
            .count()
            > 2
    );
    assert!(phases.is_sorted(), "prepares come first");
    assert!(phases.contains(&WarmupPhase::Documents));
}
