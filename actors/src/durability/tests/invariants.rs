//! The invariants of durable writes, by their number: predicates over a world, checked after every step.
//!
//! Those that are about what happened and not about what is (10, 11, 16 in part, 23, 24, 25) are judged where it happens, in
//! the world or at rest; the numbers of what was judged are taken from there. Those that are about what the monitors do not
//! have (26, 29, 30: visible seqnos, counts on disk, residency of values) are not here; 4, 13, 22 and 28 say of the model
//! that it is a vbucket as it should be, and no monitor alone can break them.

mod active;
mod replica;
mod rest;

use std::fmt::Write as _;

use super::world::{COLLECTION, Node, Operation, World};
use super::*;
use active::{
    committed_is_prepared, counts_are_true, fences_hold, infinite_stay, maybe_visible,
    nothing_satisfied_waits,
};
use replica::{
    acknowledged_is_whole, nothing_over_is_kept, persisted_before_prepared, place_is_right,
};
pub(super) use rest::at_rest;

/// What an invariant finds: how much it looked at, or what is wrong.
type Found = Result<u64, String>;

/// One of them.
pub(super) struct Invariant {
    pub(super) id: u8,
    pub(super) what: &'static str,
    check: fn(&World, &Memory) -> Found,
}

/// What was so after the step before.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// High prepared, high completed, persisted; of each node.
    marks: Vec<[Seqno; 3]>,
}

/// How often each held, where it had something to look at.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) steps: [u64; 31],
}

impl Memory {
    fn of(world: &World) -> Memory {
        let marks = world.nodes.iter().map(|node| {
            let monitor = &node.monitor;
            [
                monitor.high_prepared(),
                monitor.high_completed(),
                node.persisted,
            ]
        });
        Memory {
            marks: marks.collect(),
        }
    }
}

/// Checks all of them; what is wrong, if anything is.
pub(super) fn check(
    world: &mut World,
    memory: &mut Memory,
    tally: &mut Tally,
) -> Result<(), String> {
    world.judge_decisions();
    if let Some(fault) = world.faults.first() {
        return Err(fault.clone());
    }
    for invariant in &INVARIANTS {
        let looked_at =
            (invariant.check)(world, memory).map_err(|what| format!("{}: {what}", invariant.id))?;
        tally.steps[usize::from(invariant.id)] += u64::from(looked_at > 0);
    }
    *memory = Memory::of(world);
    for node in &mut world.nodes {
        node.went_back = false;
    }
    Ok(())
}

/// The table of `docs/testing.md`.
pub(super) fn table(tally: &Tally, judged: &[(u8, &str, u64)]) -> String {
    let mut rows: Vec<(u8, String)> = Vec::new();
    for invariant in &INVARIANTS {
        let steps = tally.steps[usize::from(invariant.id)];
        rows.push((
            invariant.id,
            format!("| {} | {} | {steps} steps |", invariant.id, invariant.what),
        ));
    }
    for (id, what, times) in judged {
        rows.push((*id, format!("| {id} | {what} | {times} times |")));
    }
    rows.sort();
    let mut table = String::new();
    for (_, row) in rows {
        writeln!(table, "{row}").unwrap();
    }
    table
}

pub(super) const INVARIANTS: [Invariant; 20] = [
    Invariant {
        id: 1,
        what: "what is tracked and decided rises strictly, up to the high seqno",
        check: rises,
    },
    Invariant {
        id: 2,
        what: "one incomplete prepare a key, the one the map holds",
        check: one_a_key,
    },
    Invariant {
        id: 3,
        what: "completions in the order of their prepares",
        check: completions_in_order,
    },
    Invariant {
        id: 4,
        what: "no prepare on a prepare, no completion without its prepare",
        check: alternate,
    },
    Invariant {
        id: 5,
        what: "no high seqno falls",
        check: nothing_falls,
    },
    Invariant {
        id: 6,
        what: "committed only up to the high prepared seqno",
        check: committed_is_prepared,
    },
    Invariant {
        id: 7,
        what: "no fence at or below the active's high prepared seqno is off its disk",
        check: fences_hold,
    },
    Invariant {
        id: 8,
        what: "nothing tracked is held by enough",
        check: nothing_satisfied_waits,
    },
    Invariant {
        id: 9,
        what: "a node counts as what it said",
        check: counts_are_true,
    },
    Invariant {
        id: 12,
        what: "what may be committed elsewhere is never given up",
        check: infinite_stay,
    },
    Invariant {
        id: 13,
        what: "what may be committed elsewhere is not read",
        check: maybe_visible,
    },
    Invariant {
        id: 14,
        what: "one answer at most",
        check: one_answer,
    },
    Invariant {
        id: 15,
        what: "no role, no decisions, nobody parked",
        check: no_role_no_decisions,
    },
    Invariant {
        id: 16,
        what: "acknowledged is prepared is received whole",
        check: acknowledged_is_whole,
    },
    Invariant {
        id: 17,
        what: "nothing for the disk is acknowledged before",
        check: persisted_before_prepared,
    },
    Invariant {
        id: 18,
        what: "nothing that is over and passed is kept",
        check: nothing_over_is_kept,
    },
    Invariant {
        id: 19,
        what: "the place of the high prepared seqno is its prepare",
        check: place_is_right,
    },
    Invariant {
        id: 22,
        what: "on disk nothing at or below the completed seqno is incomplete",
        check: completed_on_disk,
    },
    Invariant {
        id: 27,
        what: "nothing is left of an erased life",
        check: nothing_left,
    },
    Invariant {
        id: 28,
        what: "a life that is not erased is listed",
        check: listed,
    },
];

