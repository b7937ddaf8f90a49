//! A backup of a bucket in use holds everything written before it was asked for, and can be brought back; whatever goes wrong
//! is told, and leaves nothing that opens as a bucket.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use piggin::messages::vbucket::DescribeVbucket;
use piggin::storage::disk::{Disk, DiskErrorKind, Fault, SimulatedDisk};
use piggin::storage::{Retention, StorageError, VbucketUuid};
use piggin::{
    BackupError, Bucket, BucketConfig, BucketError, Location, Moment, PastError, restore,
};

use crate::support::{
    Result, TempDirectory, TestDisk, assert_filled, block_on, fill, key_in, made_small, small,
    vbucket,
};

fn at(disk: &SimulatedDisk) -> Location {
    Location::Disk(Arc::new(disk.clone()))
}

fn config(disk: &SimulatedDisk) -> BucketConfig {
    small(BucketConfig::on(Arc::new(disk.clone())))
}

fn assert_no_bucket(disk: &SimulatedDisk) {
    match block_on(Bucket::open(config(disk))) {
        Err(BucketError::Storage(StorageError::NoStore | StorageError::ForeignDirectory(_))) => {}
        opened => panic!("{opened:?}"),
    }
}

fn branch(bucket: &Bucket, number: u16) -> Result<VbucketUuid> {
    let actor = bucket.vbucket(vbucket(number)).ok_or("no actor")?;
    Ok(block_on(actor.send(DescribeVbucket))??.vbucket_uuid)
}

#[test]
fn everything_written_before_it_is_there_and_both_go_on() -> Result {
    let (one, two) = (TempDirectory::new(), TempDirectory::new());
    let bucket = block_on(Bucket::create(made_small(BucketConfig::at(one.path()))))?;
    block_on(bucket.create_collection("_default", "c"))?;
    let keys = fill(&bucket, 20);
    let gone = key_in(&bucket, vbucket(1), 100);
    block_on(bucket.set(&gone, "gone"))?;
    block_on(bucket.delete(&gone))?;
    block_on(bucket.collection("_default", "c")?.set("of c", "here"))?;
    // Somebody writes all the time; what is written meanwhile may be there or not.
    let is_over = AtomicBool::new(false);
    let into = two.path().join("copy");
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let key = format!("meanwhile {}", number % 500);
                block_on(bucket.set(key, format!("{number}"))).unwrap();
            }
        });
        let report = block_on(bucket.backup(into.as_path()));
        is_over.store(true, Ordering::Relaxed);
        report
    })?;
    assert_eq!(report.vbuckets, 4);
    assert!(report.items > 80, "{report:?}");

    let copy = block_on(Bucket::open(small(BucketConfig::at(&into))))?;
    for bucket in [&copy, &bucket] {
        assert_filled(bucket, &keys);
        assert!(block_on(bucket.get(&gone)).is_err());
        let of_c = block_on(bucket.collection("_default", "c")?.get("of c"))?;
        assert_eq!(of_c.value, "here");
    }
    for number in 0..4 {
        assert_ne!(branch(&copy, number)?, branch(&bucket, number)?);
    }
    block_on(copy.set(&keys[0], "of the copy").persisted())?;
    assert_ne!(block_on(bucket.get(&keys[0]))?.value, "of the copy");
    block_on(copy.shutdown())?;
    block_on(bucket.shutdown())?;

    // And back again, as often as one likes.
    for name in ["back", "back again"] {
        let back = two.path().join(name);
        let restored = block_on(restore(into.as_path(), back.as_path()))?;
        assert_eq!(restored.vbuckets, 4);
        let back = block_on(Bucket::open(small(BucketConfig::at(back))))?;
        assert_eq!(block_on(back.get(&keys[0]))?.value, "of the copy");
        assert_filled(&back, &keys[1..]);
        block_on(back.shutdown())?;
    }
    Ok(())
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a file of somebody else")]
fn a_place_that_holds_anything_is_refused() -> Result {
    let (disk, other) = (SimulatedDisk::new(), SimulatedDisk::new());
    let bucket = block_on(Bucket::create(made_small(config(&disk))))?;
    let occupied = |into: Location| match block_on(bucket.backup(into)) {
        Err(BackupError::Target(error)) => error,
        ended => panic!("{ended:?}"),
    };
    assert_eq!(occupied(at(&disk)), StorageError::StoreExists);
    let another = block_on(Bucket::create(made_small(config(&other))))?;
    let before = other.files();
    assert_eq!(occupied(at(&other)), StorageError::StoreExists);
    assert_eq!(other.files(), before);
    let foreign = TempDirectory::new();
    std::fs::write(foreign.path().join("letter"), "of somebody")?;
    let refused = occupied(Location::from(foreign.path()));
    assert_eq!(refused, StorageError::ForeignDirectory("letter".to_owned()));
    assert_eq!(
        std::fs::read(foreign.path().join("letter"))?,
        b"of somebody"
    );
    let nowhere = block_on(restore(foreign.path(), foreign.path().join("new")));
    assert!(
        matches!(nowhere, Err(BackupError::Source(_))),
        "{nowhere:?}"
    );
    block_on(another.shutdown())?;
    block_on(bucket.shutdown())?;
    Ok(())
}

