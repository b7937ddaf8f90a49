//! What is not in memory, and can be read without waiting for the disk, is read by whoever asks: no reader is asked, nothing is
//! waited for. What cannot goes the long way, with the same answers and the same failures.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::FutureExt;

use actors::vbucket::LookedUp;
use piggin::messages::vbucket::{Acknowledge, Append, Set, Write, WriteOptions};
use piggin::messages::{Busy, FailureCause, FailureId, FailureKind, OperationError};
use piggin::storage::disk::{
    Disk, DiskError, DiskErrorKind, DiskFile, DiskLock, Fault as DiskFault, OpenMode,
    SimulatedDisk, Verb,
};
use piggin::storage::{CollectionId, DocumentKey, Eviction};
use piggin::{Bucket, BucketConfig, Location};
use supervisor::testing::{Fault, Harness};

use crate::common::{config_of, core, each, evict};
use crate::support::{Result, block_on};

type Answer<T, E> = std::result::Result<T, E>;

/// Answered when it is first polled.
fn at_once<T>(answer: impl Future<Output = T>) -> T {
    answer.now_or_never().expect("an answer at once")
}

#[test]
fn reads_and_changes_are_answered_when_they_are_first_polled() -> Result {
    each(|eviction| {
        let disk = SimulatedDisk::new();
        let bucket = block_on(Bucket::create(config_of(&disk, eviction)))?;
        for name in ["a", "b", "c", "d", "e", "f", "g"] {
            block_on(bucket.set(name, "value"))?;
        }
        evict(&bucket);
        disk.set_in_memory(1);
        assert_eq!(at_once(bucket.get("a").into_future())?.value, "value");
        assert!(at_once(bucket.exists("b"))?);
        at_once(bucket.append("c", "+").into_future())?;
        assert_eq!(at_once(bucket.get("c").into_future())?.value, "value+");
        at_once(bucket.replace("d", "x").into_future())?;
        at_once(bucket.touch("e", 60).into_future())?;
        let missing = Err(OperationError::KeyNotFound);
        assert_eq!(at_once(bucket.get("z").into_future()).map(drop), missing);
        let exists = Err(OperationError::KeyExists);
        assert_eq!(
            at_once(bucket.add("f", "x").into_future()).map(drop),
            exists
        );
        let many = at_once(bucket.get_many(["g", "a", "z"]));
        let found: Vec<_> = many.iter().map(Answer::is_ok).collect();
        assert_eq!(found, [true, true, false]);
        let figures = bucket.memory();
        assert!(figures.fetched_at_once > 0);
        assert_eq!(figures.fetched_at_once, figures.fetched, "{figures:?}");
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

#[test]
fn what_would_have_to_be_waited_for_is_read_by_a_reader() -> Result {
    each(|eviction| {
        let disk = SimulatedDisk::new();
        let bucket = block_on(Bucket::create(config_of(&disk, eviction)))?;
        block_on(bucket.set("a", "value"))?;
        block_on(bucket.set("large", vec![7; 80 << 10]))?;
        evict(&bucket);
        assert_eq!(block_on(bucket.get("a"))?.value, "value");
        // It is there, but too large to be read in passing.
        disk.set_in_memory(1);
        assert_eq!(block_on(bucket.get("large"))?.value.len(), 80 << 10);
        let figures = bucket.memory();
        assert_eq!((figures.fetched, figures.fetched_at_once), (2, 0));
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

#[test]
fn a_read_that_fails_is_told_as_a_readers() -> Result {
    each(|eviction| {
        let harness = Harness::new();
        let disk = SimulatedDisk::new();
        let bucket = block_on(Bucket::create(BucketConfig {
            hooks: harness.hooks(),
            ..config_of(&disk, eviction)
        }))?;
        block_on(bucket.set("a", "value"))?;
        evict(&bucket);
        disk.set_in_memory(1);
        let refused = Err(OperationError::TemporaryFailure(Busy::NotInMemory));
        let told = || bucket.failures(FailureId(0)).failures;
        // What a test wants to fail does.
        assert!(harness.inject(Fault::FetchAt(1)).is_ok());
        assert_eq!(block_on(bucket.get("a")).map(drop), refused);
        assert!(matches!(told()[0].cause, FailureCause::Injected(_)));
        // So does what the disk fails, twice: for who asks, and for the reader.
        let broken = || DiskFault::failed_call(DiskErrorKind::Other("broken".into()));
        disk.inject(broken().on(Verb::Read).of_files("container").nth(1));
        disk.inject(broken().on(Verb::Read).of_files("container").nth(2));
        assert_eq!(block_on(bucket.get("a")).map(drop), refused);
        assert_eq!(disk.faults_waiting(), 0);
        let told = told();
        assert_eq!(told.len(), 2);
        assert_eq!(told[1].kind, FailureKind::Fetch);
        assert!(matches!(told[1].cause, FailureCause::Storage(_)));
        // One that is over when the reader reads is none.
        disk.inject(broken().on(Verb::Read).of_files("container").nth(1));
        assert_eq!(block_on(bucket.get("a"))?.value, "value");
        assert_eq!(disk.faults_waiting(), 0);
        assert_eq!(bucket.failures(FailureId(0)).failures.len(), 2);
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

/// Of many that one asks for only the first are read on his thread; all of them are answered.
#[test]
fn who_asks_for_many_keeps_his_thread_for_a_moment_only() -> Result {
    let disk = SimulatedDisk::new();
    let bucket = block_on(Bucket::create(config_of(&disk, Eviction::Documents)))?;
    let names: Vec<_> = (0..1000).map(|number| format!("{number}")).collect();
    let values = vec![b'v'; 4 << 10];
    for name in &names {
        block_on(bucket.set(name, values.clone()))?;
    }
    evict(&bucket);
    disk.set_in_memory(1);
    let found = block_on(bucket.get_many(&names));
    assert!(found.iter().all(Answer::is_ok));
    let figures = bucket.memory();
    assert_eq!(figures.fetched, 1000);
    // 512 KiB, of which each costs five.
    assert_eq!(figures.fetched_at_once, 103);
    evict(&bucket);
    let appends = names.iter().map(|name| {
        let key = DocumentKey::new(CollectionId::DEFAULT, name.as_bytes());
        Write::Append(Append {
            key: key.unwrap(),
            value: "+".into(),
            cas: None,
            acknowledge: Acknowledge::InMemory,
        })
    });
    let written = block_on(bucket.write_batch(appends.collect()));
    assert!(written.iter().all(Answer::is_ok));
    assert_eq!(bucket.memory().fetched_at_once, 206);
    Ok(block_on(bucket.shutdown()).map(drop)?)
}

/// A look that finds nothing costs as much as one that finds something small: ten thousand of them are not his either.
#[test]
fn who_asks_for_many_in_vain_keeps_his_thread_too() -> Result {
    let disk = Arc::new(Exploding::default());
    let bucket = block_on(Bucket::create(BucketConfig {
        location: Location::Disk(Arc::<Exploding>::clone(&disk)),
        ..config_of(&disk.disk, Eviction::Documents)
    }))?;
    let names: Vec<_> = (0..1000).map(|number| format!("{number}")).collect();
    for name in &names {
        block_on(bucket.set(name, "value"))?;
    }
    evict(&bucket);
    // Nothing is in the system's memory.
    let found = block_on(bucket.get_many(&names));
    assert!(found.iter().all(Answer::is_ok));
    assert_eq!(bucket.memory().fetched_at_once, 0);
    let looks = disk.looks.load(Ordering::Relaxed);
    assert!((1..=512).contains(&looks), "{looks}");
    Ok(block_on(bucket.shutdown()).map(drop)?)
}

/// What comes behind a change that was done at once finds its document in memory.
#[test]
fn what_a_batch_put_off_asks_for_nothing_twice() -> Result {
    each(|eviction| {
        let disk = SimulatedDisk::new();
        let bucket = block_on(Bucket::create(config_of(&disk, eviction)))?;
        block_on(bucket.set("a", "1"))?;
        evict(&bucket);
        disk.set_in_memory(1);
        let key = DocumentKey::new(CollectionId::DEFAULT, b"a")?;
        let append = |value: &'static str| {
            Write::Append(Append {
                key: key.clone(),
                value: value.into(),
                cas: None,
                acknowledge: Acknowledge::InMemory,
            })
        };
        let set = Write::Set(Set {
            key: key.clone(),
            value: "4".into(),
            options: WriteOptions::default(),
        });
        let batch = vec![append("2"), append("3"), set, append("5")];
        let written = at_once(bucket.write_batch(batch));
        assert!(written.iter().all(Answer::is_ok), "{written:?}");
        assert_eq!(bucket.memory().fetched, 1);
        assert_eq!(block_on(bucket.get("a"))?.value, "45");
        Ok(block_on(bucket.shutdown()).map(drop)?)
    })
}

/// A store that panics under whoever asks takes neither him nor the answer along, and it is told.
#[test]
fn a_panic_is_told_though_no_reader_meets_it() -> Result {
    let disk = Arc::new(Exploding::default());
    let bucket = block_on(Bucket::create(BucketConfig {
        location: Location::Disk(Arc::<Exploding>::clone(&disk)),
        ..config_of(&disk.disk, Eviction::Documents)
    }))?;
    block_on(bucket.set("a", "value"))?;
    evict(&bucket);
    disk.explodes.store(true, Ordering::Relaxed);
    let refused = Err(OperationError::TemporaryFailure(Busy::NotInMemory));
    assert_eq!(block_on(bucket.get("a")).map(drop), refused);
    let told = bucket.failures(FailureId(0)).failures;
    assert_eq!((told.len(), told[0].kind), (1, FailureKind::Fetch));
    assert!(matches!(&told[0].cause, FailureCause::Panic(text) if text == "bang"));
    disk.explodes.store(false, Ordering::Relaxed);
    assert_eq!(block_on(bucket.get("a"))?.value, "value");
    Ok(block_on(bucket.shutdown()).map(drop)?)
}

/// A disk whose files panic when they are read at once, if they are to; which is counted.
#[derive(Debug, Default)]
struct Exploding {
    disk: SimulatedDisk,
    explodes: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
}

#[derive(Debug)]
struct ExplodingFile {
    file: Arc<dyn DiskFile>,
    explodes: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
}

impl Disk for Exploding {
    fn open(&self, name: &str, mode: OpenMode) -> Answer<Arc<dyn DiskFile>, DiskError> {
        Ok(Arc::new(ExplodingFile {
            file: self.disk.open(name, mode)?,
            explodes: Arc::clone(&self.explodes),
            looks: Arc::clone(&self.looks),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> Answer<(), DiskError> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> Answer<(), DiskError> {
        self.disk.remove(name)
    }

    fn list(&self) -> Answer<Vec<String>, DiskError> {
        self.disk.list()
    }

    fn sync_directory(&self) -> Answer<(), DiskError> {
        self.disk.sync_directory()
    }

    fn lock(&self, name: &str) -> Answer<Box<dyn DiskLock>, DiskError> {
        self.disk.lock(name)
    }
}

impl DiskFile for ExplodingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Answer<(), DiskError> {
        self.file.read_at(buffer, offset)
    }

    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> Answer<(), DiskError> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        assert!(!self.explodes.load(Ordering::Relaxed), "bang");
        self.file.read_at_once(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Answer<(), DiskError> {
        self.file.write_at(data, offset)
    }

    fn sync(&self) -> Answer<(), DiskError> {
        self.file.sync()
    }

    fn length(&self) -> Answer<u64, DiskError> {
        self.file.length()
    }

    fn truncate(&self, length: u64) -> Answer<(), DiskError> {
        self.file.truncate(length)
    }

    fn zero(&self, offset: u64, length: u64) -> Answer<(), DiskError> {
        self.file.zero(offset, length)
    }

    fn punch(&self, offset: u64, length: u64) -> Answer<(), DiskError> {
        self.file.punch(offset, length)
    }
}

/// It is of the same past, and as new, as what a reader finds.
#[test]
fn both_ways_find_the_same() -> Result {
    let disk = SimulatedDisk::new();
    let bucket = block_on(Bucket::create(config_of(&disk, Eviction::Documents)))?;
    block_on(bucket.set("a", "value"))?;
    block_on(bucket.delete("a"))?;
    block_on(bucket.set("b", "value"))?;
    evict(&bucket);
    disk.set_in_memory(1);
    let lease = bucket.store_handle().lease()?;
    for name in ["a", "b", "c"] {
        let key = DocumentKey::new(CollectionId::DEFAULT, name.as_bytes())?;
        let vbucket = core(&bucket, bucket.vbucket_of(name.as_bytes())).id();
        let waited = LookedUp::in_store(lease.store(), vbucket, &key)?;
        let at_once = LookedUp::in_store_at_once(lease.store(), vbucket, &key)?;
        assert_eq!((at_once.up_to, at_once.epoch), (waited.up_to, waited.epoch));
        assert_eq!(at_once.newest, waited.newest);
    }
    drop(lease);
    Ok(block_on(bucket.shutdown()).map(drop)?)
}
