//! A data set of four times the memory: it is loaded, read, streamed, compacted, overwritten and opened again, and memory
//! never holds more than its quota and what is on its way.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;

use piggin::messages::compactor::CompactOptions;
use piggin::messages::stream::StreamEvent;
use piggin::messages::{Busy, OperationError, ScanRange};
use piggin::storage::{Eviction, OpenOptions};
use piggin::{Bucket, BucketConfig, ChangesOptions, Until};
use supervisor::testing::World;

use crate::common::LEAVING;

const QUOTA: u64 = 1 << 20;
const VALUE: usize = 2000;
/// Four times the quota in keys and values, more in memory.
const DOCUMENTS: usize = 2100;
/// Beyond the quota: what of a document that is read is on its way, deletions, and what the pool is not told yet.
const BOUND: u64 = QUOTA + QUOTA / 8;
/// So many refusals in a row are as many as for ever.
const REFUSALS_MAX: u32 = 1000;
/// Longer than anything takes that comes to an end: virtual time.
const PATIENCE: Duration = Duration::from_secs(600);

fn config(world: &World, eviction: Eviction) -> BucketConfig {
    BucketConfig {
        eviction: Some(eviction),
        vbuckets: Some(4),
        actor_threads: Some(2),
        memory_quota_bytes: QUOTA,
        store: OpenOptions {
            log_file_bytes_min: 64 << 10,
            log_file_bytes_max: 256 << 10,
            unsealed_bytes: 256 << 10,
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

fn value(number: usize, version: u8) -> Vec<u8> {
    let mut value = format!("{number} {version} ").into_bytes();
    value.resize(VALUE, version);
    value
}

/// A bucket and what it should hold.
struct Held {
    world: World,
    bucket: Bucket,
    versions: BTreeMap<usize, u8>,
    most: u64,
}

impl Held {
    fn look(&mut self) {
        self.most = self.most.max(self.bucket.statistics().memory.bytes);
        assert!(self.most <= BOUND, "{} bytes in memory", self.most);
    }

    /// Writes a document, waiting for memory as a client does.
    async fn write(&mut self, number: usize, version: u8) {
        for _ in 0..REFUSALS_MAX {
            match self.bucket.set(key(number), value(number, version)).await {
                Ok(_) => {
                    self.versions.insert(number, version);
                    return self.look();
                }
                Err(OperationError::TemporaryFailure(Busy::Memory)) => {
                    self.world.sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("no memory for document {number}, whoever waits");
    }

    async fn read(&mut self, number: usize) {
        let found = self.bucket.get(key(number)).await;
        match self.versions.get(&number) {
            Some(version) => assert_eq!(found.expect("a document").value, value(number, *version)),
            None => assert_eq!(found, Err(OperationError::KeyNotFound)),
        }
        self.look();
    }

    async fn read_all(&mut self) {
        for number in 0..DOCUMENTS + 10 {
            self.read(number).await;
        }
    }

    async fn stream_all(&self) {
        let options = ChangesOptions {
            until: Until::Now,
            ..ChangesOptions::default()
        };
        let mut changes = self.bucket.changes(options).await.expect("changes");
        let mut told = BTreeMap::new();
        while let Some(change) = changes.next().await {
            if let StreamEvent::Mutation(item) = change.event {
                told.insert(
                    item.document.key.key().to_vec(),
                    item.document.value.clone(),
                );
            }
        }
        assert_eq!(told.len(), self.versions.len());
        for (number, version) in &self.versions {
            assert_eq!(told[key(*number).as_bytes()], value(*number, *version));
        }
    }

    async fn scan_all(&self) {
        let mut scan = self.bucket.scan(ScanRange::all()).open().expect("a scan");
        let mut scanned = 0;
        while scan.next().await.expect("a document").is_some() {
            scanned += 1;
        }
        assert_eq!(scanned, self.versions.len());
    }
}

#[test]
fn it_is_served_as_if_all_were_there() {
    for (seed, eviction) in (0..3).flat_map(|seed| LEAVING.map(|eviction| (seed, eviction))) {
        World::run(seed, |world| async move {
            let done = timeout(PATIENCE, serve(&world, eviction)).await;
            done.expect("no end");
        })
        .expect("a run that ends");
    }
}

async fn serve(world: &World, eviction: Eviction) {
    let bucket = world
        .create(config(world, eviction))
        .await
        .expect("a bucket");
    let random = world.random("client");
    let mut held = Held {
        world: world.clone(),
        bucket,
        versions: BTreeMap::new(),
        most: 0,
    };
    for number in 0..DOCUMENTS {
        held.write(number, 1).await;
    }
    let figures = held.bucket.statistics();
    assert!(figures.memory.evicted > DOCUMENTS as u64 / 2, "{figures:?}");
    held.read_all().await;
    for _ in 0..DOCUMENTS {
        let number = usize::try_from(random.below(DOCUMENTS as u64)).unwrap_or(0);
        if random.chance(500) {
            held.write(number, 2).await;
        } else {
            held.read(number).await;
        }
    }
    held.bucket.flush().await.expect("a flush");
    assert_eq!(held.bucket.statistics().documents, DOCUMENTS as u64);
    held.stream_all().await;
    held.scan_all().await;
    for vbucket in held.bucket.vbuckets() {
        held.bucket
            .compact(vbucket, CompactOptions::default())
            .await
            .expect("a compaction");
    }
    held.read_all().await;
    held.bucket.clone().shutdown().await.expect("an end");
    held.bucket = world
        .open(config(world, eviction))
        .await
        .expect("the bucket");
    let figures = held.bucket.statistics();
    assert_eq!(figures.documents, DOCUMENTS as u64);
    assert!(
        figures.memory.resident_documents < DOCUMENTS as u64 / 3,
        "{figures:?}"
    );
    held.look();
    held.read_all().await;
    held.stream_all().await;
    for number in 0..DOCUMENTS {
        held.write(number, 3).await;
    }
    held.read_all().await;
    held.bucket.flush().await.expect("a flush");
    assert_eq!(held.bucket.statistics().documents, DOCUMENTS as u64);
    held.bucket.shutdown().await.expect("an end");
}
