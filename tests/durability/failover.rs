//! The loss of the active node, in the middle of its work and of its replicas' troubles: every write is answered once, and
//! what a client saw committed is read from whoever is promoted.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::env::VarError;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use piggin::Bucket;
use piggin::messages::{ChildName, OperationError};
use piggin::storage::{Advice, Topology, VbucketId};
use supervisor::testing::{Fault, Random, World};

use crate::common::{
    LEVELS, PATIENCE, Three, caught_up, key, opened, promote, read, replicate, run_with, settled,
};
use crate::support::evicting::Evictions;

const CLIENTS: usize = 12;
/// Writes that must have been committed before the active node is lost.
const WRITES_MIN: u64 = 100;
/// So many failovers, or as many as the variable says.
const FAILOVERS: u64 = 100;
const FAILOVERS_VARIABLE: &str = "PIGGIN_FAILOVERS";

/// What left memory.
static LEFT: Evictions = Evictions::none();

/// Who panics.
const CHILDREN: [(&str, &str); 9] = [
    ("producer", "producer-0"),
    ("producer", "producer-1"),
    ("consumer", "consumer-0"),
    ("consumer", "consumer-1"),
    ("durability", "durability-0"),
    ("durability", "durability-1"),
    ("flusher", "flusher-0"),
    ("writer", "writer-0"),
    ("reader", "reader-0"),
];
/// Those that always have something to do: readers only where a stream needs the disk.
const ALWAYS: [&str; 5] = ["producer", "consumer", "durability", "flusher", "writer"];

/// What a client knows of its key: of writes numbered upwards, the last it asked for and the last it saw committed.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    asked: u64,
    committed: u64,
    answers: u64,
    commits: u64,
}

type Ledger = Rc<RefCell<BTreeMap<usize, Known>>>;

/// Writes to its own key, one write after the other, until the bucket is no more.
async fn client(bucket: Bucket, number: usize, ledger: Ledger) {
    let mut value = 0;
    loop {
        value += 1;
        let level = LEVELS[(number + usize::try_from(value).expect("few")) % LEVELS.len()];
        ledger.borrow_mut().entry(number).or_default().asked = value;
        let write = bucket.set(key(number), value.to_string());
        let answer = write.durability(level).await;
        let committed = answer.is_ok();
        {
            let mut ledger = ledger.borrow_mut();
            let known = ledger.entry(number).or_default();
            known.answers += 1;
            if committed {
                known.committed = value;
                known.commits += 1;
            }
        }
        match answer {
            Ok(_) => {}
            Err(OperationError::Closed) => return,
            Err(error) => assert_eq!(error.advice(), Advice::RetryLater, "{error}"),
        }
        // Whoever is refused asks again a little later; others too, so that time goes on.
        sleep(Duration::from_millis(1)).await;
    }
}

/// What came of failovers.
#[derive(Clone, Debug, Default)]
struct Sum {
    asked: u64,
    committed: u64,
    under_way: u64,
    /// By child, of whichever node and thread.
    panics: BTreeMap<&'static str, u64>,
    power_cuts: u64,
}

/// Troubles of the replicas and of the streams, none of which loses what two nodes hold.
async fn troubles(worlds: &[World; 3], three: &mut Three, random: &dyn Random, sum: &mut Sum) {
    for _ in 0..4 {
        let draw = random.next_u64();
        let index = |of: usize, shift: u32| {
            let of = u64::try_from(of).expect("few");
            usize::try_from((draw >> shift) % of).expect("few")
        };
        let world = &worlds[index(3, 0)];
        let child = CHILDREN[index(CHILDREN.len(), 8)].1;
        let child = ChildName::new(child);
        let nth = 1 + (draw >> 16) % 5;
        world.inject(Fault::PanicIn { child, nth });
        sleep(Duration::from_millis(20 + (draw >> 24) % 50)).await;
        if (draw >> 32).is_multiple_of(3) {
            // One of the two loses its power, and comes back with what its disk has.
            let which = 1 + index(2, 40);
            sum.power_cuts += 1;
            worlds[which].cut_power();
            let bucket = opened(&worlds[which], ["a", "b", "c"][which]).await;
            three.follows[which - 1] = replicate(&three.buckets[0], &bucket);
            three.buckets[which] = bucket;
            // A second loss before it has what it had would be of two nodes at once.
            caught_up(&three.follows[which - 1]).await;
        }
    }
    for world in worlds {
        for fault in world.faults_struck() {
            if let Fault::PanicIn { child, .. } = fault {
                let kinds = CHILDREN.iter();
                let mut of_it = kinds.filter(|(_, name)| *name == child.as_str());
                let (kind, _) = of_it.next().expect("one of them");
                *sum.panics.entry(kind).or_default() += 1;
            }
        }
        world.clear_faults();
    }
}

