//! A vbucket goes from one bucket to another under writes: what was acknowledged is there, each durable write is decided once,
//! and whatever fails on the way there is one active vbucket, or none and a way to have one, never two.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use piggin::actors::vbucket::ChangeStep;
use piggin::messages::vbucket::SetVbucketState;
use piggin::messages::{Busy, ChildName, OperationError};
use piggin::storage::disk::{DiskErrorKind, Verb};
use piggin::storage::{Advice, DurabilityLevel, Topology, VbucketId, VbucketState};
use piggin::{Bucket, ReplicateError, TakeOverError, TakenOver, WhyNot};
use supervisor::testing::{DiskFault, Fault, Random, World};

use crate::common::{
    LEVELS, PATIENCE, Three, answer, begin, caught_up, chain, created, key, opened, promote, read,
    replicate, run, settled,
};

const VBUCKET: VbucketId = VbucketId::FIRST;
const NODES: [&str; 2] = ["a", "b"];
const CLIENTS: usize = 8;
const SEEDS: u64 = 150;
const SEEDS_VARIABLE: &str = "PIGGIN_TAKEOVERS";

type TookOver = Result<TakenOver, TakeOverError>;

fn alone(bucket: &Bucket) -> Topology {
    Topology::of_chain([bucket.node_name()])
}

/// What the vbucket is, also to whoever cannot use it.
fn state(bucket: &Bucket) -> VbucketState {
    bucket.vbucket_core(VBUCKET).expect("it").identity().state
}

/// A key of the vbucket.
fn key_of(bucket: &Bucket, number: usize) -> String {
    let mut keys = (0..).map(|attempt| format!("client {number} {attempt}"));
    let is_there = |key: &String| bucket.vbucket_of(key.as_bytes()) == VBUCKET;
    keys.find(is_there).expect("one of them")
}

async fn become_replica(bucket: &Bucket) {
    let replica = SetVbucketState {
        state: VbucketState::Replica,
        topology: None,
        is_takeover: false,
    };
    let core = bucket.vbucket_core(VBUCKET).expect("it");
    core.set_state(replica).expect("a replica");
    let stored = core.stored_as(VbucketState::Replica).await;
    stored.expect("its disk says so");
}

async fn take_over(from: &Bucket, to: &Bucket) -> TookOver {
    let topology = alone(to);
    let taken = timeout(PATIENCE, to.take_over(from, VBUCKET, &topology));
    taken.await.expect("it comes to an end")
}

#[test]
fn a_vbucket_goes_with_all_it_has() {
    run(1, async |worlds| {
        let (a, b) = (
            created(&worlds[0], "a").await,
            created(&worlds[1], "b").await,
        );
        let written = key_of(&a, 0);
        a.set(&written, "v").await.expect("a write");
        let before = a.vbucket_core(VBUCKET).expect("it").identity();
        // Nobody else holds it, so it is not decided here.
        chain(&a, ["a", "nobody"]);
        let durable = key_of(&a, 1);
        let asked = begin(&a, &durable, "durable", DurabilityLevel::Majority);
        sleep(Duration::from_millis(1)).await;
        let taken = take_over(&a, &b).await.expect("a takeover");
        assert_eq!((taken.vbucket, taken.high.0), (VBUCKET, 2));
        assert_eq!(answer(asked).await, Err(OperationError::SyncWriteAmbiguous));
        assert_eq!(
            (state(&a), state(&b)),
            (VbucketState::Dead, VbucketState::Active)
        );
        let after = b.vbucket_core(VBUCKET).expect("it").identity();
        assert_eq!(
            after.failover_table, before.failover_table,
            "the same history"
        );
        assert_eq!(read(&b, &written).await.as_deref(), Some("v"));
        // It is decided here, once.
        assert_eq!(read(&b, &durable).await.as_deref(), Some("durable"));
        settled(&b).await;
        let (here, there) = (
            a.statistics().durability.counts,
            b.statistics().durability.counts,
        );
        assert_eq!((here.committed, here.aborted), (0, 0));
        assert_eq!((there.committed, there.aborted), (1, 0));
        let late = a.set(&written, "late").await;
        assert!(
            matches!(late, Err(OperationError::NotMyVbucket { .. })),
            "{late:?}"
        );
        // And back, through the disks of both.
        let back = take_over(&b, &a).await.expect("a takeover");
        assert!(back.high > taken.high);
        b.shutdown().await.expect("an end");
        worlds[0].cut_power();
        let a = opened(&worlds[0], "a").await;
        assert_eq!(state(&a), VbucketState::Active);
        assert_eq!(read(&a, &durable).await.as_deref(), Some("durable"));
    });
}

