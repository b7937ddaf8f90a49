//! A replica that has what its source never kept goes back: to where their histories part, or to nothing; what it gave up
//! never returns, whatever fails on the way.

use std::time::Duration;

use piggin::messages::failure::ScanPurpose;
use piggin::messages::replication::{ReplicaError, ReplicaState};
use piggin::messages::vbucket::SetVbucketState;
use piggin::messages::{Busy, ChildName, CompactOptions, FailureId, FailureKind, OperationError};
use piggin::storage::disk::{DiskErrorKind, Verb};
use piggin::storage::{VbucketId, VbucketState};
use piggin::{Bucket, Replication};
use supervisor::testing::{DiskFault, Fault, World};

use crate::common::{
    assert_same, become_state, caught_up, contents, copied, created, key, opened, replicate, run,
    run_either, write,
};

/// A source that lost what it had not stored and its replica had, and went on from there.
async fn parted(here: &World, there: &World) -> (Bucket, Bucket) {
    let (source, target) = (created(here).await, created(there).await);
    for round in 0..4 {
        write(&source, 0..40, &format!("stored {round}")).await;
        source.flush().await.expect("a flush");
    }
    // The flusher is held up, the replica is not.
    for _ in 0..200 {
        here.inject(Fault::FlushCommit(1));
    }
    write(&source, 20..70, "lost").await;
    for number in 0..10 {
        source.delete(key(number)).await.expect("a deletion");
    }
    drop(copied(&source, &target).await);
    assert_same(&source, &target);
    target.flush().await.expect("a flush");
    here.clear_faults();
    here.cut_power();
    let source = opened(here).await;
    assert!(source.get(key(5)).await.is_ok(), "its deletion was lost");
    write(&source, 30..50, "instead").await;
    (source, target)
}

async fn all_followed(source: &Bucket, target: &Bucket) -> Replication {
    let replication = replicate(source, target);
    caught_up(&replication).await;
    assert_same(source, target);
    replication
}

#[test]
fn a_replica_that_is_ahead_goes_back() {
    run_either(1, async |here, there| {
        let (source, target) = parted(&here, &there).await;
        let replication = all_followed(&source, &target).await;
        let rollbacks: Vec<u64> = replication
            .status()
            .iter()
            .map(|one| one.rollbacks)
            .collect();
        assert!(rollbacks.iter().all(|count| *count >= 1), "{rollbacks:?}");
        write(&source, 0..100, "on").await;
        caught_up(&replication).await;
        assert_same(&source, &target);
        assert_eq!(target.failures(FailureId(0)).failures, []);
    });
}

#[test]
fn what_was_given_up_never_returns() {
    for seed in 0..6 {
        run_either(seed, async |here, there| {
            let (source, target) = parted(&here, &there).await;
            drop(all_followed(&source, &target).await);
            target.flush().await.expect("a flush");
            if seed % 2 == 0 {
                there.cut_power();
            } else {
                target.shutdown().await.expect("an end");
            }
            let target = opened(&there).await;
            assert_same(&source, &target);
            for status in copied(&source, &target).await {
                assert_eq!(status.rollbacks, 0, "{status:?}");
            }
        });
    }
}

#[test]
fn a_rollback_that_is_cut_by_a_loss_of_power_is_done_again() {
    for after in 0..40 {
        run(after, async |here, there| {
            let (source, target) = parted(&here, &there).await;
            let replication = replicate(&source, &target);
            there.sleep(Duration::from_millis(after)).await;
            there.cut_power();
            drop(replication);
            let target = opened(&there).await;
            drop(all_followed(&source, &target).await);
        });
    }
}

#[test]
fn a_disk_that_refuses_only_delays_it() {
    run(3, async |here, there| {
        let (source, target) = parted(&here, &there).await;
        let full = DiskErrorKind::Full;
        for nth in 1..4 {
            let fault = DiskFault::fail(Verb::Write, "log", nth, full.clone());
            there.inject(Fault::Disk(fault));
        }
        drop(all_followed(&source, &target).await);
        let failures = target.failures(FailureId(0)).failures;
        let told = failures
            .iter()
            .any(|failure| failure.kind == FailureKind::Rollback);
        assert!(told, "{failures:?}");
    });
}

#[test]
fn a_worker_that_panics_is_made_anew_and_ends_it() {
    let panicked = |nth| {
        run(nth, async |here, there| {
            let (source, target) = parted(&here, &there).await;
            let child = ChildName::new("rollback");
            there.inject(Fault::PanicIn { child, nth });
            drop(all_followed(&source, &target).await);
            let failures = target.failures(FailureId(0)).failures;
            failures.len()
        })
    };
    let panics: usize = (1..12).map(panicked).sum();
    assert!(panics > 8, "hardly any of them struck: {panics}");
}