fn active(world: &World) -> Option<(&Node, &ActiveMonitor)> {
    let node = &world.nodes[world.active?];
    match &node.monitor {
        Monitor::Active(active) => Some((node, active)),
        Monitor::Passive(_) | Monitor::Dead(_) => None,
    }
}

fn passives(world: &World) -> impl Iterator<Item = (&Node, &PassiveMonitor)> {
    world
        .nodes
        .iter()
        .filter(|node| node.is_up)
        .filter_map(|node| match &node.monitor {
            Monitor::Passive(passive) => Some((node, passive)),
            Monitor::Active(_) | Monitor::Dead(_) => None,
        })
}

/// All that is not over, decided first.
fn open(node: &Node) -> Vec<Prepare> {
    match &node.monitor {
        Monitor::Active(active) => {
            let decided = active.decisions().map(Decision::prepare);
            decided.chain(active.undecided()).cloned().collect()
        }
        Monitor::Passive(passive) => passive.incomplete().cloned().collect(),
        Monitor::Dead(dead) => dead.incomplete().cloned().collect(),
    }
}

fn sure(is_so: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(what()) }
}

fn rises(world: &World, _: &Memory) -> Found {
    let mut looked_at = 0;
    for node in world.nodes.iter().filter(|node| node.is_up) {
        let open = open(node);
        let in_order = open.windows(2).all(|two| two[0].seqno < two[1].seqno);
        sure(in_order, || format!("{open:?} of {}", node.name))?;
        let last = open.last().map_or(Seqno::ZERO, |one| one.seqno);
        sure(last <= node.high(), || {
            format!("{last} of {} is not written", node.name)
        })?;
        looked_at += open.len() as u64;
    }
    Ok(looked_at)
}

fn one_a_key(world: &World, _: &Memory) -> Found {
    let mut looked_at = 0;
    for node in world.nodes.iter().filter(|node| node.is_up) {
        let is_live = |one: &&Prepare| !node.is_of_ended_life(&one.key, one.seqno);
        let open = open(node);
        let mut tracked = BTreeMap::new();
        let unread = node.unread.iter().map(|(one, _)| one);
        let unread = unread.filter(|one| one.seqno > node.rebuilt_at);
        for one in open.iter().filter(is_live).chain(unread) {
            let before = tracked.insert(one.key.clone(), one.seqno);
            sure(before.is_none(), || {
                format!("{one:?} and {before:?} of {}", node.name)
            })?;
        }
        let pending = node.pending.iter();
        let pending = pending.filter(|(key, one)| !node.is_of_ended_life(key, one.seqno));
        let pending: BTreeMap<_, _> = pending.map(|(key, one)| (key.clone(), one.seqno)).collect();
        tracked.retain(|key, seqno| !node.is_of_ended_life(key, *seqno));
        sure(tracked == pending, || {
            format!("{} tracks {tracked:?}, the map has {pending:?}", node.name)
        })?;
        looked_at += pending.len() as u64;
    }
    Ok(looked_at)
}

fn own_log(node: &Node) -> impl Iterator<Item = &world::Item> {
    node.log.iter().filter(|item| item.seqno > node.own_from)
}

fn completions_in_order(world: &World, _: &Memory) -> Found {
    let Some((node, _)) = active(world) else {
        return Ok(0);
    };
    let completed: Vec<_> = own_log(node)
        .filter_map(|item| match item.operation {
            Operation::Commit(of) | Operation::Abort(of) => Some(of),
            Operation::Prepare(_) | Operation::Mutation | Operation::End => None,
        })
        .collect();
    let in_order = completed.windows(2).all(|two| two[0] < two[1]);
    sure(in_order, || format!("{completed:?}"))?;
    Ok(completed.len() as u64)
}