#[test]
fn what_cannot_be_taken_over_stays() {
    run(2, async |worlds| {
        let (a, b) = (
            created(&worlds[0], "a").await,
            created(&worlds[1], "b").await,
        );
        let refused = a.take_over(&a, VBUCKET, &alone(&a)).await;
        assert_eq!(refused, Err(ReplicateError::SameBucket.into()));
        let other = b.take_over(&a, VBUCKET, &alone(&a)).await;
        assert!(
            matches!(
                &other,
                Err(TakeOverError::Refused(ReplicateError::Vbucket {
                    error: OperationError::InvalidTopology(_),
                    ..
                }))
            ),
            "{other:?}"
        );
        let unknown = VbucketId::new(9).expect("a number");
        let nowhere = b.take_over(&a, unknown, &alone(&b)).await;
        assert!(
            matches!(nowhere, Err(TakeOverError::Refused(_))),
            "{nowhere:?}"
        );
        assert_eq!(state(&a), VbucketState::Active);
        a.set(key_of(&a, 0), "v").await.expect("a write");
        let dead = SetVbucketState {
            state: VbucketState::Dead,
            topology: None,
            is_takeover: false,
        };
        let core = a.vbucket_core(VBUCKET).expect("it");
        core.set_state(dead).expect("dead");
        let dead = take_over(&a, &b).await;
        assert!(matches!(dead, Err(TakeOverError::Refused(_))), "{dead:?}");
    });
}

/// A hold that nobody lets go of ends by itself, and a vbucket leaves its role under no other.
#[test]
fn writes_are_not_held_for_good() {
    run(3, async |worlds| {
        let a = created(&worlds[0], "a").await;
        chain(&a, ["a", "b"]);
        let core = a.vbucket_core(VBUCKET).expect("it");
        let hold = core.hold_for(Duration::from_secs(3)).expect("a hold");
        let document = key_of(&a, 0);
        let busy = Err(OperationError::TemporaryFailure(Busy::HandingOver));
        assert_eq!(a.set(&document, "v").await, busy);
        assert_eq!(a.set(&document, "v").durability(LEVELS[0]).await, busy);
        assert_eq!(read(&a, &document).await, None, "reads go on");
        assert_eq!(
            core.hold_for(Duration::from_secs(9)).map(drop),
            busy.map(drop)
        );
        worlds[0].sleep(Duration::from_secs(4)).await;
        a.set(&document, "v").await.expect("a write");
        let late = core.leave(hold);
        assert!(
            matches!(late, Err(OperationError::NotMyVbucket { .. })),
            "{late:?}"
        );
        let next = core.hold_for(Duration::from_secs(3)).expect("another hold");
        // That of before is no longer anybody's to let go of.
        core.let_go_of(hold);
        assert!(core.is_held(next));
        core.let_go_of(next);
        a.set(&document, "w").await.expect("a write");
    });
}

/// The chain of three moves with its active node, and goes on.
#[test]
fn its_replicas_follow_it() {
    run(4, async |worlds| {
        let three = Three::created(&worlds).await;
        let level = DurabilityLevel::PersistToMajority;
        for number in 0..50 {
            let write = three.active().set(key(number), "old");
            write.durability(level).await.expect("a commit");
        }
        let Three { buckets, follows } = three;
        drop(follows);
        let [a, b, c] = &buckets;
        for vbucket in a.vbuckets() {
            let topology = Topology::of_chain(["b", "c", "a"]);
            let taken = b.take_over(a, vbucket, &topology).await;
            taken.expect("a takeover");
        }
        let follows = [replicate(b, c), replicate(b, a)];
        for number in 0..50 {
            assert_eq!(read(b, &key(number)).await.as_deref(), Some("old"));
            let write = b.set(key(number), "new").durability(level);
            write.await.expect("a commit");
        }
        for follows in &follows {
            caught_up(follows).await;
            let rollbacks = follows
                .status()
                .iter()
                .map(|one| one.rollbacks)
                .sum::<u64>();
            assert_eq!(rollbacks, 0, "the same history");
        }
    });
}