#[test]
fn documents_that_cannot_be_read_take_the_vbucket_out_of_service() {
    run(5, async |here, there| {
        let (source, target) = parted(&here, &there).await;
        let purpose = ScanPurpose::Rollback;
        there.inject(Fault::ScanFor(purpose, 1));
        let replication = replicate(&source, &target);
        there.sleep(Duration::from_secs(60)).await;
        let failures = target.failures(FailureId(0)).failures;
        let scans: Vec<_> = failures
            .iter()
            .filter(|failure| failure.kind == FailureKind::Scan { purpose })
            .collect();
        assert_eq!(scans.len(), 1, "{failures:?}");
        let vbucket = scans[0].vbucket.expect("a vbucket");
        let statuses = replication.status();
        let (broken, others): (Vec<_>, Vec<_>) = statuses
            .into_iter()
            .partition(|status| status.vbucket == vbucket);
        assert_eq!(broken[0].state, ReplicaState::Waiting, "{broken:?}");
        let down = broken[0].last_error.clone();
        assert!(
            matches!(
                down,
                Some(ReplicaError::Vbucket(OperationError::VbucketDown { .. }))
            ),
            "{down:?}"
        );
        for status in others {
            assert_eq!(status.state, ReplicaState::Following, "{status:?}");
        }
    });
}

#[test]
fn who_missed_purged_tombstones_begins_anew() {
    run_either(6, async |here, there| {
        let (source, target) = (created(&here).await, created(&there).await);
        write(&source, 0..60, "first").await;
        drop(copied(&source, &target).await);
        for number in 0..30 {
            source.delete(key(number)).await.expect("a deletion");
        }
        write(&source, 30..40, "later").await;
        source.flush().await.expect("a flush");
        let options = CompactOptions {
            drop_deletes: true,
            ..CompactOptions::default()
        };
        let report = source.compact_all(options).await;
        assert_eq!(report.failed().count(), 0);
        assert!(report.total().tombstones_purged > 0);
        // What it would read from memory is gone with the process.
        source.shutdown().await.expect("an end");
        let source = opened(&here).await;
        let replication = all_followed(&source, &target).await;
        let rollbacks: u64 = replication.status().iter().map(|one| one.rollbacks).sum();
        assert!(rollbacks > 0);
        // And it knows what it never got: who follows it may miss it, too.
        target.flush().await.expect("a flush");
        for (old, new) in source
            .statistics()
            .vbuckets
            .iter()
            .zip(target.statistics().vbuckets)
        {
            assert!(new.purge_seqno >= old.purge_seqno, "{old:?}, {new:?}");
        }
    });
}

/// Before the store was told: the vbucket is as it was. Whether the one that was on its way back is.
async fn given_up(here: World, there: World) -> bool {
    let (source, target) = parted(&here, &there).await;
    let before = contents(&target);
    // What is under way to the disk does not get there for a while.
    for _ in 0..4 {
        there.inject(Fault::FlushCommit(1));
    }
    let replication = replicate(&source, &target);
    let is_rolling = |id: VbucketId| target.vbucket_core(id).expect("it").is_rolling_back();
    let vbucket = loop {
        if let Some(vbucket) = target.vbuckets().find(|id| is_rolling(*id)) {
            break vbucket;
        }
        there.sleep(Duration::from_micros(10)).await;
    };
    drop(replication);
    there.sleep(Duration::from_secs(1)).await;
    assert!(!target.vbuckets().any(is_rolling), "nothing is left of it");
    become_state(&target, VbucketState::Active).await;
    let is_as_before = contents(&target)[&vbucket] == before[&vbucket];
    let after = contents(&target);
    there.clear_faults();
    target.flush().await.expect("a flush");
    there.cut_power();
    let target = opened(&there).await;
    assert!(
        contents(&target) == after,
        "memory and disk are of one past"
    );
    drop(all_followed(&source, &target).await);
    is_as_before
}

#[test]
fn a_rollback_nobody_waits_for_any_more_is_given_up() {
    let given_up = (0..8).filter(|seed| run(*seed, given_up)).count();
    assert!(given_up > 4, "{given_up} of 8");
}

#[test]
fn a_replica_is_not_promoted_in_the_middle_of_a_rollback() {
    run(7, async |here, there| {
        let (source, target) = parted(&here, &there).await;
        // What is under way to the disk does not get there for a while.
        for _ in 0..4 {
            there.inject(Fault::FlushCommit(1));
        }
        let replication = replicate(&source, &target);
        let rolling = |target: &Bucket| {
            let mut all = target.vbuckets();
            all.find(|id| target.vbucket_core(*id).expect("it").is_rolling_back())
        };
        let vbucket = loop {
            if let Some(vbucket) = rolling(&target) {
                break vbucket;
            }
            there.sleep(Duration::from_micros(100)).await;
        };
        let promote = SetVbucketState {
            state: VbucketState::Active,
            topology: None,
            is_takeover: false,
        };
        let core = target.vbucket_core(vbucket).expect("it");
        let refused = core.set_state(promote.clone());
        let busy = Busy::RollingBack;
        assert_eq!(refused, Err(OperationError::TemporaryFailure(busy)));
        caught_up(&replication).await;
        assert_same(&source, &target);
        become_state(&target, VbucketState::Active).await;
        assert!(target.get(key(35)).await.is_ok());
    });
}
