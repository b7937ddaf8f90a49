//! Three buckets in three directories, each vbucket of them one chain of three nodes. Durable writes are answered once two of
//! the three hold them: so one may be lost and writing goes on, and when the active one is lost in the middle of its work, a
//! promoted replica has every write that a client saw committed.
//!
//! `cargo run --example three_replicas`. Prints each step; exits with an error if a check fails.
#![expect(clippy::print_stdout, reason = "an example tells what it sees")]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinSet;

use piggin::messages::OperationError;
use piggin::messages::replication::ReplicaStatus;
use piggin::messages::vbucket::{DescribeVbucket, SetVbucketState};
use piggin::storage::{Advice, DurabilityLevel, Seqno, Topology, VbucketId, VbucketState};
use piggin::{Bucket, BucketConfig, Replication};

/// Written while all three are there.
const FIRST: usize = 300;
/// Under way when the active one is lost.
const UNDER_WAY: usize = 2000;
/// Of those, answered before.
const ANSWERED: usize = 700;

const LEVELS: [DurabilityLevel; 3] = [
    DurabilityLevel::Majority,
    DurabilityLevel::MajorityAndPersistOnActive,
    DurabilityLevel::PersistToMajority,
];

type Told<T> = Result<T, Box<dyn Error>>;

fn main() -> Told<()> {
    let directory = std::env::temp_dir().join(format!("piggin-three-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let told = runtime.block_on(run(&directory));
    std::fs::remove_dir_all(&directory)?;
    told
}

async fn run(directory: &Path) -> Told<()> {
    let config = |name: &str| BucketConfig {
        node_name: Some(name.to_owned()),
        vbuckets: Some(16),
        ..BucketConfig::at(directory.join(name))
    };
    let one = Bucket::create(config("one")).await?;
    let two = Bucket::create(config("two")).await?;
    let three = Bucket::create(config("three")).await?;
    let to_two = one.replicate(one.vbuckets(), &two)?;
    let to_three = one.replicate(one.vbuckets(), &three)?;

    let early = one
        .set("early", "")
        .durability(DurabilityLevel::Majority)
        .await;
    check(
        matches!(early, Err(OperationError::TemporaryFailure(_))),
        "no write is durable before there is a chain",
    )?;
    let chain = Topology::of_chain(["one", "two", "three"]);
    one.set_topology(one.vbuckets(), &chain)?;
    for (number, level) in (0..FIRST).zip(LEVELS.into_iter().cycle()) {
        one.set(key(number), "first").durability(level).await?;
    }
    println!("{FIRST} writes are committed: of each level a third, each by two of three nodes");

    lose(three, to_three).await;
    for number in 0..FIRST {
        one.set(key(number), "second")
            .durability(DurabilityLevel::Majority)
            .await?;
    }
    println!("three is lost: {FIRST} more are committed by the two that are left");

    let three = Bucket::open(config("three")).await?;
    let to_three = one.replicate(one.vbuckets(), &three)?;
    to_three.caught_up().await.map_err(|status| over(&status))?;
    println!("three is back, and has what it missed");

    let committed = answered_in_part(&one).await?;
    drop(to_three);
    lose(one, to_two).await;
    println!(
        "one is lost with {UNDER_WAY} writes under way, {} of them answered",
        committed.len()
    );

    let left = Pair::promote([two, three]).await?;
    println!(
        "of {} vbuckets two is promoted in {}, three in {}: wherever it holds more",
        left.led_by.len(),
        left.led(0).len(),
        left.led(1).len()
    );
    let follows = left.follow()?;
    for number in &committed {
        let value = left.read(&key(*number)).await?;
        check(value == "third", "what was answered is there")?;
    }
    for number in 0..FIRST {
        let value = left.read(&key(number)).await?;
        check(
            value != "first",
            "nothing older than what was answered is there",
        )?;
    }
    println!("all {} answered writes are there", committed.len());

    for (number, level) in (0..FIRST).zip(LEVELS.into_iter().cycle()) {
        let key = key(number);
        left.leader(&key)
            .set(&key, "fourth")
            .durability(level)
            .await?;
    }
    println!("and the two go on: {FIRST} more are committed by both");
    for replication in follows {
        replication
            .caught_up()
            .await
            .map_err(|status| over(&status))?;
    }
    for bucket in left.buckets {
        bucket.shutdown().await?;
    }
    Ok(())
}

/// The two that are left, and which of them leads in which vbucket.
struct Pair {
    buckets: [Bucket; 2],
    led_by: BTreeMap<VbucketId, usize>,
}

impl Pair {
    /// Promotes in each vbucket the one that holds the most of its prepares: a majority held each committed write, so one of
    /// the two has it, and whoever holds the most has it. Of two that hold as many, the one with more of everything else.
    async fn promote(buckets: [Bucket; 2]) -> Told<Pair> {
        let [two, three] = &buckets;
        let mut led_by = BTreeMap::new();
        for vbucket in two.vbuckets() {
            let is_three = held(three, vbucket).await? > held(two, vbucket).await?;
            let leader = usize::from(is_three);
            let (next, other) = if is_three { (three, two) } else { (two, three) };
            let chain = Topology::of_chain([next.node_name(), other.node_name()]);
            let active = SetVbucketState {
                state: VbucketState::Active,
                topology: Some(chain),
                is_takeover: false,
            };
            let address = next.vbucket(vbucket).ok_or("it has that vbucket")?;
            address.send(active).await??;
            led_by.insert(vbucket, leader);
        }
        Ok(Pair { buckets, led_by })
    }

    fn led(&self, by: usize) -> Vec<VbucketId> {
        let led_by = self.led_by.iter();
        let led = led_by.filter(|(_, leader)| **leader == by);
        led.map(|(vbucket, _)| *vbucket).collect()
    }

    /// Each follows the other where that leads.
    fn follow(&self) -> Told<[Replication; 2]> {
        let [two, three] = &self.buckets;
        let to_three = two.replicate(self.led(0), three)?;
        Ok([to_three, three.replicate(self.led(1), two)?])
    }

    fn leader(&self, key: &str) -> &Bucket {
        let [two, three] = &self.buckets;
        let is_three = self.led_by.get(&two.vbucket_of(key.as_bytes())) == Some(&1);
        if is_three { three } else { two }
    }

    /// Reads a document, once it may be read: what was inherited is committed anew first.
    async fn read(&self, key: &str) -> Told<String> {
        loop {
            match self.leader(key).get(key).await {
                Ok(found) => return Ok(String::from_utf8(found.value.to_vec())?),
                Err(error) if error.advice() == Advice::RetryLater => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(error) => return Err(format!("{key}: {error}").into()),
            }
        }
    }
}

/// How far a vbucket holds prepares, and how far it holds anything.
async fn held(bucket: &Bucket, vbucket: VbucketId) -> Told<(Seqno, Seqno)> {
    let high_prepared = bucket.durability_status(vbucket)?.high_prepared;
    let address = bucket.vbucket(vbucket).ok_or("it has that vbucket")?;
    let described = address.send(DescribeVbucket).await??;
    Ok((high_prepared, described.high_seqno))
}

/// The process of a bucket ends where it stands, as far as that can be shown inside of one: nobody flushes what it has
/// in memory.
async fn lose(bucket: Bucket, replication: Replication) {
    let closed = bucket.closed();
    drop(replication);
    drop(bucket);
    closed.await;
}

/// Begins many writes at once, and goes away when some of them are answered: which.
async fn answered_in_part(bucket: &Bucket) -> Told<BTreeSet<usize>> {
    let mut under_way = JoinSet::new();
    for number in 0..UNDER_WAY {
        let bucket = bucket.clone();
        under_way.spawn(async move {
            let write = bucket.set(key(number), "third");
            let written = write.durability(DurabilityLevel::Majority).await;
            (number, written)
        });
    }
    let mut committed = BTreeSet::new();
    while let Some(answered) = under_way.join_next().await {
        let (number, written) = answered?;
        written?;
        committed.insert(number);
        if committed.len() == ANSWERED {
            break;
        }
    }
    // Their clients are gone, and their handles of the bucket.
    under_way.shutdown().await;
    Ok(committed)
}

fn key(number: usize) -> String {
    format!("document {number}")
}

fn over(status: &ReplicaStatus) -> Box<dyn Error> {
    format!("it is over: {status:?}").into()
}

fn check(holds: bool, what: &str) -> Told<()> {
    if holds {
        Ok(())
    } else {
        Err(format!("this does not hold: {what}").into())
    }
}
