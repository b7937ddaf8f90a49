//! A past that cannot be had is refused by a typed error that says what can, and nothing changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use piggin::messages::compactor::CompactOptions;
use piggin::messages::stream::{StreamEvent, StreamFilter, StreamRequestError};
use piggin::storage::disk::{Disk, DiskErrorKind, Fault, OpenMode, SimulatedDisk, Verb};
use piggin::storage::{
    Advice, CopyError, FileSystemDisk, Retention, ScopeId, StorageError, VbucketId,
};
use piggin::{
    BackupError, Bucket, BucketConfig, BucketError, Change, ChangesError, ChangesOptions, Location,
    Moment, Past, PastError, TokenError, Until,
};

use crate::support::{Result, TempDirectory, assert_filled, block_on, fill, made_small, small};

fn with_history(disk: &SimulatedDisk) -> BucketConfig {
    BucketConfig {
        history: Some(Retention::of_seconds(3600)),
        ..made_small(BucketConfig::on(Arc::new(disk.clone())))
    }
}

/// What it is now.
async fn past_of(bucket: &Bucket) -> std::result::Result<Past, PastError> {
    let token = bucket.token().await?;
    bucket.as_of(token).await
}

#[test]
fn history_of_a_bucket_without_one() -> Result {
    let disk = SimulatedDisk::new();
    let config = || small(BucketConfig::on(Arc::new(disk.clone())));
    let bucket = block_on(Bucket::create(made_small(config())))?;
    let keys = fill(&bucket, 2);
    let token = block_on(bucket.token())?;
    for moment in [Moment::TimeMs(1), Moment::Token(token)] {
        let refused = block_on(bucket.as_of(moment)).unwrap_err();
        assert_eq!(refused, PastError::NoHistory);
        assert_eq!(refused.advice(), Advice::FixRequest);
    }
    block_on(bucket.shutdown())?;
    let mut wrong = config();
    wrong.history = Some(Retention::of_seconds(60));
    let refused = block_on(Bucket::open(wrong)).unwrap_err();
    let expected = BucketError::OtherOptions {
        what: "seconds of history",
        stored: 0,
        given: 60,
    };
    assert_eq!(refused, expected);
    let bucket = block_on(Bucket::open(config()))?;
    assert_filled(&bucket, &keys);
    block_on(bucket.shutdown())?;
    for impossible in [
        Retention::of_seconds(0),
        Retention {
            window_s: 1,
            bytes: Some(0),
        },
    ] {
        let mut config = made_small(BucketConfig::on(Arc::new(SimulatedDisk::new())));
        config.history = Some(impossible);
        let refused = block_on(Bucket::create(config)).unwrap_err();
        assert_eq!(refused.advice(), Advice::FixRequest, "{refused}");
    }
    Ok(())
}