/// From a call on, whichever, everything fails: it is told, and nothing opens; or the copy is whole already.
#[test]
fn every_call_of_the_copy_s_disk_may_be_the_last() -> Result {
    let disk = SimulatedDisk::new();
    let bucket = block_on(Bucket::create(made_small(config(&disk))))?;
    let keys = fill(&bucket, 3);
    let mut failed = 0;
    for n in 1.. {
        let to = SimulatedDisk::new();
        to.inject(Fault::failed_call(DiskErrorKind::Full).nth(n).lasting());
        let ended = block_on(bucket.backup(at(&to)));
        let calls = to.calls();
        to.clear_faults();
        let after = to.crash_losing_everything_unsynced();
        match ended {
            Ok(_) => {
                let copy = block_on(Bucket::open(config(&after)))?;
                assert_filled(&copy, &keys);
                block_on(copy.shutdown())?;
            }
            Err(
                BackupError::Target(_)
                | BackupError::Copy(_)
                | BackupError::Damaged { .. }
                | BackupError::Differs { .. },
            ) => {
                failed += 1;
                assert_no_bucket(&after);
                // Where the sync of its name failed, and nothing could be taken back: there, but whole.
                match block_on(Bucket::open(config(&to))) {
                    Ok(copy) => {
                        assert_filled(&copy, &keys);
                        block_on(copy.shutdown())?;
                    }
                    Err(_) => assert_no_bucket(&to),
                }
            }
            Err(other) => panic!("call {n}: {other}"),
        }
        if calls < n {
            break;
        }
    }
    assert!(failed > 20, "{failed}");
    assert_filled(&bucket, &keys);
    block_on(bucket.shutdown())?;
    Ok(())
}

/// A copy that lacks a vbucket is none.
#[test]
fn a_vbucket_that_is_out_of_service_is_told_by_name() -> Result {
    let disk = SimulatedDisk::new();
    let bucket = block_on(Bucket::create(made_small(config(&disk))))?;
    block_on(
        bucket
            .set(key_in(&bucket, vbucket(2), 1), "a document that is damaged")
            .persisted(),
    )?;
    block_on(bucket.shutdown())?;
    for (name, content) in disk.files() {
        let text = b"a document that is damaged";
        for (offset, window) in content.windows(text.len()).enumerate() {
            if window == text {
                disk.flip_bit(&name, u64::try_from(offset)?, 0)?;
            }
        }
    }
    let to = SimulatedDisk::new();
    // Whoever opens the damaged directory cannot copy it ...
    let restored = block_on(restore(at(&disk), at(&to)));
    let is_named = |ended: &std::result::Result<_, BackupError>| match ended {
        Err(BackupError::Down { vbucket: id, .. }) => *id == vbucket(2),
        Err(BackupError::Copy(error)) => error.to_string().contains("vbucket 2"),
        _ => false,
    };
    assert!(is_named(&restored), "{restored:?}");
    assert_no_bucket(&to);
    // ... and no more can the bucket itself.
    let bucket = block_on(Bucket::open(config(&disk)))?;
    let ended = block_on(bucket.backup(at(&SimulatedDisk::new())));
    let is_refused = is_named(&ended) || matches!(ended, Err(BackupError::Flush(_)));
    assert!(is_refused, "{ended:?}");
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_shutdown_and_a_caller_that_goes_away_cut_it_off() -> Result {
    for is_shut_down in [true, false] {
        let disk = SimulatedDisk::new();
        let bucket = block_on(Bucket::create(made_small(config(&disk))))?;
        fill(&bucket, 3);
        let copy = SimulatedDisk::new();
        let slow = TestDisk::new(copy.clone());
        slow.hold_syncs_of("piggin-backup");
        let to: Arc<dyn Disk> = Arc::new(slow.clone());
        {
            let mut backup = pin!(bucket.backup(Location::Disk(to)));
            let mut context = Context::from_waker(Waker::noop());
            assert!(backup.as_mut().poll(&mut context).is_pending());
            slow.wait_for_held_sync();
            if is_shut_down {
                let mut shutdown = pin!(bucket.clone().shutdown());
                assert!(shutdown.as_mut().poll(&mut context).is_pending());
                slow.let_go();
                // It waits for who is in the middle of a step, and for nobody else.
                assert!(block_on(shutdown)?.is_clean());
                assert_eq!(block_on(backup), Err(BackupError::CutOff));
            }
        }
        slow.let_go();
        slow.wait_until_free();
        assert_no_bucket(&copy);
        if !is_shut_down {
            block_on(bucket.shutdown())?;
        }
    }
    Ok(())
}

/// A copy was never what its source was before.
#[test]
fn a_copy_with_history_has_none_of_before_it_was_made() -> Result {
    let (disk, to) = (SimulatedDisk::new(), SimulatedDisk::new());
    let with_history = BucketConfig {
        history: Some(Retention::of_seconds(3600)),
        ..made_small(config(&disk))
    };
    let bucket = block_on(Bucket::create(with_history))?;
    let key = key_in(&bucket, vbucket(0), 1);
    let other = key_in(&bucket, vbucket(0), 2);
    block_on(bucket.set(&key, "first"))?;
    block_on(bucket.set(&other, "there"))?;
    let then = block_on(bucket.token())?;
    block_on(bucket.set(&key, "second"))?;
    block_on(bucket.backup(at(&to)))?;
    let past = block_on(bucket.as_of(Moment::Token(then.clone())))?;
    assert_eq!(past.seqno(vbucket(0)).map(|seqno| seqno.0), Some(2));
    drop(past);
    block_on(bucket.shutdown())?;

    let copy = block_on(Bucket::open(config(&to)))?;
    let before = block_on(copy.as_of(Moment::Token(then)));
    assert!(
        matches!(
            before,
            // As it was sealed already, or was not.
            Err(PastError::Storage(_)
                | PastError::OtherHistory { .. }
                | PastError::NotWhole { .. })
        ),
        "{before:?}"
    );
    let made = block_on(copy.token())?;
    block_on(copy.set(&key, "third"))?;
    let past = block_on(copy.as_of(Moment::Token(made)))?;
    assert_eq!(past.seqno(vbucket(0)).map(|seqno| seqno.0), Some(3));
    drop(past);
    block_on(copy.shutdown())?;
    Ok(())
}
