//! Whatever ends a stream, its cursor, its backfill, its snapshot and its memory are given back.

use std::time::Duration;

use tokio::time::timeout;

use piggin::messages::stream::{StreamEndReason, StreamEvent};
use piggin::messages::vbucket::SetVbucketState;
use piggin::messages::{ChildName, DownCause, FailureId, FailureKind};
use piggin::storage::{VbucketId, VbucketState};
use piggin::{Bucket, Changes, ChangesOptions};
use supervisor::testing::{Fault, World};

use crate::common::{Mirror, PATIENCE, all, assert_at_base, filled, key, run};

const DOCUMENTS: usize = 60;

/// A consumer that takes a few changes and then stands still.
async fn standing(bucket: &Bucket) -> Changes {
    let options = ChangesOptions {
        buffer_bytes: 0,
        ..ChangesOptions::default()
    };
    let mut changes = bucket.changes(options).await.expect("changes");
    for _ in 0..3 {
        changes.next().await.expect("a change");
    }
    changes
}

async fn memory(world: &World, bucket: &Bucket) -> u64 {
    world.sleep(Duration::from_secs(5)).await;
    bucket.statistics().memory.bytes
}

#[test]
fn a_consumer_that_goes_leaves_nothing() {
    run(1, async |world| {
        let bucket = filled(&world, DOCUMENTS).await;
        let before = memory(&world, &bucket).await;
        for _ in 0..3 {
            let changes = standing(&bucket).await;
            drop(changes);
        }
        assert_at_base(&world, &bucket).await;
        assert_eq!(memory(&world, &bucket).await, before);
    });
}

#[test]
fn a_failed_scan_leaves_nothing() {
    run(2, async |world| {
        let bucket = filled(&world, DOCUMENTS).await;
        let before = memory(&world, &bucket).await;
        for _ in 0..4 {
            world.inject(Fault::ScanAt(1));
            Mirror::default().take_all(&bucket, all()).await;
        }
        assert_at_base(&world, &bucket).await;
        assert_eq!(memory(&world, &bucket).await, before);
    });
}

/// MB-73322.
#[test]
fn panics_of_producers_and_readers_leave_nothing_and_lose_nothing() {
    for (child, nth) in [
        ("producer-0", 1),
        ("producer-0", 3),
        ("reader-0", 2),
        ("reader-1", 3),
    ] {
        run(nth, async |world| {
            let bucket = filled(&world, DOCUMENTS).await;
            let before = memory(&world, &bucket).await;
            let child = ChildName::new(child);
            world.inject(Fault::PanicIn { child, nth });
            let mut mirror = Mirror::default();
            mirror.take_all(&bucket, all()).await;
            assert_eq!(world.faults_waiting(), 0);
            let kinds = bucket.failures(FailureId(0)).failures;
            assert!(
                kinds
                    .iter()
                    .all(|one| one.kind == FailureKind::ChildPanicked),
                "{kinds:?}"
            );
            assert!(mirror.ends.values().all(|end| *end == StreamEndReason::Ok));
            assert_eq!(mirror.all_documents().len(), DOCUMENTS);
            drop(mirror);
            assert_at_base(&world, &bucket).await;
            assert_eq!(memory(&world, &bucket).await, before);
        });
    }
}

#[test]
fn a_change_of_state_and_a_vbucket_that_goes_down_are_told() {
    run(3, async |world| {
        let bucket = filled(&world, DOCUMENTS).await;
        let mut changes = bucket
            .changes(ChangesOptions::default())
            .await
            .expect("changes");
        let gone = VbucketId::new(1).expect("it");
        let change = SetVbucketState {
            state: VbucketState::Dead,
            topology: None,
            is_takeover: false,
        };
        let address = bucket.vbucket(gone).expect("it");
        address
            .send(change)
            .await
            .expect("an answer")
            .expect("a change");
        let end = loop {
            let change = changes.next().await.expect("a change");
            if let StreamEvent::StreamEnd(reason) = change.event {
                break (change.vbucket, reason);
            }
        };
        assert_eq!(end, (gone, StreamEndReason::StateChanged));
        let down = VbucketId::new(2).expect("it");
        let core = bucket.vbucket_core(down).expect("it");
        let cause = DownCause::Escalated("a test".to_owned());
        core.take_down(cause);
        let end = loop {
            let change = changes.next().await.expect("a change");
            if let StreamEvent::StreamEnd(reason) = change.event {
                break (change.vbucket, reason);
            }
        };
        assert_eq!(end, (down, StreamEndReason::VbucketDown));
        // The others go on.
        bucket.set(key(0), "new").await.ok();
        drop(changes);
        assert_at_base(&world, &bucket).await;
    });
}

#[test]
fn a_rollback_is_told() {
    run(6, async |world| {
        let bucket = filled(&world, DOCUMENTS).await;
        let options = ChangesOptions::default();
        let mut changes = bucket.changes(options).await.expect("changes");
        world.sleep(Duration::from_secs(5)).await;
        let id = VbucketId::new(2).expect("it");
        let core = bucket.vbucket_core(id).expect("it");
        core.reset(&core.state_record());
        let end = loop {
            let change = timeout(PATIENCE, changes.next()).await.expect("progress");
            let change = change.expect("a change");
            if let StreamEvent::StreamEnd(reason) = change.event {
                break (change.vbucket, reason);
            }
        };
        assert_eq!(end, (id, StreamEndReason::Rollback));
        drop(changes);
        assert_at_base(&world, &bucket).await;
    });
}

#[test]
fn a_shutdown_ends_every_stream() {
    run(4, async |world| {
        let bucket = filled(&world, DOCUMENTS).await;
        let mut changes = standing(&bucket).await;
        bucket.shutdown().await.expect("an orderly end");
        let mut ends = 0;
        while let Some(change) = changes.next().await {
            ends += usize::from(matches!(
                change.event,
                StreamEvent::StreamEnd(StreamEndReason::Disconnected)
            ));
        }
        assert_eq!(ends, 4);
    });
}

#[test]
fn a_consumer_that_never_reads_holds_a_bounded_amount() {
    run(5, async |world| {
        let bucket = filled(&world, DOCUMENTS).await;
        let changes = standing(&bucket).await;
        for number in 0..500 {
            let write = bucket.set(key(number), vec![b'x'; 2000]);
            write.await.expect("a write");
        }
        let before = memory(&world, &bucket).await;
        // The same documents again and again: all that may grow is what the stream keeps. A checkpoint holds all of them
        // once, and is full after ten thousand writes.
        for number in 0..60_000 {
            let write = bucket.set(key(number % 500), vec![b'x'; 2000]);
            write.await.expect("a write");
            if number % 1000 == 0 {
                bucket.flush().await.expect("a flush");
            }
        }
        bucket.flush().await.expect("a flush");
        let after = memory(&world, &bucket).await;
        assert!(
            after < before + (4 << 20),
            "{before} bytes before, {after} after"
        );
        drop(changes);
        assert_at_base(&world, &bucket).await;
    });
}
