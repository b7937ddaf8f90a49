//! Scopes and collections: what a change of the manifest promises, on disk and in memory, through every door.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use ::actors::vbucket::ChangeStep;
use actix::prelude::*;
use piggin::messages::collections::{GetManifest, NameError};
use piggin::messages::vbucket::{Get, Set, SetVbucketState, Write, WriteOptions};
use piggin::messages::{
    Busy, ChangeManifest, ChildName, DownCause, ManifestChange, ManifestError, OperationError,
};
use piggin::storage::disk::{DiskErrorKind, Fault, SimulatedDisk, Verb};
use piggin::storage::{
    Advice, CollectionId, DocumentKey, KvStore, LogStore, ManifestUid, OpenOptions, Outcome, Seqno,
    VbucketState,
};
use piggin::{Bucket, BucketActor, BucketConfig, CollectionStatistics};

use crate::support::{
    Result, TempDirectory, TestDisk, assert_filled, block_on, fill, key_in, made_small, small,
    until, value_of, vbucket,
};

fn unknown(uid: u64) -> OperationError {
    let manifest_uid = ManifestUid(uid);
    OperationError::UnknownCollection { manifest_uid }
}

fn assert_all_agree(bucket: &Bucket) {
    for id in (0..bucket.vbucket_count()).map(vbucket) {
        let core = bucket.vbucket_core(id).unwrap();
        assert_eq!(core.collections_manifest(), bucket.manifest(), "{id}");
    }
}

