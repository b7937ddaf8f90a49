//! A child of the bucket that panics: service goes on, one failure is told, one counter moves, and every write that was
//! acknowledged is there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ::actors::vbucket::ChangeStep;
use actix::prelude::*;
use piggin::messages::vbucket::{Set, WriteOptions};
use piggin::messages::{
    ChildName, DownCause, Failure, FailureCause, FailureId, FailureKind, NextStep, OperationError,
};
use piggin::storage::disk::SimulatedDisk;
use piggin::storage::{Advice, CollectionId, DocumentKey, VbucketId};
use piggin::supervisor::restart::{ChildState, ChildStatus};
use piggin::{Bucket, BucketActor, BucketConfig, BucketError};

use crate::support::evicting::resident;
use crate::support::{
    Listener, Result, TestDisk, assert_filled, block_on, fill, key_in, kinds, made_small, small,
    until, value_of, vbucket,
};

struct Scene {
    disk: TestDisk,
    bucket: Bucket,
    failures: Listener,
    keys: Vec<String>,
}

impl Scene {
    fn set() -> Result<Scene> {
        let disk = TestDisk::new(SimulatedDisk::new());
        let config = resident(made_small(BucketConfig::on(Arc::new(disk.clone()))));
        let bucket = block_on(Bucket::create(config))?;
        let keys = fill(&bucket, 3);
        let failures = Listener::to(&bucket);
        Ok(Scene {
            disk,
            bucket,
            failures,
            keys,
        })
    }

    fn write(&mut self, key: String) -> Result {
        block_on(self.bucket.set(&key, value_of(&key)).persisted())?;
        self.keys.push(key);
        Ok(())
    }

    /// Exactly this child panicked, once, and is up again.
    fn assert_panicked_once(&mut self, child: &str) {
        let failure = self.failures.next();
        assert_eq!(failure.child.as_str(), child);
        assert_eq!(failure.kind, FailureKind::ChildPanicked);
        assert!(
            matches!(failure.cause, FailureCause::Panic(_)),
            "{failure:?}"
        );
        assert_eq!(failure.next, NextStep::Restarted);
        assert_eq!(kinds(&self.bucket), [FailureKind::ChildPanicked]);
        let counted = self.bucket.statistics().failures;
        assert_eq!(counted, [("child_panics", 1)].into());
        for one in self.bucket.children() {
            let is_it = one.name.as_str() == child;
            assert_eq!(one.restarts, u64::from(is_it), "{one:?}");
            assert_eq!(one.last_failure.is_some(), is_it, "{one:?}");
            if is_it {
                assert_eq!(one.generation.0, failure.generation.0 + 1);
                assert_eq!(one.state, ChildState::Up);
            }
        }
        assert!(self.failures.is_silent());
    }

    /// All that was acknowledged is there, now and after an orderly end.
    fn end(self) -> Result {
        assert_filled(&self.bucket, &self.keys);
        block_on(self.bucket.flush())?;
        block_on(self.bucket.shutdown())?;
        let config = small(BucketConfig::on(Arc::new(self.disk)));
        let bucket = block_on(Bucket::open(config))?;
        assert_filled(&bucket, &self.keys);
        block_on(bucket.shutdown())?;
        Ok(())
    }
}

fn status(bucket: &Bucket, child: &str) -> ChildStatus {
    let mut children = bucket.children().into_iter();
    children.find(|one| one.name.as_str() == child).unwrap()
}

fn set_message(key: &str) -> Set {
    Set {
        key: DocumentKey::new(CollectionId::DEFAULT, key.as_bytes()).unwrap(),
        value: value_of(key).into(),
        options: WriteOptions::default(),
    }
}

#[test]
fn the_actor_of_a_vbucket() -> Result {
    let mut scene = Scene::set()?;
    let (id, core) = (vbucket(2), scene.bucket.vbucket_core(vbucket(2)).unwrap());
    let actor = scene.bucket.vbucket(id).unwrap();
    let key = key_in(&scene.bucket, id, 100);
    core.panic_at(ChangeStep::Locked);
    let answer = block_on(actor.send(set_message(&key)))?;
    assert_eq!(answer, Err(OperationError::Crashed { vbucket: id }));
    // The address is the same, and the next life serves.
    block_on(actor.send(set_message(&key)))??;
    scene.assert_panicked_once("vbucket-2");
    scene.keys.push(key);
    scene.end()
}

