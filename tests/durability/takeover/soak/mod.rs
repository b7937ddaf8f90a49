//! Takeovers one after the other under writes, with trouble of every kind at every stage, and then the loss of all power: never
//! are two active, in memory or on the disks; there is one wherever no machine was lost; and what was acknowledged is read.

mod pair;
mod trouble;

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::time::{sleep, timeout};

use piggin::{TakeOverError, WhyNot};
use supervisor::testing::{Random, SimulatedRandom, World};

use super::{TookOver, VBUCKET, alone, become_replica};
use crate::common::{PATIENCE, chain, created, run_with};
use crate::support::evicting::Evictions;
use pair::{Clients, NODES, Pair};
use trouble::{ALL, KINDS, Plan, STAGES, Struck, What};

/// Takeovers of one world, each by the one that is not active.
const ROUNDS: usize = 2;
/// So that each trouble comes first six times.
const SEEDS: u64 = 3 * ALL as u64;
const SEEDS_VARIABLE: &str = "PIGGIN_TAKEOVERS";

/// What left memory.
static LEFT: Evictions = Evictions::none();

/// What came of takeovers.
#[derive(Clone, Debug, Default)]
struct Sum {
    done: u64,
    stays: u64,
    /// Of those, such as were held for as long as may be.
    too_slow: u64,
    nobody: u64,
    unconfirmed: u64,
    given_up: u64,
    /// Takeovers in which no machine was lost.
    none_lost: u64,
    /// Those after which no disk had an active one, and none should.
    left_to_the_operator: u64,
    struck: Struck,
    /// Changes of role that panicked.
    steps: BTreeMap<&'static str, u64>,
    acknowledged: u64,
}

/// Waits for a takeover, with trouble on the way; `None` where that was given up.
async fn troubled(
    plan: &mut Plan,
    taking: impl Future<Output = TookOver>,
    sum: &mut Sum,
) -> Option<TookOver> {
    let give_up = Rc::clone(&plan.give_up);
    let mut taking = Box::pin(taking);
    let ended = {
        let watched = poll_fn(|context| {
            let polled = taking.as_mut().poll(context);
            if polled.is_pending() {
                plan.look(&mut sum.struck, &mut sum.steps);
            }
            polled
        });
        let nobody_waits = Box::pin(give_up.notified());
        match timeout(PATIENCE, select(watched, nobody_waits)).await {
            Ok(Either::Left((took, _))) => Some(took),
            Ok(Either::Right(_)) => None,
            Err(late) => panic!("{late}: it never ends"),
        }
    };
    drop(taking);
    plan.count_steps(&mut sum.steps);
    ended
}

/// What whoever asked was told is so.
fn judge(took: Option<&TookOver>, active: &[usize], (source, lost): (usize, bool), sum: &mut Sum) {
    let target = 1 - source;
    if !lost {
        sum.none_lost += 1;
        assert_eq!(active.len(), 1, "{took:?}: {active:?} are active");
    }
    assert!(active.len() <= 1, "{took:?}: {active:?} are active");
    match took {
        None => sum.given_up += 1,
        Some(Ok(_)) => {
            sum.done += 1;
            assert_eq!(active, [target], "{took:?}");
        }
        Some(Err(TakeOverError::Stays { why, .. })) => {
            sum.stays += 1;
            sum.too_slow += u64::from(matches!(**why, WhyNot::TooSlow));
            assert_eq!(active, [source], "{took:?}");
        }
        Some(Err(TakeOverError::Nobody { .. })) => {
            sum.nobody += 1;
            assert!(lost && !active.contains(&target), "{took:?}: {active:?}");
        }
        Some(Err(TakeOverError::Unconfirmed { .. })) => {
            sum.unconfirmed += 1;
            assert!(lost && !active.contains(&source), "{took:?}: {active:?}");
        }
        Some(Err(other)) => panic!("{other}"),
    }
}