#[test]
fn a_collection_is_created_used_and_found_again() -> Result {
    let directory = TempDirectory::new();
    let config = || BucketConfig::at(directory.path());
    let bucket = block_on(Bucket::create(made_small(config())))?;
    assert_eq!(bucket.manifest().uid, ManifestUid(0));
    assert_eq!(block_on(bucket.create_scope("shop"))?, ManifestUid(1));
    let uid = block_on(bucket.create_collection("shop", "orders"))?;
    assert_eq!(uid, ManifestUid(2));
    let orders = bucket.collection("shop", "orders")?;
    assert_eq!(orders.id(), CollectionId(9));
    let keys: Vec<String> = (0..4)
        .flat_map(|id| (0..5).map(move |number| (id, number)))
        .map(|(id, number)| key_in(&bucket, vbucket(id), number))
        .collect();
    for key in &keys {
        block_on(bucket.set(key, "default"))?;
        block_on(orders.set(key, "order").persisted())?;
    }
    let first = &keys[0];
    let added = block_on(orders.add("new", "1"))?;
    assert_eq!(
        block_on(orders.add("new", "1")),
        Err(OperationError::KeyExists)
    );
    block_on(orders.replace("new", "2").cas(added.cas))?;
    block_on(orders.touch("new", 0))?;
    assert_eq!(block_on(orders.get_and_touch("new", 0))?.value, "2");
    assert!(block_on(orders.exists("new"))?);
    block_on(orders.delete("new"))?;
    assert!(!block_on(orders.exists("new"))?);
    assert!(block_on(orders.get_meta("new"))?.is_deleted);
    assert!(!block_on(bucket.exists("new"))?);
    let many = block_on(orders.get_many([first.as_str(), "new"]));
    assert_eq!(many[0].as_ref().unwrap().value, "order");
    assert_eq!(many[1], Err(OperationError::KeyNotFound));
    block_on(bucket.shutdown())?;

    let bucket = block_on(Bucket::open(small(config())))?;
    assert_eq!(bucket.manifest().uid, ManifestUid(2));
    assert_all_agree(&bucket);
    // A handle is of one opening; the name leads to the same collection.
    let orders = bucket.collection("shop", "orders")?;
    for key in &keys {
        assert_eq!(block_on(orders.get(key))?.value, "order");
        assert_eq!(block_on(bucket.get(key))?.value, "default");
    }
    let figures = bucket.collection_statistics()?;
    let by_name = |one: &CollectionStatistics| (one.scope.clone(), one.name.clone(), one.documents);
    let counted: Vec<_> = figures.iter().map(by_name).collect();
    let default = || "_default".to_owned();
    assert_eq!(
        counted,
        [
            (default(), default(), 20),
            ("shop".to_owned(), "orders".to_owned(), 20)
        ]
    );
    for one in &figures {
        let highest = one.high_seqnos.values().max().unwrap();
        assert_eq!(one.high_seqnos.len(), 4);
        assert!(highest.0 > 5, "{one:?}");
        assert!(one.document_bytes > 20 * 5, "{one:?}");
    }
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_drop_is_instant_and_memory_is_rid_of_it() -> Result {
    let directory = TempDirectory::new();
    let bucket = block_on(Bucket::create(made_small(BucketConfig::at(
        directory.path(),
    ))))?;
    let keys = fill(&bucket, 5);
    block_on(bucket.create_collection("_default", "c"))?;
    let first = bucket.collection("_default", "c")?;
    for number in 0..2000 {
        block_on(first.set(format!("key {number}"), "v"))?;
    }
    assert_eq!(bucket.statistics().documents, 2020);
    let uid = block_on(bucket.drop_collection("_default", "c"))?;
    assert_eq!(uid, ManifestUid(2));
    assert_eq!(block_on(first.get("key 1")), Err(unknown(2)));
    assert_eq!(block_on(first.set("key 1", "v")), Err(unknown(2)));
    assert_eq!(
        block_on(first.set("key 1", "v").persisted()),
        Err(unknown(2))
    );
    assert_eq!(unknown(2).advice(), Advice::FixRequest);
    assert!(unknown(2).to_string().contains("manifest 2"));
    assert_eq!(bucket.collection("_default", "c").unwrap_err(), unknown(2));
    // Another of the same name is another.
    block_on(bucket.create_collection("_default", "c"))?;
    let second = bucket.collection("_default", "c")?;
    assert_eq!(
        block_on(second.get("key 1")),
        Err(OperationError::KeyNotFound)
    );
    assert_eq!(block_on(first.get("key 1")), Err(unknown(3)));
    block_on(second.set("key 1", "of the second").persisted())?;
    until(|| bucket.statistics().documents == 21);
    assert_filled(&bucket, &keys);
    block_on(bucket.shutdown())?;

    let bucket = block_on(Bucket::open(small(BucketConfig::at(directory.path()))))?;
    let second = bucket.collection("_default", "c")?;
    assert_eq!(block_on(second.get("key 1"))?.value, "of the second");
    assert_eq!(
        bucket.statistics().documents,
        21,
        "what was dropped is not loaded"
    );
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_change_that_cannot_be_made_is_told_and_changes_nothing() -> Result {
    let directory = TempDirectory::new();
    let bucket = block_on(Bucket::create(made_small(BucketConfig::at(
        directory.path(),
    ))))?;
    block_on(bucket.create_scope("s"))?;
    let before = bucket.manifest();
    let stale = ChangeManifest {
        change: ManifestChange::DropScope {
            scope: "s".to_owned(),
        },
        expected: Some(ManifestUid(0)),
    };
    let scope = || "s".to_owned();
    let refusals = [
        block_on(bucket.create_scope("s")),
        block_on(bucket.create_scope("no.dots")),
        block_on(bucket.drop_scope("t")),
        block_on(bucket.drop_collection("s", "c")),
        block_on(bucket.drop_scope("_default")),
        block_on(bucket.change_manifest(stale)),
    ];
    let expected = [
        ManifestError::ScopeExists { scope: scope() },
        ManifestError::Name {
            name: "no.dots".to_owned(),
            cause: NameError::Character { character: '.' },
        },
        ManifestError::UnknownScope {
            scope: "t".to_owned(),
        },
        ManifestError::UnknownCollection {
            scope: scope(),
            collection: "c".to_owned(),
        },
        ManifestError::Default,
        ManifestError::Stale {
            given: ManifestUid(0),
            current: ManifestUid(1),
        },
    ];
    for (refused, expected) in refusals.into_iter().zip(expected) {
        let error = refused.unwrap_err();
        assert_eq!(error, expected);
        let is_stale = matches!(error, ManifestError::Stale { .. });
        let advice = if is_stale {
            Advice::Resynchronize
        } else {
            Advice::FixRequest
        };
        assert_eq!(error.advice(), advice, "{error}");
    }
    assert_eq!(bucket.manifest(), before);
    let high = |bucket: &Bucket| {
        let vbuckets = bucket.statistics().vbuckets;
        vbuckets.iter().map(|one| one.high_seqno.0).sum::<u64>()
    };
    assert_eq!(high(&bucket), 4, "one event in each vbucket");
    let other = bucket.clone();
    block_on(bucket.shutdown())?;
    assert_eq!(
        block_on(other.create_scope("t")),
        Err(ManifestError::Operation(OperationError::Closed))
    );
    Ok(())
}

#[test]
fn the_manifest_through_the_bucket_s_actor() -> Result {
    let directory = TempDirectory::new();
    let bucket = block_on(Bucket::create(made_small(BucketConfig::at(
        directory.path(),
    ))))?;
    let of_actor = bucket.clone();
    let done: Result = System::new().block_on(async move {
        let actor = BucketActor::new(of_actor).start();
        let change = ManifestChange::CreateCollection {
            scope: "_default".to_owned(),
            collection: "c".to_owned(),
            max_ttl_s: 100,
        };
        let request = ChangeManifest::from(change);
        assert_eq!(actor.send(request.clone()).await??, ManifestUid(1));
        let again = actor.send(request).await?;
        assert!(matches!(again, Err(ManifestError::CollectionExists { .. })));
        let manifest = actor.send(GetManifest).await?;
        let id = manifest.collection("_default", "c").unwrap();
        let key = DocumentKey::new(id, b"k")?;
        let set = Set {
            key: key.clone(),
            value: "v".into(),
            options: WriteOptions::default(),
        };
        actor.send(set.clone()).await??;
        let found = actor.send(Get { key }).await??;
        assert!(found.meta.expiry.0 > 0, "the collection limits it");
        let change = ManifestChange::DropCollection {
            scope: "_default".to_owned(),
            collection: "c".to_owned(),
        };
        actor.send(ChangeManifest::from(change)).await??;
        assert_eq!(actor.send(set).await?, Err(unknown(2)));
        Ok(())
    });
    done?;
    let key = DocumentKey::new(CollectionId(8), b"k")?;
    let batch = vec![Write::Set(Set {
        key,
        value: "v".into(),
        options: WriteOptions::default(),
    })];
    assert_eq!(block_on(bucket.write_batch(batch)), [Err(unknown(2))]);
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_caller_that_panics_at_any_step_leaves_all_vbuckets_with_the_change() -> Result {
    let steps = [
        ChangeStep::Noted,
        ChangeStep::Appended,
        ChangeStep::Mapped,
        ChangeStep::Cleared,
        ChangeStep::Identified,
    ];
    for step in steps {
        for of in 0..4 {
            let disk = Arc::new(SimulatedDisk::new());
            let config = made_small(BucketConfig::on(Arc::clone(&disk) as _));
            let bucket = block_on(Bucket::create(config))?;
            block_on(bucket.create_collection("_default", "before"))?;
            let core = bucket.vbucket_core(vbucket(of)).unwrap();
            core.panic_at(step);
            let change = || block_on(bucket.create_collection("_default", "c"));
            assert!(catch_unwind(AssertUnwindSafe(change)).is_err(), "{step:?}");
            // Repaired by the engine, in the vbuckets behind as well.
            let agrees = |id| {
                let core = bucket.vbucket_core(vbucket(id)).unwrap();
                core.collections_manifest().uid == ManifestUid(2) && !core.is_suspect()
            };
            until(|| (0..4).all(agrees));
            assert_all_agree(&bucket);
            let collection = bucket.collection("_default", "c")?;
            for id in 0..4 {
                let key = key_in(&bucket, vbucket(id), 1);
                block_on(collection.set(key, "v").persisted())?;
            }
            assert_eq!(
                block_on(bucket.drop_collection("_default", "before"))?,
                ManifestUid(3)
            );
            block_on(bucket.shutdown())?;
            let bucket = block_on(Bucket::open(small(BucketConfig::on(disk))))?;
            assert_eq!(bucket.manifest().uid, ManifestUid(3));
            assert_all_agree(&bucket);
            block_on(bucket.shutdown())?;
        }
    }
    Ok(())
}

#[test]
fn a_vbucket_that_was_given_up_has_followed_when_it_is_back() -> Result {
    let directory = TempDirectory::new();
    let bucket = block_on(Bucket::create(made_small(BucketConfig::at(
        directory.path(),
    ))))?;
    let (id, core) = (vbucket(2), bucket.vbucket_core(vbucket(2)).unwrap());
    let actor = bucket.vbucket(id).unwrap();
    let key = key_in(&bucket, id, 1);
    loop {
        core.panic_at(ChangeStep::Locked);
        let get = Set {
            key: DocumentKey::new(CollectionId::DEFAULT, key.as_bytes())?,
            value: "v".into(),
            options: WriteOptions::default(),
        };
        let answer = block_on(actor.send(get))?;
        core.disarm();
        if !matches!(answer, Err(OperationError::Crashed { .. })) {
            break;
        }
    }
    until(|| core.down().is_some());
    // Those in service have it on disk; that is what is waited for.
    block_on(bucket.create_collection("_default", "c"))?;
    let collection = bucket.collection("_default", "c")?;
    let down = block_on(collection.set(&key, "v")).unwrap_err();
    assert!(matches!(down, OperationError::VbucketDown { .. }), "{down}");
    bucket.restart(&ChildName::new("vbucket-2"))?;
    block_on(collection.set(&key, "v").persisted())?;
    assert_all_agree(&bucket);
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn without_an_active_vbucket_nothing_is_changed() -> Result {
    let directory = TempDirectory::new();
    let bucket = block_on(Bucket::create(made_small(BucketConfig::at(
        directory.path(),
    ))))?;
    let become_state = |id: u16, state| {
        let request = SetVbucketState {
            state,
            topology: None,
            is_takeover: false,
        };
        let actor = bucket.vbucket(vbucket(id)).unwrap();
        block_on(actor.send(request)).unwrap().unwrap();
    };
    for id in 0..4 {
        become_state(id, VbucketState::Replica);
    }
    let refused = block_on(bucket.create_scope("s")).unwrap_err();
    let is_replica = |error: &ManifestError| {
        matches!(
            error,
            ManifestError::Operation(OperationError::NotMyVbucket { .. })
        )
    };
    assert!(is_replica(&refused), "{refused:?}");
    assert_eq!(bucket.manifest().uid, ManifestUid(0));
    become_state(1, VbucketState::Active);
    block_on(bucket.create_scope("s"))?;
    // What becomes active later follows.
    become_state(3, VbucketState::Active);
    let core = bucket.vbucket_core(vbucket(3)).unwrap();
    assert_eq!(core.collections_manifest(), bucket.manifest());
    block_on(bucket.shutdown())?;
    let bucket = block_on(Bucket::open(small(BucketConfig::at(directory.path()))))?;
    assert_eq!(bucket.manifest().uid, ManifestUid(1));
    block_on(bucket.shutdown())?;
    Ok(())
}

/// Whatever read of the disk fails while the bucket is opened: a vbucket whose collections could not be read says so, and
/// never looks as if it had none.
#[test]
fn a_vbucket_whose_collections_cannot_be_read_is_out_of_service() -> Result {
    let disk = SimulatedDisk::new();
    let config = |disk: &SimulatedDisk| small(BucketConfig::on(Arc::new(disk.clone())));
    let bucket = block_on(Bucket::create(made_small(config(&disk))))?;
    block_on(bucket.create_collection("_default", "c"))?;
    let collection = bucket.collection("_default", "c")?;
    let keys: Vec<String> = (0..4).map(|id| key_in(&bucket, vbucket(id), 1)).collect();
    for key in &keys {
        block_on(collection.set(key, value_of(key)).persisted())?;
    }
    block_on(bucket.shutdown())?;
    seal_all(&disk)?;
    let mut down = 0;
    for nth in 1.. {
        let disk = disk.crash_keeping_everything();
        let broken = DiskErrorKind::Other("broken".into());
        disk.inject(Fault::failed_call(broken).on(Verb::Read).nth(nth));
        // What cannot be opened says so.
        let Ok(bucket) = block_on(Bucket::open(config(&disk))) else {
            continue;
        };
        let has_struck = disk.faults_waiting() == 0;
        if let Ok(collection) = bucket.collection("_default", "c") {
            for key in &keys {
                match block_on(collection.get(key)) {
                    Ok(found) => assert_eq!(found.value, value_of(key)),
                    Err(OperationError::VbucketDown { .. }) => down += 1,
                    // It left memory, and the reading of it failed: asked again it is there.
                    Err(OperationError::TemporaryFailure(Busy::NotInMemory)) => {
                        assert_eq!(block_on(collection.get(key))?.value, value_of(key));
                    }
                    Err(other) => panic!("{nth}: {other}"),
                }
            }
        } else {
            let vbuckets = bucket.statistics().vbuckets;
            assert!(vbuckets.iter().all(|one| one.down.is_some()), "{nth}");
        }
        drop(bucket);
        if !has_struck {
            break;
        }
    }
    assert!(down > 0);
    Ok(())
}

/// The highest uid may be known to the vbucket alone that cannot be read: no uid it may have is given again.
#[test]
fn a_change_beside_an_unreadable_vbucket_leaves_uids_out() -> Result {
    let disk = SimulatedDisk::new();
    let config = |disk: &SimulatedDisk| small(BucketConfig::on(Arc::new(disk.clone())));
    let bucket = block_on(Bucket::create(made_small(config(&disk))))?;
    block_on(bucket.create_collection("_default", "c"))?;
    block_on(bucket.shutdown())?;
    seal_all(&disk)?;
    let mut leaps = 0;
    for nth in 1.. {
        let disk = disk.crash_keeping_everything();
        let broken = DiskErrorKind::Other("broken".into());
        disk.inject(Fault::failed_call(broken).on(Verb::Read).nth(nth));
        let Ok(bucket) = block_on(Bucket::open(config(&disk))) else {
            continue;
        };
        let has_struck = disk.faults_waiting() == 0;
        let is_unread = (0..4).any(|id| bucket.vbucket_core(vbucket(id)).is_none());
        let before = bucket.manifest().uid;
        if let Ok(uid) = block_on(bucket.create_scope("s")) {
            let leap = if is_unread { 1024 } else { 1 };
            assert_eq!(uid.0, before.0 + leap, "{nth}");
            leaps += u32::from(is_unread);
            let next = block_on(bucket.create_scope("t"))?;
            assert_eq!(next.0, uid.0 + 1, "once in an opening");
        }
        drop(bucket);
        if !has_struck {
            break;
        }
    }
    assert!(leaps > 0);
    Ok(())
}

/// What is in force is never called unchanged, nor worth another try.
#[test]
fn a_change_that_cannot_get_to_disk_says_that_it_is_in_force() -> Result {
    let disk = TestDisk::new(SimulatedDisk::new());
    let mut config = made_small(BucketConfig::on(Arc::new(disk.clone())));
    config.log_shards = Some(1);
    let bucket = block_on(Bucket::create(config))?;
    disk.hold_syncs_of("writer-0");
    let mut change = pin!(bucket.create_scope("s"));
    let mut context = Context::from_waker(Waker::noop());
    assert!(change.as_mut().poll(&mut context).is_pending());
    disk.wait_for_held_sync();
    for id in 0..4 {
        let core = bucket.vbucket_core(vbucket(id)).unwrap();
        core.take_down(DownCause::Escalated("for a test".to_owned()));
    }
    let refused = block_on(change).unwrap_err();
    disk.let_go();
    let uid = ManifestUid(1);
    assert!(
        matches!(&refused, ManifestError::InForce { uid: made, .. } if *made == uid),
        "{refused:?}"
    );
    assert_ne!(refused.advice(), Advice::RetryLater);
    assert_ne!(refused.advice(), Advice::FixRequest);
    assert_eq!(bucket.manifest().uid, uid);
    Ok(())
}

/// Has everything in segments, so that it is read from there.
fn seal_all(disk: &SimulatedDisk) -> Result {
    let store = LogStore::open(Arc::new(disk.clone()), OpenOptions::new(1))?;
    for id in (0..4).map(vbucket) {
        let sealed = store.seal(id, Seqno::ZERO);
        assert_eq!(sealed, Outcome::Complete(()));
    }
    Ok(())
}