#[test]
fn the_flusher() -> Result {
    let mut scene = Scene::set()?;
    scene
        .bucket
        .vbucket_core(vbucket(1))
        .unwrap()
        .panic_at(ChangeStep::Taken);
    let key = key_in(&scene.bucket, vbucket(1), 100);
    scene.write(key)?;
    scene.assert_panicked_once("flusher-0");
    scene.end()
}

#[test]
fn the_writer() -> Result {
    let mut scene = Scene::set()?;
    scene.disk.panic_on("writer-0", 1);
    let key = key_in(&scene.bucket, vbucket(1), 100);
    scene.write(key)?;
    assert!(scene.disk.has_struck());
    scene.assert_panicked_once("writer-0");
    scene.end()
}

#[test]
fn maintenance() -> Result {
    let mut scene = Scene::set()?;
    scene.disk.panic_on("maintenance", 1);
    // Enough to give it something to do.
    let mut number = 0;
    let mut more = |scene: &Scene| {
        number += 1;
        let key = key_in(&scene.bucket, vbucket(3), 1000 + number);
        block_on(scene.bucket.set(key, vec![b'm'; 200_000]).persisted()).map(drop)
    };
    while !scene.disk.has_struck() {
        more(&scene)?;
    }
    let calls = scene.disk.calls_of("maintenance");
    while scene.disk.calls_of("maintenance") == calls {
        more(&scene)?;
    }
    scene.assert_panicked_once("maintenance");
    scene.end()
}

