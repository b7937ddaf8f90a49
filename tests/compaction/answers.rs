//! Whoever asks for a compaction is answered exactly once, whatever happens on the way.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use piggin::messages::compactor::{
    CancelCompaction, Compact, CompactionStatuses, SetCompactionLimit,
};
use piggin::messages::failure::CompactionStage as Stage;
use piggin::messages::vbucket::SetVbucketState;
use piggin::messages::{
    ChildName, CompactError, CompactOptions, DownCause, FailureId, FailureKind,
};
use piggin::storage::disk::SimulatedDisk;
use piggin::storage::{AbortReason, Compacted, CompactionStage, VbucketId, VbucketState};
use piggin::{Bucket, BucketConfig, CompactionConfig, CompactionPolicy};
use supervisor::testing::{Fault, Hold, HoldPoint, World};

use crate::support::{TestDisk, assert_filled, block_on, fill, made_small};

const OPTIONS: CompactOptions = CompactOptions {
    drop_deletes: false,
    purge_before_s: None,
};

type Answer = Result<Compacted, CompactError>;

fn run(seed: u64, scenario: impl AsyncFnOnce(World) + Send) {
    World::run(seed, |world| scenario(world)).expect("a run that ends");
}

fn id(number: u16) -> VbucketId {
    VbucketId::new(number).expect("a number of a vbucket")
}

fn quiet(config: BucketConfig, threads: u16) -> BucketConfig {
    BucketConfig {
        vbuckets: Some(8),
        compaction: CompactionConfig {
            threads,
            policy: CompactionPolicy::NEVER,
            ..CompactionConfig::default()
        },
        ..config
    }
}

/// A bucket with documents in every vbucket.
async fn filled(world: &World, threads: u16) -> Bucket {
    let config = quiet(world.config(), threads);
    let bucket = world.open_or_create(config).await.expect("a bucket");
    for number in 0..80 {
        let key = format!("key {number}");
        bucket.set(key, "value").await.expect("a write");
    }
    bucket.flush().await.expect("a flush");
    bucket
}

fn hold(world: &World, vbucket: u16, stage: Stage) -> Hold {
    let vbucket = id(vbucket);
    world.hold(HoldPoint { vbucket, stage })
}

fn ask(bucket: &Bucket, vbucket: u16) -> JoinHandle<Answer> {
    let bucket = bucket.clone();
    actix::spawn(async move { bucket.compact(id(vbucket), OPTIONS).await })
}

async fn answer(asked: JoinHandle<Answer>) -> Answer {
    asked.await.expect("no panic")
}

/// Lets whoever was asked a moment ago have heard of it.
async fn a_moment(world: &World) {
    world.sleep(Duration::from_millis(50)).await;
}