/// The disk takes nothing any more, until faults are cleared.
fn fill_disk(world: &World) {
    let mut full = DiskFault::fail(Verb::Write, "", 1, DiskErrorKind::Full);
    full.is_lasting = true;
    world.inject(Fault::Disk(full));
}

/// Two nodes of which the first is active; a takeover by the other that waits for the first's disk to say that it is dead.
async fn at_bury(worlds: &[World]) -> ([Bucket; 2], tokio::task::JoinHandle<TookOver>) {
    let (a, b) = (
        created(&worlds[0], "a").await,
        created(&worlds[1], "b").await,
    );
    become_replica(&b).await;
    a.set(key_of(&a, 0), "v")
        .persisted()
        .await
        .expect("a write");
    fill_disk(&worlds[0]);
    let under_way = actix::spawn({
        let (a, b) = (a.clone(), b.clone());
        async move { take_over(&a, &b).await }
    });
    while state(&a) != VbucketState::Dead {
        sleep(Duration::from_millis(1)).await;
    }
    ([a, b], under_way)
}

fn by_hand(bucket: &Bucket, state: VbucketState) {
    let core = bucket.vbucket_core(VBUCKET).expect("it");
    let change = SetVbucketState {
        state,
        topology: None,
        is_takeover: true,
    };
    core.set_state(change).expect("its new role");
}

/// A batch that only says what the vbucket is leaves the store where it stands: that shows nothing.
#[test]
fn a_source_is_buried_by_its_disk_and_not_by_where_that_stands() {
    run(5, async |worlds| {
        let ([_a, b], under_way) = at_bury(&worlds).await;
        let child = ChildName::new("flusher-0".to_owned());
        worlds[0].inject(Fault::PanicIn { child, nth: 1 });
        worlds[0].sleep(Duration::from_secs(9)).await;
        assert!(!worlds[0].faults_struck().is_empty(), "it panicked");
        assert_eq!(
            state(&b),
            VbucketState::Pending,
            "its source's disk says otherwise"
        );
        worlds[0].cut_power();
        worlds[1].cut_power();
        drop(under_way);
        let (a, b) = (opened(&worlds[0], "a").await, opened(&worlds[1], "b").await);
        assert_eq!(
            (state(&a), state(&b)),
            (VbucketState::Active, VbucketState::Pending)
        );
    });
}

/// A disk that takes nothing leaves nobody without an active vbucket for longer than writes may be held.
#[test]
fn a_source_that_cannot_be_buried_takes_writes_again() {
    run(6, async |worlds| {
        let ([a, b], under_way) = at_bury(&worlds).await;
        let took = under_way.await.expect("no panic");
        assert!(
            matches!(&took, Err(TakeOverError::Stays { why, .. }) if matches!(**why, WhyNot::TooSlow)),
            "{took:?}"
        );
        assert_eq!(
            (state(&a), state(&b)),
            (VbucketState::Active, VbucketState::Replica)
        );
        worlds[0].clear_faults();
        worlds[0].sleep(Duration::from_secs(60)).await;
        a.set(key_of(&a, 0), "w")
            .persisted()
            .await
            .expect("a write");
        take_over(&a, &b).await.expect("a takeover");
    });
}

/// Whoever makes one of the two active meanwhile has the last word.
#[test]
fn what_is_made_active_by_hand_meanwhile_is_the_only_one() {
    run(7, async |worlds| {
        let ([a, b], under_way) = at_bury(&worlds).await;
        by_hand(&a, VbucketState::Active);
        worlds[0].clear_faults();
        let took = under_way.await.expect("no panic");
        assert!(matches!(took, Err(TakeOverError::Stays { .. })), "{took:?}");
        assert_eq!(
            (state(&a), state(&b)),
            (VbucketState::Active, VbucketState::Replica)
        );
    });
    run(8, async |worlds| {
        let ([a, b], under_way) = at_bury(&worlds).await;
        by_hand(&b, VbucketState::Active);
        let took = under_way.await.expect("no panic");
        assert!(
            matches!(took, Err(TakeOverError::Unconfirmed { .. })),
            "{took:?}"
        );
        assert_eq!(
            (state(&a), state(&b)),
            (VbucketState::Dead, VbucketState::Active)
        );
    });
}