#[test]
fn a_worker_of_the_warmup() -> Result {
    let scene = Scene::set()?;
    let (disk, keys) = (scene.disk.clone(), scene.keys.clone());
    scene.end()?;
    disk.panic_on("warmup-0", 1);
    let bucket = block_on(Bucket::open(small(BucketConfig::on(Arc::new(
        disk.clone(),
    )))))?;
    assert!(disk.has_struck());
    assert_eq!(kinds(&bucket), [FailureKind::ChildPanicked]);
    let warmup = status(&bucket, "warmup-0");
    assert_eq!(warmup.restarts, 1, "{warmup:?}");
    assert_filled(&bucket, &keys);
    block_on(bucket.set(&keys[0], value_of(&keys[0])).persisted())?;
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_caller_at_every_step_of_a_change() -> Result {
    for step in ChangeStep::ALL {
        let mut scene = Scene::set()?;
        let id = vbucket(0);
        let core = scene.bucket.vbucket_core(id).unwrap();
        let key = scene.keys[0].clone();
        core.panic_at(step);
        let bucket = &scene.bucket;
        let panicked = catch_unwind(AssertUnwindSafe(|| block_on(bucket.set(&key, "changed"))));
        assert!(panicked.is_err(), "{step:?}");
        // Repaired by the engine; meanwhile nobody is told anything but that it crashed.
        let found = loop {
            match block_on(bucket.get(&key)) {
                Ok(found) => break found.value,
                Err(error) => assert_eq!(error, OperationError::Crashed { vbucket: id }),
            }
        };
        assert!(!core.is_suspect());
        let happened = matches!(
            step,
            ChangeStep::Appended | ChangeStep::Mapped | ChangeStep::Cleared
        );
        let expected = if happened {
            "changed".to_owned()
        } else {
            value_of(&key)
        };
        assert_eq!(found, expected, "{step:?}");
        // What happened goes to disk like any change.
        block_on(bucket.flush())?;
        assert_eq!(core.persisted_seqno(), core.high_seqno());
        scene.write(key)?;
        scene.end()?;
    }
    Ok(())
}

#[test]
fn a_caller_just_before_the_shutdown() -> Result {
    let scene = Scene::set()?;
    let core = scene.bucket.vbucket_core(vbucket(0)).unwrap();
    let key = scene.keys[0].clone();
    core.panic_at(ChangeStep::Appended);
    let bucket = &scene.bucket;
    let panicked = catch_unwind(AssertUnwindSafe(|| block_on(bucket.set(&key, "changed"))));
    assert!(panicked.is_err());
    let Scene { disk, bucket, .. } = scene;
    let report = block_on(bucket.shutdown())?;
    assert!(report.is_clean(), "{report}");
    let bucket = block_on(Bucket::open(small(BucketConfig::on(Arc::new(disk)))))?;
    assert_eq!(block_on(bucket.get(&key))?.value, "changed");
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn the_engine_in_the_middle_of_the_shutdown() -> Result {
    let scene = Scene::set()?;
    let Scene {
        disk, bucket, keys, ..
    } = scene;
    let (closed, other) = (bucket.closed(), bucket.clone());
    disk.panic_on("piggin-control", 1);
    let Err(BucketError::Shutdown(report)) = block_on(bucket.shutdown()) else {
        panic!("whoever waits is told");
    };
    assert!(disk.has_struck());
    let failed = report.failed.unwrap();
    assert!(failed.contains("the engine panicked: "), "{failed}");
    block_on(closed);
    assert_eq!(kinds(&other), [FailureKind::ChildPanicked]);
    let refused = block_on(other.get(&keys[0])).unwrap_err();
    assert_eq!(refused, OperationError::Closed);
    disk.wait_until_free();
    let bucket = block_on(Bucket::open(small(BucketConfig::on(Arc::new(disk)))))?;
    assert_filled(&bucket, &keys);
    block_on(bucket.shutdown())?;
    Ok(())
}

/// Has messages panic the actor of a vbucket until it is given up.
async fn wear_out(bucket: &Bucket, id: VbucketId) -> Result<OperationError> {
    let (core, actor) = (
        bucket.vbucket_core(id).unwrap(),
        bucket.vbucket(id).unwrap(),
    );
    let key = key_in(bucket, id, 500);
    loop {
        core.panic_at(ChangeStep::Locked);
        let answer = actor.send(set_message(&key)).await?;
        core.disarm();
        match answer {
            Err(OperationError::Crashed { .. }) => {}
            Err(other) => return Ok(other),
            Ok(done) => panic!("{done:?}"),
        }
    }
}

#[test]
fn one_vbucket_too_often() -> Result {
    let scene = Scene::set()?;
    let (ear, mut escalations) = Listener::start();
    let (id, bucket) = (vbucket(2), scene.bucket.clone());
    let escalated: Result<Failure> = System::new().block_on(async move {
        let actor = BucketActor::new(bucket.clone())
            .forward_escalations(ear)
            .start();
        let refused = wear_out(&bucket, id).await?;
        let is_down = |error: &OperationError| {
            matches!(
                error,
                OperationError::ActorDown {
                    cause: DownCause::Escalated(_),
                    ..
                } | OperationError::VbucketDown {
                    cause: DownCause::Escalated(_),
                    ..
                }
            )
        };
        assert!(is_down(&refused), "{refused:?}");
        assert_eq!(refused.advice(), Advice::Reopen);
        let escalated = escalations.heard().await;
        assert!(escalations.is_silent(), "only escalations are forwarded");
        assert!(actor.connected(), "the bucket serves");
        Ok(escalated)
    });
    let escalated = escalated?;
    assert_eq!(escalated.kind, FailureKind::Escalated);
    assert_eq!(escalated.vbucket, Some(id));
    assert_eq!(escalated.next, NextStep::OutOfService);
    let history = scene.bucket.failures(FailureId(0)).failures;
    let told = history
        .iter()
        .filter(|one| one.kind == FailureKind::Escalated);
    assert_eq!(told.collect::<Vec<_>>(), [&escalated]);

    let (of_it, others): (Vec<String>, Vec<String>) = scene
        .keys
        .iter()
        .cloned()
        .partition(|key| scene.bucket.vbucket_of(key.as_bytes()) == id);
    for key in &of_it {
        let error = block_on(scene.bucket.get(key)).unwrap_err();
        assert!(
            matches!(error, OperationError::VbucketDown { .. }),
            "{error:?}"
        );
    }
    assert_filled(&scene.bucket, &others);
    for key in &others {
        block_on(scene.bucket.set(key, value_of(key)).persisted())?;
    }
    let states = scene.bucket.children().into_iter();
    let out = states.filter(|one| one.state == ChildState::OutOfService);
    let out: Vec<String> = out.map(|one| one.name.to_string()).collect();
    assert_eq!(out, ["vbucket-2"]);

    // The operator brings it back.
    scene.bucket.restart(&ChildName::new("vbucket-2"))?;
    until(|| status(&scene.bucket, "vbucket-2").state == ChildState::Up);
    assert_filled(&scene.bucket, &scene.keys);
    let actor = scene.bucket.vbucket(id).unwrap();
    block_on(actor.send(set_message(&of_it[0])))??;
    block_on(scene.bucket.set(&of_it[0], value_of(&of_it[0])).persisted())?;
    scene.end()
}
