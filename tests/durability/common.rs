//! Machines of one world with a bucket on each, chained.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use piggin::messages::OperationError;
use piggin::messages::vbucket::{Mutated, SetVbucketState};
use piggin::storage::{Advice, DurabilityLevel, OpenOptions, Topology, VbucketId, VbucketState};
use piggin::{Bucket, BucketConfig, Replication};
use supervisor::testing::{World, WorldSettings};

/// Longer than anything takes that comes to an end: virtual time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);
/// Longer than anything takes that need not wait for anybody's deadline.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) const LEVELS: [DurabilityLevel; 3] = [
    DurabilityLevel::Majority,
    DurabilityLevel::MajorityAndPersistOnActive,
    DurabilityLevel::PersistToMajority,
];

/// A bucket's answer to a write.
pub(crate) type Written = Result<Mutated, OperationError>;

/// Three machines.
pub(crate) fn run<T: Send>(seed: u64, scenario: impl AsyncFnOnce([World; 3]) -> T + Send) -> T {
    run_with(seed, &WorldSettings::default(), scenario)
}

/// The same twice: with all documents in memory, and with all that can leaving it all the time.
pub(crate) fn run_either(seed: u64, scenario: impl AsyncFn([World; 3]) + Send + Sync) {
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
    scenario: impl AsyncFnOnce([World; 3]) -> T + Send,
) -> T {
    World::run_with(seed, settings, |here| {
        let worlds = [here.clone(), here.beside("b"), here.beside("c")];
        scenario(worlds)
    })
    .expect("a run that ends")
}

/// So small that a few hundred documents are sealed, and read back from disk.
pub(crate) fn config(world: &World, name: &str) -> BucketConfig {
    BucketConfig {
        node_name: Some(name.to_owned()),
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

pub(crate) async fn created(world: &World, name: &str) -> Bucket {
    world.create(config(world, name)).await.expect("a bucket")
}

pub(crate) async fn opened(world: &World, name: &str) -> Bucket {
    let opened = timeout(PATIENCE, world.open(config(world, name))).await;
    opened.expect("it opens").expect("the bucket")
}

/// Three buckets, of which the first leads and the others follow.
pub(crate) struct Three {
    pub(crate) buckets: [Bucket; 3],
    pub(crate) follows: [Replication; 2],
}

impl Three {
    /// All of them empty, chained.
    pub(crate) async fn created(worlds: &[World; 3]) -> Three {
        let [a, b, c] = worlds;
        let buckets = [
            created(a, "a").await,
            created(b, "b").await,
            created(c, "c").await,
        ];
        let follows = [
            replicate(&buckets[0], &buckets[1]),
            replicate(&buckets[0], &buckets[2]),
        ];
        chain(&buckets[0], ["a", "b", "c"]);
        Three { buckets, follows }
    }

    pub(crate) fn active(&self) -> &Bucket {
        &self.buckets[0]
    }
}

/// All of `from` follows to `to`.
pub(crate) fn replicate(from: &Bucket, to: &Bucket) -> Replication {
    from.replicate(from.vbuckets(), to).expect("a replication")
}

/// All vbuckets of an active bucket are chained so.
pub(crate) fn chain<'n>(bucket: &Bucket, nodes: impl IntoIterator<Item = &'n str>) {
    let topology = Topology::of_chain(nodes);
    let set = bucket.set_topology(bucket.vbuckets(), &topology);
    set.expect("a topology");
}

pub(crate) async fn caught_up(replication: &Replication) {
    let caught = timeout(PATIENCE, replication.caught_up()).await;
    let caught = caught.unwrap_or_else(|late| panic!("{late}: {:#?}", replication.status()));
    caught.expect("it catches up");
}

pub(crate) fn key(number: usize) -> String {
    format!("key {number}")
}

/// Asks for a durable write, and waits for nothing.
pub(crate) fn begin(
    bucket: &Bucket,
    key: &str,
    value: &str,
    level: DurabilityLevel,
) -> JoinHandle<Written> {
    let (bucket, key, value) = (bucket.clone(), key.to_owned(), value.to_owned());
    actix::spawn(async move { bucket.set(key, value).durability(level).await })
}

/// The answer, which comes without anybody's deadline.
pub(crate) async fn answer(asked: JoinHandle<Written>) -> Written {
    let answered = timeout(SOON, asked).await;
    answered.expect("an answer").expect("no panic")
}

/// A vbucket of a bucket becomes active, with this chain, once it may.
pub(crate) async fn promote(bucket: &Bucket, vbucket: VbucketId, chain: Topology) {
    let request = SetVbucketState {
        state: VbucketState::Active,
        topology: Some(chain),
        is_takeover: false,
    };
    let changed = async {
        loop {
            let address = bucket.vbucket(vbucket).expect("a vbucket");
            let answer = address.send(request.clone()).await.expect("an answer");
            match answer {
                Ok(_) => return,
                Err(error) => assert_eq!(error.advice(), Advice::RetryLater, "{error}"),
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, changed).await.expect("a promotion");
}

/// The value of a document once it may be read; `None` where there is none.
pub(crate) async fn read(bucket: &Bucket, key: &str) -> Option<String> {
    let value = async {
        loop {
            match bucket.get(key).await {
                Ok(found) => return Some(String::from_utf8_lossy(&found.value).into_owned()),
                Err(OperationError::KeyNotFound) => return None,
                Err(error) => assert_eq!(error.advice(), Advice::RetryLater, "{error}"),
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = timeout(PATIENCE, value).await;
    waited.unwrap_or_else(|_| panic!("{key} is never readable"))
}

/// Nothing waits any more.
pub(crate) async fn settled(bucket: &Bucket) {
    let quiet = async {
        loop {
            let figures = bucket.statistics().durability;
            if (figures.prepares, figures.maybe_visible, figures.waiting) == (0, 0, 0) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = timeout(PATIENCE, quiet).await;
    waited.unwrap_or_else(|_| panic!("{:?}", bucket.statistics().durability));
}