/// One takeover, and then the loss of all power.
async fn round(pair: &Rc<Pair>, number: usize, random: &Arc<SimulatedRandom>, sum: &mut Sum) {
    let active = pair.active();
    let [source] = active[..] else {
        panic!("{active:?} are active")
    };
    let target = 1 - source;
    let clients = Clients::start(pair);
    sleep(Duration::from_millis(20)).await;
    let mut plan = Plan::new(pair, source, number, Arc::clone(random));
    let (from, to) = (pair.bucket(source), pair.bucket(target));
    let topology = alone(&to);
    let taking = to.take_over(&from, VBUCKET, &topology);
    let took = troubled(&mut plan, taking, sum).await;
    plan.end(&mut sum.struck);
    let active = pair.active();
    assert!(active.len() <= 1, "{took:?}: {active:?} are active");
    let lost = pair.has_lost_one();
    pair.open_again().await;
    pair.repaired().await;
    judge(took.as_ref(), &pair.active(), (source, lost), sum);
    // Now and then the disks are waited for.
    let are_waited_for = random.next_u64().is_multiple_of(2);
    if are_waited_for {
        pair.stored().await;
    }
    let before = pair.active();
    for at in 0..2 {
        pair.end(at, World::cut_power);
    }
    clients.end(pair).await;
    pair.open_again().await;
    let after = pair.active();
    assert!(after.len() <= 1, "{took:?}: {after:?} are active");
    if are_waited_for {
        assert_eq!(after, before, "{took:?}");
    }
    if matches!(took, Some(Ok(_))) {
        assert_eq!(after, [target], "{took:?}");
    }
    if after.is_empty() {
        sum.left_to_the_operator += 1;
        pair.become_active(source).await;
    }
    let leader = pair.active().first().copied().expect("one of them");
    LEFT.note(&pair.bucket(leader));
    sum.acknowledged += pair.check(leader).await;
    LEFT.note(&pair.bucket(leader));
}

fn in_world(seed: u64, sum: &mut Sum) {
    run_with(seed, &LEFT.settings_of(seed), async |[here, there, _]| {
        let buckets = [
            created(&here, NODES[0]).await,
            created(&there, NODES[1]).await,
        ];
        chain(&buckets[0], [NODES[0]]);
        // A bucket that is made has all its vbuckets active: two would be from the beginning.
        become_replica(&buckets[1]).await;
        let random = here.random("takeovers");
        let pair = Rc::new(Pair::new([here, there], buckets));
        let first = usize::try_from(seed).expect("few") * ROUNDS;
        for number in first..first + ROUNDS {
            round(&pair, number, &random, sum).await;
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
    println!("{seeds} worlds of {ROUNDS} takeovers, {sum:#?}");
    LEFT.assert_some();
    let ends = [
        sum.done,
        sum.stays,
        sum.too_slow,
        sum.nobody,
        sum.unconfirmed,
        sum.given_up,
        sum.none_lost,
        sum.left_to_the_operator,
        sum.acknowledged,
    ];
    // What never comes proves nothing.
    assert!(ends.iter().all(|end| *end > 0), "{sum:#?}");
    for kind in KINDS {
        let times = |stage| sum.struck.get(&(kind, stage)).copied().unwrap_or(0);
        let all = STAGES.map(times);
        // A child that has nothing to do at a stage cannot panic there.
        let may_miss = matches!(kind, What::Child(_) | What::FailedSync | What::FailedCommit);
        let come = if may_miss {
            all.iter().any(|times| *times > 0)
        } else {
            all.iter().all(|times| *times > 0)
        };
        assert!(come, "{kind:?}: {all:?}");
    }
    for step in ["Ready", "Leave", "Crown", "GiveBack"] {
        let times = sum.steps.get(step).copied().unwrap_or(0);
        assert!(times > 0, "{step} never panicked: {:?}", sum.steps);
    }
}