/// In each vbucket the one of the two that holds the most of its prepares leads, and the other follows.
pub(crate) async fn fail_over(left: &[Bucket; 2]) -> BTreeMap<VbucketId, usize> {
    let mut leaders = BTreeMap::new();
    for vbucket in left[0].vbuckets() {
        let held = |bucket: &Bucket| {
            let status = bucket.durability_status(vbucket).expect("a vbucket");
            let high = bucket.vbucket_core(vbucket).expect("it").high_seqno();
            (status.high_prepared, high)
        };
        let leader = usize::from(held(&left[1]) > held(&left[0]));
        let (next, other) = (&left[leader], &left[1 - leader]);
        let chain = Topology::of_chain([next.node_name(), other.node_name()]);
        promote(next, vbucket, chain).await;
        leaders.insert(vbucket, leader);
    }
    leaders
}

fn sum_of(ledger: &Ledger, figure: impl Fn(&Known) -> u64) -> u64 {
    ledger.borrow().values().map(figure).sum()
}

/// Waits for a moment in which enough is committed and something is under way: how much.
async fn amid_writes(ledger: &Ledger, random: &dyn Random) -> u64 {
    let amid = async {
        while sum_of(ledger, |one| one.commits) < WRITES_MIN {
            sleep(Duration::from_millis(1)).await;
        }
        // In the middle of whatever goes on then.
        sleep(Duration::from_micros(random.next_u64() % 20_000)).await;
        loop {
            let under_way = sum_of(ledger, |one| one.asked - one.answers);
            if under_way > 0 {
                return under_way;
            }
            sleep(Duration::from_micros(100)).await;
        }
    };
    let amid = timeout(PATIENCE, amid).await;
    amid.unwrap_or_else(|_| panic!("too little is committed: {ledger:?}"))
}

fn failed_over(seed: u64, sum: &mut Sum) {
    run_with(seed, &LEFT.settings_of(seed), async |worlds| {
        let mut three = Three::created(&worlds).await;
        let ledger = Ledger::default();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let bucket = three.active().clone();
                actix::spawn(client(bucket, number, Rc::clone(&ledger)))
            })
            .collect();
        let random = worlds[0].random("troubles");
        troubles(&worlds, &mut three, &*random, sum).await;
        sum.under_way += amid_writes(&ledger, &*random).await;
        let Three { buckets, follows } = three;
        let [active, b, c] = buckets;
        worlds[0].cut_power();
        for client in clients {
            let ended = timeout(PATIENCE, client).await;
            ended.expect("every write is answered").expect("no panic");
        }
        drop((active, follows));
        let known = ledger.borrow().clone();
        for (number, one) in &known {
            sum.asked += one.asked;
            sum.committed += one.commits;
            assert_eq!(one.answers, one.asked, "client {number}: all of them");
        }
        let left = [b, c];
        let leaders = fail_over(&left).await;
        let led = |by: usize| {
            let led = leaders.iter().filter(move |(_, leader)| **leader == by);
            led.map(|(vbucket, _)| *vbucket).collect::<Vec<_>>()
        };
        let follows = [
            left[0].replicate(led(0), &left[1]).expect("it follows"),
            left[1].replicate(led(1), &left[0]).expect("it follows"),
        ];
        for (number, one) in &known {
            let key = key(*number);
            let leader = &left[leaders[&left[0].vbucket_of(key.as_bytes())]];
            let value = read(leader, &key).await;
            let value: u64 = value.map_or(0, |value| value.parse().expect("a number"));
            assert!(
                one.committed <= value && value <= one.asked,
                "seed {seed}, client {number}: {value} is read, {one:?}"
            );
        }
        for follows in &follows {
            caught_up(follows).await;
        }
        for bucket in &left {
            settled(bucket).await;
            LEFT.note(bucket);
        }
    });
}

fn failovers() -> u64 {
    match std::env::var(FAILOVERS_VARIABLE) {
        Ok(text) => {
            let number = text.parse();
            number.unwrap_or_else(|error| panic!("{FAILOVERS_VARIABLE}={text}: {error}"))
        }
        Err(VarError::NotPresent) => FAILOVERS,
        Err(error) => panic!("{FAILOVERS_VARIABLE}: {error}"),
    }
}

#[test]
fn what_was_committed_survives_the_loss_of_the_active_node() {
    let failovers = failovers();
    let mut sum = Sum::default();
    for seed in 0..failovers {
        failed_over(seed, &mut sum);
    }
    println!("{failovers} failovers, {sum:?}");
    LEFT.assert_some();
    // A trouble that never comes proves nothing.
    let is_known = |child: &&str| sum.panics.contains_key(*child);
    assert!(ALWAYS.iter().all(is_known) && sum.power_cuts > 0, "{sum:?}");
    assert!(sum.under_way > 0 && sum.committed > WRITES_MIN, "{sum:?}");
}