fn alternate(world: &World, _: &Memory) -> Found {
    let Some((node, _)) = active(world) else {
        return Ok(0);
    };
    let mut open: BTreeMap<&DocumentKey, Option<Seqno>> = BTreeMap::new();
    let mut looked_at = 0;
    let end = node.last_end().unwrap_or_default();
    for item in &node.log {
        let is_old = item.key.collection() == COLLECTION && item.seqno < end;
        if is_old || item.is_from_disk {
            // What came from disk need not alternate, nor what is over with its collection.
            open.insert(&item.key, None);
            continue;
        }
        match item.operation {
            Operation::Prepare(_) => {
                let before = open.insert(&item.key, Some(item.seqno)).flatten();
                sure(before.is_none() || item.seqno <= node.own_from, || {
                    format!("prepare {} on prepare {before:?}", item.seqno)
                })?;
            }
            Operation::Commit(of) | Operation::Abort(of) => {
                let before = open.insert(&item.key, None).flatten();
                sure(before.is_none_or(|before| before == of), || {
                    format!("{} ends {of}, not {before:?}", item.seqno)
                })?;
                looked_at += 1;
            }
            Operation::Mutation | Operation::End => {}
        }
    }
    Ok(looked_at)
}

fn nothing_falls(world: &World, memory: &Memory) -> Found {
    let mut looked_at = 0;
    for (node, marks) in world.nodes.iter().zip(&memory.marks) {
        if node.went_back || !node.is_up {
            continue;
        }
        let monitor = &node.monitor;
        let now = [
            monitor.high_prepared(),
            monitor.high_completed(),
            node.persisted,
        ];
        let holds = now.iter().zip(marks).all(|(now, before)| now >= before);
        sure(holds, || format!("{}: {marks:?} became {now:?}", node.name))?;
        looked_at += 1;
    }
    Ok(looked_at)
}

fn one_answer(world: &World, _: &Memory) -> Found {
    for (id, client) in &world.clients {
        let answers = &client.answers;
        sure(answers.len() <= 1, || {
            format!("write {id} was told {answers:?}")
        })?;
    }
    Ok(world.clients.len() as u64)
}

fn no_role_no_decisions(world: &World, _: &Memory) -> Found {
    let mut looked_at = 0;
    for (at, node) in world
        .nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| node.is_up)
    {
        if Some(at) == world.active {
            continue;
        }
        let is_it = match node.state {
            VbucketState::Active => false,
            VbucketState::Replica | VbucketState::Pending => {
                matches!(node.monitor, Monitor::Passive(_))
            }
            VbucketState::Dead => matches!(node.monitor, Monitor::Dead(_)),
        };
        sure(is_it, || {
            format!("{} is {:?}: {:?}", node.name, node.state, node.monitor)
        })?;
        sure(node.ledger.waiting() == 0, || {
            format!("somebody waits at {}", node.name)
        })?;
        looked_at += 1;
    }
    Ok(looked_at)
}

fn completed_on_disk(world: &World, _: &Memory) -> Found {
    let mut looked_at = 0;
    for node in &world.nodes {
        let completed = node.record().completed;
        let by_sight = node.outstanding(node.persisted, Seqno::ZERO);
        for one in by_sight
            .iter()
            .filter(|one| !node.is_of_ended_life(&one.key, one.seqno))
        {
            sure(one.seqno > completed, || {
                format!("{one:?} of {} below {completed}", node.name)
            })?;
            looked_at += 1;
        }
    }
    Ok(looked_at)
}

fn nothing_left(world: &World, _: &Memory) -> Found {
    let mut looked_at = 0;
    for node in world.nodes.iter().filter(|node| node.is_up) {
        // Everything of a life that ended and is not listed was erased.
        let Some(end) = node.last_end().filter(|end| !node.ended.contains(end)) else {
            continue;
        };
        // What an active tracks of it yet it decides in its turn, and nothing is written for it.
        let is_active = matches!(node.monitor, Monitor::Active(_));
        for one in open(node).iter().filter(|_| !is_active) {
            let is_of_it = one.key.collection() == COLLECTION && one.seqno < end;
            sure(!is_of_it, || {
                format!("{one:?} of {} outlived its collection", node.name)
            })?;
        }
        for (key, one) in &node.pending {
            let is_of_it = key.collection() == COLLECTION && one.seqno < end;
            sure(!is_of_it, || {
                format!("{one:?} of {} outlived its collection", node.name)
            })?;
        }
        looked_at += 1;
    }
    Ok(looked_at)
}

fn listed(world: &World, _: &Memory) -> Found {
    let mut looked_at = 0;
    for node in world.nodes.iter().filter(|node| node.is_up) {
        let Some(end) = node.last_end() else { continue };
        let is_old = |item: &&world::Item| item.key.collection() == COLLECTION && item.seqno < end;
        let has_old = node
            .log
            .iter()
            .filter(is_old)
            .any(|item| item.slot().0 == 1);
        let is_last = node.log.last().is_some_and(|item| is_old(&item));
        sure(!has_old || is_last || node.ended.contains(&end), || {
            format!(
                "{}: the life up to {end} is neither erased nor listed",
                node.name
            )
        })?;
        looked_at += u64::from(has_old);
    }
    Ok(looked_at)
}
