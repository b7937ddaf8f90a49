//! Every kind of failure that can be reached today is forced once, and does its four things: whoever asked is
//! answered, the failure is told on the bus once, exactly one counter moves by one, and it is logged once with its
//! fields.
//!
//! Not reachable yet, for nothing in the engine does such work or nothing in a test can break it alone: `Scan` for a warmup (it
//! fails as the phase of the warmup), `Fetch`, `Warmup` in its phase of prepares.

use std::sync::Arc;

use ::actors::hooks::{FaultPoint, Hook, Hooks};
use ::actors::vbucket::ChangeStep;
use parking_lot::Mutex;
use piggin::messages::failure::{CompactionStage, ScanPurpose, WarmupPhase};
use piggin::messages::stream::{StreamEndReason, StreamEvent};
use piggin::messages::vbucket::{Set, WriteOptions};
use piggin::messages::{
    Busy, CompactError, CompactOptions, Failure, FailureCause, FailureId, FailureKind, NextStep,
    OperationError, ScanError, ScanRange,
};
use piggin::storage::disk::{DiskErrorKind, SimulatedDisk};
use piggin::storage::{
    Batch, Cas, CollectionId, CommitDurability, Document, DocumentKey, DurabilityLevel, Item,
    KvStore, LogStore, ManifestUid, OpenOptions, ScopeId, SystemEvent, Topology, VbucketUuid,
};
use piggin::supervisor::metric_names as names;
use piggin::{Bucket, BucketConfig, ChangesOptions, CompactionPolicy, Replication, Until};

use crate::capture::{Fields, Turn};
use crate::support::evicting::resident;
use crate::support::{
    Listener, Result, TestDisk, block_on, fill, key_in, made_small, small, until, vbucket,
};

/// Fails the next time that point is reached.
#[derive(Debug, Default)]
struct Plan(Mutex<Option<FaultPoint>>);

impl Hook for Plan {
    fn fault(&self, point: FaultPoint) -> Option<FailureCause> {
        let mut armed = self.0.lock();
        let is_it = *armed == Some(point);
        is_it.then(|| {
            *armed = None;
            FailureCause::Injected(format!("{point:?}"))
        })
    }
}

/// A bucket with documents, and what can break it.
struct Scene {
    disk: TestDisk,
    inside: SimulatedDisk,
    plan: Arc<Plan>,
    bucket: Bucket,
}

impl Scene {
    fn config(disk: &TestDisk, plan: &Arc<Plan>) -> BucketConfig {
        // Who has documents leave takes the panics that are meant for others.
        let mut config = resident(small(BucketConfig::on(Arc::new(disk.clone()))));
        config.hooks = Hooks::new(Arc::clone(plan) as _);
        // What is broken is what somebody asked for.
        config.compaction.policy = CompactionPolicy::NEVER;
        config.compaction.threads = 1;
        config
    }

    fn set(stall_limit: Option<std::time::Duration>) -> Result<Scene> {
        let (inside, plan) = (SimulatedDisk::new(), Arc::default());
        let disk = TestDisk::new(inside.clone());
        let mut config = made_small(Scene::config(&disk, &plan));
        config.stall_limit = stall_limit.unwrap_or(config.stall_limit);
        let bucket = block_on(Bucket::create(config))?;
        fill(&bucket, 2);
        Ok(Scene {
            disk,
            inside,
            plan,
            bucket,
        })
    }

    fn arm(&self, point: FaultPoint) {
        *self.plan.0.lock() = Some(point);
    }

    /// Ends it in order, breaks something, and opens it again.
    fn opened_again(self, broken: impl FnOnce(&SimulatedDisk, &Plan)) -> Result<Scene> {
        block_on(self.bucket.shutdown())?;
        broken(&self.inside, &self.plan);
        let bucket = block_on(Bucket::open(Scene::config(&self.disk, &self.plan)))?;
        Ok(Scene { bucket, ..self })
    }

    fn write_persisted(&self, id: u16) -> std::result::Result<(), OperationError> {
        let key = key_in(&self.bucket, vbucket(id), 90);
        block_on(self.bucket.set(key, "written").persisted()).map(drop)
    }
}

/// What is forced, what must be told, and how: gives the scene back when whoever asked was answered.
struct Row {
    kind: FailureKind,
    child: &'static str,
    next: fn(NextStep) -> bool,
    force: fn() -> Result<Scene>,
}