#[test]
fn history_other_than_the_one_stored() -> Result {
    let disk = SimulatedDisk::new();
    let bucket = block_on(Bucket::create(with_history(&disk)))?;
    block_on(bucket.shutdown())?;
    let mut longer = with_history(&disk);
    longer.history = Some(Retention::of_seconds(7200));
    let mut bounded = with_history(&disk);
    bounded.history = Some(Retention {
        window_s: 3600,
        bytes: Some(5),
    });
    for (config, what, stored, given) in [
        (longer, "seconds of history", 3600, 7200),
        (bounded, "bytes of history", 0, 5),
    ] {
        let expected = BucketError::OtherOptions {
            what,
            stored,
            given,
        };
        assert_eq!(block_on(Bucket::open(config)).unwrap_err(), expected);
    }
    let bucket = block_on(Bucket::open(with_history(&disk)))?;
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn history_before_the_window_or_of_the_future() -> Result {
    let bucket = block_on(Bucket::create(with_history(&SimulatedDisk::new())))?;
    let keys = fill(&bucket, 2);
    let early = block_on(bucket.as_of(Duration::from_secs(1))).unwrap_err();
    let PastError::BeforeWindow { time_ms, from_ms } = early else {
        panic!("{early}");
    };
    assert!(time_ms == 1000 && from_ms > time_ms);
    let late = block_on(bucket.as_of(Moment::TimeMs(u64::MAX))).unwrap_err();
    assert!(matches!(late, PastError::NotYet { .. }), "{late}");
    assert_filled(&bucket, &keys);
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn history_of_another_bucket() -> Result {
    let bucket = block_on(Bucket::create(with_history(&SimulatedDisk::new())))?;
    fill(&bucket, 2);
    let other = block_on(Bucket::create(with_history(&SimulatedDisk::new())))?;
    fill(&other, 2);
    let mut config = with_history(&SimulatedDisk::new());
    config.vbuckets = Some(8);
    let larger = block_on(Bucket::create(config))?;
    let of_other = block_on(other.token())?;
    let refused = block_on(bucket.as_of(of_other)).unwrap_err();
    assert!(
        matches!(refused, PastError::OtherHistory { .. }),
        "{refused}"
    );
    let of_larger = block_on(larger.token())?;
    let refused = block_on(bucket.as_of(of_larger)).unwrap_err();
    let expected = TokenError::OtherBucket {
        token: 8,
        bucket: 4,
    };
    assert_eq!(refused, PastError::Token(expected));
    for bucket in [bucket, other, larger] {
        block_on(bucket.shutdown())?;
    }
    Ok(())
}

#[test]
fn history_into_a_place_that_holds_something() -> Result {
    let bucket = block_on(Bucket::create(with_history(&SimulatedDisk::new())))?;
    fill(&bucket, 2);
    let past = block_on(past_of(&bucket))?;
    let directory = TempDirectory::new();
    let disk = FileSystemDisk::new(directory.path())?;
    drop(disk.open("letter.txt", OpenMode::CreateNew)?);
    let place = Location::Directory(directory.path().to_owned());
    let refused = past.restore_into(&place).unwrap_err();
    let foreign = StorageError::ForeignDirectory("letter.txt".to_owned());
    let of_target = |cause| PastError::Copy(BackupError::Target(cause));
    assert_eq!(refused, of_target(foreign));
    let left: Vec<_> = std::fs::read_dir(directory.path())?.collect();
    assert_eq!(left.len(), 1, "nothing was written");
    disk.remove("letter.txt")?;
    past.restore_into(&place)?;
    let refused = past.restore_into(&place).unwrap_err();
    assert_eq!(refused, of_target(StorageError::StoreExists));
    drop(past);
    block_on(bucket.shutdown())?;
    Ok(())
}

/// A restore that was cut off is no bucket.
#[test]
fn history_that_was_written_down_in_part_is_no_bucket() -> Result {
    let bucket = block_on(Bucket::create(with_history(&SimulatedDisk::new())))?;
    fill(&bucket, 5);
    let past = block_on(past_of(&bucket))?;
    let mut cut = 1;
    loop {
        let disk = SimulatedDisk::new();
        disk.cut_power_at_call(cut);
        let place = Location::Disk(Arc::new(disk.clone()));
        let restored = past.restore_into(&place);
        let left = disk.crash(cut);
        let opened = block_on(Bucket::open(small(BucketConfig::on(Arc::new(left)))));
        match (restored, opened) {
            (Ok(restored), opened) => {
                assert_eq!(restored.documents, 20);
                let opened = opened?;
                assert_eq!(opened.statistics().documents, 20);
                block_on(opened.shutdown())?;
                break;
            }
            // The very last call may have arrived.
            (Err(_), Ok(opened)) => {
                assert_eq!(opened.statistics().documents, 20, "cut at {cut}");
                block_on(opened.shutdown())?;
            }
            (Err(_), Err(BucketError::Storage(error))) => {
                let is_none = matches!(
                    error,
                    StorageError::NoStore | StorageError::ForeignDirectory(_)
                );
                assert!(is_none, "cut at {cut}: {error}");
            }
            (Err(_), Err(other)) => panic!("cut at {cut}: {other}"),
        }
        cut += 1;
    }
    assert!(cut > 10, "{cut}");
    drop(past);
    block_on(bucket.shutdown())?;
    Ok(())
}

/// Changes with history, refused.
fn refused_changes(bucket: &Bucket, filter: StreamFilter) -> StreamRequestError {
    let options = ChangesOptions {
        filter,
        history: true,
        until: Until::Now,
        ..ChangesOptions::default()
    };
    match block_on(bucket.changes(options)) {
        Err(ChangesError::Request(refused)) => refused,
        other => panic!("{other:?}"),
    }
}

#[test]
fn history_on_changes_where_there_is_none() -> Result {
    let config = made_small(BucketConfig::on(Arc::new(SimulatedDisk::new())));
    let bucket = block_on(Bucket::create(config))?;
    let keys = fill(&bucket, 2);
    let refused = refused_changes(&bucket, StreamFilter::All);
    let vbucket = VbucketId::FIRST;
    assert_eq!(refused, StreamRequestError::NoHistory { vbucket });
    let without = ChangesOptions {
        until: Until::Now,
        ..ChangesOptions::default()
    };
    // Others go on, and are told all of it.
    let mut changes = block_on(bucket.changes(without))?;
    let mut told = BTreeSet::new();
    while let Some(Change { event, .. }) = block_on(changes.next()) {
        if let StreamEvent::Mutation(item) = event {
            told.insert(item.document.key.key().to_vec());
        }
    }
    let expected = keys.iter().map(|key| key.as_bytes().to_vec());
    assert_eq!(told, expected.collect());
    drop(changes);
    assert_filled(&bucket, &keys);
    block_on(bucket.shutdown())?;
    Ok(())
}

/// Which collections of the past were in a scope is not known everywhere.
#[test]
fn history_on_changes_of_a_scope() -> Result {
    let bucket = block_on(Bucket::create(with_history(&SimulatedDisk::new())))?;
    let refused = refused_changes(&bucket, StreamFilter::Scope(ScopeId::DEFAULT));
    assert_eq!(refused, StreamRequestError::HistoryOfScope);
    block_on(bucket.shutdown())?;
    Ok(())
}

/// What was written down is read back before it is a bucket.
#[test]
fn history_that_cannot_be_read_back_is_no_bucket() -> Result {
    let bucket = block_on(Bucket::create(with_history(&SimulatedDisk::new())))?;
    fill(&bucket, 5);
    let past = block_on(past_of(&bucket))?;
    let mut nth = 1;
    loop {
        let disk = SimulatedDisk::new();
        let broken = DiskErrorKind::Other("broken".to_owned());
        let fault = Fault::failed_call(broken).on(Verb::Read).nth(nth);
        disk.inject(fault.lasting());
        let restored = past.restore_into(&Location::Disk(Arc::new(disk.clone())));
        disk.clear_faults();
        let config = small(BucketConfig::on(Arc::new(disk.clone())));
        let opened = block_on(Bucket::open(config));
        match restored {
            Ok(restored) => {
                assert_eq!(restored.documents, 20);
                block_on(opened?.shutdown())?;
                break;
            }
            Err(PastError::Copy(
                BackupError::Target(_) | BackupError::Copy(_) | BackupError::Damaged { .. },
            )) => assert!(opened.is_err(), "{nth}"),
            Err(other) => panic!("{other}"),
        }
        nth += 1;
    }
    assert!(nth > 8, "each vbucket is read: {nth}");
    drop(past);
    block_on(bucket.shutdown())?;
    Ok(())
}

/// It is said whose disk failed, and of which vbucket.
#[test]
fn history_that_cannot_be_read_is_told_of_its_source() -> Result {
    let disk = SimulatedDisk::new();
    let bucket = block_on(Bucket::create(with_history(&disk)))?;
    fill(&bucket, 5);
    block_on(bucket.compact_all(CompactOptions::default()));
    let past = block_on(past_of(&bucket))?;
    let (mut nth, mut in_copying) = (1, 0);
    loop {
        let broken = DiskErrorKind::Other("broken".to_owned());
        let fault = Fault::failed_call(broken).on(Verb::Read).nth(nth);
        disk.inject(fault.of_files("container").lasting());
        let elsewhere = SimulatedDisk::new();
        let place = Location::Disk(Arc::new(elsewhere.clone()));
        let restored = past.restore_into(&place);
        disk.clear_faults();
        match restored {
            Ok(restored) => {
                assert_eq!(restored.documents, 20);
                break;
            }
            // Its collections are read before there is a copy.
            Err(PastError::Storage(cause)) => assert!(matches!(cause, StorageError::Disk(_))),
            Err(PastError::Copy(BackupError::Copy(CopyError::Source { .. }))) => in_copying += 1,
            Err(other) => panic!("{nth}: {other}"),
        }
        let opened = block_on(Bucket::open(small(BucketConfig::on(Arc::new(elsewhere)))));
        assert!(opened.is_err());
        nth += 1;
    }
    assert!(in_copying > 0, "{nth}");
    drop(past);
    block_on(bucket.shutdown())?;
    Ok(())
}
