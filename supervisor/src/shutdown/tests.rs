//! What goes on beside the tree goes on when it panicked: one failure is told, and the next round is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actors::vbucket::{ChangeStep, VbucketCore};
use messages::{
    ChildName, DownCause, Failure, FailureCause, FailureId, FailureKind, NextStep, OperationError,
};
use storage::{Seqno, VbucketId};

use crate::background::guarded;
use crate::shutdown::Ending;
use crate::testing::World;
use crate::{Bucket, BucketConfig};

const SECOND: Duration = Duration::from_secs(1);

/// Panics when it is first asked for a gauge, and counts how often it is asked afterwards.
#[derive(Default)]
struct Broken {
    asked: AtomicU64,
}

impl metrics::Recorder for Broken {
    fn describe_counter(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }
    fn describe_gauge(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }
    fn describe_histogram(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }

    fn register_counter(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        // Failures are counted, too: that must not get into the way of telling them.
        panic!("no counters today");
    }

    fn register_gauge(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        assert!(
            self.asked.fetch_add(1, Ordering::Relaxed) > 0,
            "no gauges today"
        );
        metrics::Gauge::noop()
    }

    fn register_histogram(
        &self,
        _: &metrics::Key,
        _: &metrics::Metadata<'_>,
    ) -> metrics::Histogram {
        metrics::Histogram::noop()
    }
}

fn small(world: &World) -> BucketConfig {
    BucketConfig {
        vbuckets: Some(4),
        metrics_every: None,
        ..world.config()
    }
}

fn told(bucket: &Bucket) -> Vec<Failure> {
    bucket.failures(FailureId(0)).failures
}

/// A document of the first vbucket, and its core.
async fn written(bucket: &Bucket) -> (String, Arc<VbucketCore>) {
    let mut keys = (0..).map(|number: u64| format!("key-{number}"));
    let is_first = |key: &String| bucket.vbucket_of(key.as_bytes()) == VbucketId::FIRST;
    let key = keys.find(is_first).unwrap();
    bucket.set(&key, "before").persisted().await.unwrap();
    let core = bucket.vbucket_core(VbucketId::FIRST).unwrap();
    (key, core)
}

/// A caller panics in the middle of a change, which happened.
async fn leave_suspect(bucket: &Bucket, key: &str, core: &VbucketCore) {
    core.panic_at(ChangeStep::Appended);
    let write = guarded(bucket.set(key, "after").into_future());
    assert!(write.await.is_err());
    assert!(core.is_suspect());
}

#[test]
fn a_recorder_that_panics_ends_no_publishing() {
    World::run(1, |world| async move {
        let recorder = Broken::default();
        let config = BucketConfig {
            metrics_every: Some(SECOND),
            ..small(&world)
        };
        let bucket = world.create(config).await.unwrap();
        let guard = metrics::set_default_local_recorder(&recorder);
        world.sleep(5 * SECOND).await;
        let failures = told(&bucket);
        let asked = recorder.asked.load(Ordering::Relaxed);
        drop(guard);
        assert!(asked > 1, "published once more");
        let first = &failures[0];
        assert_eq!(first.child, ChildName::new("figures"));
        assert_eq!(first.kind, FailureKind::ChildPanicked);
        assert_eq!(
            first.cause,
            FailureCause::Panic("no gauges today".to_owned())
        );
        assert_eq!(
            first.next,
            NextStep::RetryAt {
                at_ms: first.at_ms + 1000
            }
        );
        assert!(bucket.shutdown().await.unwrap().is_clean());
    })
    .unwrap();
}

#[test]
fn a_repair_that_panics_is_tried_again() {
    World::run(2, |world| async move {
        let bucket = world.create(small(&world)).await.unwrap();
        let (key, core) = written(&bucket).await;
        leave_suspect(&bucket, &key, &core).await;
        core.panic_times(ChangeStep::Repairing, 2);
        world.sleep(SECOND).await;
        assert_eq!(bucket.get(&key).await.unwrap().value, "after");
        for failure in told(&bucket) {
            assert_eq!(failure.child, ChildName::new("repair"));
            assert_eq!(failure.kind, FailureKind::ChildPanicked);
            assert_eq!(failure.vbucket, Some(VbucketId::FIRST));
            assert_eq!(
                failure.next,
                NextStep::RetryAt {
                    at_ms: failure.at_ms
                }
            );
        }
        assert_eq!(told(&bucket).len(), 2);
        // And the next one is repaired, too.
        leave_suspect(&bucket, &key, &core).await;
        world.sleep(SECOND).await;
        assert!(!core.is_suspect());
        assert!(bucket.shutdown().await.unwrap().is_clean());
    })
    .unwrap();
}

#[test]
fn a_vbucket_that_cannot_be_repaired_goes_out_of_service_alone() {
    World::run(3, |world| async move {
        let bucket = world.create(small(&world)).await.unwrap();
        let (key, core) = written(&bucket).await;
        leave_suspect(&bucket, &key, &core).await;
        core.panic_times(ChangeStep::Repairing, u8::MAX);
        world.sleep(SECOND).await;
        let refused = bucket.get(&key).await.unwrap_err();
        let OperationError::VbucketDown {
            cause: DownCause::Escalated(why),
            ..
        } = refused
        else {
            panic!("{refused:?}");
        };
        assert!(why.contains("3 times in a row"), "{why}");
        let kinds: Vec<_> = told(&bucket)
            .iter()
            .map(|one| (one.kind, one.next))
            .collect();
        assert_eq!(kinds.len(), 4, "{kinds:?}");
        let out = NextStep::OutOfService;
        assert_eq!(
            kinds[2..],
            [
                (FailureKind::ChildPanicked, out),
                (FailureKind::Escalated, out)
            ]
        );
        for other in 1..4 {
            let other = bucket.vbucket_core(VbucketId::new(other).unwrap()).unwrap();
            assert_eq!(other.down(), None);
        }
        // The operator brings it back: not while it cannot be repaired, and with all that happened afterwards.
        bucket.restart(&ChildName::new("vbucket-0")).unwrap();
        assert!(core.down().is_some());
        assert!(core.disarm());
        bucket.restart(&ChildName::new("vbucket-0")).unwrap();
        assert_eq!(bucket.get(&key).await.unwrap().value, "after");
        assert!(bucket.shutdown().await.unwrap().is_clean());
    })
    .unwrap();
}

#[test]
fn an_engine_that_is_dropped_leaves_nobody_waiting() {
    World::run(4, |world| async move {
        let bucket = world.create(small(&world)).await.unwrap();
        let (key, core) = written(&bucket).await;
        let closed = bucket.closed();
        let waits = core.wait_persisted(Seqno(1_000_000)).unwrap();
        let running = bucket.shared();
        let died = guarded(async move {
            let _ending = Ending::of(running);
            panic!("planted");
        });
        let died: Result<(), _> = died.await;
        assert_eq!(died, Err("planted".to_owned()));
        closed.await;
        assert_eq!(waits.await, Err(OperationError::Closed));
        assert_eq!(bucket.get(&key).await, Err(OperationError::Closed));
        assert!(bucket.is_closed());
    })
    .unwrap();
}