/// Somebody asks for a compaction that fails at this stage, and is told so; asked again it is done.
fn compaction_fails_at(stage: CompactionStage) -> Result<Scene> {
    let scene = Scene::set(None)?.opened_again(|disk, _| drops_a_collection(disk))?;
    scene.arm(FaultPoint::Compaction { stage });
    let compact = || block_on(scene.bucket.compact(vbucket(1), CompactOptions::default()));
    match compact() {
        Err(CompactError::Failed {
            stage: failed,
            cause: FailureCause::Injected(_),
            published,
        }) => {
            assert_eq!(CompactionStage::from(failed), stage);
            assert_eq!(published.is_some(), stage == CompactionStage::Collection);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(scene.bucket.statistics().compaction.failed, 1);
    compact()?;
    Ok(scene)
}

/// In the closed bucket on that disk, a collection began and ended.
fn drops_a_collection(disk: &SimulatedDisk) {
    let disk = Arc::new(disk.clone());
    let store = LogStore::open(disk, OpenOptions::new(77)).unwrap();
    let statuses = store.vbuckets();
    let status = statuses.iter().find(|one| one.vbucket == vbucket(1));
    let position = status.unwrap().position.clone().unwrap();
    let (uid, scope, collection) = (ManifestUid(1), ScopeId::DEFAULT, CollectionId(8));
    let begin = SystemEvent::CollectionBegin {
        uid,
        scope,
        collection,
        name: "dropped".to_owned(),
        max_ttl_s: 0,
    };
    let start = position.high_seqno.next();
    let end = SystemEvent::CollectionEnd {
        uid: ManifestUid(2),
        scope,
        collection,
        start,
    };
    let key = DocumentKey::new(collection, b"erased").unwrap();
    let document = Document::new(key, "erased", Cas(1));
    let item = |event: &SystemEvent, seqno| {
        let document = Document::new(event.key().unwrap(), event.value(), Cas(1));
        let operation = event.operation();
        Item {
            operation,
            ..Item::mutation(seqno, document)
        }
    };
    let middle = start.next();
    let items = [
        item(&begin, start),
        Item::mutation(middle, document),
        item(&end, middle.next()),
    ];
    let items = items.map(Arc::new).to_vec();
    let mut batch = Batch::of_documents(vbucket(1), &position, items, u64::from(u32::MAX));
    let mut identity = store.state(vbucket(1)).unwrap().identity.as_ref().clone();
    identity.manifest_uid = 2;
    batch.identity = Some(Arc::new(identity));
    let answers = store.commit(&[batch], CommitDurability::Synced);
    assert_eq!(answers, [Ok(())]);
    store.close().unwrap();
}

/// In the middle of a durable write, which is committed all the same.
fn an_invariant_is_broken() -> Result<Scene> {
    let scene = Scene::set(None)?;
    let (bucket, key) = (scene.bucket.clone(), key_in(&scene.bucket, vbucket(1), 80));
    let chain = |nodes: &[&str]| {
        bucket.set_topology([vbucket(1)], &Topology::of_chain(nodes.iter().copied()))
    };
    chain(&[bucket.node_name(), "nobody"])?;
    let writing = {
        let bucket = bucket.clone();
        let level = DurabilityLevel::Majority;
        std::thread::spawn(move || block_on(bucket.set(key, "v").durability(level)))
    };
    let core = bucket.vbucket_core(vbucket(1)).unwrap();
    until(|| core.durability_figures().prepares == 1);
    core.break_an_invariant();
    chain(&[bucket.node_name(), "nobody", "either"])?;
    chain(&[bucket.node_name()])?;
    writing.join().unwrap()?;
    Ok(scene)
}

fn is_nothing(next: NextStep) -> bool {
    next == NextStep::Nothing
}

fn is_retried(next: NextStep) -> bool {
    matches!(next, NextStep::RetryAt { .. })
}

fn is_out(next: NextStep) -> bool {
    next == NextStep::OutOfService
}

fn is_restarted(next: NextStep) -> bool {
    next == NextStep::Restarted
}

/// With one worker it is known who fails.
const fn compaction_row(stage: CompactionStage, force: fn() -> Result<Scene>) -> Row {
    Row {
        kind: FailureKind::Compaction { stage },
        child: "compaction-0",
        next: is_nothing,
        force,
    }
}

/// Flips a bit of what the newest manifests hold of the vbucket with this branch.
fn damage_state(disk: &SimulatedDisk, branch: VbucketUuid) {
    let bytes = branch.0.to_le_bytes();
    for (name, content) in disk.files() {
        let lies_at = content
            .windows(bytes.len())
            .position(|window| window == bytes);
        if let Some(offset) = lies_at.filter(|_| name.starts_with("manifest")) {
            let offset = u64::try_from(offset).unwrap();
            disk.flip_bit(&name, offset, 0).unwrap();
        }
    }
}

const TABLE: [Row; 19] = [
    Row {
        kind: FailureKind::Invariant,
        child: "vbucket-1",
        next: is_nothing,
        force: an_invariant_is_broken,
    },
    Row {
        kind: FailureKind::Flush,
        child: "writer-0",
        next: is_retried,
        force: || {
            let scene = Scene::set(None)?;
            scene.arm(FaultPoint::FlushCommit);
            // Answered once the retry came through.
            scene.write_persisted(1)?;
            Ok(scene)
        },
    },
    Row {
        kind: FailureKind::Seal,
        child: "maintenance",
        next: is_retried,
        force: || {
            let scene = Scene::set(None)?;
            let other = || DiskErrorKind::Other("broken".to_owned());
            scene.disk.fail_on("maintenance", 1, other());
            let key = key_in(&scene.bucket, vbucket(3), 70);
            // Nobody asks for maintenance but the writers, who go on.
            while !scene.disk.has_struck()
                || scene.bucket.failures(FailureId(0)).failures.is_empty()
            {
                block_on(scene.bucket.set(&key, vec![b'v'; 200_000]).persisted())?;
            }
            Ok(scene)
        },
    },
    compaction_row(CompactionStage::Start, || {
        compaction_fails_at(CompactionStage::Start)
    }),
    compaction_row(CompactionStage::Collection, || {
        compaction_fails_at(CompactionStage::Collection)
    }),
    compaction_row(CompactionStage::Prepare, || {
        compaction_fails_at(CompactionStage::Prepare)
    }),
    compaction_row(CompactionStage::SystemEvent, || {
        compaction_fails_at(CompactionStage::SystemEvent)
    }),
    compaction_row(CompactionStage::Merge, || {
        compaction_fails_at(CompactionStage::Merge)
    }),
    compaction_row(CompactionStage::Publish, || {
        compaction_fails_at(CompactionStage::Publish)
    }),
    Row {
        kind: FailureKind::Warmup {
            phase: WarmupPhase::State,
        },
        child: "warmup-0",
        next: is_out,
        force: || {
            let scene = Scene::set(None)?;
            let branch = scene.bucket.statistics().vbuckets[1].vbucket_uuid;
            let scene = scene.opened_again(|disk, _| damage_state(disk, branch))?;
            let refused = scene.write_persisted(1);
            assert!(
                matches!(refused, Err(OperationError::VbucketDown { vbucket: id, .. }) if id == vbucket(1)),
                "{refused:?}"
            );
            Ok(scene)
        },
    },
    Row {
        kind: FailureKind::Warmup {
            phase: WarmupPhase::Documents,
        },
        child: "warmup-0",
        next: is_out,
        force: || {
            let purpose = ScanPurpose::Warmup;
            let scene = Scene::set(None)?.opened_again(|_, plan| {
                *plan.0.lock() = Some(FaultPoint::Scan { purpose });
            })?;
            // Whoever asks the vbucket learns why.
            let answers: Vec<_> = (0..4).map(|id| scene.write_persisted(id)).collect();
            let down = answers.iter().filter_map(|answer| answer.as_ref().err());
            let down: Vec<_> = down.collect();
            assert!(
                matches!(down[..], [OperationError::VbucketDown { .. }]),
                "{answers:?}"
            );
            assert!(down[0].to_string().contains("injected"), "{}", down[0]);
            Ok(scene)
        },
    },
    Row {
        kind: FailureKind::Warmup {
            phase: WarmupPhase::Persist,
        },
        child: "warmup-0",
        next: is_retried,
        force: || {
            let scene = Scene::set(None)?;
            let (disk, ended) = (scene.disk.clone(), scene.bucket.closed());
            drop(scene.bucket);
            block_on(ended);
            // No orderly end, so that the warmup has something to write. The mark of one is cleared twice, and only the
            // second time is a condition of what follows.
            disk.fail_on("warmup-0", 2, DiskErrorKind::Full);
            let bucket = block_on(Bucket::open(Scene::config(&disk, &scene.plan)))?;
            let scene = Scene { bucket, ..scene };
            assert!(scene.disk.has_struck());
            // Until the retry came through, writes are refused and reads are served.
            let key = key_in(&scene.bucket, vbucket(1), 0);
            while let Err(refused) = scene.write_persisted(1) {
                let warming = OperationError::TemporaryFailure(Busy::WarmingUp);
                assert_eq!(refused, warming);
                block_on(scene.bucket.get(&key))?;
                std::thread::yield_now();
            }
            Ok(scene)
        },
    },
    Row {
        kind: FailureKind::Scan {
            purpose: ScanPurpose::Backfill,
        },
        child: "reader-0",
        next: |next| next == NextStep::Nothing,
        force: || {
            let purpose = ScanPurpose::Backfill;
            // Opened anew, so that a stream must read from disk.
            let scene = Scene::set(None)?.opened_again(|_, _| {})?;
            scene.arm(FaultPoint::Scan { purpose });
            let ends = block_on(ends_of_changes(&scene.bucket));
            let failed = StreamEvent::StreamEnd(StreamEndReason::BackfillFail);
            assert_eq!(ends.iter().filter(|end| **end == failed).count(), 1);
            Ok(scene)
        },
    },
    Row {
        kind: FailureKind::Scan {
            purpose: ScanPurpose::Client,
        },
        child: "reader-0",
        next: |next| next == NextStep::Nothing,
        force: || {
            let purpose = ScanPurpose::Client;
            let scene = Scene::set(None)?;
            scene.arm(FaultPoint::Scan { purpose });
            let mut scan = scene.bucket.scan(ScanRange::all()).open()?;
            let error = loop {
                match block_on(scan.next()) {
                    Ok(found) => assert!(found.is_some(), "it looks complete"),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, ScanError::Unread { .. }), "{error}");
            Ok(scene)
        },
    },
    Row {
        kind: FailureKind::Rollback,
        child: "rollback",
        next: is_retried,
        force: || {
            let scene = Scene::set(None)?;
            scene.disk.fail_on("rollback", 2, DiskErrorKind::Full);
            let replication = followed_by(&scene.bucket)?;
            // Answered once the retry came through.
            let caught = block_on(replication.caught_up());
            caught.map_err(|status| format!("{status:?}"))?;
            assert!(scene.disk.has_struck());
            Ok(scene)
        },
    },
    Row {
        kind: FailureKind::Scan {
            purpose: ScanPurpose::Rollback,
        },
        child: "rollback",
        next: is_out,
        force: || {
            let scene = Scene::set(None)?;
            let purpose = ScanPurpose::Rollback;
            scene.arm(FaultPoint::Scan { purpose });
            let replication = followed_by(&scene.bucket)?;
            let broken = loop {
                match &replication.status()[0].last_error {
                    Some(broken) => break broken.clone(),
                    None => std::thread::yield_now(),
                }
            };
            assert!(broken.to_string().contains("injected"), "{broken}");
            Ok(scene)
        },
    },
    Row {
        kind: FailureKind::ChildPanicked,
        child: "writer-0",
        next: is_restarted,
        force: || {
            let scene = Scene::set(None)?;
            scene.disk.panic_on("writer-0", 1);
            scene.write_persisted(1)?;
            Ok(scene)
        },
    },
    Row {
        kind: FailureKind::ChildStalled,
        child: "writer-0",
        next: is_restarted,
        force: || {
            let scene = Scene::set(Some(std::time::Duration::from_millis(50)))?;
            let mut failures = Listener::to(&scene.bucket);
            scene.disk.hold_syncs_of("writer-0");
            let answer = std::thread::scope(|scope| {
                let write = scope.spawn(|| scene.write_persisted(1));
                assert_eq!(failures.next().kind, FailureKind::ChildStalled);
                scene.disk.let_go();
                write.join()
            });
            answer.unwrap()?;
            Ok(scene)
        },
    },
    Row {
        kind: FailureKind::Escalated,
        child: "vbucket-2",
        next: is_out,
        force: || {
            let scene = Scene::set(None)?;
            let (id, bucket) = (vbucket(2), &scene.bucket);
            let core = bucket.vbucket_core(id).unwrap();
            let actor = bucket.vbucket(id).unwrap();
            let key = key_in(bucket, id, 60);
            let refused = loop {
                core.panic_at(ChangeStep::Locked);
                let answer = block_on(actor.send(Set {
                    key: DocumentKey::new(CollectionId::DEFAULT, key.as_bytes())?,
                    value: "poison".into(),
                    options: WriteOptions::default(),
                }))?;
                core.disarm();
                match answer {
                    Err(OperationError::Crashed { .. }) => {}
                    other => break other,
                }
            };
            assert!(
                matches!(
                    refused,
                    Err(OperationError::ActorDown { .. } | OperationError::VbucketDown { .. })
                ),
                "{refused:?}"
            );
            Ok(scene)
        },
    },
];

/// A vbucket of the bucket follows another bucket, of whose history it has nothing: it must go back first.
fn followed_by(bucket: &Bucket) -> Result<Replication> {
    let config = made_small(BucketConfig::on(Arc::new(SimulatedDisk::new())));
    let source = block_on(Bucket::create(config))?;
    fill(&source, 2);
    Ok(source.replicate([vbucket(1)], bucket)?)
}

/// How the streams of all vbuckets end.
async fn ends_of_changes(bucket: &Bucket) -> Vec<StreamEvent> {
    let options = ChangesOptions {
        until: Until::Now,
        ..ChangesOptions::default()
    };
    let mut changes = bucket.changes(options).await.unwrap();
    let mut ends = Vec::new();
    while let Some(change) = changes.next().await {
        if matches!(change.event, StreamEvent::StreamEnd(_)) {
            ends.push(change.event);
        }
    }
    ends
}

#[test]
fn every_kind_does_its_four_things() -> Result {
    for row in TABLE {
        let turn = Turn::take();
        // One: whoever asked was answered, or this does not end.
        let scene = (row.force)()?;
        let told = scene.bucket.failures(FailureId(0)).failures;
        // Two: on the bus, once. (Panics come before an escalation, and nothing else comes with anything.)
        let of_kind = told.iter().filter(|one| one.kind == row.kind);
        let [failure] = of_kind.collect::<Vec<&Failure>>()[..] else {
            panic!("{:?}: {told:?}", row.kind);
        };
        let is_expected = |one: &Failure| {
            one.kind == row.kind
                || row.kind == FailureKind::Escalated && one.kind == FailureKind::ChildPanicked
        };
        assert!(told.iter().all(is_expected), "{told:?}");
        assert_eq!(failure.child.as_str(), row.child);
        assert!((row.next)(failure.next), "{failure:?}");
        // Three: its counter moved by one, in the statistics and at the recorder.
        let counter = row.kind.counter();
        let figures = scene.bucket.statistics().failures;
        assert_eq!(figures.get(counter), Some(&1), "{figures:?}");
        let all: u64 = figures.values().sum();
        assert_eq!(all, told.len() as u64);
        let figure = format!("{}{{{counter}}}", names::FAILURES);
        assert_eq!(turn.figure(&figure), Some(1.0), "{counter}");
        let derived = turn.figure(names::ITEM_COMMIT_FAILED).unwrap_or(0.0);
        assert_eq!(derived > 0.0, row.kind == FailureKind::Flush);
        let derived = turn.figure(names::COMPACTION_FAILED).unwrap_or(0.0);
        let is_compaction = matches!(row.kind, FailureKind::Compaction { .. });
        assert_eq!(derived > 0.0, is_compaction);
        // Four: logged once, with its fields.
        let logged = turn.logged_failures();
        let of_it = |one: &&Fields| one["failure"] == failure.id.0.to_string();
        let [event] = logged.iter().filter(of_it).collect::<Vec<_>>()[..] else {
            panic!("{counter}: {logged:?}");
        };
        assert_eq!(logged.len(), told.len());
        assert_eq!(event["counter"], format!("{counter:?}"));
        assert_eq!(event["child"], format!("{:?}", row.child));
        assert_eq!(event["generation"], failure.generation.0.to_string());
        assert_eq!(event["cause"], failure.cause.to_string());
        assert_eq!(event.contains_key("vbucket"), failure.vbucket.is_some());
        block_on(scene.bucket.shutdown())?;
    }
    Ok(())
}
