//! The scans of a warmup: failed, broken off or complete, each is told as what it is, and a vbucket never serves a part of
//! what it holds (MB-47933).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;

use piggin::messages::failure::{ScanPurpose, WarmupPhase};
use piggin::messages::stream::{StreamEndReason, StreamEvent};
use piggin::messages::{FailureId, FailureKind, NextStep, OperationError};
use piggin::storage::{OpenOptions, VbucketId};
use piggin::{Bucket, BucketConfig, ChangesOptions, Until};
use supervisor::testing::{Fault, World};

const DOCUMENTS: usize = 80;
const VBUCKETS: u16 = 4;
const PATIENCE: Duration = Duration::from_secs(60);

fn run<T: Send>(seed: u64, scenario: impl AsyncFnOnce(World) -> T + Send) -> T {
    World::run(seed, |world| scenario(world)).expect("a run that ends")
}

fn config(world: &World) -> BucketConfig {
    BucketConfig {
        vbuckets: Some(VBUCKETS),
        store: OpenOptions {
            log_file_bytes_min: 64 << 10,
            log_file_bytes_max: 128 << 10,
            unsealed_bytes: 16 << 10,
            block_bytes: 4 << 10,
            is_stepped: true,
            ..OpenOptions::new(1)
        },
        ..world.config()
    }
}

fn key(number: usize) -> String {
    format!("key {number}")
}

async fn filled(world: &World) {
    let bucket = world.create(config(world)).await.expect("a bucket");
    for number in 0..DOCUMENTS {
        let write = bucket.set(key(number), vec![b'v'; 500]);
        write.await.expect("a write");
    }
    bucket.shutdown().await.expect("an orderly end");
}

/// The vbuckets that are out of service; all of the others serve all they hold.
async fn down(bucket: &Bucket) -> Vec<VbucketId> {
    let mut is_down: BTreeMap<VbucketId, bool> = BTreeMap::new();
    for number in 0..DOCUMENTS {
        let vbucket = bucket.vbucket_of(key(number).as_bytes());
        let answer = bucket.get(key(number)).await;
        let this = match answer {
            Ok(found) => {
                assert_eq!(found.value.len(), 500);
                false
            }
            Err(OperationError::VbucketDown { .. }) => true,
            Err(error) => panic!("{vbucket}: {error}"),
        };
        let all = is_down.insert(vbucket, this);
        assert!(all.is_none_or(|all| all == this), "{vbucket}: a part of it");
    }
    let down = is_down.into_iter().filter(|(_, is_down)| *is_down);
    down.map(|(vbucket, _)| vbucket).collect()
}

#[test]
fn whichever_step_fails_its_vbucket_says_so_and_the_others_serve() {
    for nth in 1..100 {
        let has_struck = run(nth, async |world| {
            filled(&world).await;
            let purpose = ScanPurpose::Warmup;
            world.inject(Fault::ScanFor(purpose, nth));
            let bucket = world.open(config(&world)).await.expect("the bucket");
            let has_struck = world.faults_waiting() == 0;
            world.clear_faults();
            let down = down(&bucket).await;
            assert_eq!(down.len(), usize::from(has_struck));
            let failures = bucket.failures(FailureId(0)).failures;
            let kind = FailureKind::Warmup {
                phase: WarmupPhase::Documents,
            };
            let told: Vec<_> = failures
                .iter()
                .map(|one| (one.kind, one.vbucket, one.next))
                .collect();
            let expected = down.iter();
            let expected = expected.map(|vbucket| (kind, Some(*vbucket), NextStep::OutOfService));
            assert_eq!(told, expected.collect::<Vec<_>>());
            let counted: Vec<_> = bucket.statistics().failures.into_iter().collect();
            let expected = has_struck.then_some((kind.counter(), 1));
            assert_eq!(counted, Vec::from_iter(expected));
            assert_streams_say_so(&bucket, &down).await;
            bucket.shutdown().await.expect("an orderly end");
            // Nothing of that is on disk.
            let bucket = world.open(config(&world)).await.expect("the bucket");
            assert_eq!(self::down(&bucket).await, []);
            bucket.shutdown().await.expect("an orderly end");
            has_struck
        });
        if !has_struck {
            assert!(nth > u64::from(VBUCKETS), "each vbucket has a step");
            return;
        }
    }
    panic!("so many steps are not needed");
}

async fn assert_streams_say_so(bucket: &Bucket, down: &[VbucketId]) {
    let options = ChangesOptions {
        until: Until::Now,
        ..ChangesOptions::default()
    };
    let mut changes = bucket.changes(options).await.expect("changes");
    let mut refused = Vec::new();
    while let Some(change) = timeout(PATIENCE, changes.next()).await.expect("progress") {
        match change.event {
            StreamEvent::StreamEnd(StreamEndReason::Ok) => {}
            StreamEvent::StreamEnd(StreamEndReason::VbucketDown) => refused.push(change.vbucket),
            StreamEvent::StreamEnd(reason) => panic!("{}: {reason:?}", change.vbucket),
            StreamEvent::Prepare(_) | StreamEvent::Commit(_) | StreamEvent::Abort(_) => {
                panic!("{}: told to one who is no replica", change.vbucket);
            }
            StreamEvent::SnapshotMarker(_)
            | StreamEvent::Mutation(_)
            | StreamEvent::Deletion(_)
            | StreamEvent::Expiration(_)
            | StreamEvent::SystemEvent(_)
            | StreamEvent::SeqnoAdvanced(_) => assert!(!down.contains(&change.vbucket)),
        }
    }
    refused.sort_unstable();
    assert_eq!(refused, down);
}

/// Broken off is not failed: the next opening reads everything, and no figure moved.
#[test]
fn one_that_is_broken_off_is_begun_anew() {
    for after in 0..40 {
        run(after, async |world| {
            filled(&world).await;
            world.cut_power_after(Duration::from_micros(500 * after));
            // Some get to their end.
            drop(timeout(PATIENCE, world.open(config(&world))).await);
            world.sleep(Duration::from_secs(1)).await;
            let bucket = world.open(config(&world)).await.expect("the bucket");
            assert_eq!(down(&bucket).await, []);
            assert_eq!(bucket.failures(FailureId(0)).failures, []);
            bucket.shutdown().await.expect("an orderly end");
        });
    }
}