#[test]
fn mb_50941_all_are_compacted_and_never_more_at_once_than_the_limit() {
    for limit in [1, 2, 3] {
        run(1, async |world| {
            let bucket = filled(&world, 3).await;
            assert_eq!(bucket.set_compaction_limit(limit), limit);
            let watched = bucket.clone();
            let most = actix::spawn(async move {
                let mut most = 0;
                while watched.statistics().compaction.completed < 8 {
                    most = most.max(watched.statistics().compaction.running);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                most
            });
            let report = bucket.compact_all(OPTIONS).await;
            assert_eq!(report.vbuckets.len(), 8);
            assert_eq!(report.failed().count(), 0, "{report:?}");
            assert_eq!(most.await.expect("no panic"), limit as u64);
            assert_eq!(bucket.compactions(), []);
        });
    }
}

#[test]
fn requests_of_one_vbucket_are_merged() {
    run(2, async |world| {
        let bucket = filled(&world, 2).await;
        let held = hold(&world, 3, Stage::Start);
        let asked: Vec<_> = (0..5).map(|_| ask(&bucket, 3)).collect();
        held.reached().await;
        a_moment(&world).await;
        let [status] = bucket.compactions()[..] else {
            panic!("{:?}", bucket.compactions());
        };
        assert_eq!((status.vbucket, status.waiters), (id(3), 5));
        held.release();
        for asked in asked {
            answer(asked).await.expect("a compaction");
        }
        assert_eq!(bucket.statistics().compaction.completed, 1);
        // One that reads already may have missed what was written since.
        let held = hold(&world, 3, Stage::Merge);
        let first = ask(&bucket, 3);
        held.reached().await;
        let others: Vec<_> = (0..5).map(|_| ask(&bucket, 3)).collect();
        a_moment(&world).await;
        held.release();
        for asked in others.into_iter().chain([first]) {
            answer(asked).await.expect("a compaction");
        }
        assert_eq!(bucket.statistics().compaction.completed, 3);
    });
}

#[test]
fn a_cancel_is_an_abort_for_who_waits_and_for_who_runs() {
    run(3, async |world| {
        let bucket = filled(&world, 1).await;
        let held = hold(&world, 1, Stage::Merge);
        let runs = ask(&bucket, 1);
        held.reached().await;
        let waits = ask(&bucket, 2);
        a_moment(&world).await;
        assert_eq!(bucket.cancel_compactions(None), 2);
        let cancelled = Err(CompactError::Aborted(AbortReason::Cancelled));
        assert_eq!(answer(waits).await, cancelled);
        assert_eq!(answer(runs).await, cancelled);
        drop(held);
        let compaction = bucket.statistics().compaction;
        assert_eq!((compaction.aborted, compaction.failed), (1, 0));
        assert_eq!(bucket.failures(FailureId(0)).failures, []);
        bucket.compact(id(1), OPTIONS).await.expect("a compaction");
    });
}

#[test]
fn mb_49512_a_shutdown_aborts_compactions_at_their_next_step() {
    run(4, async |world| {
        let bucket = filled(&world, 1).await;
        let held = hold(&world, 1, Stage::Merge);
        let runs = ask(&bucket, 1);
        held.reached().await;
        let waits = ask(&bucket, 2);
        a_moment(&world).await;
        let other = bucket.clone();
        let report = bucket.shutdown().await.expect("an orderly end");
        assert!(report.took < Duration::from_secs(1), "{report:?}");
        let aborted = Err(CompactError::Aborted(AbortReason::ShuttingDown));
        assert_eq!(answer(waits).await, aborted);
        assert_eq!(answer(runs).await, aborted);
        let closed = other.compact(id(1), OPTIONS).await;
        assert_eq!(closed, Err(CompactError::Closed));
        assert_eq!(other.failures(FailureId(0)).failures, []);
    });
}

#[test]
fn whoever_waits_when_the_process_dies_is_told() {
    run(5, async |world| {
        let bucket = filled(&world, 1).await;
        let held = hold(&world, 1, Stage::Merge);
        let runs = ask(&bucket, 1);
        held.reached().await;
        let waits = ask(&bucket, 2);
        a_moment(&world).await;
        world.kill();
        let told = [answer(runs).await, answer(waits).await];
        assert!(told.iter().all(Result::is_err), "{told:?}");
    });
}

#[test]
fn a_worker_or_actor_that_panics_costs_nobody_his_answer() {
    for nth in 1..12 {
        run(nth, async |world| {
            let bucket = filled(&world, 2).await;
            for child in ["compaction-0", "compaction-1", "compactor"] {
                let child = ChildName::new(child);
                world.inject(Fault::PanicIn { child, nth });
            }
            let actor = bucket.compactor();
            let asked: Vec<_> = (0..8)
                .map(|vbucket| {
                    let (vbucket, options) = (id(vbucket), OPTIONS);
                    actor.send(Compact { vbucket, options })
                })
                .collect();
            for (number, asked) in asked.into_iter().enumerate() {
                match asked.await.expect("an answer") {
                    Ok(_) => {}
                    // The actor was the one that panicked.
                    Err(CompactError::Crashed { child }) if child.as_str() == "compactor" => {}
                    other => panic!("{number}: {other:?}"),
                }
            }
            let report = bucket.compact_all(OPTIONS).await;
            assert_eq!(report.failed().count(), 0, "{report:?}");
            let failures = bucket.failures(FailureId(0)).failures;
            let is_panic = |kind| kind == FailureKind::ChildPanicked;
            assert!(
                failures.iter().all(|one| is_panic(one.kind)),
                "{failures:?}"
            );
            assert!(bucket.compactions().is_empty());
        });
    }
}

#[test]
fn a_store_that_panics_in_the_middle_of_a_compaction_is_opened_anew() {
    let disk = TestDisk::new(SimulatedDisk::new());
    let config = made_small(BucketConfig::on(Arc::new(disk.clone())));
    let bucket = block_on(Bucket::create(quiet(config, 1))).expect("a bucket");
    let keys = fill(&bucket, 20);
    disk.panic_on("compaction-0", 1);
    let crashed = block_on(bucket.compact(id(1), OPTIONS));
    assert!(
        matches!(&crashed, Err(CompactError::Crashed { child }) if child.as_str() == "compaction-0"),
        "{crashed:?}"
    );
    assert!(disk.has_struck());
    block_on(bucket.compact(id(1), OPTIONS)).expect("a compaction");
    assert_filled(&bucket, &keys);
    block_on(bucket.shutdown()).expect("an orderly end");
}

#[test]
fn what_cannot_be_compacted_is_said_and_left_as_it_is() {
    run(6, async |world| {
        let bucket = filled(&world, 1).await;
        let unknown = bucket.compact(id(8), OPTIONS).await;
        assert_eq!(unknown, Err(CompactError::UnknownVbucket(id(8))));
        let state = SetVbucketState {
            state: VbucketState::Dead,
            topology: None,
            is_takeover: false,
        };
        let vbucket = bucket.vbucket(id(2)).expect("it");
        vbucket.send(state).await.expect("it lives").expect("it");
        let dead = bucket.compact(id(2), OPTIONS).await;
        assert_eq!(dead, Err(CompactError::VbucketDead(id(2))));
        let cause = DownCause::Escalated("as asked".to_owned());
        let core = bucket.vbucket_core(id(3)).expect("it");
        core.take_down(cause.clone());
        let vbucket = id(3);
        let down = bucket.compact(vbucket, OPTIONS).await;
        let expected = CompactError::VbucketDown { vbucket, cause };
        assert_eq!(down, Err(expected.clone()));
        // Those that can be are, and the dead one is passed over.
        let report = bucket.compact_all(OPTIONS).await;
        assert_eq!(report.vbuckets.len(), 7);
        let failed: Vec<_> = report.failed().collect();
        assert_eq!(failed, [(id(3), &expected)]);
        assert_eq!(bucket.failures(FailureId(0)).failures, []);
        assert_eq!(bucket.statistics().compaction.completed, 6);
    });
}

#[test]
fn the_actor_answers_what_an_operator_asks() {
    run(7, async |world| {
        let bucket = filled(&world, 3).await;
        let actor = bucket.compactor();
        let limit = |running_max| actor.send(SetCompactionLimit { running_max });
        assert_eq!(limit(0).await.expect("it lives"), Ok(1));
        assert_eq!(limit(99).await.expect("it lives"), Ok(3));
        let held = hold(&world, 4, Stage::Merge);
        let asked = ask(&bucket, 4);
        held.reached().await;
        let statuses = actor.send(CompactionStatuses).await.expect("it lives");
        let statuses = statuses.expect("an answer");
        let [status] = statuses[..] else {
            panic!("{statuses:?}");
        };
        let run = status.running.expect("it runs");
        assert_eq!(run.stage, CompactionStage::Merge);
        let vbucket = Some(id(4));
        let cancelled = actor.send(CancelCompaction { vbucket }).await;
        assert_eq!(cancelled.expect("it lives"), Ok(1));
        let aborted = Err(CompactError::Aborted(AbortReason::Cancelled));
        assert_eq!(answer(asked).await, aborted);
    });
}