/// The one that is slower is told that it has nothing to take.
#[test]
fn of_two_that_take_the_same_one_has_it() {
    run(9, async |worlds| {
        let [a, b, c] = [
            created(&worlds[0], "a").await,
            created(&worlds[1], "b").await,
            created(&worlds[2], "c").await,
        ];
        a.set(key_of(&a, 0), "v").await.expect("a write");
        let (at_b, at_c) = futures_util::future::join(take_over(&a, &b), take_over(&a, &c)).await;
        assert!(at_b.is_ok() != at_c.is_ok(), "{at_b:?}, {at_c:?}");
        let active = [&a, &b, &c].map(|one| state(one) == VbucketState::Active);
        assert_eq!(active, [false, at_b.is_ok(), at_c.is_ok()]);
    });
}

/// What a client knows of its document.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    asked: u64,
    acknowledged: u64,
}

/// Two machines, and what clients know.
struct Pair {
    worlds: [World; 2],
    buckets: RefCell<[Bucket; 2]>,
    known: RefCell<BTreeMap<usize, Known>>,
    is_over: RefCell<bool>,
}

impl Pair {
    fn bucket(&self, at: usize) -> Bucket {
        self.buckets.borrow()[at].clone()
    }

    fn active(&self) -> Vec<usize> {
        let is_active = |at: &usize| {
            let bucket = self.bucket(*at);
            !bucket.is_closed() && state(&bucket) == VbucketState::Active
        };
        (0..2).filter(is_active).collect()
    }
}

/// Writes rising values to its document, to whichever node takes them.
async fn client(pair: Rc<Pair>, number: usize) {
    let key = key_of(&pair.bucket(0), number);
    let (mut at, mut value) = (0, 0);
    while !*pair.is_over.borrow() {
        value += 1;
        pair.known.borrow_mut().entry(number).or_default().asked = value;
        let bucket = pair.bucket(at);
        let write = bucket.set(&key, value.to_string());
        let answer = if number.is_multiple_of(2) {
            write.persisted().await
        } else {
            write.durability(DurabilityLevel::PersistToMajority).await
        };
        match answer {
            Ok(_) => {
                let mut known = pair.known.borrow_mut();
                known.entry(number).or_default().acknowledged = value;
            }
            Err(OperationError::NotMyVbucket { .. } | OperationError::Closed) => at = 1 - at,
            Err(error) => {
                let advice = error.advice();
                let is_transient = matches!(advice, Advice::RetryLater)
                    || matches!(error, OperationError::Crashed { .. });
                assert!(is_transient, "{error}");
            }
        }
        sleep(Duration::from_micros(700)).await;
    }
}

/// What came of takeovers.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    done: u64,
    stays: u64,
    nobody: u64,
    unconfirmed: u64,
    given_up: u64,
    ends: u64,
    panics: usize,
    /// Panics under a vbucket's lock that were asked for and did not come.
    disarmed: u64,
    acknowledged: u64,
}

/// Something goes wrong on one of the machines, soon; whether its process ends.
async fn trouble(pair: &Pair, draw: u64) -> Option<usize> {
    let at = usize::try_from(draw % 2).expect("one of two");
    sleep(Duration::from_micros((draw >> 8) % 30_000)).await;
    match (draw >> 1) % 3 {
        0 => pair.worlds[at].cut_power(),
        1 => pair.worlds[at].kill(),
        _ => return None,
    }
    Some(at)
}

/// Children panic, and what is done to a vbucket under its lock.
fn panics(pair: &Pair, random: &dyn Random) {
    let children = ["producer", "consumer", "flusher", "durability"];
    for (at, world) in pair.worlds.iter().enumerate() {
        let draw = random.next_u64();
        if draw.is_multiple_of(7) {
            let core = pair.bucket(at).vbucket_core(VBUCKET).expect("it");
            core.panic_at(ChangeStep::Identified);
        }
        let child = children[usize::try_from(draw % 4).expect("one of four")];
        let child = ChildName::new(format!("{child}-0"));
        let nth = 1 + (draw >> 8) % 40;
        world.inject(Fault::PanicIn { child, nth });
    }
}

