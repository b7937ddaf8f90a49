//! Two machines of one world, a bucket on each, and what a replica is compared by.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use piggin::messages::replication::ReplicaStatus;
use piggin::messages::vbucket::SetVbucketState;
use piggin::storage::{Advice, OpenOptions, VbucketId, VbucketState};
use piggin::{Bucket, BucketConfig, Replication};
use supervisor::testing::{World, WorldSettings};

pub(crate) use crate::support::evicting::{Contents, contents_of};

/// Longer than anything takes that comes to an end: virtual time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// A source and a target, each on a machine of its own.
pub(crate) fn run<T: Send>(seed: u64, scenario: impl AsyncFnOnce(World, World) -> T + Send) -> T {
    run_with(seed, &WorldSettings::default(), scenario)
}

/// The same twice: with all documents in memory, and with all that can leaving it all the time.
pub(crate) fn run_either(seed: u64, scenario: impl AsyncFn(World, World) + Send + Sync) {
    for evicts in [false, true] {
        let settings = WorldSettings {
            evicts,
            ..WorldSettings::default()
        };
        run_with(seed, &settings, &scenario);
    }
}

/// The same, in worlds that are set up so.
pub(crate) fn run_with<T: Send>(
    seed: u64,
    settings: &WorldSettings,
    scenario: impl AsyncFnOnce(World, World) -> T + Send,
) -> T {
    World::run_with(seed, settings, |here| {
        let there = here.beside("target");
        scenario(here, there)
    })
    .expect("a run that ends")
}

/// So small that a few hundred documents are sealed, and read back from disk.
pub(crate) fn config(world: &World) -> BucketConfig {
    BucketConfig {
        vbuckets: Some(4),
        actor_threads: Some(2),
        store: OpenOptions {
            log_file_bytes_min: 64 << 10,
            log_file_bytes_max: 128 << 10,
            unsealed_bytes: 16 << 10,
            segments_max: 2,
            container_bytes_min: 0,
            block_bytes: 4 << 10,
            index_cache_bytes: 0,
            is_stepped: true,
            ..OpenOptions::new(1)
        },
        ..world.config()
    }
}

pub(crate) async fn created(world: &World) -> Bucket {
    world.create(config(world)).await.expect("a bucket")
}

pub(crate) async fn opened(world: &World) -> Bucket {
    let opened = timeout(PATIENCE, world.open(config(world))).await;
    opened.expect("it opens").expect("the bucket")
}

pub(crate) fn key(number: usize) -> String {
    format!("key {number}")
}

/// Writes these, each once it is taken: a vbucket may be on its way back from a rollback.
pub(crate) async fn write(bucket: &Bucket, numbers: Range<usize>, value: &str) {
    for number in numbers {
        set(bucket, key(number), value).await;
    }
}

pub(crate) async fn set(bucket: &Bucket, key: String, value: &str) {
    let written = async {
        while let Err(error) = bucket.set(&key, value.to_owned()).await {
            assert_eq!(error.advice(), Advice::RetryLater, "{error}");
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, written).await.expect("a write");
}

/// All of `from` follows to `to`.
pub(crate) fn replicate(from: &Bucket, to: &Bucket) -> Replication {
    from.replicate(from.vbuckets(), to).expect("a replication")
}

pub(crate) async fn caught_up(replication: &Replication) {
    let caught = timeout(PATIENCE, replication.caught_up()).await;
    let caught = caught.unwrap_or_else(|late| panic!("{late}: {:#?}", replication.status()));
    caught.expect("it catches up");
}

/// Replicates until everything is there; how each vbucket stood then.
pub(crate) async fn copied(from: &Bucket, to: &Bucket) -> Vec<ReplicaStatus> {
    let replication = replicate(from, to);
    caught_up(&replication).await;
    replication.status()
}

pub(crate) fn contents(bucket: &Bucket) -> BTreeMap<VbucketId, Contents> {
    let all = bucket.vbuckets();
    all.map(|vbucket| (vbucket, contents_of(bucket, vbucket)))
        .collect()
}

/// Both hold the same: keys, values, versions, seqnos.
pub(crate) fn assert_same(source: &Bucket, target: &Bucket) {
    for vbucket in source.vbuckets() {
        let (left, right) = (contents_of(source, vbucket), contents_of(target, vbucket));
        let missing: Vec<_> = left
            .iter()
            .filter(|(key, _)| !right.contains_key(*key))
            .collect();
        let left_over: Vec<_> = right
            .iter()
            .filter(|(key, _)| !left.contains_key(*key))
            .collect();
        assert!(
            missing.is_empty(),
            "{vbucket}: the replica lacks {missing:?}"
        );
        assert!(
            left_over.is_empty(),
            "{vbucket}: the replica has {left_over:?}"
        );
        assert_eq!(left, right, "vbucket {vbucket}");
    }
}

/// Every vbucket of the bucket is this, once it may be.
pub(crate) async fn become_state(bucket: &Bucket, state: VbucketState) {
    let request = SetVbucketState {
        state,
        topology: None,
        is_takeover: false,
    };
    for vbucket in bucket.vbuckets() {
        let core = bucket.vbucket_core(vbucket).expect("a vbucket");
        let changed = async {
            while let Err(error) = core.set_state(request.clone()) {
                assert_eq!(error.advice(), Advice::RetryLater, "{error}");
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, changed).await.expect("another state");
    }
}
