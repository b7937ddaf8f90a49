//! A place that cannot be opened as asked is refused by name, with what helps; nothing there is changed.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use piggin::storage::disk::SimulatedDisk;
use piggin::storage::disk::{Disk, DiskErrorKind};
use piggin::storage::{Advice, StorageError};
use piggin::{Bucket, BucketConfig, BucketError};

use crate::support::{
    Result, TempDirectory, TestDisk, assert_filled, block_on, fill, made_small, small,
};

fn disk_error(error: &BucketError) -> Option<&DiskErrorKind> {
    if let BucketError::Storage(StorageError::Disk(error)) = error {
        Some(&error.kind)
    } else {
        None
    }
}

#[test]
fn other_settings_than_those_stored() -> Result {
    let directory = TempDirectory::new();
    let config = || small(BucketConfig::at(directory.path()));
    let bucket = block_on(Bucket::create(made_small(config())))?;
    let keys = fill(&bucket, 1);
    block_on(bucket.shutdown())?;
    let mut wrong_vbuckets = config();
    wrong_vbuckets.vbuckets = Some(8);
    let mut wrong_shards = config();
    wrong_shards.log_shards = Some(2);
    for (what, config, stored, given) in [
        ("vbuckets", wrong_vbuckets, 4, 8),
        ("log_shards", wrong_shards, 1, 2),
    ] {
        let error = block_on(Bucket::open(config)).unwrap_err();
        assert_eq!(
            error,
            BucketError::OtherOptions {
                what,
                stored,
                given
            }
        );
        assert_eq!(error.advice(), Advice::FixRequest);
        let text = error.to_string();
        assert!(
            text.contains(&stored.to_string()) && text.contains(&given.to_string()),
            "{text}"
        );
    }
    for vbuckets in [0, 3, 2048] {
        let mut impossible = small(BucketConfig::on(Arc::new(SimulatedDisk::new())));
        impossible.vbuckets = Some(vbuckets);
        let error = block_on(Bucket::create(impossible)).unwrap_err();
        assert_eq!(error.advice(), Advice::FixRequest, "{error}");
    }
    let bucket = block_on(Bucket::open(made_small(config())))?;
    assert_filled(&bucket, &keys);
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_directory_somebody_has() -> Result {
    let directory = TempDirectory::new();
    let config = || small(BucketConfig::at(directory.path()));
    let bucket = block_on(Bucket::create(made_small(config())))?;
    for second in [
        block_on(Bucket::open(config())),
        block_on(Bucket::open_or_create(config())),
    ] {
        let error = second.unwrap_err();
        assert_eq!(disk_error(&error), Some(&DiskErrorKind::Locked), "{error}");
        assert_eq!(error.advice(), Advice::RetryLater);
        assert!(error.to_string().contains("close that first"), "{error}");
    }
    block_on(bucket.set("key", "1").persisted())?;
    block_on(bucket.shutdown())?;
    block_on(block_on(Bucket::open(config()))?.shutdown())?;
    Ok(())
}

#[test]
fn a_path_that_is_no_directory() -> Result {
    let directory = TempDirectory::new();
    // A file; `std::fs::write` would be refused by the rules of the house, and this makes one, too.
    let file = directory.path().join("file");
    std::fs::copy(std::env::current_exe()?, &file)?;
    let config = || small(BucketConfig::at(&file));
    for opened in [
        block_on(Bucket::open(config())),
        block_on(Bucket::create(config())),
        block_on(Bucket::open_or_create(config())),
    ] {
        let error = opened.unwrap_err();
        assert_eq!(
            disk_error(&error),
            Some(&DiskErrorKind::NotADirectory),
            "{error}"
        );
        assert_eq!(error.advice(), Advice::FixRequest);
    }
    Ok(())
}

#[test]
fn no_bucket_there() -> Result {
    let directory = TempDirectory::new();
    let missing = directory.path().join("missing");
    for path in [directory.path(), &missing] {
        let error = block_on(Bucket::open(small(BucketConfig::at(path)))).unwrap_err();
        assert_eq!(error, BucketError::Storage(StorageError::NoStore));
        assert_eq!(error.advice(), Advice::FixRequest);
        assert!(error.to_string().contains("create one"), "{error}");
    }
    assert!(!missing.exists());
    assert_eq!(std::fs::read_dir(directory.path())?.count(), 0);
    Ok(())
}

#[test]
fn a_bucket_there_already() -> Result {
    let directory = TempDirectory::new();
    let config = || made_small(BucketConfig::at(directory.path()));
    let bucket = block_on(Bucket::create(config()))?;
    let keys = fill(&bucket, 1);
    block_on(bucket.shutdown())?;
    let error = block_on(Bucket::create(config())).unwrap_err();
    assert_eq!(error, BucketError::Storage(StorageError::StoreExists));
    assert_eq!(error.advice(), Advice::FixRequest);
    assert!(error.to_string().contains("open it"), "{error}");
    let bucket = block_on(Bucket::open_or_create(config()))?;
    assert_filled(&bucket, &keys);
    block_on(bucket.shutdown())?;
    Ok(())
}

#[test]
fn a_directory_that_can_only_be_read() -> Result {
    let simulated = SimulatedDisk::new();
    simulated.set_read_only(true);
    let config = || made_small(BucketConfig::on(Arc::new(simulated.clone())));
    let error = block_on(Bucket::create(config())).unwrap_err();
    assert_eq!(
        disk_error(&error),
        Some(&DiskErrorKind::ReadOnly),
        "{error}"
    );
    assert_eq!(error.advice(), Advice::FixRequest);
    assert!(error.to_string().contains("make it writable"), "{error}");
    simulated.set_read_only(false);
    block_on(block_on(Bucket::create(config()))?.shutdown())?;
    Ok(())
}

#[test]
fn a_directory_of_somebody_else() -> Result {
    let directory = TempDirectory::new();
    let closed = directory.path().join("closed");
    std::fs::create_dir(&closed)?;
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o500))?;
    let refused = block_on(Bucket::create(made_small(BucketConfig::at(&closed))));
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700))?;
    match refused {
        // The superuser is refused nothing.
        Ok(bucket) => drop(block_on(bucket.shutdown())?),
        Err(error) => {
            assert_eq!(
                disk_error(&error),
                Some(&DiskErrorKind::PermissionDenied),
                "{error}"
            );
            assert_eq!(error.advice(), Advice::FixRequest);
        }
    }
    Ok(())
}

#[test]
fn a_directory_of_another_program() -> Result {
    let disk = SimulatedDisk::from_files([("other.txt".to_owned(), vec![1])].into());
    let disk = TestDisk::new(disk);
    let config = || made_small(BucketConfig::on(Arc::new(disk.clone())));
    let error = block_on(Bucket::create(config())).unwrap_err();
    assert!(
        matches!(
            error,
            BucketError::Storage(StorageError::ForeignDirectory(_))
        ),
        "{error}"
    );
    assert_eq!(error.advice(), Advice::FixRequest);
    assert!(error.to_string().contains("other.txt"), "{error}");
    assert_eq!(disk.list()?, ["other.txt"]);
    Ok(())
}