async fn taken_over(pair: &Rc<Pair>, random: &dyn Random, sum: &mut Sum) {
    let (a, b) = (pair.bucket(0), pair.bucket(1));
    let draw = random.next_u64();
    let ended = {
        let (pair, draw) = (Rc::clone(pair), random.next_u64());
        actix::spawn(async move { trouble(&pair, draw).await })
    };
    // Now and then nobody waits for its end.
    let patience = if draw.is_multiple_of(5) {
        Duration::from_micros((draw >> 8) % 40_000)
    } else {
        PATIENCE
    };
    let topology = alone(&b);
    let took = timeout(patience, b.take_over(&a, VBUCKET, &topology)).await;
    let active = pair.active();
    assert!(active.len() <= 1, "{took:?}: {active:?} are active");
    let ended = ended.await.expect("no panic");
    sum.ends += u64::from(ended.is_some());
    if let Some(at) = ended {
        let again = opened(&pair.worlds[at], NODES[at]).await;
        pair.buckets.borrow_mut()[at] = again;
    }
    let active = pair.active();
    match &took {
        Err(_) => sum.given_up += 1,
        Ok(Ok(_)) => {
            sum.done += 1;
            assert_eq!(active, [1], "{took:?}");
        }
        Ok(Err(TakeOverError::Stays { .. } | TakeOverError::Refused(_))) => {
            sum.stays += 1;
            assert_eq!(active, [0], "{took:?}");
        }
        Ok(Err(TakeOverError::Nobody { .. })) => {
            sum.nobody += 1;
            assert!(!active.contains(&1), "{took:?}");
        }
        Ok(Err(TakeOverError::Unconfirmed { .. })) => {
            sum.unconfirmed += 1;
            assert!(!active.contains(&0), "{took:?}");
        }
        Ok(Err(other)) => panic!("{other}"),
    }
    assert!(active.len() <= 1, "{took:?}: {active:?} are active");
    if active.is_empty() {
        // As the errors say: the source has everything.
        promote(&pair.bucket(0), VBUCKET, alone(&pair.bucket(0))).await;
    }
}

fn in_world(seed: u64, sum: &mut Sum) {
    run(seed, async |[here, there, _]| {
        let buckets = [
            created(&here, NODES[0]).await,
            created(&there, NODES[1]).await,
        ];
        chain(&buckets[0], [NODES[0]]);
        // A bucket that is made has all its vbuckets active: two would be from the beginning.
        become_replica(&buckets[1]).await;
        let random = here.random("takeovers");
        let pair = Rc::new(Pair {
            worlds: [here, there],
            buckets: RefCell::new(buckets),
            known: RefCell::default(),
            is_over: RefCell::new(false),
        });
        let clients = (0..CLIENTS).map(|number| actix::spawn(client(Rc::clone(&pair), number)));
        let clients: Vec<_> = clients.collect();
        sleep(Duration::from_millis(20)).await;
        if random.next_u64().is_multiple_of(2) {
            panics(&pair, &*random);
        }
        taken_over(&pair, &*random, sum).await;
        for (at, world) in pair.worlds.iter().enumerate() {
            sum.panics += world.faults_struck().len();
            world.clear_faults();
            let core = pair.bucket(at).vbucket_core(VBUCKET).expect("it");
            sum.disarmed += u64::from(core.disarm());
        }
        let active = pair.active();
        let [leader] = active[..] else {
            panic!("seed {seed}: {active:?} are active")
        };
        // Everybody finds it, and is answered.
        sleep(Duration::from_millis(200)).await;
        *pair.is_over.borrow_mut() = true;
        for client in clients {
            let ended = timeout(PATIENCE, client).await;
            ended.expect("every write is answered").expect("no panic");
        }
        let leader = pair.bucket(leader);
        settled(&leader).await;
        let known = pair.known.borrow().clone();
        for (number, one) in known {
            let value = read(&leader, &key_of(&leader, number)).await;
            let value: u64 = value.map_or(0, |value| value.parse().expect("a number"));
            assert!(
                one.acknowledged <= value && value <= one.asked,
                "seed {seed}, client {number}: {value} is read, {one:?}"
            );
            sum.acknowledged += one.acknowledged;
        }
    });
}

#[test]
fn whatever_fails_one_is_active_and_has_what_was_acknowledged() {
    let seeds = std::env::var(SEEDS_VARIABLE);
    let seeds = seeds.map_or(SEEDS, |text| text.parse().expect("a number"));
    let mut sum = Sum::default();
    for seed in 0..seeds {
        in_world(seed, &mut sum);
    }
    println!("{seeds} takeovers, {sum:?}");
    let ends = [
        sum.done,
        sum.stays,
        sum.nobody,
        sum.unconfirmed,
        sum.given_up,
    ];
    // What never comes proves nothing.
    assert!(ends.iter().all(|end| *end > 0) && sum.panics > 0, "{sum:?}");
}
