//! Random runs of a cluster: writes, streams, flushes, crashes, failovers, topologies and drops in any order, with every
//! invariant checked after every step. A seed is a run; the message of a failure names it.

use super::invariants::{Memory, Tally, at_rest, check, table};
use super::world::World;
use super::*;

const SEEDS: u64 = 400;
const STEPS: u64 = 400;

/// Seeds that found something once.
const REGRESSIONS: [u64; 0] = [];

#[derive(Debug, Default)]
struct Totals {
    tally: Tally,
    commits: u64,
    failovers: u64,
    promises: u64,
    excused: u64,
    rollbacks: u64,
    warmups: u64,
    erasures: u64,
    refused: u64,
    failed_compactions: u64,
    writes: u64,
    steps: u64,
    rests: u64,
}

#[test]
fn every_invariant_holds_after_every_step() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|number| number.parse().ok())
    };
    let mut totals = Totals::default();
    if let Some(seed) = number("PIGGIN_SEED") {
        // One run, told step by step.
        run(seed, &mut totals, true).unwrap();
        return;
    }
    for seed in REGRESSIONS
        .into_iter()
        .chain(0..number("PIGGIN_SEEDS").unwrap_or(SEEDS))
    {
        if let Err(what) = run(seed, &mut totals, false) {
            panic!("seed {seed}: {what}");
        }
    }
    let judged = [
        (
            10,
            "what is committed is held by enough, each as strongly as asked",
            totals.commits,
        ),
        (
            11,
            "what a client was told of outlives a failover that leaves a holder",
            totals.promises,
        ),
        (14, "and at rest, each exactly one", totals.rests),
        (
            20,
            "at rest, replicas hold what the active has, and it knows",
            totals.rests,
        ),
        (21, "at rest, nothing is under way", totals.rests),
        (
            23,
            "a warmup tracks what is outstanding on disk",
            totals.warmups,
        ),
        (
            24,
            "at rest, every node has the same documents, rolled back or not",
            totals.rests,
        ),
        (
            25,
            "who restarts says no less than it did of what is whole on disk",
            totals.warmups,
        ),
    ];
    println!("{}", table(&totals.tally, &judged));
    println!("{totals:?}");
    // What was never looked at was never checked.
    for (id, _, times) in judged {
        assert!(times > 0, "invariant {id}");
    }
    for invariant in &invariants::INVARIANTS {
        let steps = totals.tally.steps[usize::from(invariant.id)];
        assert!(steps > 0, "invariant {}: {}", invariant.id, invariant.what);
    }
}

fn run(seed: u64, totals: &mut Totals, is_told: bool) -> Result<(), String> {
    let mut world = World::new(seed);
    let mut memory = Memory::default();
    for step in 0..STEPS {
        let what = act(&mut world);
        totals.steps += 1;
        if is_told {
            println!("{step}: {what}\n{world}");
        }
        check(&mut world, &mut memory, &mut totals.tally)
            .map_err(|error| format!("step {step} ({what}): {error}"))?;
    }
    let rested = rest(&mut world, &mut memory, &mut totals.tally);
    if is_told {
        println!("at rest\n{world}");
    }
    rested?;
    totals.rests += 1;
    totals.commits += world.commits_judged;
    totals.failovers += world.failovers;
    totals.promises += world.promises_judged;
    totals.excused += world.excused();
    totals.rollbacks += world.rollbacks;
    totals.warmups += world.warmups_judged;
    totals.erasures += world.erasures;
    totals.refused += world.reads_refused;
    totals.failed_compactions += world.failed_compactions;
    totals.writes += world.clients.len() as u64;
    Ok(())
}

/// Something that happens as a matter of course, or now and then something that should not.
fn act(world: &mut World) -> &'static str {
    if world.random.below(1000) < 910 {
        go_on(world)
    } else {
        disturb(world)
    }
}

fn go_on(world: &mut World) -> &'static str {
    let at = world.pick(4);
    let few = 1 + world.pick(4);
    match world.random.below(91) {
        0..15 => {
            let levels = [Majority, MajorityAndPersistOnActive, PersistToMajority];
            world.write(levels[world.pick(3)]);
            "write"
        }
        15..19 => {
            world.write_plain();
            "plain write"
        }
        19..30 => {
            let is_lagging = world.random.chance(150);
            world.produce(at, is_lagging, few + 2);
            "produce"
        }
        30..46 => {
            world.consume(at, few);
            "consume"
        }
        46..56 => {
            world.deliver_acks(at, few);
            "acknowledge"
        }
        56..66 => {
            world.flush(at);
            "flush"
        }
        66..69 => {
            world.tell_flushed(at);
            "tell of a flush"
        }
        69..74 => {
            if let Some(active) = world.active {
                world.catch_up(active);
            }
            "read the log"
        }
        74..83 => {
            world.drain(few);
            "do what is decided"
        }
        83..86 => {
            world.pass_time();
            "pass time"
        }
        _ => {
            world.connect(at);
            "connect"
        }
    }
}

fn disturb(world: &mut World) -> &'static str {
    let at = world.pick(4);
    match world.random.below(90) {
        0..20 => {
            if world.active.is_some() {
                let topology = world.some_topology();
                world.set_topology(topology);
            }
            "topology"
        }
        20..30 => {
            world.cut(at);
            "cut"
        }
        30..40 => {
            world.make_monitor_anew(at);
            "make anew"
        }
        40..50 => {
            world.stray_ack();
            world.read();
            "stray acknowledgement"
        }
        50..56 => {
            world.drop_collection();
            "drop"
        }
        56..64 => {
            let fails = world.random.chance(300);
            world.compact(at, fails);
            "compact"
        }
        64..70 => {
            if world.active != Some(at) {
                world.crash(at);
            }
            "crash a replica"
        }
        70..78 => {
            world.restart(at);
            "restart"
        }
        78..81 => {
            world.restart_active();
            "restart the active"
        }
        81..85 => {
            let crashes = world.random.chance(600);
            world.fail_over(crashes);
            "fail over"
        }
        _ => {
            let states = [
                VbucketState::Replica,
                VbucketState::Pending,
                VbucketState::Dead,
            ];
            if world.active != Some(at) {
                world.become_passive(at, states[world.pick(3)]);
            }
            "change of state"
        }
    }
}

/// Everything runs and nothing is written: until nothing changes.
fn rest(world: &mut World, memory: &mut Memory, tally: &mut Tally) -> Result<(), String> {
    for at in 0..4 {
        world.restart(at);
        if world.active != Some(at) && world.nodes[at].state == VbucketState::Dead {
            world.become_passive(at, VbucketState::Replica);
        }
    }
    if world.active.is_none() {
        world.fail_over(false);
    }
    let healthy = world.healthy_topology();
    world.set_topology(healthy);
    for round in 0..40 {
        for at in 0..4 {
            world.connect(at);
            world.produce(at, false, 1000);
            world.consume(at, 1000);
            for _ in 0..40 {
                world.flush(at);
            }
            world.tell_flushed(at);
            world.deliver_acks(at, 1000);
        }
        if let Some(active) = world.active {
            world.catch_up(active);
        }
        world.drain(1000);
        if round == 20 {
            for at in 0..4 {
                world.compact(at, false);
            }
        }
        check(world, memory, tally).map_err(|error| format!("at rest: {error}"))?;
    }
    at_rest(world)
}
